//! The memory clock as part of the choice.

use super::*;

const MEMORY: DomainId = DomainId(2);
const LOW: Kilohertz = Kilohertz(800_000);
const HIGH: Kilohertz = Kilohertz(1_600_000);

/// The test board, its GPU bound by a memory whose clock draws 2 W/GHz: 8 ms at the top beside 8 ms of compute for
/// the largest variant, 16 ms at half of it.
fn bound_by_memory() -> Catalog {
    let mut catalog = catalog();
    let linear = PowerModel { linear_w_per_ghz: 2.0, ..PowerModel::default() };
    let (name, settle) = ("emc".into(), Nanos::from_millis(1));
    catalog.board.domains.push(Domain { name, opps: vec![LOW, HIGH], settle, held_power: linear });
    catalog.board.units[2].memory_domain = Some(MEMORY);
    for variant in &mut catalog.variants {
        // On the GPU alone.
        variant.profiles[0] = None;
        variant.profiles[1] = None;
        let Some(profile) = &mut variant.profiles[2] else { continue };
        profile.latency.memory_s = profile.latency.compute_s_ghz;
    }
    catalog
}

/// Serves one request and tells the memory clock of its run.
fn serve(deadline: Nanos) -> (World, Kilohertz) {
    let mut world = World::new(bound_by_memory(), budgets());
    world.settle();
    let deadline = Some(world.now.after(deadline));
    world.submit(Request { deadline, min_accuracy: Some(Ppm::from_fraction(0.95)), ..request(0) });
    let memory = world.dispatches.last().unwrap_or_else(|| panic!("{:?}", world.outcomes)).point.memory;
    (world, memory)
}

#[test]
fn memory_runs_low_where_there_is_time_and_high_where_there_is_not() {
    assert_eq!(serve(Nanos::from_millis(200)).1, LOW);
    // 8 ms/1.2 beside 8 ms is 10.4 ms; beside 16 ms it is 17.3. The GPU takes 5 ms to rise.
    let (world, tight) = serve(Nanos::from_millis(20));
    assert_eq!(tight, HIGH);
    assert_eq!(world.set[MEMORY.index()], Some(ClockBounds { min: HIGH, max: HIGH }));
}

#[test]
fn memory_rests_low_between_runs_and_is_given_back_later() {
    let (mut world, _) = serve(Nanos::from_millis(20));
    world.run_until(world.now.after(Nanos::from_millis(100)));
    assert_eq!(world.set[MEMORY.index()], Some(ClockBounds { min: LOW, max: LOW }), "let down");
    world.run_until(world.now.after(Nanos::from_secs(9)));
    assert_eq!(world.set[MEMORY.index()], Some(ClockBounds { min: LOW, max: LOW }), "still let down");
    world.run_until(world.now.after(Nanos::from_secs(2)));
    let whole = ClockBounds { min: LOW, max: HIGH };
    assert_eq!(world.set[MEMORY.index()], Some(whole), "its governor knows best who else needs it");
}
