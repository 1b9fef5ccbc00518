//! What could have been: the one place where bounds and oracles meet the runs.

use super::scenario::Scenario;
use serde::Serialize;

/// Bounds and oracles of a board, workload, disturbance and seed; the policy does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OracleRecord {
    /// No schedule that serves what `oracle_feasible_requests` counts takes less: certified.
    pub bound_energy_uj: u64,
    /// Energy of the clairvoyant that knows each input (O1).
    pub o1_energy_uj: u64,
    /// Energy of the causal planner that knows the parameters, not the future (O3).
    pub o3_energy_uj: u64,
    /// Deadlines that O3 missed.
    pub o3_misses: u64,
    /// Requests that can be served in time at all.
    pub oracle_feasible_requests: u64,
}

/// The oracles of a scenario and seed; `None` while there are none.
pub(super) fn consult(_scenario: &Scenario, _seed: u64) -> Option<OracleRecord> {
    None
}
