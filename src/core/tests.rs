//! The core against a world of the tests' own: lanes that take as long as the profile says (or as a test
//! says otherwise), clocks that follow, a die that warms. Virtual time: it jumps to the next thing to happen.

use super::catalog::*;
use super::energy::*;
use super::event::*;
use super::thermal::Regime;
use super::*;
use crate::units::*;
use proptest::prelude::*;

mod actuation;
mod effort;
mod faults;
mod foreseen;
mod growth;
mod hedge;
mod limits;
mod liveness;
mod look;
mod memory;
mod preempt;
mod prospects;
mod ready;
mod world;

use world::{World, budgets, catalog, readings, rejection, request};

#[test]
fn without_pressure_the_cheapest_variant_and_a_low_clock_serve() {
    let mut world = World::new(catalog(), budgets());
    world.submit(request(1));
    world.settle();
    let served = world.served(1);
    assert_eq!(served.variant, VariantId(2), "the small variant meets the floor");
    assert!(!served.missed);
    // The most frugal choice is never costlier than the same variant at the highest clock.
    let all = world.decisions[0];
    assert_eq!(all.binding, plan::Constraint::None);
}

#[test]
fn a_tight_deadline_buys_a_faster_configuration() {
    let mut world = World::new(catalog(), budgets());
    let large = Request { variant: Some(VariantId(0)), ..request(1) };
    world.submit(large.clone());
    world.settle();
    let relaxed = world.decisions[0].chosen;
    // The 5 ms until a higher clock is in force count as lost at admission: 0.95 of the time leaves them.
    let deadline = world.now.after(Nanos(relaxed.latency.0 * 19 / 20));
    world.submit(Request { id: RequestId(2), deadline: Some(deadline), ..large });
    world.settle();
    let tight = world.decisions[1];
    assert!(tight.chosen.latency < relaxed.latency && tight.chosen.energy >= relaxed.energy);
    assert_eq!(tight.binding, plan::Constraint::Deadline);
    assert!(!world.served(2).missed);
}

