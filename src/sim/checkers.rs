//! What must hold of any scheduler, checked from the outside: from the events it got and the effects it
//! gave, never from its own state.

use crate::core::catalog::{Catalog, UnitId, VariantId};
use crate::core::energy::Budgets;
use crate::core::event::{
    AppId, Applied, BatchFailure, BatchId, BatchRequests, ClockBounds, Dispatch, Effect, Event, Note,
    Outcome, RequestId,
};
use crate::core::thermal::Regime;
use crate::time::Timestamp;
use crate::units::{Bytes, Nanos};
use std::collections::{BTreeMap, BTreeSet};

/// Violations kept; the first ones tell the story.
const MOST: usize = 100;
/// A hard deadline is answered by its moment or this much later: the length of a tick.
const TICK: Nanos = Nanos::from_millis(1);

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub what: String,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    app: AppId,
    deadline: Option<Timestamp>,
    dispatched: bool,
}

/// A batch on its lane.
#[derive(Debug, Clone)]
struct Busy {
    unit: UnitId,
    variant: VariantId,
    requests: BatchRequests,
}

/// Watches both directions.
#[derive(Debug, Clone)]
pub struct Checkers {
    catalog: Catalog,
    budgets: Budgets,
    open: BTreeMap<RequestId, Open>,
    waiting: usize,
    in_flight: BTreeMap<AppId, u32>,
    batches: BTreeMap<BatchId, Busy>,
    /// Requests whose last batch was cancelled: they may be dispatched again.
    cancelled: BTreeSet<RequestId>,
    /// Told to be loaded and not ordered out since.
    resident: BTreeSet<(VariantId, UnitId)>,
    /// Memory by residence, from the order to load until the report of the unload.
    memory: BTreeMap<(VariantId, UnitId), Bytes>,
    /// Last bounds asked, by domain; `None` after a refusal.
    asked: Vec<Option<ClockBounds>>,
    /// Whether a domain refused, until it takes an order again.
    refused: Vec<bool>,
    regime: Regime,
    violations: Vec<Violation>,
}

impl Checkers {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(catalog: &Catalog, budgets: &Budgets) -> Self {
        let domains = catalog.board.domains.len();
        Self {
            catalog: catalog.clone(),
            budgets: budgets.clone(),
            open: BTreeMap::new(),
            waiting: 0,
            in_flight: BTreeMap::new(),
            batches: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            resident: BTreeSet::new(),
            memory: BTreeMap::new(),
            asked: vec![None; domains],
            refused: vec![false; domains],
            regime: Regime::Boot,
            violations: Vec::new(),
        }
    }

    /// What was broken so far, the first hundred.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The regime as the scheduler reports it.
    #[must_use]
    pub const fn regime(&self) -> Regime {
        self.regime
    }

