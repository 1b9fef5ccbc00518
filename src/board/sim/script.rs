//! Disturbance scripts: what happens to a simulated board, and when.
//!
//! ```toml
//! [[event]]
//! at_s = 30              # seconds from the start of the script
//! set = "ambient_c"      # ambient_c, fan, contention_compute, contention_memory, tail_probability,
//! to = 45                # extra_power_w, charger_w, actuation_delay, sensor, actuator
//! over_s = 10            # a ramp instead of a step (numbers only)
//! for_s = 20             # then back to what it was before
//! times = 3              # all that once more, and once more,
//! every_s = 60           # counted from the start of the one before
//!
//! [[event]]
//! at_s = 40
//! set = "fan"
//! to = "failed"          # or "ok"
//!
//! [[event]]
//! at_s = 50
//! set = "sensor"
//! target = "zone:GPU-therm"   # zone:, rail:, domain: with a name of the board file or * for all, or battery
//! to = "enodata"         # missing, enodata, ebusy, eio, stuck, text:SOMETHING, a number, or ok
//!
//! [[event]]
//! at_s = 60
//! set = "actuator"
//! target = "gpu"         # a clock domain, memory (those of the memory controllers), or * for all
//! to = "refuse"          # ok, a number: the kHz that the upper bound never gets above, or "60%" of the highest
//!
//! [profile]              # for experiments: nothing of the board, but what the scheduler was told of it
//! error = 0.2            # latency and power of each profile are off by up to this share
//! ```

use super::fault::{ActuatorFault, Sensor, SensorFailure};
use super::spec::PlantSpec;
use crate::core::catalog::{DomainId, RailId, ZoneId};
use crate::units::{Kilohertz, Nanos};
use serde::Deserialize;

/// One disturbance.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Ambient temperature in degrees Celsius.
    AmbientC(f64),
    /// Whether the fan has failed.
    FanFailed(bool),
    /// Factor on the compute roof of every run: another program takes cycles.
    ContentionCompute(f64),
    /// Factor on the memory roof of every run: another program takes bandwidth.
    ContentionMemory(f64),
    /// Share of runs that are late beyond the usual noise.
    TailProbability(f64),
    /// Power drawn at the input by something else, such as a display, W.
    ExtraPowerW(f64),
    /// Power that a charger feeds in, W.
    ChargerW(f64),
    /// Factor on the time that a new clock takes.
    ActuationDelay(f64),
    /// A sensor fails, or works again (`None`).
    Sensor {
        /// Which.
        sensor: Sensor,
        /// How.
        failure: Option<SensorFailure>,
    },
    /// A domain's actuator fails, or works again (`None`).
    Actuator {
        /// Which.
        domain: DomainId,
        /// How.
        fault: Option<ActuatorFault>,
    },
}

/// What is wrong with a script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// Not TOML, or not of the right shape.
    #[error("{file}: {message}")]
    Toml {
        /// Name of the script.
        file: String,
        /// The parser's words.
        message: String,
    },
    /// An event that cannot be.
    #[error("{file}: event {index}: {key}: {problem}")]
    Event {
        /// Name of the script.
        file: String,
        /// Position of the event, from 1.
        index: usize,
        /// The key.
        key: &'static str,
        /// What was found there, and what would be right.
        problem: String,
    },
    /// Too long.
    #[error("{file}: {events} events; at most {max}")]
    TooLong {
        /// Name of the script.
        file: String,
        /// How many there are.
        events: usize,
        /// How many there may be.
        max: usize,
    },
}

