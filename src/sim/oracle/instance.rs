//! The truth of one scenario and one seed, as tables: what every request would take and cost in every configuration.
//!
//! It is computed from the plant's own laws ([`PlantSpec::pace`] and the tables of its loads), with the very luck
//! that the requests will meet. A planner must not see it; the oracles do.

use super::idle::{Idle, least_domain_watts};
use crate::board::sim::{Change, Heat, Plant, PlantSpec, Script, Slowdown, Work};
use crate::core::catalog::{DomainId, ModelId, UnitId, VariantId};
use crate::core::energy::Budgets;
use crate::core::event::RequestId;
use crate::sim::{Machine, Workload};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos, Ppm};
use std::sync::Arc;

/// Which memory clocks a schedule may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryClocks {
    /// Any operating point at any time.
    #[default]
    Free,
    /// The one at power-on: the bound of the schedulers that leave the memory clock alone.
    AsBooted,
}

/// What makes up an instance.
#[derive(Debug, Clone)]
pub struct Truth<'a> {
    /// The board and the models.
    pub machine: &'a Machine,
    /// Classes: their objectives and floors.
    pub budgets: &'a Budgets,
    /// Who asks, before anyone has.
    pub workload: Workload,
    /// The disturbances and the moment at which they begin to be played.
    pub script: Option<(&'a Script, Timestamp)>,
    /// Seed of the plant.
    pub seed: u64,
    /// The energy of [0, horizon] is judged.
    pub horizon: Nanos,
    /// Heat at power-on; `None` = the plant's own.
    pub heat: Option<Heat>,
    /// Which memory clocks may be chosen.
    pub memory: MemoryClocks,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Its id in the world.
    pub id: RequestId,
    /// When it comes.
    pub arrival: Timestamp,
    /// When its answer is late.
    pub deadline: Timestamp,
    /// The model.
    pub model: ModelId,
    /// Its items.
    pub items: u32,
    /// Least accuracy.
    pub floor: Ppm,
    /// Whether it must be answered: not if its client hangs up before the deadline, nor if that lies beyond the
    /// horizon.
    pub counts: bool,
}

impl Ask {
    /// Seconds from arrival to deadline.
    #[must_use]
    pub fn window_s(&self) -> f64 {
        self.deadline.since(self.arrival).as_secs_f64()
    }
}

/// A way to run something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// The model that it answers.
    pub model: ModelId,
    /// The variant.
    pub variant: VariantId,
    /// Its accuracy.
    pub accuracy: Ppm,
    /// The unit.
    pub unit: UnitId,
    /// Units of one group share a processor.
    pub group: u8,
    /// The unit's clock; `None` where it has no domain.
    pub clock: Option<Kilohertz>,
    /// The memory clock; `None` where the unit has no such domain.
    pub memory: Option<Kilohertz>,
}

/// What a configuration takes and draws under constant conditions, at a luck of 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Seconds per run.
    pub overhead_s: f64,
    /// Seconds of the first item.
    pub item_s: f64,
    /// Share of that for each further item.
    pub marginal: f64,
    /// Power above the idle board, W: the unit's, and that of its clock domains above their cheapest clock.
    pub watts: f64,
    /// The same for a lower bound: the power of a domain that several processors use is shared among them, as they
    /// may all be running.
    pub least_watts: f64,
}

impl Rate {
    /// Seconds of a run of `items` at a luck of 1.
    #[must_use]
    pub fn seconds(&self, items: u32) -> f64 {
        self.overhead_s + self.item_s * (1.0 + self.marginal * f64::from(items.saturating_sub(1)))
    }
}

/// From its beginning until the next one's, conditions stand still.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Season {
    /// Its beginning.
    pub from: Timestamp,
    /// Index of its slowdown.
    pub condition: usize,
    /// Share of the runs that are late beyond the usual noise.
    pub tail_probability: f64,
}

/// One scenario and seed, as it will be. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Instance {
    /// All requests, by arrival; the id of the one at index `i` is `i + 1`.
    pub asks: Vec<Ask>,
    /// All ways to run anything.
    pub configurations: Vec<Configuration>,
    /// Conditions over time; the first season begins at the origin.
    pub seasons: Vec<Season>,
    /// What is judged.
    pub horizon: Nanos,
    /// Most items in a run, by model.
    pub max_batch: Vec<u32>,
    /// Groups of units that share a processor, ascending.
    pub groups: Vec<u8>,
    /// Rates by slowdown, then by number of other busy processors, then by configuration.
    rates: Vec<Vec<Vec<Rate>>>,
    idle: Idle,
    plant: Plant,
}

impl Instance {
    /// Energy of the idle board over the horizon, J: no schedule draws less than this and what its runs add.
    #[must_use]
    pub const fn idle_j(&self) -> f64 {
        self.idle.joules
    }

