//! How a run goes over time: at which clock, so how fast, and at what power.
//!
//! Measured in *work*: one unit of it is what the run is expected to take, whatever the clock. At a clock where
//! the expected latency is `L`, work is done at the pace `1/L`, so that by time `t` the run has done
//! `w(t) = ∫ dt/L(f(t))`, clock changes under way included. A run whose actual latency is `R` times the expected
//! one, at any clock, ends when `w(t) = R`. With the distribution of `R` that makes
//!
//! - the odds to be still running at `t`: `P(R > w(t))`;
//! - the expected time in a stretch of the course from work `u` to `v`: `L (E[(R-u)+] - E[(R-v)+])`, and its
//!   energy that times the stretch's power. (PACE, Lorch and Smith, SIGMETRICS'01, from the same odds.)

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Stretches that are kept apart; beyond that the last one is overwritten.
const MOST: usize = 8;

/// A stretch at one clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Stretch {
    /// When it begins, seconds from the start of the run.
    from_s: f64,
    /// Work per second.
    pace: f64,
    /// Power above idle.
    watts: f64,
}

/// The course of a run from its start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Course(SmallVec<[Stretch; 4]>);

impl Course {
    /// All at one clock, where the run takes `seconds`.
    pub(crate) fn steady(seconds: f64, watts: f64) -> Self {
        let mut course = Self::default();
        course.change(0.0, seconds, watts);
        course
    }

    /// From `from_s` on the run would take `seconds` as a whole, at `watts`. What was to come after is dropped.
    pub(crate) fn change(&mut self, from_s: f64, seconds: f64, watts: f64) {
        while self.0.last().is_some_and(|last| last.from_s >= from_s) || self.0.len() >= MOST {
            self.0.pop();
        }
        let from_s = if self.0.is_empty() { 0.0 } else { from_s };
        self.0.push(Stretch { from_s, pace: 1.0 / seconds.max(1e-9), watts });
    }

    /// Stretches with their ends, the last one cut at `end_s`.
    fn until(&self, end_s: f64) -> impl Iterator<Item = (Stretch, f64)> {
        let all = self.0.as_slice();
        let begun = all.iter().enumerate().take_while(move |(_, stretch)| stretch.from_s < end_s);
        begun.map(move |(place, stretch)| {
            let next = all.get(place + 1).map_or(f64::INFINITY, |next| next.from_s);
            (*stretch, next.min(end_s))
        })
    }

    /// Work done after `s` seconds.
    pub(crate) fn work(&self, s: f64) -> f64 {
        self.until(s).map(|(stretch, end)| (end - stretch.from_s) * stretch.pace).sum()
    }

    /// When so much work is done, s.
    pub(crate) fn when(&self, work: f64) -> f64 {
        let mut left = work.max(0.0);
        for (stretch, end) in self.until(f64::INFINITY) {
            let span = left / stretch.pace;
            if stretch.from_s + span <= end {
                return stretch.from_s + span;
            }
            left -= (end - stretch.from_s) * stretch.pace;
        }
        f64::INFINITY
    }

    /// The share of the first `s` seconds that the stretch at their end takes up.
    pub(crate) fn steadiness(&self, s: f64) -> f64 {
        self.until(s).last().map_or(0.0, |(stretch, end)| (end - stretch.from_s) / s)
    }

    /// Whether the last change has come within the first `s` seconds.
    pub(crate) fn has_settled(&self, s: f64) -> bool {
        self.0.last().is_some_and(|last| last.from_s < s)
    }

    /// Energy drawn in the first `s` seconds, J.
    pub(crate) fn joules(&self, s: f64) -> f64 {
        self.between(0.0, s)
    }

    /// Energy drawn between two moments, J.
    pub(crate) fn between(&self, from_s: f64, until_s: f64) -> f64 {
        let parts =
            self.until(until_s).map(|(stretch, end)| (stretch.watts, end - stretch.from_s.max(from_s)));
        parts.filter(|(_, span)| *span > 0.0).map(|(watts, span)| watts * span).sum()
    }

    /// Expected seconds and joules of a run that is cut at `end_s` (infinite: never).
    pub(crate) fn expect(&self, end_s: f64, mean_excess: impl Fn(f64) -> f64) -> (f64, f64) {
        let (mut work, mut excess) = (0.0, mean_excess(0.0));
        let (mut seconds, mut joules) = (0.0, 0.0);
        for (stretch, end) in self.until(end_s) {
            work += (end - stretch.from_s) * stretch.pace;
            let left = if work.is_finite() { mean_excess(work) } else { 0.0 };
            let span = (excess - left).max(0.0) / stretch.pace;
            seconds += span;
            joules += span * stretch.watts;
            excess = left;
        }
        (seconds, joules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 ms at 1 W until 50 ms, then 50 ms at 4 W.
    fn boosted() -> Course {
        let mut course = Course::steady(0.1, 1.0);
        course.change(0.05, 0.05, 4.0);
        course
    }

    #[test]
    fn work_adds_up_over_the_stretches() {
        // Half of it in 50 ms, then 20 a second.
        assert!((boosted().work(0.05) - 0.5).abs() < 1e-12);
        assert!((boosted().work(0.075) - 1.0).abs() < 1e-12);
        assert!((boosted().when(0.5) - 0.05).abs() < 1e-12 && (boosted().when(1.0) - 0.075).abs() < 1e-12);
        assert!((boosted().joules(0.075) - (0.05 + 0.1)).abs() < 1e-12);
        assert!((boosted().between(0.025, 0.06) - (0.025 + 0.04)).abs() < 1e-12);
    }

    #[test]
    fn a_run_that_takes_exactly_the_expected_time_costs_what_its_stretches_do() {
        let exact = |ratio: f64| (1.0 - ratio).max(0.0);
        let (seconds, joules) = boosted().expect(f64::INFINITY, exact);
        assert!((seconds - 0.075).abs() < 1e-12 && (joules - 0.15).abs() < 1e-12, "{seconds} s, {joules} J");
        // Cut at 60 ms: 50 ms at 1 W and 10 ms at 4 W.
        let (seconds, joules) = boosted().expect(0.06, exact);
        assert!((seconds - 0.06).abs() < 1e-12 && (joules - 0.09).abs() < 1e-12, "{seconds} s, {joules} J");
    }

    #[test]
    fn two_outcomes_are_weighed_by_their_odds() {
        // R is 0.4 or 1.4, evenly: 40 ms at 1 W, or 50 ms at 1 W and 45 ms at 4 W.
        let excess = |ratio: f64| 0.5 * (0.4 - ratio).max(0.0) + 0.5 * (1.4 - ratio).max(0.0);
        let (seconds, joules) = boosted().expect(f64::INFINITY, excess);
        assert!((seconds - (0.5 * 0.04 + 0.5 * 0.095)).abs() < 1e-12, "{seconds}");
        assert!((joules - (0.5 * 0.04 + 0.5 * 0.23)).abs() < 1e-12, "{joules}");
    }

    #[test]
    fn a_change_drops_what_was_to_come_and_the_number_is_bounded() {
        let mut course = boosted();
        course.change(0.02, 0.2, 2.0);
        assert!((course.work(0.12) - (0.2 + 0.5)).abs() < 1e-12);
        (0..100u32).for_each(|n| course.change(1.0 + f64::from(n), 0.1, 1.0));
        assert!(course.0.len() <= MOST);
    }
}
