//! The distribution of actual over expected latency, from the last runs and a few that are made up.
//!
//! `P(R > r)` is the share of the last runs above `r`, mixed with that of a wide prior that counts as much as four
//! runs: an exponential tail, since what was not seen in 256 runs may come in the next. A run that was cancelled
//! counts as one that would have gone on for as long as the prior expects.

/// Runs that are remembered.
const RUNS: usize = 256;
/// Runs that the prior counts for.
const PRIOR_RUNS: f64 = 4.0;
/// The prior: no run is faster than this, and the excess is exponential with the mean after it.
const PRIOR_FROM: f64 = 0.95;
const PRIOR_MEAN: f64 = 0.1;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    /// Ratios in the order in which they came.
    recent: Vec<f64>,
    next: usize,
    /// The same in ascending order.
    ordered: Vec<f64>,
    /// Sums of `ordered` from each place to the end.
    sums: Vec<f64>,
    gaussian: bool,
}

fn prior(ratio: f64) -> f64 {
    let excess = (ratio - PRIOR_FROM).max(0.0) / PRIOR_MEAN;
    // Below 1e-30 it is nothing; and far below that its computation is slow.
    if excess > 70.0 { 0.0 } else { (-excess).exp() }
}

fn prior_excess(ratio: f64) -> f64 {
    PRIOR_MEAN * prior(ratio) + (PRIOR_FROM - ratio).max(0.0)
}

/// Standard normal: odds to be above `z` (Abramowitz and Stegun 26.2.17, within 7.5e-8).
fn normal_survival(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_survival(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    normal_density(z) * sum
}

fn normal_density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt()
}

impl Tail {
    pub(super) fn new(gaussian: bool) -> Self {
        let empty = || Vec::with_capacity(RUNS);
        Self { recent: empty(), next: 0, ordered: empty(), sums: empty(), gaussian }
    }

    /// A run took `ratio` times what was expected.
    pub(super) fn remember(&mut self, ratio: f64) {
        if self.recent.len() < RUNS {
            self.recent.push(ratio);
        } else {
            let old = std::mem::replace(&mut self.recent[self.next], ratio);
            let place = self.ordered.partition_point(|known| known.total_cmp(&old).is_lt());
            self.ordered.remove(place);
        }
        self.next = (self.next + 1) % RUNS;
        let place = self.ordered.partition_point(|known| known.total_cmp(&ratio).is_lt());
        self.ordered.insert(place, ratio);
        self.sums.clear();
        let mut sum = 0.0;
        self.sums.extend(self.ordered.iter().rev().map(|ratio| {
            sum += ratio;
            sum
        }));
        self.sums.reverse();
    }

    /// What a run is expected to take in all that has taken `ratio` so far.
    pub(super) fn outlasting(ratio: f64) -> f64 {
        ratio.max(PRIOR_FROM) + PRIOR_MEAN
    }

    #[allow(clippy::cast_precision_loss, reason = "at most 256")]
    fn seen(&self) -> f64 {
        self.ordered.len() as f64
    }

    /// Mean and standard deviation with the prior.
    fn moments(&self) -> (f64, f64) {
        let (count, prior_mean) = (self.seen() + PRIOR_RUNS, PRIOR_FROM + PRIOR_MEAN);
        let sum = self.sums.first().copied().unwrap_or(0.0);
        let mean = (sum + PRIOR_RUNS * prior_mean) / count;
        let squares: f64 = self.ordered.iter().map(|ratio| (ratio - mean) * (ratio - mean)).sum();
        let own = PRIOR_RUNS * (PRIOR_MEAN * PRIOR_MEAN + (prior_mean - mean) * (prior_mean - mean));
        (mean, ((squares + own) / count).sqrt().max(1e-6))
    }

    /// P(R > ratio).
    #[allow(clippy::cast_precision_loss, reason = "at most 256")]
    pub(super) fn survival(&self, ratio: f64) -> f64 {
        if self.gaussian {
            let (mean, sigma) = self.moments();
            return normal_survival((ratio - mean) / sigma);
        }
        let above = self.ordered.len() - self.ordered.partition_point(|known| *known <= ratio);
        (above as f64 + PRIOR_RUNS * prior(ratio)) / (self.seen() + PRIOR_RUNS)
    }

