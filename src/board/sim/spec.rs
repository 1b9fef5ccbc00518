//! The simulated board behind a board file: [`BoardSpec::plant`], validated.

use super::curve::{Curve, Grid};
use super::heat::HeatPath;
pub use super::raw::{Battery, Contention, Fan, Noise};
use super::raw::{RawDomain, RawGrid, RawLoad, RawRail, RawScalars, RawThermal, RawUnit, RawZone};
use super::work::{GridId, MeasuredNetwork, Precision};
use crate::board::spec::{BoardSpec, DomainInterface, RailInterface};
use crate::core::catalog::{Board, DomainId, UnitId};
use crate::units::{Bytes, Kilohertz, MilliCelsius, Nanos};
use serde::de::DeserializeOwned;

/// What is wrong with the `[plant]` table of a board file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("board {board}: {key}: {problem}")]
pub struct PlantSpecError {
    /// Name of the board.
    pub board: String,
    /// The key, with the entry's name or index.
    pub key: String,
    /// What was found there, and what would be right.
    pub problem: String,
}

/// A clock domain of the plant, by [`DomainId`] of the board file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlantDomain {
    /// Name.
    pub name: String,
    /// The kernel interface whose semantics it has.
    pub interface: DomainInterface,
    /// Operating points, ascending, at least one.
    pub opps: Vec<Kilohertz>,
    /// Time until a new clock is in force.
    pub settle: Nanos,
    /// Governor at power-on.
    pub governor: String,
    /// Governors that the kernel offers.
    pub governors: Vec<String>,
    /// Whether the firmware lowers it when the board is too hot.
    pub throttled: bool,
    /// Device name in sysfs: `17000000.gp10b`, or the policy's first CPU.
    pub device: String,
    /// CPUs of a cpufreq policy, as `related_cpus` lists them.
    pub cpus: String,
}

/// A processor of the plant, by [`UnitId`] of the board file.
#[derive(Debug, Clone, PartialEq)]
pub struct PlantUnit {
    /// Name.
    pub name: String,
    /// Units of one group share their processor.
    pub group: String,
    /// Its clock domain.
    pub domain: Option<DomainId>,
    /// Its memory clock domain.
    pub memory_domain: Option<DomainId>,
    pub(super) fp32: f64,
    pub(super) fp16: f64,
    pub(super) int8: f64,
    pub(super) bandwidth_gb_s: f64,
    pub(super) p: f64,
    pub(super) overhead_s: f64,
    pub(super) marginal: f64,
}

impl PlantUnit {
    /// Multiply-accumulates per clock cycle.
    #[must_use]
    pub const fn macs_per_cycle(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Fp32 => self.fp32,
            Precision::Fp16 => self.fp16,
            Precision::Int8 => self.int8,
        }
    }
}

/// A thermal zone of the plant.
#[derive(Debug, Clone, PartialEq)]
pub struct PlantZone {
    /// The zone's `type`.
    pub name: String,
    /// Where the firmware begins to throttle.
    pub passive: MilliCelsius,
    /// Where it forces the lowest clocks.
    pub critical: MilliCelsius,
    /// Position between heatsink (0) and die (1).
    pub die_share: f64,
    /// Constant offset in kelvin.
    pub offset_k: f64,
}

/// A physical rail.
#[derive(Debug, Clone, PartialEq)]
pub struct PlantRail {
    /// Name.
    pub name: String,
    /// Drawn always, W.
    pub base_w: f64,
    /// Leakage at `leakage_at_c`, W.
    pub leakage_w: f64,
    /// Temperature at which the leakage is given.
    pub leakage_at_c: f64,
    /// Kelvins for a factor of e.
    pub leakage_e_fold_k: f64,
    /// Voltage that its sensor shows, V.
    pub volts: f64,
}

/// What makes a load draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A unit while it is busy.
    Unit(UnitId),
    /// A clock domain, always.
    Domain(DomainId),
}

/// Power on a rail as a function of a clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Index of the physical rail.
    pub rail: usize,
    /// What makes it draw.
    pub driver: Driver,
    /// W over kHz.
    pub watts: Curve,
}

/// What a sensor of the board file ([`crate::core::catalog::RailId`]) sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RailSource {
    /// The board's input.
    Input,
    /// A physical rail.
    Rail(usize),
}

/// A sensor on a rail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RailSensor {
    /// Label.
    pub name: String,
    /// Kernel interface.
    pub interface: RailInterface,
    /// hwmon `name`.
    pub chip: String,
    /// What it sees.
    pub source: RailSource,
}

