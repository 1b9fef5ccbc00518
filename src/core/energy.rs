//! Budgets: what the device, a class and an app may spend.

use crate::core::event::Request;
use crate::units::{Bytes, Microjoules, Microwatts, MilliCelsius, Nanos, Ppm};
use serde::{Deserialize, Serialize};

/// Which decision rule chooses the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The least expected energy under all constraints.
    #[default]
    LeastEnergy,
    /// The most accurate variant on the fastest unit at its highest clock: what a system without a
    /// power-aware scheduler does under the `performance` governor. For comparison.
    Performance,
}

/// What a class of requests is promised and allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassBudget {
    /// Name in configuration and metrics.
    pub name: String,
    /// Latency objective: the deadline of a request that names none.
    pub latency: Nanos,
    /// Least accuracy of a request that names none.
    pub min_accuracy: Ppm,
    /// Lower is more urgent.
    pub priority: u32,
    /// Most energy per request; `None` = no limit.
    pub energy_per_request: Option<Microjoules>,
    /// Average power this class may draw, as a token bucket over [`Budgets::power_window`]; `None` = no limit.
    pub power: Option<Microwatts>,
}

/// An energy allowance until a moment: so much, spread evenly over the time left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyAllowance {
    /// Energy of the whole board from now on.
    pub total: Microjoules,
    /// Time it must last, from now on.
    pub lasting: Nanos,
}

/// From battery to a reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatteryAllowance {
    /// Share of the full battery that must be left.
    pub reserve: Ppm,
    /// Time the rest must last, from now on.
    pub lasting: Nanos,
}

/// All budgets and limits. Replaced as a whole on reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// Decision rule.
    pub objective: Objective,
    /// Cap on the board's average power; `None` = no cap.
    pub power_cap: Option<Microwatts>,
    /// Window over which power caps are averaged.
    pub power_window: Nanos,
    /// Energy until a time.
    pub energy: Option<EnergyAllowance>,
    /// Battery until a time.
    pub battery: Option<BatteryAllowance>,
    /// Temperature that no zone may pass; `None` = each zone's passive trip.
    pub max_temperature: Option<MilliCelsius>,
    /// Distance kept from that limit.
    pub temperature_margin: MilliCelsius,
    /// Memory that loaded variants may hold together.
    pub memory_cap: Bytes,
    /// Longest queue, in requests, over all models.
    pub queue_limit: u32,
    /// Most requests of one app in the queue or running.
    pub app_limit: u32,
    /// Time after which an unused variant may be unloaded; `None` = only when memory is needed.
    pub unload_after: Option<Nanos>,
    /// Age from which a reading counts as its worst case.
    pub stale_after: Nanos,
    /// Classes; the first is the default.
    pub classes: Vec<ClassBudget>,
}

impl Budgets {
    /// The class of a request; an unknown class takes the default.
    #[must_use]
    pub fn class(&self, request: &Request) -> &ClassBudget {
        self.classes.get(usize::from(request.class.0)).unwrap_or(&self.classes[0])
    }
}
