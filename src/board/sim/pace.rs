//! The plant's laws without its state: what a run takes and draws at given clocks under a given slowdown. The plant
//! itself computes with them, and so may whoever wants to know the truth in advance.

use super::spec::{Driver, Load, PlantRail, PlantSpec};
use super::work::{Roofline, Slowdown, Work};
use crate::core::catalog::{DomainId, UnitId};
use crate::units::Kilohertz;

/// How a run goes on under constant conditions, its noise apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Seconds that no clock and no batch changes.
    pub overhead_s: f64,
    /// Seconds of the first item.
    pub item_s: f64,
    /// The items of the run, each further one counted as the share of the first that it costs.
    pub items: f64,
    /// Share of the unit's busy power that is drawn: less than 1 while it waits for memory.
    pub activity: f64,
}

impl Pace {
    /// Seconds of the whole run.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.overhead_s + self.item_s * self.items
    }
}

impl PlantRail {
    /// Leakage with the die at a temperature, W. It grows exponentially; bounded, as silicon that hot is off.
    #[must_use]
    pub fn leakage_watts(&self, die_c: f64) -> f64 {
        let exponent = ((die_c - self.leakage_at_c) / self.leakage_e_fold_k).min(3.0);
        self.leakage_w * exponent.exp()
    }
}

impl PlantSpec {
    /// The slowdown of a run while `others` units are busy too, on top of a disturbance.
    #[must_use]
    pub fn beside(&self, disturbance: Slowdown, others: usize) -> Slowdown {
        let others = f64::from(u32::try_from(others).unwrap_or(u32::MAX));
        Slowdown {
            compute: disturbance.compute * (1.0 + self.contention.compute * others),
            memory: disturbance.memory * (1.0 + self.contention.memory * others),
        }
    }

    /// The pace of a run on a unit. `clock` is that of the unit's domain, `None` where it has none; `memory` likewise.
    ///
    /// # Panics
    /// If the board has no such unit or measured network.
    #[must_use]
    pub fn pace(
        &self,
        unit: UnitId,
        work: &Work,
        clock: Option<Kilohertz>,
        memory: Option<Kilohertz>,
        slow: Slowdown,
    ) -> Pace {
        let unit = &self.units[unit.index()];
        let clock = clock.map_or(1e6, Kilohertz::as_f64);
        let top = unit.memory_domain.and_then(|domain| self.domains[domain.index()].opps.last());
        let highest = top.map_or(1.0, |clock| clock.as_f64());
        let present = memory.map_or(1.0, Kilohertz::as_f64);
        let (item_s, unstalled) = match work.grid {
            Some(grid) => {
                let network = &self.grids[usize::from(grid.0)];
                // A grid without a memory domain to move along is read at its highest memory clock.
                let top = network.memory_clock_or_highest(top.map(|clock| clock.as_f64()));
                let at = if memory.is_some() { present } else { top };
                (network.seconds(clock, at, slow), network.seconds(clock, top, Slowdown::NONE))
            }
            None => {
                let macs = work.macs as f64 * self.work_scale;
                let bytes = work.traffic_bytes as f64 * self.work_scale;
                let roofline = |memory_clock: f64| Roofline {
                    compute_s: macs / (unit.macs_per_cycle(work.precision) * clock * 1e3),
                    memory_s: bytes / (unit.bandwidth_gb_s * 1e9 * memory_clock / highest),
                    p: unit.p,
                };
                (roofline(present).seconds(slow), roofline(highest).seconds(Slowdown::NONE))
            }
        };
        let share = if item_s > 0.0 { (unstalled / item_s).min(1.0) } else { 1.0 };
        Pace {
            overhead_s: unit.overhead_s,
            item_s,
            items: 1.0 + unit.marginal * f64::from(work.items.saturating_sub(1)),
            activity: self.stall_power + (1.0 - self.stall_power) * share,
        }
    }

    /// Power that a busy unit adds at the board's input when nothing holds it up, W.
    #[must_use]
    pub fn unit_watts(&self, unit: UnitId, clock: Option<Kilohertz>) -> f64 {
        self.driven_watts(Driver::Unit(unit), clock.map_or(1e6, Kilohertz::as_f64))
    }

    /// Power that a clock domain draws at the board's input for being at a clock, W.
    #[must_use]
    pub fn domain_watts(&self, domain: DomainId, clock: Kilohertz) -> f64 {
        self.driven_watts(Driver::Domain(domain), clock.as_f64())
    }

    fn driven_watts(&self, driver: Driver, khz: f64) -> f64 {
        let driven = |load: &&Load| load.driver == driver;
        let rails: f64 = self.loads.iter().filter(driven).map(|load| load.watts.at(khz)).sum();
        rails * (1.0 + self.conversion_loss)
    }
}
