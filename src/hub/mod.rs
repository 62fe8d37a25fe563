//! The hub: the newest frame, the wake-up of the threads that wait for it, and how many want pictures.
//!
//! It knows neither V4L2 nor HTTP. The capture thread publishes through a [`Publisher`] and is never held up: no I/O
//! happens under these locks, and no client can hold one. Clients wait by sequence number, always with a deadline.
//! Other consumers of frames register a [`FrameSink`]; other ways to choose a viewer's next frame implement [`Feed`].

pub mod lockstep;
pub mod pace;
pub mod ring;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::pace::Pace;
use crate::frame::{Frame, FrameInfo, Pool};
use crate::system::sync::{AtomicBool, Condvar, Mutex, Receiver, RwLock, Sender, bounded, rank};

/// The newest frames and everybody that waits for them.
pub struct Hub {
    newest: RwLock<Newest>,
    progress: Mutex<Progress, { rank::LAST }>,
    /// A frame for viewers was published.
    published: Condvar,
    /// A frame was captured, whether or not viewers get it.
    captured: Condvar,
    /// Set under `progress`, so that nobody begins to wait after it.
    is_closed: AtomicBool,
    sinks: Vec<Arc<dyn FrameSink>>,
    demand: Mutex<Demand, { rank::LAST }>,
    wake: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct Newest {
    /// The newest frame for viewers.
    published: Option<Arc<Frame>>,
    /// The newest frame of all. It differs from `published` only where a rate limit holds frames back from viewers.
    captured: Option<Arc<Frame>>,
}

#[derive(Default)]
struct Progress {
    /// Sequence number of the newest frame for viewers; 0 before the first.
    published: u64,
    /// Frames up to this one are from before the camera was last closed: they are not live any more.
    outdated: u64,
    /// Number of frames captured so far.
    captured: u64,
}

struct Demand {
    watchers: usize,
    /// Those of them that watch the live stream.
    viewers: usize,
    /// When demand ends: the last watcher left then, or a warm camera was asked for until then.
    until: Instant,
}

/// Receives every frame that is meant for viewers, in addition to the viewers themselves.
pub trait FrameSink: Send + Sync {
    /// Takes the newest frame. Called on the capture thread, after viewers have been woken: it must not block, and it
    /// must cost nothing while nobody uses this sink.
    fn take(&self, frame: &Arc<Frame>);

    /// Ends all waiting in this sink: the hub is closed.
    fn close(&self);
}

/// The source of one viewer's frames.
pub trait Feed: Send {
    /// Waits until `deadline` for the next frame.
    ///
    /// # Errors
    /// When there is no next frame for this viewer, ever.
    fn next(&mut self, deadline: Instant) -> Result<Wait, FeedEnd>;

    /// Number of frames so far that came while the viewer was not ready for them.
    fn skipped(&self) -> u64;

    /// Whether the viewer must see each gap: its parts carry sequence numbers, and none is ever repeated.
    fn is_numbered(&self) -> bool {
        true
    }

    /// How long sending one frame may take, where others wait for this viewer.
    fn send_limit(&self) -> Option<Duration> {
        None
    }
}

/// Why a feed ended, with an explanation for the client and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEnd {
    /// The viewer was so slow that its next frame is gone.
    FellBehind(String),
    /// The viewer kept others waiting for too long.
    HeldUpOthers(String),
}

/// The outcome of waiting for a frame.
#[derive(Debug)]
pub enum Wait {
    /// A newer frame.
    Frame(Arc<Frame>),
    /// No frame within the time.
    Nothing,
    /// The server is stopping: there will be no more frames.
    Closed,
}

impl Hub {
    /// Creates an empty hub that nobody watches.
    pub fn new(sinks: Vec<Arc<dyn FrameSink>>) -> Arc<Self> {
        Arc::new(Self {
            newest: RwLock::default(),
            progress: Mutex::default(),
            published: Condvar::new(),
            captured: Condvar::new(),
            is_closed: AtomicBool::new(false),
            sinks,
            demand: Mutex::new(Demand { watchers: 0, viewers: 0, until: Instant::now() }),
            wake: bounded(1),
        })
    }