/// A validated script: steps in ascending times, ramps and repetitions taken apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Script {
    steps: Vec<(Nanos, Change)>,
    profile_error: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScript {
    #[serde(default)]
    event: Vec<RawEvent>,
    #[serde(default)]
    profile: RawProfile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    error: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEvent {
    at_s: f64,
    set: String,
    #[serde(default)]
    target: Option<String>,
    to: toml::Value,
    #[serde(default)]
    over_s: f64,
    for_s: Option<f64>,
    times: Option<u32>,
    every_s: Option<f64>,
}

/// A numeric disturbance: how it is called, its bounds, its value at the start, and what it becomes.
struct Knob {
    name: &'static str,
    low: f64,
    high: f64,
    start: f64,
    change: fn(f64) -> Change,
}

impl Script {
    /// Most events in a script.
    pub const MAX_EVENTS: usize = 1000;
    /// Latest moment of an event, in seconds: ten years.
    pub const MAX_SECONDS: f64 = 3.2e8;
    /// Most repetitions of an event.
    pub const MAX_TIMES: u32 = 10_000;
    /// Most steps that all events make together.
    pub const MAX_STEPS: usize = 200_000;
    /// Steps of one ramp.
    const RAMP_STEPS: u32 = 50;

    /// Reads a script for a board. `file` is its name in messages.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what would be right.
    pub fn parse(text: &str, file: &str, spec: &PlantSpec) -> Result<Self, ScriptError> {
        let raw: RawScript = toml::from_str(text)
            .map_err(|e| ScriptError::Toml { file: file.to_owned(), message: e.to_string() })?;
        if raw.event.len() > Self::MAX_EVENTS {
            let (events, max) = (raw.event.len(), Self::MAX_EVENTS);
            return Err(ScriptError::TooLong { file: file.to_owned(), events, max });
        }
        let mut order: Vec<usize> = (0..raw.event.len()).collect();
        order.sort_by(|a, b| raw.event[*a].at_s.total_cmp(&raw.event[*b].at_s));
        let mut compiler = Compiler { file, spec, knobs: knobs(spec), steps: Vec::new() };
        for index in order {
            compiler.event(index + 1, &raw.event[index])?;
        }
        let error = raw.profile.error;
        if !(0.0..=0.9).contains(&error) {
            let message = format!("profile.error = {error}; wanted a share from 0 to 0.9");
            return Err(ScriptError::Toml { file: file.to_owned(), message });
        }
        Ok(Self { profile_error: error, ..Self::of(compiler.steps) })
    }

    /// A script made in the program; the times need not ascend.
    #[must_use]
    pub fn of(mut steps: Vec<(Nanos, Change)>) -> Self {
        // Stable: what is written later wins at the same moment.
        steps.sort_by_key(|(at, _)| *at);
        Self { steps, profile_error: 0.0 }
    }

    /// The same script, everything `by` later.
    #[must_use]
    pub fn later(mut self, by: Nanos) -> Self {
        self.steps.iter_mut().for_each(|(at, _)| *at = at.saturating_add(by));
        self
    }

    /// Largest relative error of the profiles that a scheduler is told in an experiment. The board knows
    /// nothing of it.
    #[must_use]
    pub const fn profile_error(&self) -> f64 {
        self.profile_error
    }

    /// The steps, in ascending times from the start.
    #[must_use]
    pub fn steps(&self) -> &[(Nanos, Change)] {
        &self.steps
    }
}

fn knobs(spec: &PlantSpec) -> Vec<Knob> {
    let knob = |name, low, high, start, change| Knob { name, low, high, start, change };
    vec![
        knob("ambient_c", -40.0, 85.0, spec.ambient_c, Change::AmbientC),
        knob("contention_compute", 1.0, 100.0, 1.0, Change::ContentionCompute),
        knob("contention_memory", 1.0, 100.0, 1.0, Change::ContentionMemory),
        knob("tail_probability", 0.0, 1.0, spec.noise.tail_probability, Change::TailProbability),
        knob("extra_power_w", 0.0, 1000.0, 0.0, Change::ExtraPowerW),
        knob("charger_w", 0.0, 1000.0, 0.0, Change::ChargerW),
        knob("actuation_delay", 0.0, 1000.0, 1.0, Change::ActuationDelay),
    ]
}

struct Compiler<'a> {
    file: &'a str,
    spec: &'a PlantSpec,
    knobs: Vec<Knob>,
    steps: Vec<(Nanos, Change)>,
}

