//! Which camera a node is, where it is plugged in, and how it is known again.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::enumerate::Capabilities;
use crate::camera::Identity;

/// Which camera to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The first that offers Motion-JPEG; then that one again, wherever it comes back.
    Auto,
    /// A node or a link to one.
    Path(PathBuf),
    /// The first whose card name contains this, whatever the case.
    Name(String),
    /// The one with this USB serial number.
    Serial(String),
}

impl Choice {
    /// Whether this camera is one of those chosen.
    pub fn is_met_by(&self, identity: &Identity) -> bool {
        match self {
            Self::Name(name) => identity.card.to_lowercase().contains(&name.to_lowercase()),
            Self::Serial(serial) => identity.serial == *serial,
            Self::Auto | Self::Path(_) => true,
        }
    }
}

/// The video nodes there are, in the order of their numbers.
pub fn nodes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("video")?.parse::<u32>().ok();
    let mut nodes: Vec<_> =
        entries.filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry.path()))).collect();
    nodes.sort();
    nodes.into_iter().map(|(_, path)| path).collect()
}

/// What a node belongs to, in sysfs: one interface of a USB camera, for example. By the node's device number, since
/// containers give nodes other names.
pub fn interface(node: &Path) -> Option<PathBuf> {
    let metadata = fs::metadata(node).ok().filter(|metadata| metadata.file_type().is_char_device())?;
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    fs::canonicalize(format!("/sys/dev/char/{major}:{minor}/device")).ok()
}

/// Where an interface's device is plugged in, in sysfs: the USB device behind its port, or a board's own device.
pub fn port_of(interface: &Path) -> PathBuf {
    let usb = interface.parent().filter(|usb| usb.join("idVendor").exists());
    usb.unwrap_or(interface).to_owned()
}

/// The interface's media device, where the kernel has media controllers.
pub fn media_device(interface: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(interface).ok()?.flatten();
    entries.find(|entry| entry.file_name().as_encoded_bytes().starts_with(b"media")).map(|entry| entry.path())
}

