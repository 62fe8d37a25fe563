//! All frames in order, and the replay: the latest frames, each kept once however many clients read it, within a limit
//! in bytes.
//!
//! [`Ring`] is pure: it is told everything and waits for nothing. [`SharedRing`] is the [`FrameSink`] that fills it, but
//! only while somebody reads it or a replay is kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::{Feed, FeedEnd, FrameSink, Hub, Wait};
use crate::frame::Frame;
use crate::system::os;
use crate::system::sync::{AtomicBool, Condvar, Mutex, rank};

/// The latest frames within a limit in bytes.
struct Ring {
    /// In order of their sequence numbers.
    frames: VecDeque<Arc<Frame>>,
    /// Memory of those frames.
    bytes: usize,
    limit: usize,
    /// Frames of the last so many seconds are kept even when nobody reads.
    replay: Option<Duration>,
    readers: usize,
    /// The last frame that was published while the ring was being filled, or before.
    newest: u64,
    /// The last frame that is not in the ring any more.
    lost: u64,
}

/// The frame at which a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The next frame.
    Next,
    /// The frame of this number, or the oldest one if that is gone.
    At(u64),
    /// The first frame captured since then (CLOCK_MONOTONIC), as far as the ring reaches.
    Since(Duration),
}

impl Ring {
    /// Creates an empty ring of at most `limit` bytes, or one frame if that is larger.
    fn new(limit: usize, replay: Option<Duration>) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, limit, replay, readers: 0, newest: 0, lost: 0 }
    }

    /// Keeps the newest frame. Follow up with [`Ring::pop_surplus`].
    fn push(&mut self, frame: &Arc<Frame>) {
        // A reader that joined between a frame's publication and this call begins behind it.
        if !self.is_filled() || frame.sequence() <= self.newest {
            return;
        }
        self.newest = frame.sequence();
        self.bytes += frame.memory();
        self.frames.push_back(frame.clone());
    }

    /// Takes a frame out for which there is no room any more: the limit in bytes goes before the replay's seconds.
    fn pop_surplus(&mut self) -> Option<Arc<Frame>> {
        let (oldest, newest) = (self.frames.front()?, self.frames.back()?);
        let span = newest.captured_at().mono.saturating_sub(oldest.captured_at().mono);
        // Readers may use the whole limit; a replay alone keeps its seconds.
        let is_too_old = self.readers == 0 && self.replay.is_none_or(|replay| span > replay);
        if self.frames.len() == 1 || self.bytes <= self.limit && !is_too_old {
            return None;
        }
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.memory();
        self.lost = frame.sequence();
        Some(frame)
    }

    /// Adds a reader. `newest` is the number of the newest frame published. Returns the number of the frame before the
    /// reader's first.
    ///
    /// # Errors
    /// The newest frame's number, if the reader wants to start behind the next frame.
    fn join(&mut self, start: Start, newest: u64) -> Result<u64, u64> {
        if !self.is_filled() {
            (self.newest, self.lost) = (newest, newest);
        }
        let after = match start {
            Start::Next => self.newest,
            Start::At(sequence) if sequence > self.newest + 1 => return Err(self.newest),
            Start::At(sequence) => sequence.saturating_sub(1).max(self.lost),
            Start::Since(since) => self.first_since(since).map_or(self.newest, |frame| frame.sequence() - 1),
        };
        self.readers += 1;
        Ok(after)
    }

    /// Removes a reader. Returns the frames that nobody wants any more, to be dropped outside the lock.
    fn leave(&mut self) -> VecDeque<Arc<Frame>> {
        self.readers -= 1;
        if self.is_filled() {
            return VecDeque::new();
        }
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }

    /// The first frame after this number; `None` while that is the newest.
    ///
    /// # Errors
    /// The number of the oldest frame in the ring now, if that frame is gone: the reader was too slow.
    fn after(&self, last: u64) -> Result<Option<Arc<Frame>>, u64> {
        if last < self.lost {
            return Err(self.lost + 1);
        }
        let at = self.frames.partition_point(|frame| frame.sequence() <= last);
        Ok(self.frames.get(at).cloned())
    }

    /// The frames captured since then (CLOCK_MONOTONIC), if frames are kept at all.
    fn since(&self, since: Duration) -> Option<Vec<Arc<Frame>>> {
        let at = self.frames.partition_point(|frame| frame.captured_at().mono < since);
        self.is_filled().then(|| self.frames.range(at..).cloned().collect())
    }

    /// How many seconds of such frames the limit holds; `None` before there is a second of them.
    fn seconds_that_fit(&self) -> Option<f64> {
        let (oldest, newest) = (self.frames.front()?, self.frames.back()?);
        let span = newest.captured_at().mono.saturating_sub(oldest.captured_at().mono).as_secs_f64();
        (span >= 1.0).then(|| span * self.limit as f64 / self.bytes as f64)
    }

    fn is_filled(&self) -> bool {
        self.readers > 0 || self.replay.is_some()
    }

    fn first_since(&self, since: Duration) -> Option<&Arc<Frame>> {
        self.frames.get(self.frames.partition_point(|frame| frame.captured_at().mono < since))
    }
}

