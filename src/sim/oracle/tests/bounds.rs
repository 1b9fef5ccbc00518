//! No schedule needs less than the bound, and the bound is not far below the best.

use super::*;

/// Whatever runs: the bound of what it served in time, at the accuracy that it gave, is not above what it drew.
#[test]
fn no_run_of_any_scheduler_beats_the_bound() {
    for seed in seeds(8) {
        let case = Case::random(seed, 10.0);
        let instance = case.instance();
        let runs = [
            ("causal", case.run(case.causal(Insight::Told))),
            ("core", case.run(case.core(Objective::LeastEnergy))),
            ("performance", case.run(case.core(Objective::Performance))),
        ];
        for (name, run) in runs {
            let demand = Demand { served: Some(&run.served), mean_accuracy: None };
            let bound = certified_bound_of(&instance, demand);
            let gap = run.joules / bound.joules - 1.0;
            println!(
                "seed {seed}, {}, {name}: {:.2} J, bound {:.2} J ({:+.2} %), {} of {} in time, {bound:?}",
                case.machine.plant.board,
                run.joules,
                bound.joules,
                100.0 * gap,
                run.count,
                instance.asks.len()
            );
            assert!(gap >= 0.0, "seed {seed}, {name}: {} J is below {bound:?}", run.joules);
            let as_accurate = Demand { mean_accuracy: Some(run.accuracy - 1e-9), ..demand };
            let above = certified_bound_of(&instance, as_accurate);
            assert!(above.joules <= run.joules, "seed {seed}, {name}: {} J is below {above:?}", run.joules);
            assert!(above.joules >= bound.joules * (1.0 - 1e-6), "seed {seed}, {name}: {above:?}, {bound:?}");
            assert!(!bound.overloaded && bound.unservable == 0, "seed {seed}, {name}: {bound:?}");
            assert_eq!(run.violations, Vec::<String>::new(), "seed {seed}, {name}");
        }
    }
}

/// On few requests no order and no choice beats the bound, and it comes close to the best.
#[test]
fn no_order_of_few_requests_beats_the_bound() {
    let mut tight = 0;
    for seed in seeds(40) {
        let case = Case::random(seed, 1.2);
        let instance = case.instance();
        let counted: Vec<usize> =
            (0..instance.asks.len()).filter(|index| instance.asks[*index].counts).take(3).collect();
        let Some(&last) = counted.last() else { continue };
        let mut served = vec![false; instance.asks.len()];
        counted.iter().for_each(|index| served[*index] = true);
        let bound = certified_bound_of(&instance, Demand { served: Some(&served), mean_accuracy: None });
        let problem = Problem::of(&instance, 0..last + 1, None, 1_000_000_000_000);
        let mut best = u64::MAX;
        orders(problem.jobs.len(), &mut |order| {
            let jobs = order.iter().map(|index| problem.jobs[*index].clone()).collect();
            let plan = brute_force(&Problem { jobs, ..problem.clone() }).unwrap();
            best = best.min(plan.cost);
        });
        if best >= problem.drop_nanojoules {
            continue;
        }
        let best_j = best as f64 / 1e9 + instance.idle_j();
        assert!(bound.joules <= best_j + 1e-6, "seed {seed}: {best_j} J is below {bound:?}");
        let above = (bound.joules - bound.idle_j) / (best as f64 / 1e9);
        println!("seed {seed}: {:.1} % of what the best adds to the idle board", 100.0 * above);
        tight += usize::from(above > 0.9);
    }
    assert!(tight >= 10, "the bound is within 10 % of the exact optimum in {tight} of 41 cases only");
}

/// Calls `visit` with every order of so many things.
fn orders(count: usize, visit: &mut impl FnMut(&[usize])) {
    fn descend(order: &mut Vec<usize>, count: usize, visit: &mut impl FnMut(&[usize])) {
        if order.len() == count {
            return visit(order);
        }
        for next in 0..count {
            if !order.contains(&next) {
                order.push(next);
                descend(order, count, visit);
                order.pop();
            }
        }
    }
    descend(&mut Vec::new(), count, visit);
}

/// A processor that is wanted by more than it can do in its cheapest way: the bound sees the queue.
#[test]
fn queueing_raises_the_bound() {
    let mut case = Case::random(2, 20.0);
    case.machine = Machine::new(&board("jetson-tx2"), &[fashion()], 2).unwrap();
    case.script = Script::default();
    let every = |ms| {
        let arrivals = Arrivals::Periodic { period: Nanos::from_millis(ms), jitter: Nanos::ZERO };
        Stream {
            from: at_s(BEGIN_S),
            until: at_s(BEGIN_S + 20.0),
            deadline: Some(Nanos::from_millis(60)),
            min_accuracy: Some(Ppm::from_fraction(0.93)),
            ..Stream::plain(arrivals, Nanos::ZERO)
        }
    };
    case.streams = vec![every(60)];
    let idle = certified_bound(&case.instance());
    case.streams = vec![every(15)];
    let busy = certified_bound(&case.instance());
    println!("{idle:?}\n{busy:?}");
    assert!(idle.queueing_j < 1e-6 * idle.joules, "one at a time never queues: {idle:?}");
    assert!(busy.queueing_j >= 0.0 && !busy.overloaded, "{busy:?}");
}
