//! Labelled inputs of a model folder: the check set of the profiler and the load of the load generator.

use super::manifest::SampleSpec;
use super::npy;
use super::score::{self, Score, ScoreError};
use super::store::{LoadedModel, MANIFEST};
use crate::config::document::{Problem, open_regular};
use crate::exec::{Tensor, TensorSpec};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::Path;

/// Largest file of a sample, bytes.
const MAX_FILE_BYTES: u64 = 1 << 28;

/// Labelled inputs in memory. Invariant: every tensor has [`Sample::len`] items, at least one.
#[derive(Debug, Clone)]
pub struct Sample {
    inputs: Vec<Tensor>,
    labels: Vec<f64>,
    score: Score,
    output: usize,
}

impl Sample {
    /// Reads the sample of a model; `None` if the folder has none.
    ///
    /// # Errors
    /// A file that is missing, outside the folder, too large, or not of the type and shape of the manifest.
    pub fn read(model: &LoadedModel) -> Result<Option<Self>, Problem> {
        let Some(manifest) = &model.manifest else { return Ok(None) };
        let Some(spec) = &manifest.sample else { return Ok(None) };
        let inputs = manifest.inputs.iter().zip(&spec.inputs);
        let inputs: Vec<Tensor> =
            inputs.map(|(tensor, file)| read_input(&model.folder, file, tensor)).collect::<Result<_, _>>()?;
        let labels = read_labels(&model.folder, spec)?;
        for (tensor, file) in inputs.iter().zip(&spec.inputs) {
            if tensor.shape[0] != labels.len() {
                let message = format!(
                    "has {} items, but {} has {} labels: they must be equal",
                    tensor.shape[0],
                    spec.labels.display(),
                    labels.len()
                );
                return Err(Problem::of_file(&model.folder.join(file), message));
            }
        }
        Ok(Some(Self { inputs, labels, score: spec.score, output: spec.output }))
    }

    /// Number of labelled items; at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// How outputs are compared with labels.
    #[must_use]
    pub const fn score(&self) -> Score {
        self.score
    }

    /// Index of the output that is compared.
    #[must_use]
    pub const fn output(&self) -> usize {
        self.output
    }

    /// Labels of all items.
    #[must_use]
    pub fn labels(&self) -> &[f64] {
        &self.labels
    }

    /// Input tensors of a run of items, in the order of the model's inputs. Shares the bytes. The range is
    /// cut to what is there.
    #[must_use]
    pub fn items(&self, range: Range<usize>) -> Vec<Tensor> {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        let slice = |tensor: &Tensor| {
            let item_bytes = tensor.data.len() / self.len();
            let mut shape = tensor.shape.clone();
            shape[0] = end - start;
            let data = tensor.data.slice(start * item_bytes..end * item_bytes);
            Tensor { dtype: tensor.dtype, shape, data }
        };
        self.inputs.iter().map(slice).collect()
    }

    /// Names the items and their labels by their contents: hex.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for tensor in &self.inputs {
            hash.update(&tensor.data);
        }
        for label in &self.labels {
            hash.update(label.to_le_bytes());
        }
        hex::encode(&hash.finalize()[..8])
    }

    /// Which of the items from `first` on the model got right. `outputs` are in the order of the model's
    /// outputs and hold `count` items.
    ///
    /// # Errors
    /// If the compared output does not hold that many items of the right kind.
    pub fn correct(&self, outputs: &[Tensor], first: usize, count: usize) -> Result<Vec<bool>, ScoreError> {
        let none = ScoreError::Shape { elements: 0, items: count };
        let end = first.checked_add(count).ok_or(none.clone())?;
        let labels = self.labels.get(first..end).ok_or(none.clone())?;
        self.score.correct(outputs.get(self.output).ok_or(none)?, labels)
    }
}

fn read_input(folder: &Path, file: &Path, spec: &TensorSpec) -> Result<Tensor, Problem> {
    let tensor = read_array(folder, file)?;
    let fault = |message: String| Problem::of_file(&folder.join(file), message);
    if tensor.dtype != spec.dtype {
        let (has, needs) = (tensor.dtype.wire_name(), spec.dtype.wire_name());
        return Err(fault(format!("holds {has}: input `{}` of {MANIFEST} is {needs}", spec.name)));
    }
    let fits = tensor.shape.split_first().is_some_and(|(items, rest)| {
        let same = |(has, needs): (&usize, &Option<usize>)| needs.is_none_or(|needs| needs == *has);
        *items > 0 && rest.len() == spec.item_shape.len() && rest.iter().zip(&spec.item_shape).all(same)
    });
    if !fits {
        let needs: Vec<String> =
            spec.item_shape.iter().map(|d| d.map_or("-1".to_owned(), |d| d.to_string())).collect();
        let (has, name) = (&tensor.shape, &spec.name);
        return Err(fault(format!(
            "has shape {has:?}: input `{name}` of {MANIFEST} is [-1, {}]",
            needs.join(", ")
        )));
    }
    Ok(tensor)
}

fn read_labels(folder: &Path, spec: &SampleSpec) -> Result<Vec<f64>, Problem> {
    let tensor = read_array(folder, &spec.labels)?;
    let fault = |message: String| Problem::of_file(&folder.join(&spec.labels), message);
    if tensor.shape.len() != 1 || tensor.shape[0] == 0 {
        return Err(fault(format!("has shape {:?}: labels must be one row of at least one", tensor.shape)));
    }
    score::numbers(&tensor).map_err(|e| fault(e.to_string()))
}

