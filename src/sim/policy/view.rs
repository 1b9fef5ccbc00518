//! What a policy looks at: the board as the server knows it.

use super::costs::Costs;
use super::knobs::Knobs;
use super::queue::Waiting;
use crate::core::catalog::{Catalog, DomainId, UnitId, VariantId};
use crate::core::energy::Budgets;
use crate::core::residency::Residency;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// A unit as the server knows it.
#[derive(Debug, Clone, Default)]
pub struct UnitState {
    /// The run on it: since when, and how long it was expected to take.
    pub running: Option<(Timestamp, Nanos)>,
    /// When the load began that is under way beside its runs.
    pub loading: Option<Timestamp>,
}

/// What is overdue takes a quarter as long again as it took so far.
fn expected_end(since: Timestamp, expected: Nanos, now: Timestamp) -> Timestamp {
    let planned = since.after(expected);
    if planned > now { planned } else { now.after(Nanos(now.since(since).0 / 4).max(Nanos::from_micros(50))) }
}

/// Everything that decisions rest on, the policy's own memory apart.
#[derive(Debug, Clone)]
pub struct State {
    /// What there is to choose from, profiles included.
    pub catalog: Catalog,
    /// What the profiles say, tabulated.
    pub costs: Costs,
    /// Budgets and classes.
    pub budgets: Budgets,
    /// What is loaded.
    pub residency: Residency,
    /// Units by [`UnitId`].
    pub units: Vec<UnitState>,
    /// The clock domains.
    pub knobs: Knobs,
    /// Deployments of one variant.
    pub only: Only,
}

/// By model: the one variant that is deployed, or `None` for the whole ladder.
pub type Only = Vec<Option<VariantId>>;

impl State {
    /// Whether a variant of the request's model would do, and is deployed.
    #[must_use]
    pub fn accepts(&self, waiting: &Waiting, variant: VariantId) -> bool {
        let deployed = self.only.get(waiting.request.model.index()).copied().flatten();
        deployed.is_none_or(|only| only == variant) && waiting.accepts(&self.catalog, variant)
    }
}

/// Where and how a request runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// Variant.
    pub variant: VariantId,
    /// Unit.
    pub unit: UnitId,
    /// Index of the operating point among [`Costs::clocks`] of the unit.
    pub point: usize,
}

/// The state at a moment.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The moment.
    pub now: Timestamp,
    /// The state.
    pub state: &'a State,
}

impl<'a> View<'a> {
    /// Domains that some unit computes on; a memory's domain is none of a policy's business.
    pub fn compute_domains(&self) -> impl Iterator<Item = DomainId> + use<'a> {
        let board = &self.state.catalog.board;
        (0..board.domains.len())
            .map(DomainId::at)
            .filter(move |domain| board.units.iter().any(|unit| unit.domain == Some(*domain)))
    }

    /// The units of a clock domain.
    pub fn units_of(&self, domain: DomainId) -> impl Iterator<Item = UnitId> + use<'a> {
        let units = &self.state.catalog.board.units;
        (0..units.len()).map(UnitId::at).filter(move |unit| units[unit.index()].domain == Some(domain))
    }

    /// Whether a run is on the unit.
    #[must_use]
    pub fn runs(&self, unit: UnitId) -> bool {
        self.state.units[unit.index()].running.is_some()
    }

    /// Whether a run is on some unit of the domain.
    #[must_use]
    pub fn is_busy(&self, domain: DomainId) -> bool {
        self.units_of(domain).any(|unit| self.runs(unit))
    }

    /// When the unit, and everything that shares its processor, is expected to be free.
    #[must_use]
    pub fn free_at(&self, unit: UnitId) -> Timestamp {
        let units = &self.state.catalog.board.units;
        let group = units[unit.index()].group;
        let states = units.iter().zip(&self.state.units).filter(|(spec, _)| spec.group == group);
        let shared = states.map(|(_, state)| match state.running {
            Some((since, expected)) => expected_end(since, expected, self.now),
            None => self.now,
        });
        shared.max().unwrap_or(self.now)
    }

    /// Whether a run can start on the unit at once.
    #[must_use]
    pub fn is_free(&self, unit: UnitId) -> bool {
        let units = &self.state.catalog.board.units;
        let group = units[unit.index()].group;
        let mut same = units.iter().zip(&self.state.units).filter(|(spec, _)| spec.group == group);
        same.all(|(_, state)| state.running.is_none())
    }

    /// The variants that would do for a request, of those the ones that reach its accuracy target if any
    /// does, with every unit that holds them now.
    pub fn choices<'h>(&self, head: &'h Waiting) -> impl Iterator<Item = (VariantId, UnitId)> + use<'a, 'h> {
        let state = self.state;
        let loaded = state.catalog.models[head.request.model.index()]
            .variants
            .iter()
            .copied()
            .filter(move |&variant| state.accepts(head, variant))
            .flat_map(move |variant| {
                let units = (0..state.units.len()).map(UnitId::at);
                units
                    .filter(move |&unit| {
                        state.residency.is_available(variant, unit) && state.costs.may_run(variant, unit)
                    })
                    .map(move |unit| (variant, unit))
            });
        let accuracy = move |variant: VariantId| state.catalog.variants[variant.index()].accuracy;
        let any = loaded.clone().any(|(variant, _)| accuracy(variant) >= head.target);
        let bar = if any { head.target } else { head.floor };
        loaded.filter(move |&(variant, _)| accuracy(variant) >= bar)
    }

    /// The same with every operating point.
    pub fn configurations<'h>(&self, head: &'h Waiting) -> impl Iterator<Item = Configuration> + use<'a, 'h> {
        let costs = &self.state.costs;
        self.choices(head).flat_map(move |(variant, unit)| {
            (0..costs.clocks(unit).len()).map(move |point| Configuration { variant, unit, point })
        })
    }

    /// Seconds left until a deadline if a run starts as soon as the unit is free; negative if it is past.
    #[must_use]
    pub fn slack_s(&self, head: &Waiting, unit: UnitId) -> f64 {
        let start = self.free_at(unit);
        head.deadline.since(start).as_secs_f64() - start.since(head.deadline).as_secs_f64()
    }

    /// Profiled latency of a run, times a slowdown.
    #[must_use]
    pub fn profiled(&self, run: &super::Run, slowdown: f64) -> Nanos {
        let Configuration { variant, unit, point } = run.choice;
        Nanos::from_secs_f64(self.state.costs.seconds(variant, unit, point, run.items) * slowdown)
    }

    /// Accuracy of a variant, 0 to 1.
    #[must_use]
    pub fn accuracy(&self, variant: VariantId) -> f64 {
        self.state.catalog.variants[variant.index()].accuracy.as_fraction()
    }

    /// The clock of a configuration; zero where the unit has none.
    #[must_use]
    pub fn clock(&self, choice: Configuration) -> Kilohertz {
        self.state.costs.clocks(choice.unit)[choice.point]
    }

    /// The unit on which a batch of a variant ends first by its profile, each unit at its highest clock.
    #[must_use]
    pub fn fastest(&self, variant: VariantId, items: u32) -> Option<UnitId> {
        let costs = &self.state.costs;
        let units = (0..self.state.units.len()).map(UnitId::at);
        let held = units.filter(|&unit| self.state.residency.is_available(variant, unit));
        held.filter(|&unit| costs.may_run(variant, unit)).min_by_key(|&unit| {
            self.free_at(unit).after(costs.latency(variant, unit, costs.top(unit), items))
        })
    }
}
