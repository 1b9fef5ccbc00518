//! Runs that give way.

use super::world::alone;
use super::*;

/// One processor: `m` takes 80 ms at 500 MHz and 20 ms at 2 GHz, and `d`, due soon, a tenth of that.
fn two_models() -> Catalog {
    let mut catalog = alone();
    catalog.variants.truncate(1);
    let mut small = catalog.variants[0].clone();
    small.model = ModelId(1);
    if let Some(profile) = &mut small.profiles[0] {
        profile.latency.compute_s_ghz = 0.004;
    }
    catalog.variants.push(small);
    catalog.models[0].variants = vec![VariantId(0)];
    catalog.models.push(Model { name: "d".into(), variants: vec![VariantId(1)], max_batch: 1 });
    catalog
}

/// A world in which a run for `m`, due after `m_ms`, has gone on for 1 ms.
fn busy(m_ms: u64, priority: u32, change: impl FnOnce(&mut Catalog)) -> World {
    busy_as(m_ms, change, |one| Request { priority: Some(priority), ..one })
}

/// The same for a run with other wishes.
fn busy_as(m_ms: u64, change: impl FnOnce(&mut Catalog), wish: impl FnOnce(Request) -> Request) -> World {
    let mut catalog = two_models();
    change(&mut catalog);
    let mut world = World::new(catalog, budgets());
    world.handle(Event::Retain { model: ModelId(1), resident: true });
    world.settle();
    let deadline = Some(world.now.after(Nanos::from_millis(m_ms)));
    world.submit(wish(Request { deadline, ..request(1) }));
    assert_eq!(world.dispatches.len(), 1);
    world.run_until(world.now.after(MS));
    world
}

fn ask_for_d(world: &mut World, id: u64, due_ms: u64) {
    let deadline = Some(world.now.after(Nanos::from_millis(due_ms)));
    world.submit(Request { id: RequestId(id), model: ModelId(1), deadline, ..request(0) });
}

const MS: Nanos = Nanos::from_millis(1);

#[test]
fn a_run_with_time_to_begin_anew_gives_way_to_what_would_be_late_behind_it() {
    let mut world = busy(200, 10, |_| ());
    ask_for_d(&mut world, 2, 8);
    assert_eq!(world.aborted.len(), 1);
    world.run_until(world.now.after(Nanos::from_secs(1)));
    let order: Vec<u64> = world.dispatches.iter().map(|dispatch| dispatch.requests[0].0).collect();
    assert_eq!(order, [1, 2, 1]);
    assert!(!world.served(1).missed && !world.served(2).missed);
    // What was lost is told.
    let alone = busy(200, 10, |_| ());
    let expected = alone.dispatches[0].reserved;
    assert!(world.served(1).energy > Microjoules(expected.0 / 2), "{:?} {expected:?}", world.served(1));
}

#[test]
fn a_run_gives_way_once() {
    let mut world = busy(400, 10, |_| ());
    ask_for_d(&mut world, 2, 8);
    world.run_until(world.now.after(Nanos::from_millis(10)));
    assert_eq!((world.aborted.len(), world.dispatches.len()), (1, 3));
    ask_for_d(&mut world, 3, 8);
    assert_eq!(world.aborted.len(), 1);
    assert_eq!(rejection(world.outcome(3)), Rejection::DeadlineUnreachable);
    world.run_until(world.now.after(Nanos::from_secs(1)));
    assert!(!world.served(1).missed);
}

#[test]
fn a_run_does_not_give_way() {
    // It would be late itself.
    let mut late = busy(30, 10, |_| ());
    // It is more urgent.
    let mut urgent = busy(200, 5, |_| ());
    // Its energy is limited, and would be spent twice.
    let mut limited = busy_as(200, |_| (), |one| Request { max_energy: Some(Microjoules(1 << 40)), ..one });
    // It cannot be stopped.
    let mut deaf = busy(200, 10, |catalog| catalog.board.units[0].preemptible = false);
    for (world, why) in
        [(&mut late, "late"), (&mut urgent, "urgent"), (&mut limited, "limited"), (&mut deaf, "deaf")]
    {
        ask_for_d(world, 2, 8);
        assert!(world.aborted.is_empty(), "{why}");
        assert_eq!(rejection(world.outcome(2)), Rejection::DeadlineUnreachable, "{why}");
    }
    // There is time to speed it up.
    let mut world = busy(200, 10, |_| ());
    ask_for_d(&mut world, 2, 60);
    assert!(world.aborted.is_empty());
    world.run_until(world.now.after(Nanos::from_secs(1)));
    assert!(!world.served(1).missed);
}
