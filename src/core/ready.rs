//! Where idle clocks stay because the next request could not be answered in time from lower ones.
//!
//! A clock takes its time to rise, and a run that begins meanwhile goes slowly. Where a stream's deadlines leave no time
//! for that, the domains of one unit rest between its requests at the lowest clocks from which they do, until the stream
//! has ended.

use super::Core;
use crate::core::catalog::{DomainId, UnitId, VariantId};
use crate::core::energy::Objective;
use crate::core::plan::SHORT;
use crate::core::points::{OperatingPoint, domains_of};
use crate::core::queue::Waiting;
use crate::core::thermal::Regime;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A stream has ended when it was silent for so many of its mean gaps, within these bounds.
const ENDED: u64 = 4;
const LEAST: Nanos = Nanos::from_secs(1);
const LONGEST: Nanos = Nanos::from_secs(60);
/// Mean deviations by which the next request may come before its beat. Gaps between frames that come up to so much too
/// early or too late deviate by three mean deviations at most.
const EARLY: u64 = 3;

/// What a model's requests want to find.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Ready {
    unit: UnitId,
    point: OperatingPoint,
    /// From when on, if that is to come.
    from: Option<Timestamp>,
    until: Timestamp,
}

impl Core {
    /// Takes note of where the clocks must rest for requests like that to be in time.
    pub(super) fn make_ready(&mut self, waiting: &Waiting) {
        let model = waiting.request.model;
        let silent = self.estimates.rhythm(model).map_or(0, |rhythm| rhythm.gap.0.saturating_mul(ENDED));
        let until = waiting.arrival.after(Nanos(silent.clamp(LEAST.0, LONGEST.0)));
        let next = self.estimates.rhythm(model).map_or(waiting.arrival, |rhythm| rhythm.next(EARLY));
        self.ready[model.index()] = self.rest_for(waiting).map(|(unit, point)| {
            let domains = domains_of(&self.catalog.board, unit).into_iter().flatten();
            let settle = domains.map(|domain| self.clocks.settle(domain)).max();
            Ready { unit, point, from: Some(next.before(settle.unwrap_or_default())), until }
        });
    }

    /// The unit, and the lowest clocks, from which a request like that is in time; `None` if any clocks will do, or none.
    fn rest_for(&self, waiting: &Waiting) -> Option<(UnitId, OperatingPoint)> {
        let (request, time_s) = (&waiting.request, waiting.deadline.since(waiting.arrival).as_secs_f64());
        let mut best: Option<(f64, UnitId, usize)> = None;
        for unit in (0..self.lanes.len()).map(UnitId::at) {
            let points = self.costs.points(unit);
            let [clocks, memories] = points.each().map(<[Kilohertz]>::len);
            for &variant in &self.catalog.models[request.model.index()].variants {
                if !waiting.accepts(&self.catalog, variant) {
                    continue;
                }
                let Some(lowest_s) = self.seconds_from(variant, unit, request.items, 0) else { continue };
                let unlucky = self.estimates.quantile(variant, unit, 1.0 - self.risks[unit.index()].miss);
                if lowest_s * unlucky.max(1.0) <= time_s
                    || self.estimates.is_guess(&self.catalog, variant, unit)
                {
                    return None;
                }
                let in_time = |luck: f64| {
                    move |&from: &usize| {
                        let seconds = self.seconds_from(variant, unit, request.items, from);
                        seconds.is_some_and(|seconds| seconds * luck <= time_s)
                    }
                };
                // Slow memory first: it rests low for less.
                let all = [0, memories - 1]
                    .into_iter()
                    .flat_map(|memory| (0..clocks).map(move |clock| points.index([clock, memory])));
                let from = all.clone().find(in_time(unlucky.max(1.0)));
                let Some(from) = from.or_else(|| Some(points.top()).filter(in_time(1.0))) else { continue };
                let watts = self.estimates.busy_watts_at_point(variant, unit, from);
                if best.is_none_or(|(least, ..)| watts < least) {
                    best = Some((watts, unit, from));
                }
            }
        }
        best.map(|(_, unit, from)| (unit, self.costs.points(unit).at(from)))
    }

    /// Expected seconds of a run at the highest clocks that are asked for as it begins, from others.
    pub(super) fn seconds_from(
        &self,
        variant: VariantId,
        unit: UnitId,
        items: u32,
        from: usize,
    ) -> Option<f64> {
        let points = self.costs.points(unit);
        let seconds = |point: usize| {
            let profiled = self.costs.latency(variant, unit, point, items)?;
            Some(profiled.as_secs_f64() * self.estimates.slowdown_at_point(variant, unit, point))
        };
        let (parts, top, fast_s) = (points.parts(from), points.parts(points.top()), seconds(points.top())?);
        let domains = domains_of(&self.catalog.board, unit).into_iter().zip(parts).zip(top);
        let changes = domains.filter(|((_, from), to)| from != to).filter_map(|((domain, _), _)| domain);
        let settles = changes.map(|domain| self.clocks.settle(domain));
        let Some(settle_s) = settles.max().map(Nanos::as_secs_f64) else { return Some(fast_s) };
        let slow_s = seconds(from)?;
        Some(if slow_s <= settle_s { slow_s } else { settle_s + (1.0 - settle_s / slow_s) * fast_s })
    }

    /// By domain, the clock below which it must not rest now.
    pub(super) fn floors(&mut self, now: Timestamp) -> SmallVec<[Option<Kilohertz>; 8]> {
        let mut floors = SmallVec::from_elem(None, self.catalog.board.domains.len());
        for ready in &mut self.ready {
            *ready = ready.filter(|ready| ready.until > now);
            if let Some(ready) = ready {
                ready.from = ready.from.filter(|from| *from > now);
            }
        }
        // A budget that is short comes first.
        let able = self.thermal.regime() == Regime::Nominal
            && self.budgets.objective == Objective::LeastEnergy
            && self.ledger.device_fill() >= SHORT;
        for ready in self.ready.iter().flatten().filter(|ready| able && ready.from.is_none()) {
            let domains = domains_of(&self.catalog.board, ready.unit).into_iter().zip(ready.point.clocks());
            for (domain, clock) in domains {
                let Some(domain) = domain else { continue };
                let floor: &mut Option<Kilohertz> = &mut floors[DomainId::index(domain)];
                *floor = (*floor).max(Some(clock));
            }
        }
        floors
    }

    /// When clocks are to be raised for a stream, or one ends.
    pub(super) fn next_ready(&self) -> Option<Timestamp> {
        self.ready.iter().flatten().map(|ready| ready.from.unwrap_or(ready.until)).min()
    }
}
