//! How regularly pictures come: the rate and the jitter of the newest ones.

use std::collections::VecDeque;
use std::time::Duration;

/// Intervals looked at: about two seconds of an ordinary camera.
const INTERVALS: usize = 60;

/// The times at which the newest pictures of one stream were exposed, on CLOCK_MONOTONIC.
#[derive(Debug, Clone, Default)]
pub struct Rhythm {
    exposures: VecDeque<Duration>,
}

impl Rhythm {
    /// A picture exposed at `at`.
    pub fn add(&mut self, at: Duration) {
        if self.exposures.len() > INTERVALS {
            self.exposures.pop_front();
        }
        self.exposures.push_back(at);
    }

    /// Pictures per second. Falls while one is overdue.
    pub fn rate(&self, now: Duration) -> f64 {
        let (Some(first), Some(last)) = (self.exposures.front(), self.exposures.back()) else { return 0.0 };
        let intervals = self.exposures.len() - 1;
        let seconds = last.saturating_sub(*first).as_secs_f64();
        let silent = now.saturating_sub(*last).as_secs_f64();
        if seconds <= 0.0 {
            return 0.0;
        }
        let is_overdue = silent * intervals as f64 > 2.0 * seconds;
        intervals as f64 / if is_overdue { seconds + silent } else { seconds }
    }

    /// How far an interval is from the mean one: the standard deviation.
    pub fn jitter(&self) -> Duration {
        let pairs = self.exposures.iter().zip(self.exposures.iter().skip(1));
        let intervals: Vec<f64> = pairs.map(|(a, b)| b.saturating_sub(*a).as_secs_f64()).collect();
        if intervals.is_empty() {
            return Duration::ZERO;
        }
        let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
        let variance = intervals.iter().map(|interval| (interval - mean).powi(2)).sum::<f64>() / intervals.len() as f64;
        Duration::from_secs_f64(variance.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(millis: &[u64]) -> Rhythm {
        let mut pace = Rhythm::default();
        millis.iter().for_each(|at| pace.add(Duration::from_millis(*at)));
        pace
    }

    #[test]
    fn rate_and_jitter_of_the_newest() {
        let ms = Duration::from_millis;
        for (exposures, now, rate, jitter) in [
            (&[][..], 10, 0.0, 0.0),
            (&[10], 20, 0.0, 0.0),
            (&[0, 100, 200, 300], 300, 10.0, 0.0),
            (&[0, 80, 200, 280, 400], 500, 10.0, 0.02),
            (&[0, 100, 200], 390, 10.0, 0.0),
            (&[0, 100, 200], 1000, 2.0, 0.0),
            (&[0, 2000], 3000, 0.5, 0.0),
        ] {
            let pace = pace(exposures);
            assert!((pace.rate(ms(now)) - rate).abs() < 1e-6, "{exposures:?}: {}", pace.rate(ms(now)));
            assert!((pace.jitter().as_secs_f64() - jitter).abs() < 1e-6, "{exposures:?}: {:?}", pace.jitter());
        }
    }

    #[test]
    fn old_pictures_are_forgotten() {
        let mut pace = pace(&(0..200).map(|i| i * 100).collect::<Vec<_>>());
        for i in 0..=INTERVALS as u64 {
            pace.add(Duration::from_millis(20_000 + i * 10));
        }
        assert!((pace.rate(Duration::from_secs(20)) - 100.0).abs() < 1e-6);
        assert_eq!(pace.exposures.len(), INTERVALS + 1);
    }
}
