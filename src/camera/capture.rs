//! The camera behind its mutex, and the capture thread: opens it when somebody looks, publishes every whole
//! picture, restarts what stalls, reopens what was unplugged, lets go when nobody looks.
//!
//! The thread waits for pictures with the mutex released and checks, once it has the mutex, that the stream is
//! still the one it waited for (`generation`): so a still never waits behind a frame period or a stall.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use parking_lot::Mutex;

use super::controls::Panel;
use super::rhythm::Rhythm;
use super::still::{StillSettings, Stills};
use super::{CameraError, Device, ErrorKind, Identity, Mode, RawFrame, Source};
use crate::frame::{Frame, FrameInfo, Pool, Size, Stamp};
use crate::hub::Hub;
use crate::hub::pace::Pace;
use crate::jpeg::{self, Fault, Picture};
use crate::system::os;

/// Buffers of the live stream: enough for a capture thread that comes late by two periods.
const LIVE_BUFFERS: u32 = 4;
/// Longest sleep of the capture thread, so that a stop or a stall is noticed.
const TICK: Duration = Duration::from_millis(250);
/// Between attempts to open the camera: while somebody waits, and at most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_UNWATCHED: Duration = Duration::from_secs(10);
/// No whole picture for this long, or for ten periods, is a stall.
const STALL: Duration = Duration::from_secs(2);
/// A camera that never sends a first picture in time is given twice as long each time, up to this.
const STALL_MAX: Duration = Duration::from_secs(16);
/// After so many pictures of one unexpected size that size is taken as the truth.
const STRANGE_SIZE_LIMIT: u32 = 10;
/// A capture thread that has not come round for so long, and two stills more, hangs in its driver for good.
const ROUND_LIMIT: Duration = Duration::from_secs(30);
/// A camera that claims to be live and has not sent a picture for so long hangs in its driver, where the watchdog
/// cannot see it.
const HUNG: Duration = Duration::from_secs(15);

/// What the live stream is to be.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Size and rate to ask for.
    pub live: Mode,
    /// Publish at most so many frames a second, evenly.
    pub max_fps: Option<f64>,
    /// Let go of the camera after so long without anybody; `None` keeps it open always.
    pub idle: Option<Duration>,
    /// How full-resolution stills are taken.
    pub still: StillSettings,
}

/// The camera as the rest of the program knows it.
pub struct Camera {
    source: Box<dyn Source>,
    pub(super) settings: Settings,
    pub(super) hub: Arc<Hub>,
    pub(super) pool: Arc<Pool>,
    /// The camera mutex.
    pub(super) slot: Mutex<Slot>,
    /// What the controls are to be.
    pub(super) panel: Panel,
    status: Mutex<Status>,
    rhythm: Mutex<Rhythm>,
    pub(super) counters: Counters,
    pub(super) stills: Stills,
    is_stopping: AtomicBool,
    is_reopening: AtomicBool,
    /// When the capture thread last came round, in milliseconds of CLOCK_MONOTONIC; 0 while it sleeps on purpose.
    round_at: AtomicU64,
}

/// What the camera mutex guards.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) device: Option<Box<dyn Device>>,
    /// `None`: the capture thread has to start, or to return to, the live stream.
    pub(super) live: Option<Live>,
    /// Changes with every start, stop, open and close.
    pub(super) generation: u64,
    /// Sequence number of the newest frame made.
    sequence: u64,
    /// Keeps to `max_fps`, across restarts and replugs.
    limiter: Option<Pace>,
}

/// What the capture thread is there for just now.
enum Need {
    /// Somebody looks.
    Pictures,
    /// Nobody does, but it is not known whether there is a camera.
    Knowledge,
    /// Neither.
    Nothing,
}

/// The running live stream.
pub(super) struct Live {
    pub(super) mode: Mode,
    /// When it started, or the last whole picture came.
    alive_at: Instant,
    /// Whether a whole picture has come since it started.
    has_pictures: bool,
    driver_sequence: Option<u32>,
    last_exposure: Duration,
    strange: Option<(Size, u32)>,
}

