//! The server around a policy: everything that any inference server does, so that a policy is only what its
//! paper or the kernel says.
//!
//! It takes requests into a bounded queue, most urgent first; loads what the memory cap has room for; asks the
//! policy where and how the head of the queue runs; lets requests of the same kind that wait anyway share
//! the run, as far as the earliest deadline allows; answers; drops what a hard deadline has overtaken, as the
//! core does; and hands the policy's clocks to the actuator. It turns a request away for the reasons that any
//! server has (no room, no such variant, not accurate enough), never for want of a schedule.

use super::knobs::Knobs;
use super::queue::{Queue, Waiting};
use super::view::{Configuration, Only, State, UnitState, View};
use super::{Policy, Run};
use crate::core::catalog::{Catalog, Profile, Provenance, UnitId, VariantId};
use crate::core::energy::Budgets;
use crate::core::event::{
    AppId, BatchFailure, BatchId, Completion, Dispatch, Effect, Event, Outcome, Rejection, Request,
    RequestId, Served,
};
use crate::core::points::OperatingPoint;
use crate::core::residency::{Limits, Order, Pair, Residence, Residency};
use crate::sim::Scheduler;
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos, Ppm};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Waiting requests that are looked at for a free unit when those before them wait for a busy one.
const LOOKAHEAD: usize = 8;
/// Failures of a unit in a row after which the variant is taken off it for a while.
const MAX_FAILURES: u32 = 3;

#[derive(Debug, Clone)]
struct Member {
    waiting: Waiting,
    answered: bool,
}

#[derive(Debug, Clone)]
struct Running {
    dispatch: Dispatch,
    choice: Configuration,
    members: SmallVec<[Member; 4]>,
    aborted: bool,
}

/// A policy at work. Speaks the core's two enums.
#[derive(Debug, Clone)]
pub struct Server<P> {
    policy: P,
    state: State,
    queue: Queue,
    lanes: Vec<Option<Running>>,
    failures: Vec<u32>,
    effects: VecDeque<Effect>,
    next_batch: u64,
    draining: bool,
    /// When the policy wants to look at its clocks again.
    wake: Option<Timestamp>,
}

impl<P: Policy> Scheduler for Server<P> {
    fn handle(&mut self, now: Timestamp, event: Event) {
        if !event.fits(&self.state.catalog) {
            return;
        }
        match event {
            Event::Submit(request) => self.submit(now, request),
            Event::Cancel(request) => self.cancel(request),
            Event::Completed(completion) => self.completed(now, &completion),
            Event::Loaded { variant, unit, footprint } => {
                self.state.units[unit.index()].loading = None;
                self.state.residency.set(variant, unit, Residence::Loaded { footprint });
            }
            Event::LoadFailed { variant, unit } => {
                self.state.units[unit.index()].loading = None;
                self.state.residency.failed(variant, unit, now);
            }
            Event::Unloaded { variant, unit } => self.state.residency.unloaded(variant, unit),
            Event::Retain { model, resident } => self.state.residency.retain(model, resident),
            Event::Sampled(readings) => {
                self.state.knobs.sampled(&readings);
                self.policy.sampled(&View { now, state: &self.state }, &readings);
            }
            Event::Applied(report) => self.state.knobs.applied(&report, now),
            Event::Profiled { variant, unit, profile } => self.profiled(variant, unit, profile),
            Event::Reconfigured(budgets) if !budgets.classes.is_empty() => self.state.budgets = *budgets,
            Event::Drain => self.draining = true,
            // The profiler does not run beside what is compared, no models come, and none of it has an earlier life.
            Event::Extended(_)
            | Event::Rollout(_)
            | Event::Hold { .. }
            | Event::Probing(_)
            | Event::Reconfigured(_)
            | Event::Restored(_)
            | Event::Wake => {}
        }
        self.expire(now);
        self.schedule(now);
        self.load(now);
        self.set_clocks(now);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        let running = self.lanes.iter().flatten().flat_map(|running| &running.members);
        let hard = running.filter(|member| member.waiting.hard && !member.answered);
        let candidates = [
            self.queue.first_hard_deadline(),
            hard.map(|member| member.waiting.deadline).min(),
            self.state.residency.next_retry(),
            self.state.residency.next_expiry(self.state.budgets.unload_after),
            self.state.knobs.next_retry(),
            self.wake,
        ];
        candidates.into_iter().flatten().min()
    }
}