/// A validated plant. Tables are in the order of the board file, so that the core's ids index them.
#[derive(Debug, Clone, PartialEq)]
pub struct PlantSpec {
    /// Name of the board.
    pub board: String,
    /// What its device tree calls it; none where it has none.
    pub compatible: Vec<String>,
    /// Factor on the work of every run that is not a measured network, so that small demonstration
    /// models load the board as full-size networks would. 1 = as it is.
    pub work_scale: f64,
    /// Factor by which heat flows faster than on the real board, so that a box warms in a minute
    /// instead of ten. 1 = as it is. Power, energy and latency are not touched.
    pub thermal_speedup: f64,
    /// Ambient temperature at the start.
    pub ambient_c: f64,
    /// Share lost between the board's input and its rails.
    pub conversion_loss: f64,
    /// Share of a unit's busy power still drawn while it waits for memory.
    pub stall_power: f64,
    /// Period of the firmware's thermal control, already divided by `thermal_speedup`.
    pub throttle_period: Nanos,
    /// Distance below the passive trip at which a cap is released.
    pub throttle_hysteresis_k: f64,
    /// Idle time after which a dynamic governor lets the clock fall to its lower bound.
    pub governor_idle: Nanos,
    /// Averaging time of the rail sensors.
    pub rail_average_s: f64,
    /// Relative noise of the rail sensors.
    pub rail_noise: f64,
    /// Resolution of the zones; 0 = 1 m degC.
    pub zone_step_c: f64,
    /// Voltage of the board's input.
    pub input_volts: f64,
    /// Whether the tree has a Raspberry Pi's `get_throttled`.
    pub pi_firmware: bool,
    /// All memory.
    pub memory: Bytes,
    /// Memory taken before any model is loaded.
    pub memory_used: Bytes,
    /// Spread of latencies.
    pub noise: Noise,
    /// Slowdown by other busy units.
    pub contention: Contention,
    /// Thermal path, in real seconds.
    pub thermal: HeatPath,
    /// Temperature of everything at the start; `None` = the steady state of the idle board.
    pub start_c: Option<f64>,
    /// The fan.
    pub fan: Option<Fan>,
    /// The battery.
    pub battery: Option<Battery>,
    /// Clock domains.
    pub domains: Vec<PlantDomain>,
    /// Processors.
    pub units: Vec<PlantUnit>,
    /// Thermal zones.
    pub zones: Vec<PlantZone>,
    /// Physical rails.
    pub rails: Vec<PlantRail>,
    /// Loads on them.
    pub loads: Vec<Load>,
    /// Sensors.
    pub sensors: Vec<RailSensor>,
    /// Measured networks.
    pub grids: Vec<MeasuredNetwork>,
}

impl PlantSpec {
    /// Most entries of one list in the table.
    pub const MAX_ENTRIES: usize = 64;

    /// The plant of a board file.
    ///
    /// # Errors
    /// If the file has no `[plant]`, or the first thing that is wrong in it.
    pub fn from_board(board: &BoardSpec) -> Result<Self, PlantSpecError> {
        let Some(table) = &board.plant else {
            return Err(PlantSpecError {
                board: board.name.clone(),
                key: "plant".to_owned(),
                problem: "missing; a simulated board needs a [plant] table".to_owned(),
            });
        };
        let mut reader = Reader { board, table: table.clone() };
        let domains = reader.domains()?;
        let units = reader.units()?;
        let zones = reader.zones()?;
        let rails = reader.rails()?;
        let loads = reader.loads(&rails)?;
        let sensors = reader.sensors(&rails)?;
        let grids = reader.grids()?;
        let thermal = reader.thermal()?;
        let (noise, contention, fan, battery) = reader.extras(thermal.0)?;
        let scalars = reader.scalars()?;
        Ok(Self {
            board: board.name.clone(),
            compatible: board.compatible.clone(),
            work_scale: scalars.work_scale,
            thermal_speedup: scalars.thermal_speedup,
            ambient_c: scalars.ambient_c,
            conversion_loss: scalars.conversion_loss,
            stall_power: scalars.stall_power,
            throttle_period: Nanos::from_secs_f64(scalars.throttle_period_s / scalars.thermal_speedup),
            throttle_hysteresis_k: scalars.throttle_hysteresis_k,
            governor_idle: Nanos::from_secs_f64(scalars.governor_idle_ms / 1e3),
            rail_average_s: scalars.rail_average_ms / 1e3,
            rail_noise: scalars.rail_noise,
            zone_step_c: scalars.zone_step_c,
            input_volts: scalars.input_volts,
            pi_firmware: scalars.pi_firmware,
            memory: Bytes(scalars.memory_mb << 20),
            memory_used: Bytes(scalars.memory_used_mb << 20),
            noise,
            contention,
            thermal: thermal.0,
            start_c: thermal.1,
            fan,
            battery,
            domains,
            units,
            zones,
            rails,
            loads,
            sensors,
            grids,
        })
    }

