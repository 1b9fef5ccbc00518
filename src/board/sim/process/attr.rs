//! Attributes of the tree: what each node reads, and what a write does to it.
//!
//! The semantics were taken from a running 6.12 kernel and its drivers' source.

use crate::board::sim::clock::{Bound, WriteError};
use crate::board::sim::fault::{ReadFault, Sensor, SensorFailure, node_units_per_khz};
use crate::board::sim::plant::Plant;
use crate::board::sim::script::Change;
use crate::board::sim::spec::RailSource;
use crate::board::spec::DomainInterface;
use crate::core::catalog::{DomainId, RailId, ZoneId};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microwatts};
use nix::errno::Errno;

/// RAPL counters wrap here (a common value of client processors).
const MAX_ENERGY_RANGE_UJ: u64 = 262_143_328_850;

/// A clock domain's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClockNode {
    Current,
    Target,
    Min,
    Max,
    Governor,
    SetSpeed,
}

/// A rail's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RailNode {
    Enable,
    Millivolts,
    Milliamperes,
    Microwatts,
    EnergyMicrojoules,
}

/// A battery's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatteryNode {
    Status,
    EnergyNow,
    PowerNow,
    Capacity,
}

/// An attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Attr {
    Fixed {
        text: String,
        mode: u16,
    },
    /// A fixed text without a line's end.
    Text(String),
    /// A fixed text of a cpufreq policy, which an offline CPU hides.
    Policy(DomainId, String),
    Clock(DomainId, ClockNode, u16),
    Zone(ZoneId),
    Rail(RailId, RailNode),
    Battery(BatteryNode),
    MainsOnline,
    DieTemperature,
    FanState,
    PiThrottled,
}

impl Attr {
    pub(super) fn fixed(text: impl Into<String>) -> Self {
        Self::Fixed { text: text.into(), mode: 0o444 }
    }

    /// Permission bits as the driver sets them.
    pub(super) fn mode(&self) -> u16 {
        match self {
            Self::Fixed { mode, .. } | Self::Clock(_, _, mode) => *mode,
            Self::Rail(_, RailNode::Enable) => 0o644,
            Self::Rail(_, RailNode::EnergyMicrojoules) => 0o400,
            _ => 0o444,
        }
    }

    /// Whether the driver has a store function. Without one even root is refused at open.
    pub(super) fn writable(&self) -> bool {
        self.mode() & 0o222 != 0
    }

    /// Whether the node is there.
    pub(super) fn exists(&self, plant: &Plant) -> bool {
        let sensor = match self {
            Self::Zone(zone) => Sensor::Zone(*zone),
            Self::Rail(rail, RailNode::Millivolts | RailNode::Enable) => {
                // The voltage shares the chip with the current: both vanish.
                Sensor::Rail(*rail)
            }
            Self::Rail(rail, _) => Sensor::Rail(*rail),
            Self::Clock(domain, ClockNode::Current, _) => Sensor::Domain(*domain),
            // The kernel makes this node when the governor starts.
            Self::Clock(domain, ClockNode::SetSpeed, _)
                if plant.spec().domains[domain.index()].interface == DomainInterface::Devfreq =>
            {
                return plant.governor(*domain) == "userspace";
            }
            Self::Battery(BatteryNode::EnergyNow) => Sensor::Battery,
            _ => return true,
        };
        !matches!(plant.sense(sensor), Err(ReadFault::Missing))
    }

