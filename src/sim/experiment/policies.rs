//! Policies by name.

use crate::core::Core;
use crate::core::energy::{Budgets, Objective};
use crate::sim::{Machine, Scheduler};
use crate::time::Timestamp;

/// Names of all policies.
pub const POLICIES: [&str; 2] = ["wattd", "performance"];

/// No policy has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no policy; there are: {}", POLICIES.join(", "))]
pub struct UnknownPolicy {
    /// The name asked for.
    pub name: String,
}

/// The policy of that name for a machine as it is described to it.
///
/// # Errors
/// If there is none.
pub fn build(
    name: &str,
    machine: &Machine,
    budgets: &Budgets,
) -> Result<Box<dyn Scheduler + Send>, UnknownPolicy> {
    let objective = match name {
        "wattd" => Objective::LeastEnergy,
        "performance" => Objective::Performance,
        _ => return Err(UnknownPolicy { name: name.to_owned() }),
    };
    let budgets = Budgets { objective, ..budgets.clone() };
    Ok(Box::new(Core::new(machine.catalog.clone(), budgets, Timestamp::ZERO)))
}
