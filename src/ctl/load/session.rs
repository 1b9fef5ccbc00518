//! A load run from end to end: connect, find inputs, run, record, add up.

use crate::ctl::ask::{self, AskError};
use crate::ctl::load::inputs::{InputsError, SampleInputs};
use crate::ctl::load::runner::{self, Supply};
use crate::ctl::load::scenario::{App, Scenario};
use crate::ctl::load::timebase::KernelTime;
use crate::ctl::record::{AppHeader, EndLine, FORMAT, Header, Ladder, Line, RecordError, StatusLine, Writer};
use crate::ctl::report::tally::Tally;
use crate::ctl::rpc::Rpc;
use crate::ctl::status::{ModelStatus, Models, Status};
use crate::units::Nanos;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// What to run.
    pub scenario: Scenario,
    /// Seed of arrivals and choice of inputs.
    pub seed: u64,
    /// Folder of models; `None` = where the daemon has them.
    pub models: Option<PathBuf>,
    /// Where to record everything.
    pub record: Option<PathBuf>,
    /// No progress bar.
    pub quiet: bool,
}

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The daemon does not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// There are no inputs.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// The record cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The daemon does not have what the scenario asks for.
    #[error("app {app:?}: wattd serves no {what} {name:?}; it has {has}")]
    Unknown {
        /// The application.
        app: String,
        /// `model`, `class` or `variant`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What there is.
        has: String,
    },
    /// The run ended without its end, which is a defect.
    #[error("the run broke off before its end")]
    BrokeOff,
}

/// A finished run.
#[derive(Debug)]
pub struct Finished {
    /// Its sums.
    pub tally: Tally,
    /// How it ended.
    pub end: EndLine,
}

/// Runs a scenario. Cancelling `stop` ends it early, with what is outstanding still counted.
///
/// # Errors
/// If the daemon does not answer or lacks what is asked for, or inputs or record fail. Failing requests
/// are no error: they are counted.
pub async fn run(options: Options, stop: CancellationToken) -> Result<Finished, LoadError> {
    let models: Models = ask::get(&options.socket, ask::MODELS).await?;
    let status: Status = ask::get(&options.socket, ask::STATUS).await?;
    let scenario = &options.scenario;
    let mut supplies = Vec::with_capacity(scenario.apps.len());
    for app in &scenario.apps {
        let model = model_of(app, &models)?;
        let class_latency = class_latency(app, &status)?;
        let inputs = SampleInputs::open(model, options.models.as_deref(), app.batch)?;
        supplies.push(Supply { inputs: Arc::new(inputs), class_latency });
    }
    let header = header(&options, &models, &supplies);
    let mut writer = options.record.as_deref().map(|path| Writer::create(path, &header)).transpose()?;
    let target = Arc::new(Rpc::connect(&options.socket, scenario.apps.len()).await?);
    let bar = progress(options.quiet, header.duration_s);

    let mut tally = Tally::new(&header);
    let base = Arc::new(KernelTime::start());
    let mut running = runner::start(scenario, &supplies, &target, &base, options.seed);
    let mut ended = None;
    loop {
        let line = tokio::select! {
            line = running.lines.recv() => line,
            () = stop.cancelled(), if !running.stop.is_cancelled() => {
                running.stop.cancel();
                continue;
            }
        };
        let Some(line) = line else { break };
        tally.add(&line);
        match &line {
            Line::Status(state) => show_progress(&bar, state, &tally),
            Line::End(end) => ended = Some(end.clone()),
            _ => {}
        }
        if let (Some(writer), false) = (&mut writer, matches!(line, Line::End(_))) {
            writer.write(&line)?;
        }
    }
    bar.finish_and_clear();
    let end = ended.ok_or(LoadError::BrokeOff)?;
    if let Some(writer) = writer {
        writer.finish(end.clone())?;
    }
    Ok(Finished { tally, end })
}

fn model_of<'a>(app: &App, models: &'a Models) -> Result<&'a ModelStatus, LoadError> {
    let unknown = |what, name: &str, has: Vec<&str>| LoadError::Unknown {
        app: app.name.clone(),
        what,
        name: name.to_owned(),
        has: if has.is_empty() { "none".to_owned() } else { has.join(", ") },
    };
    let names = || models.models.iter().map(|model| model.name.as_str()).collect();
    let model = models.models.iter().find(|model| model.name == app.model);
    let model = model.ok_or_else(|| unknown("model", &app.model, names()))?;
    if let Some(variant) = &app.variant
        && !model.variants.iter().any(|known| known.name == *variant)
    {
        let variants = model.variants.iter().map(|known| known.name.as_str()).collect();
        return Err(unknown("variant", variant, variants));
    }
    Ok(model)
}

/// The latency objective of the application's class, or of the default class.
fn class_latency(app: &App, status: &Status) -> Result<Option<Nanos>, LoadError> {
    let class = match &app.class {
        None => status.classes.first(),
        Some(name) => {
            let class = status.classes.iter().find(|class| class.name == *name);
            Some(class.ok_or_else(|| LoadError::Unknown {
                app: app.name.clone(),
                what: "class",
                name: name.clone(),
                has: status.classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join(", "),
            })?)
        }
    };
    Ok(class.map(|class| Nanos::from_f64(class.latency_ms * 1e6)).filter(|latency| *latency > Nanos::ZERO))
}

fn header(options: &Options, models: &Models, supplies: &[Supply]) -> Header {
    let scenario = &options.scenario;
    let apps = scenario.apps.iter().zip(supplies).map(|(app, supply)| AppHeader {
        name: app.name.clone(),
        model: app.model.clone(),
        class: app.class.clone(),
        start_s: app.start.as_secs_f64(),
        end_s: app.end.as_secs_f64(),
        deadline_ms: app.deadline.or(supply.class_latency).map(|deadline| deadline.as_secs_f64() * 1e3),
    });
    let used = models.models.iter().filter(|model| scenario.apps.iter().any(|app| app.model == model.name));
    let ladders = used.map(|model| {
        let mut variants: Vec<_> = model.variants.iter().collect();
        // Stable: of two equally accurate variants the one nearer the reference stays first.
        variants.sort_by(|left, right| right.accuracy.total_cmp(&left.accuracy));
        Ladder {
            model: model.name.clone(),
            variants: variants.into_iter().map(|variant| variant.name.clone()).collect(),
        }
    });
    Header {
        format: FORMAT,
        started_unix_s: crate::time::unix_seconds(),
        scenario: scenario.title.clone(),
        seed: options.seed,
        duration_s: scenario.length().as_secs_f64(),
        apps: apps.collect(),
        ladders: ladders.collect(),
        policy: None,
    }
}

fn progress(quiet: bool, seconds: f64) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(crate::units::Bytes::from_f64(seconds).0);
    let style = ProgressStyle::with_template("{bar:30.cyan/dim} {pos:>3}/{len} s  {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show_progress(bar: &ProgressBar, state: &StatusLine, tally: &Tally) {
    let whole = &tally.whole;
    let power = state.status.power_w.map_or(String::new(), |w| format!(", {w:.1} W"));
    let heat = state.status.hottest().map_or(String::new(), |(_, c)| format!(", {c:.0} °C"));
    bar.set_position(state.t_us / 1_000_000);
    bar.set_message(format!(
        "{} answered, {} late, {} refused{power}{heat}",
        whole.sum(|app| app.served),
        whole.sum(|app| app.missed),
        whole.sum(crate::ctl::report::tally::AppTotals::all_rejected),
    ));
}
