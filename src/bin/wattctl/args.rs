//! The command line.

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use wattd::ctl::explain::Which;

/// Watches, asks, loads and checks wattd, the power-aware inference scheduler.
///
/// Exit codes: 0 it worked, 1 it did not, 2 the arguments or a file given to it make no sense.
#[derive(Debug, Parser)]
#[command(name = "wattctl", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the daemon's state: sensors, clocks, units, budgets, counters.
    Status(StatusArgs),
    /// Show the models with their variants, and how each fares on each unit.
    Models(AskArgs),
    /// Run one inference and show its answer.
    Infer(InferArgs),
    /// Send real inputs as one or several applications would, and count what comes back.
    Load(LoadArgs),
    /// Compare records of `load`: a table and the timeline picture.
    Report(ReportArgs),
    /// Measure variants anew, and show the models when that is done.
    Profile(ProfileArgs),
    /// Take in a model folder as a new version while the daemon serves, step by step.
    ///
    /// The folder is checked and copied; its smallest variant is loaded and its variants are measured; requests that were
    /// answered are run again on it in spare time and the outputs compared (shadow); it answers a share of the requests
    /// (canary), and then all. It is taken back by itself, with the reason, if it fails, if its outputs are not those of
    /// the version that serves, or if its answers are later, take longer or more energy; [deploy] of the configuration
    /// says how much is allowed. The version before is kept, and --rollback goes back to it. `wattctl rollout` shows
    /// where it stands; all of it survives restarts.
    ///
    /// The daemon reads the folder, which its service can do outside /home and /tmp. Exit codes: 0 it is on its way (with
    /// --wait: it serves), 1 it was refused or taken back.
    Deploy(DeployArgs),
    /// Show the versions of the models, the ones on trial, and the steps that led there.
    Rollout(AskArgs),
    /// Show what this board has and lacks, and which board file fits.
    ///
    /// Clocks, thermal zones with their trips, power rails, batteries and execution providers, found by the names
    /// inside their nodes; what is missing, and what that costs; which board file that comes with wattd fits, what
    /// that names and is not here, and what is here and it does not name. With --write a board file to start from.
    /// Nodes are only read. Reading a power sensor can wake a device that sleeps.
    Board(BoardArgs),
    /// Check a configuration file with the board file and the models that it names.
    Check(CheckArgs),
    /// Put back the clocks that a daemon, which is gone, left changed.
    Restore(RestoreArgs),
    /// Explain what was decided about a request, why, and what came of it.
    ///
    /// For a request that was served or turned away: the configurations that were considered, with the latency,
    /// energy, accuracy and odds to be late that were expected of each, what ruled each out, which constraint was
    /// binding, what it waited for, and what happened. All of it comes from the journal, which `enabled` in [journal]
    /// of the configuration turns on: that of the running daemon, or with --journal a file, without the daemon. The
    /// journal is replayed by this program, so whoever asks must be allowed to read it.
    Explain(ExplainArgs),
    /// Replay a journal: the core must decide as it did.
    Replay(ReplayArgs),
    /// Serve a simulated board to a daemon: a sysfs tree, and a socket that says how long runs take.
    SimBoard(SimBoardArgs),
    /// Compare policies on simulated boards in virtual time: hours in seconds.
    Simulate(SimulateArgs),
    /// Play a day under a configuration in virtual time: do its budgets hold, and which one would?
    ///
    /// A recorded or described day on the simulated board, with several seeds: whether each budget holds, when it first
    /// breaks, and which single value of the configuration, all else as it is, would make the day hold. Everything is
    /// modelled, nothing measured. The same files and seeds give the same bytes.
    ///
    /// A budget holds if it holds with every seed. A latency objective and an accuracy floor hold if no larger share of
    /// the class's requests than --allowance is late or refused; an accuracy target on the average of the day; a power
    /// cap in every window of its length; an energy and a battery reserve until their time; a temperature if no zone
    /// reaches it.
    ///
    /// Exit codes: 0 the day holds, 1 it does not (or it could not be played), 2 the arguments or a file make no sense.
    Whatif(WhatifArgs),
    /// Write man pages or shell completions.
    #[command(hide = true)]
    Generate(GenerateArgs),
}

/// Where the daemon is.
#[derive(Debug, Args)]
pub(crate) struct SocketArg {
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", env = "WATTD_SOCKET", default_value = "/run/wattd/wattd.sock")]
    pub(crate) socket: PathBuf,
}

/// A question to the daemon.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Where the daemon is.
    #[command(flatten)]
    pub(crate) at: SocketArg,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The question.
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Print it again every second until interrupted.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Only what is learned while serving, and how far off it was.
    #[arg(long)]
    pub(crate) estimators: bool,
}

