//! Labelled inputs from the model folders that the daemon serves.

use crate::ctl::load::target::{Inputs, NamedTensor, Picked};
use crate::ctl::status::ModelStatus;
use crate::exec::Tensor;
use crate::model::{ModelStore, Sample};
use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use std::path::{Path, PathBuf};

/// The labelled sample of a model.
#[derive(Debug, Clone)]
pub struct SampleInputs {
    sample: Sample,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

/// Why there are no inputs.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// It is not known where the model's folder is.
    #[error("model {0}: wattd does not say where its folder is: name the folder of models with --models DIR")]
    Where(String),
    /// There is no such model.
    #[error("{}: no model {model} there{reason}", folder.display())]
    Model {
        /// Where it was looked for.
        folder: PathBuf,
        /// The model.
        model: String,
        /// What was wrong with it, if anything is known.
        reason: String,
    },
    /// It has no sample.
    #[error("model {0} has no [sample] in its model.toml: give it labelled inputs")]
    NoSample(String),
    /// Its sample cannot be read.
    #[error("{0}")]
    Sample(String),
    /// It is too small.
    #[error("model {model}: a request of {items} items is asked for, but the sample has {has}")]
    TooFew {
        /// The model.
        model: String,
        /// Items of a request.
        items: u32,
        /// Items of the sample.
        has: usize,
    },
}

impl SampleInputs {
    /// Reads the sample of a model for requests of `items`, from the folder of models `models` or else from
    /// where the daemon has it.
    ///
    /// # Errors
    /// If the folder, the model or its sample is missing or malformed, or the sample is too small.
    pub fn open(model: &ModelStatus, models: Option<&Path>, items: u32) -> Result<Self, InputsError> {
        let store = ModelStore::default();
        let (folder, (loaded, problems)) = match (models, &model.folder) {
            (Some(models), _) => (models, store.open(&[models.to_owned()])),
            (None, Some(folder)) => {
                let (model, problems) = store.read(folder);
                (folder.as_path(), (vec![model], problems))
            }
            (None, None) => return Err(InputsError::Where(model.name.clone())),
        };
        let Some(found) = loaded.iter().find(|one| one.name == model.name && one.manifest.is_some()) else {
            let about = |problem: &&crate::model::ModelProblem| {
                problem.model == model.name || problem.model.is_empty()
            };
            let reason =
                problems.iter().find(about).map_or_else(String::new, |problem| format!(": {problem}"));
            return Err(InputsError::Model { folder: folder.to_owned(), model: model.name.clone(), reason });
        };
        let sample = Sample::read(found).map_err(|problem| InputsError::Sample(problem.to_string()))?;
        let sample = sample.ok_or_else(|| InputsError::NoSample(model.name.clone()))?;
        let has = sample.len();
        if usize::try_from(items).map_or(true, |items| items > has) {
            return Err(InputsError::TooFew { model: model.name.clone(), items, has });
        }
        let names = |specs: &[crate::exec::TensorSpec]| specs.iter().map(|spec| spec.name.clone()).collect();
        let manifest = found.manifest.as_ref();
        Ok(Self {
            sample,
            inputs: manifest.map_or_else(Vec::new, |manifest| names(&manifest.inputs)),
            outputs: manifest.map_or_else(Vec::new, |manifest| names(&manifest.outputs)),
        })
    }

    /// Items from `first` on; fewer at the end of the sample.
    #[must_use]
    pub fn items(&self, first: usize, items: usize) -> Picked {
        let range = first..first.saturating_add(items).min(self.sample.len());
        let tensors = self.sample.items(range.clone());
        let named = |(name, tensor): (&String, Tensor)| NamedTensor { name: name.clone(), tensor };
        Picked {
            inputs: self.inputs.iter().zip(tensors).map(named).collect(),
            labels: self.sample.labels().get(range).unwrap_or(&[]).to_vec(),
        }
    }

    /// Which items are right; `None` if the compared output is missing or malformed.
    #[must_use]
    pub fn correct(&self, outputs: &[NamedTensor], labels: &[f64]) -> Option<Vec<bool>> {
        let name = self.outputs.get(self.sample.output())?;
        let output = outputs.iter().find(|output| output.name == *name)?;
        self.sample.score().correct(&output.tensor, labels).ok()
    }

