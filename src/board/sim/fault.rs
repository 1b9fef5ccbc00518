//! Faults of sensors and actuators, as a disturbance script or a test sets them.

use crate::board::spec::DomainInterface;
use crate::core::catalog::{DomainId, RailId, ZoneId};
use crate::core::event::SensorFault;
use crate::units::Kilohertz;
use serde::{Deserialize, Serialize};

/// A sensor of the plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Sensor {
    /// A thermal zone.
    Zone(ZoneId),
    /// A rail.
    Rail(RailId),
    /// A domain's clock.
    Domain(DomainId),
    /// The battery.
    Battery,
}

/// What is wrong with a sensor.
#[derive(Debug, Clone, PartialEq)]
pub enum SensorFailure {
    /// The node is gone: ENOENT.
    Missing,
    /// ENODATA.
    NoData,
    /// EBUSY.
    Busy,
    /// EIO.
    Io,
    /// The node holds this text.
    Text(String),
    /// It shows what it showed when the fault began.
    Stuck,
    /// It shows this value: degrees Celsius, watts, kHz, or the battery's joules.
    Value(f64),
}

/// What is wrong with an actuator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActuatorFault {
    /// Every write fails with EIO.
    Refuse,
    /// The upper bound never gets above this.
    Clamp(Kilohertz),
}

/// What a read of a sensor gives instead of a value. The tree turns it into an errno or a text, the
/// telemetry into a [`SensorFault`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFault {
    /// ENOENT.
    Missing,
    /// ENODATA.
    NoData,
    /// EBUSY.
    Busy,
    /// EIO.
    Io,
    /// This text.
    Text(String),
}

impl From<&ReadFault> for SensorFault {
    fn from(fault: &ReadFault) -> Self {
        match fault {
            ReadFault::Missing => Self::Missing,
            ReadFault::NoData => Self::NoData,
            ReadFault::Busy => Self::Busy,
            ReadFault::Io => Self::Io,
            ReadFault::Text(_) => Self::Garbled,
        }
    }
}

/// A sensor's fault in force, with the value it is stuck at.
#[derive(Debug, Clone)]
pub(super) enum Active {
    Read(ReadFault),
    Value(f64),
}

impl Active {
    /// `shown` is what the sensor shows when the fault begins.
    pub(super) fn begin(failure: &SensorFailure, shown: f64) -> Self {
        match failure {
            SensorFailure::Missing => Self::Read(ReadFault::Missing),
            SensorFailure::NoData => Self::Read(ReadFault::NoData),
            SensorFailure::Busy => Self::Read(ReadFault::Busy),
            SensorFailure::Io => Self::Read(ReadFault::Io),
            SensorFailure::Text(text) => Self::Read(ReadFault::Text(text.clone())),
            SensorFailure::Stuck => Self::Value(shown),
            SensorFailure::Value(value) => Self::Value(*value),
        }
    }
}

/// The kernel's unit of a domain's clock nodes, in kHz: cpufreq shows kHz, devfreq Hz.
#[must_use]
pub const fn node_units_per_khz(interface: DomainInterface) -> u64 {
    match interface {
        DomainInterface::Cpufreq => 1,
        DomainInterface::Devfreq => 1000,
    }
}
