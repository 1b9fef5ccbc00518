//! A lane: the named thread of one unit, fed through a bounded queue.
//!
//! ```text
//! daemon ── Run ───────────────▶ queue ──▶ lane-<unit> ──▶ Executor
//!    ▲  └── Load, Unload, probe ─▶ tasks ─▶ load-<unit> ──▶ Loader │
//!    └───────── LaneEvents, on the thread that did the work ───────┘
//! ```
//!
//! Loads and unloads have a thread of their own ([`loading`]): a load takes as long as hundreds of runs, and those that
//! are served meanwhile must not wait for it.
//!
//! To wake the lane's thread and be woken by it again takes as long as a small model. Where the thread sleeps,
//! who ordered a batch may therefore stand in for it: [`Lane::run_here`] carries the order out on the calling
//! thread, and what comes meanwhile waits for the lane's own.
//!
//! Batches are run in the order they came, and so are loads and unloads carried out among themselves; a batch is to be
//! ordered once its variant is known to be loaded. At most one batch waits while another runs, so that the
//! core keeps its choice for as long as it can and the unit never idles between two batches. A probe (timed
//! runs for the profiler) is carried out only while nothing else waits, one run at a time. Orders and events
//! are plain messages whose tensors lie in shareable buffers: a lane in a process of its own can replace
//! the threads.

mod loading;
mod worker;

use crate::core::catalog::{UnitId, VariantId};
use crate::core::event::{BatchId, Completion};
use crate::exec::{Batch, Cancel, ExecError, Executor, Loader, Output, Tensor, VariantFile};
use crate::time::{Clock, Timestamp};
use crate::units::{Bytes, Nanos};
use loading::{Loading, Porter, Prepared, Task};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use worker::{Step, Worker};

/// Batches that may wait while one runs.
const PREFETCHED: usize = 1;
/// Loads and unloads that may wait.
const QUEUE_LIMIT: usize = 64;
/// Probes that may be under way or wait.
const MAX_PROBES: usize = 2;
/// Id under which probes run; the core never gives it out.
const PROBE_BATCH: BatchId = BatchId(u64::MAX);
/// Deep graphs recurse; only what is touched is ever resident.
const STACK_BYTES: usize = 8 << 20;

/// Timed runs of one variant, for the profiler.
#[derive(Debug, Clone)]
pub struct ProbeRequest {
    /// Comes back in the report.
    pub id: u64,
    /// What to run. Loaded for the probe, and unloaded after it unless the core ordered it too.
    pub variant: VariantFile,
    /// The runs: per run, per request of its batch, the tensors.
    pub runs: Vec<Vec<Vec<Tensor>>>,
    /// How often the first run is done beforehand, untimed.
    pub warm_ups: u32,
}

/// One timed run.
#[derive(Debug, Clone)]
pub struct ProbeRun {
    /// Items in its batch.
    pub items: u32,
    /// When it began.
    pub started: Timestamp,
    /// How long it took.
    pub latency: Nanos,
    /// What came out, per request.
    pub outputs: Vec<Vec<Tensor>>,
}

/// What became of a probe.
#[derive(Debug)]
pub struct ProbeReport {
    /// The request's id.
    pub id: u64,
    /// The variant.
    pub variant: VariantId,
    /// Memory that the loaded variant holds.
    pub footprint: Bytes,
    /// The timed runs, or why they ended early.
    pub result: Result<Vec<ProbeRun>, ExecError>,
}

/// What a lane tells. Called on the thread that did the work, which does that of the answer as well and so saves
/// a hop to another thread: keep it short, and do not wait for this lane in it.
pub trait LaneEvents: Send + Sync {
    /// The variant is loaded.
    fn loaded(&self, unit: UnitId, variant: VariantId, footprint: Bytes);
    /// The variant could not be loaded.
    fn load_failed(&self, unit: UnitId, variant: VariantId, error: &ExecError);
    /// The variant is unloaded.
    fn unloaded(&self, unit: UnitId, variant: VariantId);
    /// A batch ended: exactly once for every accepted one.
    fn completed(&self, completion: Completion, result: Result<Output, ExecError>);
    /// A probe ended: exactly once for every accepted one.
    fn probed(&self, unit: UnitId, report: ProbeReport);
}

/// Why a lane did not take an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A batch, a probe or too many loads wait already.
    #[error("the lane's queue is full")]
    Full,
    /// It is ending.
    #[error("the lane is ending")]
    Ending,
}

/// Why there is no lane.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The thread could not be made.
    #[error("lane {name}: {source}")]
    Thread {
        /// Name of the unit.
        name: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The executor could not be made.
    #[error("lane {name}: {source}")]
    Executor {
        /// Name of the unit.
        name: String,
        /// Its reason.
        source: BoxError,
    },
}

