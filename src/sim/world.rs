//! The machine around a scheduler, in virtual time.
//!
//! The next moment is the earliest of: a request, a client that hangs up, something on the plant (a run ends, a
//! clock changes, the script goes on), a lane that has loaded, the actuator, a sweep of the sensors, and the
//! scheduler's own wake-up. At that moment everything due happens in this order: runs end, lanes load,
//! bounds are written, clients hang up and come, sensors are read, the scheduler is woken.

use super::checkers::Checkers;
use super::lane::{Doing, FakeLane, LaneFaults, Order};
use super::report::Summary;
use super::requests::{Asked, Counts, Requests, Row};
use super::setup::{Machine, SimVariant};
use super::workload::{Arrival, Workload};
use crate::board::sim::{Finished, Plant, Script, Work, WriteError};
use crate::core::Core;
use crate::core::catalog::{DomainId, ModelId, UnitId};
use crate::core::energy::Budgets;
use crate::core::event::{
    Applied, ApplyReport, BatchFailure, BatchId, ClassId, ClockBounds, Completion, Dispatch, Effect, Event,
    Outcome, Request, RequestId, SensorFault,
};
use crate::time::Timestamp;
use crate::units::{Bytes, Microjoules, Nanos, Ppm};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeSet, VecDeque};

/// Rounds at one moment beyond which the scheduler is taken to go in circles.
const MOST_ROUNDS: u32 = 10_000;

/// Whatever decides: the core, or what is compared with it.
pub trait Scheduler {
    /// Takes in an event.
    fn handle(&mut self, now: Timestamp, event: Event);
    /// The next thing to do, in order.
    fn poll_effect(&mut self) -> Option<Effect>;
    /// When [`Event::Wake`] is due.
    fn next_wakeup(&self) -> Option<Timestamp>;
    /// Lets an oracle see how things really are, before each event. Whoever competes does not look.
    fn observe_truth(&mut self, _plant: &Plant) {}
}

impl Scheduler for Core {
    fn handle(&mut self, now: Timestamp, event: Event) {
        Self::handle(self, now, event);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        Self::poll_effect(self)
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        Self::next_wakeup(self)
    }
}

/// How the world behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorldOptions {
    /// Seed of the plant's noise and of the lanes' faults.
    pub seed: u64,
    /// Between two sweeps of the sensors.
    pub sample_period: Nanos,
    /// From an order to the actuator until it has written the bounds.
    pub write_delay: Nanos,
    /// Time that a load takes besides reading the file.
    pub load_time: Nanos,
    /// Bytes per second that a load reads.
    pub load_bytes_per_s: f64,
    /// Whether each run's energy is metered, as on the daemon's simulated board, or left to rails and models.
    pub metered: bool,
    /// What goes wrong on lanes.
    pub faults: LaneFaults,
    /// Whether to keep a row per request.
    pub rows: bool,
    /// Whether the checkers watch.
    pub checked: bool,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            sample_period: Nanos::from_millis(100),
            write_delay: Nanos::from_micros(50),
            load_time: Nanos::from_millis(30),
            load_bytes_per_s: 200e6,
            metered: true,
            faults: LaneFaults::default(),
            rows: false,
            checked: true,
        }
    }
}

/// The machine and its clients around a scheduler.
#[derive(Debug, Clone)]
pub struct World<S> {
    scheduler: S,
    checkers: Checkers,
    plant: Plant,
    variants: Vec<SimVariant>,
    lanes: Vec<FakeLane>,
    workload: Workload,
    options: WorldOptions,
    rng: Xoshiro256PlusPlus,
    now: Timestamp,
    rounds: u32,
    next_sample: Timestamp,
    /// Bounds on their way to the board, and when they will be there.
    setpoints: Vec<Option<ClockBounds>>,
    write_at: Option<Timestamp>,
    quitters: BTreeSet<(Timestamp, RequestId)>,
    requests: Requests,
    /// Latency objectives by class.
    latencies: Vec<Nanos>,
    /// Events to handle; empty between two calls of [`World::feed`].
    events: VecDeque<Event>,
    summary: Summary,
}

