//! The operator's tool: arguments and exit codes; the work is in the library.

#[path = "wattctl/args.rs"]
mod args;
#[path = "wattctl/board.rs"]
mod board;
#[path = "wattctl/commands.rs"]
mod commands;
#[path = "wattctl/deploy.rs"]
mod deploy;
#[path = "wattctl/explain.rs"]
mod explain;
#[path = "wattctl/machine.rs"]
mod machine;
#[path = "wattctl/simulate.rs"]
mod simulate;
#[path = "wattctl/terminal.rs"]
mod terminal;
#[path = "wattctl/whatif.rs"]
mod whatif;

use clap::Parser as _;
use std::process::ExitCode;

/// Something that keeps a command from its result.
enum Failure {
    /// The arguments or files given make no sense: exit code 2.
    Input(anyhow::Error),
    /// It did not work: exit code 1.
    Failed(anyhow::Error),
}

/// What a command comes to.
type Done = Result<(), Failure>;

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn main() -> ExitCode {
    let (code, error) = match commands::run(args::Cli::parse()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Input(error)) => (2, error),
        Err(Failure::Failed(error)) => (1, error),
    };
    eprintln!("wattctl: {error:#}");
    ExitCode::from(code)
}
