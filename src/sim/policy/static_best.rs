//! The best fixed configuration per class, chosen by trial on training traces: what a careful engineer would
//! deploy, and the `OracleStatic` of ALERT's comparison with honest seeds.

use super::knobs::Knobs;
use super::names::{UnknownPolicy, build};
use super::pace::{Pins, soonest};
use super::queue::Waiting;
use super::server::Server;
use super::view::{Configuration, Only, View};
use super::{Costs, Policy, Run};
use crate::board::sim::Script;
use crate::core::catalog::{ModelId, UnitId};
use crate::core::energy::Budgets;
use crate::core::event::ClassId;
use crate::sim::{Machine, Scheduler, Stream, Workload, World, WorldOptions};
use crate::time::Timestamp;
use crate::units::{Nanos, Ppm};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Seeds of the training traces; whoever judges keeps to seeds below a billion.
const SEEDS: [u64; 2] = [1_000_000_007, 1_000_000_009];
/// Longest training trace.
const LONGEST: Nanos = Nanos::from_secs(300);
/// Share of the requests that may be late or turned away, if any candidate does that well.
const MISSES: f64 = 0.001;
/// Candidates tried per class, cheapest first, and how many that are good enough end the search.
const MOST_TRIED: usize = 48;
const ENOUGH: usize = 4;

type Table = BTreeMap<(ClassId, ModelId), Configuration>;

/// One configuration per class and model. Where it is not accurate enough for a request that names its own
/// floor, or not loaded, what ends first serves. Idle domains rest at their lowest clock.
#[derive(Debug, Clone, Default)]
pub struct StaticBest {
    table: Table,
    pins: Pins,
}

impl Policy for StaticBest {
    fn choose(&mut self, view: &View<'_>, head: &Waiting) -> Option<Configuration> {
        let fixed = self.table.get(&(head.request.class, head.request.model)).copied();
        let usable = |choice: &Configuration| {
            view.state.accepts(head, choice.variant)
                && view.state.residency.is_available(choice.variant, choice.unit)
        };
        fixed.filter(usable).or_else(|| soonest(view, head))
    }

    fn set_clocks(&mut self, view: &View<'_>, knobs: &mut Knobs) -> Option<Timestamp> {
        self.pins.set(view, knobs);
        None
    }

    fn started(&mut self, view: &View<'_>, run: &Run) -> Nanos {
        self.pins.started(view, run.choice);
        view.profiled(run, 1.0)
    }
}

/// The traces of a scenario that policies may be trained on. Trains when it is first asked to, once.
#[derive(Debug)]
pub struct Training {
    machine: Machine,
    budgets: Budgets,
    streams: Vec<Stream>,
    script: Option<Script>,
    lasting: Nanos,
    table: OnceLock<Table>,
}

impl Training {
    /// The world as it is, but for the seed: its streams, and what happens to its board, for so long.
    #[must_use]
    pub fn new(
        machine: Machine,
        budgets: Budgets,
        streams: Vec<Stream>,
        script: Option<Script>,
        lasting: Nanos,
    ) -> Self {
        let lasting = lasting.min(LONGEST);
        Self { machine, budgets, streams, script, lasting, table: OnceLock::new() }
    }

    /// The policy of a name for a machine as it is described to it, `static-best` included.
    ///
    /// # Errors
    /// If there is none.
    pub fn build(&self, name: &str, told: &Machine) -> Result<Box<dyn Scheduler + Send>, UnknownPolicy> {
        if name != "static-best" {
            return build(name, told, &self.budgets);
        }
        let table = self.table.get_or_init(|| self.train()).clone();
        let policy = StaticBest { table, pins: Pins::default() };
        Ok(Box::new(Server::new(told.catalog.clone(), self.budgets.clone(), Only::new(), policy)))
    }

