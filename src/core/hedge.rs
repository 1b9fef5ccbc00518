//! What is done about runs that take long: their programs, carried out by wake-ups.
//!
//! ```text
//!            boost_at: raise the clock          rescue.at: unit can cancel ──Abort──▶ Cancelled ──▶ rescue runs
//! dispatch ──────────┴───────────────────────────┴──────── cannot ──▶ rescue runs on another unit beside it
//! ```
//! A rescue comes earlier than the run itself needs it where those who wait would be late behind it otherwise.
//! A completion that comes first ends the program. Of two batches for the same requests the first answers; the
//! other is stopped if its unit can, else its result is dropped.

use super::lanes::{Member, Running};
use super::plan::{Boost, CANCEL, Course, Rescue, Underway, hasten, soonest};
use super::{Core, HORIZON, share};
use crate::core::catalog::{DomainId, UnitId, VariantId};
use crate::core::estimate::ClockChange;
use crate::core::event::{
    Applied, ApplyReport, BatchId, BatchRequests, ClockBounds, Dispatch, Effect, RequestId,
};
use crate::core::points::{OperatingPoint, domains_of};
use crate::core::queue::Waiting;
use crate::core::thermal::Regime;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microjoules, Nanos};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A rescue to come, or under way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Planned {
    pub(super) at: Timestamp,
    pub(super) rescue: Rescue,
    /// Whether the run was cancelled for it, or the rescue runs beside it.
    pub(super) begun: bool,
    /// Whether it comes earlier than the run itself needs it, for those who wait.
    pub(super) early: bool,
}

/// What is left of a run's program.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Hedges {
    boost: Option<(Timestamp, OperatingPoint)>,
    pub(super) rescue: Option<Planned>,
}

impl Hedges {
    pub(super) fn new(since: Timestamp, boost: Option<Boost>, rescue: Option<Rescue>) -> Self {
        Self {
            boost: boost.map(|boost| (since.after(boost.after), boost.point)),
            rescue: rescue.map(|rescue| Planned {
                at: since.after(rescue.after),
                rescue,
                begun: false,
                early: false,
            }),
        }
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let rescue = self.rescue.filter(|planned| !planned.begun).map(|planned| planned.at);
        [self.boost.map(|(at, _)| at), rescue].into_iter().flatten().min()
    }

    /// The boost, if it is due; once.
    fn take_boost(&mut self, now: Timestamp) -> Option<OperatingPoint> {
        let due = self.boost.filter(|(at, _)| *at <= now)?;
        self.boost = None;
        Some(due.1)
    }

    /// The rescue, if it is due; once.
    fn take_rescue(&mut self, now: Timestamp) -> Option<Rescue> {
        let planned = self.rescue.as_mut().filter(|planned| !planned.begun && planned.at <= now)?;
        planned.begun = true;
        Some(planned.rescue)
    }
}

impl Core {
    /// Does what the programs of the running batches want done by now.
    pub(super) fn carry_out_programs(&mut self, now: Timestamp) {
        for index in 0..self.lanes.len() {
            let Some(running) = self.lanes[index].running.as_mut().filter(|running| !running.aborted) else {
                continue;
            };
            let (boost, rescue) = (running.hedges.take_boost(now), running.hedges.take_rescue(now));
            let unit = UnitId::at(index);
            if let Some(point) = boost {
                self.raise_clocks(unit, point, now);
            }
            if let Some(rescue) = rescue
                && !self.rescue(unit, rescue, now)
                && let Some(running) = &mut self.lanes[index].running
            {
                running.hedges.rescue = None;
            }
        }
    }

