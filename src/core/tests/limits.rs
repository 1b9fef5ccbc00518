//! Memory and queues are bounded, and what is waited for comes first.

use super::*;

#[test]
fn a_model_that_cannot_be_loaded_is_refused_once_that_is_certain() {
    let mut world = World { loads_fail: true, ..World::new(catalog(), budgets()) };
    world.core = Core::new(catalog(), budgets(), Timestamp::ZERO);
    world.handle(Event::Sampled(readings(40.0, 2.0)));
    world.submit(request(1));
    world.run_until(world.now.after(Nanos::from_secs(60)));
    assert_eq!(rejection(world.outcome(1)), Rejection::NotResident);
}

#[test]
fn the_memory_cap_keeps_the_smallest_and_says_what_it_kept_out() {
    let mut limits = budgets();
    limits.memory_cap = Bytes(25 << 20);
    let mut world = World::new(catalog(), limits);
    world.settle();
    let status = world.core.status(world.now);
    assert!(status.held <= Bytes(25 << 20), "{}", status.held);
    assert!(status.denied.is_some());
    world.submit(request(1));
    world.settle();
    world.served(1);
}

#[test]
fn what_a_request_names_comes_in_before_what_nobody_waits_for() {
    // Room for two variants of 10 MiB: the smallest is in, and something else of the ladder.
    let mut world = World::new(catalog(), Budgets { memory_cap: Bytes(21 << 20), ..budgets() });
    world.settle();
    for (id, variant) in [(1, 0), (2, 1), (3, 0)] {
        world.submit(Request { variant: Some(VariantId(variant)), ..request(id) });
        world.settle();
        assert_eq!(world.served(id).variant, VariantId(variant));
    }
    world.submit(Request { min_accuracy: Some(Ppm::from_fraction(0.94)), ..request(4) });
    world.settle();
    assert_eq!(world.served(4).variant, VariantId(0));
}

#[test]
fn what_a_request_names_and_memory_can_never_hold_is_refused() {
    let mut catalog = catalog();
    for profile in catalog.variants[0].profiles.iter_mut().flatten() {
        profile.footprint = Bytes(40 << 20);
    }
    let mut world = World::new(catalog, Budgets { memory_cap: Bytes(30 << 20), ..budgets() });
    world.submit(Request { variant: Some(VariantId(0)), ..request(1) });
    world.settle();
    assert_eq!(rejection(world.outcome(1)), Rejection::NotResident);
    world.submit(request(2));
    world.settle();
    assert_eq!(world.served(2).variant, VariantId(2));
}

#[test]
fn unused_models_leave_memory_and_come_back() {
    let mut limits = budgets();
    limits.unload_after = Some(Nanos::from_secs(10));
    let mut world = World::new(catalog(), limits);
    world.submit(request(1));
    world.settle();
    world.run_until(world.now.after(Nanos::from_secs(20)));
    assert_eq!(world.core.status(world.now).held, Bytes::ZERO);
    world.submit(request(2));
    world.settle();
    world.served(2);
}

#[test]
fn queue_and_app_limits_hold() {
    let mut limits = budgets();
    (limits.queue_limit, limits.app_limit) = (8, 5);
    let mut world = World::new(catalog(), limits);
    for id in 0..20 {
        world.submit(Request { app: AppId(u32::try_from(id % 3).unwrap()), ..request(id) });
    }
    let reasons: Vec<Rejection> = world.outcomes.values().map(|&outcome| rejection(outcome)).collect();
    assert!(reasons.contains(&Rejection::QueueFull));
    world.settle();
    assert_eq!(world.outcomes.len(), 20);
}

#[test]
fn what_probes_draw_is_not_taken_for_the_idle_power() {
    let mut world = World::new(catalog(), budgets());
    let sweep = |world: &mut World, watts: f64| {
        world.run_until(world.now.after(Nanos::from_millis(100)));
        world.handle(Event::Sampled(readings(40.0, watts)));
    };
    let idle = catalog().board.idle_power.as_watts();
    for _ in 0..50 {
        world.handle(Event::Probing(Some(UnitId(0))));
        sweep(&mut world, idle + 4.0);
        world.handle(Event::Probing(None));
        // The rails still show the probe that ended since the last sweep.
        sweep(&mut world, idle + 4.0);
        sweep(&mut world, idle);
    }
    let learned = world.core.estimates().idle_power().as_watts();
    assert!((learned / idle - 1.0).abs() < 0.01, "{learned} W for {idle}");
}

#[test]
fn a_probe_keeps_the_units_that_share_its_processor_still() {
    let mut world = World::new(catalog(), budgets());
    world.handle(Event::Probing(Some(UnitId(0))));
    for id in 0..6 {
        world.submit(Request { variant: Some(VariantId(2)), ..request(id) });
    }
    world.run_until(world.now.after(Nanos::from_millis(500)));
    assert!(world.dispatches.iter().all(|dispatch| dispatch.unit != UnitId(1)), "{:?}", world.dispatches);
    world.handle(Event::Probing(None));
    world.settle();
    assert_eq!(world.outcomes.len(), 6);
}
