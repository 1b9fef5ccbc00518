//! CPU clocks: `devices/system/cpu/cpufreq/policyN`.

use super::clock::{ClockNodes, FrequencyUnit};
use super::root::{Limits, SysfsRoot, parse_clocks};
use crate::board::cpus::CpuSet;
use std::path::{Path, PathBuf};

const CLASS: &str = "devices/system/cpu/cpufreq";

/// The policy whose first CPU is `cpu`, or else the one that the CPU belongs to.
pub(crate) fn find(root: &SysfsRoot, cpu: &str) -> Result<ClockNodes, String> {
    let found = directory(root, cpu).map(|directory| nodes(root, directory));
    found.ok_or_else(|| format!("no cpufreq policy holds CPU {cpu} under {}", root.path(CLASS).display()))
}

fn directory(root: &SysfsRoot, cpu: &str) -> Option<PathBuf> {
    let named = Path::new(CLASS).join(format!("policy{cpu}"));
    if root.exists(named.join("scaling_max_freq")) {
        return Some(named);
    }
    let directories = root.list(CLASS).into_iter().map(|name| Path::new(CLASS).join(name));
    directories.into_iter().find(|directory| {
        let cpus = root.read(directory.join("related_cpus")).unwrap_or_default();
        cpus.split_ascii_whitespace().any(|related| related == cpu)
    })
}

/// Every policy whose bounds are there.
pub(crate) fn all(root: &SysfsRoot) -> Vec<ClockNodes> {
    let policies = root.list(CLASS).into_iter().filter(|entry| entry.starts_with("policy"));
    let directories = policies.map(|entry| Path::new(CLASS).join(entry));
    let usable = directories.filter(|directory| root.exists(directory.join("scaling_max_freq")));
    usable.map(|directory| nodes(root, directory)).collect()
}

/// Numbers of the policies that the CPUs of a set belong to, ascending; none if none is there.
pub(crate) fn policies(root: &SysfsRoot, cpus: &CpuSet) -> Vec<u16> {
    let number = |directory: &Path| directory.file_name()?.to_str()?.strip_prefix("policy")?.parse().ok();
    let directories: Vec<PathBuf> = match cpus {
        CpuSet::All => all(root).into_iter().map(|nodes| nodes.directory).collect(),
        CpuSet::Of(cpus) => cpus.iter().filter_map(|cpu| directory(root, &cpu.to_string())).collect(),
    };
    let mut found: Vec<u16> = directories.iter().filter_map(|directory| number(directory)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn nodes(root: &SysfsRoot, directory: PathBuf) -> ClockNodes {
    let table = root
        .read(directory.join("scaling_available_frequencies"))
        .map(|text| parse_clocks(&text, &Limits::KILOHERTZ))
        .unwrap_or_default();
    let bound = |name: &str| {
        let value = root.read_number(directory.join(name)).ok()?;
        u64::try_from(value).ok().filter(|khz| *khz > 0)
    };
    let range = bound("cpuinfo_min_freq").zip(bound("cpuinfo_max_freq")).filter(|(min, max)| min <= max);
    ClockNodes {
        current: directory.join("scaling_cur_freq"),
        min: directory.join("scaling_min_freq"),
        max: directory.join("scaling_max_freq"),
        governor: directory.join("scaling_governor"),
        speed: Some(directory.join("scaling_setspeed")),
        directory,
        unit: FrequencyUnit::Kilohertz,
        table,
        range,
    }
}
