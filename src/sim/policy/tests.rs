//! Every policy at work, on every board, under the checkers.

use super::*;
use crate::core::energy::{Budgets, Objective};
use crate::sim::tests::{BOARDS, at_s, board, budgets, camera, fashion};
use crate::sim::{Machine, Stream, Summary, Workload, World, WorldOptions};

fn machine(name: &str) -> Machine {
    Machine::new(&board(name), &[fashion()], 1).unwrap()
}

/// Runs a policy; what was seen, if no rule was broken and every request got an answer.
fn run(name: &str, machine: &Machine, budgets: &Budgets, streams: Vec<Stream>, seconds: f64) -> Summary {
    let policy = build(name, machine, budgets).unwrap();
    let options = WorldOptions { seed: 3, ..WorldOptions::default() };
    let mut world = World::new(policy, machine, budgets, Workload::new(streams, 3), options);
    world.run_until(at_s(seconds));
    assert!(world.drain(Nanos::from_secs(60)), "{name}: requests are left");
    let violations = world.checkers().violations();
    assert!(violations.is_empty(), "{name}: {violations:?}");
    world.summary()
}

#[test]
fn every_policy_keeps_the_rules_on_every_board() {
    for (name, _) in BOARDS {
        let (machine, budgets) = (machine(name), budgets(Objective::LeastEnergy));
        let streams = || vec![Stream { from: at_s(2.0), ..camera(12) }];
        let mut watts = std::collections::BTreeMap::new();
        let suffixes = ["performance-smallest", "schedutil-smallest", "race-to-idle-fixed:student64-int8"];
        println!("{name}");
        for policy in NAMES.into_iter().chain(suffixes) {
            let summary = run(policy, &machine, &budgets, streams(), 13.0);
            assert_eq!(summary.served + summary.turned_away(), summary.requests);
            println!(
                "  {policy:<34} {:7.3} W  {:3} late {:3} refused of {}  accuracy {:.4}",
                summary.mean_watts(),
                summary.missed,
                summary.turned_away(),
                summary.requests,
                summary.accuracy().as_fraction()
            );
            watts.insert(policy, summary.mean_watts());
        }
        let ordered = [
            ("race-to-idle", "performance"),
            ("slowest-feasible", "performance"),
            ("performance-smallest", "performance"),
            ("schedutil", "performance"),
            ("ondemand", "performance"),
            ("alert", "performance"),
            ("poet", "performance"),
            ("alert", "alert-app-only"),
        ];
        for (less, more) in ordered {
            // Half a per cent: noise of the runs, and leakage that follows the temperature.
            assert!(watts[less] <= watts[more] * 1.005, "{name}: {less} draws more than {more}: {watts:?}");
        }
    }
}
