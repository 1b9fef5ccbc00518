//! Jetson's over-current counters: hwmon `soctherm_oc`, `ocN_event_cnt`. The hardware throttles by itself; here it is
//! only counted.

use super::hwmon;
use super::root::{Attribute, Limits, Page, SysfsError, SysfsRoot};
use std::path::Path;

const CHIP: &str = "soctherm_oc";
/// Alarms of one chip that are looked at.
const MAX_ALARMS: u32 = 8;

/// Counts throttling by the hardware for too much current.
#[derive(Debug)]
pub(crate) struct OverCurrentSensor {
    counters: Vec<Attribute>,
}

impl OverCurrentSensor {
    /// All alarms of the board's chip.
    pub(crate) fn find(root: &SysfsRoot) -> Option<Self> {
        let mut counters = Vec::new();
        for directory in hwmon::chips(root, CHIP) {
            let nodes = (1..=MAX_ALARMS).map(|n| directory.join(format!("oc{n}_event_cnt")));
            counters.extend(nodes.filter(|node| root.exists(node)).map(|node| root.attribute(node)));
        }
        (!counters.is_empty()).then_some(Self { counters })
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.counters.first().map_or(Path::new(CHIP), Attribute::path)
    }

    /// Events since power-on, over all alarms.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<u64, SysfsError> {
        self.counters.iter_mut().try_fold(0_u64, |sum, counter| {
            let events = counter.within(&Limits::COUNT, buffer)?;
            Ok(sum.saturating_add(u64::try_from(events).unwrap_or(0)))
        })
    }
}
