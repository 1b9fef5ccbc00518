//! The exact problem as a mixed-integer program, solved by HiGHS: a solver that shares nothing with the others.
//!
//! `x_ic` says whether request `i` is served in way `c`, `drop_i` that it is not; `F_im` is when machine `m` is free
//! after the requests up to `i`:
//!
//! ```text
//! min  sum e_ic x_ic + price sum drop_i
//!      sum_c x_ic + drop_i = 1                                  each is served once or dropped
//!      F_im >= F_(i-1)m + sum_(c on m) t_ic x_ic                machines work in order
//!      F_im >= sum_(c on m) (a_i + t_ic) x_ic                   and not before arrivals
//!      F_im <= d_i + (D - d_i) (1 - sum_(c on m) x_ic)          deadlines; D is the latest of all
//!      sum (q_ic - Q) x_ic >= 0                                 mean accuracy
//! ```
//!
//! `D` is large enough, as no machine need be busy beyond it. Milliseconds and millijoules keep the coefficients near
//! one; a solution is worked out anew in integers.

use super::exact::{Plan, Problem};
use highs::{Col, HighsModelStatus, RowProblem, Sense};

/// A choice counts as made above this.
const CHOSEN: f64 = 0.5;

/// Solves a problem to optimality. `None` if the mean accuracy cannot be had.
#[must_use]
pub fn milp(problem: &Problem) -> Option<Plan> {
    let mut program = RowProblem::default();
    let choices = choices(&mut program, problem);
    machines(&mut program, problem, &choices);
    if problem.mean_accuracy.is_some() {
        let ways = problem.jobs.iter().zip(&choices).flat_map(|(job, columns)| job.ways.iter().zip(columns));
        let surplus: Vec<(Col, f64)> =
            ways.map(|(way, column)| (*column, problem.surplus(way) as f64 / 1e6)).collect();
        program.add_row(0.0.., surplus);
    }
    let mut model = program.optimise(Sense::Minimise);
    model.make_quiet();
    model.set_option("mip_rel_gap", 0.0);
    model.set_option("mip_abs_gap", 0.0);
    let solved = model.solve();
    if solved.status() != HighsModelStatus::Optimal {
        return None;
    }
    let values = solved.get_solution();
    let mut column = values.columns().iter();
    let mut plan = Plan { cost: 0, choices: Vec::new() };
    for job in &problem.jobs {
        // One column per way, in order; then that of dropping.
        let taken: Vec<bool> = column.by_ref().take(job.ways.len() + 1).map(|x| *x > CHOSEN).collect();
        let choice = taken[..job.ways.len()].iter().position(|taken| *taken);
        plan.cost += choice.map_or(problem.drop_nanojoules, |choice| job.ways[choice].nanojoules);
        plan.choices.push(choice);
    }
    Some(plan)
}

/// Adds what can be chosen, request by request: its ways, and to drop it.
fn choices(program: &mut RowProblem, problem: &Problem) -> Vec<Vec<Col>> {
    let millijoules = |nanojoules: u64| nanojoules as f64 / 1e6;
    let mut all = Vec::with_capacity(problem.jobs.len());
    for job in &problem.jobs {
        let ways = job.ways.iter().map(|way| way.nanojoules);
        let costs = ways.chain([problem.drop_nanojoules]);
        let columns: Vec<Col> =
            costs.map(|cost| program.add_integer_column(millijoules(cost), 0.0..=1.0)).collect();
        program.add_row(1.0..=1.0, columns.iter().map(|column| (*column, 1.0)).collect::<Vec<_>>());
        all.push(columns);
    }
    all
}

/// Adds when machines are free, and the deadlines.
fn machines(program: &mut RowProblem, problem: &Problem, choices: &[Vec<Col>]) {
    let milliseconds = |nanos: u64| nanos as f64 / 1e6;
    let last = milliseconds(problem.jobs.iter().map(|job| job.deadline).max().unwrap_or(0));
    for machine in 0..problem.machines {
        let mut before: Option<Col> = None;
        for (job, columns) in problem.jobs.iter().zip(choices) {
            let free = program.add_column(0.0, 0.0..=last);
            let here = || job.ways.iter().zip(columns).filter(|(way, _)| way.machine == machine);
            let mut busy = vec![(free, 1.0)];
            busy.extend(before.map(|before| (before, -1.0)));
            busy.extend(here().map(|(way, column)| (*column, -milliseconds(way.nanos))));
            program.add_row(0.0.., busy);
            let mut arrived = vec![(free, 1.0)];
            arrived.extend(here().map(|(way, column)| (*column, -milliseconds(job.arrival + way.nanos))));
            program.add_row(0.0.., arrived);
            let slack = last - milliseconds(job.deadline);
            let mut due = vec![(free, 1.0)];
            due.extend(here().map(|(_, column)| (*column, slack)));
            program.add_row(..=last, due);
            before = Some(free);
        }
    }
}
