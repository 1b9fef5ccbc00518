//! Commands that need no daemon: they work on this machine's clocks, on a simulated board, or on files.

use crate::args::{CheckArgs, ReplayArgs, RestoreArgs, SimBoardArgs};
use crate::{Done, Failure};
use anyhow::{Context as _, anyhow};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wattd::board::BoardSpec;
use wattd::board::restore;
use wattd::board::sim::process::{BoardProcess, RemoteAccelerator, ServeOptions, TreeKind};
use wattd::board::sim::{PlantSpec, Script};
use wattd::board::sysfs::Roots;
use wattd::config::{Config, Simulation};
use wattd::core::event::{Effect, Outcome};
use wattd::ctl::status::Status;
use wattd::journal;
use wattd::model::ModelStore;
use wattd::units::Nanos;

/// Puts back the clocks that a daemon, which is gone, left changed.
pub(crate) fn restore(args: &RestoreArgs) -> Done {
    let config = match &args.config {
        Some(file) => Some(Config::load(file).map_err(|problems| Failure::Input(anyhow!("{problems}")))?),
        None => None,
    };
    let state = args.state_dir.clone().or_else(|| config.as_ref().map(|config| config.state_dir.clone()));
    let state = state.unwrap_or_else(|| "/var/lib/wattd".into());
    let sys =
        args.sysfs_root.clone().or_else(|| config.as_ref().map(|config| config.board.sysfs_root.clone()));
    let roots = sys.map_or_else(Roots::default, Roots::with_sys);
    let report = restore::restore(&state, &roots)?;
    println!("{report}");
    if report.is_complete() { Ok(()) } else { Err(Failure::Failed(anyhow!("not everything is back"))) }
}

/// Serves a simulated board until SIGINT or SIGTERM.
pub(crate) fn sim_board(args: SimBoardArgs) -> Done {
    let spec = BoardSpec::load(&args.board).map_err(|error| Failure::Input(error.into()))?;
    let mut plant = PlantSpec::from_board(&spec).map_err(|error| Failure::Input(error.into()))?;
    if let Some(factor) = args.thermal_speedup {
        plant = plant.with_thermal_speedup(factor).map_err(|error| Failure::Input(error.into()))?;
    }
    if let Some(factor) = args.work_scale {
        plant = plant.with_work_scale(factor).map_err(|error| Failure::Input(error.into()))?;
    }
    let script = args.script.as_deref().map(|path| read_script(path, &plant)).transpose()?;
    let options = ServeOptions {
        mount: args.mount.clone(),
        socket: args.socket,
        seed: args.seed,
        script,
        until: None,
        files_only: args.files_only,
    };
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(&stop)?;
    let board = BoardProcess::start(Arc::new(plant), options)?;
    match board.tree_kind() {
        TreeKind::Fuse => println!("board {} is at {}", spec.name, args.mount.display()),
        TreeKind::Files(reason) => {
            println!("board {} is at {} as plain files: {reason}", spec.name, args.mount.display());
        }
    }
    let report = board.run(&stop)?;
    println!("{}", serde_json::to_string(&report.stats)?);
    Ok(())
}

fn read_script(path: &Path, plant: &PlantSpec) -> Result<Script, Failure> {
    let text =
        std::fs::read_to_string(path).with_context(|| path.display().to_string()).map_err(Failure::Input)?;
    Script::parse(&text, &path.display().to_string(), plant).map_err(|error| Failure::Input(error.into()))
}

/// Has the simulated board that the daemon runs on play a script from now on.
pub(crate) fn disturb(status: &Status, board: &Path, script: &Path) -> Done {
    let text = std::fs::read_to_string(script)
        .with_context(|| script.display().to_string())
        .map_err(Failure::Input)?;
    let units: Vec<String> = status.units.iter().map(|unit| unit.name.clone()).collect();
    let remote = RemoteAccelerator::connect(board, &status.board.name, &units)?;
    remote.play(&text).with_context(|| script.display().to_string()).map_err(Failure::Input)
}

fn stop_on_signals(stop: &Arc<AtomicBool>) -> Done {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(stop)).context("watching for signals")?;
    }
    Ok(())
}

/// Replays a journal and says what came of it.
pub(crate) fn replay(args: &ReplayArgs) -> Done {
    let (mut served, mut rejected) = (0u64, 0u64);
    let replayed = journal::replay(&args.journal, |at, effect| {
        match effect {
            Effect::Reply { outcome: Outcome::Served(_), .. } => served += 1,
            Effect::Reply { .. } => rejected += 1,
            _ => {}
        }
        if args.effects {
            let line = serde_json::to_string(effect).unwrap_or_else(|error| error.to_string());
            println!("{} {line}", Nanos(at.0).as_micros());
        }
    })?;
    println!(
        "{}: {} events gave {} effects ({served} served, {rejected} turned away); {} checks agree{}",
        args.journal.display(),
        replayed.events,
        replayed.effects,
        replayed.checks,
        if replayed.torn { "; the last line was cut off" } else { "" }
    );
    Ok(())
}

/// Checks a configuration with the board file and the models that it names. Reports everything at once.
pub(crate) fn check(args: &CheckArgs) -> Done {
    let config = Config::load(&args.file).map_err(|problems| Failure::Input(anyhow!("{problems}")))?;
    println!("{}: well-formed", args.file.display());
    let mut problems: Vec<String> = Vec::new();
    match check_board(&config) {
        Ok(line) => println!("{line}"),
        Err(problem) => problems.push(problem),
    }
    let (models, refused) = ModelStore::new(config.models.rules.clone()).open(&config.models.dirs);
    for model in models.iter().filter(|model| model.unavailable.is_none()) {
        println!("model {}: {} variants verified", model.name, model.variants().len());
    }
    problems.extend(refused.iter().map(ToString::to_string));
    let known: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    problems.extend(config.check_model_names(&known).iter().map(ToString::to_string));
    if problems.is_empty() { Ok(()) } else { Err(Failure::Input(anyhow!("{}", problems.join("\n")))) }
}

fn check_board(config: &Config) -> Result<String, String> {
    let spec = BoardSpec::load(&config.board.file).map_err(|error| error.to_string())?;
    let mut line = format!("board {}: {} units", spec.name, spec.units.len());
    if config.simulation != Simulation::Off {
        let plant = PlantSpec::from_board(&spec).map_err(|error| error.to_string())?;
        line.push_str(", simulated");
        if let Simulation::InProcess { script: Some(script), .. } = &config.simulation {
            let text =
                std::fs::read_to_string(script).map_err(|error| format!("{}: {error}", script.display()))?;
            Script::parse(&text, &script.display().to_string(), &plant).map_err(|error| error.to_string())?;
        }
    }
    Ok(line)
}