/// What the camera is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Nobody looks; the camera is closed on purpose.
    Asleep,
    /// Opened or about to be; no picture yet.
    Starting,
    /// Pictures come.
    Live,
    /// Not to be had; the text says why and what to do.
    Lost(String),
}

impl Phase {
    /// See [`Phase::name`].
    pub const NAMES: [&str; 4] = ["asleep", "starting", "live", "lost"];

    /// One word, for programs.
    pub fn name(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Asleep => 0,
            Self::Starting => 1,
            Self::Live => 2,
            Self::Lost(_) => 3,
        }]
    }
}

/// What the camera is doing, and which one it is.
#[derive(Debug, Clone)]
pub struct Status {
    /// See [`Phase`].
    pub phase: Phase,
    /// The camera that was last opened.
    pub identity: Option<Identity>,
    /// Size and rate of the live stream, as the camera gave them.
    pub mode: Option<Mode>,
    /// When the live stream started; `None` while there is none.
    live_since: Option<Instant>,
    /// When it was stopped for a still, until its next picture.
    away_since: Option<Instant>,
    /// When the camera was opened; `None` while it is closed.
    opened_at: Option<Instant>,
    /// Time it was open before that.
    open_before: Duration,
}

/// Totals since the start. Each counts events, for `/state` and `/metrics`.
#[derive(Default)]
pub struct Counters {
    /// Whole pictures published.
    pub frames: AtomicU64,
    /// Buffers that the driver flagged as damaged.
    pub flagged: AtomicU64,
    /// Pictures of another size than the stream's, as after a switch.
    pub wrong_size: AtomicU64,
    /// Broken pictures by what was wrong with them, in the order of [`Fault::ALL`].
    pub broken: [AtomicU64; Fault::ALL.len()],
    /// Pictures that came without Huffman tables and were given the standard ones.
    pub dht_inserted: AtomicU64,
    /// Whole pictures left out because of `--max-fps`.
    pub thinned: AtomicU64,
    /// Frames that the driver's own numbering says were lost before we saw them.
    pub lost_by_driver: AtomicU64,
    /// Streams restarted by the stall watchdog.
    pub restarts: AtomicU64,
    /// Times the camera was opened.
    pub opens: AtomicU64,
    /// Times it could not be opened, or failed.
    pub failures: AtomicU64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let broken: u64 = self.broken.iter().map(value).sum();
        write!(
            f,
            "pictures={} lost={} flagged={} broken={broken} wrong_size={} restarts={}",
            value(&self.frames),
            value(&self.lost_by_driver),
            value(&self.flagged),
            value(&self.wrong_size),
            value(&self.restarts)
        )
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Camera {
    /// A camera that [`Camera::run`] tries once, whether or not somebody looks, so that the start tells what is there.
    pub fn new(source: Box<dyn Source>, settings: Settings, hub: Arc<Hub>) -> Arc<Self> {
        let status = Status {
            phase: Phase::Starting,
            identity: None,
            mode: None,
            live_since: None,
            away_since: None,
            opened_at: None,
            open_before: Duration::ZERO,
        };
        Arc::new(Self {
            source,
            settings,
            hub,
            pool: Pool::new(),
            slot: Mutex::new(Slot { limiter: settings.max_fps.map(Pace::new), ..Slot::default() }),
            panel: Panel::default(),
            status: Mutex::new(status),
            rhythm: Mutex::default(),
            counters: Counters::default(),
            stills: Stills::default(),
            is_stopping: AtomicBool::new(false),
            is_reopening: AtomicBool::new(false),
            round_at: AtomicU64::new(0),
        })
    }

    /// What the camera is doing now.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Totals since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The rhythm of the newest pictures.
    pub fn rhythm(&self) -> Rhythm {
        self.rhythm.lock().clone()
    }

    /// Does something with the open camera, between two of its pictures. Opens it first if it is closed.
    ///
    /// # Errors
    /// [`ErrorKind::Absent`] when it cannot be had by the deadline; those of `act`.
    pub fn with_device<T>(
        &self,
        deadline: Instant,
        act: impl FnOnce(&mut dyn Device) -> Result<T, CameraError>,
    ) -> Result<T, CameraError> {
        let absent = |why: String| CameraError::new(ErrorKind::Absent, why);
        let mut slot = self.slot.try_lock_until(deadline).ok_or_else(|| absent("the camera is busy".into()))?;
        if self.is_stopping() {
            return Err(absent("the server is stopping".into()));
        }
        // The capture thread must know of an open camera, to close it again.
        let _watch = self.hub.watch();
        act(self.open(&mut slot).map_err(|error| absent(error.message))?)
    }

    /// Why no pictures can be had, unless the camera sleeps on purpose.
    pub fn trouble(&self) -> Option<String> {
        let is_hung = || {
            let age = |exposed: Duration| os::monotonic().saturating_sub(exposed);
            self.hub.newest().is_some_and(|frame| age(frame.captured_at().mono) > HUNG)
        };
        match self.status().phase {
            Phase::Asleep => None,
            Phase::Live => is_hung().then(|| self.reason()),
            Phase::Starting | Phase::Lost(_) => Some(self.reason()),
        }
    }

    /// Why there is no picture, in words, for an answer 503.
    pub fn reason(&self) -> String {
        match self.status.lock().phase.clone() {
            Phase::Asleep | Phase::Starting => "the camera is starting and has sent no whole picture yet".into(),
            Phase::Live => "the camera has stopped sending pictures".into(),
            Phase::Lost(why) => why,
        }
    }

    /// How often the camera could not be had so far; a change tells that the latest attempt failed.
    pub fn failures(&self) -> u64 {
        self.counters.failures.load(Ordering::Relaxed)
    }

    /// Whether the live stream is away for a still, so that its last frame may be shown again meanwhile.
    pub fn is_switching(&self) -> bool {
        self.status.lock().away_since.is_some()
    }

    /// The live stream has been stopped for a still.
    pub(super) fn live_is_away(&self) {
        let mut status = self.status.lock();
        status.live_since = None;
        status.away_since.get_or_insert_with(Instant::now);
    }

    /// How long the live stream has been running; `None` while it is not.
    pub fn live_for(&self) -> Option<Duration> {
        self.status.lock().live_since.map(|since| since.elapsed())
    }

    /// Ends [`Camera::run`] soon.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    /// Closes the camera and opens it anew, as a plug pulled and put back would; viewers stay.
    pub fn reopen(&self) {
        self.is_reopening.store(true, Ordering::SeqCst);
        self.hub.wake_camera();
    }

    /// Whether the capture thread goes round: a driver can hold it for ever.
    pub fn is_alive(&self) -> bool {
        let now = os::monotonic().as_millis() as u64;
        match self.round_at.load(Ordering::SeqCst) {
            0 => true,
            at => now.saturating_sub(at) < (ROUND_LIMIT + self.settings.still.deadline * 2).as_millis() as u64,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// The capture thread. Returns when the camera is stopped; call [`Hub::close`] then too, which wakes it.
    pub fn run(&self) {
        let mut patience = STALL;
        while !self.is_stopping() {
            self.round_at.store(os::monotonic().as_millis() as u64, Ordering::SeqCst);
            if self.is_reopening.swap(false, Ordering::SeqCst) {
                self.close_device();
            }
            let done = match self.need() {
                Need::Pictures => self.step(&mut patience),
                Need::Knowledge => self.look_for_it(),
                Need::Nothing => {
                    self.close(Phase::Asleep);
                    self.round_at.store(0, Ordering::SeqCst);
                    self.hub.wait_for_demand(None);
                    continue;
                }
            };
            if let Err(error) = done {
                self.lose(&error);
                self.back_off();
            }
        }
        self.close(Phase::Asleep);
    }

    fn need(&self) -> Need {
        let (Some(idle), Some(unwatched)) = (self.settings.idle, self.hub.unwatched_for()) else {
            return Need::Pictures;
        };
        let is_open = self.slot.lock().device.is_some();
        match self.status.lock().phase {
            Phase::Live | Phase::Starting if is_open && unwatched < idle => Need::Pictures,
            Phase::Starting | Phase::Lost(_) if !is_open => Need::Knowledge,
            _ => Need::Nothing,
        }
    }

    /// Opens the camera and closes it again: whether it is there, for the log and for health checks, without its
    /// light going on.
    fn look_for_it(&self) -> Result<(), CameraError> {
        let slot = self.slot.lock();
        if slot.device.is_some() {
            return Ok(());
        }
        let identity = self.source.open()?.identity().clone();
        info!("camera found device={} card=\"{}\"; asleep until somebody looks", identity.node, identity.card);
        let mut status = self.status.lock();
        status.identity = Some(identity);
        status.phase = Phase::Asleep;
        Ok(())
    }

    /// One picture, or one tick without any.
    fn step(&self, patience: &mut Duration) -> Result<(), CameraError> {
        let (readiness, generation) = {
            let mut slot = self.slot.lock();
            self.go_live(&mut slot)?;
            (slot.device.as_ref().map(|device| device.readiness()), slot.generation)
        };
        let Some(readiness) = readiness else { return Ok(()) };
        let waited = readiness.wait(TICK);
        // The descriptor must not outlive the camera: while it is open, a replugged one gets another node.
        drop(readiness);
        let mut slot = self.slot.lock();
        if slot.generation != generation {
            return Ok(());
        }
        if !waited? {
            return self.watch_for_stall(&mut slot, patience);
        }
        let frame = self.take(&mut slot)?;
        let stalled = if frame.is_none() { self.watch_for_stall(&mut slot, patience) } else { Ok(()) };
        drop(slot);
        if let Some(frame) = frame {
            *patience = STALL;
            self.publish(frame);
        }
        stalled
    }

    /// Opens the camera and starts the live stream, as far as that has not been done.
    fn go_live(&self, slot: &mut Slot) -> Result<(), CameraError> {
        self.open(slot)?;
        if slot.live.is_none() {
            self.start_live(slot)?;
        }
        Ok(())
    }

    /// Opens the camera if it is closed.
    pub(super) fn open<'a>(&self, slot: &'a mut Slot) -> Result<&'a mut dyn Device, CameraError> {
        if let Some(ref mut device) = slot.device {
            return Ok(device.as_mut());
        }
        let device = self.source.open()?;
        slot.generation += 1;
        count(&self.counters.opens);
        let identity = device.identity().clone();
        info!("camera opened device={} card=\"{}\" bus={}", identity.node, identity.card, identity.bus);
        let mut status = self.status.lock();
        if status.phase == Phase::Asleep {
            status.phase = Phase::Starting;
        }
        status.identity = Some(identity);
        status.opened_at = Some(Instant::now());
        drop(status);
        let device = slot.device.insert(device).as_mut();
        self.panel.restore(device);
        Ok(device)
    }

    fn start_live(&self, slot: &mut Slot) -> Result<(), CameraError> {
        let Some(device) = slot.device.as_mut() else { return Ok(()) };
        slot.generation += 1;
        let want = self.settings.live;
        let mode = device.start(want, LIVE_BUFFERS)?;
        *self.rhythm.lock() = Rhythm::default();
        let mut status = self.status.lock();
        if status.mode != Some(mode) {
            if mode.size == want.size {
                info!("streaming mode={mode}");
            } else {
                warn!("streaming mode={mode}; the camera has no {}", want.size);
            }
            status.mode = Some(mode);
        }
        status.live_since = Some(Instant::now());
        slot.live = Some(Live {
            mode,
            alive_at: Instant::now(),
            has_pictures: false,
            driver_sequence: None,
            last_exposure: Duration::ZERO,
            strange: None,
        });
        Ok(())
    }

    fn watch_for_stall(&self, slot: &mut Slot, patience: &mut Duration) -> Result<(), CameraError> {
        let Some(live) = &slot.live else { return Ok(()) };
        let periods = live.mode.fps.map_or(Duration::ZERO, |fps| Duration::from_secs_f64(10.0 / fps.max(0.1)));
        let silent = live.alive_at.elapsed();
        // A camera that is slow to switch to a still is as slow to come back.
        let switch = if live.has_pictures { None } else { self.learned().switch };
        let switch = switch.map_or(Duration::ZERO, |time| time * 2 + STALL);
        if silent < periods.max(*patience).max(switch) {
            return Ok(());
        }
        let silent = silent.as_secs_f64();
        if !live.has_pictures {
            *patience = (*patience * 2).min(STALL_MAX);
            let message = format!("the camera streams, but sent no whole picture in {silent:.1} s");
            return Err(CameraError::new(ErrorKind::Failed, message));
        }
        warn!("no whole picture for {silent:.1} s; restarting the stream");
        count(&self.counters.restarts);
        let reason = format!("the camera stopped sending pictures {silent:.1} s ago; its stream is being restarted");
        self.status.lock().phase = Phase::Lost(reason);
        self.start_live(slot)
    }

    /// Takes the picture that is ready; `None` if it was not whole.
    fn take(&self, slot: &mut Slot) -> Result<Option<Arc<Frame>>, CameraError> {
        let Slot { device: Some(device), live: Some(live), sequence, limiter, .. } = slot else { return Ok(None) };
        let mut frame = None;
        device.take(&mut |raw| frame = self.accept(raw, live, limiter, *sequence + 1))?;
        *sequence += u64::from(frame.is_some());
        Ok(frame)
    }

    /// Checks a live picture and makes a frame of it: the one copy.
    fn accept(
        &self,
        raw: RawFrame<'_>,
        live: &mut Live,
        limiter: &mut Option<Pace>,
        sequence: u64,
    ) -> Option<Arc<Frame>> {
        if !raw.is_flagged && !self.is_in_order(raw.sequence, live) {
            return None;
        }
        let (picture, size) = self.inspect(&raw)?;
        if size != live.mode.size && !self.is_true_size(size, live) {
            count(&self.counters.wrong_size);
            return None;
        }
        live.alive_at = Instant::now();
        live.has_pictures = true;
        let captured_at = stamp(raw.exposed_at, live.last_exposure);
        live.last_exposure = captured_at.mono;
        self.rhythm.lock().add(captured_at.mono);
        if limiter.as_mut().is_some_and(|limiter| !limiter.takes(captured_at.mono)) {
            count(&self.counters.thinned);
            return None;
        }
        count(&self.counters.frames);
        let info = FrameInfo { sequence, captured_at, size };
        Some(self.pool.frame(info, picture.len(), |out| picture.append_to(out)))
    }

    /// Counts what the driver lost. A picture that it hands out behind a later one (uvcvideo completes buffers in
    /// several threads) has been counted as lost, and is: nobody wants to see time go back.
    fn is_in_order(&self, sequence: u32, live: &mut Live) -> bool {
        let last = live.driver_sequence.unwrap_or(sequence);
        if sequence < last && last - sequence <= LIVE_BUFFERS {
            return false;
        }
        live.driver_sequence = Some(sequence);
        let lost = sequence.saturating_sub(last).saturating_sub(1);
        self.counters.lost_by_driver.fetch_add(lost.into(), Ordering::Relaxed);
        true
    }

    /// The whole JPEG in a camera's buffer, and its size in pixels; `None`, and counted, if there is none.
    pub(super) fn inspect<'a>(&self, raw: &RawFrame<'a>) -> Option<(Picture<'a>, Size)> {
        if raw.is_flagged {
            count(&self.counters.flagged);
            return None;
        }
        match jpeg::inspect(raw.data) {
            Ok(picture) => {
                if picture.dht_missing() {
                    count(&self.counters.dht_inserted);
                }
                let size = Size::new(picture.width(), picture.height());
                Some((picture, size))
            }
            Err(fault) => {
                let at = Fault::ALL.iter().position(|known| *known == fault).unwrap_or(0);
                count(&self.counters.broken[at]);
                debug!("broken picture bytes={} reason=\"{fault}\"", raw.data.len());
                None
            }
        }
    }

