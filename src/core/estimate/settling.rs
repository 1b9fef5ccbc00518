//! How long clocks take to change, by the runs that begin before one has.
//!
//! Of such a run the work done by time `T` depends on when the change came: `w_k(T) = T_before/L_before + T_after/L_after`,
//! if it took `k` times what the board file says. The right `k` is the one for which runs are as slow as others are on that
//! processor, so several are kept with their odds, `p_k <- p_k P(w_k)`, what is seen counting for a hundred runs or so
//! (a discrete Bayes filter; Särkkä, *Bayesian Filtering and Smoothing*, 2013, section 4.2).

use serde::{Deserialize, Serialize};
/// Times what the board file says that are held possible; less is never reckoned with.
const FACTORS: [f64; 8] = [1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0];
/// Before anything is seen each next one is so much less likely, in logarithms of odds.
const UNLIKELY: f64 = 2.0;
/// What is seen is forgotten at this rate.
const FORGOTTEN: f64 = 0.01;
/// Odds that a run is slow or fast for a reason of its own.
const STRAY: f64 = 0.05;
/// Variance of the logarithm of a slowdown: of one run's, and of all of them before any is seen.
const OF_RUNS: f64 = 0.01;
const BEFORE: f64 = 0.09;
/// What is known of the slowdown of runs whose clocks were in force is forgotten at this rate, by other runs.
const AGEING: f64 = 0.02;

/// A clock change that a run may have begun before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::core) struct ClockChange {
    /// When it was asked for, s after the start of the run.
    pub(in crate::core) asked_s: f64,
    /// How long it takes by the board file, s.
    pub(in crate::core) settle_s: f64,
    /// Work per second before and after it.
    pub(in crate::core) paces: [f64; 2],
}

impl ClockChange {
    /// Work done after `s` seconds if the change takes so many times what the board file says.
    fn work(&self, s: f64, factor: f64) -> f64 {
        let before_s = (self.asked_s + factor * self.settle_s).clamp(0.0, s);
        before_s * self.paces[0] + (s - before_s) * self.paces[1]
    }

    /// Whether it was through before the run began, whatever it took.
    pub(in crate::core) fn is_past(&self) -> bool {
        self.asked_s + FACTORS[FACTORS.len() - 1] * self.settle_s <= 0.0
    }
}

/// How long one domain's clock takes to change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settling {
    /// Logarithms of the odds of each factor, the best at zero.
    ln_odds: [f64; FACTORS.len()],
    /// Logarithm of the slowdown of runs whose clocks were in force, and its variance.
    slowdown: (f64, f64),
}

impl Default for Settling {
    fn default() -> Self {
        let mut ln_odds = [0.0; FACTORS.len()];
        ln_odds.iter_mut().zip(0u8..).for_each(|(odds, steps)| *odds = prior(steps));
        Self { ln_odds, slowdown: (0.0, BEFORE) }
    }
}

fn prior(steps: u8) -> f64 {
    -UNLIKELY * f64::from(steps)
}

impl Settling {
    /// A run ended after so many seconds, or was stopped before its end.
    pub(super) fn observe(&mut self, change: &ClockChange, took_s: f64, ended: bool) {
        if !(took_s > 0.0 && took_s.is_finite()) {
            return;
        }
        let works = FACTORS.map(|factor| change.work(took_s, factor).ln());
        if works.iter().any(|work| !work.is_finite()) {
            return;
        }
        let (mean, variance) = self.slowdown;
        if change.is_past() {
            if ended {
                let gain = variance / (variance + OF_RUNS);
                self.slowdown = (mean + gain * (works[0] - mean), (1.0 - gain) * variance + AGEING * OF_RUNS);
            }
            return;
        }
        self.slowdown = (mean * (1.0 - AGEING), variance + AGEING * (BEFORE - variance));
        for ((odds, steps), work) in self.ln_odds.iter_mut().zip(0u8..).zip(works) {
            let deviation = (work - mean) / (variance + OF_RUNS).sqrt();
            let likelihood = if ended {
                (-0.5 * deviation * deviation).exp()
            } else {
                // The normal distribution's, within 0.01 (Bowling et al., JIEM 2(1), 2009).
                1.0 / (1.0 + (1.702 * deviation).exp())
            };
            *odds += (STRAY + (1.0 - STRAY) * likelihood).ln() + FORGOTTEN * (prior(steps) - *odds);
        }
        let best = self.ln_odds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.ln_odds.iter_mut().for_each(|odds| *odds -= best);
    }

    /// How many times as long as the board file says a change takes.
    pub(super) fn factor(&self) -> f64 {
        let all: f64 = self.ln_odds.iter().map(|odds| odds.exp()).sum();
        let mean_ln: f64 =
            self.ln_odds.iter().zip(FACTORS).map(|(odds, factor)| odds.exp() * factor.ln()).sum();
        (mean_ln / all).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE_S: f64 = 1e-3;

    /// A run at a quarter of the pace until `factor` times the settling time has passed, for so much work.
    fn run(settling: &mut Settling, factor: f64, asked_s: f64, work: f64) {
        let change = ClockChange { asked_s, settle_s: SETTLE_S, paces: [50.0, 200.0] };
        let before_s = (asked_s + factor * SETTLE_S).max(0.0);
        let slow_s = work / change.paces[0];
        let took_s = if slow_s <= before_s {
            slow_s
        } else {
            before_s + (work - before_s * change.paces[0]) / change.paces[1]
        };
        settling.observe(&change, took_s, true);
    }

    #[test]
    fn before_anything_is_seen_the_board_file_is_believed() {
        let factor = Settling::default().factor();
        assert!((1.0..1.4).contains(&factor), "{factor}");
    }

    #[test]
    fn what_runs_show_is_learned_and_unlearned() {
        let mut settling = Settling::default();
        (0..20).for_each(|_| run(&mut settling, 10.0, 0.0, 1.0));
        assert!((6.0..16.0).contains(&settling.factor()), "{}", settling.factor());
        (0..40).for_each(|_| run(&mut settling, 1.0, 0.0, 1.0));
        assert!(settling.factor() < 1.4, "{}", settling.factor());
    }

    #[test]
    fn runs_that_are_all_slower_say_nothing_of_the_clocks() {
        let mut settling = Settling::default();
        for _ in 0..30 {
            run(&mut settling, 1.0, -1.0, 1.6);
            run(&mut settling, 1.0, 0.0, 1.6);
        }
        assert!(settling.factor() < 1.4, "{}", settling.factor());
    }

    #[test]
    fn a_run_that_was_stopped_tells_that_it_was_not_done() {
        let mut settling = Settling::default();
        let change = ClockChange { asked_s: 0.0, settle_s: SETTLE_S, paces: [50.0, 200.0] };
        (0..20).for_each(|_| settling.observe(&change, 10e-3, false));
        assert!(settling.factor() > 4.0, "{}", settling.factor());
    }

    #[test]
    fn nothing_absurd_is_learned() {
        let mut settling = Settling::default();
        for took_s in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let change = ClockChange { asked_s: 0.0, settle_s: SETTLE_S, paces: [50.0, 200.0] };
            settling.observe(&change, took_s, true);
        }
        assert_eq!(settling, Settling::default());
    }
}
