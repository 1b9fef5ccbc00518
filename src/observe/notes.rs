//! From the core's events and effects to log lines: what an operator would want to read, once per change.

use super::labels::Names;
use crate::core::event::{Applied, Effect, Event, Note, Outcome, Readings, SensorFault};
use crate::core::thermal::Regime;
use std::borrow::Cow;
use std::collections::HashSet;
use tracing::{debug, error, info, trace, warn};

/// Sensors that may follow the zones, rails and domains of [`faults`].
const OTHERS: [&str; 3] = ["battery", "memory", "pressure"];

/// Remembers what was said, so that a sensor that is gone is reported once and not with every sweep.
#[derive(Debug, Default)]
pub(super) struct Notes {
    failing: HashSet<usize>,
    refusing: HashSet<usize>,
}

/// Failed readings, each with its place: zones first, then rails, domains, battery, memory, pressure.
pub(super) fn faults(readings: &Readings) -> impl Iterator<Item = (usize, SensorFault)> {
    let zones = readings.zones.iter().map(|reading| reading.err());
    let rails = readings.rails.iter().map(|reading| reading.err());
    let domains = readings.domains.iter().map(|reading| reading.err());
    let battery = readings.battery.as_ref().and_then(|reading| reading.err());
    let pressure = readings.pressure.as_ref().and_then(|reading| reading.err());
    let others = [battery, readings.memory.err(), pressure];
    let all = zones.chain(rails).chain(domains).chain(others);
    all.enumerate().filter_map(|(place, fault)| Some((place, fault?)))
}

/// Name of the sensor at a place of [`faults`].
pub(super) fn sensor_name<'n>(names: &'n Names, readings: &Readings, place: usize) -> Cow<'n, str> {
    let (zones, rails) = (readings.zones.len(), readings.rails.len());
    let domains = readings.domains.len();
    if place < zones {
        format!("zone:{}", names.zone(place)).into()
    } else if place < zones + rails {
        format!("rail:{}", names.rail(place - zones)).into()
    } else if place < zones + rails + domains {
        format!("domain:{}", names.domain(place - zones - rails)).into()
    } else {
        OTHERS.get(place - zones - rails - domains).copied().unwrap_or("unknown").into()
    }
}

impl Notes {
    pub(super) fn event(&mut self, names: &Names, event: &Event) {
        match event {
            Event::Sampled(readings) => self.sampled(names, readings),
            Event::Loaded { variant, unit, footprint } => {
                let [model, variant, unit] = names.run(*variant, *unit);
                info!(model, variant, unit, footprint_bytes = footprint.0, "variant loaded");
            }
            Event::LoadFailed { variant, unit } => {
                let [model, variant, unit] = names.run(*variant, *unit);
                error!(model, variant, unit, "variant could not be loaded");
            }
            Event::Unloaded { variant, unit } => {
                let [model, variant, unit] = names.run(*variant, *unit);
                info!(model, variant, unit, "variant unloaded");
            }
            Event::Applied(report) => {
                for (place, applied) in report.domains.iter().enumerate() {
                    match applied {
                        Some(Applied::Refused(fault)) if self.refusing.insert(place) => {
                            warn!(domain = names.domain(place), ?fault, "clock bounds could not be set");
                        }
                        Some(Applied::Bounds(_)) if self.refusing.remove(&place) => {
                            info!(domain = names.domain(place), "clock bounds can be set again");
                        }
                        _ => {}
                    }
                }
            }
            Event::Profiled { variant, unit, profile: None } => {
                let [model, variant, unit] = names.run(*variant, *unit);
                warn!(model, variant, unit, "variant found unfit for this unit: it will not run there");
            }
            Event::Profiled { variant, unit, profile: Some(profile) } => {
                let [model, variant, unit] = names.run(*variant, *unit);
                info!(model, variant, unit, ?profile.latency, "variant profiled");
            }
            Event::Retain { model, resident } => {
                info!(model = names.model(model.index()), resident, "residency ordered");
            }
            Event::Completed(completion) => {
                if let Err(failure) = &completion.result {
                    debug!(batch = completion.batch.0, ?failure, "batch gave no output");
                }
            }
            Event::Restored(learned) => {
                info!(variants = learned.pairs.len(), "what was learned before is taken over");
            }
            Event::Reconfigured(_) => info!("budgets and classes replaced"),
            Event::Drain => info!("draining: no new requests"),
            Event::Submit(_)
            | Event::Cancel(_)
            | Event::Hold { .. }
            | Event::Probing(_)
            | Event::Extended(_)
            | Event::Rollout(_)
            | Event::Wake => {}
        }
    }

