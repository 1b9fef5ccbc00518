//! The plant: the physics of a board, deterministic from a seed and driven by timestamps.
//!
//! It is event-driven. Between two events every clock, run and fault stands still, so power depends on
//! temperature alone; [`Plant::advance`] integrates power and heat from event to event and does what is
//! due at each. A run's progress is a share of its latency under the conditions in force: when a clock
//! changes in the middle, the remaining share goes on at the new speed.
//!
//! How far the caller goes at a time changes nothing but rounding: finishes are computed from the last
//! change of conditions, and the firmware's thermal control ticks on a fixed grid.

mod control;
mod power;

use super::clock::Domain;
use super::fault::{Active, Sensor};
use super::heat::Heat;
use super::script::{Change, Script};
use super::spec::PlantSpec;
use super::work::{Finished, RunId, Slowdown, Work};
use crate::core::catalog::{DomainId, UnitId};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microjoules, MilliCelsius, Nanos};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Why a run could not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlantError {
    /// The board has no such unit.
    #[error("unit {0} does not exist on this board")]
    NoSuchUnit(UnitId),
    /// A unit of the same processor is busy.
    #[error("unit {unit}: its processor `{group}` is busy")]
    Busy {
        /// The unit asked for.
        unit: UnitId,
        /// The processor.
        group: String,
    },
    /// The measured network does not exist, or was measured on another unit.
    #[error("unit {unit}: no measured network {grid} for it")]
    NoSuchGrid {
        /// The unit asked for.
        unit: UnitId,
        /// Index of the network.
        grid: u16,
    },
    /// No items.
    #[error("a run of 0 items; wanted at least 1")]
    NoItems,
}

/// What the plant has been through.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PlantStats {
    /// Energy through the board's input, J.
    pub input_j: f64,
    /// Energy of the rails behind it, J.
    pub rails_j: f64,
    /// Highest true temperature of any zone.
    pub hottest: MilliCelsius,
    /// Time with some zone at or above its passive trip.
    pub above_passive: Nanos,
    /// Time with some zone at or above its critical trip.
    pub above_critical: Nanos,
    /// Time with some clock held down by the firmware.
    pub throttled: Nanos,
    /// Runs that finished.
    pub finished: u64,
    /// Runs that were aborted.
    pub aborted: u64,
}

#[derive(Debug, Clone)]
struct Run {
    id: RunId,
    unit: UnitId,
    work: Work,
    noise: f64,
    started: Timestamp,
    /// Share of the work left at `since`.
    remaining: f64,
    since: Timestamp,
    /// Latency of the whole work under the present conditions, s.
    seconds: f64,
    /// Share of the busy power drawn under the present conditions.
    activity: f64,
    /// Power attributed to the run, at the board's input, W.
    watts: f64,
    energy_j: f64,
}

impl Run {
    fn ends(&self) -> Timestamp {
        self.since.after(Nanos::from_secs_f64(self.remaining * self.seconds))
    }
}

/// A simulated board. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Plant {
    pub(super) spec: Arc<PlantSpec>,
    pub(super) seed: u64,
    pub(super) now: Timestamp,
    pub(super) domains: Vec<Domain>,
    pub(super) heat: Heat,
    fan_on: bool,
    fan_failed: bool,
    ambient_c: f64,
    disturbance: Slowdown,
    tail_probability: f64,
    extra_w: f64,
    charger_w: f64,
    runs: Vec<Run>,
    next_run: u64,
    finished: Vec<Finished>,
    /// Power of each rail without leakage, W; holds between two events.
    cold_w: Vec<f64>,
    /// Averaged power of each rail and of the input, as the sensors show it, W.
    pub(super) shown_w: Vec<f64>,
    pub(super) shown_input_w: f64,
    /// Energy of each rail since the start, J.
    pub(super) rail_j: Vec<f64>,
    pub(super) battery_j: f64,
    pub(super) draw_w: f64,
    next_tick: Timestamp,
    script: VecDeque<(Timestamp, Change)>,
    pub(super) faults: BTreeMap<Sensor, Active>,
    stats: PlantStats,
}

