//! From the core's events and effects to metrics. Logs are next door in [`super::notes`].
//!
//! Handles are looked up by index and registered at their first use, so that a request costs a few atomic
//! operations and no formatting, and the page has no series that never happened.

use super::labels::Names;
use super::metrics::{Page, Registry};
use super::names::Metric;
use super::notes;
use crate::core::catalog::{Provenance, UnitId, VariantId};
use crate::core::estimate::Report;
use crate::core::event::{
    AppId, Applied, BatchFailure, BatchId, ClassId, Completion, Dispatch, Effect, Event, Note, Outcome,
    Readings, Rejection, Request, RequestId, SensorFault, Served,
};
use crate::core::rollout::{self, Stage, Step};
use crate::core::thermal::Regime;
use crate::time::Timestamp;
use crate::units::{Bytes, Microjoules, Nanos};
use metrics::{Counter, Gauge, Histogram};
use std::collections::HashMap;

/// Apps with series of their own; the rest share one.
const MAX_APPS: usize = 64;

/// A handle per index, registered at its first use.
#[derive(Debug)]
struct Lazy<T>(Vec<Option<T>>);

impl<T> Lazy<T> {
    const fn new() -> Self {
        Self(Vec::new())
    }

    /// `index` is bounded by the catalogue's tables.
    fn get(&mut self, index: usize, register: impl FnOnce() -> T) -> &T {
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index].get_or_insert_with(register)
    }
}

/// What is remembered of a request until its reply.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    submitted: Timestamp,
    app: AppId,
    class: ClassId,
    model: usize,
    items: u32,
}

/// Series of a model and class.
#[derive(Debug)]
struct ClassSeries {
    in_time: Counter,
    late: Counter,
    rejected: Counter,
    misses: Counter,
    rescues: Counter,
    duration: Histogram,
}

/// Series of a variant on a unit.
#[derive(Debug)]
struct RunSeries {
    queue: Histogram,
    compute: Histogram,
    batches: Counter,
    items: Counter,
    energy: [Counter; 3],
}

/// Series under Triton's names.
#[derive(Debug)]
struct TritonSeries {
    success: Counter,
    failure: Counter,
    count: Counter,
    exec_count: Counter,
    request_us: Counter,
    queue_us: Counter,
    compute_us: Counter,
}

#[derive(Debug)]
struct AppSeries {
    requests: Counter,
    energy: Counter,
}

#[derive(Debug)]
struct DomainSeries {
    clock: Gauge,
    min: Gauge,
    max: Gauge,
}

/// Watches what goes into the core and what comes out. Owned by the thread that owns the core.
#[derive(Debug)]
pub struct Observer {
    pub(super) registry: Registry,
    names: Names,
    notes: notes::Notes,
    in_flight: HashMap<RequestId, InFlight>,
    running: HashMap<BatchId, UnitId>,
    footprints: HashMap<(VariantId, UnitId), Bytes>,
    classes: Lazy<ClassSeries>,
    runs: Lazy<RunSeries>,
    rejections: Lazy<Counter>,
    triton: Lazy<TritonSeries>,
    apps: HashMap<AppId, AppSeries>,
    other_apps: Option<AppSeries>,
    zones: Vec<Gauge>,
    rails: Vec<Gauge>,
    domains: Vec<DomainSeries>,
    faults: Lazy<Counter>,
    regimes: Vec<(Regime, Gauge)>,
    in_flight_gauge: Gauge,
    decisions: Counter,
    decision_duration: Histogram,
}

const REGIMES: [(Regime, &str); 5] = [
    (Regime::Boot, "boot"),
    (Regime::Nominal, "nominal"),
    (Regime::Throttled, "throttled"),
    (Regime::Critical, "critical"),
    (Regime::Uncontrollable, "uncontrollable"),
];

/// Names of faults, by their order in [`fault_index`].
const FAULTS: [&str; 7] = ["missing", "no_data", "busy", "denied", "garbled", "implausible", "io"];

const fn fault_index(fault: SensorFault) -> usize {
    match fault {
        SensorFault::Missing => 0,
        SensorFault::NoData => 1,
        SensorFault::Busy => 2,
        SensorFault::Denied => 3,
        SensorFault::Garbled => 4,
        SensorFault::Implausible => 5,
        SensorFault::Io => 6,
    }
}

