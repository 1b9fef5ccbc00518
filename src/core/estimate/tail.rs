//! How much longer than expected a run may take: the distribution of the ratio R of actual to expected latency
//! on one unit.
//!
//! Within the data the survival function is the conformal one: of n residuals that are exchangeable with the
//! next, it exceeds the i-th smallest with probability `(n + 1 - i) / (n + 1)`, whatever their distribution (Vovk
//! et al., Algorithmic Learning in a Random World, 2005); between two residuals it is linear. Beyond the largest
//! it goes on as a generalised Pareto tail, fitted to the largest tenth by probability-weighted moments (Hosking
//! and Wallis, Technometrics 29, 1987). Above a higher threshold such a tail is of the same shape, its scale
//! larger by the shape times the distance, so that it joins at the largest residual.
//!
//! Three things multiply the *odds* of being late, which keeps probabilities between zero and one and the
//! survival function invertible: `q = k s / (1 + (k - 1) s)`.
//!
//! - *Level*: too many late runs mean that the residuals are not exchangeable after all. The level that is aimed
//!   at follows as in adaptive conformal inference (Gibbs and Candès, NeurIPS 2021), `eps <- eps + gamma (target
//!   - missed)`, on the logarithm of the level, so that it stays positive.
//! - *Burst*: late runs cluster. After one, the odds grow by what was seen after late runs so far.
//! - *Doubt*: after a step or a fault the residuals are those of another world; this fades within a few runs.

/// Residuals kept. Beyond 1/512 the tail is extrapolated.
const WINDOW: usize = 512;
/// Residuals of a wide prior, which give way to real ones, the widest last.
const PRIOR: usize = 64;
/// Scale of the prior's Laplace distribution in the logarithm: 1 of 100 runs is 30 % late.
const PRIOR_SCALE: f64 = 0.055;
/// A share of the residuals, or at least so many, make the tail.
const TAIL_SHARE: usize = 10;
const TAIL_MIN: usize = 8;
/// Shape of the tail. Latencies of shared processors are not lighter than exponential, and with a shape of one
/// half the variance is infinite. Strictly above zero, so that nothing is ever impossible.
const SHAPE: (f64, f64) = (0.1, 0.5);
/// Least scale of the tail beyond the data, as a share of the expected latency.
const SCALE_MIN: f64 = 0.002;
/// Ratios beyond these say no more than these.
const RATIO: (f64, f64) = (1e-3, 1e3);
/// Beyond this nothing is told apart.
const FARTHEST: f64 = 1e9;
/// The level that adapts: of so many runs, this share is late.
const TARGET: f64 = 0.01;
const LEVEL_GAIN: f64 = 0.3;
/// Bounds of the odds that come of the level.
const LEVEL_ODDS: (f64, f64) = (0.5, 8.0);
/// A run beyond this quantile is late, for telling bursts.
const LATE: f64 = 0.05;
const BURST_ODDS: f64 = 30.0;
/// Runs after late ones that the prior belief of no clustering is worth.
const BURST_PRIOR: f64 = 4.0;
const BURST_MEMORY: f64 = 0.99;
/// Odds in the first moment after a step or a fault, and what is left of them after each run.
const DOUBT_ODDS: f64 = 8.0;
const DOUBT_DECAY: f64 = 0.5;
/// Bounds of all odds together.
const ODDS: (f64, f64) = (0.5, 100.0);

/// How late runs on one unit are.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    /// Real and prior residuals, ascending.
    sorted: Vec<f64>,
    /// Real residuals in the order of their coming, from `next` on once it is full.
    ring: Vec<f64>,
    next: usize,
    /// Prior residuals that are gone.
    retired: usize,
    /// Integral of the survival function from each residual to infinity.
    beyond: Vec<f64>,
    shape: f64,
    /// Scale beyond the largest residual.
    scale: f64,
    odds: f64,
    ln_level: f64,
    doubt: f64,
    was_late: bool,
    /// Runs after late ones, and those of them that were late again; both fade.
    after_late: (f64, f64),
    gaussian: Option<Gaussian>,
}

