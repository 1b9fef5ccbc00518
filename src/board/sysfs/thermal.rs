//! Thermal zones: `class/thermal/thermal_zone*`, found by `type`, since numbers move.

use super::root::{Attribute, Limits, Page, SysfsError, SysfsRoot, millicelsius};
use crate::core::catalog::Zone;
use crate::units::MilliCelsius;
use std::path::{Path, PathBuf};

const CLASS: &str = "class/thermal";
/// Most trips of one zone that are looked at.
const MAX_TRIPS: usize = 32;

/// One zone by name: all nodes of that `type` (ACPI and multi-socket machines have several alike).
#[derive(Debug)]
pub(crate) struct ThermalSensor {
    nodes: Vec<Attribute>,
}

impl ThermalSensor {
    /// The nodes whose `type` is `name`.
    pub(crate) fn find(root: &SysfsRoot, name: &str) -> Result<Self, String> {
        let nodes: Vec<Attribute> = directories(root, name)
            .into_iter()
            .map(|directory| root.attribute(directory.join("temp")))
            .collect();
        if nodes.is_empty() {
            return Err(format!("no thermal zone of type {name:?} under {}", root.path(CLASS).display()));
        }
        Ok(Self { nodes })
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.nodes.first().map_or(Path::new(CLASS), Attribute::path)
    }

    /// The hottest of the nodes that can be read.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<MilliCelsius, SysfsError> {
        let mut hottest: Option<Result<i64, SysfsError>> = None;
        for node in &mut self.nodes {
            let reading = node.within(&Limits::TEMPERATURE, buffer);
            hottest = Some(match (hottest, reading) {
                (Some(Ok(known)), Ok(value)) => Ok(known.max(value)),
                (Some(Ok(known)), Err(_)) => Ok(known),
                (_, reading) => reading,
            });
        }
        match hottest {
            Some(reading) => reading.map(millicelsius),
            None => Err(SysfsError::NotYet { path: PathBuf::from(CLASS) }),
        }
    }
}

fn directories(root: &SysfsRoot, name: &str) -> Vec<PathBuf> {
    root.list(CLASS)
        .into_iter()
        .filter(|entry| entry.starts_with("thermal_zone"))
        .map(|entry| Path::new(CLASS).join(entry))
        .filter(|directory| root.read(directory.join("type")).is_ok_and(|kind| kind == name))
        .collect()
}

/// Replaces a zone's trips by the kernel's where it shows believable ones: the lowest of each kind. A
/// passive trip that the kernel leaves at or above critical is clamped to it.
pub(crate) fn adopt_trips(root: &SysfsRoot, zone: &mut Zone) {
    for directory in directories(root, &zone.name) {
        let Trips { passive, critical, .. } = trips(root, &directory);
        zone.critical = critical.unwrap_or(zone.critical);
        zone.passive = passive.unwrap_or(zone.passive).min(zone.critical);
    }
}

/// The trip from which the kernel takes hard measures on a zone, short of switching off; `None` if it shows none.
pub(crate) fn hot_trip(root: &SysfsRoot, name: &str) -> Option<MilliCelsius> {
    let trips = directories(root, name).into_iter().map(|directory| trips(root, &directory));
    trips.filter_map(|trips| trips.hot.or(trips.passive)).min()
}

/// The lowest believable trip of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trips {
    pub(crate) passive: Option<MilliCelsius>,
    pub(crate) hot: Option<MilliCelsius>,
    pub(crate) critical: Option<MilliCelsius>,
}

/// The `type` of every zone, or why it cannot be read; each with its directory.
pub(crate) fn all(root: &SysfsRoot) -> Vec<(PathBuf, Result<String, SysfsError>)> {
    let zones = root.list(CLASS).into_iter().filter(|entry| entry.starts_with("thermal_zone"));
    let directories = zones.map(|entry| Path::new(CLASS).join(entry));
    directories.map(|directory| (directory.clone(), root.read(directory.join("type")))).collect()
}

/// What a zone's kernel says about its trips.
pub(crate) fn trips(root: &SysfsRoot, directory: &Path) -> Trips {
    let mut found = Trips::default();
    for index in 0..MAX_TRIPS {
        let Ok(kind) = root.read(directory.join(format!("trip_point_{index}_type"))) else { break };
        let Ok(value) = root.read_number(directory.join(format!("trip_point_{index}_temp"))) else {
            continue;
        };
        // Disabled trips read 0, -274000 or 2^31 - 1.
        if value <= 0 || Limits::TEMPERATURE.check(value, directory).is_err() {
            continue;
        }
        let slot = match kind.as_str() {
            "passive" => &mut found.passive,
            "hot" => &mut found.hot,
            "critical" => &mut found.critical,
            _ => continue,
        };
        let value = millicelsius(value);
        *slot = Some(slot.map_or(value, |lowest| lowest.min(value)));
    }
    found
}
