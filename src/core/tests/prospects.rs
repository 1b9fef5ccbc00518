//! What the planner does not look at is no better than what it finds.

use super::world::profile;
use super::*;
use crate::core::explain::Sight;
use crate::core::plan::{Candidate, Choice, Considered, Grade};

/// A request: deadline in ms, items, whether it wants the best; how long until the next, ms; by how much runs then differ
/// from what was expected.
type Asked = (Option<u16>, u32, bool, u16, f64);

fn asked() -> impl Strategy<Value = Asked> {
    (proptest::option::of(2u16..300), 1u32..4, any::<bool>(), 0u16..60, 0.7f64..1.8)
}

/// Three variants of any accuracy and latency.
fn any_catalog() -> impl Strategy<Value = Catalog> {
    proptest::collection::vec((0.8f64..0.99, 1.0f64..60.0, 0.1f64..2.0, 0.1f64..2.0), 3).prop_map(|drawn| {
        let mut catalog = catalog();
        for (variant, (accuracy, ms, cpu2, gpu)) in catalog.variants.iter_mut().zip(drawn) {
            variant.accuracy = Ppm::from_fraction(accuracy);
            let scales = [1.0, cpu2, gpu];
            variant.profiles = scales.iter().map(|scale| Some(profile(ms * scale, 10 << 20))).collect();
        }
        catalog
    })
}

fn check(decision: &plan::Explanation, requests: usize, all: &[Considered]) -> Result<(), TestCaseError> {
    let per_item = |one: &Considered| one.candidate.energy.as_f64() / f64::from(one.candidate.items.max(1));
    let same = |one: &&Considered| one.candidate == decision.chosen && one.requests == requests;
    let chosen = all.iter().find(same);
    prop_assert!(chosen.is_some(), "{decision:?} is none of those that were considered");
    // Of a variant on a unit the first clock is taken that is fast enough without a boost.
    let above_another = |one: &Considered| {
        let (of, clock) = (one.candidate, one.candidate.point.clock);
        let same = |low: &Candidate| (low.variant, low.unit, low.items) == (of.variant, of.unit, of.items);
        let holds = |low: &Considered| low.candidate.boost.is_none() && low.grade <= Grade::Crowding;
        all.iter().any(|low| same(&low.candidate) && low.candidate.point.clock < clock && holds(low))
    };
    for other in all.iter().filter(|other| !above_another(other)) {
        let Some(chosen) = chosen.filter(|chosen| chosen.grade >= other.grade) else { continue };
        prop_assert!(chosen.grade == other.grade, "{chosen:#?}\nis worse than\n{other:#?}");
        let dearer = other.grade == Grade::OnTarget && per_item(chosen) > per_item(other) * 1.001;
        prop_assert!(!dearer, "{chosen:#?}\ncosts more than\n{other:#?}");
        let worse = other.grade == Grade::OnTime && chosen.accuracy < other.accuracy;
        prop_assert!(!worse, "{chosen:#?}\nis less accurate than\n{other:#?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_not_looked_at_is_no_better(
        catalog in any_catalog(),
        cap_w in proptest::option::of(1.0f64..8.0),
        asked in proptest::collection::vec(asked(), 1..40),
    ) {
        let capped = Budgets { power_cap: cap_w.map(Microwatts::from_watts), ..budgets() };
        let mut world = World::new(catalog, capped);
        for (id, (deadline, items, best, gap, slowdown)) in (1u64..).zip(asked) {
            world.slowdown = slowdown;
            world.core.watch(RequestId(id));
            let deadline = deadline.map(|ms| world.now.after(Nanos::from_millis(u64::from(ms))));
            let min_accuracy = best.then(|| Ppm::from_fraction(0.9));
            world.submit(Request { deadline, items, min_accuracy, ..request(id) });
            world.run_until(world.now.after(Nanos::from_millis(u64::from(gap))));
            for sight in world.core.take_sights() {
                let Sight::Look(look) = sight else { continue };
                if let Choice::Run { requests, explanation } = look.choice {
                    check(&explanation, requests, &look.options.candidates)?;
                }
            }
        }
    }
}

/// One after the other the second is late even at its fastest: both together may be in time.
#[test]
fn a_batch_that_may_be_late_goes_before_a_run_that_makes_those_behind_late() {
    let mut catalog = super::world::alone();
    catalog.variants[0].profiles = vec![None];
    catalog.variants[1].profiles = vec![None];
    let mut cases = 0;
    for due_us in (2_000..8_000).step_by(50) {
        let mut limits = budgets();
        limits.classes[0].latency = Nanos::from_micros(due_us);
        let mut world = World::new(catalog.clone(), limits);
        world.settle();
        (1..=3).for_each(|id| world.submit(request(id)));
        let core = &world.core;
        let waiting: Vec<&Waiting> = core.queue.iter().collect();
        assert_eq!(waiting.len(), 2, "the first runs");
        let (free_at, deadline) = ([world.now], waiting[0].deadline);
        let view = View { followers: 1, ..core.view(world.now, &free_at, &[false], &waiting[1..]) };
        let all = plan::explain_all(&view, &waiting);
        let finish = |one: &Considered| one.start.after(one.candidate.latency);
        let (fastest, chosen) = (waiting[1].usual[0], &all[0]);
        if all.iter().any(|one| one.requests == 2 && finish(one) <= deadline) {
            let ousts = chosen.requests == 1 && finish(chosen).after(fastest) > deadline;
            assert!(!ousts, "due in {due_us} us: {chosen:?}");
            cases += usize::from(chosen.grade == plan::Grade::Tight);
        }
    }
    assert!(cases > 0, "both together were never what is best");
}