impl Observer {
    /// An observer with an empty page.
    #[must_use]
    pub fn new(names: Names) -> Self {
        let registry = Registry::new();
        registry.gauge(Metric::Info, &[env!("CARGO_PKG_VERSION"), &names.board]).set(1.0);
        let regime = |(regime, name): (Regime, &str)| {
            let gauge = registry.gauge(Metric::Regime, &[name]);
            gauge.set(f64::from(u8::from(regime == Regime::Boot)));
            (regime, gauge)
        };
        let domain = |name: &String| DomainSeries {
            clock: registry.gauge(Metric::Clock, &[name]),
            min: registry.gauge(Metric::ClockBound, &[name, "min"]),
            max: registry.gauge(Metric::ClockBound, &[name, "max"]),
        };
        Self {
            regimes: REGIMES.into_iter().map(regime).collect(),
            zones: names.zones.iter().map(|zone| registry.gauge(Metric::Temperature, &[zone])).collect(),
            rails: names.rails.iter().map(|rail| registry.gauge(Metric::Power, &[rail])).collect(),
            domains: names.domains.iter().map(domain).collect(),
            in_flight_gauge: registry.gauge(Metric::InFlight, &[]),
            decisions: registry.counter(Metric::Decisions, &[]),
            decision_duration: registry.histogram(Metric::DecisionDuration, &[]),
            registry,
            names,
            notes: notes::Notes::default(),
            in_flight: HashMap::new(),
            running: HashMap::new(),
            footprints: HashMap::new(),
            classes: Lazy::new(),
            runs: Lazy::new(),
            rejections: Lazy::new(),
            triton: Lazy::new(),
            apps: HashMap::new(),
            other_apps: None,
            faults: Lazy::new(),
        }
    }

    /// The Prometheus page, for any thread.
    #[must_use]
    pub fn page(&self) -> Page {
        self.registry.page()
    }

    /// Requests submitted and not answered yet.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The core took this long for one event.
    pub fn decision_took(&self, span: Nanos) {
        self.decision_duration.record(span.as_secs_f64());
    }

    /// Energy left of a budget: `energy`, `battery`, `power`, or `class:NAME`.
    pub fn budget_left(&self, budget: &str, left: Microjoules) {
        self.registry.gauge(Metric::BudgetLeft, &[budget]).set(left.as_f64() / 1e6);
    }

    /// How an estimator does, and what it says.
    pub fn estimate(&self, report: &Report) {
        let of = report.unit.map_or("board", |unit| Names::at(&self.names.units, unit.index()));
        let labels = [report.estimator, of];
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let observations = report.meter.observations as f64;
        self.registry.gauge(Metric::EstimatorObservations, &labels).set(observations);
        if report.meter.observations > 0 {
            self.registry.gauge(Metric::EstimatorError, &labels).set(report.meter.error);
        }
        for (value, number) in &report.values {
            self.registry.gauge(Metric::Estimate, &[report.estimator, of, value]).set(*number);
        }
    }

    /// To be called with every event, before the core handles it.
    pub fn event(&mut self, now: Timestamp, event: &Event) {
        match event {
            Event::Submit(request) => self.submitted(now, request),
            Event::Completed(completion) => self.completed(completion),
            Event::Loaded { variant, unit, footprint } => self.loaded(*variant, *unit, *footprint),
            Event::LoadFailed { variant, unit } => self.load_result(*variant, *unit, "failed"),
            Event::Unloaded { variant, unit } => {
                self.footprints.remove(&(*variant, *unit));
                self.residency(*variant, *unit);
                self.load_result(*variant, *unit, "unloaded");
            }
            Event::Sampled(readings) => self.sampled(readings),
            Event::Applied(report) => {
                for (domain, applied) in report.domains.iter().enumerate() {
                    if let Some(Applied::Refused(fault)) = applied {
                        let labels = [self.names.domain(domain), FAULTS[fault_index(*fault)]];
                        self.registry.counter(Metric::ClockRefusals, &labels).increment(1);
                    }
                }
            }
            Event::Reconfigured(budgets) => {
                self.names.classes = budgets.classes.iter().map(|class| class.name.clone()).collect();
                self.classes = Lazy::new();
            }
            // What serves next is named before anything is said of it.
            Event::Extended(addition) => self.names.extend(addition),
            Event::Cancel(_)
            | Event::Retain { .. }
            | Event::Rollout(_)
            | Event::Profiled { .. }
            | Event::Restored(_)
            | Event::Hold { .. }
            | Event::Probing(_)
            | Event::Drain
            | Event::Wake => {}
        }
        self.notes.event(&self.names, event);
    }

