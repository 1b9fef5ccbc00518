//! The day that is asked about: a configuration on a board, with its weather and its demand.

use super::limit::Limit;
use super::recorded::{Kind, Recorded};
use crate::board::BoardSpec;
use crate::board::sim::{Battery, Change, Plant, PlantSpec, PlantSpecError};
use crate::config::document::{Problem, Problems, read_text};
use crate::config::{Config, Context, Simulation};
use crate::core::catalog::ModelId;
use crate::core::event::{AppId, ClassId};
use crate::journal::JournalError;
use crate::model::{ModelProblem, ModelStore};
use crate::sim::experiment::{
    Disturbance, ExperimentError, ModelSource, Parts, Scenario, Under, WorkloadFile, longest_deadline,
};
use crate::sim::{Arrivals, Repeat, SimModel, Stream};
use crate::time::Timestamp;
use crate::units::Nanos;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest configuration, bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Shortest and longest day, hours: a second, and 31 days.
const HOURS: RangeInclusive<f64> = 1.0 / 3600.0..=744.0;
/// Ambient temperatures, in degrees Celsius, as in a disturbance script.
const AMBIENT_C: RangeInclusive<f64> = -40.0..=85.0;
/// Batteries, Wh.
const BATTERY_WH: RangeInclusive<f64> = 0.01..=100_000.0;
/// Share of a class's requests that may be late or turned away.
const ALLOWANCE: RangeInclusive<f64> = 0.0..=1.0;
/// Most requests that a day may have.
const MAX_REQUESTS: f64 = 1e8;

/// Where the demand comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The requests that a journal recorded.
    Journal(PathBuf),
    /// A workload file, as in an experiment; its own budgets and classes are not used.
    Workload(PathBuf),
}

/// What is asked about.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The configuration: [`read_config`].
    pub config: Config,
    /// The board.
    pub board: BoardSpec,
    /// Length of the day.
    pub hours: f64,
    /// Temperature around the board in degrees Celsius [default: the board file's].
    pub ambient_c: Option<f64>,
    /// Capacity of a battery in Wh that is full at the start [default: the board file's].
    pub battery_wh: Option<f64>,
    /// Factor on the work of every run [default: the board file's].
    pub work_scale: Option<f64>,
    /// Who asks for what.
    pub demand: Source,
    /// What happens to the board.
    pub disturb: Option<PathBuf>,
    /// Share of a class's requests that may be late or turned away.
    pub allowance: f64,
}

