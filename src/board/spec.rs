//! The board file: units, clock domains, zones, rails, models of power and heat, and, for simulation,
//! the plant. See `config/boards/` for commented examples.

use crate::board::check::{self, Problem};
use crate::core::catalog::{
    Board, Domain, DomainId, PowerModel, Rail, RailId, ThermalModel, Unit, UnitKind, Zone,
};
use crate::units::{Kilohertz, Microwatts, MilliCelsius, Nanos};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Largest board file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a board file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("{}: cannot be read as a board file: {source}", file.display())]
    Unreadable {
        /// The board file.
        file: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The file is no TOML, has a key that does not exist, lacks one, or a value of the wrong type.
    #[error("{}:{line}: {message}", file.display())]
    Syntax {
        /// The board file.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong and what was expected.
        message: String,
    },
    /// Values that cannot be, all of them.
    #[error("{}: {}", file.display(), check::sentence(problems))]
    Invalid {
        /// The board file.
        file: PathBuf,
        /// Each key with its value and what would be right.
        problems: Vec<Problem>,
    },
}

/// A board file as written. [`crate::board::spec`] turns it into a validated
/// [`crate::core::catalog::Board`].
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BoardSpec {
    /// Name, the file's stem.
    pub name: String,
    /// What is known and from where; shown by `wattctl status`.
    pub description: String,
    /// Whether some of its figures are assumed rather than measured.
    #[serde(default)]
    pub synthetic: bool,
    /// Names by which its device tree says what it is, any of them: how `wattctl board` knows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compatible: Vec<String>,
    /// Power of the whole board with nothing running, in watts.
    pub idle_power_w: f64,
    /// Clock domains.
    #[serde(default, rename = "domain")]
    pub domains: Vec<DomainSpec>,
    /// Processing units.
    #[serde(rename = "unit")]
    pub units: Vec<UnitSpec>,
    /// Thermal zones.
    #[serde(default, rename = "zone")]
    pub zones: Vec<ZoneSpec>,
    /// Power rails.
    #[serde(default, rename = "rail")]
    pub rails: Vec<RailSpec>,
    /// Whether to look for a battery under `class/power_supply`.
    #[serde(default)]
    pub battery: bool,
    /// What is held while the daemon runs, besides clocks, and put back at its end.
    #[serde(default, skip_serializing_if = "HoldSpec::is_empty")]
    pub hold: HoldSpec,
    /// Two-node thermal model.
    pub thermal: ThermalSpec,
    /// The simulated board behind this file; without it the board can only be a real one.
    #[serde(default)]
    pub plant: Option<toml::Table>,
}

/// How a clock domain is found and set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainInterface {
    /// `devices/system/cpu/cpufreq/policyN`; `select` says of which CPUs.
    Cpufreq,
    /// `class/devfreq/*`; `select` is a suffix or substring of the device's name.
    Devfreq,
}

/// A clock domain.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DomainSpec {
    /// Name.
    pub name: String,
    /// Kernel interface.
    pub interface: DomainInterface,
    /// Which nodes: a CPU (`"0"`), several (`"0-3,6"`) or `"all"`, whose policies are set alike; or part of a devfreq
    /// device's name.
    pub select: String,
    /// Operating points in kHz; empty = read from the kernel.
    #[serde(default)]
    pub opps_khz: Vec<u32>,
    /// Time until a new clock is in force, in microseconds.
    #[serde(default = "default_settle_us")]
    pub settle_us: u64,
    /// Whether a single clock is set by the `userspace` governor, for drivers whose own governors heed the bounds
    /// late.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub userspace: bool,
    /// Memory clocks: power drawn for being at a clock, whoever runs.
    #[serde(default)]
    pub held_power: PowerModel,
}

fn default_settle_us() -> u64 {
    1_000
}

