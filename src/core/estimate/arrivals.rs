//! How often each model is asked for.

use crate::core::catalog::ModelId;
use crate::time::Timestamp;
use crate::units::Nanos;

/// The mean gap follows with a gain of one in so many.
const MEMORY: u64 = 8;

/// Of one model.
#[derive(Debug, Clone, Copy, Default)]
struct Rhythm {
    last: Option<Timestamp>,
    /// Mean time between two requests, once there were two.
    gap: Option<Nanos>,
}

/// Of all models.
#[derive(Debug, Clone)]
pub(super) struct Arrivals(Vec<Rhythm>);

impl Arrivals {
    pub(super) fn new(models: usize) -> Self {
        Self(vec![Rhythm::default(); models])
    }

    /// A request for a model came.
    pub(super) fn observe(&mut self, model: ModelId, now: Timestamp) {
        let Some(rhythm) = self.0.get_mut(model.index()) else { return };
        if let Some(last) = rhythm.last {
            let gap = now.since(last);
            let mean = rhythm.gap.map_or(gap.0, |mean| mean.0 - mean.0 / MEMORY + gap.0 / MEMORY);
            rhythm.gap = Some(Nanos(mean));
        }
        rhythm.last = Some(now);
    }

    /// The last request and the mean gap, where there were two.
    pub(super) fn rhythm(&self, model: ModelId) -> Option<(Timestamp, Nanos)> {
        let rhythm = self.0.get(model.index())?;
        rhythm.last.zip(rhythm.gap)
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
        arrivals.observe(model, at_ms(10));
        assert_eq!(arrivals.rhythm(model), None);
        arrivals.observe(model, at_ms(50));
        assert_eq!(arrivals.rhythm(model), Some((at_ms(50), Nanos::from_millis(40))));
        // 40 - 40/8 + 120/8.
        arrivals.observe(model, at_ms(170));
        assert_eq!(arrivals.rhythm(model), Some((at_ms(170), Nanos::from_millis(50))));
        assert_eq!(arrivals.rhythm(ModelId::at(0)), None);
        assert_eq!(arrivals.rhythm(ModelId::at(2)), None);
    }
}
