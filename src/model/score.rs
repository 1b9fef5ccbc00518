//! Whether an output is right: comparing output tensors with labels. Pure.

use crate::exec::{DataType, Tensor, TensorSpec};
use half::f16;
use serde::{Deserialize, Serialize};

/// Bins of CREPE's output.
const PITCH_BINS: usize = 360;
/// Cents above 10 Hz of the first bin (Kim et al., ICASSP 2018: bins of 20 cents from C1).
const PITCH_FIRST_CENTS: f64 = 1_997.379_408_437_619;
/// Cents from the first bin to the last.
const PITCH_SPAN_CENTS: f64 = 7180.0;
/// Bins on either side of the highest whose cents are averaged.
const PITCH_REACH: usize = 4;
/// Distance from the true pitch at which an estimate is wrong, in cents: half a semitone.
const PITCH_TOLERANCE_CENTS: f64 = 50.0;

/// How an output is compared with a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Score {
    /// The highest element of the item must be the one whose index is the label.
    #[serde(rename = "argmax")]
    Argmax,
    /// The pitch in 360 bins of salience must be within 50 cents of the label, in hertz.
    #[serde(rename = "pitch-50-cents")]
    Pitch50Cents,
}

/// Why an output cannot be compared with labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// Elements that are no numbers.
    #[error("{} elements cannot be scored", .0.wire_name())]
    Type(DataType),
    /// The shape does not fit the labels.
    #[error("an output of {elements} elements does not hold {items} items")]
    Shape {
        /// Elements of the output.
        elements: usize,
        /// Labels.
        items: usize,
    },
    /// Not 360 bins.
    #[error("{0} bins are no pitch: there must be {PITCH_BINS}")]
    Bins(usize),
}

impl Score {
    /// Whether outputs of this kind can be scored; the error says what would be right.
    ///
    /// # Errors
    /// If they cannot.
    pub fn suits(self, output: &TensorSpec) -> Result<(), String> {
        match self {
            Self::Argmax if output.dtype == DataType::Bool => Err("needs an output of numbers".to_owned()),
            Self::Pitch50Cents if output.item_shape != [Some(PITCH_BINS)] || !is_float(output.dtype) => {
                Err(format!("needs an output of {PITCH_BINS} bins in fp16, fp32 or fp64"))
            }
            _ => Ok(()),
        }
    }

    /// For every label whether the item of the same index in `output` is right. An item with NaN is wrong.
    ///
    /// # Errors
    /// If the output is no batch of as many items as there are labels, or not of numbers.
    pub fn correct(self, output: &Tensor, labels: &[f64]) -> Result<Vec<bool>, ScoreError> {
        let values = numbers(output)?;
        if labels.is_empty() {
            return Ok(Vec::new());
        }
        let shape = ScoreError::Shape { elements: values.len(), items: labels.len() };
        if values.is_empty() || !values.len().is_multiple_of(labels.len()) {
            return Err(shape);
        }
        let width = values.len() / labels.len();
        if self == Self::Pitch50Cents && width != PITCH_BINS {
            return Err(ScoreError::Bins(width));
        }
        let right = |(item, label): (&[f64], &f64)| match self {
            Self::Argmax => argmax(item).is_some_and(|best| is_index(*label, best)),
            Self::Pitch50Cents => {
                let error_cents = 1200.0 * (pitch_hz(item) / label).log2();
                error_cents.abs() < PITCH_TOLERANCE_CENTS
            }
        };
        Ok(values.chunks_exact(width).zip(labels).map(right).collect())
    }
}

const fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::Fp16 | DataType::Fp32 | DataType::Fp64)
}

#[allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "indices are far below 2^53: exact")]
fn is_index(label: f64, index: usize) -> bool {
    label == index as f64
}

/// Index of the highest element, the first of equals; `None` if one is NaN.
fn argmax(item: &[f64]) -> Option<usize> {
    let mut best = 0;
    for (i, value) in item.iter().enumerate() {
        if value.is_nan() {
            return None;
        }
        if *value > item[best] {
            best = i;
        }
    }
    (!item.is_empty()).then_some(best)
}

/// CREPE's decoding: the mean of the bins' cents, weighted with salience over the 9 bins about the highest.
#[allow(clippy::cast_precision_loss, reason = "360 bins")]
fn pitch_hz(salience: &[f64]) -> f64 {
    let Some(peak) = argmax(salience) else { return f64::NAN };
    let (mut weighted, mut total) = (0.0, 0.0);
    let first = peak.saturating_sub(PITCH_REACH);
    for (bin, weight) in salience.iter().enumerate().take(peak + PITCH_REACH + 1).skip(first) {
        let cents = PITCH_FIRST_CENTS + PITCH_SPAN_CENTS * bin as f64 / (PITCH_BINS - 1) as f64;
        weighted += weight * cents;
        total += weight;
    }
    10.0 * (weighted / total / 1200.0).exp2()
}

