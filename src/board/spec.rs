//! The board file: units, clock domains, zones, rails, models of power and heat, and, for simulation,
//! the plant. See `config/boards/` for commented examples.

use crate::core::catalog::{PowerModel, UnitKind};
use serde::{Deserialize, Serialize};

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
    /// `devices/system/cpu/cpufreq/policyN`; `select` is the first CPU of the policy.
    Cpufreq,
    /// `class/devfreq/*`; `select` is a suffix or substring of the device's name.
    Devfreq,
}

/// A clock domain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DomainSpec {
    /// Name.
    pub name: String,
    /// Kernel interface.
    pub interface: DomainInterface,
    /// Which node: the policy's first CPU (`"0"`) or part of a devfreq device's name.
    pub select: String,
    /// Operating points in kHz; empty = read from the kernel.
    #[serde(default)]
    pub opps_khz: Vec<u32>,
    /// Time until a new clock is in force, in microseconds.
    #[serde(default = "default_settle_us")]
    pub settle_us: u64,
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
    /// A plug-in provider library to register first.
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
    /// `name` of the hwmon device (`ina3221`); empty for powercap.
    #[serde(default)]
    pub chip: String,
    /// Whether it carries the whole board's input power.
    #[serde(default)]
    pub input: bool,
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