    /// E[max(R - ratio, 0)].
    #[allow(clippy::cast_precision_loss, reason = "at most 256")]
    pub(super) fn mean_excess(&self, ratio: f64) -> f64 {
        if self.gaussian {
            let (mean, sigma) = self.moments();
            let z = (ratio - mean) / sigma;
            return (sigma * normal_density(z) - (ratio - mean) * normal_survival(z)).max(0.0);
        }
        let place = self.ordered.partition_point(|known| *known <= ratio);
        let above = (self.ordered.len() - place) as f64;
        let sum = self.sums.get(place).copied().unwrap_or(0.0) - above * ratio;
        (sum.max(0.0) + PRIOR_RUNS * prior_excess(ratio)) / (self.seen() + PRIOR_RUNS)
    }

    /// The ratio that a run stays below with probability `p`: the least of those where [`Tail::survival`] says so.
    pub(super) fn quantile(&self, p: f64) -> f64 {
        let odds = (1.0 - p).clamp(1e-9, 1.0);
        if !self.gaussian {
            return self.seen_quantile(odds);
        }
        let (mut low, mut high) = (0.0, 1.0);
        while self.survival(high) > odds && high < 100.0 {
            low = high;
            high *= 1.5;
        }
        for _ in 0..24 {
            let middle = 0.5 * (low + high);
            if self.survival(middle) > odds { low = middle } else { high = middle }
        }
        high
    }

    /// With `k` runs above it the prior must make up for the rest: `P0(r) <= (odds (n + 4) - k) / 4`. The more runs
    /// are above, the lower the ratio may be, until the prior alone asks for more.
    #[allow(clippy::cast_precision_loss, reason = "at most 256")]
    fn seen_quantile(&self, odds: f64) -> f64 {
        let most = odds * (self.seen() + PRIOR_RUNS);
        let mut least = f64::INFINITY;
        for above in 0..=self.ordered.len() {
            let share = (most - above as f64) / PRIOR_RUNS;
            if share <= 0.0 {
                break;
            }
            let by_prior = if share < 1.0 { PRIOR_FROM - PRIOR_MEAN * share.ln() + 1e-9 } else { 0.0 };
            let below = self.ordered.len() - above;
            let ratio = below.checked_sub(1).map_or(by_prior, |last| by_prior.max(self.ordered[last]));
            if ratio > least {
                break;
            }
            least = ratio;
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(gaussian: bool) -> Tail {
        let mut tail = Tail::new(gaussian);
        (0..300u32)
            .for_each(|n| tail.remember(if n % 50 == 0 { 1.4 } else { 0.98 + 0.002 * f64::from(n % 20) }));
        tail
    }

    #[test]
    fn survival_falls_and_its_inverse_inverts_it() {
        for tail in [tail(false), tail(true), Tail::new(false), Tail::new(true)] {
            let all: Vec<f64> = (0..400u32).map(|n| tail.survival(f64::from(n) * 0.01)).collect();
            assert!(all.windows(2).all(|pair| pair[0] >= pair[1]), "{tail:?}");
            assert!(all[0] > 0.99 && all.iter().all(|odds| (0.0..=1.0).contains(odds)));
            for odds in [0.5, 0.1, 0.01, 0.001] {
                let ratio = tail.quantile(1.0 - odds);
                assert!(
                    tail.survival(ratio) <= odds && tail.survival(ratio - 1e-3) > odds,
                    "{odds}: {ratio}"
                );
            }
        }
    }

    #[test]
    fn the_mean_excess_is_the_integral_of_survival() {
        for tail in [tail(false), tail(true), Tail::new(false)] {
            for from in [0.0, 0.9, 1.0, 1.2] {
                let steps = (0..30_000u32).map(|n| tail.survival(from + (f64::from(n) + 0.5) * 1e-4));
                let integral = steps.sum::<f64>() * 1e-4;
                assert!((integral - tail.mean_excess(from)).abs() < 2e-4, "{from}: {integral}");
            }
        }
    }

    #[test]
    fn what_was_not_seen_in_256_runs_is_still_possible_and_a_long_tail_is_seen() {
        // 4 of 260 made-up runs, 5 % of which are above 1.25: 0.8 in a thousand.
        let mut calm = Tail::new(false);
        (0..256).for_each(|_| calm.remember(1.0));
        assert!((calm.survival(1.25) - 4.0 / 260.0 * (-3f64).exp()).abs() < 1e-12);
        // 5 or 6 of the last 256 took 1.4.
        assert!(tail(false).survival(1.3) > 0.019);
    }
}
