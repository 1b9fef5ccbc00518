//! Clock domains: cpufreq policies and devfreq devices.

use super::{Notes, shown};
use crate::board::check::{MAX_ENTRIES, MAX_OPPS};
use crate::board::cpus::listed;
use crate::board::spec::DomainInterface;
use crate::board::sysfs::clock::ClockNodes;
use crate::board::sysfs::root::SysfsRoot;
use crate::board::sysfs::{cpufreq, devfreq};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What a clock drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockKind {
    /// CPUs.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A neural processor.
    Npu,
    /// The memory controller.
    Memory,
    /// Anything else, which inference does not run on.
    Other,
}

/// Words in the names of devices, in the order in which they are asked for: `gpu-nvd` is Thor's video engine.
const WORDS: [(ClockKind, &[&str]); 4] = [
    (ClockKind::Other, &["nvd-", "gpu-nvd", "nvdec", "nvenc", "vic", "pcie", "ufs"]),
    (ClockKind::Npu, &["npu", "nvdla", "dla"]),
    (ClockKind::Memory, &["emc", "dmc", "bwmgr", "memory-controller", "ddr", "external-memory", "actmon"]),
    (ClockKind::Gpu, &["gpu", "gm20b", "gp10b", "gv11b", "ga10b", "gb10b", "mali", "panthor", "v3d", "kgsl"]),
];

/// A clock domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundClock {
    /// What it drives.
    pub kind: ClockKind,
    /// Kernel interface.
    pub interface: DomainInterface,
    /// Name of its directory.
    pub node: String,
    /// Its device tree node, or the driver.
    pub device: Option<String>,
    /// How a board file selects it.
    pub select: String,
    /// The policy's CPUs that are online.
    pub cpus: Vec<u16>,
    /// Operating points, ascending.
    pub opps_khz: Vec<u32>,
    /// Whether the kernel shows these points; else they are evenly spaced over its range.
    pub table: bool,
    /// The clock now.
    pub khz: Option<u32>,
    /// Bounds now.
    pub bounds_khz: Option<(u32, u32)>,
    /// The governor.
    pub governor: Option<String>,
    /// Governors that may be chosen.
    pub governors: Vec<String>,
    #[serde(skip)]
    pub(super) directory: PathBuf,
}

/// All of them: CPUs first.
pub(super) fn clocks(root: &SysfsRoot, notes: &mut Notes) -> Vec<FoundClock> {
    let mut found = Vec::new();
    for nodes in cpufreq::all(root).into_iter().take(MAX_ENTRIES) {
        found.extend(policy(root, &nodes, notes));
    }
    for nodes in devfreq::all(root).into_iter().take(MAX_ENTRIES) {
        found.push(device(root, &nodes, notes));
    }
    found
}