    /// To be called with every effect that the core gave out.
    pub fn effect(&mut self, now: Timestamp, effect: &Effect) {
        match effect {
            Effect::Dispatch(dispatch) => self.dispatched(dispatch),
            Effect::Reply { request, outcome } => self.replied(now, *request, outcome),
            Effect::Note(Note::Regime(transition)) => {
                for (regime, gauge) in &self.regimes {
                    gauge.set(f64::from(u8::from(*regime == transition.to)));
                }
                let name =
                    REGIMES.iter().find(|(regime, _)| *regime == transition.to).map_or("", |(_, name)| name);
                self.registry.counter(Metric::RegimeChanges, &[name]).increment(1);
            }
            Effect::Note(Note::Controllable { domain, yes }) => {
                let gauge =
                    self.registry.gauge(Metric::ClockControllable, &[self.names.domain(domain.index())]);
                gauge.set(f64::from(u8::from(*yes)));
            }
            Effect::Note(Note::Decision(_)) => self.decisions.increment(1),
            Effect::Note(Note::GaveWay { variant, unit, .. }) => {
                let run = self.names.run(*variant, *unit);
                self.registry.counter(Metric::Preemptions, &run).increment(1);
            }
            Effect::Note(Note::Rollout(step)) => self.rolled(step),
            Effect::Note(Note::Quarantined { .. })
            | Effect::Abort(_)
            | Effect::Load { .. }
            | Effect::Unload { .. }
            | Effect::Set(_) => {}
        }
        self.notes.effect(&self.names, effect);
    }

    fn submitted(&mut self, now: Timestamp, request: &Request) {
        let Request { id, app, class, model, items, .. } = request;
        let entry =
            InFlight { submitted: now, app: *app, class: *class, model: model.index(), items: *items };
        self.in_flight.insert(*id, entry);
        self.show_in_flight();
    }

    fn replied(&mut self, now: Timestamp, request: RequestId, outcome: &Outcome) {
        let Some(entry) = self.in_flight.remove(&request) else { return };
        self.show_in_flight();
        self.app(entry.app).requests.increment(1);
        match outcome {
            Outcome::Served(served) => self.served(now, &entry, served),
            Outcome::Rejected { reason, .. } => self.rejected(&entry, *reason),
        }
    }

    fn served(&mut self, now: Timestamp, entry: &InFlight, served: &Served) {
        let took = now.since(entry.submitted);
        let class = self.class_series(entry);
        class.duration.record(took.as_secs_f64());
        if served.missed {
            class.late.increment(1);
            class.misses.increment(1);
        } else {
            class.in_time.increment(1);
        }
        class.rescues.increment(u64::from(served.rescued));
        let run = self.run_series(served.variant, served.unit);
        run.queue.record(served.queue.as_secs_f64());
        run.compute.record(served.compute.as_secs_f64());
        run.energy[source_index(served.energy_source)].increment(served.energy.0);
        self.app(entry.app).energy.increment(served.energy.0);
        let triton = self.triton_series(entry.model);
        triton.success.increment(1);
        triton.count.increment(u64::from(entry.items));
        triton.request_us.increment(took.as_micros());
        triton.queue_us.increment(served.queue.as_micros());
        triton.compute_us.increment(served.compute.as_micros());
    }