    /// Makes `frame` the newest and wakes the threads that wait for it: viewers only if `is_due`.
    fn publish(&self, frame: Arc<Frame>, is_due: bool) {
        let old = {
            let mut newest = self.newest.write();
            let published = if is_due { newest.published.replace(frame.clone()) } else { None };
            (published, newest.captured.replace(frame.clone()))
        };
        {
            let mut progress = self.progress.lock();
            progress.captured += 1;
            if is_due {
                progress.published = frame.sequence();
            }
        }
        if is_due {
            self.published.notify_all();
        }
        self.captured.notify_all();
        if is_due {
            self.sinks.iter().for_each(|sink| sink.take(&frame));
        }
        // Only here, outside the locks, may the last holder of an old frame give its buffer back.
        drop(old);
    }

    /// Notes that the camera was closed: a client that comes from now on waits for its next picture.
    pub fn camera_closed(&self) {
        let mut progress = self.progress.lock();
        progress.outdated = progress.published;
    }

    /// The newest frame for viewers, however old.
    pub fn newest(&self) -> Option<Arc<Frame>> {
        self.newest.read().published.clone()
    }

    /// The newest frame of all, however old. With a rate limit it may be newer than any that viewers got.
    pub fn newest_captured(&self) -> Option<Arc<Frame>> {
        self.newest.read().captured.clone()
    }

    /// The sequence number of the newest frame for viewers; 0 before the first.
    pub fn newest_sequence(&self) -> u64 {
        self.progress.lock().published
    }

    /// Waits until `deadline` for a viewers' frame whose sequence number is above `after`, and returns the newest one.
    pub fn newer_than(&self, after: u64, deadline: Instant) -> Wait {
        let is_newer = |progress: &Progress| progress.published > after.max(progress.outdated);
        match self.wait(&self.published, deadline, is_newer) {
            Ok(()) => self.newest().map_or(Wait::Nothing, Wait::Frame),
            Err(end) => end,
        }
    }

    fn wait(&self, condvar: &Condvar, deadline: Instant, is_over: impl Fn(&Progress) -> bool) -> Result<(), Wait> {
        let mut progress = self.progress.lock();
        loop {
            if self.is_closed() {
                return Err(Wait::Closed);
            }
            if is_over(&progress) {
                return Ok(());
            }
            if condvar.wait_until(&mut progress, deadline).timed_out() {
                return Err(Wait::Nothing);
            }
        }
    }

    /// Waits until `deadline` for a frame exposed after `mono` (CLOCK_MONOTONIC), whether or not viewers get it. The
    /// newest frame may be one already. `go_on` is called
    /// about four times a second; `false` ends the wait.
    pub fn exposed_after(&self, mono: Duration, deadline: Instant, mut go_on: impl FnMut() -> bool) -> Wait {
        loop {
            let seen = self.progress.lock().captured;
            if let Some(frame) = self.newest_captured().filter(|frame| frame.captured_at().mono > mono) {
                return Wait::Frame(frame);
            }
            let slice = deadline.min(Instant::now() + Duration::from_millis(250));
            match self.wait(&self.captured, slice, |progress| progress.captured > seen) {
                Ok(()) => {}
                Err(Wait::Nothing) if Instant::now() < deadline && go_on() => {}
                Err(end) => return end,
            }
        }
    }

    /// Ends all waiting, now and later.
    pub fn close(&self) {
        {
            let _progress = self.progress.lock();
            self.is_closed.store(true, Ordering::SeqCst);
        }
        self.published.notify_all();
        self.captured.notify_all();
        self.sinks.iter().for_each(|sink| sink.close());
        self.wake_camera();
    }

    /// Whether [`Hub::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Counts as one that wants pictures until the result is dropped.
    pub fn watch(self: &Arc<Self>) -> Watch {
        self.watch_as(0)
    }

    /// Counts as one that watches the live stream until the result is dropped.
    pub fn view(self: &Arc<Self>) -> Watch {
        self.watch_as(1)
    }

    fn watch_as(self: &Arc<Self>, viewers: usize) -> Watch {
        let mut demand = self.demand.lock();
        demand.watchers += 1;
        demand.viewers += viewers;
        drop(demand);
        self.wake_camera();
        Watch { hub: self.clone(), viewers }
    }

    /// Wants pictures for this long, without waiting for any.
    pub fn keep_warm(&self, time: Duration) {
        let mut demand = self.demand.lock();
        demand.until = demand.until.max(Instant::now() + time);
        drop(demand);
        self.wake_camera();
    }

    /// Number of requests that want pictures now.
    pub fn watchers(&self) -> usize {
        self.demand.lock().watchers
    }

    /// How many of them watch the live stream.
    pub fn viewers(&self) -> usize {
        self.demand.lock().viewers
    }