    /// Whether a size that was not asked for is what this camera really sends, not left over from before a switch.
    fn is_true_size(&self, size: Size, live: &mut Live) -> bool {
        let seen = match live.strange {
            Some((same, seen)) if same == size => seen + 1,
            _ => 1,
        };
        live.strange = Some((size, seen));
        if seen < STRANGE_SIZE_LIMIT {
            return false;
        }
        warn!("the camera says {} but sends {size}; taking that", live.mode.size);
        live.mode.size = size;
        true
    }

    fn publish(&self, frame: Arc<Frame>) {
        let mut status = self.status.lock();
        if let Some(since) = status.away_since.take() {
            self.learn_pause(since.elapsed());
        }
        if status.phase != Phase::Live {
            status.phase = Phase::Live;
            info!("pictures are coming");
        }
        drop(status);
        // Last, so that whoever it wakes finds the camera as it is.
        self.hub.publish(frame);
    }

    /// Closes the camera and remembers why, saying so only when that is news.
    fn lose(&self, error: &CameraError) {
        self.close_device();
        let phase = Phase::Lost(error.message.clone());
        let mut status = self.status.lock();
        if status.phase != phase {
            warn!("camera lost reason=\"{error}\" retry={}s", RETRY.as_secs());
            status.phase = phase;
        }
        drop(status);
        // Last, so that whoever sees it finds the reason.
        count(&self.counters.failures);
    }

