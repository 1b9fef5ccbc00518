//! The executor of one unit, what loads its sessions, and the handle that cancels their runs.

use super::session::Loaded;
use super::{ExecUnit, OrtRuntime, UnitError, guarded, memory};
use crate::core::catalog::VariantId;
use crate::core::event::BatchId;
use crate::exec::cache::GraphCache;
use crate::exec::{Batch, Cancel, ExecError, Executor, Loader, Output, VariantFile};
use crate::units::Bytes;
use ort::session::RunOptions;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Priority of a thread that loads, as nice(2) counts: a run beside it goes first, and has nine times its share of a
/// processor that both want.
const LOADING_NICENESS: i32 = 10;

/// Runs batches of one unit through ONNX Runtime. One run at a time.
#[derive(Debug)]
pub struct OrtExecutor {
    loader: Arc<OrtLoader>,
    cancel: Arc<OrtCancel>,
    /// Loads before this thread was bound to the unit's CPUs: after one there may be others.
    bound_after: u64,
}

/// Makes the sessions of one unit, and holds them.
#[derive(Debug)]
struct OrtLoader {
    runtime: &'static OrtRuntime,
    unit: ExecUnit,
    settings: OrtSettings,
    /// A handful: a linear search beats a map.
    sessions: Mutex<Vec<(VariantId, Session)>>,
    /// How many there have been.
    loads: AtomicU64,
}

/// Shared with the run that uses it.
type Session = Arc<Mutex<Loaded>>;

impl OrtExecutor {
    /// Registers the unit's provider library. Loads of a unit with several threads bind the thread that they come from to
    /// those of the unit's CPUs that are online by then, and the first run after a load does so with its own.
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
        Ok(Self {
            loader: Arc::new(OrtLoader {
                runtime,
                unit,
                settings,
                sessions: Mutex::default(),
                loads: AtomicU64::default(),
            }),
            cancel,
            bound_after: 0,
        })
    }
}

impl OrtLoader {
    fn sessions(&self) -> MutexGuard<'_, Vec<(VariantId, Session)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, variant: VariantId) -> Option<Session> {
        self.sessions().iter().find(|(id, _)| *id == variant).map(|(_, session)| Arc::clone(session))
    }
}

impl Loader for OrtLoader {
    fn enter_thread(&self) {
        // The threads of a session's pool would inherit it.
        if self.unit.threads == 1
            && let Err(error) = rustix::process::setpriority_process(None, LOADING_NICENESS)
        {
            tracing::warn!(unit = %self.unit.name, %error, "variants are loaded at the priority of runs");
        }
    }

    fn load(&self, variant: &VariantFile) -> Result<Bytes, ExecError> {
        if let Some(session) = self.session(variant.id) {
            return Ok(lock(&session).footprint());
        }
        memory::check_room(variant)?;
        let failed = |message| ExecError::Provider { variant: variant.name.clone(), message };
        if self.unit.threads > 1 {
            // The threads of its pool inherit where this one is bound to.
            self.unit.pin_current_thread().map_err(|error| failed(error.to_string()))?;
        }
        let opened = guarded(|| Loaded::open(self.runtime, &self.unit, &self.settings, variant));
        let loaded = opened
            .map_err(|message| memory::shortage(variant, &message).unwrap_or_else(|| failed(message)))?;
        let footprint = loaded.footprint();
        self.sessions().push((variant.id, Arc::new(Mutex::new(loaded))));
        self.loads.fetch_add(1, Ordering::Relaxed);
        Ok(footprint)
    }

    fn unload(&self, variant: VariantId) {
        let unloaded = {
            let mut sessions = self.sessions();
            let index = sessions.iter().position(|(id, _)| *id == variant);
            index.map(|index| sessions.swap_remove(index))
        };
        if let Some(session) = unloaded {
            let _guard = memory::measuring();
            drop(session);
            memory::trim_heap();
        }
    }
}

fn lock(session: &Session) -> MutexGuard<'_, Loaded> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor for OrtExecutor {
    fn loader(&self) -> Arc<dyn Loader> {
        Arc::clone(&self.loader) as Arc<dyn Loader>
    }

    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError> {
        let session = self.loader.session(batch.variant).ok_or(ExecError::NotLoaded(batch.variant))?;
        let mut loaded = lock(&session);
        let loads = self.loader.loads.load(Ordering::Relaxed);
        if self.bound_after != loads {
            let bound = self.loader.unit.pin_current_thread();
            bound.map_err(|error| ExecError::Provider {
                variant: loaded.name().to_owned(),
                message: error.to_string(),
            })?;
            self.bound_after = loads;
        }
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
        !self.loader.unit.is_cpu_provider() || !self.loader.unit.cpus.is_empty()
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
