//! What the causal oracle knows of the requests to come: the odds, not the dice. Of periodic streams that is when the
//! next ones are due; of others how many there are on average, so that there is time for them.

use crate::core::catalog::ModelId;
use crate::core::energy::Budgets;
use crate::core::event::Request;
use crate::sim::{Arrivals, Stream};
use crate::time::Timestamp;
use crate::units::{Nanos, Ppm};

/// Requests of each stream that are looked ahead at.
const AHEAD: u64 = 8;

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// When it comes at the earliest.
    pub(super) from: Timestamp,
    /// Its deadline if it comes then.
    pub(super) deadline: Timestamp,
    pub(super) model: ModelId,
    pub(super) items: u32,
    pub(super) floor: Ppm,
    pub(super) target: Ppm,
    /// Most that it may be later.
    pub(super) jitter: Nanos,
    /// Whether it is sure to come then, or only as many in a while.
    pub(super) sure: bool,
}

#[derive(Debug, Clone)]
struct Series {
    stream: Stream,
    latency: Nanos,
    floor: Ppm,
    target: Ppm,
    period: Nanos,
    jitter: Nanos,
    sure: bool,
    /// Start of the period of the next request, if that is sure.
    next: Timestamp,
}

/// The expected arrivals.
#[derive(Debug, Clone)]
pub(super) struct Outlook {
    series: Vec<Series>,
}

impl Outlook {
    pub(super) fn new(streams: &[Stream], budgets: &Budgets) -> Self {
        let series = streams.iter().filter_map(|stream| {
            // Inside a spike the period is another.
            if !stream.spikes.is_empty() {
                return None;
            }
            let (period, jitter, sure) = match stream.arrivals {
                Arrivals::Periodic { period, jitter } => (period, jitter, true),
                Arrivals::Poisson { per_s } => (Nanos::from_secs_f64(1.0 / per_s), Nanos::ZERO, false),
                Arrivals::Bursts { every, size } => {
                    (Nanos(every.0 / u64::from(size.max(1))), Nanos::ZERO, false)
                }
                Arrivals::Trace(_) => return None,
            };
            let class = budgets.classes.get(usize::from(stream.class.0)).unwrap_or(&budgets.classes[0]);
            let floor = stream.min_accuracy.unwrap_or(class.min_accuracy);
            Some(Series {
                latency: stream.deadline.unwrap_or(class.latency),
                floor,
                target: class.accuracy_target.unwrap_or(floor).max(floor),
                period: period.max(Nanos(1)),
                jitter,
                sure,
                next: stream.from,
                stream: stream.clone(),
            })
        });
        Self { series: series.collect() }
    }

    /// A request has come: the next of its stream is a period later.
    pub(super) fn arrived(&mut self, now: Timestamp, request: &Request) {
        let fits = |series: &&mut Series| {
            let stream = &series.stream;
            series.sure
                && (stream.app, stream.class, stream.model) == (request.app, request.class, request.model)
                && (series.next..=series.next.after(series.jitter)).contains(&now)
        };
        if let Some(series) = self.series.iter_mut().find(fits) {
            series.next = series.next.after(series.period);
        }
    }

    /// Forgets requests that should have come.
    pub(super) fn pass(&mut self, now: Timestamp) {
        for series in &mut self.series {
            let last = series.next.after(series.jitter);
            if series.sure && last < now {
                let missed = now.since(last).0.div_ceil(series.period.0);
                series.next = series.next.after(Nanos(series.period.0.saturating_mul(missed)));
            }
        }
    }

    /// The requests that are due, by deadline.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Due> {
        let mut all = Vec::new();
        for series in &self.series {
            for ahead in 0..AHEAD {
                let next = if series.sure { series.next } else { now.after(series.period).max(series.next) };
                let from = next.after(Nanos(series.period.0.saturating_mul(ahead))).max(now);
                if from >= series.stream.until {
                    break;
                }
                let deadline = from.after(series.latency);
                let Series { stream, floor, target, jitter, .. } = series;
                let (floor, target, jitter, sure) = (*floor, *target, *jitter, series.sure);
                let (model, items) = (stream.model, stream.items);
                all.push(Due { from, deadline, model, items, floor, target, jitter, sure });
            }
        }
        all.sort_by_key(|due| due.deadline);
        all
    }
}
