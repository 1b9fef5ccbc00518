//! What the estimators learned, on disk: one JSON file in the state directory.
//!
//! Entries name units and the hashes of model files, so that what was learned of one board or model is never
//! taken for another's. Written whole or not at all; a file that is broken, foreign or of another format is
//! passed over with a line in the log, and learning starts anew.

use crate::core::catalog::{UnitId, VariantId};
use crate::core::estimate::{Learned, LearnedPair, LearnedUnit, Meter};
use crate::state_file;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Version of the layout.
const FORMAT: u32 = 1;
/// No such file is larger.
const MAX_FILE: u64 = 8 << 20;

/// The file as written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    board: String,
    units: Vec<NamedUnit>,
    pairs: Vec<NamedPair>,
    idle: [f64; 2],
    heat: [f64; 2],
    heat_error: Meter,
    board_power_error: Meter,
    run_power_error: Meter,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedUnit {
    name: String,
    learned: LearnedUnit,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedPair {
    model_sha256: String,
    unit: String,
    ln_bias: f64,
    observations: u32,
    power_scale: f64,
}

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub(super) struct LearnedError {
    path: PathBuf,
    source: io::Error,
}

/// Where it is kept, and the names behind the ids.
#[derive(Debug, Clone)]
pub(super) struct LearnedStore {
    path: PathBuf,
    board: String,
    units: Vec<String>,
}

impl LearnedStore {
    /// The store in a state directory. `board` must differ between a simulated board and a real one of the same
    /// name.
    pub(super) fn new(state_dir: &Path, board: String, units: Vec<String>) -> Self {
        Self { path: state_dir.join("learned.json"), board, units }
    }

    /// What an earlier run learned of these units and models, if anything. `models`: hashes of the files by variant.
    pub(super) fn load(&self, models: &[String]) -> Option<Learned> {
        match self.read(models) {
            Ok(found) => found,
            Err(problem) => {
                let path = self.path.display();
                tracing::warn!(%path, %problem, "what was learned before cannot be used; learning anew");
                None
            }
        }
    }

    fn read(&self, models: &[String]) -> Result<Option<Learned>, String> {
        let Some(record) = state_file::read::<Record>(&self.path, MAX_FILE)? else { return Ok(None) };
        if record.format != FORMAT {
            return Err(format!("`format` is {}; this program reads {FORMAT}", record.format));
        }
        if record.board != self.board {
            return Err(format!("`board` is {:?}; this is {:?}", record.board, self.board));
        }
        Ok(Some(self.by_ids(record, models)))
    }

    /// Entries of units that are gone and of files that changed are left out.
    fn by_ids(&self, mut record: Record, models: &[String]) -> Learned {
        let mut unit_of = |name: &String| {
            let found = record.units.iter_mut().find(|unit| unit.name == *name);
            found.map(|unit| std::mem::take(&mut unit.learned)).unwrap_or_default()
        };
        let units = self.units.iter().map(&mut unit_of).collect();
        let mut pairs = Vec::new();
        for pair in &record.pairs {
            let Some(unit) = self.units.iter().position(|name| *name == pair.unit) else { continue };
            // Two variants may be the same file.
            for (variant, _) in models.iter().enumerate().filter(|(_, sha)| **sha == pair.model_sha256) {
                pairs.push(LearnedPair {
                    variant: VariantId::at(variant),
                    unit: UnitId::at(unit),
                    ln_bias: pair.ln_bias,
                    observations: pair.observations,
                    power_scale: pair.power_scale,
                });
            }
        }
        Learned {
            units,
            pairs,
            idle: record.idle,
            heat: record.heat,
            heat_error: record.heat_error,
            board_power_error: record.board_power_error,
            run_power_error: record.run_power_error,
        }
    }

    /// Stores it, whole or not at all. `models`: hashes of the files by variant.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn save(&self, learned: Learned, models: &[String]) -> Result<(), LearnedError> {
        let failed = |source| LearnedError { path: self.path.clone(), source };
        let named = self.units.iter().cloned().zip(learned.units);
        let pair = |pair: LearnedPair| {
            Some(NamedPair {
                model_sha256: models.get(pair.variant.index())?.clone(),
                unit: self.units.get(pair.unit.index())?.clone(),
                ln_bias: pair.ln_bias,
                observations: pair.observations,
                power_scale: pair.power_scale,
            })
        };
        let record = Record {
            format: FORMAT,
            board: self.board.clone(),
            units: named.map(|(name, learned)| NamedUnit { name, learned }).collect(),
            pairs: learned.pairs.into_iter().filter_map(pair).collect(),
            idle: learned.idle,
            heat: learned.heat,
            heat_error: learned.heat_error,
            board_power_error: learned.board_power_error,
            run_power_error: learned.run_power_error,
        };
        state_file::write(&self.path, &record).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn store(folder: &Path) -> LearnedStore {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        LearnedStore::new(folder, "tx2-simulated".to_owned(), names(&["cpu", "gpu"]))
    }

    fn models() -> Vec<String> {
        ["aa", "bb", "aa"].map(str::to_owned).to_vec()
    }

    fn learned() -> Learned {
        let unit = |ln: f64| LearnedUnit {
            ln_slowdown: [ln, 0.25],
            residuals: vec![1.0, 1.25, 0.998_877_665],
            power: [0.5, 1.5, 2.5, 0.0],
            power_factors: vec![0.0, -0.125],
            latency_error: Meter { error: 0.015, observations: 40 },
        };
        let pair = |variant: u16, unit: u8| LearnedPair {
            variant: VariantId(variant),
            unit: UnitId(unit),
            ln_bias: 0.125,
            observations: 7,
            power_scale: 1.25,
        };
        Learned {
            units: vec![unit(0.5), unit(-0.5)],
            pairs: vec![pair(1, 0), pair(1, 1)],
            idle: [5.25, 0.125],
            heat: [31.0, -0.25],
            ..Learned::default()
        }
    }

    #[test]
    fn what_was_learned_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        assert_eq!(store.load(&models()), None);
        store.save(learned(), &models()).unwrap();
        assert_eq!(store.load(&models()), Some(learned()));
    }

    #[test]
    fn entries_follow_their_names_and_files() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path()).save(learned(), &models()).unwrap();
        // The units changed places, a new one came, and file `bb` is now the first and the third variant.
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (units, models) = (names(&["gpu", "npu", "cpu"]), names(&["bb", "cc", "bb"]));
        let other = LearnedStore::new(folder.path(), "tx2-simulated".to_owned(), units);
        let found = other.load(&models).unwrap();
        assert_eq!(found.units[0], learned().units[1]);
        assert_eq!(found.units[1], LearnedUnit::default());
        assert_eq!(found.units[2], learned().units[0]);
        let mut places: Vec<(u16, u8)> =
            found.pairs.iter().map(|pair| (pair.variant.0, pair.unit.0)).collect();
        places.sort_unstable();
        assert_eq!(places, [(0, 0), (0, 2), (2, 0), (2, 2)]);
    }

    #[test]
    fn what_is_broken_or_foreign_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.save(learned(), &models()).unwrap();
        let path = folder.path().join("learned.json");
        let good = fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("\"format\": 1", "\"format\": 2"),
            ("tx2-simulated", "tx2"),
            ("\"idle\"", "\"idol\""),
            ("5.25", "null"),
        ] {
            assert!(good.contains(from), "{good}");
            fs::write(&path, good.replacen(from, to, 1)).unwrap();
            assert_eq!(store.load(&models()), None, "{to}");
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert_eq!(store.load(&models()), None);
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(store.load(&models()), None);
        fs::write(&path, good).unwrap();
        assert_eq!(store.load(&models()), Some(learned()));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.save(learned(), &models()).unwrap();
        let draft = folder.path().join("learned.json").with_extension(format!("tmp{}", std::process::id()));
        fs::create_dir(&draft).unwrap();
        assert!(store.save(Learned::default(), &models()).is_err());
        assert_eq!(store.load(&models()), Some(learned()));
    }
}