    fn sampled(&mut self, names: &Names, readings: &Readings) {
        let now: HashSet<usize> = faults(readings).map(|(place, _)| place).collect();
        if now.is_empty() && self.failing.is_empty() {
            return;
        }
        for (place, fault) in faults(readings).filter(|(place, _)| !self.failing.contains(place)) {
            warn!(sensor = %sensor_name(names, readings, place), ?fault, "sensor gives no reading");
        }
        for place in self.failing.difference(&now) {
            info!(sensor = %sensor_name(names, readings, *place), "sensor reads again");
        }
        self.failing = now;
    }

    pub(super) fn effect(&mut self, names: &Names, effect: &Effect) {
        match effect {
            Effect::Reply { request, outcome: Outcome::Rejected { reason, retry_after } } => {
                let retry_after_us = retry_after.map(crate::units::Nanos::as_micros);
                debug!(request = request.0, reason = reason.name(), retry_after_us, "request rejected");
            }
            Effect::Note(Note::Regime(transition)) => {
                let zone = transition.zone.map(|zone| names.zone(zone.index()));
                let temperature_c = transition.temperature.map(crate::units::MilliCelsius::as_celsius);
                let age_ms = transition.age.as_micros() / 1_000;
                let (from, to) = (transition.from, transition.to);
                match to {
                    Regime::Critical => {
                        error!(?from, ?to, zone, temperature_c, age_ms, "thermal regime changed");
                    }
                    Regime::Throttled | Regime::Uncontrollable => {
                        warn!(?from, ?to, zone, temperature_c, age_ms, "thermal regime changed");
                    }
                    Regime::Boot | Regime::Nominal => {
                        info!(?from, ?to, zone, temperature_c, age_ms, "thermal regime changed");
                    }
                }
            }
            Effect::Note(Note::Controllable { domain, yes: true }) => {
                info!(domain = names.domain(domain.index()), "clock follows again");
            }
            Effect::Note(Note::Controllable { domain, yes: false }) => {
                warn!(domain = names.domain(domain.index()), "clock does not follow what is set");
            }
            Effect::Note(Note::Quarantined { variant, unit }) => {
                let [model, variant, unit] = names.run(*variant, *unit);
                warn!(model, variant, unit, "variant will not be loaded here for a while");
            }
            Effect::Note(Note::Rollout(step)) => {
                let (model, version) = names.versioned(step.version.index());
                let stage = step.stage.name();
                match step.cause {
                    None => info!(model, version, stage, "new version moves on"),
                    Some(cause) => warn!(model, version, stage, %cause, "new version taken back"),
                }
            }
            Effect::Note(Note::GaveWay { variant, unit, request }) => {
                let [model, variant, unit] = names.run(*variant, *unit);
                debug!(model, variant, unit, request = request.0, "run gives way");
            }
            Effect::Note(Note::Decision(explanation)) => trace!(?explanation, "decision"),
            Effect::Dispatch(dispatch) => trace!(?dispatch, "dispatch"),
            Effect::Set(setpoints) => debug!(?setpoints, "clock bounds"),
            Effect::Load { variant, unit } => {
                let [model, variant, unit] = names.run(*variant, *unit);
                debug!(model, variant, unit, "load ordered");
            }
            Effect::Unload { variant, unit } => {
                let [model, variant, unit] = names.run(*variant, *unit);
                debug!(model, variant, unit, "unload ordered");
            }
            Effect::Reply { .. } | Effect::Abort(_) => {}
        }
    }
}
