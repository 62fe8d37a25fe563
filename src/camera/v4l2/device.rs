//! An open V4L2 device: its format, its rate, its stream.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use v4l::buffer::{Flags, Type};
use v4l::io::mmap::Stream;
use v4l::io::traits::{CaptureStream, Stream as _};
use v4l::video::Capture;
use v4l::video::capture::Parameters;
use v4l::{Format, FourCC, Fraction};

use super::controls::V4l2Controls;
use super::diagnose::{QUERY, explain};
use super::enumerate::{self, Capabilities};
use super::identity::{Chosen, identify, interface, media_device, port_of, ports_of, wait_until_cleared_away};
use super::poll::{Gate, Poll};
use super::raw;
use crate::camera::control::Controls;
use crate::camera::pixels::{Layout, PixelFormat};
use crate::camera::{CameraError, Device, ErrorKind, Identity, Mode, Offer, RawFrame, Readiness};
use crate::frame::Size;
use crate::system::os;
use crate::system::sync::{Mutex, rank};

/// A picture is ready when `next()` is called; this only bounds a driver that changes its mind.
const NEXT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the kernel may take to clear a pulled camera away; it takes some milliseconds.
const GOING_TIMEOUT: Duration = Duration::from_secs(2);
/// Formats that are one JPEG per buffer.
const JPEG_FORMATS: [&[u8; 4]; 2] = [b"MJPG", b"JPEG"];
/// How often a running camera looks which others of its kind are plugged in.
const OTHERS_PERIOD: Duration = Duration::from_secs(1);
/// More buffers than any driver grants (VIDEO_MAX_FRAME).
const MAX_BUFFERS: usize = 32;

/// What a source knows of the cameras that it has opened.
#[derive(Default)]
pub struct Search {
    /// The camera that was found first; no other will do later.
    pub chosen: Option<Chosen>,
    /// It has delivered a picture. Until then `auto` may choose another.
    pub is_confirmed: bool,
    /// Ports of cameras that never gave a picture; nodes where there is no port.
    pub silent: Vec<PathBuf>,
    /// A camera without Motion-JPEG, which is chosen once it has delivered a picture.
    pub raw: Option<Chosen>,
    /// When a camera that streamed was closed last.
    pub closed_at: Option<Instant>,
}

/// An open node.
pub struct V4l2Device {
    pub identity: Identity,
    /// What its node belongs to in sysfs.
    interface: Option<PathBuf>,
    /// Its media device in sysfs, where the kernel has media controllers.
    media: Option<PathBuf>,
    /// Its Motion-JPEG, if it has that.
    jpeg: Option<FourCC>,
    raw_formats: Vec<PixelFormat>,
    // Dropped before the device: its buffers belong to the descriptor.
    stream: Option<Stream<'static>>,
    gate: Gate,
    /// A call said that the camera is gone.
    is_known_gone: bool,
    /// The driver would not stop streaming: the descriptor has to be closed without `v4l`.
    is_stuck: bool,
    has_streamed: bool,
    pub is_loopback: bool,
    /// Whose camera this is.
    pub search: Arc<Mutex<Search, { rank::KNOWN }>>,
    /// When it was looked which others are plugged in.
    looked_at: Instant,
    controls: V4l2Controls,
    device: v4l::Device,
}

impl V4l2Device {
    pub fn open(path: &Path) -> Result<Self, CameraError> {
        let node = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let shown =
            if node == path { path.display().to_string() } else { format!("{} ({})", path.display(), node.display()) };
        let device = v4l::Device::with_path(&node).map_err(|error| explain("cannot open", &shown, &error))?;
        let handle = device.handle();
        let capabilities = Capabilities::read(&handle).map_err(|error| explain(QUERY, &shown, &error))?;
        let interface = interface(&node);
        let identity = identify(&capabilities, &node, interface.as_deref());
        let media = interface.as_deref().and_then(media_device);
        let refused = |why: String| {
            let message = format!("{shown} ({}) has no Motion-JPEG: {why}", identity.card);
            CameraError::new(ErrorKind::Refused, message)
        };
        if let Some(why) = capabilities.is_no_camera() {
            return Err(refused(why.into()));
        }
        let offered = enumerate::formats(&handle);
        let jpeg = JPEG_FORMATS.map(FourCC::new).into_iter().find(|wanted| offered.contains(wanted));
        let raw_formats = raw::formats(&offered);
        if jpeg.is_none() && raw_formats.is_empty() {
            let offered: Vec<String> = offered.iter().map(ToString::to_string).collect();
            let offers = if offered.is_empty() { "nothing".into() } else { offered.join(", ") };
            let why = format!("it offers {offers}, and of raw pictures framehub can encode {}", PixelFormat::names());
            return Err(refused(why));
        }
        let controls = V4l2Controls::new(handle);
        Ok(Self {
            identity,
            interface,
            media,
            is_known_gone: false,
            is_stuck: false,
            has_streamed: false,
            is_loopback: capabilities.is_loopback(),
            jpeg,
            raw_formats,
            search: Arc::default(),
            looked_at: Instant::now(),
            stream: None,
            gate: Gate::default(),
            controls,
            device,
        })
    }

