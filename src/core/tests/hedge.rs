//! Runs that take long: boosted, rescued, insured.

use super::world::{alone, profile};
use super::*;

/// What 0.95 of the answers should be like, with a floor that the small variant meets.
fn wishes() -> Budgets {
    let mut limits = budgets();
    limits.classes[0].accuracy_target = Some(Ppm::from_fraction(0.94));
    limits
}

/// The large variant only on the GPU, which cannot cancel, the small one only on the processor.
fn apart() -> Catalog {
    let mut catalog = catalog();
    catalog.variants[0].profiles = vec![None, None, Some(profile(40.0, 1 << 20))];
    catalog.variants[1].profiles = vec![None, None, None];
    catalog.variants[2].profiles = vec![Some(profile(4.0, 1 << 20)), None, None];
    catalog
}

/// Some answers as expected, then one run that takes so many times as long.
fn one_slow(catalog: Catalog, limits: Budgets, times: f64, wish: impl Fn(Request) -> Request) -> World {
    let mut world = World::new(catalog, limits);
    for id in 0..40 {
        world.submit(wish(request(id)));
        world.run_until(world.now.after(Nanos::from_millis(250)));
        world.handle(Event::Sampled(readings(40.0 + 0.1 * f64::from(u8::try_from(id % 7).unwrap()), 2.0)));
    }
    world.aborted.clear();
    world.slowdown = times;
    world.submit(wish(request(100)));
    world.slowdown = 1.0;
    world
}

#[test]
fn a_run_that_takes_too_long_is_cancelled_and_a_small_variant_answers_in_time() {
    let mut world = one_slow(alone(), wishes(), 10.0, |request| request);
    let planned = world.decisions.last().unwrap().chosen;
    let rescue = planned.rescue.expect("a rescue is planned");
    assert_eq!((planned.variant, rescue.variant), (VariantId(0), VariantId(2)));
    world.settle();
    let served = world.served(100);
    assert!(served.rescued && !served.missed && served.variant == VariantId(2), "{served:?}");
    assert_eq!(world.aborted.len(), 1);
    // The time on lanes is that of both runs, and so is the energy.
    assert!(served.compute > rescue.after, "{served:?}");
    let alone_uj = planned.energy.as_f64() * 0.5;
    assert!(served.energy.as_f64() > alone_uj, "{served:?}, planned {planned:?}");
    assert!((0..40).all(|id| !world.served(id).rescued), "the usual ones are not");
    let low = world.core.catalog().board.domains[0].opps[0];
    assert_eq!(world.set[0].map(|bounds| bounds.min), Some(low), "the clock is let down again");
}

#[test]
fn a_rescue_comes_early_enough_for_those_who_wait_behind_it() {
    let mut world = one_slow(alone(), wishes(), 10.0, |request| request);
    let rescue = world.decisions.last().unwrap().chosen.rescue.expect("a rescue is planned");
    let latest = world.now.after(rescue.after);
    // They came in the same instant, when the run had begun, and are due when it is.
    (101..107).for_each(|id| world.submit(Request { items: 4, ..request(id) }));
    world.run_until(latest.before(Nanos(1)));
    assert_eq!(world.aborted.len(), 1, "it is cancelled before its own rescue asks for it");
    world.settle();
    for id in 100..107 {
        let served = world.served(id);
        assert!(!served.missed, "{id}: {served:?}");
    }
    assert!(world.served(100).rescued);
}

#[test]
fn a_rescue_is_planned_for_the_clock_in_force_when_it_begins() {
    let mut planned = 0;
    // Between two requests the clock is let down and is there.
    for (settle_ms, due_ms) in
        [5, 10, 20, 30].into_iter().flat_map(|settle| (8..48).step_by(2).map(move |due| (settle, due)))
    {
        let mut catalog = alone();
        let settle = Nanos::from_millis(settle_ms);
        catalog.board.domains[0].settle = settle;
        let low = catalog.board.domains[0].opps[0];
        let profiles = catalog.variants.clone();
        let (mut limits, span) = (wishes(), Nanos::from_millis(due_ms));
        limits.classes[0].latency = span;
        let world = one_slow(catalog, limits, 1.0, |request| request);
        for chosen in world.decisions.iter().map(|decision| decision.chosen) {
            let Some(rescue) = chosen.rescue.filter(|_| chosen.point.clock > low) else { continue };
            let seconds = |clock| {
                let profile = profiles[rescue.variant.index()].profiles[0].unwrap();
                profile.latency.latency(clock, 1).as_secs_f64()
            };
            let since = |end: Nanos| end.as_secs_f64() - rescue.after.as_secs_f64();
            let (slow_s, left_s) = (since(settle).clamp(0.0, since(span)), since(span));
            let done = slow_s / seconds(low) + (left_s - slow_s) / seconds(rescue.point.clock);
            assert!(
                done >= 1.0,
                "{settle_ms} ms, due in {due_ms}: {done} of a rescue is done in time: {chosen:?}"
            );
            planned += 1;
        }
    }
    assert!(planned > 0, "no run could be rescued");
}

