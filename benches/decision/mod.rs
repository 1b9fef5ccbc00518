//! A core at work, for what measures one decision: three units, twelve clocks, eight variants, and a queue that is kept
//! at a length. Everything is in virtual time and the same in every run.

use wattd::core::Core;
use wattd::core::catalog::*;
use wattd::core::energy::*;
use wattd::core::event::*;
use wattd::time::Timestamp;
use wattd::units::*;

/// Time between two sweeps of the sensors.
const SWEEP: Nanos = Nanos::from_millis(100);

/// A run that the lane of a unit has been given.
struct Run {
    batch: BatchId,
    started: Timestamp,
    ends: Timestamp,
    energy: Option<Microjoules>,
    result: Result<(), BatchFailure>,
}

/// What [`Steady::next`] came to.
pub(crate) struct Step {
    /// When.
    pub(crate) at: Timestamp,
    /// What the core is to be told.
    pub(crate) event: Event,
}

/// A core whose queue is filled up again whenever something was decided.
pub(crate) struct Steady {
    /// The core.
    pub(crate) core: Core,
    now: Timestamp,
    length: usize,
    next_request: u64,
    /// One in so many requests leaves its deadline to its class.
    soft_every: u64,
    swept: Timestamp,
    running: Vec<Run>,
    /// Batches that were given to a lane.
    pub(crate) dispatched: u64,
    /// Requests that were served.
    pub(crate) served: u64,
}

impl Steady {
    /// With so many requests waiting, every time other ones.
    pub(crate) fn new(length: usize, soft_every: u64, seed: u64) -> Self {
        let mut steady = Self {
            core: idle_core(),
            now: Timestamp(1_000_000_000),
            length,
            soft_every,
            next_request: seed * 1_000_000,
            swept: Timestamp(1_000_000_000),
            running: Vec::with_capacity(8),
            dispatched: 0,
            served: 0,
        };
        steady.fill();
        steady
    }

    /// The request that comes next. All name a deadline, but for one in `soft_every`.
    fn request(&mut self) -> Request {
        self.next_request += 1;
        let id = self.next_request;
        let spread = Nanos::from_millis(1_000 + id * 37 % 500);
        let deadline = (!id.is_multiple_of(self.soft_every)).then(|| self.now.after(spread));
        Request { deadline, ..request(id) }
    }

    /// Submits requests until as many wait as should.
    pub(crate) fn fill(&mut self) {
        // Some are turned away: their deadline is out of reach.
        for _ in 0..2 * self.length {
            if !self.is_short() {
                break;
            }
            let submit = self.submit();
            self.tell(submit);
        }
    }

    /// Whether fewer wait than should.
    pub(crate) fn is_short(&self) -> bool {
        self.core.status(self.now).waiting < self.length
    }

    /// The request that comes next.
    pub(crate) fn submit(&mut self) -> Step {
        let request = self.request();
        Step { at: self.now, event: Event::Submit(request) }
    }

    /// What happens next: a run ends, the sensors are read, or the core wants to be woken.
    pub(crate) fn next(&mut self) -> Step {
        let run = (0..self.running.len()).min_by_key(|&run| self.running[run].ends);
        let ends = run.map_or(Timestamp::MAX, |run| self.running[run].ends);
        let sweeps = self.swept.after(SWEEP);
        let wakes = self.core.next_wakeup().unwrap_or(Timestamp::MAX);
        let at = ends.min(sweeps).min(wakes).max(self.now);
        if sweeps <= at {
            self.swept = sweeps;
            return Step { at, event: Event::Sampled(readings(at)) };
        }
        let Some(run) = run.filter(|_| ends <= at) else { return Step { at, event: Event::Wake } };
        let Run { batch, started, ends: finished, energy, result } = self.running.swap_remove(run);
        Step { at, event: Event::Completed(Completion { batch, started, finished, energy, result }) }
    }

    /// Tells the core, and does what it wants done: what is measured. It allocates nothing of its own.
    #[inline(never)]
    pub(crate) fn handle(&mut self, step: Step) {
        self.tell(step);
    }

    fn tell(&mut self, step: Step) {
        self.now = step.at;
        self.core.handle(step.at, step.event);
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(&effect);
        }
    }

    fn carry_out(&mut self, effect: &Effect) {
        match effect {
            Effect::Dispatch(dispatch) => {
                self.dispatched += 1;
                let luck = dispatch.batch.0 * 7_919;
                // Between 95 and 105 %, and one of 97 half as long again.
                let percent = 95 + luck % 11 + if luck.is_multiple_of(97) { 45 } else { 0 };
                let (batch, unit, clock, started) =
                    (dispatch.batch, dispatch.unit, dispatch.point.clock, self.now);
                let catalog = self.core.catalog();
                let profile = &catalog.variants[dispatch.variant.index()].profiles[unit.index()];
                let took = profile.map_or(Nanos::ZERO, |known| known.latency.latency(clock, dispatch.items));
                let took = Nanos(took.0 * percent / 100);
                // The second unit has a meter.
                let power = catalog.board.units[unit.index()].busy_power.at(clock);
                let energy = (unit.index() == 1).then(|| power.over(took));
                self.running.push(Run { batch, started, ends: started.after(took), energy, result: Ok(()) });
            }
            Effect::Abort(batch) => {
                for run in self.running.iter_mut().filter(|run| run.batch == *batch) {
                    (run.ends, run.result) = (self.now, Err(BatchFailure::Cancelled));
                }
            }
            Effect::Reply { outcome: Outcome::Served(_), .. } => self.served += 1,
            _ => {}
        }
    }

    /// Lets so many batches be dispatched, and fills the queue after each step.
    pub(crate) fn warm_up(&mut self, batches: u64) {
        let until = self.dispatched + batches;
        while self.dispatched < until {
            let step = self.next();
            self.handle(step);
            self.fill();
        }
    }
}

