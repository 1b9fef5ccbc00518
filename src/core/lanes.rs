//! What runs on the lanes: start, completion, cancellation.

use super::hedge::Hedges;
use super::plan::Course;
use super::{Core, share};
use crate::core::catalog::{DomainId, Provenance, UnitId, VariantId};
use crate::core::estimate::ClockChange;
use crate::core::event::{
    AppId, BatchFailure, Completion, Dispatch, Effect, Outcome, Rejection, RequestId, Served,
};
use crate::core::points::OperatingPoint;
use crate::core::queue::Waiting;
use crate::core::residency::Residence;
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Failures of a variant in a row after which it is taken off the lane.
const MAX_FAILURES: u32 = 3;

/// What is overdue will take so much of the time again that it took so far.
const OVERDUE: f64 = 0.25;
/// Time of a load before one was seen.
const COLD_LOAD_TIME: Nanos = Nanos::from_millis(100);
/// The share of its time that a run must have been at one clock to tell what that draws.
const STEADY: f64 = 0.9;
/// When to look again at a unit whose processor the profiler occupies.
const PROBE_SLICE: Nanos = Nanos::from_millis(20);

/// A request in a running batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) waiting: Waiting,
    pub(super) reserved: Microjoules,
    answered: bool,
    /// Whether this batch answers in place of another one.
    pub(super) rescued: bool,
    /// What a batch that was cancelled has cost it already.
    pub(super) spent: Microjoules,
    /// When the first of its batches began.
    begun: Option<Timestamp>,
}

impl Member {
    pub(super) fn new(waiting: Waiting, reserved: Microjoules) -> Self {
        let spent = waiting.spent;
        Self { waiting, reserved, answered: false, rescued: false, spent, begun: None }
    }

    fn is_late(&self, now: Timestamp) -> bool {
        self.waiting.hard && !self.answered && self.waiting.deadline <= now
    }
}

/// A batch on its lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) dispatch: Dispatch,
    members: SmallVec<[Member; 8]>,
    pub(super) since: Timestamp,
    /// How long it is expected to take in all.
    pub(super) expected: Nanos,
    /// Clock and power over time, and so the work done: time by the profile alone, without what was learned since.
    course: Course,
    /// The clock change that it began during, if that is the only one.
    pub(super) clock_change: Option<(DomainId, ClockChange)>,
    /// Clocks in force or on their way.
    pub(super) point: OperatingPoint,
    pub(super) hedges: Hedges,
    pub(super) aborted: bool,
    /// Whether it was stopped for another request, and its own wait again.
    pub(super) gives_way: bool,
}

impl Running {
    pub(super) fn new(
        dispatch: Dispatch,
        members: SmallVec<[Member; 8]>,
        since: Timestamp,
        course: Course,
        hedges: Hedges,
    ) -> Self {
        let (point, expected) = (dispatch.point, dispatch.expected);
        Self {
            dispatch,
            members,
            since,
            expected,
            course,
            clock_change: None,
            point,
            hedges,
            aborted: false,
            gives_way: false,
        }
    }

    pub(super) fn reserved(&self) -> u64 {
        self.members.iter().map(|member| member.reserved.0).sum()
    }

    /// From `at` on the batch would take `seconds` as a whole, at `watts`.
    pub(super) fn change(&mut self, at: Timestamp, seconds: f64, watts: f64, point: OperatingPoint) {
        self.course.change(at.since(self.since).as_secs_f64(), seconds, watts);
        self.point = point;
    }

    /// The share of it that is left if it is as slow as that by the profile; of what is overdue, a quarter of what it did.
    pub(super) fn left(&self, slowdown: f64, now: Timestamp) -> f64 {
        let done = self.course.work(now.since(self.since).as_secs_f64()) / slowdown.max(f64::MIN_POSITIVE);
        if done < 1.0 { 1.0 - done } else { done * OVERDUE }
    }

