//! What the API needs from the daemon: a boundary that a test can stand in for.

use crate::core::event::{AppId, Outcome};
use crate::exec::{Tensor, TensorSpec};
use crate::units::{Microjoules, Nanos, Ppm};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Who is on the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Key of its budgets and limits: the uid over a Unix socket, [`Peer::TCP`] over loopback TCP.
    pub app: AppId,
    /// User id, if the kernel told.
    pub uid: Option<u32>,
    /// Process id, if the kernel told.
    pub pid: Option<i32>,
}

impl Peer {
    /// The app that every client of the loopback TCP port counts as.
    pub const TCP: AppId = AppId(u32::MAX);
}

/// A validated request with its tensors in the order of the model's inputs.
#[derive(Debug)]
pub struct Submission {
    /// Who asks.
    pub peer: Peer,
    /// Index in [`Backend::models`].
    pub model: usize,
    /// Items along the batch dimension, equal in all inputs.
    pub items: u32,
    /// Input tensors.
    pub inputs: Vec<Tensor>,
    /// Wishes.
    pub wishes: Wishes,
}

/// Per-request parameters after validation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Class by name; `None` = by the app, or the default.
    pub class: Option<String>,
    /// Time from arrival until the answer must be there.
    pub deadline: Option<Nanos>,
    /// Least accuracy.
    pub min_accuracy: Option<Ppm>,
    /// Most energy.
    pub max_energy: Option<Microjoules>,
    /// Only this variant, by name.
    pub variant: Option<String>,
    /// Lower is more urgent.
    pub priority: Option<u32>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The daemon's id of the request, by which `wattctl explain` finds it.
    pub request: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Output tensors in the order of the model's outputs; empty unless served.
    pub outputs: Vec<Tensor>,
    /// Name of the variant that ran; empty unless served.
    pub variant: Arc<str>,
    /// Name of the unit it ran on; empty unless served.
    pub unit: Arc<str>,
}

/// A request that names something that the configuration does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SubmitError(pub String);

/// A submitted request. Dropping it before the answer came tells the core that the client left.
#[derive(Debug)]
pub struct Pending {
    /// Resolves to the answer; an error means that the daemon is stopping.
    pub answer: oneshot::Receiver<Answer>,
    /// Cancels on drop.
    pub guard: CancelGuard,
}

/// Calls back when dropped, unless disarmed.
pub struct CancelGuard(pub Option<Box<dyn FnOnce() + Send>>);

impl CancelGuard {
    /// The answer came: nothing to cancel.
    pub fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some(cancel) = self.0.take() {
            cancel();
        }
    }
}

impl std::fmt::Debug for CancelGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CancelGuard").field(&self.0.is_some()).finish()
    }
}

/// A model as the API shows it.
#[derive(Debug, Clone)]
pub struct ModelView {
    /// Name.
    pub name: String,
    /// Version string.
    pub version: String,
    /// Inputs.
    pub inputs: Arc<[TensorSpec]>,
    /// Outputs.
    pub outputs: Arc<[TensorSpec]>,
    /// Largest batch.
    pub max_batch: u32,
    /// Names of its variants.
    pub variants: Vec<String>,
    /// Why it cannot be served at all, if so.
    pub unavailable: Option<String>,
}

/// Counters for `ModelStatistics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ModelCounters {
    /// Requests served.
    pub served: u64,
    /// Requests rejected or failed.
    pub failed: u64,
    /// Batches run.
    pub executions: u64,
    /// Items inferred.
    pub inferences: u64,
    /// Sum of queue times.
    pub queue: Nanos,
    /// Sum of compute times.
    pub compute: Nanos,
    /// Sum of times from arrival to answer of served requests.
    pub success: Nanos,
    /// Milliseconds since the Unix epoch of the last inference; 0 = none.
    pub last_inference_ms: u64,
}

/// Where the daemon records events.
#[derive(Debug)]
pub struct Journal {
    /// The file.
    pub path: PathBuf,
    /// Whether it records still: it ends when the file is full or the disk fails.
    pub recording: bool,
    /// Resolves when all events so far are in the file; an error means that they never will be.
    pub flushed: oneshot::Receiver<()>,
}

/// What an operator wants of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Take in a model folder as a new version.
    Deploy {
        /// The folder, on the daemon's machine; absolute.
        folder: PathBuf,
        /// Without being compared with the version that serves.
        now: bool,
    },
    /// Take back the version on trial, or else go back to the one that served before.
    RollBack {
        /// Name of the model.
        model: String,
    },
}

/// A version that was taken on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Name of the model.
    pub model: String,
    /// The version.
    pub version: String,
}

/// The daemon, as the API sees it. All methods return at once.
pub trait Backend: Send + Sync + 'static {
    /// Hands a request to the core.
    ///
    /// # Errors
    /// If it names a class that there is not, or that is not for this app.
    fn submit(&self, submission: Submission) -> Result<Pending, SubmitError>;
    /// The models, by index.
    fn models(&self) -> Arc<Vec<ModelView>>;
    /// Whether at least one variant of the model is loaded and may serve.
    fn model_ready(&self, model: usize) -> bool;
    /// Whether the daemon takes requests.
    fn ready(&self) -> bool;
    /// Asks for a model to be kept in memory or let go.
    fn retain(&self, model: usize, resident: bool);
    /// Counters of a model.
    fn counters(&self, model: usize) -> ModelCounters;
    /// Everything `wattctl status` shows, as JSON.
    fn status(&self) -> serde_json::Value;
    /// Everything `wattctl models` shows, as JSON.
    fn models_status(&self) -> serde_json::Value;
    /// The Prometheus page.
    fn metrics(&self) -> String;
    /// Where events are recorded, all those so far on their way there; `None` = nowhere.
    fn journal(&self) -> Option<Journal>;
    /// Orders profiling of a model (or all): `anew`, or only what has no profile; the result appears in the
    /// models' status.
    fn profile(&self, model: Option<usize>, anew: bool);
    /// Orders a version in or back. Resolves when it is known whether that can be; an error says why not.
    fn deploy(&self, order: Order) -> oneshot::Receiver<Result<Accepted, String>>;
    /// Everything `wattctl rollout` shows, as JSON.
    fn rollouts(&self) -> serde_json::Value;
}
