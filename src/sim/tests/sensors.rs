//! Sensors as boards have them: coarse, beside the die, with an offset, or dead. A living one is never taken for a
//! dead one, and a dead one never lets the board overheat.

use super::*;
use crate::board::sim::{Change, Heat, PlantSpec, Script, Sensor, SensorFailure};
use crate::core::catalog::ZoneId;
use crate::core::thermal::Regime;
use crate::units::Ppm;
use std::sync::Arc;

fn machine(name: &str, change: impl FnOnce(&mut PlantSpec)) -> Machine {
    let spec = board(name);
    let mut plant = PlantSpec::from_board(&spec).unwrap();
    change(&mut plant);
    Machine::of_plant(spec.board(), Arc::new(plant), &[fashion()], 11)
}

/// The regimes of a run, looked at after every sweep.
fn regimes(world: &mut World<Core>, from_s: u32, until_s: u32) -> Vec<Regime> {
    let sweeps = (from_s * 10..until_s * 10).map(|tenth| f64::from(tenth) / 10.0 + 0.05);
    let mut seen: Vec<Regime> = Vec::new();
    for at in sweeps {
        world.run_until(at_s(at));
        let regime = world.checkers().regime();
        if !seen.contains(&regime) {
            seen.push(regime);
        }
    }
    seen
}

/// All out for some seconds, then nothing for as long: the die swings as far as the board can make it.
#[test]
fn coarse_and_sluggish_sensors_are_alive() {
    for (name, _) in BOARDS {
        let machine = machine(name, |plant| {
            plant.zone_step_c = 1.0;
            for zone in &mut plant.zones {
                (zone.die_share, zone.offset_k) = (0.5, zone.offset_k + 3.0);
            }
        });
        let mut all_out = budgets(Objective::Performance);
        all_out.classes[0].min_accuracy = Ppm::from_fraction(0.93);
        let load = Arrivals::Periodic { period: Nanos::from_millis(15), jitter: Nanos::ZERO };
        let bursts = (0..2u32).map(|burst| Stream {
            from: at_s(f64::from(burst) * 25.0 + 2.0),
            until: at_s(f64::from(burst) * 25.0 + 14.0),
            ..Stream::plain(load.clone(), Nanos::from_secs(50))
        });
        let mut world = world(&machine, &all_out, bursts.collect(), 3);
        let seen = regimes(&mut world, 1, 50);
        println!("{name}: {seen:?}, {}", world.summary());
        assert!(!seen.contains(&Regime::Uncontrollable), "{name}: {seen:?}");
    }
}

/// A hot board without a fan whose every zone dies while it is asked for more than its heat allows: believing
/// a zero, it would pass its trip by 2 K. (A zone that sticks at a steady load cannot be told from a board in
/// balance; it is found out when the load changes.)
#[test]
fn a_dead_sensor_never_lets_the_board_overheat() {
    let name = "jetson-tx2";
    for failure in [SensorFailure::Value(0.0), SensorFailure::Missing] {
        let machine = machine(name, |plant| plant.thermal_speedup = 10.0);
        let mut limits = budgets(Objective::LeastEnergy);
        limits.classes[0].min_accuracy = Ppm::from_fraction(0.93);
        let period = Nanos::from_millis(12);
        let load = Arrivals::Periodic { period, jitter: Nanos::from_millis(5) };
        let mut world = world(&machine, &limits, vec![Stream::plain(load, Nanos::from_secs(40))], 5);
        let path = machine.plant.thermal;
        let idle_w = machine.catalog.board.idle_power.as_watts();
        let trips = machine.plant.zones.iter().map(|zone| zone.passive.as_celsius());
        let trip = trips.fold(f64::INFINITY, f64::min);
        let ambient = trip - idle_w * (path.slow_k_per_w + path.fast_k_per_w) - 6.0;
        world.plant_mut().preheat(Heat::steady(&path, idle_w, ambient, path.slow_k_per_w));
        let zones = (0..machine.plant.zones.len()).map(|zone| Sensor::Zone(ZoneId::at(zone)));
        let dead = zones
            .map(|sensor| (Nanos::from_secs(8), Change::Sensor { sensor, failure: Some(failure.clone()) }));
        let hot = [Change::FanFailed(true), Change::AmbientC(ambient)].map(|change| (Nanos::ZERO, change));
        world.play(&Script::of(dead.chain(hot).collect()));
        let seen = regimes(&mut world, 1, 40);
        println!("{name}, {failure:?}: {seen:?}, {}", world.summary());
        assert_eq!(world.summary().above_trip, Nanos::ZERO, "{name}, {failure:?}");
    }
}