    /// Where it is plugged in, in sysfs.
    pub fn port(&self) -> Option<PathBuf> {
        self.interface.as_deref().map(port_of)
    }

    /// Who it is, to know it again.
    pub fn as_chosen(&self) -> Chosen {
        Chosen::new(self.identity.clone(), self.port(), ports_of(&self.identity))
    }

    fn set_format(&self, format: FourCC, size: Size) -> Result<Size, CameraError> {
        let node = &self.identity.node;
        let wanted = Format::new(size.width, size.height, format);
        let got = guarded("cannot set the picture format of", node, || self.device.set_format(&wanted))?;
        if got.fourcc != format {
            let message = format!("{node} was asked for {format} and set {}", got.fourcc);
            return Err(CameraError::new(ErrorKind::Refused, message));
        }
        Ok(Size::new(got.width, got.height))
    }

    /// Must follow each change of format, which resets the rate. A camera without rates keeps its own.
    fn set_rate(&self, fps: Option<f64>) -> Option<f64> {
        let wanted = fps.map(|fps| Fraction::new(1000, (fps * 1000.0).round().max(1.0) as u32));
        let node = &self.identity.node;
        let got = catch_unwind(AssertUnwindSafe(|| match wanted {
            Some(interval) => self.device.set_params(&Parameters::new(interval)),
            None => self.device.params(),
        }));
        match got {
            Ok(Ok(got)) if got.interval.numerator > 0 && got.interval.denominator > 0 => {
                Some(f64::from(got.interval.denominator) / f64::from(got.interval.numerator))
            }
            Ok(Err(error)) if fps.is_some() && error.raw_os_error() == Some(libc::ENOTTY) => {
                info!("{node} has no frame rates to choose from; viewers get fewer frames instead");
                None
            }
            Ok(Err(error)) if fps.is_some() => {
                warn!("{}", explain("cannot set the frame rate of", node, &error));
                None
            }
            _ => None,
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
        // A driver may grant fewer buffers than were asked for, or more; all that there are must be queued.
        for index in 1..MAX_BUFFERS {
            match CaptureStream::queue(stream, index) {
                Err(error) if index == 1 => return Err(explain("cannot queue a buffer for", node, &error)),
                Err(_) => break,
                Ok(()) => {}
            }
        }
        stream.start().map_err(|error| explain("cannot start streaming from", node, &error))?;
        self.gate.set_open(true);
        Ok(())
    }
}

impl Device for V4l2Device {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn offers(&self) -> Vec<Offer> {
        self.jpeg.map(|format| enumerate::offers(&self.device.handle(), format)).unwrap_or_default()
    }

    fn start(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        let Some(format) = self.jpeg else {
            let message = format!("{} has no Motion-JPEG", self.identity.node);
            return Err(CameraError::new(ErrorKind::Refused, message));
        };
        let started = self.start_in(format, want, buffers);
        self.noted(started)
    }

    fn has_jpeg(&self) -> bool {
        self.jpeg.is_some()
    }

    fn raw_offers(&self) -> Vec<(PixelFormat, Offer)> {
        let handle = self.device.handle();
        let offers = |format: &PixelFormat| enumerate::offers(&handle, FourCC::new(format.fourcc()));
        let with_format =
            |format: &PixelFormat| offers(format).into_iter().map(|offer| (*format, offer)).collect::<Vec<_>>();
        self.raw_formats.iter().flat_map(with_format).collect()
    }

