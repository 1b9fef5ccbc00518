//! What runs on the lanes: start, completion, cancellation.

use super::{Core, share};
use crate::core::catalog::{Provenance, UnitId, VariantId};
use crate::core::event::{
    AppId, BatchFailure, ClassId, Completion, Dispatch, Effect, Outcome, Rejection, RequestId, Served,
};
use crate::core::queue::Waiting;
use crate::core::residency::Residence;
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos};
use smallvec::SmallVec;

/// Failures of a variant in a row after which it is taken off the lane.
const MAX_FAILURES: u32 = 3;

/// Time of a load before one was seen.
const COLD_LOAD_TIME: Nanos = Nanos::from_millis(100);
/// When to look again at a unit whose processor the profiler occupies.
const PROBE_SLICE: Nanos = Nanos::from_millis(20);

/// A request in a running batch.
#[derive(Debug, Clone)]
pub(super) struct Member {
    request: RequestId,
    app: AppId,
    class: ClassId,
    items: u32,
    arrival: Timestamp,
    deadline: Timestamp,
    hard: bool,
    reserved: Microjoules,
    answered: bool,
}

impl Member {
    pub(super) fn new(waiting: &Waiting, reserved: Microjoules) -> Self {
        Self {
            request: waiting.request.id,
            app: waiting.request.app,
            class: waiting.request.class,
            items: waiting.request.items,
            arrival: waiting.arrival,
            deadline: waiting.deadline,
            hard: waiting.hard,
            reserved,
            answered: false,
        }
    }
}

/// A batch on its lane.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) dispatch: Dispatch,
    members: SmallVec<[Member; 8]>,
    since: Timestamp,
    /// Latency by the profile alone, without what was learned since.
    profiled: Nanos,
    /// Power above idle, as expected when it began.
    busy_w: f64,
    aborted: bool,
}

impl Running {
    pub(super) fn new(
        dispatch: Dispatch,
        members: SmallVec<[Member; 8]>,
        since: Timestamp,
        profiled: Nanos,
        busy_w: f64,
    ) -> Self {
        Self { dispatch, members, since, profiled, busy_w, aborted: false }
    }

    pub(super) fn reserved(&self) -> u64 {
        self.members.iter().map(|member| member.reserved.0).sum()
    }
}

/// A lane as the core sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    pub(super) running: Option<Running>,
    /// When the load began that occupies the lane.
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

    /// Whether it takes a batch or a load at once.
    pub(super) fn is_free(&self) -> bool {
        self.running.is_none() && self.loading_since.is_none()
    }

    /// The load that occupied the lane is over.
    pub(super) fn end_load(&mut self, now: Timestamp) {
        self.load_time = self.loading_since.take().map(|since| now.since(since)).or(self.load_time);
    }

    /// When the load that occupies the lane is expected to be over.
    fn loaded_at(&self, now: Timestamp) -> Timestamp {
        let usual = self.load_time.unwrap_or(COLD_LOAD_TIME);
        self.loading_since.map_or(now, |since| expected_end(since, usual, now))
    }

    /// When this lane is expected to be free.
    pub(super) fn free_at(&self, now: Timestamp) -> Timestamp {
        let running = self.running.as_ref();
        running.map_or(now, |running| expected_end(running.since, running.dispatch.expected, now))
    }

    /// The next hard deadline of a request that still waits for this batch.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let waiting = self.running.iter().flat_map(|running| &running.members);
        waiting.filter(|member| member.hard && !member.answered).map(|member| member.deadline).min()
    }

    /// Marks the members whose hard deadline passed as answered and returns them.
    pub(super) fn take_late(&mut self, now: Timestamp) -> SmallVec<[(RequestId, AppId); 8]> {
        let members = self.running.iter_mut().flat_map(|running| &mut running.members);
        let late = members.filter(|member| member.hard && !member.answered && member.deadline <= now);
        late.map(|member| {
            member.answered = true;
            (member.request, member.app)
        })
        .collect()
    }
}

