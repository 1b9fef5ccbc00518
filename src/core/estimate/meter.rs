//! How far off predictions are.

use serde::{Deserialize, Serialize};

/// Weight of the newest prediction once many were judged.
const GAIN_FLOOR: f64 = 0.02;
/// Predictions after which the error counts as known.
const KNOWN: u64 = 8;
/// No single prediction counts as further off than this.
const ERROR_MAX: f64 = 10.0;

/// The mean absolute relative error of predictions: of all of them at first, of the latest fifty or so later.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Meter {
    /// Mean of `|predicted - actual| / actual`.
    pub error: f64,
    /// Predictions judged.
    pub observations: u64,
}

impl Meter {
    /// Judges a prediction; one of nothing, or by nothing, is not judged.
    pub fn observe(&mut self, predicted: f64, actual: f64) {
        if !(actual.abs() > f64::MIN_POSITIVE && predicted.is_finite() && actual.is_finite()) {
            return;
        }
        let error = ((predicted - actual) / actual).abs().min(ERROR_MAX);
        self.observations = self.observations.saturating_add(1);
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let gain = (1.0 / self.observations as f64).max(GAIN_FLOOR);
        self.error += gain * (error - self.error);
    }

    /// Whether enough predictions were judged to say so.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.observations >= KNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_mean_of_the_relative_errors() {
        let mut meter = Meter::default();
        // 10 % and 30 %: 20 %.
        meter.observe(1.1, 1.0);
        meter.observe(1.4, 2.0);
        assert!((meter.error - 0.2).abs() < 1e-12, "{meter:?}");
        assert!(!meter.is_known());
        (0..6).for_each(|_| meter.observe(1.2, 1.0));
        assert!(meter.is_known() && (meter.error - 0.2).abs() < 1e-12, "{meter:?}");
    }

    #[test]
    fn nothing_is_judged_by_nothing() {
        let mut meter = Meter::default();
        for (predicted, actual) in [(1.0, 0.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            meter.observe(predicted, actual);
        }
        assert_eq!(meter, Meter::default());
    }
}
