//! What one decision costs: 64 requests queued, 8 variants, 3 units, 12 clocks.
//!
//! `cargo bench --bench plan`. The first lines printed are the distributions over some thousand decisions; the
//! target is a 99th percentile of at most 50 us with a full queue. A decision is the end of a run with all that comes of
//! it: the core settles, learns, decides on the next run and gives the orders. `--bench instructions` counts instead.

#[allow(dead_code, reason = "what measures it needs less than all")]
#[path = "decision/mod.rs"]
mod decision;

use decision::{Steady, idle_core};
use wattd::core::catalog::*;
use wattd::core::estimate::Estimates;
use wattd::core::event::Event;
use wattd::core::points::OperatingPoint;
use wattd::time::{Clock, MonotonicClock};
use wattd::units::*;

/// Decisions measured.
const DECISIONS: usize = 5_000;

fn main() {
    for (length, name) in [(64, "a full queue"), (1, "one request")] {
        let spans = decisions(length);
        let at = |share: usize| spans[(spans.len() * share / 1000).min(spans.len() - 1)];
        println!(
            "decisions with {name}: {}, p50 {} ns, p99 {} ns, p99.9 {} ns, most {} ns",
            spans.len(),
            at(500),
            at(990),
            at(999),
            at(1000)
        );
    }
    divan::main();
}

/// How long decisions take, sorted.
fn decisions(length: usize) -> Vec<u64> {
    let clock = MonotonicClock::start();
    let mut steady = Steady::new(length, u64::MAX, 1);
    steady.warm_up(2_000);
    let mut spans = Vec::with_capacity(DECISIONS);
    while spans.len() < DECISIONS {
        let (step, dispatched) = (steady.next(), steady.dispatched);
        let ends = matches!(step.event, Event::Completed(_));
        let before = clock.now();
        steady.handle(step);
        let span = clock.now().since(before).0;
        if ends && steady.dispatched > dispatched {
            spans.push(span);
        }
        steady.fill();
    }
    spans.sort_unstable();
    spans
}

/// A run's latency and energy, learned.
#[divan::bench]
fn estimators_observe_a_run(bencher: divan::Bencher<'_, '_>) {
    let (mut estimates, mut round) = (learned(), 0);
    bencher.bench_local(|| {
        round += 1;
        observe(&mut estimates, round);
    });
}

/// What the planner asks of one configuration.
#[divan::bench]
fn estimators_price_a_configuration(bencher: divan::Bencher<'_, '_>) {
    let (estimates, mut point) = (learned(), 0);
    bencher.bench_local(|| {
        point = (point + 1) % 4;
        let (variant, unit) = (VariantId(0), UnitId(0));
        let slowdown = estimates.slowdown_at_point(variant, unit, point);
        (
            slowdown * estimates.busy_watts_at_point(variant, unit, point),
            estimates.survival(variant, unit, 1.1),
        )
    });
}

fn learned() -> Estimates {
    let mut estimates = Estimates::new(idle_core().catalog());
    (0..1000).for_each(|round| observe(&mut estimates, round));
    estimates
}

fn observe(estimates: &mut Estimates, round: u64) {
    let (variant, unit, clock) = (VariantId(0), UnitId(0), Kilohertz(1_000_000));
    // Between 9.5 and 10.5 ms, and one of 97 half as long again.
    let actual =
        Nanos(9_500_000 + round * 7_919 % 1_000_000 + if round.is_multiple_of(97) { 5_000_000 } else { 0 });
    estimates.observe_latency(variant, unit, OperatingPoint::of_clock(clock), Nanos::from_millis(10), actual);
    estimates.observe_energy(
        variant,
        unit,
        OperatingPoint::of_clock(clock),
        actual,
        actual.as_secs_f64() * 2.0,
    );
}
