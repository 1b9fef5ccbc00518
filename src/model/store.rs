//! The model store: all model folders below the configured directories, verified.
//!
//! A bad variant does not stop its siblings, and a bad model none of the others. What could not be served
//! stays visible with the reason, so that a client who asks for it learns more than "not found".

use super::manifest::{self, Manifest, VariantSpec};
use super::signature;
use crate::config::document::{Problem, open_regular, read_text};
use crate::units::Bytes;
use minisign_verify::PublicKey;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Name of the manifest in a model folder.
pub const MANIFEST: &str = "model.toml";
/// Most models in a store.
const MAX_MODELS: usize = 256;
/// Most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 4_096;

/// What keeps a model or a variant from being served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelProblem {
    /// The model: its name, or its folder's where the manifest gives none.
    pub model: String,
    /// The variant, if only one is concerned; its place in the file if it has no name.
    pub variant: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for ModelProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

/// A model of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    /// Its name; the folder's, where the manifest is unusable.
    pub name: String,
    /// The folder, without symbolic links.
    pub folder: PathBuf,
    /// The manifest, with the variants that were verified; `None` if it is unusable.
    pub manifest: Option<Manifest>,
    /// Why nothing of it can be served, if so.
    pub unavailable: Option<String>,
}

impl LoadedModel {
    /// The variants that may be served, the reference first.
    #[must_use]
    pub fn variants(&self) -> &[VariantSpec] {
        self.manifest.as_ref().map_or(&[], |manifest| &manifest.variants)
    }

    /// Where a variant's file is.
    #[must_use]
    pub fn path_of(&self, variant: &VariantSpec) -> PathBuf {
        self.folder.join(&variant.file)
    }
}

/// What model folders are held to beyond what their manifests say. Without keys no signature is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Keys one of which must have signed the manifest.
    pub keys: Vec<PublicKey>,
    /// Longest manifest.
    pub max_manifest: Bytes,
    /// Largest file of a variant.
    pub max_file: Bytes,
}

impl Default for Rules {
    fn default() -> Self {
        Self { keys: Vec::new(), max_manifest: Bytes(256_000), max_file: Bytes(2_048_000_000) }
    }
}

/// Reads model folders.
#[derive(Debug, Clone, Default)]
pub struct ModelStore {
    rules: Rules,
}

impl ModelStore {
    /// A store that holds folders to these rules.
    #[must_use]
    pub const fn new(rules: Rules) -> Self {
        Self { rules }
    }

    /// Reads and verifies all model folders below `dirs`, in the order of the directories and then of
    /// names. Of two models with one name the first counts. Reads every variant file once, for its hash.
    #[must_use]
    pub fn open(&self, dirs: &[PathBuf]) -> (Vec<LoadedModel>, Vec<ModelProblem>) {
        let (mut models, mut problems) = (Vec::new(), Vec::new());
        for dir in dirs {
            match folders(dir) {
                Ok(folders) => {
                    folders
                        .iter()
                        .for_each(|folder| add(self.read(folder), folder, &mut models, &mut problems));
                }
                Err(problem) => {
                    problems.push(ModelProblem { model: String::new(), variant: None, problem });
                }
            }
        }
        (models, problems)
    }

    /// What folders are held to.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Reads and verifies one model folder.
    #[must_use]
    pub fn read(&self, folder: &Path) -> (LoadedModel, Vec<ModelProblem>) {
        read(folder, &self.rules)
    }
}

/// Folders below `dir` that have a manifest, by name.
fn folders(dir: &Path) -> Result<Vec<PathBuf>, Problem> {
    let fault = |e: std::io::Error| {
        Problem::of_file(dir, format!("cannot be read ({e}): must be a directory that holds model folders"))
    };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fault)?.take(MAX_ENTRIES) {
        let folder = entry.map_err(fault)?.path();
        if folder.join(MANIFEST).symlink_metadata().is_ok() {
            folders.push(folder);
        }
    }
    folders.sort();
    Ok(folders)
}

fn add(
    (model, found): (LoadedModel, Vec<ModelProblem>),
    folder: &Path,
    models: &mut Vec<LoadedModel>,
    problems: &mut Vec<ModelProblem>,
) {
    let earlier = models.iter().find(|other| other.name == model.name);
    problems.extend(found);
    let refusal = match earlier {
        Some(other) => {
            Some(format!("`{}` is in {} already: names must differ", model.name, other.folder.display()))
        }
        None if models.len() >= MAX_MODELS => {
            Some(format!("is one too many: a store has at most {MAX_MODELS} models"))
        }
        None => None,
    };
    match refusal {
        None => models.push(model),
        Some(message) => {
            let mut problem = Problem::of_file(&folder.join(MANIFEST), message);
            problem.key = "name".to_owned();
            problems.push(ModelProblem { model: model.name, variant: None, problem });
        }
    }
}