/// `infer`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("from").required(true).args(["input", "sample"]))]
pub(crate) struct InferArgs {
    /// The model.
    pub(crate) model: String,
    /// An input from a NumPy file, with the batch as its first dimension; once for each input.
    #[arg(long, value_name = "NAME=FILE.npy")]
    pub(crate) input: Vec<String>,
    /// Item N of the model's labelled sample.
    #[arg(long, value_name = "N")]
    pub(crate) sample: Option<usize>,
    /// Folder of models that the sample is read from [default: where the daemon has them].
    #[arg(long, value_name = "DIR")]
    pub(crate) models: Option<PathBuf>,
    /// Wishes.
    #[command(flatten)]
    pub(crate) wishes: WishArgs,
    /// The question.
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// What a request may ask for.
#[derive(Debug, Args)]
pub(crate) struct WishArgs {
    /// Time until the answer must be there [default: the class's].
    #[arg(long, value_name = "MS")]
    pub(crate) deadline_ms: Option<f64>,
    /// Least accuracy, 0 to 1 [default: the class's].
    #[arg(long, value_name = "SHARE")]
    pub(crate) min_accuracy: Option<f64>,
    /// Most energy in millijoules [default: the class's].
    #[arg(long, value_name = "MJ")]
    pub(crate) max_energy_mj: Option<f64>,
    /// Only this variant.
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// The class of the daemon's configuration that applies.
    #[arg(long, value_name = "NAME")]
    pub(crate) class: Option<String>,
}

/// `load`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["scenario", "model"]))]
pub(crate) struct LoadArgs {
    /// A scenario file; `config/scenarios/` has commented ones.
    #[arg(long, value_name = "FILE")]
    pub(crate) scenario: Option<PathBuf>,
    /// Load one model instead, as the following flags say.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Requests a second, evenly spaced (open loop).
    #[arg(long, value_name = "HZ", conflicts_with_all = ["clients", "scenario"])]
    pub(crate) rate: Option<f64>,
    /// With --rate: at random moments instead.
    #[arg(long, requires = "rate")]
    pub(crate) poisson: bool,
    /// Clients that send as soon as they are answered (closed loop) [default: 1].
    #[arg(long, value_name = "N", conflicts_with = "scenario")]
    pub(crate) clients: Option<u32>,
    /// With --rate: most unanswered requests; further ones wait while their latency runs [default: 64].
    #[arg(long, value_name = "N", requires = "rate")]
    pub(crate) outstanding: Option<u32>,
    /// Length of the run, such as `30s`, `5m`.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "30s", conflicts_with = "scenario")]
    pub(crate) duration: Duration,
    /// Items in a request.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "scenario")]
    pub(crate) batch: u32,
    /// Wishes.
    #[command(flatten)]
    pub(crate) wishes: WishArgs,
    /// Stretch all times of the scenario by this factor, for quick trials.
    #[arg(long, value_name = "FACTOR", requires = "scenario")]
    pub(crate) stretch: Option<f64>,
    /// Seed of arrivals and choice of inputs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Folder of models whose samples are sent [default: where the daemon has them].
    #[arg(long, value_name = "DIR")]
    pub(crate) models: Option<PathBuf>,
    /// Record everything to this file, for `report`.
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) record: Option<PathBuf>,
    /// Disturbances to play on a simulated board from the start of the run on.
    #[arg(long, value_name = "FILE", requires = "board")]
    pub(crate) disturb: Option<PathBuf>,
    /// Socket of that board, as given to `sim-board`.
    #[arg(long, value_name = "PATH", requires = "disturb")]
    pub(crate) board: Option<PathBuf>,
    /// No progress bar.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The question.
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The record to report.
    #[arg(value_name = "RUN.jsonl")]
    pub(crate) run: PathBuf,
    /// The record to compare it with.
    #[arg(value_name = "BASELINE.jsonl")]
    pub(crate) baseline: Option<PathBuf>,
    /// Write the timeline picture as SVG.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write the timeline picture as PNG.
    #[arg(long, value_name = "FILE")]
    pub(crate) png: Option<PathBuf>,
    /// Pixels of the PNG per unit of the SVG, which is 1200 wide.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub(crate) png_scale: f32,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `profile`.
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Only this model.
    pub(crate) model: Option<String>,
    /// Only what has no profile yet.
    #[arg(long)]
    pub(crate) missing: bool,
    /// Longest time to wait for the result.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10m")]
    pub(crate) wait: Duration,
    /// The question.
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// `deploy`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["folder", "rollback"]))]
pub(crate) struct DeployArgs {
    /// The model folder; its `model.toml` says which model and version it is.
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Take back the version of this model that is on trial; if none is, go back to the one that served before.
    #[arg(long, value_name = "MODEL")]
    pub(crate) rollback: Option<String>,
    /// Do not compare it with the version that serves: once it is loaded and measured it answers all requests.
    #[arg(long, requires = "folder")]
    pub(crate) now: bool,
    /// Wait until it serves or is taken back, at most so long.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// The question.
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// `board`.
#[derive(Debug, Args)]
pub(crate) struct BoardArgs {
    /// Write a board file to start from, which must not be there yet. Figures that were not found here say
    /// `assumed`.
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Directory that stands for /sys, such as that of `sim-board`; kernel and system are this machine's.
    #[arg(long, value_name = "DIR", conflicts_with = "root")]
    pub(crate) sysfs_root: Option<PathBuf>,
    /// Directory that stands for /, with sys, proc and etc in it: another board's, copied. Execution providers are
    /// then left out, unless --library names one.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// ONNX Runtime library to ask for execution providers [default: the usual places].
    #[arg(long, value_name = "FILE")]
    pub(crate) library: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration file.
    pub(crate) file: PathBuf,
}

/// `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Configuration that names the state directory and the sysfs root.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The daemon's state directory [default: the configuration's, else /var/lib/wattd].
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Directory that stands for /sys [default: the configuration's, else /sys].
    #[arg(long, value_name = "DIR")]
    pub(crate) sysfs_root: Option<PathBuf>,
}

/// `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The request_id that a response or refusal carries and `infer` shows; or `last`: the one that was answered or
    /// turned away last; or `late`: the last one that was late or turned away.
    #[arg(value_name = "ID|last|late")]
    pub(crate) which: Which,
    /// The journal, `events.jsonl` in [journal] dir; what came before it is in `events.jsonl.1`
    /// [default: the running daemon's].
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Show every candidate that was priced, not only the best of each kind.
    #[arg(long)]
    pub(crate) all: bool,
    /// The question.
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The journal, `events.jsonl` in [journal] dir.
    pub(crate) journal: PathBuf,
    /// Print every effect with its time in microseconds.
    #[arg(long)]
    pub(crate) effects: bool,
}

/// `sim-board`.
#[derive(Debug, Args)]
pub(crate) struct SimBoardArgs {
    /// The board file; `config/boards/` has some.
    #[arg(long, value_name = "FILE")]
    pub(crate) board: PathBuf,
    /// Where the tree goes: a directory of its own.
    #[arg(long, value_name = "DIR")]
    pub(crate) mount: PathBuf,
    /// Socket for the daemon's lanes (`wattd --accelerator`).
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Disturbances: what happens to the board, and when.
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// Seed of all that is random on the board.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Let heat move this much faster than on the real board.
    #[arg(long, value_name = "FACTOR")]
    pub(crate) thermal_speedup: Option<f64>,
    /// Let every model cost this much more than its manifest says [default: the board file's].
    #[arg(long, value_name = "FACTOR")]
    pub(crate) work_scale: Option<f64>,
    /// Plain files instead of a FUSE file system.
    #[arg(long)]
    pub(crate) files_only: bool,
}

/// `simulate`.
///
/// Every board meets every workload under every disturbance with every policy and seed. The same files and seed
/// give the same bytes, however many threads there are, but for the times that decisions took: see --no-timing.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Board files; `config/boards/` has some.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) board: Vec<PathBuf>,
    /// Workload files: models, classes, budgets, requests; `config/workloads/` has commented ones.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) workload: Vec<PathBuf>,
    /// Disturbances, as in `config/disturbances/`; `none` is an undisturbed board [default: none].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) disturb: Vec<PathBuf>,
    /// Policies to compare, apart by commas: wattd, performance, schedutil, alert, ...; a wrong name lists all.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "wattd")]
    pub(crate) policy: Vec<String>,
    /// Seed of requests, noise and errors, or several: `1..20` is all from 1 to 20.
    #[arg(long, value_name = "N[..M]", value_parser = seeds, default_value = "1")]
    pub(crate) seed: RangeInclusive<u64>,
    /// Compare with bounds and oracles too.
    #[arg(long)]
    pub(crate) oracle: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write every request of every run as CSV.
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) schedule: Option<PathBuf>,
    /// Write a page with tables and pictures, which needs nothing else to be shown.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) html: Option<PathBuf>,
    /// Do not time decisions: then the same seed gives the same bytes throughout.
    #[arg(long)]
    pub(crate) no_timing: bool,
    /// Threads [default: one per processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: Option<u16>,
    /// No progress bar.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// `whatif`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("demand").required(true).args(["journal", "workload"]))]
