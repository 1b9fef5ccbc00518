//! How much slower than its profiles a processor is now: a Kalman filter on the logarithms of two factors, one on the
//! compute roof and one on the memory roof.
//!
//! With `w` the compute roof's share of `t^p` at the clock that ran, factors `kc` and `km` slow a run down by
//! `(w kc^p + (1 - w) km^p)^(1/p)`. Around `kc = km = 1` its logarithm is `w ln kc + (1 - w) ln km`; the filter
//! linearises about its present estimate instead (an extended Kalman filter), for a memory roof that is twice as
//! slow weighs more than it did. Runs at different clocks and of different variants have different shares, which
//! tells the two factors apart; where all runs are alike, their slowdown is right for these runs.
//!
//! The process noise adapts to the innovations as in ALERT (Wan et al., ATC'20): `Q = max(Q0, alpha Q + (1 -
//! alpha) (K y)^2)`. A single run that is far out is a hiccup and moves the estimate as little as one at one standard
//! deviation. What persists is found by a two-sided cumulative sum of standardised innovations, each cut off so
//! that one alone can never raise the alarm; two in a row, or three at 2.5 standard deviations, do. The
//! alarm inflates the covariance, so that the next gain is nearly one. Afterwards the opposite sum starts half-way
//! (Lucas and Crosier, Technometrics 24, 1982): what was no step after all is taken back at once.

use serde::{Deserialize, Serialize};
/// Memory of the process noise, as in ALERT.
const ALPHA: f64 = 0.3;
/// Process noise per run, least and most.
const PROCESS_NOISE: (f64, f64) = (1e-4, 1e-2);
/// Variance of each factor's logarithm before anything was seen: 15 %.
const COLD_VARIANCE: f64 = 0.02;
/// The variance of what is not observed grows no further.
const VARIANCE_MAX: f64 = 0.09;
/// Beyond so many standard deviations an innovation is a hiccup, or the beginning of a step.
const OUTLIER: f64 = 3.0;
/// The cumulative sum: slack per run, alarm, and where an innovation is cut off. 3.75 - 0.75 stays below 5, twice
/// that does not.
const SLACK: f64 = 0.75;
const ALARM: f64 = 5.0;
const CUT: f64 = 3.75;
/// Variance after an alarm, in observation noises, at least.
const ALARM_INFLATION: f64 = 4.0;
/// Largest logarithm of a factor: 22 000 times.
pub(super) const LN_MAX: f64 = 10.0;

/// Smallest logarithm of a factor: others do not make a unit faster than it was alone, beyond what a profile is off.
const LN_MIN: f64 = -0.7;

/// Where a run stands on its roofline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    /// The compute roof's share of `t^p`, in [0, 1].
    pub(super) share: f64,
    /// Sharpness of the corner, at least 1.
    pub(super) p: f64,
}

/// The compute and the memory factor, to be weighed by their shares of a run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Factors {
    /// Logarithm of the larger one.
    top: f64,
    p: f64,
    /// Both over the larger one, to the power of `p`.
    powers: [f64; 2],
}

impl Factors {
    /// Logarithm of their mean where the compute roof has such a share, and the derivative by the compute factor's
    /// logarithm.
    pub(super) fn ln_mean(&self, share: f64) -> (f64, f64) {
        let (of_compute, of_memory) = (share * self.powers[0], (1.0 - share) * self.powers[1]);
        let sum = (of_compute + of_memory).max(f64::MIN_POSITIVE);
        (self.top + sum.ln() / self.p, of_compute / sum)
    }
}

/// What a run taught.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Update {
    /// Logarithm of actual over expected.
    pub(super) innovation: f64,
    /// The part of it that belongs to the variant rather than the unit.
    pub(super) bias: f64,
    /// Share of the bias's variance that is gone.
    pub(super) bias_gain: f64,
    /// Whether it showed that the unit's speed has stepped.
    pub(super) stepped: bool,
}

/// The filter of one processor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Filter {
    /// Logarithms of the compute and the memory factor.
    state: [f64; 2],
    /// Covariance: compute, both, memory.
    covariance: [f64; 3],
    process_noise: [f64; 2],
    above: f64,
    below: f64,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            state: [0.0; 2],
            covariance: [COLD_VARIANCE, 0.0, COLD_VARIANCE],
            process_noise: [PROCESS_NOISE.0; 2],
            above: 0.0,
            below: 0.0,
        }
    }
}

impl Filter {
    /// A filter that begins at these factors, in logarithms, without being sure of them.
    pub(super) fn at(state: [f64; 2]) -> Self {
        let sound = |ln: f64| if ln.is_nan() { 0.0 } else { ln.clamp(LN_MIN, LN_MAX) };
        Self { state: state.map(sound), ..Self::default() }
    }

    /// Logarithms of the compute and the memory factor.
    pub(super) fn state(&self) -> [f64; 2] {
        self.state
    }

