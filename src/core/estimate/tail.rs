//! How much longer than expected a run may take: the distribution of the ratio R of actual to expected latency
//! on one unit.
//!
//! `P(R > r)` is the share of the last runs above `r`, the next among them: of `n` runs that are exchangeable with it,
//! it exceeds the i-th smallest with probability `(n + 1 - i) / (n + 1)`, whatever their distribution (Vovk et al.,
//! Algorithmic Learning in a Random World, 2005). Beyond the largest that falls exponentially; so the last 1024 runs
//! tell one in a thousand, and fewer runs a little more than their largest. It is mixed with a wide prior that counts
//! as much as four runs. What is promised and not kept, the planner's level makes up for.
//!
//! Two things multiply the *odds* of being late, which keeps probabilities between zero and one and the
//! survival function invertible: `q = k s / (1 + (k - 1) s)`.
//!
//! - *Burst*: late runs cluster. After one, the odds grow by what was seen after late runs so far.
//! - *Doubt*: after a step or a fault the residuals are those of another world; this fades within a few runs.
//!
//! Expectations are over all runs, whatever the odds of the next.

use serde::{Deserialize, Serialize};
use std::cell::Cell;

/// Residuals kept.
const WINDOW: usize = 1024;
/// Runs that the prior counts for.
const PRIOR_RUNS: f64 = 4.0;
/// The prior: no run is faster than the first, and what it takes beyond is exponential with the second as its mean; so
/// a run takes what is expected, on average.
const PRIOR_FROM: f64 = 0.9;
const PRIOR_MEAN: f64 = 0.1;
/// By how much the next run may exceed the largest, on average if it does.
const BEYOND: f64 = 0.03;
/// Variance of the logarithm of a run's latency, before so many residuals tell, as in ALERT; and its bounds.
pub(super) const NOISE: f64 = 1e-3;
const NOISE_MIN: usize = 64;
const NOISE_RANGE: (f64, f64) = (2e-5, 1e-2);
/// Ratios beyond these say no more than these.
const RATIO: (f64, f64) = (1e-3, 1e3);
/// Least standard deviation of the normal distribution.
const DEVIATION_MIN: f64 = 0.002;
/// A run beyond this quantile is late, for telling bursts.
const LATE: f64 = 0.05;
const BURST_ODDS: f64 = 30.0;
/// Runs after late ones that the prior belief of no clustering is worth.
const BURST_PRIOR: f64 = 4.0;
const BURST_MEMORY: f64 = 0.99;
/// Odds in the first moment after a step or a fault, and what is left of them after each run.
const DOUBT_ODDS: f64 = 8.0;
const DOUBT_DECAY: f64 = 0.5;
/// Answers kept.
const ASKED: usize = 4;
/// Most of all odds together.
const ODDS: f64 = 100.0;

/// How late runs on one unit are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tail {
    /// Residuals, ascending.
    sorted: Vec<f64>,
    /// The same in the order of their coming, from `next` on once it is full.
    ring: Vec<f64>,
    next: usize,
    /// Sums of `sorted` from each place to the end.
    sums: Vec<f64>,
    /// So many of the smallest residuals are not what the sums were made of.
    changed: usize,
    mean: f64,
    odds: f64,
    doubt: f64,
    was_late: bool,
    /// Runs after late ones, and those of them that were late again; both fade.
    after_late: (f64, f64),
    gaussian: Option<Gaussian>,
    /// What was asked last and the answers: the planner asks the same for every batch and variant.
    #[serde(skip)]
    asked: [Cell<(f64, f64)>; ASKED],
    /// The same of the mean excess: it is asked for at every clock.
    #[serde(skip)]
    asked_excess: Cell<(f64, f64)>,
}

/// Mean and standard deviation in place of the residuals: for comparison.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Gaussian {
    mean: f64,
    deviation: f64,
}

impl Tail {
    /// Nothing seen yet: wide. `gaussian` replaces the residuals by a normal distribution.
    pub(super) fn new(gaussian: bool) -> Self {
        let empty = || Vec::with_capacity(WINDOW);
        let mut tail = Self {
            sorted: empty(),
            ring: empty(),
            next: 0,
            sums: empty(),
            changed: 0,
            mean: 0.0,
            odds: 1.0,
            doubt: 0.0,
            was_late: false,
            after_late: (0.0, 0.0),
            gaussian: gaussian.then(|| Gaussian::of(&[])),
            asked: Default::default(),
            asked_excess: Cell::default(),
        };
        tail.mean = tail.excess(0.0);
        tail
    }

