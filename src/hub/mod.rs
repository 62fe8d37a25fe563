//! The hub: the newest frame, the wake-up of those who wait for it, and who is watching.
//!
//! It knows neither V4L2 nor HTTP. The capture thread publishes and is never held up: no I/O happens under these
//! locks, and no client can keep one. Clients wait by sequence number, always with a deadline. What a client that
//! is ready gets is decided in [`lockstep`] and [`ring`]; the waiting is here.

pub mod lockstep;
pub mod pace;
pub mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{info, warn};
use parking_lot::{Condvar, Mutex, RwLock};

use self::lockstep::{Lockstep, Step};
use self::ring::{FellBehind, Ring, Start};
use crate::frame::Frame;
use crate::system::os;

/// See the module's documentation.
pub struct Hub {
    slot: RwLock<Option<Arc<Frame>>>,
    progress: Mutex<Progress>,
    published: Condvar,
    /// Set under `progress` and under `lockstep`, so that nobody begins to wait after it.
    is_closed: AtomicBool,
    ring: Mutex<Ring>,
    /// Whether it is still to be said how many seconds the replay can hold.
    owes_replay_line: AtomicBool,
    lockstep: Mutex<Lockstep>,
    stepped: Condvar,
    demand: Mutex<Demand>,
    wake: (Sender<()>, Receiver<()>),
}

/// What the hub keeps beside the newest frame.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Most bytes of frames in the ring.
    pub memory: usize,
    /// Seconds that are kept even when nobody reads them.
    pub replay: Option<Duration>,
    /// How long one lock-step client may keep the others waiting.
    pub patience: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { memory: 64 << 20, replay: None, patience: Duration::from_secs(2) }
    }
}

struct Progress {
    /// Sequence number of the newest frame; 0 before the first.
    newest: u64,
    /// Frames up to this one are from before the camera was last closed: no live pictures any more.
    old: u64,
}

struct Demand {
    watchers: usize,
    /// Somebody was watching, or had asked for a warm camera, until then.
    until: Instant,
}

/// What came of waiting.
#[derive(Debug)]
pub enum Wait {
    /// A newer frame.
    Frame(Arc<Frame>),
    /// None within the time.
    Nothing,
    /// The server is stopping; there will be none.
    Closed,
}

impl Hub {
    /// An empty hub that nobody watches.
    pub fn new() -> Arc<Self> {
        Self::with(Keep::default())
    }

    /// The same, told what to keep.
    pub fn with(keep: Keep) -> Arc<Self> {
        Arc::new(Self {
            slot: RwLock::new(None),
            progress: Mutex::new(Progress { newest: 0, old: 0 }),
            published: Condvar::new(),
            is_closed: AtomicBool::new(false),
            ring: Mutex::new(Ring::new(keep.memory, keep.replay)),
            owes_replay_line: AtomicBool::new(keep.replay.is_some()),
            lockstep: Mutex::new(Lockstep::new(keep.patience)),
            stepped: Condvar::new(),
            demand: Mutex::new(Demand { watchers: 0, until: Instant::now() }),
            wake: bounded(1),
        })
    }

    /// Makes `frame` the newest and wakes everybody who waits. Its sequence number must be above all earlier ones.
    pub fn publish(&self, frame: Arc<Frame>) {
        let sequence = frame.sequence();
        self.keep(&frame);
        self.offer(&frame);
        let old = self.slot.write().replace(frame);
        self.progress.lock().newest = sequence;
        self.published.notify_all();
        // Only here, outside the locks, may the last holder of the old frame give its buffer back.
        drop(old);
    }

    /// Into the ring with it, if that is filled at all.
    fn keep(&self, frame: &Arc<Frame>) {
        self.ring.lock().push(frame);
        loop {
            // Taken out under the lock, let go of outside it.
            let surplus = self.ring.lock().pop_surplus();
            if surplus.is_none() {
                break;
            }
        }
        if self.owes_replay_line.load(Ordering::Relaxed) {
            self.say_what_fits();
        }
    }

    fn say_what_fits(&self) {
        let ring = self.ring.lock();
        let (Some(asked), Some(fit)) = (ring.replay(), ring.seconds_that_fit()) else { return };
        let (asked, mebibytes) = (asked.as_secs_f64(), ring.limit() >> 20);
        drop(ring);
        self.owes_replay_line.store(false, Ordering::Relaxed);
        if fit < asked {
            warn!(
                "the replay has room for {fit:.0} s of such pictures in {mebibytes} MiB, not for {asked} s; \
                raise --all-frames-memory"
            );
        } else {
            info!("the replay of {asked} s fits: {mebibytes} MiB hold about {fit:.0} s of such pictures");
        }
    }

