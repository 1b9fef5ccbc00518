//! The `[plant]` table as written, section by section. [`super::spec`] validates it.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Scalars of the table; every one has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawScalars {
    pub(super) work_scale: f64,
    pub(super) thermal_speedup: f64,
    pub(super) ambient_c: f64,
    pub(super) conversion_loss: f64,
    pub(super) stall_power: f64,
    pub(super) throttle_period_s: f64,
    pub(super) throttle_hysteresis_k: f64,
    pub(super) governor_idle_ms: f64,
    pub(super) rail_average_ms: f64,
    pub(super) rail_noise: f64,
    pub(super) zone_step_c: f64,
    pub(super) input_volts: f64,
    pub(super) pi_firmware: bool,
    pub(super) memory_mb: u64,
    pub(super) memory_used_mb: u64,
    pub(super) governors_cpufreq: Vec<String>,
    pub(super) governors_devfreq: Vec<String>,
}

impl Default for RawScalars {
    fn default() -> Self {
        Self {
            work_scale: 1.0,
            thermal_speedup: 1.0,
            ambient_c: 25.0,
            conversion_loss: 0.0,
            stall_power: 0.5,
            throttle_period_s: 1.0,
            throttle_hysteresis_k: 2.0,
            governor_idle_ms: 50.0,
            rail_average_ms: 20.0,
            rail_noise: 0.0,
            zone_step_c: 0.0,
            input_volts: 12.0,
            pi_firmware: false,
            memory_mb: 8192,
            memory_used_mb: 1024,
            governors_cpufreq: words(&["performance", "powersave", "userspace", "schedutil"]),
            governors_devfreq: words(&["performance", "powersave", "userspace", "simple_ondemand"]),
        }
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// `[plant.noise]`: spread of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Noise {
    /// Standard deviation of the logarithm of a run's latency.
    pub sigma: f64,
    /// Share of runs that are late beyond that.
    pub tail_probability: f64,
    /// Least factor by which those are late.
    pub tail_min: f64,
    /// Largest factor by which those are late.
    pub tail_max: f64,
}

impl Default for Noise {
    fn default() -> Self {
        Self { sigma: 0.03, tail_probability: 0.01, tail_min: 1.15, tail_max: 1.5 }
    }
}

/// `[plant.contention]`: what each other busy processor adds to the roofs of a run, as a share.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contention {
    /// Added to the compute time.
    pub compute: f64,
    /// Added to the memory time.
    pub memory: f64,
}

/// `[plant.thermal]`: the true thermal path, which the prediction's `[thermal]` need not know.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawThermal {
    pub(super) fast_k_per_w: f64,
    pub(super) fast_tau_s: f64,
    pub(super) slow_k_per_w: f64,
    pub(super) slow_tau_s: f64,
    pub(super) start_c: Option<f64>,
}

/// `[plant.fan]`: a fan that switches on and off by the die's temperature.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fan {
    /// Heatsink to ambient while it runs, K/W.
    pub slow_k_per_w: f64,
    /// Switches on at this temperature of the die.
    pub on_c: f64,
    /// Switches off below this temperature of the die.
    pub off_c: f64,
}

/// `[plant.battery]`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Battery {
    /// Energy when full, Wh.
    pub capacity_wh: f64,
    /// Share of it that is there at the start.
    #[serde(default = "one")]
    pub start: f64,
    /// Voltage, for the voltage and charge nodes of sysfs.
    #[serde(default = "eleven")]
    pub voltage_v: f64,
}

fn one() -> f64 {
    1.0
}

fn eleven() -> f64 {
    11.4
}

/// `[[plant.rail]]`: a physical rail, whether or not the board has a sensor on it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRail {
    pub(super) name: String,
    #[serde(default)]
    pub(super) base_w: f64,
    #[serde(default)]
    pub(super) leakage_w: f64,
    #[serde(default = "fifty")]
    pub(super) leakage_at_c: f64,
    #[serde(default = "forty")]
    pub(super) leakage_e_fold_k: f64,
    #[serde(default = "five_volts")]
    pub(super) volts: f64,
}

fn fifty() -> f64 {
    50.0
}

fn forty() -> f64 {
    40.0
}

fn five_volts() -> f64 {
    5.0
}

/// `[[plant.load]]`: power on a rail, drawn by a busy unit or by a clock domain.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLoad {
    pub(super) rail: String,
    pub(super) unit: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) watts: Vec<[f64; 2]>,
}

/// `[[plant.domain]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDomain {
    pub(super) name: String,
    #[serde(default)]
    pub(super) opps_khz: Vec<u32>,
    pub(super) governor: Option<String>,
    #[serde(default = "yes")]
    pub(super) throttled: bool,
    #[serde(default)]
    pub(super) device: Option<String>,
    #[serde(default)]
    pub(super) cpus: Option<String>,
}

fn yes() -> bool {
    true
}

/// `[[plant.unit]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUnit {
    pub(super) name: String,
    pub(super) macs_per_cycle: BTreeMap<String, f64>,
    pub(super) bandwidth_gb_s: f64,
    #[serde(default = "two")]
    pub(super) p: f64,
    #[serde(default)]
    pub(super) overhead_us: f64,
    #[serde(default = "one")]
    pub(super) marginal: f64,
}

fn two() -> f64 {
    2.0
}

/// `[[plant.zone]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawZone {
    pub(super) name: String,
    #[serde(default = "one")]
    pub(super) die_share: f64,
    #[serde(default)]
    pub(super) offset_k: f64,
}

/// `[[plant.grid]]`: measured latencies of one network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrid {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) clocks_khz: Vec<f64>,
    pub(super) memory_khz: Vec<f64>,
    pub(super) latency_ms: Vec<Vec<f64>>,
    pub(super) compute_ms_ghz: f64,
    pub(super) memory_ms: Vec<f64>,
    pub(super) p: f64,
}
