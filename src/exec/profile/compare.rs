//! Whether a variant computes on a unit what it should.
//!
//! Always refused: outputs of the wrong number, type or shape, and NaN or infinity where the reference has
//! none. Beyond that an output is *far off* when it fails **both** of these, or the second alone where the
//! first does not apply:
//!
//! - **Agreement**, for outputs that rank classes (floating point, one row of at least two values per item):
//!   the share of samples whose highest value in the reference is among the first `ceil(k/50)` of `k` here
//!   (the very first for up to 50 classes; a little slack where neighbouring classes mean nearly the same,
//!   as with pitch bins). Two classifiers of accuracy `a` and `b` differ on at most `(1-a) + (1-b)` of the
//!   inputs, so at least `q = a + b - 1` must agree, less three standard deviations of a share of `n` samples,
//!   `3*sqrt(q*(1-q)/n)`. The same file on another unit must agree on 95 % less the same allowance.
//! - **Relative L2 error** over all samples, `|y - r| / |r|`: at most 0.5 between variants, whose scales may
//!   differ; for the same file on another unit at most 0.05 in single or double precision (bfloat16 inside a
//!   provider stays below), 0.15 otherwise. Integer and Boolean outputs count as numbers.
//!
//! These bounds find what is broken (NaN from a half-precision kernel, a provider that miscompiles), not a
//! point of accuracy lost: that is the manifest's affair.

use crate::exec::{DataType, Tensor, TensorSpec};
use crate::units::Ppm;
use half::f16;

const OTHER_VARIANT_L2: f64 = 0.5;
const SAME_FILE_L2: f64 = 0.05;
const SAME_FILE_L2_REDUCED: f64 = 0.15;
const SAME_FILE_AGREEMENT: f64 = 0.95;

/// What the outputs should be like.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// Outputs by sample; empty where there are none.
    pub outputs: Vec<Vec<Tensor>>,
    /// Who made them.
    pub source: ExpectationSource,
}

/// Who made the expected outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectationSource {
    /// The very same file on another unit.
    SameFile {
        /// Whether it computes in single or double precision.
        full_precision: bool,
    },
    /// The reference variant.
    Reference {
        /// Accuracy of the reference.
        reference_accuracy: Ppm,
        /// Accuracy of the variant under test.
        accuracy: Ppm,
    },
}

/// Why a variant must not run on a unit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// The provider failed on it.
    #[error("it does not run: {0}")]
    Failed(String),
    /// Not a number.
    #[error("output `{output}` has {value} at element {index}")]
    NotFinite {
        /// Name of the output.
        output: String,
        /// Where.
        index: usize,
        /// NaN or an infinity.
        value: f64,
    },
    /// Another type or shape than expected.
    #[error("output `{output}` is {found}, expected {expected}")]
    Shape {
        /// Name of the output.
        output: String,
        /// What came.
        found: String,
        /// What should.
        expected: String,
    },
    /// Far off.
    #[error(
        "output `{output}` is far from the reference: relative error {error:.3} (at most {max_error}), agreement {}",
        agreement_words(*.agreement)
    )]
    FarOff {
        /// Name of the output.
        output: String,
        /// Relative L2 error.
        error: f64,
        /// The bound on it.
        max_error: f64,
        /// Share of samples that agree, and the bound on it, where the output ranks classes.
        agreement: Option<(f64, f64)>,
    },
}

fn agreement_words(agreement: Option<(f64, f64)>) -> String {
    agreement.map_or_else(
        || "does not apply".to_owned(),
        |(share, least)| format!("{:.0} % (at least {:.0} %)", share * 100.0, least * 100.0),
    )
}