    /// Requests without an answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.open.len()
    }

    /// Adds a violation that was noticed elsewhere.
    pub fn violated(&mut self, at: Timestamp, what: String) {
        if self.violations.len() < MOST {
            self.violations.push(Violation { at, what });
        }
    }

    /// An event is about to be handled.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Submit(request) => {
                let open = Open { app: request.app, deadline: request.deadline, dispatched: false };
                self.open.insert(request.id, open);
                self.waiting += 1;
                *self.in_flight.entry(request.app).or_insert(0) += 1;
            }
            Event::Completed(completion) => {
                let Some(ended) = self.batches.remove(&completion.batch) else { return };
                match completion.result {
                    Err(BatchFailure::LaneLost) => {
                        self.resident.retain(|(_, unit)| *unit != ended.unit);
                        self.memory.retain(|(_, unit), _| *unit != ended.unit);
                    }
                    Err(BatchFailure::Cancelled) => self.cancelled.extend(ended.requests),
                    _ => {}
                }
            }
            Event::Loaded { variant, unit, footprint } => {
                self.resident.insert((*variant, *unit));
                self.memory.insert((*variant, *unit), *footprint);
            }
            Event::LoadFailed { variant, unit, .. } | Event::Unloaded { variant, unit } => {
                self.memory.remove(&(*variant, *unit));
            }
            Event::Applied(report) => {
                for (index, result) in report.domains.iter().enumerate() {
                    match result {
                        Some(Applied::Refused(_)) => self.refused[index] = true,
                        Some(Applied::Bounds(_)) => self.refused[index] = false,
                        None => {}
                    }
                }
            }
            Event::Reconfigured(budgets) => self.budgets = (**budgets).clone(),
            _ => {}
        }
    }

    /// An effect came out.
    pub fn effect(&mut self, now: Timestamp, effect: &Effect) {
        match effect {
            Effect::Dispatch(dispatch) => self.dispatch(now, dispatch),
            Effect::Reply { request, outcome } => self.reply(now, *request, outcome),
            Effect::Load { variant, unit } => {
                let footprint = self.catalog.variants[variant.index()].profiles[unit.index()]
                    .map_or(Bytes::ZERO, |profile| profile.footprint);
                self.memory.insert((*variant, *unit), footprint);
                let held = Bytes(self.memory.values().map(|bytes| bytes.0).sum());
                let cap = self.budgets.memory_cap;
                if held > cap {
                    self.violated(now, format!("loading {variant} on {unit}: {held} held, cap {cap}"));
                }
            }
            Effect::Unload { variant, unit } => {
                self.resident.remove(&(*variant, *unit));
                if self.batches.values().any(|busy| (busy.unit, busy.variant) == (*unit, *variant)) {
                    self.violated(now, format!("unloads {variant} while it runs on {unit}"));
                }
            }
            Effect::Set(setpoints) => {
                for (slot, bounds) in self.asked.iter_mut().zip(&setpoints.domains) {
                    *slot = bounds.or(*slot);
                }
            }
            Effect::Note(Note::Regime(transition)) => {
                if transition.from != self.regime {
                    let (from, known) = (transition.from, self.regime);
                    self.violated(now, format!("leaves {from:?}, but was in {known:?}"));
                }
                self.regime = transition.to;
            }
            Effect::Abort(_) | Effect::Note(_) => {}
        }
    }

    fn dispatch(&mut self, now: Timestamp, dispatch: &Dispatch) {
        let Dispatch { batch, unit, variant, requests, .. } = dispatch;
        if self.regime == Regime::Critical {
            self.violated(now, format!("{batch:?} is started on a critical board"));
        }
        if !self.resident.contains(&(*variant, *unit)) {
            self.violated(now, format!("{batch:?}: variant {variant} is not loaded on unit {unit}"));
        }
        let units = &self.catalog.board.units;
        let group = units[unit.index()].group;
        if let Some(busy) = self.batches.values().find(|busy| units[busy.unit.index()].group == group) {
            let what = format!("{batch:?} on unit {unit}: unit {} of the same processor is busy", busy.unit);
            self.violated(now, what);
        }
        if requests.is_empty() {
            self.violated(now, format!("{batch:?} is empty"));
        }
        for request in requests {
            let insured = self.may_be_insured(*request);
            match self.open.get_mut(request) {
                Some(open) if !open.dispatched => {
                    open.dispatched = true;
                    self.waiting -= 1;
                }
                Some(_) if self.cancelled.remove(request) || insured => {}
                Some(_) => self.violated(now, format!("{request:?} is dispatched twice")),
                None => self.violated(now, format!("{request:?} is dispatched, but nobody waits for it")),
            }
        }
        let (unit, variant, requests) = (*unit, *variant, requests.clone());
        self.batches.insert(*batch, Busy { unit, variant, requests });
    }

    /// Whether a request runs exactly once, where it cannot be cancelled: then it may run beside that.
    fn may_be_insured(&self, request: RequestId) -> bool {
        let mut runs = self.batches.values().filter(|busy| busy.requests.contains(&request));
        let units = &self.catalog.board.units;
        let first = runs.next();
        first.is_some_and(|busy| !units[busy.unit.index()].preemptible) && runs.next().is_none()
    }

    fn reply(&mut self, now: Timestamp, request: RequestId, outcome: &Outcome) {
        let Some(open) = self.open.remove(&request) else {
            return self.violated(now, format!("{request:?} is answered, but nobody waits for it"));
        };
        self.cancelled.remove(&request);
        if let Some(count) = self.in_flight.get_mut(&open.app) {
            *count -= 1;
        }
        if !open.dispatched {
            self.waiting -= 1;
            if matches!(outcome, Outcome::Served(_)) {
                self.violated(now, format!("{request:?} is served, but never ran"));
            }
        }
        if open.deadline.is_some_and(|deadline| now > deadline.after(TICK)) {
            self.violated(now, format!("{request:?} is answered after its hard deadline"));
        }
    }

    /// All effects of an event have been taken out.
    pub fn settled(&mut self, now: Timestamp) {
        let (waiting, limit) = (self.waiting, self.budgets.queue_limit);
        if waiting > limit as usize {
            self.violated(now, format!("{waiting} wait, the queue's limit is {limit}"));
        }
        let limit = self.budgets.app_limit;
        if let Some((app, count)) = self.in_flight.iter().find(|(_, count)| **count > limit) {
            let what = format!("{count} requests of {app:?}, its limit is {limit}");
            self.violated(now, what);
        }
        if self.regime == Regime::Critical {
            self.check_critical_clocks(now);
        }
    }

    fn check_critical_clocks(&mut self, now: Timestamp) {
        for index in 0..self.asked.len() {
            let domain = &self.catalog.board.domains[index];
            let Some(&low) = domain.opps.first() else { continue };
            let asked = self.asked[index].map(|bounds| bounds.max);
            if asked != Some(low) && !self.refused[index] {
                let what = format!("domain {} may run at {asked:?} on a critical board", domain.name);
                self.violated(now, what);
            }
        }
    }

    /// The run is over and everything had time to settle.
    pub fn finish(&mut self, now: Timestamp) {
        if let Some((request, _)) = self.open.first_key_value() {
            let what = format!("{} requests have no answer, the first is {request:?}", self.open.len());
            self.violated(now, what);
        }
        if let Some((batch, Busy { unit, .. })) = self.batches.first_key_value() {
            let what = format!("{batch:?} on unit {unit} never ended");
            self.violated(now, what);
        }
    }
}