impl Compiler<'_> {
    fn error(&self, index: usize, key: &'static str, problem: String) -> ScriptError {
        ScriptError::Event { file: self.file.to_owned(), index, key, problem }
    }

    fn event(&mut self, index: usize, raw: &RawEvent) -> Result<(), ScriptError> {
        let moments = self.moments(index, raw)?;
        if let Some(knob) = self.knobs.iter().position(|knob| knob.name == raw.set) {
            return self.ramp(index, raw, knob, &moments);
        }
        if raw.over_s > 0.0 {
            let problem = format!("`{}` cannot be ramped", raw.set);
            return Err(self.error(index, "over_s", problem));
        }
        let changes = self.changes(index, raw)?;
        let steps = moments.len().saturating_mul(changes.len()).saturating_mul(2);
        self.make_room(index, steps)?;
        for start in moments {
            for (begin, end) in &changes {
                self.steps.push((Nanos::from_secs_f64(start), begin.clone()));
                if let Some(lasting) = raw.for_s {
                    let Some(end) = end else {
                        let problem = format!("`{}` = {} has no end", raw.set, raw.to);
                        return Err(self.error(index, "for_s", problem));
                    };
                    self.steps.push((Nanos::from_secs_f64(start + lasting), end.clone()));
                }
            }
        }
        Ok(())
    }

    /// When the event begins, once or several times, in seconds.
    fn moments(&self, index: usize, raw: &RawEvent) -> Result<Vec<f64>, ScriptError> {
        let lasting = raw.for_s.unwrap_or(0.0);
        let every = raw.every_s.unwrap_or(0.0);
        for (key, value) in
            [("at_s", raw.at_s), ("over_s", raw.over_s), ("for_s", lasting), ("every_s", every)]
        {
            if !(0.0..=Script::MAX_SECONDS).contains(&value) {
                let problem = format!("{value}; wanted 0 to {:e} seconds", Script::MAX_SECONDS);
                return Err(self.error(index, key, problem));
            }
        }
        if raw.for_s.is_some_and(|lasting| lasting <= 0.0 || lasting < raw.over_s) {
            let problem = format!("{lasting}; wanted more than 0 and at least over_s ({})", raw.over_s);
            return Err(self.error(index, "for_s", problem));
        }
        let times = raw.times.unwrap_or(1);
        if !(1..=Script::MAX_TIMES).contains(&times) {
            let problem = format!("{times}; wanted 1 to {}", Script::MAX_TIMES);
            return Err(self.error(index, "times", problem));
        }
        if times > 1 && raw.for_s.is_none() {
            let problem = "missing; an event that repeats needs an end".to_owned();
            return Err(self.error(index, "for_s", problem));
        }
        let span = lasting + raw.over_s;
        if times > 1 && every <= span {
            let problem = format!("{every}; wanted more than for_s and over_s together ({span})");
            return Err(self.error(index, "every_s", problem));
        }
        Ok((0..times).map(|time| raw.at_s + every * f64::from(time)).collect())
    }

    fn make_room(&self, index: usize, steps: usize) -> Result<(), ScriptError> {
        if self.steps.len().saturating_add(steps) > Script::MAX_STEPS {
            let problem = format!("makes more than {} steps of the script", Script::MAX_STEPS);
            return Err(self.error(index, "times", problem));
        }
        Ok(())
    }

    /// What an event without a number changes, with what takes each back.
    fn changes(&self, index: usize, raw: &RawEvent) -> Result<Vec<(Change, Option<Change>)>, ScriptError> {
        Ok(match raw.set.as_str() {
            "fan" => match raw.to.as_str() {
                Some("failed") => vec![(Change::FanFailed(true), Some(Change::FanFailed(false)))],
                Some("ok") => vec![(Change::FanFailed(false), None)],
                _ => return Err(self.error(index, "to", format!("{}; wanted \"failed\" or \"ok\"", raw.to))),
            },
            "sensor" => {
                let failure = sensor_failure(&raw.to).map_err(|problem| self.error(index, "to", problem))?;
                let sensors = self.sensors(index, raw)?.into_iter();
                let works = |sensor| Change::Sensor { sensor, failure: None };
                let change = |sensor| {
                    let end = failure.is_some().then(|| works(sensor));
                    (Change::Sensor { sensor, failure: failure.clone() }, end)
                };
                sensors.map(change).collect()
            }
            "actuator" => {
                let domains = self.domains(index, raw)?.into_iter();
                let change = |domain| {
                    let fault = self.actuator(index, raw, domain)?;
                    let end = fault.is_some().then_some(Change::Actuator { domain, fault: None });
                    Ok((Change::Actuator { domain, fault }, end))
                };
                domains.map(change).collect::<Result<_, ScriptError>>()?
            }
            other => {
                let known: Vec<&str> = self.knobs.iter().map(|knob| knob.name).collect();
                let problem = format!("`{other}`; wanted {}, fan, sensor or actuator", known.join(", "));
                return Err(self.error(index, "set", problem));
            }
        })
    }

    fn ramp(
        &mut self,
        index: usize,
        raw: &RawEvent,
        knob: usize,
        moments: &[f64],
    ) -> Result<(), ScriptError> {
        let Knob { low, high, start, change, .. } = self.knobs[knob];
        let Some(to) = number(&raw.to).filter(|to| *to >= low && *to <= high) else {
            return Err(self.error(index, "to", format!("{}; wanted a number from {low} to {high}", raw.to)));
        };
        if raw.target.is_some() {
            return Err(self.error(index, "target", format!("`{}` has none", raw.set)));
        }
        let steps = if raw.over_s > 0.0 { Script::RAMP_STEPS } else { 1 };
        self.make_room(index, moments.len().saturating_mul(2 * steps as usize))?;
        let mut go = |at_s: f64, from: f64, to: f64| {
            for step in 1..=steps {
                let share = f64::from(step) / f64::from(steps);
                let at = Nanos::from_secs_f64(at_s + raw.over_s * share);
                self.steps.push((at, change(from + (to - from) * share)));
            }
        };
        for at_s in moments {
            go(*at_s, start, to);
            if let Some(lasting) = raw.for_s {
                go(at_s + lasting, to, start);
            }
        }
        if raw.for_s.is_none() {
            self.knobs[knob].start = to;
        }
        Ok(())
    }

    fn target<'r>(&self, index: usize, raw: &'r RawEvent) -> Result<&'r str, ScriptError> {
        raw.target
            .as_deref()
            .ok_or_else(|| self.error(index, "target", format!("missing; `{}` needs one", raw.set)))
    }

    fn sensors(&self, index: usize, raw: &RawEvent) -> Result<Vec<Sensor>, ScriptError> {
        let target = self.target(index, raw)?;
        if target == "battery" && self.spec.battery.is_some() {
            return Ok(vec![Sensor::Battery]);
        }
        let (kind, name) = target.split_once(':').unwrap_or(("", target));
        let spec = self.spec;
        let (names, sensor): (Vec<&str>, fn(usize) -> Sensor) = match kind {
            "zone" => (spec.zones.iter().map(|zone| zone.name.as_str()).collect(), |index| {
                Sensor::Zone(ZoneId::at(index))
            }),
            "rail" => (spec.sensors.iter().map(|rail| rail.name.as_str()).collect(), |index| {
                Sensor::Rail(RailId::at(index))
            }),
            "domain" => (spec.domains.iter().map(|domain| domain.name.as_str()).collect(), |index| {
                Sensor::Domain(DomainId::at(index))
            }),
            _ => (Vec::new(), |index| Sensor::Zone(ZoneId::at(index))),
        };
        if name == "*" && !kind.is_empty() {
            return Ok((0..names.len()).map(sensor).collect());
        }
        let found = names.iter().position(|known| *known == name).map(|index| vec![sensor(index)]);
        found.ok_or_else(|| {
            let zones = self.spec.zones.iter().map(|zone| format!("zone:{}", zone.name));
            let rails = self.spec.sensors.iter().map(|rail| format!("rail:{}", rail.name));
            let domains = self.spec.domains.iter().map(|domain| format!("domain:{}", domain.name));
            let known: Vec<String> = zones.chain(rails).chain(domains).collect();
            let battery = if self.spec.battery.is_some() { ", battery" } else { "" };
            let problem = format!("`{target}`; the board has {}{battery}", known.join(", "));
            self.error(index, "target", problem)
        })
    }

    fn domains(&self, index: usize, raw: &RawEvent) -> Result<Vec<DomainId>, ScriptError> {
        let target = self.target(index, raw)?;
        let all = || (0..self.spec.domains.len()).map(DomainId::at);
        let of_memory =
            |domain: &DomainId| self.spec.units.iter().any(|unit| unit.memory_domain == Some(*domain));
        match target {
            "*" => return Ok(all().collect()),
            "memory" => return Ok(all().filter(of_memory).collect()),
            _ => {}
        }
        self.spec.domain_named(target).map(|domain| vec![domain]).ok_or_else(|| {
            let known: Vec<&str> = self.spec.domains.iter().map(|domain| domain.name.as_str()).collect();
            let problem =
                format!("`{target}`; the board has {}; memory and * stand for several", known.join(", "));
            self.error(index, "target", problem)
        })
    }

    fn actuator(
        &self,
        index: usize,
        raw: &RawEvent,
        domain: DomainId,
    ) -> Result<Option<ActuatorFault>, ScriptError> {
        let share = raw.to.as_str().and_then(|word| word.strip_suffix('%')?.trim().parse::<f64>().ok());
        match (raw.to.as_str(), number(&raw.to)) {
            (Some("ok"), _) => Ok(None),
            (Some("refuse"), _) => Ok(Some(ActuatorFault::Refuse)),
            (None, Some(khz)) if khz > 0.0 && khz < 1e8 => {
                Ok(Some(ActuatorFault::Clamp(Kilohertz::from_f64(khz))))
            }
            _ => {
                if let Some(share) = share.filter(|share| *share > 0.0 && *share <= 100.0) {
                    let opps = &self.spec.domains[domain.index()].opps;
                    let highest = opps.last().copied().unwrap_or(Kilohertz::ZERO);
                    let clamp = Kilohertz::from_f64(highest.as_f64() * share / 100.0);
                    return Ok(Some(ActuatorFault::Clamp(clamp)));
                }
                let wanted = "wanted \"refuse\", \"ok\", a number of kHz or a share such as \"60%\"";
                Err(self.error(index, "to", format!("{}; {wanted}", raw.to)))
            }
        }
    }
}

