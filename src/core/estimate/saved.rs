//! What was learned, to outlive the process; and what of it is shown.

use super::{BIAS_VARIANCE_MIN, Estimates, Filter, LN_MAX, Meter, Scale, tail};
use crate::core::catalog::{UnitId, VariantId};
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

/// Everything that is worth keeping.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learned {
    /// By [`UnitId`].
    pub units: Vec<LearnedUnit>,
    /// Variants on units that were observed.
    pub pairs: Vec<LearnedPair>,
    /// Idle power at 50 degrees, W, and its change per ten kelvin.
    pub idle: [f64; 2],
    /// Temperature of the air, degrees Celsius, and logarithm of the heatsink's resistance over the board file's.
    pub heat: [f64; 2],
    /// Error of the predicted temperature, relative to its rise over the air.
    pub heat_error: Meter,
    /// Error of the predicted board power.
    pub board_power_error: Meter,
    /// Error of the predicted power of metered runs.
    pub run_power_error: Meter,
}

/// What was learned of a unit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedUnit {
    /// Logarithms of the slowdowns of its compute and memory roof.
    pub ln_slowdown: [f64; 2],
    /// Ratios of actual to expected latency, the oldest first.
    pub residuals: Vec<f64>,
    /// Coefficients of its power.
    pub power: [f64; 4],
    /// Factors beyond these, less one, by operating point.
    pub power_factors: Vec<f64>,
    /// Error of the expected latency.
    pub latency_error: Meter,
}

/// What was learned of a variant on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedPair {
    /// The variant.
    pub variant: VariantId,
    /// The unit.
    pub unit: UnitId,
    /// Logarithm of its latency over the profile's.
    pub ln_bias: f64,
    /// Runs that this rests on.
    pub observations: u32,
    /// Its power over the unit's.
    pub power_scale: f64,
}

/// An estimator, as it shows itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Its name: `latency`, `board_power`, `run_power`, `heat`.
    pub estimator: &'static str,
    /// The unit that it is about; `None` = the board.
    pub unit: Option<UnitId>,
    /// How far off its predictions were.
    pub meter: Meter,
    /// What it says now.
    pub values: SmallVec<[(&'static str, f64); 4]>,
}

impl Estimates {
    /// What is worth keeping for the next life.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let (power, idle) = self.power.coefficients();
        let unit = |unit: usize| LearnedUnit {
            ln_slowdown: self.filters[self.filter(UnitId::at(unit))].state().map(rounded),
            residuals: self.tails[unit].residuals().map(rounded).collect(),
            power: power[unit].map(rounded),
            power_factors: self.power.factors(unit).map(rounded).collect(),
            latency_error: round_meter(self.latency_errors[unit]),
        };
        let pairs = self.pairs.iter().enumerate().flat_map(|(variant, row)| {
            let seen = row.iter().enumerate().filter(|(_, pair)| pair.observations > 0);
            seen.map(move |(unit, pair)| LearnedPair {
                variant: VariantId::at(variant),
                unit: UnitId::at(unit),
                ln_bias: rounded(pair.ln_bias),
                observations: pair.observations,
                power_scale: rounded(pair.scale.value),
            })
        });
        Learned {
            units: (0..self.filters.len()).map(unit).collect(),
            pairs: pairs.collect(),
            idle: idle.map(rounded),
            heat: self.heat.kept().map(rounded),
            heat_error: round_meter(self.heat.error),
            board_power_error: round_meter(self.power.board_error),
            run_power_error: round_meter(self.power.run_error),
        }
    }

    /// Takes over what an earlier life learned. The slowdown may have passed meanwhile: it is doubted. What is
    /// out of its bounds is left out.
    pub fn restore(&mut self, learned: &Learned) {
        self.versions.iter_mut().for_each(|version| *version += 1);
        let known = |(_, unit): &(usize, &LearnedUnit)| **unit != LearnedUnit::default();
        let units = learned.units.iter().enumerate().take(self.filters.len());
        for (unit, learned) in units.filter(known) {
            let filter = self.filter(UnitId::at(unit));
            self.filters[filter] = Filter::at(learned.ln_slowdown.map(rounded));
            let residuals: Vec<f64> = learned.residuals.iter().copied().map(rounded).collect();
            self.tails[unit].restore(&residuals);
            self.tails[unit].doubt();
            let factors: Vec<f64> = learned.power_factors.iter().copied().map(rounded).collect();
            self.power.restore(unit, learned.power.map(rounded), &factors);
            self.latency_errors[unit] = sound_meter(learned.latency_error);
        }
        self.power.restore_idle(learned.idle.map(rounded));
        self.power.board_error = sound_meter(learned.board_power_error);
        self.power.run_error = sound_meter(learned.run_power_error);
        let [air_c, ln_r] = learned.heat.map(rounded);
        self.heat.restore(air_c, ln_r);
        self.heat.error = sound_meter(learned.heat_error);
        for learned in &learned.pairs {
            let row = self.pairs.get_mut(learned.variant.index());
            let Some(pair) = row.and_then(|row| row.get_mut(learned.unit.index())) else { continue };
            if learned.ln_bias.abs() <= LN_MAX && learned.observations > 0 {
                pair.ln_bias = rounded(learned.ln_bias);
                pair.observations = learned.observations;
                pair.variance = (tail::NOISE / f64::from(learned.observations)).max(BIAS_VARIANCE_MIN);
            }
            if learned.power_scale > 0.0 {
                pair.scale = Scale::new(rounded(learned.power_scale), true);
            }
        }
    }

    /// How well each estimator does, and what it says now.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        let units = (0..self.filters.len()).map(|unit| {
            let [compute, memory] = self.filters[self.filter(UnitId::at(unit))].state().map(f64::exp);
            let tail = &self.tails[unit];
            Report {
                estimator: "latency",
                unit: Some(UnitId::at(unit)),
                meter: self.latency_errors[unit],
                values: smallvec![
                    ("compute_slowdown", compute),
                    ("memory_slowdown", memory),
                    ("p99_ratio", tail.quantile(0.99)),
                    ("p999_ratio", tail.quantile(0.999)),
                ],
            }
        });
        let board = Report {
            estimator: "board_power",
            unit: None,
            meter: self.power.board_error,
            values: smallvec![("idle_w", self.power.idle_w())],
        };
        let run =
            Report { estimator: "run_power", unit: None, meter: self.power.run_error, values: smallvec![] };
        let heat = Report {
            estimator: "heat",
            unit: None,
            meter: self.heat.error,
            values: smallvec![("air_c", self.heat.air_c()), ("heatsink_k_per_w", self.heat.resistance())],
        };
        units.chain([board, run, heat]).collect()
    }
}

/// To nine decimals, which every reader of JSON gives back exactly: a replay must not differ in the last bit.
fn rounded(value: f64) -> f64 {
    if value.abs() < 1e6 { (value * 1e9).round() / 1e9 } else { value }
}

fn round_meter(meter: Meter) -> Meter {
    Meter { error: rounded(meter.error), ..meter }
}

fn sound_meter(meter: Meter) -> Meter {
    if meter.error >= 0.0 && meter.error.is_finite() { round_meter(meter) } else { Meter::default() }
}