    /// Raises the clocks of a unit and its memory; never lowers them.
    fn raise_clocks(&mut self, unit: UnitId, point: OperatingPoint, now: Timestamp) {
        let board_allows = self.thermal.regime() != Regime::Critical && !self.thermal.regime().is_blind();
        let domains = domains_of(&self.catalog.board, unit);
        for (domain, clock) in domains.into_iter().zip(point.clocks()).filter(|_| board_allows) {
            let Some(domain) = domain else { continue };
            if self.clocks.present(domain, &self.snapshot).is_none_or(|present| present < clock) {
                self.pin_clock(domain, clock, now);
            }
        }
    }

    /// Speeds up what runs where those who wait would be late otherwise.
    pub(super) fn hasten(&mut self, now: Timestamp) {
        if self.queue.is_empty() {
            return;
        }
        for unit in (0..self.lanes.len()).map(UnitId::at) {
            if let Some((point, rest)) = self.haste(unit, now) {
                self.raise_clocks(unit, point, now);
                if let Some(running) = &mut self.lanes[unit.index()].running {
                    running.expected = now.after(rest).since(running.since);
                }
            }
        }
    }

    /// Has runs rescued as early as those need it who wait.
    pub(super) fn make_room(&mut self, now: Timestamp) {
        if self.queue.is_empty() {
            return;
        }
        for unit in (0..self.lanes.len()).map(UnitId::at) {
            if let Some(at) = self.earlier_rescue(unit, now)
                && let Some(running) = &mut self.lanes[unit.index()].running
                && let Some(planned) = &mut running.hedges.rescue
            {
                (planned.at, planned.early) = (at, true);
            }
        }
    }

    /// When a unit's run must be cancelled for its rescue so that those who wait are in time behind that, if that is earlier
    /// than planned. Who would be late even if that was done now does not count.
    fn earlier_rescue(&self, unit: UnitId, now: Timestamp) -> Option<Timestamp> {
        let running = self.lanes[unit.index()].running.as_ref().filter(|running| !running.aborted)?;
        let planned =
            running.hedges.rescue.filter(|planned| !planned.begun && planned.rescue.unit == unit)?;
        let spare = planned.at.since(now);
        // From the order to cancel to the end of the rescue, should it take as long as it was planned to take at most.
        let lead = running.deadline()?.since(running.since.after(planned.rescue.after));
        let end = planned.at.after(lead);
        let ends = |other| if other == unit { end } else { self.lanes[UnitId::index(other)].free_at(now) };
        let mut free_at = self.free_times_if(now, ends);
        let luck = self.estimates.quantile(planned.rescue.variant, unit, 1.0 - self.risks[unit.index()].miss);
        let finishes = self.queue.iter().take(HORIZON).filter_map(|waiting| {
            Some((waiting.deadline, self.place(waiting, luck.max(1.0), &mut free_at)?))
        });
        let late = finishes.map(|(deadline, finish)| finish.since(deadline)).filter(|late| *late <= spare);
        late.max().filter(|late| *late > Nanos::ZERO).map(|late| planned.at.before(late))
    }

    /// The operating point that a unit's run should rise to, and how long it then still takes.
    fn haste(&self, unit: UnitId, now: Timestamp) -> Option<(OperatingPoint, Nanos)> {
        let run = self.underway(unit, now)?;
        let behind: SmallVec<[&Waiting; HORIZON]> = self.queue.iter().take(HORIZON).collect();
        let (free_at, domain_busy) = (self.free_times(now), self.busy_domains());
        hasten(&self.view(now, &free_at, &domain_busy, &behind), run)
    }

    /// What runs on a unit and goes on.
    fn underway(&self, unit: UnitId, now: Timestamp) -> Option<Underway> {
        let running = self.lanes[unit.index()].running.as_ref().filter(|running| !running.aborted)?;
        let Dispatch { variant, items, .. } = running.dispatch;
        let index = self.costs.points(unit).nearest_below(running.point);
        let left = running.left(self.estimates.slowdown_at_point(variant, unit, index), now);
        Some(Underway { unit, variant, items, left })
    }

