//! What a day under a configuration came to: a table for people, a document for programs.

mod document;
mod table;
mod words;

pub use document::{Budget, Change, Class, Document, Run, document};
pub use table::text;

use crate::config::Config;
use crate::sim::whatif::{Answer, Day, Knob, Limit};
use std::path::Path;

/// A question and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The configuration that was asked about.
    pub config: &'a Config,
    /// The day.
    pub day: &'a Day,
    /// Time of day at which it begins.
    pub start: jiff::civil::Time,
    /// Seeds of the runs.
    pub seeds: &'a [u64],
    /// Whether what would hold was looked for.
    pub searched: bool,
    /// What came of it.
    pub answer: &'a Answer,
}

impl Report<'_> {
    fn class(&self, index: usize) -> &str {
        self.day.scenario.budgets.classes.get(index).map_or("", |class| &class.name)
    }

    /// The key of the configuration that a limit is set by.
    fn key(&self, limit: Limit) -> String {
        match (limit, Knob::of_limit(limit)) {
            (Limit::Temperature, _) => match self.day.scenario.budgets.max_temperature {
                Some(_) => "budget.max_temperature_c".to_owned(),
                None => "passive trips of the board".to_owned(),
            },
            (_, Some(knob)) => self.name(knob),
            (_, None) => String::new(),
        }
    }

    /// What a value is called: a key of the configuration, or a flag.
    fn name(&self, knob: Knob) -> String {
        let class = |index: usize, key: &str| format!("class {} {key}", self.class(index));
        match knob {
            Knob::Latency(index) => class(index, "latency_ms"),
            Knob::Floor(index) => class(index, "min_accuracy"),
            Knob::Target(index) => class(index, "accuracy_target"),
            Knob::RequestEnergy(index) => class(index, "energy_per_request_mj"),
            Knob::ClassPower(index) => class(index, "power_w"),
            Knob::PowerCap => "budget.power_cap_w".to_owned(),
            Knob::Energy if self.in_watt_hours() => "budget.energy.watt_hours".to_owned(),
            Knob::Energy => "budget.energy.joules".to_owned(),
            Knob::Lasting => "hours that it must last".to_owned(),
            Knob::Battery => "--battery".to_owned(),
            Knob::Reserve => "budget.battery.reserve_percent".to_owned(),
            Knob::MaxTemperature => "budget.max_temperature_c".to_owned(),
            Knob::Ambient => "--ambient".to_owned(),
        }
    }

    /// Whether the configuration gives its energy in watt-hours.
    fn in_watt_hours(&self) -> bool {
        self.day.energy_unit_j > 1.0
    }

    fn file(&self) -> &Path {
        &self.config.file
    }
}

#[cfg(test)]
mod tests;