    /// What a joule of a request's run costs the board at least, J: itself, and the leakage of the silicon that it
    /// warms until the horizon.
    #[must_use]
    pub fn joule(&self, ask: &Ask) -> f64 {
        1.0 + self.idle.heating(ask.arrival, ask.deadline)
    }

    /// Works the truth out.
    #[must_use]
    pub fn of(mut truth: Truth<'_>) -> Self {
        let machine = truth.machine;
        let mut plant = Plant::new(Arc::clone(&machine.plant), truth.seed);
        if let Some(heat) = truth.heat {
            plant.preheat(heat);
        }
        let configurations = configurations(machine, &plant, truth.memory);
        let (seasons, conditions) = seasons(&machine.plant, truth.script);
        let mut groups: Vec<u8> = machine.catalog.board.units.iter().map(|unit| unit.group).collect();
        groups.sort_unstable();
        groups.dedup();
        let priced = |slow: &Slowdown| {
            let beside = |others| {
                let slow = machine.plant.beside(*slow, others);
                let price = |configuration| rate(machine, configuration, slow, truth.memory);
                configurations.iter().map(price).collect()
            };
            (0..groups.len()).map(beside).collect()
        };
        let rates = conditions.iter().map(priced).collect();
        let asks = asks(&mut truth.workload, truth.budgets, truth.horizon);
        let idle = Idle::of(&plant, truth.script, truth.horizon, truth.memory);
        let max_batch = machine.catalog.models.iter().map(|model| model.max_batch).collect();
        let horizon = truth.horizon;
        Self { asks, configurations, seasons, horizon, idle, max_batch, groups, rates, plant }
    }

    /// What a configuration takes in a season while `others` processors are busy too.
    ///
    /// # Panics
    /// If there is no such configuration or season, or as many other processors.
    #[must_use]
    pub fn rate(&self, season: usize, others: usize, configuration: usize) -> &Rate {
        &self.rates[self.seasons[season].condition][others][configuration]
    }

    /// Index of the season of a moment.
    #[must_use]
    pub fn season_at(&self, at: Timestamp) -> usize {
        self.seasons.partition_point(|season| season.from <= at).saturating_sub(1)
    }

    /// Indices of the seasons that a request may be run in: first and last.
    #[must_use]
    pub fn seasons_of(&self, ask: &Ask) -> (usize, usize) {
        (self.season_at(ask.arrival), self.season_at(ask.deadline))
    }

    /// The factor on the latency of a run whose first request this is, begun in a season.
    #[must_use]
    pub fn luck(&self, ask: &Ask, season: usize) -> f64 {
        self.plant.luck_factor(ask.id.0, self.seasons[season].tail_probability)
    }

    /// The best luck that a run whose first request this is can have, whenever it begins.
    #[must_use]
    pub fn best_luck(&self, ask: &Ask) -> f64 {
        let (first, last) = self.seasons_of(ask);
        // The factor grows with the share of late runs.
        let tails = self.seasons[first..=last].iter().map(|season| season.tail_probability);
        self.plant.luck_factor(ask.id.0, tails.fold(f64::INFINITY, f64::min))
    }

    /// When a run ends that begins at `start` with this luck on an otherwise idle board, and what it adds to the idle
    /// board, J; follows the seasons.
    #[must_use]
    pub fn run(&self, configuration: usize, items: u32, luck: f64, start: Timestamp) -> (Timestamp, f64) {
        let (mut at, mut left, mut joules) = (start, 1.0, 0.0);
        let mut season = self.season_at(start);
        loop {
            let rate = self.rate(season, 0, configuration);
            let whole = rate.seconds(items) * luck;
            let end = at.after(Nanos::from_secs_f64(left * whole));
            match self.seasons.get(season + 1).map(|next| next.from) {
                Some(turn) if turn < end => {
                    let span = turn.since(at).as_secs_f64();
                    joules += span * rate.watts;
                    left = (left - span / whole).max(0.0);
                    at = turn;
                    season += 1;
                }
                _ => return (end, joules + left * whole * rate.watts),
            }
        }
    }
}

fn asks(workload: &mut Workload, budgets: &Budgets, horizon: Nanos) -> Vec<Ask> {
    let mut asks = Vec::new();
    let end = Timestamp::ZERO.after(horizon);
    while let Some(arrival) = workload.take() {
        let stream = &workload.streams()[arrival.stream];
        let class = budgets.classes.get(usize::from(stream.class.0)).unwrap_or(&budgets.classes[0]);
        let deadline = arrival.at.after(stream.deadline.unwrap_or(class.latency));
        asks.push(Ask {
            id: RequestId(asks.len() as u64 + 1),
            arrival: arrival.at,
            deadline,
            model: stream.model,
            items: stream.items,
            floor: stream.min_accuracy.unwrap_or(class.min_accuracy),
            counts: deadline <= end && arrival.quits_at.is_none_or(|at| at > deadline),
        });
    }
    asks
}

