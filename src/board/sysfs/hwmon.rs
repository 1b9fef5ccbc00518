//! Power rails behind hwmon, read only: nothing in this crate ever writes to a hwmon node, since the
//! limits of an INA3221 (`curr*_max`, `curr*_crit`) protect the board.
//!
//! Chips are found by `name`, channels by label. An INA3221 has millivolts and milliamperes per
//! channel and no power; other chips have `powerN_input` in µW or `energyN_input` in µJ.

use super::gate::Gate;
use super::powercap::EnergyRate;
use super::root::{Attribute, Limits, Page, SysfsError, SysfsRoot, plausible_power};
use crate::time::Timestamp;
use crate::units::Microwatts;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

const CLASS: &str = "class/hwmon";
/// Channels of one chip that are looked at.
const MAX_CHANNEL: u32 = 32;

/// Channels of a chip that may be rails. What an INA3221 shows beyond its three are the voltages of their shunts, and
/// sums, under numbers that fit each other by chance.
fn channels(chip: &str) -> RangeInclusive<u32> {
    if chip == "ina3221" { 1..=3 } else { 0..=MAX_CHANNEL }
}

/// A rail of a chip that is not woken for it.
#[derive(Debug)]
pub(crate) struct HwmonRail {
    gate: Gate,
    meter: Meter,
}

/// How a rail's power is had.
#[derive(Debug)]
enum Meter {
    /// mV times mA.
    Product {
        /// `inN_input`.
        millivolts: Attribute,
        /// `currN_input`.
        milliamperes: Attribute,
    },
    /// `powerN_input` or `powerN_average` in µW.
    Power(Attribute),
    /// `energyN_input` in µJ, differentiated.
    Energy(EnergyRate),
}

impl HwmonRail {
    /// The channel labelled `label` on a chip called `chip`. An unlabelled channel goes by its own name
    /// (`power1`, `energy2`).
    pub(crate) fn find(root: &SysfsRoot, chip: &str, label: &str) -> Result<Self, String> {
        let chips = chips(root, chip);
        for directory in &chips {
            if let Some(meter) = channel(root, directory, label, channels(chip)) {
                return Ok(Self { gate: Gate::find(root, directory.join("device")), meter });
            }
        }
        let class = root.path(CLASS);
        Err(if chips.is_empty() {
            format!("no hwmon device named {chip:?} under {}", class.display())
        } else {
            let labels: Vec<String> = chips.iter().flat_map(|chip| labels(root, chip)).collect();
            let there = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
            format!("no power channel {label:?} on {chip} under {}: there are {there}", class.display())
        })
    }

    /// The power now.
    pub(crate) fn sample(&mut self, now: Timestamp, buffer: &mut Page) -> Result<Microwatts, SysfsError> {
        self.gate.awake(buffer)?;
        match &mut self.meter {
            Meter::Product { millivolts, milliamperes } => {
                let mv = millivolts.number(buffer)?;
                let ma = milliamperes.number(buffer)?;
                plausible_power(mv.saturating_mul(ma), milliamperes.path())
            }
            Meter::Power(attribute) => {
                let microwatts = attribute.within(&Limits::POWER, buffer)?;
                Ok(Microwatts(microwatts))
            }
            Meter::Energy(rate) => rate.sample(now, buffer),
        }
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        match &self.meter {
            Meter::Product { milliamperes, .. } => milliamperes.path(),
            Meter::Power(attribute) => attribute.path(),
            Meter::Energy(rate) => rate.source(),
        }
    }
}

/// A channel with power, as [`HwmonRail::find`] takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Channel {
    /// `name` of the chip.
    pub(crate) chip: String,
    /// Label of the channel, or its own name.
    pub(crate) label: String,
}

