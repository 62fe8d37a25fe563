//! A webcam through V4L2. This folder is the only one that names the crate `v4l`.
//!
//! `v4l` 0.14 is used by rules that were measured (ARCHITECTURE.md): poll before `next()`, drop the stream before
//! the format changes, give up stream and device after any error, and catch the panics of its drops.

mod controls;
pub mod diagnose;

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::Mutex;
use v4l::buffer::{Flags, Type};
use v4l::device::Handle;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::io::mmap::Stream;
use v4l::io::traits::{CaptureStream, Stream as _};
use v4l::video::Capture;
use v4l::video::capture::Parameters;
use v4l::{Format, FourCC, Fraction};

use self::controls::V4l2Controls;
use self::diagnose::explain;
use super::controls::Controls;
use super::{CameraError, Device, ErrorKind, Identity, Mode, Offer, RawFrame, Readiness, Source};
use crate::frame::Size;

/// A picture is ready when `next()` is called; this only bounds a driver that changes its mind.
const NEXT_TIMEOUT: Duration = Duration::from_millis(500);
/// For so long the kernel may take to clear a pulled camera away; it takes some milliseconds.
const GOING_TIMEOUT: Duration = Duration::from_secs(2);
/// Formats that are one JPEG per buffer.
const JPEG_FORMATS: [&[u8; 4]; 2] = [b"MJPG", b"JPEG"];

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
    fn is_met_by(&self, identity: &Identity) -> bool {
        match self {
            Self::Name(name) => identity.card.to_lowercase().contains(&name.to_lowercase()),
            Self::Serial(serial) => identity.serial == *serial,
            Self::Auto | Self::Path(_) => true,
        }
    }
}

/// A webcam that can be opened.
pub struct V4l2Source {
    choice: Choice,
    /// The camera that was found first; no other will do later.
    chosen: Mutex<Option<Identity>>,
}

impl V4l2Source {
    /// A webcam by choice; looked for at each open.
    pub fn new(choice: Choice) -> Self {
        Self { choice, chosen: Mutex::new(None) }
    }

    /// The first node that meets the choice, or the one that did before, wherever it is now.
    fn search(&self) -> Result<V4l2Device, CameraError> {
        let mut chosen = self.chosen.lock();
        let mut others = Vec::new();
        for node in nodes() {
            match V4l2Device::open(&node) {
                Ok(device)
                    if self.choice.is_met_by(&device.identity)
                        && chosen.as_ref().is_none_or(|known| is_same(known, &device.identity)) =>
                {
                    *chosen = Some(device.identity.clone());
                    return Ok(device);
                }
                Ok(device) => {
                    let Identity { node, card, serial, .. } = &device.identity;
                    others.push(format!("{node} is another camera (\"{card}\", serial number \"{serial}\")"));
                }
                Err(error) => others.push(error.message),
            }
        }
        let what = match (&*chosen, &self.choice) {
            (Some(known), _) => format!("waiting for \"{}\" to come back", known.card),
            (None, Choice::Name(name)) => format!("no camera found with \"{name}\" in its name"),
            (None, Choice::Serial(serial)) => format!("no camera found with the serial number \"{serial}\""),
            (None, _) => "no camera found that offers Motion-JPEG".into(),
        };
        let seen = match others.is_empty() {
            true => "there is no /dev/video*; plug one in, or try --device synthetic".into(),
            false => others.join("; "),
        };
        Err(CameraError::new(ErrorKind::Absent, format!("{what}: {seen}")))
    }
}

impl Source for V4l2Source {
    fn open(&self) -> Result<Box<dyn Device>, CameraError> {
        let device = match &self.choice {
            Choice::Path(path) => V4l2Device::open(path)?,
            _ => self.search()?,
        };
        Ok(Box::new(device))
    }
}

/// What came of opening a node.
pub type Opened = Result<Box<dyn Device>, CameraError>;

/// All video nodes, open, or with the reason why they cannot be used.
pub fn list() -> Vec<(PathBuf, Opened)> {
    let open = |node: PathBuf| {
        let device = V4l2Device::open(&node).map(|device| Box::new(device) as Box<dyn Device>);
        (node, device)
    };
    nodes().into_iter().map(open).collect()
}

/// The video nodes there are, in the order of their numbers.
fn nodes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("video")?.parse::<u32>().ok();
    let mut nodes: Vec<_> =
        entries.filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry.path()))).collect();
    nodes.sort();
    nodes.into_iter().map(|(_, path)| path).collect()
}

/// Whether a camera that came back is the one that was chosen: by serial number where both have one, else by model
/// and, for two of one model, by socket.
fn is_same(known: &Identity, other: &Identity) -> bool {
    if !known.serial.is_empty() && !other.serial.is_empty() {
        return (&known.usb_id, &known.serial) == (&other.usb_id, &other.serial);
    }
    known.card == other.card && known.usb_id == other.usb_id
}

