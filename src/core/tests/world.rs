//! The world of the core's tests: lanes, clocks, sensors, and virtual time.

use super::*;
use std::collections::BTreeMap;

const MS: Nanos = Nanos::from_millis(1);

pub(super) fn profile(compute_ms_ghz: f64, footprint: u64) -> Profile {
    Profile {
        latency: Roofline {
            compute_s_ghz: compute_ms_ghz / 1e3,
            memory_s: 1e-5,
            p: 2.0,
            overhead_s: 1e-5,
            marginal: 0.8,
            memory_elasticity: 1.0,
        },
        spread: 0.02,
        latency_source: Provenance::Measured,
        power_scale: 1.0,
        power_source: Provenance::Modelled,
        footprint: Bytes(footprint),
    }
}

fn unit(name: &str, kind: UnitKind, group: u8, domain: u8, watts: f64) -> Unit {
    Unit {
        name: name.into(),
        kind,
        group,
        domain: Some(DomainId(domain)),
        memory_domain: None,
        preemptible: kind == UnitKind::Cpu,
        busy_power: PowerModel {
            constant_w: 0.2 * watts,
            linear_w_per_ghz: 0.3 * watts,
            cubic_w_per_ghz3: 0.5 * watts,
        },
        rail: None,
    }
}

fn opps(mhz: &[u32]) -> Vec<Kilohertz> {
    mhz.iter().map(|&mhz| Kilohertz(mhz * 1000)).collect()
}

/// Two CPU units that share a processor and a faster, hungrier GPU; one model with three variants.
pub(super) fn catalog() -> Catalog {
    let board = Board {
        name: "test".into(),
        units: vec![
            unit("cpu", UnitKind::Cpu, 0, 0, 2.0),
            unit("cpu-2t", UnitKind::Cpu, 0, 0, 3.5),
            unit("gpu", UnitKind::Gpu, 1, 1, 6.0),
        ],
        domains: vec![
            Domain {
                name: "cpu".into(),
                opps: opps(&[500, 1000, 1500, 2000]),
                settle: MS,
                held_power: PowerModel::default(),
            },
            Domain {
                name: "gpu".into(),
                opps: opps(&[200, 400, 800, 1200]),
                settle: Nanos::from_millis(5),
                held_power: PowerModel::default(),
            },
        ],
        zones: vec![Zone {
            name: "soc".into(),
            passive: MilliCelsius(80_000),
            critical: MilliCelsius(100_000),
        }],
        rails: vec![Rail { name: "VDD_IN".into(), is_input: true }],
        idle_power: Microwatts(2_000_000),
        thermal: ThermalModel { fast_k_per_w: 1.0, fast_tau_s: 2.0, slow_k_per_w: 3.0, slow_tau_s: 60.0 },
    };
    let variant = |name: &str, accuracy: f64, ms: f64| Variant {
        name: name.into(),
        model: ModelId(0),
        accuracy: Ppm::from_fraction(accuracy),
        profiles: vec![
            Some(profile(ms, 10 << 20)),
            Some(profile(ms * 0.6, 10 << 20)),
            Some(profile(ms * 0.2, 20 << 20)),
        ],
    };
    Catalog {
        board,
        models: vec![Model {
            name: "m".into(),
            variants: vec![VariantId(0), VariantId(1), VariantId(2)],
            max_batch: 8,
        }],
        variants: vec![
            variant("large", 0.95, 40.0),
            variant("medium", 0.93, 15.0),
            variant("small", 0.88, 4.0),
        ],
    }
}

/// The catalogue on one unit that can cancel.
pub(super) fn alone() -> Catalog {
    let mut catalog = catalog();
    catalog.board.units.truncate(1);
    catalog.variants.iter_mut().for_each(|variant| variant.profiles.truncate(1));
    catalog
}

