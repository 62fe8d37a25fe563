//! Cameras without Motion-JPEG, and their raw pictures that are larger than any in it: encoded here, if that is wanted.
//!
//! A camera of this file is another one with a thread before it, which takes the newest raw picture, copies it out of the
//! driver's buffer and encodes it. Whoever takes pictures from it gets JPEGs as from any camera. Pictures that come while the
//! thread is busy are passed over: an encoder that is too slow lowers the rate, and pictures stay new.

mod rows;
mod worker;

use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::Level;

use self::worker::{JpegEncoder, Running, Shared};
use super::control::{Control, Controls};
use super::pixels::{Layout, PixelFormat};
use super::{CameraError, Device, ErrorKind, Identity, Mode, Offer, RawFrame, Readiness, Source};
use crate::frame::Size;
use crate::system::os;
use crate::system::sync::Mutex;

/// The quality that is proposed.
const PROPOSED_QUALITY: u8 = 80;
/// How raw pictures are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encode {
    /// From 1 to 100.
    quality: u8,
    /// Only this format; `None` takes the one that fits best.
    format: Option<PixelFormat>,
}

impl Encode {
    /// What is proposed to whoever has not chosen.
    pub const PROPOSED: Self = Self { quality: PROPOSED_QUALITY, format: None };
}

impl FromStr for Encode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (quality, format) = text.split_once(':').map_or((text, None), |(quality, format)| (quality, Some(format)));
        let quality = quality.parse().ok().filter(|quality| (1..=100).contains(quality));
        let quality =
            quality.ok_or("expected a quality from 1 to 100, such as 80, or one with a format, such as 80:YUYV")?;
        Ok(Self { quality, format: format.map(str::parse).transpose()? })
    }
}

/// Another source, whose raw pictures are encoded. Without settings for that a camera that has only such is refused.
pub struct Encoding {
    source: Box<dyn Source>,
    encode: Option<Encode>,
    /// What the live stream should be, for what is said about its cost.
    live: Mode,
}

impl Encoding {
    /// Encodes the raw pictures of this source's cameras, if at all.
    pub fn new(source: Box<dyn Source>, encode: Option<Encode>, live: Mode) -> Self {
        Self { source, encode, live }
    }
}

impl Source for Encoding {
    fn open(&self) -> Result<Box<dyn Device>, CameraError> {
        let device = self.source.open()?;
        match self.encode {
            Some(encode) => Ok(Box::new(EncodedCamera::new(device, encode)?)),
            None if device.has_jpeg() => Ok(device),
            None => Err(refusal(device.as_ref(), self.live)),
        }
    }

    fn note_first_picture(&self) {
        self.source.note_first_picture();
    }

    fn note_silence(&self) {
        self.source.note_silence();
    }
}

fn refusal(device: &dyn Device, live: Mode) -> CameraError {
    let Identity { node, card, .. } = device.identity();
    let message = format!(
        "{node} ({card}) has no Motion-JPEG, only raw pictures ({}), and framehub encodes those only if told to: --encode \
         {PROPOSED_QUALITY} would, and take about {} (--check measures it with this camera)",
        names(&device.raw_offers()),
        share(live)
    );
    CameraError::new(ErrorKind::Refused, message)
}

/// The names of formats on offer.
pub fn names(offers: &[(PixelFormat, Offer)]) -> String {
    let is_offered = |format: &PixelFormat| offers.iter().any(|(offered, _)| offered == format);
    let names: Vec<String> =
        PixelFormat::ALL.iter().filter(|format| is_offered(format)).map(PixelFormat::to_string).collect();
    names.join(", ")
}

/// What encoding would cost on this machine, in words; measured once.
fn share(live: Mode) -> String {
    static PER_PIXEL: OnceLock<Duration> = OnceLock::new();
    // Large enough that this is its cost, and small enough for a slow board.
    let sample = Size::new(320, 240);
    let cost = *PER_PIXEL.get_or_init(|| cost(sample));
    let fps = live.fps.unwrap_or(30.0);
    let seconds = cost.as_secs_f64() * live.size.area() as f64 / sample.area() as f64;
    let percent = (seconds * fps * 100.0).max(1.0);
    format!("{percent:.0} % of a processor of this machine for {} at {fps} frames per second", live.size)
}