/// What the ring keeps, as configured.
#[derive(Debug, Clone, Copy)]
pub struct RingSettings {
    /// Limit in bytes of the frames kept.
    pub memory: usize,
    /// Seconds of frames that are kept even when nobody reads them.
    pub replay: Option<Duration>,
}

/// The ring that the capture thread fills and that clients read.
pub struct SharedRing {
    ring: Mutex<Ring, { rank::BRIEF }>,
    grown: Condvar,
    /// What it keeps.
    pub settings: RingSettings,
    /// Whether frames are kept at all, to be asked without the lock.
    is_filled: AtomicBool,
    /// Whether it is still to be logged how many seconds the replay can hold.
    owes_replay_line: AtomicBool,
    is_closed: AtomicBool,
}

impl SharedRing {
    /// Creates an empty ring.
    pub fn new(settings: RingSettings) -> Arc<Self> {
        let has_replay = settings.replay.is_some();
        Arc::new(Self {
            ring: Mutex::new(Ring::new(settings.memory, settings.replay)),
            grown: Condvar::new(),
            settings,
            is_filled: AtomicBool::new(has_replay),
            owes_replay_line: AtomicBool::new(has_replay),
            is_closed: AtomicBool::default(),
        })
    }

    /// Reads every frame, in order, from `start` on.
    ///
    /// # Errors
    /// The newest frame's number, if `start` lies ahead of the next frame.
    pub fn read_all(self: &Arc<Self>, hub: &Hub, start: Start) -> Result<AllFrames, u64> {
        let mut ring = self.ring.lock();
        // Before the hub is asked for its newest frame: a frame that is published after that finds the ring filled.
        self.is_filled.store(true, Ordering::SeqCst);
        let joined = ring.join(start, hub.newest_sequence());
        self.is_filled.store(ring.is_filled(), Ordering::SeqCst);
        Ok(AllFrames { ring: self.clone(), last: joined? })
    }

    /// The kept frames of the last `time`, or all of them; `None` if none are kept.
    pub fn replay(&self, time: Option<Duration>) -> Option<Vec<Arc<Frame>>> {
        let since = time.map_or(Duration::ZERO, |time| os::monotonic().saturating_sub(time));
        self.ring.lock().since(since)
    }

    /// Number and bytes of the frames in the ring now.
    pub fn holds(&self) -> (usize, usize) {
        let ring = self.ring.lock();
        (ring.frames.len(), ring.bytes)
    }

    fn log_what_fits(&self) {
        let Some(words) = self.what_fits() else { return };
        self.owes_replay_line.store(false, Ordering::Relaxed);
        match words {
            Ok(words) => info!("{words}"),
            Err(words) => warn!("{words}"),
        }
    }

    /// Whether the replay fits, in words; `None` before that is known.
    fn what_fits(&self) -> Option<Result<String, String>> {
        let fit = self.ring.lock().seconds_that_fit()?;
        let (asked, mebibytes) = (self.settings.replay?.as_secs_f64(), self.settings.memory >> 20);
        Some(if fit < asked {
            Err(format!(
                "the replay has room for {fit:.0} s of such pictures in {mebibytes} MiB, not for {asked} s; \
                raise --all-frames-memory"
            ))
        } else {
            Ok(format!("the replay of {asked} s fits: {mebibytes} MiB hold about {fit:.0} s of such pictures"))
        })
    }
}

impl FrameSink for SharedRing {
    fn take(&self, frame: &Arc<Frame>) {
        if !self.is_filled.load(Ordering::SeqCst) {
            return;
        }
        self.ring.lock().push(frame);
        loop {
            // Taken out under the lock, dropped outside it.
            let surplus = self.ring.lock().pop_surplus();
            if surplus.is_none() {
                break;
            }
        }
        self.grown.notify_all();
        if self.owes_replay_line.load(Ordering::Relaxed) {
            self.log_what_fits();
        }
    }