impl Plant {
    /// A board at power-on, at the origin of time.
    #[must_use]
    pub fn new(spec: Arc<PlantSpec>, seed: u64) -> Self {
        let domains = spec.domains.iter().map(|domain| Domain::new(domain, spec.governor_idle)).collect();
        let mut plant = Self {
            seed,
            now: Timestamp::ZERO,
            domains,
            heat: Heat::uniform(spec.start_c.unwrap_or(spec.ambient_c)),
            fan_on: false,
            fan_failed: false,
            ambient_c: spec.ambient_c,
            disturbance: Slowdown::NONE,
            tail_probability: spec.noise.tail_probability,
            extra_w: 0.0,
            charger_w: 0.0,
            runs: Vec::new(),
            next_run: 1,
            finished: Vec::new(),
            cold_w: vec![0.0; spec.rails.len()],
            shown_w: vec![0.0; spec.rails.len()],
            shown_input_w: 0.0,
            rail_j: vec![0.0; spec.rails.len()],
            battery_j: spec.battery.map_or(0.0, |battery| battery.capacity_wh * 3600.0 * battery.start),
            draw_w: 0.0,
            next_tick: Timestamp::ZERO.after(spec.throttle_period),
            script: VecDeque::new(),
            faults: BTreeMap::new(),
            stats: PlantStats::default(),
            spec,
        };
        plant.refresh();
        if plant.spec.start_c.is_none() {
            plant.settle_idle();
        }
        plant.shown_w = plant.rail_watts();
        plant.shown_input_w = plant.input_watts();
        plant.draw_w = plant.shown_input_w;
        plant.stats.hottest = plant.hottest();
        plant
    }

    /// The steady state of the board as it stands. Leakage depends on the temperature that it causes, so
    /// iterate; 50 rounds are ample at less than 0.5 W/K of feedback.
    fn settle_idle(&mut self) {
        for _ in 0..50 {
            let watts = self.input_watts();
            self.heat =
                Heat::steady(&self.spec.thermal, watts, self.ambient_c, self.spec.thermal.slow_k_per_w);
        }
    }

    /// The board's description.
    #[must_use]
    pub fn spec(&self) -> &Arc<PlantSpec> {
        &self.spec
    }

    /// The moment the plant has been advanced to.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// What the board has been through.
    #[must_use]
    pub const fn stats(&self) -> &PlantStats {
        &self.stats
    }

    /// Plays a disturbance script, its times counted from now; replaces what was left of another.
    pub fn play(&mut self, script: &Script) {
        let origin = self.now;
        self.script = script.steps().iter().map(|(at, change)| (origin.after(*at), change.clone())).collect();
    }

    /// Applies one disturbance now.
    pub fn disturb(&mut self, now: Timestamp, change: &Change) {
        self.advance(now);
        self.change(change);
        self.refresh();
    }

    /// Starts a run on a unit; its luck is the number of the run.
    ///
    /// # Errors
    /// If the unit does not exist or its processor is busy, or the work is not one that it can do.
    pub fn begin(&mut self, now: Timestamp, unit: UnitId, work: Work) -> Result<RunId, PlantError> {
        self.begin_with_luck(now, unit, work, self.next_run)
    }

