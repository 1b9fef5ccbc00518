//! What may be risked on a unit.
//!
//! The odds to miss that a plan may have adapt to what came of it, `eps <- eps + gamma (target - missed)`
//! (Gibbs and Candes, NeurIPS'21): whatever the distribution of the latencies, over a long time one in
//! `1/target` is missed, and after a miss the next plans are careful. So do the odds to be rescued: if more
//! runs are rescued than was planned for, the odds are worse than they seem.

use serde::{Deserialize, Serialize};
/// Share of misses aimed at.
pub(super) const MISSES: f64 = 1e-3;
/// Gain of the share of misses.
const MISS_GAIN: f64 = 0.01;
/// Bounds of the odds to miss that a plan may have.
const MISS_RANGE: (f64, f64) = (1e-4, 2e-3);
/// Gain of the trust in the odds to be rescued.
const TRUST_GAIN: f64 = 0.05;
/// A run without a rescue counts as one that was not rescued at these odds, so that trust comes back.
const PLAIN_ODDS: f64 = 0.02;
/// Bounds of that trust.
const TRUST_RANGE: (f64, f64) = (0.1, 1.0);

/// Levels of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Risk {
    /// Odds to miss that a plan may have.
    pub miss: f64,
    /// Share of the allowed odds to be rescued that is made use of.
    pub trust: f64,
}

impl Default for Risk {
    fn default() -> Self {
        Self { miss: MISSES, trust: TRUST_RANGE.1 }
    }
}

impl Risk {
    /// An answer was given, in time or not.
    pub(in crate::core) fn answered(&mut self, missed: bool) {
        let error = MISSES - f64::from(u8::from(missed));
        self.miss = (self.miss + MISS_GAIN * error).clamp(MISS_RANGE.0, MISS_RANGE.1);
    }

    /// A run that was to be rescued with these odds, if at all, was, or was not.
    pub(in crate::core) fn ran(&mut self, odds: Option<f64>, rescued: bool) {
        let error = odds.unwrap_or(PLAIN_ODDS) - f64::from(u8::from(rescued));
        self.trust = (self.trust + TRUST_GAIN * error).clamp(TRUST_RANGE.0, TRUST_RANGE.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_makes_careful_and_a_thousand_answers_in_time_bold_again() {
        let mut risk = Risk::default();
        risk.answered(true);
        assert!(risk.miss <= 1e-4 + 1e-12, "{risk:?}");
        // Each answer in time gives 0.01 * 0.001 back: 90 of them the 9e-4 that were lost.
        (0..91).for_each(|_| risk.answered(false));
        assert!(risk.miss >= MISSES, "{risk:?}");
        (0..10_000).for_each(|_| risk.answered(false));
        assert!(risk.miss <= 2e-3, "{risk:?}");
    }

    #[test]
    fn more_rescues_than_planned_cost_trust() {
        let mut risk = Risk::default();
        (0..20).for_each(|_| risk.ran(Some(0.02), true));
        assert!(risk.trust <= 0.1 + 1e-12, "{risk:?}");
        // 0.001 a run: as many as planned leave it where it is, none bring it back.
        (0..200).for_each(|n| risk.ran(Some(0.02), n % 50 == 0));
        assert!(risk.trust < 0.2, "{risk:?}");
        (0..900).for_each(|_| risk.ran(None, false));
        assert!(risk.trust >= 1.0, "{risk:?}");
    }
}
