//! How much power the device may draw: the smallest of the power cap, what the heat allows, and what makes
//! energy and battery last.

use super::{Core, DeviceCap};
use crate::core::catalog::{ThermalModel, UnitId};
use crate::core::energy::{BatteryAllowance, EnergyAllowance};
use crate::time::Timestamp;
use crate::units::{Microjoules, Microwatts, Nanos};

/// Share of the thermal margin by which a burst may warm the die above its heatsink's average.
const RIDE_SHARE: f64 = 0.5;

impl Core {
    /// The device's bucket fills with the smallest of the caps, less what the idle board takes.
    pub(super) fn update_caps(&mut self, now: Timestamp) {
        let idle = self.estimates.idle_power();
        let elapsed = now.since(self.budgets_since);
        let spent = self.ledger.board_energy.saturating_sub(self.energy_at_budgets);
        let (board, frugal) = (&self.catalog.board, self.frugal_power());
        let heat = self.thermal.allowance(now, &self.snapshot, &self.budgets, board, &self.estimates, frugal);
        let energy = self.budgets.energy.and_then(|allowance| allowance.power(spent, elapsed));
        let battery = self.budgets.battery.and_then(|battery| self.battery_cap(battery, elapsed));
        let caps = [
            (DeviceCap::Power, self.budgets.power_cap),
            (DeviceCap::Heat, heat),
            (DeviceCap::Energy, energy),
            (DeviceCap::Energy, battery),
        ];
        let tightest =
            caps.into_iter().filter_map(|(cap, power)| Some((cap, power?))).min_by_key(|&(_, power)| power);
        self.device_cap = tightest.map_or(DeviceCap::None, |(cap, _)| cap);
        let rate = tightest.map(|(_, power)| power.saturating_sub(idle).max(Microwatts::ZERO));
        match (self.device_cap, rate) {
            (DeviceCap::Heat, Some(rate)) => {
                self.ledger.cap_heat(rate, self.die_burst(), now);
            }
            _ => self.ledger.cap_device(rate, self.budgets.power_window, now),
        }
    }

    /// The energy of a burst that warms the die by its share of the margin, however little power the heatsink passes on.
    fn die_burst(&self) -> Microjoules {
        let ThermalModel { fast_k_per_w, fast_tau_s, .. } = self.catalog.board.thermal;
        let ride_k = self.budgets.temperature_margin.as_celsius().max(0.0) * RIDE_SHARE;
        Microjoules::from_f64(ride_k * fast_tau_s / fast_k_per_w.max(1e-3) * 1e6)
    }

    /// The power that spends the battery above its reserve evenly over the time left; once that is over the
    /// reserve alone decides. A battery that is not read any more has lost what the board took since.
    fn battery_cap(&self, battery: BatteryAllowance, elapsed: Nanos) -> Option<Microwatts> {
        let state = self.snapshot.battery.value?;
        let since = self.ledger.board_energy.saturating_sub(self.energy_at_battery);
        let reserve = Microjoules::from_f64(state.full.as_f64() * battery.reserve.as_fraction());
        let total = state.remaining.saturating_sub(since).saturating_sub(reserve);
        let spent = (total == Microjoules::ZERO).then_some(Microwatts::ZERO);
        let even = EnergyAllowance { total, lasting: battery.lasting }.power(Microjoules::ZERO, elapsed);
        spent.or(even)
    }

    /// The least power above idle with which anything can run continuously.
    fn frugal_power(&self) -> Microwatts {
        let units = (0..self.lanes.len()).map(UnitId::at);
        let lowest = units.map(|unit| {
            self.catalog.board.units[unit.index()].busy_power.at(self.costs.points(unit).at(0).clock)
        });
        lowest.min().unwrap_or(Microwatts::ZERO)
    }
}
