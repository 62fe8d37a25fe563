//! How long a camera may be silent before its stream is restarted: as long as it has been silent before, and more.
//!
//! Exposures of several seconds, a grabber that sends a picture every 5 s, a rate that halves at dusk and a camera whose
//! first picture takes 8 s are no stalls; a camera at 30 fps that stops is noticed after 2 s. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a camera that never delivered a picture may take for its first one; twice as long after each failure.
const FIRST: Duration = Duration::from_secs(9);
/// The maximum.
const FIRST_MAX: Duration = Duration::from_secs(36);
/// Gaps that are remembered: a camera that has become fast again is judged as a fast one soon.
const GAPS: usize = 64;
/// A gap so many times as long as the longest remembered one is a stall.
const GAP_FACTOR: u32 = 3;
/// So many periods without a picture are a stall.
const PERIODS: u32 = 10;

/// What is known of one camera's silences.
#[derive(Debug)]
pub struct Patience {
    /// A shorter silence is never a stall.
    least: Duration,
    /// How long it may take for its first picture at most, where that is known.
    longest_first: Option<Duration>,
    gaps: VecDeque<Duration>,
    /// The longest wait for a first picture among the last starts that delivered one.
    first: Option<Duration>,
    /// Starts that failed in a row, or a stall, since the last picture.
    doubts: u32,
}

impl Patience {
    /// Begins with a camera of which nothing is known. A silence shorter than `least` is never a stall; a start without a
    /// picture is one after `longest_first`.
    pub fn new(least: Duration, longest_first: Option<Duration>) -> Self {
        Self { least, longest_first, gaps: VecDeque::new(), first: None, doubts: 0 }
    }

    /// Notes the first picture of a stream, this long after the stream's start.
    pub fn note_first(&mut self, after: Duration) {
        if self.doubts > 0 {
            // What was taken for a stall may have been an exposure as long as this wait.
            self.note_gap(after);
        }
        // An older, longer wait is forgotten by and by.
        let faded = self.first.map_or(Duration::ZERO, |first| first / 8 * 7);
        self.first = Some(after.max(faded));
        self.doubts = 0;
    }

    /// Notes another picture, this long after the one before it.
    pub fn note_gap(&mut self, gap: Duration) {
        if self.gaps.len() >= GAPS {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap);
    }

    /// Notes that the stream was restarted, or given up, since no picture came.
    pub fn note_stall(&mut self) {
        self.doubts += 1;
    }

    /// The silence that is a stall, for a stream at this interval.
    pub fn limit(&self, interval: Option<Duration>, has_pictures: bool) -> Duration {
        let periods = interval.map_or(Duration::ZERO, |interval| interval * PERIODS);
        let known = if has_pictures && self.gaps.is_empty() {
            // Nobody knows how far apart its pictures are; maybe as far as the first one was from the start.
            let first = self.first.unwrap_or_default() * GAP_FACTOR;
            if interval.is_none() { first.max(FIRST) } else { first }
        } else if has_pictures {
            self.gaps.iter().max().copied().unwrap_or_default() * GAP_FACTOR
        } else {
            let first = match self.first {
                Some(first) if self.doubts == 0 => first * GAP_FACTOR,
                // It may have been told to expose for seconds since its last picture.
                _ => (FIRST * 2u32.pow(self.doubts.saturating_sub(1).min(4))).min(FIRST_MAX),
            };
            self.longest_first.map_or(first, |longest| first.min(longest))
        };
        self.least.max(periods).max(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A camera that was started, delivered its first picture after `first` and then these gaps.
    fn camera(first: f64, gaps: &[f64]) -> Patience {
        let mut patience = Patience::new(seconds(2.0), None);
        patience.note_first(seconds(first));
        gaps.iter().for_each(|gap| patience.note_gap(seconds(*gap)));
        patience
    }

    #[test]
    fn follows_the_camera() {
        let thirty = Some(seconds(1.0 / 30.0));
        for (name, patience, interval, limit) in [
            ("30 fps", camera(0.1, &[0.033; 90]), thirty, 2.0),
            ("30 fps, 15 at dusk", camera(0.1, &[0.067; 90]), thirty, 2.0),
            ("told 30, exposes for 3 s", camera(3.0, &[3.0; 3]), thirty, 9.0),
            ("exposes for 6 s", camera(6.0, &[6.0; 3]), None, 18.0),
            ("a picture in 5 s", camera(5.0, &[5.0; 3]), Some(seconds(5.0)), 50.0),
            ("a picture in 5 s, no interval", camera(5.0, &[5.0]), None, 15.0),
            ("one picture so far, no interval", camera(0.1, &[]), None, 9.0),
            ("one picture so far, 30 fps", camera(0.1, &[]), thirty, 2.0),
            ("one picture so far, told 30, exposes for 3 s", camera(3.0, &[]), thirty, 9.0),
            ("slow once, fast since", camera(6.0, &[&[6.0; 9][..], &[0.033; 64]].concat()), thirty, 2.0),
        ] {
            assert_eq!(patience.limit(interval, true), seconds(limit), "{name}");
        }
    }

    #[test]
    fn an_exposure_that_was_taken_for_a_stall_is_learned() {
        let mut patience = camera(0.1, &[0.033; 90]);
        let thirty = Some(seconds(1.0 / 30.0));
        patience.note_stall();
        patience.note_first(seconds(3.0));
        assert_eq!(patience.limit(thirty, true), seconds(9.0));
        (0..64).for_each(|_| patience.note_gap(seconds(0.033)));
        assert_eq!(patience.limit(thirty, true), seconds(2.0), "fast again");
    }

    #[test]
    fn the_first_picture_has_the_time_that_it_took_before() {
        let mut patience = Patience::new(seconds(2.0), None);
        assert!(patience.limit(None, false) > seconds(8.0), "nothing is known of it");
        patience.note_first(seconds(0.1));
        assert_eq!(patience.limit(None, false), seconds(2.0));
        // It stalled: it may have been told to expose for 6 s.
        patience.note_stall();
        assert!(patience.limit(None, false) > seconds(8.0));
        patience.note_stall();
        assert!(patience.limit(None, false) > seconds(16.0));
        (0..9).for_each(|_| patience.note_stall());
        assert_eq!(patience.limit(None, false), FIRST_MAX);
        patience.note_first(seconds(6.0));
        assert_eq!(patience.limit(None, false), seconds(18.0));
        (0..20).for_each(|_| patience.note_first(seconds(0.1)));
        assert!(patience.limit(None, false) < seconds(3.0), "a slow start is forgotten");
    }

    #[test]
    fn a_start_takes_no_longer_than_its_source_allows() {
        let mut patience = Patience::new(seconds(2.0), Some(seconds(8.0)));
        for _ in 0..4 {
            assert_eq!(patience.limit(None, false), seconds(8.0));
            patience.note_stall();
        }
        // Unless the user has said otherwise.
        assert_eq!(Patience::new(seconds(20.0), Some(seconds(8.0))).limit(None, false), seconds(20.0));
    }
}
