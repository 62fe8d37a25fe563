//! A camera without a camera: the test picture at any size and an exact pace, for newcomers and for tests.
//!
//! It behaves as a webcam does: pictures are exposed at its own pace whether or not somebody fetches them, and one
//! that is fetched late shows the time at which it was due. Those that nobody fetched in time are never drawn; the
//! driver's counter jumps over them.
//!
//! Tests ask for a difficult webcam in the device's text, `synthetic:KEY=VALUE,KEY=VALUE`:
//!
//! | key | what it does |
//! |---|---|
//! | `bytes=N` | each JPEG is N bytes long (coarser, or with filler; a few bytes may be missing) |
//! | `dht=0` | no Huffman tables, and `AVI1` where JFIF should be |
//! | `first_ms=N` | the first picture comes N ms after the start |
//! | `sizes=WxH+WxH` | only these sizes; another is answered with the nearest |
//! | `stall_file=PATH` | while that file exists no picture comes, and nothing else happens |
//! | `switch_ms=N` | starting takes N ms |
//! | `unplug_file=PATH` | the camera is absent while that file exists; what streams then fails for good |
//! | `warmup=N` | the first N pictures after each start are dark, each a little less |

mod controls;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use self::controls::SyntheticControls;
use super::controls::Controls;
use super::test_picture::{Moment, TestPicture, Tone};
use super::{CameraError, Device, ErrorKind, Identity, Mode, Offer, RawFrame, Readiness, Source};
use crate::frame::{Size, Stamp};
use crate::os;

const SMALLEST: Size = Size::new(16, 16);
const LARGEST: Size = Size::new(3840, 2160);
const RATES: [f64; 5] = [60.0, 30.0, 15.0, 10.0, 5.0];
const OWN_RATE: f64 = 30.0;

/// The synthetic camera.
#[derive(Clone, Default)]
pub struct Synthetic {
    quirks: Arc<Quirks>,
    /// Pictures made since the program began, whoever opened it.
    made: Arc<AtomicU64>,
}

/// In what it differs from an easy camera; see the table above.
#[derive(Debug, Default, PartialEq)]
struct Quirks {
    bytes: Option<usize>,
    omits_dht: bool,
    first: Option<Duration>,
    sizes: Vec<Size>,
    stall_file: Option<PathBuf>,
    switch: Duration,
    unplug_file: Option<PathBuf>,
    warmup: u32,
}

impl Synthetic {
    /// An easy camera.
    pub fn new() -> Self {
        Self::default()
    }