    /// Logarithm of the slowdown of a run, and the derivative by the compute factor's logarithm.
    pub(super) fn ln_factor(&self, at: Point) -> (f64, f64) {
        self.factors(at.p).ln_mean(at.share)
    }

    /// The two factors for runs with so sharp a corner.
    pub(super) fn factors(&self, p: f64) -> Factors {
        let top = self.state[0].max(self.state[1]);
        Factors { top, p, powers: self.state.map(|ln| if ln < top { (p * (ln - top)).exp() } else { 1.0 }) }
    }

    /// Variance of that logarithm.
    pub(super) fn variance(&self, at: Point) -> f64 {
        let (_, share) = self.ln_factor(at);
        self.gains([share, 1.0 - share]).1
    }

    /// The share of that variance that a run elsewhere on the roofline, in noise of variance `noise`, takes away.
    pub(super) fn told(&self, at: Point, by: Point, noise: f64) -> f64 {
        let weights = |point| {
            let (_, share) = self.ln_factor(point);
            [share, 1.0 - share]
        };
        let (gains, own) = self.gains(weights(by));
        let [compute, memory] = weights(at);
        let shared = gains[0] * compute + gains[1] * memory;
        let (_, variance) = self.gains([compute, memory]);
        (shared * shared / ((own + noise) * variance).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }

    /// Takes in the logarithm of a run's actual over profiled latency, its variant's bias (known to a variance)
    /// taken off, in noise of variance `noise`.
    pub(super) fn observe(&mut self, at: Point, observed: f64, bias_variance: f64, noise: f64) -> Update {
        self.predict();
        let (expected, share) = self.ln_factor(at);
        let innovation = (observed - expected).clamp(-LN_MAX, LN_MAX);
        let weights = [share, 1.0 - share];
        let (mut gains, own) = self.gains(weights);
        let mut variance = own + bias_variance + noise;
        let deviation = variance.sqrt();
        let bias_gain = bias_variance / variance;
        let stepped = self.alarm(innovation / deviation);
        let used = if stepped || innovation.abs() <= OUTLIER * deviation {
            innovation
        } else {
            deviation.copysign(innovation)
        };
        if stepped {
            let inflated = (innovation * innovation).max(ALARM_INFLATION * noise);
            self.covariance[0] += inflated;
            self.covariance[2] += inflated;
            let (wider, own) = self.gains(weights);
            (gains, variance) = (wider, own + noise);
        }
        for (index, gain) in gains.iter().enumerate() {
            let moved = gain / variance * used;
            self.state[index] = (self.state[index] + moved).clamp(LN_MIN, LN_MAX);
            if !stepped {
                let adapted = ALPHA * self.process_noise[index] + (1.0 - ALPHA) * moved * moved;
                self.process_noise[index] = adapted.clamp(PROCESS_NOISE.0, PROCESS_NOISE.1);
            }
        }
        self.covariance[0] = (self.covariance[0] - gains[0] * gains[0] / variance).max(0.0);
        self.covariance[1] -= gains[0] * gains[1] / variance;
        self.covariance[2] = (self.covariance[2] - gains[1] * gains[1] / variance).max(0.0);
        // A step is the unit's.
        let bias_gain = if stepped { 0.0 } else { bias_gain };
        Update { innovation, bias: bias_gain * used, bias_gain, stepped }
    }

    /// Lets the state wander, but its variance not beyond what is plausible.
    fn predict(&mut self) {
        for (place, noise) in [0, 2].into_iter().zip(self.process_noise) {
            let grown = self.covariance[place] + noise;
            // Scaling a row and a column keeps the covariance positive.
            let scale = (VARIANCE_MAX / grown).min(1.0);
            self.covariance[place] = grown * scale;
            self.covariance[1] *= scale.sqrt();
        }
    }

    /// Covariance times the weights, and the variance of the weighted sum.
    fn gains(&self, [compute, memory]: [f64; 2]) -> ([f64; 2], f64) {
        let [cc, cm, mm] = self.covariance;
        let gains = [cc * compute + cm * memory, cm * compute + mm * memory];
        (gains, (gains[0] * compute + gains[1] * memory).max(0.0))
    }

    /// The cumulative sums; true if one of them says that this is not noise any more.
    fn alarm(&mut self, z: f64) -> bool {
        let z = z.clamp(-CUT, CUT);
        self.above = (self.above + z - SLACK).max(0.0);
        self.below = (self.below - z - SLACK).max(0.0);
        if self.above.max(self.below) <= ALARM {
            return false;
        }
        let half = ALARM / 2.0;
        (self.above, self.below) = if self.above > self.below { (0.0, half) } else { (half, 0.0) };
        true
    }
}

#[cfg(test)]
#[path = "tests/slowdown.rs"]
mod tests;