    /// The same board with heat flowing `factor` times as fast, for demonstrations that cannot wait.
    ///
    /// # Errors
    /// If the factor is not from 1 to 1000.
    pub fn with_thermal_speedup(mut self, factor: f64) -> Result<Self, PlantSpecError> {
        check(&self.board, "thermal_speedup", factor, 1.0, 1000.0)?;
        let real_period = self.throttle_period.as_secs_f64() * self.thermal_speedup;
        self.throttle_period = Nanos::from_secs_f64(real_period / factor);
        self.thermal_speedup = factor;
        Ok(self)
    }

    /// The same board with another factor on the work of every run.
    ///
    /// # Errors
    /// If the factor is not from 0.001 to 1 000 000.
    pub fn with_work_scale(mut self, factor: f64) -> Result<Self, PlantSpecError> {
        check(&self.board, "work_scale", factor, 1e-3, 1e6)?;
        self.work_scale = factor;
        Ok(self)
    }

    /// The measured network of that name.
    #[must_use]
    pub fn grid_named(&self, name: &str) -> Option<GridId> {
        let index = self.grids.iter().position(|grid| grid.name == name)?;
        u16::try_from(index).ok().map(GridId)
    }

    /// The domain of that name.
    #[must_use]
    pub fn domain_named(&self, name: &str) -> Option<DomainId> {
        self.domains.iter().position(|domain| domain.name == name).map(DomainId::at)
    }

    /// The unit of that name.
    #[must_use]
    pub fn unit_named(&self, name: &str) -> Option<UnitId> {
        self.units.iter().position(|unit| unit.name == name).map(UnitId::at)
    }

    /// Fills in the operating points that the board file leaves to the kernel: on a simulated board the
    /// plant knows them.
    pub fn complete(&self, board: &mut Board) {
        for (domain, plant) in board.domains.iter_mut().zip(&self.domains) {
            if domain.opps.is_empty() {
                domain.opps.clone_from(&plant.opps);
            }
        }
    }
}

/// Takes the table apart, key by key, so that every error names its key.
struct Reader<'a> {
    board: &'a BoardSpec,
    table: toml::Table,
}