    /// What the profile says that a run takes which has taken `actual` over the clocks that it saw.
    fn profiled(&self, actual: Nanos) -> Nanos {
        let actual_s = actual.as_secs_f64();
        let work = self.course.work(actual_s);
        if work > 0.0 { Nanos::from_secs_f64(actual_s / work) } else { Nanos::ZERO }
    }

    /// The earliest deadline of those who still wait.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let waiting = self.members.iter().filter(|member| !member.answered);
        waiting.map(|member| member.waiting.deadline).min()
    }

    /// Who still waits.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.members.iter().filter(|member| !member.answered).map(|member| &member.waiting)
    }

    /// Items of those who still wait.
    pub(super) fn unanswered_items(&self) -> u32 {
        let waiting = self.members.iter().filter(|member| !member.answered);
        waiting.map(|member| member.waiting.request.items).sum()
    }

    /// Those who still wait, for another batch that answers them. This one has cost them `spent` in all so far.
    pub(super) fn unanswered(&self, spent: Microjoules, begun: Timestamp) -> SmallVec<[Member; 8]> {
        let waiting = self.members.iter().filter(|member| !member.answered);
        waiting
            .map(|member| {
                let own = share(spent, member.waiting.request.items, self.dispatch.items);
                let spent = member.spent.saturating_add(own);
                let begun = Some(member.begun.unwrap_or(begun));
                Member { spent, begun, reserved: Microjoules::ZERO, ..member.clone() }
            })
            .collect()
    }
}

/// A lane as the core sees it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Lane {
    pub(super) running: Option<Running>,
    /// When the load began that goes on beside its runs.
    pub(super) loading_since: Option<Timestamp>,
    /// How long the last load took.
    load_time: Option<Nanos>,
    failures: u32,
}

impl Lane {
    pub(super) fn start(&mut self, running: Running) {
        self.running = Some(running);
    }

    pub(super) fn runs(&self, variant: VariantId) -> bool {
        self.running.as_ref().is_some_and(|running| running.dispatch.variant == variant)
    }

    /// Whether a variant on a unit may have to answer in place of what runs here.
    pub(super) fn counts_on(&self, variant: VariantId, unit: UnitId) -> bool {
        let planned = self.running.as_ref().and_then(|running| running.hedges.rescue);
        planned.is_some_and(|planned| (planned.rescue.variant, planned.rescue.unit) == (variant, unit))
    }

    /// The load that went on is over.
    pub(super) fn end_load(&mut self, now: Timestamp) {
        self.load_time = self.loading_since.take().map(|since| now.since(since)).or(self.load_time);
    }

    /// When the load that goes on is expected to be over.
    pub(super) fn loaded_at(&self, now: Timestamp) -> Timestamp {
        let usual = self.load_time.unwrap_or(COLD_LOAD_TIME);
        self.loading_since.map_or(now, |since| expected_end(since, usual, now))
    }

    /// When this lane is expected to be free.
    pub(super) fn free_at(&self, now: Timestamp) -> Timestamp {
        let running = self.running.as_ref();
        running.map_or(now, |running| expected_end(running.since, running.expected, now))
    }

    /// The next hard deadline of a request that still waits for this batch.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let waiting = self.running.iter().flat_map(|running| &running.members);
        let hard = waiting.filter(|member| member.waiting.hard && !member.answered);
        hard.map(|member| member.waiting.deadline).min()
    }

    /// When the program of the running batch wants something done.
    pub(super) fn next_hedge(&self) -> Option<Timestamp> {
        self.running.as_ref().filter(|running| !running.aborted)?.hedges.next()
    }

    /// A request whose hard deadline passed without an answer.
    pub(super) fn first_late(&self, now: Timestamp) -> Option<(RequestId, AppId)> {
        let mut members = self.running.iter().flat_map(|running| &running.members);
        let late = members.find(|member| member.is_late(now))?;
        Some((late.waiting.request.id, late.waiting.request.app))
    }

    /// The app of a request that waits for the running batch.
    fn asker(&self, request: RequestId) -> Option<AppId> {
        let mut members = self.running.iter().flat_map(|running| &running.members);
        let found = members.find(|member| !member.answered && member.waiting.request.id == request)?;
        Some(found.waiting.request.app)
    }

    /// Whether a request waits for the running batch.
    pub(super) fn is_asked(&self, request: RequestId) -> bool {
        self.asker(request).is_some()
    }

    /// The request needs no answer of the running batch any more; whether it did.
    pub(super) fn mark_answered(&mut self, request: RequestId) -> bool {
        let members = self.running.iter_mut().flat_map(|running| &mut running.members);
        let mut marked = false;
        for member in members.filter(|member| !member.answered && member.waiting.request.id == request) {
            member.answered = true;
            marked = true;
        }
        marked
    }
}

