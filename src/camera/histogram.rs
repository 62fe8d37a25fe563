//! How long something took, how often: counts by upper bound, as Prometheus wants them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds in seconds; one more bucket takes all the rest.
pub const BOUNDS: [f64; 7] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0];

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// It took so long once more.
    pub fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at].fetch_add(1, Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// How often it took at most so long, for each of [`BOUNDS`] and, last, at all.
    pub fn cumulated(&self) -> [u64; BOUNDS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|at| {
            sum += self.counts[at].load(Relaxed);
            sum
        })
    }

    /// All times together, in seconds.
    pub fn seconds(&self) -> f64 {
        self.micros.load(Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_first_bucket_that_holds_them() {
        let histogram = Histogram::default();
        for millis in [10, 50, 51, 700, 60_000] {
            histogram.add(Duration::from_millis(millis));
        }
        assert_eq!(histogram.cumulated(), [2, 3, 3, 3, 4, 4, 4, 5]);
        assert!((histogram.seconds() - 60.811).abs() < 1e-9);
    }
}
