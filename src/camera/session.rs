//! The session: the camera mutex and everything that it guards.
//!
//! This is the only place that opens, starts, suspends and closes the device. The capture thread, stills and controls
//! borrow it through [`Session::lock_until`]; whoever has the [`Locked`] session has the camera to itself. Nobody holds
//! it while waiting for a picture: poll the stream's [`Readiness`], then lock, then compare the generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::duty::Duty;
use super::error::Silence;
use super::intake::{Counters, Intake, SharedTraits, count};
pub use super::phase::{Learned, Phase};
use super::rhythm::Rhythm;
use super::settle::Known;
use super::{CameraError, Device, ErrorKind, Identity, Mode, Readiness, Source};
use crate::frame::{Pool, Size, Stamp};
use crate::hub::Hub;
use crate::system::os;
use crate::system::sync::{Mutex, MutexGuard, rank};

/// Buffers of the live stream: enough for a capture thread that comes late by two periods.
const LIVE_BUFFERS: u32 = 4;
/// A capture thread that has not gone round its loop for this time, and two stills more, hangs in the driver for good.
const ITERATION_LIMIT: Duration = Duration::from_secs(30);
/// A camera that claims to be live and has sent no picture for this time hangs in its driver.
const HUNG: Duration = Duration::from_secs(15);

/// Called with the open device after the first whole picture of each start, and with 0. Where it returns `false`, it has more to
/// do and is called again after the next picture, with the number of calls before.
pub type FirstPictureHook = Box<dyn Fn(&mut dyn Device, u32) -> bool + Send + Sync>;

/// A camera of which at most one stream runs at a time.
pub struct Session {
    pub(super) source: Box<dyn Source>,
    /// Size and rate of the live stream, as asked for.
    pub(super) live_mode: Mode,
    /// The hub to which the camera's pictures go.
    pub hub: Arc<Hub>,
    /// Buffers for the camera's pictures.
    pub(super) pool: Arc<Pool>,
    /// The camera mutex.
    state: Mutex<SessionState, { rank::CAMERA }>,
    status: Mutex<Status, { rank::BRIEF }>,
    rhythm: Mutex<Rhythm, { rank::BRIEF }>,
    /// Totals since the start of the program.
    pub counters: Counters,
    after_first_picture: Option<FirstPictureHook>,
    is_stopping: AtomicBool,
    is_reopen_requested: AtomicBool,
    /// When the capture thread last went round its loop, in ms of CLOCK_MONOTONIC; 0 while it sleeps on purpose.
    last_iteration: AtomicU64,
}

/// What the camera mutex guards.
#[derive(Default)]
struct SessionState {
    device: Option<Box<dyn Device>>,
    /// `None`: the capture thread has to start the live stream, or to return to it.
    live: Option<Live>,
    /// Changes with every start, stop, open and close.
    generation: u64,
    /// Sizes of the last stream started and of the one before it.
    sizes: [Option<Size>; 2],
}

/// The running live stream.
pub struct Live {
    /// Size and rate, as the camera gave them.
    pub mode: Mode,
    /// What checks its buffers.
    pub intake: Intake,
    /// When it started, or its last whole picture came.
    pub alive_at: Instant,
    /// How often the hook for first pictures was called; `None` where it has nothing left to do.
    pub hook_calls: Option<u32>,
}

/// What the camera is doing, and which camera it is.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// What the camera is doing.
    pub phase: Phase,
    /// The camera that was opened last.
    pub identity: Option<Identity>,
    /// Size and rate of the live stream, as the camera gave them.
    pub mode: Option<Mode>,
    /// What stills and live pictures have taught about this camera.
    pub learned: Learned,
    /// What its pictures have taught about their form.
    pub traits: SharedTraits,
    /// `None` while pictures come or nobody wants any.
    pub silence: Option<Silence>,
    /// "camera opened" was logged, and no picture has come since.
    is_opening_logged: bool,
    /// When the live stream started; `None` while there is none.
    live_since: Option<Instant>,
    /// When it was stopped for a still, until its next picture.
    away_since: Option<Instant>,
    /// When the next still may stop it, as far as viewers watch.
    duty: Duty,
    /// When the camera was opened; `None` while it is closed.
    opened_at: Option<Instant>,
    /// Time for which it was open before that.
    open_before: Duration,
}

