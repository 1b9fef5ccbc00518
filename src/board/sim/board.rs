//! A simulated board inside this process: the plant on a clock, behind the traits that a real board has.

use super::accelerator::{Accelerator, SimCancel, SimError, SimResult, SimRun};
use super::clock::WriteError;
use super::plant::{Plant, PlantStats};
use super::script::{Change, Script};
use super::spec::PlantSpec;
use super::work::{Finished, RunId, Work};
use crate::board::{Actuator, Telemetry};
use crate::core::catalog::{DomainId, UnitId};
use crate::core::event::{
    Applied, ApplyReport, ClockBounds, MemoryState, Reading, Readings, SensorFault, Setpoints,
};
use crate::time::{Clock, Timestamp};
use crate::units::Nanos;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A simulated board, shared by the sampler, the actuator and every lane.
#[derive(Clone)]
pub struct SimBoard {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when a run ends or anything changes that may move a finish.
    changed: Condvar,
    clock: Arc<dyn Clock>,
    /// The clock's reading at the plant's origin.
    origin: Timestamp,
}

struct State {
    plant: Plant,
    /// How runs ended that are still waited for; at most one per unit.
    ended: BTreeMap<RunId, Option<Finished>>,
}

impl SimBoard {
    /// The plant, at power-on now.
    #[must_use]
    pub fn new(spec: Arc<PlantSpec>, seed: u64, clock: Arc<dyn Clock>) -> Self {
        let origin = clock.now();
        let state = Mutex::new(State { plant: Plant::new(spec, seed), ended: BTreeMap::new() });
        Self { shared: Arc::new(Shared { state, changed: Condvar::new(), clock, origin }) }
    }

    /// Plays a disturbance script from now on.
    pub fn play(&self, script: &Script) {
        self.with(|plant, now| {
            plant.advance(now);
            plant.play(script);
        });
    }

    /// Applies one disturbance now.
    pub fn disturb(&self, change: &Change) {
        self.with(|plant, now| plant.disturb(now, change));
    }

    /// What the board has been through.
    #[must_use]
    pub fn stats(&self) -> PlantStats {
        self.with(|plant, now| {
            plant.advance(now);
            *plant.stats()
        })
    }

    /// The board's description.
    #[must_use]
    pub fn spec(&self) -> Arc<PlantSpec> {
        Arc::clone(self.shared.lock().plant.spec())
    }

    /// Does something with the plant, given the present moment on its clock, and wakes whoever waits for
    /// a run that this may have moved.
    pub fn with<T>(&self, f: impl FnOnce(&mut Plant, Timestamp) -> T) -> T {
        let mut state = self.shared.lock();
        let now = self.shared.now();
        let result = f(&mut state.plant, now);
        state.collect();
        drop(state);
        self.shared.changed.notify_all();
        result
    }

    /// The sampler's view. `memory` reads the machine's memory where that is the one that counts; without
    /// it the plant's figures stand.
    #[must_use]
    pub fn telemetry(&self, memory: Option<MemoryProbe>) -> SimTelemetry {
        SimTelemetry { board: self.clone(), memory }
    }

    /// The actuator.
    #[must_use]
    pub fn actuator(&self) -> SimActuator {
        SimActuator { board: self.clone(), found: BTreeMap::new() }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The plant holds no invariant that a panic elsewhere could break half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.clock.now().since(self.origin).0)
    }
}

impl State {
    /// Hands finished runs to those who wait for them; others are forgotten.
    fn collect(&mut self) {
        for finished in self.plant.take_finished() {
            if let Some(slot) = self.ended.get_mut(&finished.run) {
                *slot = Some(finished);
            }
        }
    }
}

impl Accelerator for SimBoard {
    fn begin(&self, unit: UnitId, work: Work) -> Result<Box<dyn SimRun>, SimError> {
        let mut state = self.shared.lock();
        let now = self.shared.now();
        let begun = state.plant.begin(now, unit, work);
        state.collect();
        let run = begun.map_err(|e| SimError::Refused(e.to_string()))?;
        state.ended.insert(run, None);
        drop(state);
        // Others share the memory with this run now.
        self.shared.changed.notify_all();
        Ok(Box::new(LocalRun { handle: Arc::new(Handle { shared: Arc::clone(&self.shared), run }) }))
    }
}

struct LocalRun {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    run: RunId,
}

