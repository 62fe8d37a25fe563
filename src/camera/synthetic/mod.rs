//! The synthetic camera: a test picture of any size at an exact rate, for newcomers and for tests.
//!
//! It behaves as a webcam does: frames are due at its own rate whether or not anything takes them, and a frame that is
//! taken late shows the time at which it was due. A frame that is not taken in time is never drawn; the driver's
//! sequence number skips it.
//!
//! Tests select a difficult webcam by `--device synthetic:KEY=VALUE,KEY=VALUE`:
//!
//! | key | effect |
//! |---|---|
//! | `bytes=N` | each JPEG is N bytes long (coarser, or with filler; up to three bytes shorter) |
//! | `dht=0` | no Huffman tables, and `AVI1` in place of `JFIF` |
//! | `first_ms=N` | the first frame comes N ms after the start |
//! | `raw=FORMAT` | no Motion-JPEG, only raw pictures in this format, such as YUYV |
//! | `raw=FORMAT@WxH` | beside Motion-JPEG this size in a raw format |
//! | `sizes=WxH+WxH` | only these sizes; for any other the nearest is used |
//! | `stall_file=PATH` | while that file exists no frame comes, and no error is reported |
//! | `switch_ms=N` | starting takes N ms |
//! | `unplug_file=PATH` | while that file exists the camera is absent, and a running stream fails for good |
//! | `warmup=N` | the first N frames after each start are dark, each less than the one before |

mod controls;
mod picture;
mod raw;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use self::controls::SyntheticControls;
use self::picture::{Moment, TestPicture, Tone};
use super::control::Controls;
use super::pixels::{Layout, PixelFormat};
use super::{CameraError, Device, ErrorKind, Identity, Mode, Offer, RawFrame, Readiness, Source};
use crate::frame::{Size, Stamp};
use crate::system::os;

const SMALLEST: Size = Size::new(16, 16);
const LARGEST: Size = Size::new(3840, 2160);
const RATES: [f64; 5] = [60.0, 30.0, 15.0, 10.0, 5.0];
const OWN_RATE: f64 = 30.0;

/// The synthetic camera.
#[derive(Debug, Clone, Default)]
pub struct Synthetic {
    quirks: Arc<Quirks>,
    /// Frames drawn since the program started, over all times that the camera was opened.
    drawn: Arc<AtomicU64>,
}

/// Differences from a camera without problems, by the keys in the module's table.
#[derive(Debug, Default, PartialEq)]
struct Quirks {
    bytes: Option<usize>,
    omits_dht: bool,
    first: Option<Duration>,
    /// A raw format, and the only size that has it, if there is Motion-JPEG, too.
    raw: Option<(PixelFormat, Option<Size>)>,
    sizes: Vec<Size>,
    stall_file: Option<PathBuf>,
    switch: Duration,
    unplug_file: Option<PathBuf>,
    warmup: u64,
}

impl Synthetic {
    /// Parses `synthetic` or `synthetic:KEY=VALUE,...`.
    ///
    /// # Errors
    /// A message that names the invalid key or value and what was expected.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let quirks = match text.split_once(':') {
            None if text == "synthetic" => Quirks::default(),
            Some(("synthetic", list)) => Quirks::parse(list)?,
            _ => return Err(format!("invalid camera \"{text}\": expected synthetic or synthetic:KEY=VALUE,...")),
        };
        Ok(Self { quirks: Arc::new(quirks), ..Self::default() })
    }
}

impl Source for Synthetic {
    fn open(&self) -> Result<Box<dyn Device>, CameraError> {
        self.quirks.check_plugged()?;
        Ok(Box::new(Camera {
            source: self.clone(),
            identity: Identity {
                node: "synthetic".into(),
                card: "framehub test picture".into(),
                driver: "synthetic".into(),
                ..Identity::default()
            },
            controls: SyntheticControls::default(),
            picture: None,
            raw: None,
            stream: Arc::new(Stream::stopped(self.quirks.clone())),
        }))
    }
}

