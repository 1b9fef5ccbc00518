//! What could have been: the one place where bounds and oracles meet the runs.

use super::scenario::Scenario;
use crate::sim::oracle::{MemoryClocks, Truth, Verdict, judge};
use crate::time::Timestamp;
use serde::Serialize;

/// Bounds and oracles of a board, workload, disturbance and seed; the policy does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OracleRecord {
    /// No schedule that serves in time all that can be, or, where no schedule can serve all of those, what O3 did, takes
    /// less: certified.
    pub bound_energy_uj: u64,
    /// Energy of the clairvoyant that knows each input, and never waits (O1).
    pub o1_energy_uj: u64,
    /// Energy of the causal planner that knows the parameters, not the future (O3).
    pub o3_energy_uj: u64,
    /// Requests among them that O3 did not answer in time.
    pub o3_misses: u64,
    /// Requests that can be served in time at all, each alone on the board.
    pub oracle_feasible_requests: u64,
    /// Energy of the board if nothing came, at its cheapest clocks: part of every energy.
    pub idle_energy_uj: u64,
}

impl OracleRecord {
    pub(super) const fn of(verdict: &Verdict) -> Self {
        Self {
            bound_energy_uj: verdict.bound_energy_uj.0,
            o1_energy_uj: verdict.o1_energy_uj.0,
            o3_energy_uj: verdict.o3_energy_uj.0,
            o3_misses: verdict.o3_misses,
            oracle_feasible_requests: verdict.oracle_feasible_requests,
            idle_energy_uj: verdict.idle_energy_uj.0,
        }
    }
}

/// The oracles of a scenario and seed.
pub(super) fn consult(scenario: &Scenario, seed: u64) -> Verdict {
    let truth = Truth {
        machine: &scenario.machine,
        budgets: &scenario.budgets,
        workload: scenario.workload(seed),
        script: scenario.script.as_ref().map(|script| (script, Timestamp::ZERO)),
        seed,
        horizon: scenario.duration,
        heat: None,
        memory: MemoryClocks::Free,
    };
    judge(&truth, &scenario.streams, scenario.options)
}
