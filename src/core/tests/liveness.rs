//! Nothing waits for ever, nobody is held back for another's sake, and the core never asks to be woken in
//! circles.

use super::world::profile;
use super::*;
use crate::core::clocks::Clocks;
use crate::core::snapshot::Snapshot;

fn reason(world: &World, id: u64) -> Option<Rejection> {
    match world.outcomes.get(&RequestId(id)) {
        Some(Outcome::Rejected { reason, .. }) => Some(*reason),
        _ => None,
    }
}

/// A failed load that is due on a busy lane is not asked for over and over.
#[test]
fn a_due_retry_on_a_busy_lane_asks_for_no_wake_up_in_the_past() {
    let mut world = World::new(catalog(), budgets());
    world.handle(Event::Unloaded { variant: VariantId(0), unit: UnitId(2) });
    let (variant, unit) = (VariantId(0), UnitId(2));
    world.core.handle(world.now, Event::LoadFailed { variant, unit });
    while world.core.poll_effect().is_some() {}
    // Busy until long after the retry is due, 5 s from now.
    let gpu = Request { items: 8, variant: Some(VariantId(1)), ..request(1) };
    world.slowdown = 1000.0;
    world.submit(gpu);
    for _ in 0..20 {
        let Some(at) =
            world.core.next_wakeup().filter(|at| *at < Timestamp::ZERO.after(Nanos::from_secs(20)))
        else {
            return;
        };
        assert!(at > world.now || world.now == Timestamp::ZERO, "wake-up at {at:?}, now {:?}", world.now);
        world.now = world.now.max(at);
        world.handle(Event::Wake);
    }
}

/// One class without energy does not hold back another, though it is more urgent.
#[test]
fn a_class_that_waits_for_its_own_budget_holds_nobody_else() {
    let mut tight = budgets();
    let mut poor = tight.classes[0].clone();
    poor.priority = 0;
    poor.power = Some(Microwatts(1_000));
    poor.latency = Nanos::from_secs(100);
    tight.classes.push(poor);
    let mut world = World::new(catalog(), tight);
    // Each takes some mJ of the 1 mJ that fill the bucket in a second: the first leaves a debt.
    for id in 1..=3 {
        world.submit(Request { class: ClassId(1), ..request(id) });
    }
    world.submit(request(4));
    world.run_until(world.now.after(Nanos::from_millis(200)));
    assert!(!world.outcomes.contains_key(&RequestId(3)), "the poor class waits");
    assert!(matches!(world.outcomes[&RequestId(4)], Outcome::Served(served) if !served.missed));
}

/// 30 MiB hold the smallest of everything, but not what the request names: 200 MiB never will be there.
#[test]
fn a_request_for_what_memory_can_never_hold_is_turned_away() {
    let mut big = catalog();
    for profile in big.variants[0].profiles.iter_mut().flatten() {
        profile.footprint = Bytes(200 << 20);
    }
    let mut small = budgets();
    small.memory_cap = Bytes(30 << 20);
    let mut world = World::new(big, small);
    world.submit(Request { min_accuracy: Some(Ppm::from_fraction(0.94)), ..request(1) });
    assert_eq!(reason(&world, 1), Some(Rejection::NotResident));
    assert!(world.core.is_idle());
}

/// 30 MiB hold one model's ladder; the variant that the request needs pushes others out.
#[test]
fn what_a_request_waits_for_is_loaded_first() {
    let mut two = catalog();
    let id = VariantId::at(two.variants.len());
    let profiles = vec![Some(profile(40.0, 25 << 20)), None, None];
    two.variants.push(Variant { name: "other".into(), model: ModelId(1), accuracy: Ppm(950_000), profiles });
    let id_small = VariantId::at(two.variants.len());
    let profiles = vec![Some(profile(4.0, 5 << 20)), None, None];
    two.variants.push(Variant { name: "tiny".into(), model: ModelId(1), accuracy: Ppm(900_000), profiles });
    two.models.push(Model { name: "n".into(), variants: vec![id, id_small], max_batch: 1 });
    let mut small = budgets();
    small.memory_cap = Bytes(30 << 20);
    let mut world = World::new(two, small);
    for round in 0..5 {
        // The first model stays in use all the time.
        world.submit(request(10 + round));
        if round == 1 {
            let min_accuracy = Some(Ppm::from_fraction(0.94));
            world.submit(Request { model: ModelId(1), min_accuracy, ..request(1) });
        }
        world.run_until(world.now.after(Nanos::from_millis(300)));
        world.handle(Event::Sampled(readings(40.0, 2.0)));
    }
    assert!(matches!(world.outcomes.get(&RequestId(1)), Some(Outcome::Served(_))), "{:?}", world.outcomes);
}

