//! Sensors that lie, variants that fail, allowances that end, and guesses: the core errs to the safe side
//! and comes back.

use super::*;

/// A tenth of a second later the board has this temperature and power.
fn tick(world: &mut World, celsius: f64, watts: f64) {
    world.run_until(world.now.after(Nanos::from_millis(100)));
    world.handle(Event::Sampled(readings(celsius, watts)));
}

fn regime(world: &World) -> Regime {
    world.core.status(world.now).regime
}

/// 70 degC, and from one sweep to the next 0, ten seconds long: within that the heatsink of this board (60 s)
/// falls by 15 + 110 x (1 - exp(-20/60)) = 46 K at the most.
#[test]
fn a_dead_sensor_that_shows_zero_is_no_cold_board() {
    let mut world = World::new(catalog(), budgets());
    for step in 0..60u32 {
        tick(&mut world, 41.0 + f64::from(step) * 0.5, 8.0);
    }
    for step in 0..100u32 {
        // Power moves by too little to unmask a stuck sensor.
        tick(&mut world, 0.0, 8.0 + 0.1 * f64::from(step % 3));
        let blind = step >= 10;
        assert_eq!(regime(&world) == Regime::Uncontrollable, blind, "after {step} sweeps");
    }
    for _ in 0..3 {
        tick(&mut world, 69.0, 8.0);
    }
    assert_eq!(regime(&world), Regime::Nominal, "it comes back");
}

#[test]
fn a_zone_that_leapt_up_may_fall_back_at_once() {
    let mut world = World::new(catalog(), budgets());
    tick(&mut world, 41.0, 2.0);
    for _ in 0..3 {
        tick(&mut world, 110.0, 2.0);
    }
    assert_eq!(regime(&world), Regime::Critical, "twice is no spike");
    for step in 0..20u32 {
        tick(&mut world, 41.0 + 0.1 * f64::from(step), 2.0);
    }
    assert_eq!(regime(&world), Regime::Nominal);
}

/// It loads every time and fails in every run: after three series it is left alone, and says so.
#[test]
fn a_variant_that_loads_but_never_runs_is_given_up() {
    let mut world = World::new(catalog(), budgets());
    world.fail = Some(BatchFailure::Provider);
    let only = VariantId(2);
    for id in 0..120 {
        world.submit(Request { variant: Some(only), ..request(id) });
        world.run_until(world.now.after(Nanos::from_millis(500)));
        world.handle(Event::Sampled(readings(40.0 + 0.1 * f64::from(u8::try_from(id % 10).unwrap()), 2.0)));
    }
    let units = (0..3).map(|unit| world.core.residence(only, UnitId(unit)));
    let lost = units.filter(|residence| matches!(residence, Residence::Failed { until: Timestamp::MAX, .. }));
    assert_eq!(lost.count(), 3);
    assert_eq!(rejection(world.outcome(119)), Rejection::NotResident);
    // Three series of three runs on each of three units, and nothing after that.
    assert_eq!(world.dispatches.len(), 27);
    // A new profile is a reason to try again.
    world.fail = None;
    let profile = world.core.catalog().variants[only.index()].profiles[0];
    world.handle(Event::Profiled { variant: only, unit: UnitId(0), profile });
    world.submit(Request { variant: Some(only), ..request(500) });
    world.settle();
    world.served(500);
}

#[test]
fn a_unit_whose_processor_is_off_is_left_out_until_it_is_on() {
    let mut world = World::new(catalog(), budgets());
    let gpu = UnitId(2);
    let held =
        |world: &World| (0..3).filter(|id| world.core.residency.is_loaded(VariantId(*id), gpu)).count();
    assert_eq!(held(&world), 3);
    // Loads that failed for the processor's sake are none of the variants' faults.
    world.loads_fail = true;
    world.handle(Event::Present { unit: gpu, yes: false });
    assert_eq!(held(&world), 0, "let go of: what is bound to a processor is made anew");
    for id in 0..30 {
        world.submit(Request { items: 8, ..request(id) });
        world.run_until(world.now.after(Nanos::from_secs(1)));
        world.served(id);
    }
    assert!(world.dispatches.iter().all(|dispatch| dispatch.unit != gpu), "nothing runs there");
    for unit in [0, 1] {
        world.handle(Event::Present { unit: UnitId(unit), yes: false });
    }
    world.submit(request(100));
    assert_eq!(rejection(world.outcome(100)), Rejection::NotResident, "nowhere");
    world.loads_fail = false;
    world.handle(Event::Present { unit: gpu, yes: true });
    assert_eq!(held(&world), 3);
    world.submit(request(101));
    world.settle();
    world.served(101);
}