impl Status {
    /// Time for which the camera has been open, in all.
    pub fn open_for(&self) -> Duration {
        self.open_before + self.opened_at.map_or(Duration::ZERO, |at| at.elapsed())
    }
}

impl Session {
    /// Creates a session with a closed camera. `after_first_picture` is called after the first whole picture of each
    /// start, with the camera mutex held.
    pub fn new(
        source: Box<dyn Source>,
        live_mode: Mode,
        hub: Arc<Hub>,
        after_first_picture: Option<FirstPictureHook>,
    ) -> Arc<Self> {
        Arc::new(Self {
            source,
            live_mode,
            hub,
            pool: Arc::default(),
            state: Mutex::default(),
            status: Mutex::default(),
            rhythm: Mutex::default(),
            counters: Counters::default(),
            after_first_picture,
            is_stopping: AtomicBool::new(false),
            is_reopen_requested: AtomicBool::new(false),
            last_iteration: AtomicU64::new(0),
        })
    }

    /// What the camera is doing now.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Rate and jitter of the newest pictures.
    pub fn rhythm(&self) -> Rhythm {
        self.rhythm.lock().clone()
    }

    /// Why no pictures can be had; `None` while they can, or while the camera sleeps on purpose.
    pub fn health_problem(&self) -> Option<String> {
        let status = self.status();
        // A still has its own deadline.
        let is_old = |exposed: Duration| os::monotonic().saturating_sub(exposed) > HUNG;
        let newest = || self.hub.newest_captured().map(|frame| frame.captured_at().mono);
        let is_hung = || status.away_since.is_none() && newest().is_some_and(is_old);
        match status.phase {
            Phase::Asleep => None,
            Phase::Live => is_hung().then(|| self.reason()),
            Phase::Starting | Phase::Lost(_) => Some(self.reason()),
        }
    }

    /// Why there is no picture, for a client.
    pub fn reason(&self) -> String {
        match self.status().phase {
            Phase::Asleep | Phase::Starting => "the camera is starting and has sent no whole picture yet".into(),
            Phase::Live if self.is_switching() => "a full-resolution still is being taken".into(),
            Phase::Live => "the camera has stopped sending pictures".into(),
            Phase::Lost(why) => why,
        }
    }

    /// How often the camera could not be had so far. A change tells that the latest attempt failed.
    pub fn failures(&self) -> u64 {
        self.counters.failures.load(Ordering::Relaxed)
    }

    /// Whether the live stream is away for a still, so that its last frame may be shown again.
    pub fn is_switching(&self) -> bool {
        self.status.lock().away_since.is_some()
    }

    /// When a still may stop the live stream, if not now: with viewers, it first runs as long as it was away for the last
    /// still.
    pub fn still_not_before(&self) -> Option<Instant> {
        if self.hub.viewers() == 0 {
            return None;
        }
        self.status.lock().duty.not_before(Instant::now())
    }

    /// How long the live stream has been running; `None` while it is not.
    pub fn live_for(&self) -> Option<Duration> {
        self.status.lock().live_since.map(|since| since.elapsed())
    }

    /// Changes what is known about the camera.
    pub fn learn(&self, change: impl FnOnce(&mut Learned)) {
        change(&mut self.status.lock().learned);
    }

    /// Ends the capture thread soon; close the hub too, which wakes it.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    /// Whether [`Session::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Closes the camera and opens it again, as a plug pulled and put back would; viewers stay.
    pub fn reopen(&self) {
        self.is_reopen_requested.store(true, Ordering::SeqCst);
        self.hub.wake_camera();
    }

    /// Whether the camera is to be reopened. The request is forgotten with that.
    pub fn take_reopen_request(&self) -> bool {
        self.is_reopen_requested.swap(false, Ordering::SeqCst)
    }

    /// Whether the camera is to be reopened.
    pub fn is_reopen_requested(&self) -> bool {
        self.is_reopen_requested.load(Ordering::SeqCst)
    }