/// The text of a folder's manifest, which is inside the folder and signed if it must be.
fn manifest_text(folder: &Path, file: &Path, rules: &Rules) -> Result<(PathBuf, String), Problem> {
    let fault = |message: String| Problem::of_file(file, message);
    let real = folder.canonicalize().map_err(|e| Problem::of_file(folder, format!("cannot be read: {e}")))?;
    let target = file.canonicalize().map_err(|e| fault(format!("cannot be read: {e}")))?;
    if !target.starts_with(&real) {
        return Err(fault(format!("leads to {}: must stay in the model's folder", target.display())));
    }
    let text = read_text(file, rules.max_manifest.0)?;
    if !rules.keys.is_empty() {
        signature::check(folder, &text, &rules.keys)?;
    }
    Ok((real, text))
}

fn read(folder: &Path, rules: &Rules) -> (LoadedModel, Vec<ModelProblem>) {
    let file = folder.join(MANIFEST);
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (folder, parsed) = match manifest_text(folder, &file, rules) {
        Ok((folder, text)) => (folder, manifest::parse(&file, &text)),
        Err(problem) => {
            let unavailable = Some(problem.to_string());
            let model =
                LoadedModel { name: name.clone(), folder: folder.to_owned(), manifest: None, unavailable };
            return (model, vec![ModelProblem { model: name, variant: None, problem }]);
        }
    };
    let name = parsed.manifest.as_ref().map_or(name, |manifest| manifest.name.clone());
    let named = |problem: Problem| {
        let variant = variant_of(&problem.key, parsed.manifest.as_ref());
        ModelProblem { model: name.clone(), variant, problem }
    };
    let mut problems: Vec<ModelProblem> = parsed.problems.into_iter().map(named).collect();
    let mut manifest = parsed.manifest;
    if let Some(manifest) = &mut manifest {
        manifest.variants.retain(|variant| match verify(&file, &folder, variant, rules) {
            Ok(()) => true,
            Err(problem) => {
                let variant = Some(variant.name.clone());
                problems.push(ModelProblem { model: name.clone(), variant, problem });
                false
            }
        });
    }
    let nothing = manifest.as_ref().is_none_or(|manifest| manifest.variants.is_empty());
    let unavailable = nothing.then(|| {
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        format!("none of its variants can be served; first problem: {first}")
    });
    (LoadedModel { name, folder, manifest, unavailable }, problems)
}

/// Name of the variant that a key such as `variant[2].file` speaks of, else its index.
fn variant_of(key: &str, manifest: Option<&Manifest>) -> Option<String> {
    let index: usize = key.strip_prefix("variant[")?.split(']').next()?.parse().ok()?;
    let found = manifest.and_then(|m| m.variants.iter().find(|variant| variant.position == index));
    Some(found.map_or_else(|| index.to_string(), |variant| variant.name.clone()))
}

/// The file is inside the folder, not too large, of the size and with the hash that the manifest says.
fn verify(manifest: &Path, folder: &Path, variant: &VariantSpec, rules: &Rules) -> Result<(), Problem> {
    let fault = |key: &str, value: String, message: String| Problem {
        file: manifest.to_owned(),
        line: variant.lines.get(key).copied(),
        key: format!("variant[{}].{key}", variant.position),
        value: Some(value),
        message: format!("{} ({message})", variant.name),
    };
    let bad_file = |message: String| fault("file", format!("\"{}\"", variant.file.display()), message);
    if variant.bytes > rules.max_file {
        let message = format!("more than [models] max_file_mb allows: {} bytes", rules.max_file.0);
        return Err(fault("bytes", variant.bytes.0.to_string(), message));
    }
    let path = folder.join(&variant.file);
    let real =
        path.canonicalize().map_err(|e| bad_file(format!("{e}: must be a file beside the manifest")))?;
    if !real.starts_with(folder) {
        return Err(bad_file(format!("leads to {}: must stay in the model's folder", real.display())));
    }
    let file = open_regular(&real).map_err(|e| bad_file(format!("{}: {e}", real.display())))?;
    let size = file.metadata().map_err(|e| bad_file(e.to_string()))?.len();
    if size != variant.bytes.0 {
        let message =
            format!("{} has {size} bytes: truncated, or not the file that was measured", real.display());
        return Err(fault("bytes", variant.bytes.0.to_string(), message));
    }
    let found = sha256(file, size).map_err(|e| bad_file(format!("{}: {e}", real.display())))?;
    if found != variant.sha256 {
        let message = format!("{} has {found}: damaged, or not the file that was measured", real.display());
        return Err(fault("sha256", format!("\"{}\"", variant.sha256), message));
    }
    Ok(())
}

