//! What the core learns while it runs: how much slower (or faster) each unit and variant is than its
//! profile says, how heavy the tail of that error is, and how far the board's power model is off.
//!
//! Latency: `ln(actual / profile)` is split into a bias per variant and unit, learned with gain `1/n` down to
//! a floor, and a slowdown per unit, tracked by a scalar Kalman filter whose process noise adapts to the
//! innovations as in ALERT (Wan et al., ATC'20, `Q = max(Q0, alpha Q + (1-alpha) (K y)^2)`, alpha 0.3).
//! Tail: see [`crate::core::tail`].

use crate::core::catalog::{Catalog, Provenance, UnitId, VariantId};
use crate::core::tail::Tail;
use crate::core::tuning::Tuning;
use crate::time::Timestamp;
use crate::units::{Microwatts, Nanos};

const ALPHA: f64 = 0.3;
const PROCESS_NOISE: f64 = 1e-4;
const OBSERVATION_NOISE: f64 = 1e-3;
/// Two innovations in a row beyond this many standard deviations are a step, not noise.
const STEP_SIGMAS: f64 = 3.0;
const BIAS_GAIN_FLOOR: f64 = 0.02;
/// Runs that a hard deadline may be risked on while there is only a guess, which errs to the slow side: refusing
/// them all would leave it a guess for ever.
const RISKED_RUNS: u32 = 3;
/// How much faster than a guess a run may well be.
pub(super) const GUESS_FACTOR: u64 = 10;
/// A power correction older than this says nothing about now.
const POWER_MEMORY: Nanos = Nanos::from_secs(10);
/// Share of a sweep without work that goes into the idle power: it follows within seconds.
const IDLE_GAIN: f64 = 0.05;
/// Bounds of the measured idle power, relative to the board file's.
const IDLE_RANGE: (f64, f64) = (0.2, 5.0);
/// Modelled busy power below this share of the board's cannot be told from its noise.
const POWER_SIGNAL: f64 = 0.1;

#[derive(Debug, Clone)]
struct Slowdown {
    ln_factor: f64,
    variance: f64,
    process_noise: f64,
    outliers: u32,
    tail: Tail,
}

impl Slowdown {
    fn new(tuning: Tuning) -> Self {
        Self {
            ln_factor: 0.0,
            variance: 0.1,
            process_noise: PROCESS_NOISE,
            outliers: 0,
            tail: Tail::new(tuning.gaussian_tail),
        }
    }

    fn observe(&mut self, innovation: f64) {
        let predicted = self.variance + self.process_noise;
        let sigma = (predicted + OBSERVATION_NOISE).sqrt();
        self.outliers = if innovation.abs() > STEP_SIGMAS * sigma { self.outliers + 1 } else { 0 };
        // The first outlier may be a hiccup: it counts little. The second is a step: it counts fully.
        let gain = match self.outliers {
            0 => predicted / (predicted + OBSERVATION_NOISE),
            1 => 0.1,
            _ => 0.9,
        };
        self.ln_factor += gain * innovation;
        self.variance = (1.0 - gain) * predicted;
        let moved = gain * innovation;
        self.process_noise = (ALPHA * self.process_noise + (1.0 - ALPHA) * moved * moved).max(PROCESS_NOISE);
        self.tail.remember(innovation.exp());
    }

    fn outlasted(&mut self, ratio: f64) {
        let sigma = (self.variance + self.process_noise + OBSERVATION_NOISE).sqrt();
        self.outliers = if ratio.ln() > STEP_SIGMAS * sigma { self.outliers + 1 } else { 0 };
        self.tail.remember(Tail::outlasting(ratio));
    }
}

#[derive(Debug, Clone, Copy)]
struct Bias {
    ln_factor: f64,
    observations: u32,
    /// Runs begun.
    begun: u32,
    /// Metered over profiled power.
    power: f64,
    metered: u32,
}

impl Default for Bias {
    fn default() -> Self {
        Self { ln_factor: 0.0, observations: 0, begun: 0, power: 1.0, metered: 0 }
    }
}

