//! The state of the daemon as `GET /wattd/v1/status` and `GET /wattd/v1/models` give it.
//!
//! The daemon serialises these structs and `wattctl` parses them, so the contract is in one place.
//! Reading is tolerant: unknown keys are ignored and missing ones take a default, so that a tool and a
//! daemon of neighbouring versions understand each other. `null` means "not known on this board".
//! Unlike the configuration, these are figures for people: floating point, in the unit that the name
//! ends in.

use crate::board::panel::{AlarmState, Foreign, Instrument};
use crate::core::catalog::{Provenance, UnitKind};
use crate::core::energy::Objective;
use crate::core::event::SensorFault;
use crate::core::thermal::Regime;
use crate::exec::TensorSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything that `wattctl status` shows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Seconds since its start.
    pub uptime_s: f64,
    /// The board.
    pub board: BoardStatus,
    /// The decision rule in force.
    pub objective: Objective,
    /// The thermal regime.
    pub regime: Regime,
    /// Whether the daemon takes no more requests and finishes its queue before it stops.
    pub draining: bool,
    /// Where energy figures come from; `null` until the first sample.
    pub energy_source: Option<Provenance>,
    /// Latest power of the whole board, measured or modelled.
    pub power_w: Option<f64>,
    /// Power rails.
    pub rails: Vec<RailStatus>,
    /// Thermal zones.
    pub zones: Vec<ZoneStatus>,
    /// Clock domains.
    pub domains: Vec<DomainStatus>,
    /// The battery, where there is one.
    pub battery: Option<BatteryStatus>,
    /// Memory of the machine and of loaded models.
    pub memory: Option<MemoryStatus>,
    /// Pressure stall information, where the kernel has it.
    pub pressure: Option<PressureStatus>,
    /// Budgets with what is left of them.
    pub budgets: Vec<BudgetStatus>,
    /// The request queue.
    pub queue: QueueStatus,
    /// Processing units.
    pub units: Vec<UnitStatus>,
    /// Classes of requests.
    pub classes: Vec<ClassStatus>,
    /// What is learned while serving, and how far off it was.
    pub estimators: Vec<EstimatorStatus>,
    /// Totals since the start.
    pub counters: Counters,
    /// Every sensor of the board with unit, age, source and quality.
    pub instruments: Vec<Instrument>,
    /// What the board complains of.
    pub alarms: Vec<AlarmState>,
    /// Clock bounds that someone else has set, and that are kept to.
    pub foreign: Vec<Foreign>,
    /// One sentence for each thing that the board lacks.
    pub missing: Vec<String>,
    /// One sentence for each model or variant that was refused, and why.
    pub problems: Vec<String>,
}

/// Which board.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BoardStatus {
    /// Name of the board file.
    pub name: String,
    /// Some of its figures are assumed rather than measured.
    pub synthetic: bool,
    /// Sensors and clocks belong to a simulated board.
    pub simulated: bool,
}

/// A power rail.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RailStatus {
    /// Label.
    pub name: String,
    /// Latest power; `null` with a `fault`.
    pub w: Option<f64>,
    /// Why there is no reading.
    pub fault: Option<SensorFault>,
}

/// A thermal zone.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneStatus {
    /// Type of the zone.
    pub name: String,
    /// Latest temperature; `null` with a `fault`.
    pub c: Option<f64>,
    /// Where the kernel or firmware begins to throttle.
    pub passive_c: f64,
    /// Where the board shuts down.
    pub critical_c: f64,
    /// What the daemon holds it below: the configured limit, or the passive trip, less the margin.
    pub limit_c: f64,
    /// Why there is no reading.
    pub fault: Option<SensorFault>,
}

/// A clock domain.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainStatus {
    /// Name.
    pub name: String,
    /// Present clock; `null` with a `fault`.
    pub khz: Option<u32>,
    /// Lower bound in force.
    pub min_khz: Option<u32>,
    /// Upper bound in force.
    pub max_khz: Option<u32>,
    /// Whether it follows what is set.
    pub controllable: bool,
    /// Why there is no reading.
    pub fault: Option<SensorFault>,
}

/// The battery.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BatteryStatus {
    /// Energy left.
    pub remaining_j: f64,
    /// Energy when full.
    pub full_j: f64,
    /// Power drawn; negative while charging.
    pub draw_w: f64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStatus {
    /// Available to new work.
    pub available: u64,
    /// All of it.
    pub total: u64,
    /// Resident set of the daemon.
    pub resident: u64,
    /// Cap on what loaded variants hold together.
    pub cap: u64,
    /// What they may hold now: less where the machine or a control group leaves less.
    pub cap_now: u64,
    /// The tightest limit of the daemon's control groups, where one has a limit.
    pub limit: Option<u64>,
    /// Memory is so short on the machine that only what is in use stays loaded.
    pub pressed: bool,
    /// What they hold now.
    pub loaded: u64,
}

