//! Profiling in the background: what has no profile on this device is measured while nothing else runs,
//! and the daemon serves meanwhile on conservative estimates.
//!
//! Per model the reference variant goes first, on each unit in turn, so that its outputs are there to compare
//! the other variants with. What is fit then answers the labelled sample ([`super::checking`]); a variant that is wrong on
//! a unit is quarantined there, until a new profile finds it right. The clocks are held by the core for each probe; a probe that ran at others,
//! because a request came between, counts at those that were in force.

use super::engine::Engine;
use crate::core::catalog::{DomainId, ModelId, Profile, Provenance, UnitId, VariantId};
use crate::core::event::Event;
use crate::core::points::{OperatingPoint, domains_of};
use crate::core::thermal::Regime;
use crate::exec::Tensor;
use crate::exec::lane::{ProbeReport, ProbeRequest};
use crate::exec::profile::{
    Checked, Claim, Expectation, ExpectationSource, MAX_SAMPLES, Measured, Outcome, ProfileKey, ProfileStore,
    Profiler, Subject,
};
use crate::model::Sample;
use crate::observe::Observer;
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
    findings: BTreeMap<(VariantId, UnitId), Finding>,
    busy: BTreeSet<ModelId>,
    ending: bool,
}

/// What is known of a variant on a unit besides what the core needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Finding {
    /// Its answers to the labelled sample.
    pub(super) checked: Option<Checked>,
    /// What it takes, where it was quarantined for its answers alone.
    pub(super) profile: Option<Profile>,
    /// Why it is quarantined.
    pub(super) wrong: Option<String>,
}

impl Finding {
    /// What comes of a measurement under what the manifest says.
    pub(super) fn of(result: &Result<Measured, String>, claim: Claim) -> Self {
        match result {
            Ok(measured) => Self {
                checked: Some(measured.checked),
                profile: Some(measured.profile),
                wrong: measured.checked.judge(claim).err(),
            },
            Err(reason) => Self { wrong: Some(reason.clone()), ..Self::default() },
        }
    }

    /// The profile that the core may use.
    pub(super) fn usable(&self) -> Option<Profile> {
        self.profile.filter(|_| self.wrong.is_none())
    }
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

    /// What was found of a variant on a unit.
    pub(super) fn finding(&self, variant: VariantId, unit: UnitId) -> Finding {
        self.desk().findings.get(&(variant, unit)).cloned().unwrap_or_default()
    }

    /// All that are quarantined for what was found, with the reasons.
    pub(super) fn quarantined(&self) -> Vec<(VariantId, UnitId, String)> {
        let desk = self.desk();
        let wrong = desk
            .findings
            .iter()
            .filter_map(|(&(variant, unit), finding)| Some((variant, unit, finding.wrong.clone()?)));
        wrong.collect()
    }

