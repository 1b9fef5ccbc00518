//! Admission: whether a request may join the queue.
//!
//! A request with a hard deadline is admitted only if a schedule exists that keeps every hard deadline: the
//! queue in order of urgency, each request on the unit where it finishes first at its fastest, starting
//! when that unit is expected to be free. Requests with soft deadlines are always taken in while the queue
//! has room; they are late rather than refused.

use super::Core;
use crate::core::catalog::{DomainId, UnitId};
use crate::core::estimate::GUESS_FACTOR;
use crate::core::event::{Outcome, Rejection, Request, RequestId};
use crate::core::points::{OperatingPoint, domains_of};
use crate::core::queue::Waiting;
use crate::core::thermal::Regime;
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos, Ppm};
use smallvec::SmallVec;

type Verdict = Result<Waiting, (Rejection, Option<Nanos>)>;

impl Core {
    /// Puts a request into the queue, or turns it away with the reason.
    pub(super) fn submit(&mut self, now: Timestamp, request: Request) {
        let id = request.id;
        // Callers resolve names to ids; a journal or a fuzzer may hold any.
        if request.model.index() >= self.catalog.models.len() || request.items == 0 {
            let outcome = Outcome::Rejected { reason: Rejection::NoCandidate, retry_after: None };
            self.effects.push_back(crate::core::event::Effect::Reply { request: id, outcome });
            return;
        }
        self.residency.used(request.model, now);
        self.watch_arrival(now, &request);
        let verdict = self.fit_in(now, request).and_then(|waiting| self.admit(now, waiting));
        match verdict {
            Ok(waiting) => self.queue.push(waiting),
            Err((reason, retry_after)) => {
                let outcome = Outcome::Rejected { reason, retry_after };
                self.effects.push_back(crate::core::event::Effect::Reply { request: id, outcome });
            }
        }
    }

    /// The request as it would wait, if there is room and something that serves it.
    fn fit_in(&self, now: Timestamp, request: Request) -> Verdict {
        if self.draining {
            return Err((Rejection::Draining, None));
        }
        let room = self.queue.room_for(request.app, self.budgets.queue_limit, self.budgets.app_limit);
        room.map_err(|reason| (reason, Some(self.drain_time(now))))?;
        let mut waiting = self.with_defaults(now, request);
        self.find_fastest(now, &mut waiting)?;
        if self.thermal.regime() == Regime::Critical {
            return Err((Rejection::TooHot, Some(Nanos::from_secs(5))));
        }
        Ok(waiting)
    }

    /// Turns it away if a hard deadline would be missed.
    fn admit(&mut self, now: Timestamp, mut waiting: Waiting) -> Verdict {
        // Whoever is turned away is told to come again.
        let span = waiting.deadline.since(now);
        self.estimates.arrived(waiting.request.model, now, span, &waiting.usual);
        self.make_ready(&waiting);
        let mut late = self.lateness(now, &waiting);
        if late.is_some() && waiting.hard && self.doubt_slowdowns(now) {
            self.find_fastest(now, &mut waiting)?;
            late = self.lateness(now, &waiting);
        }
        late = late.filter(|_| !self.make_way(now, &waiting) && waiting.hard);
        late.map_or(Ok(waiting), |(late, _)| Err((Rejection::DeadlineUnreachable, Some(late))))
    }

    /// Forgets the slowdowns of idle processors that no run has shown for a while; true if there were any.
    fn doubt_slowdowns(&mut self, now: Timestamp) -> bool {
        let mut some = false;
        for unit in (0..self.lanes.len()).map(UnitId::at) {
            let idle = self.running(unit).is_none() && !self.processor_taken(unit);
            some |= idle && self.estimates.doubt(unit, now);
        }
        some
    }

    /// The request with its class's defaults.
    pub(super) fn with_defaults(&self, now: Timestamp, request: Request) -> Waiting {
        let class = self.budgets.class(&request);
        let floor = request.min_accuracy.unwrap_or(class.min_accuracy);
        let class_target = class.accuracy_target.unwrap_or(Ppm::ZERO);
        Waiting {
            arrival: now,
            deadline: request.deadline.unwrap_or(now.after(class.latency)),
            hard: request.deadline.is_some(),
            floor,
            // A client that names its accuracy gets it as cheaply as possible.
            target: request.min_accuracy.unwrap_or(class_target).max(floor),
            max_energy: request.max_energy.or(class.energy_per_request),
            priority: request.priority.unwrap_or(class.priority),
            fastest: SmallVec::new(),
            usual: SmallVec::new(),
            least: Microjoules::ZERO,
            late: false,
            spent: Microjoules::ZERO,
            gave_way: false,
            request,
        }
    }