    /// Notes that the capture thread goes round its loop, or that it sleeps on purpose.
    pub fn note_iteration(&self, is_awake: bool) {
        let at = if is_awake { os::monotonic().as_millis() as u64 } else { 0 };
        self.last_iteration.store(at, Ordering::SeqCst);
    }

    /// Whether the capture thread goes round its loop. A driver can hold it for ever; a still, for `still_deadline`.
    pub fn is_alive(&self, still_deadline: Duration) -> bool {
        let now = os::monotonic().as_millis() as u64;
        match self.last_iteration.load(Ordering::SeqCst) {
            0 => true,
            at => now.saturating_sub(at) < (ITERATION_LIMIT + still_deadline * 2).as_millis() as u64,
        }
    }

    /// Takes the camera for this thread.
    pub fn lock(&self) -> Locked<'_> {
        Locked { session: self, state: self.state.lock() }
    }

    /// Takes the camera for this thread; `None` if others hold it until `deadline`.
    pub fn lock_until(&self, deadline: Instant) -> Option<Locked<'_>> {
        Some(Locked { session: self, state: self.state.try_lock_until(deadline)? })
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
        let mut locked = self.lock_until(deadline).ok_or_else(|| absent("the camera is busy".into()))?;
        if self.is_stopping() {
            return Err(absent("the server is stopping".into()));
        }
        // The capture thread must know of an open camera, to close it again.
        let _watch = self.hub.watch();
        act(locked.open().map_err(|error| absent(error.message))?)
    }

    /// Opens the camera and closes it again: whether it is there, for the log and for health checks, without its light
    /// going on. Does nothing if it is open.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn probe(&self) -> Result<(), CameraError> {
        let state = self.state.lock();
        if state.device.is_some() {
            return Ok(());
        }
        let device = self.source.open()?;
        let identity = device.identity().clone();
        let found = if device.is_tried_by_opening() { "found" } else { "not tried yet" };
        info!("camera {found} device={} card=\"{}\"; asleep until somebody looks", identity.node, identity.card);
        let mut status = self.status.lock();
        status.set_identity(identity);
        status.fall_asleep();
        Ok(())
    }

    /// Notes why the camera, which is closed, cannot be had, logging it only when that is news.
    pub fn mark_lost(&self, error: &CameraError, retry: Duration) {
        let phase = Phase::Lost(error.message.clone());
        let since = self.silent_since();
        let mut status = self.status.lock();
        status.note_silence(since, Some(error.kind));
        if status.phase != phase {
            warn!("camera lost reason=\"{error}\" retry={}s", retry.as_secs());
            status.phase = phase;
        }
        drop(status);
        // Last, so that whoever sees it finds the reason.
        count(&self.counters.failures);
    }

    /// When the newest live picture was exposed, or now where the camera is not live.
    fn silent_since(&self) -> Stamp {
        let is_live = self.status.lock().phase == Phase::Live;
        let newest = self.hub.newest_captured().filter(|_| is_live).map(|frame| frame.captured_at());
        newest.unwrap_or_else(|| Stamp { mono: os::monotonic(), real: os::realtime() })
    }

    /// Closes the camera on purpose, since nobody wants pictures.
    pub fn sleep(&self) {
        if self.lock().close() {
            info!("camera closed, nobody is looking; so far {}", self.counters);
        }
        self.status.lock().fall_asleep();
    }
}

impl Status {
    /// What was learned holds for one camera, known by card and serial number.
    fn set_identity(&mut self, identity: Identity) {
        let camera = |identity: &Identity| (identity.card.clone(), identity.usb_id.clone(), identity.serial.clone());
        if self.identity.as_ref().is_some_and(|known| camera(known) != camera(&identity)) {
            self.learned = Learned::default();
            self.traits.lock().forget();
        }
        self.identity = Some(identity);
    }

    fn note_silence(&mut self, since: Stamp, cause: Option<ErrorKind>) {
        let silence = self.silence.get_or_insert(Silence { since, cause });
        silence.cause = cause.or(silence.cause);
    }