/// SHA-256 of the first `size` bytes, as lower-case hex; a file that grows meanwhile is not followed.
fn sha256(file: std::fs::File, size: u64) -> std::io::Result<String> {
    let mut reader = file.take(size);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const MANIFEST_TEXT: &str = include_str!("testdata/model.toml");

    /// A store with one sound model in `tiny/`.
    pub(crate) fn store() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tiny");
        std::fs::create_dir_all(folder.join("sample")).unwrap();
        std::fs::write(folder.join(MANIFEST), MANIFEST_TEXT).unwrap();
        std::fs::write(folder.join("big.onnx"), "bigger").unwrap();
        std::fs::write(folder.join("small.onnx"), "smallness").unwrap();
        dir
    }

    pub(crate) fn open(dir: &Path) -> (Vec<LoadedModel>, Vec<String>) {
        let (models, problems) = ModelStore::default().open(&[dir.to_owned()]);
        (models, problems.iter().map(ToString::to_string).collect())
    }

    fn names(model: &LoadedModel) -> Vec<&str> {
        model.variants().iter().map(|variant| variant.name.as_str()).collect()
    }

    #[test]
    fn a_sound_folder_loads_whole() {
        let dir = store();
        let (models, problems) = open(dir.path());
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(models.len(), 1);
        assert_eq!(names(&models[0]), ["big", "small"]);
        assert_eq!(models[0].unavailable, None);
    }

    #[test]
    fn a_wrong_hash_names_file_key_value_and_what_was_found() {
        let dir = store();
        std::fs::write(dir.path().join("tiny/small.onnx"), "SMALLNESS").unwrap();
        let (models, problems) = open(dir.path());
        assert_eq!(names(&models[0]), ["big"]);
        assert_eq!(problems.len(), 1);
        let message = &problems[0];
        for part in ["tiny/model.toml:42: variant[1].sha256 = \"", "small", "small.onnx has ", "not the file"]
        {
            assert!(message.contains(part), "no `{part}` in {message}");
        }
    }

    #[test]
    fn a_truncated_or_missing_file_costs_its_variant() {
        let dir = store();
        std::fs::write(dir.path().join("tiny/small.onnx"), "small").unwrap();
        let (models, problems) = open(dir.path());
        assert_eq!(names(&models[0]), ["big"]);
        assert!(
            problems[0].contains("variant[1].bytes = 9: small (") && problems[0].contains("has 5 bytes"),
            "{problems:?}"
        );
        std::fs::remove_file(dir.path().join("tiny/big.onnx")).unwrap();
        let (models, problems) = open(dir.path());
        assert!(problems[0].contains("variant[0].file = \"big.onnx\": big (No such file"), "{problems:?}");
        assert_eq!(models[0].variants(), []);
        assert!(models[0].unavailable.as_ref().unwrap().contains("No such file"));
    }

    #[test]
    fn a_link_out_of_the_folder_is_refused_and_one_within_is_followed() {
        let dir = store();
        let outside = dir.path().join("secret.onnx");
        std::fs::write(&outside, "smallness").unwrap();
        let small = dir.path().join("tiny/small.onnx");
        std::fs::rename(&small, dir.path().join("tiny/real.onnx")).unwrap();
        std::os::unix::fs::symlink("real.onnx", &small).unwrap();
        assert_eq!(open(dir.path()).1, Vec::<String>::new());
        std::fs::remove_file(&small).unwrap();
        std::os::unix::fs::symlink(&outside, &small).unwrap();
        let (models, problems) = open(dir.path());
        assert_eq!(names(&models[0]), ["big"]);
        assert!(problems[0].contains("must stay in the model's folder"), "{problems:?}");
    }

    #[test]
    fn a_pipe_in_place_of_a_file_does_not_hang() {
        let dir = store();
        let small = dir.path().join("tiny/small.onnx");
        std::fs::remove_file(&small).unwrap();
        nix::unistd::mkfifo(&small, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(dir.path()).1[0].contains("not a regular file"));
    }

    #[test]
    fn a_broken_manifest_leaves_the_other_models_and_stays_visible() {
        let dir = store();
        let broken = dir.path().join("broken");
        std::fs::create_dir(&broken).unwrap();
        std::fs::write(broken.join(MANIFEST), "name = ").unwrap();
        std::fs::create_dir(dir.path().join("no-model")).unwrap();
        let (models, problems) = open(dir.path());
        assert_eq!(models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["broken", "tiny"]);
        assert!(models[0].unavailable.as_ref().unwrap().contains("not TOML"));
        assert_eq!(names(&models[1]), ["big", "small"]);
        assert!(problems.len() == 1 && problems[0].contains("broken/model.toml:1:"), "{problems:?}");
    }

    #[test]
    fn of_two_models_with_one_name_the_first_counts() {
        let dir = store();
        let again = dir.path().join("zzz");
        std::fs::create_dir(&again).unwrap();
        for file in [MANIFEST, "big.onnx", "small.onnx"] {
            std::fs::copy(dir.path().join("tiny").join(file), again.join(file)).unwrap();
        }
        let (models, problems) = open(dir.path());
        assert_eq!(models.len(), 1);
        assert!(models[0].folder.ends_with("tiny"));
        assert!(problems[0].contains("zzz/model.toml: name: `tiny` is in "), "{problems:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_problem_not_an_end() {
        let dir = store();
        let (models, problems) =
            ModelStore::default().open(&[dir.path().join("nowhere"), dir.path().to_owned()]);
        assert_eq!(models.len(), 1);
        assert!(problems[0].to_string().contains("nowhere: cannot be read"), "{problems:?}");
    }
}