impl<S: Scheduler> World<S> {
    /// A machine at power-on. Every model is wanted in memory at once. `budgets` are those that the scheduler
    /// was given, for the checkers.
    #[must_use]
    pub fn new(
        scheduler: S,
        machine: &Machine,
        budgets: &Budgets,
        workload: Workload,
        options: WorldOptions,
    ) -> Self {
        let board = &machine.catalog.board;
        let mut world = Self {
            scheduler,
            checkers: Checkers::new(&machine.catalog, budgets),
            plant: Plant::new(machine.plant.clone(), options.seed),
            variants: machine.variants.clone(),
            lanes: vec![FakeLane::new(); board.units.len()],
            workload,
            options,
            rng: Xoshiro256PlusPlus::seed_from_u64(options.seed ^ 0x1a5e_5fa0_17ed_0bad),
            now: Timestamp::ZERO,
            rounds: 0,
            next_sample: Timestamp::ZERO,
            setpoints: vec![None; board.domains.len()],
            write_at: None,
            quitters: BTreeSet::new(),
            requests: Requests::new(options.rows),
            latencies: budgets.classes.iter().map(|class| class.latency).collect(),
            events: VecDeque::new(),
            summary: Summary::default(),
        };
        for model in 0..machine.catalog.models.len() {
            world.feed(Event::Retain { model: ModelId::at(model), resident: true });
        }
        world
    }

    /// Plays a disturbance script from now on.
    pub fn play(&mut self, script: &Script) {
        self.plant.play(script);
    }

    /// The present moment.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The board.
    pub const fn plant_mut(&mut self) -> &mut Plant {
        &mut self.plant
    }

    /// The board.
    #[must_use]
    pub const fn plant(&self) -> &Plant {
        &self.plant
    }

    /// What decides.
    #[must_use]
    pub const fn scheduler(&self) -> &S {
        &self.scheduler
    }

    /// What was watched.
    #[must_use]
    pub const fn checkers(&self) -> &Checkers {
        &self.checkers
    }

