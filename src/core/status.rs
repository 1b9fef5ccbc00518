//! What the core lets be seen.

use super::{Core, DeviceCap};
use crate::core::catalog::{Catalog, UnitId, VariantId};
use crate::core::energy::Budgets;
use crate::core::estimate::Estimates;
use crate::core::residency::Residence;
use crate::core::snapshot::Snapshot;
use crate::core::thermal::Regime;
use crate::core::tuning::Tuning;
use crate::time::Timestamp;
use crate::units::{Bytes, Microjoules, Microwatts};

/// What is left of a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetStatus {
    /// Short name: `power`, `energy`, `battery`.
    pub name: &'static str,
    /// What is left, in `unit`.
    pub left: f64,
    /// `J`, `Wh` or a share.
    pub unit: &'static str,
    /// Whether it leaves room for work.
    pub ok: bool,
}

/// The core at a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct CoreStatus {
    /// Thermal regime.
    pub regime: Regime,
    /// Power of the board: measured where it has a sensor, else modelled.
    pub board_power: Microwatts,
    /// Whether that was measured within the staleness limit.
    pub power_measured: bool,
    /// Energy of the board since the start.
    pub board_energy: Microjoules,
    /// Energy attributed to requests since the start.
    pub request_energy: Microjoules,
    /// Energy reserved for what runs now.
    pub reserved: Microjoules,
    /// Requests waiting.
    pub waiting: usize,
    /// Budgets and what is left.
    pub budgets: Vec<BudgetStatus>,
    /// Memory that variants hold.
    pub held: Bytes,
    /// A variant that the memory cap kept out, and what it would take.
    pub denied: Option<(VariantId, Bytes)>,
    /// Whether new requests are refused because the daemon stops.
    pub draining: bool,
}

impl Core {
    /// The core at a glance.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> CoreStatus {
        CoreStatus {
            regime: self.thermal.regime(),
            board_power: self.board_power,
            power_measured: self.snapshot.board_power(now, self.budgets.stale_after).is_some(),
            board_energy: self.ledger.board_energy,
            request_energy: self.ledger.request_energy,
            reserved: self.ledger.reserved(),
            waiting: self.queue.len(),
            budgets: self.budget_status(now),
            held: self.residency.held(&self.catalog),
            denied: self.residency.denied(),
            draining: self.draining,
        }
    }

    fn budget_status(&self, now: Timestamp) -> Vec<BudgetStatus> {
        let mut all = Vec::new();
        if self.device_cap != DeviceCap::None {
            let fill = self.ledger.device_fill();
            let name = match self.device_cap {
                DeviceCap::Heat => "heat",
                DeviceCap::Energy => "energy rate",
                DeviceCap::Power | DeviceCap::None => "power",
            };
            all.push(BudgetStatus { name, left: fill, unit: "share of window", ok: fill > 0.0 });
        }
        if let Some(allowance) = self.budgets.energy {
            let spent = self.ledger.board_energy.saturating_sub(self.energy_at_budgets);
            let left = allowance.total.saturating_sub(spent).as_f64() / 1e6;
            all.push(BudgetStatus { name: "energy", left, unit: "J", ok: left > 0.0 });
        }
        if let (Some(budget), Some((left, full))) =
            (self.budgets.battery, self.snapshot.battery_left(now, self.budgets.stale_after))
        {
            let usable = left.as_f64() - full.as_f64() * budget.reserve.as_fraction();
            all.push(BudgetStatus {
                name: "battery above reserve",
                left: usable / 1e6,
                unit: "J",
                ok: usable > 0.0,
            });
        }
        all
    }

    /// What there is to choose from, with the profiles in force.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The budgets in force.
    #[must_use]
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Parts of the planner that are turned off.
    #[must_use]
    pub const fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// The last readings.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Where a variant stands on a unit.
    #[must_use]
    pub fn residence(&self, variant: VariantId, unit: UnitId) -> Residence {
        self.residency.of(variant, unit)
    }

    /// The variant that a unit is running.
    #[must_use]
    pub fn running(&self, unit: UnitId) -> Option<VariantId> {
        self.lanes[unit.index()].running.as_ref().map(|running| running.dispatch.variant)
    }

    /// Whether another unit that shares this one's processor runs a batch.
    #[must_use]
    pub fn processor_taken(&self, unit: UnitId) -> bool {
        let units = &self.catalog.board.units;
        let mut others = (0..units.len()).filter(|&other| other != unit.index());
        others.any(|other| {
            units[other].group == units[unit.index()].group && self.lanes[other].running.is_some()
        })
    }

    /// Whether a unit's clock does what it is told; true for units without one.
    #[must_use]
    pub fn controllable(&self, domain: crate::core::catalog::DomainId) -> bool {
        self.clocks.controllable(domain)
    }

    /// The clock that a domain runs at under load, as far as known.
    #[must_use]
    pub fn present_clock(&self, domain: crate::core::catalog::DomainId) -> Option<crate::units::Kilohertz> {
        self.clocks.present(domain, &self.snapshot)
    }

    /// What was learned.
    #[must_use]
    pub fn estimates(&self) -> &Estimates {
        &self.estimates
    }

    /// Whether at least one variant of the model is loaded.
    #[must_use]
    pub fn model_ready(&self, model: crate::core::catalog::ModelId) -> bool {
        self.residency.any_loaded(&self.catalog, model)
    }

    /// Whether the model is wanted in memory.
    #[must_use]
    pub fn is_retained(&self, model: crate::core::catalog::ModelId) -> bool {
        self.residency.is_retained(model)
    }

    /// Whether nothing waits and nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.lanes.iter().all(|lane| lane.running.is_none())
    }

    /// Share of a class's power bucket that is filled.
    #[must_use]
    pub fn class_fill(&self, class: usize) -> f64 {
        self.ledger.class_fill(class)
    }
}
