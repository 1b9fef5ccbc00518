//! The single owner of the core: feeds it events, one at a time, and carries out its effects.
//!
//! There is no thread of the core's own. Whoever has an event (a connection with a request, a lane with a
//! completion, the sensor thread with a sweep) takes the lock, lets the core decide, and hands out the orders
//! while still holding it, so that orders reach lanes and clocks in the order of the decisions. That saves two
//! thread hops per request; a decision takes microseconds. Lanes are woken and answers sent after the lock is
//! released: who is woken wants it next. Two more hops, to the lane and back, are saved where they would take
//! longer than the run: who submits a request that can run at once then runs it as well.

use super::profiling::ProbeDesk;
use crate::api::backend::{Answer, ModelCounters, ModelView, Pending, Submission};
use crate::core::Core;
use crate::core::catalog::{ModelId, UnitId, VariantId};
use crate::core::event::{
    BatchFailure, BatchId, ClassId, Completion, Dispatch, Effect, Event, Outcome, Rejection, Request,
    RequestId, Setpoints,
};
use crate::exec::lane::{Lane, LaneEvents, ProbeReport};
use crate::exec::{Batch, ExecError, Output, Tensor, VariantFile};
use crate::journal::Recorder;
use crate::observe::Observer;
use crate::time::{Clock, Timestamp};
use crate::units::{Bytes, Nanos};
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::oneshot;

/// Runs that are expected to take no longer are done by who submits the request. To wake a lane and be woken by it
/// takes 10 to 60 us, depending on how deeply its core slept; the other connections wait as long as that for a
/// copy of 200 KB.
const BRIEF: Nanos = Nanos::from_micros(50);
/// How long before a client's deadline the result must be there, since it has yet to reach the client: this part of the
/// deadline, and at most so long. Writing an answer and waking who waits for it takes some 0.1 ms on a busy board and 1 ms
/// on an idle one, whose CPUs sleep.
const DELIVERY_PART: u64 = 50;
const DELIVERY_MOST: Nanos = Nanos::from_millis(1);

/// A request that has no answer yet.
struct Unanswered {
    reply: oneshot::Sender<Answer>,
    inputs: Vec<Tensor>,
    model: ModelId,
    arrival: Timestamp,
}

/// What is behind the lock.
pub(super) struct State {
    pub(super) core: Core,
    pub(super) observer: Observer,
    pub(super) recorder: Option<Recorder>,
    pub(super) counters: Vec<ModelCounters>,
    pub(super) totals: Totals,
    unanswered: HashMap<RequestId, Unanswered>,
    running: HashMap<BatchId, Dispatch>,
    next_request: u64,
    setpoints: Setpoints,
}

/// Counts over all models since the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    pub(super) served: u64,
    pub(super) missed: u64,
    pub(super) rejected: BTreeMap<Rejection, u64>,
}

/// Names that answers carry, made once.
struct Names {
    variants: Vec<Arc<str>>,
    units: Vec<Arc<str>>,
    none: Arc<str>,
}

/// The engine. Shared by all threads.
pub struct Engine {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Signals a wake-up that became due earlier, or new setpoints.
    timer: Condvar,
    actuate: Condvar,
    armed: Mutex<Armed>,
    lanes: OnceLock<Vec<Lane>>,
    files: Vec<VariantFile>,
    pub(super) views: Arc<Vec<ModelView>>,
    names: Names,
    pub(super) probes: ProbeDesk,
}

/// What the timer thread sleeps until, and whether it should end.
#[derive(Debug, Clone, Copy)]
struct Armed {
    until: Timestamp,
    ending: bool,
}

/// What is left to do once the lock is released: each of these wakes a thread, and most will want the lock.
#[derive(Default)]
struct Rest {
    lanes: SmallVec<[UnitId; 4]>,
    /// Lanes whose batch is brief.
    brief: SmallVec<[UnitId; 4]>,
    answers: SmallVec<[(oneshot::Sender<Answer>, Answer); 4]>,
}

