//! The board: what it has (the board file), what it says (telemetry) and what can be set (actuation).

mod check;
pub(crate) mod cpus;
pub mod detect;
pub mod panel;
pub mod restore;
pub mod shipped;
pub mod sim;
pub mod spec;
pub mod sysfs;

use crate::core::event::{ApplyReport, Readings, Setpoints};

pub use check::Problem;
pub use spec::{BoardSpec, SpecError};

/// Reads the board.
pub trait Telemetry: Send {
    /// One sweep over all sensors. Never blocks for long, never fails as a whole.
    fn sample(&mut self) -> Readings;
}

/// Sets the board's clocks.
pub trait Actuator: Send {
    /// Tries every setpoint, reads each back, reports each.
    fn apply(&mut self, setpoints: &Setpoints) -> ApplyReport;
    /// Puts back what was found before the first [`Actuator::apply`].
    fn restore(&mut self) -> ApplyReport;
}
