//! Measured profiles on disk: one JSON file per model file, unit, board, runtime and number of threads.

use super::Checked;
use crate::core::catalog::{Profile, Provenance};
use crate::state_file;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Version of the layout; another one is measured anew.
const FORMAT: u32 = 2;
/// No profile is larger.
const MAX_FILE: u64 = 64 << 10;

/// What a profile holds for. A change of any of these calls for a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileKey {
    /// SHA-256 of the variant's file.
    pub model_sha256: String,
    /// Name of the unit.
    pub unit: String,
    /// Name of the board.
    pub board: String,
    /// Version of ONNX Runtime.
    pub runtime: String,
    /// Execution provider.
    pub provider: String,
    /// Intra-op threads.
    pub threads: u16,
}

impl ProfileKey {
    /// A name that a person can read, made unique by a hash of all parts.
    fn file_name(&self) -> String {
        let readable = |text: &str| -> String {
            let keep = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
            text.chars().take(24).map(keep).collect()
        };
        let mut hash = Sha256::new();
        let threads = self.threads.to_string();
        for part in [&self.model_sha256, &self.unit, &self.board, &self.runtime, &self.provider, &threads] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let hash = hex::encode(&hash.finalize()[..8]);
        let (model, unit) = (readable(self.model_sha256.get(..12).unwrap_or("")), readable(&self.unit));
        format!("{model}-{unit}-{}-{hash}.json", readable(&self.board))
    }
}

/// What was measured of a variant that runs and whose outputs are like the reference's. Whether it is accurate enough is
/// judged anew each time, by the manifest as it is then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// What it takes.
    pub profile: Profile,
    /// Its answers to the labelled sample.
    pub checked: Checked,
    /// Names the sample: [`crate::model::Sample::digest`].
    pub sample: String,
}

/// What was found, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    key: ProfileKey,
    /// What was measured, or why the variant must not run there.
    result: Result<Measured, String>,
}

/// Why a profile could not be stored.
#[derive(Debug, thiserror::Error)]
#[error("profile {path}: {source}")]
pub struct StoreError {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// The folder of profiles.
#[derive(Debug, Clone)]
pub struct ProfileStore {
    folder: PathBuf,
}

impl ProfileStore {
    /// Opens the folder and makes it if need be.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The stored profile, or why the variant must not run there (`Some(Err)`); `None` if it must be
    /// measured: never done, or the file is unreadable or makes no sense (logged).
    #[must_use]
    pub fn get(&self, key: &ProfileKey) -> Option<Result<Measured, String>> {
        let path = self.folder.join(key.file_name());
        match read(&path, key) {
            Ok(found) => found,
            Err(problem) => {
                tracing::warn!(path = %path.display(), %problem, "stored profile is no good; measuring anew");
                None
            }
        }
    }

    /// Stores a profile, or why there is none. Whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, key: &ProfileKey, result: &Result<Measured, String>) -> Result<(), StoreError> {
        let path = self.folder.join(key.file_name());
        let failed = |source| StoreError { path: path.clone(), source };
        let record = Record { format: FORMAT, key: key.clone(), result: result.clone() };
        state_file::write(&path, &record).map_err(failed)
    }

    /// Forgets a profile, so that it is measured anew.
    ///
    /// # Errors
    /// If it is there but cannot be removed.
    pub fn remove(&self, key: &ProfileKey) -> Result<(), StoreError> {
        let path = self.folder.join(key.file_name());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError { path, source }),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path, key: &ProfileKey) -> Result<Option<Result<Measured, String>>, String> {
    let Some(record) = state_file::read::<Record>(path, MAX_FILE)? else { return Ok(None) };
    if record.format != FORMAT {
        return Err(format!("format {}, expected {FORMAT}", record.format));
    }
    if record.key != *key {
        return Err("it was measured for something else".to_owned());
    }
    if let Ok(measured) = &record.result {
        check(measured)?;
    }
    Ok(Some(record.result))
}