pub(super) fn budgets() -> Budgets {
    Budgets {
        objective: Objective::LeastEnergy,
        power_cap: None,
        power_window: Nanos::from_secs(1),
        energy: None,
        battery: None,
        max_temperature: None,
        temperature_margin: MilliCelsius(3_000),
        memory_cap: Bytes(1 << 30),
        queue_limit: 64,
        app_limit: 64,
        unload_after: None,
        stale_after: Nanos::from_secs(1),
        classes: vec![ClassBudget {
            name: "default".into(),
            latency: Nanos::from_millis(100),
            min_accuracy: Ppm::from_fraction(0.85),
            accuracy_target: None,
            priority: 10,
            energy_per_request: None,
            power: None,
            rescue: true,
        }],
    }
}

pub(super) fn readings(celsius: f64, watts: f64) -> Readings {
    let clock = ClockState { current: Kilohertz(500_000), min: Kilohertz(0), max: Kilohertz(4_000_000) };
    Readings {
        zones: vec![Ok(MilliCelsius::from_celsius(celsius))],
        rails: vec![Ok(Microwatts::from_watts(watts))],
        domains: vec![Ok(clock), Ok(clock)],
        battery: None,
        memory: Err(SensorFault::Missing),
        pressure: None,
    }
}

pub(super) fn request(id: u64) -> Request {
    Request {
        id: RequestId(id),
        app: AppId(1),
        class: ClassId(0),
        model: ModelId(0),
        items: 1,
        input_bytes: Bytes(784),
        deadline: None,
        min_accuracy: None,
        max_energy: None,
        variant: None,
        priority: None,
    }
}

/// The world around the core.
pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Timestamp,
    pub(super) running: Vec<(Timestamp, Dispatch, Timestamp)>,
    pub(super) outcomes: BTreeMap<RequestId, Outcome>,
    pub(super) decisions: Vec<plan::Explanation>,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) regimes: Vec<Regime>,
    pub(super) set: Vec<Option<ClockBounds>>,
    /// Actual over planned latency.
    pub(super) slowdown: f64,
    /// If set, runs take what their profile says with its memory roof so many times as slow, whatever was planned.
    pub(super) memory_slowdown: Option<f64>,
    pub(super) fail: Option<BatchFailure>,
    pub(super) loads_fail: bool,
    /// Loads that were ordered.
    pub(super) loads: Vec<(VariantId, UnitId)>,
    pub(super) aborted: Vec<BatchId>,
}

impl World {
    pub(super) fn new(catalog: Catalog, budgets: Budgets) -> Self {
        let domains = catalog.board.domains.len();
        let mut world = Self {
            core: Core::new(catalog, budgets, Timestamp::ZERO),
            now: Timestamp::ZERO,
            running: Vec::new(),
            outcomes: BTreeMap::new(),
            decisions: Vec::new(),
            dispatches: Vec::new(),
            regimes: Vec::new(),
            set: vec![None; domains],
            slowdown: 1.0,
            memory_slowdown: None,
            fail: None,
            loads_fail: false,
            loads: Vec::new(),
            aborted: Vec::new(),
        };
        world.handle(Event::Sampled(readings(40.0, 2.0)));
        world.handle(Event::Retain { model: ModelId(0), resident: true });
        world
    }