struct V4l2Device {
    identity: Identity,
    /// Its media device in sysfs, where the kernel has media controllers.
    media: Option<PathBuf>,
    pixel_format: FourCC,
    // Dropped before the device: its buffers belong to the descriptor.
    stream: Option<Stream<'static>>,
    /// A call said that the camera is gone.
    saw_it_go: bool,
    controls: V4l2Controls,
    device: v4l::Device,
}

impl V4l2Device {
    fn open(path: &Path) -> Result<Self, CameraError> {
        let node = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let shown =
            if node == path { path.display().to_string() } else { format!("{} ({})", path.display(), node.display()) };
        let device = v4l::Device::with_path(&node).map_err(|error| explain("cannot open", &shown, &error))?;
        let interface = interface(&node);
        let identity = identify(&device, &node, interface.as_deref())?;
        let media = interface.and_then(|interface| media_device(&interface));
        let offered = guarded("cannot list the formats of", &shown, || device.enum_formats())?;
        let offered: Vec<FourCC> = offered.into_iter().map(|format| format.fourcc).collect();
        let jpeg = JPEG_FORMATS.map(FourCC::new).into_iter().find(|wanted| offered.contains(wanted));
        let Some(pixel_format) = jpeg else {
            let has = match offered.is_empty() {
                true => "it is no capture node (metadata, or an output)".into(),
                false => {
                    format!("it offers {}", offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
                }
            };
            let message = format!("{shown} ({}) has no Motion-JPEG: {has}; framehub never re-encodes", identity.card);
            return Err(CameraError::new(ErrorKind::Refused, message));
        };
        let controls = V4l2Controls::new(device.handle());
        Ok(Self { identity, media, saw_it_go: false, pixel_format, stream: None, controls, device })
    }

    fn set_format(&self, size: Size) -> Result<Size, CameraError> {
        let node = &self.identity.node;
        let wanted = Format::new(size.width, size.height, self.pixel_format);
        let got = guarded("cannot set the picture format of", node, || self.device.set_format(&wanted))?;
        if got.fourcc != self.pixel_format {
            let message = format!("{node} was asked for {} and set {}", self.pixel_format, got.fourcc);
            return Err(CameraError::new(ErrorKind::Refused, message));
        }
        Ok(Size::new(got.width, got.height))
    }

    /// Must follow each change of format, which resets the rate. A camera without rates keeps its own.
    fn set_rate(&self, fps: Option<f64>) -> Option<f64> {
        let wanted = fps.map(|fps| Fraction::new(1000, (fps * 1000.0).round().max(1.0) as u32));
        let node = &self.identity.node;
        let answer = guarded("cannot set the frame rate of", node, || match wanted {
            Some(interval) => self.device.set_params(&Parameters::new(interval)),
            None => self.device.params(),
        });
        match answer {
            Ok(got) if got.interval.numerator > 0 && got.interval.denominator > 0 => {
                Some(f64::from(got.interval.denominator) / f64::from(got.interval.numerator))
            }
            Ok(_) => None,
            Err(error) => {
                if fps.is_some() {
                    warn!("{error}");
                }
                None
            }
        }
    }

    /// Maps the buffers, queues all but the first, which `next()` will queue, and starts.
    fn stream_on(&mut self, buffers: u32) -> Result<(), CameraError> {
        let node = &self.identity.node;
        let device = &self.device;
        let stream = guarded("cannot allocate buffers for", node, || {
            Stream::with_buffers(device, Type::VideoCapture, buffers.max(2))
        })?;
        let stream = self.stream.insert(stream);
        stream.set_timeout(NEXT_TIMEOUT);
        for index in 1..buffers.max(2) as usize {
            // A driver may grant fewer buffers than were asked for, but one must be queued.
            match CaptureStream::queue(stream, index) {
                Err(error) if index == 1 => return Err(explain("cannot queue a buffer for", node, &error)),
                Err(_) => break,
                Ok(()) => {}
            }
        }
        stream.start().map_err(|error| explain("cannot start streaming from", node, &error))
    }
}

impl Device for V4l2Device {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn offers(&self) -> Vec<Offer> {
        let sizes =
            guarded("cannot list the sizes of", &self.identity.node, || self.device.enum_framesizes(self.pixel_format));
        let mut sizes: Vec<Size> = sizes
            .unwrap_or_default()
            .into_iter()
            .map(|listed| match listed.size {
                FrameSizeEnum::Discrete(size) => Size::new(size.width, size.height),
                FrameSizeEnum::Stepwise(range) => Size::new(range.max_width, range.max_height),
            })
            .collect();
        sizes.sort_by_key(|size| size.area());
        sizes.dedup();
        sizes.into_iter().map(|size| Offer { size, fps: self.rates(size) }).collect()
    }

