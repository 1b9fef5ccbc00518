//! A board, a workload and what happens to the board: everything of a run but the policy and the seed.

use super::workload::WorkloadFile;
use crate::board::BoardSpec;
use crate::board::sim::{PlantSpec, PlantSpecError, Script, ScriptError};
use crate::board::spec::SpecError;
use crate::config::document::{Problem, Problems, read_text};
use crate::core::catalog::UnitId;
use crate::core::energy::Budgets;
use crate::sim::{Machine, Repeat, Scheduler, SimModel, Spike, Stream, Workload, World, WorldOptions};
use crate::time::Timestamp;
use crate::units::Nanos;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::sync::Arc;

/// Longest disturbance script, bytes.
const MAX_SCRIPT_BYTES: u64 = 1 << 20;
/// Seed of the profiler's probes: every run is planned with the same profiles, but for the errors asked for.
const PROBE_SEED: u64 = 11;
/// Least time before the workload begins.
const LEAST_WARMUP: Nanos = Nanos::from_secs(2);

/// Why an experiment cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The board file.
    #[error(transparent)]
    Board(#[from] SpecError),
    /// Its plant.
    #[error(transparent)]
    Plant(#[from] PlantSpecError),
    /// The workload file, or one that it names.
    #[error(transparent)]
    Workload(#[from] Problems),
    /// The disturbance script.
    #[error(transparent)]
    Script(#[from] ScriptError),
}

impl From<Problem> for ExperimentError {
    fn from(problem: Problem) -> Self {
        Self::Workload(Problems(vec![problem]))
    }
}

/// Everything of a run but the policy and the seed. All its times count from power-on.
///
/// A run is judged over `[0, duration]`, whatever the policy: energy is what went through the board's input by
/// then, and what is not answered by then is a miss.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Name of the board.
    pub board: String,
    /// Name of the workload.
    pub workload: String,
    /// Name of the disturbance, if there is one.
    pub disturbance: Option<String>,
    /// The machine: what the scheduler is told of it, and what is true.
    pub machine: Machine,
    /// What the scheduler has to keep.
    pub budgets: Budgets,
    /// Who asks for what.
    pub streams: Vec<Stream>,
    /// Whether they begin anew until the workload ends.
    pub repeat: Option<Repeat>,
    /// What happens to the board.
    pub script: Option<Script>,
    /// When the workload begins: by then everything can be loaded.
    pub warmup: Nanos,
    /// The horizon: the end of the workload and the longest deadline after it.
    pub duration: Nanos,
    /// Largest relative error of the profiles in [`Scenario::told`].
    pub profile_error: f64,
    /// How the world behaves; its seed is replaced by that of the run.
    pub options: WorldOptions,
}

impl Scenario {
    /// Reads the files of a scenario.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn load(board: &Path, workload: &Path, disturb: Option<&Path>) -> Result<Self, ExperimentError> {
        let spec = BoardSpec::load(board)?;
        let plant = PlantSpec::from_board(&spec)?;
        let workload = WorkloadFile::load(workload)?;
        let disturbance = disturb.map(|file| Disturbance::load(file, &plant)).transpose()?;
        Self::of(Parts { spec, plant, workload, disturbance, sample_period: None })
    }

    /// Puts a scenario together: profiles are measured on the plant as it stands.
    ///
    /// # Errors
    /// If a model names a measured network that the board has not.
    pub(in crate::sim) fn of(parts: Parts) -> Result<Self, ExperimentError> {
        let Parts { spec, plant, workload, disturbance, sample_period } = parts;
        let models = workload.models.iter().map(|model| model.on(&spec, &plant));
        let models = models.collect::<Result<Vec<SimModel>, Problem>>()?;
        let usual = WorldOptions { checked: false, ..WorldOptions::default() };
        let options = WorldOptions { sample_period: sample_period.unwrap_or(usual.sample_period), ..usual };
        let machine = Machine::of_plant(spec.board(), Arc::new(plant), &models, PROBE_SEED);
        let warmup = workload.warmup.unwrap_or_else(|| loading_time(&machine, &options));
        let (name, script) = disturbance.map(|Disturbance { name, script }| (name, script)).unzip();
        let script_error = script.as_ref().map_or(0.0, Script::profile_error);
        Ok(Self {
            board: spec.name,
            disturbance: name,
            duration: warmup.saturating_add(workload.lasting).saturating_add(workload.longest_deadline()),
            profile_error: workload.profile_error.max(script_error),
            workload: workload.name,
            machine,
            budgets: workload.budgets,
            streams: workload.streams.into_iter().map(|stream| later(stream, warmup)).collect(),
            repeat: None,
            script: script.map(|script| script.later(warmup)),
            warmup,
            options,
        })
    }

    /// The requests of a run.
    #[must_use]
    pub fn workload(&self, seed: u64) -> Workload {
        match self.repeat {
            None => Workload::new(self.streams.clone(), seed),
            Some(repeat) => Workload::repeated(self.streams.clone(), seed, repeat),
        }
    }

    /// The machine as the scheduler of this run is told it is: each profile is off by up to
    /// [`Scenario::profile_error`], latency and power for themselves, evenly distributed and drawn anew for every
    /// seed. The truth is as it was.
    #[must_use]
    pub fn told(&self, seed: u64) -> Machine {
        let mut machine = self.machine.clone();
        if self.profile_error > 0.0 {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x0ff5_e7a1_1bad_cafe);
            let mut error = || 1.0 + self.profile_error * (2.0 * rng.random::<f64>() - 1.0);
            for profile in machine.catalog.variants.iter_mut().flat_map(|variant| &mut variant.profiles) {
                // Drawn for units that the variant cannot run on too, so that a change of one moves no other.
                let (latency, power) = (error(), error());
                let Some(profile) = profile else { continue };
                profile.latency.compute_s_ghz *= latency;
                profile.latency.memory_s *= latency;
                profile.latency.overhead_s *= latency;
                profile.power_scale *= power;
            }
        }
        machine
    }

    /// The world of a run around a scheduler, at power-on.
    #[must_use]
    pub fn world<S: Scheduler>(&self, scheduler: S, seed: u64) -> World<S> {
        self.world_with(scheduler, seed, self.options)
    }

    /// The same, with a world that behaves otherwise.
    pub(in crate::sim) fn world_with<S: Scheduler>(
        &self,
        scheduler: S,
        seed: u64,
        options: WorldOptions,
    ) -> World<S> {
        let options = WorldOptions { seed, ..options };
        let mut world = World::new(scheduler, &self.machine, &self.budgets, self.workload(seed), options);
        if let Some(script) = &self.script {
            world.play(script);
        }
        world
    }

    /// The end of a run.
    #[must_use]
    pub const fn end(&self) -> Timestamp {
        Timestamp::ZERO.after(self.duration)
    }
}

