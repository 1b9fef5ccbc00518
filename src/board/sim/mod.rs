//! The simulated board.
//!
//! [`Plant`] is the physics: power per rail, two thermal nodes, clocks that follow late, firmware that
//! throttles, a battery, and runs whose latency depends on the clocks in force. It is written apart from
//! the core's estimators and has effects that they do not model: leakage exponential in temperature,
//! contention between units, stalled power, heavy-tailed noise. It is deterministic from a seed and
//! knows no clock: time is an argument.
//!
//! Three depths:
//! 1. a simulator drives [`Plant`] in virtual time: [`Plant::begin`], [`Plant::next_event`],
//!    [`Plant::advance`], [`Plant::take_finished`], [`Plant::readings`], [`Plant::set_bounds`];
//! 2. [`SimBoard`] puts it on a real clock behind [`crate::board::Telemetry`],
//!    [`crate::board::Actuator`] and [`Accelerator`], inside the daemon;
//! 3. [`process`] serves it as a sysfs tree and an accelerator socket to other processes, so that the
//!    code for real boards runs against it.

mod accelerator;
mod board;
mod clock;
mod curve;
mod fault;
mod heat;
mod pace;
mod plant;
pub mod process;
mod raw;
mod script;
mod sensing;
mod spec;
mod work;

pub use accelerator::{Accelerator, SimCancel, SimError, SimResult, SimRun};
pub use board::{MemoryProbe, SimActuator, SimBoard, SimTelemetry};
pub use clock::{Bound, WriteError};
pub use curve::{Curve, Grid};
pub use fault::{ActuatorFault, ReadFault, Sensor, SensorFailure, node_units_per_khz};
pub use heat::{Heat, HeatPath};
pub use pace::Pace;
pub use plant::{Plant, PlantError, PlantStats};
pub use script::{Change, Script, ScriptError};
pub use spec::{
    Battery, Contention, Driver, Fan, Load, Noise, PlantDomain, PlantRail, PlantSpec, PlantSpecError,
    PlantUnit, PlantZone, RailSensor, RailSource,
};
pub use work::{Finished, GridId, MeasuredNetwork, Precision, RunId, Slowdown, Work};

#[cfg(test)]
mod tests;
