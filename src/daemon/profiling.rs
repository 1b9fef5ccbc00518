//! Profiling in the background: what has no profile on this device is measured while nothing else runs,
//! and the daemon serves meanwhile on conservative estimates.
//!
//! Per model the reference variant goes first, on each unit in turn, so that its outputs are there to compare
//! the other variants with. The clocks are held by the core for each probe; a probe that ran at others,
//! because a request came between, counts at those that were in force.

use super::engine::Engine;
use crate::core::catalog::{DomainId, ModelId, Profile, Provenance, UnitId, VariantId};
use crate::core::event::Event;
use crate::core::points::{OperatingPoint, domains_of};
use crate::core::thermal::Regime;
use crate::exec::Tensor;
use crate::exec::lane::{ProbeReport, ProbeRequest};
use crate::exec::profile::{
    Expectation, ExpectationSource, Outcome, ProfileKey, ProfileStore, Profiler, Subject,
};
use crate::units::{Kilohertz, Nanos};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Longest wait for a probe; a lane that is this busy has no time for profiling.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// Pause before a clock that was asked for is taken as reached, beyond its settling time.
const SETTLE_SLACK: Nanos = Nanos::from_millis(20);

/// Where profiling jobs are left and probe reports picked up.
#[derive(Debug, Default)]
pub(super) struct ProbeDesk {
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Desk {
    jobs: VecDeque<(ModelId, bool)>,
    report: Option<ProbeReport>,
    reasons: BTreeMap<(VariantId, UnitId), String>,
    busy: BTreeSet<ModelId>,
    /// Models that came, in the order of their ids, until the profiler takes them over.
    additions: Vec<(Option<ModelSamples>, Vec<Vec<ProfileKey>>)>,
    ending: bool,
}

impl ProbeDesk {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders a model to be profiled; `anew` also where a profile exists. Ordered twice is ordered once.
    pub(super) fn order(&self, model: ModelId, anew: bool) {
        let mut desk = self.desk();
        if let Some(job) = desk.jobs.iter_mut().find(|(waiting, _)| *waiting == model) {
            job.1 |= anew;
        } else {
            desk.jobs.push_back((model, anew));
        }
        desk.busy.insert(model);
        self.changed.notify_all();
    }

    /// Whether the model is being profiled or waits for it.
    pub(super) fn is_busy(&self, model: ModelId) -> bool {
        self.desk().busy.contains(&model)
    }

    /// Why the profiler refused a variant on a unit.
    pub(super) fn reason(&self, variant: VariantId, unit: UnitId) -> Option<String> {
        self.desk().reasons.get(&(variant, unit)).cloned()
    }

    pub(super) fn refuse(&self, variant: VariantId, unit: UnitId, reason: String) {
        self.desk().reasons.insert((variant, unit), reason);
    }

    /// Takes in a model that came: its samples, and the keys of its profiles by variant and unit.
    pub(super) fn take_in(&self, samples: Option<ModelSamples>, keys: Vec<Vec<ProfileKey>>) {
        self.desk().additions.push((samples, keys));
    }

    /// A lane's report.
    pub(super) fn deliver(&self, report: ProbeReport) {
        self.desk().report = Some(report);
        self.changed.notify_all();
    }

    /// Lets the profiler thread return.
    pub(super) fn end(&self) {
        self.desk().ending = true;
        self.changed.notify_all();
    }

