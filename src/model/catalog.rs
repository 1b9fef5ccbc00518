//! From the store to the tables that the core, the lanes and the API share, with one index each.

use super::manifest::VariantSpec;
use super::store::LoadedModel;
use crate::api::backend::ModelView;
use crate::core::catalog::{Board, Catalog, Model, ModelId, Profile, Unit, Variant, VariantId};
use crate::core::fit;
use crate::exec::VariantFile;
use std::sync::Arc;

/// What is known of a variant on a unit from earlier runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Known {
    /// Nothing yet: a conservative estimate stands in.
    Nothing,
    /// It was found unfit there, by its outputs or by the provider.
    Unfit,
    /// It was measured.
    Profile(Profile),
}

/// The tables. Indices agree: `catalog.models[i]` is `views[i]`, `catalog.variants[j]` is `files[j]`.
#[derive(Debug, Clone)]
pub struct Tables {
    /// For the core.
    pub catalog: Catalog,
    /// For the lanes.
    pub files: Vec<VariantFile>,
    /// For the API.
    pub views: Vec<ModelView>,
}

/// Lays out the tables for a board. `known` is asked for every variant and every unit that it may run on. `first`: the
/// ids that the first model and the first variant get; where they are not 0, the tables go on with others.
#[must_use]
pub fn assemble(
    models: &[LoadedModel],
    board: &Board,
    first: (usize, usize),
    known: &dyn Fn(&LoadedModel, &VariantSpec, &Unit) -> Known,
) -> Tables {
    let catalog = Catalog { board: board.clone(), models: Vec::new(), variants: Vec::new() };
    let mut tables = Tables { catalog, files: Vec::new(), views: Vec::new() };
    for (index, model) in models.iter().enumerate() {
        let id = ModelId::at(first.0 + index);
        let mut variants = Vec::new();
        for spec in model.variants() {
            let variant = VariantId::at(first.1 + tables.files.len());
            variants.push(variant);
            let profiles = board.units.iter().map(|unit| profile(model, spec, unit, known)).collect();
            let (name, accuracy) = (spec.name.clone(), spec.accuracy);
            tables.catalog.variants.push(Variant { name, model: id, accuracy, profiles });
            tables.files.push(file(variant, model, spec));
        }
        let max_batch = model.manifest.as_ref().map_or(1, |manifest| manifest.max_batch);
        tables.catalog.models.push(Model { name: model.name.clone(), variants, max_batch });
        tables.views.push(view(model, board));
    }
    tables
}

fn profile(
    model: &LoadedModel,
    spec: &VariantSpec,
    unit: &Unit,
    known: &dyn Fn(&LoadedModel, &VariantSpec, &Unit) -> Known,
) -> Option<Profile> {
    if !spec.units.contains(&unit.kind) {
        return None;
    }
    match known(model, spec, unit) {
        Known::Nothing => Some(fit::conservative(unit, spec.macs, spec.traffic_bytes, spec.bytes)),
        Known::Unfit => None,
        Known::Profile(profile) => Some(profile),
    }
}

fn file(id: VariantId, model: &LoadedModel, spec: &VariantSpec) -> VariantFile {
    let tensors = |inputs: bool| match &model.manifest {
        Some(manifest) if inputs => Arc::clone(&manifest.inputs),
        Some(manifest) => Arc::clone(&manifest.outputs),
        None => Arc::from([]),
    };
    VariantFile {
        id,
        name: format!("{}/{}", model.name, spec.name),
        path: model.path_of(spec),
        sha256: spec.sha256.clone(),
        inputs: tensors(true),
        outputs: tensors(false),
        macs: spec.macs,
        traffic_bytes: spec.traffic_bytes,
        precision: spec.precision.clone(),
    }
}

