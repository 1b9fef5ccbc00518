//! The planner.

use crate::core::catalog::{UnitId, VariantId};
use crate::units::{Kilohertz, Microjoules, Nanos, Ppm};
use serde::{Deserialize, Serialize};

/// A configuration that was considered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Variant.
    pub variant: VariantId,
    /// Unit.
    pub unit: UnitId,
    /// Clock.
    pub clock: Kilohertz,
    /// Items in the batch.
    pub items: u32,
    /// Expected latency, queueing excluded.
    pub latency: Nanos,
    /// Expected energy of the batch.
    pub energy: Microjoules,
    /// Accuracy.
    pub accuracy: Ppm,
}

/// A decision and its reasons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The request it was made for.
    pub request: crate::core::event::RequestId,
    /// What was chosen.
    pub chosen: Option<Candidate>,
}