impl<P: Policy> Server<P> {
    /// A server that has seen nothing yet, and serves each model with `only` the variant named there.
    ///
    /// # Panics
    /// If `budgets` has no class; validation of the configuration provides the default one.
    #[must_use]
    pub fn new(catalog: Catalog, budgets: Budgets, only: Only, policy: P) -> Self {
        assert!(!budgets.classes.is_empty(), "budgets have at least the default class");
        let units = catalog.board.units.len();
        let state = State {
            costs: super::Costs::new(&catalog),
            residency: Residency::new(&catalog),
            units: vec![UnitState::default(); units],
            knobs: Knobs::new(&catalog.board),
            only,
            catalog,
            budgets,
        };
        Self {
            policy,
            state,
            queue: Queue::default(),
            lanes: vec![None; units],
            failures: vec![0; units],
            effects: VecDeque::new(),
            next_batch: 0,
            draining: false,
            wake: None,
        }
    }

    /// What decides.
    #[must_use]
    pub const fn policy(&self) -> &P {
        &self.policy
    }

    fn submit(&mut self, now: Timestamp, request: Request) {
        let (id, model) = (request.id, request.model);
        match self.admit(now, request) {
            Ok(waiting) => {
                self.state.residency.used(model, now);
                self.queue.push(waiting);
            }
            Err(reason) => {
                let outcome = Outcome::Rejected { reason, retry_after: None };
                self.effects.push_back(Effect::Reply { request: id, outcome });
            }
        }
    }

    fn admit(&self, now: Timestamp, request: Request) -> Result<Waiting, Rejection> {
        let State { catalog, budgets, costs, .. } = &self.state;
        let Some(model) = catalog.models.get(request.model.index()).filter(|_| request.items > 0) else {
            return Err(Rejection::NoCandidate);
        };
        if self.draining {
            return Err(Rejection::Draining);
        }
        self.queue.room_for(request.app, budgets.queue_limit, budgets.app_limit)?;
        let class = budgets.class(&request);
        let floor = request.min_accuracy.unwrap_or(class.min_accuracy);
        let target = request.min_accuracy.unwrap_or(class.accuracy_target.unwrap_or(Ppm::ZERO));
        let waiting = Waiting {
            arrival: now,
            deadline: request.deadline.unwrap_or(now.after(class.latency)),
            hard: request.deadline.is_some(),
            floor,
            target: target.max(floor),
            max_energy: request.max_energy.or(class.energy_per_request),
            priority: request.priority.unwrap_or(class.priority),
            request,
        };
        let units = || (0..catalog.board.units.len()).map(UnitId::at);
        let wanted = |variant: VariantId| waiting.request.variant.is_none_or(|only| only == variant);
        let mut runnable = model
            .variants
            .iter()
            .filter(|&&variant| wanted(variant) && units().any(|unit| costs.may_run(variant, unit)))
            .peekable();
        if runnable.peek().is_none() {
            return Err(Rejection::NoCandidate);
        }
        match runnable.any(|&variant| self.state.accepts(&waiting, variant)) {
            true => Ok(waiting),
            false => Err(Rejection::AccuracyUnreachable),
        }
    }

    fn reply(&mut self, request: RequestId, app: AppId, outcome: Outcome) {
        self.queue.answered(app);
        self.effects.push_back(Effect::Reply { request, outcome });
    }

