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
        let parent = match (models, &model.folder) {
            (Some(models), _) => models.to_owned(),
            (None, Some(folder)) => folder.parent().unwrap_or(folder).to_owned(),
            (None, None) => return Err(InputsError::Where(model.name.clone())),
        };
        let (loaded, problems) = ModelStore::open(std::slice::from_ref(&parent));
        let Some(found) = loaded.iter().find(|one| one.name == model.name && one.manifest.is_some()) else {
            let about = |problem: &&crate::model::ModelProblem| {
                problem.model == model.name || problem.model.is_empty()
            };
            let reason =
                problems.iter().find(about).map_or_else(String::new, |problem| format!(": {problem}"));
            return Err(InputsError::Model { folder: parent, model: model.name.clone(), reason });
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
