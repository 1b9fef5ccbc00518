//! The ONNX Runtime executor, through the `ort` crate and a library loaded at start-up.
//!
//! [`OrtRuntime`] is the library and its one environment per process, [`ExecUnit`] says which execution
//! provider runs a unit and how, [`OrtExecutor`] holds the unit's sessions and runs batches on them.

mod build;
mod executor;
pub(super) mod memory;
mod placement;
mod runtime;
mod session;
mod tensors;
mod unit;

pub use executor::{OrtExecutor, OrtSettings};
pub use runtime::{
    Attempt, LibraryCandidates, MINIMUM_VERSION, OrtRuntime, RuntimeError, TelemetryError, disable_telemetry,
};
pub use unit::{ExecUnit, UnitError, allowed_cpus};

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work` and turns a panic inside `ort` (it has some on the path of hostile models and broken
/// libraries) into a message.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(crate::exec::panic_message(&*panic)))
}
