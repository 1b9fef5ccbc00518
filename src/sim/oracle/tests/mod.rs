//! The oracles on random scenarios; the seed of a fresh one is printed, and `WATTD_SEED` repeats it.

mod bounds;
mod grid;
mod solvers;
mod truth;

use super::*;
use crate::board::sim::{Change, PlantSpec, Script};
use crate::core::Core;
use crate::core::catalog::ModelId;
use crate::core::energy::{Budgets, Objective};
use crate::core::event::{AppId, ClassId, Outcome};
use crate::sim::tests::{BOARDS, board, budgets, fashion};
use crate::sim::{Arrivals, Machine, Scheduler, Stream, Workload, World, WorldOptions};
use crate::time::Timestamp;
use crate::units::{Nanos, Ppm};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

/// When the workload begins: by then everything is loaded.
const BEGIN_S: f64 = 2.0;

pub(super) fn at_s(s: f64) -> Timestamp {
    Timestamp::ZERO.after(Nanos::from_secs_f64(s))
}

/// A fixed number of seeds, and one that nobody has seen.
pub(super) fn seeds(count: u64) -> Vec<u64> {
    let fresh: u64 = match std::env::var("WATTD_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => crate::time::unix_seconds(),
    };
    println!("WATTD_SEED={fresh}");
    (1..=count).chain([fresh]).collect()
}

pub(super) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        let share: f64 = self.0.random();
        low + (high - low) * share
    }

    pub(super) fn below(&mut self, count: usize) -> usize {
        self.0.random_range(0..count)
    }

    pub(super) fn odds(&mut self, share: f64) -> bool {
        self.between(0.0, 1.0) < share
    }
}

/// A scenario in all its parts.
pub(super) struct Case {
    pub(super) seed: u64,
    pub(super) machine: Machine,
    pub(super) budgets: Budgets,
    pub(super) streams: Vec<Stream>,
    pub(super) script: Script,
    pub(super) horizon: Nanos,
}

impl Case {
    /// A random one of `seconds` on some board.
    pub(super) fn random(seed: u64, seconds: f64) -> Self {
        let mut dice = Dice::new(seed);
        let spec = board(BOARDS[dice.below(BOARDS.len())].0);
        // The models are small: some boards are to be loaded too.
        let scale = [1.0, 10.0, 40.0][dice.below(3)];
        let plant = PlantSpec::from_board(&spec).unwrap().with_work_scale(scale).unwrap();
        let machine = Machine::of_plant(spec.board(), Arc::new(plant), &[fashion()], seed);
        let streams: Vec<Stream> = (0..=dice.below(2)).map(|app| stream(&mut dice, app, seconds)).collect();
        let longest = streams.iter().filter_map(|stream| stream.deadline).max().unwrap();
        let horizon = Nanos::from_secs_f64(BEGIN_S + seconds).saturating_add(longest);
        let script = script(&mut dice, BEGIN_S + seconds);
        Self { seed, machine, budgets: budgets(Objective::LeastEnergy), streams, script, horizon }
    }

    pub(super) fn truth(&self) -> Truth<'_> {
        Truth {
            machine: &self.machine,
            budgets: &self.budgets,
            workload: Workload::new(self.streams.clone(), self.seed),
            script: Some((&self.script, Timestamp::ZERO)),
            seed: self.seed,
            horizon: self.horizon,
            heat: None,
            memory: MemoryClocks::Free,
        }
    }

    pub(super) fn instance(&self) -> Instance {
        Instance::of(self.truth())
    }

    pub(super) fn core(&self, objective: Objective) -> Core {
        let budgets = Budgets { objective, ..self.budgets.clone() };
        Core::new(self.machine.catalog.clone(), budgets, Timestamp::ZERO)
    }

    pub(super) fn causal(&self, insight: Insight) -> Causal {
        let delay = WorldOptions::default().write_delay;
        Causal::new(&self.machine, &self.budgets, &self.streams, delay, insight)
    }

    /// Lets a scheduler run to the horizon.
    pub(super) fn run<S: Scheduler>(&self, scheduler: S) -> Judged {
        let options = WorldOptions { seed: self.seed, rows: true, ..WorldOptions::default() };
        let workload = Workload::new(self.streams.clone(), self.seed);
        let mut world = World::new(scheduler, &self.machine, &self.budgets, workload, options);
        world.play(&self.script);
        world.run_until(Timestamp::ZERO.after(self.horizon));
        world.finish();
        let asks = self.instance().asks;
        let mut served = vec![false; asks.len()];
        let (mut accuracy, mut counted) = (0.0, 0.0);
        for row in world.rows() {
            let index = usize::try_from(row.request.0).unwrap() - 1;
            if let Outcome::Served(how) = row.outcome {
                served[index] = row.answered <= asks[index].deadline;
                if served[index] && asks[index].counts {
                    accuracy += self.machine.variants[how.variant.index()].accuracy.as_fraction();
                    counted += 1.0;
                }
            }
        }
        let count = served.iter().filter(|served| **served).count();
        Judged {
            joules: world.plant().stats().input_j,
            accuracy: accuracy / f64::max(counted, 1.0),
            late: asks.iter().zip(&served).filter(|(ask, served)| ask.counts && !**served).count(),
            served,
            count,
            violations: world.checkers().violations().iter().map(|v| format!("{v:?}")).collect(),
        }
    }
}

/// What became of a run.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) joules: f64,
    /// Mean of what was answered in time and counts.
    pub(super) accuracy: f64,
    pub(super) late: usize,
    pub(super) count: usize,
    pub(super) served: Vec<bool>,
    pub(super) violations: Vec<String>,
}

fn stream(dice: &mut Dice, app: usize, seconds: f64) -> Stream {
    let arrivals = match dice.below(3) {
        0 => Arrivals::Periodic {
            period: Nanos::from_secs_f64(dice.between(0.03, 0.4)),
            jitter: Nanos::from_secs_f64(dice.between(0.0, 0.02)),
        },
        1 => Arrivals::Poisson { per_s: dice.between(1.0, 25.0) },
        _ => Arrivals::Bursts {
            every: Nanos::from_secs_f64(dice.between(0.3, 2.0)),
            size: u32::try_from(1 + dice.below(8)).unwrap(),
        },
    };
    Stream {
        app: AppId(u32::try_from(app).unwrap() + 1),
        class: ClassId(0),
        model: ModelId(0),
        items: u32::try_from(1 + dice.below(2)).unwrap(),
        deadline: Some(Nanos::from_secs_f64(dice.between(0.02, 0.4))),
        min_accuracy: dice.odds(0.6).then(|| Ppm::from_fraction(dice.between(0.85, 0.933))),
        quitters: if dice.odds(0.3) { 0.1 } else { 0.0 },
        from: at_s(BEGIN_S),
        until: at_s(BEGIN_S + seconds),
        ..Stream::plain(arrivals, Nanos::ZERO)
    }
}

fn script(dice: &mut Dice, seconds: f64) -> Script {
    let mut steps = Vec::new();
    for _ in 0..dice.below(6) {
        let change = match dice.below(6) {
            0 => Change::ContentionCompute(dice.between(1.0, 2.5)),
            1 => Change::ContentionMemory(dice.between(1.0, 2.5)),
            2 => Change::TailProbability(dice.between(0.0, 0.3)),
            3 => Change::AmbientC(dice.between(0.0, 50.0)),
            4 => Change::FanFailed(dice.odds(0.7)),
            _ => Change::ExtraPowerW(dice.between(0.0, 5.0)),
        };
        steps.push((Nanos::from_secs_f64(dice.between(0.0, seconds)), change));
    }
    Script::of(steps)
}
