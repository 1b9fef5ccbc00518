//! What the load generator sends to and takes its inputs from; a test can stand in for both.

use crate::ctl::record::ServedLine;
use crate::ctl::status::Status;
use crate::exec::Tensor;
use crate::units::{Nanos, Ppm};
use rand::rngs::ChaCha8Rng;
use std::future::Future;
use std::num::NonZeroU64;

/// A tensor with the name of the input or output that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    /// Name of the input or output.
    pub name: String,
    /// The tensor.
    pub tensor: Tensor,
}

/// A request with its wishes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ask {
    /// The model.
    pub model: String,
    /// Inputs.
    pub inputs: Vec<NamedTensor>,
    /// Time from now until the answer must be there.
    pub deadline: Option<Nanos>,
    /// Least accuracy.
    pub min_accuracy: Option<Ppm>,
    /// Most energy in microjoules.
    pub max_energy_uj: Option<u64>,
    /// Only this variant.
    pub variant: Option<String>,
    /// Class.
    pub class: Option<String>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An answer.
    Answer {
        /// Outputs.
        outputs: Vec<NamedTensor>,
        /// How it came about; not yet scored.
        served: ServedLine,
        /// The daemon's id of the request, for `wattctl explain`.
        request: Option<NonZeroU64>,
    },
    /// Turned away.
    Rejected {
        /// Machine-readable reason.
        reason: String,
        /// The daemon's words.
        message: String,
        /// When trying again may help.
        retry_after: Option<Nanos>,
        /// The daemon's id of the request, for `wattctl explain`.
        request: Option<NonZeroU64>,
    },
    /// No valid answer.
    Failed(String),
}

/// What is loaded.
pub trait Target: Send + Sync + 'static {
    /// Runs an inference to its end. Dropping the future gives it up.
    fn infer(&self, ask: Ask) -> impl Future<Output = Reply> + Send;
    /// The state of the daemon; the error is for people.
    fn status(&self) -> impl Future<Output = Result<Status, String>> + Send;
}

/// Inputs of a request with what their right outputs are.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    /// Inputs.
    pub inputs: Vec<NamedTensor>,
    /// A label per item; empty where there are none.
    pub labels: Vec<f64>,
}

/// Where inputs come from: one per application.
pub trait Inputs: Send + Sync + 'static {
    /// Picks `items` items at random.
    fn pick(&self, rng: &mut ChaCha8Rng, items: u32) -> Picked;
    /// How many items were compared with their label, and how many of these were right.
    fn score(&self, outputs: &[NamedTensor], labels: &[f64]) -> (u32, u32);
}
