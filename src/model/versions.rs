//! Versions of models that came while serving, on disk.
//!
//! ```text
//! <state>/versions/<model>/
//!     state.json    which version serves, which one is kept, which one is on trial, and the steps that led there
//!     <version>/    a model folder, never changed once it is there
//!     .incoming/    one that is being copied
//! ```
//!
//! A folder is copied, synced and verified where it lies, then renamed; after that `state.json` is replaced as a whole.
//! Whenever the power goes, what it says is there, and what it does not name is removed at the next start.

use super::manifest::Manifest;
use super::signature::SIGNATURE;
use super::store::{LoadedModel, MANIFEST, ModelStore};
use crate::config::document::open_regular;
use crate::config::is_name;
use crate::core::rollout::Stage;
use crate::state_file;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Version of the layout of `state.json`.
const FORMAT: u32 = 1;
/// No `state.json` is longer, bytes.
const MAX_STATE: u64 = 1 << 20;
const STATE: &str = "state.json";
const INCOMING: &str = ".incoming";
/// Steps that are kept.
const MAX_STEPS: usize = 64;
/// Most models and versions that are looked at.
const MAX_ENTRIES: usize = 4_096;

/// Where a version is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Home {
    /// In a folder of `[models] dir`, as it was installed.
    #[default]
    Folder,
    /// Among the versions that came later.
    Version(String),
}

/// A version on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Where it is.
    pub home: Home,
    /// Its version.
    pub version: String,
    /// It is not compared with the version that serves.
    pub direct: bool,
    /// Its stage. Written before the stage begins.
    pub stage: Stage,
    /// How often the daemon ended unexpectedly meanwhile.
    pub deaths: u32,
    /// The daemon was told to end.
    pub paused: bool,
}

/// A step of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// When, seconds since the Unix epoch.
    pub unix_s: u64,
    /// Its version.
    pub version: String,
    /// Where it came to.
    pub stage: Stage,
    /// Why, where it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is remembered of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The version that serves; `None`: none yet.
    pub active: Option<Home>,
    /// The one that served before.
    pub previous: Option<Home>,
    /// The one on trial.
    pub trial: Option<Trial>,
    /// The last steps, the newest last.
    pub steps: Vec<Line>,
}

impl Record {
    /// Of a model that serves from `active`, if at all.
    #[must_use]
    pub const fn new(active: Option<Home>) -> Self {
        Self { format: FORMAT, active, previous: None, trial: None, steps: Vec::new() }
    }

    /// Notes a step.
    pub fn note(&mut self, version: &str, stage: Stage, reason: Option<String>) {
        let line = Line { unix_s: crate::time::unix_seconds(), version: version.to_owned(), stage, reason };
        self.steps.push(line);
        let excess = self.steps.len().saturating_sub(MAX_STEPS);
        self.steps.drain(..excess);
    }

    fn names(&self, version: &str) -> bool {
        let trial = self.trial.as_ref().map(|trial| &trial.home);
        let all = [self.active.as_ref(), self.previous.as_ref(), trial];
        all.into_iter().flatten().any(|home| *home == Home::Version(version.to_owned()))
    }
}

/// Why a version is not taken in, or a state not written.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is no good; all that is wrong with it.
    #[error("{0}")]
    Unsound(String),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> VersionError {
    let path = path.to_owned();
    move |source| VersionError::Io { path, source }
}

/// The folder of versions.
#[derive(Debug, Clone)]
pub struct Versions {
    dir: PathBuf,
    store: ModelStore,
}

impl Versions {
    /// Opens the folder, which need not be there, and removes what no state names: copies that were cut short, and
    /// versions that are not needed any more. Returns what could not be read or removed.
    #[must_use]
    pub fn open(dir: &Path, store: ModelStore) -> (Self, Vec<String>) {
        let versions = Self { dir: dir.to_owned(), store };
        let mut problems = Vec::new();
        for name in versions.models() {
            match versions.record(&name) {
                Ok(record) => versions.sweep(&name, &record, &mut problems),
                // What it meant to keep is not known: nothing is removed.
                Err(problem) => problems.push(problem),
            }
        }
        (versions, problems)
    }