    fn close(&self) {
        let ring = self.ring.lock();
        self.is_closed.store(true, Ordering::SeqCst);
        drop(ring);
        self.grown.notify_all();
    }
}

/// The feed of a viewer that gets every frame; see [`SharedRing::read_all`].
pub struct AllFrames {
    ring: Arc<SharedRing>,
    last: u64,
}

impl Feed for AllFrames {
    fn next(&mut self, deadline: Instant) -> Result<Wait, FeedEnd> {
        let mut ring = self.ring.ring.lock();
        loop {
            if self.ring.is_closed.load(Ordering::SeqCst) {
                return Ok(Wait::Closed);
            }
            let last = self.last;
            let next = ring.after(last).map_err(|oldest| {
                FeedEnd::FellBehind(format!("fell behind after frame {last}: the ring begins at {oldest} now"))
            })?;
            if let Some(frame) = next {
                self.last = frame.sequence();
                return Ok(Wait::Frame(frame));
            }
            if self.ring.grown.wait_until(&mut ring, deadline).timed_out() {
                return Ok(Wait::Nothing);
            }
        }
    }

    fn skipped(&self) -> u64 {
        0
    }
}

impl Drop for AllFrames {
    fn drop(&mut self) {
        let mut ring = self.ring.ring.lock();
        let unwanted = ring.leave();
        self.ring.is_filled.store(ring.is_filled(), Ordering::SeqCst);
        drop(ring);
        if !unwanted.is_empty() {
            drop(unwanted);
            os::return_memory();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::test_frame;

    /// Publishes these frames, ten a second, of so many bytes each.
    fn fill(ring: &mut Ring, numbers: impl IntoIterator<Item = u64>, bytes: usize) {
        for number in numbers {
            ring.push(&test_frame(number, Duration::from_millis(number * 100), bytes));
            while ring.pop_surplus().is_some() {}
        }
    }

    fn holds(ring: &Ring) -> (usize, usize) {
        (ring.frames.len(), ring.bytes)
    }

    fn numbers(ring: &Ring) -> Vec<u64> {
        ring.frames.iter().map(|frame| frame.sequence()).collect()
    }

    #[test]
    fn holds_nothing_without_readers_or_replay() {
        let mut ring = Ring::new(1 << 20, None);
        fill(&mut ring, 1..=5, 100);
        assert_eq!(holds(&ring), (0, 0));
        assert_eq!(ring.join(Start::Next, 5), Ok(5));
        fill(&mut ring, 6..=8, 100);
        assert_eq!(ring.join(Start::At(7), 8), Ok(6));
        assert_eq!(ring.leave().len(), 0);
        assert_eq!(ring.leave().len(), 3);
        assert_eq!(holds(&ring), (0, 0));
        fill(&mut ring, 9..=9, 100);
        assert_eq!(holds(&ring), (0, 0));
    }

    #[test]
    fn memory_wins_and_who_falls_behind_is_told() {
        let mut ring = Ring::new(20_000, None);
        ring.join(Start::Next, ring.newest).unwrap();
        fill(&mut ring, 1..=100, 3_000);
        let (frames, bytes) = holds(&ring);
        assert!(bytes <= 20_000 && (4..=6).contains(&frames), "{frames} frames, {bytes} bytes");
        let oldest = numbers(&ring)[0];
        assert_eq!(ring.after(10).map(|_| ()), Err(oldest));
        assert_eq!(ring.after(oldest - 2).map(|_| ()), Err(oldest));
        for last in oldest - 1..100 {
            assert_eq!(ring.after(last).unwrap().unwrap().sequence(), last + 1);
        }
        assert!(ring.after(100).unwrap().is_none());
        // A single frame that is too large is kept all the same.
        fill(&mut ring, 101..=101, 50_000);
        assert_eq!(numbers(&ring), [101]);
    }

    #[test]
    fn numbers_that_were_never_published_are_no_gap() {
        let mut ring = Ring::new(1 << 20, None);
        assert_eq!(ring.join(Start::Next, 0), Ok(0));
        fill(&mut ring, [1, 2, 5, 6], 100);
        assert_eq!(ring.after(2).unwrap().unwrap().sequence(), 5);
        assert_eq!(ring.after(4).unwrap().unwrap().sequence(), 5);
    }

    #[test]
    fn a_replay_has_its_seconds_and_readers_all_the_room() {
        let mut ring = Ring::new(1 << 20, Some(Duration::from_secs(2)));
        fill(&mut ring, 1..=100, 100);
        assert_eq!(numbers(&ring), (80..=100).collect::<Vec<_>>());
        let at = |tenths: u64| Duration::from_millis(tenths * 100);
        for (start, after) in [
            (Start::Next, Ok(100)),
            (Start::At(90), Ok(89)),
            (Start::At(101), Ok(100)),
            (Start::At(102), Err(100)),
            (Start::At(3), Ok(79)),
            (Start::At(0), Ok(79)),
            (Start::Since(at(95)), Ok(94)),
            (Start::Since(at(0)), Ok(79)),
            (Start::Since(at(1000)), Ok(100)),
        ] {
            let joined = ring.join(start, 100);
            assert_eq!(joined, after, "{start:?}");
            joined.iter().for_each(|_| drop(ring.leave()));
        }
        assert_eq!(ring.since(at(99)).unwrap().len(), 2);
        assert_eq!(Ring::new(1, None).since(at(0)).map(|_| ()), None);
        ring.join(Start::Next, ring.newest).unwrap();
        fill(&mut ring, 101..=200, 100);
        assert_eq!(holds(&ring).0, 121);
        ring.leave();
        fill(&mut ring, 201..=201, 100);
        assert_eq!(holds(&ring).0, 21);
    }

    #[test]
    fn tells_how_many_seconds_fit() {
        let mut ring = Ring::new(100_000, Some(Duration::from_secs(60)));
        fill(&mut ring, 1..=10, 4_000);
        assert_eq!(ring.seconds_that_fit(), None);
        fill(&mut ring, 11..=11, 4_000);
        let seconds = ring.seconds_that_fit().unwrap();
        assert!((1.5..2.5).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_replay_gives_its_frames_and_says_whether_they_fit() {
        let replay_of = |seconds: u64, bytes: usize| {
            let replay = Some(Duration::from_secs(seconds));
            let ring = SharedRing::new(RingSettings { memory: 1 << 20, replay });
            assert_eq!(ring.what_fits(), None);
            (1..=3).for_each(|number| ring.take(&test_frame(number, Duration::from_secs(number), bytes)));
            ring
        };
        let ring = replay_of(2, 200_000);
        let numbers = |frames: Option<Vec<Arc<Frame>>>| frames.map(|frames| frames.len());
        assert_eq!((numbers(ring.replay(None)), numbers(ring.replay(Some(Duration::ZERO)))), (Some(3), Some(0)));
        let words = "the replay of 2 s fits: 1 MiB hold about 3 s of such pictures";
        assert_eq!(ring.what_fits(), Some(Ok(words.into())));
        let words = "the replay has room for 3 s of such pictures in 1 MiB, not for 60 s; raise --all-frames-memory";
        assert_eq!(replay_of(60, 200_000).what_fits(), Some(Err(words.into())));
        let none = SharedRing::new(RingSettings { memory: 1 << 20, replay: None });
        assert_eq!(numbers(none.replay(None)), None);
    }

    #[test]
    fn a_reader_gets_every_frame_until_it_falls_behind() {
        let ring = SharedRing::new(RingSettings { memory: 3_000, replay: None });
        let hub = Hub::new(vec![ring.clone()]);
        let frame = |number| test_frame(number, Duration::from_secs(number), 0);
        let soon = || Instant::now() + Duration::from_millis(30);
        hub.publish_for_test(frame(1));
        assert_eq!(ring.holds(), (0, 0), "nobody reads");
        let mut reader = ring.read_all(&hub, Start::Next).ok().unwrap();
        assert_eq!(ring.read_all(&hub, Start::At(9)).map(drop), Err(1));
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
                hub.publish_for_test(frame(number));
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(read.join().unwrap(), [2, 3, 4, 5, 6]);
        });
        assert!(matches!(reader.next(soon()), Ok(Wait::Nothing)));
        assert_eq!(reader.skipped(), 0);
        (7..=30).for_each(|number| hub.publish_for_test(frame(number)));
        let (frames, bytes) = ring.holds();
        assert!(frames > 1 && bytes <= ring.settings.memory);
        let expected = format!("fell behind after frame 6: the ring begins at {} now", 31 - frames);
        assert!(matches!(reader.next(soon()), Err(FeedEnd::FellBehind(why)) if why == expected));
        drop(reader);
        assert_eq!(ring.holds(), (0, 0));
        hub.close();
        let mut reader = ring.read_all(&hub, Start::Next).ok().unwrap();
        assert!(matches!(reader.next(soon()), Ok(Wait::Closed)));
    }
}
