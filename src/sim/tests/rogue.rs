//! The checkers catch a scheduler that breaks the rules.

use super::*;
use crate::core::catalog::{ModelId, UnitId, VariantId};
use crate::core::event::*;
use crate::core::thermal::{Regime, Transition};

const NOW: Timestamp = Timestamp(1_000_000_000);

fn request(id: u64) -> Request {
    Request {
        id: RequestId(id),
        app: AppId(1),
        class: ClassId(0),
        model: ModelId(0),
        items: 1,
        input_bytes: Bytes(1),
        deadline: None,
        min_accuracy: None,
        max_energy: None,
        variant: None,
        priority: None,
    }
}

fn dispatch(batch: u64, unit: u8, requests: &[u64]) -> Effect {
    Effect::Dispatch(Dispatch {
        batch: BatchId(batch),
        unit: UnitId(unit),
        variant: VariantId(0),
        requests: requests.iter().map(|id| RequestId(*id)).collect(),
        items: 1,
        point: crate::core::points::OperatingPoint::default(),
        expected: Nanos::from_millis(1),
        reserved: crate::units::Microjoules::ZERO,
    })
}

fn reply(id: u64) -> Effect {
    let outcome = Outcome::Rejected { reason: Rejection::Cancelled, retry_after: None };
    Effect::Reply { request: RequestId(id), outcome }
}

/// Two requests wait and variant 0 is loaded on units 0 and 1 of the TX2, which share the processor.
fn watched(play: impl FnOnce(&mut Checkers)) -> Vec<String> {
    let machine = Machine::new(&board("jetson-tx2"), &[fashion()], 1).unwrap();
    let mut small = budgets(Objective::LeastEnergy);
    small.app_limit = 3;
    let mut checkers = Checkers::new(&machine.catalog, &small);
    for unit in [0, 1].map(UnitId) {
        checkers.event(&Event::Loaded { variant: VariantId(0), unit, footprint: Bytes(1) });
    }
    checkers.event(&Event::Submit(request(1)));
    checkers.event(&Event::Submit(Request { deadline: Some(NOW), ..request(2) }));
    play(&mut checkers);
    checkers.violations().iter().map(|violation| violation.what.clone()).collect()
}

#[test]
fn every_rule_is_enforced() {
    let critical = Transition {
        from: Regime::Boot,
        to: Regime::Critical,
        zone: None,
        temperature: None,
        age: Nanos::ZERO,
    };
    type Play = fn(&mut Checkers, Transition);
    let cases: [(&str, Play); 9] = [
        ("not loaded", |c, _| c.effect(NOW, &dispatch(1, 2, &[1]))),
        ("same processor is busy", |c, _| {
            c.effect(NOW, &dispatch(1, 0, &[1]));
            c.effect(NOW, &dispatch(2, 1, &[2]));
        }),
        ("dispatched twice", |c, _| c.effect(NOW, &dispatch(1, 0, &[1, 1]))),
        ("nobody waits", |c, _| {
            c.effect(NOW, &reply(1));
            c.effect(NOW, &reply(1));
        }),
        ("after its hard deadline", |c, _| c.effect(NOW.after(Nanos::from_millis(2)), &reply(2))),
        ("started on a critical board", |c, critical| {
            c.effect(NOW, &Effect::Note(Note::Regime(critical)));
            c.effect(NOW, &dispatch(1, 0, &[1]));
        }),
        ("on a critical board", |c, critical| {
            c.effect(NOW, &Effect::Note(Note::Regime(critical)));
            c.settled(NOW);
        }),
        ("its limit is 3", |c, _| {
            (3..=4).for_each(|id| c.event(&Event::Submit(request(id))));
            c.settled(NOW);
        }),
        ("have no answer", |c, _| c.finish(NOW)),
    ];
    for (wanted, play) in cases {
        let found = watched(|checkers| play(checkers, critical));
        assert!(found.iter().any(|what| what.contains(wanted)), "{wanted}: {found:?}");
    }
    let quiet = watched(|checkers| {
        checkers.effect(NOW, &dispatch(1, 0, &[1]));
        checkers.effect(NOW, &reply(1));
        checkers.settled(NOW);
    });
    assert!(quiet.is_empty(), "{quiet:?}");
}

/// Loads that the cap has no room for are noticed when they are ordered.
#[test]
fn memory_beyond_the_cap_is_noticed() {
    let machine = Machine::new(&board("jetson-tx2"), &[fashion()], 1).unwrap();
    let mut small = budgets(Objective::LeastEnergy);
    small.memory_cap = Bytes(1 << 20);
    let mut checkers = Checkers::new(&machine.catalog, &small);
    checkers.effect(NOW, &Effect::Load { variant: VariantId(0), unit: UnitId(0) });
    assert!(checkers.violations()[0].what.contains("cap"), "{:?}", checkers.violations());
}