    /// Number of items.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.sample.len()
    }
}

impl Inputs for SampleInputs {
    fn pick(&self, rng: &mut ChaCha8Rng, items: u32) -> Picked {
        let items = usize::try_from(items).unwrap_or(1);
        let last = self.sample.len().saturating_sub(items);
        self.items(rng.random_range(0..=last), items)
    }

    /// An answer without a usable output is wrong in every item.
    fn score(&self, outputs: &[NamedTensor], labels: &[f64]) -> (u32, u32) {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let right = self
            .correct(outputs, labels)
            .map_or(0, |correct| correct.iter().filter(|correct| **correct).count());
        (count(labels.len()), count(right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::fs;

    /// A `.npy` file of one-byte numbers.
    fn npy(shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), data].concat()
    }

    /// The model `tiny` of the store's tests with three items, labelled 0, 1 and 2.
    fn models() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let tiny = folder.path().join("tiny");
        fs::create_dir_all(tiny.join("sample")).unwrap();
        fs::write(tiny.join("model.toml"), include_str!("../../model/testdata/model.toml")).unwrap();
        fs::write(tiny.join("big.onnx"), "bigger").unwrap();
        fs::write(tiny.join("small.onnx"), "smallness").unwrap();
        fs::write(tiny.join("sample/x.npy"), npy("(3, 2, 1)", &[0, 0, 1, 1, 2, 2])).unwrap();
        fs::write(tiny.join("sample/labels.npy"), npy("(3,)", &[0, 1, 2])).unwrap();
        folder
    }

    fn tiny(folder: Option<PathBuf>) -> ModelStatus {
        ModelStatus { name: "tiny".into(), folder, ..ModelStatus::default() }
    }

    fn logits(items: usize, values: &[f32]) -> Vec<NamedTensor> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = vec![items, 3];
        let tensor = Tensor { dtype: crate::exec::DataType::Fp32, shape, data: data.into() };
        vec![NamedTensor { name: "y".into(), tensor }]
    }

    #[test]
    fn items_come_with_their_labels_and_are_scored_against_them() {
        let folder = models();
        let inputs = SampleInputs::open(&tiny(Some(folder.path().join("tiny"))), None, 2).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut firsts = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let picked = inputs.pick(&mut rng, 2);
            assert_eq!(
                (picked.inputs[0].name.as_str(), &picked.inputs[0].tensor.shape[..]),
                ("x", &[2, 2, 1][..])
            );
            // The test data hold the label in every byte of the item.
            assert_eq!(f64::from(picked.inputs[0].tensor.data[0]), picked.labels[0]);
            assert_eq!(f64::from(picked.inputs[0].tensor.data[2]), picked.labels[1]);
            firsts.insert(picked.inputs[0].tensor.data[0]);
        }
        assert_eq!(firsts.len(), 2, "both places where two items fit are picked (seed 3)");
        let picked = inputs.items(1, 2);
        // Item 1: class 1 wins, right; item 2: class 0 wins, wrong.
        assert_eq!(inputs.score(&logits(2, &[0.0, 5.0, 1.0, 9.0, 0.0, 1.0]), &picked.labels), (2, 1));
        assert_eq!(inputs.score(&[], &picked.labels), (2, 0), "no output is no right answer");
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = models();
        let open = |model: &ModelStatus, items| {
            SampleInputs::open(model, Some(folder.path()), items).map(|_| ()).unwrap_err().to_string()
        };
        assert!(open(&tiny(None), 4).contains("4 items is asked for, but the sample has 3"));
        let other = ModelStatus { name: "other".into(), ..ModelStatus::default() };
        assert!(open(&other, 1).contains("no model other there"));
        let error = SampleInputs::open(&tiny(None), None, 1).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("name the folder of models with --models DIR"), "{error}");
        fs::remove_file(folder.path().join("tiny/sample/labels.npy")).unwrap();
        assert!(open(&tiny(None), 1).contains("labels.npy"));
    }
}