    /// From the device's text, `synthetic` or `synthetic:KEY=VALUE,...`.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let quirks = match text.strip_prefix("synthetic") {
            Some("") => Quirks::default(),
            Some(rest) if rest.starts_with(':') => Quirks::parse(&rest[1..])?,
            _ => {
                return Err(format!(
                    "\"{text}\" is not the synthetic camera; give synthetic or synthetic:KEY=VALUE,..."
                ));
            }
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
                _ => Err(format!("synthetic: {key}=\"{value}\" is not a number from 0 to {largest}")),
            };
            let millis = || number(60_000).map(|millis: u32| Duration::from_millis(millis.into()));
            match key {
                "bytes" => quirks.bytes = Some(number(32 << 20)? as usize),
                "dht" => quirks.omits_dht = number(1)? == 0,
                "first_ms" => quirks.first = Some(millis()?),
                "sizes" => {
                    quirks.sizes = value.split('+').map(|size| size.parse::<Size>()).collect::<Result<_, _>>()?;
                    if let Some(size) = quirks.sizes.iter().find(|size| coerce(**size, &[]) != **size) {
                        return Err(format!("synthetic: sizes={size} is not between {SMALLEST} and {LARGEST}"));
                    }
                }
                "stall_file" if !value.is_empty() => quirks.stall_file = Some(value.into()),
                "switch_ms" => quirks.switch = millis()?,
                "unplug_file" if !value.is_empty() => quirks.unplug_file = Some(value.into()),
                "stall_file" | "unplug_file" => return Err(format!("synthetic: {key}= needs a path")),
                "warmup" => quirks.warmup = number(1000)?,
                _ => {
                    return Err(format!(
                        "synthetic: unknown key \"{key}\"; known are bytes, dht, first_ms, sizes, stall_file, switch_ms, \
                         unplug_file and warmup"
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
        match &self.unplug_file {
            Some(file) if file.exists() => {
                let text =
                    format!("the synthetic camera is unplugged: {} exists (delete it to plug in)", file.display());
                Err(CameraError::new(ErrorKind::Absent, text))
            }
            _ => Ok(()),
        }
    }
}

/// The size that a request gets: of those offered, the one whose rectangle differs least, as the kernel chooses.
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
    stream: Arc<Stream>,
}

impl Device for Camera {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn offers(&self) -> Vec<Offer> {
        const SIZES: [(u32, u32); 7] =
            [(320, 240), (640, 480), (800, 600), (1280, 720), (1920, 1080), (2592, 1944), (3840, 2160)];
        let offer = |size| Offer { size, fps: RATES.to_vec() };
        match self.source.quirks.sizes.as_slice() {
            [] => SIZES.map(|(width, height)| offer(Size::new(width, height))).into(),
            sizes => sizes.iter().copied().map(offer).collect(),
        }
    }

    fn start(&mut self, want: Mode, _buffers: u32) -> Result<Mode, CameraError> {
        self.stop()?;
        let quirks = &self.source.quirks;
        quirks.check_plugged()?;
        std::thread::sleep(quirks.switch);
        let fps = want.fps.filter(|fps| fps.is_finite()).unwrap_or(OWN_RATE).clamp(1.0, 120.0);
        let mode = Mode { size: coerce(want.size, &quirks.sizes), fps: Some(fps) };
        if self.picture.as_ref().is_none_or(|(drawn, _)| *drawn != mode) {
            let mut picture = TestPicture::new(mode.size, fps);
            if let Some(bytes) = quirks.bytes {
                picture.set_length(bytes);
            }
            if quirks.omits_dht {
                picture.omit_huffman_tables();
            }
            self.picture = Some((mode, picture));
        }
        self.stream = Arc::new(Stream::started(quirks.clone(), fps, os::monotonic()));
        Ok(mode)
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
        self.source.quirks.check_plugged()?;
        let (mono, real) = (os::monotonic(), os::realtime());
        let due = self.stream.take(mono)?.ok_or_else(|| failed("no picture is due yet"))?;
        let Some((_, picture)) = &mut self.picture else { return Err(failed("not started")) };
        let warmup = self.source.quirks.warmup;
        let tone = self.controls.tone();
        let brightness = ((due.taken_before + 1) as f32 / (warmup + 1) as f32).min(1.0);
        let moment = Moment {
            number: self.source.made.fetch_add(1, Ordering::Relaxed) + 1,
            exposed_at: Stamp { mono: due.at, real: real.saturating_sub(mono - due.at) },
            tone: Tone { gain: tone.gain * brightness, ..tone },
        };
        let data = picture.encode(moment).map_err(|error| failed(&format!("cannot encode its picture: {error}")))?;
        sink(RawFrame { data, sequence: due.sequence, is_flagged: false, exposed_at: Some(due.at) });
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

/// One start's pictures: when each is due.
struct Stream {
    quirks: Arc<Quirks>,
    /// CLOCK_MONOTONIC of picture 0. Each later one is due a whole number of periods after it: no drift.
    first: Duration,
    period: Duration,
    state: Mutex<State>,
    stopped: Condvar,
}

struct State {
    is_stopped: bool,
    /// Sequence number of the picture that is waited for.
    next: u32,
    taken: u32,
}

/// A picture to be drawn now.
#[derive(Debug, PartialEq)]
struct Due {
    sequence: u32,
    /// CLOCK_MONOTONIC.
    at: Duration,
    taken_before: u32,
}

impl Stream {
    /// How often the file of a quirk is looked for while waiting.
    const LOOK: Duration = Duration::from_millis(20);

    fn started(quirks: Arc<Quirks>, fps: f64, now: Duration) -> Self {
        let period = Duration::from_secs_f64(1.0 / fps);
        let first = now + quirks.first.unwrap_or(period);
        let state = Mutex::new(State { is_stopped: false, next: 0, taken: 0 });
        Self { quirks, first, period, state, stopped: Condvar::new() }
    }

    fn stopped(quirks: Arc<Quirks>) -> Self {
        let stream = Self::started(quirks, OWN_RATE, Duration::ZERO);
        stream.stop();
        stream
    }

    fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.stopped.notify_all();
    }

    fn at(&self, sequence: u32) -> Duration {
        self.first + self.period * sequence
    }

    /// The newest picture due, if it was not taken yet. Earlier ones are skipped, as by a driver without buffers.
    fn take(&self, now: Duration) -> Result<Option<Due>, CameraError> {
        let mut state = self.state.lock();
        state.check_running()?;
        if now < self.at(state.next) {
            return Ok(None);
        }
        let sequence = ((now - self.first).as_nanos() / self.period.as_nanos()) as u32;
        let due = Due { sequence, at: self.at(sequence), taken_before: state.taken };
        state.next = sequence + 1;
        state.taken += 1;
        Ok(Some(due))
    }
}

impl State {
    fn check_running(&self) -> Result<(), CameraError> {
        match self.is_stopped {
            true => Err(CameraError::new(ErrorKind::Failed, "synthetic camera: nothing streams")),
            false => Ok(()),
        }
    }
}

impl Readiness for Stream {
    fn wait(&self, timeout: Duration) -> Result<bool, CameraError> {
        let give_up = os::monotonic() + timeout;
        let mut state = self.state.lock();
        loop {
            state.check_running()?;
            if let Err(unplugged) = self.quirks.check_plugged() {
                state.is_stopped = true;
                return Err(unplugged);
            }
            let now = os::monotonic();
            let is_due = now >= self.at(state.next) && !self.quirks.is_stalled();
            if is_due || now >= give_up {
                return Ok(is_due);
            }
            let mut pause = self.at(state.next).min(give_up).saturating_sub(now);
            if self.quirks.unplug_file.is_some() || self.quirks.stall_file.is_some() {
                pause = if pause.is_zero() { Self::LOOK } else { pause.min(Self::LOOK) };
            }
            self.stopped.wait_for(&mut state, pause);
        }
    }
}