/// When something that usually takes so long will be over. What is overdue takes some more of what it took so far: the longer it hangs, the longer it may, and the more seldom it is worth a look.
fn expected_end(since: Timestamp, usual: Nanos, now: Timestamp) -> Timestamp {
    let planned = since.after(usual);
    if planned > now {
        return planned;
    }
    now.after(Nanos::from_f64(now.since(since).as_f64() * OVERDUE).max(Nanos::from_micros(50)))
}

impl Core {
    /// Whether a batch could start now. While none can, there is nothing to choose: an event ends that.
    pub(super) fn some_lane_free(&self) -> bool {
        let units = &self.catalog.board.units;
        let busy = |group| {
            let mut running = units.iter().zip(&self.lanes).filter(|(_, lane)| lane.running.is_some());
            running.any(|(unit, _)| unit.group == group)
        };
        let mut lanes = units.iter().zip(&self.lanes);
        !self.queue.is_empty() && lanes.any(|(unit, lane)| lane.running.is_none() && !busy(unit.group))
    }

    /// Per unit: when it and everything that shares its processor is expected to be free.
    pub(super) fn free_times(&self, now: Timestamp) -> SmallVec<[Timestamp; 8]> {
        self.free_times_if(now, |unit| self.lanes[unit.index()].free_at(now))
    }

    /// The same if what runs on a unit ends then.
    pub(super) fn free_times_if(
        &self,
        now: Timestamp,
        end: impl Fn(UnitId) -> Timestamp,
    ) -> SmallVec<[Timestamp; 8]> {
        let units = &self.catalog.board.units;
        let own: SmallVec<[Timestamp; 8]> = (0..units.len()).map(UnitId::at).map(end).collect();
        let shared = |unit: usize| {
            let same = (0..units.len()).filter(|&other| units[other].group == units[unit].group);
            same.map(|other| own[other]).max().unwrap_or(now)
        };
        // How long a probe will take is not known: look again soon.
        let probed = |unit: usize| match self.probing {
            Some(probing) if probing.index() != unit && units[probing.index()].group == units[unit].group => {
                now.after(PROBE_SLICE)
            }
            _ => now,
        };
        (0..units.len()).map(|unit| shared(unit).max(probed(unit))).collect()
    }

    pub(super) fn busy_domains(&self) -> SmallVec<[bool; 8]> {
        let mut busy: SmallVec<[bool; 8]> = SmallVec::from_elem(false, self.catalog.board.domains.len());
        for (unit, lane) in self.catalog.board.units.iter().zip(&self.lanes) {
            let domains = [unit.domain, unit.memory_domain].into_iter().flatten();
            domains.filter(|_| lane.running.is_some()).for_each(|domain| busy[domain.index()] = true);
        }
        busy
    }

    /// A client left: its request is answered (to nobody) and, if it runs alone, its run is stopped.
    pub(super) fn cancel(&mut self, id: RequestId) {
        if self.queue.iter().any(|waiting| waiting.request.id == id) {
            return self.reject(id, Rejection::Cancelled, None);
        }
        if let Some(app) = self.lanes.iter().find_map(|lane| lane.asker(id)) {
            self.reply(id, app, Outcome::Rejected { reason: Rejection::Cancelled, retry_after: None });
            self.mark_answered(id);
        }
    }