    fn reject(&mut self, id: RequestId, reason: Rejection) {
        if let Some(waiting) = self.queue.take(id) {
            self.reply(id, waiting.request.app, Outcome::Rejected { reason, retry_after: None });
        }
    }

    /// Turns away what waited too long and stops what runs for nobody.
    fn expire(&mut self, now: Timestamp) {
        while let Some(id) = self.queue.expired(now) {
            self.reject(id, Rejection::DeadlinePassed);
        }
        for unit in 0..self.lanes.len() {
            self.withdraw(unit, Rejection::DeadlinePassed, |waiting| waiting.hard && waiting.deadline <= now);
        }
    }

    fn cancel(&mut self, id: RequestId) {
        self.reject(id, Rejection::Cancelled);
        for unit in 0..self.lanes.len() {
            self.withdraw(unit, Rejection::Cancelled, |waiting| waiting.request.id == id);
        }
    }

    /// Turns members of a running batch away; ends the run if none is left that waits for it.
    fn withdraw(&mut self, unit: usize, reason: Rejection, who: impl Fn(&Waiting) -> bool) {
        let Some(running) = &mut self.lanes[unit] else { return };
        let mut gone: SmallVec<[(RequestId, AppId); 4]> = SmallVec::new();
        for member in running.members.iter_mut().filter(|member| !member.answered && who(&member.waiting)) {
            member.answered = true;
            gone.push((member.waiting.request.id, member.waiting.request.app));
        }
        let preemptible = self.state.catalog.board.units[unit].preemptible;
        let abandoned = !gone.is_empty() && running.members.iter().all(|member| member.answered);
        let stop = preemptible && abandoned && !running.aborted;
        running.aborted |= stop;
        let batch = running.dispatch.batch;
        for (id, app) in gone {
            self.reply(id, app, Outcome::Rejected { reason, retry_after: None });
        }
        if stop {
            self.effects.push_back(Effect::Abort(batch));
        }
    }

    /// Gives the free units work, most urgent request first.
    fn schedule(&mut self, now: Timestamp) {
        while self.start_one(now) {}
    }

    /// Starts the first request that can start; false if none can.
    fn start_one(&mut self, now: Timestamp) -> bool {
        let mut units = (0..self.lanes.len()).map(UnitId::at);
        if !units.any(|unit| (View { now, state: &self.state }).is_free(unit)) {
            return false;
        }
        let ids: SmallVec<[RequestId; LOOKAHEAD]> =
            self.queue.iter().take(LOOKAHEAD).map(|waiting| waiting.request.id).collect();
        for id in ids {
            let Some(head) = self.queue.get(id) else { continue };
            let view = View { now, state: &self.state };
            if view.choices(head).next().is_none() {
                let State { residency, catalog, budgets, .. } = &self.state;
                let accepts = |variant| self.state.accepts(head, variant);
                if !residency.any_hope(catalog, head.request.model, budgets.memory_cap, accepts) {
                    self.reject(id, Rejection::NotResident);
                    return true;
                }
                continue;
            }
            let choice = self.policy.choose(&view, head);
            if let Some(choice) = choice.filter(|choice| view.is_free(choice.unit)) {
                self.dispatch(now, id, choice);
                return true;
            }
        }
        false
    }

    /// The requests that share a run with the head: of its model and class, in order of urgency, while the
    /// batch is expected to end before the first deadline, or is late already and only has to be worked off.
    fn members(&self, now: Timestamp, head: RequestId, choice: Configuration) -> SmallVec<[RequestId; 8]> {
        let State { catalog, costs, .. } = &self.state;
        let mut ids: SmallVec<[RequestId; 8]> = SmallVec::new();
        let (mut items, mut deadline, mut class, mut late) = (0u32, Timestamp::MAX, None, false);
        let slowdown = self.policy.slowdown();
        let behind = self.queue.iter().skip_while(|waiting| waiting.request.id != head);
        for waiting in behind {
            let request = &waiting.request;
            let model = &catalog.models[request.model.index()];
            let total = items.saturating_add(request.items);
            let first = deadline.min(waiting.deadline);
            let latency = costs.seconds(choice.variant, choice.unit, choice.point, total) * slowdown;
            let ends = now.after(Nanos::from_secs_f64(latency));
            if ids.is_empty() {
                class = Some((request.class, request.model));
                late = ends > first;
            } else {
                let fits = class == Some((request.class, request.model))
                    && self.state.accepts(waiting, choice.variant);
                if !fits {
                    continue;
                }
                if total > model.max_batch || (ends > first && !late) {
                    break;
                }
            }
            ids.push(request.id);
            (items, deadline) = (total, first);
        }
        ids
    }

