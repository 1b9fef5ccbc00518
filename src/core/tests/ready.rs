//! Clocks that are up, or rise, for those to come.

use super::world::alone;
use super::*;

const TOP: Kilohertz = Kilohertz(2_000_000);
const LOW: Kilohertz = Kilohertz(500_000);

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

fn min_clock(world: &World) -> Option<Kilohertz> {
    world.set[0].map(|bounds| bounds.min)
}

/// Time passes, with living sensors.
fn pass(world: &mut World, millis: u64) {
    for tick in 0..millis / 20 {
        world.run_until(world.now.after(ms(20)));
        world.handle(Event::Sampled(readings(40.0 + 0.1 * f64::from(u8::try_from(tick % 7).unwrap()), 2.0)));
    }
}

/// 8 ms at the lowest clock, 2 ms at the highest, which is there after 10 ms.
fn sluggish() -> World {
    let mut catalog = alone();
    catalog.board.domains[0].settle = ms(10);
    let mut world = World::new(catalog, budgets());
    world.settle();
    world
}

#[test]
fn where_no_time_is_left_to_rise_a_clock_stays_up_until_the_stream_ends() {
    let mut world = sluggish();
    let ask = |world: &mut World, id, due| {
        world.submit(Request { deadline: Some(world.now.after(ms(due))), ..request(id) });
        pass(world, 200);
    };
    ask(&mut world, 1, 50);
    assert!(!world.served(1).missed);
    assert_eq!(min_clock(&world), Some(LOW), "50 ms are enough from there");
    ask(&mut world, 2, 4);
    assert_eq!(rejection(world.outcome(2)), Rejection::DeadlineUnreachable, "nobody could know");
    assert!(min_clock(&world) > Some(LOW), "{:?}", world.set);
    for id in 3..10 {
        ask(&mut world, id, 4);
        assert!(!world.served(id).missed, "{:?}", world.served(id));
        assert!(min_clock(&world) > Some(LOW), "{:?}", world.set);
    }
    pass(&mut world, 3000);
    assert_eq!(world.set[0], Some(ClockBounds { min: LOW, max: TOP }), "the governor has it again");
}

#[test]
fn for_frames_with_a_beat_the_clock_rises_just_before_the_next() {
    let mut world = sluggish();
    let mut at_rest = Vec::new();
    for id in 0..20 {
        world.submit(Request { deadline: Some(world.now.after(ms(4))), ..request(id) });
        pass(&mut world, 60);
        at_rest.push(min_clock(&world));
        pass(&mut world, 40);
        // The first gap says nothing yet of how regular they are.
        assert!(id < 12 || !world.served(id).missed, "{id}: {:?}", world.outcome(id));
    }
    assert!(at_rest[..2].iter().all(|clock| *clock > Some(LOW)), "{at_rest:?}");
    assert_eq!(at_rest[19], Some(LOW), "{at_rest:?}");
}

#[test]
fn a_deadline_that_no_clock_holds_and_a_short_budget_keep_none_up() {
    let mut hopeless = sluggish();
    hopeless.submit(Request { deadline: Some(hopeless.now.after(ms(1))), ..request(1) });
    hopeless.settle();
    assert_eq!(rejection(hopeless.outcome(1)), Rejection::DeadlineUnreachable);
    assert!(min_clock(&hopeless) <= Some(LOW), "{:?}", hopeless.set);

    let mut short = sluggish();
    let power_cap = Some(Microwatts(2_010_000));
    short.handle(Event::Reconfigured(Box::new(Budgets { power_cap, ..budgets() })));
    short.submit(Request { items: 8, ..request(1) });
    short.run_until(short.now.after(ms(100)));
    short.submit(Request { deadline: Some(short.now.after(ms(4))), ..request(2) });
    short.run_until(short.now.after(ms(100)));
    assert!(short.core.ledger.device_fill() < 0.9, "{}", short.core.ledger.device_fill());
    assert!(min_clock(&short) <= Some(LOW), "{:?}", short.set);
}

#[test]
fn a_run_is_sped_up_for_who_comes_after_it_began() {
    let mut catalog = alone();
    catalog.board.units[0].preemptible = false;
    let mut world = World::new(catalog, budgets());
    world.settle();
    let large = Request { variant: Some(VariantId(0)), ..request(1) };
    world.submit(Request { deadline: Some(world.now.after(ms(500))), ..large });
    let slow = world.decisions[0].chosen;
    assert_eq!(slow.point.clock, LOW, "nobody is in a hurry: {slow:?}");
    world.run_until(world.now.after(ms(8)));
    // A tenth of it is done; the rest takes 18 ms at the highest clock, and the small variant 2 ms.
    world.submit(Request { deadline: Some(world.now.after(ms(60))), ..request(2) });
    assert!(world.outcomes.is_empty(), "taken in: {:?}", world.outcomes);
    let risen = min_clock(&world);
    assert!(risen > Some(LOW) && risen < Some(TOP), "{risen:?}");
    world.submit(Request { deadline: Some(world.now.after(ms(26))), ..request(3) });
    assert!(world.outcomes.is_empty(), "taken in: {:?}", world.outcomes);
    assert_eq!(min_clock(&world), Some(TOP));
    world.submit(Request { deadline: Some(world.now.after(ms(10))), ..request(4) });
    assert_eq!(rejection(world.outcome(4)), Rejection::DeadlineUnreachable, "not even then");
}

#[test]
fn who_waits_finds_the_clock_risen() {
    let mut world = sluggish();
    let mut hurried = budgets();
    hurried.classes[0].latency = ms(34);
    world.handle(Event::Reconfigured(Box::new(hurried)));
    let only = |id, variant| Request { variant: Some(VariantId(variant)), ..request(id) };
    // 8 ms: over before the clock can rise.
    world.submit(only(1, 2));
    assert_eq!(world.decisions[0].chosen.point.clock, LOW, "nobody is in a hurry");
    world.run_until(world.now.after(ms(1)));
    // 80 ms, or 20: late by 1 ms if the clock begins to rise only then.
    world.submit(only(2, 0));
    assert_eq!(min_clock(&world), Some(TOP));
}

#[test]
fn what_is_stopped_at_its_deadline_is_known_to_be_slower() {
    let mut world = World::new(alone(), budgets());
    let only =
        |id, deadline| Request { deadline: Some(deadline), variant: Some(VariantId(1)), ..request(id) };
    for id in 0..20 {
        world.submit(only(id, world.now.after(ms(30))));
        world.settle();
    }
    let usual = world.decisions.last().unwrap().chosen.point.clock;
    // As slow at any clock, until something is learned.
    let before = world.decisions.len();
    world.slowdown = 1.8;
    for id in 20..26 {
        world.submit(only(id, world.now.after(ms(30))));
        world.settle();
    }
    let clocks: Vec<_> =
        world.decisions[before..].iter().map(|decision| decision.chosen.point.clock).collect();
    assert!(rejection(world.outcome(20)) == Rejection::DeadlinePassed, "{:?}", world.outcome(20));
    assert!(clocks.iter().any(|clock| *clock > usual), "{usual:?}, then {clocks:?}");
}
