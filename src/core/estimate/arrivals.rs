//! How each model is asked for: how often, how regularly, and what a request is like.

use crate::core::catalog::ModelId;
use crate::time::Timestamp;
use crate::units::Nanos;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// The mean gap and its deviation follow with a gain of one in so many.
const MEMORY: u64 = 8;

/// A stream whose gaps deviate by less than this part of their mean on average keeps a beat.
const BEAT: u64 = 4;

/// Of one model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Rhythm {
    /// The last request.
    pub last: Timestamp,
    /// Mean time between two requests.
    pub gap: Nanos,
    /// Mean absolute deviation of that time.
    pub deviation: Nanos,
    /// Time from the last request's arrival to its deadline.
    pub span: Nanos,
    /// How long it takes at its fastest, by unit; `Nanos::MAX` where it cannot run.
    pub usual: SmallVec<[Nanos; 4]>,
    requests: u32,
}

impl Rhythm {
    /// From when on the next request is reckoned with: so many mean deviations before its beat where the stream keeps
    /// one, else at once.
    #[must_use]
    pub fn next(&self, deviations: u64) -> Timestamp {
        let early = self.gap.0.saturating_sub(self.deviation.0.saturating_mul(deviations));
        if self.keeps_a_beat() { self.last.after(Nanos(early)) } else { self.last }
    }

    fn keeps_a_beat(&self) -> bool {
        self.deviation.0.saturating_mul(BEAT) < self.gap.0
    }

    /// How long the next request is expected to be off: until its beat where the stream keeps one, as long as its mean gap
    /// where it does not; where it has been silent for longer than that, as long again.
    #[must_use]
    pub fn expected_in(&self, now: Timestamp) -> Nanos {
        let silent = now.since(self.last);
        if silent > Nanos(self.gap.0.saturating_add(self.deviation.0)) {
            return silent;
        }
        if self.keeps_a_beat() { self.gap.saturating_sub(silent) } else { self.gap }
    }
}

/// Of all models.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Arrivals(Vec<Rhythm>);

impl Arrivals {
    pub(super) fn new(models: usize) -> Self {
        Self(vec![Rhythm::default(); models])
    }

    /// A request for a model came.
    pub(super) fn observe(&mut self, model: ModelId, now: Timestamp, span: Nanos, usual: &[Nanos]) {
        let Some(rhythm) = self.0.get_mut(model.index()) else { return };
        let follow = |mean: Nanos, value: u64| Nanos(mean.0 - mean.0 / MEMORY + value / MEMORY);
        let gap = now.since(rhythm.last);
        match rhythm.requests {
            0 => {}
            1 => (rhythm.gap, rhythm.deviation) = (gap, gap),
            _ => {
                rhythm.deviation = follow(rhythm.deviation, gap.0.abs_diff(rhythm.gap.0));
                rhythm.gap = follow(rhythm.gap, gap.0);
            }
        }
        rhythm.last = now;
        rhythm.span = span;
        rhythm.usual.clear();
        rhythm.usual.extend_from_slice(usual);
        rhythm.requests = rhythm.requests.saturating_add(1);
    }

    /// How a model is asked for, where there were two requests.
    pub(super) fn rhythm(&self, model: ModelId) -> Option<&Rhythm> {
        self.0.get(model.index()).filter(|rhythm| rhythm.requests > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Timestamp {
        Timestamp::ZERO.after(Nanos::from_millis(ms))
    }

    #[test]
    fn a_gap_takes_two_requests_and_follows_by_an_eighth() {
        let model = ModelId::at(1);
        let mut arrivals = Arrivals::new(2);
        let mut ask = |at| {
            arrivals.observe(model, at_ms(at), Nanos::from_millis(7), &[Nanos(5)]);
            arrivals.rhythm(model).map(|rhythm| (rhythm.last, rhythm.gap, rhythm.deviation))
        };
        assert_eq!(ask(10), None);
        let ms = Nanos::from_millis;
        assert_eq!(ask(50), Some((at_ms(50), ms(40), ms(40))));
        // 40 - 40/8 + 120/8, and 40 - 40/8 + 80/8.
        assert_eq!(ask(170), Some((at_ms(170), ms(50), ms(45))));
        // Gaps vary by as much as they are long: at any moment of the mean gap the next is that far.
        let expected = |ms| arrivals.rhythm(model).map(|rhythm| rhythm.expected_in(at_ms(ms)));
        assert_eq!([expected(170), expected(210)], [Some(ms(50)), Some(ms(50))]);
        assert_eq!(expected(470), Some(ms(300)), "silent for longer than that: as long again");
        assert!(arrivals.rhythm(ModelId::at(0)).is_none());
        assert!(arrivals.rhythm(ModelId::at(2)).is_none());
    }

    #[test]
    fn a_beat_comes_nearer() {
        let (last, gap, deviation) = (at_ms(1_000), Nanos::from_millis(100), Nanos::from_millis(10));
        let beat = Rhythm { last, gap, deviation, ..Rhythm::default() };
        let expected = [1_000, 1_070, 1_105, 1_111].map(|ms| beat.expected_in(at_ms(ms)));
        assert_eq!(expected, [100, 30, 0, 111].map(Nanos::from_millis));
    }
}
