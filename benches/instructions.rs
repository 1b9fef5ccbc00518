//! How many instructions one decision takes, counted by Callgrind: the same in every run, whatever else the machine does.
//!
//! `cargo bench --bench instructions` needs Valgrind and `gungraun-runner`, which `scripts/bench` installs.

#![allow(missing_docs, reason = "made by macros")]

#[allow(dead_code, reason = "what measures it needs less than all")]
#[path = "decision/mod.rs"]
mod decision;

use decision::{Steady, Step};
use gungraun::{library_benchmark, library_benchmark_group, main};
use wattd::core::event::Event;

/// Batches dispatched before the decision that is counted.
const WARM_UP: u64 = 100;

/// A core with so many requests waiting, right before a run ends and the next is decided on.
fn ready(length: usize) -> (Steady, Step) {
    let warm = || {
        let mut steady = Steady::new(length, u64::MAX, 1);
        steady.warm_up(WARM_UP);
        steady
    };
    let (mut scout, mut steps) = (warm(), 0);
    loop {
        let (step, dispatched) = (scout.next(), scout.dispatched);
        let ends = matches!(step.event, Event::Completed(_));
        scout.handle(step);
        if ends && scout.dispatched > dispatched {
            break;
        }
        scout.fill();
        steps += 1;
    }
    let mut steady = warm();
    for _ in 0..steps {
        let step = steady.next();
        steady.handle(step);
        steady.fill();
    }
    let step = steady.next();
    (steady, step)
}

#[library_benchmark]
#[bench::with_a_full_queue(args = (64), setup = ready)]
#[bench::with_one_request(args = (1), setup = ready)]
fn decide((mut steady, step): (Steady, Step)) -> Steady {
    steady.handle(step);
    steady
}

library_benchmark_group!(name = instructions, benchmarks = decide);

main!(library_benchmark_groups = instructions);