fn name_of(directory: &Path) -> String {
    directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn policy(root: &SysfsRoot, nodes: &ClockNodes, notes: &mut Notes) -> Option<FoundClock> {
    let node = name_of(&nodes.directory);
    let first = node.strip_prefix("policy").filter(|first| first.parse::<u16>().is_ok());
    let Some(first) = first.map(str::to_owned) else {
        notes.add(format!("{}: expected a name such as policy0", root.path(&nodes.directory).display()));
        return None;
    };
    let mut reads = |name: &str| notes.keep(root.read(nodes.directory.join(name)));
    let cpus = reads("affected_cpus").or_else(|| reads("related_cpus")).unwrap_or_default();
    let device = reads("scaling_driver").map(|driver| shown(&driver));
    let governors = reads("scaling_available_governors");
    let found = FoundClock {
        kind: ClockKind::Cpu,
        interface: DomainInterface::Cpufreq,
        device,
        select: first,
        cpus: listed(&cpus),
        ..common(root, nodes, node, governors, notes)
    };
    Some(found)
}

fn device(root: &SysfsRoot, nodes: &ClockNodes, notes: &mut Notes) -> FoundClock {
    let node = name_of(&nodes.directory);
    let mut reads = |name: &str| notes.keep(root.read(nodes.directory.join(name)));
    let of_node = reads("device/of_node/name");
    let compatible = reads("device/of_node/compatible");
    let governors = reads("available_governors");
    // The address says which device it is where the rest of the name differs from one kernel to the next.
    let address = node
        .split_once('.')
        .map(|(address, _)| address)
        .filter(|address| address.len() >= 6 && address.chars().all(|digit| digit.is_ascii_hexdigit()));
    let same = |nodes: ClockNodes| name_of(&nodes.directory) == node;
    let address = address.filter(|address| devfreq::find(root, address).is_ok_and(same));
    let names = [Some(&node), of_node.as_ref(), compatible.as_ref()];
    FoundClock {
        kind: kind_of(names.into_iter().flatten()),
        interface: DomainInterface::Devfreq,
        select: address.unwrap_or(&node).to_owned(),
        device: of_node.or(compatible).map(|text| shown(text.split('\0').next().unwrap_or_default())),
        cpus: Vec::new(),
        ..common(root, nodes, node, governors, notes)
    }
}

fn kind_of<'a>(names: impl Iterator<Item = &'a String> + Clone) -> ClockKind {
    let says = |words: &[&str]| {
        names.clone().any(|name| words.iter().any(|word| name.to_ascii_lowercase().contains(word)))
    };
    WORDS.iter().find(|(_, words)| says(words)).map_or(ClockKind::Other, |(kind, _)| *kind)
}

/// What policies and devices have in common.
fn common(
    root: &SysfsRoot,
    nodes: &ClockNodes,
    node: String,
    governors: Option<String>,
    notes: &mut Notes,
) -> FoundClock {
    let mut khz = |path: &Path| match root.read_number(path) {
        Ok(raw) => Some(nodes.unit.to_khz(u64::try_from(raw).unwrap_or(0)).0),
        Err(error) => {
            notes.add(error);
            None
        }
    };
    let (now, min, max) = (khz(&nodes.current), khz(&nodes.min), khz(&nodes.max));
    let mut opps: Vec<u32> =
        nodes.operating_points(&[]).iter().map(|raw| nodes.unit.to_khz(*raw).0).collect();
    opps.retain(|khz| *khz > 0);
    opps.dedup();
    opps.truncate(MAX_OPPS);
    let governor = notes.keep(root.read(&nodes.governor)).map(|name| shown(&name));
    FoundClock {
        kind: ClockKind::Other,
        interface: DomainInterface::Devfreq,
        node,
        device: None,
        select: String::new(),
        cpus: Vec::new(),
        table: !nodes.table.is_empty(),
        opps_khz: opps,
        khz: now,
        bounds_khz: min.zip(max),
        governor,
        governors: governors.unwrap_or_default().split_ascii_whitespace().map(shown).collect(),
        directory: nodes.directory.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart_by_their_names() {
        let kind =
            |names: &[&str]| kind_of(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().iter());
        for (names, expected) in [
            (&["17000000.gpu", "gpu"][..], ClockKind::Gpu),
            (&["17000000.gv11b"], ClockKind::Gpu),
            (&["fb000000.gpu-panthor"], ClockKind::Gpu),
            (&["gpu-gpc-0"], ClockKind::Gpu),
            (&["gpu-nvd-0"], ClockKind::Other),
            (&["fdab0000.npu"], ClockKind::Npu),
            (&["15880000.nvdla0"], ClockKind::Npu),
            (&["dmc"], ClockKind::Memory),
            (&["bwmgr"], ClockKind::Memory),
            (&["2c00000.external-memory-controller"], ClockKind::Memory),
            (&["15340000.vic"], ClockKind::Other),
            (&["1d84000.ufshc"], ClockKind::Other),
        ] {
            assert_eq!(kind(names), expected, "{names:?}");
        }
    }
}