/// Any error of an executor's constructor.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An order in the queue.
#[derive(Debug)]
enum Order {
    Run(Batch),
    /// A batch that was cancelled while it waited.
    Cancelled(BatchId),
}

/// Who works for the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Hands {
    /// Its thread, or nobody yet, as the thread is about to start.
    #[default]
    Thread,
    /// Nobody: the thread sleeps. Only then is waking it worth a system call.
    Nobody,
    /// An order came while the thread slept; whoever gave it wakes the thread or stands in for it.
    Called,
    /// A caller who stands in for the thread, which is to leave the queue alone.
    Caller,
}

#[derive(Debug, Default)]
struct Queue {
    orders: VecDeque<Order>,
    /// Batches among the orders.
    batches: usize,
    /// What left the queue last, if it can be cancelled.
    running: Option<BatchId>,
    /// Ready to run.
    probes: VecDeque<Prepared>,
    /// Probes that are not reported yet.
    open_probes: usize,
    ending: bool,
    hands: Hands,
}

impl Queue {
    /// The next order, which counts as running from now on.
    fn take(&mut self) -> Option<Order> {
        let order = self.orders.pop_front()?;
        if let Order::Run(batch) = &order {
            self.running = Some(batch.id);
            self.batches -= 1;
        }
        Some(order)
    }

    /// Nothing waits for the thread.
    fn is_idle(&self) -> bool {
        self.orders.is_empty() && self.probes.is_empty() && !self.ending
    }
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a probe to the lane's thread; gives it back if that is ending.
    fn offer(&self, probe: Prepared) -> Option<Prepared> {
        let mut queue = self.queue();
        if queue.ending {
            return Some(probe);
        }
        queue.probes.push_back(probe);
        drop(queue);
        self.wake.notify_one();
        None
    }

    /// A probe is about to be reported.
    fn probe_over(&self) {
        let mut queue = self.queue();
        queue.open_probes = queue.open_probes.saturating_sub(1);
    }
}

