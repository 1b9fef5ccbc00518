//! What is known of variants on this device, and the memory they may hold, in metrics.

use super::effects::Observer;
use super::names::Metric;
use crate::core::catalog::{UnitId, VariantId};
use crate::units::Bytes;

impl Observer {
    /// What the profiler found: the share of the labelled sample that the variant answered rightly on the unit, and
    /// whether it is wrong there.
    pub fn found(&self, variant: VariantId, unit: UnitId, accuracy: Option<f64>, wrong: bool) {
        if let Some(accuracy) = accuracy {
            self.registry.gauge(Metric::CheckAccuracy, &self.names.run(variant, unit)).set(accuracy);
        }
        self.quarantined(variant, unit, wrong);
    }

    /// Whether the variant is kept off the unit.
    pub(super) fn quarantined(&self, variant: VariantId, unit: UnitId, yes: bool) {
        let gauge = self.registry.gauge(Metric::Quarantined, &self.names.run(variant, unit));
        gauge.set(f64::from(u8::from(yes)));
    }

    /// Memory that variants may hold now.
    pub fn memory_cap(&self, cap: Bytes) {
        self.registry.gauge(Metric::MemoryCap, &[]).set(cap.as_f64());
    }
}