    fn start_raw(&mut self, format: PixelFormat, want: Mode, buffers: u32) -> Result<(Mode, Layout), CameraError> {
        let started = self.start_in(FourCC::new(format.fourcc()), want, buffers);
        let mode = self.noted(started)?;
        let layout = raw::layout(&self.device.handle(), format);
        let layout = layout.map_err(|error| explain("cannot read the picture format of", &self.identity.node, &error));
        Ok((mode, self.noted(layout)?))
    }

    fn stop(&mut self) -> Result<(), CameraError> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        let stopped = stream.stop();
        self.gate.set_open(false);
        if stopped.as_ref().is_err_and(|error| error.raw_os_error() != Some(libc::ENODEV)) {
            // To drop it would panic twice, which ends the process: its mappings are given up instead.
            std::mem::forget(stream);
            self.is_stuck = true;
        } else {
            // This panics where REQBUFS(0) fails.
            if catch_unwind(AssertUnwindSafe(|| drop(stream))).is_err() {
                warn!("the driver refused to take its buffers back");
            }
        }
        stopped.map_err(|error| explain("cannot stop streaming from", &self.identity.node, &error))
    }

    fn readiness(&self) -> Arc<dyn Readiness> {
        Arc::new(Poll { handle: self.device.handle(), gate: self.gate.clone() })
    }

    fn take(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        let taken = self.take_next(sink);
        if taken.is_ok() && self.looked_at.elapsed() >= OTHERS_PERIOD {
            self.looked_at = Instant::now();
            if let Some(chosen) = &mut self.search.lock().chosen {
                chosen.note_others(ports_of(&self.identity));
            }
        }
        self.noted(taken)
    }

    fn controls(&mut self) -> Option<&mut dyn Controls> {
        Some(&mut self.controls)
    }
}

impl V4l2Device {
    fn start_in(&mut self, format: FourCC, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        self.stop()?;
        let size = self.set_format(format, want.size)?;
        let fps = self.set_rate(want.fps);
        let mode = Mode { size, fps };
        self.has_streamed = true;
        self.stream_on(buffers).inspect_err(|_| drop(self.stop()))?;
        Ok(mode)
    }

    fn take_next(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        let node = &self.identity.node;
        let Some(stream) = self.stream.as_mut() else {
            return Err(CameraError::new(ErrorKind::Failed, format!("{node} is not streaming")));
        };
        // It panics at a buffer that there is not.
        let (data, meta) = guarded("cannot take a picture from", node, || stream.next())?;
        let used = (meta.bytesused as usize).min(data.len());
        let clock = meta.flags & Flags::TIMESTAMP_MASK;
        let exposed_at = Duration::from_secs(meta.timestamp.sec.max(0) as u64)
            + Duration::from_micros(meta.timestamp.usec.max(0) as u64);
        sink(RawFrame {
            data: &data[..used],
            sequence: meta.sequence,
            is_flagged: meta.flags.contains(Flags::ERROR),
            exposed_at: (clock == Flags::TIMESTAMP_MONOTONIC && !exposed_at.is_zero()).then_some(exposed_at),
            captured_real: None,
        });
        Ok(())
    }

    /// Remembers an error that says that the camera is gone.
    fn noted<T>(&mut self, result: Result<T, CameraError>) -> Result<T, CameraError> {
        self.is_known_gone |= result.as_ref().is_err_and(is_absent);
        result
    }

    fn is_gone(&self) -> bool {
        let ask = || Capabilities::read(&self.device.handle());
        let is_absent = |error: io::Error| explain(QUERY, &self.identity.node, &error).kind == ErrorKind::Absent;
        self.is_known_gone || ask().is_err_and(is_absent)
    }
}

impl Drop for V4l2Device {
    fn drop(&mut self) {
        // An error here means that the camera is gone, which whoever drops this knows already.
        let _ = self.stop();
        if let Some(media) = self.media.as_ref().filter(|_| self.is_gone()) {
            wait_until_cleared_away(media, GOING_TIMEOUT);
        }
        if self.is_stuck {
            os::close_descriptor(self.device.handle().fd());
        }
        if self.has_streamed {
            self.search.lock().closed_at = Some(Instant::now());
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_was_tried_why_and_what_to_do() {
        for (path, words) in [
            ("/dev/no-such-camera", ["cannot open /dev/no-such-camera", "plugged in?"]),
            ("/dev/null", ["/dev/null", "not a V4L2 device"]),
        ] {
            let error = V4l2Device::open(Path::new(path)).err().expect("no camera there").message;
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