/// A processing unit.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UnitSpec {
    /// Name.
    pub name: String,
    /// Kind of processor.
    pub kind: UnitKind,
    /// ONNX Runtime execution provider, such as `CPUExecutionProvider`.
    #[serde(default = "default_provider")]
    pub provider: String,
    /// A plug-in provider library to register first; a relative path is relative to the board file.
    #[serde(default)]
    pub provider_library: Option<std::path::PathBuf>,
    /// Options handed to the provider as they are.
    #[serde(default)]
    pub provider_options: std::collections::BTreeMap<String, String>,
    /// Intra-op threads (CPU provider).
    #[serde(default = "default_threads")]
    pub threads: u16,
    /// CPUs that the lane may run on; empty = any.
    #[serde(default)]
    pub cpus: Vec<u16>,
    /// Units with the same name here share one processor; default: the unit's own name.
    #[serde(default)]
    pub shares: Option<String>,
    /// Name of its clock domain.
    #[serde(default)]
    pub domain: Option<String>,
    /// Name of its memory clock domain.
    #[serde(default)]
    pub memory_domain: Option<String>,
    /// Whether a run can be cancelled; default: true for the CPU provider.
    #[serde(default)]
    pub preemptible: Option<bool>,
    /// Power while busy, above idle.
    #[serde(default)]
    pub busy_power: PowerModel,
    /// Name of the rail that shows it.
    #[serde(default)]
    pub rail: Option<String>,
}

fn default_provider() -> String {
    "CPUExecutionProvider".to_owned()
}

fn default_threads() -> u16 {
    1
}

/// A thermal zone, found by its `type`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneSpec {
    /// The zone's `type`.
    pub name: String,
    /// Passive trip in degrees Celsius, used where the kernel shows none.
    pub passive_c: f64,
    /// Critical trip in degrees Celsius, used where the kernel shows none.
    pub critical_c: f64,
}

/// How a rail is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RailInterface {
    /// A hwmon with voltage and current per labelled channel (INA3221), or `powerN_input`.
    Hwmon,
    /// The same chip behind industrial I/O, as JetPack 4 has it: `rail_name_N` with voltage and current.
    Iio,
    /// `class/powercap`: an energy counter that wraps.
    Powercap,
}

/// A power rail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RailSpec {
    /// Label of the channel, or name of the powercap zone.
    pub name: String,
    /// Kernel interface.
    pub interface: RailInterface,
    /// `name` of the hwmon (`ina3221`) or iio device (`ina3221x`); empty for powercap.
    #[serde(default)]
    pub chip: String,
    /// Whether it carries the whole board's input power.
    #[serde(default)]
    pub input: bool,
}

/// What is held while the daemon runs. Nothing by default.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HoldSpec {
    /// `energy_performance_preference` of the CPU domains' policies, such as `balance_power`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epp: Option<String>,
    /// Longest time in which an idle CPU must wake up, in microseconds (`/dev/cpu_dma_latency`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_dma_latency_us: Option<u32>,
    /// CPU time that the daemon may take, in percent of one CPU (`cpu.max` of its own cgroup).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max_percent: Option<u32>,
    /// Capacity that the scheduler is to assume of the daemon's tasks at least, in percent of the biggest CPU
    /// (`cpu.uclamp.min`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uclamp_min_percent: Option<u32>,
    /// The same at most (`cpu.uclamp.max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uclamp_max_percent: Option<u32>,
    /// Caps of clocks that have no other control.
    #[serde(rename = "cap", skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<CapSpec>,
}

/// A cap, as a Jetson's power modes set it on its memory and DLA clocks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CapSpec {
    /// The node below `/sys`, such as `kernel/nvpmodel_clk_cap/emc`, in hertz.
    pub node: String,
    /// The highest clock in kHz; the firmware rounds it to one that it has.
    pub khz: u32,
}

impl HoldSpec {
    /// Whether nothing is to be held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Two-node thermal model, for prediction.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ThermalSpec {
    /// Die to heatsink, kelvin per watt.
    pub fast_k_per_w: f64,
    /// Time constant of the die in seconds.
    pub fast_tau_s: f64,
    /// Heatsink to ambient, kelvin per watt.
    pub slow_k_per_w: f64,
    /// Time constant of the heatsink in seconds.
    pub slow_tau_s: f64,
}

