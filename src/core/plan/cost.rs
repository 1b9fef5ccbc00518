//! Latency of every variant on every unit at every operating point, tabulated.

use crate::core::catalog::{Catalog, Profile, Roofline, UnitId, VariantId};
use crate::units::{Kilohertz, Nanos};

/// Latency of a variant on a unit at each operating point of the unit's domain.
#[derive(Debug, Clone)]
pub(super) struct Cost {
    /// Seconds for one item, overhead excluded, by operating point.
    item_s: Box<[f64]>,
    /// Whether no higher operating point runs one item for less energy, by the board's power model.
    pub(super) pays: Box<[bool]>,
    overhead_s: f64,
    marginal: f64,
}

impl Cost {
    fn new(profile: &Profile, clocks: &[Kilohertz], watts: impl Fn(Kilohertz) -> f64) -> Self {
        let bare = Roofline { overhead_s: 0.0, ..profile.latency };
        let mut cost = Self {
            item_s: clocks.iter().map(|&clock| bare.latency(clock, 1).as_secs_f64()).collect(),
            pays: vec![false; clocks.len()].into(),
            overhead_s: profile.latency.overhead_s,
            marginal: profile.latency.marginal,
        };
        let mut least = f64::INFINITY;
        for opp in (0..clocks.len()).rev() {
            let energy = cost.seconds(opp, 1) * watts(clocks[opp]);
            cost.pays[opp] = energy < least;
            least = least.min(energy);
        }
        cost
    }

    /// Profiled seconds of a batch.
    pub(super) fn seconds(&self, opp: usize, items: u32) -> f64 {
        let scale = 1.0 + self.marginal * f64::from(items.saturating_sub(1));
        self.overhead_s + self.item_s[opp] * scale
    }
}

/// All costs, tabulated so that pricing a configuration is a few multiplications: the p-norm is
/// homogeneous, so a batch scales the tabulated item latency.
#[derive(Debug, Clone)]
pub struct CostTable {
    clocks: Vec<Vec<Kilohertz>>,
    costs: Vec<Vec<Option<Cost>>>,
}

impl CostTable {
    /// Tabulates a catalogue.
    #[must_use]
    pub fn new(catalog: &Catalog) -> Self {
        let clocks: Vec<Vec<Kilohertz>> = (0..catalog.board.units.len())
            .map(|unit| {
                let domain =
                    catalog.board.units[unit].domain.map(|domain| &catalog.board.domains[domain.index()]);
                domain
                    .map(|domain| domain.opps.clone())
                    .filter(|opps| !opps.is_empty())
                    .unwrap_or(vec![Kilohertz::ZERO])
            })
            .collect();
        let mut table =
            Self { clocks, costs: vec![vec![None; catalog.board.units.len()]; catalog.variants.len()] };
        for variant in 0..catalog.variants.len() {
            for unit in 0..catalog.board.units.len() {
                table.update(catalog, VariantId::at(variant), UnitId::at(unit));
            }
        }
        table
    }

    /// Takes over a changed profile.
    pub fn update(&mut self, catalog: &Catalog, variant: VariantId, unit: UnitId) {
        let profile = &catalog.variants[variant.index()].profiles[unit.index()];
        let power = &catalog.board.units[unit.index()].busy_power;
        let clocks = &self.clocks[unit.index()];
        self.costs[variant.index()][unit.index()] =
            profile.as_ref().map(|profile| Cost::new(profile, clocks, |clock| power.at(clock).as_watts()));
    }

    pub(super) fn of(&self, variant: VariantId, unit: UnitId) -> Option<&Cost> {
        self.costs[variant.index()][unit.index()].as_ref()
    }

    /// Operating points of a unit; a single zero where it has no clock.
    #[must_use]
    pub fn clocks(&self, unit: UnitId) -> &[Kilohertz] {
        &self.clocks[unit.index()]
    }

    /// Profiled latency at the unit's `opp`-th operating point; `None` where the variant may not run.
    #[must_use]
    pub fn latency(&self, variant: VariantId, unit: UnitId, opp: usize, items: u32) -> Option<Nanos> {
        Some(Nanos::from_secs_f64(self.of(variant, unit)?.seconds(opp, items)))
    }

    /// Index of the operating point of `unit` nearest below `clock`.
    #[must_use]
    pub fn opp_at(&self, unit: UnitId, clock: Kilohertz) -> usize {
        self.clocks[unit.index()].iter().rposition(|&opp| opp <= clock).unwrap_or(0)
    }
}
