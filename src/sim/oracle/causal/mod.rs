//! O3: the best causal planner that this project knows how to build, as a [`Scheduler`] in the same world as the others.
//!
//! It knows what is true now: the plant's tables, the disturbance in force, the clocks and the changes under way, the
//! distribution of luck and the periods of streams. It does not know what will be: the luck of a run, the moments of
//! arrivals, disturbances to come. So its distance to [`crate::sim::oracle::certified_bound`] is the price of not
//! knowing the future (and of what the bound leaves out), and the distance of a planner to it is what that planner
//! could still learn or decide better.
//!
//! Requests are served earliest deadline first. For each, and for each batch that it could head, the cheapest program
//! ([`program`]) on every free processor is found whose run is late with a probability of at most [`MISS`], where
//! *late* also protects those behind it: see [`queueing`].
//!
//! With [`Insight::Shown`] it learns of a disturbance only from what meets it, though then exactly: what that costs beside
//! [`Insight::Told`] is the price of having to measure, which no planner on a real board is spared.

mod choose;
mod clocks;
mod gears;
mod outlook;
mod program;
mod queueing;
mod spread;

use crate::board::sim::{Plant, Slowdown};
use crate::core::catalog::{DomainId, ModelId, Provenance, UnitId, VariantId};
use crate::core::energy::Budgets;
use crate::core::event::{
    BatchFailure, BatchId, Completion, Dispatch, Effect, Event, Outcome, Rejection, Request, RequestId,
    Served,
};
use crate::core::points::OperatingPoint;
use crate::sim::{Machine, Scheduler, Stream};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microjoules, Nanos, Ppm};
use choose::Choice;
use clocks::Lever;
use gears::{Gear, Gears};
use outlook::Outlook;
use spread::Spread;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Probability with which a run may be late.
pub const MISS: f64 = 1e-3;
/// A request that would be late with this probability is turned away: alone, and while others wait.
const HOPELESS: [f64; 2] = [0.98, 0.5];

/// How the causal oracle comes to know the disturbance in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insight {
    /// At once.
    Told,
    /// When a run ends or a request is turned away: exactly, from one run.
    Shown,
}

/// Clocks of a unit's domain and of its memory domain; `None` where it has none.
type Clocks = [Option<Kilohertz>; 2];

/// What a preparation depends on: model, items, floor, latency, and the conditions bit by bit.
type Occasion = (ModelId, u32, Ppm, Nanos, [u64; 3]);

/// A request that waits or runs.
#[derive(Debug, Clone)]
struct Waiting {
    request: Request,
    arrival: Timestamp,
    deadline: Timestamp,
    floor: Ppm,
    target: Ppm,
}

/// A batch on a processor.
#[derive(Debug, Clone)]
struct Running {
    batch: BatchId,
    unit: UnitId,
    variant: VariantId,
    items: u32,
    requests: Vec<Waiting>,
    /// When it will probably have ended, and when nearly for certain.
    ends: [Timestamp; 2],
    /// Clocks to ask for later.
    boost: Option<(Timestamp, Clocks)>,
    /// When it is to be given up, and for which variant.
    rescue: Option<(Timestamp, VariantId)>,
    aborted: bool,
    /// Its gears, and the one asked for last.
    gears: Arc<Gears>,
    gear: Gear,
}

/// The causal oracle. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Causal {
    machine: Machine,
    budgets: Budgets,
    write_delay: Nanos,
    outlook: Outlook,
    /// By deadline.
    queue: Vec<Waiting>,
    /// By processor.
    running: BTreeMap<u8, Running>,
    resident: BTreeSet<(VariantId, UnitId)>,
    /// By domain.
    levers: Vec<Lever>,
    insight: Insight,
    /// Slowdown and share of late runs, as it knows them and as they are.
    conditions: (Slowdown, f64),
    truth: (Slowdown, f64),
    spread: Arc<Spread>,
    gears: BTreeMap<(VariantId, UnitId, [u64; 2]), Arc<Gears>>,
    /// What is to be brought up before a request is due.
    preparations: BTreeMap<Occasion, Option<(UnitId, Clocks)>>,
    effects: VecDeque<Effect>,
    next_batch: u64,
    wake: Option<Timestamp>,
}

