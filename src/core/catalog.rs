//! What there is to choose from: the board's units and clock domains, the models' variants, and what
//! is known of every variant on every unit.

use crate::units::{Bytes, Kilohertz, Microwatts, MilliCelsius, Nanos, Ppm};
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The id as an index into the catalogue's table.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            /// The id of the entry at `index`.
            ///
            /// # Panics
            /// If the index does not fit; configuration bounds every table far below that.
            #[must_use]
            pub fn at(index: usize) -> Self {
                Self(<$inner>::try_from(index).expect("tables are bounded by the configuration"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// Index of a model in [`Catalog::models`].
    ModelId(u16));
id!(
    /// Index of a variant in [`Catalog::variants`]; unique over all models.
    VariantId(u16));
id!(
    /// Index of a processing unit in [`Board::units`].
    UnitId(u8));
id!(
    /// Index of a clock domain in [`Board::domains`].
    DomainId(u8));
id!(
    /// Index of a thermal zone in [`Board::zones`].
    ZoneId(u8));
id!(
    /// Index of a power rail in [`Board::rails`].
    RailId(u8));

/// Kind of processor. A manifest allows a variant on kinds, a board file names units of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitKind {
    /// General-purpose cores.
    Cpu,
    /// Graphics processor.
    Gpu,
    /// Neural accelerator (NPU, DLA, Hailo).
    Npu,
}

/// Busy power of a unit above its idle: `constant + linear*f + cubic*f^3` with `f` in GHz, the form that
/// fits the measured Jetson TX2 GPU rail within 0.17 W.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerModel {
    /// Watts drawn at any clock while busy.
    pub constant_w: f64,
    /// Watts per GHz.
    pub linear_w_per_ghz: f64,
    /// Watts per GHz cubed: dynamic power, as voltage rises with the clock.
    pub cubic_w_per_ghz3: f64,
}

impl PowerModel {
    /// Power at a clock.
    #[must_use]
    pub fn at(&self, clock: Kilohertz) -> Microwatts {
        let f = clock.as_ghz();
        Microwatts::from_watts(
            self.constant_w + self.linear_w_per_ghz * f + self.cubic_w_per_ghz3 * f * f * f,
        )
    }
}

/// One processing unit: a lane that runs one batch at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Name in configuration, metrics and responses, such as `cpu`, `cpu-2t`, `gpu`.
    pub name: String,
    /// Kind of processor.
    pub kind: UnitKind,
    /// Units of one group share their processor: at most one of them runs at a time.
    pub group: u8,
    /// The clock domain that sets its speed; `None` where nothing can be set or read.
    pub domain: Option<DomainId>,
    /// The memory clock domain that bounds its bandwidth.
    pub memory_domain: Option<DomainId>,
    /// Whether a running batch can be cancelled.
    pub preemptible: bool,
    /// Power added while it is busy, from the board file.
    pub busy_power: PowerModel,
    /// The rail that shows this power, where the board has one.
    pub rail: Option<RailId>,
}

/// A set of cores, a GPU or a memory controller that shares one clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    /// Name in configuration, metrics and responses.
    pub name: String,
    /// Operating points, ascending and without duplicates; empty if none could be found.
    pub opps: Vec<Kilohertz>,
    /// Time from writing a bound until the clock has followed.
    pub settle: Nanos,
    /// Memory clocks: power drawn for being at a clock, whoever runs.
    #[serde(default)]
    pub held_power: PowerModel,
}

/// A thermal zone and the trip points that matter to the scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// The zone's `type`, by which it is found.
    pub name: String,
    /// Where the kernel or firmware begins to throttle.
    pub passive: MilliCelsius,
    /// Where the board shuts down.
    pub critical: MilliCelsius,
}

/// A power rail with a sensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rail {
    /// Label of the rail, as the sensor names it.
    pub name: String,
    /// Whether this rail carries the whole board's input power.
    pub is_input: bool,
}

/// Two-node thermal model of the hottest zone: die over heatsink over ambient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ThermalModel {
    /// Die to heatsink, kelvin per watt.
    pub fast_k_per_w: f64,
    /// Time constant of the die.
    pub fast_tau_s: f64,
    /// Heatsink to ambient, kelvin per watt.
    pub slow_k_per_w: f64,
    /// Time constant of the heatsink.
    pub slow_tau_s: f64,
}

impl ThermalModel {
    /// The same board where heat flows `factor` times as fast, as on a simulated board in a hurry.
    #[must_use]
    pub fn sped_up(self, factor: f64) -> Self {
        Self { fast_tau_s: self.fast_tau_s / factor, slow_tau_s: self.slow_tau_s / factor, ..self }
    }
}