impl Quirks {
    fn parse(list: &str) -> Result<Self, String> {
        let mut quirks = Self::default();
        for item in list.split(',') {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            let number = |largest: u32| match value.parse() {
                Ok(number) if number <= largest => Ok(number),
                _ => {
                    Err(format!("invalid value \"{value}\" for synthetic:{key}: expected a number from 0 to {largest}"))
                }
            };
            let millis = || number(60_000).map(|millis: u32| Duration::from_millis(millis.into()));
            match key {
                "bytes" => quirks.bytes = Some(number(32 << 20)? as usize),
                "dht" => quirks.omits_dht = number(1)? == 0,
                "first_ms" => quirks.first = Some(millis()?),
                "raw" => {
                    let (format, size) =
                        value.split_once('@').map_or((value, None), |(format, size)| (format, Some(size)));
                    let invalid = |why: String| format!("invalid value \"{value}\" for synthetic:raw: {why}");
                    let size = size.map(str::parse).transpose().map_err(invalid)?;
                    quirks.raw = Some((format.parse().map_err(invalid)?, size));
                }
                "sizes" => {
                    quirks.sizes = value.split('+').map(|size| size.parse::<Size>()).collect::<Result<_, _>>()?;
                    if let Some(size) = quirks.sizes.iter().find(|size| coerce(**size, &[]) != **size) {
                        return Err(format!(
                            "invalid size {size} for synthetic:sizes: expected {SMALLEST} to {LARGEST}"
                        ));
                    }
                }
                "stall_file" if !value.is_empty() => quirks.stall_file = Some(value.into()),
                "switch_ms" => quirks.switch = millis()?,
                "unplug_file" if !value.is_empty() => quirks.unplug_file = Some(value.into()),
                "stall_file" | "unplug_file" => {
                    return Err(format!("missing value for synthetic:{key}: expected a path"));
                }
                "warmup" => quirks.warmup = number(1000)?.into(),
                _ => {
                    return Err(format!(
                        "unknown key \"{key}\" for synthetic: expected bytes, dht, first_ms, raw, sizes, stall_file, \
                         switch_ms, unplug_file or warmup"
                    ));
                }
            }
        }
        Ok(quirks)
    }

    fn is_stalled(&self) -> bool {
        self.stall_file.as_ref().is_some_and(|file| file.exists())
    }

    fn check_plugged(&self) -> Result<(), CameraError> {
        let Some(file) = self.unplug_file.as_ref().filter(|file| file.exists()) else { return Ok(()) };
        let text = format!("the synthetic camera is unplugged: {} exists (delete it to plug in)", file.display());
        Err(CameraError::new(ErrorKind::Absent, text))
    }
}

/// The size used for a wanted size: of the sizes offered the one whose rectangle differs least, as the kernel chooses.
fn coerce(want: Size, offered: &[Size]) -> Size {
    let overlap = |size: &Size| u64::from(size.width.min(want.width)) * u64::from(size.height.min(want.height));
    offered.iter().min_by_key(|size| size.area() + want.area() - 2 * overlap(size)).copied().unwrap_or_else(|| {
        Size::new(want.width.clamp(SMALLEST.width, LARGEST.width), want.height.clamp(SMALLEST.height, LARGEST.height))
    })
}

/// The synthetic camera, open.
struct Camera {
    source: Synthetic,
    identity: Identity,
    controls: SyntheticControls,
    picture: Option<(Mode, TestPicture)>,
    /// How raw pictures lie, while such are sent.
    raw: Option<Layout>,
    stream: Arc<Stream>,
}

impl Camera {
    fn sizes(&self) -> Vec<Offer> {
        const SIZES: [(u32, u32); 7] =
            [(320, 240), (640, 480), (800, 600), (1280, 720), (1920, 1080), (2592, 1944), (3840, 2160)];
        let offer = |size| Offer { size, fps: RATES.to_vec() };
        match self.source.quirks.sizes.as_slice() {
            [] => SIZES.map(|(width, height)| offer(Size::new(width, height))).into(),
            sizes => sizes.iter().copied().map(offer).collect(),
        }
    }

    fn begin(&mut self, want: Mode, sizes: &[Size]) -> Result<Mode, CameraError> {
        self.stop()?;
        let quirks = &self.source.quirks;
        quirks.check_plugged()?;
        std::thread::sleep(quirks.switch);
        let fps = want.fps.filter(|fps| fps.is_finite()).unwrap_or(OWN_RATE).clamp(1.0, 120.0);
        let mode = Mode { size: coerce(want.size, sizes), fps: Some(fps) };
        if self.picture.as_ref().is_none_or(|(drawn, _)| *drawn != mode) {
            self.picture = Some((mode, TestPicture::new(mode.size, fps, quirks.bytes, quirks.omits_dht)));
        }
        self.stream = Arc::new(Stream::started(quirks.clone(), fps, os::monotonic()));
        Ok(mode)
    }
}

