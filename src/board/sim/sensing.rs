//! What the plant's sensors show: true values, averaged, rounded and noisy, or a fault.

use super::fault::{Active, ReadFault, Sensor};
use super::plant::Plant;
use super::spec::RailSource;
use crate::core::catalog::{DomainId, RailId, ZoneId};
use crate::core::event::{BatteryState, ClockState, MemoryState, Reading, Readings, SensorFault};
use crate::units::{Bytes, Kilohertz, Microjoules, Microwatts, MilliCelsius};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, StandardNormal};

/// Temperatures outside are no reading of a board at work.
const PLAUSIBLE_C: std::ops::RangeInclusive<f64> = -39.0..=150.0;

impl Plant {
    /// What a sensor would show without a fault: degrees Celsius, watts, kHz, joules.
    pub(super) fn shown(&self, sensor: Sensor) -> f64 {
        match sensor {
            Sensor::Zone(zone) => {
                let celsius = self.zone_celsius(zone.index());
                let step = self.spec.zone_step_c;
                if step > 0.0 { (celsius / step).round() * step } else { celsius }
            }
            Sensor::Rail(rail) => {
                let watts = match self.spec.sensors[rail.index()].source {
                    RailSource::Input => self.shown_input_w,
                    RailSource::Rail(index) => self.shown_w[index],
                };
                watts * (1.0 + self.spec.rail_noise * self.sensor_noise(rail))
            }
            Sensor::Domain(domain) => self.domains[domain.index()].current().as_f64(),
            Sensor::Battery => self.battery_j,
        }
    }

    /// Standard normal noise that depends on the moment alone, so that reading changes nothing.
    fn sensor_noise(&self, rail: RailId) -> f64 {
        let salt = (u64::from(rail.0) << 56) ^ self.now.0.wrapping_mul(0xd134_2543_de82_ef95);
        StandardNormal.sample(&mut Xoshiro256PlusPlus::seed_from_u64(self.seed ^ salt))
    }

    /// What a sensor shows at the moment the plant has been advanced to: degrees Celsius, watts, kHz,
    /// joules.
    ///
    /// # Errors
    /// The fault in force, if there is one.
    pub fn sense(&self, sensor: Sensor) -> Result<f64, ReadFault> {
        match self.faults.get(&sensor) {
            None => Ok(self.shown(sensor)),
            Some(Active::Value(value)) => Ok(*value),
            Some(Active::Read(fault)) => Err(fault.clone()),
        }
    }

    fn read(&self, sensor: Sensor) -> Reading<f64> {
        self.sense(sensor).map_err(|fault| SensorFault::from(&fault))
    }

    /// One sweep over all sensors, at the moment the plant has been advanced to.
    #[must_use]
    pub fn readings(&self) -> Readings {
        let zone = |index| {
            let celsius = self.read(Sensor::Zone(ZoneId::at(index)))?;
            if !PLAUSIBLE_C.contains(&celsius) {
                return Err(SensorFault::Implausible);
            }
            Ok(MilliCelsius::from_celsius(celsius))
        };
        let rail = |index| self.read(Sensor::Rail(RailId::at(index))).map(Microwatts::from_watts);
        let domain = |index| {
            let id = DomainId::at(index);
            let current = Kilohertz::from_f64(self.read(Sensor::Domain(id))?);
            Ok(ClockState { current, ..self.clock(id) })
        };
        Readings {
            zones: (0..self.spec.zones.len()).map(zone).collect(),
            rails: (0..self.spec.sensors.len()).map(rail).collect(),
            domains: (0..self.spec.domains.len()).map(domain).collect(),
            battery: self.battery(),
            memory: Ok(self.memory(Bytes::ZERO)),
            pressure: None,
        }
    }

    fn battery(&self) -> Option<Reading<BatteryState>> {
        let battery = self.spec.battery?;
        Some(self.read(Sensor::Battery).map(|joules| BatteryState {
            remaining: Microjoules::from_f64(joules * 1e6),
            full: Microjoules::from_f64(battery.capacity_wh * 3600.0 * 1e6),
            draw: Microwatts::from_watts(self.battery_draw_w()),
        }))
    }

    /// Memory of the simulated board, with `resident` taken by the daemon.
    #[must_use]
    pub fn memory(&self, resident: Bytes) -> MemoryState {
        let taken = self.spec.memory_used.saturating_add(resident);
        let (total, available) = (self.spec.memory, self.spec.memory.saturating_sub(taken));
        MemoryState { available, total, resident, limit: None, headroom: None }
    }
}