    /// Class by class, the others held at their fastest or where they were put before.
    fn train(&self) -> Table {
        let costs = Costs::new(&self.machine.catalog);
        let mut kinds: Vec<(ClassId, ModelId)> =
            self.streams.iter().map(|stream| (stream.class, stream.model)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut table = Table::new();
        let candidates: Vec<Vec<Configuration>> =
            kinds.iter().map(|&kind| self.candidates(&costs, kind)).collect();
        for (kind, candidates) in kinds.iter().zip(&candidates) {
            let seconds =
                |choice: &&Configuration| costs.latency(choice.variant, choice.unit, choice.point, 1);
            table.extend(candidates.iter().min_by_key(seconds).map(|fastest| (*kind, *fastest)));
        }
        for (kind, candidates) in kinds.iter().zip(&candidates) {
            let mut tried: Vec<(f64, f64, Configuration)> = Vec::new();
            for &candidate in candidates.iter().take(MOST_TRIED) {
                table.insert(*kind, candidate);
                let (failed, joules) = self.try_out(&table);
                tried.push((failed, joules, candidate));
                if tried.iter().filter(|(failed, ..)| *failed <= MISSES).count() >= ENOUGH {
                    break;
                }
            }
            let least = tried.iter().map(|(failed, ..)| *failed).fold(f64::INFINITY, f64::min);
            let good = tried.iter().filter(|(failed, ..)| *failed <= least.max(MISSES));
            if let Some((.., best)) = good.min_by(|a, b| a.1.total_cmp(&b.1)) {
                table.insert(*kind, *best);
            }
        }
        table
    }

    /// Configurations that are accurate enough and fast enough by their profile, the least energy first; if none
    /// is fast enough, all that are accurate enough, the fastest first.
    fn candidates(&self, costs: &Costs, (class, model): (ClassId, ModelId)) -> Vec<Configuration> {
        let catalog = &self.machine.catalog;
        let budget = self.budgets.classes.get(usize::from(class.0)).unwrap_or(&self.budgets.classes[0]);
        let asked = self.streams.iter().filter(|stream| stream.class == class && stream.model == model);
        let deadline = asked.filter_map(|stream| stream.deadline).fold(budget.latency, Nanos::min);
        let accuracy = |id: crate::core::catalog::VariantId| catalog.variants[id.index()].accuracy;
        let variants = &catalog.models[model.index()].variants;
        let target = budget.accuracy_target.unwrap_or(Ppm::ZERO).max(budget.min_accuracy);
        let any = variants.iter().any(|&id| accuracy(id) >= target);
        let bar = if any { target } else { budget.min_accuracy };
        let units = 0..catalog.board.units.len();
        let mut all: Vec<Configuration> = variants
            .iter()
            .filter(|&&variant| accuracy(variant) >= bar)
            .flat_map(|&variant| units.clone().map(move |unit| (variant, UnitId::at(unit))))
            .filter(|&(variant, unit)| costs.may_run(variant, unit))
            .flat_map(|(variant, unit)| {
                let points = 0..costs.clocks(unit).len();
                points.map(move |point| Configuration { variant, unit, point })
            })
            .collect();
        let latency = |choice: &Configuration| costs.latency(choice.variant, choice.unit, choice.point, 1);
        let joules = |choice: &Configuration| costs.joules(choice.variant, choice.unit, choice.point, 1);
        if all.iter().any(|choice| latency(choice) <= deadline) {
            all.retain(|choice| latency(choice) <= deadline);
            all.sort_by(|a, b| joules(a).total_cmp(&joules(b)));
        } else {
            all.sort_by_key(latency);
        }
        all
    }

    /// Share of requests that failed, and energy, over all training traces.
    fn try_out(&self, table: &Table) -> (f64, f64) {
        let (mut failed, mut requests, mut joules) = (0, 0, 0.0);
        for seed in SEEDS {
            let policy = StaticBest { table: table.clone(), pins: Pins::default() };
            let server = Server::new(self.machine.catalog.clone(), self.budgets.clone(), Only::new(), policy);
            let workload = Workload::new(self.streams.clone(), seed);
            let options = WorldOptions { seed, ..WorldOptions::default() };
            let mut world = World::new(server, &self.machine, &self.budgets, workload, options);
            if let Some(script) = &self.script {
                world.play(script);
            }
            world.run_until(Timestamp::ZERO.after(self.lasting));
            let summary = world.summary();
            let late = summary.requests - summary.served + summary.missed;
            failed += late;
            requests += summary.requests;
            joules += summary.energy_j;
        }
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
        let share = failed as f64 / requests.max(1) as f64;
        (share, joules)
    }
}