/// What a scenario is made of.
pub(in crate::sim) struct Parts {
    pub(in crate::sim) spec: BoardSpec,
    pub(in crate::sim) plant: PlantSpec,
    pub(in crate::sim) workload: WorkloadFile,
    pub(in crate::sim) disturbance: Option<Disturbance>,
    /// Between two sweeps of the sensors [default: that of the world].
    pub(in crate::sim) sample_period: Option<Nanos>,
}

/// A disturbance script and what it is called.
pub(in crate::sim) struct Disturbance {
    name: String,
    pub(in crate::sim) script: Script,
}

impl Disturbance {
    pub(in crate::sim) fn load(file: &Path, plant: &PlantSpec) -> Result<Self, ExperimentError> {
        let text = read_text(file, MAX_SCRIPT_BYTES)?;
        let script = Script::parse(&text, &file.display().to_string(), plant)?;
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, script })
    }
}

/// Whole seconds in which every lane has loaded all that may run on it, with half as much to spare.
fn loading_time(machine: &Machine, options: &WorldOptions) -> Nanos {
    let lane = |unit: UnitId| {
        let variants = machine.catalog.variants.iter().zip(&machine.variants);
        let runs = variants.filter(|(variant, _)| variant.profiles[unit.index()].is_some());
        let seconds = runs.map(|(_, variant)| {
            options.load_time.as_secs_f64() + variant.footprint.as_f64() / options.load_bytes_per_s
        });
        seconds.sum::<f64>()
    };
    let lanes = (0..machine.catalog.board.units.len()).map(|unit| lane(UnitId::at(unit)));
    Nanos::from_secs_f64((lanes.fold(0.0, f64::max) * 1.5).ceil()).max(LEAST_WARMUP)
}

fn later(stream: Stream, by: Nanos) -> Stream {
    let spike = |spike: Spike| Spike { from: spike.from.after(by), until: spike.until.after(by), ..spike };
    Stream {
        from: stream.from.after(by),
        until: stream.until.after(by),
        spikes: stream.spikes.into_iter().map(spike).collect(),
        ..stream
    }
}
