//! The core against a world of the tests' own: lanes that take as long as the profile says (or as a test
//! says otherwise), clocks that follow, a die that warms. Virtual time: it jumps to the next thing to happen.

use super::catalog::*;
use super::energy::*;
use super::event::*;
use super::thermal::Regime;
use super::*;
use crate::units::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

mod limits;

const MS: Nanos = Nanos::from_millis(1);

pub(crate) fn profile(compute_ms_ghz: f64, footprint: u64) -> Profile {
    Profile {
        latency: Roofline {
            compute_s_ghz: compute_ms_ghz / 1e3,
            memory_s: 1e-5,
            p: 2.0,
            overhead_s: 1e-5,
            marginal: 0.8,
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
pub(crate) fn catalog() -> Catalog {
    let board = Board {
        name: "test".into(),
        units: vec![
            unit("cpu", UnitKind::Cpu, 0, 0, 2.0),
            unit("cpu-2t", UnitKind::Cpu, 0, 0, 3.5),
            unit("gpu", UnitKind::Gpu, 1, 1, 6.0),
        ],
        domains: vec![
            Domain { name: "cpu".into(), opps: opps(&[500, 1000, 1500, 2000]), settle: MS },
            Domain { name: "gpu".into(), opps: opps(&[200, 400, 800, 1200]), settle: Nanos::from_millis(5) },
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

pub(crate) fn budgets() -> Budgets {
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
        }],
    }
}

pub(crate) fn readings(celsius: f64, watts: f64) -> Readings {
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

pub(crate) fn request(id: u64) -> Request {
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
pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    running: Vec<(Timestamp, Dispatch, Timestamp)>,
    pub(crate) outcomes: BTreeMap<RequestId, Outcome>,
    pub(crate) decisions: Vec<plan::Explanation>,
    pub(crate) dispatches: Vec<Dispatch>,
    pub(crate) regimes: Vec<Regime>,
    pub(crate) set: Vec<Option<ClockBounds>>,
    /// Actual over planned latency.
    pub(crate) slowdown: f64,
    pub(crate) fail: Option<BatchFailure>,
    loads_fail: bool,
    aborted: Vec<BatchId>,
}

impl World {
    pub(crate) fn new(catalog: Catalog, budgets: Budgets) -> Self {
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
            fail: None,
            loads_fail: false,
            aborted: Vec::new(),
        };
        world.handle(Event::Sampled(readings(40.0, 2.0)));
        world.handle(Event::Retain { model: ModelId(0), resident: true });
        world
    }

    pub(crate) fn handle(&mut self, event: Event) {
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
                let taken = Nanos::from_f64(dispatch.expected.as_f64() * self.slowdown);
                self.dispatches.push(dispatch.clone());
                self.running.push((self.now.after(taken), dispatch, self.now));
            }
            Effect::Abort(batch) => self.aborted.push(batch),
            Effect::Reply { request, outcome } => {
                assert!(self.outcomes.insert(request, outcome).is_none(), "{request:?} was answered twice");
            }
            Effect::Load { variant, unit } if self.loads_fail => {
                self.core.handle(self.now, Event::LoadFailed { variant, unit })
            }
            Effect::Load { variant, unit } => {
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

    /// Lets time pass up to `until`, doing what comes due in order.
    pub(crate) fn run_until(&mut self, until: Timestamp) {
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

    pub(crate) fn submit(&mut self, request: Request) {
        self.handle(Event::Submit(request));
    }

    /// Three quiet seconds with living sensors.
    pub(crate) fn settle(&mut self) {
        for tick in 0..6u8 {
            self.run_until(self.now.after(Nanos::from_millis(500)));
            self.handle(Event::Sampled(readings(40.0 + 0.1 * f64::from(tick), 2.0)));
        }
    }

    fn outcome(&self, id: u64) -> Outcome {
        self.outcomes[&RequestId(id)]
    }

    fn served(&self, id: u64) -> Served {
        match self.outcome(id) {
            Outcome::Served(served) => served,
            other => panic!("request {id} was not served: {other:?}"),
        }
    }
}

fn rejection(outcome: Outcome) -> Rejection {
    match outcome {
        Outcome::Rejected { reason, .. } => reason,
        Outcome::Served(served) => panic!("served: {served:?}"),
    }
}

#[test]
fn without_pressure_the_cheapest_variant_and_a_low_clock_serve() {
    let mut world = World::new(catalog(), budgets());
    world.submit(request(1));
    world.settle();
    let served = world.served(1);
    assert_eq!(served.variant, VariantId(2), "the small variant meets the floor");
    assert!(!served.missed);
    // The most frugal choice is never costlier than the same variant at the highest clock.
    let all = world.decisions[0];
    assert_eq!(all.binding, plan::Constraint::None);
}

#[test]
fn a_tight_deadline_buys_a_faster_configuration() {
    let mut world = World::new(catalog(), budgets());
    let large = Request { variant: Some(VariantId(0)), ..request(1) };
    world.submit(large.clone());
    world.settle();
    let relaxed = world.decisions[0].chosen;
    // At the 30 % cold tail and with 5 ms for the change, the next clock up fits into 0.9 of the time.
    let deadline = world.now.after(Nanos(relaxed.latency.0 * 9 / 10));
    world.submit(Request { id: RequestId(2), deadline: Some(deadline), ..large });
    world.settle();
    let tight = world.decisions[1];
    assert!(tight.chosen.latency < relaxed.latency && tight.chosen.energy >= relaxed.energy);
    assert_eq!(tight.binding, plan::Constraint::Deadline);
    assert!(!world.served(2).missed);
}

#[test]
fn an_impossible_deadline_is_refused_at_once_with_the_time_that_it_lacks() {
    let mut world = World::new(catalog(), budgets());
    let deadline = world.now.after(Nanos::from_micros(10));
    world.submit(Request { deadline: Some(deadline), ..request(1) });
    match world.outcome(1) {
        Outcome::Rejected { reason: Rejection::DeadlineUnreachable, retry_after: Some(late) } => {
            assert!(late > Nanos::ZERO)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn accuracy_and_energy_wishes_are_kept_or_refused() {
    let mut world = World::new(catalog(), budgets());
    world.submit(Request { min_accuracy: Some(Ppm::from_fraction(0.94)), ..request(1) });
    world.submit(Request { min_accuracy: Some(Ppm::from_fraction(0.99)), ..request(2) });
    world.submit(Request { max_energy: Some(Microjoules(1)), ..request(3) });
    world.submit(Request { variant: Some(VariantId(1)), ..request(4) });
    world.settle();
    assert_eq!(world.served(1).variant, VariantId(0));
    assert_eq!(rejection(world.outcome(2)), Rejection::AccuracyUnreachable);
    assert_eq!(rejection(world.outcome(3)), Rejection::EnergyUnreachable);
    assert_eq!(world.served(4).variant, VariantId(1));
}

#[test]
fn the_accuracy_target_is_given_while_the_power_cap_allows_and_no_longer() {
    let mut limits = budgets();
    limits.classes[0].accuracy_target = Some(Ppm::from_fraction(0.95));
    let periodic = |limits: Budgets| {
        let mut world = World::new(catalog(), limits);
        for id in 0..60 {
            world.submit(request(id));
            world.run_until(world.now.after(Nanos::from_millis(50)));
            world.handle(Event::Sampled(readings(40.0 + 0.001 * f64::from(u32::try_from(id).unwrap()), 2.0)));
        }
        world.settle();
        let accuracies = (0..60).map(|id| world.served(id).accuracy.as_fraction());
        (accuracies.sum::<f64>() / 60.0, world)
    };
    let (free, _) = periodic(limits.clone());
    assert!(free > 0.949, "unconstrained: {free}");
    // Idle is 2 W; a tenth of a watt above it does not carry the large variant 20 times a second.
    let (capped, world) = periodic(Budgets { power_cap: Some(Microwatts(2_100_000)), ..limits });
    assert!(capped < free && capped >= 0.88, "capped: {capped}");
    assert!(world.decisions.iter().any(|decision| decision.binding == plan::Constraint::Budget));
}

#[test]
fn heat_holds_power_back_and_the_critical_trip_stops_everything() {
    let mut world = World::new(catalog(), budgets());
    for step in 0..40u32 {
        world.now = world.now.after(Nanos::from_millis(100));
        world.handle(Event::Sampled(readings(40.0 + f64::from(step) * 1.6, 8.0)));
    }
    assert!(world.regimes.contains(&Regime::Throttled), "{:?}", world.regimes);
    world.now = world.now.after(Nanos::from_millis(100));
    world.handle(Event::Sampled(readings(112.0, 8.0)));
    assert_eq!(world.core.status(world.now).regime, Regime::Critical);
    let low = Kilohertz(500_000);
    assert_eq!(world.set[0], Some(ClockBounds { min: low, max: low }), "caps held while critical");
    world.submit(request(1));
    assert_eq!(rejection(world.outcome(1)), Rejection::TooHot);
    for _ in 0..3 {
        world.now = world.now.after(Nanos::from_millis(100));
        world.handle(Event::Sampled(readings(50.0, 3.0)));
    }
    assert_eq!(world.core.status(world.now).regime, Regime::Nominal);
    world.submit(request(2));
    world.settle();
    world.served(2);
}

#[test]
fn a_silent_sensor_is_treated_as_hot_and_recovers() {
    let mut world = World::new(catalog(), budgets());
    let mut blind = readings(0.0, 2.0);
    blind.zones[0] = Err(SensorFault::NoData);
    world.handle(Event::Sampled(blind.clone()));
    assert_eq!(world.core.status(world.now).regime, Regime::Nominal, "one missed reading is not blindness");
    world.run_until(world.now.after(Nanos::from_secs(2)));
    assert_eq!(world.core.status(world.now).regime, Regime::Uncontrollable);
    world.submit(request(1));
    world.run_until(world.now.after(Nanos::from_secs(3)));
    let lowest = [Kilohertz(500_000), Kilohertz(200_000)];
    assert!(lowest.contains(&world.served(1).clock), "blind: only the lowest clocks");
    world.handle(Event::Sampled(readings(45.0, 2.0)));
    assert_eq!(world.core.status(world.now).regime, Regime::Nominal);
}

#[test]
fn impossible_jumps_and_stuck_sensors_do_not_count_as_readings() {
    let mut world = World::new(catalog(), budgets());
    let tick = |world: &mut World, celsius: f64, watts: f64| {
        world.now = world.now.after(Nanos::from_millis(100));
        world.handle(Event::Sampled(readings(celsius, watts)));
    };
    tick(&mut world, 41.0, 2.0);
    tick(&mut world, 150.0, 2.0);
    assert_eq!(world.core.status(world.now).regime, Regime::Nominal, "a spike of one sample is held back");
    tick(&mut world, 41.2, 2.0);
    // 12 W for 10 s must move the die by about 10 K; this sensor says 41.2 all along.
    for _ in 0..150 {
        tick(&mut world, 41.2, 14.0);
    }
    assert_eq!(world.core.status(world.now).regime, Regime::Uncontrollable, "a stuck sensor is no sensor");
}

#[test]
fn a_lapsed_hard_deadline_is_answered_on_time_and_the_run_is_stopped() {
    let mut world = World::new(catalog(), budgets());
    world.slowdown = 50.0;
    let deadline = world.now.after(Nanos::from_millis(30));
    world.submit(Request { deadline: Some(deadline), variant: Some(VariantId(2)), ..request(1) });
    world.run_until(deadline);
    assert_eq!(rejection(world.outcome(1)), Rejection::DeadlinePassed);
    let preemptible = world.core.catalog().board.units[world.dispatches[0].unit.index()].preemptible;
    assert_eq!(world.aborted.len(), usize::from(preemptible));
    world.settle();
    assert!(world.core.is_idle() || !preemptible);
}

#[test]
fn failing_providers_cost_requests_but_never_the_core() {
    let mut world = World::new(catalog(), budgets());
    for (index, failure) in
        [BatchFailure::Provider, BatchFailure::NotLoaded, BatchFailure::LaneLost].into_iter().enumerate()
    {
        world.fail = Some(failure);
        world.submit(request(index as u64));
        world.run_until(world.now.after(Nanos::from_millis(200)));
        rejection(world.outcome(index as u64));
    }
    world.fail = None;
    world.submit(request(9));
    world.settle();
    world.served(9);
}

#[test]
fn a_refusing_actuator_is_a_fact_not_a_failure() {
    let mut world = World::new(catalog(), budgets());
    for id in 0..4 {
        let refused = ApplyReport { domains: vec![Some(Applied::Refused(SensorFault::Denied)); 2] };
        world.core.handle(world.now, Event::Applied(refused));
        world.submit(request(id));
        world.settle();
        world.served(id);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Submit { deadline_ms: Option<u16>, items: u32, variant: Option<u16>, app: u32, priority: Option<u32> },
    Cancel(u64),
    Pass(u16),
    Sample { celsius: i32, watts: u8, silent: bool },
    Refuse,
    Slow(u8),
    Fail(bool),
    Cap(Option<u16>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (proptest::option::of(0u16..300), 1u32..4, proptest::option::weighted(0.2, 0u16..3), 0u32..3, proptest::option::of(0u32..20))
            .prop_map(|(deadline_ms, items, variant, app, priority)| Step::Submit { deadline_ms, items, variant, app, priority }),
        1 => (0u64..60).prop_map(Step::Cancel),
        5 => (0u16..200).prop_map(Step::Pass),
        3 => (-50i32..130, 0u8..20, any::<bool>()).prop_map(|(celsius, watts, silent)| Step::Sample { celsius, watts, silent }),
        1 => Just(Step::Refuse),
        1 => (1u8..60).prop_map(Step::Slow),
        1 => any::<bool>().prop_map(Step::Fail),
        1 => proptest::option::of(0u16..8000).prop_map(Step::Cap),
    ]
}

fn play(steps: &[Step]) -> World {
    let mut limits = budgets();
    (limits.queue_limit, limits.app_limit) = (12, 8);
    let mut world = World::new(catalog(), limits.clone());
    let mut id = 0;
    for step in steps {
        match step {
            Step::Submit { deadline_ms, items, variant, app, priority } => {
                let deadline = deadline_ms.map(|ms| world.now.after(Nanos::from_millis(ms.into())));
                world.submit(Request {
                    deadline,
                    items: *items,
                    variant: variant.map(VariantId),
                    app: AppId(*app),
                    priority: *priority,
                    ..request(id)
                });
                id += 1;
            }
            Step::Cancel(which) => world.handle(Event::Cancel(RequestId(*which))),
            Step::Pass(ms) => world.run_until(world.now.after(Nanos::from_millis((*ms).into()))),
            Step::Sample { celsius, watts, silent } => {
                let mut sample = readings(f64::from(*celsius), f64::from(*watts));
                if *silent {
                    sample.zones[0] = Err(SensorFault::Io);
                }
                world.handle(Event::Sampled(sample));
            }
            Step::Refuse => {
                let domains = vec![Some(Applied::Refused(SensorFault::Io)), None];
                world.handle(Event::Applied(ApplyReport { domains }));
            }
            Step::Slow(tenths) => world.slowdown = f64::from(*tenths) / 10.0,
            Step::Fail(yes) => world.fail = yes.then_some(BatchFailure::Provider),
            Step::Cap(mw) => {
                let power_cap = mw.map(|mw| Microwatts(i64::from(mw) * 1000));
                world.handle(Event::Reconfigured(Box::new(Budgets { power_cap, ..limits.clone() })));
            }
        }
    }
    // The faults heal: everything drains.
    (world.slowdown, world.fail) = (1.0, None);
    world.handle(Event::Reconfigured(Box::new(limits)));
    for tick in 0..60 {
        world.now = world.now.after(Nanos::from_millis(500));
        let wobble = f64::from(tick % 10);
        world.handle(Event::Sampled(readings(40.0 + wobble * 0.1, 2.0)));
        world.run_until(world.now);
    }
    world.settle();
    world.handle(Event::Sampled(readings(41.5, 2.0)));
    assert_eq!(world.outcomes.len() as u64, id, "every request is answered exactly once");
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_request_is_answered_once_and_calm_returns(steps in proptest::collection::vec(step(), 1..80)) {
        let world = play(&steps);
        prop_assert!(world.core.is_idle());
        prop_assert_eq!(world.core.status(world.now).regime, Regime::Nominal);
    }

    #[test]
    fn the_same_events_give_the_same_effects(steps in proptest::collection::vec(step(), 1..40)) {
        let (a, b) = (play(&steps), play(&steps));
        prop_assert_eq!(a.outcomes, b.outcomes);
        prop_assert_eq!(a.dispatches, b.dispatches);
    }

    #[test]
    fn accepted_wishes_are_kept(floor in 0.80f64..0.96, deadline_ms in 1u64..400, limit_uj in 100u64..200_000) {
        let mut world = World::new(catalog(), budgets());
        let deadline = world.now.after(Nanos::from_millis(deadline_ms));
        let (min_accuracy, max_energy) = (Some(Ppm::from_fraction(floor)), Some(Microjoules(limit_uj)));
        world.submit(Request { deadline: Some(deadline), min_accuracy, max_energy, ..request(1) });
        world.settle();
        if let Outcome::Served(served) = world.outcome(1) {
            prop_assert!(served.accuracy.as_fraction() >= floor - 1e-6);
            prop_assert!(!served.missed);
            prop_assert!(served.energy <= Microjoules(limit_uj));
        }
    }
}