/// Waits until the kernel has cleared a pulled camera away. A node that is closed, or opened in vain, in the middle of
/// that can race with `media_device_unregister()`: Linux 6.1 dereferenced NULL there and killed our thread with its
/// locks held, once in some 140 pulls in the camera lab.
pub fn wait_until_cleared_away(media: &Path, timeout: Duration) {
    let began = Instant::now();
    while media.exists() && began.elapsed() < timeout {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Which camera a node is. The names come from the driver, the USB facts from sysfs, where it has them.
pub fn identify(capabilities: &Capabilities, node: &Path, interface: Option<&Path>) -> Identity {
    let (usb_id, serial) = interface.map(|interface| usb_facts(&port_of(interface))).unwrap_or_default();
    Identity {
        node: node.display().to_string(),
        card: capabilities.card.clone(),
        driver: capabilities.driver.clone(),
        bus: capabilities.bus.clone(),
        usb_id,
        serial,
    }
}

/// `vendor:product` and serial number of a USB device in sysfs; empty where it has none.
fn usb_facts(usb: &Path) -> (String, String) {
    let fact = |file: &str| fs::read_to_string(usb.join(file)).ok().map(|text| text.trim().to_owned());
    let usb_id = fact("idVendor").zip(fact("idProduct")).map(|(vendor, product)| format!("{vendor}:{product}"));
    (usb_id.unwrap_or_default(), fact("serial").unwrap_or_default())
}

/// The ports, in sysfs, at which cameras with this id and serial number are plugged in. Opens none of them.
pub fn ports_of(identity: &Identity) -> Vec<PathBuf> {
    let entries = fs::read_dir("/sys/class/video4linux").into_iter().flatten().flatten();
    let port = |entry: fs::DirEntry| Some(port_of(&fs::canonicalize(entry.path().join("device")).ok()?));
    let facts = (identity.usb_id.clone(), identity.serial.clone());
    let mut ports: Vec<PathBuf> = entries.filter_map(port).filter(|port| usb_facts(port) == facts).collect();
    ports.sort();
    ports.dedup();
    ports
}

/// A camera that was chosen, and the others of its kind that were seen beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The camera.
    pub identity: Identity,
    /// Its port in sysfs, where it has one.
    pub port: Option<PathBuf>,
    /// Ports of cameras of the same model and serial number that were there as somebody else.
    others: Vec<PathBuf>,
}

impl Chosen {
    /// Chooses a camera while cameras of its model and serial number are at `ports`.
    pub fn new(identity: Identity, port: Option<PathBuf>, ports: Vec<PathBuf>) -> Self {
        let mut chosen = Self { identity, port, others: Vec::new() };
        chosen.note_others(ports);
        chosen
    }

    /// Notes the ports at which cameras of its model and serial number are now.
    pub fn note_others(&mut self, ports: Vec<PathBuf>) {
        let new = ports.into_iter().filter(|port| Some(port) != self.port.as_ref() && !self.others.contains(port));
        self.others.extend(new.collect::<Vec<_>>());
    }

    /// Whether a camera that was found now is the chosen one. Where two are alike the port tells them apart, and a camera that
    /// was seen as another one never becomes this one.
    pub fn is(&self, other: &Identity, port: Option<&Path>) -> bool {
        self.is_alike(other) && !self.is_known_as_other(port)
    }

    /// Whether a camera may be the chosen one: by serial number where both have one, else by model.
    pub fn is_alike(&self, other: &Identity) -> bool {
        let known = &self.identity;
        if known.serial.is_empty() || other.serial.is_empty() {
            known.card == other.card && known.usb_id == other.usb_id
        } else {
            (&known.usb_id, &known.serial) == (&other.usb_id, &other.serial)
        }
    }

    /// Whether another camera of its kind was seen at this port.
    pub fn is_known_as_other(&self, port: Option<&Path>) -> bool {
        port.is_some_and(|port| self.others.iter().any(|other| other == port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(card: &str, usb_id: &str, serial: &str) -> Identity {
        Identity { card: card.into(), usb_id: usb_id.into(), serial: serial.into(), ..Identity::default() }
    }

    #[test]
    fn a_camera_is_known_again_by_serial_number_or_model() {
        let chosen = Chosen::new(identity("C920", "046d:082d", "ABC"), None, vec![]);
        for (other, same) in [
            (identity("C920", "046d:082d", "ABC"), true),
            (identity("C920", "046d:082d", "XYZ"), false),
            (identity("C920", "046d:082d", ""), true),
            (identity("C270", "046d:0825", ""), false),
        ] {
            assert_eq!(chosen.is(&other, None), same, "{other:?}");
        }
    }

    /// Cameras with one serial number for all units (U20CAM: SN0001), or with none.
    #[test]
    fn two_cameras_that_cannot_be_told_apart_are_told_apart_by_their_ports() {
        for serial in ["", "SN0001"] {
            let lookalike = identity("U20CAM", "0c45:6366", serial);
            let ports = ["/sys/1-1", "/sys/1-2"].map(PathBuf::from);
            let chosen = Chosen::new(lookalike.clone(), Some(ports[0].clone()), ports.to_vec());
            assert!(chosen.is(&lookalike, Some(&ports[0])));
            assert!(!chosen.is(&lookalike, Some(&ports[1])), "it was there as the other one");
            assert!(chosen.is(&lookalike, Some(Path::new("/sys/1-3"))), "plugged in elsewhere");
            let mut chosen = chosen;
            chosen.note_others([&ports[..], &["/sys/1-3".into()]].concat());
            assert!(!chosen.is(&lookalike, Some(Path::new("/sys/1-3"))), "it came before the chosen one left");
            assert!(chosen.is(&lookalike, Some(&ports[0])));
        }
    }

    /// The kernel takes the media device away after the node; a driver that never does must not hold us for ever.
    #[test]
    fn a_pulled_camera_is_closed_when_the_kernel_has_cleared_it_away() {
        let usb = tempfile::tempdir().expect("a directory");
        assert_eq!(media_device(usb.path()), None);
        let media = usb.path().join("media3");
        fs::create_dir(&media).expect("a directory");
        assert_eq!(media_device(usb.path()).as_ref(), Some(&media));
        let took = |limit| {
            let began = Instant::now();
            wait_until_cleared_away(&media, limit);
            began.elapsed()
        };
        let limit = Duration::from_millis(50);
        assert!(took(limit) >= limit);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| took(Duration::from_secs(60)));
            fs::remove_dir(&media).expect("it is empty");
            assert!(waiting.join().expect("it returns") < Duration::from_secs(30));
        });
    }
}
