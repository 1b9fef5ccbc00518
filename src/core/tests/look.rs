//! Runs at the highest clock for what they tell.

use super::world::{alone, profile};
use super::*;

/// One unit. The better variant is bound by memory (10 ms/GHz beside 15 ms), the other by its arithmetic, more so the
/// lower its clock (4 ms/GHz beside 1.5 ms).
fn one_bound_by_memory() -> Catalog {
    let mut catalog = alone();
    let roofs = [(10.0, 15e-3), (15.0, 1e-5), (4.0, 1.5e-3)];
    for (variant, (compute_ms_ghz, memory_s)) in catalog.variants.iter_mut().zip(roofs) {
        let mut own = profile(compute_ms_ghz, 10 << 20);
        own.latency.memory_s = memory_s;
        variant.profiles[0] = Some(own);
    }
    // Only these two.
    catalog.variants[1].profiles[0] = None;
    catalog
}

const LARGE: VariantId = VariantId(0);
const SMALL: VariantId = VariantId(2);

/// Serves so many requests, one every 100 ms, each due after 40 ms; the variants that answered.
fn serve(world: &mut World, first: u64, count: u64, memory_slowdown: f64) -> Vec<VariantId> {
    world.memory_slowdown = Some(memory_slowdown);
    for id in first..first + count {
        world.submit(request(id));
        world.run_until(world.now.after(Nanos::from_millis(100)));
        world.handle(Event::Sampled(readings(40.0, 2.0)));
    }
    (first..first + count).map(|id| world.served(id).variant).collect()
}

/// Small runs at low clocks do not feel the memory: without a run now and then at the highest clock nothing would tell
/// that it is fast again, and the better variant would stay out of use.
#[test]
fn a_variant_that_was_too_slow_comes_back_when_what_slowed_it_has_passed() {
    let mut budgets = budgets();
    budgets.classes[0].latency = Nanos::from_millis(40);
    budgets.classes[0].accuracy_target = Some(Ppm::from_fraction(0.95));
    budgets.classes[0].rescue = false;
    let mut world = World::new(one_bound_by_memory(), budgets);
    world.settle();
    // 15.8 ms at 2 GHz.
    assert_eq!(serve(&mut world, 0, 40, 1.0)[20..], [LARGE; 20]);
    // 45.3 ms: the smaller one answers once that is known.
    assert_eq!(serve(&mut world, 100, 40, 3.0)[20..], [SMALL; 20]);
    let looks = |world: &World| {
        world.decisions.iter().filter(|decision| decision.binding == plan::Constraint::Knowledge).count()
    };
    let before = looks(&world);
    let back = serve(&mut world, 200, 200, 1.0);
    assert!(looks(&world) > before, "a look found out");
    let large = back.iter().filter(|variant| **variant == LARGE).count();
    // Not all: how late runs may be is forgotten more slowly.
    assert!(large > 20, "{large} of 200, {} looks", looks(&world) - before);
    let of_looks = world.decisions.iter().filter(|one| one.binding == plan::Constraint::Knowledge);
    for look in of_looks {
        assert_eq!((look.chosen.variant, look.chosen.point.clock), (SMALL, Kilohertz(2_000_000)));
    }
}