/// Why a day cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum WhatIfError {
    /// A number that cannot be.
    #[error("{what} = {value}: {right} is right")]
    Range {
        /// What it is of: a flag.
        what: &'static str,
        /// What was given.
        value: f64,
        /// What would be right.
        right: String,
    },
    /// The configuration, the workload, or a file that one of them names.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// Board, workload or disturbances.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// The board's plant.
    #[error(transparent)]
    Plant(#[from] PlantSpecError),
    /// The journal cannot be read.
    #[error(transparent)]
    Unreadable(#[from] JournalError),
    /// The journal holds something that cannot be played.
    #[error("{}: {problem}", file.display())]
    Journal {
        /// The journal.
        file: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Configuration and board contradict each other.
    #[error("{}: {problem}", file.display())]
    Contradiction {
        /// The configuration.
        file: PathBuf,
        /// What contradicts what, and what would be right.
        problem: String,
    },
}

/// The demand of a day, in words and figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    /// Where it comes from.
    pub source: Source,
    /// How long it is once.
    pub once: Nanos,
    /// How many times it is played to fill the day; below 1 if it is cut off.
    pub times: f64,
}

/// A day under a configuration, ready to be played.
#[derive(Debug, Clone)]
pub struct Day {
    /// Board, budgets and streams.
    pub scenario: Scenario,
    /// How long it lasts.
    pub lasting: Nanos,
    /// Share of a class's requests that may be late or turned away.
    pub allowance: f64,
    /// Who asks for what.
    pub demand: Demand,
    /// Joules of the unit that the configuration gives its energy in: 1, or 3600 for watt-hours.
    pub energy_unit_j: f64,
    /// Whether the disturbance script sets the ambient temperature.
    pub scripted_ambient: bool,
    /// What a reader must know to judge the result.
    pub notes: Vec<String>,
}

/// Reads a configuration as that of a day that begins at `start`, a time of day, against which `until` is resolved.
/// Users and groups that this machine does not have are let be: the board will have them.
///
/// # Errors
/// All that is wrong with it.
pub fn read_config(file: &Path, start: jiff::civil::Time) -> Result<Config, WhatIfError> {
    let text = read_text(file, MAX_CONFIG_BYTES).map_err(|problem| Problems(vec![problem]))?;
    // Any date does; this one has no change of clocks.
    let day = jiff::civil::date(2000, 1, 1).to_datetime(start).to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let now = day.map_err(|error| Problems(vec![Problem::of_file(file, error.to_string())]))?;
    let context = Context {
        now,
        user_id: &|name| Some(nix::unistd::User::from_name(name).ok()?.map_or(u32::MAX, |u| u.uid.as_raw())),
        group_id: &|_| Some(0),
    };
    Ok(Config::parse(file, &text, &context)?)
}

impl Day {
    /// Puts a day together.
    ///
    /// # Errors
    /// What is wrong with which value or file.
    pub fn load(asked: &Asked) -> Result<Self, WhatIfError> {
        within("--hours", asked.hours, &HOURS, "h")?;
        within("--allowance", asked.allowance, &ALLOWANCE, "as a share")?;
        let mut notes = Vec::new();
        let (measured, played) = plants(asked, &mut notes)?;
        let disturbance =
            asked.disturb.as_deref().map(|file| Disturbance::load(file, &played)).transpose()?;
        let scripted_ambient = disturbance.as_ref().is_some_and(|disturbance| {
            disturbance.script.steps().iter().any(|(_, change)| matches!(change, Change::AmbientC(_)))
        });
        let (known, problems) = models(&asked.config);
        let (mut workload, once) = match &asked.demand {
            Source::Journal(file) => recorded(asked, file, &known, &problems, &mut notes)?,
            Source::Workload(file) => described(asked, file, &known, &mut notes)?,
        };
        if matches!(&asked.config.simulation, Simulation::InProcess { script: Some(_), .. }) {
            notes.push(
                "the configuration's simulation.script is not played: --disturb FILE plays one".to_owned(),
            );
        }
        notes.extend(problems.iter().take(5).map(|problem| format!("not served: {problem}")));
        keep_wanted(&mut workload, &asked.config.models.load);
        let lasting = Nanos::from_secs_f64(asked.hours * 3600.0);
        bounded(&workload, once, lasting)?;
        let parts = Parts {
            spec: asked.board.clone(),
            plant: measured,
            workload,
            disturbance,
            sample_period: Some(asked.config.board.sample_period),
        };
        let mut scenario = Scenario::of(parts)?;
        scenario.machine.plant = Arc::new(played);
        scenario.repeat = Some(Repeat { every: once, until: Timestamp::MAX });
        let times = lasting.as_secs_f64() / once.as_secs_f64();
        let demand = Demand { source: asked.demand.clone(), once, times };
        let energy = asked.config.raw().budget.energy.as_ref();
        let watt_hours = energy.is_some_and(|energy| energy.watt_hours.is_some());
        let mut day = Self {
            scenario,
            lasting,
            allowance: asked.allowance,
            demand,
            energy_unit_j: if watt_hours { 3600.0 } else { 1.0 },
            scripted_ambient,
            notes,
        };
        day.settle();
        day.note_what_bends_the_limits();
        Ok(day)
    }

    /// Brings the ends of the run in line with the length of the day and the longest deadline.
    pub(super) fn settle(&mut self) {
        let scenario = &mut self.scenario;
        let end = scenario.warmup.saturating_add(self.lasting);
        if let Some(repeat) = &mut scenario.repeat {
            repeat.until = Timestamp::ZERO.after(end);
        }
        scenario.duration = end.saturating_add(longest_deadline(&scenario.streams, &scenario.budgets));
    }

    /// Requests that come in a run with this seed, by class.
    #[must_use]
    pub fn requests(&self, seed: u64) -> Vec<u64> {
        let mut totals = vec![0; self.scenario.budgets.classes.len()];
        let mut workload = self.scenario.workload(seed);
        while let Some(arrival) = workload.take() {
            let class = workload.streams()[arrival.stream].class;
            if let Some(total) = totals.get_mut(usize::from(class.0)) {
                *total += 1;
            }
        }
        totals
    }

    /// The limits that the day is judged by.
    #[must_use]
    pub fn limits(&self) -> Vec<Limit> {
        let classes = self.scenario.budgets.classes.len();
        let asked_for = |class: usize| self.scenario.streams.iter().any(|s| usize::from(s.class.0) == class);
        Limit::of(&self.scenario.budgets, &(0..classes).map(asked_for).collect::<Vec<bool>>())
    }

    fn note_what_bends_the_limits(&mut self) {
        let budgets = &self.scenario.budgets;
        let spans = [
            ("budget.energy", budgets.energy.map(|energy| energy.lasting)),
            ("budget.battery", budgets.battery.map(|battery| battery.lasting)),
        ];
        for (key, span) in spans {
            let Some(span) = span else { continue };
            let (hours, day) = (span.as_secs_f64() / 3600.0, self.lasting.as_secs_f64() / 3600.0);
            if span > self.lasting {
                self.notes.push(format!(
                    "{key} must last {hours:.4} h and the day has {day:.4} h: what is left then is projected at the \
                     pace of the day"
                ));
            } else if span.saturating_add(Nanos::from_secs(1)) < self.lasting {
                self.notes
                    .push(format!("{key} lasts {hours:.4} h of the {day:.4} h: it binds until then only"));
            }
        }
        let capped = budgets.power_cap.is_some() || budgets.classes.iter().any(|class| class.power.is_some());
        if capped && budgets.power_window > self.lasting {
            self.notes.push("budget.power_window_s is longer than the day: no power was judged".to_owned());
        }
        if self.scenario.streams.iter().any(|stream| stream.deadline.is_some()) {
            self.notes.push(
                "some requests name a deadline of their own: these are late by that, whatever latency_ms says".to_owned(),
            );
        }
        if self.scripted_ambient {
            self.notes
                .push("the disturbances set the ambient temperature, so no other one was tried".to_owned());
        }
    }
}

fn within(
    what: &'static str,
    value: f64,
    range: &RangeInclusive<f64>,
    unit: &str,
) -> Result<f64, WhatIfError> {
    // NaN is in no range.
    if range.contains(&value) {
        return Ok(value);
    }
    let right = format!("a number from {:.4} to {} {unit}", range.start(), range.end());
    Err(WhatIfError::Range { what, value, right })
}

/// The plant that profiles are measured on, in its usual surroundings, and the one that the day is played on.
fn plants(asked: &Asked, notes: &mut Vec<String>) -> Result<(PlantSpec, PlantSpec), WhatIfError> {
    let mut measured = PlantSpec::from_board(&asked.board)?;
    if let Some(factor) = asked.work_scale {
        measured = measured.with_work_scale(factor)?;
    }
    if let Some(wh) = asked.battery_wh {
        let capacity_wh = within("--battery", wh, &BATTERY_WH, "Wh")?;
        let voltage_v = measured.battery.map_or(11.1, |battery| battery.voltage_v);
        measured.battery = Some(Battery { capacity_wh, start: 1.0, voltage_v });
    }
    if asked.config.budgets.battery.is_some() && measured.battery.is_none() {
        return Err(WhatIfError::Contradiction {
            file: asked.config.file.clone(),
            problem: format!(
                "[budget.battery] needs a battery, and board {} has none: give it one with --battery WH, or \
                 leave the budget out",
                asked.board.name
            ),
        });
    }
    let mut played = measured.clone();
    if let Some(celsius) = asked.ambient_c {
        played.ambient_c = within("--ambient", celsius, &AMBIENT_C, "°C")?;
        rest(&mut played);
    }
    if asked.board.synthetic {
        notes.push(format!(
            "board {} is synthetic: its file says what is known and what assumed",
            asked.board.name
        ));
    }
    if (played.work_scale - 1.0).abs() > f64::EPSILON {
        notes.push(format!(
            "every run costs {} times what its manifest says, as the board's file wants it for demonstration models: \
             --work-scale 1 for models of full size",
            played.work_scale
        ));
    }
    Ok((measured, played))
}

/// Lets the board begin as warm as it gets where it stands with nothing to do, its fan included.
pub(super) fn rest(plant: &mut PlantSpec) {
    plant.start_c = None;
    let mut idle = Plant::new(Arc::new(plant.clone()), 0);
    idle.advance(Timestamp::ZERO.after(Nanos::from_secs(2 * 3600)));
    plant.start_c = Some(idle.heat().die_c);
}

/// The models of the configuration's folders, and what cannot be served of them.
fn models(config: &Config) -> (Vec<SimModel>, Vec<ModelProblem>) {
    let (loaded, problems) = ModelStore::new(config.models.rules.clone()).open(&config.models.dirs);
    let usable = loaded.iter().filter(|model| model.unavailable.is_none());
    (usable.filter_map(|model| model.manifest.as_ref()).map(SimModel::of).collect(), problems)
}

/// The demand of a workload file under the configuration.
fn described(
    asked: &Asked,
    file: &Path,
    known: &[SimModel],
    notes: &mut Vec<String>,
) -> Result<(WorkloadFile, Nanos), WhatIfError> {
    let config = &asked.config;
    let class_of = |app: AppId, model: &str| config.class_of(app, model);
    let under = Under { file: &config.file, budgets: &config.budgets, models: known, class_of: &class_of };
    let workload = WorkloadFile::load_under(file, under).map_err(ExperimentError::from)?;
    for source in workload.models.iter().skip(known.len()) {
        notes.push(format!(
            "model {} is as {} describes it: the folders of models.dir have none of that name",
            source.model.name,
            file.display()
        ));
    }
    let once = workload.lasting;
    Ok((workload, once))
}

/// The demand of a journal under the configuration.
fn recorded(
    asked: &Asked,
    file: &Path,
    known: &[SimModel],
    problems: &[ModelProblem],
    notes: &mut Vec<String>,
) -> Result<(WorkloadFile, Nanos), WhatIfError> {
    let record = Recorded::read(file)?;
    let config = &asked.config;
    let bad = |problem: String| WhatIfError::Journal { file: file.to_owned(), problem };
    let class = |kind: &Kind| {
        let names: Vec<&str> = config.budgets.classes.iter().map(|class| class.name.as_str()).collect();
        let found = names.iter().position(|name| *name == kind.class);
        found.and_then(|index| u16::try_from(index).ok()).map(ClassId).ok_or_else(|| {
            let (name, config) = (&kind.class, config.file.display());
            bad(format!(
                "has requests of class `{name}`, which {config} has not; it has: {}",
                names.join(", ")
            ))
        })
    };
    let model = |kind: &Kind| {
        known.iter().position(|model| model.name == kind.model).map(ModelId::at).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|model| model.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let faults: String = problems.iter().take(3).map(|problem| format!("\n  {problem}")).collect();
            bad(format!(
                "has requests to model `{}`, which the folders of models.dir have not; they have: {names}. \
                 --models DIR names others{faults}",
                kind.model
            ))
        })
    };
    let mut streams = Vec::new();
    for (kind, moments) in &record.kinds {
        streams.push(Stream {
            app: kind.app,
            class: class(kind)?,
            model: model(kind)?,
            items: kind.items,
            deadline: kind.deadline,
            min_accuracy: kind.min_accuracy,
            ..Stream::plain(Arrivals::Trace(moments.as_slice().into()), record.lasting)
        });
    }
    if record.board != asked.board.name {
        notes.push(format!("recorded on board {}, played on board {}", record.board, asked.board.name));
    }
    let left_out = [
        (record.wishes, "named a variant, an energy or a priority of their own: here they do not"),
        (record.cancelled, "were given up by their clients: here these wait"),
        (record.strange, "named no model or class that there was: here they do not come"),
    ];
    let left_out = left_out.iter().filter(|(number, _)| *number > 0);
    notes.extend(left_out.map(|(number, what)| format!("{number} recorded requests {what}")));
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let workload = WorkloadFile {
        name,
        models: known.iter().cloned().map(ModelSource::from).collect(),
        budgets: config.budgets.clone(),
        streams,
        lasting: record.lasting,
        warmup: None,
        profile_error: 0.0,
    };
    Ok((workload, record.lasting))
}

