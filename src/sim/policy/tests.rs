//! Every policy at work, on every board, under the checkers.

use super::*;
use crate::board::sim::{Change, PlantSpec, Script};
use crate::core::catalog::{ModelId, UnitId};
use crate::core::energy::{Budgets, Objective};
use crate::core::event::{AppId, ClassId, Completion, Dispatch, Rejection, Request, RequestId};
use crate::sim::tests::random::{self, Rolled};
use crate::sim::tests::{BOARDS, at_s, board, budgets, camera, fashion};
use crate::sim::{Arrivals, Machine, Stream, Summary, Workload, World, WorldOptions};
use crate::units::{Bytes, Kilohertz, Ppm};
use std::sync::Arc;

fn machine(name: &str) -> Machine {
    Machine::new(&board(name), &[fashion()], 1).unwrap()
}

/// Runs a policy; what was seen, if no rule was broken and every request got an answer.
fn run(name: &str, machine: &Machine, budgets: &Budgets, streams: Vec<Stream>, seconds: f64) -> Summary {
    let lasting = Nanos::from_secs_f64(seconds);
    let training = Training::new(machine.clone(), budgets.clone(), streams.clone(), None, lasting);
    let policy = training.build(name, machine).unwrap();
    let options = WorldOptions { seed: 3, ..WorldOptions::default() };
    let mut world = World::new(policy, machine, budgets, Workload::new(streams, 3), options);
    world.run_until(at_s(seconds));
    assert!(world.drain(Nanos::from_secs(60)), "{name}: requests are left");
    let violations = world.checkers().violations();
    assert!(violations.is_empty(), "{name}: {violations:?}");
    world.summary()
}

/// A server outside any world: one request at a time, and the clocks that it asks for.
struct Bench {
    server: Box<dyn Scheduler + Send>,
    machine: Machine,
    now: Timestamp,
    /// What domain 1, the TX2's GPU, was pinned to, and when.
    gpu: Vec<(Timestamp, Kilohertz)>,
    running: Option<Dispatch>,
    /// What lanes have loaded and not yet reported.
    loads: Vec<Event>,
    next: u64,
}

impl Bench {
    /// On the TX2, with everything loaded: the fastest unit is its GPU.
    fn new(policy: &str) -> Self {
        let machine = machine("jetson-tx2");
        let server = build(policy, &machine, &budgets(Objective::LeastEnergy)).unwrap();
        let mut bench = Self {
            server,
            machine,
            now: Timestamp::ZERO,
            gpu: Vec::new(),
            running: None,
            loads: Vec::new(),
            next: 1,
        };
        bench.feed(Event::Retain { model: ModelId(0), resident: true });
        bench
    }

    fn feed(&mut self, event: Event) {
        self.server.handle(self.now, event);
        while let Some(effect) = self.server.poll_effect() {
            match effect {
                Effect::Load { variant, unit } => {
                    self.loads.push(Event::Loaded { variant, unit, footprint: Bytes(1) });
                }
                Effect::Set(setpoints) => {
                    let gpu = setpoints.domains[1].map(|bounds| (self.now, bounds.max));
                    self.gpu.extend(gpu);
                }
                Effect::Dispatch(dispatch) => self.running = Some(dispatch),
                _ => {}
            }
        }
        if let Some(loaded) = self.loads.pop() {
            self.feed(loaded);
        }
    }

    /// Lets so much time pass, and the server wake up when it wants to.
    fn wait_ms(&mut self, ms: f64) {
        let end = self.now.after(Nanos::from_secs_f64(ms / 1e3));
        while let Some(at) = self.server.next_wakeup().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.feed(Event::Wake);
        }
        self.now = end;
    }

    fn start(&mut self) {
        let request = Request {
            id: RequestId(self.next),
            app: AppId(1),
            class: ClassId(0),
            model: ModelId(0),
            items: 1,
            input_bytes: Bytes(0),
            deadline: None,
            min_accuracy: None,
            max_energy: None,
            variant: None,
            priority: None,
        };
        self.next += 1;
        self.feed(Event::Submit(request));
        assert_eq!(self.running.as_ref().map(|run| run.unit), Some(UnitId(2)), "it runs at once");
    }

    fn finish(&mut self, ms: f64) {
        let started = self.now;
        self.wait_ms(ms);
        let batch = self.running.take().unwrap().batch;
        let (finished, result) = (self.now, Ok(()));
        self.feed(Event::Completed(Completion { batch, started, finished, energy: None, result }));
    }

    fn clock(&self) -> Kilohertz {
        self.gpu.last().unwrap().1
    }

    fn points(&self) -> (Kilohertz, Kilohertz) {
        let opps = &self.machine.catalog.board.domains[1].opps;
        (opps[0], opps[opps.len() - 1])
    }
}