impl Device for Camera {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn offers(&self) -> Vec<Offer> {
        if self.has_jpeg() { self.sizes() } else { Vec::new() }
    }

    fn has_jpeg(&self) -> bool {
        !matches!(self.source.quirks.raw, Some((_, None)))
    }

    fn raw_offers(&self) -> Vec<(PixelFormat, Offer)> {
        match self.source.quirks.raw {
            None => Vec::new(),
            Some((format, Some(size))) => vec![(format, Offer { size, fps: vec![2.0] })],
            Some((format, None)) => self.sizes().into_iter().map(|offer| (format, offer)).collect(),
        }
    }

    fn start_raw(&mut self, format: PixelFormat, want: Mode, _: u32) -> Result<(Mode, Layout), CameraError> {
        let only = self.source.quirks.raw.and_then(|(_, size)| size);
        let sizes: Vec<Size> = only.map_or(self.source.quirks.sizes.clone(), |only| vec![only]);
        let mode = self.begin(want, &sizes)?;
        let layout = raw::layout(format, mode.size);
        self.raw = Some(layout);
        Ok((mode, layout))
    }

    fn start(&mut self, want: Mode, _buffers: u32) -> Result<Mode, CameraError> {
        self.raw = None;
        let source = self.source.clone();
        self.begin(want, &source.quirks.sizes)
    }

    fn stop(&mut self) -> Result<(), CameraError> {
        self.stream.stop();
        Ok(())
    }
    fn readiness(&self) -> Arc<dyn Readiness> {
        self.stream.clone()
    }

    fn take(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        let failed = |text: &str| CameraError::new(ErrorKind::Failed, format!("synthetic camera: {text}"));
        let (mono, real) = (os::monotonic(), os::realtime());
        let due = self.stream.take(mono)?.ok_or_else(|| failed("no frame is due yet"))?;
        let Some((_, picture)) = &mut self.picture else { return Err(failed("not started")) };
        let warmup = self.source.quirks.warmup;
        let tone = self.controls.tone();
        let brightness = ((due.taken_before + 1) as f32 / (warmup + 1) as f32).min(1.0);
        let moment = Moment {
            number: self.source.drawn.fetch_add(1, Ordering::Relaxed) + 1,
            exposed_at: Stamp { mono: due.at, real: real.saturating_sub(mono - due.at) },
            tone: Tone { gain: tone.gain * brightness, ..tone },
        };
        let pixels = self.raw.map(|layout| raw::draw(picture, &layout, moment));
        let data = match &pixels {
            Some(pixels) => pixels,
            None => picture.encode(moment),
        };
        sink(RawFrame {
            data,
            sequence: due.sequence as u32,
            is_flagged: false,
            exposed_at: Some(due.at),
            captured_real: None,
        });
        Ok(())
    }

    fn controls(&mut self) -> Option<&mut dyn Controls> {
        Some(&mut self.controls)
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.stream.stop();
    }
}

/// One stream, from start to stop: when each frame is due.
struct Stream {
    quirks: Arc<Quirks>,
    /// CLOCK_MONOTONIC of frame 0.
    first: Duration,
    period: Duration,
    state: Mutex<StreamState>,
    stopped: Condvar,
}

struct StreamState {
    is_running: bool,
    /// Number of the next frame, and how many frames were taken before it.
    next: u64,
    taken: u64,
}

/// A frame that is due and not drawn yet.
#[derive(Debug, PartialEq)]
struct Due {
    sequence: u64,
    /// CLOCK_MONOTONIC.
    at: Duration,
    taken_before: u64,
}

impl Stream {
    /// Interval at which the files of quirks are checked while waiting.
    const FILE_CHECK_INTERVAL: Duration = Duration::from_millis(20);

    fn started(quirks: Arc<Quirks>, fps: f64, now: Duration) -> Self {
        let period = Duration::from_secs_f64(1.0 / fps);
        let first = now + quirks.first.unwrap_or(period);
        let state = Mutex::new(StreamState { is_running: true, next: 0, taken: 0 });
        Self { quirks, first, period, state, stopped: Condvar::new() }
    }