    fn rejected(&mut self, entry: &InFlight, reason: Rejection) {
        self.class_series(entry).rejected.increment(1);
        self.triton_series(entry.model).failure.increment(1);
        let place = Rejection::ALL.iter().position(|other| *other == reason).unwrap_or(0);
        let (registry, names) = (&self.registry, &self.names);
        let register = || registry.counter(Metric::Rejections, &[names.model(entry.model), reason.name()]);
        self.rejections.get(entry.model * Rejection::ALL.len() + place, register).increment(1);
    }

    fn dispatched(&mut self, dispatch: &Dispatch) {
        let run = self.run_series(dispatch.variant, dispatch.unit);
        run.batches.increment(1);
        run.items.increment(u64::from(dispatch.items));
        if let Some((_, model)) = self.names.variants.get(dispatch.variant.index()) {
            let model = *model;
            self.triton_series(model).exec_count.increment(1);
        }
        self.running.insert(dispatch.batch, dispatch.unit);
    }

    fn completed(&mut self, completion: &Completion) {
        let unit = self.running.remove(&completion.batch);
        let Err(failure) = &completion.result else { return };
        let reason = match failure {
            BatchFailure::Cancelled => "cancelled",
            BatchFailure::NotLoaded => "not_loaded",
            BatchFailure::Provider => "provider",
            BatchFailure::LaneLost => "lane_lost",
        };
        let unit = unit.map_or("unknown", |unit| Names::at(&self.names.units, unit.index()));
        self.registry.counter(Metric::BatchFailures, &[unit, reason]).increment(1);
    }

    fn loaded(&mut self, variant: VariantId, unit: UnitId, footprint: Bytes) {
        self.footprints.insert((variant, unit), footprint);
        self.residency(variant, unit);
        self.load_result(variant, unit, "loaded");
    }

    fn residency(&self, variant: VariantId, unit: UnitId) {
        let names = self.names.run(variant, unit);
        // Two versions of a model may have variants of one name.
        let resident = self.footprints.keys().any(|(variant, unit)| self.names.run(*variant, *unit) == names);
        self.registry.gauge(Metric::Resident, &names).set(f64::from(u8::from(resident)));
        let total = self.footprints.values().fold(Bytes::ZERO, |sum, bytes| sum.saturating_add(*bytes));
        self.registry.gauge(Metric::ResidentBytes, &[]).set(total.as_f64());
    }

    fn rolled(&self, step: &Step) {
        let (model, version) = self.names.versioned(step.version.index());
        for stage in Stage::ALL {
            let here = f64::from(u8::from(stage == step.stage));
            self.registry.gauge(Metric::RolloutStage, &[model, stage.name()]).set(here);
        }
        self.registry.counter(Metric::RolloutSteps, &[model, version, step.stage.name()]).increment(1);
    }

    fn load_result(&self, variant: VariantId, unit: UnitId, result: &str) {
        let [model, variant, unit] = self.names.run(variant, unit);
        self.registry.counter(Metric::Loads, &[model, variant, unit, result]).increment(1);
    }