    /// Per unit: when it could be free if what runs was sped up.
    pub(super) fn soonest_free_times(&self, now: Timestamp) -> SmallVec<[Timestamp; 8]> {
        let (free_at, domain_busy) = (self.free_times(now), self.busy_domains());
        let view = self.view(now, &free_at, &domain_busy, &[]);
        self.free_times_if(now, |unit| {
            let usual = self.lanes[unit.index()].free_at(now);
            let run = self.underway(unit, now);
            run.and_then(|run| soonest(&view, run)).map_or(usual, |soonest| soonest.min(usual))
        })
    }

    /// Begins a rescue: cancels the run, or starts the smaller variant beside it. False if it is too late or what
    /// it needs is gone, and the run had better go on.
    fn rescue(&mut self, unit: UnitId, rescue: Rescue, now: Timestamp) -> bool {
        let beside = rescue.unit != unit;
        let free = !beside || self.is_free(rescue.unit);
        let able = free
            && self.thermal.regime() != Regime::Critical
            && self.residency.is_available(rescue.variant, rescue.unit);
        let Some(running) = self.lanes[unit.index()].running.as_ref().filter(|_| able) else { return false };
        let Some(deadline) = running.deadline() else { return false };
        let items = running.unanswered_items();
        let takes = self.expected_latency(rescue.variant, rescue.unit, rescue.point, items);
        if now.after(CANCEL).after(takes) > deadline {
            return false;
        }
        if beside {
            let members = running.unanswered(Microjoules::ZERO, running.since);
            self.run_rescue(rescue, members, now);
        } else {
            // The clock can rise while the run ends.
            self.raise_clocks(unit, rescue.point, now);
            let Some(running) = &mut self.lanes[unit.index()].running else { return false };
            running.aborted = true;
            let batch = running.dispatch.batch;
            self.effects.push_back(Effect::Abort(batch));
        }
        true
    }

    /// Whether a unit and all that shares its processor is free.
    fn is_free(&self, unit: UnitId) -> bool {
        let units = &self.catalog.board.units;
        let group = units[unit.index()].group;
        let probed =
            self.probing.is_some_and(|probing| probing != unit && units[probing.index()].group == group);
        let mut sharing = units.iter().zip(&self.lanes).filter(|(other, _)| other.group == group);
        !probed && sharing.all(|(_, lane)| lane.running.is_none())
    }

    fn expected_latency(&self, variant: VariantId, unit: UnitId, point: OperatingPoint, items: u32) -> Nanos {
        let index = self.costs.points(unit).nearest_below(point);
        let profiled = self.costs.latency(variant, unit, index, items);
        let slowdown = self.estimates.slowdown_at_point(variant, unit, index);
        profiled.map_or(Nanos::MAX, |profiled| Nanos::from_f64(profiled.as_f64() * slowdown))
    }

    /// A run was cancelled: what is to answer in its place starts, or its requests wait again. `spent` is what each
    /// has cost so far.
    pub(super) fn continue_cancelled(
        &mut self,
        now: Timestamp,
        members: SmallVec<[Member; 8]>,
        rescue: Rescue,
    ) {
        let able = self.thermal.regime() != Regime::Critical
            && self.residency.is_available(rescue.variant, rescue.unit)
            && self.is_free(rescue.unit);
        if able {
            return self.run_rescue(rescue, members, now);
        }
        for member in members {
            self.queue.put_back(Waiting { spent: member.spent, ..member.waiting });
        }
    }

    fn run_rescue(&mut self, rescue: Rescue, mut members: SmallVec<[Member; 8]>, now: Timestamp) {
        let Rescue { variant, unit, point, .. } = rescue;
        let items: u32 = members.iter().map(|member| member.waiting.request.items).sum();
        let expected = self.expected_latency(variant, unit, point, items);
        let watts = self.estimates.busy_watts(variant, unit, point);
        let reserved = Microjoules::from_f64(watts * expected.as_secs_f64() * 1e6);
        for member in &mut members {
            member.rescued = true;
            member.reserved = share(reserved, member.waiting.request.items, items);
            self.ledger.reserve(member.waiting.request.class, member.reserved, now);
        }
        let requests: BatchRequests = members.iter().map(|member| member.waiting.request.id).collect();
        let dispatch = Dispatch {
            batch: self.next_batch_id(),
            unit,
            variant,
            requests,
            items,
            point,
            expected,
            reserved,
        };
        self.start(dispatch, members, Hedges::default(), now);
    }