    fn fall_asleep(&mut self) {
        (self.phase, self.silence, self.duty) = (Phase::Asleep, None, Duty::default());
    }
}

/// The session, held by one thread. Dropping it lets others have the camera.
pub struct Locked<'a> {
    session: &'a Session,
    state: MutexGuard<'a, SessionState, { rank::CAMERA }>,
}

impl<'a> Locked<'a> {
    /// Changes with every start, stop, open and close of the camera.
    pub fn generation(&self) -> u64 {
        self.state.generation
    }

    /// Whether the camera is open.
    pub fn is_open(&self) -> bool {
        self.state.device.is_some()
    }

    /// Opens the camera if it is closed.
    ///
    /// # Errors
    /// When there is no such camera or it cannot be used.
    pub fn open(&mut self) -> Result<&mut dyn Device, CameraError> {
        let session = self.session;
        let state = &mut *self.state;
        if state.device.is_none() {
            let device = session.source.open()?;
            state.generation += 1;
            count(&session.counters.opens);
            let identity = device.identity().clone();
            let since = session.silent_since();
            let mut status = session.status.lock();
            // Once, not at each attempt to start a camera that another program uses.
            if !std::mem::replace(&mut status.is_opening_logged, true) || status.identity.as_ref() != Some(&identity) {
                info!("camera opened device={} card=\"{}\" bus={}", identity.node, identity.card, identity.bus);
            }
            if status.phase == Phase::Asleep {
                status.phase = Phase::Starting;
            }
            status.note_silence(since, None);
            status.set_identity(identity);
            status.opened_at = Some(Instant::now());
            drop(status);
            state.device = Some(device);
        }
        match &mut state.device {
            Some(device) => Ok(device.as_mut()),
            None => Err(CameraError::new(ErrorKind::Failed, "the camera was closed")),
        }
    }

    /// Opens the camera and starts the live stream, as far as that has not been done.
    ///
    /// # Errors
    /// Those of opening and of starting it.
    pub fn go_live(&mut self) -> Result<Arc<dyn Readiness>, CameraError> {
        self.open()?;
        if self.state.live.is_none() {
            self.restart_live()?;
        }
        Ok(self.open()?.readiness())
    }

    /// Starts the live stream, whether or not it is running.
    ///
    /// # Errors
    /// Those of opening and of starting the camera.
    pub fn restart_live(&mut self) -> Result<(), CameraError> {
        let want = self.session.live_mode;
        let mut mode = self.start(want, LIVE_BUFFERS, false)?;
        let leftover = self.leftover();
        *self.session.rhythm.lock() = Rhythm::default();
        let mut status = self.session.status.lock();
        let known = Known { live: None, learned: status.learned.luma };
        let intake = Intake::live(mode.size, leftover, known, status.traits.clone());
        mode.size = intake.size();
        if status.mode != Some(mode) && mode.size != Size::UNKNOWN {
            if mode.size == want.size {
                info!("streaming mode={mode}");
            } else {
                warn!("streaming mode={mode}; the camera has no {}", want.size);
            }
            status.mode = Some(mode);
        }
        status.live_since = Some(Instant::now());
        drop(status);
        self.state.live = Some(Live { mode, intake, alive_at: Instant::now(), hook_calls: Some(0) });
        Ok(())
    }

    /// Suspends the live stream and starts another mode, for a still. Threads that wait for live pictures do not get this
    /// stream's. The capture thread returns to the live stream once this lock is released.
    ///
    /// # Errors
    /// Those of starting the camera.
    pub fn start_still(&mut self, want: Mode, buffers: u32) -> Result<Mode, CameraError> {
        {
            let mut status = self.session.status.lock();
            status.live_since = None;
            status.away_since.get_or_insert_with(Instant::now);
            status.duty.leave(Instant::now());
        }
        self.start(want, buffers, true)
    }

