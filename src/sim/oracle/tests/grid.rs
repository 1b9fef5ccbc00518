//! The measured network VGG19 on the TX2 under a deadline, periodic: how far apart bound, oracles and planners are.
//! Figures are printed with `--nocapture`.

use super::*;
use crate::board::sim::{Noise, PlantSpec, Work};
use crate::core::catalog::UnitKind;
use crate::sim::{SimModel, SimVariant};
use crate::units::Bytes;
use std::sync::Arc;

fn vgg19() -> SimModel {
    let spec = PlantSpec::from_board(&board("jetson-tx2")).unwrap();
    let variant = SimVariant {
        name: "vgg19".into(),
        accuracy: Ppm(930_000),
        work: Work::measured(spec.grid_named("vgg19").unwrap(), 1),
        footprint: Bytes(64 << 20),
        kinds: vec![UnitKind::Gpu],
    };
    SimModel { name: "vgg19".into(), max_batch: 1, variants: vec![variant] }
}

/// `count` requests, one every `period_ms`, each with `deadline_ms`.
fn case(noise: Noise, period_ms: u64, deadline_ms: u64, contention: &[(u64, f64)], count: u64) -> Case {
    let spec = board("jetson-tx2");
    let mut plant = PlantSpec::from_board(&spec).unwrap();
    plant.noise = noise;
    let machine = Machine::of_plant(spec.board(), Arc::new(plant), &[vgg19()], 7);
    let period = Nanos::from_millis(period_ms);
    let lasting = Nanos::from_millis(period_ms * count);
    let stream = Stream {
        deadline: Some(Nanos::from_millis(deadline_ms)),
        from: at_s(BEGIN_S),
        until: at_s(BEGIN_S).after(lasting),
        ..Stream::plain(Arrivals::Periodic { period, jitter: Nanos::ZERO }, Nanos::ZERO)
    };
    let steps =
        contention.iter().map(|(s, factor)| (Nanos::from_secs(*s), Change::ContentionMemory(*factor)));
    let script = Script::of(steps.collect());
    let horizon =
        Nanos::from_secs_f64(BEGIN_S).saturating_add(lasting).saturating_add(stream.deadline.unwrap());
    let budgets = budgets(Objective::LeastEnergy);
    Case { seed: 7, machine, budgets, streams: vec![stream], script, horizon }
}

fn report(name: &str, case: &Case) -> [f64; 3] {
    let instance = case.instance();
    let booted = Instance::of(Truth { memory: MemoryClocks::AsBooted, ..case.truth() });
    let (bound, held, o1) = (certified_bound(&instance), certified_bound(&booted), o1(&instance));
    let counted = instance.asks.iter().filter(|ask| ask.counts).count();
    let able = o1.choices.iter().flatten().count();
    let of_bound = |joules: f64| 100.0 * (joules / bound.joules - 1.0);
    println!("\n{name}: {counted} requests, {able} feasible, idle {:.1} J, {bound:?}", bound.idle_j);
    println!("  {:22} {:9.2} J {:+7.2} %", "bound", bound.joules, 0.0);
    println!("  {:22} {:9.2} J {:+7.2} %", "bound, memory held", held.joules, of_bound(held.joules));
    println!("  {:22} {:9.2} J {:+7.2} %", "O1", o1.joules, of_bound(o1.joules));
    let runs = [
        ("O3", case.run(case.causal(Insight::Told))),
        ("core", case.run(case.core(Objective::LeastEnergy))),
        ("performance", case.run(case.core(Objective::Performance))),
    ];
    for (name, run) in &runs {
        let demand = |instance| {
            certified_bound_of(instance, Demand { served: Some(&run.served), mean_accuracy: None })
        };
        let (own, own_held) = (demand(&instance), demand(&booted));
        println!(
            "  {name:22} {:9.2} J {:+7.2} %; of its own requests {:+7.2} %, memory held {:+7.2} %; {} missed ({:.2} %)",
            run.joules,
            of_bound(run.joules),
            100.0 * (run.joules / own.joules - 1.0),
            100.0 * (run.joules / own_held.joules - 1.0),
            run.late,
            100.0 * run.late as f64 / counted as f64
        );
        assert!(run.joules >= own.joules, "{name}");
        assert_eq!(run.violations, Vec::<String>::new(), "{name}");
    }
    [bound.joules, o1.joules, runs[0].1.joules]
}

