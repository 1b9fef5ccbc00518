//! Power rails of JetPack 4: its INA3221 driver speaks industrial I/O, `bus/iio/devices/iio:device*`. Read only,
//! as hwmon: the driver's limits protect the board.

use super::gate::Gate;
use super::hwmon::{Channel, is_no_rail};
use super::root::{Attribute, Page, SysfsError, SysfsRoot, plausible_power};
use crate::units::Microwatts;
use std::path::{Path, PathBuf};

const CLASS: &str = "bus/iio/devices";
/// Channels of one chip that are looked at.
const MAX_CHANNEL: u32 = 8;

/// A rail in mV and mA.
#[derive(Debug)]
pub(crate) struct IioRail {
    gate: Gate,
    millivolts: Attribute,
    milliamperes: Attribute,
}

impl IioRail {
    /// The channel whose `rail_name_N` is `label` on a device whose `name` is `chip`.
    pub(crate) fn find(root: &SysfsRoot, chip: &str, label: &str) -> Result<Self, String> {
        let mut there = Vec::new();
        for (directory, channel, n) in channels(root) {
            if channel.chip == chip && channel.label == label {
                let millivolts = root.attribute(directory.join(format!("in_voltage{n}_input")));
                let milliamperes = root.attribute(directory.join(format!("in_current{n}_input")));
                // The iio device hangs below the chip's.
                let gate = Gate::find(root, directory.join(".."));
                return Ok(Self { gate, millivolts, milliamperes });
            }
            there.push(format!("{} of {}", channel.label, channel.chip));
        }
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        let class = root.path(CLASS);
        Err(format!(
            "no rail {label:?} of a device named {chip:?} under {}: there are {there}",
            class.display()
        ))
    }

    /// The power now.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<Microwatts, SysfsError> {
        self.gate.awake(buffer)?;
        let mv = self.millivolts.number(buffer)?;
        let ma = self.milliamperes.number(buffer)?;
        plausible_power(mv.saturating_mul(ma), self.milliamperes.path())
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.milliamperes.path()
    }
}

/// Every rail.
pub(crate) fn all(root: &SysfsRoot) -> Vec<Channel> {
    channels(root).into_iter().map(|(_, channel, _)| channel).collect()
}

fn channels(root: &SysfsRoot) -> Vec<(PathBuf, Channel, u32)> {
    let mut found = Vec::new();
    for entry in root.list(CLASS) {
        let directory = Path::new(CLASS).join(entry);
        let Ok(chip) = root.read(directory.join("name")) else { continue };
        for n in 0..MAX_CHANNEL {
            let Ok(label) = root.read(directory.join(format!("rail_name_{n}"))) else { break };
            if !label.is_empty() && !is_no_rail(&label) {
                found.push((directory.clone(), Channel { chip: chip.clone(), label }, n));
            }
        }
    }
    found
}
