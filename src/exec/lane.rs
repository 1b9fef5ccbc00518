//! A lane: the named thread of one unit, fed through a bounded queue.
//!
//! ```text
//! daemon ── Load, Unload, Run, probe ──▶ queue ──▶ lane-<unit> ──▶ Executor
//!    ▲                                                  │
//!    └────────────── LaneEvents, on the lane's thread ──┘
//! ```
//!
//! Orders are carried out in the order they came. At most one batch waits while another runs, so that the
//! core keeps its choice for as long as it can and the unit never idles between two batches. A probe (timed
//! runs for the profiler) is carried out only while nothing else waits, one run at a time. Orders and events
//! are plain messages whose tensors lie in shareable buffers: a lane in a process of its own can replace
//! the thread.

use crate::core::catalog::{UnitId, VariantId};
use crate::core::event::{BatchFailure, BatchId, Completion};
use crate::exec::{Batch, Cancel, ExecError, Executor, Output, Tensor, VariantFile};
use crate::time::{Clock, Timestamp};
use crate::units::{Bytes, Nanos};
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

/// Batches that may wait while one runs.
const PREFETCHED: usize = 1;
/// Orders that may wait, batches included.
const QUEUE_LIMIT: usize = 64;
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

/// What a lane tells. Called on the lane's thread, which does the work of the answer itself and so saves a
/// hop to another thread: keep it short, and do not wait for this lane in it.
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
    /// A batch, a probe or too many orders wait already.
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
    Load(VariantFile),
    Unload(VariantId),
    Run(Batch),
    /// A batch that was cancelled while it waited.
    Cancelled(BatchId),
}

/// A probe under way.
#[derive(Debug)]
struct Probing {
    request: ProbeRequest,
    footprint: Option<Bytes>,
    warmed: u32,
    runs: Vec<ProbeRun>,
}

#[derive(Debug, Default)]
struct Queue {
    orders: VecDeque<Order>,
    /// Batches among the orders.
    batches: usize,
    /// What left the queue last, if it can be cancelled.
    running: Option<BatchId>,
    probe: Option<ProbeRequest>,
    ending: bool,
    /// The thread sleeps: only then is waking it worth a system call.
    asleep: bool,
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
}