    /// Sets the clock of a batch and sends it to its lane.
    pub(super) fn start(
        &mut self,
        dispatch: Dispatch,
        members: SmallVec<[Member; 8]>,
        hedges: Hedges,
        now: Timestamp,
    ) {
        let Dispatch { unit, variant, point, items, .. } = dispatch;
        let course = self.course_of(variant, unit, point, items, now);
        for (domain, clock) in domains_of(&self.catalog.board, unit).into_iter().zip(point.clocks()) {
            domain.into_iter().for_each(|domain| self.pin_clock(domain, clock, now));
        }
        if let Some(setpoints) = self.clocks.take_pending() {
            self.effects.push_back(Effect::Set(setpoints));
        }
        self.estimates.begin(variant, unit, point, now);
        let mut running = Running::new(dispatch.clone(), members, now, course, hedges);
        running.clock_change = self.begun_in_change(&dispatch, now);
        self.lanes[unit.index()].start(running);
        self.effects.push_back(Effect::Dispatch(dispatch));
    }

    /// The course of a run by the profile, from the clocks in force to those asked for.
    fn course_of(
        &self,
        variant: VariantId,
        unit: UnitId,
        point: OperatingPoint,
        items: u32,
        now: Timestamp,
    ) -> Course {
        let (seconds, watts) = self.pace(variant, unit, point, items);
        let domains = domains_of(&self.catalog.board, unit);
        let way = |domain: Option<DomainId>, to| {
            domain.and_then(|domain| self.clocks.way_to(domain, to, &self.snapshot, now))
        };
        let ways = [way(domains[0], point.clock), way(domains[1], point.memory)];
        let Some(left) = ways.iter().flatten().map(|(_, left)| *left).max() else {
            return Course::steady(seconds, watts);
        };
        let present = |way: Option<(Kilohertz, Nanos)>, to| way.map_or(to, |(clock, _)| clock);
        let present =
            OperatingPoint { clock: present(ways[0], point.clock), memory: present(ways[1], point.memory) };
        let (present_s, present_w) = self.pace(variant, unit, present, items);
        let mut course = Course::steady(present_s, present_w);
        course.change(left.as_secs_f64(), seconds, watts);
        course
    }

    /// The clock change that a run begins during, or its own clock's last; `None` if both of its clocks change.
    fn begun_in_change(&self, dispatch: &Dispatch, now: Timestamp) -> Option<(DomainId, ClockChange)> {
        let Dispatch { variant, unit, point, items, .. } = *dispatch;
        let pace = |point| 1.0 / self.pace(variant, unit, point, items).0.max(1e-9);
        let change = |domain: DomainId, before: &dyn Fn(Kilohertz) -> OperatingPoint| {
            let (from, asked_at) = self.clocks.last_change(domain)?;
            let settle_s = self.catalog.board.domains[domain.index()].settle.as_secs_f64();
            let asked_s = -now.since(asked_at).as_secs_f64();
            Some((domain, ClockChange { asked_s, settle_s, paces: [pace(before(from)), pace(point)] }))
        };
        let [own, memory] = domains_of(&self.catalog.board, unit);
        let own = own.and_then(|domain| change(domain, &|clock| OperatingPoint { clock, ..point }));
        let memory = memory.and_then(|domain| change(domain, &|memory| OperatingPoint { memory, ..point }));
        let recent = |change: &(DomainId, ClockChange)| !change.1.is_past();
        match (own.filter(recent), memory.filter(recent)) {
            (Some(_), Some(_)) => None,
            (None, None) => own,
            (one, other) => one.or(other),
        }
    }