/// Share of the last 10 s in which some task waited, 0 to 1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PressureStatus {
    /// For a CPU.
    pub cpu: f64,
    /// For memory.
    pub memory: f64,
    /// For I/O.
    pub io: f64,
}

/// A budget.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetStatus {
    /// Which one.
    pub name: String,
    /// What is left.
    pub left: f64,
    /// Unit of `left`, such as `J` or `W`.
    pub unit: String,
    /// Whether requests still find room in it.
    pub ok: bool,
}

/// The request queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueStatus {
    /// Requests waiting.
    pub requests: u32,
    /// Most that may wait.
    pub limit: u32,
}

/// A processing unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Name.
    pub name: String,
    /// Kind of processor.
    pub kind: UnitKind,
    /// Whether a batch runs now.
    #[serde(default)]
    pub busy: bool,
    /// Loaded variants, as `model/variant`.
    #[serde(default)]
    pub variants: Vec<String>,
    /// Clock of its domain, where one can be read.
    #[serde(default)]
    pub clock_khz: Option<u32>,
}

/// A class of requests.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassStatus {
    /// Name.
    pub name: String,
    /// Latency objective: the deadline of a request that names none.
    pub latency_ms: f64,
    /// Least accuracy, 0 to 1, of a request that names none.
    pub min_accuracy: f64,
}

/// An estimator.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EstimatorStatus {
    /// What it predicts: `latency`, `board_power`, `run_power`, `heat`.
    pub name: String,
    /// The unit that it is about; `null` for the whole board.
    pub unit: Option<String>,
    /// Mean absolute relative error of its predictions, the latest weighing most; `null` before the first.
    pub error: Option<f64>,
    /// Predictions judged.
    pub observations: u64,
    /// Whether that is enough to rely on.
    pub state: EstimatorState,
    /// What it says now, by name; the unit of a figure is at the name's end.
    pub values: BTreeMap<String, f64>,
}

/// Whether an estimator knows or guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EstimatorState {
    /// Too few predictions were judged.
    #[default]
    Guess,
    /// Enough were.
    Known,
}

/// Totals since the daemon's start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Requests served.
    pub served: u64,
    /// Requests turned away, by [`crate::core::event::Rejection::name`].
    pub rejected: BTreeMap<String, u64>,
    /// Requests served after their deadline.
    pub missed: u64,
    /// Energy of the whole board, idle time included, integrated over every sample; `null` where power
    /// is neither measured nor modelled. Comparisons of runs rest on it.
    pub energy_j: Option<f64>,
}

/// Everything that `wattctl models` shows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Models {
    /// The models, served or refused.
    pub models: Vec<ModelStatus>,
}

/// A model and its ladder of variants.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelStatus {
    /// Name that requests use.
    pub name: String,
    /// Version in the manifest.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// The model's folder on the daemon's machine.
    pub folder: Option<PathBuf>,
    /// Largest batch, in items.
    pub max_batch: u32,
    /// What the accuracy means, such as `top-1`.
    pub metric: String,
    /// Inputs.
    pub inputs: Vec<TensorSpec>,
    /// Outputs.
    pub outputs: Vec<TensorSpec>,
    /// Variants, the reference first.
    pub variants: Vec<VariantStatus>,
    /// Why the whole model cannot be served.
    pub problem: Option<String>,
    /// Whether some of its variants are being measured, or are waiting for it.
    pub profiling: bool,
}

/// One variant of a model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VariantStatus {
    /// Name within the model.
    pub name: String,
    /// What it computes in: `fp32`, `fp16`, `int8`.
    pub precision: String,
    /// Accuracy from the manifest, 0 to 1.
    pub accuracy: f64,
    /// Size of the file.
    pub bytes: u64,
    /// The variant that it was derived from.
    pub parent: Option<String>,
    /// Why it cannot run anywhere.
    pub problem: Option<String>,
    /// Its state on every unit of the board.
    pub units: Vec<VariantOnUnit>,
}

