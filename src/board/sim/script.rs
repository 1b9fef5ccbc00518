//! Disturbance scripts: what happens to a simulated board, and when.
//!
//! ```toml
//! [[event]]
//! at_s = 30              # seconds from the start of the script
//! set = "ambient_c"      # ambient_c, fan, contention_compute, contention_memory, tail_probability,
//! to = 45                # extra_power_w, charger_w, actuation_delay, sensor, actuator
//! over_s = 10            # a ramp instead of a step (numbers only)
//!
//! [[event]]
//! at_s = 40
//! set = "fan"
//! to = "failed"          # or "ok"
//!
//! [[event]]
//! at_s = 50
//! set = "sensor"
//! target = "zone:GPU-therm"   # zone:, rail:, domain: with a name of the board file, or battery
//! to = "enodata"         # missing, enodata, ebusy, eio, stuck, text:SOMETHING, a number, or ok
//!
//! [[event]]
//! at_s = 60
//! set = "actuator"
//! target = "gpu"         # a clock domain
//! to = "refuse"          # ok, or a number: the kHz that the upper bound never gets above
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

/// A validated script: steps in ascending times, ramps taken apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Script {
    steps: Vec<(Nanos, Change)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScript {
    #[serde(default)]
    event: Vec<RawEvent>,
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
        let mut steps = compiler.steps;
        // Stable: what is written later wins at the same moment.
        steps.sort_by_key(|(at, _)| *at);
        Ok(Self { steps })
    }

    /// A script made in the program; the times need not ascend.
    #[must_use]
    pub fn of(mut steps: Vec<(Nanos, Change)>) -> Self {
        steps.sort_by_key(|(at, _)| *at);
        Self { steps }
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
        for (key, value) in [("at_s", raw.at_s), ("over_s", raw.over_s)] {
            if !(0.0..=Script::MAX_SECONDS).contains(&value) {
                let problem = format!("{value}; wanted 0 to {:e} seconds", Script::MAX_SECONDS);
                return Err(self.error(index, key, problem));
            }
        }
        if let Some(knob) = self.knobs.iter().position(|knob| knob.name == raw.set) {
            return self.ramp(index, raw, knob);
        }
        if raw.over_s > 0.0 {
            let problem = format!("`{}` cannot be ramped", raw.set);
            return Err(self.error(index, "over_s", problem));
        }
        let change = match raw.set.as_str() {
            "fan" => match raw.to.as_str() {
                Some("failed") => Change::FanFailed(true),
                Some("ok") => Change::FanFailed(false),
                _ => return Err(self.error(index, "to", format!("{}; wanted \"failed\" or \"ok\"", raw.to))),
            },
            "sensor" => Change::Sensor {
                sensor: self.sensor(index, raw)?,
                failure: sensor_failure(&raw.to).map_err(|problem| self.error(index, "to", problem))?,
            },
            "actuator" => {
                Change::Actuator { domain: self.domain(index, raw)?, fault: self.actuator(index, raw)? }
            }
            other => {
                let known: Vec<&str> = self.knobs.iter().map(|knob| knob.name).collect();
                let problem = format!("`{other}`; wanted {}, fan, sensor or actuator", known.join(", "));
                return Err(self.error(index, "set", problem));
            }
        };
        self.steps.push((Nanos::from_secs_f64(raw.at_s), change));
        Ok(())
    }

    fn ramp(&mut self, index: usize, raw: &RawEvent, knob: usize) -> Result<(), ScriptError> {
        let Knob { low, high, start, change, .. } = self.knobs[knob];
        let Some(to) = number(&raw.to).filter(|to| *to >= low && *to <= high) else {
            return Err(self.error(index, "to", format!("{}; wanted a number from {low} to {high}", raw.to)));
        };
        let steps = if raw.over_s > 0.0 { Script::RAMP_STEPS } else { 1 };
        for step in 1..=steps {
            let share = f64::from(step) / f64::from(steps);
            let at = Nanos::from_secs_f64(raw.at_s + raw.over_s * share);
            self.steps.push((at, change(start + (to - start) * share)));
        }
        self.knobs[knob].start = to;
        Ok(())
    }

    fn target<'r>(&self, index: usize, raw: &'r RawEvent) -> Result<&'r str, ScriptError> {
        raw.target
            .as_deref()
            .ok_or_else(|| self.error(index, "target", format!("missing; `{}` needs one", raw.set)))
    }

    fn sensor(&self, index: usize, raw: &RawEvent) -> Result<Sensor, ScriptError> {
        let target = self.target(index, raw)?;
        if target == "battery" && self.spec.battery.is_some() {
            return Ok(Sensor::Battery);
        }
        let (kind, name) = target.split_once(':').unwrap_or(("", target));
        let found = match kind {
            "zone" => {
                let zone = self.spec.zones.iter().position(|zone| zone.name == name);
                zone.map(|index| Sensor::Zone(ZoneId::at(index)))
            }
            "rail" => {
                let rail = self.spec.sensors.iter().position(|rail| rail.name == name);
                rail.map(|index| Sensor::Rail(RailId::at(index)))
            }
            "domain" => self.spec.domain_named(name).map(Sensor::Domain),
            _ => None,
        };
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

    fn domain(&self, index: usize, raw: &RawEvent) -> Result<DomainId, ScriptError> {
        let target = self.target(index, raw)?;
        self.spec.domain_named(target).ok_or_else(|| {
            let known: Vec<&str> = self.spec.domains.iter().map(|domain| domain.name.as_str()).collect();
            self.error(index, "target", format!("`{target}`; the board has {}", known.join(", ")))
        })
    }

    fn actuator(&self, index: usize, raw: &RawEvent) -> Result<Option<ActuatorFault>, ScriptError> {
        match (raw.to.as_str(), number(&raw.to)) {
            (Some("ok"), _) => Ok(None),
            (Some("refuse"), _) => Ok(Some(ActuatorFault::Refuse)),
            (None, Some(khz)) if khz > 0.0 && khz < 1e8 => {
                Ok(Some(ActuatorFault::Clamp(Kilohertz::from_f64(khz))))
            }
            _ => {
                let problem = format!("{}; wanted \"refuse\", \"ok\" or a number of kHz", raw.to);
                Err(self.error(index, "to", problem))
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
