//! How soon a still may interrupt the live stream again: after each return it runs for longer than it was away. So clients
//! that take stills cannot take more than half of the live picture from those that watch it.

use std::time::{Duration, Instant};

/// A longer absence has another cause than the still, such as a plug that was pulled during it.
const LONGEST: Duration = Duration::from_secs(60);

/// The live stream's latest interruption by a still.
#[derive(Debug, Default, Clone)]
pub struct Duty {
    away_since: Option<Instant>,
    runs_until: Option<Instant>,
}

impl Duty {
    /// Notes that the live stream stops for a still.
    pub fn leave(&mut self, now: Instant) {
        self.away_since = Some(now);
    }

    /// Notes a live picture, the first after an interruption or a later one.
    pub fn note_live_picture(&mut self, now: Instant) {
        if let Some(since) = self.away_since.take() {
            self.runs_until = Some(now + owed(now, since));
        }
    }

    /// The earliest time for the next interruption; `None` if it may come now. While the live stream is away, the time
    /// that follows if it returned now.
    pub fn not_before(&self, now: Instant) -> Option<Instant> {
        let away = self.away_since.map(|since| now + owed(now, since));
        away.or(self.runs_until).filter(|until| *until > now || self.away_since.is_some())
    }
}

/// How long the live stream runs if it was away since then. A quarter more than it was away, so that viewers get more than
/// half of the pictures although the first one comes a moment after the switch.
fn owed(now: Instant, away_since: Instant) -> Duration {
    now.saturating_duration_since(away_since).min(LONGEST) * 5 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_runs_as_long_as_it_was_away() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut duty = Duty::default();
        assert_eq!(duty.not_before(at(0)), None, "the first still is never late");
        duty.note_live_picture(at(1));
        assert_eq!(duty.not_before(at(1)), None);
        duty.leave(at(10));
        assert_eq!(duty.not_before(at(10)), Some(at(10)), "not while it is away");
        assert_eq!(duty.not_before(at(14)), Some(at(19)));
        duty.note_live_picture(at(18));
        for (now, expected) in [(18, Some(at(28))), (27, Some(at(28))), (28, None), (90, None)] {
            duty.note_live_picture(at(now));
            assert_eq!(duty.not_before(at(now)), expected, "at {now}");
        }
        duty.leave(at(100));
        duty.leave(at(103));
        duty.note_live_picture(at(107));
        assert_eq!(duty.not_before(at(107)), Some(at(112)), "without viewers two stills may follow each other");
        duty.leave(at(200));
        assert_eq!(duty.not_before(at(900)), Some(at(975)));
        duty.note_live_picture(at(900));
        assert_eq!(duty.not_before(at(900)), Some(at(975)), "a plug that was pulled is not the still's fault");
    }
}