    fn offer(&self, frame: &Arc<Frame>) {
        if self.lockstep.lock().offer(frame, Instant::now()) {
            self.stepped.notify_all();
        }
    }

    /// The camera was closed: whoever comes from now on waits for its next picture, and is not shown the last one.
    pub fn camera_closed(&self) {
        let mut progress = self.progress.lock();
        progress.old = progress.newest;
    }

    /// The newest frame, however old.
    pub fn newest(&self) -> Option<Arc<Frame>> {
        self.slot.read().clone()
    }

    /// Waits until `deadline` for a frame whose sequence number is above `after`: the newest there is then.
    pub fn newer_than(&self, after: u64, deadline: Instant) -> Wait {
        self.wait_beyond(after, deadline).map_or_else(|end| end, |()| self.newest().map_or(Wait::Nothing, Wait::Frame))
    }

    fn wait_beyond(&self, after: u64, deadline: Instant) -> Result<(), Wait> {
        let mut progress = self.progress.lock();
        loop {
            if self.is_closed() {
                return Err(Wait::Closed);
            }
            if progress.newest > after.max(progress.old) {
                return Ok(());
            }
            if self.published.wait_until(&mut progress, deadline).timed_out() {
                return Err(Wait::Nothing);
            }
        }
    }

    /// Reads every frame, in order, from here on.
    ///
    /// # Errors
    /// The newest frame's number, if `start` lies ahead of it.
    pub fn record(self: &Arc<Self>, start: Start) -> Result<Reader, u64> {
        let last = self.ring.lock().join(start)?;
        Ok(Reader { hub: self.clone(), last })
    }

    /// The kept frames of that last time; `None` if none are kept.
    pub fn replay(&self, last: Option<Duration>) -> Option<Vec<Arc<Frame>>> {
        let since = last.map_or(Duration::ZERO, |last| os::monotonic().saturating_sub(last));
        self.ring.lock().since(since)
    }

    /// How much of the past is kept for clips, if any.
    pub fn replay_time(&self) -> Option<Duration> {
        self.ring.lock().replay()
    }

    /// Frames and bytes in the ring now, and the bytes that it may hold.
    pub fn ring_holds(&self) -> (usize, usize, usize) {
        let ring = self.ring.lock();
        let (frames, bytes) = ring.holds();
        (frames, bytes, ring.limit())
    }

    /// Joins the lock-step group.
    pub fn step_in(self: &Arc<Self>) -> Stepper {
        let mut group = self.lockstep.lock();
        Stepper { hub: self.clone(), id: group.join(), patience: group.patience(), is_sending: false }
    }

    /// Waits until `deadline` for a frame exposed after `mono` (CLOCK_MONOTONIC), which the newest may be already;
    /// `go_on` is asked about four times a second.
    pub fn exposed_after(&self, mono: Duration, deadline: Instant, mut go_on: impl FnMut() -> bool) -> Wait {
        let newest = self.newest();
        let mut after = newest.as_ref().map_or(0, |frame| frame.sequence());
        if let Some(frame) = newest.filter(|frame| frame.captured_at().mono > mono) {
            return Wait::Frame(frame);
        }
        loop {
            let slice = deadline.min(Instant::now() + Duration::from_millis(250));
            match self.newer_than(after, slice) {
                Wait::Frame(frame) if frame.captured_at().mono > mono => return Wait::Frame(frame),
                Wait::Frame(frame) => after = frame.sequence(),
                Wait::Nothing if Instant::now() < deadline && go_on() => {}
                end => return end,
            }
        }
    }

    /// Ends all waiting, now and later.
    pub fn close(&self) {
        {
            let (_progress, _lockstep) = (self.progress.lock(), self.lockstep.lock());
            self.is_closed.store(true, Ordering::SeqCst);
        }
        self.published.notify_all();
        self.stepped.notify_all();
        self.wake_camera();
    }

    /// Whether [`Hub::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Counts as somebody who wants pictures until it is dropped.
    pub fn watch(self: &Arc<Self>) -> Watch {
        self.demand.lock().watchers += 1;
        self.wake_camera();
        Watch { hub: self.clone() }
    }

