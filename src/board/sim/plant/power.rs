//! Power, energy and heat of the plant, and the firmware's answer to heat.

use super::Plant;
use crate::board::sim::clock::Domain;
use crate::board::sim::heat::Heat;
use crate::board::sim::spec::{Driver, PlantZone, RailSource};
use crate::core::catalog::RailId;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microjoules, MilliCelsius, Nanos};
use std::sync::Arc;

impl Plant {
    pub(super) fn refresh_power(&mut self) {
        let spec = Arc::clone(&self.spec);
        for (watts, rail) in self.cold_w.iter_mut().zip(&spec.rails) {
            *watts = rail.base_w;
        }
        let gain = 1.0 + spec.conversion_loss;
        for run in &mut self.runs {
            run.watts = 0.0;
        }
        for load in &spec.loads {
            match load.driver {
                Driver::Domain(id) => {
                    let domain = &self.domains[id.index()];
                    let held = load.watts.at(domain.current().as_f64());
                    self.cold_w[load.rail] += held;
                    let above_lowest = held - load.watts.at(domain.lowest().as_f64());
                    let owns = |run: &&mut super::Run| spec.units[run.unit.index()].domain == Some(id);
                    for run in self.runs.iter_mut().filter(owns) {
                        run.watts += above_lowest * gain;
                    }
                }
                Driver::Unit(id) => {
                    let clock = self.unit_clock(id).map_or(1e6, Kilohertz::as_f64);
                    for run in self.runs.iter_mut().filter(|run| run.unit == id) {
                        let busy = load.watts.at(clock) * run.activity;
                        self.cold_w[load.rail] += busy;
                        run.watts += busy * gain;
                    }
                }
            }
        }
    }

    /// Power of each rail now, leakage included, W.
    #[must_use]
    pub fn rail_watts(&self) -> Vec<f64> {
        (0..self.cold_w.len()).map(|rail| self.rail_w(rail)).collect()
    }

    /// Energy of each physical rail since power-on, J.
    #[must_use]
    pub fn rail_joules(&self) -> &[f64] {
        &self.rail_j
    }

    /// What an energy counter on a sensor has counted since power-on, in microjoules.
    #[must_use]
    pub fn sensor_microjoules(&self, rail: RailId) -> u64 {
        let joules = match self.spec.sensors[rail.index()].source {
            RailSource::Input => self.stats.input_j,
            RailSource::Rail(index) => self.rail_j[index],
        };
        Microjoules::from_f64(joules * 1e6).0
    }

    pub(super) fn rail_w(&self, rail: usize) -> f64 {
        self.cold_w[rail] + self.spec.rails[rail].leakage_watts(self.heat.die_c)
    }

    /// Power through the board's input now, W.
    #[must_use]
    pub fn input_watts(&self) -> f64 {
        let rails: f64 = (0..self.cold_w.len()).map(|rail| self.rail_w(rail)).sum();
        rails * (1.0 + self.spec.conversion_loss) + self.extra_w
    }

    /// Temperatures of the die and the heatsink, true.
    #[must_use]
    pub const fn heat(&self) -> Heat {
        self.heat
    }

    /// Puts both nodes at a temperature: the start of a comparison.
    pub fn preheat(&mut self, heat: Heat) {
        self.heat = heat;
        self.stats.hottest = self.stats.hottest.max(self.hottest());
    }

    pub(super) fn integrate(&mut self, until: Timestamp) {
        let speedup = self.spec.thermal_speedup;
        let longest = Nanos::from_secs_f64((self.spec.thermal.fast_tau_s / speedup / 10.0).clamp(1e-3, 0.5));
        let mut from = self.now;
        while from < until {
            let to = from.after(longest).min(until);
            let dt = to.since(from).as_secs_f64();
            self.meter(to.since(from), dt);
            let watts = self.draw_w;
            let slow = self.sink_resistance();
            self.heat.step(&self.spec.thermal, watts, self.ambient_c, slow, dt * speedup);
            from = to;
        }
    }

