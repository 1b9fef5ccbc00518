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

/// Asks for `d` every 100 ms, due after 60 ms, with `jitter_ms` more in every second gap, and `quiet_ms` later for `m`,
/// which has a second. How long `m` is meant to take.
fn planned(beats: u64, jitter_ms: u64, quiet_ms: u64) -> Nanos {
    let mut world = World::new(two_models(), budgets());
    world.handle(Event::Retain { model: ModelId(1), resident: true });
    world.settle();
    for beat in 0..beats {
        let (id, model) = (RequestId(beat + 1), ModelId(1));
        let deadline = Some(world.now.after(Nanos::from_millis(60)));
        world.submit(Request { id, model, deadline, ..request(0) });
        let jitter = if beat % 2 == 0 { 0 } else { jitter_ms };
        let next = if beat + 1 < beats { 100 + jitter } else { quiet_ms };
        world.run_until(world.now.after(Nanos::from_millis(next)));
        if beat % 4 == 0 {
            world.handle(Event::Sampled(readings(40.0 + 0.1 * f64::from(u8::try_from(beat).unwrap()), 2.0)));
        }
    }
    let deadline = Some(world.now.after(Nanos::from_secs(1)));
    world.submit(Request { id: RequestId(0), deadline, ..request(0) });
    world.dispatches.last().unwrap().expected
}

#[test]
fn a_run_leaves_room_for_the_next_beat_of_another_model() {
    // Alone it takes its time.
    assert!(planned(1, 0, 10) > Nanos::from_millis(190), "{:?}", planned(1, 0, 10));
    // The next one is due 150 ms from here, and a run cannot be stopped.
    assert!(planned(20, 0, 10) < Nanos::from_millis(150), "{:?}", planned(20, 0, 10));
}

#[test]
fn a_run_leaves_room_for_one_that_may_come_at_any_moment() {
    // Gaps of 100 and 300 ms: none of them says when.
    assert!(planned(20, 200, 10) < Nanos::from_millis(60), "{:?}", planned(20, 200, 10));
}

#[test]
fn a_stream_that_fell_silent_is_not_waited_for() {
    // Within four of its gaps of 100 ms it may only be late.
    assert!(planned(20, 0, 350) < Nanos::from_millis(60), "{:?}", planned(20, 0, 350));
    assert!(planned(20, 0, 450) > Nanos::from_millis(190), "{:?}", planned(20, 0, 450));
}