    /// What a read gives, newline included.
    pub(super) fn read(&self, plant: &Plant) -> Result<String, Errno> {
        let text = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::Fixed { text, .. } => text.clone(),
            Self::Policy(domain, text) => {
                online(plant, *domain)?;
                text.clone()
            }
            Self::Clock(domain, node, _) => read_clock(plant, *domain, *node)?,
            Self::Zone(zone) => sensed(plant, Sensor::Zone(*zone), |celsius| celsius * 1e3)?,
            Self::Rail(rail, node) => read_rail(plant, *rail, *node)?,
            Self::Battery(node) => read_battery(plant, *node)?,
            Self::MainsOnline => u8::from(plant.battery_draw_w() <= 0.0).to_string(),
            Self::DieTemperature => int(plant.heat().die_c * 1e3).to_string(),
            Self::FanState => u8::from(plant.fan_turns()).to_string(),
            Self::PiThrottled => format!("{:x}", pi_throttled(plant)),
        };
        Ok(text + "\n")
    }

    /// What a write of `data` does, as one `write()` call.
    pub(super) fn write(&self, plant: &mut Plant, now: Timestamp, data: &[u8]) -> Result<(), Errno> {
        // A driver sees the text up to a NUL.
        let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        match self {
            Self::Clock(domain, node, _) => write_clock(plant, now, *domain, *node, text),
            Self::Rail(rail, RailNode::Enable) => {
                let failure = (kstrtoul(text)? == 0).then_some(SensorFailure::NoData);
                plant.disturb(now, &Change::Sensor { sensor: Sensor::Rail(*rail), failure });
                Ok(())
            }
            // It is as it is.
            Self::Fixed { text: shown, .. } if self.writable() && text.trim() == shown => Ok(()),
            Self::Fixed { .. } if self.writable() => Err(Errno::EINVAL),
            _ => Err(Errno::EACCES),
        }
    }
}

fn int(value: f64) -> i64 {
    Microwatts::from_f64(value).0
}

fn sensed(plant: &Plant, sensor: Sensor, scale: impl Fn(f64) -> f64) -> Result<String, Errno> {
    match plant.sense(sensor) {
        Ok(value) => Ok(int(scale(value)).to_string()),
        Err(ReadFault::Text(text)) => Ok(text),
        Err(ReadFault::Missing) => Err(Errno::ENOENT),
        Err(ReadFault::NoData) => Err(Errno::ENODATA),
        Err(ReadFault::Busy) => Err(Errno::EBUSY),
        Err(ReadFault::Io) => Err(Errno::EIO),
    }
}

/// A policy whose CPUs are offline reads EBUSY in every node.
fn online(plant: &Plant, domain: DomainId) -> Result<(), Errno> {
    match plant.sense(Sensor::Domain(domain)) {
        Err(ReadFault::Busy) => Err(Errno::EBUSY),
        _ => Ok(()),
    }
}

fn read_clock(plant: &Plant, domain: DomainId, node: ClockNode) -> Result<String, Errno> {
    let interface = plant.spec().domains[domain.index()].interface;
    if interface == DomainInterface::Cpufreq {
        online(plant, domain)?;
    }
    let units = node_units_per_khz(interface);
    let show = |clock: Kilohertz| (u64::from(clock.0) * units).to_string();
    let state = plant.clock(domain);
    match node {
        ClockNode::Current => sensed(plant, Sensor::Domain(domain), |khz| khz * units as f64),
        ClockNode::Target => Ok(show(state.current)),
        ClockNode::Min => Ok(show(state.min)),
        ClockNode::Max => Ok(show(state.max)),
        ClockNode::Governor => Ok(plant.governor(domain).to_owned()),
        ClockNode::SetSpeed if interface == DomainInterface::Devfreq => {
            Ok(plant.speed(domain).map_or_else(|| "undefined".to_owned(), show))
        }
        ClockNode::SetSpeed if plant.governor(domain) == "userspace" => Ok(show(state.current)),
        ClockNode::SetSpeed => Ok("<unsupported>".to_owned()),
    }
}

fn write_clock(
    plant: &mut Plant,
    now: Timestamp,
    domain: DomainId,
    node: ClockNode,
    text: &str,
) -> Result<(), Errno> {
    let interface = plant.spec().domains[domain.index()].interface;
    if interface == DomainInterface::Cpufreq {
        online(plant, domain)?;
    }
    let outcome = match node {
        ClockNode::Current | ClockNode::Target => return Err(Errno::EACCES),
        ClockNode::Min => {
            // A lower bound that is negative is more than any clock for devfreq, and none for cpufreq.
            let none = if interface == DomainInterface::Devfreq { Kilohertz::MAX } else { Kilohertz::ZERO };
            let khz = bound(interface, Bound::Min, text)?.map_or(none, Kilohertz);
            plant.write_bound(now, domain, Bound::Min, khz)
        }
        ClockNode::Max => {
            let khz = bound(interface, Bound::Max, text)?.map_or(Kilohertz::MAX, Kilohertz);
            plant.write_bound(now, domain, Bound::Max, khz)
        }
        ClockNode::SetSpeed => plant.set_speed(now, domain, speed(interface, text)?),
        ClockNode::Governor => {
            // sscanf("%15s"): the first word, cut.
            let word = text.split_ascii_whitespace().next().ok_or(Errno::EINVAL)?;
            let word: String = word.chars().take(15).collect();
            plant.set_governor(now, domain, &word)
        }
    };
    outcome.map_err(|error| match error {
        WriteError::Invalid => Errno::EINVAL,
        WriteError::Refused => Errno::EIO,
    })
}