/// Checks the outputs of one run of one sample for type, shape and finite values.
pub(super) fn check_one(
    specs: &[TensorSpec],
    found: &[Tensor],
    expected: Option<&[Tensor]>,
) -> Result<(), Unfit> {
    for (index, spec) in specs.iter().enumerate() {
        let expected = expected.and_then(|list| list.get(index));
        let describe = |t: &Tensor| format!("{} {:?}", t.dtype.wire_name(), t.shape);
        let wrong =
            |found: String, expected: String| Unfit::Shape { output: spec.name.clone(), found, expected };
        let Some(tensor) = found.get(index) else {
            return Err(wrong("missing".to_owned(), spec.dtype.wire_name().to_owned()));
        };
        let right = tensor.dtype == spec.dtype
            && expected.is_none_or(|e| e.shape == tensor.shape && e.dtype == tensor.dtype);
        if !right {
            let expected = expected.map_or_else(|| spec.dtype.wire_name().to_owned(), describe);
            return Err(wrong(describe(tensor), expected));
        }
        let found = values(tensor);
        let reference = expected.map(values).unwrap_or_default();
        let bad = found.iter().enumerate().find(|&(at, value)| {
            // Minus infinity for an impossible class is fine if the reference says the same.
            !value.is_finite() && reference.get(at).is_none_or(|wanted| wanted.total_cmp(value).is_ne())
        });
        if let Some((index, &value)) = bad {
            return Err(Unfit::NotFinite { output: spec.name.clone(), index, value });
        }
    }
    Ok(())
}

/// Compares outputs by sample with the expected ones; samples that either side lacks are left out.
///
/// # Errors
/// The first output that is wrong or far off.
pub fn compare(specs: &[TensorSpec], found: &[Vec<Tensor>], expected: &Expectation) -> Result<(), Unfit> {
    let mut comparison = Comparison::default();
    for (found, wanted) in found.iter().zip(&expected.outputs).filter(|(a, b)| !a.is_empty() && !b.is_empty())
    {
        comparison.add(specs, found, wanted, expected.source)?;
    }
    comparison.verdict(specs)
}

/// Outputs that are compared one request after another.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// By output.
    sums: Vec<Sums>,
}

#[derive(Debug, Clone)]
struct Sums {
    /// Squares of differences and of what was expected.
    difference: f64,
    size: f64,
    max_error: f64,
    /// Whether it ranks classes, as far as seen.
    ranks: bool,
    /// Items, those that agree, and the shares of them that must, added up.
    items: f64,
    agreeing: f64,
    least: f64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            difference: 0.0,
            size: 0.0,
            max_error: 0.0,
            ranks: true,
            items: 0.0,
            agreeing: 0.0,
            least: 0.0,
        }
    }
}

impl Comparison {
    /// Takes in the outputs of one request.
    ///
    /// # Errors
    /// If one has another type or shape than it should, or NaN where there should be none.
    pub fn add(
        &mut self,
        specs: &[TensorSpec],
        found: &[Tensor],
        expected: &[Tensor],
        source: ExpectationSource,
    ) -> Result<(), Unfit> {
        check_one(specs, found, Some(expected))?;
        self.sums.resize_with(specs.len(), Sums::default);
        for (((sums, spec), found), wanted) in self.sums.iter_mut().zip(specs).zip(found).zip(expected) {
            sums.add(spec, found, wanted, source);
        }
        Ok(())
    }

    /// Whether what was taken in is near enough.
    ///
    /// # Errors
    /// The first output that is far off.
    pub fn verdict(&self, specs: &[TensorSpec]) -> Result<(), Unfit> {
        for (sums, spec) in self.sums.iter().zip(specs).filter(|(sums, _)| sums.items > 0.0) {
            let error = if sums.difference == 0.0 { 0.0 } else { (sums.difference / sums.size).sqrt() };
            let agreement = sums.ranks.then(|| sums.agreement());
            let agrees = agreement.is_some_and(|(share, least)| share >= least);
            // Written so that NaN fails.
            let near = error <= sums.max_error;
            if !(near || agrees) {
                let max_error = sums.max_error;
                return Err(Unfit::FarOff { output: spec.name.clone(), error, max_error, agreement });
            }
        }
        Ok(())
    }
}