/// A variant on a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantOnUnit {
    /// Name of the unit.
    pub unit: String,
    /// Whether it can run there.
    pub state: VariantState,
    /// Why not: filled for [`VariantState::Quarantined`], [`VariantState::Failed`] and [`VariantState::TooLarge`].
    #[serde(default)]
    pub reason: Option<String>,
    /// Its answers to the labelled sample when it was profiled.
    #[serde(default)]
    pub check: Option<CheckStatus>,
    /// Another variant that is at least as accurate by its manifest, as fast and as frugal on this unit, and better in one.
    #[serde(default)]
    pub dominated_by: Option<String>,
    /// Expected latency of one item at `clock_khz`, in microseconds.
    #[serde(default)]
    pub latency_us: Option<f64>,
    /// Where the latency comes from.
    #[serde(default)]
    pub latency_source: Option<Provenance>,
    /// Expected energy of one item at `clock_khz`, in microjoules.
    #[serde(default)]
    pub energy_uj: Option<f64>,
    /// Where the energy comes from.
    #[serde(default)]
    pub energy_source: Option<Provenance>,
    /// The clock that latency and energy hold for, the unit's highest; `null` if it has none.
    #[serde(default)]
    pub clock_khz: Option<u32>,
    /// Memory of the loaded session, in bytes.
    #[serde(default)]
    pub footprint: Option<u64>,
    /// The same at each clock of the unit, from the lowest, with its memory at the highest; empty if it has no clock.
    #[serde(default)]
    pub clocks: Vec<AtClock>,
}

/// Right answers to the labelled sample.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckStatus {
    /// Right ones.
    pub right: u32,
    /// All.
    pub items: u32,
    /// Lower end of the interval of the accuracy at 95 %, 0 to 1.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What one item takes at a clock.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AtClock {
    /// The clock.
    pub clock_khz: u32,
    /// Expected latency, in microseconds.
    pub latency_us: f64,
    /// Expected energy, in microjoules.
    pub energy_uj: f64,
}

/// State of a variant on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VariantState {
    /// Loaded: runs at once.
    Loaded,
    /// May be loaded when it is wanted.
    Available,
    /// The manifest does not allow this kind of unit.
    NotAllowed,
    /// It takes more memory than variants may hold.
    TooLarge,
    /// It could not be loaded lately, and is tried again.
    Failed,
    /// It is wrong here, or was given up after failures: kept off the unit until it is profiled anew.
    Quarantined,
}

impl Status {
    /// The hottest readable zone.
    #[must_use]
    pub fn hottest(&self) -> Option<(&ZoneStatus, f64)> {
        self.zones
            .iter()
            .filter_map(|zone| zone.c.map(|c| (zone, c)))
            .max_by(|(_, left), (_, right)| left.total_cmp(right))
    }

    /// Whether some zone is above its passive trip, where the kernel or firmware takes over.
    #[must_use]
    pub fn above_trip(&self) -> bool {
        self.zones.iter().any(|zone| zone.c.is_some_and(|c| c > zone.passive_c))
    }

    /// Whether power is being held back because of heat.
    #[must_use]
    pub const fn throttled(&self) -> bool {
        matches!(self.regime, Regime::Throttled | Regime::Critical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_or_newer_daemon_is_understood() {
        let status: Status = serde_json::from_str(
            r#"{"version":"9.9","regime":"throttled","a_new_key":[1],
                "zones":[{"name":"gpu","c":71.5,"passive_c":80}],"power_w":null}"#,
        )
        .unwrap();
        assert_eq!(status.version, "9.9");
        assert_eq!(status.hottest().map(|(zone, c)| (zone.name.as_str(), c)), Some(("gpu", 71.5)));
        assert!(status.throttled() && !status.above_trip());
        assert_eq!(status.power_w, None);
    }

    #[test]
    fn an_unreadable_zone_is_never_the_hottest() {
        let status = Status {
            zones: vec![
                ZoneStatus { name: "a".into(), c: None, ..ZoneStatus::default() },
                ZoneStatus { name: "b".into(), c: Some(40.0), passive_c: 39.0, ..ZoneStatus::default() },
            ],
            ..Status::default()
        };
        assert_eq!(status.hottest().map(|(zone, _)| zone.name.as_str()), Some("b"));
        assert!(status.above_trip());
    }

    #[test]
    fn the_models_survive_the_wire() {
        let models = Models {
            models: vec![ModelStatus {
                name: "fashion".into(),
                variants: vec![VariantStatus {
                    name: "int8".into(),
                    units: vec![VariantOnUnit {
                        unit: "gpu".into(),
                        state: VariantState::Quarantined,
                        reason: Some("NaN in logits".into()),
                        check: Some(CheckStatus { right: 3, items: 9, low: 0.125, high: 0.625 }),
                        dominated_by: Some("fp32".into()),
                        latency_us: None,
                        latency_source: None,
                        energy_uj: None,
                        energy_source: None,
                        clock_khz: None,
                        footprint: None,
                        clocks: vec![AtClock { clock_khz: 1, latency_us: 2.5, energy_uj: 3.5 }],
                    }],
                    ..VariantStatus::default()
                }],
                ..ModelStatus::default()
            }],
        };
        let text = serde_json::to_string(&models).unwrap();
        assert_eq!(serde_json::from_str::<Models>(&text).unwrap(), models);
    }
}