    /// How long nobody has wanted pictures; `None` while somebody does.
    pub fn unwatched_for(&self) -> Option<Duration> {
        let demand = self.demand.lock();
        if demand.watchers > 0 {
            return None;
        }
        Instant::now().checked_duration_since(demand.until)
    }

    /// Sleeps until somebody wants pictures, the hub closes, or the time is over (`None`: without limit).
    pub fn wait_for_demand(&self, timeout: Option<Duration>) {
        // An error means that the time is over, since the sender lives as long as this hub.
        let _ = self.wake.1.recv_timeout(timeout.unwrap_or(Duration::MAX));
    }

    /// Ends [`Hub::wait_for_demand`].
    pub fn wake_camera(&self) {
        // Full means that a wake-up is waiting already.
        let _ = self.wake.0.try_send(());
    }
}

/// One that wants pictures; see [`Hub::watch`] and [`Hub::view`].
pub struct Watch {
    hub: Arc<Hub>,
    viewers: usize,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut demand = self.hub.demand.lock();
        demand.watchers -= 1;
        demand.viewers -= self.viewers;
        demand.until = demand.until.max(Instant::now());
    }
}

/// The capture thread's side of the hub: it numbers frames, holds viewers to a rate limit, and publishes.
///
/// A frame that is not due by the rate limit reaches only those that wait for a picture by its time of exposure
/// (snapshots). It has the sequence number of the frame before it, so that viewers see no gap.
pub struct Publisher {
    hub: Arc<Hub>,
    pool: Arc<Pool>,
    sequence: u64,
    limit: Option<Pace>,
}

/// A frame that was made and is not published yet.
pub struct Made {
    /// The frame.
    pub frame: Arc<Frame>,
    is_due: bool,
}

impl Publisher {
    /// Creates a publisher; viewers get at most `max_fps` frames per second.
    pub fn new(hub: Arc<Hub>, pool: Arc<Pool>, max_fps: Option<f64>) -> Self {
        Self { hub, pool, sequence: 0, limit: max_fps.map(Pace::new) }
    }

    /// Holds viewers to this rate too. Returns `false` if they are held to a lower or the same rate already.
    pub fn limit_to(&mut self, fps: f64) -> bool {
        let limit = Pace::new(fps);
        let is_new = self.limit.as_ref().is_none_or(|known| limit.period > known.period);
        if is_new {
            self.limit = Some(limit);
        }
        is_new
    }

    /// Makes a frame of `length` bytes that `fill` writes. `info.sequence` is set here.
    pub fn make(&mut self, info: FrameInfo, length: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Made {
        let is_due = self.limit.as_mut().is_none_or(|limit| limit.takes(info.captured_at.mono));
        self.sequence += u64::from(is_due);
        let info = FrameInfo { sequence: self.sequence, ..info };
        Made { frame: self.pool.frame(info, length, fill), is_due }
    }

    /// Publishes a frame. Returns whether viewers got it.
    pub fn publish(&self, made: Made) -> bool {
        self.hub.publish(made.frame, made.is_due);
        made.is_due
    }
}

/// The newest frame whenever the viewer is ready for one.
pub struct NewestFeed {
    hub: Arc<Hub>,
    last: u64,
    skipped: u64,
    pace: Option<Pace>,
}

impl NewestFeed {
    /// Creates a feed that `pace` may thin out.
    pub fn new(hub: Arc<Hub>, pace: Option<Pace>) -> Self {
        Self { hub, last: 0, skipped: 0, pace }
    }
}

impl Feed for NewestFeed {
    fn next(&mut self, deadline: Instant) -> Result<Wait, FeedEnd> {
        loop {
            let wait = self.hub.newer_than(self.last, deadline);
            let Wait::Frame(frame) = &wait else { return Ok(wait) };
            self.skipped += skipped(self.last, frame);
            self.last = frame.sequence();
            if self.pace.as_mut().is_none_or(|pace| pace.takes(frame.captured_at().mono)) {
                return Ok(wait);
            }
        }
    }

    fn skipped(&self) -> u64 {
        self.skipped
    }

