//! The side of a lane that brings variants into memory and out of it, on the thread `load-<unit>`: a load takes as long
//! as hundreds of runs, and the lane serves meanwhile.

use super::{LaneEvents, ProbeReport, ProbeRequest, QUEUE_LIMIT, Refused, Shared};
use crate::core::catalog::{UnitId, VariantId};
use crate::exec::{ExecError, Loader, VariantFile};
use crate::units::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What is to be done, in order.
#[derive(Debug)]
pub(super) enum Task {
    Load(VariantFile),
    Unload(VariantId),
    /// Loads what a probe runs, and hands the probe to the lane.
    Prepare(ProbeRequest),
    /// A probe of that variant is over.
    Release(VariantId),
}

#[derive(Debug, Default)]
struct Tasks {
    waiting: VecDeque<Task>,
    ending: bool,
}

/// The tasks of one lane.
#[derive(Debug, Default)]
pub(super) struct Loading {
    tasks: Mutex<Tasks>,
    wake: Condvar,
}

/// A probe whose variant is loaded.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) request: ProbeRequest,
    pub(super) footprint: Bytes,
}

impl Loading {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task. The release of a probe is never refused: there are no more of them than probes.
    pub(super) fn put(&self, task: Task) -> Result<(), Refused> {
        let mut tasks = self.tasks();
        if tasks.ending {
            return Err(Refused::Ending);
        }
        if tasks.waiting.len() >= QUEUE_LIMIT && !matches!(task, Task::Release(_)) {
            return Err(Refused::Full);
        }
        tasks.waiting.push_back(task);
        drop(tasks);
        self.wake.notify_one();
        Ok(())
    }

    /// Lets the thread return once it is done with what it does.
    pub(super) fn end(&self) {
        self.tasks().ending = true;
        self.wake.notify_one();
    }

    /// The next task; `None` at the end.
    fn next(&self) -> Option<Task> {
        let mut tasks = self.tasks();
        loop {
            if tasks.ending {
                return None;
            }
            if let Some(task) = tasks.waiting.pop_front() {
                return Some(task);
            }
            tasks = self.wake.wait(tasks).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What carries the tasks out.
pub(super) struct Porter {
    pub(super) unit: UnitId,
    pub(super) loader: Arc<dyn Loader>,
    pub(super) events: Arc<dyn LaneEvents>,
    pub(super) lane: Arc<Shared>,
}

impl Porter {
    /// The life of the thread.
    pub(super) fn work(&self, loading: &Loading) {
        self.loader.enter_thread();
        // What the core ordered: a probe leaves it loaded.
        let mut ordered = BTreeSet::new();
        while let Some(task) = loading.next() {
            let done = catch_unwind(AssertUnwindSafe(|| self.carry_out(task, &mut ordered)));
            if let Err(panic) = done {
                let message = crate::exec::panic_message(&*panic);
                tracing::error!(unit = self.unit.0, %message, "an event handler of a lane failed");
            }
        }
        for task in std::mem::take(&mut loading.tasks().waiting) {
            if let Task::Prepare(request) = task {
                self.refuse(&request, ExecError::Cancelled);
            }
        }
    }

    fn carry_out(&self, task: Task, ordered: &mut BTreeSet<VariantId>) {
        match task {
            Task::Load(variant) => match self.load(&variant) {
                Ok(footprint) => {
                    ordered.insert(variant.id);
                    self.events.loaded(self.unit, variant.id, footprint);
                }
                Err(error) => self.events.load_failed(self.unit, variant.id, &error),
            },
            Task::Unload(variant) => {
                ordered.remove(&variant);
                self.unload(variant);
                self.events.unloaded(self.unit, variant);
            }
            Task::Prepare(request) => match self.load(&request.variant) {
                Ok(footprint) => {
                    if let Some(Prepared { request, .. }) = self.lane.offer(Prepared { request, footprint }) {
                        self.refuse(&request, ExecError::Cancelled);
                    }
                }
                Err(error) => self.refuse(&request, error),
            },
            Task::Release(variant) if !ordered.contains(&variant) => self.unload(variant),
            Task::Release(_) => {}
        }
    }

    /// A probe that never ran.
    fn refuse(&self, request: &ProbeRequest, error: ExecError) {
        self.lane.probe_over();
        let (id, variant) = (request.id, request.variant.id);
        self.events
            .probed(self.unit, ProbeReport { id, variant, footprint: Bytes::ZERO, result: Err(error) });
    }

    fn load(&self, variant: &VariantFile) -> Result<Bytes, ExecError> {
        catch_unwind(AssertUnwindSafe(|| self.loader.load(variant)))
            .unwrap_or_else(|panic| Err(super::worker::lost(&variant.name, &*panic)))
    }

    fn unload(&self, variant: VariantId) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.loader.unload(variant))) {
            let message = crate::exec::panic_message(&*panic);
            tracing::error!(unit = self.unit.0, variant = variant.0, %message, "unloading failed");
        }
    }
}
