//! The shared ring: the latest frames, each once however many clients read it, bounded in bytes.
//!
//! It is filled only while somebody reads it (`mode=all`) or a replay is kept. Pure: it is told everything and
//! waits for nothing; the [`crate::hub`] has it behind a lock and lets go of frames outside that lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::frame::Frame;

/// See the module's documentation.
pub struct Ring {
    /// In order of their sequence numbers.
    frames: VecDeque<Arc<Frame>>,
    /// Memory of those frames.
    bytes: usize,
    limit: usize,
    /// Kept even when nobody reads.
    replay: Option<Duration>,
    readers: usize,
    /// The last frame that was published, kept or not.
    newest: u64,
    /// The last frame that is not here any more.
    lost: u64,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the next frame.
    Next,
    /// With this one, or the oldest there is if it is gone.
    At(u64),
    /// With the first captured since then (CLOCK_MONOTONIC), as far as the ring reaches.
    Since(Duration),
}

/// The frame after a reader's is gone: it was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FellBehind {
    /// The last frame that it got.
    pub last: u64,
    /// The oldest that it could have now.
    pub oldest: u64,
}

impl Ring {
    /// An empty ring of at most `limit` bytes, and always one frame.
    pub fn new(limit: usize, replay: Option<Duration>) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, limit, replay, readers: 0, newest: 0, lost: 0 }
    }

    /// The newest frame there is; kept if somebody wants it. Follow up with [`Ring::pop_surplus`].
    pub fn push(&mut self, frame: &Arc<Frame>) {
        self.newest = frame.sequence();
        if !self.is_filled() {
            self.lost = self.newest;
            return;
        }
        self.bytes += frame.memory();
        self.frames.push_back(frame.clone());
    }

    /// A frame that there is no room for any more, if any: memory wins over seconds.
    pub fn pop_surplus(&mut self) -> Option<Arc<Frame>> {
        let (oldest, newest) = (self.frames.front()?, self.frames.back()?);
        let span = newest.captured_at().mono.saturating_sub(oldest.captured_at().mono);
        // Readers are to have all the room there is; a replay alone has its seconds.
        let is_too_old = self.readers == 0 && self.replay.is_none_or(|replay| span > replay);
        if self.frames.len() == 1 || self.bytes <= self.limit && !is_too_old {
            return None;
        }
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.memory();
        self.lost = frame.sequence();
        Some(frame)
    }

    /// One more reader. Answers with the number of the frame before its first.
    ///
    /// # Errors
    /// The newest frame's number, if it wants to start with one that is not even the next.
    pub fn join(&mut self, start: Start) -> Result<u64, u64> {
        let after = match start {
            Start::Next => self.newest,
            Start::At(sequence) if sequence > self.newest + 1 => return Err(self.newest),
            Start::At(sequence) => sequence.saturating_sub(1).max(self.lost),
            Start::Since(since) => self.first_since(since).map_or(self.newest, |frame| frame.sequence() - 1),
        };
        self.readers += 1;
        Ok(after)
    }

    /// One reader less. Hands back the frames that nobody wants any more, to be let go of outside the lock.
    pub fn leave(&mut self) -> VecDeque<Arc<Frame>> {
        self.readers -= 1;
        if self.is_filled() {
            return VecDeque::new();
        }
        self.bytes = 0;
        self.lost = self.newest;
        std::mem::take(&mut self.frames)
    }

    /// The first frame after this number; `None` while it is the newest.
    ///
    /// # Errors
    /// If there was one in between that is gone.
    pub fn after(&self, last: u64) -> Result<Option<Arc<Frame>>, FellBehind> {
        if last < self.lost {
            return Err(FellBehind { last, oldest: self.lost + 1 });
        }
        let at = self.frames.partition_point(|frame| frame.sequence() <= last);
        Ok(self.frames.get(at).cloned())
    }

    /// The frames captured since then (CLOCK_MONOTONIC), if frames are kept at all.
    pub fn since(&self, since: Duration) -> Option<Vec<Arc<Frame>>> {
        let at = self.frames.partition_point(|frame| frame.captured_at().mono < since);
        self.is_filled().then(|| self.frames.range(at..).cloned().collect())
    }

    /// How many seconds of such frames there is room for; `None` before there is a second of them.
    pub fn seconds_that_fit(&self) -> Option<f64> {
        let (oldest, newest) = (self.frames.front()?, self.frames.back()?);
        let span = newest.captured_at().mono.saturating_sub(oldest.captured_at().mono).as_secs_f64();
        (span >= 1.0).then(|| span * self.limit as f64 / self.bytes as f64)
    }

    /// The replay's time, as asked for.
    pub fn replay(&self) -> Option<Duration> {
        self.replay
    }

    /// Bytes that it may hold.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Frames and bytes that it holds.
    pub fn holds(&self) -> (usize, usize) {
        (self.frames.len(), self.bytes)
    }

    fn is_filled(&self) -> bool {
        self.readers > 0 || self.replay.is_some()
    }

    fn first_since(&self, since: Duration) -> Option<&Arc<Frame>> {
        self.frames.get(self.frames.partition_point(|frame| frame.captured_at().mono < since))
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

    fn numbers(ring: &Ring) -> Vec<u64> {
        ring.frames.iter().map(|frame| frame.sequence()).collect()
    }

    #[test]
    fn holds_nothing_without_readers_or_replay() {
        let mut ring = Ring::new(1 << 20, None);
        fill(&mut ring, 1..=5, 100);
        assert_eq!(ring.holds(), (0, 0));
        assert_eq!(ring.join(Start::Next), Ok(5));
        fill(&mut ring, 6..=8, 100);
        assert_eq!(ring.join(Start::At(7)), Ok(6));
        assert_eq!(ring.leave().len(), 0);
        assert_eq!(ring.leave().len(), 3);
        assert_eq!(ring.holds(), (0, 0));
        fill(&mut ring, 9..=9, 100);
        assert_eq!(ring.holds(), (0, 0));
    }

    #[test]
    fn memory_wins_and_who_falls_behind_is_told() {
        let mut ring = Ring::new(20_000, None);
        ring.join(Start::Next).unwrap();
        fill(&mut ring, 1..=100, 3_000);
        let (frames, bytes) = ring.holds();
        assert!(bytes <= 20_000 && (4..=6).contains(&frames), "{frames} frames, {bytes} bytes");
        let oldest = numbers(&ring)[0];
        assert_eq!(ring.after(10).map(|_| ()), Err(FellBehind { last: 10, oldest }));
        assert_eq!(ring.after(oldest - 2).map(|_| ()), Err(FellBehind { last: oldest - 2, oldest }));
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
        assert_eq!(ring.join(Start::Next), Ok(0));
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
            let joined = ring.join(start);
            assert_eq!(joined, after, "{start:?}");
            joined.iter().for_each(|_| drop(ring.leave()));
        }
        assert_eq!(ring.since(at(99)).unwrap().len(), 2);
        assert_eq!(Ring::new(1, None).since(at(0)).map(|_| ()), None);
        ring.join(Start::Next).unwrap();
        fill(&mut ring, 101..=200, 100);
        assert_eq!(ring.holds().0, 121);
        ring.leave();
        fill(&mut ring, 201..=201, 100);
        assert_eq!(ring.holds().0, 21);
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
}