#[test]
fn fixed_governors_do_not_move() {
    for (policy, high) in [("performance", true), ("powersave", false)] {
        let mut bench = Bench::new(policy);
        bench.start();
        bench.finish(50.0);
        bench.wait_ms(500.0);
        let (low, top) = bench.points();
        assert_eq!(bench.gpu, [(Timestamp::ZERO, if high { top } else { low })], "{policy}");
    }
}

#[test]
fn racing_is_up_with_the_run_and_down_with_its_end() {
    let mut bench = Bench::new("race-to-idle");
    bench.wait_ms(10.0);
    bench.start();
    bench.finish(30.0);
    let (low, top) = bench.points();
    let expected = [(at_s(0.0), low), (at_s(0.010), top), (at_s(0.040), low)];
    assert_eq!(bench.gpu, expected);
}

/// Sampled every 10 ms: a run that begins between two samples is at the top by the second at the latest, and an
/// idle domain at the bottom by the second after its end.
#[test]
fn ondemand_follows_within_two_samples() {
    let mut bench = Bench::new("ondemand");
    let (low, top) = bench.points();
    bench.wait_ms(105.0);
    assert_eq!(bench.clock(), low);
    bench.start();
    bench.wait_ms(20.0);
    assert_eq!(bench.clock(), top);
    bench.finish(5.0);
    bench.wait_ms(20.0);
    assert_eq!(bench.clock(), low);
    assert_eq!(bench.server.next_wakeup(), None, "an idle domain is not polled");
}

/// From the lowest clock up step by step, as utilisation that counts by the clock allows: 1.25 of what the present
/// clock can show. Back down only as it decays. Between two changes lie 1.5 transition times (5 ms here).
#[test]
fn schedutil_climbs_by_a_quarter() {
    let mut bench = Bench::new("schedutil");
    let (low, top) = bench.points();
    assert_eq!(bench.clock(), low);
    bench.start();
    bench.wait_ms(20.0);
    assert!(bench.clock() < top);
    bench.finish(800.0);
    assert_eq!(bench.clock(), top);
    for pair in bench.gpu.windows(2).skip(1) {
        assert!(pair[1].0.since(pair[0].0) >= Nanos::from_micros(7_500), "{pair:?}");
    }
    bench.wait_ms(32.768);
    assert!(bench.clock() > low && bench.clock() < top, "half of it is left");
    bench.wait_ms(500.0);
    assert_eq!(bench.clock(), low);
    // The next run begins where the last one ended.
    bench.start();
    assert_eq!(bench.clock(), top);
}

#[test]
fn an_unknown_policy_names_those_there_are() {
    let (machine, budgets) = (machine("jetson-tx2"), budgets(Objective::LeastEnergy));
    for name in ["fastest", "", "performance-", "alert-smallest", "wattd-fixed:mnv2-fp32"] {
        let error = build(name, &machine, &budgets).err().unwrap();
        assert_eq!(error, UnknownPolicy::Name { name: name.into() });
        assert!(error.to_string().contains("race-to-idle, slowest-feasible"), "{error}");
    }
    let error = build("schedutil-fixed:big", &machine, &budgets).err().unwrap();
    assert!(error.to_string().contains("`big`") && error.to_string().contains("student-int8"), "{error}");
}

/// A deployment of one variant turns away what it is not accurate enough for.
#[test]
fn a_fixed_variant_is_all_there_is() {
    let (machine, budgets) = (machine("desktop"), budgets(Objective::LeastEnergy));
    let strict = Stream { min_accuracy: Some(Ppm::from_fraction(0.92)), ..camera(3) };
    let summary = run("performance-fixed:student-int8", &machine, &budgets, vec![camera(3), strict], 4.0);
    assert_eq!(summary.accuracy(), Ppm::from_fraction(0.8987));
    assert_eq!(summary.rejected.keys().collect::<Vec<_>>(), [&Rejection::AccuracyUnreachable]);
    assert!(summary.turned_away() * 2 <= summary.requests + 1, "{summary}");
}

