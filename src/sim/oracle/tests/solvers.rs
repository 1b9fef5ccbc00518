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

/// Thousands of requests are no trouble where labels stay few.
#[test]
fn labels_solve_long_traces() {
    let case = Case::random(4, 30.0);
    let instance = case.instance();
    let problem = Problem::of(&instance, 0..instance.asks.len(), None, 100_000_000_000);
    let plan = dp(&problem, 5_000).unwrap();
    assert_eq!(replay(&problem, &plan), Some(plan.cost));
    let served: Vec<bool> = plan.choices.iter().map(Option::is_some).collect();
    println!("{} of {} served", served.iter().filter(|served| **served).count(), served.len());
}
