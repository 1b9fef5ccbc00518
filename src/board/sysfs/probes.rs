//! Every kind of sensor as a [`Probe`].

use super::bank::{Probe, Value};
use super::battery::BatterySensor;
use super::clock::ClockSensor;
use super::drm::OwnGpuTime;
use super::hwmon::HwmonRail;
use super::iio::IioRail;
use super::load::LoadSensor;
use super::memory::MemorySensor;
use super::nvpmodel::PowerMode;
use super::overcurrent::OverCurrentSensor;
use super::powercap::EnergyRate;
use super::psi::PressureSensor;
use super::raspberry::{PmicSensor, ThrottledSensor, VoltageAlarm};
use super::root::{Page, SysfsError, SysfsRoot};
use super::thermal::ThermalSensor;
use crate::board::spec::{RailInterface, RailSpec};
use crate::time::Timestamp;
use crate::units::Microwatts;
use std::path::Path;

/// A rail, however it is read.
pub(crate) enum RailSensor {
    Hwmon(HwmonRail),
    Iio(IioRail),
    Powercap(EnergyRate),
}

impl RailSensor {
    /// The rail of a board file.
    pub(crate) fn find(root: &SysfsRoot, rail: &RailSpec) -> Result<Self, String> {
        match rail.interface {
            RailInterface::Hwmon => HwmonRail::find(root, &rail.chip, &rail.name).map(Self::Hwmon),
            RailInterface::Iio => IioRail::find(root, &rail.chip, &rail.name).map(Self::Iio),
            RailInterface::Powercap => EnergyRate::find(root, &rail.name).map(Self::Powercap),
        }
    }

    /// The power now.
    pub(crate) fn sample(&mut self, now: Timestamp, buffer: &mut Page) -> Result<Microwatts, SysfsError> {
        match self {
            Self::Hwmon(rail) => rail.sample(now, buffer),
            Self::Iio(rail) => rail.sample(buffer),
            Self::Powercap(rate) => rate.sample(now, buffer),
        }
    }
}

impl Probe for RailSensor {
    fn sample(&mut self, now: Timestamp, buffer: &mut Page) -> Result<Value, SysfsError> {
        RailSensor::sample(self, now, buffer).map(Value::Power)
    }

    fn source(&self) -> &Path {
        match self {
            Self::Hwmon(rail) => rail.source(),
            Self::Iio(rail) => rail.source(),
            Self::Powercap(rate) => rate.source(),
        }
    }
}

/// [`Probe`] by a sensor's own methods.
macro_rules! probes {
    ($($sensor:ty => $value:ident, $read:expr;)+) => {
        $(impl Probe for $sensor {
            fn sample(&mut self, now: Timestamp, buffer: &mut Page) -> Result<Value, SysfsError> {
                let read: fn(&mut $sensor, Timestamp, &mut Page) -> Result<_, SysfsError> = $read;
                read(self, now, buffer).map(Value::$value)
            }

            fn source(&self) -> &Path {
                <$sensor>::source(self)
            }
        })+
    };
}

probes! {
    ThermalSensor => Temperature, |sensor, _, buffer| sensor.sample(buffer);
    ClockSensor => Clock, |sensor, _, buffer| sensor.sample(buffer);
    BatterySensor => Battery, |sensor, _, buffer| sensor.sample(buffer);
    MemorySensor => Memory, |sensor, _, buffer| sensor.sample(buffer);
    PressureSensor => Pressure, |sensor, _, buffer| sensor.sample(buffer);
    LoadSensor => Load, |sensor, _, buffer| sensor.sample(buffer);
    OwnGpuTime => Load, |sensor, now, _| sensor.sample(now);
    OverCurrentSensor => OverCurrent, |sensor, _, buffer| sensor.sample(buffer);
    ThrottledSensor => Throttled, |sensor, _, buffer| sensor.sample(buffer);
    VoltageAlarm => UnderVoltage, |sensor, _, buffer| sensor.sample(buffer);
    PmicSensor => Power, |sensor, _, _| sensor.sample();
    PowerMode => Mode, |sensor, _, buffer| sensor.sample(buffer);
}