#[test]
fn the_bound_is_tight_on_the_measured_grid() {
    let usual = Noise { sigma: 0.03, tail_probability: 0.01, tail_min: 1.15, tail_max: 1.5 };
    let rough = Noise { sigma: 0.05, tail_probability: 0.02, ..usual };
    let quiet = Noise { sigma: 0.0, tail_probability: 0.0, ..usual };
    let steps = [(20, 1.25), (45, 1.0), (70, 1.5), (90, 1.1), (110, 1.0)];
    let [bound, o1, o3] = report("no noise", &case(quiet, 133, 133, &[], 300));
    // Without noise the clairvoyant knows no more than the causal planner. Single clocks cannot hit the deadline as
    // mixtures do.
    assert!(o1 < 1.02 * bound, "O1 {o1}, bound {bound}");
    assert!(o3 < 1.02 * bound, "O3 {o3}, bound {bound}");
    let [bound, o1, _] = report("noise of the board", &case(usual, 133, 133, &[], 1000));
    assert!(o1 < 1.02 * bound, "O1 {o1}, bound {bound}");
    report("rough noise, contention", &case(rough, 133, 133, &steps, 900));
    report("rough noise, tight", &case(rough, 133, 100, &[], 300));
    report("rough noise, loose", &case(rough, 250, 200, &[], 200));
    report("rough noise, queueing", &case(rough, 100, 200, &[], 300));
}

/// The causal planner is late as often as it means to be: of 2,500 requests that could have been served, 2.5 on average.
#[test]
fn the_causal_planner_is_late_as_seldom_as_it_means_to_be() {
    let rough = Noise { sigma: 0.05, tail_probability: 0.02, tail_min: 1.15, tail_max: 1.5 };
    for (period, deadline) in [(250, 200), (133, 133), (133, 100)] {
        let (mut late, mut able) = (0, 0);
        for seed in 1..=5 {
            let case = Case { seed, ..case(rough, period, deadline, &[], 500) };
            let feasible = o1(&case.instance()).feasible();
            let run = case.run(case.causal(Insight::Told));
            able += feasible.iter().filter(|feasible| **feasible).count();
            late += feasible.iter().zip(&run.served).filter(|(able, served)| **able && !**served).count();
        }
        println!("every {period} ms, deadline {deadline} ms: {late} of {able} late");
        // Poisson with mean 2.5: more than 9 once in 3,600.
        assert!(late <= 9, "every {period} ms, deadline {deadline} ms: {late} of {able} late");
    }
}

/// To learn of a step from the run that meets it costs that run, and nothing where there is no step.
#[test]
fn who_is_shown_a_step_by_a_run_is_late_with_that_run_alone() {
    let quiet = Noise { sigma: 0.0, tail_probability: 0.0, tail_min: 1.15, tail_max: 1.5 };
    let runs = |steps: &[(u64, f64)]| {
        let case = case(quiet, 300, 133, steps, 120);
        let feasible = o1(&case.instance()).feasible();
        [Insight::Told, Insight::Shown].map(|insight| {
            let run = case.run(case.causal(insight));
            let late = feasible.iter().zip(&run.served).filter(|(able, served)| **able && !**served).count();
            (late, run.joules)
        })
    };
    let [told, shown] = runs(&[]);
    assert_eq!(told, shown, "without a disturbance both know the same");
    // Both steps up come 200 ms after an arrival, when nothing runs.
    let [told, shown] = runs(&[(10, 1.5), (20, 1.0), (31, 1.4)]);
    assert_eq!((told.0, shown.0), (0, 2));
}
