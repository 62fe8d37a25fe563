//! The camera: what can be asked of one, and the rooms that ask.
//!
//! A [`Source`] is a camera that can be opened, any number of times; a [`Device`] is an open one. Three stand
//! behind these traits: a V4L2 webcam, the synthetic test picture, and a scripted one in tests. One thread
//! ([`capture`]) takes the live pictures; a still is taken on its client's own thread, behind the same mutex.

pub mod capture;
pub mod control;
pub mod controls;
mod duty;
pub mod elsewhere;
pub mod encode;
pub mod error;
pub mod histogram;
pub mod intake;
mod lettering;
pub mod no_signal;
pub mod patience;
pub mod phase;
pub mod pixels;
pub mod rhythm;
#[cfg(test)]
mod scripted;
pub mod session;
pub mod settle;
mod sharing;
pub mod sources;
pub mod still;
pub mod synthetic;
pub mod v4l2;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::control::Controls;
pub use self::error::{CameraError, ErrorKind};
use self::pixels::{Layout, PixelFormat};
use crate::frame::Size;

/// A camera that can be opened; resolved again each time, since nodes move when a plug is pulled.
pub trait Source: Send + Sync {
    /// Opens it. Nothing streams yet.
    fn open(&self) -> Result<Box<dyn Device>, CameraError>;

    /// Notes that the camera opened last has delivered its first picture.
    fn note_first_picture(&self) {}

    /// Notes that the camera opened last was started and never delivered a picture: where any camera will do, another one
    /// may be opened next.
    fn note_silence(&self) {}

    /// How long it may take for its first picture at most; `None` learns it from the camera.
    fn longest_start(&self) -> Option<Duration> {
        None
    }

    /// How long to wait before it is opened again while somebody waits for pictures. `failures` counts those in a row.
    fn retry(&self, _failures: u32) -> Duration {
        Duration::from_secs(1)
    }
}

/// An open camera. Dropping it stops the stream and closes the descriptor.
pub trait Device: Send {
    /// Which camera this is.
    fn identity(&self) -> &Identity;

    /// Whether opening it has shown that it is there.
    fn is_tried_by_opening(&self) -> bool {
        true
    }

    /// The sizes that it offers as Motion-JPEG, each with its rates in frames per second, fastest first.
    fn offers(&self) -> Vec<Offer>;

    /// Configures size and rate and starts streaming; what streamed before is stopped first. Answers with what
    /// the camera really does, which may differ from what was asked. Afterwards nothing streams if it failed.
    /// [`Size::UNKNOWN`] says that pictures of any size may come.
    fn start(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError>;

    /// The same for a still, for which a format may do that would cost too much live.
    fn start_still(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        self.start(want, buffers)
    }

    /// Whether it sends Motion-JPEG. One that does not can only be started raw.
    fn has_jpeg(&self) -> bool {
        true
    }

    /// The sizes that it offers in each raw format.
    fn raw_offers(&self) -> Vec<(PixelFormat, Offer)> {
        Vec::new()
    }

    /// As [`Device::start`], but the buffers hold raw pictures.
    fn start_raw(&mut self, format: PixelFormat, _: Mode, _: u32) -> Result<(Mode, Layout), CameraError> {
        Err(CameraError::new(ErrorKind::Refused, format!("{} has no {format}", self.identity().node)))
    }

    /// Stops streaming and gives the driver its buffers back. No error if nothing streams.
    fn stop(&mut self) -> Result<(), CameraError>;

    /// What to wait on for the next picture, so that nobody holds the camera while waiting.
    fn readiness(&self) -> Arc<dyn Readiness>;

    /// Hands the next picture to `sink`, whatever its state; called once [`Readiness::wait`] said `true`.
    fn take(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError>;

    /// Its controls, where it has any. Using them does not disturb what streams.
    fn controls(&mut self) -> Option<&mut dyn Controls> {
        None
    }
}

/// Waits for pictures of one stream.
pub trait Readiness: Send + Sync {
    /// Waits until a picture can be taken (`true`) or the time is over (`false`).
    fn wait(&self, timeout: Duration) -> Result<bool, CameraError>;
}

/// Bytes as the camera gave them, before anybody looked at them.
#[derive(Debug, Clone, Copy)]
pub struct RawFrame<'a> {
    /// The buffer's used part.
    pub data: &'a [u8],
    /// The driver's counter; a jump means frames that the driver lost. Starts again with each stream.
    pub sequence: u32,
    /// The driver says that the data are damaged (V4L2_BUF_FLAG_ERROR).
    pub is_flagged: bool,
    /// Start of exposure on CLOCK_MONOTONIC; `None` where the driver gave none that can be used.
    pub exposed_at: Option<Duration>,
    /// The same since the UNIX epoch, by the clock of another machine that took the picture; `None` where this machine's
    /// clocks tell.
    pub captured_real: Option<Duration>,
}

/// A size and a rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mode {
    /// Frame size.
    pub size: Size,
    /// Frames per second; `None` asks for the camera's own rate.
    pub fps: Option<f64>,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.size)?;
        self.fps.map_or(Ok(()), |fps| write!(f, "@{}", (fps * 100.0).round() / 100.0))
    }
}

/// One size on offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Frame size.
    pub size: Size,
    /// Rates in frames per second, fastest first; empty where the driver does not say.
    pub fps: Vec<f64>,
}

/// Which camera: enough to know it again under another node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The node it was opened as, `/dev/video0`, or `synthetic`.
    pub node: String,
    /// The card's name, as the driver gives it.
    pub card: String,
    /// The driver's name.
    pub driver: String,
    /// Where it is plugged in.
    pub bus: String,
    /// `vendor:product` of a USB camera, else empty.
    pub usb_id: String,
    /// The USB serial number, else empty.
    pub serial: String,
}

impl CameraError {
    /// Adds which smaller mode to try where the bus cannot carry `mode`. `options` begins the names of the options to set.
    pub fn with_advice(self, offers: &[Offer], mode: Mode, options: &str) -> Self {
        let smaller = offers.iter().rev().map(|offer| offer.size).find(|size| size.area() < mode.size.area());
        let rates =
            offers.iter().find(|offer| offer.size == mode.size).map(|offer| offer.fps.as_slice()).unwrap_or_default();
        let now = mode.fps.or(rates.first().copied());
        let slower = rates.iter().find(|fps| now.is_some_and(|now| **fps < now - 0.5));
        let smaller = smaller.map(|size| format!("{options}size {size}"));
        let hints: Vec<String> =
            slower.map(|fps| format!("{options}fps {fps:.0}")).into_iter().chain(smaller).collect();
        let hint = match hints.is_empty() {
            true => "unplug other devices from the same USB hub".into(),
            false => format!("try {}, or another USB socket", hints.join(" or ")),
        };
        Self::new(self.kind, format!("{self} for {mode}; {hint}"))
    }
}
