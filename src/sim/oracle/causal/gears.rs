//! What a variant takes and draws on a unit at every pair of clocks, under the conditions of the moment.

use crate::board::sim::Slowdown;
use crate::core::catalog::{DomainId, UnitId, VariantId};
use crate::sim::Machine;
use crate::sim::oracle::hull::{Point, lower_left};
use crate::sim::oracle::idle::least_domain_watts;
use crate::sim::oracle::instance::{Configuration, MemoryClocks, Rate, clocks, rate};
use crate::units::Kilohertz;

/// A pair of operating points: positions in [`Gears::clocks`] and [`Gears::memories`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gear {
    pub(super) clock: usize,
    pub(super) memory: usize,
}

/// A variant on a unit.
#[derive(Debug, Clone)]
pub(super) struct Gears {
    pub(super) variant: VariantId,
    pub(super) unit: UnitId,
    /// The unit's clock domain and memory domain.
    pub(super) domains: [Option<DomainId>; 2],
    /// One `None` where there is no domain.
    clocks: Vec<Option<Kilohertz>>,
    memories: Vec<Option<Kilohertz>>,
    /// By clock, then by memory clock.
    rates: Vec<Rate>,
    /// What the domains draw at their clocks above their least, W.
    held_watts: [Vec<f64>; 2],
    /// Gears that no mixture of others beats for a single item, the fastest first.
    pub(super) rim: Vec<Gear>,
}

impl Gears {
    pub(super) fn new(machine: &Machine, variant: VariantId, unit: UnitId, slow: Slowdown) -> Self {
        let (physical, plant) = (&machine.plant.units[unit.index()], &machine.plant);
        let (clocks, memories) = (clocks(plant, physical.domain), clocks(plant, physical.memory_domain));
        let known = &machine.catalog.variants[variant.index()];
        let mut rates = Vec::with_capacity(clocks.len() * memories.len());
        for &clock in &clocks {
            for &memory in &memories {
                let configuration = Configuration {
                    model: known.model,
                    variant,
                    accuracy: known.accuracy,
                    unit,
                    group: machine.catalog.board.units[unit.index()].group,
                    clock,
                    memory,
                };
                rates.push(rate(machine, &configuration, slow, MemoryClocks::Free));
            }
        }
        let domains = [physical.domain, physical.memory_domain];
        let above = |domain: Option<DomainId>, clock: &Option<Kilohertz>| match (domain, clock) {
            (Some(domain), Some(clock)) => {
                plant.domain_watts(domain, *clock) - least_domain_watts(plant, domain)
            }
            _ => 0.0,
        };
        let held_watts = [
            clocks.iter().map(|clock| above(domains[0], clock)).collect(),
            memories.iter().map(|clock| above(domains[1], clock)).collect(),
        ];
        let mut gears = Self { variant, unit, domains, clocks, memories, rates, held_watts, rim: Vec::new() };
        gears.rim = gears.rim_with([None, None]);
        gears
    }

    /// The rim, the fastest first, of the gears with the clocks that others hold.
    pub(super) fn rim_with(&self, held: [Option<Kilohertz>; 2]) -> Vec<Gear> {
        if held == [None, None] && !self.rim.is_empty() {
            return self.rim.clone();
        }
        let free = |gear: &Gear| {
            let khz = self.khz(*gear);
            (0..2).all(|domain| held[domain].is_none_or(|held| khz[domain] == Some(held)))
        };
        let all = (0..self.clocks.len())
            .flat_map(|clock| (0..self.memories.len()).map(move |memory| Gear { clock, memory }))
            .filter(free);
        let priced = |gear| {
            let rate = self.rate(gear);
            (gear, Point { seconds: rate.seconds(1), joules: rate.seconds(1) * rate.watts })
        };
        let all: Vec<(Gear, Point)> = all.map(priced).collect();
        let rim = lower_left(all.iter().map(|(_, point)| *point).collect());
        let gear = |point: &Point| all.iter().find(|(_, known)| known == point).map(|(gear, _)| *gear);
        rim.iter().filter_map(gear).collect()
    }

    pub(super) fn rate(&self, gear: Gear) -> &Rate {
        &self.rates[gear.clock * self.memories.len() + gear.memory]
    }

    /// The clocks of a gear, in the order of [`Gears::domains`].
    pub(super) fn khz(&self, gear: Gear) -> [Option<Kilohertz>; 2] {
        [self.clocks[gear.clock], self.memories[gear.memory]]
    }

    /// What the domains draw in a gear above their least, W, in the order of [`Gears::domains`].
    pub(super) fn held_watts(&self, gear: Gear) -> [f64; 2] {
        [self.held_watts[0][gear.clock], self.held_watts[1][gear.memory]]
    }

    /// The gear nearest to clocks as read.
    pub(super) fn nearest(&self, khz: [Option<Kilohertz>; 2]) -> Gear {
        let position = |table: &[Option<Kilohertz>], khz: Option<Kilohertz>| {
            table.iter().rposition(|known| *known <= khz).unwrap_or(0)
        };
        Gear { clock: position(&self.clocks, khz[0]), memory: position(&self.memories, khz[1]) }
    }
}
