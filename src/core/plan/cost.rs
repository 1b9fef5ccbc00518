//! Latency of every variant on every unit at every operating point, tabulated.

use crate::core::catalog::{Board, Catalog, Profile, Roofline, UnitId, VariantId};
use crate::core::points::{OperatingPoint, Points};
use crate::units::Nanos;
use serde::{Deserialize, Serialize};

/// Latency of a variant on a unit at each of the unit's operating points.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::core) struct Cost {
    /// Seconds for one item, overhead excluded, by operating point.
    item_s: Box<[f64]>,
    /// The operating points than which no faster one runs an item for less energy, by the board's power model, the
    /// slowest first: so each takes more energy than the one before.
    pub(in crate::core) front: Box<[usize]>,
    overhead_s: f64,
    marginal: f64,
}

impl Cost {
    fn new(profile: &Profile, points: &Points, watts: impl Fn(OperatingPoint) -> f64) -> Self {
        let bare = Roofline { overhead_s: 0.0, ..profile.latency };
        let item_s = |index: usize| {
            let roofline = bare.with_memory_at(points.memory_share(index));
            roofline.latency(points.at(index).clock, 1).as_secs_f64()
        };
        let mut cost = Self {
            item_s: (0..points.len()).map(item_s).collect(),
            front: Box::default(),
            overhead_s: profile.latency.overhead_s,
            marginal: profile.latency.marginal,
        };
        // The fastest first; of two as fast, the higher clocks.
        let mut fastest: Vec<usize> = (0..points.len()).rev().collect();
        fastest.sort_by(|&a, &b| cost.item_s[a].total_cmp(&cost.item_s[b]));
        let mut least = f64::INFINITY;
        fastest.retain(|&index| {
            let energy = cost.seconds(index, 1) * watts(points.at(index));
            let pays = energy < least;
            least = least.min(energy);
            pays
        });
        fastest.reverse();
        cost.front = fastest.into();
        cost
    }

    /// Profiled seconds of a batch.
    pub(super) fn seconds(&self, point: usize, items: u32) -> f64 {
        self.seconds_of(point, self.batch(items))
    }

    /// The items of a batch, each further one counted as the share of the first that it costs.
    pub(super) fn batch(&self, items: u32) -> f64 {
        1.0 + self.marginal * f64::from(items.saturating_sub(1))
    }

    /// Profiled seconds of items that are counted like that.
    #[inline]
    pub(super) fn seconds_of(&self, point: usize, batch: f64) -> f64 {
        self.overhead_s + self.item_s[point] * batch
    }

    /// Profiled seconds of one item, overhead excluded.
    #[inline]
    pub(super) fn item_s(&self, point: usize) -> f64 {
        self.item_s[point]
    }

    /// Profiled latency of a batch in whole nanoseconds.
    pub(in crate::core) fn latency(&self, point: usize, items: u32) -> Nanos {
        Nanos::from_secs_f64(self.seconds(point, items))
    }
}

/// All costs, tabulated so that pricing a configuration is a few multiplications: the p-norm is
/// homogeneous, so a batch scales the tabulated item latency.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CostTable {
    points: Vec<Points>,
    costs: Vec<Vec<Option<Cost>>>,
}

impl CostTable {
    /// Tabulates a catalogue.
    #[must_use]
    pub fn new(catalog: &Catalog) -> Self {
        let units = catalog.board.units.len();
        let points = (0..units).map(|unit| Points::of(&catalog.board, UnitId::at(unit)));
        let mut table =
            Self { points: points.collect(), costs: vec![vec![None; units]; catalog.variants.len()] };
        for variant in 0..catalog.variants.len() {
            for unit in 0..units {
                table.update(catalog, VariantId::at(variant), UnitId::at(unit));
            }
        }
        table
    }

    /// Takes over a changed profile.
    pub fn update(&mut self, catalog: &Catalog, variant: VariantId, unit: UnitId) {
        let profile = &catalog.variants[variant.index()].profiles[unit.index()];
        let watts = |point: OperatingPoint| {
            let busy = catalog.board.units[unit.index()].busy_power.at(point.clock).as_watts();
            busy + memory_watts(&catalog.board, unit, point)
        };
        self.costs[variant.index()][unit.index()] =
            profile.as_ref().map(|profile| Cost::new(profile, &self.points[unit.index()], watts));
    }

    pub(in crate::core) fn of(&self, variant: VariantId, unit: UnitId) -> Option<&Cost> {
        self.costs[variant.index()][unit.index()].as_ref()
    }

    /// Operating points of a unit.
    #[must_use]
    pub fn points(&self, unit: UnitId) -> &Points {
        &self.points[unit.index()]
    }

    /// Profiled latency at one of the unit's operating points, by index; `None` where the variant may not run.
    #[must_use]
    pub fn latency(&self, variant: VariantId, unit: UnitId, point: usize, items: u32) -> Option<Nanos> {
        Some(self.of(variant, unit)?.latency(point, items))
    }
}

/// What the memory of a unit draws at a point for its clock, above what it draws at its lowest, W.
pub(in crate::core) fn memory_watts(board: &Board, unit: UnitId, point: OperatingPoint) -> f64 {
    let domain = board.units[unit.index()].memory_domain.map(|domain| &board.domains[domain.index()]);
    let Some((domain, &lowest)) = domain.and_then(|domain| Some((domain, domain.opps.first()?))) else {
        return 0.0;
    };
    (domain.held_power.at(point.memory).as_watts() - domain.held_power.at(lowest).as_watts()).max(0.0)
}