    fn dispatch(&mut self, now: Timestamp, head: RequestId, choice: Configuration) {
        let requests = self.members(now, head, choice);
        let taken = requests.iter().filter_map(|&id| self.queue.take(id));
        let members: SmallVec<[Member; 4]> =
            taken.map(|waiting| Member { waiting, answered: false }).collect();
        let items = members.iter().map(|member| member.waiting.request.items).sum();
        let deadline = members.iter().map(|member| member.waiting.deadline).min().unwrap_or(now);
        let run = Run { choice, items, started: now, deadline };
        let expected = self.policy.started(&View { now, state: &self.state }, &run);
        let costs = &self.state.costs;
        let Configuration { variant, unit, point } = choice;
        let dispatch = Dispatch {
            batch: BatchId(self.next_batch),
            unit,
            variant,
            requests,
            items,
            point: OperatingPoint::of_clock(costs.clocks(unit)[point]),
            expected,
            reserved: Microjoules::from_f64(costs.joules(variant, unit, point, items) * 1e6),
        };
        self.next_batch += 1;
        self.state.units[unit.index()].running = Some((now, expected));
        self.effects.push_back(Effect::Dispatch(dispatch.clone()));
        self.lanes[unit.index()] = Some(Running { dispatch, choice, members, aborted: false });
    }

    fn completed(&mut self, now: Timestamp, completion: &Completion) {
        let ran = |lane: &Option<Running>| {
            lane.as_ref().is_some_and(|running| running.dispatch.batch == completion.batch)
        };
        let Some(unit) = self.lanes.iter().position(ran) else { return };
        let Some(running) = self.lanes[unit].take() else { return };
        self.state.units[unit].running = None;
        let compute = completion.finished.since(completion.started);
        let Running { dispatch, choice, members, .. } = running;
        let costs = &self.state.costs;
        let modelled = costs.watts(choice.variant, choice.unit, choice.point) * compute.as_secs_f64() * 1e6;
        let (energy, source) = match completion.energy {
            Some(metered) => (metered, Provenance::Measured),
            None => (Microjoules::from_f64(modelled), Provenance::Modelled),
        };
        for member in members.iter().filter(|member| !member.answered) {
            let Waiting { request, deadline, arrival, .. } = &member.waiting;
            let share = energy.as_f64() * f64::from(request.items) / f64::from(dispatch.items.max(1));
            let outcome = match completion.result {
                Ok(()) => Outcome::Served(Served {
                    variant: choice.variant,
                    unit: choice.unit,
                    clock: dispatch.point.clock,
                    batch_items: dispatch.items,
                    queue: completion.started.since(*arrival),
                    compute,
                    energy: Microjoules::from_f64(share.floor()),
                    energy_source: source,
                    accuracy: self.state.catalog.variants[choice.variant.index()].accuracy,
                    missed: completion.finished > *deadline,
                    rescued: false,
                }),
                Err(failure) => Outcome::Rejected { reason: reason(failure), retry_after: None },
            };
            self.reply(request.id, request.app, outcome);
        }
        let deadline = members.iter().map(|member| member.waiting.deadline).min().unwrap_or(now);
        let run = Run { choice, items: dispatch.items, started: completion.started, deadline };
        let view = View { now, state: &self.state };
        match completion.result {
            Ok(()) => self.policy.completed(&view, &run, compute),
            Err(_) => self.policy.failed(&view, &run),
        }
        self.settle_failure(now, choice, completion.result);
    }

