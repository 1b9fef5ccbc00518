//! `model.toml`: what a model folder holds. `config/models/fashion/model.toml` explains every key.
//!
//! A mistake in a variant costs that variant only; one anywhere else costs the model.

use super::score::Score;
use crate::config::document::{Document, Problem};
use crate::config::{NAME_RULE, is_name};
use crate::core::catalog::UnitKind;
use crate::exec::{DataType, TensorSpec};
use crate::units::{Bytes, Ppm};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Most variants of a model.
pub const MAX_VARIANTS: usize = 64;
/// Most inputs, and most outputs.
const MAX_TENSORS: usize = 32;
/// Most dimensions of a tensor, the batch included.
const MAX_RANK: usize = 8;
/// Most bytes of one item of a tensor whose dimensions are all known.
const MAX_ITEM_BYTES: usize = 1 << 30;
/// Largest batch that may be promised.
const MAX_BATCH: u32 = 4_096;
/// Largest variant file: what a serialised protobuf message can hold.
const MAX_VARIANT_BYTES: u64 = 1 << 31;
/// Most multiply-accumulates or bytes of traffic per item: beyond all sense, yet far from overflow.
const MAX_COST: u64 = 1 << 50;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    name: String,
    version: String,
    #[serde(default)]
    task: String,
    #[serde(default)]
    description: String,
    license: String,
    max_batch: u32,
    input: Vec<RawTensor>,
    output: Vec<RawTensor>,
    accuracy: RawAccuracy,
    sample: Option<RawSample>,
    variant: Vec<RawVariant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    name: String,
    dtype: DataType,
    shape: Vec<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccuracy {
    metric: String,
    data: String,
    items: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSample {
    inputs: BTreeMap<String, PathBuf>,
    labels: PathBuf,
    score: Score,
    output: String,
}

/// All optional, so that a bad entry leaves the shape of the others intact; [`Check::variant`] asks for them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawVariant {
    name: Option<String>,
    file: Option<PathBuf>,
    sha256: Option<String>,
    bytes: Option<u64>,
    precision: Option<String>,
    accuracy: Option<f64>,
    sample_accuracy: Option<f64>,
    macs: Option<u64>,
    traffic_bytes: Option<u64>,
    units: Option<Vec<UnitKind>>,
    parent: Option<String>,
}

/// A validated manifest. Paths are as written: relative, without `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name that requests use.
    pub name: String,
    /// Version string.
    pub version: String,
    /// What it is for, for people.
    pub task: String,
    /// One line, for people.
    pub description: String,
    /// Licence of weights and sample.
    pub license: String,
    /// Most items in one run.
    pub max_batch: u32,
    /// Inputs that all variants share.
    pub inputs: Arc<[TensorSpec]>,
    /// Outputs that all variants share.
    pub outputs: Arc<[TensorSpec]>,
    /// What the accuracies count.
    pub accuracy_metric: String,
    /// The data they were counted on.
    pub accuracy_data: String,
    /// How many items that are, where it is known.
    pub accuracy_items: Option<u32>,
    /// Labelled inputs, where the folder has some.
    pub sample: Option<SampleSpec>,
    /// Variants without a mistake, as in the file: the reference first.
    pub variants: Vec<VariantSpec>,
}

/// Labelled inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleSpec {
    /// One `.npy` file per input, in the order of the inputs.
    pub inputs: Vec<PathBuf>,
    /// The `.npy` file of labels.
    pub labels: PathBuf,
    /// How an output is compared with a label.
    pub score: Score,
    /// Index of the output that is compared.
    pub output: usize,
}

/// One variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantSpec {
    /// Name, unique within the model.
    pub name: String,
    /// Its place among the variants of the file, from 0.
    pub position: usize,
    /// The ONNX file.
    pub file: PathBuf,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Size of the file.
    pub bytes: Bytes,
    /// `fp32`, `fp16` or `int8`.
    pub precision: String,
    /// Accuracy.
    pub accuracy: Ppm,
    /// Accuracy on the sample, as counted where the variant was made.
    pub sample_accuracy: Option<Ppm>,
    /// Multiply-accumulates per item.
    pub macs: u64,
    /// Bytes read and written per item.
    pub traffic_bytes: u64,
    /// Kinds of unit it may run on.
    pub units: Vec<UnitKind>,
    /// The variant it was derived from.
    pub parent: Option<String>,
    /// Lines of the keys that are compared with the file: `file`, `bytes`, `sha256`.
    pub lines: BTreeMap<&'static str, usize>,
}

