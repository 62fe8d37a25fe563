//! A webcam through V4L2. This folder is the only one that names the crate `v4l`.
//!
//! `v4l` 0.14 is used by rules that were measured (ARCHITECTURE.md): poll before `next()`, drop the stream before
//! the format changes, give up stream and device after any error, and catch the panics of its drops.

mod controls;
mod device;
pub mod diagnose;
mod enumerate;
mod identity;
mod ioctl;
mod poll;
mod raw;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::info;

use self::device::{Search, V4l2Device};
pub use self::identity::Choice;
use self::identity::{Chosen, nodes};
use super::{CameraError, Device, ErrorKind, Identity, Source};
use crate::system::sync::{Mutex, rank};

/// A camera that streamed is not opened again before this time after its close: some leave the bus otherwise (zoo.md).
const REOPEN_AFTER: Duration = Duration::from_millis(500);

/// A webcam that can be opened.
pub struct V4l2Source {
    choice: Choice,
    search: Arc<Mutex<Search, { rank::KNOWN }>>,
}

impl V4l2Source {
    /// A webcam by choice; looked for at each open.
    pub fn new(choice: Choice) -> Self {
        Self { choice, search: Arc::default() }
    }

    /// The first node that meets the choice, or the camera that did before, wherever it is now.
    fn search(&self) -> Result<V4l2Device, CameraError> {
        let mut search = self.search.lock();
        let mut others = Vec::new();
        let (mut raw, mut silent) = (None, None);
        for node in nodes() {
            match V4l2Device::open(&node) {
                Ok(device) if !self.is_wanted(&device, search.chosen.as_ref()) => {
                    let Identity { node, card, serial, .. } = &device.identity;
                    others.push(format!("{node} is another camera (\"{card}\", serial number \"{serial}\")"));
                }
                // These only if there is no other.
                Ok(device) if search.silent.contains(&device.port().unwrap_or(node)) => {
                    silent.get_or_insert(device);
                }
                Ok(device) if search.chosen.is_none() && !device.has_jpeg() => _ = raw.get_or_insert(device),
                Ok(device) => return Ok(search.choose(device)),
                Err(error) => others.push(error.message),
            }
        }
        if let Some(device) = raw {
            search.raw = Some(device.as_chosen());
            return Ok(device);
        }
        if let Some(device) = silent {
            return Ok(search.choose(device));
        }
        let what = match (&search.chosen, &self.choice) {
            (Some(known), _) => format!("waiting for \"{}\" to come back", known.identity.card),
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

    /// The camera at a path. Where another of its kind is there now, since nodes and links change places, the one from before.
    fn at_path(&self, path: &Path) -> Result<V4l2Device, CameraError> {
        let mut search = self.search.lock();
        let is_other = |device: &V4l2Device| {
            let is = |chosen: &Chosen| {
                chosen.is_alike(&device.identity) && chosen.is_known_as_other(device.port().as_deref())
            };
            search.chosen.as_ref().is_some_and(is)
        };
        let device = V4l2Device::open(path)?;
        if !is_other(&device) {
            return Ok(search.choose(device));
        }
        let port = search.chosen.as_ref().and_then(|chosen| chosen.port.clone());
        let found = nodes().iter().filter_map(|node| V4l2Device::open(node).ok()).find(|found| found.port() == port);
        found.map(|found| search.choose(found)).ok_or_else(|| {
            let (path, card) = (path.display(), &device.identity.card);
            let why = format!("{path} is another \"{card}\" now; waiting for the one from before to come back");
            CameraError::new(ErrorKind::Absent, why)
        })
    }

    fn is_wanted(&self, device: &V4l2Device, chosen: Option<&Chosen>) -> bool {
        // A loopback has to be asked for by its name or path.
        !(self.choice == Choice::Auto && device.is_loopback)
            && self.choice.is_met_by(&device.identity)
            && chosen.is_none_or(|chosen| chosen.is(&device.identity, device.port().as_deref()))
    }
}

impl Search {
    fn choose(&mut self, device: V4l2Device) -> V4l2Device {
        let (identity, port) = (device.identity.clone(), device.port());
        match &mut self.chosen {
            Some(chosen) if chosen.is_alike(&identity) => (chosen.identity, chosen.port) = (identity, port),
            _ => self.chosen = Some(device.as_chosen()),
        }
        device
    }
}

impl Source for V4l2Source {
    fn open(&self) -> Result<Box<dyn Device>, CameraError> {
        let closed_at = self.search.lock().closed_at;
        if let Some(left) = closed_at.and_then(|at| REOPEN_AFTER.checked_sub(at.elapsed())) {
            thread::sleep(left);
        }
        let mut device = match &self.choice {
            Choice::Path(path) => self.at_path(path)?,
            _ => self.search()?,
        };
        device.search = self.search.clone();
        Ok(Box::new(device))
    }

    fn note_first_picture(&self) {
        let mut search = self.search.lock();
        search.is_confirmed = true;
        if let Some(raw) = search.raw.take() {
            search.chosen.get_or_insert(raw);
        }
        search.silent.clear();
    }

    fn note_silence(&self) {
        let mut search = self.search.lock();
        if self.choice != Choice::Auto || search.is_confirmed {
            return;
        }
        if let Some(chosen) = search.chosen.take().or(search.raw.take()) {
            info!("camera gave no picture device={}; another one is tried if there is one", chosen.identity.node);
            search.silent.push(chosen.port.unwrap_or(chosen.identity.node.into()));
        }
    }
}

/// All video nodes, open, or with the reason why they cannot be used.
pub fn list() -> Vec<(PathBuf, Result<impl Device, CameraError>)> {
    let open = |node: PathBuf| (node.clone(), V4l2Device::open(&node));
    nodes().into_iter().map(open).collect()
}
