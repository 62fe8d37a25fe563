//! The hub: the newest frame, the wake-up of those who wait for it, and who is watching.
//!
//! It knows neither V4L2 nor HTTP. The capture thread publishes and is never held up: no I/O happens under these
//! locks, and no client can keep one. Clients wait by sequence number, always with a deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::frame::Frame;

/// See the module's documentation.
pub struct Hub {
    slot: RwLock<Option<Arc<Frame>>>,
    progress: Mutex<Progress>,
    published: Condvar,
    demand: Mutex<Demand>,
    wake: (Sender<()>, Receiver<()>),
}

struct Progress {
    /// Sequence number of the newest frame; 0 before the first.
    newest: u64,
    /// Frames up to this one are from before the camera was last closed: no live pictures any more.
    old: u64,
    is_closed: bool,
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
        Arc::new(Self {
            slot: RwLock::new(None),
            progress: Mutex::new(Progress { newest: 0, old: 0, is_closed: false }),
            published: Condvar::new(),
            demand: Mutex::new(Demand { watchers: 0, until: Instant::now() }),
            wake: bounded(1),
        })
    }

    /// Makes `frame` the newest and wakes everybody who waits. Its sequence number must be the next one.
    pub fn publish(&self, frame: Arc<Frame>) {
        let sequence = frame.sequence();
        let old = self.slot.write().replace(frame);
        self.progress.lock().newest = sequence;
        self.published.notify_all();
        // Only here, outside the locks, may the last holder of the old frame give its buffer back.
        drop(old);
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
        let mut progress = self.progress.lock();
        loop {
            if progress.is_closed {
                return Wait::Closed;
            }
            if progress.newest > after.max(progress.old) {
                break;
            }
            if self.published.wait_until(&mut progress, deadline).timed_out() {
                return Wait::Nothing;
            }
        }
        drop(progress);
        self.newest().map_or(Wait::Nothing, Wait::Frame)
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
        self.progress.lock().is_closed = true;
        self.published.notify_all();
        self.wake_camera();
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

    fn wake_camera(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameInfo, Pool, Size, Stamp};

    fn frame(sequence: u64) -> Arc<Frame> {
        let at = Duration::from_secs(sequence);
        let captured_at = Stamp { mono: at, real: at };
        Pool::new().frame(FrameInfo { sequence, captured_at, size: Size::new(16, 16) }, 0, |_| ())
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
}