    /// The residuals in the order of their coming.
    pub(super) fn residuals(&self) -> impl Iterator<Item = f64> + '_ {
        let (late, early) = self.ring.split_at(self.next.min(self.ring.len()));
        early.iter().chain(late).copied()
    }

    /// Takes in the ratio of actual to expected latency of a run, and whether it showed that the unit's speed has
    /// stepped: then it is no part of a burst, for the next is expected to be as slow, and what was seen says less
    /// for a while.
    pub(super) fn observe(&mut self, ratio: f64, stepped: bool) {
        if ratio.is_nan() {
            return;
        }
        let ratio = ratio.clamp(RATIO.0, RATIO.1);
        let late = !stepped && self.seen(ratio) < LATE;
        if self.was_late && !stepped {
            let (runs, again) = self.after_late;
            self.after_late =
                (runs * BURST_MEMORY + 1.0, again * BURST_MEMORY + if late { 1.0 } else { 0.0 });
        }
        self.was_late = late;
        self.doubt = if stepped { DOUBT_ODDS - 1.0 } else { self.doubt * DOUBT_DECAY };
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
        self.odds = self.odds_now();
        self.forget_answers();
    }

    /// P(R > ratio).
    pub(super) fn survival(&self, ratio: f64) -> f64 {
        if let Some(gaussian) = self.gaussian {
            return gaussian.survival(ratio);
        }
        let late = self.seen(ratio);
        (self.odds * late / (1.0 + (self.odds - 1.0) * late)).clamp(f64::MIN_POSITIVE, 1.0)
    }

    /// The ratio that a run stays below with probability `p`: the least for which [`Tail::survival`] says so.
    ///
    /// With `k` residuals above it, and the next, the prior must make up for the rest: `P0(r) <= (late (n + 5) - 1 - k) /
    /// 4`. The more are above, the lower the residuals let it be and the higher the prior wants it.
    pub(super) fn quantile(&self, p: f64) -> f64 {
        let late = (1.0 - p).clamp(1e-9, 1.0);
        if let Some(known) = self.asked.iter().map(Cell::get).find(|(asked, _)| *asked == late) {
            return known.1;
        }
        let ratio = self.quantile_anew(late);
        (1..ASKED).rev().for_each(|place| self.asked[place].set(self.asked[place - 1].get()));
        self.asked[0].set((late, ratio));
        ratio
    }

    fn quantile_anew(&self, late: f64) -> f64 {
        if let Some(gaussian) = self.gaussian {
            return gaussian.quantile(late);
        }
        let late = late / (self.odds - (self.odds - 1.0) * late);
        let all = self.sorted.len();
        let most = late * (count(all) + 1.0 + PRIOR_RUNS);
        let largest = self.largest();
        if most < 1.0 + PRIOR_RUNS * prior(largest) {
            return beyond(largest, most);
        }
        let most = most - 1.0;
        let by_prior = |above: usize| prior_quantile((most - count(above)) / PRIOR_RUNS);
        let by_residuals = |above: usize| if above < all { self.sorted[all - 1 - above] } else { 0.0 };
        let (mut low, mut high) = (0, all.min(floor_index(most)));
        while low < high {
            let middle = usize::midpoint(low, high);
            if by_residuals(middle) > by_prior(middle) { low = middle + 1 } else { high = middle }
        }
        let at = |above: usize| by_prior(above).max(by_residuals(above));
        low.checked_sub(1).map_or(at(low), |less| at(less).min(at(low)))
    }

    /// E[max(R - ratio, 0)]; at zero it is the mean.
    pub(super) fn mean_excess(&self, ratio: f64) -> f64 {
        if ratio.is_nan() || ratio <= 0.0 {
            return self.mean;
        }
        let (asked, known) = self.asked_excess.get();
        if asked.to_bits() == ratio.to_bits() {
            return known;
        }
        let excess = self.excess(ratio);
        self.asked_excess.set((ratio, excess));
        excess
    }

    fn excess(&self, ratio: f64) -> f64 {
        if let Some(gaussian) = self.gaussian {
            return gaussian.mean_excess(ratio);
        }
        let place = self.sorted.partition_point(|&residual| residual <= ratio);
        let above = self.sorted.len() - place;
        let excess = self.sums.get(place).map_or(0.0, |sum| (sum - count(above) * ratio).max(0.0));
        let of_next = BEYOND * self.next_above(ratio) + (self.largest() - ratio).max(0.0);
        (excess + of_next + PRIOR_RUNS * prior_excess(ratio)) / (count(self.sorted.len()) + 1.0 + PRIOR_RUNS)
    }

    /// Variance of the logarithm of a run's latency, the tail aside: robust, by the quartiles' distance over 1.349.
    pub(super) fn noise(&self) -> f64 {
        let all = self.sorted.len();
        if all < NOISE_MIN {
            return NOISE;
        }
        let deviation = (self.sorted[all * 3 / 4].ln() - self.sorted[all / 4].ln()) / 1.349;
        (deviation * deviation).clamp(NOISE_RANGE.0, NOISE_RANGE.1)
    }

    /// The survival function whatever the odds of the next run.
    fn seen(&self, ratio: f64) -> f64 {
        let above = self.sorted.len() - self.sorted.partition_point(|&residual| residual <= ratio);
        (count(above) + self.next_above(ratio) + PRIOR_RUNS * prior(ratio))
            / (count(self.sorted.len()) + 1.0 + PRIOR_RUNS)
    }

    fn largest(&self) -> f64 {
        self.sorted.last().copied().unwrap_or(PRIOR_FROM)
    }

    /// The odds that the next run exceeds a ratio if it exceeds all before it.
    fn next_above(&self, ratio: f64) -> f64 {
        let over = ratio - self.largest();
        if over > 0.0 { (-over / BEYOND).exp() } else { 1.0 }
    }

    fn insert(&mut self, ratio: f64) {
        if self.ring.len() < WINDOW {
            self.ring.push(ratio);
        } else {
            self.remove(self.ring[self.next]);
            self.ring[self.next] = ratio;
        }
        self.next = (self.next + 1) % WINDOW;
        let place = self.sorted.partition_point(|&residual| residual <= ratio);
        self.sorted.insert(place, ratio);
        self.changed = self.changed.max(place + 1);
    }

    fn remove(&mut self, ratio: f64) {
        let place = self.sorted.partition_point(|&residual| residual < ratio);
        debug_assert!(self.sorted.get(place) == Some(&ratio), "what is removed was there");
        if place < self.sorted.len() {
            self.sorted.remove(place);
            self.changed = self.changed.max(place + 1);
        }
    }

    /// What follows from the residuals.
    fn refit(&mut self) {
        self.forget_answers();
        self.odds = self.odds_now();
        if let Some(gaussian) = &mut self.gaussian {
            *gaussian = Gaussian::of(&self.sorted);
        } else {
            self.add_up();
        }
        self.mean = self.excess(0.0);
    }

    /// The sums. Above what was taken out and put in they are as they were, unless there are more than before.
    fn add_up(&mut self) {
        let (all, changed) = (self.sorted.len(), std::mem::take(&mut self.changed));
        let changed = if self.sums.len() == all { changed.min(all) } else { all };
        self.sums.resize(all, 0.0);
        let mut sum = self.sums.get(changed).copied().unwrap_or(0.0);
        for (kept, residual) in self.sums[..changed].iter_mut().zip(&self.sorted[..changed]).rev() {
            sum += residual;
            *kept = sum;
        }
    }

    fn forget_answers(&self) {
        self.asked.iter().chain([&self.asked_excess]).for_each(|asked| asked.set((0.0, 0.0)));
    }

    fn odds_now(&self) -> f64 {
        let odds = |p: f64| p / (1.0 - p);
        let (runs, again) = self.after_late;
        let share = (again + BURST_PRIOR * LATE) / (runs + BURST_PRIOR);
        let burst = if self.was_late { (odds(share) / odds(LATE)).clamp(1.0, BURST_ODDS) } else { 1.0 };
        (burst * (1.0 + self.doubt)).clamp(1.0, ODDS)
    }
}

