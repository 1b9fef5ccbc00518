//! Policies of a scenario by name: those that compete, and the oracle that only knows more.

use super::scenario::Scenario;
use crate::sim::oracle::{Causal, Insight};
use crate::sim::policy::{NAMES, Training, UnknownPolicy};
use crate::sim::{Machine, Scheduler};

/// Name of the causal oracle (O3): the true parameters, not the future. It does not compete.
pub const CAUSAL_ORACLE: &str = "o3";

/// Name of the same that learns of a disturbance only from the runs that meet it. It does not compete either.
const OBSERVING_ORACLE: &str = "o3-observing";

/// Names of all policies.
pub fn policies() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain([CAUSAL_ORACLE, OBSERVING_ORACLE])
}

/// What the causal oracle of that name knows; `None` for policies that compete.
fn insight(name: &str) -> Option<Insight> {
    match name {
        CAUSAL_ORACLE => Some(Insight::Told),
        OBSERVING_ORACLE => Some(Insight::Shown),
        _ => None,
    }
}

/// What builds the policies of a scenario.
pub(super) struct Policies<'a> {
    scenario: &'a Scenario,
    training: Training,
}

impl<'a> Policies<'a> {
    pub(super) fn of(scenario: &'a Scenario) -> Self {
        let (machine, budgets) = (scenario.machine.clone(), scenario.budgets.clone());
        let (streams, script) = (scenario.streams.clone(), scenario.script.clone());
        Self { scenario, training: Training::new(machine, budgets, streams, script, scenario.duration) }
    }

    pub(super) const fn scenario(&self) -> &'a Scenario {
        self.scenario
    }

    /// Whether there is a policy of that name.
    pub(super) fn check(&self, name: &str) -> Result<(), UnknownPolicy> {
        if insight(name).is_some() { Ok(()) } else { self.training.check(name) }
    }

    /// The policy of that name for a machine as it is described to it.
    pub(super) fn build(
        &self,
        name: &str,
        told: &Machine,
    ) -> Result<Box<dyn Scheduler + Send>, UnknownPolicy> {
        if let Some(insight) = insight(name) {
            let Scenario { machine, budgets, streams, options, .. } = self.scenario;
            return Ok(Box::new(Causal::new(machine, budgets, streams, options.write_delay, insight)));
        }
        self.training.build(name, told)
    }
}
