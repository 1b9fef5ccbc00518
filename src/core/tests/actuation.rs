//! What a clock domain runs at between an order and its coming into force.

use super::*;
use crate::core::clocks::Clocks;
use crate::core::snapshot::Snapshot;

const GPU: DomainId = DomainId(1);

fn mhz(mhz: u32) -> Kilohertz {
    Kilohertz(mhz * 1000)
}

fn pinned(at: u32) -> ClockBounds {
    ClockBounds { min: mhz(at), max: mhz(at) }
}

fn ms(ms: u64) -> Timestamp {
    Timestamp::ZERO.after(Nanos::from_millis(ms))
}

#[test]
fn a_domain_runs_at_the_old_clock_until_it_has_settled() {
    let board = catalog().board;
    let (mut clocks, snapshot) = (Clocks::new(&board), Snapshot::new(&board));
    assert_eq!(board.domains[GPU.index()].settle, Nanos::from_millis(5));
    assert_eq!(clocks.way_to(GPU, mhz(200), &snapshot, ms(0)), None, "nothing is known of it");
    assert!(clocks.ask(GPU, pinned(200), ms(0)));
    assert!(!clocks.ask(GPU, pinned(200), ms(1)), "asked already");
    assert_eq!(clocks.way_to(GPU, mhz(200), &snapshot, ms(100)), None);
    let settle = Nanos::from_millis(5);
    assert_eq!(clocks.way_to(GPU, mhz(1200), &snapshot, ms(100)), Some((mhz(200), settle)));

    assert!(clocks.ask(GPU, pinned(1200), ms(100)));
    let way = |clocks: &Clocks, to, at| clocks.way_to(GPU, mhz(to), &snapshot, ms(at));
    assert_eq!(way(&clocks, 1200, 102), Some((mhz(200), Nanos::from_millis(3))));
    assert_eq!(way(&clocks, 600, 102), Some((mhz(200), settle)), "the second order replaces the first");
    assert_eq!(way(&clocks, 1200, 105), None);
    assert_eq!(way(&clocks, 600, 105), Some((mhz(1200), settle)));

    // An order that comes while another is on its way: still at the clock before both.
    assert!(clocks.ask(GPU, pinned(200), ms(200)));
    assert!(clocks.ask(GPU, pinned(600), ms(202)));
    assert_eq!(way(&clocks, 600, 203), Some((mhz(1200), Nanos::from_millis(4))));
}

#[test]
fn a_cap_of_the_firmware_is_where_it_runs() {
    let board = catalog().board;
    let (mut clocks, snapshot) = (Clocks::new(&board), Snapshot::new(&board));
    assert!(clocks.ask(GPU, pinned(1200), ms(0)));
    let report = ApplyReport { domains: vec![None, Some(Applied::Bounds(pinned(600)))] };
    assert_eq!(clocks.applied(&report, ms(2)), []);
    assert_eq!(clocks.present(GPU, &snapshot), Some(mhz(600)));
    let opps = &board.domains[GPU.index()].opps;
    let choices = clocks.choices(&board, GPU, &snapshot);
    assert!(opps[choices.clone()].iter().all(|opp| *opp <= mhz(600)), "{choices:?} of {opps:?}");
}

/// What refuses for a moment is soon back in use, and what always refuses is tried less and less often.
#[test]
fn a_domain_that_refuses_is_tried_again_ever_later() {
    let mut world = World::new(catalog(), budgets());
    world.settle();
    let refuse = |world: &mut World| {
        world.core.handle(
            world.now,
            Event::Applied(ApplyReport { domains: vec![Some(Applied::Refused(SensorFault::Busy)), None] }),
        );
    };
    (0..3).for_each(|_| refuse(&mut world));
    let mut waited = Vec::new();
    for _ in 0..7 {
        assert!(!world.core.clocks.controllable(DomainId(0)));
        let since = world.now;
        while !world.core.clocks.controllable(DomainId(0)) {
            world.run_until(world.now.after(Nanos::from_millis(100)));
            world.handle(Event::Sampled(readings(40.0, 2.0)));
        }
        waited.push(world.now.since(since).0 / 100_000_000);
        refuse(&mut world);
    }
    assert_eq!(waited, [5, 10, 20, 40, 80, 80, 80], "tenths of a second");
    // Once it obeys, all begins anew.
    world.run_until(world.now.after(Nanos::from_secs(9)));
    let obeyed = Applied::Bounds(ClockBounds { min: Kilohertz(500_000), max: Kilohertz(2_000_000) });
    world.core.handle(world.now, Event::Applied(ApplyReport { domains: vec![Some(obeyed), None] }));
    (0..3).for_each(|_| refuse(&mut world));
    world.run_until(world.now.after(Nanos::from_millis(600)));
    assert!(world.core.clocks.controllable(DomainId(0)));
}

#[test]
fn a_clock_that_was_refused_is_no_slowdown() {
    // On one variant that takes 20 ms at 2 GHz, which is needed, and 80 at 500 MHz, which is what it runs at.
    let slowdown = |refused: bool| {
        let (mut catalog, mut limits) = (world::alone(), budgets());
        catalog.variants.truncate(1);
        catalog.models[0].variants.truncate(1);
        limits.classes[0].latency = Nanos::from_millis(26);
        let mut world = World::new(catalog, limits);
        world.settle();
        world.slowdown = 4.0;
        world.submit(request(1));
        assert_eq!(world.dispatches[0].point.clock, mhz(2000));
        if refused {
            let domains = vec![Some(Applied::Refused(SensorFault::Busy))];
            world.handle(Event::Applied(ApplyReport { domains }));
        }
        world.settle();
        assert!(world.served(1).missed);
        world.core.estimates.slowdown_at_point(VariantId(0), UnitId(0), 0)
    };
    let (told, untold) = (slowdown(true), slowdown(false));
    assert!(told < 1.05 && untold > 1.1, "{told}, without a report {untold}");
}