/// A manifest as far as it is sound, and what is wrong with it.
#[derive(Debug)]
pub struct Parsed {
    /// The manifest; `None` if something outside its variants is wrong.
    pub manifest: Option<Manifest>,
    /// All that is wrong.
    pub problems: Vec<Problem>,
}

/// Reads the text of a `model.toml`.
#[must_use]
pub fn parse(file: &Path, text: &str) -> Parsed {
    let mut document = Document::parse(file, text);
    let raw = document.read::<RawManifest>();
    let manifest = raw.map(|raw| Check { document: &mut document }.manifest(raw));
    let problems = document.problems().to_vec();
    // A problem with one variant leaves the model, and its other variants, standing.
    let sound = problems.iter().all(|problem| problem.key.starts_with("variant["));
    Parsed { manifest: manifest.filter(|_| sound), problems }
}

struct Check<'d, 't> {
    document: &'d mut Document<'t>,
}

impl Check<'_, '_> {
    fn manifest(&mut self, raw: RawManifest) -> Manifest {
        self.name("name", &raw.name);
        self.name("version", &raw.version);
        if !(1..=MAX_BATCH).contains(&raw.max_batch) {
            self.document.complain("max_batch", format!("must be from 1 to {MAX_BATCH} items"));
        }
        for (key, text) in [("license", &raw.license), ("accuracy.metric", &raw.accuracy.metric)] {
            if text.trim().is_empty() {
                self.document.complain(key, "must not be empty");
            }
        }
        if raw.accuracy.items == Some(0) {
            self.document.complain("accuracy.items", "must be 1 or more, or left out where it is not known");
        }
        let inputs = self.tensors("input", &raw.input);
        let outputs = self.tensors("output", &raw.output);
        let sample = raw.sample.and_then(|sample| self.sample(sample, &inputs, &outputs));
        let variants = self.variants(raw.variant);
        Manifest {
            name: raw.name,
            version: raw.version,
            task: raw.task,
            description: raw.description,
            license: raw.license,
            max_batch: raw.max_batch,
            inputs: inputs.into(),
            outputs: outputs.into(),
            accuracy_metric: raw.accuracy.metric,
            accuracy_data: raw.accuracy.data,
            accuracy_items: raw.accuracy.items,
            sample,
            variants,
        }
    }

    fn tensors(&mut self, table: &str, raw: &[RawTensor]) -> Vec<TensorSpec> {
        if !(1..=MAX_TENSORS).contains(&raw.len()) {
            self.document
                .complain(table, format!("there must be from 1 to {MAX_TENSORS}, not {}", raw.len()));
        }
        let mut names = HashSet::new();
        let tensors = raw.iter().take(MAX_TENSORS).enumerate();
        tensors
            .map(|(i, tensor)| {
                let key = format!("{table}[{i}].name");
                // ONNX allows more than `is_name` does: slashes and colons are common.
                if tensor.name.is_empty() || tensor.name.len() > 256 || tensor.name.contains(char::is_control)
                {
                    self.document.complain(&key, "must be 1 to 256 printable characters");
                }
                if !names.insert(&tensor.name) {
                    self.document.complain(&key, "is there twice: names must differ");
                }
                let item_shape = self.item_shape(&format!("{table}[{i}].shape"), tensor);
                TensorSpec { name: tensor.name.clone(), dtype: tensor.dtype, item_shape }
            })
            .collect()
    }

    fn item_shape(&mut self, key: &str, tensor: &RawTensor) -> Vec<Option<usize>> {
        let Some((-1, rest)) = tensor.shape.split_first().map(|(first, rest)| (*first, rest)) else {
            self.document.complain(key, "must begin with -1, the batch dimension");
            return Vec::new();
        };
        let dimension = |d: &i64| match *d {
            -1 => Some(None),
            d => usize::try_from(d).ok().filter(|d| *d > 0).map(Some),
        };
        let shape: Option<Vec<Option<usize>>> = rest.iter().map(dimension).collect();
        let Some(shape) = shape else {
            self.document.complain(key, "dimensions must be 1 or more, or -1 for free");
            return Vec::new();
        };
        if tensor.shape.len() > MAX_RANK {
            self.document.complain(key, format!("has more than {MAX_RANK} dimensions"));
        }
        let mut known = shape.iter().flatten();
        let bytes = known.try_fold(tensor.dtype.size(), |bytes, d| bytes.checked_mul(*d));
        if bytes.is_none_or(|bytes| bytes > MAX_ITEM_BYTES) {
            self.document.complain(key, format!("one item must not exceed {MAX_ITEM_BYTES} bytes"));
        }
        shape
    }

