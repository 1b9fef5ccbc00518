//! Random worlds: a board, a disturbance script, a workload and budgets from a seed, under the checkers. All
//! faults heal in the end; then the queue must drain and the regime return to nominal.
#![allow(clippy::cast_possible_truncation, reason = "dice are small")]

use super::*;
use crate::board::sim::{ActuatorFault, Change, PlantSpec, Script, Sensor, SensorFailure};
use crate::core::catalog::{DomainId, ModelId, RailId, ZoneId};
use crate::core::energy::{BatteryAllowance, EnergyAllowance};
use crate::core::event::{AppId, ClassId};
use crate::core::thermal::Regime;
use crate::units::{Kilohertz, Microjoules, Microwatts};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

/// Seconds in which things go wrong, and until everything must be well again.
const TROUBLE_S: f64 = 30.0;
const HEALED_S: f64 = 75.0;

struct Dice(Xoshiro256PlusPlus);

impl Dice {
    fn between(&mut self, low: f64, high: f64) -> f64 {
        let share: f64 = self.0.random();
        low + (high - low) * share
    }

    fn odds(&mut self, share: f64) -> bool {
        self.between(0.0, 1.0) < share
    }

    fn below(&mut self, count: usize) -> usize {
        self.0.random_range(0..count)
    }

    fn count(&mut self, low: u32, high: u32) -> u32 {
        self.0.random_range(low..=high)
    }

    fn millis(&mut self, low: u64, high: u64) -> Nanos {
        Nanos::from_millis(self.0.random_range(low..=high))
    }
}

/// A disturbance and what ends it.
fn trouble(dice: &mut Dice, plant: &PlantSpec) -> (Change, Change) {
    let domain = DomainId::at(dice.below(plant.domains.len()));
    let ill = match dice.below(6) {
        0 if !plant.sensors.is_empty() => Sensor::Rail(RailId::at(dice.below(plant.sensors.len()))),
        1 if plant.battery.is_some() => Sensor::Battery,
        2 => Sensor::Domain(domain),
        _ => Sensor::Zone(ZoneId::at(dice.below(plant.zones.len()))),
    };
    let sensor = |failure| {
        let end = Change::Sensor { sensor: ill, failure: None };
        (Change::Sensor { sensor: ill, failure: Some(failure) }, end)
    };
    let actuator =
        |fault| (Change::Actuator { domain, fault: Some(fault) }, Change::Actuator { domain, fault: None });
    match dice.below(13) {
        0 => (Change::AmbientC(dice.between(30.0, 70.0)), Change::AmbientC(20.0)),
        1 => (Change::FanFailed(true), Change::FanFailed(false)),
        2 => (Change::ContentionCompute(dice.between(1.2, 3.0)), Change::ContentionCompute(1.0)),
        3 => (Change::ContentionMemory(dice.between(1.2, 3.0)), Change::ContentionMemory(1.0)),
        4 => (Change::TailProbability(dice.between(0.05, 0.5)), Change::TailProbability(0.01)),
        5 => (Change::ExtraPowerW(dice.between(1.0, 15.0)), Change::ExtraPowerW(0.0)),
        6 => (Change::ActuationDelay(dice.between(2.0, 20.0)), Change::ActuationDelay(1.0)),
        7 => sensor(SensorFailure::NoData),
        8 => sensor(SensorFailure::Stuck),
        9 => sensor(SensorFailure::Text("hot".into())),
        10 => sensor(SensorFailure::Value(dice.between(-60.0, 200.0))),
        11 => actuator(ActuatorFault::Refuse),
        _ => {
            let opps = &plant.domains[domain.index()].opps;
            actuator(ActuatorFault::Clamp(Kilohertz(opps[dice.below(opps.len())].0)))
        }
    }
}

fn script(dice: &mut Dice, plant: &PlantSpec) -> Script {
    let mut steps = Vec::new();
    for _ in 0..dice.below(7) {
        let (begin, end) = trouble(dice, plant);
        let from = dice.between(0.0, TROUBLE_S);
        let until = dice.between(from, TROUBLE_S);
        steps.push((Nanos::from_secs_f64(from), begin));
        steps.push((Nanos::from_secs_f64(until), end.clone()));
        // Of two of a kind that overlap the earlier end would be undone by the later begin.
        steps.push((Nanos::from_secs_f64(TROUBLE_S), end));
    }
    Script::of(steps)
}

fn streams(dice: &mut Dice, models: usize) -> Vec<Stream> {
    let stream = |dice: &mut Dice, app: u32| {
        let arrivals = match dice.below(3) {
            0 => Arrivals::Periodic { period: dice.millis(10, 400), jitter: dice.millis(0, 30) },
            1 => Arrivals::Poisson { per_s: dice.between(0.5, 60.0) },
            _ => Arrivals::Bursts { every: dice.millis(200, 4000), size: dice.count(1, 40) },
        };
        Stream {
            app: AppId(app),
            class: ClassId(u16::from(dice.odds(0.5))),
            model: ModelId::at(dice.below(models)),
            items: dice.count(1, 4),
            deadline: dice.odds(0.5).then(|| dice.millis(2, 800)),
            min_accuracy: dice.odds(0.3).then(|| Ppm::from_fraction(dice.between(0.8, 0.95))),
            quitters: if dice.odds(0.3) { 0.2 } else { 0.0 },
            patience: dice.millis(1, 300),
            from: at_s(dice.between(0.0, 5.0)),
            until: at_s(dice.between(10.0, TROUBLE_S)),
            arrivals,
            spikes: Vec::new(),
        }
    };
    (0..dice.count(1, 3)).map(|app| stream(dice, app)).collect()
}

