//! An executor on a simulated processor: real outputs, simulated time and energy.
//!
//! A batch begins on the simulated board, runs for real through the wrapped executor, and is held until
//! the simulated board would have had the result. So a CPU computes what a GPU of another board would
//! have answered, when it would have answered, and at the energy that it would have cost.

use crate::board::sim::{Accelerator, Precision, SimCancel, SimError, Work};
use crate::core::catalog::{UnitId, VariantId};
use crate::core::event::BatchId;
use crate::exec::{Batch, Cancel, ExecError, Executor, Loader, Output, VariantFile};
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Wraps the executor that computes the real outputs of one unit of a simulated board.
pub struct SimExecutor<E> {
    inner: E,
    accelerator: Arc<dyn Accelerator>,
    unit: UnitId,
    loader: Arc<SimLoader>,
    lane: Arc<Lane>,
    overruns: Arc<AtomicU64>,
}

/// Takes note of what the wrapped executor loads.
struct SimLoader {
    inner: Arc<dyn Loader>,
    variants: Mutex<BTreeMap<VariantId, Size>>,
}

/// What the simulated board needs to know of a loaded variant.
#[derive(Debug, Clone)]
struct Size {
    name: String,
    macs: u64,
    traffic_bytes: u64,
    precision: Precision,
}

/// The run in progress, seen from the canceller.
struct Lane {
    current: Mutex<Current>,
    inner: Arc<dyn Cancel>,
}

#[derive(Default)]
struct Current {
    batch: Option<BatchId>,
    run: Option<Arc<dyn SimCancel>>,
    cancelled: bool,
}

impl<E: Executor> SimExecutor<E> {
    /// Runs on `unit` of the board behind `accelerator`, with outputs from `inner`.
    pub fn new(inner: E, accelerator: Arc<dyn Accelerator>, unit: UnitId) -> Self {
        let lane = Arc::new(Lane { current: Mutex::default(), inner: inner.canceller() });
        let loader = Arc::new(SimLoader { inner: inner.loader(), variants: Mutex::default() });
        Self { inner, accelerator, unit, loader, lane, overruns: Arc::default() }
    }

    /// Counts the runs whose real computation took longer than the simulated one: their answers came later
    /// than the simulated board's would have.
    #[must_use]
    pub fn overruns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.overruns)
    }

    fn simulate(&mut self, batch: &Batch, size: &Size) -> Result<Output, ExecError> {
        let work = Work::of_size(size.macs, size.traffic_bytes, size.precision, items(batch));
        let provider = |e: SimError| match e {
            SimError::Cancelled => ExecError::Cancelled,
            other => ExecError::Provider { variant: size.name.clone(), message: other.to_string() },
        };
        let run = self.accelerator.begin(self.unit, work).map_err(provider)?;
        if !self.lane.attach(run.canceller()) {
            return Err(ExecError::Cancelled);
        }
        // On an error the run is dropped, which aborts it on the simulated board too.
        let mut output = self.inner.run(batch)?;
        if run.finished() {
            self.overruns.fetch_add(1, Ordering::Relaxed);
        }
        let result = run.wait().map_err(provider)?;
        output.energy = Some(result.energy);
        Ok(output)
    }
}

/// Items over all requests of a batch: the first dimension of each one's first tensor.
fn items(batch: &Batch) -> u32 {
    let of = |request: &Vec<crate::exec::Tensor>| request.first().and_then(|t| t.shape.first()).copied();
    let total: usize = batch.requests.iter().map(|request| of(request).unwrap_or(1)).sum();
    u32::try_from(total).unwrap_or(u32::MAX).max(1)
}

impl SimLoader {
    fn variants(&self) -> MutexGuard<'_, BTreeMap<VariantId, Size>> {
        self.variants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loader for SimLoader {
    fn enter_thread(&self) {
        self.inner.enter_thread();
    }

    fn load(&self, variant: &VariantFile) -> Result<Bytes, ExecError> {
        let footprint = self.inner.load(variant)?;
        let size = Size {
            name: variant.name.clone(),
            macs: variant.macs,
            traffic_bytes: variant.traffic_bytes,
            precision: Precision::from_manifest(&variant.precision),
        };
        self.variants().insert(variant.id, size);
        Ok(footprint)
    }

    fn unload(&self, variant: VariantId) {
        self.variants().remove(&variant);
        self.inner.unload(variant);
    }
}

impl<E: Executor> Executor for SimExecutor<E> {
    fn loader(&self) -> Arc<dyn Loader> {
        Arc::clone(&self.loader) as Arc<dyn Loader>
    }

    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError> {
        let Some(size) = self.loader.variants().get(&batch.variant).cloned() else {
            return Err(ExecError::NotLoaded(batch.variant));
        };
        self.lane.enter(batch.id);
        let result = self.simulate(batch, &size);
        self.lane.leave();
        result
    }

    fn canceller(&self) -> Arc<dyn Cancel> {
        Arc::clone(&self.lane) as Arc<dyn Cancel>
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, batch: BatchId) {
        *self.lock() = Current { batch: Some(batch), run: None, cancelled: false };
    }

    /// Makes the simulated run reachable for the canceller; false if that has been called already.
    fn attach(&self, run: Arc<dyn SimCancel>) -> bool {
        let mut current = self.lock();
        current.run = Some(run);
        !current.cancelled
    }

    fn leave(&self) {
        *self.lock() = Current::default();
    }
}

impl Cancel for Lane {
    fn cancel(&self, batch: BatchId) {
        let run = {
            let mut current = self.lock();
            if current.batch != Some(batch) {
                return;
            }
            current.cancelled = true;
            current.run.take()
        };
        if let Some(run) = run {
            run.cancel();
        }
        self.inner.cancel(batch);
    }
}

#[cfg(test)]
mod tests;
