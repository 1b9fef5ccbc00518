//! What variants may hold follows what the machine has left, who stays follows who is expected next, and loads go on
//! beside runs.

use super::world::{alone, profile};
use super::*;

const MIB: u64 = 1 << 20;

/// A sweep with so much memory available of 1000 MiB, and a share of time in which somebody waited for memory.
fn sweep(world: &mut World, available_mib: u64, pressed: f64) {
    world.run_until(world.now.after(Nanos::from_millis(100)));
    let (total, available) = (Bytes(1000 * MIB), Bytes(available_mib * MIB));
    let memory = MemoryState { available, total, resident: Bytes(MIB), limit: None, headroom: None };
    let pressure = Pressure { memory: Ppm::from_fraction(pressed), ..Pressure::default() };
    let wobble = f64::from(u32::try_from(world.now.0 / 100_000_000 % 10).unwrap()) * 0.1;
    let sweep = Readings { memory: Ok(memory), pressure: Some(Ok(pressure)), ..readings(40.0 + wobble, 2.0) };
    world.handle(Event::Sampled(sweep));
}

fn held_mib(world: &World) -> u64 {
    world.core.status(world.now).held.0 / MIB
}

fn loaded(world: &World, variant: u16, unit: u8) -> bool {
    matches!(world.core.residence(VariantId(variant), UnitId(unit)), Residence::Loaded { .. })
}

/// A core that knows what memory there is before it is asked for anything.
fn beginning_with(available_mib: u64) -> World {
    let mut world = World::new(catalog(), budgets());
    world.core = Core::new(catalog(), budgets(), Timestamp::ZERO);
    sweep(&mut world, available_mib, 0.0);
    world.handle(Event::Retain { model: ModelId(0), resident: true });
    world
}

/// 50 MiB of 1000 are left to others: of 85 that are available variants may take 35, three of 10 MiB.
#[test]
fn what_the_machine_has_left_bounds_what_is_loaded() {
    let mut world = beginning_with(85);
    assert_eq!(held_mib(&world), 30, "the whole ladder takes 120");
    // Of what is available now, 30 less are free; they are those that are held.
    sweep(&mut world, 55, 0.0);
    assert_eq!(held_mib(&world), 30);
    assert_eq!(world.core.memory_limits(world.now).room, Bytes(35 * MIB));
    world.submit(request(1));
    sweep(&mut world, 55, 0.0);
    world.served(1);
    assert_eq!(held_mib(&world), 30);
    sweep(&mut world, 900, 0.0);
    assert_eq!(held_mib(&world), 120, "what others leave is used");
}

/// 120 MiB are held. With 20 left, 25 less than half the reserve, 115 may stay; with 30 left, more than half of it,
/// nothing has to go and nothing may come.
#[test]
fn variants_leave_before_the_machine_runs_out() {
    let mut world = beginning_with(900);
    assert_eq!(held_mib(&world), 120);
    sweep(&mut world, 30, 0.0);
    assert_eq!(held_mib(&world), 120);
    sweep(&mut world, 20, 0.0);
    let held = held_mib(&world);
    assert!((1..=115).contains(&held), "{held}");
    let loads = world.loads.len();
    for _ in 0..10 {
        sweep(&mut world, 35, 0.0);
    }
    assert_eq!((held_mib(&world), world.loads.len()), (held, loads), "no swinging");
    world.submit(request(1));
    world.settle();
    world.served(1);
}

