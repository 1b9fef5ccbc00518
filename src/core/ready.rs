//! Where idle clocks stay because the next request could not be answered in time from lower ones.
//!
//! A clock takes its time to rise, and a run that begins meanwhile goes slowly. Where a stream's deadlines leave no time
//! for that, the domains of one unit rest between its requests at the lowest clocks from which they do, until the stream
//! has ended.

use super::Core;
use crate::core::catalog::{DomainId, UnitId, VariantId};
use crate::core::energy::Objective;
use crate::core::estimate::Outlook;
use crate::core::plan::{Cost, SHORT};
use crate::core::points::{OperatingPoint, Points, domains_of};
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

/// Runs of a variant on a unit that begin while its clocks rise to the highest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rise<'a> {
    cost: &'a Cost,
    outlook: Outlook<'a>,
    points: &'a Points,
    /// How long each of the two clocks takes to change, s.
    settle_s: [f64; 2],
    items: u32,
    /// The highest operating point that may be chosen, and expected seconds there.
    top: usize,
    fast_s: f64,
}

impl Rise<'_> {
    /// Expected seconds at an operating point.
    fn seconds(&self, point: usize) -> f64 {
        self.cost.latency(point, self.items).as_secs_f64() * self.outlook.slowdown(point)
    }

    /// Expected latency if they are in force from the start.
    pub(super) fn fastest(&self) -> Nanos {
        Nanos::from_f64(self.cost.latency(self.top, self.items).as_f64() * self.outlook.slowdown(self.top))
    }

    /// Expected energy at the operating point that takes the least by the board's power model, J.
    pub(super) fn least_joules(&self) -> f64 {
        let point = self.cost.front.first().copied().unwrap_or(self.top);
        self.seconds(point) * self.outlook.busy_watts(point)
    }

    /// Expected seconds from an operating point.
    fn seconds_from(&self, from: usize) -> f64 {
        self.seconds_after(from, self.settle_s)
    }

    /// The same where the two clocks are through with their change after so many seconds.
    pub(super) fn seconds_after(&self, from: usize, left_s: [f64; 2]) -> f64 {
        let (low, high) = (self.points.parts(from), self.points.parts(self.top));
        let settle_s = |clock: usize| if low[clock] == high[clock] { 0.0 } else { left_s[clock] };
        let settle_s = settle_s(0).max(settle_s(1));
        if settle_s <= 0.0 {
            return self.fast_s;
        }
        let slow_s = self.seconds(from);
        if slow_s <= settle_s { slow_s } else { settle_s + (1.0 - settle_s / slow_s) * self.fast_s }
    }
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
                let Some(rise) = self.rise(variant, unit, request.items) else { continue };
                let unlucky = self.estimates.quantile(variant, unit, 1.0 - self.risks[unit.index()].miss);
                let in_time = |luck: f64| move |&from: &usize| rise.seconds_from(from) * luck <= time_s;
                if in_time(unlucky.max(1.0))(&0) || self.estimates.is_guess(&self.catalog, variant, unit) {
                    return None;
                }
                // Slow memory first: it rests low for less.
                let mut rows = (0..memories).step_by(memories.saturating_sub(1).max(1));
                let from = rows.find_map(|memory| {
                    let downwards = (0..clocks).rev().map(|clock| points.index([clock, memory]));
                    downwards.take_while(in_time(unlucky.max(1.0))).last()
                });
                let Some(from) = from.or_else(|| Some(points.top()).filter(in_time(1.0))) else { continue };
                let watts = self.estimates.busy_watts_at_point(variant, unit, from);
                if best.is_none_or(|(least, ..)| watts < least) {
                    best = Some((watts, unit, from));
                }
            }
        }
        best.map(|(_, unit, from)| (unit, self.costs.points(unit).at(from)))
    }

    /// Runs at the highest clocks that there are now, which are asked for as they begin; `None` where the variant may not run.
    pub(super) fn rise(&self, variant: VariantId, unit: UnitId, items: u32) -> Option<Rise<'_>> {
        let settle = |domain: Option<DomainId>| domain.map_or(0.0, |it| self.clocks.settle(it).as_secs_f64());
        let settle_s = domains_of(&self.catalog.board, unit).map(settle);
        let (outlook, points) = (self.estimates.outlook(variant, unit), self.costs.points(unit));
        let cost = self.costs.of(variant, unit)?;
        let highest = |domain: Option<DomainId>| {
            let choices = |domain| self.clocks.choices(&self.catalog.board, domain, &self.snapshot);
            domain.map_or(0, |domain| choices(domain).end.saturating_sub(1))
        };
        let top = points.index(domains_of(&self.catalog.board, unit).map(highest));
        let mut rise = Rise { cost, outlook, points, settle_s, items, top, fast_s: 0.0 };
        rise.fast_s = rise.seconds(top);
        Some(rise)
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