/// Mean and standard deviation in place of the residuals: for comparison.
#[derive(Debug, Clone, Copy)]
struct Gaussian {
    mean: f64,
    deviation: f64,
}

impl Tail {
    /// Nothing seen yet: wide. `gaussian` replaces the residuals by a normal distribution.
    pub(super) fn new(gaussian: bool) -> Self {
        let mut sorted = Vec::with_capacity(WINDOW + 1);
        sorted.extend((0..PRIOR).map(prior));
        let mut tail = Self {
            sorted,
            ring: Vec::with_capacity(WINDOW),
            next: 0,
            retired: 0,
            beyond: Vec::with_capacity(WINDOW + 1),
            shape: SHAPE.0,
            scale: SCALE_MIN,
            odds: 1.0,
            ln_level: 0.0,
            doubt: 0.0,
            was_late: false,
            after_late: (0.0, 0.0),
            gaussian: gaussian.then_some(Gaussian { mean: 1.0, deviation: 0.1 }),
        };
        tail.refit();
        tail
    }

    /// The residuals in the order of their coming.
    pub(super) fn residuals(&self) -> impl Iterator<Item = f64> + '_ {
        let (late, early) = self.ring.split_at(self.next.min(self.ring.len()));
        early.iter().chain(late).copied()
    }

    /// Takes in the ratio of actual to expected latency of a run.
    pub(super) fn observe(&mut self, ratio: f64) {
        if ratio.is_nan() {
            return;
        }
        let ratio = ratio.clamp(RATIO.0, RATIO.1);
        let missed = if self.survival(ratio) < TARGET { 1.0 } else { 0.0 };
        self.ln_level =
            (self.ln_level + LEVEL_GAIN * (TARGET - missed)).clamp(-LEVEL_ODDS.1.ln(), -LEVEL_ODDS.0.ln());
        let late = self.conformal(ratio) < LATE;
        if self.was_late {
            let (runs, again) = self.after_late;
            self.after_late =
                (runs * BURST_MEMORY + 1.0, again * BURST_MEMORY + if late { 1.0 } else { 0.0 });
        }
        self.was_late = late;
        self.doubt *= DOUBT_DECAY;
        self.insert(ratio);
        self.refit();
    }

    /// Takes residuals over from an earlier life.
    pub(super) fn restore(&mut self, residuals: &[f64]) {
        for &ratio in residuals.iter().rev().take(WINDOW).rev().filter(|ratio| !ratio.is_nan()) {
            self.insert(ratio.clamp(RATIO.0, RATIO.1));
        }
        self.refit();
    }

    /// The world has changed: what was seen says less for a while.
    pub(super) fn doubt(&mut self) {
        self.doubt = DOUBT_ODDS - 1.0;
        self.refit();
    }

    /// P(R > ratio).
    pub(super) fn survival(&self, ratio: f64) -> f64 {
        let ratio = ratio.min(FARTHEST);
        if let Some(gaussian) = self.gaussian {
            return gaussian.survival(ratio);
        }
        self.by_odds(self.conformal(ratio))
    }

    /// The ratio that a run stays below with probability `p`; the inverse of [`Tail::survival`].
    pub(super) fn quantile(&self, p: f64) -> f64 {
        let late = (1.0 - p).clamp(1e-9, 1.0);
        if let Some(gaussian) = self.gaussian {
            return gaussian.quantile(late);
        }
        let late = late / (self.odds - (self.odds - 1.0) * late);
        let (count, all) = (count(self.sorted.len()), self.sorted.len());
        let (first, last) = (self.sorted[0], self.sorted[all - 1]);
        // Where among the residuals the survival function takes this value, counted from the smallest.
        let place = count - late * (count + 1.0);
        if place < 0.0 {
            return first * (1.0 + place).max(0.0).midpoint(1.0);
        }
        let below = floor_index(place);
        if below + 1 >= all {
            let share = late * (count + 1.0);
            return last + self.scale / self.shape * (share.min(1.0).powf(-self.shape) - 1.0);
        }
        self.sorted[below] + (place - place.floor()) * (self.sorted[below + 1] - self.sorted[below])
    }

    /// E[max(R - ratio, 0)]; at zero it is the mean.
    pub(super) fn mean_excess(&self, ratio: f64) -> f64 {
        let ratio = if ratio.is_nan() { 0.0 } else { ratio.clamp(0.0, FARTHEST) };
        if let Some(gaussian) = self.gaussian {
            return gaussian.mean_excess(ratio);
        }
        let above = self.sorted.partition_point(|&residual| residual <= ratio);
        if above == self.sorted.len() {
            return self.survival(ratio) * (self.scale + self.shape * (ratio - self.sorted[above - 1]))
                / (1.0 - self.shape);
        }
        let at = self.sorted[above];
        let half = at / 2.0;
        let from = if above == 0 { ratio.max(half) } else { ratio };
        let reached = self.by_odds(count(self.sorted.len() - above) / (count(self.sorted.len()) + 1.0));
        (from - ratio) + self.beyond[above] + (at - from) * f64::midpoint(self.survival(from), reached)
    }

    /// Robust standard deviation of the residuals, once there are enough: the quartiles' distance over 1.349.
    pub(super) fn spread(&self) -> Option<f64> {
        let all = self.sorted.len();
        (self.ring.len() >= PRIOR)
            .then(|| (self.sorted[all * 3 / 4].ln() - self.sorted[all / 4].ln()) / 1.349)
    }

    /// The conformal survival function with its extrapolation.
    fn conformal(&self, ratio: f64) -> f64 {
        let all = self.sorted.len();
        let of = count(all) + 1.0;
        let below = self.sorted.partition_point(|&residual| residual <= ratio);
        if below == all {
            let over = (ratio - self.sorted[all - 1]) / self.scale;
            return (1.0 + self.shape * over).powf(-1.0 / self.shape) / of;
        }
        let (low, high, steps) = match below {
            // Below the smallest residual it rises to one at half of it.
            0 => (self.sorted[0] / 2.0, self.sorted[0], count(all) + 1.0),
            _ => (self.sorted[below - 1], self.sorted[below], count(all - below) + 1.0),
        };
        let within = ((ratio - low) / (high - low)).clamp(0.0, 1.0);
        (steps - if within.is_nan() { 0.0 } else { within }) / of
    }

    fn by_odds(&self, late: f64) -> f64 {
        (self.odds * late / (1.0 + (self.odds - 1.0) * late)).clamp(f64::MIN_POSITIVE, 1.0)
    }

    fn insert(&mut self, ratio: f64) {
        if self.retired < PRIOR {
            self.remove(prior(retirement(self.retired)));
            self.retired += 1;
        }
        if self.ring.len() < WINDOW {
            self.ring.push(ratio);
        } else {
            self.remove(self.ring[self.next]);
            self.ring[self.next] = ratio;
        }
        self.next = (self.next + 1) % WINDOW;
        let place = self.sorted.partition_point(|&residual| residual <= ratio);
        self.sorted.insert(place, ratio);
    }

    fn remove(&mut self, ratio: f64) {
        let place = self.sorted.partition_point(|&residual| residual < ratio);
        debug_assert!(self.sorted.get(place) == Some(&ratio), "what is removed was there");
        if place < self.sorted.len() {
            self.sorted.remove(place);
        }
    }

    /// Fits the tail and integrates the survival function.
    fn refit(&mut self) {
        let all = self.sorted.len();
        if self.gaussian.is_some() {
            self.gaussian = Some(Gaussian::of(&self.sorted));
            return;
        }
        self.odds = self.odds_now();
        let exceeding = (all / TAIL_SHARE).max(TAIL_MIN).min(all - 1);
        let threshold = self.sorted[all - exceeding - 1];
        (self.shape, self.scale) = pareto(&self.sorted[all - exceeding..], threshold);
        let (largest, of) = (self.sorted[all - 1], count(all) + 1.0);
        self.scale = (self.scale + self.shape * (largest - threshold)).max(SCALE_MIN);
        self.beyond.clear();
        self.beyond.resize(all, 0.0);
        let mut survival = self.by_odds(1.0 / of);
        let mut sum = survival * self.scale / (1.0 - self.shape);
        self.beyond[all - 1] = sum;
        for index in (0..all - 1).rev() {
            let here = self.by_odds(count(all - index) / of);
            sum += (self.sorted[index + 1] - self.sorted[index]) * f64::midpoint(survival, here);
            survival = here;
            self.beyond[index] = sum;
        }
    }

    fn odds_now(&self) -> f64 {
        let odds = |p: f64| p / (1.0 - p);
        let level = (-self.ln_level).exp();
        let (runs, again) = self.after_late;
        let share = (again + BURST_PRIOR * LATE) / (runs + BURST_PRIOR);
        let burst = if self.was_late { (odds(share) / odds(LATE)).clamp(1.0, BURST_ODDS) } else { 1.0 };
        (level * burst * (1.0 + self.doubt)).clamp(ODDS.0, ODDS.1)
    }
}