#[test]
fn every_policy_keeps_the_rules_on_every_board() {
    for (name, _) in BOARDS {
        let (machine, budgets) = (machine(name), budgets(Objective::LeastEnergy));
        let streams = || vec![Stream { from: at_s(2.0), ..camera(12) }];
        let mut watts = std::collections::BTreeMap::new();
        let suffixes = ["performance-smallest", "schedutil-smallest", "race-to-idle-fixed:student64-int8"];
        println!("{name}");
        for policy in NAMES.into_iter().chain(suffixes) {
            let summary = run(policy, &machine, &budgets, streams(), 13.0);
            assert_eq!(summary.served + summary.turned_away(), summary.requests);
            println!(
                "  {policy:<34} {:7.3} W  {:3} late {:3} refused of {}  accuracy {:.4}",
                summary.mean_watts(),
                summary.missed,
                summary.turned_away(),
                summary.requests,
                summary.accuracy().as_fraction()
            );
            let tuned = ["performance", "static-best", "alert", "poet"].contains(&policy);
            assert!(!tuned || summary.failed_share() <= 0.001, "{name}, {policy}: {summary}");
            watts.insert(policy, summary.mean_watts());
        }
        let ordered = [
            ("race-to-idle", "performance"),
            ("slowest-feasible", "performance"),
            ("static-best", "race-to-idle"),
            ("performance-smallest", "performance"),
            ("schedutil", "performance"),
            ("ondemand", "performance"),
            ("alert", "performance"),
            ("poet", "performance"),
            ("alert", "alert-app-only"),
        ];
        for (less, more) in ordered {
            // Half a per cent: noise of the runs, and leakage that follows the temperature.
            assert!(watts[less] <= watts[more] * 1.005, "{name}: {less} draws more than {more}: {watts:?}");
        }
    }
}

/// Lost lanes, loads that fail, clients that hang up, sensors and actuators that lie, memory caps that leave no
/// room: no policy breaks a rule, and each answers every request.
#[test]
fn every_policy_keeps_the_rules_in_random_worlds() {
    let fresh: u64 = match std::env::var("WATTD_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => crate::time::unix_seconds(),
    };
    println!("WATTD_SEED={fresh}");
    let mut failures = Vec::new();
    for seed in [1, 2, fresh] {
        let rolled = random::roll(seed);
        let Rolled { machine, budgets, streams, .. } = &rolled;
        let lasting = Nanos::from_secs(8);
        let training = Training::new(machine.clone(), budgets.clone(), streams.clone(), None, lasting);
        for name in NAMES.into_iter().filter(|name| !name.starts_with("wattd")).chain(["ondemand-smallest"]) {
            let (world, rested) = rolled.play(training.build(name, machine).unwrap());
            let violations = world.checkers().violations();
            if !violations.is_empty() || !rested {
                let first = violations.first();
                failures
                    .push(format!("seed {seed}, {name}: rested {rested}, {first:?}\n{}", world.summary()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// A box at 35 degC whose fan has failed, and more work than the board can do: 9 K/W carry 9 W at the highest
/// clock to 116 degC, and 4.1 W at the lowest to 72. Under `schedutil` alone the firmware holds the clocks down at 80;
/// under a thermal governor above it there is hardly anything for it to do.
#[test]
fn thermal_governors_keep_the_board_cool() {
    let spec = board("raspberry-pi-5");
    let plant = PlantSpec::from_board(&spec).unwrap().with_thermal_speedup(5.0).unwrap();
    let mut described = spec.board();
    described.thermal.fast_tau_s /= 5.0;
    described.thermal.slow_tau_s /= 5.0;
    let machine = Machine::of_plant(described, Arc::new(plant), &[fashion()], 1);
    let budgets = budgets(Objective::LeastEnergy);
    let hot = Script::of(vec![(Nanos::ZERO, Change::AmbientC(35.0)), (Nanos::ZERO, Change::FanFailed(true))]);
    let load = Arrivals::Periodic { period: Nanos::from_millis(20), jitter: Nanos::ZERO };
    let above = |name: &str| {
        let policy = build(name, &machine, &budgets).unwrap();
        let streams = vec![Stream::plain(load.clone(), Nanos::from_secs(240))];
        let workload = Workload::new(streams, 1);
        let mut world = World::new(policy, &machine, &budgets, workload, WorldOptions::default());
        world.play(&hot);
        world.run_until(at_s(240.0));
        let summary = world.summary();
        println!("{name:<12} {summary}");
        (summary.throttled.as_secs_f64(), summary.peak)
    };
    let alone = above("schedutil");
    assert!(alone.0 > 60.0, "the load is not enough to heat the board: {alone:?}");
    for name in ["ipa", "step-wise"] {
        let seen = above(name);
        assert!(seen.0 < alone.0 / 20.0 && seen.1 < alone.1, "{name}: {seen:?}, alone {alone:?}");
    }
}