/// Lanes that nobody uses load although others wait for a busy one.
#[test]
fn an_idle_lane_loads_while_the_queue_is_long() {
    let mut world = World::new(catalog(), budgets());
    let (variant, unit) = (VariantId(1), UnitId(2));
    world.handle(Event::Unloaded { variant: VariantId(1), unit });
    for id in 1..=8 {
        // Only on the processor, which takes one at a time.
        world.submit(Request { variant: Some(VariantId(0)), items: 8, ..request(id) });
    }
    assert!(matches!(world.core.residence(variant, unit), Residence::Loaded { .. }));
}

#[test]
fn ids_and_items_that_cannot_be_are_turned_away() {
    let mut world = World::new(catalog(), budgets());
    world.submit(Request { model: ModelId(7), ..request(1) });
    world.submit(Request { items: 0, ..request(2) });
    world.submit(Request { class: ClassId(99), ..request(3) });
    world.submit(Request { variant: Some(VariantId(99)), ..request(4) });
    world.settle();
    assert_eq!(reason(&world, 1), Some(Rejection::NoCandidate));
    assert_eq!(reason(&world, 2), Some(Rejection::NoCandidate));
    assert!(matches!(world.outcomes[&RequestId(3)], Outcome::Served(_)), "the default class");
    assert_eq!(reason(&world, 4), Some(Rejection::NoCandidate));
}

/// Firmware that holds the GPU at 400 MHz is not forgotten as soon as no more than that is asked.
#[test]
fn a_cap_is_remembered_until_it_is_seen_lifted_or_old() {
    let board = catalog().board;
    let mut clocks = Clocks::new(&board);
    let mut snapshot = Snapshot::new(&board);
    let gpu = DomainId(1);
    let at = |ms| Timestamp::ZERO.after(Nanos::from_millis(ms));
    let bounds = |khz| ClockBounds { min: Kilohertz(khz), max: Kilohertz(khz) };
    let report = |khz| ApplyReport { domains: vec![None, Some(Applied::Bounds(bounds(khz)))] };
    let top = |clocks: &Clocks, snapshot: &Snapshot| clocks.choices(&board, gpu, snapshot).end;
    clocks.ask(gpu, bounds(1_200_000), at(0));
    clocks.applied(&report(400_000), at(1));
    assert_eq!(top(&clocks, &snapshot), 2, "200 and 400 MHz");
    clocks.ask(gpu, bounds(400_000), at(2));
    clocks.applied(&report(400_000), at(3));
    assert_eq!(top(&clocks, &snapshot), 2, "the read-back of 400 MHz says nothing");
    // A sweep that read the old bounds must not cap what was asked since.
    let mut old = readings(40.0, 2.0);
    old.domains[1] =
        Ok(ClockState { current: Kilohertz(400_000), min: Kilohertz(0), max: Kilohertz(400_000) });
    snapshot.absorb(at(1_500), &old, Microwatts(2_000_000));
    clocks.sampled(&snapshot, at(1_500));
    assert_eq!(top(&clocks, &snapshot), 4, "not seen for a second: tried again");
    clocks.ask(gpu, bounds(1_200_000), at(1_510));
    clocks.sampled(&snapshot, at(1_520));
    assert_eq!(top(&clocks, &snapshot), 4, "the sweep is older than what was asked");
}

/// A memory clock that was lowered on a critical board gets its range back; a GPU's rests low.
#[test]
fn domains_that_no_unit_is_planned_on_get_their_range_back() {
    let mut hot = catalog();
    let opps = [800_000, 1_600_000].map(Kilohertz).to_vec();
    hot.board.domains.push(Domain {
        name: "emc".into(),
        opps,
        settle: Nanos::from_millis(8),
        held_power: PowerModel::default(),
    });
    let mut world = World::new(hot, budgets());
    let sweep = |celsius| {
        let mut sweep = readings(celsius, 2.0);
        sweep.domains.push(Err(SensorFault::Missing));
        sweep
    };
    // 60 K at once would be doubted: twice the same is believed.
    world.handle(Event::Sampled(sweep(99.0)));
    world.handle(Event::Sampled(sweep(99.0)));
    let low = ClockBounds { min: Kilohertz(800_000), max: Kilohertz(800_000) };
    assert_eq!(world.set[2], Some(low), "critical");
    for _ in 0..2 {
        world.now = world.now.after(Nanos::from_secs(3));
        world.handle(Event::Sampled(sweep(40.0)));
    }
    world.run_until(world.now.after(Nanos::from_millis(500)));
    assert_eq!(world.set[2], Some(ClockBounds { min: Kilohertz(800_000), max: Kilohertz(1_600_000) }));
    assert_eq!(world.set[1].unwrap().max, Kilohertz(200_000), "the GPU rests");
}

