//! From the configuration to the parts: board, models, runtime, lanes.

use crate::board::panel::Panel;
use crate::board::restore::RestoreError;
use crate::board::restore::journal::StateLock;
use crate::board::sim::process::RemoteAccelerator;
use crate::board::sim::{Accelerator, PlantSpec, PlantSpecError, Script, ScriptError, SimBoard, SimError};
use crate::board::sysfs::{BoardError, Roots, Sampler, SysfsBoard};
use crate::board::{Actuator, BoardSpec, SpecError, Telemetry};
use crate::config::{Config, Simulation};
use crate::core::catalog::{Board, Catalog, UnitId};
use crate::ctl::status::BoardStatus;
use crate::exec::Executor;
use crate::exec::cache::GraphCache;
use crate::exec::lane::{BoxError, Lane, LaneError, LaneEvents};
use crate::exec::ort::{ExecUnit, LibraryCandidates, OrtExecutor, OrtRuntime, OrtSettings, RuntimeError};
use crate::exec::profile::StoreError;
use crate::exec::sim::SimExecutor;
use crate::time::Clock;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the daemon cannot start. Each message says where and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The board file.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its plant.
    #[error(transparent)]
    Plant(#[from] PlantSpecError),
    /// The disturbance script.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// The simulated board in another process.
    #[error("simulated board at {path}: {source}; is `wattctl sim-board` running?")]
    SimulatedBoard {
        /// Its socket.
        path: PathBuf,
        /// What happened.
        source: SimError,
    },
    /// The board.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] RestoreError),
    /// ONNX Runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A lane.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// The profiles.
    #[error(transparent)]
    Profiles(#[from] StoreError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    /// A folder or thread.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The board, ready to be read and set.
pub(super) struct OpenBoard {
    pub(super) spec: BoardSpec,
    pub(super) board: Board,
    pub(super) telemetry: Box<dyn Telemetry>,
    pub(super) actuator: Box<dyn Actuator>,
    /// Where runs take their time and energy from; `None` on a real board.
    pub(super) accelerator: Option<Arc<dyn Accelerator>>,
    pub(super) status: BoardStatus,
    pub(super) missing: Vec<String>,
    /// What the board shows besides its readings.
    pub(super) panel: Arc<Panel>,
    /// How much more a run costs than its manifest says; 1 on a real board.
    pub(super) work_scale: f64,
    /// Held as long as the daemon runs, where the actuator does not hold it: another daemon on this state
    /// directory would take over its profiles and its journal.
    pub(super) state: Option<StateLock>,
}

impl OpenBoard {
    /// What is measured and learned holds for. A simulated board must not pass for the real one.
    pub(super) fn identity(&self) -> String {
        let name = &self.spec.name;
        if self.status.simulated { format!("{name}-simulated") } else { name.clone() }
    }
}

/// Opens the board that the configuration names.
pub(super) fn open_board(config: &Config, clock: &Arc<dyn Clock>) -> Result<OpenBoard, StartError> {
    let spec = BoardSpec::load(&config.board.file)?;
    let mut status = BoardStatus { name: spec.name.clone(), synthetic: spec.synthetic, simulated: true };
    match &config.simulation {
        Simulation::InProcess { seed, script } => {
            let plant = Arc::new(PlantSpec::from_board(&spec)?);
            let script = script.as_deref().map(|path| read_script(path, &plant)).transpose()?;
            let state = Some(StateLock::acquire(&config.state_dir)?);
            let work_scale = plant.work_scale;
            let mut board = spec.board();
            plant.complete(&mut board);
            board.thermal = board.thermal.sped_up(plant.thermal_speedup);
            let sim = SimBoard::new(plant, *seed, Arc::clone(clock));
            if let Some(script) = &script {
                sim.play(script);
            }
            Ok(OpenBoard {
                telemetry: Box::new(sim.telemetry(Some(crate::board::sysfs::memory_probe()))),
                actuator: Box::new(sim.actuator()),
                accelerator: Some(Arc::new(sim)),
                missing: Vec::new(),
                panel: Arc::default(),
                spec,
                board,
                status,
                work_scale,
                state,
            })
        }
        Simulation::Process { accelerator_socket } => {
            let units: Vec<String> = spec.units.iter().map(|unit| unit.name.clone()).collect();
            let remote = RemoteAccelerator::connect(accelerator_socket, &spec.name, &units)
                .map_err(|source| StartError::SimulatedBoard { path: accelerator_socket.clone(), source })?;
            let thermal_speedup = remote.thermal_speedup();
            let mut open = open_sysfs(config, spec, status, Some(Arc::new(remote)), clock)?;
            open.board.thermal = open.board.thermal.sped_up(thermal_speedup);
            Ok(open)
        }
        Simulation::Off => {
            status.simulated = false;
            open_sysfs(config, spec, status, None, clock)
        }
    }
}

fn open_sysfs(
    config: &Config,
    spec: BoardSpec,
    status: BoardStatus,
    accelerator: Option<Arc<dyn Accelerator>>,
    clock: &Arc<dyn Clock>,
) -> Result<OpenBoard, StartError> {
    let roots = Roots::with_sys(config.board.sysfs_root.clone());
    let opened = SysfsBoard::open(&spec, &roots, Arc::clone(clock))?;
    let (board, missing, panel) = (opened.board().clone(), opened.missing().to_vec(), opened.panel());
    let (telemetry, actuator) = opened.into_parts(&config.state_dir)?;
    if !actuator.left_over().is_empty() {
        tracing::warn!(report = %actuator.left_over(), "an earlier process left clocks changed");
    }
    let telemetry = Sampler::start(telemetry)
        .map_err(|source| StartError::Io { what: "the thread that reads the sensors".to_owned(), source })?;
    let (telemetry, actuator) = (Box::new(telemetry), Box::new(actuator));
    let work_scale = if accelerator.is_some() { PlantSpec::from_board(&spec)?.work_scale } else { 1.0 };
    Ok(OpenBoard {
        spec,
        board,
        telemetry,
        actuator,
        accelerator,
        status,
        missing,
        panel,
        work_scale,
        state: None,
    })
}

fn read_script(path: &Path, plant: &PlantSpec) -> Result<Script, StartError> {
    let failed = |source| StartError::Io { what: format!("disturbance script {}", path.display()), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    Ok(Script::parse(&text, &path.display().to_string(), plant)?)
}

/// Loads ONNX Runtime: the configured library, or the usual places.
pub(super) fn open_runtime(config: &Config) -> Result<&'static OrtRuntime, StartError> {
    let candidates = LibraryCandidates::installed(config.runtime.library.clone());
    Ok(OrtRuntime::init(&candidates)?)
}

/// Starts a lane per unit.
pub(super) fn start_lanes(
    config: &Config,
    board: &OpenBoard,
    catalog: &Catalog,
    runtime: &'static OrtRuntime,
    events: &Arc<dyn LaneEvents>,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Lane>, StartError> {
    let cache = GraphCache::open(&config.runtime.cache_dir, config.runtime.cache_limit.0)
        .inspect_err(|error| tracing::warn!(%error, "graphs are not cached"))
        .ok()
        .map(Arc::new);
    let settings = OrtSettings { cache, ..OrtSettings::default() };
    let mut lanes = Vec::new();
    for (index, spec) in board.spec.units.iter().enumerate() {
        let (id, mut unit, settings) = (UnitId::at(index), ExecUnit::from(spec), settings.clone());
        let accelerator = board.accelerator.clone();
        if accelerator.is_some() {
            // The simulated board's processors are not this machine's: its CPU computes all real outputs.
            unit = ExecUnit::cpu(&unit.name, 1);
        }
        let make = move || -> Result<Box<dyn Executor>, BoxError> {
            let real = OrtExecutor::new(runtime, unit, settings)?;
            Ok(match accelerator {
                Some(accelerator) => Box::new(SimExecutor::new(real, accelerator, id)),
                None => Box::new(real),
            })
        };
        let name = &catalog.board.units[index].name;
        lanes.push(Lane::spawn(name, id, make, Arc::clone(events), Arc::clone(clock))?);
    }
    Ok(lanes)
}
