//! From the store to the tables that the core, the lanes and the API share, with one index each.

use super::manifest::VariantSpec;
use super::store::LoadedModel;
use crate::api::backend::ModelView;
use crate::core::catalog::{
    Board, Catalog, Model, ModelId, Profile, Provenance, Roofline, Unit, UnitKind, Variant, VariantId,
};
use crate::exec::VariantFile;
use crate::units::Bytes;
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

/// Lays out the tables for a board. `known` is asked for every variant and every unit that it may run on.
#[must_use]
pub fn assemble(
    models: &[LoadedModel],
    board: &Board,
    known: &dyn Fn(&LoadedModel, &VariantSpec, &Unit) -> Known,
) -> Tables {
    let catalog = Catalog { board: board.clone(), models: Vec::new(), variants: Vec::new() };
    let mut tables = Tables { catalog, files: Vec::new(), views: Vec::new() };
    for (index, model) in models.iter().enumerate() {
        let id = ModelId::at(index);
        let mut variants = Vec::new();
        for spec in model.variants() {
            let variant = VariantId::at(tables.files.len());
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
        Known::Nothing => Some(conservative_profile(spec, unit.kind)),
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

/// A wide guess from the manifest's costs, for a unit that the variant was never measured on: speeds that
/// the slowest processor of the kind on a supported board surpasses, so that a deadline that is promised on it
/// is kept. The profiler replaces it.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "the manifest bounds both below 2^50")]
pub fn conservative_profile(spec: &VariantSpec, kind: UnitKind) -> Profile {
    // Multiply-accumulates per cycle that reach the output, bytes per second, seconds per run. A Cortex-A53
    // does 4 fp32 MACs per cycle at peak and half of it in convolutions; a 128-core Maxwell GPU 128 at peak.
    let (macs_per_cycle, bytes_per_s, overhead_s) = match kind {
        UnitKind::Cpu => (2.0, 1.0e9, 200e-6),
        UnitKind::Gpu => (32.0, 5.0e9, 2e-3),
        UnitKind::Npu => (64.0, 2.0e9, 2e-3),
    };
    Profile {
        latency: Roofline {
            compute_s_ghz: spec.macs as f64 / (macs_per_cycle * 1e9),
            memory_s: spec.traffic_bytes as f64 / bytes_per_s,
            p: 1.5,
            overhead_s,
            marginal: 1.0,
        },
        spread: 0.3,
        latency_source: Provenance::Conservative,
        power_scale: 1.0,
        power_source: Provenance::Modelled,
        // Weights may be stored at half the width they are computed in, and packed once more by the provider:
        // sessions of ONNX Runtime took 2.1 to 2.7 times their file. Besides, activations and arenas.
        footprint: Bytes(spec.bytes.0.saturating_mul(4).saturating_add(8 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalog::{PowerModel, ThermalModel};
    use crate::model::store::tests::{open, store};
    use crate::units::{Kilohertz, Microwatts};

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
        let tables =
            assemble(&models, &board(&[UnitKind::Cpu, UnitKind::Gpu, UnitKind::Npu]), &|_, spec, unit| {
                if spec.name == "small" && unit.kind == UnitKind::Npu { Known::Unfit } else { Known::Nothing }
            });
        let runs =
            |v: usize| tables.catalog.variants[v].profiles.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(runs(0), [true, true, false], "big: cpu, gpu");
        assert_eq!(runs(1), [true, false, false], "small: cpu; found unfit on the npu");
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
        let tables = assemble(&models, &board(&[]), &|_, _, _| Known::Nothing);
        assert!(tables.views[0].unavailable.as_ref().unwrap().contains("a-broken/model.toml:1"));
        assert!(tables.catalog.models[0].variants.is_empty());
        assert!(tables.views[1].unavailable.as_ref().unwrap().contains("unit of board `bench`"));
        assert_eq!(tables.catalog.variants[0].model, ModelId(1));
    }

    /// 1000 MACs at 2 a cycle are 500 cycles, at 1 GHz 0.5 us; 100 bytes at 1 GB/s 0.1 us; at p = 1.5
    /// together less than their sum: between 200.5 and 200.6 us.
    #[test]
    fn the_guess_is_from_the_manifest_s_costs() {
        let dir = store();
        let (models, _) = open(dir.path());
        let profile = conservative_profile(&models[0].variants()[0], UnitKind::Cpu);
        let latency = profile.latency.latency(Kilohertz(1_000_000), 1);
        assert!((200_500..200_600).contains(&latency.0), "{latency}");
        assert_eq!(profile.latency_source, Provenance::Conservative);
    }
}