/// The handle of a lane. Dropping it cancels what runs, answers what waits, and joins the threads.
pub struct Lane {
    shared: Arc<Shared>,
    loading: Arc<Loading>,
    cancel: Arc<dyn Cancel>,
    /// Held while an order is carried out; `None` if only the lane's thread may do that.
    worker: Option<Arc<Mutex<Worker>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the lane's thread tells of its executor.
type Made = (Arc<dyn Cancel>, Arc<dyn Loader>, Option<Arc<Mutex<Worker>>>);

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Lane {
    /// Starts the threads `lane-<name>` and `load-<name>`, and makes the executor on the first.
    ///
    /// # Errors
    /// If a thread or the executor cannot be made.
    pub fn spawn<F>(
        name: &str,
        unit: UnitId,
        make_executor: F,
        events: Arc<dyn LaneEvents>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LaneError>
    where
        F: FnOnce() -> Result<Box<dyn Executor>, BoxError> + Send + 'static,
    {
        let (shared, loading) = (Arc::new(Shared::default()), Arc::new(Loading::default()));
        let (ready, made) = mpsc::sync_channel::<Result<Made, BoxError>>(1);
        let (queue, tasks, told) = (Arc::clone(&shared), Arc::clone(&loading), Arc::clone(&events));
        let work = move || {
            let executor = catch_unwind(AssertUnwindSafe(make_executor))
                .unwrap_or_else(|panic| Err(crate::exec::panic_message(&*panic).into()));
            match executor {
                Ok(executor) => {
                    let (cancel, loader) = (executor.canceller(), executor.loader());
                    let bound = executor.is_thread_bound();
                    let worker = Worker::new(unit, executor, events, clock, Arc::clone(&queue), tasks);
                    let worker = Arc::new(Mutex::new(worker));
                    // The spawner waits for it.
                    let _ = ready.send(Ok((cancel, loader, (!bound).then(|| Arc::clone(&worker)))));
                    worker::work(&queue, &worker);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = start(name, format!("lane-{name}"), work)?;
        let made = made.recv().unwrap_or_else(|gone| Err(Box::new(gone)));
        let (cancel, loader, worker) =
            made.map_err(|source| LaneError::Executor { name: name.to_owned(), source })?;
        let lane = Self {
            shared: Arc::clone(&shared),
            loading: Arc::clone(&loading),
            cancel,
            worker,
            threads: Mutex::new(vec![thread]),
        };
        let porter = Porter { unit, loader, events: told, lane: shared };
        let porter = start(name, format!("load-{name}"), move || porter.work(&loading))?;
        lane.threads.lock().unwrap_or_else(PoisonError::into_inner).push(porter);
        Ok(lane)
    }

    /// Loads a variant; [`LaneEvents::loaded`] or [`LaneEvents::load_failed`] follows.
    ///
    /// # Errors
    /// If too many of them wait, or the lane is ending.
    pub fn load(&self, variant: VariantFile) -> Result<(), Refused> {
        self.loading.put(Task::Load(variant))
    }

    /// Unloads a variant; [`LaneEvents::unloaded`] follows.
    ///
    /// # Errors
    /// If too many of them wait, or the lane is ending.
    pub fn unload(&self, variant: VariantId) -> Result<(), Refused> {
        self.loading.put(Task::Unload(variant))
    }

    /// Runs a batch; [`LaneEvents::completed`] follows.
    ///
    /// # Errors
    /// If a batch waits already, or the lane is ending.
    pub fn run(&self, batch: Batch) -> Result<(), Refused> {
        if self.enqueue(batch)? {
            self.wake();
        }
        Ok(())
    }

    /// As [`Lane::run`], but leaves it to the caller to [`Lane::wake`] the thread or [`Lane::run_here`] if the
    /// answer is true: a caller that holds a lock, which the thread will soon want, does so after it let go of
    /// the lock.
    ///
    /// # Errors
    /// As [`Lane::run`].
    pub fn enqueue(&self, batch: Batch) -> Result<bool, Refused> {
        let mut queue = self.shared.queue();
        if queue.ending {
            return Err(Refused::Ending);
        }
        if queue.batches >= PREFETCHED || queue.orders.len() >= QUEUE_LIMIT {
            return Err(Refused::Full);
        }
        queue.batches += 1;
        queue.orders.push_back(Order::Run(batch));
        let asleep = queue.hands == Hands::Nobody;
        if asleep {
            queue.hands = Hands::Called;
        }
        Ok(asleep)
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Runs the batch that was just enqueued on the calling thread, if the lane's thread sleeps and need not be
    /// the one; wakes that otherwise. Returns when [`LaneEvents::completed`] was called. For brief batches.
    pub fn run_here(&self) {
        let Some(worker) = &self.worker else { return self.wake() };
        let batch = {
            let mut queue = self.shared.queue();
            match queue.orders.front() {
                Some(Order::Run(_)) if queue.hands == Hands::Called && !queue.ending => {}
                _ => return self.wake(),
            }
            queue.hands = Hands::Caller;
            queue.take()
        };
        if let Some(order) = batch {
            Worker::lock(worker).step(Step::Order(order));
        }
        let mut queue = self.shared.queue();
        queue.running = None;
        queue.hands = if queue.is_idle() { Hands::Nobody } else { Hands::Thread };
        if queue.hands == Hands::Thread {
            drop(queue);
            self.wake();
        }
    }

    /// Does timed runs while nothing else waits; [`LaneEvents::probed`] follows.
    ///
    /// # Errors
    /// If a probe waits already, too many tasks wait, or the lane is ending.
    pub fn probe(&self, request: ProbeRequest) -> Result<(), Refused> {
        let mut queue = self.shared.queue();
        if queue.ending {
            return Err(Refused::Ending);
        }
        if queue.open_probes >= MAX_PROBES {
            return Err(Refused::Full);
        }
        queue.open_probes += 1;
        drop(queue);
        self.loading.put(Task::Prepare(request)).inspect_err(|_| self.shared.probe_over())
    }

    /// Cancels a batch, whether it waits or runs; a no-op if it is gone. The completion follows in any case.
    pub fn cancel(&self, batch: BatchId) {
        let mut queue = self.shared.queue();
        let waiting = queue.orders.iter_mut().find(|order| matches!(order, Order::Run(b) if b.id == batch));
        if let Some(order) = waiting {
            *order = Order::Cancelled(batch);
            queue.batches -= 1;
            return;
        }
        let running = queue.running == Some(batch);
        drop(queue);
        if running {
            self.cancel.cancel(batch);
        }
    }
}

impl Lane {
    /// Cancels what runs, answers what waits, and waits for the threads. Nothing is taken from then on.
    pub fn end(&self) {
        let running = {
            let mut queue = self.shared.queue();
            queue.ending = true;
            queue.running
        };
        self.shared.wake.notify_one();
        self.loading.end();
        if let Some(batch) = running {
            self.cancel.cancel(batch);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // A callback that holds the last handle ends its own lane: it cannot wait for itself.
        for thread in threads.into_iter().filter(|one| one.thread().id() != std::thread::current().id()) {
            if thread.join().is_err() {
                tracing::error!("a lane's thread panicked");
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a thread of a lane. The kernel shows 15 characters of its name.
fn start(
    lane: &str,
    name: String,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, LaneError> {
    let builder = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
    builder.spawn(work).map_err(|source| LaneError::Thread { name: lane.to_owned(), source })
}

#[cfg(test)]
mod tests;