    fn meter(&mut self, span: Nanos, dt: f64) {
        let blend = if self.spec.rail_average_s > 0.0 { (-dt / self.spec.rail_average_s).exp() } else { 0.0 };
        let mut rails = 0.0;
        for rail in 0..self.cold_w.len() {
            let watts = self.rail_w(rail);
            rails += watts;
            self.rail_j[rail] += watts * dt;
            self.shown_w[rail] = watts + (self.shown_w[rail] - watts) * blend;
        }
        let input = rails * (1.0 + self.spec.conversion_loss) + self.extra_w;
        self.shown_input_w = input + (self.shown_input_w - input) * blend;
        self.draw_w = input;
        self.stats.rails_j += rails * dt;
        self.stats.input_j += input * dt;
        if let Some(battery) = self.spec.battery {
            let full = battery.capacity_wh * 3600.0;
            self.battery_j = (self.battery_j - (input - self.charger_w) * dt).clamp(0.0, full);
        }
        for run in &mut self.runs {
            run.energy_j += run.watts * dt;
        }
        let hottest = self.hottest();
        self.stats.hottest = self.stats.hottest.max(hottest);
        if self.any_zone(|zone, c| c >= zone.passive.as_celsius()) {
            self.stats.above_passive = self.stats.above_passive.saturating_add(span);
        }
        if self.any_zone(|zone, c| c >= zone.critical.as_celsius()) {
            self.stats.above_critical = self.stats.above_critical.saturating_add(span);
        }
        if self.capped() {
            self.stats.throttled = self.stats.throttled.saturating_add(span);
        }
    }

    /// Energy left in the battery, J; `None` if there is none.
    #[must_use]
    pub fn battery_joules(&self) -> Option<f64> {
        self.spec.battery.map(|_| self.battery_j)
    }

    /// Power drawn from the battery now, W; negative while it charges.
    #[must_use]
    pub fn battery_draw_w(&self) -> f64 {
        self.input_watts() - self.charger_w
    }

    fn sink_resistance(&self) -> f64 {
        match self.spec.fan {
            Some(fan) if self.fan_on && !self.fan_failed => fan.slow_k_per_w,
            _ => self.spec.thermal.slow_k_per_w,
        }
    }

    /// Whether the fan is turning.
    #[must_use]
    pub const fn fan_turns(&self) -> bool {
        self.fan_on && !self.fan_failed
    }

    /// The true temperature of a zone, in degrees Celsius.
    #[must_use]
    pub fn zone_celsius(&self, zone: usize) -> f64 {
        let spec = &self.spec.zones[zone];
        self.heat.sink_c + spec.die_share * (self.heat.die_c - self.heat.sink_c) + spec.offset_k
    }

    pub(super) fn hottest(&self) -> MilliCelsius {
        let zones = (0..self.spec.zones.len()).map(|zone| self.zone_celsius(zone));
        MilliCelsius::from_celsius(zones.fold(self.heat.die_c, f64::max))
    }

    pub(super) fn any_zone(&self, test: impl Fn(&PlantZone, f64) -> bool) -> bool {
        self.spec.zones.iter().enumerate().any(|(index, zone)| test(zone, self.zone_celsius(index)))
    }

    pub(super) fn capped(&self) -> bool {
        self.domains.iter().any(Domain::capped)
    }

    pub(super) fn near_trip(&self) -> bool {
        self.any_zone(|zone, c| c >= zone.passive.as_celsius() - 5.0)
    }

    /// One round of the firmware's thermal control: at the critical trip the lowest clocks, at the passive
    /// trip one operating point down, well below it one up; and the fan.
    pub(super) fn tick(&mut self) {
        let (now, hysteresis) = (self.now, self.spec.throttle_hysteresis_k);
        if let Some(fan) = self.spec.fan {
            self.fan_on = self.heat.die_c >= if self.fan_on { fan.off_c } else { fan.on_c };
        }
        if self.any_zone(|zone, c| c >= zone.critical.as_celsius()) {
            self.domains.iter_mut().for_each(|domain| domain.slam(now));
        } else if self.any_zone(|zone, c| c >= zone.passive.as_celsius()) {
            self.domains.iter_mut().for_each(|domain| domain.throttle(now));
        } else if !self.any_zone(|zone, c| c >= zone.passive.as_celsius() - hysteresis) {
            self.domains.iter_mut().filter(|domain| domain.capped()).for_each(|domain| domain.release(now));
        }
    }
}