    fn sample(
        &mut self,
        raw: RawSample,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Option<SampleSpec> {
        let names =
            |specs: &[TensorSpec]| specs.iter().map(|s| s.name.clone()).collect::<Vec<_>>().join(", ");
        for name in raw.inputs.keys().filter(|name| !inputs.iter().any(|spec| spec.name == **name)) {
            let rule = format!("no such input; there are: {}", names(inputs));
            self.document.complain(&format!("sample.inputs.{name}"), rule);
        }
        let files = inputs.iter().map(|spec| {
            let path = raw.inputs.get(&spec.name).cloned();
            if path.is_none() {
                self.document.complain("sample.inputs", format!("has no file for input `{}`", spec.name));
            }
            path
        });
        let files: Option<Vec<PathBuf>> = files.collect();
        for (name, path) in &raw.inputs {
            self.inside(&format!("sample.inputs.{name}"), path);
        }
        self.inside("sample.labels", &raw.labels);
        let output = outputs.iter().position(|spec| spec.name == raw.output);
        let Some(output) = output else {
            self.document.complain("sample.output", format!("no such output; there are: {}", names(outputs)));
            return None;
        };
        if let Err(rule) = raw.score.suits(&outputs[output]) {
            self.document.complain("sample.score", rule);
        }
        Some(SampleSpec { inputs: files?, labels: raw.labels, score: raw.score, output })
    }

    fn variants(&mut self, raw: Vec<RawVariant>) -> Vec<VariantSpec> {
        if !(1..=MAX_VARIANTS).contains(&raw.len()) {
            self.document
                .complain("variant", format!("there must be from 1 to {MAX_VARIANTS}, not {}", raw.len()));
        }
        let parents: Vec<(Option<String>, Option<String>)> =
            raw.iter().map(|variant| (variant.name.clone(), variant.parent.clone())).collect();
        let mut variants = Vec::new();
        for (position, variant) in raw.into_iter().take(MAX_VARIANTS).enumerate() {
            let prefix = format!("variant[{position}].");
            let checked = self.variant(&prefix, position, variant);
            self.lineage(&prefix, position, &parents);
            let sound = self.document.problems().iter().all(|problem| !problem.key.starts_with(&prefix));
            variants.extend(checked.filter(|_| sound));
        }
        variants
    }

    fn variant(&mut self, prefix: &str, position: usize, raw: RawVariant) -> Option<VariantSpec> {
        let key = |name: &str| format!("{prefix}{name}");
        let name = self.needed(&key("name"), raw.name);
        let file = self.needed(&key("file"), raw.file);
        let sha256 = self.needed(&key("sha256"), raw.sha256);
        let bytes = self.needed(&key("bytes"), raw.bytes);
        let precision = self.needed(&key("precision"), raw.precision);
        let accuracy = self.needed(&key("accuracy"), raw.accuracy);
        let macs = self.needed(&key("macs"), raw.macs);
        let traffic_bytes = self.needed(&key("traffic_bytes"), raw.traffic_bytes);
        let units = self.needed(&key("units"), raw.units);
        let spec = VariantSpec {
            name: name?,
            position,
            file: file?,
            sha256: sha256?,
            bytes: Bytes(bytes?),
            precision: precision?,
            accuracy: self.accuracy(&key("accuracy"), accuracy?),
            sample_accuracy: raw.sample_accuracy.map(|value| self.accuracy(&key("sample_accuracy"), value)),
            macs: macs?,
            traffic_bytes: traffic_bytes?,
            units: units?,
            parent: raw.parent,
            lines: self.lines(prefix),
        };
        self.name(&key("name"), &spec.name);
        self.inside(&key("file"), &spec.file);
        let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        if spec.sha256.len() != 64 || !spec.sha256.chars().all(is_hex) {
            self.document
                .complain(&key("sha256"), "must be 64 lower-case hexadecimal digits: `sha256sum FILE`");
        }
        if !(1..=MAX_VARIANT_BYTES).contains(&spec.bytes.0) {
            self.document.complain(&key("bytes"), format!("must be from 1 to {MAX_VARIANT_BYTES}"));
        }
        if !["fp32", "fp16", "int8"].contains(&spec.precision.as_str()) {
            self.document.complain(&key("precision"), "must be fp32, fp16 or int8");
        }
        for (name, cost) in [("macs", spec.macs), ("traffic_bytes", spec.traffic_bytes)] {
            if !(1..=MAX_COST).contains(&cost) {
                self.document.complain(&key(name), format!("must be from 1 to {MAX_COST}"));
            }
        }
        let distinct: HashSet<&UnitKind> = spec.units.iter().collect();
        if distinct.is_empty() || distinct.len() != spec.units.len() {
            self.document.complain(&key("units"), "must name one or more of cpu, gpu, npu, each once");
        }
        Some(spec)
    }

    fn lines(&self, prefix: &str) -> BTreeMap<&'static str, usize> {
        let line = |key| Some((key, self.document.line_of(&format!("{prefix}{key}"))?));
        ["file", "bytes", "sha256"].into_iter().filter_map(line).collect()
    }

