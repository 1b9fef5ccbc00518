//! What a run costs: work, and how long it takes on a unit.

use super::curve::{Grid, locate};
use crate::core::catalog::UnitId;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microjoules, Nanos};
use serde::{Deserialize, Serialize};

/// Number format of a variant's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    Fp32,
    /// Half precision.
    Fp16,
    /// Eight-bit integers.
    Int8,
}

impl Precision {
    /// The precision that a manifest means; an unknown word counts as single precision, the slowest.
    #[must_use]
    pub fn from_manifest(word: &str) -> Self {
        match word {
            "fp16" | "bf16" | "float16" => Self::Fp16,
            "int8" | "uint8" | "int4" => Self::Int8,
            _ => Self::Fp32,
        }
    }
}

/// Index of a measured network in [`super::PlantSpec::grids`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GridId(pub u16);

/// The work of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Multiply-accumulates per item.
    pub macs: u64,
    /// Bytes read and written per item.
    pub traffic_bytes: u64,
    /// Number format.
    pub precision: Precision,
    /// Items in the batch, at least 1.
    pub items: u32,
    /// A measured network whose latency table is used instead of the roofline of `macs` and
    /// `traffic_bytes`.
    #[serde(default)]
    pub grid: Option<GridId>,
}

impl Work {
    /// Work of a variant by its size.
    #[must_use]
    pub const fn of_size(macs: u64, traffic_bytes: u64, precision: Precision, items: u32) -> Self {
        Self { macs, traffic_bytes, precision, items, grid: None }
    }

    /// One batch of a measured network.
    #[must_use]
    pub const fn measured(grid: GridId, items: u32) -> Self {
        Self { macs: 0, traffic_bytes: 0, precision: Precision::Fp32, items, grid: Some(grid) }
    }
}

/// A run on the plant; given out by [`super::Plant::begin`], never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u64);

/// A run that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The run.
    pub run: RunId,
    /// Where it ran.
    pub unit: UnitId,
    /// When it began.
    pub started: Timestamp,
    /// When it ended, exactly: not later than the moment the plant was advanced to.
    pub finished: Timestamp,
    /// What it cost above the idle board: the unit's busy power, and the power of its own clock domain
    /// above that domain's lowest clock, at the board's input.
    pub energy: Microjoules,
    /// The unit's clock at the end; zero if it has no clock domain.
    pub clock: Kilohertz,
}

impl Finished {
    /// How long the run took.
    #[must_use]
    pub const fn latency(&self) -> Nanos {
        self.finished.since(self.started)
    }
}

/// The p-norm roofline: `t = ((k_c a/f)^p + (k_m b)^p)^(1/p)`.
///
/// It fits the measured TX2 grids within 1.6 % where `a/f + b` is off by up to 12.9 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Roofline {
    /// Seconds if only compute bound.
    pub(super) compute_s: f64,
    /// Seconds if only memory bound.
    pub(super) memory_s: f64,
    /// Sharpness of the corner.
    pub(super) p: f64,
}

impl Roofline {
    pub(super) fn seconds(&self, slow: Slowdown) -> f64 {
        let compute = (self.compute_s * slow.compute).powf(self.p);
        let memory = (self.memory_s * slow.memory).powf(self.p);
        (compute + memory).powf(self.p.recip())
    }
}

/// Factors by which others slow a run down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slowdown {
    /// On the time that computing takes.
    pub compute: f64,
    /// On the time that memory takes.
    pub memory: f64,
}

impl Slowdown {
    /// Nobody else.
    pub const NONE: Self = Self { compute: 1.0, memory: 1.0 };
}

/// A network whose latency was measured on the real board.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredNetwork {
    /// Name, such as `vgg19`.
    pub name: String,
    /// The unit it was measured on.
    pub unit: UnitId,
    pub(super) grid: Grid,
    /// Roofline fitted to the grid: `a` in s x GHz, `b` in s per memory clock. It splits a slowdown into
    /// its compute and memory parts; the latency itself comes from the grid.
    pub(super) compute_s_ghz: f64,
    pub(super) memory_s: Vec<f64>,
    pub(super) p: f64,
}

impl MeasuredNetwork {
    /// The fitted roofline at a pair of clocks in kHz.
    pub(super) fn roofline(&self, khz: f64, memory_khz: f64) -> Roofline {
        let (column, share) = locate(self.grid.memory_clocks(), memory_khz, |f| f);
        let next = (column + 1).min(self.memory_s.len() - 1);
        let memory_s = self.memory_s[column] + (self.memory_s[next] - self.memory_s[column]) * share;
        Roofline { compute_s: self.compute_s_ghz / (khz / 1e6), memory_s, p: self.p }
    }

    /// Measured seconds, slowed down in the proportion that the fitted roofline gives.
    pub(super) fn seconds(&self, khz: f64, memory_khz: f64, slow: Slowdown) -> f64 {
        let fitted = self.roofline(khz, memory_khz);
        self.grid.seconds(khz, memory_khz) * fitted.seconds(slow) / fitted.seconds(Slowdown::NONE)
    }

    /// The memory clock given, or the highest of the grid.
    pub(super) fn memory_clock_or_highest(&self, memory_khz: Option<f64>) -> f64 {
        memory_khz.unwrap_or_else(|| self.grid.memory_clocks().iter().copied().fold(0.0, f64::max))
    }

    /// Latency of one item in seconds by the fitted roofline, for comparison with the grid.
    #[must_use]
    pub fn fitted_seconds(&self, clock: Kilohertz, memory_clock: Kilohertz) -> f64 {
        self.roofline(clock.as_f64(), memory_clock.as_f64()).seconds(Slowdown::NONE)
    }

    /// Latency of one item in seconds as measured, interpolated between the points.
    #[must_use]
    pub fn measured_seconds(&self, clock: Kilohertz, memory_clock: Kilohertz) -> f64 {
        self.grid.seconds(clock.as_f64(), memory_clock.as_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roofline_with_equal_roofs_and_p_2_is_root_two_times_one_of_them() {
        let roofline = Roofline { compute_s: 1.0, memory_s: 1.0, p: 2.0 };
        assert!((roofline.seconds(Slowdown::NONE) - 2.0_f64.sqrt()).abs() < 1e-12);
        // Memory three times slower: sqrt(1 + 9).
        let slow = Slowdown { compute: 1.0, memory: 3.0 };
        assert!((roofline.seconds(slow) - 10.0_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn words_of_manifests_become_precisions() {
        let words = ["fp32", "fp16", "int8", "posit"];
        let expected = [Precision::Fp32, Precision::Fp16, Precision::Int8, Precision::Fp32];
        assert_eq!(words.map(Precision::from_manifest), expected);
    }
}