/// The handle of a lane. Dropping it cancels what runs, answers what waits, and joins the thread.
pub struct Lane {
    shared: Arc<Shared>,
    cancel: Arc<dyn Cancel>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Lane {
    /// Starts the thread `lane-<name>` and makes the executor on it.
    ///
    /// # Errors
    /// If the thread or the executor cannot be made.
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
        let shared = Arc::new(Shared::default());
        let (ready, made) = mpsc::sync_channel(1);
        let queue = Arc::clone(&shared);
        let work = move || {
            let executor = catch_unwind(AssertUnwindSafe(make_executor))
                .unwrap_or_else(|panic| Err(crate::exec::panic_message(&*panic).into()));
            match executor {
                Ok(executor) => {
                    // The spawner waits for it.
                    let _ = ready.send(Ok(executor.canceller()));
                    let ordered = BTreeSet::new();
                    Worker { unit, shared: queue, executor, events, clock, ordered, probing: None }.work();
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        // The kernel shows 15 characters.
        let builder = std::thread::Builder::new().name(format!("lane-{name}")).stack_size(STACK_BYTES);
        let thread =
            builder.spawn(work).map_err(|source| LaneError::Thread { name: name.to_owned(), source })?;
        let cancel = made.recv().unwrap_or_else(|gone| Err(Box::new(gone)));
        let cancel = cancel.map_err(|source| LaneError::Executor { name: name.to_owned(), source })?;
        Ok(Self { shared, cancel, thread: Mutex::new(Some(thread)) })
    }

    /// Loads a variant; [`LaneEvents::loaded`] or [`LaneEvents::load_failed`] follows.
    ///
    /// # Errors
    /// If too many orders wait, or the lane is ending.
    pub fn load(&self, variant: VariantFile) -> Result<(), Refused> {
        self.order(Order::Load(variant))
    }

    /// Unloads a variant; [`LaneEvents::unloaded`] follows.
    ///
    /// # Errors
    /// If too many orders wait, or the lane is ending.
    pub fn unload(&self, variant: VariantId) -> Result<(), Refused> {
        self.order(Order::Unload(variant))
    }

    /// Runs a batch; [`LaneEvents::completed`] follows.
    ///
    /// # Errors
    /// If a batch waits already, too many orders wait, or the lane is ending.
    pub fn run(&self, batch: Batch) -> Result<(), Refused> {
        self.order(Order::Run(batch))
    }

    /// As [`Lane::run`], but leaves it to the caller to [`Lane::wake`] the thread if the answer is true: a
    /// caller that holds a lock, which the thread will soon want, does so after it let go of the lock.
    ///
    /// # Errors
    /// As [`Lane::run`].
    pub fn enqueue(&self, batch: Batch) -> Result<bool, Refused> {
        self.put(Order::Run(batch))
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Does timed runs while nothing else waits; [`LaneEvents::probed`] follows.
    ///
    /// # Errors
    /// If a probe waits already, or the lane is ending.
    pub fn probe(&self, request: ProbeRequest) -> Result<(), Refused> {
        let mut queue = self.shared.queue();
        if queue.ending {
            return Err(Refused::Ending);
        }
        if queue.probe.is_some() {
            return Err(Refused::Full);
        }
        queue.probe = Some(request);
        drop(queue);
        self.shared.wake.notify_one();
        Ok(())
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

    fn order(&self, order: Order) -> Result<(), Refused> {
        if self.put(order)? {
            self.wake();
        }
        Ok(())
    }

    /// Adds an order; whether the thread sleeps and has to be woken.
    fn put(&self, order: Order) -> Result<bool, Refused> {
        let mut queue = self.shared.queue();
        let is_batch = matches!(order, Order::Run(_));
        if queue.ending {
            return Err(Refused::Ending);
        }
        if queue.orders.len() >= QUEUE_LIMIT || (is_batch && queue.batches >= PREFETCHED) {
            return Err(Refused::Full);
        }
        queue.batches += usize::from(is_batch);
        queue.orders.push_back(order);
        Ok(std::mem::take(&mut queue.asleep))
    }
}

impl Lane {
    /// Cancels what runs, answers what waits, and waits for the thread. Nothing is taken from then on.
    pub fn end(&self) {
        let running = {
            let mut queue = self.shared.queue();
            queue.ending = true;
            queue.running
        };
        self.shared.wake.notify_one();
        if let Some(batch) = running {
            self.cancel.cancel(batch);
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // A callback that holds the last handle ends its own lane: it cannot wait for itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("a lane's thread panicked");
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread does next.
enum Step {
    Order(Order),
    Probe,
    End,
}

/// The thread's side.
struct Worker {
    unit: UnitId,
    shared: Arc<Shared>,
    executor: Box<dyn Executor>,
    events: Arc<dyn LaneEvents>,
    clock: Arc<dyn Clock>,
    /// Variants that the core had loaded here: a probe leaves them loaded.
    ordered: BTreeSet<VariantId>,
    probing: Option<Probing>,
}

impl Worker {
    fn work(mut self) {
        loop {
            let step = self.next();
            let end = matches!(step, Step::End);
            // The executor's panics are caught closer by; this is the callbacks' last net.
            let done = catch_unwind(AssertUnwindSafe(|| match step {
                Step::Order(order) => self.carry_out(order),
                Step::Probe => self.probe_step(),
                Step::End => self.end(),
            }));
            if let Err(panic) = done {
                let message = crate::exec::panic_message(&*panic);
                tracing::error!(unit = self.unit.0, %message, "an event handler of a lane failed");
            }
            if end {
                return;
            }
        }
    }

    fn next(&mut self) -> Step {
        let mut queue = self.shared.queue();
        loop {
            if queue.ending {
                return Step::End;
            }
            queue.running = None;
            if let Some(order) = queue.orders.pop_front() {
                if let Order::Run(batch) = &order {
                    queue.running = Some(batch.id);
                    queue.batches -= 1;
                }
                return Step::Order(order);
            }
            if let Some(request) = queue.probe.take_if(|_| self.probing.is_none()) {
                self.probing = Some(Probing { request, footprint: None, warmed: 0, runs: Vec::new() });
            }
            if self.probing.is_some() {
                queue.running = Some(PROBE_BATCH);
                return Step::Probe;
            }
            queue.asleep = true;
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.asleep = false;
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Load(variant) => match self.load(&variant) {
                Ok(footprint) => {
                    self.ordered.insert(variant.id);
                    self.events.loaded(self.unit, variant.id, footprint);
                }
                Err(error) => self.events.load_failed(self.unit, variant.id, &error),
            },
            Order::Unload(variant) => {
                self.ordered.remove(&variant);
                self.unload(variant);
                self.events.unloaded(self.unit, variant);
            }
            Order::Run(batch) => {
                let started = self.clock.now();
                let result = self.run(&batch);
                let finished = self.clock.now();
                self.complete(batch.id, started, finished, result);
            }
            Order::Cancelled(batch) => {
                let now = self.clock.now();
                self.complete(batch, now, now, Err(ExecError::Cancelled));
            }
        }
    }

    fn complete(
        &self,
        batch: BatchId,
        started: Timestamp,
        finished: Timestamp,
        result: Result<Output, ExecError>,
    ) {
        let energy = result.as_ref().ok().and_then(|output| output.energy);
        let outcome = result.as_ref().map(|_| ()).map_err(|error| match error {
            ExecError::Cancelled => BatchFailure::Cancelled,
            ExecError::NotLoaded(_) => BatchFailure::NotLoaded,
            ExecError::Provider { .. } => BatchFailure::Provider,
        });
        let completion = Completion { batch, started, finished, energy, result: outcome };
        self.events.completed(completion, result);
    }

    /// Answers everything that waits.
    fn end(&mut self) {
        let (orders, probe) = {
            let mut queue = self.shared.queue();
            queue.batches = 0;
            (std::mem::take(&mut queue.orders), queue.probe.take())
        };
        let now = self.clock.now();
        for order in orders {
            if let Order::Run(Batch { id, .. }) | Order::Cancelled(id) = order {
                self.complete(id, now, now, Err(ExecError::Cancelled));
            }
        }
        let footprint = Bytes::ZERO;
        let underway = self.probing.take().map(|probing| probing.request);
        for ProbeRequest { id, variant, .. } in underway.into_iter().chain(probe) {
            let result = Err(ExecError::Cancelled);
            self.events.probed(self.unit, ProbeReport { id, variant: variant.id, footprint, result });
        }
    }

    /// Loads, warms up, or does one run of the probe under way.
    fn probe_step(&mut self) {
        let Some(mut probing) = self.probing.take() else { return };
        match self.probe_once(&mut probing) {
            Ok(()) if probing.runs.len() < probing.request.runs.len() => self.probing = Some(probing),
            Ok(()) => {
                let runs = std::mem::take(&mut probing.runs);
                self.probe_done(&probing, Ok(runs));
            }
            Err(error) => self.probe_done(&probing, Err(error)),
        }
    }

    fn probe_once(&mut self, probing: &mut Probing) -> Result<(), ExecError> {
        let variant = &probing.request.variant;
        if probing.footprint.is_none() {
            probing.footprint = Some(self.load(variant)?);
            return Ok(());
        }
        let warming = probing.warmed < probing.request.warm_ups;
        let next = if warming { 0 } else { probing.runs.len() };
        let Some(requests) = probing.request.runs.get(next) else { return Ok(()) };
        let items = requests.iter().filter_map(|request| request.first()?.shape.first());
        let items = u32::try_from(items.sum::<usize>()).unwrap_or(u32::MAX);
        let batch = Batch { id: PROBE_BATCH, variant: variant.id, requests: requests.clone() };
        let started = self.clock.now();
        let output = self.run(&batch)?;
        let latency = self.clock.now().since(started);
        if warming {
            probing.warmed += 1;
        } else {
            probing.runs.push(ProbeRun { items, started, latency, outputs: output.requests });
        }
        Ok(())
    }

    fn probe_done(&mut self, probing: &Probing, result: Result<Vec<ProbeRun>, ExecError>) {
        let variant = probing.request.variant.id;
        if !self.ordered.contains(&variant) {
            self.unload(variant);
        }
        let footprint = probing.footprint.unwrap_or(Bytes::ZERO);
        self.events.probed(self.unit, ProbeReport { id: probing.request.id, variant, footprint, result });
    }

    fn load(&mut self, variant: &VariantFile) -> Result<Bytes, ExecError> {
        let executor = &mut self.executor;
        catch_unwind(AssertUnwindSafe(|| executor.load(variant)))
            .unwrap_or_else(|panic| Err(lost(&variant.name, &*panic)))
    }

    fn unload(&mut self, variant: VariantId) {
        let executor = &mut self.executor;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| executor.unload(variant))) {
            let message = crate::exec::panic_message(&*panic);
            tracing::error!(unit = self.unit.0, variant = variant.0, %message, "unloading failed");
        }
    }

    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError> {
        let executor = &mut self.executor;
        catch_unwind(AssertUnwindSafe(|| executor.run(batch)))
            .unwrap_or_else(|panic| Err(lost(&format!("variant {}", batch.variant), &*panic)))
    }
}

/// A panic of the executor as a failure of its provider.
fn lost(variant: &str, panic: &(dyn std::any::Any + Send)) -> ExecError {
    ExecError::Provider { variant: variant.to_owned(), message: crate::exec::panic_message(panic) }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