fn readings(at: Timestamp) -> Readings {
    let (clock, max) = (Kilohertz(1_050_000), Kilohertz(1_800_000));
    let state = Ok(ClockState { current: clock, min: Kilohertz(0), max });
    // A slow wave of two degrees: a sensor that never moves counts as stuck.
    let wave = i32::try_from(at.0 / 500_000_000 % 20).unwrap_or(0);
    Readings {
        zones: vec![Ok(MilliCelsius(40_000 + 100 * wave))],
        rails: vec![],
        domains: vec![state; 3],
        battery: None,
        memory: Err(SensorFault::Missing),
        pressure: None,
    }
}

fn request(id: u64) -> Request {
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

/// A core with everything loaded and nothing to do.
pub(crate) fn idle_core() -> Core {
    let mut core = Core::new(catalog(), budgets(), Timestamp::ZERO);
    core.handle(Timestamp::ZERO, Event::Sampled(readings(Timestamp::ZERO)));
    core.handle(Timestamp::ZERO, Event::Retain { model: ModelId(0), resident: true });
    for _ in 0..8 {
        let mut loads = Vec::new();
        while let Some(effect) = core.poll_effect() {
            if let Effect::Load { variant, unit } = effect {
                loads.push((variant, unit));
            }
        }
        for (variant, unit) in loads {
            core.handle(Timestamp::ZERO, Event::Loaded { variant, unit, footprint: Bytes(1 << 20) });
        }
    }
    core
}

fn catalog() -> Catalog {
    let opps: Vec<Kilohertz> = (1..=12).map(|step| Kilohertz(step * 150_000)).collect();
    let units = ["cpu", "gpu", "npu"].iter().enumerate().map(|(index, name)| Unit {
        name: (*name).to_owned(),
        kind: [UnitKind::Cpu, UnitKind::Gpu, UnitKind::Npu][index],
        group: u8::try_from(index).unwrap_or(0),
        domain: Some(DomainId::at(index)),
        memory_domain: None,
        preemptible: index == 0,
        busy_power: PowerModel { constant_w: 0.5, linear_w_per_ghz: 1.0, cubic_w_per_ghz3: 1.0 },
        rail: None,
    });
    let domain = |name: &str| Domain {
        name: name.to_owned(),
        opps: opps.clone(),
        settle: Nanos::from_millis(1),
        held_power: PowerModel::default(),
    };
    let profile = |scale: f64| Profile {
        latency: Roofline {
            compute_s_ghz: 0.01 * scale,
            memory_s: 0.002 * scale,
            p: 2.0,
            overhead_s: 1e-4,
            marginal: 0.7,
            memory_elasticity: 1.0,
        },
        spread: 0.02,
        latency_source: Provenance::Measured,
        power_scale: 1.0,
        power_source: Provenance::Modelled,
        footprint: Bytes(1 << 20),
    };
    Catalog {
        board: Board {
            name: "bench".to_owned(),
            units: units.collect(),
            domains: vec![domain("cpu"), domain("gpu"), domain("npu")],
            zones: vec![Zone {
                name: "soc".to_owned(),
                passive: MilliCelsius(90_000),
                critical: MilliCelsius(100_000),
            }],
            rails: vec![],
            idle_power: Microwatts(2_000_000),
            thermal: ThermalModel { fast_k_per_w: 1.0, fast_tau_s: 2.0, slow_k_per_w: 3.0, slow_tau_s: 60.0 },
        },
        models: vec![Model { name: "m".to_owned(), variants: (0..8).map(VariantId).collect(), max_batch: 8 }],
        variants: (0..8u16)
            .map(|step| Variant {
                name: format!("v{step}"),
                model: ModelId(0),
                accuracy: Ppm(950_000 - u32::from(step) * 10_000),
                profiles: vec![Some(profile(1.0 / f64::from(step + 1))); 3],
            })
            .collect(),
    }
}

fn budgets() -> Budgets {
    Budgets {
        objective: Objective::LeastEnergy,
        power_cap: Some(Microwatts(8_000_000)),
        power_window: Nanos::from_secs(1),
        energy: None,
        battery: None,
        max_temperature: None,
        temperature_margin: MilliCelsius(3_000),
        memory_cap: Bytes(1 << 30),
        queue_limit: 128,
        app_limit: 128,
        unload_after: None,
        stale_after: Nanos::from_secs(60),
        classes: vec![ClassBudget {
            name: "default".to_owned(),
            latency: Nanos::from_millis(100),
            min_accuracy: Ppm(800_000),
            accuracy_target: Some(Ppm(900_000)),
            priority: 10,
            energy_per_request: None,
            power: None,
            rescue: true,
        }],
    }
}