#[test]
fn what_a_lane_was_loading_when_it_died_is_ordered_again() {
    let mut world = World::new(catalog(), budgets());
    let (variant, unit) = (VariantId(0), UnitId(2));
    world.handle(Event::Unloaded { variant, unit });
    world.core.handle(world.now, Event::Unloaded { variant, unit });
    while world.core.poll_effect().is_some() {}
    assert!(matches!(world.core.residence(variant, unit), Residence::Loading { .. }), "lost on its way");
    world.fail = Some(BatchFailure::LaneLost);
    world.submit(Request { variant: Some(VariantId(2)), items: 8, ..request(1) });
    world.run_until(world.now.after(Nanos::from_millis(200)));
    world.fail = None;
    world.settle();
    let lane = world.dispatches[0].unit;
    assert!((0..3).all(|id| !matches!(world.core.residence(VariantId(id), lane), Residence::Loading { .. })));
}

/// 4 J over 2 s is what the idle board takes: nothing is left for work. When the 2 s are over, all is.
#[test]
fn an_energy_allowance_ends_with_its_time() {
    let energy = EnergyAllowance { total: Microjoules(4_000_000), lasting: Nanos::from_secs(2) };
    let mut world = World::new(catalog(), Budgets { energy: Some(energy), ..budgets() });
    tick(&mut world, 40.0, 2.0);
    world.submit(request(1));
    for step in 0..30u32 {
        tick(&mut world, 40.0 + 0.1 * f64::from(step % 5), 2.0);
    }
    world.submit(request(2));
    world.settle();
    world.served(2);
}

fn with_battery(celsius: f64, battery: Reading<BatteryState>) -> Readings {
    Readings { battery: Some(battery), ..readings(celsius, 2.0) }
}

/// 100 J full, 56 J left, 50 J in reserve: 6 J over a minute are less than the 2 W of the idle board, so
/// nothing may be spent, whether the battery goes on being read or not.
#[test]
fn a_battery_that_is_not_read_any_more_does_not_last_for_ever() {
    let battery = BatteryAllowance { reserve: Ppm(500_000), lasting: Nanos::from_secs(60) };
    let limits = Budgets { battery: Some(battery), ..budgets() };
    let mut world = World::new(catalog(), limits);
    let full = Microjoules(100_000_000);
    let state = |joules: u64| BatteryState {
        remaining: Microjoules(joules * 1_000_000),
        full,
        draw: Microwatts(2_000_000),
    };
    world.handle(Event::Sampled(with_battery(40.0, Ok(state(56)))));
    for step in 0..200u32 {
        world.run_until(world.now.after(Nanos::from_millis(100)));
        let celsius = 40.0 + 0.1 * f64::from(step % 5);
        world.handle(Event::Sampled(with_battery(celsius, Err(SensorFault::NoData))));
    }
    let deadline = Some(world.now.after(Nanos::from_millis(200)));
    world.submit(Request { deadline, ..request(1) });
    world.run_until(world.now.after(Nanos::from_millis(10)));
    assert_eq!(rejection(world.outcome(1)), Rejection::EnergyExhausted);
}

