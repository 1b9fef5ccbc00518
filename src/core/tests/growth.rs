//! A model that comes later is served as one that was there from the start.

use super::world::{World, budgets, catalog, request};
use super::*;
use crate::core::rollout::{Addition, Stage, Step};

/// A second model like the first.
fn addition(catalog: &Catalog) -> Addition {
    let (model, first) = (ModelId::at(catalog.models.len()), catalog.variants.len());
    let variants: Vec<Variant> =
        catalog.variants[..3].iter().map(|variant| Variant { model, ..variant.clone() }).collect();
    let ids = (first..first + variants.len()).map(VariantId::at).collect();
    Addition { model: Model { name: "n".into(), variants: ids, max_batch: 8 }, version: "2".into(), variants }
}

fn of_second(id: u64) -> Request {
    Request { model: ModelId(1), ..request(id) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn it_makes_no_difference_when_a_model_came(gaps_ms in proptest::collection::vec((0..40_u64, any::<bool>()), 1..40)) {
        let mut whole = catalog();
        let extra = addition(&whole);
        whole.models.push(extra.model.clone());
        whole.variants.extend(extra.variants.clone());
        let mut worlds = [World::new(whole, budgets()), World::new(catalog(), budgets())];
        worlds[1].handle(Event::Extended(Box::new(extra)));
        for (id, (gap, second)) in (1..).zip(gaps_ms) {
            for world in &mut worlds {
                world.run_until(world.now.after(Nanos::from_millis(gap)));
                world.submit(if second { of_second(id) } else { request(id) });
            }
        }
        worlds.iter_mut().for_each(World::settle);
        let [from_start, later] = worlds;
        prop_assert_eq!(&from_start.dispatches, &later.dispatches);
        prop_assert_eq!(&from_start.outcomes, &later.outcomes);
        prop_assert_eq!(from_start.core.catalog(), later.core.catalog());
    }
}

#[test]
fn what_does_not_follow_on_changes_nothing() {
    let mut world = World::new(catalog(), budgets());
    let good = addition(world.core.catalog());
    let mut strange = good.clone();
    strange.model.variants.swap(0, 1);
    let mut of_first = good.clone();
    of_first.variants[1].model = ModelId(0);
    let mut unit_less = good.clone();
    unit_less.variants[2].profiles.pop();
    for bad in [strange, of_first, unit_less] {
        world.handle(Event::Extended(Box::new(bad)));
        assert_eq!(world.core.catalog(), &catalog());
    }
    world.handle(Event::Extended(Box::new(good.clone())));
    // Its ids are taken now.
    world.handle(Event::Extended(Box::new(good)));
    assert_eq!(world.core.catalog().models.len(), 2);
}

#[test]
fn a_version_is_in_memory_from_its_loading_until_it_is_taken_back_or_replaced() {
    let mut world = World::new(catalog(), budgets());
    world.handle(Event::Extended(Box::new(addition(&catalog()))));
    let step = |version, stage| {
        Event::Rollout(Step {
            version: ModelId(version),
            serving: Some(ModelId(1 - version)),
            stage,
            cause: None,
        })
    };
    let loaded = |world: &World| [0, 1].map(|model| world.core.model_ready(ModelId(model)));
    assert_eq!(loaded(&world), [true, false]);
    world.handle(step(1, Stage::Load));
    assert_eq!(loaded(&world), [true, true]);
    world.handle(step(1, Stage::RolledBack));
    assert_eq!(loaded(&world), [true, false]);
    world.handle(step(1, Stage::Load));
    world.handle(step(1, Stage::Full));
    assert_eq!(loaded(&world), [false, true]);
    world.submit(of_second(1));
    world.settle();
    assert_eq!(world.served(1).variant, VariantId(5), "the small one of the second");
}
