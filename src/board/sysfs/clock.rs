//! A clock domain's nodes, however the kernel calls them: cpufreq speaks kHz, devfreq Hz.

use super::root::{Attribute, Limits, Page, SysfsError, SysfsRoot, kilohertz};
use crate::core::event::ClockState;
use crate::units::Kilohertz;
use std::path::{Path, PathBuf};

/// Steps of a table that has to be made up for a driver that takes any clock.
const MADE_UP_STEPS: u64 = 16;
/// Such drivers (intel_pstate) round to the bus ratio: 100 MHz.
const MADE_UP_GRID_KHZ: u64 = 100_000;

/// The unit of a domain's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrequencyUnit {
    /// cpufreq.
    Kilohertz,
    /// devfreq.
    Hertz,
}

impl FrequencyUnit {
    /// Raw numbers per kHz.
    pub(crate) const fn per_khz(self) -> u64 {
        match self {
            Self::Kilohertz => 1,
            Self::Hertz => 1_000,
        }
    }

    pub(crate) const fn limits(self) -> &'static Limits {
        match self {
            Self::Kilohertz => &Limits::KILOHERTZ,
            Self::Hertz => &Limits::HERTZ,
        }
    }

    /// A raw number as kHz.
    pub(crate) fn to_khz(self, raw: u64) -> Kilohertz {
        kilohertz(i64::try_from(raw / self.per_khz()).unwrap_or(i64::MAX))
    }
}

/// A clock domain as found in the tree. Paths are relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClockNodes {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// The present clock.
    pub(crate) current: PathBuf,
    /// Lower bound.
    pub(crate) min: PathBuf,
    /// Upper bound.
    pub(crate) max: PathBuf,
    /// Governor.
    pub(crate) governor: PathBuf,
    /// The clock under the `userspace` governor. devfreq makes a node for it when that governor starts, which only root
    /// may write; there both bounds hold the clock.
    pub(crate) speed: Option<PathBuf>,
    /// Unit of all of them.
    pub(crate) unit: FrequencyUnit,
    /// The kernel's operating points, raw and ascending; empty if it shows none.
    pub(crate) table: Vec<u64>,
    /// What the hardware can do, raw, where the kernel says so.
    pub(crate) range: Option<(u64, u64)>,
}

impl ClockNodes {
    /// The highest clock of the hardware, raw, where the kernel shows one.
    pub(crate) fn top(&self) -> Option<u64> {
        self.table.last().copied().or(self.range.map(|(_, most)| most))
    }

    /// The raw operating points: the kernel's; else those of the board file that the hardware can do;
    /// else evenly spaced ones over what it can do.
    pub(crate) fn operating_points(&self, from_file: &[u32]) -> Vec<u64> {
        if !self.table.is_empty() {
            return self.table.clone();
        }
        let listed = from_file.iter().map(|khz| u64::from(*khz) * self.unit.per_khz());
        let Some((least, most)) = self.range else { return listed.collect() };
        let fitting: Vec<u64> = listed.filter(|raw| (least..=most).contains(raw)).collect();
        if fitting.is_empty() {
            made_up(least, most, MADE_UP_GRID_KHZ * self.unit.per_khz())
        } else {
            fitting
        }
    }
}

/// At most 17 points from `least` to `most`, those between on multiples of `grid`.
fn made_up(least: u64, most: u64, grid: u64) -> Vec<u64> {
    let span = most.saturating_sub(least);
    let mut points = vec![least];
    for step in 1..MADE_UP_STEPS {
        let point = (least + span * step / MADE_UP_STEPS) / grid * grid;
        if point > points[points.len() - 1] && point < most {
            points.push(point);
        }
    }
    if most > least {
        points.push(most);
    }
    points
}

/// Reads the clock and bounds of a policy or a device.
#[derive(Debug)]
pub(crate) struct PolicySensor {
    current: Attribute,
    min: Attribute,
    max: Attribute,
    unit: FrequencyUnit,
    highest: Kilohertz,
}

impl PolicySensor {
    /// For the nodes of a domain whose highest operating point is `highest`.
    pub(crate) fn new(root: &SysfsRoot, nodes: &ClockNodes, highest: Kilohertz) -> Self {
        Self {
            current: root.attribute(&nodes.current),
            min: root.attribute(&nodes.min),
            max: root.attribute(&nodes.max),
            unit: nodes.unit,
            highest,
        }
    }

    /// Clock and bounds; an upper bound of 0 means none.
    fn sample(&mut self, buffer: &mut Page) -> Result<ClockState, SysfsError> {
        let limits = self.unit.limits();
        let mut read = |attribute: &mut Attribute| {
            let raw = attribute.within(limits, buffer)?;
            Ok(self.unit.to_khz(u64::try_from(raw).unwrap_or(0)))
        };
        let current = read(&mut self.current)?;
        let min = read(&mut self.min)?;
        let max = match read(&mut self.max)? {
            Kilohertz::ZERO if self.highest > Kilohertz::ZERO => self.highest,
            Kilohertz::ZERO => Kilohertz::MAX,
            bound => bound,
        };
        Ok(ClockState { current, min, max })
    }
}

/// Reads a domain's clock and bounds. Of many policies it looks at the first and at one of the others, in turn, so that
/// a sweep takes no longer for them.
#[derive(Debug)]
pub(crate) struct ClockSensor {
    /// At least one.
    policies: Vec<PolicySensor>,
    /// By policy: what it showed when it was last looked at.
    shown: Vec<Option<ClockState>>,
    next: usize,
}

impl ClockSensor {
    /// Of these policies, of which there is at least one.
    pub(crate) fn new(policies: Vec<PolicySensor>) -> Self {
        Self { shown: vec![None; policies.len()], policies, next: 0 }
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.policies[0].current.path()
    }

    /// The highest clock that was seen, within the bounds that all policies have in common.
    ///
    /// # Errors
    /// Those of the first policy, if the other that was looked at cannot be read either.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<ClockState, SysfsError> {
        let first = self.policies[0].sample(buffer);
        self.shown[0] = first.as_ref().ok().copied();
        let mut seen = self.shown[0];
        if self.policies.len() > 1 {
            self.next = self.next % (self.policies.len() - 1) + 1;
            // Its CPU may be offline.
            let other = self.policies[self.next].sample(buffer).ok();
            self.shown[self.next] = other;
            seen = seen.into_iter().chain(other).max_by_key(|state| state.current);
        }
        let Some(ClockState { current, .. }) = seen else { return first };
        let states =
            || self.policies.iter().zip(&self.shown).filter_map(|(policy, shown)| Some((policy, (*shown)?)));
        // One that is at its highest clock is no bound for those that go higher.
        let bounded = states().filter(|(policy, state)| state.max < policy.highest);
        let open = states().map(|(_, state)| state.max).max().unwrap_or(current);
        let max = bounded.map(|(_, state)| state.max).min().unwrap_or(open);
        let min = states().map(|(_, state)| state.min).min().unwrap_or(current);
        Ok(ClockState { current, min, max })
    }
}
