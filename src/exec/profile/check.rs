//! Whether a variant is as accurate on this device as its manifest says: right answers to the model's labelled sample,
//! beside the claim. Pure.
//!
//! Neither figure is exact. The sample is small, and what the claim was counted on was larger, but has an end, too. So
//! the claim counts as the lower end of its interval (Wilson's, three standard deviations), and a variant is wrong here if
//! one as accurate as that would answer so few rightly less than once in 740 times, by the binomial distribution: exact for
//! few items as well, where such intervals are not. A ladder on several units is judged some dozen times, and hardly ever
//! one that is right is accused.
//!
//! A sample can be easier or harder than the data behind the claim, by chance or because it was chosen so. Where the
//! manifest says how many of the very sample the variant got right where it was made (`sample_accuracy`), that is the
//! claim: then the items are the same, and only the device differs.

use serde::{Deserialize, Serialize};

/// Standard deviations to each side of a claim's interval.
const SURE: f64 = 3.0;
/// The part of a normal distribution that lies as far below its middle: how seldom who is right may be accused.
const ODDS: f64 = 0.001_35;
/// Standard deviations of an interval of 95 %, to be shown.
const SHOWN: f64 = 1.96;
/// Nothing is always right: a claim of more counts as this.
const MOST: f64 = 0.995;

/// Right answers among labelled items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// Right ones.
    pub right: u32,
    /// All; at least 1.
    pub items: u32,
}

/// What a manifest says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// Accuracy, 0 to 1.
    pub accuracy: f64,
    /// Items that it was counted on, where that is known; otherwise it is taken as exact.
    pub items: Option<u32>,
}

impl Checked {
    /// Share of right answers.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        f64::from(self.right) / f64::from(self.items.max(1))
    }

    /// The accuracy on all items like these, at 95 %.
    #[must_use]
    pub fn interval(&self) -> (f64, f64) {
        wilson(self.accuracy(), self.items, SHOWN)
    }

    /// Compares it with what the manifest says.
    ///
    /// # Errors
    /// If it is less by more than chance: both figures, with their intervals.
    pub fn judge(&self, claim: Claim) -> Result<(), String> {
        let exact = (claim.accuracy, claim.accuracy);
        let (least, most) = claim.items.map_or(exact, |items| wilson(claim.accuracy, items, SURE));
        // Written so that NaN fails.
        let likely = if least > MOST { MOST } else { least };
        if self.odds(likely) >= ODDS {
            return Ok(());
        }
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        let (low, high) = self.interval();
        Err(format!(
            "right for {} of {} items of the check set, {} % ({} to {} at 95 %), where its manifest says {} % ({} to {})",
            self.right,
            self.items,
            percent(self.accuracy()),
            percent(low),
            percent(high),
            percent(claim.accuracy),
            percent(least),
            percent(most),
        ))
    }

    /// The odds that no more answers are right if each is with probability `p`.
    fn odds(&self, p: f64) -> f64 {
        if p <= 0.0 {
            return 1.0;
        }
        // Of the binomial distribution's terms the logarithms: the first may be too small for a number.
        let mut ln_term = f64::from(self.items) * (1.0 - p).ln();
        let mut sum = ln_term.exp();
        for right in 1..=self.right {
            let ways = f64::from(self.items - right + 1) / f64::from(right);
            ln_term += (ways * p / (1.0 - p)).ln();
            sum += ln_term.exp();
        }
        sum
    }
}

/// Wilson's score interval of a share of `items`, `z` standard deviations to each side.
fn wilson(share: f64, items: u32, z: f64) -> (f64, f64) {
    let n = f64::from(items.max(1));
    let middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};

    fn checked(right: u32, items: u32) -> Checked {
        Checked { right, items }
    }

    /// 81 of 263: Newcombe (1998) gives 0.2553 to 0.3662 for the score method at 95 %.
    #[test]
    fn the_interval_is_wilsons() {
        let (low, high) = checked(81, 263).interval();
        assert!((low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4, "{low} {high}");
        // 0 of 20: 0 to 0.1611.
        let (low, high) = checked(0, 20).interval();
        assert!(low == 0.0 && (high - 0.1611).abs() < 1e-4, "{low} {high}");
        assert_eq!(checked(5, 5).interval().1, 1.0);
    }

    #[test]
    fn chance_is_no_fault_and_a_broken_variant_is_one() {
        let claim = Claim { accuracy: 0.934, items: Some(10_000) };
        assert_eq!(checked(239, 256).judge(claim), Ok(()), "93.4 %");
        assert_eq!(checked(230, 256).judge(claim), Ok(()), "89.8 %: 3.6 points less, which chance may be");
        let reason = checked(200, 256).judge(claim).unwrap_err();
        for part in ["200 of 256", "78.1 %", "93.4 %"] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        assert!(checked(26, 256).judge(claim).is_err(), "guesses among ten classes");
        assert_eq!(checked(256, 256).judge(claim), Ok(()), "better is no fault");
    }

    /// At 0.926, the lower end of that claim: 0.074^3 = 0.0004, and 3 x 0.926 x 0.074^2 + 0.0004 = 0.0156.
    #[test]
    fn few_items_tell_little() {
        let claim = Claim { accuracy: 0.934, items: Some(10_000) };
        assert_eq!(checked(0, 1).judge(claim), Ok(()), "7 % of the time");
        assert_eq!(checked(1, 3).judge(claim), Ok(()), "1.6 % of the time");
        assert!(checked(0, 3).judge(claim).is_err());
        assert!((checked(1, 3).odds(0.926) - 0.0156).abs() < 1e-4);
        assert!((checked(5, 5).odds(0.3) - 1.0).abs() < 1e-12);
        assert!((checked(2_000, 10_000).odds(0.2) - 0.5).abs() < 0.01, "half of them");
        let perfect = Claim { accuracy: 1.0, items: None };
        assert_eq!(checked(254, 256).judge(perfect), Ok(()), "nothing is always right");
        assert!(checked(200, 256).judge(perfect).is_err());
        assert_eq!(checked(0, 256).judge(Claim { accuracy: 0.0, items: None }), Ok(()));
    }

    #[test]
    fn a_claim_that_rests_on_few_items_says_less() {
        let exact = Claim { accuracy: 0.95, items: None };
        let few = Claim { accuracy: 0.95, items: Some(40) };
        assert!(checked(400, 500).judge(exact).is_err());
        assert_eq!(checked(400, 500).judge(few), Ok(()));
    }

    #[test]
    fn a_claim_that_is_no_number_is_not_kept() {
        assert!(checked(9, 10).judge(Claim { accuracy: f64::NAN, items: None }).is_err());
    }

    /// A ladder of 7 on 3 units is judged 21 times: of those that are as accurate as they say, next to none is accused.
    #[test]
    fn the_innocent_are_not_accused() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut accused = 0;
        for _ in 0..4_000 {
            let truth = rng.random_range(0.5..0.99);
            let mut count = |items: u32| (0..items).filter(|_| rng.random_bool(truth)).count();
            let (right, claimed) = (count(256), count(4_000));
            let claim =
                Claim { accuracy: f64::from(u32::try_from(claimed).unwrap()) / 4_000.0, items: Some(4_000) };
            accused += u32::from(checked(u32::try_from(right).unwrap(), 256).judge(claim).is_err());
        }
        assert!(accused <= 20, "{accused} of 4,000; 5 or fewer are expected");
    }
}
