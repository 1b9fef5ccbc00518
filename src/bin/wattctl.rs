//! The operator's tool: arguments and exit codes; the work is in the library.

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use wattd::ctl::record::Run;
use wattd::ctl::report::{self, Compared, table};

#[derive(Debug, Parser)]
#[command(name = "wattctl", version, about = "Watches, asks, loads and checks wattd")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare records of `wattctl load`: a table and the timeline picture.
    Report(ReportArgs),
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// The record to report.
    run: PathBuf,
    /// The record to compare it with.
    baseline: Option<PathBuf>,
    /// Write the timeline picture as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the timeline picture as PNG.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Pixels of the PNG per unit of the SVG.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    png_scale: f32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wattctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Report(args) => report(&args),
    }
}

fn report(args: &ReportArgs) -> anyhow::Result<()> {
    let mut compared = vec![Compared::new(Run::read(&args.run)?)];
    if let Some(path) = &args.baseline {
        compared.push(Compared::new(Run::read(path)?));
    }
    if args.svg.is_some() || args.png.is_some() {
        let svg = report::svg(&compared)?;
        if let Some(path) = &args.svg {
            std::fs::write(path, &svg).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &args.png {
            let png = report::png::render(&svg, args.png_scale)?;
            std::fs::write(path, png).with_context(|| path.display().to_string())?;
        }
    }
    let tallies: Vec<_> = compared.iter().map(|one| &one.tally).collect();
    println!("{}", table::comparison(&tallies));
    Ok(())
}
