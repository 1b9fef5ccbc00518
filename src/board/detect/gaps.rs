//! What a board lacks, and what that costs.

use super::{ClockKind, Found};
use crate::core::catalog::UnitKind;
use serde::Serialize;

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// What there is not.
    pub lacks: String,
    /// What cannot be done therefore, or less well.
    pub costs: String,
}

impl Found {
    /// What is missing, the worst first. `kinds` are the processors that an execution provider was found for;
    /// `None` if nobody asked.
    #[must_use]
    pub fn gaps(&self, kinds: Option<&[UnitKind]>) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut lacks = |lacks: &str, costs: &str| {
            gaps.push(Gap { lacks: lacks.to_owned(), costs: costs.to_owned() });
        };
        let usable: Vec<_> = self.rails.iter().filter(|rail| rail.usable).collect();
        if usable.is_empty() {
            lacks("no power sensor", "energy is modelled, and budgets hold as well as the model does");
        } else if !usable.iter().any(|rail| rail.input) {
            lacks(
                "no rail for the whole board's input",
                "the sum of the rails counts as its power, without what none of them sees",
            );
        }
        if !self.zones.iter().any(|zone| zone.c.is_some()) {
            lacks("no thermal zone", "temperature budgets cannot hold, and throttling comes unforeseen");
        } else if !self.zones.iter().any(|zone| zone.passive_c.is_some() && zone.c.is_some()) {
            lacks("no passive trip", "where the kernel or firmware throttles must come from the board file");
        }
        let has = |kind: ClockKind| self.clocks.iter().any(|clock| clock.kind == kind);
        if !has(ClockKind::Cpu) {
            lacks(
                "no cpufreq policy",
                "CPU clocks are neither seen nor set: only variants and units are chosen",
            );
        }
        for (clock, unit, name) in
            [(ClockKind::Gpu, UnitKind::Gpu, "GPU"), (ClockKind::Npu, UnitKind::Npu, "NPU")]
        {
            let provider = kinds.map(|kinds| kinds.contains(&unit));
            match (has(clock), provider) {
                (true, Some(false)) => lacks(
                    &format!("no execution provider for the {name}"),
                    "nothing runs on it: install an ONNX Runtime that has one",
                ),
                (false, Some(true)) => {
                    lacks(&format!("no clock of the {name}"), "it runs at the clock that its driver chooses")
                }
                _ => {}
            }
        }
        if !has(ClockKind::Memory) {
            let capped = self.caps.iter().any(|cap| cap.name.starts_with("emc"));
            let below = if capped { ", below a cap that `hold.cap` can lower" } else { "" };
            lacks("no memory clock", &format!("its governor sets it{below}"));
        }
        if self.battery.is_none() {
            lacks("no battery", "battery budgets do not apply");
        }
        if !self.pressure {
            lacks("no pressure stall information", "other programs' load shows only in how long runs take");
        }
        gaps
    }
}