    fn stopped(quirks: Arc<Quirks>) -> Self {
        let stream = Self::started(quirks, OWN_RATE, Duration::ZERO);
        stream.stop();
        stream
    }

    fn stop(&self) {
        self.state.lock().is_running = false;
        self.stopped.notify_all();
    }

    /// When a frame is due: whole periods after the first frame, so that lateness never adds up.
    fn at(&self, sequence: u64) -> Duration {
        self.first + Duration::from_nanos(self.period.as_nanos() as u64 * sequence)
    }

    fn check(&self, state: &mut StreamState) -> Result<(), CameraError> {
        if !state.is_running {
            return Err(CameraError::new(ErrorKind::Failed, "synthetic camera: it is not streaming"));
        }
        self.quirks.check_plugged().inspect_err(|_| state.is_running = false)
    }

    /// Takes the newest frame that is due and not taken yet. Earlier ones are lost, as by a driver without buffers.
    fn take(&self, now: Duration) -> Result<Option<Due>, CameraError> {
        let mut state = self.state.lock();
        self.check(&mut state)?;
        if now < self.at(state.next) {
            return Ok(None);
        }
        let sequence = ((now - self.first).as_nanos() / self.period.as_nanos()) as u64;
        let due = Due { sequence, at: self.at(sequence), taken_before: state.taken };
        state.next = sequence + 1;
        state.taken += 1;
        Ok(Some(due))
    }
}