/// When something that usually takes so long will be over. What is overdue will take a quarter as long again as
/// it took so far: the longer it hangs, the longer it may, and the more seldom it is worth a look.
fn expected_end(since: Timestamp, usual: Nanos, now: Timestamp) -> Timestamp {
    let planned = since.after(usual);
    if planned > now {
        return planned;
    }
    now.after(Nanos(now.since(since).0 / 4).max(Nanos::from_micros(50)))
}

impl Core {
    /// Per unit: when it and everything that shares its processor is expected to be free.
    pub(super) fn free_times(&self, now: Timestamp) -> SmallVec<[Timestamp; 8]> {
        let units = &self.catalog.board.units;
        let own: SmallVec<[Timestamp; 8]> = self.lanes.iter().map(|lane| lane.free_at(now)).collect();
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
        // A load occupies its own lane only.
        let loaded = |unit: usize| self.lanes[unit].loaded_at(now);
        (0..units.len()).map(|unit| shared(unit).max(probed(unit)).max(loaded(unit))).collect()
    }

    pub(super) fn busy_domains(&self) -> SmallVec<[bool; 8]> {
        let mut busy: SmallVec<[bool; 8]> = SmallVec::from_elem(false, self.catalog.board.domains.len());
        for (unit, lane) in self.catalog.board.units.iter().zip(&self.lanes) {
            if let (Some(domain), Some(_)) = (unit.domain, &lane.running) {
                busy[domain.index()] = true;
            }
        }
        busy
    }

    /// A client left: its request is answered (to nobody) and, if it runs alone, its run is stopped.
    pub(super) fn cancel(&mut self, _now: Timestamp, id: RequestId) {
        if self.queue.iter().any(|waiting| waiting.request.id == id) {
            return self.reject(id, Rejection::Cancelled, None);
        }
        for unit in 0..self.lanes.len() {
            let members = self.lanes[unit].running.iter_mut().flat_map(|running| &mut running.members);
            let found = members.filter(|member| !member.answered).find(|member| member.request == id);
            let Some(member) = found else { continue };
            member.answered = true;
            let app = member.app;
            self.reply(id, app, Outcome::Rejected { reason: Rejection::Cancelled, retry_after: None });
            self.abort_if_abandoned(UnitId::at(unit));
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
        if completion.result.is_ok() {
            self.lanes[unit].failures = 0;
            self.residency.proved(running.dispatch.variant, running.dispatch.unit);
            self.learn_power(&running, completion.energy, compute);
            self.estimates.observe_latency(
                running.dispatch.variant,
                running.dispatch.unit,
                running.dispatch.clock,
                running.profiled,
                compute,
            );
        }
        for member in &running.members {
            let spent = share(energy, member.items, running.dispatch.items);
            self.ledger.settle(member.class, member.reserved, spent, now);
            if member.answered {
                continue;
            }
            let outcome = match completion.result {
                Ok(()) => Outcome::Served(Served {
                    variant: running.dispatch.variant,
                    unit: running.dispatch.unit,
                    clock: running.dispatch.clock,
                    batch_items: running.dispatch.items,
                    queue: completion.started.since(member.arrival),
                    compute,
                    energy: spent,
                    energy_source,
                    accuracy: self.catalog.variants[running.dispatch.variant.index()].accuracy,
                    missed: completion.finished > member.deadline,
                }),
                Err(failure) => Outcome::Rejected { reason: failure_reason(failure), retry_after: None },
            };
            self.reply(member.request, member.app, outcome);
        }
        if let Err(failure) = completion.result {
            self.batch_failed(now, &running, failure);
        }
    }

    /// A meter tells what the variant draws on this unit beside what its profile says.
    fn learn_power(&mut self, running: &Running, metered: Option<Microjoules>, compute: Nanos) {
        let Dispatch { variant, unit, clock, .. } = running.dispatch;
        if let Some(metered) = metered {
            self.estimates.observe_energy(variant, unit, clock, compute, metered.as_f64() / 1e6);
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
            return (metered, Provenance::Measured);
        }
        let energy = running.busy_w * compute.as_secs_f64() * 1e6;
        (Microjoules::from_f64(energy), self.estimates.power_source(now))
    }

    fn batch_failed(&mut self, now: Timestamp, running: &Running, failure: BatchFailure) {
        let Dispatch { variant, unit, .. } = running.dispatch;
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