impl Causal {
    /// A planner that knows the machine, the classes, the streams (not their dice) and the actuator's delay.
    #[must_use]
    pub fn new(
        machine: &Machine,
        budgets: &Budgets,
        streams: &[Stream],
        write_delay: Nanos,
        insight: Insight,
    ) -> Self {
        let noise = &machine.plant.noise;
        let undisturbed = (Slowdown::NONE, noise.tail_probability);
        Self {
            outlook: Outlook::new(streams, budgets),
            queue: Vec::new(),
            running: BTreeMap::new(),
            resident: BTreeSet::new(),
            levers: vec![Lever::default(); machine.plant.domains.len()],
            insight,
            conditions: undisturbed,
            truth: undisturbed,
            spread: Arc::new(Spread::new(noise, noise.tail_probability)),
            gears: BTreeMap::new(),
            preparations: BTreeMap::new(),
            effects: VecDeque::new(),
            next_batch: 1,
            wake: None,
            machine: machine.clone(),
            budgets: budgets.clone(),
            write_delay,
        }
    }

    /// Takes the disturbance in force as known.
    fn take_in(&mut self) {
        if self.truth.1.to_bits() != self.conditions.1.to_bits() {
            self.spread = Arc::new(Spread::new(&self.machine.plant.noise, self.truth.1));
        }
        self.conditions = self.truth;
    }

    fn group(&self, unit: UnitId) -> u8 {
        self.machine.catalog.board.units[unit.index()].group
    }

    /// Loads all variants of a model wherever they may run, as far as memory allows.
    fn load(&mut self, model: ModelId) {
        let catalog = &self.machine.catalog;
        let cost = |variant: VariantId| self.machine.variants[variant.index()].footprint.0;
        let mut held: u64 = self.resident.iter().map(|(variant, _)| cost(*variant)).sum();
        for &variant in &catalog.models[model.index()].variants {
            for unit in (0..catalog.board.units.len()).map(UnitId::at) {
                let known = catalog.variants[variant.index()].profiles[unit.index()].is_some();
                let fits = held + cost(variant) <= self.budgets.memory_cap.0;
                if known && fits && !self.resident.contains(&(variant, unit)) {
                    held += cost(variant);
                    self.effects.push_back(Effect::Load { variant, unit });
                }
            }
        }
    }

    fn submit(&mut self, now: Timestamp, request: Request) {
        self.outlook.arrived(now, &request);
        let class = self.budgets.class(&request);
        let floor = request.min_accuracy.unwrap_or(class.min_accuracy);
        let waiting = Waiting {
            arrival: now,
            deadline: request.deadline.unwrap_or_else(|| now.after(class.latency)),
            floor,
            target: class.accuracy_target.unwrap_or(floor).max(floor),
            request,
        };
        let at = self.queue.partition_point(|other| other.deadline <= waiting.deadline);
        self.queue.insert(at, waiting);
    }

    fn reject(&mut self, request: RequestId, reason: Rejection) {
        let outcome = Outcome::Rejected { reason, retry_after: None };
        self.effects.push_back(Effect::Reply { request, outcome });
    }

    fn cancel(&mut self, request: RequestId) {
        if let Some(at) = self.queue.iter().position(|waiting| waiting.request.id == request) {
            self.queue.remove(at);
            return self.reject(request, Rejection::Cancelled);
        }
        let holds = |run: &&mut Running| run.requests.iter().any(|waiting| waiting.request.id == request);
        if let Some(run) = self.running.values_mut().find(holds) {
            run.requests.retain(|waiting| waiting.request.id != request);
            if run.requests.is_empty() && !run.aborted {
                run.aborted = true;
                self.effects.push_back(Effect::Abort(run.batch));
            }
            self.reject(request, Rejection::Cancelled);
        }
    }

    fn completed(&mut self, now: Timestamp, completion: &Completion) {
        let group =
            self.running.iter().find(|(_, run)| run.batch == completion.batch).map(|(group, _)| *group);
        let Some(run) = group.and_then(|group| self.running.remove(&group)) else { return };
        match completion.result {
            Ok(()) => self.answer(now, &run, completion),
            Err(BatchFailure::LaneLost) => {
                self.resident.retain(|(_, unit)| *unit != run.unit);
                self.turn_away(&run, Rejection::ExecutionFailed);
            }
            Err(BatchFailure::Cancelled) => match run.rescue {
                Some((_, variant)) if !run.requests.is_empty() => self.rescue(now, run, variant),
                _ => self.turn_away(&run, Rejection::DeadlinePassed),
            },
            Err(_) => self.turn_away(&run, Rejection::ExecutionFailed),
        }
    }