/// In the order in which the core answers, so that the first is almost always the one looked for.
type Outputs = VecDeque<(RequestId, Vec<Tensor>)>;
/// Rarely more than the one that came in.
type Events = SmallVec<[Event; 1]>;

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine whose lanes come with [`Engine::attach_lanes`].
    pub(super) fn new(
        core: Core,
        observer: Observer,
        recorder: Option<Recorder>,
        files: Vec<VariantFile>,
        views: Vec<ModelView>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let catalog = core.catalog();
        let names = Names {
            variants: catalog.variants.iter().map(|variant| Arc::from(variant.name.as_str())).collect(),
            units: catalog.board.units.iter().map(|unit| Arc::from(unit.name.as_str())).collect(),
            none: Arc::from(""),
        };
        let setpoints = Setpoints { domains: smallvec![None; catalog.board.domains.len()] };
        Self {
            state: Mutex::new(State {
                observer,
                recorder,
                counters: vec![ModelCounters::default(); views.len()],
                totals: Totals::default(),
                unanswered: HashMap::new(),
                running: HashMap::new(),
                next_request: 1,
                setpoints,
                core,
            }),
            clock,
            timer: Condvar::new(),
            actuate: Condvar::new(),
            armed: Mutex::new(Armed { until: Timestamp::MAX, ending: false }),
            lanes: OnceLock::new(),
            files,
            views: Arc::new(views),
            names,
            probes: ProbeDesk::default(),
        }
    }

    /// Hands over the lanes, one per unit. Once.
    pub(super) fn attach_lanes(&self, lanes: Vec<Lane>) {
        let fresh = self.lanes.set(lanes).is_ok();
        debug_assert!(fresh, "lanes are attached once");
    }

    /// Ends the lanes. They hold the engine, so that its own end would never come to theirs, and a run that is
    /// under way when the process ends would find the runtime's library taken down under it.
    pub(super) fn end_lanes(&self) {
        self.lanes.get().into_iter().flatten().for_each(Lane::end);
    }

    pub(super) fn lane(&self, unit: UnitId) -> Option<&Lane> {
        self.lanes.get()?.get(unit.index())
    }

    pub(super) fn file(&self, variant: VariantId) -> &VariantFile {
        &self.files[variant.index()]
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a bug that was logged; refusing all service over it is worse.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the core handle an event and carries out what it decides.
    pub(super) fn feed(&self, event: Event) {
        let mut state = self.state();
        let rest = self.step(&mut state, event, &mut Outputs::new());
        drop(state);
        self.finish(rest);
    }

    fn step(&self, state: &mut State, event: Event, outputs: &mut Outputs) -> Rest {
        let mut rest = Rest::default();
        let mut events = Events::new();
        let mut next = Some(event);
        while let Some(event) = next {
            let now = self.clock.now();
            state.observer.event(now, &event);
            if let Some(recorder) = &mut state.recorder {
                recorder.roll_if_full(now, &state.core);
                recorder.event(now, &event);
            }
            state.core.handle(now, event);
            state.observer.decision_took(self.clock.now().since(now));
            while let Some(effect) = state.core.poll_effect() {
                state.observer.effect(now, &effect);
                if let Some(recorder) = &mut state.recorder {
                    recorder.effect(&effect);
                }
                self.carry_out(state, effect, now, outputs, &mut rest, &mut events);
            }
            next = (!events.is_empty()).then(|| events.remove(0));
        }
        self.arm(state.core.next_wakeup());
        rest
    }

    /// Carries out one effect. A lane that does not take an order answers with an event at once.
    fn carry_out(
        &self,
        state: &mut State,
        effect: Effect,
        now: Timestamp,
        outputs: &mut Outputs,
        rest: &mut Rest,
        events: &mut Events,
    ) {
        match effect {
            Effect::Dispatch(dispatch) => {
                if let Some(failed) = self.dispatch(state, dispatch, now, rest) {
                    events.push(Event::Completed(failed));
                }
            }
            Effect::Abort(batch) => {
                let unit = state.running.get(&batch).map(|dispatch| dispatch.unit);
                if let Some(lane) = unit.and_then(|unit| self.lane(unit)) {
                    lane.cancel(batch);
                }
            }
            Effect::Reply { request, outcome } => {
                let place = outputs.iter().position(|(id, _)| *id == request);
                let tensors = place.and_then(|place| outputs.remove(place)).map(|(_, tensors)| tensors);
                let tensors = tensors.unwrap_or_default();
                rest.answers.extend(self.answer(state, request, outcome, tensors, now));
            }
            Effect::Load { variant, unit } => {
                let taken = self.lane(unit).is_some_and(|lane| lane.load(self.file(variant).clone()).is_ok());
                if !taken {
                    events.push(Event::LoadFailed { variant, unit });
                }
            }
            Effect::Unload { variant, unit } => {
                let taken = self.lane(unit).is_some_and(|lane| lane.unload(variant).is_ok());
                if !taken {
                    events.push(Event::Unloaded { variant, unit });
                }
            }
            Effect::Set(setpoints) => {
                for (slot, bounds) in state.setpoints.domains.iter_mut().zip(setpoints.domains) {
                    *slot = bounds.or(*slot);
                }
                self.actuate.notify_one();
            }
            Effect::Note(_) => {}
        }
    }

    /// Sends a batch to its lane; the completion that says so if the lane does not take it.
    fn dispatch(
        &self,
        state: &mut State,
        dispatch: Dispatch,
        now: Timestamp,
        rest: &mut Rest,
    ) -> Option<Completion> {
        // The bytes are shared, not copied, and stay: another variant may have to answer in place of this one.
        let inputs = |id: &RequestId| {
            state.unanswered.get(id).map(|request| request.inputs.clone()).unwrap_or_default()
        };
        let requests = dispatch.requests.iter().map(inputs).collect();
        let (id, unit, brief) = (dispatch.batch, dispatch.unit, dispatch.expected <= BRIEF);
        let batch = Batch { id, variant: dispatch.variant, requests };
        state.running.insert(id, dispatch);
        if let Some(Ok(asleep)) = self.lane(unit).map(|lane| lane.enqueue(batch)) {
            let lanes = if brief { &mut rest.brief } else { &mut rest.lanes };
            lanes.extend(asleep.then_some(unit));
            return None;
        }
        state.running.remove(&id);
        let result = Err(BatchFailure::LaneLost);
        Some(Completion { batch: id, started: now, finished: now, energy: None, result })
    }

    fn answer(
        &self,
        state: &mut State,
        id: RequestId,
        outcome: Outcome,
        outputs: Vec<Tensor>,
        now: Timestamp,
    ) -> Option<(oneshot::Sender<Answer>, Answer)> {
        let request = state.unanswered.remove(&id)?;
        let counters = &mut state.counters[request.model.index()];
        let (variant, unit) = match &outcome {
            Outcome::Served(served) => {
                counters.served += 1;
                counters.queue = counters.queue.saturating_add(served.queue);
                counters.compute = counters.compute.saturating_add(served.compute);
                counters.success = counters.success.saturating_add(now.since(request.arrival));
                counters.last_inference_ms = crate::time::unix_millis();
                state.totals.served += 1;
                state.totals.missed += u64::from(served.missed);
                (&self.names.variants[served.variant.index()], &self.names.units[served.unit.index()])
            }
            Outcome::Rejected { reason, .. } => {
                counters.failed += 1;
                *state.totals.rejected.entry(*reason).or_insert(0) += 1;
                (&self.names.none, &self.names.none)
            }
        };
        let answer =
            Answer { request: id.0, outcome, outputs, variant: Arc::clone(variant), unit: Arc::clone(unit) };
        Some((request.reply, answer))
    }

    /// Takes in a request of a client. `class` and `variant` are resolved by the caller.
    pub(super) fn submit(
        self: &Arc<Self>,
        submission: Submission,
        class: ClassId,
        variant: Option<VariantId>,
    ) -> Pending {
        let (reply, answer) = oneshot::channel();
        let Submission { peer, model, items, inputs, wishes } = submission;
        let input_bytes = Bytes(inputs.iter().map(|tensor| tensor.data.len() as u64).sum());
        let mut state = self.state();
        let now = self.clock.now();
        let id = RequestId(state.next_request);
        state.next_request += 1;
        let model = ModelId::at(model);
        state.unanswered.insert(id, Unanswered { reply, inputs, model, arrival: now });
        let request = Request {
            id,
            app: peer.app,
            class,
            model,
            items,
            input_bytes,
            deadline: wishes.deadline.map(|span| now.after(span.saturating_sub(delivery(span)))),
            min_accuracy: wishes.min_accuracy,
            max_energy: wishes.max_energy,
            variant,
            priority: wishes.priority,
        };
        let mut rest = self.step(&mut state, Event::Submit(request), &mut Outputs::new());
        drop(state);
        let brief = std::mem::take(&mut rest.brief);
        self.finish(rest);
        brief.into_iter().filter_map(|unit| self.lane(unit)).for_each(Lane::run_here);
        let engine = Arc::clone(self);
        let cancel = move || engine.feed(Event::Cancel(id));
        Pending { answer, guard: crate::api::backend::CancelGuard(Some(Box::new(cancel))) }
    }

    /// To be called without the lock.
    fn finish(&self, rest: Rest) {
        let lanes = rest.lanes.into_iter().chain(rest.brief);
        lanes.filter_map(|unit| self.lane(unit)).for_each(Lane::wake);
        for (reply, answer) in rest.answers {
            // A client that left does not want it.
            let _ = reply.send(answer);
        }
    }

    /// Brings the timer forward if `wakeup` is earlier than what it sleeps until.
    fn arm(&self, wakeup: Option<Timestamp>) {
        let Some(wakeup) = wakeup else { return };
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        if wakeup < armed.until {
            armed.until = wakeup;
            self.timer.notify_one();
        }
    }

    /// Wakes the core when it asked to be woken. Returns when [`Engine::end`] is called.
    pub(super) fn run_timer(&self) {
        loop {
            let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if armed.ending {
                    return;
                }
                let now = self.clock.now();
                if armed.until <= now {
                    break;
                }
                let span = armed.until.since(now).min(Nanos::from_secs(3600));
                let (guard, _) =
                    self.timer.wait_timeout(armed, span.into()).unwrap_or_else(PoisonError::into_inner);
                armed = guard;
            }
            armed.until = Timestamp::MAX;
            drop(armed);
            self.feed(Event::Wake);
        }
    }

    /// The setpoints that wait to be applied; blocks until there are some, or `None` at the end.
    pub(super) fn next_setpoints(&self) -> Option<Setpoints> {
        let mut state = self.state();
        loop {
            if state.setpoints.domains.iter().any(Option::is_some) {
                let empty = smallvec![None; state.setpoints.domains.len()];
                return Some(Setpoints { domains: std::mem::replace(&mut state.setpoints.domains, empty) });
            }
            if self.is_ending() {
                return None;
            }
            state = self.actuate.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn is_ending(&self) -> bool {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).ending
    }

    /// Lets the timer and actuator threads return.
    pub(super) fn end(&self) {
        let state = self.state();
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).ending = true;
        self.timer.notify_all();
        self.actuate.notify_all();
        drop(state);
    }
}

