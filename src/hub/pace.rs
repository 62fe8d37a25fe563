//! Thinning to a rate, and how rates and times are written. Pure: told the time and never waiting for it.

use std::time::Duration;

/// How early a frame may come and still count as on time.
const JITTER_TOLERANCE: Duration = Duration::from_millis(8);

/// Reads frames per second.
///
/// # Errors
/// In words, when it is no such number.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|fps| (0.1..=1000.0).contains(fps));
    number.ok_or_else(|| "invalid rate: expected a number from 0.1 to 1000".into())
}

/// Reads a time in seconds, with or without its `s`.
///
/// # Errors
/// In words, when it is no such number.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse().ok();
    let seconds = number.filter(|seconds| (0.0..=1e9).contains(seconds));
    let time = seconds.map(Duration::from_secs_f64);
    time.ok_or_else(|| "invalid time: expected a number of seconds, such as 5 or 0.5".into())
}

/// Lets through at most so many frames a second, as evenly as whole frames allow.
///
/// Frames are measured against a fixed grid of times, not against the frame before: so an early or late one shifts
/// none of those after it, and the rate is right over any length of time.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Least time between two frames, on average.
    pub(super) period: Duration,
    due: Option<Duration>,
}

impl Pace {
    /// At most `fps` frames a second.
    pub fn new(fps: f64) -> Self {
        Self { period: Duration::from_secs_f64(1.0 / fps), due: None }
    }

    /// Whether the frame captured `at` (CLOCK_MONOTONIC) is one of them.
    pub fn takes(&mut self, at: Duration) -> bool {
        let due = self.due.unwrap_or(at);
        // Cameras have jitter: a frame that comes a little early is on time.
        if at + JITTER_TOLERANCE.min(self.period / 4) < due {
            return false;
        }
        // After a pause the grid begins again, else the frames that were missed would be made up for in a burst.
        let start = if at > due + self.period { at } else { due };
        self.due = Some(start + self.period);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the frames of a camera at `source` per second are taken, for a minute. `jitter` is added to or
    /// subtracted from each frame's time in turn.
    fn taken(source: f64, fps: f64, jitter: Duration) -> Vec<usize> {
        let mut pace = Pace::new(fps);
        let at = |number: usize| {
            let even = Duration::from_secs_f64(10.0 + number as f64 / source);
            if number.is_multiple_of(2) { even + jitter } else { even - jitter }
        };
        (0..(60.0 * source) as usize).filter(|number| pace.takes(at(*number))).collect()
    }

    #[test]
    fn pace_is_even_and_exact() {
        for source in [30.0_f64, 29.97, 15.0, 60.0] {
            for fps in [0.5, 1.0, 7.0, 10.0, 12.5, 15.0, 20.0, 24.0, 29.0, 30.0, 60.0, 1000.0] {
                let expected = source.min(fps) * 60.0;
                for jitter in [0, 3] {
                    let taken = taken(source, fps, Duration::from_millis(jitter));
                    let name = format!("{fps} of {source} a second, {jitter} ms");
                    // At the limit itself a source with jitter may lose the frames that come too early.
                    let is_exact = (taken.len() as f64 - expected).abs() <= 2.0;
                    assert!(is_exact, "{name}: {} of {expected}", taken.len());
                    let gaps = || taken.windows(2).map(|pair| pair[1] - pair[0]);
                    let (least, most) = (gaps().min().unwrap(), gaps().max().unwrap());
                    let uneven = if jitter == 0 { 1 } else { 2 };
                    assert!(most - least <= uneven, "{name}: gaps of {least} to {most} frames");
                }
            }
        }
    }

    #[test]
    fn pace_makes_up_for_nothing_after_a_pause() {
        let mut pace = Pace::new(10.0);
        let millis = |millis| Duration::from_millis(millis);
        assert!(pace.takes(millis(1000)) && !pace.takes(millis(1033)) && pace.takes(millis(1100)));
        let after: Vec<bool> = [5000, 5033, 5066, 5100].map(|at| pace.takes(millis(at))).into();
        assert_eq!(after, [true, false, false, true]);
    }

    #[test]
    fn a_frame_is_on_time_up_to_8_ms_or_a_quarter_of_the_period_early() {
        for (fps, early, is_taken) in [(10.0, 8, true), (10.0, 9, false), (100.0, 2, true), (100.0, 3, false)] {
            let (mut pace, start) = (Pace::new(fps), Duration::from_secs(1));
            assert!(pace.takes(start));
            let at = start + Duration::from_secs_f64(1.0 / fps) - Duration::from_millis(early);
            assert_eq!(pace.takes(at), is_taken, "{early} ms early at {fps} frames per second");
        }
    }

    #[test]
    fn one_period_late_is_made_up_for_and_more_is_not() {
        for (late, is_taken) in [(1200, true), (1201, false)] {
            let mut pace = Pace::new(10.0);
            let taken = [1000, late, 1210].map(|at| pace.takes(Duration::from_millis(at)));
            assert_eq!(taken, [true, true, is_taken], "{late}");
        }
    }

    #[test]
    fn words_for_rates_and_times() {
        for (text, time) in [("20s", Some(20.0)), ("20", Some(20.0)), ("0.5s", Some(0.5)), ("0", Some(0.0))] {
            assert_eq!(parse_time(text).ok(), time.map(Duration::from_secs_f64), "{text}");
        }
        for bad in ["", "s", "20m", "-1", "-1s", "nan", "inf", "1e99", "20 s", "ss"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "-5", "nan", "inf", "fast", "1001", "0.01", "5fps"] {
            assert!(parse_rate(bad).unwrap_err().contains("0.1 to 1000"), "{bad}");
        }
    }
}