pub(crate) struct WhatifArgs {
    /// The configuration to ask about, a wattd.toml: its budgets, classes and models.
    #[arg(value_name = "CONFIG")]
    pub(crate) config: PathBuf,
    /// A board file, or the name of a board that comes with the project [default: the configuration's board].
    #[arg(long, value_name = "FILE|NAME")]
    pub(crate) board: Option<String>,
    /// Temperature around the board, in degrees Celsius, all day long [default: the board file's].
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub(crate) ambient: Option<f64>,
    /// Length of the day in hours.
    #[arg(long, value_name = "H", default_value_t = 10.0, allow_negative_numbers = true)]
    pub(crate) hours: f64,
    /// Time of day at which it begins, against which `until` is resolved.
    #[arg(long, value_name = "HH:MM", default_value = "08:00")]
    pub(crate) start: jiff::civil::Time,
    /// Demand: the requests of this journal (`events.jsonl` in [journal] dir), again and again.
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Demand: the streams of this workload file, as for `simulate`, again and again.
    #[arg(long, value_name = "FILE")]
    pub(crate) workload: Option<PathBuf>,
    /// What happens to the board meanwhile, as in `config/disturbances/`.
    #[arg(long, value_name = "FILE")]
    pub(crate) disturb: Option<PathBuf>,
    /// A battery of so many watt-hours, full at the start [default: the board file's].
    #[arg(long, value_name = "WH", allow_negative_numbers = true)]
    pub(crate) battery: Option<f64>,
    /// Let every model cost this much more than its manifest says [default: the board file's].
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    pub(crate) work_scale: Option<f64>,
    /// Folder of model folders; several times for several [default: the configuration's models.dir].
    #[arg(long, value_name = "DIR")]
    pub(crate) models: Vec<PathBuf>,
    /// Share of a class's requests that may be late or refused.
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, allow_negative_numbers = true)]
    pub(crate) allowance: f64,
    /// Seeds of requests and noise.
    #[arg(long, value_name = "N[..M]", value_parser = seeds, default_value = "1..3")]
    pub(crate) seed: RangeInclusive<u64>,
    /// Only say whether it holds, not what would.
    #[arg(long)]
    pub(crate) no_search: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// Threads [default: one per processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: Option<u16>,
    /// No progress bar.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Most seeds of one invocation.