/// Lanes call these on their own threads.
impl LaneEvents for Engine {
    fn loaded(&self, unit: UnitId, variant: VariantId, footprint: Bytes) {
        self.feed(Event::Loaded { variant, unit, footprint });
    }

    fn load_failed(&self, unit: UnitId, variant: VariantId, error: &ExecError) {
        tracing::error!(variant = self.file(variant).name, unit = &*self.names.units[unit.index()], %error, "load failed");
        self.feed(Event::LoadFailed { variant, unit });
    }

    fn unloaded(&self, unit: UnitId, variant: VariantId) {
        self.feed(Event::Unloaded { variant, unit });
    }

    fn completed(&self, mut completion: Completion, result: Result<Output, ExecError>) {
        let mut state = self.state();
        let mut outputs = Outputs::new();
        let dispatch = state.running.remove(&completion.batch);
        match (result, dispatch) {
            (Ok(output), Some(dispatch)) => {
                completion.energy = output.energy;
                let counters = &mut state.counters[self.model_of(dispatch.variant)];
                counters.executions += 1;
                counters.inferences += u64::from(dispatch.items);
                outputs.extend(dispatch.requests.iter().copied().zip(output.requests));
            }
            (Err(error @ ExecError::Provider { .. }), Some(dispatch)) => {
                let unit = &*self.names.units[dispatch.unit.index()];
                tracing::error!(variant = self.file(dispatch.variant).name, unit, %error, "run failed");
            }
            _ => {}
        }
        let rest = self.step(&mut state, Event::Completed(completion), &mut outputs);
        drop(state);
        self.finish(rest);
    }

    fn probed(&self, _unit: UnitId, report: ProbeReport) {
        self.probes.deliver(report);
    }
}

impl Engine {
    fn model_of(&self, variant: VariantId) -> usize {
        let mut first = 0;
        for (model, view) in self.views.iter().enumerate() {
            first += view.variants.len();
            if variant.index() < first {
                return model;
            }
        }
        0
    }
}

/// What delivering the answer to a request with such a deadline may take.
fn delivery(deadline: Nanos) -> Nanos {
    Nanos(deadline.0 / DELIVERY_PART).min(DELIVERY_MOST)
}
