//! The tables of an instance are what the plant does.

use super::*;
use crate::board::sim::{Plant, Work};
use crate::core::catalog::DomainId;
use crate::core::event::{ClockBounds, Effect, Event, Setpoints};
use std::collections::VecDeque;
use std::sync::Arc;

/// Any configuration, begun at any moment under any script, takes on the plant what the tables say, and costs the
/// board what they say: power while it runs, less power of the same board at rest.
#[test]
fn a_run_takes_and_draws_what_the_tables_say() {
    for seed in seeds(24) {
        let case = Case::random(seed, 6.0);
        let instance = case.instance();
        let mut dice = Dice::new(seed ^ 77);
        for _ in 0..4 {
            let index = dice.below(instance.configurations.len());
            let configuration = instance.configurations[index];
            let mut plant = Plant::new(Arc::clone(&case.machine.plant), seed);
            plant.play(&case.script);
            let unit = &case.machine.plant.units[configuration.unit.index()];
            let clocks = [(unit.domain, configuration.clock), (unit.memory_domain, configuration.memory)];
            for (domain, clock) in clocks {
                if let (Some(domain), Some(clock)) = (domain, clock) {
                    plant.set_bounds(plant.now(), domain, ClockBounds { min: clock, max: clock }).unwrap();
                }
            }
            let start = at_s(dice.between(1.0, 5.0));
            plant.advance(start);
            let (items, luck_of) = (u32::try_from(1 + dice.below(3)).unwrap(), 5);
            let luck = plant.luck_factor(luck_of, plant.conditions().1);
            let (end, joules) = instance.run(index, items, luck, start);
            let work = Work { items, ..case.machine.variants[configuration.variant.index()].work };
            plant.begin_with_luck(start, configuration.unit, work, luck_of).unwrap();
            plant.advance(end.after(Nanos::from_secs(1)));
            let finished = plant.take_finished().pop().unwrap();
            let off = finished.finished.0.abs_diff(end.0);
            assert!(off <= 20, "seed {seed}, {configuration:?}: ends at {end:?}, on the plant {finished:?}");
            // The plant does not count the memory clock to a run; the tables do.
            let held = unit.memory_domain.map_or(0.0, |domain| {
                let clocks = &case.machine.plant.domains[domain.index()].opps;
                let watts = |clock| case.machine.plant.domain_watts(domain, clock);
                watts(configuration.memory.unwrap()) - watts(clocks[0])
            });
            let counted = finished.energy.as_f64() / 1e6 + held * finished.latency().as_secs_f64();
            assert!((counted - joules).abs() <= 1e-5 * joules + 2e-6, "seed {seed}: {joules} J, {counted} J");
        }
    }
}

/// Does nothing, at the lowest clocks.
struct Sleeper(VecDeque<Effect>);

impl Scheduler for Sleeper {
    fn handle(&mut self, _: Timestamp, _: Event) {}

    fn poll_effect(&mut self) -> Option<Effect> {
        self.0.pop_front()
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        None
    }
}

/// A board without work at its lowest clocks needs no less than the idle energy, and not much more; the fan and the
/// heat of the start may make a difference of leakage.
#[test]
fn the_idle_energy_is_a_tight_bound_of_the_idle_board() {
    for seed in seeds(24) {
        let case = Case::random(seed, 60.0);
        let plant = &case.machine.plant;
        let lowest = (0..plant.domains.len()).map(DomainId::at).map(|domain| {
            let clock = plant.domains[domain.index()].opps[0];
            Some(ClockBounds { min: clock, max: clock })
        });
        let set = Effect::Set(Setpoints { domains: lowest.collect() });
        let run = case.run(Sleeper(VecDeque::from([set])));
        let idle_j = case.instance().idle_j();
        assert!(idle_j <= run.joules, "seed {seed}: {idle_j} J, {} J", run.joules);
        assert!(idle_j >= 0.93 * run.joules, "seed {seed}: {idle_j} J, {} J", run.joules);
    }
}

/// A joule of work warms the board, and a warmer board leaks more: never less than is credited to the work.
#[test]
fn work_costs_at_least_its_heating_too() {
    for (name, _) in BOARDS {
        let case = Case::random(3, 120.0);
        let machine = Machine::new(&board(name), &[fashion()], 3).unwrap();
        let case = Case { machine, script: Script::default(), ..case };
        let instance = case.instance();
        let run = case.run(case.core(Objective::Performance));
        let ask = instance.asks.iter().find(|ask| ask.counts).unwrap();
        let joule = instance.joule(ask);
        println!("{name}: idle {:.3} J, run {:.3} J, joule {joule:.4}", instance.idle_j(), run.joules);
        assert!(joule > 1.0 && joule < 1.2, "{name}: {joule}");
        // The first counted request has most time to warm.
        let last = instance.asks.iter().rfind(|ask| ask.counts).unwrap();
        assert!(instance.joule(last) < joule);
    }
}
