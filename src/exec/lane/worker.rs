//! The side of a lane that does the work.

use super::loading::{Loading, Prepared, Task};
use super::{Hands, LaneEvents, Order, PROBE_BATCH, ProbeReport, ProbeRun, Shared};
use crate::core::catalog::UnitId;
use crate::core::event::{BatchFailure, BatchId, Completion};
use crate::exec::{Batch, ExecError, Executor, Output};
use crate::time::{Clock, Timestamp};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A probe under way.
#[derive(Debug)]
struct Probing {
    probe: Prepared,
    warmed: u32,
    runs: Vec<ProbeRun>,
}

/// What is done next.
pub(super) enum Step {
    Order(Order),
    /// One run of the probe under way, or of the one that begins.
    Probe {
        fresh: Option<Prepared>,
    },
    /// Nothing more; what still waits is answered.
    End {
        orders: VecDeque<Order>,
        probes: VecDeque<Prepared>,
    },
}

/// What carries orders out: the lane's thread, or a caller who stands in for it.
pub(super) struct Worker {
    unit: UnitId,
    executor: Box<dyn Executor>,
    events: Arc<dyn LaneEvents>,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    loading: Arc<Loading>,
    probing: Option<Probing>,
}

/// The life of the lane's thread.
pub(super) fn work(shared: &Shared, worker: &Mutex<Worker>) {
    let mut probing = false;
    loop {
        let step = next(shared, probing);
        let end = matches!(step, Step::End { .. });
        probing = Worker::lock(worker).step(step);
        if end {
            return;
        }
    }
}

/// Waits for something to do. `probing`: a probe is under way.
fn next(shared: &Shared, probing: bool) -> Step {
    let mut queue = shared.queue();
    loop {
        if queue.ending {
            queue.batches = 0;
            let (orders, probes) = (std::mem::take(&mut queue.orders), std::mem::take(&mut queue.probes));
            return Step::End { orders, probes };
        }
        if queue.hands != Hands::Caller {
            queue.hands = Hands::Thread;
            queue.running = None;
            if let Some(order) = queue.take() {
                return Step::Order(order);
            }
            let fresh = if probing { None } else { queue.probes.pop_front() };
            if probing || fresh.is_some() {
                queue.running = Some(PROBE_BATCH);
                return Step::Probe { fresh };
            }
            queue.hands = Hands::Nobody;
        }
        queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Worker {
    pub(super) fn new(
        unit: UnitId,
        executor: Box<dyn Executor>,
        events: Arc<dyn LaneEvents>,
        clock: Arc<dyn Clock>,
        shared: Arc<Shared>,
        loading: Arc<Loading>,
    ) -> Self {
        Self { unit, executor, events, clock, shared, loading, probing: None }
    }

    pub(super) fn lock(worker: &Mutex<Self>) -> MutexGuard<'_, Self> {
        worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step; whether a probe is under way after it.
    pub(super) fn step(&mut self, step: Step) -> bool {
        // The executor's panics are caught closer by; this is the callbacks' last net.
        let done = catch_unwind(AssertUnwindSafe(|| match step {
            Step::Order(order) => self.carry_out(order),
            Step::Probe { fresh } => self.probe_step(fresh),
            Step::End { orders, probes } => self.end(orders, probes),
        }));
        if let Err(panic) = done {
            let message = crate::exec::panic_message(&*panic);
            tracing::error!(unit = self.unit.0, %message, "an event handler of a lane failed");
        }
        self.probing.is_some()
    }

    fn carry_out(&mut self, order: Order) {
        match order {
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
            ExecError::Provider { .. } | ExecError::Memory { .. } => BatchFailure::Provider,
        });
        let completion = Completion { batch, started, finished, energy, result: outcome };
        self.events.completed(completion, result);
    }

    /// Answers everything that waits.
    fn end(&mut self, orders: VecDeque<Order>, probes: VecDeque<Prepared>) {
        let now = self.clock.now();
        for order in orders {
            let (Order::Run(Batch { id, .. }) | Order::Cancelled(id)) = order;
            self.complete(id, now, now, Err(ExecError::Cancelled));
        }
        let underway = self.probing.take().map(|probing| probing.probe);
        for probe in underway.into_iter().chain(probes) {
            self.probe_done(&probe, Err(ExecError::Cancelled));
        }
    }

    /// Warms up, or does one run of the probe under way.
    fn probe_step(&mut self, fresh: Option<Prepared>) {
        let fresh = || fresh.map(|probe| Probing { probe, warmed: 0, runs: Vec::new() });
        let Some(mut probing) = self.probing.take().or_else(fresh) else { return };
        match self.probe_once(&mut probing) {
            Ok(()) if probing.runs.len() < probing.probe.request.runs.len() => self.probing = Some(probing),
            Ok(()) => self.probe_done(&probing.probe, Ok(probing.runs)),
            Err(error) => self.probe_done(&probing.probe, Err(error)),
        }
    }

    fn probe_once(&mut self, probing: &mut Probing) -> Result<(), ExecError> {
        let request = &probing.probe.request;
        let warming = probing.warmed < request.warm_ups;
        let next = if warming { 0 } else { probing.runs.len() };
        let Some(requests) = request.runs.get(next) else { return Ok(()) };
        let items = requests.iter().filter_map(|request| request.first()?.shape.first());
        let items = u32::try_from(items.sum::<usize>()).unwrap_or(u32::MAX);
        let batch = Batch { id: PROBE_BATCH, variant: request.variant.id, requests: requests.clone() };
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

    fn probe_done(&self, probe: &Prepared, result: Result<Vec<ProbeRun>, ExecError>) {
        let (id, variant) = (probe.request.id, probe.request.variant.id);
        // Before the report, after which another probe of it may come. A lane that is ending lets go of all.
        let _ = self.loading.put(Task::Release(variant));
        self.shared.probe_over();
        self.events.probed(self.unit, ProbeReport { id, variant, footprint: probe.footprint, result });
    }

    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError> {
        let executor = &mut self.executor;
        catch_unwind(AssertUnwindSafe(|| executor.run(batch)))
            .unwrap_or_else(|panic| Err(lost(&format!("variant {}", batch.variant), &*panic)))
    }
}

/// A panic of the executor as a failure of its provider.
pub(super) fn lost(variant: &str, panic: &(dyn std::any::Any + Send)) -> ExecError {
    ExecError::Provider { variant: variant.to_owned(), message: crate::exec::panic_message(panic) }
}
