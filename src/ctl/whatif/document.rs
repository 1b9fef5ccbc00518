//! The answer as JSON. Everything in it is modelled.

use super::Report;
use crate::sim::whatif::{Finding, Knob, Limit, Source};
use crate::units::Nanos;
use serde::Serialize;
use std::collections::BTreeMap;

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// Always true: nothing of it was measured.
    pub modelled: bool,
    /// The configuration's file.
    pub config: String,
    /// Name of the board.
    pub board: String,
    /// Ambient temperature in degrees Celsius.
    pub ambient_c: f64,
    /// Disturbance, if there is one.
    pub disturbance: Option<String>,
    /// Length of the day.
    pub hours: f64,
    /// Time of day at which it begins.
    pub start: String,
    /// `journal` or `workload`.
    pub demand: &'static str,
    /// Its file.
    pub demand_file: String,
    /// How long the demand is once.
    pub demand_s: f64,
    /// How many times it was played.
    pub demand_times: f64,
    /// Share of a class's requests that may be late or turned away.
    pub allowance: f64,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Whether every budget held in every run.
    pub holds: bool,
    /// Key of the budget that broke first.
    pub first_broken: Option<String>,
    /// When, in seconds from the start of the day.
    pub first_broken_s: Option<f64>,
    /// One entry per budget.
    pub budgets: Vec<Budget>,
    /// Other values of single budgets and what they do; null if that was not looked for.
    pub would_hold: Option<Vec<Change>>,
    /// Whether all of those together hold that mend only their own budget; null if that was no question.
    pub together: Option<bool>,
    /// Runs in all.
    pub runs_played: u64,
    /// The runs that the verdict is about.
    pub runs: Vec<Run>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// A budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Budget {
    /// Its key.
    pub budget: String,
    /// Its value; null for the passive trips of the board.
    pub asked: Option<f64>,
    /// What `got`, `bound` and `worst_hour` are of.
    pub measure: &'static str,
    /// The figure of the worst run.
    pub got: f64,
    /// What it is measured against, the slack for meters included.
    pub bound: f64,
    /// Whether it held in every run.
    pub holds: bool,
    /// Runs in which it held.
    pub runs_held: usize,
    /// When it broke first, in seconds from the start of the day.
    pub broken_s: Option<f64>,
    /// Whether the day was too short for it, and `got` is projected.
    pub projected: bool,
    /// The worst clock hour, from 0.
    pub worst_hour: Option<usize>,
    /// Its figure; of temperatures the hottest in degrees Celsius.
    pub worst_hour_got: Option<f64>,
}

/// Another value of one budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Its key.
    pub budget: String,
    /// The value now.
    pub now: f64,
    /// The nearest value found that holds; null if none does.
    pub holds_at: Option<f64>,
    /// The nearest value found that breaks; the loosest that was tried if none holds.
    pub breaks_at: f64,
    /// Whether everything holds then, or only this budget and what held before.
    pub everything: bool,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// Energy of the board from power-on, J.
    pub energy_j: f64,
    /// The hottest that a zone was, in degrees Celsius.
    pub hottest_c: Option<f64>,
    /// Share of the battery left at the end.
    pub battery_left: Option<f64>,
    /// By class with requests.
    pub classes: BTreeMap<String, Class>,
}

/// A class in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// Requests.
    pub requests: u64,
    /// With an answer, late or not.
    pub answered: u64,
    /// Answered late or not at all.
    pub late: u64,
    /// Turned away for another reason, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Mean accuracy of the answers.
    pub accuracy: Option<f64>,
    /// Time within which all answers but the share of the allowance came.
    pub latency_ms: Option<f64>,
    /// Mean energy of an answer above the idle board.
    pub energy_mj: Option<f64>,
}

