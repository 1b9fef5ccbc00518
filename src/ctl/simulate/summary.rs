//! Runs by scenario and policy, their figures with confidence intervals over the seeds.

use crate::sim::experiment::{Finished, OracleRecord, Record, mean_and_interval};

/// Policies that others are compared with, the first that was run.
const REFERENCES: [&str; 1] = ["performance"];

/// A mean and the half-width of its 95 % confidence interval, where there are several values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half-width of the interval.
    pub half: Option<f64>,
}

impl Estimate {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        mean_and_interval(&values).map(|(mean, half)| Self { mean, half })
    }
}

/// The runs of one board, workload and disturbance.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Board.
    pub board: String,
    /// Workload.
    pub workload: String,
    /// Disturbance.
    pub disturbance: Option<String>,
    /// The policy that the energy of others is compared with.
    pub reference: Option<String>,
    /// One row per policy, in the order given.
    pub rows: Vec<PolicyRow>,
}

/// The runs of a policy, over all seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyRow {
    /// Its name.
    pub policy: String,
    /// Runs.
    pub runs: usize,
    /// Requests over all runs.
    pub requests: u64,
    /// Share answered, late or not.
    pub served: f64,
    /// Share of deadlines missed.
    pub missed: Option<Estimate>,
    /// Share of deadlines missed right after one was missed; `None` if none was.
    pub missed_after_miss: Option<f64>,
    /// Share turned away.
    pub rejected: f64,
    /// Energy of the board, J.
    pub energy_j: Option<Estimate>,
    /// Energy above that of the reference on the same seeds, as a share of it.
    pub over_reference: Option<Estimate>,
    /// Energy above the certified bound, as a share of it.
    pub over_bound: Option<Estimate>,
    /// Energy above that of the causal oracle, as a share of it.
    pub over_o3: Option<Estimate>,
    /// Mean accuracy of what was served.
    pub accuracy: Option<Estimate>,
    /// Seconds above the trip, over all runs.
    pub above_trip_s: f64,
    /// Highest temperature of all runs, in degrees Celsius.
    pub peak_c: f64,
    /// Median of the runs' median decisions, ns.
    pub decision_ns_p50: Option<u64>,
    /// Worst of the runs' 99 % quantiles, ns.
    pub decision_ns_p99: Option<u64>,
}

/// Board, workload and disturbance.
type Setting = (String, String, Option<String>);

/// Groups runs by scenario, in their order.
#[must_use]
pub fn groups(runs: &[Finished]) -> Vec<Group> {
    let key = |run: &Finished| {
        let record = &run.record;
        (record.board.clone(), record.workload.clone(), record.disturbance.clone())
    };
    let mut found: Vec<(Setting, Vec<&Finished>)> = Vec::new();
    for run in runs {
        match found.iter_mut().find(|(known, _)| *known == key(run)) {
            Some((_, members)) => members.push(run),
            None => found.push((key(run), vec![run])),
        }
    }
    found
        .into_iter()
        .map(|((board, workload, disturbance), members)| {
            let mut names: Vec<&str> = Vec::new();
            for run in &members {
                if !names.contains(&run.record.policy.as_str()) {
                    names.push(&run.record.policy);
                }
            }
            let of = |policy: &str| -> Vec<&Finished> {
                members.iter().filter(|run| run.record.policy == policy).copied().collect()
            };
            let reference = REFERENCES.iter().find(|name| names.len() > 1 && names.contains(*name));
            let base = reference.map(|name| of(name)).unwrap_or_default();
            Group {
                board,
                workload,
                disturbance,
                reference: reference.map(|name| (*name).to_owned()),
                rows: names.iter().map(|name| row(name, &of(name), &base)).collect(),
            }
        })
        .collect()
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[allow(clippy::cast_precision_loss, reason = "microjoules far below 2^53")]
fn joules(record: &Record) -> f64 {
    record.energy_uj as f64 / 1e6
}

fn row(policy: &str, runs: &[&Finished], base: &[&Finished]) -> PolicyRow {
    let records = || runs.iter().map(|run| &run.record);
    let sum = |of: fn(&Record) -> u64| records().map(of).sum::<u64>();
    let requests = sum(|record| record.requests);
    let after: u64 = runs.iter().map(|run| run.record.after_miss).sum();
    let again: u64 = runs.iter().map(|run| run.record.missed_after_miss).sum();
    // Paired by seed: every policy meets the same requests and the same luck.
    let over_reference = records().filter_map(|record| {
        let other = base.iter().find(|other| other.record.seed == record.seed)?;
        Some(joules(record) / joules(&other.record) - 1.0)
    });
    let over = |of: fn(&OracleRecord) -> u64| {
        let gap = move |record: &Record| {
            #[allow(clippy::cast_precision_loss, reason = "microjoules far below 2^53")]
            let could = of(&record.oracle.as_ref()?.oracle) as f64 / 1e6;
            (could > 0.0).then(|| joules(record) / could - 1.0)
        };
        Estimate::of(records().filter_map(gap))
    };
    let mut medians: Vec<u64> = records().filter_map(|record| record.decision_ns_p50).collect();
    medians.sort_unstable();
    PolicyRow {
        policy: policy.to_owned(),
        runs: runs.len(),
        requests,
        served: share(sum(|record| record.served), requests),
        missed: Estimate::of(records().map(|record| share(record.misses, record.requests))),
        missed_after_miss: (after > 0).then(|| share(again, after)),
        rejected: share(sum(|record| record.rejected), requests),
        energy_j: Estimate::of(records().map(joules)),
        over_reference: Estimate::of(over_reference),
        over_bound: over(|oracle| oracle.bound_energy_uj),
        over_o3: over(|oracle| oracle.o3_energy_uj),
        accuracy: Estimate::of(records().filter_map(|record| record.accuracy_mean)),
        above_trip_s: records().map(|record| record.seconds_above_trip).sum(),
        peak_c: records().map(|record| f64::from(record.peak_milli_celsius) / 1e3).fold(-273.15, f64::max),
        decision_ns_p50: medians.get(medians.len() / 2).copied(),
        decision_ns_p99: records().filter_map(|record| record.decision_ns_p99).max(),
    }
}
