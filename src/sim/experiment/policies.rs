//! Policies by name, and the traces of a scenario that they may be trained on.

use super::scenario::Scenario;
use crate::sim::policy::Training;

pub use crate::sim::policy::{NAMES as POLICIES, UnknownPolicy};

impl Scenario {
    /// What policies may be trained on: this scenario with other seeds.
    #[must_use]
    pub fn training(&self) -> Training {
        let (machine, budgets) = (self.machine.clone(), self.budgets.clone());
        Training::new(machine, budgets, self.streams.clone(), self.script.clone(), self.duration)
    }
}
