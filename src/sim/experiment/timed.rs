//! A scheduler with a stopwatch.

use crate::core::event::{Effect, Event, Outcome};
use crate::sim::Scheduler;
use crate::time::{Clock, MonotonicClock, Timestamp};
use hdrhistogram::Histogram;

/// Longest decision that is told from a longer one: 100 s.
const LONGEST_NS: u64 = 100_000_000_000;

/// Any scheduler, timed or not. Timing changes nothing of what it does.
pub(super) struct Timed {
    inner: Box<dyn Scheduler + Send>,
    watch: Option<Watch>,
}

struct Watch {
    clock: MonotonicClock,
    decisions: Histogram<u64>,
    /// What the last event took, until it is known to have decided something.
    last_ns: Option<u64>,
}

impl Timed {
    pub(super) fn new(inner: Box<dyn Scheduler + Send>, timed: bool) -> Self {
        let histogram = || Histogram::new_with_max(LONGEST_NS, 3).ok();
        let watch = timed.then(histogram).flatten();
        let watch = watch.map(|decisions| Watch { clock: MonotonicClock::start(), decisions, last_ns: None });
        Self { inner, watch }
    }

    /// Quantile of the time that an event took after which the scheduler dispatched or turned away; in
    /// nanoseconds. `None` if it was not timed or never decided.
    pub(super) fn decision_ns(&self, quantile: f64) -> Option<u64> {
        let decisions = &self.watch.as_ref()?.decisions;
        (!decisions.is_empty()).then(|| decisions.value_at_quantile(quantile))
    }
}

impl Scheduler for Timed {
    fn handle(&mut self, now: Timestamp, event: Event) {
        let Some(watch) = &mut self.watch else { return self.inner.handle(now, event) };
        let begin = watch.clock.now();
        self.inner.handle(now, event);
        watch.last_ns = Some(watch.clock.now().since(begin).0);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.inner.poll_effect()?;
        let decides =
            matches!(effect, Effect::Dispatch(_) | Effect::Reply { outcome: Outcome::Rejected { .. }, .. });
        if decides
            && let Some(watch) = &mut self.watch
            && let Some(ns) = watch.last_ns.take()
        {
            watch.decisions.saturating_record(ns);
        }
        Some(effect)
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        self.inner.next_wakeup()
    }
}
