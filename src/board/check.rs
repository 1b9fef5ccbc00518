//! What a board file may say. Every complaint names the key, the value and what would be right;
//! comparisons are written so that NaN fails them.

use crate::board::cpus::{CpuSet, MAX_CPUS};
use crate::board::restore::journal::is_cap;
use crate::board::spec::{
    BoardSpec, DomainInterface, DomainSpec, HoldSpec, RailInterface, RailSpec, UnitSpec, ZoneSpec,
};
use crate::core::catalog::PowerModel;
use crate::units::Kilohertz;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path};

/// Most entries of each table: ids are one byte, and nothing real comes near.
pub(crate) const MAX_ENTRIES: usize = 64;
/// Most operating points of one domain.
pub(crate) const MAX_OPPS: usize = 256;
/// Highest clock that is believed, 10 GHz in kHz.
pub(crate) const MAX_CLOCK_KHZ: u32 = 10_000_000;
/// Highest power that is believed, in watts.
const MAX_POWER_W: f64 = 1_000.0;
/// Highest temperature that is believed, in degrees Celsius.
const MAX_TEMPERATURE_C: f64 = 150.0;
/// Most CPU time, in percent of one CPU.
const MAX_CPU_PERCENT: u32 = 100 * MAX_CPUS as u32;
/// Longest name of a device tree in bytes.
const MAX_COMPATIBLE: usize = 128;
/// Longest name in characters.
const MAX_NAME: usize = 64;

/// A value in a board file that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key, such as `unit[1].domain` (counted from 0).
    pub key: String,
    /// The value found there.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