    fn start(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        let started = self.start_in(want, buffers);
        self.noted(started)
    }

    fn stop(&mut self) -> Result<(), CameraError> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        let stopped = catch_unwind(AssertUnwindSafe(|| stream.stop()));
        discard(stream);
        match stopped {
            Ok(Err(error)) => Err(explain("cannot stop streaming from", &self.identity.node, &error)),
            _ => Ok(()),
        }
    }

    fn readiness(&self) -> Arc<dyn Readiness> {
        Arc::new(Poll { handle: self.device.handle() })
    }

    fn take(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        let taken = self.take_next(sink);
        self.noted(taken)
    }

    fn controls(&mut self) -> Option<&mut dyn Controls> {
        Some(&mut self.controls)
    }
}

impl V4l2Device {
    fn start_in(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        self.stop()?;
        let size = self.set_format(want.size)?;
        let fps = self.set_rate(want.fps);
        let mode = Mode { size, fps };
        self.stream_on(buffers).map_err(|error| {
            self.stream = self.stream.take().and_then(discard);
            if error.kind == ErrorKind::Bandwidth { self.suggest_less(error, mode) } else { error }
        })?;
        Ok(mode)
    }

    fn take_next(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        let node = &self.identity.node;
        let Some(stream) = self.stream.as_mut() else {
            return Err(CameraError::new(ErrorKind::Failed, format!("{node} is not streaming")));
        };
        let (data, meta) = stream.next().map_err(|error| explain("cannot take a picture from", node, &error))?;
        let used = (meta.bytesused as usize).min(data.len());
        let clock = meta.flags & Flags::TIMESTAMP_MASK;
        let exposed_at = Duration::from_secs(meta.timestamp.sec.max(0) as u64)
            + Duration::from_micros(meta.timestamp.usec.max(0) as u64);
        sink(RawFrame {
            data: &data[..used],
            sequence: meta.sequence,
            is_flagged: meta.flags.contains(Flags::ERROR),
            exposed_at: (clock == Flags::TIMESTAMP_MONOTONIC && !exposed_at.is_zero()).then_some(exposed_at),
        });
        Ok(())
    }

    /// Remembers an error that says that the camera is gone.
    fn noted<T>(&mut self, result: Result<T, CameraError>) -> Result<T, CameraError> {
        self.saw_it_go |= result.as_ref().is_err_and(is_absent);
        result
    }

    fn is_gone(&self) -> bool {
        let ask = || self.device.query_caps();
        self.saw_it_go || guarded("cannot ask what", &self.identity.node, ask).as_ref().is_err_and(is_absent)
    }

    /// STREAMON said ENOSPC ("no space left on device"): which smaller mode to try.
    fn suggest_less(&self, error: CameraError, mode: Mode) -> CameraError {
        let offers = self.offers();
        let smaller = offers.iter().rev().map(|offer| offer.size).find(|size| size.area() < mode.size.area());
        let rates = offers.iter().find(|offer| offer.size == mode.size).map(|offer| offer.fps.as_slice());
        let slower = rates.unwrap_or_default().iter().find(|fps| mode.fps.is_some_and(|now| **fps < now - 0.5));
        let smaller = smaller.map(|size| format!("--size {size}"));
        let hints: Vec<String> = slower.map(|fps| format!("--fps {fps:.0}")).into_iter().chain(smaller).collect();
        let hint = match hints.is_empty() {
            true => "unplug other devices from the same USB hub".into(),
            false => format!("try {}, or another USB socket", hints.join(" or ")),
        };
        CameraError::new(error.kind, format!("{error} for {mode}; {hint}"))
    }

    fn rates(&self, size: Size) -> Vec<f64> {
        let listed = guarded("cannot list the rates of", &self.identity.node, || {
            self.device.enum_frameintervals(self.pixel_format, size.width, size.height)
        });
        let fps = |interval: &Fraction| f64::from(interval.denominator) / f64::from(interval.numerator.max(1));
        let mut rates: Vec<f64> = listed
            .unwrap_or_default()
            .into_iter()
            .flat_map(|listed| match listed.interval {
                FrameIntervalEnum::Discrete(interval) => vec![fps(&interval)],
                FrameIntervalEnum::Stepwise(range) => vec![fps(&range.min), fps(&range.max)],
            })
            .collect();
        rates.sort_by(|a, b| b.total_cmp(a));
        rates
    }
}

impl Drop for V4l2Device {
    fn drop(&mut self) {
        // An error here means that the camera is gone, which whoever drops this knows already.
        let _ = self.stop();
        if let Some(media) = self.media.as_ref().filter(|_| self.is_gone()) {
            wait_until_cleared_away(media, GOING_TIMEOUT);
        }
    }
}