impl Sums {
    fn add(&mut self, spec: &TensorSpec, found: &Tensor, expected: &Tensor, source: ExpectationSource) {
        let (found, wanted) = (values(found), values(expected));
        for (y, r) in found.iter().zip(&wanted).filter(|(_, r)| r.is_finite()) {
            self.difference += (y - r).powi(2);
            self.size += r.powi(2);
        }
        self.max_error = self.max_error.max(max_error(spec.dtype, source));
        let classes = expected.shape.get(1).copied().filter(|_| expected.shape.len() == 2).unwrap_or(0);
        self.ranks &= classes >= 2 && matches!(spec.dtype, DataType::Fp16 | DataType::Fp32 | DataType::Fp64);
        if !self.ranks {
            // Whether anything was compared is all that counts.
            self.items += 1.0;
            return;
        }
        for (found, wanted) in found.chunks_exact(classes).zip(wanted.chunks_exact(classes)) {
            self.items += 1.0;
            self.least += least(source);
            self.agreeing += f64::from(u8::from(agree(found, wanted)));
        }
    }

    /// Share of the items that agree, and the least that must.
    fn agreement(&self) -> (f64, f64) {
        let least = self.least / self.items;
        let allowance = 3.0 * (least * (1.0 - least) / self.items).sqrt();
        (self.agreeing / self.items, (least - allowance).max(0.0))
    }
}

fn max_error(dtype: DataType, source: ExpectationSource) -> f64 {
    match source {
        ExpectationSource::Reference { .. } => OTHER_VARIANT_L2,
        ExpectationSource::SameFile { full_precision: true } if dtype != DataType::Fp16 => SAME_FILE_L2,
        ExpectationSource::SameFile { .. } => SAME_FILE_L2_REDUCED,
    }
}

/// Whether the highest class of one is among the first of the other.
fn agree(found: &[f64], expected: &[f64]) -> bool {
    let best = highest(expected);
    let above = found.iter().filter(|value| **value > found[best]).count();
    // A tie for the first place is no agreement: constant outputs would tie everywhere.
    let ties = found.iter().filter(|value| **value == found[best]).count();
    above + ties <= expected.len().div_ceil(50).max(1)
}

/// The share of items that must agree.
fn least(source: ExpectationSource) -> f64 {
    match source {
        ExpectationSource::SameFile { .. } => SAME_FILE_AGREEMENT,
        ExpectationSource::Reference { reference_accuracy, accuracy } => {
            (reference_accuracy.as_fraction() + accuracy.as_fraction() - 1.0).clamp(0.0, 1.0)
        }
    }
}

fn highest(row: &[f64]) -> usize {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index)
}

/// The elements as numbers. 64-bit integers lose what 53 bits cannot hold: fine for a comparison.
fn values(tensor: &Tensor) -> Vec<f64> {
    macro_rules! numbers {
        ($type:ty) => {{
            let size = size_of::<$type>();
            let one = |bytes: &[u8]| bytemuck::pod_read_unaligned::<$type>(bytes);
            #[allow(clippy::cast_precision_loss, clippy::cast_lossless, reason = "see above")]
            tensor.data.chunks_exact(size).map(|bytes| one(bytes) as f64).collect()
        }};
    }
    match tensor.dtype {
        DataType::Bool | DataType::Uint8 => numbers!(u8),
        DataType::Uint16 => numbers!(u16),
        DataType::Uint32 => numbers!(u32),
        DataType::Uint64 => numbers!(u64),
        DataType::Int8 => numbers!(i8),
        DataType::Int16 => numbers!(i16),
        DataType::Int32 => numbers!(i32),
        DataType::Int64 => numbers!(i64),
        DataType::Fp16 => {
            let one = |bytes: &[u8]| bytemuck::pod_read_unaligned::<f16>(bytes).to_f64();
            tensor.data.chunks_exact(size_of::<f16>()).map(one).collect()
        }
        DataType::Fp32 => numbers!(f32),
        DataType::Fp64 => numbers!(f64),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
