//! Thermal zones, power rails and batteries.

use super::{Notes, shown};
use crate::board::check::{MAX_ENTRIES, is_name};
use crate::board::spec::{RailInterface, RailSpec};
use crate::board::sysfs::battery::{BatterySensor, batteries};
use crate::board::sysfs::powercap::EnergyRate;
use crate::board::sysfs::probes::RailSensor;
use crate::board::sysfs::root::{SysfsError, SysfsRoot, page};
use crate::board::sysfs::thermal::{self, ThermalSensor, Trips};
use crate::board::sysfs::{hwmon, iio};
use crate::core::event::SensorFault;
use crate::time::Timestamp;
use crate::units::{Microjoules, MilliCelsius};
use serde::Serialize;

/// Labels of rails that carry the input power of the whole board.
const INPUTS: [&str; 5] = ["VDD_IN", "VIN", "POM_5V_IN", "VDD_5V_IN", "psys"];

/// A thermal zone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundZone {
    /// Its `type`.
    pub name: String,
    /// How many zones have it.
    pub nodes: usize,
    /// The temperature now, in degrees Celsius.
    pub c: Option<f64>,
    /// Where the kernel begins to throttle.
    pub passive_c: Option<f64>,
    /// Where it takes harder measures.
    pub hot_c: Option<f64>,
    /// Where it shuts down.
    pub critical_c: Option<f64>,
    /// Why there is no temperature.
    pub problem: Option<String>,
}

/// A power rail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundRail {
    /// Label of the channel, or name of the powercap zone.
    pub name: String,
    /// Kernel interface.
    pub interface: RailInterface,
    /// `name` of the chip; empty for powercap.
    pub chip: String,
    /// The power now in watts; a counter has none on first sight.
    pub watts: Option<f64>,
    /// Whether its label says that it carries the whole board's input power.
    pub input: bool,
    /// The rail that counts it in.
    pub part_of: Option<String>,
    /// Why there is no power.
    pub problem: Option<String>,
    /// Whether the trouble, if any, is only that this user may not read it.
    pub usable: bool,
}

/// The machine's batteries together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundBattery {
    /// Their names.
    pub names: Vec<String>,
    /// What they hold when full, in watt-hours.
    pub full_wh: Option<f64>,
    /// What they hold now.
    pub left_wh: Option<f64>,
    /// What is drawn from them, in watts; negative while they charge.
    pub draw_w: Option<f64>,
    /// Why these are not known.
    pub problem: Option<String>,
}

fn celsius(value: MilliCelsius) -> f64 {
    f64::from(value.0) / 1e3
}

/// All zones by `type`, in the order of their numbers.
pub(super) fn zones(root: &SysfsRoot, notes: &mut Notes) -> Vec<FoundZone> {
    let mut found: Vec<(FoundZone, Trips)> = Vec::new();
    for (directory, kind) in thermal::all(root) {
        let Some(name) = notes.keep(kind) else { continue };
        if !is_name(&name) {
            notes.add(format!(
                "{} reads {name:?}: expected a name",
                root.path(directory.join("type")).display()
            ));
            continue;
        }
        let trips = thermal::trips(root, &directory);
        if let Some((zone, lowest)) = found.iter_mut().find(|(zone, _)| zone.name == name) {
            let least = |a: Option<MilliCelsius>, b: Option<MilliCelsius>| a.into_iter().chain(b).min();
            lowest.passive = least(lowest.passive, trips.passive);
            lowest.hot = least(lowest.hot, trips.hot);
            lowest.critical = least(lowest.critical, trips.critical);
            zone.nodes += 1;
        } else if found.len() < MAX_ENTRIES {
            let (c, problem) = temperature(root, &name);
            let zone =
                FoundZone { name, nodes: 1, c, passive_c: None, hot_c: None, critical_c: None, problem };
            found.push((zone, trips));
        }
    }
    let with_trips = |(zone, trips): (FoundZone, Trips)| FoundZone {
        passive_c: trips.passive.map(celsius),
        hot_c: trips.hot.map(celsius),
        critical_c: trips.critical.map(celsius),
        ..zone
    };
    found.into_iter().map(with_trips).collect()
}

fn temperature(root: &SysfsRoot, name: &str) -> (Option<f64>, Option<String>) {
    match ThermalSensor::find(root, name).map(|mut sensor| sensor.sample(&mut page())) {
        Ok(Ok(value)) => (Some(celsius(value)), None),
        Ok(Err(error)) => (None, Some(shown(&error.to_string()))),
        Err(why) => (None, Some(shown(&why))),
    }
}

/// All rails: hwmon, iio, then powercap. Of several with one name only the first can be named in a board file.
pub(super) fn rails(root: &SysfsRoot) -> Vec<FoundRail> {
    let hwmon = hwmon::all(root).into_iter();
    let hwmon = hwmon.map(|channel| (RailInterface::Hwmon, channel.chip, channel.label, None));
    let iio = iio::all(root).into_iter();
    let iio = iio.map(|channel| (RailInterface::Iio, channel.chip, channel.label, None));
    let powercap = EnergyRate::all(root).into_iter();
    let powercap = powercap.map(|(name, whole)| (RailInterface::Powercap, String::new(), name, whole));
    let mut found: Vec<FoundRail> = Vec::new();
    for (interface, chip, name, part_of) in hwmon.chain(iio).chain(powercap) {
        let known = found.iter().any(|rail| rail.name == name);
        if !known && is_name(&name) && found.len() < MAX_ENTRIES {
            found.push(rail(root, interface, chip, name, part_of));
        }
    }
    found
}

fn rail(
    root: &SysfsRoot,
    interface: RailInterface,
    chip: String,
    name: String,
    part_of: Option<String>,
) -> FoundRail {
    let input = INPUTS.contains(&name.as_str());
    let spec = RailSpec { name, interface, chip, input };
    let reading = RailSensor::find(root, &spec).map(|mut sensor| sensor.sample(Timestamp(0), &mut page()));
    let (watts, problem, usable) = match reading {
        Ok(Ok(power)) => (Some(power.as_watts()), None, true),
        Ok(Err(SysfsError::NotYet { .. })) => (None, None, true),
        Ok(Err(error)) => (None, Some(error.to_string()), error.fault() == SensorFault::Denied),
        Err(why) => (None, Some(why), false),
    };
    let RailSpec { name, interface, chip, input } = spec;
    let problem = problem.map(|text| shown(&text));
    FoundRail { name, interface, chip, watts, input, part_of, problem, usable }
}

/// The batteries together; `None` if there are none.
pub(super) fn battery(root: &SysfsRoot) -> Option<FoundBattery> {
    let names: Vec<String> = batteries(root).iter().take(MAX_ENTRIES).map(|name| shown(name)).collect();
    if names.is_empty() {
        return None;
    }
    let wh = |energy: Microjoules| Some(energy.0 as f64 / 3.6e9);
    let reading = BatterySensor::find(root).map(|mut sensor| sensor.sample(&mut page()));
    let (state, problem) = match reading {
        Ok(Ok(state)) => (Some(state), None),
        Ok(Err(error)) => (None, Some(shown(&error.to_string()))),
        Err(why) => (None, Some(shown(&why))),
    };
    Some(FoundBattery {
        names,
        full_wh: state.and_then(|state| wh(state.full)),
        left_wh: state.and_then(|state| wh(state.remaining)),
        draw_w: state.map(|state| state.draw.as_watts()),
        problem,
    })
}
