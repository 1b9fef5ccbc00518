//! What a run is compared with, in a few figures.

use super::{Causal, Demand, Insight, Instance, Truth, certified_bound_of, o1};
use crate::board::sim::Script;
use crate::core::event::Outcome;
use crate::sim::{Row, Stream, World, WorldOptions};
use crate::time::Timestamp;
use crate::units::{Microjoules, Ppm};

/// An answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Energy of its runs, above the idle board.
    pub energy: Microjoules,
    /// Accuracy of the variant that gave it.
    pub accuracy: Ppm,
}

impl Answer {
    /// What a request came to, if that is an answer in time.
    #[must_use]
    pub fn in_time(row: &Row) -> Option<Self> {
        let Outcome::Served(served) = row.outcome else { return None };
        (!row.late()).then_some(Self { energy: row.energy, accuracy: served.accuracy })
    }
}

/// The oracles' figures of a scenario and a seed. Which requests they are about is the same for all of them: those that
/// can be served in time, each alone; or, where no schedule can serve all of those, those that O3 served.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// No schedule that serves those requests in time needs less: certified.
    pub bound_energy_uj: Microjoules,
    /// Each request for itself, without queueing (O1).
    pub o1_energy_uj: Microjoules,
    /// The causal planner with the true parameters (O3).
    pub o3_energy_uj: Microjoules,
    /// Of those requests, how many O3 did not answer in time.
    pub o3_misses: u64,
    /// How many requests there are that can be served in time.
    pub oracle_feasible_requests: u64,
    /// Which: by request.
    pub feasible: Vec<bool>,
    /// What the board takes if nothing comes, at its cheapest clocks: it is part of all the energies.
    pub idle_energy_uj: Microjoules,
    /// What O3 answered in time: by request.
    pub o3_answers: Vec<Option<Answer>>,
}

/// Asks the oracles.
#[must_use]
pub fn judge(truth: &Truth<'_>, streams: &[Stream], options: WorldOptions) -> Verdict {
    let instance = Instance::of(truth.clone());
    let clairvoyant = o1(&instance);
    let (o3_j, answers) = run_o3(truth, streams, options, &instance);
    let in_time: Vec<bool> = answers.iter().map(Option::is_some).collect();
    let mut feasible = clairvoyant.feasible();
    let mut bound = demand(&instance, &feasible);
    if bound.overloaded {
        feasible = in_time.clone();
        bound = demand(&instance, &feasible);
    }
    let missed = feasible.iter().zip(&in_time).filter(|(feasible, in_time)| **feasible && !**in_time);
    let microjoules = |joules: f64| Microjoules::from_f64(joules * 1e6);
    Verdict {
        bound_energy_uj: microjoules(bound.joules),
        o1_energy_uj: microjoules(clairvoyant.joules),
        o3_energy_uj: microjoules(o3_j),
        o3_misses: missed.count() as u64,
        oracle_feasible_requests: feasible.iter().filter(|feasible| **feasible).count() as u64,
        feasible,
        idle_energy_uj: microjoules(bound.idle_j),
        o3_answers: answers,
    }
}

fn demand(instance: &Instance, served: &[bool]) -> super::Bound {
    certified_bound_of(instance, Demand { served: Some(served), mean_accuracy: None })
}

/// Energy of O3 in the world, J, and what it answered in time, by request.
fn run_o3(
    truth: &Truth<'_>,
    streams: &[Stream],
    options: WorldOptions,
    instance: &Instance,
) -> (f64, Vec<Option<Answer>>) {
    let planner = Causal::new(truth.machine, truth.budgets, streams, options.write_delay, Insight::Told);
    let options = WorldOptions { seed: truth.seed, rows: true, ..options };
    let mut world = World::new(planner, truth.machine, truth.budgets, truth.workload.clone(), options);
    if let Some(heat) = truth.heat {
        world.plant_mut().preheat(heat);
    }
    if let Some((script, from)) = truth.script {
        world.play(&delayed(script, from));
    }
    world.run_until(Timestamp::ZERO.after(truth.horizon));
    world.finish();
    let mut answers = vec![None; instance.asks.len()];
    for row in world.rows() {
        let place = row.index().and_then(|index| Some((answers.get_mut(index)?, instance.asks.get(index)?)));
        if let Some((slot, ask)) = place {
            *slot = Answer::in_time(row).filter(|_| ask.counts);
        }
    }
    (world.plant().stats().input_j, answers)
}

/// A script that is played from power-on but begins later.
fn delayed(script: &Script, from: Timestamp) -> Script {
    let steps = script.steps().iter();
    Script::of(steps.map(|(at, change)| (from.after(*at).since(Timestamp::ZERO), change.clone())).collect())
}
