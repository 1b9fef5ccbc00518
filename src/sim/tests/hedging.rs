//! What hedging is worth: energy, misses and rescues with it and without, on measured latencies. The table is
//! printed with `--nocapture`.

use super::*;
use crate::board::sim::{Change, GridId, PlantSpec, Script, Work};
use crate::core::catalog::UnitKind;
use crate::core::tuning::Tuning;
use std::sync::Arc;

const MINUTES: u64 = 3;

/// VGG19 as measured on the TX2, and a variant of a seventh of its latency.
fn vgg() -> SimModel {
    let variant = |name: &str, accuracy: f64, grid: u16| SimVariant {
        name: name.into(),
        accuracy: Ppm::from_fraction(accuracy),
        work: Work::measured(GridId(grid), 1),
        footprint: Bytes(50 << 20),
        kinds: vec![UnitKind::Gpu],
    };
    let variants = vec![variant("vgg19", 0.724, 0), variant("tiny", 0.66, 3)];
    SimModel { name: "vgg".into(), max_batch: 1, variants }
}

/// Compute and memory contention by turns, up to half as slow again.
fn contention() -> Script {
    let factors = [1.2, 1.0, 1.5, 1.0, 1.3, 1.0];
    let steps = (0..MINUTES * 3).flat_map(|step| {
        let at = Nanos::from_secs(10 + step * 20);
        let factor = factors[usize::try_from(step).unwrap() % factors.len()];
        let (compute, memory) = if step % 4 < 2 { (factor, 1.0) } else { (1.0, factor) };
        [(at, Change::ContentionCompute(compute)), (at, Change::ContentionMemory(memory))]
    });
    Script::of(steps.collect())
}

struct Case {
    name: &'static str,
    machine: Machine,
    budgets: Budgets,
    stream: Stream,
    script: Script,
}

fn cases() -> Vec<Case> {
    let spec = board("jetson-tx2");
    let mut plant = PlantSpec::from_board(&spec).unwrap();
    let lasting = Nanos::from_secs(MINUTES * 60);
    let periodic = |period_ms: f64| {
        let period = Nanos::from_secs_f64(period_ms / 1e3);
        let load = Arrivals::Periodic { period, jitter: Nanos::from_millis(2) };
        Stream { from: at_s(2.0), ..Stream::plain(load, lasting) }
    };
    let mut tight = budgets(Objective::LeastEnergy);
    tight.classes[0].latency = Nanos::from_millis(133);
    tight.classes[0].min_accuracy = Ppm::from_fraction(0.6);
    tight.classes[0].accuracy_target = Some(Ppm::from_fraction(0.72));
    let mut ladder = budgets(Objective::LeastEnergy);
    ladder.classes[0].accuracy_target = Some(Ppm::from_fraction(0.93));
    let fashion = |name| Machine::new(&board(name), &[fashion()], 11).unwrap();
    plant.noise.sigma = 0.05;
    plant.noise.tail_probability = 0.02;
    let noisy = Machine::of_plant(spec.board(), Arc::new(plant), &[vgg()], 11);
    let plain = Machine::new(&spec, &[vgg()], 11).unwrap();
    let case = |name, machine: &Machine, budgets: &Budgets, stream: Stream, script: Script| Case {
        name,
        machine: machine.clone(),
        budgets: budgets.clone(),
        stream,
        script,
    };
    let still = || Script::of(Vec::new());
    vec![
        case("vgg, 5/s, the board's noise", &plain, &tight, periodic(200.0), still()),
        case("vgg, 5/s, heavy noise", &noisy, &tight, periodic(200.0), still()),
        case("vgg, 5/s, heavy noise, contention", &noisy, &tight, periodic(200.0), contention()),
        case("vgg, 7.5/s, heavy noise, contention", &noisy, &tight, periodic(133.3), contention()),
        case("fashion on the TX2, 15/s", &fashion("jetson-tx2"), &ladder, periodic(66.7), contention()),
        case(
            "fashion on the Orin, 15/s",
            &fashion("jetson-orin-nano"),
            &ladder,
            periodic(66.7),
            contention(),
        ),
        case("fashion on the Pi, 15/s", &fashion("raspberry-pi-5"), &ladder, periodic(66.7), contention()),
    ]
}

fn play(case: &Case, budgets: &Budgets, tuning: Tuning, seed: u64) -> Summary {
    let core = Core::tuned(case.machine.catalog.clone(), budgets.clone(), tuning, Timestamp::ZERO);
    let options = WorldOptions { seed, ..WorldOptions::default() };
    let workload = Workload::new(vec![case.stream.clone()], seed);
    let mut world = World::new(core, &case.machine, budgets, workload, options);
    world.play(&case.script);
    #[allow(clippy::cast_precision_loss, reason = "minutes")]
    world.run_until(at_s(MINUTES as f64 * 60.0));
    assert!(world.drain(Nanos::from_secs(5)), "{}", world.summary());
    assert_eq!(world.checkers().violations(), [], "{}", case.name);
    world.summary()
}

/// Of 900 to 2700 answers each, with and without hedging, 0.5 % are late at most (one in a thousand is aimed at), for
/// less energy than `performance`; and where the load is steady, hedging saves against the margin that does the same
/// without it, for less of the accuracy than it may cost.
#[test]
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn hedged_or_not_answers_are_in_time_for_less_energy() {
    let mut problems = Vec::new();
    for case in cases() {
        println!("{}", case.name);
        let performance = Budgets { objective: Objective::Performance, ..case.budgets.clone() };
        let mut forbidden = case.budgets.clone();
        forbidden.classes[0].rescue = false;
        let plain = Tuning { hedging: false, ..Tuning::default() };
        let runs = [
            ("performance", &performance, Tuning::default()),
            ("by margin alone", &case.budgets, plain),
            ("boost alone", &forbidden, Tuning::default()),
            ("boost and rescue", &case.budgets, Tuning::default()),
        ];
        let idle_w = case.machine.catalog.board.idle_power.as_watts();
        let all = runs.map(|(name, budgets, tuning)| (name, play(&case, budgets, tuning, 3)));
        for (name, summary) in &all {
            println!(
                "  {name:16} {:7.2} J above idle, {:.2} J a second, missed {:5.2} %, rescued {:5.2} %, accuracy {:.4}, {:?}",
                summary.energy_j - idle_w * summary.lasted.as_secs_f64(),
                summary.mean_watts(),
                summary.failed_share() * 100.0,
                summary.rescued as f64 / summary.requests as f64 * 100.0,
                summary.accuracy().as_fraction(),
                summary.mix,
            );
        }
        let [(_, usual), planned @ ..] = &all;
        let [(_, margin), _, (_, whole)] = planned;
        let short = case.budgets.classes[0].accuracy_target.unwrap_or_default().as_fraction() - 0.002;
        let steady = case.script == Script::default();
        if steady && (whole.energy_j > margin.energy_j || whole.accuracy().as_fraction() < short) {
            problems.push(format!("{}: {whole}\n{margin}", case.name));
        }
        for (_, summary) in planned {
            if summary.failed_share() > 0.005 || summary.energy_j >= usual.energy_j {
                problems.push(format!("{}: {summary}\n{usual}", case.name));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