/// Refuses numbers that no measurement gives. Written so that NaN fails.
fn check(measured: &Measured) -> Result<(), String> {
    let Profile { latency, spread, latency_source, power_scale, .. } = &measured.profile;
    let Checked { right, items } = measured.checked;
    if items == 0 || right > items {
        return Err(format!(
            "`checked` has {right} right of {items}; there must be 1 or more, not all need be right"
        ));
    }
    let within = |name: &str, value: f64, low: f64, high: f64| {
        if value >= low && value <= high {
            Ok(())
        } else {
            Err(format!("`{name}` is {value}; it must lie between {low} and {high}"))
        }
    };
    within("latency.compute_s_ghz", latency.compute_s_ghz, 0.0, 1e5)?;
    within("latency.memory_s", latency.memory_s, 0.0, 1e5)?;
    within("latency.p", latency.p, 1.0, 10.0)?;
    within("latency.overhead_s", latency.overhead_s, 0.0, 1e5)?;
    within("latency.marginal", latency.marginal, 0.0, 10.0)?;
    within("spread", *spread, 0.0, 1e3)?;
    within("power_scale", *power_scale, 0.0, 1e3)?;
    if *latency_source != Provenance::Measured {
        return Err("`latency_source` is not `measured`".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalog::Roofline;
    use crate::units::Bytes;

    fn key() -> ProfileKey {
        ProfileKey {
            model_sha256: "ab".repeat(32),
            unit: "cpu/2 t".to_owned(),
            board: "jetson-tx2".to_owned(),
            runtime: "1.28.0".to_owned(),
            provider: "CPUExecutionProvider".to_owned(),
            threads: 2,
        }
    }

    fn measured() -> Measured {
        let profile = Profile {
            latency: Roofline {
                compute_s_ghz: 1e-3,
                memory_s: 2e-4,
                p: 2.5,
                overhead_s: 1e-5,
                marginal: 0.9,
                memory_elasticity: 1.0,
            },
            spread: 0.02,
            latency_source: Provenance::Measured,
            power_scale: 1.1,
            power_source: Provenance::Modelled,
            footprint: Bytes(12_345),
        };
        Measured { profile, checked: Checked { right: 240, items: 256 }, sample: "12ab".to_owned() }
    }

    #[test]
    fn what_goes_in_comes_out_for_the_same_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = ProfileStore::open(&folder.path().join("profiles")).unwrap();
        assert_eq!(store.get(&key()), None);
        store.put(&key(), &Ok(measured())).unwrap();
        assert_eq!(store.get(&key()), Some(Ok(measured())));
        for other in [
            ProfileKey { threads: 1, ..key() },
            ProfileKey { runtime: "1.29.0".to_owned(), ..key() },
            ProfileKey { board: "desktop".to_owned(), ..key() },
            ProfileKey { unit: "cpu_2_t".to_owned(), ..key() },
            ProfileKey { model_sha256: "cd".repeat(32), ..key() },
        ] {
            assert_eq!(store.get(&other), None);
        }
        store.put(&key(), &Err("NaN".to_owned())).unwrap();
        assert_eq!(store.get(&key()), Some(Err("NaN".to_owned())));
        store.remove(&key()).unwrap();
        store.remove(&key()).unwrap();
        assert_eq!(store.get(&key()), None);
    }

    #[test]
    fn what_makes_no_sense_is_measured_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = ProfileStore::open(folder.path()).unwrap();
        let path = folder.path().join(key().file_name());
        store.put(&key(), &Ok(measured())).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("\"p\": 2.5", "\"p\": null"),
            ("\"p\": 2.5", "\"p\": 1e9"),
            ("\"spread\": 0.02", "\"spread\": -1"),
            ("\"format\": 2", "\"format\": 1"),
            ("\"threads\": 2", "\"threads\": 3"),
            ("\"latency_source\": \"measured\"", "\"latency_source\": \"modelled\""),
            ("\"marginal\"", "\"marginals\""),
            ("\"right\": 240", "\"right\": 257"),
            ("\"items\": 256", "\"items\": 0"),
        ] {
            assert!(good.contains(from), "{good}");
            fs::write(&path, good.replacen(from, to, 1)).unwrap();
            assert_eq!(store.get(&key()), None, "{to}");
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert_eq!(store.get(&key()), None);
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(store.get(&key()), None);
        fs::write(&path, good).unwrap();
        assert_eq!(store.get(&key()), Some(Ok(measured())));
    }

    #[test]
    fn a_failed_write_leaves_the_old_profile() {
        let folder = tempfile::tempdir().unwrap();
        let store = ProfileStore::open(folder.path()).unwrap();
        store.put(&key(), &Ok(measured())).unwrap();
        let draft =
            folder.path().join(key().file_name()).with_extension(format!("tmp{}", std::process::id()));
        fs::create_dir(&draft).unwrap();
        assert!(store.put(&key(), &Err("x".to_owned())).is_err());
        assert_eq!(store.get(&key()), Some(Ok(measured())));
    }
}
