//! Runs experiments over threads. The results do not depend on how many there are.

use super::equal::Comparison;
use super::oracle;
use super::policies::Policies;
use super::results::{Record, ScheduleRow, Scribe, seconds};
use super::scenario::Scenario;
use super::timed::Timed;
use crate::sim::oracle::Verdict;
use crate::sim::policy::UnknownPolicy;
use crate::sim::{World, WorldOptions};
use crate::units::Microjoules;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use std::collections::BTreeMap;

/// What to run: every scenario with every policy and seed.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// Boards with workloads and disturbances.
    pub scenarios: Vec<Scenario>,
    /// Names of policies.
    pub policies: Vec<String>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// What to find out.
    pub options: RunOptions,
}

/// What to find out about each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// Time the decisions. All else is the same to the bit for the same seed; times are not.
    pub timed: bool,
    /// Keep every request.
    pub schedule: bool,
    /// Ask the oracles.
    pub oracle: bool,
}

/// A run and what it came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The figures.
    pub record: Record,
    /// Its requests, where they were asked for.
    pub schedule: Vec<ScheduleRow>,
}

/// Why an experiment stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A policy that does not exist.
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
    /// A policy that broke a rule that every scheduler keeps to, so that its figures mean nothing.
    #[error("policy `{policy}`, board {board}, workload {workload}, seed {seed}: at {at_s} s, {what}")]
    Broken {
        /// Its name.
        policy: String,
        /// Where.
        board: String,
        /// At what.
        workload: String,
        /// Seed of the run.
        seed: u64,
        /// When, s.
        at_s: f64,
        /// What it did.
        what: String,
    },
    /// The threads could not be started.
    #[error("starting threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl Experiment {
    /// Runs in all.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.scenarios.len() * self.policies.len() * self.seeds.len()
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs everything on so many threads (0 = one per processor), and calls `done` after each run. The results are
    /// in the order of scenarios, policies and seeds, whichever ended first.
    ///
    /// # Errors
    /// If a policy does not exist, or threads cannot be started.
    pub fn run(&self, threads: usize, done: &(dyn Fn() + Sync)) -> Result<Vec<Finished>, RunError> {
        let policies: Vec<Policies<'_>> = self.scenarios.iter().map(Policies::of).collect();
        for (policies, name) in policies.iter().flat_map(|p| self.policies.iter().map(move |name| (p, name)))
        {
            policies.check(name)?;
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let jobs: Vec<(usize, &str, u64)> = (0..self.scenarios.len())
            .flat_map(|scenario| self.policies.iter().map(move |policy| (scenario, policy.as_str())))
            .flat_map(|(scenario, policy)| self.seeds.iter().map(move |seed| (scenario, policy, *seed)))
            .collect();
        pool.install(|| {
            let oracles = self.oracles();
            let run = |(scenario, policy, seed): &(usize, &str, u64)| {
                let oracle = oracles.get(&(*scenario, *seed));
                let finished = run(&policies[*scenario], policy, *seed, self.options, oracle)?;
                done();
                Ok(finished)
            };
            jobs.par_iter().map(run).collect()
        })
    }

    /// The oracles do not depend on the policy: once per scenario and seed.
    fn oracles(&self) -> BTreeMap<(usize, u64), Verdict> {
        if !self.options.oracle {
            return BTreeMap::new();
        }
        let scenarios = 0..self.scenarios.len();
        let pairs: Vec<(usize, u64)> =
            scenarios.flat_map(|scenario| self.seeds.iter().map(move |seed| (scenario, *seed))).collect();
        let consult = |pair: &(usize, u64)| (*pair, oracle::consult(&self.scenarios[pair.0], pair.1));
        pairs.par_iter().map(consult).collect()
    }
}

/// One run.
///
/// # Errors
/// If there is no such policy.
pub(super) fn run(
    policies: &Policies<'_>,
    policy: &str,
    seed: u64,
    options: RunOptions,
    oracle: Option<&Verdict>,
) -> Result<Finished, RunError> {
    let world = start(policies, policy, seed, options)?;
    conclude(policies.scenario(), policy, seed, (options, oracle), world)
}

/// The world of a run at power-on.
pub(super) fn start(
    policies: &Policies<'_>,
    policy: &str,
    seed: u64,
    options: RunOptions,
) -> Result<World<Timed>, UnknownPolicy> {
    let scenario = policies.scenario();
    let scheduler = policies.build(policy, &scenario.told(seed))?;
    let world_options = WorldOptions { rows: options.schedule || options.oracle, ..scenario.options };
    Ok(scenario.world_with(Timed::new(scheduler, options.timed), seed, world_options))
}

/// Lets a run go on to its end and adds it up.
pub(super) fn conclude(
    scenario: &Scenario,
    policy: &str,
    seed: u64,
    (options, oracle): (RunOptions, Option<&Verdict>),
    mut world: World<Timed>,
) -> Result<Finished, RunError> {
    world.run_until(scenario.end());
    let unanswered = world.finish();
    if let Some(first) = world.checkers().violations().first() {
        return Err(RunError::Broken {
            policy: policy.to_owned(),
            board: scenario.board.clone(),
            workload: scenario.workload.clone(),
            seed,
            at_s: first.at.0 as f64 / 1e9,
            what: first.what.clone(),
        });
    }
    let (summary, counts) = (world.summary(), world.counts());
    let schedule =
        if options.schedule { Scribe { scenario }.schedule(world.rows(), &unanswered) } else { Vec::new() };
    let energy = Microjoules::from_f64(summary.energy_j * 1e6);
    let record = Record {
        board: scenario.board.clone(),
        workload: scenario.workload.clone(),
        disturbance: scenario.disturbance.clone(),
        policy: policy.to_owned(),
        seed,
        requests: summary.requests,
        served: counts.served,
        misses: counts.missed,
        rejected: counts.rejected,
        after_miss: counts.after_miss,
        missed_after_miss: counts.missed_after_miss,
        energy_uj: energy.0,
        accuracy_mean: (counts.served > 0).then(|| summary.accuracy().as_fraction()),
        seconds_above_trip: seconds(summary.above_trip),
        peak_milli_celsius: summary.peak.0,
        decision_ns_p50: world.scheduler().decision_ns(0.5),
        decision_ns_p99: world.scheduler().decision_ns(0.99),
        oracle: oracle.map(|verdict| Comparison::of(verdict, world.rows(), energy)),
    };
    Ok(Finished { record, schedule })
}