#[test]
fn a_limit_on_the_control_group_counts_like_the_machine() {
    let mut world = World::new(catalog(), budgets());
    world.core = Core::new(catalog(), budgets(), Timestamp::ZERO);
    // 5 MiB of 100 are left to others, 17 of the 22 that are left to the group are for variants.
    let memory = MemoryState {
        available: Bytes(900 * MIB),
        total: Bytes(1000 * MIB),
        resident: Bytes(MIB),
        limit: Some(Bytes(100 * MIB)),
        headroom: Some(Bytes(22 * MIB)),
    };
    world.handle(Event::Sampled(Readings { memory: Ok(memory), ..readings(40.0, 2.0) }));
    world.handle(Event::Retain { model: ModelId(0), resident: true });
    assert_eq!(held_mib(&world), 10);
    assert_eq!(world.core.memory_limits(world.now).room, Bytes(17 * MIB));
    // It can never be there as things are, but things may change.
    world.core.handle(
        world.now,
        Event::Profiled { variant: VariantId(0), unit: UnitId(2), profile: Some(profile(8.0, 90 * MIB)) },
    );
    for unit in 0..2 {
        world
            .core
            .handle(world.now, Event::Profiled { variant: VariantId(0), unit: UnitId(unit), profile: None });
    }
    while world.core.poll_effect().is_some() {}
    world.submit(Request { variant: Some(VariantId(0)), ..request(1) });
    let Outcome::Rejected { reason, retry_after } = world.outcome(1) else { panic!("{:?}", world.outcomes) };
    assert_eq!((reason, retry_after.is_some()), (Rejection::NotResident, true));
}

#[test]
fn under_pressure_only_what_ran_lately_stays_and_what_is_asked_for_comes() {
    let mut world = beginning_with(900);
    world.submit(Request { variant: Some(VariantId(1)), ..request(1) });
    world.settle();
    let ran = world.served(1);
    sweep(&mut world, 900, 0.2);
    assert!(loaded(&world, ran.variant.0, ran.unit.0));
    assert_eq!(world.core.status(world.now).held, Bytes(if ran.unit.0 == 2 { 20 } else { 10 } * MIB));
    for _ in 0..120 {
        sweep(&mut world, 900, 0.2);
    }
    assert_eq!(held_mib(&world), 0, "nothing ran for ten seconds");
    world.submit(request(2));
    world.settle();
    world.served(2);
    // A minute after the last of it all comes back.
    for _ in 0..620 {
        sweep(&mut world, 900, 0.0);
    }
    assert_eq!(held_mib(&world), 120);
}

#[test]
fn want_of_memory_is_never_held_against_a_variant() {
    let mut world = World::new(alone(), budgets());
    let (variant, unit) = (VariantId(2), UnitId(0));
    for _ in 0..10 {
        world.core.handle(world.now, Event::LoadFailed { variant, unit, short_of_memory: true });
        while world.core.poll_effect().is_some() {}
        let Residence::Failed { tries: 0, until } = world.core.residence(variant, unit) else { panic!() };
        assert_eq!(until, world.now.after(Nanos::from_secs(5)));
        world.now = until;
    }
    world.handle(Event::Wake);
    assert!(loaded(&world, 2, 0), "tried again");
}

/// Three models of one variant of 25 MiB and room for two.
fn three(last_use: bool) -> World {
    let mut catalog = alone();
    catalog.variants.truncate(1);
    catalog.variants[0].profiles = vec![Some(profile(4.0, 25 * MIB))];
    for model in 1..3u16 {
        catalog.variants.push(Variant { model: ModelId(model), ..catalog.variants[0].clone() });
    }
    let model = |id: u16| Model { name: format!("m{id}"), variants: vec![VariantId(id)], max_batch: 1 };
    catalog.models = (0..3).map(model).collect();
    let limits = Budgets { memory_cap: Bytes(55 * MIB), ..budgets() };
    let mut world = World::new(catalog.clone(), limits.clone());
    let tuning = Tuning { last_use, ..Tuning::default() };
    world.core = Core::tuned(catalog, limits, tuning, Timestamp::ZERO);
    world.handle(Event::Sampled(readings(40.0, 2.0)));
    world
}

