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
        let beats = self.deviation.0.saturating_mul(BEAT) < self.gap.0;
        let early = self.gap.0.saturating_sub(self.deviation.0.saturating_mul(deviations));
        if beats { self.last.after(Nanos(early)) } else { self.last }
    }
}

/// Of all models.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Arrivals(Vec<Rhythm>);

impl Arrivals {
    /// From now on there are so many models.
    pub(super) fn extend(&mut self, models: usize) {
        self.0.resize(models, Rhythm::default());
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
        let mut arrivals = Arrivals::default();
        arrivals.extend(2);
        let mut ask = |at| {
            arrivals.observe(model, at_ms(at), Nanos::from_millis(7), &[Nanos(5)]);
            arrivals.rhythm(model).map(|rhythm| (rhythm.last, rhythm.gap, rhythm.deviation))
        };
        assert_eq!(ask(10), None);
        let ms = Nanos::from_millis;
        assert_eq!(ask(50), Some((at_ms(50), ms(40), ms(40))));
        // 40 - 40/8 + 120/8, and 40 - 40/8 + 80/8.
        assert_eq!(ask(170), Some((at_ms(170), ms(50), ms(45))));
        assert!(arrivals.rhythm(ModelId::at(0)).is_none());
        assert!(arrivals.rhythm(ModelId::at(2)).is_none());
    }
}
