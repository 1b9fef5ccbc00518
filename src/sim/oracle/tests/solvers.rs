//! All exact solvers agree.

use super::*;

/// A random problem in whole milliseconds and millijoules.
fn problem(dice: &mut Dice) -> Problem {
    let machines = 1 + dice.below(2);
    let mut arrival = 0;
    let count = 1 + dice.below(6);
    let jobs = (0..count).map(|_| {
        arrival += 1_000_000 * dice.below(30) as u64;
        let ways = (0..1 + dice.below(4)).map(|_| Way {
            machine: dice.below(machines),
            nanos: 1_000_000 * (1 + dice.below(40)) as u64,
            nanojoules: 1_000_000 * (1 + dice.below(100)) as u64,
            accuracy: Ppm(800_000 + 10_000 * u32::try_from(dice.below(15)).unwrap()),
        });
        let ways = ways.collect();
        Job { arrival, deadline: arrival + 1_000_000 * (5 + dice.below(80)) as u64, ways }
    });
    let jobs = jobs.collect();
    let mean_accuracy =
        dice.odds(0.5).then(|| Ppm(800_000 + 10_000 * u32::try_from(dice.below(14)).unwrap()));
    Problem { jobs, machines, mean_accuracy, drop_nanojoules: 1_000_000 * (50 + dice.below(400)) as u64 }
}

#[test]
fn brute_force_and_labels_agree() {
    let mut dropped = 0;
    for seed in seeds(300) {
        let problem = problem(&mut Dice::new(seed));
        let (all, labels) = (brute_force(&problem), dp(&problem, 100_000));
        let costs = [&all, &labels].map(|plan| plan.as_ref().map(|plan| plan.cost));
        assert_eq!(costs[0], costs[1], "seed {seed}: {problem:?}\n{all:?}\n{labels:?}");
        for plan in [all, labels].into_iter().flatten() {
            assert_eq!(replay(&problem, &plan), Some(plan.cost), "seed {seed}: {plan:?}");
            dropped += plan.choices.iter().filter(|choice| choice.is_none()).count();
        }
    }
    assert!(dropped > 100, "the problems are not all easy: {dropped}");
}

/// HiGHS agrees too, and what it found is feasible to the last digit.
#[cfg(feature = "milp")]
#[test]
fn the_mixed_integer_program_agrees() {
    for seed in seeds(100) {
        let problem = problem(&mut Dice::new(seed));
        let (all, program) = (brute_force(&problem), milp(&problem));
        let costs = [&all, &program].map(|plan| plan.as_ref().map(|plan| plan.cost));
        assert_eq!(costs[0], costs[1], "seed {seed}: {problem:?}\n{all:?}\n{program:?}");
        if let Some(plan) = program {
            assert_eq!(replay(&problem, &plan), Some(plan.cost), "seed {seed}: {plan:?}");
        }
    }
}

/// What a plan costs, worked out anew; `None` if it is not feasible.
fn replay(problem: &Problem, plan: &Plan) -> Option<u64> {
    let (mut free, mut cost, mut surplus) = (vec![0; problem.machines], 0, 0);
    for (job, choice) in problem.jobs.iter().zip(&plan.choices) {
        let Some(choice) = choice else {
            cost += problem.drop_nanojoules;
            continue;
        };
        let way = job.ways[*choice];
        let end: u64 = job.arrival.max(free[way.machine]) + way.nanos;
        if end > job.deadline {
            return None;
        }
        free[way.machine] = end;
        cost += way.nanojoules;
        surplus += i64::from(way.accuracy.0) - i64::from(problem.mean_accuracy.unwrap_or_default().0);
    }
    (surplus >= 0).then_some(cost)
}

/// Thousands of requests on one machine are no trouble; not even their sum of least costs is far below.
#[test]
fn labels_solve_long_traces() {
    let mut dice = Dice::new(11);
    let mut arrival = 0;
    let jobs = (0..2000).map(|_| {
        arrival += 1_000_000 * (10 + dice.below(30)) as u64;
        let way = |nanos: u64, nanojoules: u64| Way { machine: 0, nanos, nanojoules, accuracy: Ppm(900_000) };
        let slow = 1_000_000 * (15 + dice.below(20)) as u64;
        // Half the time at twice the energy.
        let ways = vec![way(slow, slow), way(slow / 2, 2 * slow)];
        Job { arrival, deadline: arrival + 60_000_000, ways }
    });
    let jobs: Vec<Job> = jobs.collect();
    let least: u64 = jobs.iter().map(|job| job.ways[0].nanojoules).sum();
    let problem = Problem { jobs, machines: 1, mean_accuracy: None, drop_nanojoules: 10_000_000_000 };
    let plan = dp(&problem, 5_000).unwrap();
    assert_eq!(replay(&problem, &plan), Some(plan.cost));
    assert!(plan.choices.iter().all(Option::is_some), "all can be served");
    let queueing = plan.cost as f64 / least as f64;
    println!("queueing costs {:.1} %", 100.0 * (queueing - 1.0));
    assert!(queueing > 1.01 && queueing < 2.0, "{queueing}");
}