impl Gaussian {
    fn of(residuals: &[f64]) -> Self {
        let of = count(residuals.len());
        let mean = residuals.iter().sum::<f64>() / of;
        let variance = residuals.iter().map(|residual| (residual - mean).powi(2)).sum::<f64>() / of;
        Self { mean, deviation: variance.sqrt().max(SCALE_MIN) }
    }

    fn survival(&self, ratio: f64) -> f64 {
        let z = (ratio - self.mean) / self.deviation;
        (0.5 * libm::erfc(z / std::f64::consts::SQRT_2)).clamp(f64::MIN_POSITIVE, 1.0)
    }

    fn quantile(&self, late: f64) -> f64 {
        let (mut low, mut high) = (self.mean - 8.0 * self.deviation, self.mean + 8.0 * self.deviation);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if self.survival(middle) > late { low = middle } else { high = middle }
        }
        high.max(0.0)
    }

    fn mean_excess(&self, ratio: f64) -> f64 {
        let z = (ratio - self.mean) / self.deviation;
        let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (self.deviation * density - (ratio - self.mean) * 0.5 * libm::erfc(z / std::f64::consts::SQRT_2))
            .max(0.0)
    }
}

/// The `index`-th prior residual, ascending: quantiles of a Laplace distribution in the logarithm.
fn prior(index: usize) -> f64 {
    let p = (count(index) + 0.5) / count(PRIOR);
    let ln = if p < 0.5 { PRIOR_SCALE * (2.0 * p).ln() } else { -PRIOR_SCALE * (2.0 * (1.0 - p)).ln() };
    ln.exp()
}