    fn close(&self, phase: Phase) {
        if self.close_device() {
            info!("camera closed, nobody is looking; so far {}", self.counters);
        }
        self.status.lock().phase = phase;
    }

    fn close_device(&self) -> bool {
        let mut slot = self.slot.lock();
        slot.live = None;
        slot.generation += 1;
        let was_open = slot.device.take().is_some();
        *self.rhythm.lock() = Rhythm::default();
        self.hub.camera_closed();
        let mut status = self.status.lock();
        status.mode = None;
        status.live_since = None;
        status.away_since = None;
        if let Some(opened_at) = status.opened_at.take() {
            status.open_before += opened_at.elapsed();
        }
        was_open
    }

    fn back_off(&self) {
        let began = Instant::now();
        while !self.is_stopping() && !self.is_reopening.load(Ordering::SeqCst) {
            let pause = if self.hub.watchers() > 0 { RETRY } else { RETRY_UNWATCHED };
            let Some(left) = pause.checked_sub(began.elapsed()) else { return };
            self.hub.wait_for_demand(Some(left));
        }
    }
}

impl Status {
    /// How long the camera has been open, in all.
    pub fn open_for(&self) -> Duration {
        self.open_before + self.opened_at.map_or(Duration::ZERO, |at| at.elapsed())
    }
}