    /// Wants pictures for this long, without waiting for any.
    pub fn keep_warm(&self, time: Duration) {
        let mut demand = self.demand.lock();
        demand.until = demand.until.max(Instant::now() + time);
        drop(demand);
        self.wake_camera();
    }

    /// How many want pictures now.
    pub fn watchers(&self) -> usize {
        self.demand.lock().watchers
    }

    /// How long nobody has wanted pictures; `None` while somebody does.
    pub fn unwatched_for(&self) -> Option<Duration> {
        let demand = self.demand.lock();
        if demand.watchers > 0 {
            return None;
        }
        Instant::now().checked_duration_since(demand.until)
    }

    /// Sleeps until somebody wants pictures, the hub closes, or the time is over (`None`: for ever).
    pub fn wait_for_demand(&self, timeout: Option<Duration>) {
        // An error would mean that the sender is gone, and it lives as long as this.
        let _ = match timeout {
            Some(timeout) => self.wake.1.recv_timeout(timeout).is_ok(),
            None => self.wake.1.recv().is_ok(),
        };
    }

    /// Ends [`Hub::wait_for_demand`].
    pub fn wake_camera(&self) {
        // Full means that a wake-up is waiting already.
        let _ = self.wake.0.try_send(());
    }
}

/// A place among those who want pictures; see [`Hub::watch`].
pub struct Watch {
    hub: Arc<Hub>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut demand = self.hub.demand.lock();
        demand.watchers -= 1;
        demand.until = demand.until.max(Instant::now());
    }
}

/// A place at the ring, from which every frame is read in order; see [`Hub::record`].
pub struct Reader {
    hub: Arc<Hub>,
    last: u64,
}