/// The prior residual that goes as the `step`-th, from the middle outwards.
fn retirement(step: usize) -> usize {
    let middle = PRIOR / 2;
    if step.is_multiple_of(2) { middle + step / 2 } else { middle - 1 - step / 2 }
}

/// Shape and scale of a generalised Pareto distribution by probability-weighted moments of the exceedances over
/// a threshold. With `b0` their mean and `b1` that of `(1 - p) y`: shape `2 - b0/(b0 - 2 b1)`, and the scale that
/// keeps the mean `scale / (1 - shape)` where the shape meets its bounds.
fn pareto(ascending: &[f64], threshold: f64) -> (f64, f64) {
    let of = count(ascending.len());
    let (mut b0, mut b1) = (0.0, 0.0);
    for (index, residual) in ascending.iter().enumerate() {
        let exceeds = (residual - threshold).max(0.0);
        let p = (count(index) + 1.0 - 0.35) / of;
        b0 += exceeds / of;
        b1 += (1.0 - p) * exceeds / of;
    }
    let shape = 2.0 - b0 / (b0 - 2.0 * b1);
    let shape = if shape.is_nan() { SHAPE.0 } else { shape.clamp(SHAPE.0, SHAPE.1) };
    (shape, (b0 * (1.0 - shape)).max(0.0))
}

#[allow(clippy::cast_precision_loss, reason = "at most a few hundred")]
fn count(items: usize) -> f64 {
    items as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between zero and a few hundred")]
fn floor_index(place: f64) -> usize {
    place.floor() as usize
}

#[cfg(test)]
#[path = "tests/tail.rs"]
mod tests;