    /// Stops a batch that nobody waits for, if its unit can.
    pub(super) fn abort_if_abandoned(&mut self, unit: UnitId) {
        let preemptible = self.catalog.board.units[unit.index()].preemptible;
        let Some(running) = &mut self.lanes[unit.index()].running else { return };
        if preemptible && !running.aborted && running.members.iter().all(|member| member.answered) {
            running.aborted = true;
            self.effects.push_back(Effect::Abort(running.dispatch.batch));
        }
    }

    /// A lane reports: settle the energy, learn from the latency, answer the requests.
    pub(super) fn completed(&mut self, now: Timestamp, completion: &Completion) {
        let Some(unit) = self.lanes.iter().position(|lane| {
            lane.running.as_ref().is_some_and(|running| running.dispatch.batch == completion.batch)
        }) else {
            return;
        };
        let Some(running) = self.lanes[unit].running.take() else { return };
        self.estimates.end(UnitId::at(unit), now);
        let compute = completion.finished.since(completion.started);
        let (energy, energy_source) = self.run_energy(now, &running, completion, compute);
        self.learn(unit, &running, completion, compute);
        for member in &running.members {
            let spent = share(energy, member.waiting.request.items, running.dispatch.items);
            self.ledger.settle(member.waiting.request.class, member.reserved, spent, now);
        }
        match completion.result {
            Ok(()) => self.serve(&running, completion, compute, (energy, energy_source)),
            Err(failure) => self.batch_failed(now, &running, completion, failure, energy),
        }
    }

    fn learn(&mut self, unit: usize, running: &Running, completion: &Completion, compute: Nanos) {
        let Dispatch { variant, unit: id, .. } = running.dispatch;
        let profiled = running.profiled(compute);
        match completion.result {
            Ok(()) => {
                self.lanes[unit].failures = 0;
                self.residency.proved(variant, id, completion.finished);
                self.learn_power(running, completion.energy, compute);
                self.estimates.observe_latency(variant, id, running.point, profiled, compute);
            }
            // A run that was cancelled for taking long says that it takes longer.
            Err(BatchFailure::Cancelled) => {
                self.estimates.observe_longer(variant, id, running.point, profiled, compute);
            }
            Err(_) => return,
        }
        if let Some((domain, change)) = &running.clock_change {
            self.estimates.observe_change(*domain, change, compute.as_secs_f64(), completion.result.is_ok());
            self.clocks.learn_settle(*domain, self.estimates.settling(*domain));
        }
        if running.gives_way && completion.result.is_err() {
            return;
        }
        // What comes early for others says nothing of these odds.
        let planned = running.hedges.rescue.filter(|planned| !(planned.begun && planned.early));
        let odds = planned.map(|planned| planned.rescue.odds.as_fraction());
        self.risks[unit].ran(odds, planned.is_some_and(|planned| planned.begun));
    }

    fn serve(
        &mut self,
        running: &Running,
        completion: &Completion,
        compute: Nanos,
        (energy, energy_source): (Microjoules, Provenance),
    ) {
        let Dispatch { variant, unit, items, .. } = running.dispatch;
        for member in running.members.iter().filter(|member| !member.answered) {
            let request = &member.waiting.request;
            // A request that was rescued has been on a lane since its first run began.
            let begun = member.begun.unwrap_or(completion.started);
            let missed = completion.finished > member.waiting.deadline;
            let served = Served {
                variant,
                unit,
                clock: running.point.clock,
                batch_items: items,
                queue: begun.since(member.waiting.arrival),
                compute: if member.rescued { completion.finished.since(begun) } else { compute },
                energy: member.spent.saturating_add(share(energy, request.items, items)),
                energy_source,
                accuracy: self.catalog.variants[variant.index()].accuracy,
                missed,
                rescued: member.rescued,
            };
            self.risks[unit.index()].answered(missed);
            self.reply(request.id, request.app, Outcome::Served(served));
            self.mark_answered(request.id);
        }
    }