#[test]
fn an_impossible_deadline_is_refused_at_once_with_the_time_that_it_lacks() {
    let mut world = World::new(catalog(), budgets());
    let deadline = world.now.after(Nanos::from_micros(10));
    world.submit(Request { deadline: Some(deadline), ..request(1) });
    match world.outcome(1) {
        Outcome::Rejected { reason: Rejection::DeadlineUnreachable, retry_after: Some(late) } => {
            assert!(late > Nanos::ZERO)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn accuracy_and_energy_wishes_are_kept_or_refused() {
    let mut world = World::new(catalog(), budgets());
    world.submit(Request { min_accuracy: Some(Ppm::from_fraction(0.94)), ..request(1) });
    world.submit(Request { min_accuracy: Some(Ppm::from_fraction(0.99)), ..request(2) });
    world.submit(Request { max_energy: Some(Microjoules(1)), ..request(3) });
    world.submit(Request { variant: Some(VariantId(1)), ..request(4) });
    world.settle();
    assert_eq!(world.served(1).variant, VariantId(0));
    assert_eq!(rejection(world.outcome(2)), Rejection::AccuracyUnreachable);
    assert_eq!(rejection(world.outcome(3)), Rejection::EnergyUnreachable);
    assert_eq!(world.served(4).variant, VariantId(1));
}

#[test]
fn the_accuracy_target_is_given_while_the_power_cap_allows_and_no_longer() {
    let mut limits = budgets();
    limits.classes[0].accuracy_target = Some(Ppm::from_fraction(0.95));
    let periodic = |limits: Budgets| {
        let mut world = World::new(catalog(), limits);
        for id in 0..60 {
            world.submit(request(id));
            world.run_until(world.now.after(Nanos::from_millis(50)));
            world.handle(Event::Sampled(readings(40.0 + 0.001 * f64::from(u32::try_from(id).unwrap()), 2.0)));
        }
        world.settle();
        let accuracies = (0..60).map(|id| world.served(id).accuracy.as_fraction());
        (accuracies.sum::<f64>() / 60.0, world)
    };
    let (free, _) = periodic(limits.clone());
    assert!(free > 0.949, "unconstrained: {free}");
    // Idle is 2 W; a tenth of a watt above it does not carry the large variant 20 times a second.
    let (capped, world) = periodic(Budgets { power_cap: Some(Microwatts(2_100_000)), ..limits });
    assert!(capped < free && capped >= 0.88, "capped: {capped}");
    assert!(world.decisions.iter().any(|decision| decision.binding == plan::Constraint::Budget));
}

#[test]
fn heat_holds_power_back_and_the_critical_trip_stops_everything() {
    let mut world = World::new(catalog(), budgets());
    for step in 0..40u32 {
        world.now = world.now.after(Nanos::from_millis(100));
        world.handle(Event::Sampled(readings(40.0 + f64::from(step) * 1.6, 8.0)));
    }
    assert!(world.regimes.contains(&Regime::Throttled), "{:?}", world.regimes);
    world.now = world.now.after(Nanos::from_millis(100));
    world.handle(Event::Sampled(readings(112.0, 8.0)));
    assert_eq!(world.core.status(world.now).regime, Regime::Critical);
    let low = Kilohertz(500_000);
    assert_eq!(world.set[0], Some(ClockBounds { min: low, max: low }), "caps held while critical");
    world.submit(request(1));
    assert_eq!(rejection(world.outcome(1)), Rejection::TooHot);
    for celsius in [98.0, 84.0, 70.0, 56.0, 50.0] {
        world.now = world.now.after(Nanos::from_millis(100));
        world.handle(Event::Sampled(readings(celsius, 3.0)));
    }
    assert_eq!(world.core.status(world.now).regime, Regime::Nominal);
    world.submit(request(2));
    world.settle();
    world.served(2);
}

#[test]
fn a_silent_sensor_is_treated_as_hot_and_recovers() {
    let mut world = World::new(catalog(), budgets());
    let mut blind = readings(0.0, 2.0);
    blind.zones[0] = Err(SensorFault::NoData);
    world.handle(Event::Sampled(blind.clone()));
    assert_eq!(world.core.status(world.now).regime, Regime::Nominal, "one missed reading is not blindness");
    world.run_until(world.now.after(Nanos::from_secs(2)));
    assert_eq!(world.core.status(world.now).regime, Regime::Uncontrollable);
    world.submit(request(1));
    world.run_until(world.now.after(Nanos::from_secs(3)));
    let lowest = [Kilohertz(500_000), Kilohertz(200_000)];
    assert!(lowest.contains(&world.served(1).clock), "blind: only the lowest clocks");
    world.handle(Event::Sampled(readings(45.0, 2.0)));
    assert_eq!(world.core.status(world.now).regime, Regime::Nominal);
}

#[test]
fn impossible_jumps_and_stuck_sensors_do_not_count_as_readings() {
    let mut world = World::new(catalog(), budgets());
    let tick = |world: &mut World, celsius: f64, watts: f64| {
        world.now = world.now.after(Nanos::from_millis(100));
        world.handle(Event::Sampled(readings(celsius, watts)));
    };
    tick(&mut world, 41.0, 2.0);
    tick(&mut world, 150.0, 2.0);
    assert_eq!(world.core.status(world.now).regime, Regime::Nominal, "a spike of one sample is held back");
    tick(&mut world, 41.2, 2.0);
    // 12 W for 10 s must move the die by about 10 K; this sensor says 41.2 all along.
    for _ in 0..150 {
        tick(&mut world, 41.2, 14.0);
    }
    assert_eq!(world.core.status(world.now).regime, Regime::Uncontrollable, "a stuck sensor is no sensor");
}

#[test]
fn a_lapsed_hard_deadline_is_answered_on_time_and_the_run_is_stopped() {
    let mut world = World::new(catalog(), budgets());
    world.slowdown = 50.0;
    let deadline = world.now.after(Nanos::from_millis(30));
    world.submit(Request { deadline: Some(deadline), variant: Some(VariantId(2)), ..request(1) });
    world.run_until(deadline);
    assert_eq!(rejection(world.outcome(1)), Rejection::DeadlinePassed);
    let preemptible = world.core.catalog().board.units[world.dispatches[0].unit.index()].preemptible;
    assert_eq!(world.aborted.len(), usize::from(preemptible));
    world.settle();
    assert!(world.core.is_idle() || !preemptible);
}

#[test]
fn failing_providers_cost_requests_but_never_the_core() {
    let mut world = World::new(catalog(), budgets());
    for (index, failure) in
        [BatchFailure::Provider, BatchFailure::NotLoaded, BatchFailure::LaneLost].into_iter().enumerate()
    {
        world.fail = Some(failure);
        world.submit(request(index as u64));
        world.run_until(world.now.after(Nanos::from_millis(200)));
        rejection(world.outcome(index as u64));
    }
    world.fail = None;
    world.submit(request(9));
    world.settle();
    world.served(9);
}

#[test]
fn a_refusing_actuator_is_a_fact_not_a_failure() {
    let mut world = World::new(catalog(), budgets());
    for id in 0..4 {
        let refused = ApplyReport { domains: vec![Some(Applied::Refused(SensorFault::Denied)); 2] };
        world.core.handle(world.now, Event::Applied(refused));
        world.submit(request(id));
        world.settle();
        world.served(id);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Submit { deadline_ms: Option<u16>, items: u32, variant: Option<u16>, app: u32, priority: Option<u32> },
    Cancel(u64),
    Pass(u16),
    Sample { celsius: i32, watts: u8, silent: bool },
    Refuse,
    Slow(u8),
    Fail(bool),
    Cap(Option<u16>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (proptest::option::of(0u16..300), 1u32..4, proptest::option::weighted(0.2, 0u16..3), 0u32..3, proptest::option::of(0u32..20))
            .prop_map(|(deadline_ms, items, variant, app, priority)| Step::Submit { deadline_ms, items, variant, app, priority }),
        1 => (0u64..60).prop_map(Step::Cancel),
        5 => (0u16..200).prop_map(Step::Pass),
        3 => (-50i32..130, 0u8..20, any::<bool>()).prop_map(|(celsius, watts, silent)| Step::Sample { celsius, watts, silent }),
        1 => Just(Step::Refuse),
        1 => (1u8..60).prop_map(Step::Slow),
        1 => any::<bool>().prop_map(Step::Fail),
        1 => proptest::option::of(0u16..8000).prop_map(Step::Cap),
    ]
}

fn play(steps: &[Step]) -> World {
    let mut limits = budgets();
    (limits.queue_limit, limits.app_limit) = (12, 8);
    let mut world = World::new(catalog(), limits.clone());
    let mut id = 0;
    for step in steps {
        match step {
            Step::Submit { deadline_ms, items, variant, app, priority } => {
                let deadline = deadline_ms.map(|ms| world.now.after(Nanos::from_millis(ms.into())));
                world.submit(Request {
                    deadline,
                    items: *items,
                    variant: variant.map(VariantId),
                    app: AppId(*app),
                    priority: *priority,
                    ..request(id)
                });
                id += 1;
            }
            Step::Cancel(which) => world.handle(Event::Cancel(RequestId(*which))),
            Step::Pass(ms) => world.run_until(world.now.after(Nanos::from_millis((*ms).into()))),
            Step::Sample { celsius, watts, silent } => {
                let mut sample = readings(f64::from(*celsius), f64::from(*watts));
                if *silent {
                    sample.zones[0] = Err(SensorFault::Io);
                }
                world.handle(Event::Sampled(sample));
            }
            Step::Refuse => {
                let domains = vec![Some(Applied::Refused(SensorFault::Io)), None];
                world.handle(Event::Applied(ApplyReport { domains }));
            }
            Step::Slow(tenths) => world.slowdown = f64::from(*tenths) / 10.0,
            Step::Fail(yes) => world.fail = yes.then_some(BatchFailure::Provider),
            Step::Cap(mw) => {
                let power_cap = mw.map(|mw| Microwatts(i64::from(mw) * 1000));
                world.handle(Event::Reconfigured(Box::new(Budgets { power_cap, ..limits.clone() })));
            }
        }
    }
    // The faults heal: everything drains.
    (world.slowdown, world.fail) = (1.0, None);
    world.handle(Event::Reconfigured(Box::new(limits)));
    // Runs here take as long as they are believed to: after a few slow ones, many seconds.
    for tick in 0..10_000 {
        if tick >= 60 && world.core.is_idle() {
            break;
        }
        world.now = world.now.after(Nanos::from_millis(500));
        let wobble = f64::from(tick % 10);
        world.handle(Event::Sampled(readings(40.0 + wobble * 0.1, 2.0)));
        world.run_until(world.now);
    }
    world.settle();
    world.handle(Event::Sampled(readings(41.5, 2.0)));
    assert_eq!(world.outcomes.len() as u64, id, "every request is answered exactly once");
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_request_is_answered_once_and_calm_returns(steps in proptest::collection::vec(step(), 1..80)) {
        let world = play(&steps);
        prop_assert!(world.core.is_idle());
        prop_assert_eq!(world.core.status(world.now).regime, Regime::Nominal);
    }

    #[test]
    fn the_same_events_give_the_same_effects(steps in proptest::collection::vec(step(), 1..40)) {
        let (a, b) = (play(&steps), play(&steps));
        prop_assert_eq!(a.outcomes, b.outcomes);
        prop_assert_eq!(a.dispatches, b.dispatches);
    }

    #[test]
    fn accepted_wishes_are_kept(floor in 0.80f64..0.96, deadline_ms in 1u64..400, limit_uj in 100u64..200_000) {
        let mut world = World::new(catalog(), budgets());
        let deadline = world.now.after(Nanos::from_millis(deadline_ms));
        let (min_accuracy, max_energy) = (Some(Ppm::from_fraction(floor)), Some(Microjoules(limit_uj)));
        world.submit(Request { deadline: Some(deadline), min_accuracy, max_energy, ..request(1) });
        world.settle();
        if let Outcome::Served(served) = world.outcome(1) {
            prop_assert!(served.accuracy.as_fraction() >= floor - 1e-6);
            prop_assert!(!served.missed);
            prop_assert!(served.energy <= Microjoules(limit_uj));
        }
    }
}
