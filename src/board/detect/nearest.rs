//! Which board file that comes with the project fits, and where the board differs from it.

use super::{Found, FoundClock, Places};
use crate::board::shipped;
use crate::board::spec::BoardSpec;
use crate::board::sysfs::probes::RailSensor;
use crate::board::sysfs::root::SysfsRoot;
use crate::board::sysfs::thermal::ThermalSensor;
use crate::board::sysfs::{find_nodes, members};
use serde::Serialize;
use std::path::PathBuf;

/// A board file that fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nearest {
    /// Its name.
    pub board: String,
    /// Whether some of its figures are assumed.
    pub synthetic: bool,
    /// Why it fits.
    pub because: String,
    /// What it names and the board lacks: a sentence each.
    pub absent: Vec<String>,
    /// What the board has and it does not name.
    pub unused: Vec<String>,
    #[serde(skip)]
    pub(super) spec: BoardSpec,
    /// Where the policies or the device of each of its clock domains were found.
    #[serde(skip)]
    directories: Vec<Vec<PathBuf>>,
}

/// The board file that fits best: by `compatible`, the board's most specific name first; else, among those that
/// name none, the one with the most nodes here, if all its clocks and any of its sensors are.
#[must_use]
pub fn nearest(places: &Places, found: &Found) -> Option<Nearest> {
    let root = SysfsRoot::new(&places.roots.sys);
    let specs = || shipped::names().filter_map(|name| shipped::named(name)?.ok());
    let names = &found.identity.compatible;
    let rank = |spec: &BoardSpec| names.iter().position(|name| spec.compatible.contains(name));
    let by_name = specs().filter_map(|spec| Some((rank(&spec)?, spec))).min_by_key(|(rank, _)| *rank);
    if let Some((rank, spec)) = by_name {
        let because = format!("its `compatible` holds {}", names[rank]);
        return Some(compare(&root, found, spec, because));
    }
    let by_nodes = specs().filter(|spec| spec.compatible.is_empty()).filter_map(|spec| {
        let domains = spec.domains.iter().filter(|domain| find_nodes(&root, domain).is_ok()).count();
        let zones = spec.zones.iter().filter(|zone| ThermalSensor::find(&root, &zone.name).is_ok()).count();
        let rails = spec.rails.iter().filter(|rail| RailSensor::find(&root, rail).is_ok()).count();
        let sensors = zones + rails;
        (domains == spec.domains.len() && sensors > 0).then_some((domains + sensors, spec))
    });
    let (nodes, spec) = by_nodes.max_by_key(|(nodes, _)| *nodes)?;
    let because = format!("it names no board, and {nodes} of the clocks and sensors that it names are here");
    Some(compare(&root, found, spec, because))
}

fn compare(root: &SysfsRoot, found: &Found, spec: BoardSpec, because: String) -> Nearest {
    let mut absent = Vec::new();
    let mut directories: Vec<Vec<PathBuf>> = Vec::new();
    for domain in &spec.domains {
        let nodes = find_nodes(root, domain);
        let members = members(root, domain).into_iter().filter_map(|member| find_nodes(root, &member).ok());
        directories.push(members.map(|nodes| nodes.directory).collect());
        absent.extend(nodes.err().map(|why| format!("domain {}: {why}", domain.name)));
    }
    for zone in &spec.zones {
        let missing = ThermalSensor::find(root, &zone.name).err();
        absent.extend(missing.map(|why| format!("zone {}: {why}", zone.name)));
    }
    for rail in &spec.rails {
        let missing = RailSensor::find(root, rail).err();
        absent.extend(missing.map(|why| format!("rail {}: {why}", rail.name)));
    }
    if spec.battery && found.battery.is_none() {
        absent.push("battery: none".to_owned());
    }
    let clocks =
        found.clocks.iter().filter(|clock| !directories.iter().flatten().any(|at| *at == clock.directory));
    let zones = found.zones.iter().filter(|zone| !spec.zones.iter().any(|known| known.name == zone.name));
    let rails = found.rails.iter().filter(|rail| !spec.rails.iter().any(|known| known.name == rail.name));
    let mut unused: Vec<String> = clocks.map(|clock| format!("clock {}", clock.node)).collect();
    unused.extend(zones.map(|zone| format!("zone {}", zone.name)));
    unused.extend(rails.map(|rail| format!("rail {}", rail.name)));
    if found.battery.is_some() && !spec.battery {
        unused.push("battery".to_owned());
    }
    let (board, synthetic) = (spec.name.clone(), spec.synthetic);
    let absent = absent.iter().map(|why| super::shown(why)).collect();
    let unused = unused.iter().map(|what| super::shown(what)).collect();
    Nearest { board, synthetic, because, absent, unused, spec, directories }
}

impl Nearest {
    /// The file's entry for a clock that was found.
    pub(super) fn domain(&self, clock: &FoundClock) -> Option<&crate::board::spec::DomainSpec> {
        let at = self.directories.iter().position(|found| found.contains(&clock.directory))?;
        self.spec.domains.get(at)
    }
}