/// Processor time for one picture of this size: the least of some tries.
fn cost(size: Size) -> Duration {
    let layout =
        Layout { format: PixelFormat::Yuyv, size, stride: size.width as usize * 2, is_limited: true, is_bt709: false };
    // Slopes, steps and grain: what it costs is between a wall and a tree.
    let value = |at: usize| (at / 9 % 120 + (at / 64 % 3) * 40 + at.wrapping_mul(2_654_435_761) % 13) as u8;
    let pixels: Vec<u8> = (0..layout.len()).map(value).collect();
    let mut encoder = JpegEncoder::new(layout, PROPOSED_QUALITY);
    let mut jpeg = Vec::new();
    let mut once = || {
        let began = os::processor_time();
        encoder.encode(&pixels, &mut jpeg);
        os::processor_time() - began
    };
    (0..5).map(|_| once()).min().unwrap_or_default()
}

/// An open camera whose raw pictures are encoded.
struct EncodedCamera {
    encode: Encode,
    identity: Identity,
    has_controls: bool,
    has_jpeg: bool,
    /// That it encodes is in the log.
    is_logged: bool,
    // Dropped before the device, which it uses.
    running: Option<Running>,
    device: Shared,
}

impl EncodedCamera {
    fn new(mut device: Box<dyn Device>, encode: Encode) -> Result<Self, CameraError> {
        let (identity, has_jpeg) = (device.identity().clone(), device.has_jpeg());
        let has_controls = device.controls().is_some();
        let camera = Self {
            encode,
            identity,
            has_controls,
            has_jpeg,
            is_logged: false,
            running: None,
            device: Arc::new(Mutex::new(device)),
        };
        match camera.encode.format {
            Some(format) if !has_jpeg && camera.raw_formats().is_empty() => {
                let offered = names(&camera.device.lock().raw_offers());
                let Identity { node, card, .. } = &camera.identity;
                let message = format!("{node} ({card}) does not offer {format}, only {offered}: see --encode");
                Err(CameraError::new(ErrorKind::Refused, message))
            }
            _ => Ok(camera),
        }
    }

    /// What may be encoded. Grey only where nothing else is there, or where it was asked for.
    fn raw_formats(&self) -> Vec<(PixelFormat, Offer)> {
        let mut offers = self.device.lock().raw_offers();
        let has_colour = self.has_jpeg || offers.iter().any(|(format, _)| *format != PixelFormat::Grey);
        offers.retain(|(format, _)| match self.encode.format {
            Some(wanted) => *format == wanted,
            None => *format != PixelFormat::Grey || !has_colour,
        });
        offers
    }

    fn start_raw_in(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        self.stop()?;
        let format = choose(&self.raw_formats(), want).or(self.encode.format).unwrap_or(PixelFormat::Yuyv);
        let mut device = self.device.lock();
        let (mode, layout) = device.start_raw(format, want, buffers)?;
        let readiness = device.readiness();
        drop(device);
        let level = if std::mem::replace(&mut self.is_logged, true) { Level::Debug } else { Level::Info };
        log::log!(level, "encoding {format} quality={} mode={mode}", self.encode.quality);
        let shared = self.device.clone();
        self.running = Some(Running::start(shared, readiness, layout, mode, self.encode.quality)?);
        Ok(mode)
    }
}

/// The format for a mode: one that has the size, then the fastest there, then the cheapest.
fn choose(offers: &[(PixelFormat, Offer)], want: Mode) -> Option<PixelFormat> {
    let distance =
        |size: Size| size.area().abs_diff(want.size.area()) + u64::from(size.width.abs_diff(want.size.width));
    let rate = |offer: &Offer| offer.fps.first().copied().unwrap_or_default().min(want.fps.unwrap_or(f64::MAX));
    let best = offers.iter().min_by(|(a, x), (b, y)| {
        let by_size = distance(x.size).cmp(&distance(y.size));
        by_size.then(rate(y).total_cmp(&rate(x))).then(a.cmp(b))
    });
    best.map(|(format, _)| *format)
}

impl Device for EncodedCamera {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn has_jpeg(&self) -> bool {
        self.has_jpeg
    }

