//! What the profiles say of every configuration, tabulated.

use crate::core::catalog::{Catalog, UnitId, VariantId};
use crate::units::{Kilohertz, Nanos};

/// A variant on a unit, by operating point of the unit's clock domain.
#[derive(Debug, Clone, Default)]
struct Row {
    /// Profiled seconds of one item.
    first_s: Vec<f64>,
    /// Profiled seconds that each further item in a batch adds: profiles are linear in the batch.
    further_s: Vec<f64>,
    /// Watts above the idle board.
    watts: Vec<f64>,
}

/// Profiled latency and power of every variant on every unit at every operating point.
#[derive(Debug, Clone)]
pub struct Costs {
    clocks: Vec<Vec<Kilohertz>>,
    rows: Vec<Vec<Option<Row>>>,
}

impl Costs {
    /// Tabulates a catalogue.
    #[must_use]
    pub fn new(catalog: &Catalog) -> Self {
        let board = &catalog.board;
        let points = |unit: &crate::core::catalog::Unit| match unit.domain {
            Some(domain) if !board.domains[domain.index()].opps.is_empty() => {
                board.domains[domain.index()].opps.clone()
            }
            _ => vec![Kilohertz::ZERO],
        };
        let clocks: Vec<Vec<Kilohertz>> = board.units.iter().map(points).collect();
        let mut costs = Self { clocks, rows: vec![vec![None; board.units.len()]; catalog.variants.len()] };
        for variant in (0..catalog.variants.len()).map(VariantId::at) {
            for unit in (0..board.units.len()).map(UnitId::at) {
                costs.update(catalog, variant, unit);
            }
        }
        costs
    }

    /// Takes over a changed profile.
    pub fn update(&mut self, catalog: &Catalog, variant: VariantId, unit: UnitId) {
        let profile = catalog.variants[variant.index()].profiles[unit.index()];
        let power = &catalog.board.units[unit.index()].busy_power;
        let clocks = &self.clocks[unit.index()];
        self.rows[variant.index()][unit.index()] = profile.map(|profile| {
            let seconds = |clock: Kilohertz, items| profile.latency.latency(clock, items).as_secs_f64();
            Row {
                first_s: clocks.iter().map(|&clock| seconds(clock, 1)).collect(),
                further_s: clocks.iter().map(|&clock| seconds(clock, 2) - seconds(clock, 1)).collect(),
                watts: clocks.iter().map(|&clock| power.at(clock).as_watts() * profile.power_scale).collect(),
            }
        });
    }

    /// Operating points of a unit, ascending; a single zero where it has no clock.
    #[must_use]
    pub fn clocks(&self, unit: UnitId) -> &[Kilohertz] {
        &self.clocks[unit.index()]
    }

    /// Index of the highest operating point of a unit.
    #[must_use]
    pub fn top(&self, unit: UnitId) -> usize {
        self.clocks[unit.index()].len() - 1
    }

    /// Index of the operating point of `unit` nearest below `clock`.
    #[must_use]
    pub fn point_at(&self, unit: UnitId, clock: Kilohertz) -> usize {
        self.clocks[unit.index()].iter().rposition(|&point| point <= clock).unwrap_or(0)
    }

    /// Whether the variant may run on the unit.
    #[must_use]
    pub fn may_run(&self, variant: VariantId, unit: UnitId) -> bool {
        self.rows[variant.index()][unit.index()].is_some()
    }

    /// Profiled seconds of a batch; infinite where the variant may not run.
    #[must_use]
    pub fn seconds(&self, variant: VariantId, unit: UnitId, point: usize, items: u32) -> f64 {
        self.rows[variant.index()][unit.index()].as_ref().map_or(f64::INFINITY, |row| {
            row.first_s[point] + row.further_s[point] * f64::from(items.saturating_sub(1))
        })
    }

    /// The same as a span.
    #[must_use]
    pub fn latency(&self, variant: VariantId, unit: UnitId, point: usize, items: u32) -> Nanos {
        Nanos::from_secs_f64(self.seconds(variant, unit, point, items))
    }

    /// Profiled watts above the idle board while it runs; infinite where the variant may not run.
    #[must_use]
    pub fn watts(&self, variant: VariantId, unit: UnitId, point: usize) -> f64 {
        self.rows[variant.index()][unit.index()].as_ref().map_or(f64::INFINITY, |row| row.watts[point])
    }

    /// Profiled joules of a batch above the idle board.
    #[must_use]
    pub fn joules(&self, variant: VariantId, unit: UnitId, point: usize, items: u32) -> f64 {
        self.seconds(variant, unit, point, items) * self.watts(variant, unit, point)
    }
}