    fn sweep(&self, name: &str, record: &Record, problems: &mut Vec<String>) {
        for entry in entries(&self.dir.join(name)) {
            let known = entry == STATE || record.names(&entry);
            if !known {
                let path = self.dir.join(name).join(&entry);
                let is_folder = path.symlink_metadata().is_ok_and(|data| data.is_dir());
                let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                if let Err(error) = removed {
                    problems.push(format!("{}: left over, and cannot be removed: {error}", path.display()));
                }
            }
        }
    }

    /// Names of the models that have versions here.
    #[must_use]
    pub fn models(&self) -> Vec<String> {
        entries(&self.dir).into_iter().filter(|name| is_name(name)).collect()
    }

    /// Where a model of `[models] dir` or a version is.
    #[must_use]
    pub fn folder(&self, name: &str, version: &str) -> PathBuf {
        self.dir.join(name).join(version)
    }

    /// What is remembered of a model; a new record where there is none.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn record(&self, name: &str) -> Result<Record, String> {
        let path = self.dir.join(name).join(STATE);
        let fault = |problem: String| {
            format!("{}: {problem}: put it right, or remove it to begin anew", path.display())
        };
        let record = state_file::read::<Record>(&path, MAX_STATE).map_err(fault)?;
        let record = record.unwrap_or_else(|| Record::new(None));
        if record.format != FORMAT {
            return Err(fault(format!("`format` is {}; this program reads {FORMAT}", record.format)));
        }
        let homes =
            [record.active.as_ref(), record.previous.as_ref(), record.trial.as_ref().map(|t| &t.home)];
        for home in homes.into_iter().flatten() {
            if let Home::Version(version) = home
                && !is_name(version)
            {
                return Err(fault(format!("{version:?} is no name of a version")));
            }
        }
        Ok(record)
    }

    /// Replaces what is remembered of a model.
    ///
    /// # Errors
    /// If it cannot be written; what was remembered before stays.
    pub fn put(&self, name: &str, record: &Record) -> Result<(), VersionError> {
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        let path = folder.join(STATE);
        state_file::write(&path, record).map_err(io_error(&path))
    }

    /// Reads and verifies a version.
    ///
    /// # Errors
    /// All that is wrong with it: of a version, every variant must be sound.
    pub fn read(&self, name: &str, version: &str) -> Result<LoadedModel, VersionError> {
        sound(&self.store, &self.folder(name, version))
    }

    /// Copies a model folder here, verified and synced. Only files that its manifest names are copied.
    ///
    /// # Errors
    /// If the folder is no good, cannot be read, or there is no room; nothing is left behind then.
    pub fn take_in(&self, source: &Path, name: &str, version: &str) -> Result<LoadedModel, VersionError> {
        let parent = self.dir.join(name);
        let draft = parent.join(INCOMING);
        let taken = self.copy(source, &parent, &draft, (name, version));
        if taken.is_err() {
            let _ = fs::remove_dir_all(&draft);
        }
        taken
    }

    fn copy(
        &self,
        source: &Path,
        parent: &Path,
        draft: &Path,
        (name, version): (&str, &str),
    ) -> Result<LoadedModel, VersionError> {
        if draft.exists() {
            fs::remove_dir_all(draft).map_err(io_error(draft))?;
        }
        fs::create_dir_all(draft).map_err(io_error(draft))?;
        // The manifest first: what it names is what is copied, whatever becomes of the source meanwhile.
        let limit = self.store.rules().max_manifest;
        copy_file(source, draft, Path::new(MANIFEST), limit)?;
        let text = fs::read_to_string(draft.join(MANIFEST)).map_err(io_error(&draft.join(MANIFEST)))?;
        let parsed = super::manifest::parse(&source.join(MANIFEST), &text);
        let unsound = || {
            let problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
            VersionError::Unsound(problems.join("; "))
        };
        let manifest = parsed.manifest.as_ref().filter(|_| parsed.problems.is_empty()).ok_or_else(unsound)?;
        if source.join(SIGNATURE).exists() {
            copy_file(source, draft, Path::new(SIGNATURE), limit)?;
        }
        for file in files(manifest) {
            copy_file(source, draft, file, self.store.rules().max_file)?;
        }
        let found = sound(&self.store, draft)?;
        let same =
            found.manifest.as_ref().is_some_and(|found| found.name == name && found.version == version);
        if !same {
            return Err(VersionError::Unsound(format!("{}: changed while it was read", source.display())));
        }
        let folder = parent.join(version);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(io_error(&folder))?;
        }
        sync_folders(draft).map_err(io_error(draft))?;
        fs::rename(draft, &folder).map_err(io_error(&folder))?;
        sync(parent).and_then(|()| sync(&self.dir)).map_err(io_error(parent))?;
        sound(&self.store, &folder)
    }

    /// Removes a version that is not needed any more. What cannot be removed now is at the next start.
    pub fn remove(&self, name: &str, home: &Home) {
        if let Home::Version(version) = home
            && let Err(error) = fs::remove_dir_all(self.folder(name, version))
        {
            tracing::warn!(model = name, version, %error, "version is not removed");
        }
    }

    /// The store whose rules hold here.
    #[must_use]
    pub const fn store(&self) -> &ModelStore {
        &self.store
    }
}