    fn accuracy(&mut self, key: &str, value: f64) -> Ppm {
        // NaN is in no range.
        if !(0.0..=1.0).contains(&value) {
            self.document.complain(key, "must be a fraction from 0 to 1");
        }
        Ppm::from_fraction(value)
    }

    /// The name differs from earlier ones; the parent exists, and following parents leads to a root.
    fn lineage(&mut self, prefix: &str, position: usize, all: &[(Option<String>, Option<String>)]) {
        let (name, parent) = &all[position];
        if name.is_some() && all[..position].iter().any(|(earlier, _)| earlier == name) {
            self.document
                .complain(&format!("{prefix}name"), "is the name of an earlier variant: names must differ");
        }
        let of = |name: &str| all.iter().find(|(other, _)| other.as_deref() == Some(name));
        let key = format!("{prefix}parent");
        let mut ancestor = parent.as_deref();
        for _ in 0..=all.len() {
            let Some(name) = ancestor else { return };
            let Some((_, next)) = of(name) else {
                if parent.as_deref() == Some(name) {
                    self.document.complain(&key, "is the name of no variant of this model");
                }
                return;
            };
            ancestor = next.as_deref();
        }
        self.document.complain(&key, "goes round in a circle: one variant must have no parent");
    }

    fn needed<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        // What was of the wrong type was taken out after it had been noted.
        let noted = |problem: &Problem| problem.key == key || problem.key.starts_with(&format!("{key}["));
        if value.is_none() && !self.document.problems().iter().any(noted) {
            self.document.complain(key, "is missing");
        }
        value
    }

    fn name(&mut self, key: &str, name: &str) {
        if !is_name(name) {
            self.document.complain(key, NAME_RULE);
        }
    }

    /// A path must stay in the folder. (Symbolic links are looked at when the file is opened.)
    fn inside(&mut self, key: &str, path: &Path) {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() {
            self.document.complain(key, "must be a relative path inside the model's folder, without `..`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const GOOD: &str = include_str!("testdata/model.toml");

    fn parse_text(text: &str) -> Parsed {
        parse(Path::new("m/model.toml"), text)
    }

    fn complaints(text: &str) -> Vec<String> {
        parse_text(text).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sound_manifest_is_read_whole() {
        let parsed = parse_text(GOOD);
        assert_eq!(parsed.problems, []);
        let manifest = parsed.manifest.unwrap();
        assert_eq!(manifest.inputs[0].item_shape, [Some(2), None]);
        assert_eq!(manifest.inputs[0].dtype, DataType::Uint8);
        assert_eq!(manifest.variants.len(), 2);
        assert_eq!(manifest.variants[1].parent.as_deref(), Some("big"));
        assert_eq!(manifest.variants[1].accuracy, Ppm(900_000));
        assert_eq!(
            manifest.variants.iter().map(|variant| variant.sample_accuracy).collect::<Vec<_>>(),
            [None, Some(Ppm(875_000))]
        );
        assert_eq!(manifest.sample.unwrap().output, 0);
    }

    #[test]
    fn a_bad_variant_costs_only_itself() {
        for (from, to, rule) in [
            (
                "accuracy = 0.9 ",
                "accuracy = nan ",
                "variant[1].accuracy = nan: must be a fraction from 0 to 1",
            ),
            ("accuracy = 0.9 ", "accuracy = \"0.9\" ", "variant[1].accuracy = \"0.9\": invalid type"),
            (
                "sample_accuracy = 0.875",
                "sample_accuracy = 87.5",
                "variant[1].sample_accuracy = 87.5: must be a fraction from 0 to 1",
            ),
            ("accuracy = 0.9 ", "acuracy = 0.9 ", "variant[1].acuracy = 0.9: unknown field"),
            (
                "file = \"small.onnx\"",
                "file = \"../small.onnx\"",
                "variant[1].file = \"../small.onnx\": must be a relative",
            ),
            ("file = \"small.onnx\"", "file = \"/small.onnx\"", "must be a relative path"),
            ("file = \"small.onnx\"", "", "variant[1].file: is missing"),
            ("name = \"small\"", "name = \"big\"", "is the name of an earlier variant"),
            ("name = \"small\"", "name = \"sm/all\"", "must be 1 to 64 letters"),
            ("parent = \"big\"", "parent = \"bog\"", "is the name of no variant"),
            ("parent = \"big\"", "parent = \"small\"", "goes round in a circle"),
            (
                "units = [\"cpu\", \"npu\"]",
                "units = [\"cpu\", \"tpu\"]",
                "unknown variant `tpu`, expected one of `cpu`",
            ),
            ("units = [\"cpu\", \"npu\"]", "units = []", "must name one or more of cpu, gpu, npu"),
            ("bytes = 9 ", "bytes = 0 ", "variant[1].bytes = 0: must be from 1 to"),
            ("precision = \"int8\"", "precision = \"int7\"", "must be fp32, fp16 or int8"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let parsed = parse_text(&GOOD.replacen(from, to, 1));
            let found: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.contains(rule)), "no `{rule}` in {found:#?}");
            let names: Vec<String> = parsed.manifest.unwrap().variants.into_iter().map(|v| v.name).collect();
            assert_eq!(names, ["big"], "{to}");
        }
    }

    #[test]
    fn a_mistake_elsewhere_costs_the_model() {
        for (from, to, rule) in [
            ("max_batch = 4", "max_batch = 0", "max_batch = 0: must be from 1 to 4096"),
            ("max_batch = 4", "", "missing field `max_batch`"),
            ("data = \"none\"", "data = \"none\"\nitems = 0", "accuracy.items = 0: must be 1 or more"),
            ("name = \"tiny\"", "name = \"ti ny\"", "name = \"ti ny\": must be 1 to 64 letters"),
            ("shape = [-1, 2, -1]", "shape = [2, 2]", "must begin with -1"),
            ("shape = [-1, 2, -1]", "shape = [-1, 0]", "must be 1 or more"),
            ("shape = [-1, 2, -1]", "shape = [-1, 4294967296, 4294967296]", "must not exceed"),
            ("dtype = \"uint8\"", "dtype = \"float\"", "unknown variant `float`, expected one of `bool`"),
            ("score = \"argmax\"", "score = \"pitch-50-cents\"", "needs an output of 360 bins"),
            ("output = \"y\"", "output = \"z\"", "no such output; there are: y"),
            ("inputs = { x", "inputs = { w", "no such input; there are: x"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let parsed = parse_text(&GOOD.replacen(from, to, 1));
            let found: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.contains(rule)), "no `{rule}` in {found:#?}");
            assert!(parsed.manifest.is_none(), "{to}");
        }
    }

    #[test]
    fn longer_circles_are_found_for_everyone_in_or_behind_them() {
        let circle = GOOD.replace("file = \"big.onnx\"", "file = \"big.onnx\"\nparent = \"small\"");
        let found = complaints(&circle);
        assert_eq!(found.iter().filter(|f| f.contains("goes round in a circle")).count(), 2, "{found:#?}");
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_manifest_never_panics(line in 0_usize..60, with in "[\\[\\]{}=.\"'#a-z0-9_eE+-]{0,12}", way in 0..4) {
            let damaged: String = GOOD.lines().enumerate().map(|(i, text)| match way {
                _ if i != line => format!("{text}\n"),
                0 => String::new(),
                1 => format!("{text}\n{text}\n"),
                2 => format!("{} = {with}\n", text.split('=').next().unwrap_or_default()),
                _ => format!("{text}{with}"),
            }).collect();
            let parsed = parse_text(&damaged);
            // Either it is sound, or something was said.
            proptest::prop_assert!(parsed.manifest.is_some() || !parsed.problems.is_empty());
        }
    }
}
