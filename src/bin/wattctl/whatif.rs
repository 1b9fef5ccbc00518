//! `whatif`: from arguments to a day and the answer about it.

use crate::args::WhatifArgs;
use crate::terminal::{print, print_json, progress};
use crate::{Done, Failure};
use anyhow::anyhow;
use std::path::Path;
use wattd::board::{BoardSpec, shipped};
use wattd::config::Config;
use wattd::ctl::whatif::{Report, document, text};
use wattd::sim::whatif::{Asked, Day, Progress, Source, ask, read_config};

/// Plays the day and says what came of it.
pub(crate) fn whatif(args: &WhatifArgs) -> Done {
    let (config, day) = prepare(args).map_err(Failure::Input)?;
    let seeds: Vec<u64> = args.seed.clone().collect();
    let bar = progress(0, "{wide_bar} {percent} % of the virtual time, {eta} left at most", args.quiet);
    let tell = |progress: Progress| match progress {
        Progress::Planned(span) => bar.inc_length(span.as_micros() / 1000),
        Progress::Played(span) => bar.inc(span.as_micros() / 1000),
    };
    let answer = ask(&day, &seeds, !args.no_search, usize::from(args.jobs.unwrap_or(0)), &tell)?;
    bar.finish_and_clear();
    let report = Report {
        config: &config,
        day: &day,
        start: args.start,
        seeds: &seeds,
        searched: !args.no_search,
        answer: &answer,
    };
    if args.json {
        print_json(&document(&report))?;
    } else {
        print(&text(&report))?;
    }
    if answer.holds() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow!("{} does not hold", config.file.display())))
}

fn prepare(args: &WhatifArgs) -> anyhow::Result<(Config, Day)> {
    let mut config = read_config(&args.config, args.start)?;
    if !args.models.is_empty() {
        config.models.dirs.clone_from(&args.models);
    }
    let board = match &args.board {
        None => BoardSpec::load(&config.board.file)
            .map_err(|error| anyhow!("{error}; --board FILE or --board NAME names another"))?,
        Some(name) => board(name)?,
    };
    let demand = match (&args.journal, &args.workload) {
        (Some(journal), _) => Source::Journal(journal.clone()),
        (None, Some(workload)) => Source::Workload(workload.clone()),
        (None, None) => return Err(anyhow!("the demand of the day: --journal FILE or --workload FILE")),
    };
    let asked = Asked {
        config: config.clone(),
        board,
        hours: args.hours,
        ambient_c: args.ambient,
        battery_wh: args.battery,
        work_scale: args.work_scale,
        demand,
        disturb: args.disturb.clone(),
        allowance: args.allowance,
    };
    Ok((config, Day::load(&asked)?))
}

/// A file, or the name of a board that comes with the project.
fn board(name: &str) -> anyhow::Result<BoardSpec> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(BoardSpec::load(path)?);
    }
    match shipped::named(name) {
        Some(board) => Ok(board?),
        None => {
            let known: Vec<&str> = shipped::names().collect();
            Err(anyhow!(
                "--board {name}: no such file, and no board of that name; there are: {}",
                known.join(", ")
            ))
        }
    }
}