/// Requests that found their model out of memory, and loads, over half an hour: two models are asked for every 40 s, 20 s
/// apart, and the third now and then.
fn cold(last_use: bool) -> (usize, usize) {
    let (mut world, mut cold) = (three(last_use), 0);
    for second in 0..1800u64 {
        world.run_until(Timestamp::ZERO.after(Nanos::from_secs(second)));
        world.handle(Event::Sampled(readings(
            40.0 + 0.1 * f64::from(u8::try_from(second % 10).unwrap()),
            2.0,
        )));
        let due = [second % 40 == 5, second % 40 == 25, [100, 330, 700, 1290, 1333].contains(&second)];
        for model in (0..3u16).filter(|&model| due[usize::from(model)]) {
            cold += usize::from(!loaded(&world, model, 0));
            let id = second * 3 + u64::from(model);
            world.submit(Request { model: ModelId(model), ..request(id) });
            world.run_until(world.now.after(Nanos::from_millis(500)));
            world.served(id);
        }
    }
    (cold, world.loads.len())
}

#[test]
fn who_is_asked_for_seldom_does_not_push_out_who_is_expected_soon() {
    let (by_next_use, loads) = cold(false);
    let (by_last_use, loads_by_last_use) = cold(true);
    // The first of each, and those that come now and then, are cold in any case: seven.
    assert!(by_next_use <= 9 && by_last_use >= 14, "{by_next_use} cold, {by_last_use} by last use");
    assert!(loads <= loads_by_last_use + 5, "{loads} loads, {loads_by_last_use} by last use");
}

/// Nothing but the GPU runs for 40 ms and more; what it lacks is ordered meanwhile.
#[test]
fn a_load_goes_on_beside_a_run() {
    let mut world = World::new(catalog(), budgets());
    world.slowdown = 100.0;
    world.submit(Request { variant: Some(VariantId(0)), ..request(1) });
    let unit = world.dispatches[0].unit;
    let before = world.loads.len();
    world.handle(Event::Unloaded { variant: VariantId(1), unit });
    assert_eq!(world.loads[before..], [(VariantId(1), unit)]);
    // And a run begins beside a load.
    let mut core = Core::new(alone(), budgets(), Timestamp::ZERO);
    let mut effects = |event| {
        core.handle(Timestamp::ZERO, event);
        std::iter::from_fn(|| core.poll_effect()).collect::<Vec<_>>()
    };
    effects(Event::Sampled(readings(40.0, 2.0)));
    let ordered = effects(Event::Retain { model: ModelId(0), resident: true });
    let [Effect::Load { variant, unit }] = ordered[..] else { panic!("{ordered:?}") };
    let next = effects(Event::Loaded { variant, unit, footprint: Bytes(MIB) });
    assert!(matches!(next[..], [Effect::Load { .. }]), "{next:?}");
    let begun = effects(Event::Submit(request(1)));
    assert!(begun.iter().any(|effect| matches!(effect, Effect::Dispatch(_))), "{begun:?}");
}

/// A load is taken to take 100 ms: a request that must be answered within 20 is told so at once, one that has time waits.
#[test]
fn who_cannot_wait_for_a_load_is_told_so() {
    let mut core = Core::new(alone(), budgets(), Timestamp::ZERO);
    let mut handle = |event| {
        core.handle(Timestamp::ZERO, event);
        std::iter::from_fn(|| core.poll_effect()).collect::<Vec<_>>()
    };
    handle(Event::Sampled(readings(40.0, 2.0)));
    handle(Event::Retain { model: ModelId(0), resident: true });
    let within = |ms| Some(Timestamp::ZERO.after(Nanos::from_millis(ms)));
    let told = handle(Event::Submit(Request { deadline: within(20), ..request(1) }));
    let unreachable = |effect: &Effect| {
        matches!(
            effect,
            Effect::Reply { outcome: Outcome::Rejected { reason: Rejection::DeadlineUnreachable, .. }, .. }
        )
    };
    assert!(told.iter().any(unreachable), "{told:?}");
    for request in [Request { deadline: within(400), ..request(2) }, request(3)] {
        let told = handle(Event::Submit(request));
        assert!(!told.iter().any(|effect| matches!(effect, Effect::Reply { .. })), "{told:?}");
    }
}