fn view(model: &LoadedModel, board: &Board) -> ModelView {
    let manifest = model.manifest.as_ref();
    let runs = |spec: &VariantSpec| board.units.iter().any(|unit| spec.units.contains(&unit.kind));
    let no_unit = || format!("none of its variants may run on a unit of board `{}`", board.name);
    let stranded = (!model.variants().iter().any(runs)).then(no_unit);
    ModelView {
        name: model.name.clone(),
        version: manifest.map_or_else(|| "0".to_owned(), |manifest| manifest.version.clone()),
        inputs: manifest.map_or_else(|| Arc::from([]), |manifest| Arc::clone(&manifest.inputs)),
        outputs: manifest.map_or_else(|| Arc::from([]), |manifest| Arc::clone(&manifest.outputs)),
        max_batch: manifest.map_or(1, |manifest| manifest.max_batch),
        variants: model.variants().iter().map(|variant| variant.name.clone()).collect(),
        unavailable: model.unavailable.clone().or(stranded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalog::{PowerModel, Provenance, ThermalModel, UnitKind};
    use crate::model::store::tests::{open, store};
    use crate::units::Microwatts;

    fn board(kinds: &[UnitKind]) -> Board {
        let unit = |(i, kind): (usize, &UnitKind)| Unit {
            name: format!("u{i}"),
            kind: *kind,
            group: 0,
            domain: None,
            memory_domain: None,
            preemptible: true,
            busy_power: PowerModel::default(),
            rail: None,
        };
        Board {
            name: "bench".into(),
            units: kinds.iter().enumerate().map(unit).collect(),
            domains: vec![],
            zones: vec![],
            rails: vec![],
            idle_power: Microwatts::ZERO,
            thermal: ThermalModel { fast_k_per_w: 1.0, fast_tau_s: 1.0, slow_k_per_w: 1.0, slow_tau_s: 1.0 },
        }
    }

    #[test]
    fn tables_agree_and_kinds_decide_where_a_variant_may_run() {
        let dir = store();
        let (models, _) = open(dir.path());
        let tables = assemble(
            &models,
            &board(&[UnitKind::Cpu, UnitKind::Gpu, UnitKind::Npu]),
            (0, 0),
            &|_, spec, unit| {
                if spec.name == "small" && unit.kind == UnitKind::Npu { Known::Unfit } else { Known::Nothing }
            },
        );
        let runs =
            |v: usize| tables.catalog.variants[v].profiles.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(runs(0), [true, true, false], "big: cpu, gpu");
        assert_eq!(runs(1), [true, false, false], "small: cpu; found unfit on the npu");
        let guess = tables.catalog.variants[0].profiles[0].map(|profile| profile.latency_source);
        assert_eq!(guess, Some(Provenance::Conservative), "nothing is known yet");
        assert_eq!(tables.catalog.models[0].variants, [VariantId(0), VariantId(1)]);
        for (i, file) in tables.files.iter().enumerate() {
            assert_eq!(file.id, VariantId::at(i));
            assert_eq!(file.name, format!("tiny/{}", tables.catalog.variants[i].name));
            assert!(file.path.is_file());
        }
        assert_eq!(tables.views[0].variants, ["big", "small"]);
        assert_eq!(tables.views[0].unavailable, None);
    }

    #[test]
    fn a_model_that_cannot_run_keeps_its_index_and_says_why() {
        let dir = store();
        let broken = dir.path().join("a-broken");
        std::fs::create_dir(&broken).unwrap();
        std::fs::write(broken.join("model.toml"), "x").unwrap();
        let (models, _) = open(dir.path());
        let tables = assemble(&models, &board(&[]), (0, 0), &|_, _, _| Known::Nothing);
        assert!(tables.views[0].unavailable.as_ref().unwrap().contains("a-broken/model.toml:1"));
        assert!(tables.catalog.models[0].variants.is_empty());
        assert!(tables.views[1].unavailable.as_ref().unwrap().contains("unit of board `bench`"));
        assert_eq!(tables.catalog.variants[0].model, ModelId(1));
    }
}