    /// Starts a run on a unit. Its noise depends on the board's seed and on `luck` alone, whatever ran before:
    /// so two schedulers that serve the same requests on two copies of a board meet the same luck.
    ///
    /// # Errors
    /// As [`Plant::begin`].
    pub fn begin_with_luck(
        &mut self,
        now: Timestamp,
        unit: UnitId,
        work: Work,
        luck: u64,
    ) -> Result<RunId, PlantError> {
        self.advance(now);
        let spec = self.spec.units.get(unit.index()).ok_or(PlantError::NoSuchUnit(unit))?;
        if work.items == 0 {
            return Err(PlantError::NoItems);
        }
        let taken = |run: &Run| self.spec.units[run.unit.index()].group == spec.group;
        if self.runs.iter().any(taken) {
            return Err(PlantError::Busy { unit, group: spec.group.clone() });
        }
        if let Some(grid) = work.grid {
            let network = self.spec.grids.get(usize::from(grid.0));
            if network.is_none_or(|network| network.unit != unit) {
                return Err(PlantError::NoSuchGrid { unit, grid: grid.0 });
            }
        }
        let id = RunId(self.next_run);
        self.next_run += 1;
        self.runs.push(Run {
            id,
            unit,
            work,
            noise: self.luck_factor(luck, self.tail_probability),
            started: self.now,
            remaining: 1.0,
            since: self.now,
            seconds: 0.0,
            activity: 1.0,
            watts: 0.0,
            energy_j: 0.0,
        });
        self.refresh();
        Ok(id)
    }

    /// Ends a run early; `None` if it is not running (any more). What it cost so far is in the result.
    pub fn abort(&mut self, now: Timestamp, run: RunId) -> Option<Finished> {
        self.advance(now);
        let index = self.runs.iter().position(|running| running.id == run)?;
        let ended = self.end(index);
        self.stats.aborted += 1;
        self.refresh();
        Some(ended)
    }

