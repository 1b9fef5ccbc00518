//! The core allocates nothing while it works: not for a request that comes, not for a decision, an order, an answer, a
//! run that ends and is learned from, or a sweep of the sensors.
//!
//! What is left out: events and effects that carry lists of their own (the readings of a sweep are made by whoever
//! sweeps; batches of more than eight requests keep theirs on the heap), loading and unloading, and the first hundreds
//! of requests, in which queues and tables grow to the size that they keep.

#[allow(dead_code, reason = "what measures it needs less than all")]
#[path = "../benches/decision/mod.rs"]
mod decision;

use allocation_counter::{AllocationInfo, measure};
use decision::Steady;
use wattd::core::catalog::{ModelId, UnitId, VariantId};
use wattd::core::estimate::Estimates;
use wattd::core::event::Event;
use wattd::core::points::OperatingPoint;
use wattd::time::Timestamp;
use wattd::units::{Kilohertz, Microwatts, MilliCelsius, Nanos};

/// Batches dispatched before anything is counted, and steps that are looked at then.
const WARM_UP: u64 = 400;
const STEPS: usize = 400;

fn assert_none(counted: &AllocationInfo, what: &str) {
    assert_eq!(counted.count_total, 0, "{what} allocated {} bytes", counted.bytes_total);
}

/// Kinds of steps, so that no test passes because something never happened.
#[derive(Debug, Default)]
struct Seen {
    ends: usize,
    sweeps: usize,
    wakes: usize,
}

/// A queue kept at a length allocates nothing, step by step; one in `soft_every` requests names no deadline.
fn check(length: usize, soft_every: u64) -> (Seen, Steady) {
    let mut steady = Steady::new(length, soft_every, 1);
    steady.warm_up(WARM_UP);
    let mut seen = Seen::default();
    for _ in 0..STEPS {
        let step = steady.next();
        match &step.event {
            Event::Completed(_) => seen.ends += 1,
            Event::Sampled(_) => seen.sweeps += 1,
            _ => seen.wakes += 1,
        }
        let (at, what) = (step.at, format!("{:?}", step.event));
        assert_none(&measure(|| steady.handle(step)), &format!("at {at:?} {what}"));
        while steady.is_short() {
            let submit = steady.submit();
            assert_none(&measure(|| steady.handle(submit)), &format!("a request at {at:?}"));
        }
    }
    (seen, steady)
}

#[test]
fn a_full_queue_is_worked_off_without_an_allocation() {
    let (seen, steady) = check(64, u64::MAX);
    assert!(seen.ends > 100 && seen.sweeps > 5 && seen.wakes > 10, "{seen:?}");
    assert!(steady.served > steady.dispatched, "batches are formed");
}

#[test]
fn hard_and_soft_deadlines_are_weighed_without_an_allocation() {
    let (seen, _) = check(24, 3);
    assert!(seen.ends > 100, "{seen:?}");
}

#[test]
fn one_request_at_a_time_is_served_without_an_allocation() {
    let (seen, _) = check(1, 2);
    assert!(seen.ends > 100 && seen.sweeps > 5, "{seen:?}");
}

#[test]
fn the_estimators_learn_without_an_allocation() {
    let mut estimates = Estimates::new(decision::idle_core().catalog());
    let (variant, unit, point) = (VariantId(1), UnitId(1), OperatingPoint::of_clock(Kilohertz(900_000)));
    let usual = [Nanos::from_millis(10); 3];
    let mut learn = |round: u64| {
        let now = Timestamp(round * 20_000_000);
        // Between 9.5 and 10.5 ms, and now and then twice as long, or for a while, which is a step.
        let slow = round.is_multiple_of(97) || round % 400 > 380;
        let actual = Nanos((9_500_000 + round * 7_919 % 1_000_000) * if slow { 2 } else { 1 });
        estimates.arrived(ModelId(0), now, Nanos::from_millis(100), &usual);
        estimates.begin(variant, unit, point, now);
        estimates.reclock(unit, point, now.after(Nanos::from_millis(1)));
        estimates.end(unit, now.after(actual));
        estimates.observe_latency(variant, unit, point, Nanos::from_millis(10), actual);
        estimates.observe_longer(variant, unit, point, Nanos::from_millis(10), actual);
        estimates.observe_energy(variant, unit, point, actual, 1.05);
        let busy = estimates.close_interval(now.after(actual), Some(45.0));
        estimates.observe_power(Microwatts(3_000_000), busy, now.after(actual));
        estimates.observe_heat(now.after(actual), MilliCelsius(45_000), Microwatts(3_000_000));
        if round.is_multiple_of(500) {
            estimates.fault(unit);
        }
        let asked = estimates.quantile(variant, unit, 0.999) + estimates.survival(variant, unit, 1.1);
        std::hint::black_box(asked + estimates.mean_excess(unit, 1.2) + estimates.slowdown(variant, unit));
    };
    assert_none(&measure(|| (0..3_000).for_each(&mut learn)), "learning");
}
