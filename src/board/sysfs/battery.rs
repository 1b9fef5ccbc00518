//! Batteries: `class/power_supply/*` of type Battery, summed.
//!
//! The sign of `current_now` means different things to different drivers and `power_now` has none on
//! ACPI, so the magnitude is taken and `status` says which way it flows.

use super::root::{Attribute, Limits, Page, SysfsError, SysfsRoot, garbled, plausible_power};
use crate::core::event::BatteryState;
use crate::units::{Microjoules, Microwatts};
use std::path::Path;

const CLASS: &str = "class/power_supply";
/// 1 µWh is 3600 µJ.
const MICROJOULES_PER_MICROWATT_HOUR: i64 = 3_600;

/// All batteries that feed the machine.
#[derive(Debug)]
pub(crate) struct BatterySensor {
    packs: Vec<Pack>,
}

#[derive(Debug)]
struct Pack {
    status: Attribute,
    capacity: Capacity,
    power: Power,
}

#[derive(Debug)]
enum Capacity {
    /// `energy_now`, `energy_full` in µWh.
    Energy { now: Attribute, full: Attribute },
    /// `charge_now`, `charge_full` in µAh, with a nominal voltage in µV.
    Charge { now: Attribute, full: Attribute, voltage: Attribute },
}

#[derive(Debug)]
enum Power {
    /// `power_now` in µW.
    Direct(Attribute),
    /// `current_now` in µA and `voltage_now` in µV.
    Product { current: Attribute, voltage: Attribute },
}

impl BatterySensor {
    /// The machine's batteries; those of peripherals (`scope` Device) are left out.
    pub(crate) fn find(root: &SysfsRoot) -> Result<Self, String> {
        let packs: Vec<Pack> = batteries(root)
            .into_iter()
            .filter_map(|supply| Pack::find(root, &Path::new(CLASS).join(supply)))
            .collect();
        if packs.is_empty() {
            return Err(format!("no battery with energy or charge under {}", root.path(CLASS).display()));
        }
        Ok(Self { packs })
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.packs.first().map_or(Path::new(CLASS), |pack| pack.status.path())
    }

    /// The sum over all packs; a pack that cannot be read makes the sum unknown.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<BatteryState, SysfsError> {
        let mut sum =
            BatteryState { remaining: Microjoules::ZERO, full: Microjoules::ZERO, draw: Microwatts::ZERO };
        for pack in &mut self.packs {
            let state = pack.sample(buffer)?;
            sum.remaining = sum.remaining.saturating_add(state.remaining);
            sum.full = sum.full.saturating_add(state.full);
            sum.draw = sum.draw.saturating_add(state.draw);
        }
        Ok(sum)
    }
}

/// Names of the machine's batteries, whether or not they say enough.
pub(crate) fn batteries(root: &SysfsRoot) -> Vec<String> {
    let reads = |entry: &str, node: &str| root.read(Path::new(CLASS).join(entry).join(node));
    root.list(CLASS)
        .into_iter()
        .filter(|supply| reads(supply, "type").is_ok_and(|kind| kind == "Battery"))
        .filter(|supply| reads(supply, "scope").map_or(true, |scope| scope != "Device"))
        .filter(|supply| reads(supply, "present").map_or(true, |present| present != "0"))
        .collect()
}

impl Pack {
    fn find(root: &SysfsRoot, supply: &Path) -> Option<Self> {
        let node = |name: &str| {
            let path = supply.join(name);
            root.exists(&path).then(|| root.attribute(path))
        };
        let energy = node("energy_now").zip(node("energy_full"));
        let charge = node("charge_now").zip(node("charge_full"));
        let capacity = match (energy, charge) {
            (Some((now, full)), _) => Capacity::Energy { now, full },
            (None, Some((now, full))) => {
                let voltage = node("voltage_min_design").or_else(|| node("voltage_now"))?;
                Capacity::Charge { now, full, voltage }
            }
            (None, None) => return None,
        };
        let power = match node("power_now") {
            Some(direct) => Power::Direct(direct),
            None => Power::Product { current: node("current_now")?, voltage: node("voltage_now")? },
        };
        Some(Self { status: node("status")?, capacity, power })
    }

    fn sample(&mut self, buffer: &mut Page) -> Result<BatteryState, SysfsError> {
        let (remaining, full) = self.capacity.sample(buffer)?;
        let magnitude = self.power.sample(buffer)?;
        // Anything but a plain "Charging" counts as drawn: some machines run partly from a battery that
        // is "Not charging", and a full one shows next to nothing.
        let draw = match self.status.text(buffer)? {
            "Charging" => Microwatts(-magnitude.0),
            "Discharging" | "Not charging" | "Full" | "Unknown" => magnitude,
            text => {
                let expected = "Charging, Discharging, Not charging, Full or Unknown";
                return Err(garbled(self.status.path(), text, expected));
            }
        };
        Ok(BatteryState { remaining, full, draw })
    }
}

impl Capacity {
    fn sample(&mut self, buffer: &mut Page) -> Result<(Microjoules, Microjoules), SysfsError> {
        let (left, most) = match self {
            Self::Energy { now, full } => {
                (now.within(&Limits::COUNT, buffer)?, full.within(&Limits::COUNT, buffer)?)
            }
            Self::Charge { now, full, voltage } => {
                let volts = voltage.within(&Limits::COUNT, buffer)?;
                let now = now.within(&Limits::COUNT, buffer)?;
                let full = full.within(&Limits::COUNT, buffer)?;
                (product(now, volts), product(full, volts))
            }
        };
        let remaining = microjoules(left);
        let full = microjoules(most);
        if full == Microjoules::ZERO {
            let (Self::Energy { now, .. } | Self::Charge { now, .. }) = self;
            let expected = "a full battery above 0";
            return Err(SysfsError::Implausible { path: now.path().to_owned(), value: 0, expected });
        }
        // Worn packs and bad gauges say more than full.
        Ok((remaining.min(full), full))
    }
}

impl Power {
    fn sample(&mut self, buffer: &mut Page) -> Result<Microwatts, SysfsError> {
        let (microwatts, path) = match self {
            Self::Direct(power) => (power.number(buffer)?, power.path()),
            Self::Product { current, voltage } => {
                let amperes = current.number(buffer)?;
                let volts = voltage.within(&Limits::COUNT, buffer)?;
                (product(amperes, volts), current.path())
            }
        };
        plausible_power(microwatts.saturating_abs(), path)
    }
}

/// µA times µV as µW; µAh times µV as µWh.
fn product(micro: i64, microvolts: i64) -> i64 {
    let product = i128::from(micro) * i128::from(microvolts) / 1_000_000;
    i64::try_from(product).unwrap_or(if product < 0 { i64::MIN } else { i64::MAX })
}

fn microjoules(microwatt_hours: i64) -> Microjoules {
    let value = microwatt_hours.saturating_mul(MICROJOULES_PER_MICROWATT_HOUR);
    Microjoules(u64::try_from(value).unwrap_or(0))
}