    /// Profiled seconds of a batch at an operating point, and expected watts above idle.
    fn pace(&self, variant: VariantId, unit: UnitId, point: OperatingPoint, items: u32) -> (f64, f64) {
        let index = self.costs.points(unit).nearest_below(point);
        let seconds = self.costs.latency(variant, unit, index, items).map_or(0.0, Nanos::as_secs_f64);
        (seconds, self.estimates.busy_watts_at_point(variant, unit, index))
    }

    /// Asks for a clock, and takes note of it in the courses of what runs in the domain.
    fn pin_clock(&mut self, domain: DomainId, clock: Kilohertz, now: Timestamp) {
        let known = clock != Kilohertz::ZERO;
        if known && self.clocks.ask(domain, ClockBounds { min: clock, max: clock }, now) {
            self.change_courses(domain, clock, now, self.clocks.settle(domain));
        }
    }

    /// What was asked for was refused or clamped: the runs under way go on at the clocks in force.
    pub(super) fn correct_courses(&mut self, report: &ApplyReport, now: Timestamp) {
        for (index, result) in report.domains.iter().enumerate().take(self.catalog.board.domains.len()) {
            // Within a range the governor chooses.
            let tells = match result {
                Some(Applied::Bounds(bounds)) => bounds.min == bounds.max,
                Some(Applied::Refused(_)) => true,
                None => false,
            };
            let domain = DomainId::at(index);
            if let Some(clock) = self.clocks.present(domain, &self.snapshot).filter(|_| tells) {
                self.change_courses(domain, clock, now, Nanos::ZERO);
            }
        }
    }

    fn change_courses(&mut self, domain: DomainId, clock: Kilohertz, now: Timestamp, settle: Nanos) {
        let settled = now.after(settle);
        for index in 0..self.lanes.len() {
            let [own, memory] = domains_of(&self.catalog.board, UnitId::at(index));
            let Some(running) = &self.lanes[index].running else { continue };
            let mut point = running.point;
            match Some(domain) {
                changed if changed == own => point.clock = clock,
                changed if changed == memory => point.memory = clock,
                _ => continue,
            }
            if point == running.point {
                continue;
            }
            let Dispatch { variant, unit, items, .. } = running.dispatch;
            let (seconds, watts) = self.pace(variant, unit, point, items);
            let (before_s, _) = self.pace(variant, unit, running.point, items);
            let settle_s = self.catalog.board.domains[domain.index()].settle.as_secs_f64();
            let paces = [before_s, seconds].map(|seconds| 1.0 / seconds.max(1e-9));
            if let Some(running) = &mut self.lanes[index].running {
                let asked_s = now.since(running.since).as_secs_f64();
                let single = running.clock_change.is_some_and(|(_, last)| last.is_past());
                let change = ClockChange { asked_s, settle_s, paces };
                running.clock_change = (single && settle > Nanos::ZERO).then_some((domain, change));
                running.change(settled, seconds, watts, point);
                self.estimates.reclock(UnitId::at(index), point, now);
            }
        }
    }

    /// Nobody answered in time.
    pub(super) fn mark_missed(&mut self, request: RequestId) {
        for (lane, risk) in self.lanes.iter().zip(&mut self.risks) {
            if lane.is_asked(request) {
                risk.answered(true);
            }
        }
        self.mark_answered(request);
    }

    /// Somebody answered the request: nobody else needs to.
    pub(super) fn mark_answered(&mut self, request: RequestId) {
        for unit in 0..self.lanes.len() {
            if self.lanes[unit].mark_answered(request) {
                self.abort_if_abandoned(UnitId::at(unit));
            }
        }
    }

    pub(super) fn next_batch_id(&mut self) -> BatchId {
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        batch
    }
}