fn read_array(folder: &Path, file: &Path) -> Result<Tensor, Problem> {
    let path = folder.join(file);
    let fault = |message: String| Problem::of_file(&path, message);
    let real = path.canonicalize().map_err(|e| fault(format!("cannot be read: {e}")))?;
    if !real.starts_with(folder) {
        return Err(fault(format!("leads to {}: must stay in the model's folder", real.display())));
    }
    let open = open_regular(&real).map_err(|e| fault(format!("cannot be read: {e}")))?;
    npy::read(std::io::BufReader::new(open), MAX_FILE_BYTES).map_err(|e| fault(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::DataType;
    use crate::model::npy::tests::npy;
    use crate::model::store::tests::{open, store};

    fn with(x: &[u8], labels: &[u8]) -> Result<Option<Sample>, Problem> {
        let dir = store();
        std::fs::write(dir.path().join("tiny/sample/x.npy"), x).unwrap();
        std::fs::write(dir.path().join("tiny/sample/labels.npy"), labels).unwrap();
        Sample::read(&open(dir.path()).0[0])
    }

    fn good() -> Sample {
        let labels: Vec<u8> = [2_i16, 0, 1].iter().flat_map(|v| v.to_le_bytes()).collect();
        with(&npy("|u1", "(3, 2, 1)", &[1, 2, 3, 4, 5, 6]), &npy("<i2", "(3,)", &labels)).unwrap().unwrap()
    }

    #[test]
    fn items_are_slices_of_the_file() {
        let sample = good();
        assert_eq!((sample.len(), sample.labels()), (3, [2.0, 0.0, 1.0].as_slice()));
        let items = sample.items(1..3);
        assert_eq!(
            (items[0].shape.as_slice(), &items[0].data[..]),
            ([2, 2, 1].as_slice(), [3, 4, 5, 6].as_slice())
        );
        assert_eq!(sample.items(2..9)[0].shape[0], 1);
        assert_eq!(sample.items(7..9)[0].shape[0], 0);
    }

    #[test]
    fn a_digest_is_of_items_and_labels() {
        let (sample, labels) = (good(), npy("|u1", "(3,)", &[2, 0, 1]));
        let other = |x: &[u8], labels: &[u8]| with(&npy("|u1", "(3, 2, 1)", x), labels).unwrap().unwrap();
        assert_eq!(sample.digest(), other(&[1, 2, 3, 4, 5, 6], &labels).digest());
        assert_ne!(sample.digest(), other(&[1, 2, 3, 4, 5, 7], &labels).digest());
        let labelled = other(&[1, 2, 3, 4, 5, 6], &npy("|u1", "(3,)", &[2, 1, 1]));
        assert_ne!(sample.digest(), labelled.digest());
    }

    #[test]
    fn outputs_are_compared_with_the_labels_of_their_items() {
        let sample = good();
        let scores: Vec<u8> =
            [0.0_f32, 0.0, 1.0, 0.0, 1.0, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let output = Tensor { dtype: DataType::Fp32, shape: vec![2, 3], data: scores.into() };
        assert_eq!(sample.correct(std::slice::from_ref(&output), 0, 2).unwrap(), [true, false]);
        assert_eq!(sample.correct(std::slice::from_ref(&output), 1, 2).unwrap(), [false, true]);
        assert!(sample.correct(std::slice::from_ref(&output), 2, 2).is_err());
        assert!(sample.correct(&[], 0, 2).is_err());
    }

    #[test]
    fn what_does_not_fit_the_manifest_is_named() {
        let labels = npy("|u1", "(3,)", &[0; 3]);
        let message = |x: &[u8], labels: &[u8]| with(x, labels).unwrap_err().to_string();
        let found = message(&npy("|i1", "(3, 2, 1)", &[0; 6]), &labels);
        assert!(found.contains("x.npy: holds INT8: input `x` of model.toml is UINT8"), "{found}");
        let found = message(&npy("|u1", "(3, 3, 1)", &[0; 9]), &labels);
        assert!(found.contains("has shape [3, 3, 1]: input `x` of model.toml is [-1, 2, -1]"), "{found}");
        let found = message(&npy("|u1", "(2, 2, 1)", &[0; 4]), &labels);
        assert!(found.contains("has 2 items, but sample/labels.npy has 3 labels"), "{found}");
        let found = message(&npy("|u1", "(3, 2, 1)", &[0; 6]), &npy("|u1", "(1, 3)", &[0; 3]));
        assert!(found.contains("labels.npy: has shape [1, 3]: labels must be one row"), "{found}");
    }

    #[test]
    fn a_sample_outside_the_folder_is_refused() {
        let dir = store();
        std::fs::write(dir.path().join("x.npy"), npy("|u1", "(1, 2, 1)", &[0; 2])).unwrap();
        std::os::unix::fs::symlink(dir.path().join("x.npy"), dir.path().join("tiny/sample/x.npy")).unwrap();
        let problem = Sample::read(&open(dir.path()).0[0]).unwrap_err();
        assert!(problem.to_string().contains("must stay in the model's folder"), "{problem}");
    }
}