/// A bound as the two interfaces take it. `None`: the constraint behind it is none.
fn bound(interface: DomainInterface, bound: Bound, text: &str) -> Result<Option<u32>, Errno> {
    match interface {
        DomainInterface::Cpufreq => freq_qos(kstrtoul(text)?),
        DomainInterface::Devfreq => {
            let hz = sscanf_lu(text)?;
            // Upper bounds round up to the next kHz, lower ones down.
            Ok(dev_pm_qos(if bound == Bound::Min { hz / 1000 } else { hz.div_ceil(1000) }))
        }
    }
}

/// The clock of the governor `userspace` as the two interfaces take it.
fn speed(interface: DomainInterface, text: &str) -> Result<Kilohertz, Errno> {
    let khz = match interface {
        DomainInterface::Cpufreq => sscanf_lu(text)?,
        DomainInterface::Devfreq => kstrtoul(text)? / 1000,
    };
    Ok(Kilohertz(u32::try_from(khz).unwrap_or(u32::MAX)))
}

/// The lower half of a number, with a sign, as constraints hold kHz.
fn truncated(khz: u64) -> i32 {
    let [a, b, c, d, ..] = khz.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// What a cpufreq bound of so many kHz becomes; `None`, as -1, is no bound.
pub(super) fn freq_qos(khz: u64) -> Result<Option<u32>, Errno> {
    match truncated(khz) {
        -1 => Ok(None),
        khz => u32::try_from(khz).map(Some).map_err(|_| Errno::EINVAL),
    }
}

/// What a devfreq bound of so many kHz becomes: what is negative is taken for more than any clock.
pub(super) fn dev_pm_qos(khz: u64) -> Option<u32> {
    u32::try_from(truncated(khz)).ok()
}

/// The kernel's `kstrtoul(text, 0, ..)`: the whole text, one newline allowed; `0x` is hexadecimal, a
/// leading 0 octal.
pub(super) fn kstrtoul(text: &str) -> Result<u64, Errno> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(Errno::EINVAL);
    }
    u64::from_str_radix(digits, radix).map_err(|_| Errno::ERANGE)
}