/// The estimators.
#[derive(Debug, Clone)]
pub struct Estimates {
    units: Vec<Slowdown>,
    biases: Vec<Vec<Bias>>,
    power_scale: f64,
    power_scaled_at: Option<Timestamp>,
    idle_w: f64,
    board_idle_w: f64,
}

impl Estimates {
    /// Nothing learned yet.
    #[must_use]
    pub fn new(catalog: &Catalog) -> Self {
        Self::tuned(catalog, Tuning::default())
    }

    /// The same with parts of the estimators turned off.
    #[must_use]
    pub fn tuned(catalog: &Catalog, tuning: Tuning) -> Self {
        let units = catalog.board.units.len();
        Self {
            units: vec![Slowdown::new(tuning); units],
            biases: vec![vec![Bias::default(); units]; catalog.variants.len()],
            power_scale: 1.0,
            power_scaled_at: None,
            idle_w: catalog.board.idle_power.as_watts(),
            board_idle_w: catalog.board.idle_power.as_watts(),
        }
    }

    /// Power of the board with nothing running: from the board file, then as measured. A hot board leaks
    /// more, and others draw from the same supply.
    #[must_use]
    pub fn idle_power(&self) -> Microwatts {
        Microwatts::from_watts(self.idle_w)
    }

    /// Actual over profiled latency, as expected now.
    #[must_use]
    pub fn slowdown(&self, variant: VariantId, unit: UnitId) -> f64 {
        let bias = self.biases[variant.index()][unit.index()].ln_factor;
        (bias + self.units[unit.index()].ln_factor).exp()
    }

    /// P(actual / expected latency > `ratio`), where expected is the profile's times [`Estimates::slowdown`].
    #[must_use]
    pub fn survival(&self, _variant: VariantId, unit: UnitId, ratio: f64) -> f64 {
        self.units[unit.index()].tail.survival(ratio)
    }

    /// The ratio of actual to expected latency that a run stays below with probability `p`.
    #[must_use]
    pub fn quantile(&self, _variant: VariantId, unit: UnitId, p: f64) -> f64 {
        self.units[unit.index()].tail.quantile(p)
    }

    /// E[max(R - `ratio`, 0)] of the ratio R of actual to expected latency.
    #[must_use]
    pub fn mean_excess(&self, unit: UnitId, ratio: f64) -> f64 {
        self.units[unit.index()].tail.mean_excess(ratio)
    }

    /// Runs observed of this variant on this unit.
    #[must_use]
    pub fn observations(&self, variant: VariantId, unit: UnitId) -> u32 {
        self.biases[variant.index()][unit.index()].observations
    }

    /// A run begins.
    pub fn begin(&mut self, variant: VariantId, unit: UnitId) {
        let begun = &mut self.biases[variant.index()][unit.index()].begun;
        *begun = begun.saturating_add(1);
    }

    /// Whether the latency of this variant on this unit is a guess that still has to be tried.
    #[must_use]
    pub fn is_guess(&self, catalog: &Catalog, variant: VariantId, unit: UnitId) -> bool {
        let bias = &self.biases[variant.index()][unit.index()];
        let profile = &catalog.variants[variant.index()].profiles[unit.index()];
        bias.observations == 0
            && bias.begun < RISKED_RUNS
            && profile.is_some_and(|profile| profile.latency_source == Provenance::Conservative)
    }

    /// A run took `actual` where the profile says `profiled`.
    pub fn observe_latency(&mut self, variant: VariantId, unit: UnitId, profiled: Nanos, actual: Nanos) {
        if profiled == Nanos::ZERO || actual == Nanos::ZERO {
            return;
        }
        let observed = (actual.as_f64() / profiled.as_f64()).ln();
        let bias = &mut self.biases[variant.index()][unit.index()];
        let slowdown = &mut self.units[unit.index()];
        let innovation = observed - bias.ln_factor - slowdown.ln_factor;
        if bias.observations == 0 {
            // The first run of a variant corrects its profile; it says little about the unit.
            bias.ln_factor += innovation;
        } else {
            let gain = (1.0 / f64::from(bias.observations + 1)).max(BIAS_GAIN_FLOOR);
            bias.ln_factor += gain * innovation * 0.5;
            slowdown.observe(innovation * (1.0 - gain * 0.5));
        }
        bias.observations = bias.observations.saturating_add(1);
    }