const MAX_SEEDS: u64 = 100_000;

/// `N` or `N..M`, both ends included.
fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("`{text}`: a whole number is right, or a range such as 1..20"))
    };
    let (first, last) = match text.split_once("..") {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if last < first {
        return Err(format!("{first}..{last}: the first is above the last"));
    }
    if last - first >= MAX_SEEDS {
        return Err(format!("{first}..{last}: at most {MAX_SEEDS} seeds"));
    }
    Ok(first..=last)
}

/// `generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What to write.
    pub(crate) what: Generated,
    /// The folder to write it to.
    pub(crate) folder: PathBuf,
}

/// What can be generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Generated {
    /// A man page for wattctl, each of its commands, and the configuration.
    Man,
    /// Completions for bash, zsh and fish.
    Completions,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "wattctl load",
            "wattctl load --model m --scenario f",
            "wattctl load --model m --rate 1 --clients 2",
            "wattctl load --model m --poisson",
            "wattctl load --scenario f --duration 3s",
            "wattctl infer m",
            "wattctl explain",
            "wattctl explain first",
            "wattctl explain -3",
            "wattctl infer m --sample 1 --input a=b",
            "wattctl simulate --board b",
            "wattctl simulate --board b --workload w --seed 3..1",
            "wattctl simulate --board b --workload w --seed 1..x",
            "wattctl simulate --board b --workload w --jobs 0",
            "wattctl board --root a --sysfs-root b",
            "wattctl whatif c --board b",
            "wattctl whatif c --journal j --workload w",
            "wattctl whatif --workload w",
            "wattctl whatif c --workload w --start 25:00",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        for line in [
            "wattctl load --model m --rate 15 --duration 30s",
            "wattctl load --model m --clients 4",
            "wattctl load --scenario f --seed 3 --record r",
            "wattctl deploy a/b --now --wait 5m --json",
            "wattctl deploy --rollback m",
            "wattctl rollout --json",
            "wattctl board --sysfs-root a --write f.toml --json",
            "wattctl infer m --input a=b --input c=d",
            "wattctl explain last --all --json",
            "wattctl explain 12 --journal f",
            "wattctl simulate --board a b --workload v w --policy x,y --seed 1..20 --json",
            "wattctl whatif c --board b --ambient -5 --hours 10 --journal j",
            "wattctl whatif c --workload w --start 06:30 --seed 1..5 --no-search --json",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
