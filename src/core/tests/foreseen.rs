//! Room for what other models will ask for.

use super::*;

/// On the GPU alone, which cannot stop a run: `m` takes 200 ms at 200 MHz and 33 ms at 1.2 GHz, and `d`, a fortieth of
/// that.
fn two_models() -> Catalog {
    let mut catalog = catalog();
    // The slower, the less it takes.
    catalog.board.units[2].busy_power.constant_w = 0.0;
    catalog.variants.truncate(1);
    catalog.variants[0].profiles[0] = None;
    catalog.variants[0].profiles[1] = None;
    if let Some(profile) = &mut catalog.variants[0].profiles[2] {
        profile.latency.compute_s_ghz = 0.04;
    }
    let mut small = catalog.variants[0].clone();
    small.model = ModelId(1);
    if let Some(profile) = &mut small.profiles[2] {
        profile.latency.compute_s_ghz = 0.001;
    }
    catalog.variants.push(small);
    catalog.models[0].variants = vec![VariantId(0)];
    catalog.models.push(Model { name: "d".into(), variants: vec![VariantId(1)], max_batch: 1 });
    catalog
}

/// A world that was asked for `d` every 100 ms, due after `due_ms`, with `jitter_ms` more in every second gap, and
/// `quiet_ms` later for `m`, which has a second.
fn asked(beats: u64, jitter_ms: u64, quiet_ms: u64, due_ms: u64) -> World {
    let mut world = World::new(two_models(), budgets());
    world.handle(Event::Retain { model: ModelId(1), resident: true });
    world.settle();
    for beat in 0..beats {
        ask_for_d(&mut world, beat + 1, due_ms);
        let jitter = if beat % 2 == 0 { 0 } else { jitter_ms };
        let next = if beat + 1 < beats { 100 + jitter } else { quiet_ms };
        world.run_until(world.now.after(Nanos::from_millis(next)));
        if beat % 4 == 0 {
            world.handle(Event::Sampled(readings(40.0 + 0.1 * f64::from(u8::try_from(beat).unwrap()), 2.0)));
        }
    }
    let deadline = Some(world.now.after(Nanos::from_secs(1)));
    world.submit(Request { id: RequestId(0), deadline, ..request(0) });
    world
}

fn ask_for_d(world: &mut World, id: u64, due_ms: u64) {
    let deadline = Some(world.now.after(Nanos::from_millis(due_ms)));
    world.submit(Request { id: RequestId(id), model: ModelId(1), deadline, ..request(0) });
}

/// How long `m` is then meant to take.
fn planned(beats: u64, jitter_ms: u64, quiet_ms: u64, due_ms: u64) -> Nanos {
    asked(beats, jitter_ms, quiet_ms, due_ms).dispatches.last().unwrap().expected
}

const SLOW: Nanos = Nanos::from_millis(190);
const FAST: Nanos = Nanos::from_millis(60);

#[test]
fn a_run_leaves_room_for_the_next_beat_of_another_model() {
    // Alone it takes its time.
    assert!(planned(1, 0, 10, 20) > SLOW, "{:?}", planned(1, 0, 10, 20));
    // The next one comes in 90 ms and is due 20 ms later. A run cannot be stopped, and one that is half done then takes
    // 22 ms more at its fastest.
    assert!(planned(20, 0, 10, 20) < Nanos::from_millis(110), "{:?}", planned(20, 0, 10, 20));
}

#[test]
fn a_run_leaves_room_for_one_that_may_come_at_any_moment() {
    // Gaps of 100 and 300 ms: none of them says when.
    assert!(planned(20, 200, 10, 20) < FAST, "{:?}", planned(20, 200, 10, 20));
}

#[test]
fn a_run_that_can_be_sped_up_in_time_takes_its_time() {
    for (jitter_ms, after_ms) in [(0, 90), (200, 1), (200, 100)] {
        let mut world = asked(20, jitter_ms, 10, 60);
        assert!(world.dispatches.last().unwrap().expected > SLOW, "{:?}", world.dispatches.last());
        world.run_until(world.now.after(Nanos::from_millis(after_ms)));
        ask_for_d(&mut world, 100, 60);
        let slow = world.set[1].is_none_or(|bounds| bounds.min <= Kilohertz(200_000));
        assert!(!slow, "jitter {jitter_ms} ms, after {after_ms} ms: {:?}", world.set);
        assert!(!world.outcomes.contains_key(&RequestId(100)), "{:?}", world.outcome(100));
    }
}

#[test]
fn a_stream_that_fell_silent_is_not_waited_for() {
    // Within four of its gaps of 100 ms it may only be late.
    assert!(planned(20, 0, 350, 20) < FAST, "{:?}", planned(20, 0, 350, 20));
    assert!(planned(20, 0, 450, 20) > SLOW, "{:?}", planned(20, 0, 450, 20));
}