    /// One row per request that is answered and runs no more, in the order of arrival, where the options ask for
    /// them. Those behind a request that is not over are not in it yet.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        self.requests.rows()
    }

    /// Takes the rows so far, as [`World::rows`], so that a long run need not keep them.
    pub fn take_rows(&mut self) -> Vec<Row> {
        self.requests.take_rows()
    }

    /// What became of the requests in [`World::rows`], whether they are kept or not.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.requests.counts()
    }

    /// The end of the run: counts every request as it stands, those that are answered but run on, and those without
    /// an answer, which are returned.
    pub fn finish(&mut self) -> Vec<Asked> {
        self.requests.finish()
    }

    /// The run so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = self.summary.clone();
        summary.close(self.now.since(Timestamp::ZERO), self.plant.stats());
        summary
    }

    /// Lets everything happen until `end`.
    pub fn run_until(&mut self, end: Timestamp) {
        loop {
            let next = self.next_moment();
            if next > end || !self.count_round(next) {
                break;
            }
            self.step(next);
        }
        self.advance(end.max(self.now));
    }

    /// Runs on until no request is without an answer and no lane is busy, but not past `limit`; then lets the
    /// checkers conclude. True if it came to rest.
    pub fn drain(&mut self, limit: Nanos) -> bool {
        let end = self.now.after(limit);
        while !self.at_rest() {
            let next = self.next_moment();
            if next > end || !self.count_round(next) {
                break;
            }
            self.step(next);
        }
        self.checkers.finish(self.now);
        self.at_rest()
    }

    fn at_rest(&self) -> bool {
        self.workload.next_at().is_none()
            && self.requests.unanswered() == 0
            && self.lanes.iter().all(FakeLane::is_idle)
    }

    /// Counts the rounds at one moment; false if there are too many of them.
    fn count_round(&mut self, next: Timestamp) -> bool {
        self.rounds = if next > self.now { 0 } else { self.rounds + 1 };
        if self.rounds > MOST_ROUNDS {
            let due = self.scheduler.next_wakeup();
            self.checkers.violated(self.now, format!("time stands still; the next wake-up is {due:?}"));
        }
        self.rounds <= MOST_ROUNDS
    }

    fn next_moment(&self) -> Timestamp {
        let lanes = self.lanes.iter().filter_map(FakeLane::next_event).min();
        let candidates = [
            self.workload.next_at(),
            self.quitters.first().map(|(at, _)| *at),
            self.plant.next_event(),
            lanes,
            self.write_at,
            self.scheduler.next_wakeup(),
        ];
        let soonest = candidates.into_iter().flatten().fold(self.next_sample, Timestamp::min);
        soonest.max(self.now)
    }

    fn step(&mut self, now: Timestamp) {
        self.advance(now);
        self.finish_loads();
        self.write_bounds();
        while let Some(&(at, request)) = self.quitters.first().filter(|(at, _)| *at <= self.now) {
            self.quitters.remove(&(at, request));
            if self.requests.is_asking(request) {
                self.feed(Event::Cancel(request));
            }
        }
        while self.workload.next_at().is_some_and(|at| at <= self.now) {
            if let Some(arrival) = self.workload.take() {
                self.submit(&arrival);
            }
        }
        if self.next_sample <= self.now {
            self.next_sample = self.now.after(self.options.sample_period);
            let mut readings = self.plant.readings();
            let held = self.lanes.iter().flat_map(|lane| &lane.loaded);
            let held = held.map(|variant| self.variants[variant.index()].footprint.0).sum();
            readings.memory = Ok(self.plant.memory(Bytes(held)));
            self.feed(Event::Sampled(readings));
        }
        if self.scheduler.next_wakeup().is_some_and(|at| at <= self.now) {
            self.feed(Event::Wake);
        }
    }

    /// Lets the board's time pass and reports the runs that ended.
    fn advance(&mut self, now: Timestamp) {
        self.plant.advance(now);
        self.now = now;
        for finished in self.plant.take_finished() {
            self.finish_run(&finished);
        }
    }

    fn finish_run(&mut self, finished: &Finished) {
        let lane = &mut self.lanes[finished.unit.index()];
        let (dispatch, started, fails) = match std::mem::replace(&mut lane.doing, Doing::Nothing) {
            Doing::Running { dispatch, run, started, fails } if run == finished.run => {
                (dispatch, started, fails)
            }
            other => {
                lane.doing = other;
                return;
            }
        };
        let result = if fails { Err(BatchFailure::Provider) } else { Ok(()) };
        let energy = self.options.metered.then_some(finished.energy);
        let batch = dispatch.batch;
        self.requests.end(&dispatch, finished);
        self.next_batch(finished.unit);
        self.feed(Event::Completed(Completion { batch, started, finished: self.now, energy, result }));
    }

    fn finish_loads(&mut self) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let Some((variant, _)) = lane.loading.take_if(|(_, until)| *until <= self.now) else { continue };
            let unit = UnitId::at(index);
            let odds: f64 = self.rng.random();
            let event = if odds < self.options.faults.load {
                Event::LoadFailed { variant, unit, short_of_memory: false }
            } else {
                lane.loaded.push(variant);
                Event::Loaded { variant, unit, footprint: self.variants[variant.index()].footprint }
            };
            for event in std::iter::once(event).chain(self.begin_loads(unit)) {
                self.feed(event);
            }
        }
    }

    fn write_bounds(&mut self) {
        if self.write_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.write_at = None;
        let empty = vec![None; self.setpoints.len()];
        let setpoints = std::mem::replace(&mut self.setpoints, empty);
        let apply = |(index, bounds): (usize, Option<ClockBounds>)| {
            let result = self.plant.set_bounds(self.now, DomainId::at(index), bounds?);
            Some(match result {
                Ok(bounds) => Applied::Bounds(bounds),
                Err(WriteError::Invalid | WriteError::Refused) => Applied::Refused(SensorFault::Io),
            })
        };
        let domains = setpoints.into_iter().enumerate().map(apply).collect();
        self.feed(Event::Applied(ApplyReport { domains }));
    }

    fn submit(&mut self, arrival: &Arrival) {
        let stream = &self.workload.streams()[arrival.stream];
        let id = self.requests.next_id();
        let deadline = stream.deadline.map(|span| self.now.after(span));
        let request = Request {
            id,
            app: stream.app,
            class: stream.class,
            model: stream.model,
            items: stream.items,
            input_bytes: Bytes(0),
            deadline,
            min_accuracy: stream.min_accuracy,
            max_energy: None,
            variant: None,
            priority: None,
        };
        self.quitters.extend(arrival.quits_at.map(|at| (at, id)));
        self.requests.ask(Asked {
            request: id,
            class: stream.class,
            items: stream.items,
            arrival: self.now,
            deadline: deadline.unwrap_or_else(|| self.now.after(self.latency(stream.class))),
            run: None,
            energy: Microjoules::ZERO,
        });
        self.summary.requests += 1;
        self.feed(Event::Submit(request));
    }

    /// The latency objective of a class; an unknown one takes the default, as in [`Budgets::class`].
    fn latency(&self, class: ClassId) -> Nanos {
        let found = self.latencies.get(usize::from(class.0)).or(self.latencies.first());
        found.copied().unwrap_or(Nanos::MAX)
    }

    /// Lets the scheduler handle an event now, and carries out what it wants done.
    pub fn feed(&mut self, event: Event) {
        let mut events = std::mem::take(&mut self.events);
        events.push_back(event);
        while let Some(event) = events.pop_front() {
            self.summary.events += 1;
            if let Event::Reconfigured(budgets) = &event {
                self.latencies = budgets.classes.iter().map(|class| class.latency).collect();
            }
            if self.options.checked {
                self.checkers.event(&event);
            }
            self.scheduler.observe_truth(&self.plant);
            self.scheduler.handle(self.now, event);
            while let Some(effect) = self.scheduler.poll_effect() {
                if self.options.checked {
                    self.checkers.effect(self.now, &effect);
                }
                self.carry_out(effect, &mut events);
            }
            if self.options.checked {
                self.checkers.settled(self.now);
            }
        }
        self.events = events;
    }

    fn carry_out(&mut self, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Dispatch(dispatch) => {
                self.summary.batches += 1;
                let unit = dispatch.unit;
                self.lanes[unit.index()].batches.push_back(dispatch);
                events.extend(self.begin_batches(unit));
            }
            Effect::Abort(batch) => events.extend(self.abort(batch)),
            Effect::Reply { request, outcome } => self.answer(request, outcome),
            Effect::Load { variant, unit } => self.order(unit, Order::Load(variant), events),
            Effect::Unload { variant, unit } => self.order(unit, Order::Unload(variant), events),
            Effect::Set(setpoints) => {
                for (slot, bounds) in self.setpoints.iter_mut().zip(setpoints.domains) {
                    *slot = bounds.or(*slot);
                }
                self.write_at.get_or_insert(self.now.after(self.options.write_delay));
            }
            Effect::Note(crate::core::event::Note::Decision(_)) => self.summary.decisions += 1,
            Effect::Note(_) => {}
        }
    }

    fn answer(&mut self, request: RequestId, outcome: Outcome) {
        let Some(row) = self.requests.answer(request, self.now, outcome) else { return };
        let variant = match outcome {
            Outcome::Served(served) => self.variants.get(served.variant.index()),
            Outcome::Rejected { .. } => None,
        };
        self.summary.answer(&row, variant.map_or(Ppm::ZERO, |variant| variant.accuracy));
    }

    fn order(&mut self, unit: UnitId, order: Order, events: &mut VecDeque<Event>) {
        self.lanes[unit.index()].orders.push_back(order);
        events.extend(self.begin_loads(unit));
    }

    fn next_batch(&mut self, unit: UnitId) {
        for event in self.begin_batches(unit) {
            self.feed(event);
        }
    }

    /// Begins loads until one takes time; the events of those that did not.
    fn begin_loads(&mut self, unit: UnitId) -> Vec<Event> {
        let mut events = Vec::new();
        let lane = &mut self.lanes[unit.index()];
        while lane.loading.is_none() {
            match lane.orders.pop_front() {
                None => break,
                Some(Order::Load(variant)) => {
                    let bytes = self.variants[variant.index()].footprint.as_f64();
                    let reading = Nanos::from_secs_f64(bytes / self.options.load_bytes_per_s.max(1.0));
                    lane.loading = Some((variant, self.now.after(self.options.load_time).after(reading)));
                }
                Some(Order::Unload(variant)) => {
                    lane.loaded.retain(|loaded| *loaded != variant);
                    events.push(Event::Unloaded { variant, unit });
                }
            }
        }
        events
    }

    /// Begins batches until one takes time; the events of those that did not.
    fn begin_batches(&mut self, unit: UnitId) -> Vec<Event> {
        let mut events = Vec::new();
        while self.lanes[unit.index()].doing == Doing::Nothing {
            let Some(dispatch) = self.lanes[unit.index()].batches.pop_front() else { break };
            events.extend(self.begin_run(dispatch));
        }
        events
    }

    fn begin_run(&mut self, dispatch: Dispatch) -> Option<Event> {
        let Dispatch { batch, unit, variant, items, .. } = dispatch;
        // The luck of a request is its own, so that whatever decides meets the same.
        let luck = dispatch.requests.first().map_or(0, |request| request.0);
        if self.rng.random::<f64>() < self.options.faults.lost {
            self.lanes[unit.index()] = FakeLane::new();
            return Some(self.failure(batch, BatchFailure::LaneLost));
        }
        if !self.lanes[unit.index()].loaded.contains(&variant) {
            return Some(self.failure(batch, BatchFailure::NotLoaded));
        }
        let work = Work { items, ..self.variants[variant.index()].work };
        match self.plant.begin_with_luck(self.now, unit, work, luck) {
            Ok(run) => {
                self.requests.begin(&dispatch);
                let odds: f64 = self.rng.random();
                let fails = odds < self.options.faults.run;
                let started = self.now;
                self.lanes[unit.index()].doing = Doing::Running { dispatch, run, started, fails };
                None
            }
            Err(error) => {
                self.checkers.violated(self.now, format!("{batch:?}: {error}"));
                Some(self.failure(batch, BatchFailure::LaneLost))
            }
        }
    }

    fn failure(&self, batch: BatchId, failure: BatchFailure) -> Event {
        let result = Err(failure);
        Event::Completed(Completion { batch, started: self.now, finished: self.now, energy: None, result })
    }

    fn abort(&mut self, batch: BatchId) -> Vec<Event> {
        for unit in (0..self.lanes.len()).map(UnitId::at) {
            if self.lanes[unit.index()].withdraw(batch) {
                return vec![self.failure(batch, BatchFailure::Cancelled)];
            }
            let Some(run) = self.lanes[unit.index()].runs(batch) else { continue };
            // A run that ended at this very moment reports by itself.
            let Some(ended) = self.plant.abort(self.now, run) else { continue };
            let doing = std::mem::replace(&mut self.lanes[unit.index()].doing, Doing::Nothing);
            if let Doing::Running { dispatch, .. } = doing {
                self.requests.end(&dispatch, &ended);
            }
            let (started, energy) = (ended.started, self.options.metered.then_some(ended.energy));
            let result = Err(BatchFailure::Cancelled);
            let completion = Completion { batch, started, finished: self.now, energy, result };
            let mut events = vec![Event::Completed(completion)];
            events.extend(self.begin_batches(unit));
            return events;
        }
        Vec::new()
    }
}