impl Readiness for Stream {
    fn wait(&self, timeout: Duration) -> Result<bool, CameraError> {
        let give_up = os::monotonic() + timeout;
        let mut state = self.state.lock();
        loop {
            self.check(&mut state)?;
            let (now, due) = (os::monotonic(), self.at(state.next));
            let is_ready = now >= due && !self.quirks.is_stalled();
            if is_ready || now >= give_up {
                return Ok(is_ready);
            }
            let has_files = self.quirks.unplug_file.is_some() || self.quirks.stall_file.is_some();
            let interval = if has_files { Self::FILE_CHECK_INTERVAL } else { Duration::MAX };
            let until = if now >= due { give_up } else { due.min(give_up) };
            self.stopped.wait_for(&mut state, (until - now).min(interval));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SMALL: Mode = Mode { size: Size::new(64, 48), fps: Some(100.0) };

    fn open(text: &str) -> Box<dyn Device> {
        Synthetic::from_text(text).unwrap().open().unwrap()
    }

    /// Waits for the next picture: its bytes, sequence and capture time.
    fn next(camera: &mut dyn Device) -> (Vec<u8>, u32, Duration) {
        assert!(camera.readiness().wait(Duration::from_secs(5)).unwrap(), "no picture within 5 s");
        let mut got = None;
        camera.take(&mut |frame| got = Some((frame.data.to_vec(), frame.sequence, frame.exposed_at.unwrap()))).unwrap();
        got.unwrap()
    }

    #[test]
    fn text_is_read_and_a_wrong_one_is_explained() {
        let text = "synthetic:bytes=20000,dht=0,first_ms=300,raw=NV12@64x48,sizes=640x480+1280x720,stall_file=/c,switch_ms=2,unplug_file=/a/b,warmup=9";
        let wanted = Quirks {
            bytes: Some(20_000),
            omits_dht: true,
            first: Some(Duration::from_millis(300)),
            raw: Some((PixelFormat::Nv12, Some(Size::new(64, 48)))),
            sizes: vec![Size::new(640, 480), Size::new(1280, 720)],
            stall_file: Some("/c".into()),
            switch: Duration::from_millis(2),
            unplug_file: Some("/a/b".into()),
            warmup: 9,
        };
        assert_eq!(*Synthetic::from_text(text).unwrap().quirks, wanted);
        assert_eq!(*Synthetic::from_text("synthetic").unwrap().quirks, Quirks::default());
        for (bad, named) in [
            ("synthetic:", "unknown key \"\" for synthetic: expected bytes"),
            ("synthetic:size=640x480", "unknown key \"size\" for synthetic: expected bytes, dht, first_ms, raw, sizes"),
            ("synthetic:warmup", "invalid value \"\" for synthetic:warmup: expected a number"),
            ("synthetic:dht=2", "invalid value \"2\" for synthetic:dht: expected a number from 0 to 1"),
            ("synthetic:raw=H264", "invalid value \"H264\" for synthetic:raw: expected one of NV12, YU12, YUYV, UYVY"),
            ("synthetic:sizes=640", "expected WIDTHxHEIGHT"),
            ("synthetic:sizes=9000x9000", "invalid size 9000x9000 for synthetic:sizes: expected 16x16 to 3840x2160"),
            ("synthetic:unplug_file=", "missing value for synthetic:unplug_file: expected a path"),
            ("synthetic:stall_file", "missing value for synthetic:stall_file: expected a path"),
            ("synthetic2", "invalid camera \"synthetic2\": expected synthetic"),
        ] {
            let error = Synthetic::from_text(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
    }

    #[test]
    fn pictures_keep_their_places_however_late_they_are_taken() {
        let start = Duration::from_secs(1000);
        let stream = Stream::started(Arc::default(), 30.0, start);
        assert_eq!(stream.at(0) - start, stream.period, "the first comes one period after the start");
        assert_eq!(stream.take(start).unwrap(), None);
        let (mut last, mut lateness) = (None, 0);
        for taken_before in 0..1000 {
            // Up to 3.5 periods late.
            lateness = (lateness + 7_919_000) % 116_666_667;
            let now = stream.at(last.map_or(0, |last| last + 1)) + Duration::from_nanos(lateness);
            let due = stream.take(now).unwrap().unwrap();
            assert_eq!(due, Due { sequence: due.sequence, at: stream.at(due.sequence), taken_before });
            assert!(due.at <= now && now - due.at < stream.period, "not the newest: {due:?} at {now:?}");
            assert_eq!(stream.take(now).unwrap(), None, "given twice");
            assert!(last.is_none_or(|last| due.sequence > last));
            last = Some(due.sequence);
        }
        assert!(last > Some(2000), "late ones must be skipped");
        let hour = stream.at(30 * 3600) - stream.at(0);
        assert!(hour.abs_diff(Duration::from_secs(3600)) < Duration::from_millis(1), "{hour:?}");
    }

    #[test]
    fn pictures_come_in_time_and_say_so() {
        let mut camera = open("synthetic");
        let began = os::monotonic();
        assert_eq!(camera.start(SMALL, 4).unwrap(), SMALL);
        let pictures: Vec<_> = (0..30).map(|_| next(&mut *camera)).collect();
        let period = Duration::from_millis(10);
        let first = pictures[0].2 - period * pictures[0].1;
        assert!(first >= began + period);
        for (number, (jpeg, sequence, exposed_at)) in (1..).zip(&pictures) {
            assert_eq!(*exposed_at, first + period * *sequence);
            let comment = format!("framehub seq={number} mono_ns={}", exposed_at.as_nanos());
            assert_eq!(&jpeg[6..6 + comment.len()], comment.as_bytes());
        }
        assert!(os::monotonic() >= first + period * 29);
        // The driver's counter starts again, the number on the picture goes on.
        camera.start(SMALL, 4).unwrap();
        assert!(next(&mut *camera).0[6..].starts_with(b"framehub seq=31 "));
    }

    #[test]
    fn waiting_ends_with_its_time_and_with_the_stream() {
        let mut camera = open("synthetic:first_ms=60000");
        assert_eq!(camera.readiness().wait(Duration::from_secs(9)).unwrap_err().kind, ErrorKind::Failed);
        type Ending = fn(&mut Option<Box<dyn Device>>);
        let ways: [Ending; 3] = [
            |camera| drop(camera.take()),
            |camera| camera.as_mut().unwrap().stop().unwrap(),
            |camera| _ = camera.as_mut().unwrap().start(SMALL, 4).unwrap(),
        ];
        for end in ways {
            camera.start(SMALL, 4).unwrap();
            assert_eq!(camera.take(&mut |_| ()).unwrap_err().kind, ErrorKind::Failed, "nothing is due");
            let began = Instant::now();
            let readiness = camera.readiness();
            assert!(!readiness.wait(Duration::from_millis(20)).unwrap());
            let waiting = std::thread::spawn(move || readiness.wait(Duration::from_secs(50)));
            std::thread::sleep(Duration::from_millis(20));
            let mut ended = Some(std::mem::replace(&mut camera, open("synthetic:first_ms=60000")));
            end(&mut ended);
            assert_eq!(waiting.join().unwrap().unwrap_err().kind, ErrorKind::Failed);
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }

    #[test]
    fn sizes_and_rates_are_taken_as_a_webcam_does() {
        let mode = |text: &str, width, height, fps| {
            open(text).start(Mode { size: Size::new(width, height), fps }, 4).unwrap().to_string()
        };
        assert_eq!(mode("synthetic", 101, 57, None), "101x57@30");
        assert_eq!(mode("synthetic", 17, 9000, Some(1000.0)), "17x2160@120");
        assert_eq!(mode("synthetic", 16, 1, Some(f64::NAN)), "16x16@30");
        let two = "synthetic:sizes=160x120+320x240";
        assert_eq!(mode(two, 300, 200, Some(0.1)), "320x240@1");
        assert_eq!(mode(two, 16, 16, Some(7.5)), "160x120@7.5");
        let offers =
            |text| open(text).offers().iter().map(|offer| offer.size.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(offers(two), "160x120 320x240");
        assert_eq!(offers("synthetic"), "320x240 640x480 800x600 1280x720 1920x1080 2592x1944 3840x2160");
    }

    #[test]
    fn pulling_the_plug_ends_the_stream_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("unplugged");
        let source = Synthetic::from_text(&format!("synthetic:unplug_file={},first_ms=60000", file.display())).unwrap();
        let mut camera = source.open().unwrap();
        camera.start(SMALL, 4).unwrap();
        let readiness = camera.readiness();
        let waiting = std::thread::spawn(move || readiness.wait(Duration::from_secs(50)));
        std::fs::write(&file, "").unwrap();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind, ErrorKind::Absent);
        std::fs::remove_file(&file).unwrap();
        assert!(camera.readiness().wait(Duration::ZERO).is_err(), "a device that went away does not come back");
        std::fs::write(&file, "").unwrap();
        let error = source.open().err().unwrap();
        assert_eq!(error.kind, ErrorKind::Absent);
        assert!(error.message.contains(file.to_str().unwrap()), "{error}");
        assert_eq!(camera.start(SMALL, 4).unwrap_err().kind, ErrorKind::Absent);
        std::fs::remove_file(&file).unwrap();
        source.open().unwrap().start(SMALL, 4).unwrap();
    }

    #[test]
    fn a_stalled_camera_is_there_and_sends_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("stalled");
        let mut camera = open(&format!("synthetic:stall_file={}", file.display()));
        camera.start(SMALL, 4).unwrap();
        next(&mut *camera);
        std::fs::write(&file, "").unwrap();
        assert!(!camera.readiness().wait(Duration::from_millis(200)).unwrap());
        let (readiness, began) = (camera.readiness(), Instant::now());
        let waiting = std::thread::spawn(move || readiness.wait(Duration::from_secs(50)));
        std::fs::remove_file(&file).unwrap();
        assert!(waiting.join().unwrap().unwrap());
        assert!(began.elapsed() < Duration::from_secs(10));
        next(&mut *camera);
    }

    #[test]
    fn it_can_be_as_difficult_as_a_webcam() {
        let mut camera = open("synthetic:warmup=3,switch_ms=30,first_ms=70,dht=0,bytes=2500");
        let began = os::monotonic();
        camera.start(SMALL, 4).unwrap();
        assert!(os::monotonic() - began >= Duration::from_millis(30), "switch_ms");
        let (jpeg, sequence, exposed_at) = next(&mut *camera);
        assert!(exposed_at - Duration::from_millis(10) * sequence >= began + Duration::from_millis(100), "first_ms");
        assert!((2497..=2500).contains(&jpeg.len()), "bytes: {}", jpeg.len());
        assert!(jpeg.windows(4).any(|w| w == b"AVI1"), "dht");

        // A dark picture's JPEG is shorter. Each start warms up again.
        let mut camera = open("synthetic:warmup=3");
        for _ in 0..2 {
            camera.start(SMALL, 4).unwrap();
            let lengths: Vec<_> = (0..5).map(|_| next(&mut *camera).0.len()).collect();
            assert!(lengths[..4].is_sorted() && lengths[0] + 300 < lengths[3], "{lengths:?}");
            assert!(lengths[3].abs_diff(lengths[4]) < 100, "{lengths:?}");
        }
    }
}