/// The board as the core sees it: names, limits and models, no paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Board {
    /// Name of the board file.
    pub name: String,
    /// Processing units.
    pub units: Vec<Unit>,
    /// Clock domains.
    pub domains: Vec<Domain>,
    /// Thermal zones; may be empty.
    pub zones: Vec<Zone>,
    /// Power rails; may be empty.
    pub rails: Vec<Rail>,
    /// Power of the whole board with nothing running.
    pub idle_power: Microwatts,
    /// Thermal model used for prediction.
    pub thermal: ThermalModel,
}

/// Where a figure comes from. Ordered from the least to the most trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// A wide guess, used until a profile exists.
    Conservative,
    /// Computed from a model of the board.
    Modelled,
    /// Measured on this device.
    Measured,
}

/// Latency of one variant on one unit: `t(f, n) = ((a(n)/f)^p + b(n)^p)^(1/p)` with
/// `a(n) = compute * (1 + marginal*(n-1))`, likewise `b`, plus a fixed overhead per run.
/// The p-norm roofline fits the measured TX2 grids with at most 1.6 % error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Roofline {
    /// Time per item at 1 GHz if only compute bound, seconds.
    pub compute_s_ghz: f64,
    /// Time per item if only memory bound, seconds.
    pub memory_s: f64,
    /// Sharpness of the corner, in [1.5, 4].
    pub p: f64,
    /// Time per run that neither clock nor batch changes, seconds.
    pub overhead_s: f64,
    /// Cost of each further item in a batch, as a share of the first.
    pub marginal: f64,
    /// How the memory roof moves with the memory clock: by `(highest/present)^memory_elasticity`. One where the
    /// clock is all that bounds it; 0.8 to 0.95 on the measured TX2 grids.
    #[serde(default = "proportional")]
    pub memory_elasticity: f64,
}

fn proportional() -> f64 {
    1.0
}

impl Roofline {
    /// The memory roof of one item with the memory clock at a share of its highest, seconds.
    #[must_use]
    pub fn memory_s_at(&self, memory_share: f64) -> f64 {
        // Most boards have no memory clock to set: no power to take.
        if memory_share == 1.0 {
            self.memory_s
        } else {
            self.memory_s * memory_share.powf(-self.memory_elasticity)
        }
    }

    /// The roofline as it is with the memory clock at a share of its highest.
    #[must_use]
    pub fn with_memory_at(self, memory_share: f64) -> Self {
        Self { memory_s: self.memory_s_at(memory_share), ..self }
    }

    /// Expected latency of a batch of `items` at `clock`, with the memory clock at its highest; a zero clock counts
    /// as 1 GHz (no clock known).
    #[must_use]
    pub fn latency(&self, clock: Kilohertz, items: u32) -> Nanos {
        let f = if clock == Kilohertz::ZERO { 1.0 } else { clock.as_ghz() };
        let scale = 1.0 + self.marginal * f64::from(items.saturating_sub(1));
        let compute = self.compute_s_ghz * scale / f;
        let memory = self.memory_s * scale;
        Nanos::from_secs_f64(
            self.overhead_s + (compute.powf(self.p) + memory.powf(self.p)).powf(1.0 / self.p),
        )
    }
}

/// What is known of one variant on one unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Latency model.
    pub latency: Roofline,
    /// Relative spread of the latency residuals (standard deviation over mean).
    pub spread: f64,
    /// Where the latency comes from.
    pub latency_source: Provenance,
    /// Busy power relative to the unit's power model (1.0 = as the board file says).
    pub power_scale: f64,
    /// Where the power comes from.
    pub power_source: Provenance,
    /// Memory that the loaded session holds.
    pub footprint: Bytes,
}

/// One compressed form of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Name within the model.
    pub name: String,
    /// The model it belongs to.
    pub model: ModelId,
    /// Accuracy on the manifest's data, as a share.
    pub accuracy: Ppm,
    /// Per unit of the board: its profile, or `None` where the variant may not run (kind not allowed, or
    /// refused by the profiler).
    pub profiles: Vec<Option<Profile>>,
}

/// A model and its variants, the reference variant first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Name that requests use.
    pub name: String,
    /// Its variants, the reference first.
    pub variants: Vec<VariantId>,
    /// Largest batch, in items, that one run may hold.
    pub max_batch: u32,
}

/// Everything that can be chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// The board.
    pub board: Board,
    /// Models by [`ModelId`].
    pub models: Vec<Model>,
    /// Variants by [`VariantId`].
    pub variants: Vec<Variant>,
}