    pub(super) fn handle(&mut self, event: Event) {
        self.core.handle(self.now, event);
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Dispatch(dispatch) => {
                assert!(
                    self.running.iter().all(|(_, other, _)| other.unit != dispatch.unit),
                    "one batch per lane"
                );
                let planned = Nanos::from_f64(dispatch.expected.as_f64() * self.slowdown);
                let taken = self.memory_slowdown.map_or(planned, |slower| self.roofline(&dispatch, slower));
                self.dispatches.push(dispatch.clone());
                self.running.push((self.now.after(taken), dispatch, self.now));
            }
            Effect::Abort(batch) => self.aborted.push(batch),
            Effect::Reply { request, outcome } => {
                assert!(self.outcomes.insert(request, outcome).is_none(), "{request:?} was answered twice");
            }
            Effect::Load { variant, unit } if self.loads_fail => {
                self.core.handle(self.now, Event::LoadFailed { variant, unit, short_of_memory: false })
            }
            Effect::Load { variant, unit } => {
                self.loads.push((variant, unit));
                let profile = self.core.catalog().variants[variant.index()].profiles[unit.index()];
                let footprint = profile.map_or(Bytes::ZERO, |profile| profile.footprint);
                self.core.handle(self.now, Event::Loaded { variant, unit, footprint });
            }
            Effect::Unload { variant, unit } => self.core.handle(self.now, Event::Unloaded { variant, unit }),
            Effect::Set(setpoints) => {
                let kept = self.set.iter().zip(&setpoints.domains).map(|(old, new)| new.or(*old)).collect();
                self.set = kept;
                let domains = setpoints.domains.iter().map(|bounds| bounds.map(Applied::Bounds)).collect();
                self.core.handle(self.now, Event::Applied(ApplyReport { domains }));
            }
            Effect::Note(Note::Decision(explanation)) => self.decisions.push(explanation),
            Effect::Note(Note::Regime(transition)) => self.regimes.push(transition.to),
            Effect::Note(_) => {}
        }
    }

    /// What a run takes by its profile where memory is so many times as slow.
    fn roofline(&self, dispatch: &Dispatch, slower: f64) -> Nanos {
        let profiles = &self.core.catalog().variants[dispatch.variant.index()].profiles;
        let latency = profiles[dispatch.unit.index()].expect("it runs").latency;
        let compute_s = latency.compute_s_ghz / dispatch.point.clock.as_ghz();
        let roofs = compute_s.powf(latency.p) + (slower * latency.memory_s).powf(latency.p);
        Nanos::from_secs_f64(latency.overhead_s + roofs.powf(1.0 / latency.p))
    }

    /// Lets time pass up to `until`, doing what comes due in order.
    pub(super) fn run_until(&mut self, until: Timestamp) {
        for _ in 0..100_000 {
            let done = self.running.iter().enumerate().map(|(i, (at, dispatch, _))| {
                let aborted = self.aborted.contains(&dispatch.batch);
                (if aborted { self.now } else { *at }, i)
            });
            let next_done = done.min();
            let wake = self.core.next_wakeup().map(|at| at.max(self.now));
            let at = [next_done.map(|(at, _)| at), wake].into_iter().flatten().min();
            let Some(at) = at.filter(|&at| at <= until) else {
                self.now = self.now.max(until);
                return;
            };
            self.now = self.now.max(at);
            match next_done {
                Some((done, index)) if done <= at => self.complete(index),
                _ => self.handle(Event::Wake),
            }
        }
        panic!(
            "the world does not come to rest before {until:?}; next wake-up {:?}",
            self.core.next_wakeup()
        );
    }

    fn complete(&mut self, index: usize) {
        let (_, dispatch, started) = self.running.swap_remove(index);
        let aborted = self.aborted.contains(&dispatch.batch);
        let result = match (aborted, self.fail) {
            (true, _) => Err(BatchFailure::Cancelled),
            (_, Some(failure)) => Err(failure),
            _ => Ok(()),
        };
        self.handle(Event::Completed(Completion {
            batch: dispatch.batch,
            started,
            finished: self.now,
            energy: None,
            result,
        }));
    }

    pub(super) fn submit(&mut self, request: Request) {
        self.handle(Event::Submit(request));
    }

    /// Three quiet seconds with living sensors.
    pub(super) fn settle(&mut self) {
        for tick in 0..6u8 {
            self.run_until(self.now.after(Nanos::from_millis(500)));
            self.handle(Event::Sampled(readings(40.0 + 0.1 * f64::from(tick), 2.0)));
        }
    }

    pub(super) fn outcome(&self, id: u64) -> Outcome {
        self.outcomes[&RequestId(id)]
    }

    pub(super) fn served(&self, id: u64) -> Served {
        match self.outcome(id) {
            Outcome::Served(served) => served,
            other => panic!("request {id} was not served: {other:?}"),
        }
    }
}

pub(super) fn rejection(outcome: Outcome) -> Rejection {
    match outcome {
        Outcome::Rejected { reason, .. } => reason,
        Outcome::Served(served) => panic!("served: {served:?}"),
    }
}