/// The document of a report.
#[must_use]
pub fn document(report: &Report<'_>) -> Document {
    let (day, answer) = (report.day, report.answer);
    let first = answer.first_broken();
    let (demand, file) = match &day.demand.source {
        Source::Journal(file) => ("journal", file),
        Source::Workload(file) => ("workload", file),
    };
    let budgets = answer.rows.iter().map(|row| Budget { runs_held: row.held, ..budget(report, &row.worst) });
    Document {
        modelled: true,
        config: report.file().display().to_string(),
        board: day.scenario.board.clone(),
        ambient_c: day.scenario.machine.plant.ambient_c,
        disturbance: day.scenario.disturbance.clone(),
        hours: day.lasting.as_secs_f64() / 3600.0,
        start: report.start.strftime("%H:%M:%S").to_string(),
        demand,
        demand_file: file.display().to_string(),
        demand_s: day.demand.once.as_secs_f64(),
        demand_times: day.demand.times,
        allowance: day.allowance,
        seeds: report.seeds.to_vec(),
        holds: answer.holds(),
        first_broken: first.map(|finding| report.key(finding.limit)),
        first_broken_s: first.and_then(|finding| finding.broken_at).map(Nanos::as_secs_f64),
        budgets: budgets.collect(),
        would_hold: (report.searched && !answer.holds()).then(|| changes(report)),
        together: answer.together,
        runs_played: answer.runs,
        runs: runs(report),
        notes: day.notes.clone(),
    }
}

fn budget(report: &Report<'_>, finding: &Finding) -> Budget {
    let asked = match (finding.limit, Knob::of_limit(finding.limit)) {
        (Limit::Temperature, _) => {
            report.day.scenario.budgets.max_temperature.map(|limit| limit.as_celsius())
        }
        (_, knob) => knob.map(|knob| knob.value(report.day)),
    };
    Budget {
        budget: report.key(finding.limit),
        asked,
        measure: measure(finding.limit),
        got: finding.got,
        bound: finding.bound,
        holds: finding.holds,
        runs_held: 0,
        broken_s: finding.broken_at.map(Nanos::as_secs_f64),
        projected: finding.projected,
        worst_hour: finding.worst_hour.map(|(hour, _)| hour),
        worst_hour_got: finding.worst_hour.map(|(_, figure)| figure),
    }
}

const fn measure(limit: Limit) -> &'static str {
    match limit {
        Limit::Latency(_) => "share_late_or_refused",
        Limit::Floor(_) => "share_refused",
        Limit::Target(_) => "accuracy_mean",
        Limit::RequestEnergy(_) => "share_above_or_refused",
        Limit::ClassPower(_) | Limit::Power => "watts_highest_window",
        Limit::Energy => "joules",
        Limit::Battery => "share_left",
        Limit::Temperature => "seconds_above",
    }
}

fn changes(report: &Report<'_>) -> Vec<Change> {
    let change = |suggestion: &crate::sim::whatif::Suggestion| Change {
        budget: report.name(suggestion.knob),
        now: suggestion.from,
        holds_at: suggestion.to,
        breaks_at: suggestion.breaks,
        everything: suggestion.all,
    };
    report.answer.suggestions.iter().map(change).collect()
}

fn runs(report: &Report<'_>) -> Vec<Run> {
    let run = |outcome: &crate::sim::whatif::Outcome| {
        let classes = outcome.classes.iter().enumerate().filter(|(_, tally)| tally.requests > 0);
        let classes = classes.map(|(index, tally)| {
            let class = Class {
                requests: tally.requests,
                answered: tally.answered,
                late: tally.late,
                refused: tally.refused.iter().map(|(reason, number)| (reason.name(), *number)).collect(),
                accuracy: tally.accuracy,
                latency_ms: tally.latency_ms,
                energy_mj: tally.energy_mj,
            };
            (report.class(index).to_owned(), class)
        });
        Run {
            seed: outcome.seed,
            energy_j: outcome.energy_j,
            hottest_c: outcome.hottest_c,
            battery_left: outcome.battery_left,
            classes: classes.collect(),
        }
    };
    report.answer.outcomes.iter().map(run).collect()
}