/// The kernel's `sscanf(text, "%lu")`: leading blanks, then digits; what follows is ignored, so `0x10` is 0. A number
/// that is too large wraps around.
pub(super) fn sscanf_lu(text: &str) -> Result<u64, Errno> {
    let text = text.trim_start();
    let digits = text.bytes().take_while(u8::is_ascii_digit);
    let step = |number: Option<u64>, digit: u8| {
        Some(number.unwrap_or(0).wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    };
    digits.fold(None, step).ok_or(Errno::EINVAL)
}

fn read_rail(plant: &Plant, rail: RailId, node: RailNode) -> Result<String, Errno> {
    let spec = plant.spec();
    let volts = match spec.sensors[rail.index()].source {
        RailSource::Input => spec.input_volts,
        RailSource::Rail(index) => spec.rails[index].volts,
    };
    let sensor = Sensor::Rail(rail);
    match node {
        RailNode::Enable => {
            let disabled = matches!(plant.sense(sensor), Err(ReadFault::NoData));
            Ok(u8::from(!disabled).to_string())
        }
        // Only the current can show a wrong text or value: the power is read through it.
        RailNode::Millivolts => match plant.sense(sensor) {
            Ok(_) | Err(ReadFault::Text(_)) => Ok(int(volts * 1e3).to_string()),
            Err(_) => sensed(plant, sensor, |_| 0.0),
        },
        RailNode::Milliamperes => sensed(plant, sensor, |watts| watts / volts * 1e3),
        RailNode::Microwatts => sensed(plant, sensor, |watts| watts * 1e6),
        RailNode::EnergyMicrojoules => {
            let shown = sensed(plant, sensor, |_| 0.0)?;
            let garbled = matches!(plant.sense(sensor), Err(ReadFault::Text(_)));
            let counted = plant.sensor_microjoules(rail) % MAX_ENERGY_RANGE_UJ;
            Ok(if garbled { shown } else { counted.to_string() })
        }
    }
}

pub(super) fn max_energy_range() -> String {
    MAX_ENERGY_RANGE_UJ.to_string()
}

fn read_battery(plant: &Plant, node: BatteryNode) -> Result<String, Errno> {
    let full_j = plant.spec().battery.map_or(1.0, |battery| battery.capacity_wh * 3600.0);
    match node {
        // 1 uWh = 3.6 mJ.
        BatteryNode::EnergyNow => sensed(plant, Sensor::Battery, |joules| joules / 3.6e-3),
        BatteryNode::Capacity => sensed(plant, Sensor::Battery, |joules| (joules / full_j * 100.0).floor()),
        // The ACPI driver shows a magnitude; the status has the direction.
        BatteryNode::PowerNow => Ok(int(plant.battery_draw_w().abs() * 1e6).to_string()),
        BatteryNode::Status => {
            let full = plant.sense(Sensor::Battery).is_ok_and(|joules| joules >= full_j);
            let word = match plant.battery_draw_w() {
                watts if watts > 0.0 => "Discharging",
                _ if full => "Full",
                _ => "Charging",
            };
            Ok(word.to_owned())
        }
    }
}

/// `get_throttled`: bit 1 clock capped, 2 throttled, 3 soft temperature limit; 17 to 19 ever since boot.
fn pi_throttled(plant: &Plant) -> u32 {
    let spec = plant.spec();
    let zone = |test: fn(f64, f64) -> bool| {
        let over = |(index, zone): (usize, &crate::board::sim::PlantZone)| {
            test(plant.zone_celsius(index), zone.passive.as_celsius())
        };
        spec.zones.iter().enumerate().any(over)
    };
    let capped = (0..spec.domains.len()).any(|index| {
        let top = spec.domains[index].opps.last().copied().unwrap_or_default();
        plant.domains[index].capped() && plant.clock(DomainId::at(index)).max < top
    });
    let stats = plant.stats();
    let ever = u32::from(stats.throttled.0 > 0) * 0b110 + u32::from(stats.above_passive.0 > 0) * 0b1000;
    let now = u32::from(capped) * 0b110 + u32::from(zone(|celsius, trip| celsius >= trip)) * 0b1000;
    now | (ever << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_parse_as_the_kernel_parses_them() {
        let strict = ["612000\n", "0x10", "010", "+5", "", " 5", "5 ", "1e6", "-1", "99999999999999999999"];
        let expected = [
            Ok(612_000),
            Ok(16),
            Ok(8),
            Ok(5),
            Err(Errno::EINVAL),
            Err(Errno::EINVAL),
            Err(Errno::EINVAL),
            Err(Errno::EINVAL),
            Err(Errno::EINVAL),
            Err(Errno::ERANGE),
        ];
        assert_eq!(strict.map(kstrtoul), expected);
        let loose = ["612000000\n", "0x10", " 7 rest", "abc", "-1", ""];
        let expected =
            [Ok(612_000_000), Ok(0), Ok(7), Err(Errno::EINVAL), Err(Errno::EINVAL), Err(Errno::EINVAL)];
        assert_eq!(loose.map(sscanf_lu), expected);
        // 2^64 + 7
        assert_eq!(sscanf_lu("18446744073709551623"), Ok(7));
        let khz = [612_000, 1 << 31, (1 << 32) - 1, 1 << 32];
        assert_eq!(khz.map(freq_qos), [Ok(Some(612_000)), Err(Errno::EINVAL), Ok(None), Ok(Some(0))]);
        assert_eq!(khz.map(dev_pm_qos), [Some(612_000), None, None, Some(0)]);
    }
}