    /// Runs a smaller variant in the place of a run that has been given up.
    fn rescue(&mut self, now: Timestamp, run: Running, variant: VariantId) {
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        let left = run.ends[1].since(now);
        self.effects.push_back(Effect::Dispatch(Dispatch {
            batch,
            unit: run.unit,
            variant,
            requests: run.requests.iter().map(|waiting| waiting.request.id).collect(),
            items: run.items,
            point: OperatingPoint::default(),
            expected: left,
            reserved: Microjoules::ZERO,
        }));
        let group = self.group(run.unit);
        let run = Running { batch, variant, boost: None, rescue: None, aborted: false, ..run };
        self.running.insert(group, run);
    }

    fn turn_away(&mut self, run: &Running, reason: Rejection) {
        for waiting in &run.requests {
            self.reject(waiting.request.id, reason);
        }
    }

    fn answer(&mut self, now: Timestamp, run: &Running, completion: &Completion) {
        let count = run.requests.len().max(1) as u64;
        let domain = self.machine.plant.units[run.unit.index()].domain;
        for waiting in &run.requests {
            let served = Served {
                variant: run.variant,
                unit: run.unit,
                clock: domain.map_or(Kilohertz::ZERO, |domain| self.levers[domain.index()].now),
                batch_items: run.items,
                queue: completion.started.since(waiting.arrival),
                compute: completion.finished.since(completion.started),
                energy: Microjoules(completion.energy.unwrap_or_default().0 / count),
                energy_source: Provenance::Measured,
                accuracy: self.machine.variants[run.variant.index()].accuracy,
                missed: now > waiting.deadline,
                rescued: false,
            };
            let (request, outcome) = (waiting.request.id, Outcome::Served(served));
            self.effects.push_back(Effect::Reply { request, outcome });
        }
    }

    /// Stops what a hard deadline has overtaken.
    fn expire(&mut self, now: Timestamp) {
        let dead = |waiting: &Waiting| waiting.request.deadline.is_some_and(|deadline| deadline <= now);
        for waiting in self.queue.extract_if(.., |waiting| dead(waiting)) {
            let outcome = Outcome::Rejected { reason: Rejection::DeadlinePassed, retry_after: None };
            self.effects.push_back(Effect::Reply { request: waiting.request.id, outcome });
        }
        for run in self.running.values_mut() {
            let had = run.requests.len();
            for waiting in run.requests.extract_if(.., |waiting| dead(waiting)) {
                let outcome = Outcome::Rejected { reason: Rejection::DeadlinePassed, retry_after: None };
                self.effects.push_back(Effect::Reply { request: waiting.request.id, outcome });
            }
            if had > 0 && run.requests.is_empty() && !run.aborted {
                run.aborted = true;
                self.effects.push_back(Effect::Abort(run.batch));
            }
        }
    }

    /// Speeds up or gives up the runs whose time has come.
    fn hedge(&mut self, now: Timestamp) {
        let mut orders = Vec::new();
        for run in self.running.values_mut() {
            if !run.aborted && run.rescue.is_some_and(|(at, _)| at <= now) {
                run.aborted = true;
                self.effects.push_back(Effect::Abort(run.batch));
            }
            if let Some((_, clocks)) = run.boost.take_if(|(at, _)| *at <= now) {
                orders.push((run.unit, clocks));
            }
        }
        for (unit, clocks) in orders {
            self.shift(now, unit, clocks);
        }
    }

    /// Whether the head of the queue waits for a processor though another one could still serve it in time.
    fn elsewhere(&mut self, now: Timestamp) -> bool {
        let Some(head) = self.queue.first() else { return false };
        let (model, items, floor) = (head.request.model, head.request.items, head.floor);
        let left_s = head.deadline.since(now).as_secs_f64() / self.spread.quantile(MISS);
        let free = self.groups().into_iter().filter(|group| !self.running.contains_key(group));
        let free: Vec<u8> = free.collect();
        free.into_iter().any(|group| self.fastest(group, model, items, floor) < left_s)
    }

    /// Speeds up the runs that what has come since would wait for too long.
    fn hurry(&mut self, now: Timestamp) {
        if self.queue.is_empty() || self.elsewhere(now) {
            return;
        }
        let runs: Vec<(u8, f64)> =
            self.running.iter().map(|(group, run)| (*group, run.ends[0].since(now).as_secs_f64())).collect();
        for (group, left_s) in runs {
            let room = self.room(now, group, left_s);
            let Some(run) = self.running.get_mut(&group).filter(|run| run.ends[1] > room) else { continue };
            let held = run.gears.rim.first().copied().filter(|fastest| *fastest != run.gear);
            let Some(fastest) = held else { continue };
            // The slower gear may go on for `b` if `b + (left - b) ratio` still fits at worst; most runs end before.
            let ratio =
                run.gears.rate(fastest).seconds(run.items) / run.gears.rate(run.gear).seconds(run.items);
            let (left, fits) = (run.ends[1].since(now).as_f64(), room.since(now).as_f64());
            let spare = ((fits - left * ratio) / (1.0 - ratio)).max(0.0);
            let (unit, clocks) = (run.unit, run.gears.khz(fastest));
            let at = now.after(Nanos::from_f64(spare)).before(self.slowest_delay(unit)).max(now);
            if let Some(run) =
                self.running.get_mut(&group).filter(|run| run.boost.is_none_or(|known| at < known.0))
            {
                run.boost = Some((at, clocks));
            }
        }
        self.hedge(now);
    }