impl Reader<'_> {
    fn error(&self, key: impl Into<String>, problem: impl Into<String>) -> PlantSpecError {
        PlantSpecError { board: self.board.name.clone(), key: key.into(), problem: problem.into() }
    }

    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, PlantSpecError> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        value.try_into().map(Some).map_err(|e| self.error(format!("plant.{key}"), one_line(&e)))
    }

    fn take_list<T: DeserializeOwned>(&mut self, key: &str) -> Result<Vec<T>, PlantSpecError> {
        let values = match self.table.remove(key) {
            None => return Ok(Vec::new()),
            Some(toml::Value::Array(values)) => values,
            Some(_) => return Err(self.error(format!("plant.{key}"), format!("wanted [[plant.{key}]]"))),
        };
        if values.len() > PlantSpec::MAX_ENTRIES {
            let problem = format!("{} entries; at most {}", values.len(), PlantSpec::MAX_ENTRIES);
            return Err(self.error(format!("plant.{key}"), problem));
        }
        let entry = |(index, value): (usize, toml::Value)| {
            let name =
                value.get("name").and_then(toml::Value::as_str).map_or(index.to_string(), str::to_owned);
            value.try_into().map_err(|e| self.error(format!("plant.{key}[{name}]"), one_line(&e)))
        };
        values.into_iter().enumerate().map(entry).collect()
    }

    fn within(&self, key: &str, value: f64, low: f64, high: f64) -> Result<f64, PlantSpecError> {
        check(&self.board.name, key, value, low, high)
    }

    fn unit(&self, key: &str, name: &str) -> Result<UnitId, PlantSpecError> {
        let names: Vec<&str> = self.board.units.iter().map(|unit| unit.name.as_str()).collect();
        self.lookup(key, "unit", name, &names).map(UnitId::at)
    }

    fn domain(&self, key: &str, name: &str) -> Result<DomainId, PlantSpecError> {
        let names: Vec<&str> = self.board.domains.iter().map(|domain| domain.name.as_str()).collect();
        self.lookup(key, "domain", name, &names).map(DomainId::at)
    }

    fn lookup(&self, key: &str, what: &str, name: &str, names: &[&str]) -> Result<usize, PlantSpecError> {
        names.iter().position(|known| *known == name).ok_or_else(|| {
            let known = names.join(", ");
            self.error(format!("plant.{key}"), format!("no {what} `{name}`; the board has: {known}"))
        })
    }

    fn scalars(&mut self) -> Result<RawScalars, PlantSpecError> {
        // Sections have been taken out by now: what is left must be scalars.
        let rest = std::mem::take(&mut self.table);
        let raw: RawScalars = rest.try_into().map_err(|e| self.error("plant", one_line(&e)))?;
        for (key, value, low, high) in [
            ("work_scale", raw.work_scale, 1e-3, 1e6),
            ("thermal_speedup", raw.thermal_speedup, 1.0, 1000.0),
            ("ambient_c", raw.ambient_c, -40.0, 85.0),
            ("conversion_loss", raw.conversion_loss, 0.0, 1.0),
            ("stall_power", raw.stall_power, 0.0, 1.0),
            ("throttle_period_s", raw.throttle_period_s, 0.01, 60.0),
            ("throttle_hysteresis_k", raw.throttle_hysteresis_k, 0.0, 50.0),
            ("governor_idle_ms", raw.governor_idle_ms, 1.0, 10_000.0),
            ("rail_average_ms", raw.rail_average_ms, 0.0, 10_000.0),
            ("rail_noise", raw.rail_noise, 0.0, 0.5),
            ("zone_step_c", raw.zone_step_c, 0.0, 10.0),
            ("input_volts", raw.input_volts, 0.1, 1000.0),
        ] {
            self.within(key, value, low, high)?;
        }
        if raw.memory_mb > 1 << 24 || raw.memory_used_mb > raw.memory_mb {
            let problem =
                format!("{} of {} MB; wanted less used than there is", raw.memory_used_mb, raw.memory_mb);
            return Err(self.error("plant.memory_used_mb", problem));
        }
        Ok(raw)
    }

    fn thermal(&mut self) -> Result<(HeatPath, Option<f64>), PlantSpecError> {
        let model = self.board.thermal;
        let raw = self.take::<RawThermal>("thermal")?.unwrap_or(RawThermal {
            fast_k_per_w: model.fast_k_per_w,
            fast_tau_s: model.fast_tau_s,
            slow_k_per_w: model.slow_k_per_w,
            slow_tau_s: model.slow_tau_s,
            start_c: None,
        });
        let path = HeatPath {
            fast_k_per_w: self.within("thermal.fast_k_per_w", raw.fast_k_per_w, 1e-3, 100.0)?,
            fast_tau_s: self.within("thermal.fast_tau_s", raw.fast_tau_s, 0.01, 1e4)?,
            slow_k_per_w: self.within("thermal.slow_k_per_w", raw.slow_k_per_w, 1e-3, 100.0)?,
            slow_tau_s: self.within("thermal.slow_tau_s", raw.slow_tau_s, 0.1, 1e5)?,
        };
        if let Some(start) = raw.start_c {
            self.within("thermal.start_c", start, -40.0, 125.0)?;
        }
        Ok((path, raw.start_c))
    }

    #[allow(clippy::type_complexity, reason = "four optional sections, taken apart at the one call")]
    fn extras(
        &mut self,
        path: HeatPath,
    ) -> Result<(Noise, Contention, Option<Fan>, Option<Battery>), PlantSpecError> {
        let noise = self.take::<Noise>("noise")?.unwrap_or_default();
        self.within("noise.sigma", noise.sigma, 0.0, 1.0)?;
        self.within("noise.tail_probability", noise.tail_probability, 0.0, 1.0)?;
        self.within("noise.tail_min", noise.tail_min, 1.0, 100.0)?;
        self.within("noise.tail_max", noise.tail_max, noise.tail_min, 100.0)?;
        let contention = self.take::<Contention>("contention")?.unwrap_or_default();
        self.within("contention.compute", contention.compute, 0.0, 10.0)?;
        self.within("contention.memory", contention.memory, 0.0, 10.0)?;
        let fan = self.take::<Fan>("fan")?;
        if let Some(fan) = fan {
            self.within("fan.slow_k_per_w", fan.slow_k_per_w, 1e-3, path.slow_k_per_w)?;
            self.within("fan.on_c", fan.on_c, -40.0, 125.0)?;
            self.within("fan.off_c", fan.off_c, -40.0, fan.on_c)?;
        }
        let battery = self.take::<Battery>("battery")?;
        if let Some(battery) = battery {
            self.within("battery.capacity_wh", battery.capacity_wh, 0.01, 1e5)?;
            self.within("battery.start", battery.start, 0.0, 1.0)?;
            self.within("battery.voltage_v", battery.voltage_v, 0.1, 1000.0)?;
        }
        if battery.is_some() != self.board.battery {
            let problem = format!("the board file says battery = {}", self.board.battery);
            return Err(self.error("plant.battery", problem));
        }
        Ok((noise, contention, fan, battery))
    }
}

/// A number within bounds. Written so that NaN fails.
fn check(board: &str, key: &str, value: f64, low: f64, high: f64) -> Result<f64, PlantSpecError> {
    if value >= low && value <= high {
        return Ok(value);
    }
    let problem = format!("{value}; wanted {low} to {high}");
    Err(PlantSpecError { board: board.to_owned(), key: format!("plant.{key}"), problem })
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}

mod lists;