impl Gaussian {
    /// Of the residuals and the prior.
    fn of(residuals: &[f64]) -> Self {
        let (of, prior_mean) = (count(residuals.len()) + PRIOR_RUNS, PRIOR_FROM + PRIOR_MEAN);
        let mean = (residuals.iter().sum::<f64>() + PRIOR_RUNS * prior_mean) / of;
        let squares: f64 = residuals.iter().map(|residual| (residual - mean).powi(2)).sum();
        let of_prior = PRIOR_RUNS * (PRIOR_MEAN.powi(2) + (prior_mean - mean).powi(2));
        Self { mean, deviation: ((squares + of_prior) / of).sqrt().max(DEVIATION_MIN) }
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

/// P(R > ratio) by the prior.
fn prior(ratio: f64) -> f64 {
    let over = ratio - PRIOR_FROM;
    if over > 0.0 { (-over / PRIOR_MEAN).exp() } else { 1.0 }
}

/// E[max(R - ratio, 0)] by the prior.
fn prior_excess(ratio: f64) -> f64 {
    PRIOR_MEAN * prior(ratio) + (PRIOR_FROM - ratio).max(0.0)
}

/// The ratio above `largest` where the next run and the prior have `most` left: by Newton's method, from below, since
/// the function falls and is convex up to where the prior begins to fall and beyond.
fn beyond(largest: f64, most: f64) -> f64 {
    let mut ratio = if most < PRIOR_RUNS { largest.max(PRIOR_FROM) } else { largest };
    for _ in 0..64 {
        let falling = ratio >= PRIOR_FROM;
        let (next, wide) = ((-(ratio - largest) / BEYOND).exp(), PRIOR_RUNS * prior(ratio));
        let slope = next / BEYOND + if falling { wide / PRIOR_MEAN } else { 0.0 };
        let step = (next + wide - most) / slope;
        ratio += step;
        if !falling {
            ratio = ratio.min(PRIOR_FROM);
        }
        if step <= 1e-9 * ratio {
            break;
        }
    }
    ratio
}

/// The ratio that all but a share `late` stay below by the prior.
fn prior_quantile(late: f64) -> f64 {
    if late >= 1.0 { 0.0 } else { PRIOR_FROM - PRIOR_MEAN * late.max(f64::MIN_POSITIVE).ln() }
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
