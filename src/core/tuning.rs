//! What the planner makes use of: all of it, unless an experiment turns something off to show what it is worth.

use serde::{Deserialize, Serialize};

/// Parts of the planner that can be turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// Whether runs may be boosted, rescued and insured.
    pub hedging: bool,
    /// Whether the tail of the latency is a normal distribution instead of what was seen.
    pub gaussian_tail: bool,
    /// Whether one slowdown is learned for all variants of a unit, compute and memory alike.
    pub one_slowdown: bool,
    /// Whether heat is foreseen, not only felt.
    pub thermal_horizon: bool,
    /// Whether models leave memory by their last use, instead of by the next that is expected.
    pub last_use: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            hedging: true,
            gaussian_tail: false,
            one_slowdown: false,
            thermal_horizon: true,
            last_use: false,
        }
    }
}