/// The elements of a tensor as floating point. 64-bit integers beyond 2^53 are rounded.
///
/// # Errors
/// If the elements are bools, or the data are no whole number of them.
#[allow(clippy::cast_precision_loss, reason = "labels and scores are small numbers")]
pub fn numbers(tensor: &Tensor) -> Result<Vec<f64>, ScoreError> {
    macro_rules! read {
        ($kind:ty, $convert:expr) => {
            tensor
                .data
                .chunks_exact(size_of::<$kind>())
                .map(|bytes| {
                    let mut raw = [0; size_of::<$kind>()];
                    raw.copy_from_slice(bytes);
                    $convert(<$kind>::from_le_bytes(raw))
                })
                .collect()
        };
    }
    if !tensor.data.len().is_multiple_of(tensor.dtype.size()) {
        return Err(ScoreError::Shape { elements: tensor.data.len() / tensor.dtype.size(), items: 0 });
    }
    Ok(match tensor.dtype {
        DataType::Bool => return Err(ScoreError::Type(DataType::Bool)),
        DataType::Uint8 => read!(u8, f64::from),
        DataType::Uint16 => read!(u16, f64::from),
        DataType::Uint32 => read!(u32, f64::from),
        DataType::Uint64 => read!(u64, |v| v as f64),
        DataType::Int8 => read!(i8, f64::from),
        DataType::Int16 => read!(i16, f64::from),
        DataType::Int32 => read!(i32, f64::from),
        DataType::Int64 => read!(i64, |v| v as f64),
        DataType::Fp16 => read!(f16, f64::from),
        DataType::Fp32 => read!(f32, f64::from),
        DataType::Fp64 => read!(f64, f64::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp32(items: usize, values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { dtype: DataType::Fp32, shape: vec![items, values.len() / items], data: data.into() }
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_no_nan() {
        let output = fp32(4, &[0.0, 2.0, 1.0, 3.0, 3.0, 1.0, f32::NAN, 0.0, 1.0, -3.0, -2.0, -1.0]);
        let correct = Score::Argmax.correct(&output, &[1.0, 0.0, 2.0, 1.0]).unwrap();
        assert_eq!(correct, [true, true, false, false]);
    }

    #[test]
    fn a_label_between_two_classes_is_none_of_them() {
        assert_eq!(Score::Argmax.correct(&fp32(1, &[0.0, 1.0]), &[1.5]).unwrap(), [false]);
    }

    #[test]
    fn every_number_type_reads_as_numbers() {
        let tensor =
            |dtype: DataType, data: &[u8]| Tensor { dtype, shape: vec![], data: data.to_vec().into() };
        assert_eq!(numbers(&tensor(DataType::Int8, &[255])).unwrap(), [-1.0]);
        assert_eq!(numbers(&tensor(DataType::Uint16, &[1, 2])).unwrap(), [513.0]);
        assert_eq!(numbers(&tensor(DataType::Fp16, &[0x00, 0x3c])).unwrap(), [1.0]);
        assert_eq!(numbers(&tensor(DataType::Int64, &(-5_i64).to_le_bytes())).unwrap(), [-5.0]);
        assert!(numbers(&tensor(DataType::Bool, &[1])).is_err());
        assert!(numbers(&tensor(DataType::Fp32, &[1, 2, 3])).is_err());
    }

    /// A single bin b means 1997.3794 + 20 b cents above 10 Hz; b = 180 is 5597.3794 cents:
    /// 10 * 2^(5597.3794/1200) = 253.6 Hz.
    #[test]
    fn a_pitch_is_right_within_half_a_semitone() {
        let mut bins = [0.0_f32; 360];
        bins[180] = 1.0;
        let hz = 10.0 * (5_597.379_408_437_619_f64 / 1200.0).exp2();
        assert!((hz - 253.6).abs() < 0.1);
        let cents = |c: f64| hz * (c / 1200.0).exp2();
        let right = |hz: f64| Score::Pitch50Cents.correct(&fp32(1, &bins), &[hz]).unwrap()[0];
        assert!(right(hz) && right(cents(49.9)) && right(cents(-49.9)));
        assert!(!right(cents(50.1)) && !right(cents(-50.1)) && !right(cents(1200.0)));
        assert!(!right(f64::NAN) && !right(0.0) && !right(-1.0));
    }

    /// Two neighbours with weights 1 and 1 average to the middle: 10 cents from each. A bin five away from
    /// the highest does not count.
    #[test]
    fn a_pitch_is_the_weighted_mean_of_nine_bins() {
        let mut bins = [0.0; 360];
        (bins[100], bins[101], bins[105]) = (1.0, 1.0, 0.9);
        let cents = 1200.0 * (pitch_hz(&bins) / 10.0).log2();
        assert!((cents - (PITCH_FIRST_CENTS + 2010.0)).abs() < 1e-6, "{cents}");
    }

    #[test]
    fn no_salience_is_no_pitch() {
        assert_eq!(Score::Pitch50Cents.correct(&fp32(1, &[0.0; 360]), &[100.0]).unwrap(), [false]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(matches!(
            Score::Argmax.correct(&fp32(1, &[0.0; 5]), &[0.0, 1.0]),
            Err(ScoreError::Shape { .. })
        ));
        assert_eq!(Score::Pitch50Cents.correct(&fp32(1, &[0.0; 5]), &[1.0]), Err(ScoreError::Bins(5)));
        assert!(Score::Argmax.correct(&fp32(1, &[]), &[1.0]).is_err());
        assert_eq!(Score::Argmax.correct(&fp32(1, &[]), &[]), Ok(vec![]));
    }
}