    fn settle_failure(&mut self, now: Timestamp, choice: Configuration, result: Result<(), BatchFailure>) {
        let Configuration { variant, unit, .. } = choice;
        match result {
            Ok(()) => {
                self.failures[unit.index()] = 0;
                self.state.residency.proved(variant, unit);
            }
            Err(BatchFailure::Cancelled) => {}
            Err(BatchFailure::NotLoaded) => self.state.residency.set(variant, unit, Residence::Absent),
            Err(BatchFailure::LaneLost) => {
                self.state.units[unit.index()].loading = None;
                self.state.residency.lost(unit);
            }
            Err(BatchFailure::Provider) => {
                self.failures[unit.index()] += 1;
                if self.failures[unit.index()] >= MAX_FAILURES {
                    self.failures[unit.index()] = 0;
                    self.effects.push_back(Effect::Unload { variant, unit });
                    self.state.residency.failed(variant, unit, now);
                }
            }
        }
    }

    fn profiled(&mut self, variant: VariantId, unit: UnitId, profile: Option<Profile>) {
        self.state.catalog.variants[variant.index()].profiles[unit.index()] = profile;
        self.state.costs.update(&self.state.catalog, variant, unit);
        self.state.residency.profiles_changed();
        self.state.residency.pardon(variant, unit);
    }

    /// Orders loads and unloads: everything at once, as far as the memory cap has room.
    fn load(&mut self, now: Timestamp) {
        let budgets = &self.state.budgets;
        let limits = Limits { cap: budgets.memory_cap, unload_after: budgets.unload_after };
        if self.state.residency.is_settled(limits, now) {
            return;
        }
        let mut awaited: SmallVec<[Pair; 4]> = SmallVec::new();
        for waiting in self.queue.iter().take(LOOKAHEAD) {
            let State { residency, catalog, .. } = &self.state;
            let accepts = |variant| self.state.accepts(waiting, variant);
            let missing = residency.missing(catalog, waiting.request.model, limits.cap, now, accepts);
            awaited.extend(missing.filter(|pair| !awaited.contains(pair)));
        }
        let State { residency, catalog, units, .. } = &mut self.state;
        let may_load = |(variant, unit): Pair| {
            let state = &units[unit.index()];
            state.loading.is_none() && (state.running.is_none() || awaited.contains(&(variant, unit)))
        };
        let lanes = &self.lanes;
        let in_use = |(variant, unit): Pair| {
            lanes[unit.index()].as_ref().is_some_and(|running| running.choice.variant == variant)
        };
        for order in residency.orders(catalog, limits, &awaited, may_load, in_use, now) {
            match order {
                Order::Load(variant, unit) => {
                    units[unit.index()].loading = Some(now);
                    self.effects.push_back(Effect::Load { variant, unit });
                }
                Order::Unload(variant, unit) => self.effects.push_back(Effect::Unload { variant, unit }),
            }
        }
    }

    fn set_clocks(&mut self, now: Timestamp) {
        // Taken out, so that the policy may turn them while it looks at the rest.
        let mut knobs = std::mem::take(&mut self.state.knobs);
        let again = self.policy.set_clocks(&View { now, state: &self.state }, &mut knobs);
        self.wake = again.map(|at| at.max(now.after(Nanos(1))));
        if let Some(setpoints) = knobs.take_pending(now) {
            self.effects.push_back(Effect::Set(setpoints));
        }
        self.state.knobs = knobs;
    }
}

fn reason(failure: BatchFailure) -> Rejection {
    match failure {
        BatchFailure::Cancelled => Rejection::DeadlinePassed,
        BatchFailure::NotLoaded => Rejection::NotResident,
        BatchFailure::Provider | BatchFailure::LaneLost => Rejection::ExecutionFailed,
    }
}