/// Waits on the descriptor itself, with the camera mutex released.
struct Poll {
    handle: Arc<Handle>,
}

impl Readiness for Poll {
    fn wait(&self, timeout: Duration) -> Result<bool, CameraError> {
        let millis = timeout.as_millis().min(i32::MAX as u128) as i32;
        // An error state counts as ready: taking the picture then tells which error it is.
        match self.handle.poll(libc::POLLIN, millis) {
            Ok(ready) => Ok(ready > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(explain("cannot wait for", "the camera", &error)),
        }
    }
}

/// Drops a stream, which panics where STREAMOFF or REQBUFS(0) fail. Always `None`.
fn discard(stream: Stream<'static>) -> Option<Stream<'static>> {
    if catch_unwind(AssertUnwindSafe(|| drop(stream))).is_err() {
        warn!("the driver refused to take its buffers back");
    }
    None
}

/// Calls `v4l` where it may panic instead of answering: a card name cut inside a character, a field order or a
/// frame type that it does not know.
fn guarded<T>(what: &str, node: &str, call: impl FnOnce() -> io::Result<T>) -> Result<T, CameraError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(answer) => answer.map_err(|error| explain(what, node, &error)),
        Err(_) => {
            Err(CameraError::new(ErrorKind::Failed, format!("{what} {node}: the driver's answer makes no sense")))
        }
    }
}

fn is_absent(error: &CameraError) -> bool {
    error.kind == ErrorKind::Absent
}

/// What a node belongs to, in sysfs: one interface of a USB camera.
fn interface(node: &Path) -> Option<PathBuf> {
    fs::canonicalize(Path::new("/sys/class/video4linux").join(node.file_name()?).join("device")).ok()
}

/// The interface's media device.
fn media_device(interface: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(interface).ok()?.flatten();
    entries.find(|entry| entry.file_name().as_encoded_bytes().starts_with(b"media")).map(|entry| entry.path())
}

/// Waits until the kernel has cleared a pulled camera away. A node that is closed, or opened in vain, in the middle of
/// that can race with `media_device_unregister()`: Linux 6.1 dereferenced NULL there and killed our thread with its
/// locks held, once in some 140 pulls in the camera lab.
fn wait_until_cleared_away(media: &Path, timeout: Duration) {
    let began = Instant::now();
    while media.exists() && began.elapsed() < timeout {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Which camera a node is. The names come from the driver, the USB facts from sysfs, where it has them.
fn identify(device: &v4l::Device, node: &Path, interface: Option<&Path>) -> Result<Identity, CameraError> {
    let shown = node.display().to_string();
    let fact = |file: &str| {
        let text = interface.and_then(Path::parent).map(|usb| fs::read_to_string(usb.join(file)));
        text.and_then(Result::ok).map(|text| text.trim().to_owned())
    };
    let usb_id = fact("idVendor").zip(fact("idProduct")).map(|(vendor, product)| format!("{vendor}:{product}"));
    let usb_id = usb_id.unwrap_or_default();
    let serial = fact("serial").unwrap_or_default();
    let (card, driver, bus) = match catch_unwind(AssertUnwindSafe(|| device.query_caps())) {
        Ok(Ok(caps)) => (caps.card, caps.driver, caps.bus),
        Ok(Err(error)) => return Err(explain("cannot ask what", &shown, &error)),
        // A name that was cut inside a UTF-8 character: no reason to refuse the camera.
        Err(_) => ("unnamed camera".into(), String::new(), String::new()),
    };
    Ok(Identity { node: shown, card, driver, bus, usb_id, serial })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(card: &str, usb_id: &str, serial: &str) -> Identity {
        Identity { card: card.into(), usb_id: usb_id.into(), serial: serial.into(), ..Identity::default() }
    }

    #[test]
    fn a_camera_is_known_again_by_serial_number_or_model() {
        let known = identity("C920", "046d:082d", "ABC");
        for (other, same) in [
            (identity("C920", "046d:082d", "ABC"), true),
            (identity("C920", "046d:082d", "XYZ"), false),
            (identity("C920", "046d:082d", ""), true),
            (identity("C270", "046d:0825", ""), false),
        ] {
            assert_eq!(is_same(&known, &other), same, "{other:?}");
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

    #[test]
    fn errors_say_what_was_tried_why_and_what_to_do() {
        for (path, words) in [
            ("/dev/no-such-camera", ["cannot open /dev/no-such-camera", "plugged in?"]),
            ("/dev/null", ["/dev/null", "no V4L2 device"]),
        ] {
            let error = V4l2Device::open(Path::new(path)).err().expect("no camera there").message;
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