    fn next_job(&self) -> Option<(ModelId, bool)> {
        let mut desk = self.desk();
        loop {
            if desk.ending {
                return None;
            }
            if let Some(job) = desk.jobs.pop_front() {
                return Some(job);
            }
            desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, model: ModelId) {
        let mut desk = self.desk();
        if !desk.jobs.iter().any(|(waiting, _)| *waiting == model) {
            desk.busy.remove(&model);
        }
    }

    /// Waits for the report with this id; reports of probes that were given up are passed over.
    fn report(&self, id: u64) -> Option<ProbeReport> {
        let mut desk = self.desk();
        loop {
            if desk.ending {
                return None;
            }
            match desk.report.take() {
                Some(report) if report.id == id => return Some(report),
                _ => {}
            }
            let (guard, timeout) =
                self.changed.wait_timeout(desk, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            desk = guard;
            if timeout.timed_out() && desk.report.is_none() {
                return None;
            }
        }
    }

    /// Sleeps, or returns early (`false`) at the end.
    fn pause(&self, span: Nanos) -> bool {
        let desk = self.desk();
        let (desk, _) = self
            .changed
            .wait_timeout_while(desk, span.into(), |desk| !desk.ending)
            .unwrap_or_else(PoisonError::into_inner);
        !desk.ending
    }
}

/// What the profiler knows of a model.
#[derive(Debug, Clone)]
pub(super) struct ModelSamples {
    /// One-item inputs.
    pub(super) samples: Vec<Vec<Tensor>>,
}

/// The profiler thread.
pub(super) struct Background {
    pub(super) store: ProfileStore,
    /// By model; `None` where the model has no sample.
    pub(super) samples: Vec<Option<ModelSamples>>,
    /// Keys by variant and unit.
    pub(super) keys: Vec<Vec<ProfileKey>>,
    pub(super) next_probe: u64,
}

impl Background {
    /// Works off jobs until the end.
    pub(super) fn run(mut self, engine: &Engine) {
        while let Some((model, anew)) = engine.probes.next_job() {
            for (samples, keys) in std::mem::take(&mut engine.probes.desk().additions) {
                self.samples.push(samples);
                self.keys.extend(keys);
            }
            self.profile_model(engine, model, anew);
            engine.probes.finished(model);
        }
    }

    fn profile_model(&mut self, engine: &Engine, model: ModelId, anew: bool) {
        let Some(samples) = self.samples.get(model.index()).cloned().flatten() else {
            tracing::warn!(model = model.0, "no labelled sample: the model is not profiled");
            return;
        };
        let (variants, units) = {
            let state = engine.state();
            let catalog = state.core.catalog();
            (catalog.models[model.index()].variants.clone(), catalog.board.units.len())
        };
        let due = |this: &Self| {
            variants
                .iter()
                .any(|&variant| (0..units).any(|unit| this.is_due(engine, variant, UnitId::at(unit), anew)))
        };
        if !due(self) {
            return;
        }
        let mut reference: Option<Vec<Vec<Tensor>>> = None;
        for (index, &variant) in variants.iter().enumerate() {
            for unit in (0..units).map(UnitId::at) {
                let expected = match (&reference, index) {
                    (Some(outputs), 0) => Some(same_file(engine, variant, outputs)),
                    (Some(outputs), _) => Some(against_reference(engine, variants[0], variant, outputs)),
                    (None, _) => None,
                };
                // Without the reference's outputs nothing can be compared: it is run again even if its own
                // profile is known.
                let needs_outputs = index == 0 && reference.is_none();
                if !needs_outputs && !self.is_due(engine, variant, unit, anew) {
                    continue;
                }
                let outputs = self.profile_one(engine, variant, unit, &samples, expected);
                if index == 0 && reference.is_none() {
                    reference = outputs;
                }
            }
        }
    }

    fn is_due(&self, engine: &Engine, variant: VariantId, unit: UnitId, anew: bool) -> bool {
        let state = engine.state();
        match state.core.catalog().variants[variant.index()].profiles[unit.index()] {
            Some(profile) => anew || profile.latency_source == Provenance::Conservative,
            // Not allowed, or refused: only tried again on demand, and only if a refusal was recorded.
            None => anew && engine.probes.reason(variant, unit).is_some(),
        }
    }

    /// Profiles one variant on one unit; its outputs if it is fit.
    fn profile_one(
        &mut self,
        engine: &Engine,
        variant: VariantId,
        unit: UnitId,
        samples: &ModelSamples,
        expected: Option<Expectation>,
    ) -> Option<Vec<Vec<Tensor>>> {
        let (subject, [clocks, memories]) = self.subject(engine, variant, unit)?;
        let name = subject.variant.name.clone();
        let mut profiler = match Profiler::new(subject, &samples.samples, expected, [&clocks, &memories], 0) {
            Ok(profiler) => profiler,
            Err(error) => {
                tracing::warn!(%error, "not profiled");
                return None;
            }
        };
        let mut complete = true;
        while let Some(next) = profiler.next_probe() {
            let Some((point, report)) = self.probe(engine, unit, next.point, next.request) else {
                complete = false;
                break;
            };
            profiler.absorb(point, report, None);
        }
        // However the probes ended: a clock that nobody lets go of stays there.
        self.release(engine, unit);
        if !complete {
            return None;
        }
        let (result, outputs) = match profiler.finish() {
            Outcome::Fit { profile, outputs } => (Ok(profile), Some(outputs)),
            Outcome::Unfit(unfit) => (Err(unfit.to_string()), None),
            Outcome::Interrupted => return None,
        };
        self.conclude(engine, variant, unit, &name, result);
        outputs
    }

    fn subject(
        &self,
        engine: &Engine,
        variant: VariantId,
        unit: UnitId,
    ) -> Option<(Subject, [Vec<Kilohertz>; 2])> {
        let state = engine.state();
        let catalog = state.core.catalog();
        let spec = &catalog.board.units[unit.index()];
        let profile = catalog.variants[variant.index()].profiles[unit.index()];
        let refused = engine.probes.reason(variant, unit).is_some();
        if profile.is_none() && !refused {
            return None;
        }
        let clocks = domains_of(&catalog.board, unit).map(|domain| {
            let controllable = domain.filter(|&domain| state.core.controllable(domain));
            controllable.map_or_else(Vec::new, |domain| catalog.board.domains[domain.index()].opps.clone())
        });
        let model = catalog.variants[variant.index()].model;
        let subject = Subject {
            variant: engine.file(variant),
            max_batch: catalog.models[model.index()].max_batch,
            busy_power: spec.busy_power,
            prior: profile
                .filter(|known| known.latency_source == Provenance::Measured)
                .map(|known| known.latency),
        };
        Some((subject, clocks))
    }

    /// Runs a probe at an operating point, when the board is cool enough for it.
    fn probe(
        &mut self,
        engine: &Engine,
        unit: UnitId,
        point: OperatingPoint,
        request: ProbeRequest,
    ) -> Option<(OperatingPoint, ProbeReport)> {
        while engine.state().core.status(engine.now()).regime != Regime::Nominal {
            if !engine.probes.pause(Nanos::from_millis(500)) {
                return None;
            }
        }
        let domains = domains_of(&engine.state().core.catalog().board, unit);
        let mut settle = Nanos::ZERO;
        for (domain, clock) in domains.into_iter().zip(point.clocks()) {
            let Some(domain) = domain.filter(|_| clock > Kilohertz::ZERO) else { continue };
            settle = settle.max(engine.state().core.catalog().board.domains[domain.index()].settle);
            engine.feed(Event::Hold { domain, clock: Some(clock) });
        }
        if settle > Nanos::ZERO && !engine.probes.pause(settle.saturating_add(SETTLE_SLACK)) {
            return None;
        }
        let report = self.run_probe(engine, unit, request)?;
        // What was held is what ran, unless the core was told otherwise in between.
        let in_force = |domain: Option<DomainId>, held| {
            domain.and_then(|domain| engine.state().core.present_clock(domain)).unwrap_or(held)
        };
        let in_force = OperatingPoint {
            clock: in_force(domains[0], point.clock),
            memory: in_force(domains[1], point.memory),
        };
        Some((in_force, report))
    }

    /// Has the lane run a probe while the units that share its processor are kept still.
    fn run_probe(&mut self, engine: &Engine, unit: UnitId, mut request: ProbeRequest) -> Option<ProbeReport> {
        self.next_probe += 1;
        request.id = self.next_probe;
        engine.feed(Event::Probing(Some(unit)));
        let mut still = true;
        while still && engine.state().core.processor_taken(unit) {
            still = engine.probes.pause(Nanos::from_millis(1));
        }
        let accepted = still && engine.lane(unit).is_some_and(|lane| lane.probe(request).is_ok());
        let report = if accepted { engine.probes.report(self.next_probe) } else { None };
        engine.feed(Event::Probing(None));
        report
    }

    fn release(&self, engine: &Engine, unit: UnitId) {
        let domains = domains_of(&engine.state().core.catalog().board, unit);
        for domain in domains.into_iter().flatten() {
            engine.feed(Event::Hold { domain, clock: None });
        }
    }

    fn conclude(
        &self,
        engine: &Engine,
        variant: VariantId,
        unit: UnitId,
        name: &str,
        result: Result<Profile, String>,
    ) {
        if let Err(error) = self.store.put(&self.keys[variant.index()][unit.index()], &result) {
            tracing::warn!(%error, "the profile is used but could not be stored");
        }
        match result {
            Ok(profile) => {
                engine.probes.desk().reasons.remove(&(variant, unit));
                engine.feed(Event::Profiled { variant, unit, profile: Some(profile) });
            }
            Err(reason) => {
                tracing::warn!(variant = name, unit = unit.0, reason, "refused by the profiler");
                engine.probes.refuse(variant, unit, reason);
                engine.feed(Event::Profiled { variant, unit, profile: None });
            }
        }
    }
}

fn same_file(engine: &Engine, variant: VariantId, outputs: &[Vec<Tensor>]) -> Expectation {
    let full_precision = engine.file(variant).precision == "fp32";
    Expectation { outputs: outputs.to_vec(), source: ExpectationSource::SameFile { full_precision } }
}

fn against_reference(
    engine: &Engine,
    reference: VariantId,
    variant: VariantId,
    outputs: &[Vec<Tensor>],
) -> Expectation {
    let state = engine.state();
    let accuracy = |id: VariantId| state.core.catalog().variants[id.index()].accuracy;
    let source =
        ExpectationSource::Reference { reference_accuracy: accuracy(reference), accuracy: accuracy(variant) };
    Expectation { outputs: outputs.to_vec(), source }
}
