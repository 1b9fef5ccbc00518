//! The daemon: arguments and exit codes; the work is in the library.

use clap::{CommandFactory as _, Parser};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use wattd::config::{Config, Simulation};
use wattd::core::energy::Objective;
use wattd::exec::ort::disable_telemetry;
use wattd::observe::logging;

/// Power-aware on-device inference: chooses variant, processor and clock for every request.
///
/// SIGHUP reads the configuration again. SIGTERM and SIGINT let queued requests finish, put clocks back as they were
/// found, and end the daemon. Under systemd it says when it is ready and that it is alive, and serves the sockets that
/// it is passed. wattd.toml(5) describes the configuration, wattctl(1) the operator's tool.
///
/// Exit codes: 0 ended as told, 1 it failed, 2 the configuration does not load.
#[derive(Debug, Parser)]
#[command(name = "wattd", version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, default_value = "/etc/wattd/wattd.toml")]
    config: PathBuf,
    /// Socket to serve on, instead of the configuration's.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Directory that stands for /sys, instead of the configuration's; for a simulated board in another process.
    #[arg(long)]
    sysfs_root: Option<PathBuf>,
    /// Board file, instead of the configuration's.
    #[arg(long)]
    board: Option<PathBuf>,
    /// Socket of a simulated board in another process (`wattctl sim-board`): runs take as long as it says.
    #[arg(long)]
    accelerator: Option<PathBuf>,
    /// State directory, instead of the configuration's.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Decision rule, instead of the configuration's.
    #[arg(long)]
    objective: Option<Objective>,
    /// Write the man page into this folder and end.
    #[arg(long, value_name = "DIR", hide = true)]
    generate_man: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Before any thread exists: the environment must not change later.
    if let Err(error) = disable_telemetry() {
        logging::say_plainly(&error);
    }
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.generate_man {
        return generate_man(folder);
    }
    let mut config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            logging::say_plainly(&problems);
            return ExitCode::from(2);
        }
    };
    arguments.adjust(&mut config);
    let log = match logging::init(&config.log) {
        Ok(log) => log,
        Err(error) => {
            logging::say_plainly(&error);
            return ExitCode::from(2);
        }
    };
    match wattd::daemon::run(config, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn generate_man(folder: &Path) -> ExitCode {
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::Man::new(Arguments::command()).section("8").generate_to(folder));
    match written {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            logging::say_plainly(&format!("{}: {error}", folder.display()));
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn adjust(self, config: &mut Config) {
        if let Some(socket) = self.socket {
            config.socket.path = socket;
        }
        if let Some(root) = self.sysfs_root {
            config.board.sysfs_root = root;
            if self.accelerator.is_none() {
                config.simulation = Simulation::Off;
            }
        }
        if let Some(board) = self.board {
            config.board.file = board;
        }
        if let Some(accelerator_socket) = self.accelerator {
            config.simulation = Simulation::Process { accelerator_socket };
        }
        if let Some(dir) = self.state_dir {
            config.state_dir = dir;
        }
        if let Some(objective) = self.objective {
            config.budgets.objective = objective;
        }
    }
}
