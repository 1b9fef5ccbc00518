//! What the core does not do: work and wake-ups for nothing.

use super::*;

/// The catalogue without its GPU: two units that take turns on one processor.
fn one_processor() -> Catalog {
    let mut catalog = catalog();
    catalog.board.units.truncate(2);
    catalog.variants.iter_mut().for_each(|variant| variant.profiles.truncate(2));
    catalog
}

#[test]
fn who_waits_for_a_busy_processor_is_looked_at_when_it_is_free_and_not_before() {
    let mut world = World::new(one_processor(), budgets());
    world.settle();
    (1..=3).for_each(|id| world.submit(request(id)));
    let decisions = world.decisions.len();
    assert_eq!(world.running.len(), 1, "the units share a processor");
    assert_eq!(world.core.hold_until, None, "the completion is what ends the wait");
    world.handle(Event::Wake);
    assert_eq!(world.decisions.len(), decisions);
    world.settle();
    (1..=3).for_each(|id| assert!(!world.served(id).missed));
}

#[test]
fn memory_is_left_alone_once_everything_wanted_is_there_until_something_changes() {
    let mut world = World::new(catalog(), Budgets { unload_after: Some(Nanos::from_secs(60)), ..budgets() });
    world.settle();
    let limits = world.core.memory_limits(world.now);
    assert!(world.core.residency.is_settled(limits, world.now));
    world.submit(request(1));
    world.settle();
    assert!(world.core.residency.is_settled(limits, world.now), "a request changes nothing");
    let smaller = crate::core::residency::Limits { cap: Bytes(1 << 20), ..limits };
    assert!(!world.core.residency.is_settled(smaller, world.now), "another cap does");
    let later = world.now.after(Nanos::from_secs(61));
    assert!(!world.core.residency.is_settled(limits, later), "and so does the end of the model's time");
    world.core.residency.set(VariantId(0), UnitId(0), Residence::Absent);
    assert!(!world.core.residency.is_settled(limits, world.now), "and so does a lane that lost a variant");
}

#[test]
fn memory_that_does_not_hold_everything_is_never_settled() {
    let mut world = World::new(catalog(), Budgets { memory_cap: Bytes(25 << 20), ..budgets() });
    world.settle();
    let limits = world.core.memory_limits(world.now);
    assert!(!world.core.residency.is_settled(limits, world.now), "the next request may change who is wanted");
}
