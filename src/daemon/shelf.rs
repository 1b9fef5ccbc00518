//! The models: from their folders to the tables of the core, the lanes, the profiler and the API, with what was measured
//! of them before. At the start for all of them, later for each that comes.

use super::profiling::ModelSamples;
use super::setup::{OpenBoard, StartError};
use crate::board::BoardSpec;
use crate::config::Config;
use crate::core::catalog::{Board, Catalog, Provenance, UnitId, VariantId};
use crate::exec::ort::OrtRuntime;
use crate::exec::profile::{ProfileKey, ProfileStore};
use crate::model::catalog::{Known, Tables, assemble};
use crate::model::sample::Sample;
use crate::model::store::LoadedModel;

/// Models as all parts of the daemon need them.
#[derive(Debug)]
pub(super) struct LaidOut {
    pub(super) tables: Tables,
    /// Keys of profiles by variant and unit.
    pub(super) keys: Vec<Vec<ProfileKey>>,
    /// One-item samples by model, for the profiler.
    pub(super) samples: Vec<Option<ModelSamples>>,
    /// Refusals of earlier runs.
    pub(super) refused: Vec<(VariantId, UnitId, String)>,
}

/// What it takes to lay out models.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    board: Board,
    spec: BoardSpec,
    identity: String,
    runtime: String,
    work_scale: f64,
    check_items: u32,
    pub(super) profiles: ProfileStore,
}

impl Shelf {
    pub(super) fn open(config: &Config, board: &OpenBoard, runtime: &OrtRuntime) -> Result<Self, StartError> {
        Ok(Self {
            board: board.board.clone(),
            spec: board.spec.clone(),
            identity: board.identity(),
            runtime: runtime.version().to_owned(),
            work_scale: board.work_scale,
            check_items: config.profile.check_items,
            profiles: ProfileStore::open(&config.state_dir.join("profiles"))?,
        })
    }

    fn key(&self, sha256: &str, unit: usize) -> ProfileKey {
        let spec = &self.spec.units[unit];
        ProfileKey {
            model_sha256: sha256.to_owned(),
            unit: spec.name.clone(),
            board: self.identity.clone(),
            runtime: self.runtime.clone(),
            provider: spec.provider.clone(),
            threads: spec.threads,
        }
    }

    /// Lays out models whose ids begin with these.
    pub(super) fn lay_out(&self, models: &[LoadedModel], first: (usize, usize)) -> LaidOut {
        let unit_index = |name: &str| self.board.units.iter().position(|unit| unit.name == name);
        let mut tables = assemble(models, &self.board, first, &|_, spec, unit| {
            let known =
                unit_index(&unit.name).and_then(|unit| self.profiles.get(&self.key(&spec.sha256, unit)));
            match known {
                None => Known::Nothing,
                Some(Ok(profile)) => Known::Profile(profile),
                Some(Err(_)) => Known::Unfit,
            }
        });
        scale_guesses(&mut tables.catalog, self.work_scale);
        let units = 0..self.board.units.len();
        let keys: Vec<Vec<ProfileKey>> = tables
            .files
            .iter()
            .map(|file| units.clone().map(|unit| self.key(&file.sha256, unit)).collect())
            .collect();
        let mut refused = Vec::new();
        for (index, row) in keys.iter().enumerate() {
            for (unit, key) in row.iter().enumerate() {
                let allowed = tables.catalog.variants[index].profiles[unit].is_none();
                if let (true, Some(Err(reason))) = (allowed, self.profiles.get(key)) {
                    refused.push((VariantId::at(first.1 + index), UnitId::at(unit), reason));
                }
            }
        }
        let samples = models.iter().map(|model| samples(model, self.check_items)).collect();
        LaidOut { tables, keys, samples, refused }
    }
}

/// What was never measured is guessed from the manifest's work, of which a simulated board may make more.
fn scale_guesses(catalog: &mut Catalog, work_scale: f64) {
    let profiles = catalog.variants.iter_mut().flat_map(|variant| variant.profiles.iter_mut().flatten());
    for profile in profiles.filter(|profile| profile.latency_source == Provenance::Conservative) {
        profile.latency.compute_s_ghz *= work_scale;
        profile.latency.memory_s *= work_scale;
    }
}

/// One-item samples, for the profiler.
fn samples(model: &LoadedModel, check_items: u32) -> Option<ModelSamples> {
    match Sample::read(model) {
        Ok(sample) => sample.map(|sample| {
            let count = sample.len().min(check_items as usize);
            ModelSamples { samples: (0..count).map(|item| sample.items(item..item + 1)).collect() }
        }),
        Err(problem) => {
            tracing::warn!(%problem, "the sample cannot be read: the model is not profiled");
            None
        }
    }
}
