//! What could have been: the one place where bounds and oracles meet the runs.

use super::policies::{CAUSAL_ORACLE, Policies};
use super::runner::{RunOptions, run};
use crate::sim::oracle::{Demand, Instance, MemoryClocks, Truth, certified_bound_of, o1};
use crate::time::Timestamp;
use crate::units::Microjoules;
use serde::Serialize;

/// Bounds and oracles of a board, workload, disturbance and seed; the policy does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OracleRecord {
    /// No schedule that serves all that can be served in time takes less: certified.
    pub bound_energy_uj: u64,
    /// Energy of the clairvoyant that knows each input, and never waits (O1).
    pub o1_energy_uj: u64,
    /// Energy of the causal planner that knows the parameters, not the future (O3).
    pub o3_energy_uj: u64,
    /// Deadlines that O3 missed.
    pub o3_misses: u64,
    /// Requests that can be served in time at all, each alone on the board.
    pub oracle_feasible_requests: u64,
}

/// The oracles of a scenario and seed; `None` if O3 does not know the scenario's policies.
pub(super) fn consult(policies: &Policies<'_>, seed: u64) -> Option<OracleRecord> {
    let scenario = policies.scenario();
    let instance = Instance::of(Truth {
        machine: &scenario.machine,
        budgets: &scenario.budgets,
        workload: scenario.workload(seed),
        script: scenario.script.as_ref().map(|script| (script, Timestamp::ZERO)),
        seed,
        horizon: scenario.duration,
        heat: None,
        memory: MemoryClocks::Free,
    });
    let alone = o1(&instance);
    let feasible = alone.feasible();
    let demand = Demand { served: Some(&feasible), ..Demand::ALL };
    let bound = certified_bound_of(&instance, demand);
    let causal = run(policies, CAUSAL_ORACLE, seed, RunOptions::default()).ok()?.record;
    let uj = |joules: f64| Microjoules::from_f64(joules * 1e6).0;
    Some(OracleRecord {
        bound_energy_uj: uj(bound.joules),
        o1_energy_uj: uj(alone.joules),
        o3_energy_uj: causal.energy_uj,
        o3_misses: causal.misses,
        oracle_feasible_requests: feasible.iter().filter(|feasible| **feasible).count() as u64,
    })
}