impl Reader {
    /// Waits until `deadline` for the frame after the last one.
    ///
    /// # Errors
    /// If that is gone already. There is no going on from there.
    pub fn next(&mut self, deadline: Instant) -> Result<Wait, FellBehind> {
        loop {
            if self.hub.is_closed() {
                return Ok(Wait::Closed);
            }
            if let Some(frame) = self.hub.ring.lock().after(self.last)? {
                self.last = frame.sequence();
                return Ok(Wait::Frame(frame));
            }
            if let Err(end) = self.hub.wait_beyond(self.last, deadline) {
                return Ok(end);
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let ended = self.hub.ring.lock().leave();
        if !ended.is_empty() {
            drop(ended);
            os::return_memory();
        }
    }
}

/// A place in the lock-step group; see [`Hub::step_in`].
pub struct Stepper {
    hub: Arc<Hub>,
    id: u64,
    patience: Duration,
    /// Has a frame that the group does not know to be sent.
    is_sending: bool,
}

impl Stepper {
    /// How long this client may take for one frame.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Says that the last frame has been sent and waits until `deadline` for the next; `None` when put out.
    pub fn next(&mut self, deadline: Instant) -> Option<Wait> {
        let mut group = self.hub.lockstep.lock();
        let mut has_changed = std::mem::take(&mut self.is_sending) && group.ready(self.id, Instant::now());
        loop {
            has_changed |= group.put_out_late(Instant::now());
            if std::mem::take(&mut has_changed) {
                self.hub.stepped.notify_all();
            }
            if self.hub.is_closed() {
                return Some(Wait::Closed);
            }
            let until = match group.step(self.id) {
                Step::Send(frame) => {
                    self.is_sending = true;
                    return Some(Wait::Frame(frame));
                }
                Step::PutOut => return None,
                Step::Wait(until) => until.map_or(deadline, |until| until.min(deadline)),
            };
            if self.hub.stepped.wait_until(&mut group, until).timed_out() && Instant::now() >= deadline {
                return Some(Wait::Nothing);
            }
        }
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        if self.hub.lockstep.lock().leave(self.id, Instant::now()) {
            self.hub.stepped.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::test_frame;

    fn frame(sequence: u64) -> Arc<Frame> {
        test_frame(sequence, Duration::from_secs(sequence), 0)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(30)
    }

    #[test]
    fn gives_the_newest_and_never_the_same_twice() {
        let hub = Hub::new();
        assert!(matches!(hub.newer_than(0, soon()), Wait::Nothing));
        hub.publish(frame(1));
        hub.publish(frame(2));
        assert!(matches!(hub.newer_than(0, soon()), Wait::Frame(f) if f.sequence() == 2));
        assert!(matches!(hub.newer_than(2, soon()), Wait::Nothing));
    }

    #[test]
    fn a_newcomer_is_not_shown_the_last_picture_of_a_camera_that_was_closed() {
        let hub = Hub::new();
        hub.publish(frame(1));
        hub.camera_closed();
        assert!(matches!(hub.newer_than(0, soon()), Wait::Nothing));
        assert!(matches!(hub.exposed_after(Duration::ZERO, soon(), || true), Wait::Frame(_)), "but by its age");
        hub.publish(frame(2));
        assert!(matches!(hub.newer_than(0, soon()), Wait::Frame(f) if f.sequence() == 2));
    }

    #[test]
    fn wakes_every_waiter() {
        let hub = Hub::new();
        let far = Instant::now() + Duration::from_secs(20);
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..20).map(|_| scope.spawn(|| hub.newer_than(0, far))).collect();
            hub.publish(frame(1));
            assert!(waiters.into_iter().all(|w| matches!(w.join().unwrap(), Wait::Frame(_))));
            let waiter = scope.spawn(|| hub.newer_than(1, far));
            hub.close();
            assert!(matches!(waiter.join().unwrap(), Wait::Closed));
        });
    }

    #[test]
    fn exposed_after_skips_older_pictures_and_can_be_given_up() {
        let hub = Hub::new();
        hub.publish(frame(5));
        let far = Instant::now() + Duration::from_secs(20);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| hub.exposed_after(Duration::from_secs(5), far, || true));
            hub.publish(frame(6));
            assert!(matches!(waiter.join().unwrap(), Wait::Frame(f) if f.sequence() == 6));
        });
        assert!(matches!(hub.exposed_after(Duration::from_secs(4), soon(), || true), Wait::Frame(_)));
        assert!(matches!(hub.exposed_after(Duration::from_secs(9), far, || false), Wait::Nothing));
    }

    #[test]
    fn demand_is_counted_and_lingers() {
        let hub = Hub::new();
        let watch = hub.watch();
        assert_eq!((hub.watchers(), hub.unwatched_for()), (1, None));
        drop(watch);
        assert!(hub.unwatched_for().is_some());
        hub.keep_warm(Duration::from_secs(60));
        assert_eq!(hub.unwatched_for(), None);
        hub.wait_for_demand(None);
    }

    #[test]
    fn a_reader_gets_every_frame_until_it_falls_behind() {
        let hub = Hub::with(Keep { memory: 3_000, ..Keep::default() });
        hub.publish(frame(1));
        let mut reader = hub.record(Start::Next).unwrap();
        assert_eq!(hub.record(Start::At(9)).map(drop), Err(1));
        std::thread::scope(|scope| {
            let read = scope.spawn(|| {
                let far = Instant::now() + Duration::from_secs(20);
                let next = |_| match reader.next(far) {
                    Ok(Wait::Frame(frame)) => frame.sequence(),
                    other => panic!("{other:?}"),
                };
                (0..5).map(next).collect::<Vec<_>>()
            });
            for number in 2..=6 {
                hub.publish(frame(number));
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(read.join().unwrap(), [2, 3, 4, 5, 6]);
        });
        assert!(matches!(reader.next(soon()), Ok(Wait::Nothing)));
        (7..=30).for_each(|number| hub.publish(frame(number)));
        let (frames, bytes, limit) = hub.ring_holds();
        assert!(frames > 1 && bytes <= limit);
        assert!(matches!(reader.next(soon()), Err(FellBehind { last: 6, oldest }) if oldest == 31 - frames as u64));
        drop(reader);
        assert_eq!(hub.ring_holds(), (0, 0, limit));
    }

    #[test]
    fn steppers_wait_for_each_other_and_for_no_longer_than_their_patience() {
        let hub = Hub::with(Keep { patience: Duration::from_millis(200), ..Keep::default() });
        let (mut fast, mut stalled) = (hub.step_in(), hub.step_in());
        let far = Instant::now() + Duration::from_secs(20);
        let sent = |wait| matches!(wait, Some(Wait::Frame(frame)) if frame.sequence() == 1);
        hub.publish(frame(1));
        assert!(sent(fast.next(far)) && sent(stalled.next(far)));
        hub.publish(frame(2));
        assert!(matches!(fast.next(soon()), Some(Wait::Nothing)), "it waits for the other");
        assert!(matches!(fast.next(far), Some(Wait::Frame(frame)) if frame.sequence() == 2));
        assert!(stalled.next(far).is_none(), "it was put out");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| fast.next(far));
            hub.close();
            assert!(matches!(waiter.join().unwrap(), Some(Wait::Closed)));
        });
    }
}