/// A meter that shows twice the profile's energy doubles what the next run reserves.
#[test]
fn metered_energy_corrects_the_profile() {
    let mut core = World::new(catalog(), budgets()).core;
    let mut now = Timestamp::ZERO.after(Nanos::from_millis(10));
    let mut reserved = Vec::new();
    for id in 0..4 {
        core.handle(now, Event::Submit(request(id)));
        let mut dispatched = None;
        while let Some(effect) = core.poll_effect() {
            if let Effect::Dispatch(dispatch) = effect {
                dispatched = Some(dispatch);
            }
        }
        let Some(dispatch) = dispatched else { continue };
        let finished = now.after(dispatch.expected);
        reserved.push(dispatch.reserved);
        let energy = Some(Microjoules(reserved[0].0 * 2));
        let batch = dispatch.batch;
        let done = Completion { batch, started: now, finished, energy, result: Ok(()) };
        now = finished;
        core.handle(now, Event::Completed(done));
        while core.poll_effect().is_some() {}
    }
    let ratio = reserved[reserved.len() - 1].as_f64() / reserved[0].as_f64();
    assert!((1.7..2.2).contains(&ratio), "{reserved:?}");
}

/// 30 MiB hold either model. One is asked for over and over, the other once: the run in the way of it is
/// the last before it is loaded.
#[test]
fn a_model_under_constant_load_makes_room_for_one_that_waits() {
    let mut two = catalog();
    two.models.truncate(1);
    two.variants.truncate(1);
    two.models[0].variants.truncate(1);
    two.variants[0].profiles = vec![Some(profile(40.0, 25 << 20)), None, None];
    let other = Variant { name: "other".into(), model: ModelId(1), ..two.variants[0].clone() };
    two.variants.push(other);
    two.models.push(Model { name: "n".into(), variants: vec![VariantId(1)], max_batch: 1 });
    let mut small = budgets();
    small.memory_cap = Bytes(30 << 20);
    small.classes[0].latency = Nanos::from_secs(100);
    let mut world = World::new(two, small);
    (10..30).for_each(|id| world.submit(request(id)));
    world.run_until(world.now.after(Nanos::from_millis(1)));
    world.submit(Request { model: ModelId(1), priority: Some(0), ..request(1) });
    world.run_until(world.now.after(Nanos::from_millis(300)));
    assert!(matches!(world.outcomes.get(&RequestId(1)), Some(Outcome::Served(_))), "{:?}", world.outcomes);
    world.run_until(world.now.after(Nanos::from_secs(30)));
    assert_eq!(world.outcomes.len(), 21, "and the others follow");
}

#[test]
fn what_is_refused_for_a_slowdown_is_tried_again_once_that_may_have_passed() {
    let mut world = World::new(catalog(), budgets());
    world.settle();
    let mut id = 0;
    let mut ask = |world: &mut World, ms: Option<u64>| {
        id += 1;
        let deadline = ms.map(|ms| world.now.after(Nanos::from_millis(ms)));
        world.submit(Request { deadline, ..request(id) });
        let refused = world.outcomes.contains_key(&RequestId(id));
        world.run_until(world.now.after(Nanos::from_millis(1500)));
        world.handle(Event::Sampled(readings(40.0, 2.0)));
        !refused
    };
    let least = (1..1000).find(|&ms| ask(&mut world, Some(ms))).unwrap();
    let due = Some(2 * least);
    assert!(ask(&mut world, due));
    // Each run takes longer than expected by what was learned.
    world.slowdown = 1.5;
    for _ in 0..12 {
        assert!(ask(&mut world, None), "soft deadlines are never refused");
    }
    world.slowdown = 1.0;
    let accepted = (0..20).filter(|_| ask(&mut world, due)).count();
    assert!(accepted >= 4, "{accepted} of 20 accepted");
}

#[test]
fn who_is_late_anyhow_makes_nobody_else_late() {
    let mut catalog = super::world::alone();
    catalog.models[0].max_batch = 1;
    let mut world = World::new(catalog, budgets());
    world.settle();
    let mut hurried = budgets();
    hurried.classes[0].latency = Nanos::from_millis(50);
    world.handle(Event::Reconfigured(Box::new(hurried)));
    let only = |id, variant| Request { variant: Some(VariantId(variant)), ..request(id) };
    // 20 ms each at the highest clock: all but the first two are late, and would be in the way for 400 ms.
    (1..=20).for_each(|id| world.submit(only(id, 0)));
    for id in 30..40 {
        world.run_until(world.now.after(Nanos::from_millis(35)));
        world.submit(only(id, 2));
    }
    world.run_until(world.now.after(Nanos::from_secs(5)));
    assert_eq!(world.outcomes.len(), 30, "and all are answered");
    let in_time = (30..40).filter(|&id| !world.served(id).missed).count();
    assert!(in_time >= 8, "{in_time} of 10 in time");
}