    /// A run was cancelled after `elapsed`, where the profile says `profiled` for the whole run. It counts in the tail
    /// as one that took as long as those do that take so long, unless nothing was out of the ordinary by then. How
    /// slow the unit is it does not say, but if the next run is an outlier, too, that is a step.
    pub fn observe_longer(&mut self, variant: VariantId, unit: UnitId, profiled: Nanos, elapsed: Nanos) {
        let expected = profiled.as_f64() * self.slowdown(variant, unit);
        if expected > 0.0 && elapsed.as_f64() >= 0.9 * expected {
            self.units[unit.index()].outlasted(elapsed.as_f64() / expected);
        }
    }

    /// Power over the profile's, as metered runs of this variant on this unit showed it.
    #[must_use]
    pub fn power_bias(&self, variant: VariantId, unit: UnitId) -> f64 {
        self.biases[variant.index()][unit.index()].power
    }

    /// A meter saw a run draw `metered` joules where the profile says `profiled`.
    pub fn observe_energy(&mut self, variant: VariantId, unit: UnitId, profiled_j: f64, metered_j: f64) {
        if !(profiled_j > 0.0 && metered_j >= 0.0) {
            return;
        }
        let bias = &mut self.biases[variant.index()][unit.index()];
        let gain = (1.0 / f64::from(bias.metered + 1)).max(BIAS_GAIN_FLOOR);
        bias.power += gain * ((metered_j / profiled_j).clamp(0.05, 20.0) - bias.power);
        bias.metered = bias.metered.saturating_add(1);
    }

    /// A new profile replaces what was learned about the old one.
    pub fn forget(&mut self, variant: VariantId, unit: UnitId) {
        self.biases[variant.index()][unit.index()] = Bias::default();
    }

    /// The board drew `measured` over an interval in which the models say `idle` plus `busy`.
    pub fn observe_power(
        &mut self,
        measured: Microwatts,
        idle: Microwatts,
        busy: Microwatts,
        now: Timestamp,
    ) {
        if busy == Microwatts::ZERO {
            let (low, high) = (self.board_idle_w * IDLE_RANGE.0, self.board_idle_w * IDLE_RANGE.1);
            self.idle_w += IDLE_GAIN * (measured.as_watts().clamp(low, high) - self.idle_w);
        }
        if busy.as_f64() < POWER_SIGNAL * idle.as_f64().max(1.0) {
            return;
        }
        let ratio = (measured.saturating_sub(idle).as_f64() / busy.as_f64()).clamp(0.2, 5.0);
        self.power_scale += 0.05 * (ratio - self.power_scale);
        self.power_scaled_at = Some(now);
    }

    /// Busy power relative to the models.
    #[must_use]
    pub fn power_scale(&self) -> f64 {
        self.power_scale
    }

    /// Whether attributed energy rests on a recent measurement or on the models alone.
    #[must_use]
    pub fn power_source(&self, now: Timestamp) -> Provenance {
        match self.power_scaled_at {
            Some(at) if now.since(at) <= POWER_MEMORY => Provenance::Measured,
            _ => Provenance::Modelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_absorbed_within_three_observations() {
        let mut slowdown = Slowdown::new(Tuning::default());
        (0..50).for_each(|i| slowdown.observe(if i % 2 == 0 { 0.01 } else { -0.01 } - slowdown.ln_factor));
        let step = 2f64.ln();
        (0..3).for_each(|_| slowdown.observe(step - slowdown.ln_factor));
        // 0.1 of the step, then 0.9 of the rest, twice: 1 - 0.9 * 0.1 * 0.1 = 99 %.
        assert!((slowdown.ln_factor - step).abs() < 0.05 * step, "{}", slowdown.ln_factor.exp());
    }

    #[test]
    fn one_hiccup_does_not_move_the_estimate_much() {
        let mut slowdown = Slowdown::new(Tuning::default());
        (0..50).for_each(|_| slowdown.observe(-slowdown.ln_factor));
        slowdown.observe(1.0);
        assert!(slowdown.ln_factor <= 0.1 + 1e-9);
    }
}