    fn dispatch(&mut self, now: Timestamp, choice: &Choice) {
        let mut requests = Vec::with_capacity(choice.batch.len());
        for &index in choice.batch.iter().rev() {
            requests.push(self.queue.remove(index));
        }
        requests.reverse();
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        let gears = Arc::clone(&choice.gears);
        let clocks = gears.khz(choice.program.first);
        let khz = |clock: Option<Kilohertz>| clock.unwrap_or(Kilohertz::ZERO);
        let boost =
            choice.program.boost.map(|(gear, at_s)| (now.after(Nanos::from_secs_f64(at_s)), gears.khz(gear)));
        let rescue = choice.rescue.map(|(variant, at_s)| (now.after(Nanos::from_secs_f64(at_s)), variant));
        self.effects.push_back(Effect::Dispatch(Dispatch {
            batch,
            unit: gears.unit,
            variant: gears.variant,
            requests: requests.iter().map(|waiting| waiting.request.id).collect(),
            items: choice.items,
            point: OperatingPoint { clock: khz(clocks[0]), memory: khz(clocks[1]) },
            expected: Nanos::from_secs_f64(choice.expected.seconds),
            reserved: Microjoules::from_f64(choice.expected.joules * 1e6),
        }));
        let ends = [choice.expected.seconds, choice.worst_s].map(|s| now.after(Nanos::from_secs_f64(s)));
        let run = Running {
            batch,
            unit: gears.unit,
            variant: gears.variant,
            items: choice.items,
            requests,
            ends,
            boost,
            rescue,
            aborted: false,
            gear: choice.program.first,
            gears: Arc::clone(&gears),
        };
        self.shift(now, gears.unit, clocks);
        self.running.insert(self.group(gears.unit), run);
    }

    /// Decides whatever is to be decided now.
    fn carry_on(&mut self, now: Timestamp) {
        self.outlook.pass(now);
        self.expire(now);
        self.hedge(now);
        let mut skipped = 0;
        while skipped < self.queue.len() {
            match self.choose(now, skipped) {
                choose::Next::Run(choice) => self.dispatch(now, &choice),
                choose::Next::Wait => skipped += 1,
                choose::Next::Hopeless => {
                    let lost = self.queue.remove(skipped);
                    self.reject(lost.request.id, Rejection::DeadlineUnreachable);
                    // Else what is believed hopeless would never be tried again.
                    self.take_in();
                }
            }
        }
        self.hurry(now);
        let shifts = self.rest(now);
        self.flush();
        let hard = self.queue.iter().chain(self.running.values().flat_map(|run| &run.requests));
        let hard = hard.filter_map(|waiting| waiting.request.deadline);
        let boosts = self.running.values().filter_map(|run| run.boost.map(|(at, _)| at));
        let rescues = self.running.values().filter_map(|run| run.rescue.map(|(at, _)| at));
        self.wake = hard.chain(boosts).chain(rescues).chain(shifts).filter(|at| *at > now).min();
    }
}

impl Scheduler for Causal {
    fn handle(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Retain { model, resident: true } => self.load(model),
            Event::Loaded { variant, unit, .. } => {
                self.resident.insert((variant, unit));
                self.preparations.clear();
            }
            Event::Unloaded { variant, unit } => {
                self.resident.remove(&(variant, unit));
                self.preparations.clear();
            }
            Event::Submit(request) => self.submit(now, request),
            Event::Cancel(request) => self.cancel(request),
            Event::Completed(completion) => {
                self.take_in();
                self.completed(now, &completion);
            }
            _ => {}
        }
        self.carry_on(now);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        self.wake
    }

    fn observe_truth(&mut self, plant: &Plant) {
        self.truth = plant.conditions();
        if self.insight == Insight::Told {
            self.take_in();
        }
        for (index, lever) in self.levers.iter_mut().enumerate() {
            let domain = DomainId::at(index);
            lever.observe(plant.clock(domain).current, plant.settle_time(domain));
        }
    }
}