#[test]
fn who_forbids_it_or_names_the_variant_is_not_rescued() {
    let mut forbidden = wishes();
    forbidden.classes[0].rescue = false;
    let named = |request| Request { variant: Some(VariantId(0)), ..request };
    for mut world in
        [one_slow(alone(), forbidden, 10.0, |request| request), one_slow(alone(), wishes(), 10.0, named)]
    {
        assert_eq!(world.decisions.last().unwrap().chosen.rescue, None);
        world.settle();
        let served = world.served(100);
        assert!(!served.rescued && served.missed && served.variant == VariantId(0), "{served:?}");
    }
}

#[test]
fn where_a_run_cannot_be_cancelled_the_small_variant_runs_beside_it() {
    let mut world = one_slow(apart(), wishes(), 30.0, |request| request);
    let rescue = world.decisions.last().unwrap().chosen.rescue.expect("insured");
    assert_eq!((rescue.variant, rescue.unit), (VariantId(2), UnitId(0)));
    let before = world.dispatches.len();
    world.settle();
    let served = world.served(100);
    assert!(served.rescued && !served.missed && served.unit == UnitId(0), "{served:?}");
    assert_eq!((world.dispatches.len(), world.aborted.len()), (before + 1, 0));
    assert!(world.core.is_idle() && world.core.status(world.now).reserved == Microjoules::ZERO);
    // The first run was in vain, and yet it is paid for.
    assert!(world.core.status(world.now).request_energy > served.energy);
}

#[test]
fn a_client_that_leaves_while_both_run_is_answered_once() {
    let mut world = one_slow(apart(), wishes(), 30.0, |request| request);
    let planned = world.decisions.last().unwrap().chosen.rescue.unwrap();
    world.run_until(world.now.after(planned.after));
    assert_eq!(world.running.len(), 2);
    world.handle(Event::Cancel(RequestId(100)));
    assert_eq!(rejection(world.outcome(100)), Rejection::Cancelled);
    assert_eq!(world.aborted.len(), 1, "the one on the processor is stopped");
    world.settle();
    assert!(world.core.is_idle());
}

#[test]
fn a_rescue_whose_variant_is_gone_puts_the_request_back() {
    let mut world = one_slow(alone(), wishes(), 10.0, |request| request);
    let planned = world.decisions.last().unwrap().chosen.rescue.unwrap();
    let due = world.now.after(planned.after);
    world.run_until(due.before(Nanos(1)));
    // The order to cancel goes out; before the lane has obeyed, the small variant is gone.
    world.now = due;
    world.core.handle(due, Event::Wake);
    let mut aborted = Vec::new();
    while let Some(effect) = world.core.poll_effect() {
        aborted.extend(match effect {
            Effect::Abort(batch) => Some(batch),
            _ => None,
        });
    }
    world.core.handle(due, Event::Unloaded { variant: VariantId(2), unit: UnitId(0) });
    world.aborted = aborted;
    world.settle();
    assert!(
        matches!(world.outcome(100), Outcome::Served(served) if !served.rescued),
        "{:?}",
        world.outcome(100)
    );
}

/// For requests of all kinds the first of what is explained is what is chosen, and the only one that says so.
#[test]
fn what_is_explained_is_what_is_chosen() {
    for (deadline_ms, floor) in [(5, 0.85), (12, 0.85), (30, 0.85), (60, 0.94), (200, 0.9), (1000, 0.85)] {
        let mut world = World::new(catalog(), wishes());
        world.settle();
        // Every lane is busy: the last request stays in the queue, to be looked at as if they were free.
        (1..=3).for_each(|id| world.submit(Request { variant: Some(VariantId(0)), items: 8, ..request(id) }));
        let min_accuracy = Some(Ppm::from_fraction(floor));
        world.core.budgets.classes[0].latency = Nanos::from_millis(deadline_ms);
        world.submit(Request { min_accuracy, ..request(9) });
        let core = &world.core;
        let Some(waiting) = core.queue.iter().find(|waiting| waiting.request.id == RequestId(9)) else {
            panic!("{deadline_ms} ms: it does not wait");
        };
        let free_at = [world.now; 3];
        let view = core.view(world.now, &free_at, &[false, false], &[]);
        let Choice::Run { requests, explanation } = plan::choose(&view, &[waiting]) else {
            panic!("{deadline_ms} ms: nothing is chosen");
        };
        let all = plan::explain_all(&view, &[waiting]);
        let chosen: Vec<_> = all.iter().filter(|one| one.ruling == plan::Ruling::Chosen).collect();
        assert_eq!(chosen.len(), 1, "{deadline_ms} ms: {all:#?}");
        // Of clocks that come to the same energy, since the run ends before a change is through, any may be named.
        let said = |one: &plan::Candidate| (one.variant, one.unit, one.energy, one.miss);
        assert_eq!(chosen[0].requests, requests, "{deadline_ms} ms");
        assert_eq!(said(&chosen[0].candidate), said(&explanation.chosen), "{deadline_ms} ms");
        assert!(all.len() >= 12, "every clock of every variant on every unit is there: {}", all.len());
    }
}