    fn start(&mut self, want: Mode, buffers: u32, is_still: bool) -> Result<Mode, CameraError> {
        self.state.live = None;
        self.state.generation += 1;
        let device = self.open()?;
        let started = if is_still { device.start_still(want, buffers) } else { device.start(want, buffers) };
        let mode = match started {
            Err(error) if error.kind == ErrorKind::Bandwidth => {
                let options = if is_still { "--still-" } else { "--" };
                return Err(error.with_advice(&device.offers(), want, options));
            }
            started => started?,
        };
        self.state.sizes = [Some(mode.size), self.state.sizes[0]];
        Ok(mode)
    }

    /// Size of the pictures of the stream before the running one, of which a camera may still send some.
    pub fn leftover(&self) -> Option<Size> {
        self.state.sizes[1].map(|said| self.session.status.lock().traits.lock().true_size(said))
    }

    /// The running live stream, with the device from which its pictures come.
    pub fn live(&mut self) -> Option<(&mut dyn Device, &mut Live)> {
        let SessionState { device: Some(device), live: Some(live), .. } = &mut *self.state else { return None };
        Some((device.as_mut(), live))
    }

    /// Calls what was registered for the first picture of a start, after so many calls. Returns how many there were then, or
    /// `None` if no other is needed.
    pub fn call_first_picture_hook(&mut self, calls: u32) -> Option<u32> {
        let (hook, device) = (self.session.after_first_picture.as_ref()?, self.state.device.as_mut()?);
        (!hook(device.as_mut(), calls)).then_some(calls + 1)
    }

    /// Notes a whole live picture, exposed at `mono` (CLOCK_MONOTONIC), the first of its stream or a later one, in the mode
    /// that the camera really has. Only then is the stream back from a still.
    pub fn note_live_picture(&mut self, mono: Duration, is_first: bool, mode: Mode) {
        self.session.rhythm.lock().add(mono);
        if is_first {
            self.session.source.note_first_picture();
        }
        let mut status = self.session.status.lock();
        if let Some(since) = status.away_since.take() {
            status.learned.pause = Some(since.elapsed());
        }
        status.duty.note_live_picture(Instant::now());
        status.is_opening_logged = false;
        status.silence = None;
        if status.mode.replace(mode).is_none() {
            info!("streaming mode={mode}");
        }
        if status.phase != Phase::Live {
            status.phase = Phase::Live;
            info!("pictures are coming");
        }
    }

    /// Notes why there are no live pictures although the camera is open.
    pub fn note_problem(&mut self, reason: String) {
        let since = self.session.silent_since();
        let mut status = self.session.status.lock();
        status.note_silence(since, Some(ErrorKind::Failed));
        status.phase = Phase::Lost(reason);
    }

    /// Ends a still that failed, so that the capture thread finds no stream. A camera that is gone, or that cannot even be
    /// stopped, is closed: while its node is open it would come back under another one.
    pub fn abandon_still(&mut self, error: &CameraError) {
        self.state.live = None;
        self.state.generation += 1;
        let stopped = self.state.device.as_mut().map_or(Ok(()), |device| device.stop());
        if error.kind == ErrorKind::Absent || stopped.is_err() {
            self.close();
        }
    }

    /// Closes the camera so that another program can take a still. Threads that wait for live pictures are shown the last
    /// one; the capture thread opens the camera again once this lock is released.
    pub fn lend(&mut self) {
        let away_since = self.state.live.as_ref().map(|_| Instant::now());
        self.close();
        let mut status = self.session.status.lock();
        status.away_since = away_since;
        if let Some(now) = away_since {
            status.duty.leave(now);
        }
    }

    /// Closes the camera. Returns whether it was open.
    pub fn close(&mut self) -> bool {
        let state = &mut *self.state;
        state.live = None;
        state.generation += 1;
        let was_open = state.device.take().is_some();
        let session = self.session;
        *session.rhythm.lock() = Rhythm::default();
        session.hub.camera_closed();
        let mut status = session.status.lock();
        status.mode = None;
        status.live_since = None;
        status.away_since = None;
        if let Some(opened_at) = status.opened_at.take() {
            status.open_before += opened_at.elapsed();
        }
        was_open
    }

    /// Lets the thread that waits longest have the camera next.
    pub fn unlock_fair(self) {
        let Self { state, .. } = self;
        MutexGuard::unlock_fair(state);
    }
}
