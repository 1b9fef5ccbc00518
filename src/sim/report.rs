//! What a run came to.

use super::requests::Row;
use crate::board::sim::PlantStats;
use crate::core::catalog::{UnitId, VariantId};
use crate::core::event::{Outcome, Rejection};
use crate::units::{MilliCelsius, Nanos, Ppm};
use std::collections::BTreeMap;

/// A run in figures. Energy and heat are the plant's own, not what the scheduler believes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Virtual time that passed.
    pub lasted: Nanos,
    /// Requests that came.
    pub requests: u64,
    /// Those served.
    pub served: u64,
    /// Served after their deadline.
    pub missed: u64,
    /// Turned away, by reason.
    pub rejected: BTreeMap<Rejection, u64>,
    /// Energy of the whole board, J.
    pub energy_j: f64,
    /// Energy attributed to served requests, J.
    pub attributed_j: f64,
    /// Sum of the accuracies of what was served.
    accuracy_sum: u64,
    /// Served by variant and unit.
    pub mix: BTreeMap<(VariantId, UnitId), u64>,
    /// Time with some zone at or above its passive trip.
    pub above_trip: Nanos,
    /// Time with some clock held down by the firmware.
    pub throttled: Nanos,
    /// Highest true temperature.
    pub peak: MilliCelsius,
    /// Batches dispatched.
    pub batches: u64,
    /// Decisions that the scheduler reported.
    pub decisions: u64,
    /// Events that the scheduler handled.
    pub events: u64,
}

impl Summary {
    /// Counts an answer; `accuracy` is that of the variant that ran, if one did.
    pub(super) fn answer(&mut self, row: &Row, accuracy: Ppm) {
        match row.outcome {
            Outcome::Served(served) => {
                self.served += 1;
                self.missed += u64::from(row.late());
                self.attributed_j += served.energy.as_f64() / 1e6;
                self.accuracy_sum += u64::from(accuracy.0);
                *self.mix.entry((served.variant, served.unit)).or_insert(0) += 1;
            }
            Outcome::Rejected { reason, .. } => *self.rejected.entry(reason).or_insert(0) += 1,
        }
    }

    pub(super) fn close(&mut self, lasted: Nanos, plant: &PlantStats) {
        self.lasted = lasted;
        self.energy_j = plant.input_j;
        self.above_trip = plant.above_passive;
        self.throttled = plant.throttled;
        self.peak = plant.hottest;
    }

    /// Mean accuracy of what was served.
    #[must_use]
    pub fn accuracy(&self) -> Ppm {
        let mean = self.accuracy_sum.checked_div(self.served).unwrap_or(0);
        Ppm(u32::try_from(mean).unwrap_or(u32::MAX))
    }

    /// Requests turned away.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Share of the requests that were late or turned away.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    pub fn failed_share(&self) -> f64 {
        (self.missed + self.turned_away()) as f64 / self.requests.max(1) as f64
    }

    /// Mean power of the board, W.
    #[must_use]
    pub fn mean_watts(&self) -> f64 {
        self.energy_j / self.lasted.as_secs_f64().max(1e-9)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests in {:.1} s: {} served, {} late, rejected {:?}; {:.2} J ({:.3} W), accuracy {:.4}, \
             peak {:.1} °C, {:.2} s above the trip, {:.2} s throttled, {} batches",
            self.requests,
            self.lasted.as_secs_f64(),
            self.served,
            self.missed,
            self.rejected,
            self.energy_j,
            self.mean_watts(),
            self.accuracy().as_fraction(),
            self.peak.as_celsius(),
            self.above_trip.as_secs_f64(),
            self.throttled.as_secs_f64(),
            self.batches,
        )
    }
}
