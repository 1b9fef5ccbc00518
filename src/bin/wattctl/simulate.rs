//! `simulate`: from arguments to experiments and their output.

use crate::args::SimulateArgs;
use crate::terminal::{print, print_json, progress};
use crate::{Done, Failure};
use anyhow::{Context as _, anyhow};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use wattd::ctl::simulate::{groups, page, tables};
use wattd::sim::experiment::{
    Document, Experiment, Finished, RunError, RunOptions, Scenario, write_schedule,
};

/// Runs what the arguments say and shows what came of it.
pub(crate) fn simulate(args: &SimulateArgs) -> Done {
    let experiment = Experiment {
        scenarios: scenarios(args)?,
        policies: args.policy.clone(),
        seeds: args.seed.clone().collect(),
        options: RunOptions {
            timed: !args.no_timing,
            schedule: args.schedule.is_some(),
            oracle: args.oracle,
        },
    };
    let runs = experiment.len();
    let bar = progress(runs as u64, "{wide_bar} {pos}/{len} runs, {eta} left", args.quiet || runs < 2);
    let finished =
        experiment.run(usize::from(args.jobs.unwrap_or(0)), &|| bar.inc(1)).map_err(|error| match error {
            RunError::Policy(error) => Failure::Input(anyhow!("--policy: {error}")),
            error => error.into(),
        })?;
    bar.finish_and_clear();
    if let Some(path) = &args.schedule {
        schedule(path, &finished).with_context(|| path.display().to_string())?;
    }
    let groups = groups(&finished);
    if let Some(path) = &args.html {
        let page = page(&experiment, &groups)?;
        std::fs::write(path, page).with_context(|| path.display().to_string())?;
    }
    if args.json {
        let document = Document { runs: finished.into_iter().map(|run| run.record).collect() };
        return print_json(&document);
    }
    print(&tables(&groups))
}

/// Every board with every workload and disturbance, in that order.
fn scenarios(args: &SimulateArgs) -> Result<Vec<Scenario>, Failure> {
    let disturbances: Vec<Option<&Path>> = match args.disturb.as_slice() {
        [] => vec![None],
        some => some.iter().map(|file| (file.as_os_str() != "none").then_some(file.as_path())).collect(),
    };
    let mut scenarios = Vec::new();
    for board in &args.board {
        for workload in &args.workload {
            for disturb in &disturbances {
                let scenario = Scenario::load(board, workload, *disturb);
                scenarios.push(scenario.map_err(|error| Failure::Input(error.into()))?);
            }
        }
    }
    Ok(scenarios)
}

fn schedule(path: &Path, finished: &[Finished]) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write_schedule(&mut out, finished.iter().map(|run| (&run.record, run.schedule.as_slice())))?;
    Ok(out.flush()?)
}
