//! The executor of one unit: its sessions, and the handle that cancels their runs.

use super::session::Loaded;
use super::{ExecUnit, OrtRuntime, UnitError, guarded, memory};
use crate::core::catalog::VariantId;
use crate::core::event::BatchId;
use crate::exec::cache::GraphCache;
use crate::exec::{Batch, Cancel, ExecError, Executor, Output, VariantFile};
use crate::units::Bytes;
use ort::session::RunOptions;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The largest model file: what a protocol buffer can hold.
const MAX_FILE: u64 = (1 << 31) - 1;

/// What the executors of all units share.
#[derive(Debug, Clone)]
pub struct OrtSettings {
    /// Optimised graphs of the CPU provider; `None` = optimise at every load.
    pub cache: Option<Arc<GraphCache>>,
    /// Largest model file in bytes.
    pub max_file: u64,
}

impl Default for OrtSettings {
    fn default() -> Self {
        Self { cache: None, max_file: MAX_FILE }
    }
}

/// Runs batches of one unit through ONNX Runtime. One run at a time.
#[derive(Debug)]
pub struct OrtExecutor {
    runtime: &'static OrtRuntime,
    unit: ExecUnit,
    settings: OrtSettings,
    /// A handful: a linear search beats a map.
    sessions: Vec<(VariantId, Loaded)>,
    cancel: Arc<OrtCancel>,
}

impl OrtExecutor {
    /// Registers the unit's provider library. All loads must come from one thread, which they bind to those of the
    /// unit's CPUs that are online by then.
    ///
    /// # Errors
    /// If the unit has no threads, names a provider that is not there, or its library is refused.
    pub fn new(
        runtime: &'static OrtRuntime,
        unit: ExecUnit,
        settings: OrtSettings,
    ) -> Result<Self, UnitError> {
        if unit.threads == 0 {
            return Err(UnitError::NoThreads { unit: unit.name });
        }
        if let Some(path) = &unit.provider_library {
            let refused = |source| UnitError::Library { unit: unit.name.clone(), source };
            runtime.register_provider_library(path).map_err(refused)?;
        }
        runtime.device(&unit)?;
        let options = RunOptions::new().map_err(|error| UnitError::Library {
            unit: unit.name.clone(),
            source: super::RuntimeError::Environment {
                library: runtime.version().to_owned(),
                message: error.to_string(),
            },
        })?;
        let cancel = Arc::new(OrtCancel { options, state: Mutex::default() });
        Ok(Self { runtime, unit, settings, sessions: Vec::new(), cancel })
    }
}

impl Executor for OrtExecutor {
    fn load(&mut self, variant: &VariantFile) -> Result<Bytes, ExecError> {
        if let Some((_, loaded)) = self.sessions.iter().find(|(id, _)| *id == variant.id) {
            return Ok(loaded.footprint());
        }
        let failed = |message| ExecError::Provider { variant: variant.name.clone(), message };
        self.unit.pin_current_thread().map_err(|error| failed(error.to_string()))?;
        let opened = guarded(|| Loaded::open(self.runtime, &self.unit, &self.settings, variant));
        let loaded = opened.map_err(failed)?;
        let footprint = loaded.footprint();
        self.sessions.push((variant.id, loaded));
        Ok(footprint)
    }

    fn unload(&mut self, variant: VariantId) {
        let Some(index) = self.sessions.iter().position(|(id, _)| *id == variant) else { return };
        let _guard = memory::measuring();
        drop(self.sessions.swap_remove(index));
        memory::trim_heap();
    }

    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError> {
        let loaded = self.sessions.iter_mut().find(|(id, _)| *id == batch.variant);
        let (_, loaded) = loaded.ok_or(ExecError::NotLoaded(batch.variant))?;
        let running = self.cancel.begin(batch.id).ok_or(ExecError::Cancelled)?;
        let ran = loaded.run(&batch.requests, &self.cancel.options);
        match ran {
            // Cancelled too late: the output is there.
            Ok(requests) => Ok(Output { requests, energy: None }),
            Err(_) if running.cancelled() => Err(ExecError::Cancelled),
            Err(message) => Err(ExecError::Provider { variant: loaded.name().to_owned(), message }),
        }
    }

    fn canceller(&self) -> Arc<dyn Cancel> {
        Arc::clone(&self.cancel) as Arc<dyn Cancel>
    }

    /// Other providers may keep contexts per thread.
    fn is_thread_bound(&self) -> bool {
        !self.unit.is_cpu_provider() || !self.unit.cpus.is_empty()
    }
}

/// Ends the run in progress through ONNX Runtime's terminate flag, which kernels check between nodes.
struct OrtCancel {
    options: RunOptions,
    state: Mutex<CancelState>,
}

#[derive(Debug, Default)]
struct CancelState {
    running: Option<BatchId>,
    /// The terminate flag is set.
    terminated: bool,
    /// Cancelled between leaving the lane's queue and the run; the lane cancels no other batch than the last
    /// that left it. Ids are never reused, so a late one is harmless.
    early: Option<BatchId>,
}

impl std::fmt::Debug for OrtCancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrtCancel").field("state", &*self.state()).finish_non_exhaustive()
    }
}

impl OrtCancel {
    fn state(&self) -> MutexGuard<'_, CancelState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the batch as running until the guard is dropped; `None` if it was cancelled before.
    fn begin(&self, batch: BatchId) -> Option<Running<'_>> {
        let mut state = self.state();
        if state.early == Some(batch) {
            state.early = None;
            return None;
        }
        state.running = Some(batch);
        Some(Running(self))
    }
}

impl Cancel for OrtCancel {
    fn cancel(&self, batch: BatchId) {
        let mut state = self.state();
        if state.running == Some(batch) {
            // Under the lock, so that it cannot hit the next batch.
            state.terminated = self.options.terminate().is_ok();
        } else {
            state.early = Some(batch);
        }
    }
}

/// While it lives, a cancellation hits the run.
struct Running<'c>(&'c OrtCancel);

impl Running<'_> {
    fn cancelled(&self) -> bool {
        self.0.state().terminated
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.running = None;
        if std::mem::take(&mut state.terminated) && self.0.options.unterminate().is_err() {
            tracing::error!("the terminate flag could not be cleared");
        }
    }
}