/// A folder without a fault.
fn sound(store: &ModelStore, folder: &Path) -> Result<LoadedModel, VersionError> {
    let (model, problems) = store.read(folder);
    if problems.is_empty() && model.unavailable.is_none() {
        return Ok(model);
    }
    let problems: Vec<String> = problems.iter().map(ToString::to_string).chain(model.unavailable).collect();
    Err(VersionError::Unsound(problems.join("; ")))
}

/// Names in a folder, sorted; none if it cannot be read.
fn entries(folder: &Path) -> Vec<String> {
    let found = fs::read_dir(folder).into_iter().flatten().take(MAX_ENTRIES).flatten();
    let mut names: Vec<String> = found.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The files that a manifest names, each once.
fn files(manifest: &Manifest) -> BTreeSet<&Path> {
    let sample = manifest.sample.iter().flat_map(|sample| sample.inputs.iter().chain([&sample.labels]));
    let variants = manifest.variants.iter().map(|variant| &variant.file);
    variants.chain(sample).map(PathBuf::as_path).collect()
}

/// Copies a file to the same place in another folder, on the disk when this returns.
fn copy_file(from: &Path, to: &Path, file: &Path, limit: Bytes) -> Result<(), VersionError> {
    let (source, target) = (from.join(file), to.join(file));
    let root = from.canonicalize().map_err(io_error(from))?;
    let real = source.canonicalize().map_err(io_error(&source))?;
    if !real.starts_with(&root) {
        let message =
            format!("{} leads to {}: must stay in the model's folder", source.display(), real.display());
        return Err(VersionError::Unsound(message));
    }
    let reader = open_regular(&real).map_err(io_error(&source))?;
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(io_error(folder))?;
    }
    let mut written = File::create(&target).map_err(io_error(&target))?;
    let copied =
        io::copy(&mut reader.take(limit.0.saturating_add(1)), &mut written).map_err(io_error(&target))?;
    if copied > limit.0 {
        let message = format!("{}: has more than {} bytes, which [models] allows", source.display(), limit.0);
        return Err(VersionError::Unsound(message));
    }
    written.sync_all().map_err(io_error(&target))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Brings the names in a folder, and in those below it, to the disk.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::store::tests::store as folder_of_models;

    fn open(dir: &Path) -> (Versions, Vec<String>) {
        Versions::open(&dir.join("versions"), ModelStore::default())
    }

    /// A sound folder with this version.
    fn source(dir: &Path, version: &str) -> PathBuf {
        let folder = dir.join("tiny");
        let text = fs::read_to_string(folder.join(MANIFEST)).unwrap();
        let line = text.lines().find(|line| line.starts_with("version = ")).unwrap().to_owned();
        // The sample of this manifest is not there.
        let sampled = text.find("[sample]").unwrap();
        let after = sampled + text[sampled..].find("[[variant]]").unwrap();
        let text = format!("{}{}", &text[..sampled], &text[after..]);
        fs::write(folder.join(MANIFEST), text.replace(&line, &format!("version = \"{version}\""))).unwrap();
        folder
    }

    #[test]
    fn a_version_is_copied_whole_and_only_what_its_manifest_names() {
        let dir = folder_of_models();
        let source = source(dir.path(), "2");
        fs::write(source.join("secret"), "not named").unwrap();
        let (versions, problems) = open(dir.path());
        assert_eq!(problems, Vec::<String>::new());
        let taken = versions.take_in(&source, "tiny", "2").unwrap();
        assert_eq!(taken.folder, versions.folder("tiny", "2").canonicalize().unwrap());
        assert_eq!(entries(&taken.folder), ["big.onnx", MANIFEST, "small.onnx"]);
        assert_eq!(entries(&dir.path().join("versions/tiny")), ["2"]);
        assert_eq!(versions.read("tiny", "2").unwrap(), taken);
    }

    #[test]
    fn a_folder_with_any_fault_is_refused_and_leaves_nothing() {
        let dir = folder_of_models();
        let source = source(dir.path(), "2");
        let (versions, _) = open(dir.path());
        fs::write(source.join("small.onnx"), "SMALLNESS").unwrap();
        let error = versions.take_in(&source, "tiny", "2").unwrap_err().to_string();
        assert!(error.contains("variant[1].sha256"), "{error}");
        fs::remove_file(source.join("small.onnx")).unwrap();
        let error = versions.take_in(&source, "tiny", "2").unwrap_err().to_string();
        assert!(error.contains("small.onnx") && error.contains("No such file"), "{error}");
        std::os::unix::fs::symlink("/etc/passwd", source.join("small.onnx")).unwrap();
        let error = versions.take_in(&source, "tiny", "2").unwrap_err().to_string();
        assert!(error.contains("must stay in the model's folder"), "{error}");
        assert_eq!(entries(&dir.path().join("versions/tiny")), Vec::<String>::new());
    }

    #[test]
    fn what_no_state_names_is_removed_at_the_start_and_what_one_names_stays() {
        let dir = folder_of_models();
        let (versions, _) = open(dir.path());
        for version in ["1", "2", "3", "4"] {
            versions.take_in(&source(dir.path(), version), "tiny", version).unwrap();
        }
        let folder = dir.path().join("versions/tiny");
        fs::create_dir(folder.join(INCOMING)).unwrap();
        fs::write(folder.join("state.tmp123"), "{").unwrap();
        let at = |version: &str| Home::Version(version.to_owned());
        let mut record = Record::new(Some(at("2")));
        record.previous = Some(at("1"));
        record.trial = Some(Trial {
            home: at("4"),
            version: "4".to_owned(),
            direct: false,
            stage: Stage::Shadow,
            deaths: 0,
            paused: false,
        });
        record.note("4", Stage::Shadow, None);
        versions.put("tiny", &record).unwrap();
        let (versions, problems) = open(dir.path());
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(entries(&folder), ["1", "2", "4", STATE]);
        assert_eq!(versions.record("tiny"), Ok(record));
    }

    #[test]
    fn a_broken_state_is_told_of_and_nothing_is_removed() {
        let dir = folder_of_models();
        let (versions, _) = open(dir.path());
        versions.take_in(&source(dir.path(), "2"), "tiny", "2").unwrap();
        let state = dir.path().join("versions/tiny").join(STATE);
        for bad in [
            "{",
            "{\"format\":9,\"active\":null,\"previous\":null,\"trial\":null,\"steps\":[]}",
            "{\"format\":1,\"active\":{\"version\":\"../..\"},\"previous\":null,\"trial\":null,\"steps\":[]}",
        ] {
            fs::write(&state, bad).unwrap();
            let (versions, problems) = open(dir.path());
            assert!(problems.len() == 1 && problems[0].contains("state.json: "), "{problems:?}");
            assert!(versions.read("tiny", "2").is_ok());
        }
    }

    #[test]
    fn steps_are_bounded() {
        let mut record = Record::new(None);
        (0..200).for_each(|step| record.note(&step.to_string(), Stage::Load, None));
        assert_eq!((record.steps.len(), record.steps[0].version.as_str()), (MAX_STEPS, "136"));
    }
}