    /// Runs in progress.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.runs.len()
    }

    /// Takes the runs that have finished, in order of finishing.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// The next moment at which something happens by itself: a run finishes, a clock changes, the script
    /// goes on, or the firmware may throttle. [`Plant::advance`] to it, ask again. The answer holds until
    /// the next call that changes something.
    #[must_use]
    pub fn next_event(&self) -> Option<Timestamp> {
        let tick = (self.capped() || self.near_trip()).then_some(self.next_tick);
        [tick, self.next_change()].into_iter().flatten().min()
    }

    fn next_change(&self) -> Option<Timestamp> {
        let runs = self.runs.iter().map(Run::ends);
        let clocks = self.domains.iter().filter_map(Domain::next_event);
        let script = self.script.front().map(|(at, _)| *at);
        runs.chain(clocks).chain(script).min()
    }

    /// Lets time pass until `now`; a moment in the past changes nothing.
    pub fn advance(&mut self, now: Timestamp) {
        loop {
            let due = self.next_change().unwrap_or(Timestamp::MAX).min(self.next_tick);
            // What fell due at the very moment of the last call is done first.
            let until = due.min(now).max(self.now);
            self.integrate(until);
            self.now = until;
            if due > until {
                return;
            }
            self.settle_due();
        }
    }

    /// Does everything that is due at `self.now`.
    fn settle_due(&mut self) {
        while let Some(index) = self.first_ended() {
            let ended = self.end(index);
            self.stats.finished += 1;
            self.finished.push(ended);
        }
        while self.script.front().is_some_and(|(at, _)| *at <= self.now) {
            if let Some((_, change)) = self.script.pop_front() {
                self.change(&change);
            }
        }
        if self.next_tick <= self.now {
            self.tick();
            self.next_tick = self.next_tick.after(self.spec.throttle_period);
        }
        for domain in &mut self.domains {
            domain.advance(self.now);
        }
        self.refresh();
    }

    fn first_ended(&self) -> Option<usize> {
        let ended = |(_, run): &(usize, &Run)| run.ends() <= self.now;
        let runs = self.runs.iter().enumerate().filter(ended);
        runs.min_by_key(|(_, run)| (run.ends(), run.id)).map(|(index, _)| index)
    }

    fn end(&mut self, index: usize) -> Finished {
        let run = self.runs.swap_remove(index);
        Finished {
            run: run.id,
            unit: run.unit,
            started: run.started,
            finished: self.now,
            energy: Microjoules::from_f64(run.energy_j * 1e6),
            clock: self.unit_clock(run.unit).unwrap_or(Kilohertz::ZERO),
        }
    }

    fn unit_clock(&self, unit: UnitId) -> Option<Kilohertz> {
        let domain = self.spec.units[unit.index()].domain?;
        Some(self.domains[domain.index()].current())
    }

    /// Recomputes what depends on clocks and runs, at every event.
    fn refresh(&mut self) {
        for index in 0..self.domains.len() {
            let id = DomainId::at(index);
            let uses = |run: &Run| {
                let unit = &self.spec.units[run.unit.index()];
                unit.domain == Some(id) || unit.memory_domain == Some(id)
            };
            let busy = self.runs.iter().any(uses);
            self.domains[index].set_busy(self.now, busy);
        }
        for index in 0..self.runs.len() {
            let (seconds, activity) = self.pace(&self.runs[index]);
            let run = &mut self.runs[index];
            run.activity = activity;
            if run.seconds.to_bits() != seconds.to_bits() {
                if run.seconds > 0.0 {
                    let done = self.now.since(run.since).as_secs_f64() / run.seconds;
                    run.remaining = (run.remaining - done).max(0.0);
                }
                run.since = self.now;
                run.seconds = seconds;
            }
        }
        self.refresh_power();
    }

    /// Latency of a run under the present conditions, and the share of busy power it draws.
    fn pace(&self, run: &Run) -> (f64, f64) {
        let slow = self.spec.beside(self.disturbance, self.runs.len() - 1);
        let memory = self.spec.units[run.unit.index()].memory_domain;
        let memory = memory.map(|domain| self.domains[domain.index()].current());
        let pace = self.spec.pace(run.unit, &run.work, self.unit_clock(run.unit), memory, slow);
        (pace.seconds() * run.noise, pace.activity)
    }

    /// What the disturbances make of every run now: the slowdown, and the share of runs that are late beyond the
    /// usual noise.
    #[must_use]
    pub const fn conditions(&self) -> (Slowdown, f64) {
        (self.disturbance, self.tail_probability)
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::AmbientC(celsius) => self.ambient_c = *celsius,
            Change::FanFailed(failed) => self.fan_failed = *failed,
            Change::ContentionCompute(factor) => self.disturbance.compute = *factor,
            Change::ContentionMemory(factor) => self.disturbance.memory = *factor,
            Change::TailProbability(share) => self.tail_probability = *share,
            Change::ExtraPowerW(watts) => self.extra_w = *watts,
            Change::ChargerW(watts) => self.charger_w = *watts,
            Change::ActuationDelay(factor) => {
                self.domains.iter_mut().for_each(|domain| domain.delay_factor = *factor);
            }
            Change::Sensor { sensor, failure: Some(failure) } => {
                let active = Active::begin(failure, self.shown(*sensor));
                self.faults.insert(*sensor, active);
            }
            Change::Sensor { sensor, failure: None } => {
                self.faults.remove(sensor);
            }
            Change::Actuator { domain, fault } => {
                if let Some(domain) = self.domains.get_mut(domain.index()) {
                    domain.fault = *fault;
                    domain.retarget(self.now);
                }
            }
        }
    }

    /// Factor on the latency of a run with this luck, where `tail_probability` is the share of runs that are late
    /// beyond the usual noise.
    #[must_use]
    pub fn luck_factor(&self, luck: u64, tail_probability: f64) -> f64 {
        let noise = self.spec.noise;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ luck.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z: f64 = StandardNormal.sample(&mut rng);
        // Always three draws, so that a change of the tail's odds shifts no other run's noise.
        let (odds, late): (f64, f64) = (rng.random(), rng.random());
        let tail = if odds < tail_probability {
            noise.tail_min + (noise.tail_max - noise.tail_min) * late
        } else {
            1.0
        };
        (noise.sigma * z).exp() * tail
    }
}