fn number(value: &toml::Value) -> Option<f64> {
    match value {
        toml::Value::Integer(integer) => Some(*integer as f64),
        toml::Value::Float(float) => Some(*float),
        _ => None,
    }
}

fn sensor_failure(to: &toml::Value) -> Result<Option<SensorFailure>, String> {
    const LONGEST_TEXT: usize = 256;
    if let Some(value) = number(to) {
        if value.is_finite() && value.abs() < 1e12 {
            return Ok(Some(SensorFailure::Value(value)));
        }
        return Err(format!("{to}; wanted a number below 1e12"));
    }
    match to.as_str() {
        Some("ok") => Ok(None),
        Some("missing") => Ok(Some(SensorFailure::Missing)),
        Some("enodata") => Ok(Some(SensorFailure::NoData)),
        Some("ebusy") => Ok(Some(SensorFailure::Busy)),
        Some("eio") => Ok(Some(SensorFailure::Io)),
        Some("stuck") => Ok(Some(SensorFailure::Stuck)),
        Some(word) => match word.strip_prefix("text:") {
            Some(text) if text.len() <= LONGEST_TEXT => Ok(Some(SensorFailure::Text(text.to_owned()))),
            _ => Err(format!("{to}; wanted missing, enodata, ebusy, eio, stuck, text:..., a number or ok")),
        },
        None => Err(format!("{to}; wanted a word or a number")),
    }
}