impl BoardSpec {
    /// Reads and validates a board file.
    ///
    /// # Errors
    /// [`SpecError`] names the file and the line, or every key with its value and what would be right.
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let unreadable = |source| SpecError::Unreadable { file: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        let mut bounded = std::io::Read::take(file, MAX_FILE_BYTES + 1);
        std::io::Read::read_to_string(&mut bounded, &mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            let message = format!("longer than the {MAX_FILE_BYTES} bytes that a board file may have");
            return Err(unreadable(std::io::Error::other(message)));
        }
        let mut spec = Self::parse(&text, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for library in spec.units.iter_mut().filter_map(|unit| unit.provider_library.as_mut()) {
            *library = folder.join(&*library);
        }
        let stem = path.file_stem().map(std::ffi::OsStr::to_string_lossy).unwrap_or_default();
        if spec.name != stem {
            let problem = Problem::new("name", &spec.name, format!("the file's stem, {stem:?}"));
            return Err(SpecError::Invalid { file: path.to_owned(), problems: vec![problem] });
        }
        Ok(spec)
    }

    /// Parses and validates the text of a board file; `file` is only named in errors.
    ///
    /// # Errors
    /// As [`BoardSpec::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, SpecError> {
        let spec: Self = toml::from_str(text).map_err(|error| {
            let end = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count();
            let message = error.message().trim().replace('\n', ", ");
            SpecError::Syntax { file: file.to_owned(), line, message }
        })?;
        let problems = check::problems(&spec);
        if problems.is_empty() {
            Ok(spec)
        } else {
            Err(SpecError::Invalid { file: file.to_owned(), problems })
        }
    }

    /// The board as the core sees it, from the file alone. Operating points and trips that the kernel
    /// shows are filled in by [`crate::board::sysfs::SysfsBoard`].
    #[must_use]
    pub fn board(&self) -> Board {
        let mut groups: Vec<&str> = Vec::new();
        let units = self
            .units
            .iter()
            .map(|unit| {
                let shared = unit.shares.as_deref().unwrap_or(&unit.name);
                let group = groups.iter().position(|known| *known == shared).unwrap_or_else(|| {
                    groups.push(shared);
                    groups.len() - 1
                });
                Unit {
                    name: unit.name.clone(),
                    kind: unit.kind,
                    group: u8::try_from(group).unwrap_or(u8::MAX),
                    domain: unit.domain.as_deref().and_then(|name| self.domain_id(name)),
                    memory_domain: unit.memory_domain.as_deref().and_then(|name| self.domain_id(name)),
                    preemptible: unit.preemptible.unwrap_or(unit.provider == default_provider()),
                    busy_power: unit.busy_power,
                    rail: unit.rail.as_deref().and_then(|name| self.rail_id(name)),
                }
            })
            .collect();
        Board {
            name: self.name.clone(),
            units,
            domains: self.domains.iter().map(DomainSpec::domain).collect(),
            zones: self.zones.iter().map(ZoneSpec::zone).collect(),
            rails: self
                .rails
                .iter()
                .map(|rail| Rail { name: rail.name.clone(), is_input: rail.input })
                .collect(),
            idle_power: Microwatts::from_watts(self.idle_power_w),
            thermal: ThermalModel {
                fast_k_per_w: self.thermal.fast_k_per_w,
                fast_tau_s: self.thermal.fast_tau_s,
                slow_k_per_w: self.thermal.slow_k_per_w,
                slow_tau_s: self.thermal.slow_tau_s,
            },
        }
    }

    fn domain_id(&self, name: &str) -> Option<DomainId> {
        let index = self.domains.iter().position(|domain| domain.name == name)?;
        u8::try_from(index).ok().map(DomainId)
    }

    fn rail_id(&self, name: &str) -> Option<RailId> {
        let index = self.rails.iter().position(|rail| rail.name == name)?;
        u8::try_from(index).ok().map(RailId)
    }
}

impl DomainSpec {
    fn domain(&self) -> Domain {
        Domain {
            name: self.name.clone(),
            opps: self.opps_khz.iter().copied().map(Kilohertz).collect(),
            settle: Nanos::from_micros(self.settle_us),
            held_power: self.held_power,
        }
    }
}

impl ZoneSpec {
    fn zone(&self) -> Zone {
        Zone {
            name: self.name.clone(),
            passive: MilliCelsius::from_celsius(self.passive_c),
            critical: MilliCelsius::from_celsius(self.critical_c),
        }
    }
}
