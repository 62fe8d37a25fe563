//! How often something took how long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of a [`Histogram`]'s buckets in seconds; one more bucket holds everything above.
pub const BOUNDS: [f64; 7] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0];

/// How long something took: counts by upper bound, and the sum, as Prometheus expects them.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one more time.
    pub fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// How many times were at most as long as each of [`BOUNDS`]; the last number counts all.
    pub fn cumulative(&self) -> [u64; BOUNDS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|at| {
            sum += self.counts[at].load(Ordering::Relaxed);
            sum
        })
    }

    /// The sum of all times in seconds.
    pub fn seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_the_first_bucket_that_holds_them() {
        let histogram = Histogram::default();
        for millis in [10, 50, 51, 700, 60_000] {
            histogram.add(Duration::from_millis(millis));
        }
        assert_eq!(histogram.cumulative(), [2, 3, 3, 3, 4, 4, 4, 5]);
        assert!((histogram.seconds() - 60.811).abs() < 1e-9);
    }
}
