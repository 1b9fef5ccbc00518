//! How much power the device may draw: the smallest of the power cap, what the heat allows, and what makes
//! energy and battery last.

use super::{Core, DeviceCap};
use crate::core::catalog::UnitId;
use crate::core::energy::{BatteryAllowance, EnergyAllowance};
use crate::time::Timestamp;
use crate::units::{Microjoules, Microwatts, Nanos};

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
        // The die must not ride out a burst that only its heatsink could average: heat has a window of its own.
        let die = Nanos::from_secs_f64(self.catalog.board.thermal.fast_tau_s / 2.0);
        match (self.device_cap, rate) {
            (DeviceCap::Heat, Some(rate)) => {
                self.ledger.cap_heat(rate, self.budgets.power_window.min(die), now);
            }
            _ => self.ledger.cap_device(rate, self.budgets.power_window, now),
        }
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
