//! Execution: one lane (a named thread) per unit runs batches through an [`Executor`].
//!
//! The boundary is ready for lanes that are processes: it shares nothing with the daemon but a batch's
//! tensors, whose bytes live in buffers that can be handed over, and messages that can be sent.

pub mod cache;
pub mod lane;
pub mod ort;
pub mod profile;
pub mod sim;

use crate::core::catalog::VariantId;
use crate::core::event::BatchId;
use crate::units::{Bytes, Microjoules};
use bytes::Bytes as Buffer;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8 bit.
    Uint8,
    /// Unsigned 16 bit.
    Uint16,
    /// Unsigned 32 bit.
    Uint32,
    /// Unsigned 64 bit.
    Uint64,
    /// Signed 8 bit.
    Int8,
    /// Signed 16 bit.
    Int16,
    /// Signed 32 bit.
    Int32,
    /// Signed 64 bit.
    Int64,
    /// Half precision.
    Fp16,
    /// Single precision.
    Fp32,
    /// Double precision.
    Fp64,
}

impl DataType {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 | Self::Fp16 => 2,
            Self::Uint32 | Self::Int32 | Self::Fp32 => 4,
            Self::Uint64 | Self::Int64 | Self::Fp64 => 8,
        }
    }

    /// Name in the Open Inference Protocol, such as `FP32`.
    #[must_use]
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
        }
    }

    /// The type with that name in the Open Inference Protocol.
    #[must_use]
    pub fn from_wire_name(name: &str) -> Option<Self> {
        const ALL: [DataType; 12] = [
            DataType::Bool,
            DataType::Uint8,
            DataType::Uint16,
            DataType::Uint32,
            DataType::Uint64,
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::Int64,
            DataType::Fp16,
            DataType::Fp32,
            DataType::Fp64,
        ];
        ALL.into_iter().find(|dtype| dtype.wire_name() == name)
    }
}

/// A tensor: little-endian, row-major bytes. Invariant: `data.len() == product(shape) * dtype.size()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DataType,
    /// Shape; the first dimension is the batch.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Buffer,
}

/// Name, type and shape of a model's input or output; the batch dimension is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DataType,
    /// Dimensions after the batch dimension; `None` = free.
    pub item_shape: Vec<Option<usize>>,
}

/// What a lane needs to know to load a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantFile {
    /// Its id.
    pub id: VariantId,
    /// Model and variant name, for messages.
    pub name: String,
    /// The ONNX file.
    pub path: PathBuf,
    /// SHA-256 of the file as the manifest has it, lower-case hex: the key of the optimised-graph cache.
    pub sha256: String,
    /// Inputs of the model, in order.
    pub inputs: Arc<[TensorSpec]>,
    /// Outputs of the model, in order.
    pub outputs: Arc<[TensorSpec]>,
    /// Multiply-accumulates per item, for the simulated board.
    pub macs: u64,
    /// Bytes read and written per item, for the simulated board.
    pub traffic_bytes: u64,
    /// Precision as in the manifest (`fp32`, `fp16`, `int8`).
    pub precision: String,
}

/// Input tensors of each request of a batch, in the order of the model's inputs.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its id.
    pub id: BatchId,
    /// The variant to run.
    pub variant: VariantId,
    /// Per request: its tensors.
    pub requests: Vec<Vec<Tensor>>,
}

/// Output tensors of each request of a batch, in the order of the model's outputs.
#[derive(Debug, Clone)]
pub struct Output {
    /// Per request: its tensors.
    pub requests: Vec<Vec<Tensor>>,
    /// Energy metered for this run, where the unit has a meter fast enough.
    pub energy: Option<Microjoules>,
}

/// Why a lane could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The variant is not loaded here.
    #[error("variant {0} is not loaded on this lane")]
    NotLoaded(VariantId),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// There is not enough memory to load it now.
    #[error("{variant}: loading it takes {need} bytes of memory at least, and {available} are available")]
    Memory {
        /// Model and variant name.
        variant: String,
        /// What it takes at least.
        need: Bytes,
        /// What there is.
        available: Bytes,
    },
    /// The provider refused the model, or failed.
    #[error("{variant}: {message}")]
    Provider {
        /// Model and variant name.
        variant: String,
        /// The provider's own words.
        message: String,
    },
}

/// Stops the run in progress on a lane, from any thread.
pub trait Cancel: Send + Sync {
    /// Asks the batch to end if it is the one running; a no-op otherwise. Returns at once.
    fn cancel(&self, batch: BatchId);
}

/// Brings variants into the memory of one unit and out of it. Blocking; lives on a thread of its own beside the lane's,
/// so that the lane serves meanwhile.
pub trait Loader: Send + Sync {
    /// Called once, first of all, on the thread that will load.
    fn enter_thread(&self) {}
    /// Makes a session for the variant; returns the memory it took. Loading twice is a no-op.
    ///
    /// # Errors
    /// [`ExecError::Provider`] if the file is unreadable, hostile, or not what the manifest says;
    /// [`ExecError::Memory`] if there is not enough memory for it now.
    fn load(&self, variant: &VariantFile) -> Result<Bytes, ExecError>;
    /// Lets go of the session and gives its memory back to the system. A run that uses it still ends first.
    fn unload(&self, variant: VariantId);
}

/// Runs batches on one unit. Blocking; lives on its lane's thread.
pub trait Executor: Send {
    /// What loads for it.
    fn loader(&self) -> Arc<dyn Loader>;
    /// Runs a batch to its end.
    ///
    /// # Errors
    /// If the variant is not loaded, the run is cancelled, or the provider fails.
    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError>;
    /// A handle that cancels this executor's runs.
    fn canceller(&self) -> Arc<dyn Cancel>;
    /// Whether only the thread that made it may run it: one that is bound to the unit's CPUs, or that sleeps
    /// until a simulated board is done.
    fn is_thread_bound(&self) -> bool {
        true
    }
    /// [`Loader::load`], for a caller without a lane.
    ///
    /// # Errors
    /// As there.
    fn load(&self, variant: &VariantFile) -> Result<Bytes, ExecError> {
        self.loader().load(variant)
    }
    /// [`Loader::unload`], for a caller without a lane.
    fn unload(&self, variant: VariantId) {
        self.loader().unload(variant);
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("(no message)"))
}