    /// A meter tells what the variant draws on this unit beside what its profile says.
    fn learn_power(&mut self, running: &Running, metered: Option<Microjoules>, compute: Nanos) {
        let Dispatch { variant, unit, .. } = running.dispatch;
        // What a run drew over several clocks does not tell which of them drew it.
        let Some(metered) = metered.filter(|_| running.course.steadiness(compute.as_secs_f64()) >= STEADY)
        else {
            return;
        };
        let seconds = compute.as_secs_f64();
        let expected_j = running.course.joules(seconds);
        let memory_w = self.estimates.memory_watts(unit, running.point);
        // A run that was over before its memory's clock came up tells nothing of that point.
        if expected_j > 0.0 && (memory_w <= 0.0 || running.course.has_settled(seconds)) {
            // The meter sees the unit's part of what was expected.
            let watts = self.estimates.busy_watts(variant, unit, running.point);
            let own_w = (watts - memory_w).max(0.0);
            let own_j = (expected_j - memory_w * seconds).max(expected_j * own_w / watts);
            let joules = metered.as_f64() / 1e6 / own_j * own_w * seconds;
            self.estimates.observe_energy(variant, unit, running.point, compute, joules);
        }
    }

    /// Energy above idle of a run: metered where the unit has a meter, else from the power model, which counts
    /// as measured while the rails confirm it.
    fn run_energy(
        &self,
        now: Timestamp,
        running: &Running,
        completion: &Completion,
        compute: Nanos,
    ) -> (Microjoules, Provenance) {
        if let Some(metered) = completion.energy {
            // What a meter sees is the unit's part.
            let memory_w = self.estimates.memory_watts(running.dispatch.unit, running.point);
            let memory = Microjoules::from_f64(memory_w * compute.as_secs_f64() * 1e6);
            return (metered.saturating_add(memory), Provenance::Measured);
        }
        let energy = running.course.joules(compute.as_secs_f64()) * 1e6;
        (Microjoules::from_f64(energy), self.estimates.power_source(now))
    }

    fn batch_failed(
        &mut self,
        now: Timestamp,
        running: &Running,
        completion: &Completion,
        failure: BatchFailure,
        spent: Microjoules,
    ) {
        let Dispatch { variant, unit, .. } = running.dispatch;
        if failure == BatchFailure::Cancelled && running.gives_way {
            return self.wait_again(running, spent);
        }
        let begun = running.hedges.rescue.filter(|planned| planned.begun && planned.rescue.unit == unit);
        if let (BatchFailure::Cancelled, Some(planned)) = (failure, begun) {
            let members = running.unanswered(spent, completion.started);
            if !members.is_empty() {
                self.continue_cancelled(now, members, planned.rescue);
            }
            return;
        }
        for member in running.members.iter().filter(|member| !member.answered) {
            let request = &member.waiting.request;
            // Another batch may still answer it.
            if self.lanes.iter().any(|lane| lane.asker(request.id).is_some()) {
                continue;
            }
            let outcome = Outcome::Rejected { reason: failure_reason(failure), retry_after: None };
            self.reply(request.id, request.app, outcome);
        }
        match failure {
            BatchFailure::Cancelled => {}
            BatchFailure::NotLoaded => self.residency.set(variant, unit, Residence::Absent),
            BatchFailure::LaneLost => {
                self.estimates.fault(unit);
                self.lanes[unit.index()].end_load(now);
                self.residency.lost(unit);
            }
            BatchFailure::Provider => {
                self.estimates.fault(unit);
                let lane = &mut self.lanes[unit.index()];
                lane.failures += 1;
                if lane.failures >= MAX_FAILURES {
                    lane.failures = 0;
                    self.effects.push_back(Effect::Unload { variant, unit });
                    self.back_off(now, variant, unit);
                }
            }
        }
    }
}

fn failure_reason(failure: BatchFailure) -> Rejection {
    match failure {
        // Only a batch that nobody waits for is cancelled, unless its last request came back too late.
        BatchFailure::Cancelled => Rejection::DeadlinePassed,
        BatchFailure::NotLoaded => Rejection::NotResident,
        BatchFailure::Provider | BatchFailure::LaneLost => Rejection::ExecutionFailed,
    }
}