    fn is_numbered(&self) -> bool {
        false
    }
}

/// Number of frames between the one numbered `last` (0: there was none) and `frame`.
fn skipped(last: u64, frame: &Frame) -> u64 {
    if last == 0 { 0 } else { frame.sequence().saturating_sub(last + 1) }
}

#[cfg(test)]
impl Hub {
    /// Publishes a frame that a test made.
    pub(crate) fn publish_for_test(&self, frame: Arc<Frame>) {
        self.publish(frame, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Size, Stamp, test_frame};

    fn frame(sequence: u64) -> Arc<Frame> {
        test_frame(sequence, Duration::from_secs(sequence), 0)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(30)
    }

    #[test]
    fn gives_the_newest_and_never_the_same_twice() {
        let hub = Hub::new(vec![]);
        assert!(matches!(hub.newer_than(0, soon()), Wait::Nothing));
        hub.publish(frame(1), true);
        hub.publish(frame(2), true);
        assert!(matches!(hub.newer_than(0, soon()), Wait::Frame(f) if f.sequence() == 2));
        assert!(matches!(hub.newer_than(2, soon()), Wait::Nothing));
    }

    #[test]
    fn a_newcomer_is_not_shown_the_last_picture_of_a_camera_that_was_closed() {
        let hub = Hub::new(vec![]);
        hub.publish(frame(1), true);
        hub.camera_closed();
        assert!(matches!(hub.newer_than(0, soon()), Wait::Nothing));
        assert!(matches!(hub.exposed_after(Duration::ZERO, soon(), || true), Wait::Frame(_)), "but by its age");
        hub.publish(frame(2), true);
        assert!(matches!(hub.newer_than(0, soon()), Wait::Frame(f) if f.sequence() == 2));
    }

    #[test]
    fn wakes_every_waiter() {
        let hub = Hub::new(vec![]);
        let far = Instant::now() + Duration::from_secs(20);
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..20).map(|_| scope.spawn(|| hub.newer_than(0, far))).collect();
            hub.publish(frame(1), true);
            assert!(waiters.into_iter().all(|w| matches!(w.join().unwrap(), Wait::Frame(_))));
            let waiter = scope.spawn(|| hub.newer_than(1, far));
            hub.close();
            assert!(matches!(waiter.join().unwrap(), Wait::Closed));
        });
    }

    #[test]
    fn exposed_after_skips_older_pictures_and_can_be_given_up() {
        let hub = Hub::new(vec![]);
        hub.publish(frame(5), true);
        let far = Instant::now() + Duration::from_secs(20);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| hub.exposed_after(Duration::from_secs(5), far, || true));
            hub.publish(frame(6), true);
            assert!(matches!(waiter.join().unwrap(), Wait::Frame(f) if f.sequence() == 6));
        });
        assert!(matches!(hub.exposed_after(Duration::from_secs(4), soon(), || true), Wait::Frame(_)));
        assert!(matches!(hub.exposed_after(Duration::from_secs(9), far, || false), Wait::Nothing));
    }

    #[test]
    fn a_rate_limit_holds_frames_back_from_viewers_and_not_from_snapshots() {
        let hub = Hub::new(vec![]);
        let mut publisher = Publisher::new(hub.clone(), Arc::default(), Some(1.0));
        let mut viewer = NewestFeed::new(hub.clone(), None);
        let mut seen = Vec::new();
        for tenths in 0..30 {
            let mono = Duration::from_millis(1000 + tenths * 100);
            let captured_at = Stamp { mono, real: mono };
            let info = FrameInfo { sequence: 0, captured_at, size: Size::new(16, 16), position: 0, is_settled: true };
            let made = publisher.make(info, 1, |out| out.push(0));
            publisher.publish(made);
            let before = mono - Duration::from_millis(1);
            assert!(
                matches!(hub.exposed_after(before, soon(), || true), Wait::Frame(f) if f.captured_at().mono == mono)
            );
            if let Ok(Wait::Frame(frame)) = viewer.next(Instant::now()) {
                seen.push((frame.sequence(), frame.captured_at().mono.as_millis()));
            }
        }
        assert_eq!(seen, [(1, 1000), (2, 2000), (3, 3000)]);
        assert_eq!(viewer.skipped(), 0, "frames that were not due are not skipped");
    }

    #[test]
    fn demand_is_counted_and_lingers() {
        let hub = Hub::new(vec![]);
        let watch = hub.watch();
        assert_eq!((hub.watchers(), hub.unwatched_for()), (1, None));
        drop(watch);
        assert!(hub.unwatched_for().is_some());
        let (_watch, view) = (hub.watch(), hub.view());
        assert_eq!((hub.watchers(), hub.viewers()), (2, 1));
        drop((view, _watch));
        assert_eq!((hub.watchers(), hub.viewers()), (0, 0));
        hub.keep_warm(Duration::from_secs(60));
        assert_eq!(hub.unwatched_for(), None);
        hub.wait_for_demand(None);
    }
}