    pub(super) fn find_fastest(
        &self,
        now: Timestamp,
        waiting: &mut Waiting,
    ) -> Result<(), (Rejection, Option<Nanos>)> {
        let request = &waiting.request;
        let model = &self.catalog.models[request.model.index()];
        let units = self.catalog.board.units.len();
        let mut fastest: SmallVec<[Nanos; 4]> = SmallVec::from_elem(Nanos::MAX, units);
        let mut usual = fastest.clone();
        let ways: SmallVec<[(usize, [f64; 2]); 4]> =
            (0..units).map(|unit| self.way_to_the_top(UnitId::at(unit), now)).collect();
        let mut least_j = f64::INFINITY;
        let (mut runnable, mut accurate, mut affordable) = (false, false, request.variant.is_none());
        for &variant in &model.variants {
            if request.variant.is_some_and(|only| only != variant) {
                continue;
            }
            for (unit, best) in fastest.iter_mut().enumerate() {
                let id = UnitId::at(unit);
                let Some(rise) = self.rise(variant, id, request.items) else { continue };
                runnable = true;
                if self.catalog.variants[variant.index()].accuracy < waiting.floor {
                    continue;
                }
                accurate = true;
                affordable |= self.affordable(waiting, variant, id);
                least_j = least_j.min(rise.least_joules());
                let run = rise.fastest();
                let mean = self.estimates.mean_excess(id, 0.0);
                let (present, left_s) = ways[unit];
                let raised = Nanos::from_secs_f64(rise.seconds_after(present, left_s) * mean);
                let guess = self.estimates.is_guess(&self.catalog, variant, id);
                let part = if guess { GUESS_FACTOR } else { 1 };
                let run = Nanos(run.0 / part);
                *best = (*best).min(Nanos(raised.0 / part));
                if self.catalog.variants[variant.index()].accuracy >= waiting.target {
                    usual[unit] = usual[unit].min(run);
                }
            }
        }
        let none = usual.iter().all(|latency| *latency == Nanos::MAX);
        waiting.usual = if none { fastest.clone() } else { usual };
        affordable |= request.variant.is_none() && self.any_affordable(waiting);
        waiting.fastest = fastest;
        waiting.least = Microjoules::from_f64(if least_j.is_finite() { least_j * 1e6 } else { 0.0 });
        match (runnable, accurate, affordable) {
            (false, _, _) => Err((Rejection::NoCandidate, None)),
            (_, false, _) => Err((Rejection::AccuracyUnreachable, None)),
            (_, _, false) => Err((Rejection::EnergyUnreachable, None)),
            _ => Ok(()),
        }
    }

    /// Index of the operating point that a unit runs at as far as known, and how long each of its clocks takes from there
    /// to the highest, s. On their way they still hold up who goes first; who comes later finds them where they go.
    fn way_to_the_top(&self, unit: UnitId, now: Timestamp) -> (usize, [f64; 2]) {
        let board = &self.catalog.board;
        let is_first = self.queue.is_empty() && self.running(unit).is_none() && !self.processor_taken(unit);
        let way = |domain: DomainId| {
            let opps = &board.domains[domain.index()].opps;
            let choices = self.clocks.choices(board, domain, &self.snapshot);
            let top = opps.get(choices.end.checked_sub(1)?)?;
            self.clocks.way_to(domain, *top, &self.snapshot, now)
        };
        let from = domains_of(board, unit).map(|domain| {
            let (domain, present) = (domain?, self.clocks.present(domain?, &self.snapshot)?);
            let way = if is_first { way(domain) } else { Some((present, self.clocks.settle(domain))) };
            Some(way.map_or((present, 0.0), |(clock, left)| (clock, left.as_secs_f64())))
        });
        let [(clock, left_s), (memory, memory_left_s)] = from.map(Option::unwrap_or_default);
        let present = self.costs.points(unit).nearest_below(OperatingPoint { clock, memory });
        (present, [left_s, memory_left_s])
    }

