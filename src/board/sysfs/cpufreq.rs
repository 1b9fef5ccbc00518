//! CPU clocks: `devices/system/cpu/cpufreq/policyN`.

use super::clock::{ClockNodes, FrequencyUnit};
use super::root::{Limits, SysfsRoot, parse_clocks};
use std::path::{Path, PathBuf};

const CLASS: &str = "devices/system/cpu/cpufreq";

/// The policy whose first CPU is `cpu`, or else the one that the CPU belongs to.
pub(crate) fn find(root: &SysfsRoot, cpu: &str) -> Result<ClockNodes, String> {
    let named = Path::new(CLASS).join(format!("policy{cpu}"));
    if root.exists(named.join("scaling_max_freq")) {
        return Ok(nodes(root, named));
    }
    for name in root.list(CLASS) {
        let directory = Path::new(CLASS).join(&name);
        let Ok(cpus) = root.read(directory.join("related_cpus")) else { continue };
        if cpus.split_ascii_whitespace().any(|related| related == cpu) {
            return Ok(nodes(root, directory));
        }
    }
    Err(format!("no cpufreq policy holds CPU {cpu} under {}", root.path(CLASS).display()))
}

/// Every policy whose bounds are there.
pub(crate) fn all(root: &SysfsRoot) -> Vec<ClockNodes> {
    let policies = root.list(CLASS).into_iter().filter(|entry| entry.starts_with("policy"));
    let directories = policies.map(|entry| Path::new(CLASS).join(entry));
    let usable = directories.filter(|directory| root.exists(directory.join("scaling_max_freq")));
    usable.map(|directory| nodes(root, directory)).collect()
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
