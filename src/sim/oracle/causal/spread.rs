//! The distribution of a run's luck, as the plant draws it: lognormal, and now and then a factor on top.

use crate::board::sim::Noise;

/// Standard deviations that are tabulated, and the steps of one.
const DEVIATIONS: i32 = 5;
const STEPS: i32 = 40;
/// Points of the evenly distributed factor of late runs.
const LATE: u32 = 16;

/// A luck, and sums over all that are at most as large.
#[derive(Debug, Clone, Copy)]
struct Entry {
    luck: f64,
    /// Their probability.
    probability: f64,
    /// Their part of the mean.
    mean: f64,
}

/// The tabulated distribution of a luck `R`.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    entries: Vec<Entry>,
}

impl Spread {
    /// The distribution under a share of late runs.
    pub(super) fn new(noise: &Noise, tail_probability: f64) -> Self {
        let mut points = Vec::new();
        for step in -DEVIATIONS * STEPS..=DEVIATIONS * STEPS {
            let z = f64::from(step) / f64::from(STEPS);
            let (usual, weight) = ((noise.sigma * z).exp(), (-z * z / 2.0).exp());
            points.push((usual, weight * (1.0 - tail_probability)));
            for late in 0..LATE {
                let share = (f64::from(late) + 0.5) / f64::from(LATE);
                let factor = noise.tail_min + (noise.tail_max - noise.tail_min) * share;
                points.push((usual * factor, weight * tail_probability / f64::from(LATE)));
            }
        }
        points.retain(|(_, weight)| *weight > 0.0);
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all: f64 = points.iter().map(|(_, weight)| weight).sum();
        let (mut probability, mut mean) = (0.0, 0.0);
        let entries = points.into_iter().map(|(luck, weight)| {
            probability += weight / all;
            mean += luck * weight / all;
            Entry { luck, probability, mean }
        });
        Self { entries: entries.collect() }
    }

    /// Probability and part of the mean of the lucks up to `luck`.
    fn up_to(&self, luck: f64) -> (f64, f64) {
        let above = self.entries.partition_point(|entry| entry.luck <= luck);
        above.checked_sub(1).map_or((0.0, 0.0), |last| {
            let entry = self.entries[last];
            (entry.probability, entry.mean)
        })
    }

    /// P(R > luck).
    pub(super) fn above(&self, luck: f64) -> f64 {
        (1.0 - self.up_to(luck).0).max(0.0)
    }

    /// E[min(R, luck)].
    pub(super) fn least(&self, luck: f64) -> f64 {
        let (probability, mean) = self.up_to(luck);
        let rest = 1.0 - probability;
        if rest > 1e-12 { mean + luck * rest } else { mean }
    }

    /// E[R; R > luck]: the part of the mean that the larger lucks make up.
    pub(super) fn mean_above(&self, luck: f64) -> f64 {
        (self.up_to(f64::MAX).1 - self.up_to(luck).1).max(0.0)
    }

    /// The luck that is exceeded with at most a probability.
    pub(super) fn quantile(&self, exceeded: f64) -> f64 {
        let at = self.entries.partition_point(|entry| 1.0 - entry.probability > exceeded);
        self.entries.get(at).or(self.entries.last()).map_or(1.0, |entry| entry.luck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_moments_of_the_law() {
        let noise = Noise { sigma: 0.1, tail_probability: 0.02, tail_min: 1.2, tail_max: 1.6 };
        let spread = Spread::new(&noise, 0.02);
        // E[exp(0.1 z)] = exp(0.005); the tail multiplies by 1 + 0.02 * 0.4 on average.
        let mean = spread.least(f64::INFINITY);
        assert!((mean - 0.005_f64.exp() * 1.008).abs() < 1e-4, "{mean}");
        // Half of the usual runs are above 1, and (nearly) all of the late ones: 0.98 / 2 + 0.02 * 0.998.
        assert!((spread.above(1.0) - 0.51).abs() < 0.01, "{}", spread.above(1.0));
        // Without a tail the median is 1 and the quantile of one standard deviation is exp(0.1).
        let plain = Spread::new(&noise, 0.0);
        assert!((plain.quantile(0.1587) - 0.1_f64.exp()).abs() < 0.004, "{}", plain.quantile(0.1587));
        // E[min(R, r)] grows by P(R > r) per step.
        for luck in [0.8, 1.0, 1.3] {
            let slope = (spread.least(luck + 0.02) - spread.least(luck)) / 0.02;
            assert!((spread.above(luck + 0.02)..=spread.above(luck)).contains(&slope), "{luck}: {slope}");
        }
    }
}