fn random_budgets(dice: &mut Dice, idle: Microwatts) -> Budgets {
    let objective = if dice.odds(0.8) { Objective::LeastEnergy } else { Objective::Performance };
    let mut budgets = budgets(objective);
    let cap = idle.as_watts() + dice.between(0.3, 8.0);
    budgets.power_cap = dice.odds(0.3).then(|| Microwatts::from_watts(cap));
    // Both end before the world must be well again.
    budgets.energy = dice.odds(0.2).then(|| {
        let lasting = dice.millis(10_000, 60_000);
        let mean = Microwatts::from_watts(idle.as_watts() + dice.between(0.1, 4.0));
        EnergyAllowance { total: mean.over(lasting), lasting }
    });
    budgets.battery = dice.odds(0.2).then(|| {
        let reserve = Ppm::from_fraction(dice.between(0.0, 0.9));
        BatteryAllowance { reserve, lasting: dice.millis(10_000, 60_000) }
    });
    budgets.power_window = dice.millis(500, 10_000);
    budgets.max_temperature = dice.odds(0.3).then(|| MilliCelsius::from_celsius(dice.between(60.0, 90.0)));
    budgets.memory_cap = Bytes(dice.0.random_range(8..256) << 20);
    budgets.queue_limit = dice.0.random_range(1..200);
    budgets.app_limit = dice.0.random_range(1..100);
    budgets.unload_after = dice.odds(0.3).then(|| dice.millis(200, 20_000));
    budgets.classes[0].accuracy_target = dice.odds(0.5).then(|| Ppm::from_fraction(0.93));
    let mut second = budgets.classes[0].clone();
    second.name = "background".into();
    second.priority = dice.0.random_range(0..20);
    second.energy_per_request = dice.odds(0.3).then(|| Microjoules(dice.0.random_range(2_000..500_000)));
    second.latency = dice.millis(20, 2_000);
    second.power = dice.odds(0.5).then(|| Microwatts::from_watts(dice.between(0.05, 3.0)));
    budgets.classes.push(second);
    budgets
}

/// Runs the world of a seed; what went wrong, if anything did.
fn run(seed: u64) -> Result<Summary, String> {
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
    let spec = board(BOARDS[dice.below(BOARDS.len())].0);
    let plant = PlantSpec::from_board(&spec).unwrap().with_thermal_speedup(20.0).unwrap();
    let mut described = spec.board();
    // The planner is told of the faster heat, as a demonstration does.
    described.thermal.fast_tau_s /= 20.0;
    described.thermal.slow_tau_s /= 20.0;
    let machine = Machine::of_plant(described, Arc::new(plant), &[fashion(), crepe()], seed);
    let budgets = random_budgets(&mut dice, machine.catalog.board.idle_power);
    let streams = streams(&mut dice, machine.catalog.models.len());
    let script = script(&mut dice, &machine.plant);
    let faults = match dice.odds(0.3) {
        true => LaneFaults { run: 0.05, load: 0.1, lost: 0.01 },
        false => LaneFaults::default(),
    };
    let core = Core::new(machine.catalog.clone(), budgets.clone(), Timestamp::ZERO);
    let (metered, write_delay) = (dice.odds(0.7), Nanos::from_micros(dice.0.random_range(0..20_000)));
    let options = WorldOptions { seed, faults, metered, write_delay, ..WorldOptions::default() };
    let mut world = World::new(core, &machine, &budgets, Workload::new(streams, seed), options);
    world.play(&script);
    world.run_until(at_s(TROUBLE_S));
    let rested = world.drain(Nanos::from_secs_f64(HEALED_S - TROUBLE_S));
    world.run_until(at_s(HEALED_S));
    let context = |what: String| {
        Err(format!("seed {seed}, {}: {what}\n{}\n{script:?}\n{budgets:?}", spec.name, world.summary()))
    };
    if let Some(first) = world.checkers().violations().first() {
        return context(format!("{} violations, the first: {first:?}", world.checkers().violations().len()));
    }
    if !rested {
        return context("the queue does not drain".into());
    }
    if world.checkers().regime() != Regime::Nominal {
        return context(format!("the regime is still {:?}", world.checkers().regime()));
    }
    let status = world.scheduler().status(world.now());
    if status.reserved.0 != 0 {
        return context(format!("{} are still reserved", status.reserved));
    }
    Ok(world.summary())
}

#[test]
fn random_worlds_keep_every_rule() {
    let fresh: u64 = match std::env::var("WATTD_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => crate::time::unix_seconds(),
    };
    println!("WATTD_SEED={fresh}");
    let failures: Vec<String> = (1..=12).chain([fresh]).filter_map(|seed| run(seed).err()).collect();
    assert!(failures.is_empty(), "{} of 13 worlds:\n{}", failures.len(), failures.join("\n\n"));
}

/// The same seed gives the same run.
#[test]
fn a_world_is_deterministic() {
    assert_eq!(run(5), run(5));
}