impl Problem {
    pub(crate) fn new(key: impl Into<String>, value: impl fmt::Debug, expected: impl Into<String>) -> Self {
        Self { key: key.into(), value: format!("{value:?}"), expected: expected.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: expected {}", self.key, self.value, self.expected)
    }
}

/// All problems in one line.
pub(crate) fn sentence(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

/// Everything that is wrong with a board file.
pub(crate) fn problems(spec: &BoardSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    name(&mut found, "name", &spec.name);
    if !(0.0..=MAX_POWER_W).contains(&spec.idle_power_w) {
        found.push(Problem::new("idle_power_w", spec.idle_power_w, watts()));
    }
    compatible(&mut found, &spec.compatible);
    if spec.units.is_empty() {
        found.push(Problem::new("unit", &spec.units, "at least one [[unit]]"));
    }
    table(&mut found, "unit", spec.units.iter().map(|unit| unit.name.as_str()));
    table(&mut found, "domain", spec.domains.iter().map(|domain| domain.name.as_str()));
    table(&mut found, "zone", spec.zones.iter().map(|zone| zone.name.as_str()));
    table(&mut found, "rail", spec.rails.iter().map(|rail| rail.name.as_str()));
    for (index, entry) in spec.domains.iter().enumerate() {
        domain(&mut found, &format!("domain[{index}]"), entry);
    }
    for (index, entry) in spec.zones.iter().enumerate() {
        zone(&mut found, &format!("zone[{index}]"), entry);
    }
    for (index, entry) in spec.rails.iter().enumerate() {
        rail(&mut found, &format!("rail[{index}]"), entry);
    }
    for (index, entry) in spec.units.iter().enumerate() {
        unit(&mut found, &format!("unit[{index}]"), entry, spec);
    }
    thermal(&mut found, spec);
    hold(&mut found, &spec.hold);
    found
}

/// What is to be held besides clocks.
fn hold(found: &mut Vec<Problem>, hold: &HoldSpec) {
    if let Some(epp) = &hold.epp
        && (epp.is_empty() || !epp.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    {
        found.push(Problem::new("hold.epp", epp, "a preference such as \"balance_power\""));
    }
    if let Some(us) = hold.cpu_dma_latency_us.filter(|us| i32::try_from(*us).is_err()) {
        found.push(Problem::new(
            "hold.cpu_dma_latency_us",
            us,
            format!("microseconds, at most {}", i32::MAX),
        ));
    }
    if let Some(percent) = hold.cpu_max_percent.filter(|percent| !(1..=MAX_CPU_PERCENT).contains(percent)) {
        let expected = format!("percent of one CPU between 1 and {MAX_CPU_PERCENT}");
        found.push(Problem::new("hold.cpu_max_percent", percent, expected));
    }
    for (key, percent) in [
        ("hold.uclamp_min_percent", hold.uclamp_min_percent),
        ("hold.uclamp_max_percent", hold.uclamp_max_percent),
    ] {
        if let Some(percent) = percent.filter(|percent| *percent > 100) {
            found.push(Problem::new(key, percent, "percent between 0 and 100"));
        }
    }
    for (index, cap) in hold.caps.iter().enumerate() {
        let path = Path::new(&cap.node);
        let below = path.components().all(|part| matches!(part, Component::Normal(_)));
        if index >= MAX_ENTRIES || !below || !is_cap(path) {
            let expected = "a cap below /sys such as \"kernel/nvpmodel_clk_cap/emc\", and no other file";
            found.push(Problem::new(format!("hold.cap[{index}].node"), &cap.node, expected));
        }
        if !(1..=MAX_CLOCK_KHZ).contains(&cap.khz) {
            let expected = format!("kHz between 1 and {MAX_CLOCK_KHZ}");
            found.push(Problem::new(format!("hold.cap[{index}].khz"), cap.khz, expected));
        }
    }
}

fn watts() -> String {
    format!("watts between 0 and {MAX_POWER_W}")
}

fn name(found: &mut Vec<Problem>, key: &str, name: &str) {
    let fits = !name.is_empty() && name.chars().count() <= MAX_NAME;
    if !fits || name.trim() != name || name.chars().any(char::is_control) {
        let expected = format!("1 to {MAX_NAME} printable characters without space at the ends");
        found.push(Problem::new(key, name, expected));
    }
}

/// What a device tree calls the board.
fn compatible(found: &mut Vec<Problem>, names: &[String]) {
    for (index, name) in names.iter().enumerate() {
        let key = format!("compatible[{index}]");
        if index == MAX_ENTRIES {
            found.push(Problem::new(key, name, format!("at most {MAX_ENTRIES} names")));
            return;
        }
        let fits = name.contains(',') && name.len() <= MAX_COMPATIBLE;
        if !fits || !name.chars().all(|letter| letter.is_ascii_graphic()) {
            let expected = "a device tree's `compatible`, such as \"nvidia,p3767-0005\"";
            found.push(Problem::new(key, name, expected));
        }
    }
}

/// Whether a board file may use this name for an entry.
pub(crate) fn is_name(text: &str) -> bool {
    let mut found = Vec::new();
    name(&mut found, "", text);
    found.is_empty()
}

/// Names and size of a table: names must be usable and unique.
fn table<'a>(found: &mut Vec<Problem>, key: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen = BTreeSet::new();
    for (index, entry) in names.enumerate() {
        let key = format!("{key}[{index}].name");
        if index == MAX_ENTRIES {
            found.push(Problem::new(key, entry, format!("at most {MAX_ENTRIES} entries")));
            return;
        }
        name(found, &key, entry);
        if !seen.insert(entry) {
            found.push(Problem::new(key, entry, "a name that no entry above has"));
        }
    }
}

fn domain(found: &mut Vec<Problem>, key: &str, domain: &DomainSpec) {
    let select = format!("{key}.select");
    match domain.interface {
        DomainInterface::Cpufreq => {
            if CpuSet::parse(&domain.select).is_none() {
                let expected = format!("a CPU below {MAX_CPUS}, several such as \"0-3,6\", or \"all\"");
                found.push(Problem::new(select, &domain.select, expected));
            }
        }
        DomainInterface::Devfreq => {
            if domain.select.trim().is_empty() || domain.select.contains('/') {
                let expected = "part of a name under class/devfreq, such as \"17000000.gpu\"";
                found.push(Problem::new(select, &domain.select, expected));
            }
        }
    }
    let opps = &domain.opps_khz;
    power(found, format!("{key}.held_power"), &domain.held_power, opps);
    let key = format!("{key}.opps_khz");
    if opps.len() > MAX_OPPS {
        found.push(Problem::new(key, opps.len(), format!("at most {MAX_OPPS} operating points")));
        return;
    }
    for (index, opp) in opps.iter().enumerate() {
        let key = format!("{key}[{index}]");
        if !(1..=MAX_CLOCK_KHZ).contains(opp) {
            found.push(Problem::new(key, opp, format!("kHz between 1 and {MAX_CLOCK_KHZ}")));
        } else if index > 0 && opps[index - 1] >= *opp {
            let expected = format!("more than the {} before it: ascending, each once", opps[index - 1]);
            found.push(Problem::new(key, opp, expected));
        }
    }
}

fn zone(found: &mut Vec<Problem>, key: &str, zone: &ZoneSpec) {
    for (field, celsius) in [("passive_c", zone.passive_c), ("critical_c", zone.critical_c)] {
        if !(celsius > 0.0 && celsius <= MAX_TEMPERATURE_C) {
            let expected = format!("degrees Celsius above 0, at most {MAX_TEMPERATURE_C}");
            found.push(Problem::new(format!("{key}.{field}"), celsius, expected));
        }
    }
    if zone.passive_c >= zone.critical_c {
        let expected = format!("less than critical_c = {}", zone.critical_c);
        found.push(Problem::new(format!("{key}.passive_c"), zone.passive_c, expected));
    }
}

fn rail(found: &mut Vec<Problem>, key: &str, rail: &RailSpec) {
    let key = format!("{key}.chip");
    match rail.interface {
        RailInterface::Hwmon if rail.chip.is_empty() => {
            found.push(Problem::new(key, &rail.chip, "the `name` of a hwmon device, such as \"ina3221\""));
        }
        RailInterface::Iio if rail.chip.is_empty() => {
            found.push(Problem::new(key, &rail.chip, "the `name` of an iio device, such as \"ina3221x\""));
        }
        RailInterface::Powercap if !rail.chip.is_empty() => {
            found.push(Problem::new(key, &rail.chip, "no chip: a powercap rail is found by its name"));
        }
        RailInterface::Hwmon | RailInterface::Iio | RailInterface::Powercap => {}
    }
}

fn unit(found: &mut Vec<Problem>, key: &str, unit: &UnitSpec, spec: &BoardSpec) {
    let domains: Vec<&str> = spec.domains.iter().map(|domain| domain.name.as_str()).collect();
    let rails: Vec<&str> = spec.rails.iter().map(|rail| rail.name.as_str()).collect();
    reference(found, &format!("{key}.domain"), unit.domain.as_deref(), &domains, "domain");
    reference(found, &format!("{key}.memory_domain"), unit.memory_domain.as_deref(), &domains, "domain");
    reference(found, &format!("{key}.rail"), unit.rail.as_deref(), &rails, "rail");
    if unit.domain.is_some() && unit.domain == unit.memory_domain {
        let expected = "another domain than the unit's own";
        found.push(Problem::new(format!("{key}.memory_domain"), &unit.memory_domain, expected));
    }
    if unit.provider.trim().is_empty() {
        let expected = "an ONNX Runtime provider, such as \"CPUExecutionProvider\"";
        found.push(Problem::new(format!("{key}.provider"), &unit.provider, expected));
    }
    if let Some(shares) = &unit.shares {
        name(found, &format!("{key}.shares"), shares);
    }
    cpus(found, key, unit);
    busy_power(found, key, unit, spec);
}

fn reference(found: &mut Vec<Problem>, key: &str, value: Option<&str>, known: &[&str], what: &str) {
    let Some(value) = value else { return };
    if !known.contains(&value) {
        let expected = if known.is_empty() {
            format!("no such key, or a [[{what}]] of that name: there is none")
        } else {
            format!("a {what} of this file: {}", known.join(", "))
        };
        found.push(Problem::new(key, value, expected));
    }
}

fn cpus(found: &mut Vec<Problem>, key: &str, unit: &UnitSpec) {
    let mut seen = BTreeSet::new();
    for (index, cpu) in unit.cpus.iter().enumerate() {
        let key = format!("{key}.cpus[{index}]");
        if *cpu >= MAX_CPUS {
            found.push(Problem::new(key, cpu, format!("a CPU between 0 and {}", MAX_CPUS - 1)));
        } else if !seen.insert(cpu) {
            found.push(Problem::new(key, cpu, "each CPU once"));
        }
    }
    let most = if unit.cpus.is_empty() { usize::from(MAX_CPUS) } else { seen.len() };
    if !(1..=most).contains(&usize::from(unit.threads)) {
        let expected = format!("1 to {most}, the CPUs that it may run on");
        found.push(Problem::new(format!("{key}.threads"), unit.threads, expected));
    }
}

/// Coefficients of a fit may be negative as long as the power they predict is not.
fn busy_power(found: &mut Vec<Problem>, key: &str, unit: &UnitSpec, spec: &BoardSpec) {
    let opps: &[u32] = spec
        .domains
        .iter()
        .find(|domain| Some(&domain.name) == unit.domain.as_ref())
        .map_or(&[], |domain| &domain.opps_khz);
    power(found, format!("{key}.busy_power"), &unit.busy_power, opps);
}

/// Checks the power drawn at each of some operating points.
fn power(found: &mut Vec<Problem>, key: String, model: &PowerModel, opps: &[u32]) {
    let coefficients = [
        ("constant_w", model.constant_w),
        ("linear_w_per_ghz", model.linear_w_per_ghz),
        ("cubic_w_per_ghz3", model.cubic_w_per_ghz3),
    ];
    let before = found.len();
    for (field, value) in coefficients {
        let least = if opps.is_empty() { 0.0 } else { -MAX_POWER_W };
        if !(least..=MAX_POWER_W).contains(&value) {
            let expected = format!("a number between {least} and {MAX_POWER_W}");
            found.push(Problem::new(format!("{key}.{field}"), value, expected));
        }
    }
    if found.len() > before {
        return;
    }
    for opp in opps {
        let watts_there = model.at(Kilohertz(*opp)).as_watts();
        if !(0.0..=MAX_POWER_W).contains(&watts_there) {
            let value = format!("{watts_there} W at {opp} kHz");
            found.push(Problem::new(key, value, format!("{} at every operating point", watts())));
            return;
        }
    }
}

fn thermal(found: &mut Vec<Problem>, spec: &BoardSpec) {
    let thermal = &spec.thermal;
    let figures = [
        ("fast_k_per_w", thermal.fast_k_per_w, 1e3),
        ("fast_tau_s", thermal.fast_tau_s, 1e6),
        ("slow_k_per_w", thermal.slow_k_per_w, 1e3),
        ("slow_tau_s", thermal.slow_tau_s, 1e6),
    ];
    for (field, value, most) in figures {
        if !(value > 0.0 && value <= most) {
            let expected = format!("a number above 0, at most {most}");
            found.push(Problem::new(format!("thermal.{field}"), value, expected));
        }
    }
    if thermal.fast_tau_s >= thermal.slow_tau_s {
        let expected = format!("less than slow_tau_s = {}", thermal.slow_tau_s);
        found.push(Problem::new("thermal.fast_tau_s", thermal.fast_tau_s, expected));
    }
}

#[cfg(test)]
mod tests;