/// The clocks that may be chosen on a domain; one `None` where there is no domain.
pub(super) fn clocks(plant: &PlantSpec, domain: Option<DomainId>) -> Vec<Option<Kilohertz>> {
    domain.map_or(vec![None], |domain| {
        plant.domains[domain.index()].opps.iter().map(|clock| Some(*clock)).collect()
    })
}

fn configurations(machine: &Machine, plant: &Plant, memory_clocks: MemoryClocks) -> Vec<Configuration> {
    let mut all = Vec::new();
    let board = &machine.catalog.board;
    for (index, variant) in machine.variants.iter().enumerate() {
        let id = VariantId::at(index);
        for (unit, spec) in board.units.iter().enumerate() {
            let elsewhere = variant.work.grid.is_some_and(|grid| {
                machine.plant.grids.get(usize::from(grid.0)).is_none_or(|known| known.unit.index() != unit)
            });
            if elsewhere || !variant.kinds.contains(&spec.kind) {
                continue;
            }
            let physical = &machine.plant.units[unit];
            let memories = match (memory_clocks, physical.memory_domain) {
                (MemoryClocks::AsBooted, Some(domain)) => vec![Some(plant.clock(domain).current)],
                (_, domain) => clocks(&machine.plant, domain),
            };
            for clock in clocks(&machine.plant, physical.domain) {
                all.extend(memories.iter().map(|&memory| Configuration {
                    model: machine.catalog.variants[index].model,
                    variant: id,
                    accuracy: variant.accuracy,
                    unit: UnitId::at(unit),
                    group: spec.group,
                    clock,
                    memory,
                }));
            }
        }
    }
    all
}

pub(super) fn rate(
    machine: &Machine,
    configuration: &Configuration,
    slow: Slowdown,
    memory: MemoryClocks,
) -> Rate {
    let (plant, unit) = (&machine.plant, configuration.unit);
    let work = Work { items: 1, ..machine.variants[configuration.variant.index()].work };
    let pace = plant.pace(unit, &work, configuration.clock, configuration.memory, slow);
    let two = plant.pace(unit, &Work { items: 2, ..work }, configuration.clock, configuration.memory, slow);
    let busy = plant.unit_watts(unit, configuration.clock) * pace.activity;
    let physical = &plant.units[unit.index()];
    let mut held = vec![(physical.domain, configuration.clock)];
    if memory == MemoryClocks::Free {
        held.push((physical.memory_domain, configuration.memory));
    }
    let (mut watts, mut least_watts) = (busy, busy);
    for (domain, clock) in held {
        let (Some(domain), Some(clock)) = (domain, clock) else { continue };
        let above = plant.domain_watts(domain, clock) - least_domain_watts(plant, domain);
        watts += above;
        least_watts += above / sharers(machine, domain);
    }
    let marginal = two.items - pace.items;
    Rate { overhead_s: pace.overhead_s, item_s: pace.item_s, marginal, watts, least_watts }
}

/// Number of processors that a domain serves.
fn sharers(machine: &Machine, domain: DomainId) -> f64 {
    let units = machine.plant.units.iter().zip(&machine.catalog.board.units);
    let served = units.filter(|(unit, _)| unit.domain == Some(domain) || unit.memory_domain == Some(domain));
    let mut groups: Vec<u8> = served.map(|(_, unit)| unit.group).collect();
    groups.sort_unstable();
    groups.dedup();
    f64::from(u32::try_from(groups.len().max(1)).unwrap_or(u32::MAX))
}

/// The seasons of a script, and the slowdowns that occur in them.
fn seasons(plant: &PlantSpec, script: Option<(&Script, Timestamp)>) -> (Vec<Season>, Vec<Slowdown>) {
    let (mut slow, mut tail_probability) = (Slowdown::NONE, plant.noise.tail_probability);
    let mut conditions = vec![slow];
    let mut seasons = vec![Season { from: Timestamp::ZERO, condition: 0, tail_probability }];
    let steps = script.into_iter().flat_map(|(script, origin)| {
        script.steps().iter().map(move |(at, change)| (origin.after(*at), change))
    });
    for (from, change) in steps {
        match change {
            Change::ContentionCompute(factor) => slow.compute = *factor,
            Change::ContentionMemory(factor) => slow.memory = *factor,
            Change::TailProbability(share) => tail_probability = *share,
            _ => continue,
        }
        let condition = conditions.iter().position(|known| *known == slow).unwrap_or_else(|| {
            conditions.push(slow);
            conditions.len() - 1
        });
        let season = Season { from, condition, tail_probability };
        match seasons.last_mut() {
            Some(last) if last.from == from => *last = season,
            _ => seasons.push(season),
        }
    }
    (seasons, conditions)
}
