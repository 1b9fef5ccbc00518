//! Thermal regimes.

use crate::core::catalog::ZoneId;
use crate::units::{MilliCelsius, Nanos};
use serde::{Deserialize, Serialize};

/// How hot the board is, and how far the core trusts that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regime {
    /// No complete reading yet: act as if hot.
    #[default]
    Boot,
    /// Below the limit by the margin.
    Nominal,
    /// Near or above the limit: power is held back.
    Throttled,
    /// At the critical trip: lowest clocks, only the smallest variants.
    Critical,
    /// Readings are missing or clocks do not follow: act as if hot.
    Uncontrollable,
}

/// A change of regime with what caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Before.
    pub from: Regime,
    /// After.
    pub to: Regime,
    /// The zone that decided, if one did.
    pub zone: Option<ZoneId>,
    /// Its temperature.
    pub temperature: Option<MilliCelsius>,
    /// Age of that reading.
    pub age: Nanos,
}