    fn any_affordable(&self, waiting: &Waiting) -> bool {
        let variants = &self.catalog.models[waiting.request.model.index()].variants;
        let units = 0..self.catalog.board.units.len();
        variants
            .iter()
            .any(|&variant| units.clone().any(|unit| self.affordable(waiting, variant, UnitId::at(unit))))
    }

    /// Whether some clock of the unit serves the request within its energy.
    fn affordable(&self, waiting: &Waiting, variant: crate::core::catalog::VariantId, unit: UnitId) -> bool {
        let Some(limit) = waiting.max_energy else { return true };
        self.energies(waiting, variant, unit).any(|energy| energy <= limit.as_f64())
    }

    /// Profiled energy of a request on a unit at each of its clocks, microjoules; none where it may not run.
    fn energies(
        &self,
        waiting: &Waiting,
        variant: crate::core::catalog::VariantId,
        unit: UnitId,
    ) -> impl Iterator<Item = f64> {
        let points = 0..self.costs.points(unit).len();
        points.filter_map(move |opp| {
            let latency = self.costs.latency(variant, unit, opp, waiting.request.items)?;
            Some(latency.as_secs_f64() * self.estimates.busy_watts_at_point(variant, unit, opp) * 1e6)
        })
    }

    /// The least energy for which a variant that would do serves a request, by the profiles.
    pub(super) fn cheapest(&self, waiting: &Waiting) -> Option<Microjoules> {
        let variants = self.catalog.models[waiting.request.model.index()].variants.iter();
        let units = 0..self.catalog.board.units.len();
        variants
            .filter(|&&variant| waiting.accepts(&self.catalog, variant))
            .flat_map(|&variant| units.clone().map(move |unit| (variant, UnitId::at(unit))))
            .flat_map(|(variant, unit)| self.energies(waiting, variant, unit))
            .map(Microjoules::from_f64)
            .min()
    }

    /// By how much the deadline of `new` or a hard one would be missed if it joined the queue, and whose; `None` if none
    /// would.
    pub(super) fn lateness(&self, now: Timestamp, new: &Waiting) -> Option<(Nanos, RequestId)> {
        let mut free_at = self.soonest_free_times(now);
        let urgency = |one: &Waiting| (one.priority, one.late, one.deadline);
        let before = |other: &Waiting| urgency(other) <= urgency(new);
        let earlier = self.queue.iter().filter(|other| before(other));
        let later = self.queue.iter().filter(|other| !before(other));
        let mut worst: Option<(Nanos, RequestId)> = None;
        for waiting in earlier.chain(std::iter::once(new)).chain(later) {
            let Some(finish) = self.place(waiting, 1.0, &mut free_at) else { continue };
            let own = waiting.request.id == new.request.id;
            // What was late before the newcomer is not its fault.
            if finish > waiting.deadline && (own || waiting.hard && !before(waiting)) {
                let late = (finish.since(waiting.deadline), waiting.request.id);
                worst = worst.max(Some(late));
            }
        }
        worst
    }

    /// Puts a request on the unit where it finishes first if it takes so many times its shortest; returns when.
    pub(super) fn place(&self, waiting: &Waiting, luck: f64, free_at: &mut [Timestamp]) -> Option<Timestamp> {
        let finishes = waiting.fastest.iter().enumerate().filter(|(_, latency)| **latency != Nanos::MAX);
        let (unit, finish) = finishes
            .map(|(unit, &latency)| (unit, free_at[unit].after(Nanos::from_f64(latency.as_f64() * luck))))
            .min_by_key(|&(_, finish)| finish)?;
        let units = &self.catalog.board.units;
        for (other, free) in free_at.iter_mut().enumerate() {
            if units[other].group == units[unit].group {
                *free = finish;
            }
        }
        Some(finish)
    }

    /// When the queue will have been worked off, as a hint for a retry.
    fn drain_time(&self, now: Timestamp) -> Nanos {
        let mut free_at = self.free_times(now);
        let finishes = self.queue.iter().filter_map(|waiting| self.place(waiting, 1.0, &mut free_at));
        finishes.max().map_or(Nanos::from_millis(1), |finish| finish.since(now))
    }
}