    /// The sizes in Motion-JPEG and the raw ones that are larger than these, or all raw ones where there are no others.
    fn offers(&self) -> Vec<Offer> {
        let mut offers = self.device.lock().offers();
        let largest = offers.iter().map(|offer| offer.size.area()).max();
        // Of a camera that does not say how large its pictures are, none is known to be larger.
        let least = if self.has_jpeg { largest.unwrap_or(u64::MAX) } else { 0 };
        for (_, raw) in self.raw_formats().into_iter().filter(|(_, raw)| raw.size.area() > least) {
            match offers.iter_mut().find(|offer| offer.size == raw.size) {
                Some(known) if known.fps.first() < raw.fps.first() => *known = raw,
                Some(_) => {}
                None => offers.push(raw),
            }
        }
        offers.sort_by_key(|offer| offer.size.area());
        offers
    }

    fn raw_offers(&self) -> Vec<(PixelFormat, Offer)> {
        self.device.lock().raw_offers()
    }

    fn start(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        if !self.has_jpeg {
            return self.start_raw_in(want, buffers);
        }
        self.stop()?;
        self.device.lock().start(want, buffers)
    }

    fn start_still(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        let has_jpeg_of_this_size = self.device.lock().offers().iter().any(|offer| offer.size == want.size);
        let is_raw = || self.raw_formats().iter().any(|(_, offer)| offer.size == want.size);
        if self.has_jpeg && !has_jpeg_of_this_size && is_raw() {
            return self.start_raw_in(want, buffers);
        }
        self.start(want, buffers)
    }

    fn stop(&mut self) -> Result<(), CameraError> {
        let running = self.running.take();
        if let Some(running) = &running {
            running.pictures.stop();
        }
        // This wakes the thread; it ends where `running` is dropped.
        self.device.lock().stop()
    }

    fn readiness(&self) -> Arc<dyn Readiness> {
        match &self.running {
            Some(running) => running.pictures.clone(),
            None => self.device.lock().readiness(),
        }
    }

    fn take(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        match &self.running {
            Some(running) => running.pictures.take(sink),
            None => self.device.lock().take(sink),
        }
    }

    fn controls(&mut self) -> Option<&mut dyn Controls> {
        self.has_controls.then_some(self as &mut dyn Controls)
    }
}

impl Drop for EncodedCamera {
    fn drop(&mut self) {
        // An error here means that the camera is gone, which whoever drops this knows already.
        let _ = self.stop();
    }
}

impl Controls for EncodedCamera {
    fn next(&mut self, after: u32) -> Result<Option<Control>, CameraError> {
        self.device.lock().controls().map_or(Ok(None), |controls| controls.next(after))
    }

    fn set(&mut self, control: &Control, value: i64) -> Result<(), CameraError> {
        self.device.lock().controls().map_or(Ok(()), |controls| controls.set(control, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_and_format_are_read_and_others_explained() {
        for (text, expected) in [
            ("80", Encode { quality: 80, format: None }),
            ("1:YUYV", Encode { quality: 1, format: Some(PixelFormat::Yuyv) }),
            ("100:RGB24", Encode { quality: 100, format: Some(PixelFormat::Rgb24) }),
            ("75:BGR3", Encode { quality: 75, format: Some(PixelFormat::Bgr24) }),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, words) in [
            ("", "1 to 100"),
            ("0", "1 to 100"),
            ("101", "1 to 100"),
            ("high", "such as 80"),
            ("80:MJPG", "NV12, YU12, YUYV"),
        ] {
            let why = text.parse::<Encode>().unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn the_format_that_has_the_size_is_taken_then_the_fastest_then_the_cheapest() {
        use PixelFormat::{Nv12, Rgb24, Yuyv};
        let offer = |width, height, fps: f64| Offer { size: Size::new(width, height), fps: vec![fps] };
        let offers = [
            (Nv12, offer(640, 480, 30.0)),
            (Nv12, offer(1280, 720, 10.0)),
            (Yuyv, offer(640, 480, 30.0)),
            (Yuyv, offer(320, 240, 60.0)),
            (Rgb24, offer(1280, 720, 30.0)),
            (Rgb24, offer(1920, 1080, 5.0)),
        ];
        for (width, height, fps, expected) in [
            (640, 480, None, Nv12),
            (320, 240, None, Yuyv),
            (1280, 720, None, Rgb24),
            (1280, 720, Some(10.0), Nv12),
            (1920, 1080, None, Rgb24),
            (330, 250, None, Yuyv),
        ] {
            assert_eq!(
                choose(&offers, Mode { size: Size::new(width, height), fps }),
                Some(expected),
                "{width}x{height}"
            );
        }
        assert_eq!(choose(&[], Mode { size: Size::new(1, 1), fps: None }), None);
    }
}