    /// Takes note of a finding, and shows it in the metrics.
    pub(super) fn note(&self, observer: &Observer, variant: VariantId, unit: UnitId, finding: Finding) {
        observer.found(
            variant,
            unit,
            finding.checked.map(|checked| checked.accuracy()),
            finding.wrong.is_some(),
        );
        self.desk().findings.insert((variant, unit), finding);
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

/// What the profiler asks a model. Shares the bytes.
#[derive(Debug, Clone)]
pub(super) struct ModelSamples {
    pub(super) sample: Sample,
    /// Items that are asked at most.
    pub(super) items: usize,
    /// Names the sample.
    pub(super) digest: String,
}

impl ModelSamples {
    /// At most so many items of a sample.
    pub(super) fn new(sample: Sample, items: usize) -> Self {
        Self { digest: sample.digest(), items: items.min(sample.len()), sample }
    }

    /// One item at a time from all over the sample, for the comparison with the reference.
    fn singles(&self) -> Vec<Vec<Tensor>> {
        let count = self.items.min(MAX_SAMPLES);
        let places = (0..count).map(|index| index * self.sample.len() / count);
        places.map(|item| self.sample.items(item..item + 1)).collect()
    }
}

/// The profiler thread.
pub(super) struct Background {
    pub(super) store: ProfileStore,
    /// By model; `None` where the model has no sample.
    pub(super) samples: Vec<Option<ModelSamples>>,
    /// Keys by variant and unit.
    pub(super) keys: Vec<Vec<ProfileKey>>,
    /// What the manifests say, by variant.
    pub(super) claims: Vec<Claim>,
    pub(super) next_probe: u64,
}

impl Background {
    /// Works off jobs until the end.
    pub(super) fn run(mut self, engine: &Engine) {
        while let Some((model, anew)) = engine.probes.next_job() {
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
            // What cannot run now is not thereby unfit.
            _ if !state.core.is_present(unit) => false,
            Some(profile) => anew || profile.latency_source == Provenance::Conservative,
            // Not allowed, or refused: only tried again on demand, and only if a refusal was recorded.
            None => anew && engine.probes.finding(variant, unit).wrong.is_some(),
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
        let (file, max_batch) = (subject.variant.clone(), subject.max_batch);
        let singles = samples.singles();
        let mut profiler = match Profiler::new(subject, &singles, expected, [&clocks, &memories], 0) {
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
        let complete = complete && engine.state().core.is_present(unit);
        let (result, outputs) = match if complete { profiler.finish() } else { Outcome::Interrupted } {
            Outcome::Fit { profile, outputs } => {
                let highest = |clocks: &[Kilohertz]| clocks.iter().max().copied().unwrap_or_default();
                let point = OperatingPoint { clock: highest(&clocks), memory: highest(&memories) };
                let fit = (&profile, &outputs[..]);
                let checked = self.check(engine, (unit, point), (&file, max_batch), samples, fit);
                let digest = samples.digest.clone();
                let measured = |checked| Measured { profile, checked, sample: digest };
                (checked.map(|checked| checked.map(measured)), Some(outputs))
            }
            Outcome::Unfit(unfit) => (Some(Err(unfit.to_string())), None),
            Outcome::Interrupted => (None, None),
        };
        // However it ended: a clock that nobody lets go of stays there.
        self.release(engine, unit);
        self.conclude(engine, variant, unit, &name, result?);
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
        let wrong = engine.probes.finding(variant, unit).wrong.is_some();
        if (profile.is_none() && !wrong) || !state.core.is_present(unit) {
            return None;
        }
        // It may never run: nothing is gained by knowing how.
        let (need, room) =
            (profile.map(|profile| profile.footprint), state.core.memory_limits(engine.now()).room);
        if need.is_some_and(|need| need > room) {
            return None;
        }
        let clocks = domains_of(&catalog.board, unit).map(|domain| {
            let controllable = domain.filter(|&domain| state.core.controllable(domain));
            controllable.map_or_else(Vec::new, |domain| catalog.board.domains[domain.index()].opps.clone())
        });
        let model = catalog.variants[variant.index()].model;
        let subject = Subject {
            variant: engine.file(variant).clone(),
            max_batch: catalog.models[model.index()].max_batch,
            busy_power: spec.busy_power,
            prior: profile
                .filter(|known| known.latency_source == Provenance::Measured)
                .map(|known| known.latency),
        };
        Some((subject, clocks))
    }

    /// Runs a probe at an operating point, when the board is cool enough for it.
    pub(super) fn probe(
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
        result: Result<Measured, String>,
    ) {
        if let Err(error) = self.store.put(&self.keys[variant.index()][unit.index()], &result) {
            tracing::warn!(%error, "the profile is used but could not be stored");
        }
        let finding = Finding::of(&result, self.claims[variant.index()]);
        if let Some(reason) = &finding.wrong {
            tracing::warn!(variant = name, unit = unit.0, reason, "quarantined: it is wrong on this unit");
        }
        let profile = finding.usable();
        engine.probes.note(&engine.state().observer, variant, unit, finding);
        engine.feed(Event::Profiled { variant, unit, profile });
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