/// Every channel with power of every chip, but for those of batteries and mains adapters, which show the
/// same once more.
pub(crate) fn all(root: &SysfsRoot) -> Vec<Channel> {
    let mut found = Vec::new();
    for entry in root.list(CLASS) {
        let directory = Path::new(CLASS).join(entry);
        let Ok(chip) = root.read(directory.join("name")) else { continue };
        let supply = root.exists(directory.join("device/online"))
            || root.read(directory.join("device/type")).is_ok_and(|kind| kind == "Battery");
        if chip.is_empty() || supply {
            continue;
        }
        let nodes: BTreeSet<String> = root.list(&directory).into_iter().collect();
        let labels = channels(&chip).filter_map(|n| label_of(root, &directory, &nodes, &chip, n));
        let rails = labels.filter(|label| !is_no_rail(label));
        found.extend(rails.map(|label| Channel { chip: chip.clone(), label }));
    }
    found
}

/// What a channel with power is called.
fn label_of(
    root: &SysfsRoot,
    directory: &Path,
    nodes: &BTreeSet<String>,
    chip: &str,
    n: u32,
) -> Option<String> {
    let has = |kind: &str, node: &str| nodes.contains(&format!("{kind}{n}_{node}"));
    let label = |kind: &str| {
        let node = directory.join(format!("{kind}{n}_label"));
        has(kind, "label").then(|| root.read(node).ok()).flatten().filter(|label| !label.is_empty())
    };
    if has("power", "input") || has("power", "average") {
        let given = label("power").or_else(|| label("in")).or_else(|| label("curr"));
        return Some(given.unwrap_or_else(|| format!("power{n}")));
    }
    if has("in", "input") && has("curr", "input") {
        // Without a label, a voltage and a current of one number belong together on power monitors only; a channel that
        // is switched off, too, is not connected.
        let off = root.read(directory.join(format!("in{n}_enable"))).is_ok_and(|state| state == "0");
        let given = label("in").or_else(|| label("curr"));
        return given.or_else(|| (chip.starts_with("ina") && !off).then(|| format!("in{n}")));
    }
    has("energy", "input").then(|| label("energy").unwrap_or_else(|| format!("energy{n}")))
}

/// Directories of all chips of a name.
pub(crate) fn chips(root: &SysfsRoot, chip: &str) -> Vec<PathBuf> {
    root.list(CLASS)
        .into_iter()
        .map(|entry| Path::new(CLASS).join(entry))
        .filter(|directory| root.read(directory.join("name")).is_ok_and(|name| name == chip))
        .collect()
}

fn channel(root: &SysfsRoot, chip: &Path, label: &str, channels: RangeInclusive<u32>) -> Option<Meter> {
    let node = |name: String| {
        let path = chip.join(name);
        root.exists(&path).then(|| root.attribute(path))
    };
    let labelled = |kind: &str, n: u32| match root.read(chip.join(format!("{kind}{n}_label"))) {
        Ok(text) => text == label && !is_no_rail(&text),
        Err(_) => format!("{kind}{n}") == label,
    };
    let power = |n: u32| {
        let input = node(format!("power{n}_input")).or_else(|| node(format!("power{n}_average")));
        input.map(Meter::Power)
    };
    let product = |n: u32| {
        let millivolts = node(format!("in{n}_input"))?;
        let milliamperes = node(format!("curr{n}_input"))?;
        Some(Meter::Product { millivolts, milliamperes })
    };
    let energy = |n: u32| {
        let counter = node(format!("energy{n}_input"))?;
        Some(Meter::Energy(EnergyRate::new(counter, None)))
    };
    for n in channels {
        let found = if labelled("power", n) {
            power(n)
        } else if labelled("in", n) || labelled("curr", n) {
            power(n).or_else(|| product(n))
        } else if labelled("energy", n) {
            energy(n)
        } else {
            None
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Unconnected channels, and the INA3221's sum of shunt voltages, which is no rail.
pub(crate) fn is_no_rail(label: &str) -> bool {
    label == "NC" || label.starts_with("sum of ")
}

fn labels(root: &SysfsRoot, chip: &Path) -> Vec<String> {
    root.list(chip)
        .into_iter()
        .filter(|name| name.ends_with("_label"))
        .filter_map(|name| root.read(chip.join(name)).ok())
        .filter(|label| !is_no_rail(label))
        .collect()
}