    fn sampled(&mut self, readings: &Readings) {
        let nan = f64::NAN;
        for (gauge, reading) in self.zones.iter().zip(&readings.zones) {
            gauge.set(reading.map_or(nan, |t| t.as_celsius()));
        }
        for (gauge, reading) in self.rails.iter().zip(&readings.rails) {
            gauge.set(reading.map_or(nan, |power| power.as_watts()));
        }
        for (series, reading) in self.domains.iter().zip(&readings.domains) {
            series.clock.set(reading.map_or(nan, |state| state.current.as_f64() * 1e3));
            series.min.set(reading.map_or(nan, |state| state.min.as_f64() * 1e3));
            series.max.set(reading.map_or(nan, |state| state.max.as_f64() * 1e3));
        }
        self.sampled_faults(readings);
        if let Some(battery) = &readings.battery {
            let left = battery.map_or(nan, |battery| battery.remaining.as_f64() / 1e6);
            self.registry.gauge(Metric::Battery, &[]).set(left);
            let draw = battery.map_or(nan, |battery| battery.draw.as_watts());
            self.registry.gauge(Metric::BatteryPower, &[]).set(draw);
        }
        if let Ok(memory) = &readings.memory {
            self.registry.gauge(Metric::MemoryAvailable, &[]).set(memory.available.as_f64());
            self.registry.gauge(Metric::ProcessResident, &[]).set(memory.resident.as_f64());
        }
        if let Some(Ok(pressure)) = &readings.pressure {
            for (name, share) in [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)] {
                self.registry.gauge(Metric::Pressure, &[name]).set(share.as_fraction());
            }
        }
    }

    fn sampled_faults(&mut self, readings: &Readings) {
        let (registry, names, faults) = (&self.registry, &self.names, &mut self.faults);
        for (place, fault) in notes::faults(readings) {
            let kind = fault_index(fault);
            let register = || {
                let sensor = notes::sensor_name(names, readings, place);
                registry.counter(Metric::SensorFaults, &[&sensor, FAULTS[kind]])
            };
            faults.get(place * FAULTS.len() + kind, register).increment(1);
        }
    }

    fn show_in_flight(&self) {
        let count = u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX);
        self.in_flight_gauge.set(f64::from(count));
    }

    fn class_series(&mut self, entry: &InFlight) -> &ClassSeries {
        let (registry, names) = (&self.registry, &self.names);
        // One place more than there are classes: for a class that a reload took away.
        let known = names.classes.len();
        let index = entry.model * (known + 1) + usize::from(entry.class.0).min(known);
        self.classes.get(index, || {
            let [model, class] = [names.model(entry.model), names.class(entry.class)];
            let outcome = |outcome| registry.counter(Metric::Requests, &[model, class, outcome]);
            ClassSeries {
                in_time: outcome("in_time"),
                late: outcome("late"),
                rejected: outcome("rejected"),
                misses: registry.counter(Metric::DeadlineMisses, &[model, class]),
                rescues: registry.counter(Metric::Rescues, &[model, class]),
                duration: registry.histogram(Metric::RequestDuration, &[model, class]),
            }
        })
    }

    fn run_series(&mut self, variant: VariantId, unit: UnitId) -> &RunSeries {
        let (registry, names) = (&self.registry, &self.names);
        let index = variant.index() * names.units.len().max(1) + unit.index();
        self.runs.get(index, || {
            let labels = names.run(variant, unit);
            let [model, variant, unit] = labels;
            let energy = |source| registry.counter(Metric::Energy, &[model, variant, unit, source]);
            RunSeries {
                queue: registry.histogram(Metric::QueueDuration, &labels),
                compute: registry.histogram(Metric::ComputeDuration, &labels),
                batches: registry.counter(Metric::Batches, &labels),
                items: registry.counter(Metric::Items, &labels),
                energy: ["conservative", "modelled", "measured"].map(energy),
            }
        })
    }

    fn triton_series(&mut self, model: usize) -> &TritonSeries {
        let (registry, names) = (&self.registry, &self.names);
        self.triton.get(model, || {
            let (name, version) = names.versioned(model);
            let counter = |metric| registry.counter(metric, &[name, version]);
            TritonSeries {
                success: counter(Metric::NvSuccess),
                failure: counter(Metric::NvFailure),
                count: counter(Metric::NvCount),
                exec_count: counter(Metric::NvExecCount),
                request_us: counter(Metric::NvRequestDuration),
                queue_us: counter(Metric::NvQueueDuration),
                compute_us: counter(Metric::NvComputeDuration),
            }
        })
    }

    fn app(&mut self, app: AppId) -> &AppSeries {
        let (registry, full) = (&self.registry, self.apps.len() >= MAX_APPS);
        let register = |name: &str| AppSeries {
            requests: registry.counter(Metric::AppRequests, &[name]),
            energy: registry.counter(Metric::AppEnergy, &[name]),
        };
        if full && !self.apps.contains_key(&app) {
            return self.other_apps.get_or_insert_with(|| register("other"));
        }
        self.apps.entry(app).or_insert_with(|| match app {
            crate::api::backend::Peer::TCP => register("tcp"),
            rollout::SHADOW => register("shadow"),
            _ => register(&app.0.to_string()),
        })
    }
}

const fn source_index(source: Provenance) -> usize {
    match source {
        Provenance::Conservative => 0,
        Provenance::Modelled => 1,
        Provenance::Measured => 2,
    }
}

#[cfg(test)]
mod tests;