/// Keeps the models that someone asks for, or that the configuration holds in memory.
fn keep_wanted(workload: &mut WorkloadFile, load: &[String]) {
    let wanted = |index: usize, source: &ModelSource| {
        load.contains(&source.model.name) || workload.streams.iter().any(|s| s.model.index() == index)
    };
    let kept: Vec<usize> =
        (0..workload.models.len()).filter(|index| wanted(*index, &workload.models[*index])).collect();
    for stream in &mut workload.streams {
        let place = kept.iter().position(|index| *index == stream.model.index());
        stream.model = ModelId::at(place.unwrap_or(0));
    }
    workload.models = kept.into_iter().map(|index| workload.models[index].clone()).collect();
}

/// That a day ends.
fn bounded(workload: &WorkloadFile, once: Nanos, lasting: Nanos) -> Result<(), WhatIfError> {
    let times = (lasting.as_secs_f64() / once.as_secs_f64()).max(1.0);
    let requests = |stream: &Stream| {
        let seconds = stream.until.since(stream.from).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "lengths of lists")]
        match &stream.arrivals {
            Arrivals::Periodic { period, .. } => seconds / period.as_secs_f64().max(1e-9),
            Arrivals::Poisson { per_s } => seconds * per_s,
            Arrivals::Bursts { every, size } => seconds / every.as_secs_f64().max(1e-9) * f64::from(*size),
            Arrivals::Trace(moments) => moments.len() as f64,
        }
    };
    let factor = |stream: &Stream| stream.spikes.iter().map(|spike| spike.factor).fold(1.0, f64::max);
    let all: f64 = workload.streams.iter().map(|stream| requests(stream) * factor(stream)).sum();
    if all * times <= MAX_REQUESTS {
        return Ok(());
    }
    let right =
        format!("less, so that at most {MAX_REQUESTS:e} requests come (now up to {:.2e}),", all * times);
    Err(WhatIfError::Range { what: "--hours", value: lasting.as_secs_f64() / 3600.0, right })
}
