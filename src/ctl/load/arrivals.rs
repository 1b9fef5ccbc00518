//! When open-loop requests arrive: a seeded, endless sequence of moments.

use crate::ctl::load::scenario::Arrival;
use crate::units::Nanos;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Exp};

/// Moments of arrival since the application's start. A closed loop has none of its own.
///
/// Periodic arrival `k` is at `k / rate`, computed from `k`, so that no rounding adds up. Poisson gaps are
/// exponential with mean `1 / rate`.
#[derive(Debug)]
pub struct Arrivals {
    arrival: Arrival,
    rng: ChaCha8Rng,
    count: u64,
    elapsed_s: f64,
}

impl Arrivals {
    /// A sequence; `stream` tells the applications of one run apart.
    #[must_use]
    pub fn new(arrival: Arrival, seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { arrival, rng, count: 0, elapsed_s: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = Nanos;

    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 arrivals")]
    fn next(&mut self) -> Option<Nanos> {
        let at_s = match self.arrival {
            Arrival::Periodic(hz) => self.count as f64 / hz,
            Arrival::Poisson(hz) => {
                self.elapsed_s += Exp::new(hz).ok()?.sample(&mut self.rng);
                self.elapsed_s
            }
            Arrival::Closed(_) => return None,
        };
        self.count += 1;
        Some(Nanos::from_secs_f64(at_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_does_not_drift() {
        // Frame 3_000_000 of a 30 Hz camera comes at 100_000 s, to the nanosecond.
        let frame = Arrivals::new(Arrival::Periodic(30.0), 0, 0).nth(3_000_000);
        assert_eq!(frame, Some(Nanos::from_secs(100_000)));
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_spread_of_an_exponential() {
        let seed = 11;
        let moments: Vec<f64> =
            Arrivals::new(Arrival::Poisson(50.0), seed, 0).take(20_000).map(Nanos::as_secs_f64).collect();
        let gaps: Vec<f64> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let count = f64::from(u32::try_from(gaps.len()).unwrap());
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        // Exponential: standard deviation = mean = 20 ms; the mean of 20,000 lies within 3 % (4 sigma).
        assert!((mean / 0.02 - 1.0).abs() < 0.03, "seed {seed}: mean gap {mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "seed {seed}: deviation {}", variance.sqrt());
    }

    #[test]
    fn a_seed_and_a_stream_fix_the_sequence() {
        let take = |seed, stream| -> Vec<Nanos> {
            Arrivals::new(Arrival::Poisson(10.0), seed, stream).take(8).collect()
        };
        assert_eq!(take(1, 0), take(1, 0));
        assert_ne!(take(1, 0), take(2, 0));
        assert_ne!(take(1, 0), take(1, 1));
    }

    #[test]
    fn a_closed_loop_has_no_arrivals_of_its_own() {
        assert_eq!(Arrivals::new(Arrival::Closed(4), 0, 0).next(), None);
    }
}