/// Guessed ten times too slow, 72 ms at best for the large variant: a hard deadline of 15 ms is risked until a run
/// has shown that it can be kept, and refused after three on each unit that showed nothing.
#[test]
fn a_guess_that_errs_to_the_slow_side_does_not_refuse_hard_deadlines_for_ever() {
    let mut slow = catalog();
    for variant in &mut slow.variants {
        for profile in variant.profiles.iter_mut().flatten() {
            profile.latency_source = Provenance::Conservative;
            profile.latency.compute_s_ghz *= 10.0;
        }
    }
    let hard = |world: &World, id| {
        let deadline = Some(world.now.after(Nanos::from_millis(15)));
        Request { deadline, min_accuracy: Some(Ppm::from_fraction(0.94)), ..request(id) }
    };
    let mut right = World::new(slow.clone(), budgets());
    right.slowdown = 0.1;
    for id in 0..10 {
        right.submit(hard(&right, id));
        right.settle();
    }
    let served = (0..10).filter(|id| matches!(right.outcome(*id), Outcome::Served(_))).count();
    assert!(served >= 7, "{:?}", right.outcomes);
    let mut wrong = World::new(slow, budgets());
    for id in 0..20 {
        wrong.submit(hard(&wrong, id));
        wrong.settle();
    }
    assert_eq!(rejection(wrong.outcome(19)), Rejection::DeadlineUnreachable);
    assert!(wrong.dispatches.len() <= 9, "three on each unit at most, not {}", wrong.dispatches.len());
}

/// No event from outside can reach past a table.
#[test]
fn names_of_what_does_not_exist_change_nothing() {
    let mut world = World::new(catalog(), budgets());
    let (variant, unit) = (VariantId(77), UnitId(9));
    let events = [
        Event::Loaded { variant, unit: UnitId(0), footprint: Bytes(1) },
        Event::Loaded { variant: VariantId(0), unit, footprint: Bytes(1) },
        Event::LoadFailed { variant, unit, short_of_memory: false },
        Event::Unloaded { variant, unit },
        Event::Retain { model: ModelId(5), resident: true },
        Event::Hold { domain: DomainId(8), clock: None },
        Event::Probing(Some(unit)),
        Event::Profiled { variant, unit, profile: None },
        Event::Cancel(RequestId(99)),
        Event::Applied(ApplyReport { domains: vec![Some(Applied::Refused(SensorFault::Io)); 9] }),
        Event::Submit(Request { variant: Some(variant), ..request(1) }),
        Event::Submit(Request { class: ClassId(9), ..request(2) }),
    ];
    for event in events {
        world.handle(event);
    }
    let mut wide = readings(40.0, 2.0);
    wide.zones.extend([Ok(MilliCelsius(200_000)); 3]);
    wide.domains.clear();
    world.handle(Event::Sampled(wide));
    world.settle();
    assert_eq!(rejection(world.outcome(1)), Rejection::NoCandidate);
    world.served(2);
}

/// Idle, the processor's governor has its range: what it makes of it only the sensor tells.
#[test]
fn a_clock_within_a_range_is_not_taken_for_its_highest() {
    let mut world = World::new(catalog(), budgets());
    world.submit(Request { variant: Some(VariantId(0)), ..request(1) });
    world.settle();
    let (low, high) = (Kilohertz(500_000), Kilohertz(2_000_000));
    assert_eq!(world.core.present_clock(DomainId(0)), Some(low), "as the sensor says");
    assert!(world.set[0].is_none_or(|bounds| bounds == ClockBounds { min: low, max: high }));
}

/// A batch hangs for 10 s on the GPU where some milliseconds were expected, with others behind it that only the GPU
/// can run, and the processor free. Looking again a quarter later each time takes ln(10 / 0.001) / ln(1.25) = 42
/// looks, not thousands.
#[test]
fn a_hanging_batch_is_not_polled() {
    let mut gpu_only = catalog();
    for variant in &mut gpu_only.variants {
        variant.profiles[..2].fill(None);
    }
    let mut world = World::new(gpu_only, Budgets { stale_after: Nanos::from_secs(100), ..budgets() });
    world.slowdown = 10_000.0;
    (0..40).for_each(|id| world.submit(request(id)));
    let end = world.now.after(Nanos::from_secs(10));
    let mut looks = 0;
    while let Some(at) = world.core.next_wakeup().filter(|at| *at <= end) {
        world.now = world.now.max(at);
        world.core.handle(world.now, Event::Wake);
        while world.core.poll_effect().is_some() {}
        looks += 1;
        assert!(looks < 100, "{at:?}");
    }
    assert!(looks > 5, "it is looked at");
}