/// The driver's time of exposure, where it can be true; else the time now. `last` is the picture's before it.
pub(super) fn stamp(exposed_at: Option<Duration>, last: Duration) -> Stamp {
    const OLDEST: Duration = Duration::from_secs(5);
    let now = os::monotonic();
    let is_plausible = |at: &Duration| *at > last && *at <= now && now - *at < OLDEST;
    let mono = exposed_at.filter(is_plausible).unwrap_or(now);
    Stamp { mono, real: os::realtime().saturating_sub(now - mono) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::settle::Rule;
    use crate::camera::synthetic::Synthetic;

    #[test]
    fn a_thread_that_sleeps_on_purpose_is_alive_and_one_that_no_longer_comes_round_is_not() {
        let deadline = Duration::from_secs(1);
        let still = StillSettings { size: None, fps: None, rule: Rule::Auto, deadline, min_interval: Duration::ZERO };
        let live = Mode { size: Size::new(320, 240), fps: None };
        let settings = Settings { live, max_fps: None, idle: None, still };
        let source = Synthetic::from_text("synthetic").unwrap();
        let camera = Camera::new(Box::new(source), settings, Hub::new());
        assert!(camera.is_alive());
        // Long ago: this machine's first millisecond.
        camera.round_at.store(1, Ordering::SeqCst);
        assert!(!camera.is_alive());
    }
}
