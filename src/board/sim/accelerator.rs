//! The seam between an execution lane and a simulated board: where a run is held until the board would
//! have finished it. The board may live in this process ([`super::SimBoard`]) or in another
//! ([`super::process::RemoteAccelerator`]).

use super::work::Work;
use crate::core::catalog::UnitId;
use crate::units::{Kilohertz, Microjoules, Nanos};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a simulated run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimResult {
    /// How long it took on the simulated board.
    pub latency: Nanos,
    /// Energy above the idle board; see [`super::Finished::energy`].
    pub energy: Microjoules,
    /// The unit's clock at the end; zero if it has none.
    pub clock: Kilohertz,
}

/// Why a simulated run gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// The board does not take the run.
    #[error("the simulated board refused the run: {0}")]
    Refused(String),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The board is gone.
    #[error("the simulated board is gone: {0}")]
    Lost(String),
}

/// A simulated board that runs can be begun on.
pub trait Accelerator: Send + Sync {
    /// Starts a run now.
    ///
    /// # Errors
    /// [`SimError::Refused`] if the unit is busy or unknown, [`SimError::Lost`] if the board is gone.
    fn begin(&self, unit: UnitId, work: Work) -> Result<Box<dyn SimRun>, SimError>;
}

/// A run in progress. Dropping it without [`SimRun::wait`] aborts it.
pub trait SimRun: Send {
    /// Blocks until the simulated board has finished the run.
    ///
    /// # Errors
    /// [`SimError::Cancelled`] or [`SimError::Lost`].
    fn wait(self: Box<Self>) -> Result<SimResult, SimError>;
    /// A handle that ends the run early, from any thread.
    fn canceller(&self) -> Arc<dyn SimCancel>;
    /// Whether the simulated board has already finished it.
    fn finished(&self) -> bool;
}

/// Ends a run early.
pub trait SimCancel: Send + Sync {
    /// Ends the run if it is still going; returns at once.
    fn cancel(&self);
}