/// Longest sleep between two looks at the clock, so that a clock of a test may leap.
const LONGEST_NAP: Nanos = Nanos::from_millis(20);

impl SimRun for LocalRun {
    fn wait(self: Box<Self>) -> Result<SimResult, SimError> {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        loop {
            let now = shared.now();
            state.plant.advance(now);
            state.collect();
            match state.ended.get(&self.handle.run) {
                None => return Err(SimError::Cancelled),
                Some(Some(finished)) => {
                    let result = SimResult {
                        latency: finished.latency(),
                        energy: finished.energy,
                        clock: finished.clock,
                    };
                    state.ended.remove(&self.handle.run);
                    drop(state);
                    shared.changed.notify_all();
                    return Ok(result);
                }
                Some(None) => {}
            }
            let next = state.plant.next_event().map_or(LONGEST_NAP, |at| at.since(now)).min(LONGEST_NAP);
            // A microsecond at least, so that a finish that is due but not yet counted does not spin.
            let nap = next.max(Nanos(1_000));
            let (guard, _) =
                shared.changed.wait_timeout(state, nap.into()).unwrap_or_else(PoisonError::into_inner);
            state = guard;
        }
    }

    fn canceller(&self) -> Arc<dyn SimCancel> {
        Arc::clone(&self.handle) as Arc<dyn SimCancel>
    }

    fn finished(&self) -> bool {
        let mut state = self.handle.shared.lock();
        let now = self.handle.shared.now();
        state.plant.advance(now);
        state.collect();
        matches!(state.ended.get(&self.handle.run), Some(Some(_)))
    }
}

impl Drop for LocalRun {
    fn drop(&mut self) {
        self.handle.cancel();
    }
}

impl SimCancel for Handle {
    fn cancel(&self) {
        let mut state = self.shared.lock();
        if state.ended.remove(&self.run).is_some() {
            let now = self.shared.now();
            state.plant.abort(now, self.run);
            state.collect();
            drop(state);
            self.shared.changed.notify_all();
        }
    }
}

/// Reads the memory of this machine and process.
pub type MemoryProbe = Box<dyn FnMut() -> Reading<MemoryState> + Send>;

/// [`Telemetry`] of a [`SimBoard`].
pub struct SimTelemetry {
    board: SimBoard,
    memory: Option<MemoryProbe>,
}

impl Telemetry for SimTelemetry {
    fn sample(&mut self) -> Readings {
        let mut readings = self.board.with(|plant, now| {
            plant.advance(now);
            plant.readings()
        });
        if let Some(probe) = &mut self.memory {
            readings.memory = probe();
        }
        readings
    }
}

/// [`Actuator`] of a [`SimBoard`].
pub struct SimActuator {
    board: SimBoard,
    /// Bounds as found before the first write, by domain.
    found: BTreeMap<DomainId, ClockBounds>,
}

impl Actuator for SimActuator {
    fn apply(&mut self, setpoints: &Setpoints) -> ApplyReport {
        let found = &mut self.found;
        let domains = self.board.with(|plant, now| {
            plant.advance(now);
            let count = plant.spec().domains.len();
            let set = |(index, bounds): (usize, &Option<ClockBounds>)| {
                let bounds = (*bounds)?;
                if index >= count {
                    return Some(Applied::Refused(SensorFault::Missing));
                }
                let domain = DomainId::at(index);
                let before = plant.clock(domain);
                found.entry(domain).or_insert(ClockBounds { min: before.min, max: before.max });
                Some(applied(plant.set_bounds(now, domain, bounds)))
            };
            setpoints.domains.iter().enumerate().map(set).collect()
        });
        ApplyReport { domains }
    }

    fn restore(&mut self) -> ApplyReport {
        let found = std::mem::take(&mut self.found);
        let length = found.keys().next_back().map_or(0, |domain| domain.index() + 1);
        let domains = (0..length).map(|index| found.get(&DomainId::at(index)).copied()).collect();
        let report = self.apply(&Setpoints { domains });
        self.found.clear();
        report
    }
}

fn applied(result: Result<ClockBounds, WriteError>) -> Applied {
    match result {
        Ok(bounds) => Applied::Bounds(bounds),
        Err(WriteError::Invalid | WriteError::Refused) => Applied::Refused(SensorFault::Io),
    }
}
