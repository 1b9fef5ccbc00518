//! What the board file asks to be held while the daemon runs, besides clocks: where it is set, and to what. The nodes'
//! originals are in the same journal as the clocks', and come back as they do.

use super::root::SysfsRoot;
use super::{SysfsError, find_nodes};
use crate::board::spec::{DomainInterface, DomainSpec, HoldSpec};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A period of `cpu.max` in microseconds: the kernel's default.
const PERIOD_US: u32 = 100_000;
const LATENCY: &str = "dev/cpu_dma_latency";

/// What is to be held and where.
#[derive(Debug, Default)]
pub(super) struct Settings {
    wanted: Vec<(PathBuf, String)>,
    latency: Option<(PathBuf, i32)>,
    /// The kernel holds the latency for as long as the file is open.
    _open: Option<File>,
    /// What cannot be held, and why: a sentence each.
    pub(super) missing: Vec<String>,
}

impl Settings {
    /// Finds the nodes.
    pub(super) fn find(
        hold: &HoldSpec,
        domains: &[DomainSpec],
        root: &SysfsRoot,
        proc: &SysfsRoot,
        machine: Option<&SysfsRoot>,
    ) -> Self {
        let mut settings = Self::default();
        if let Some(epp) = &hold.epp {
            settings.epp(epp, domains, root);
        }
        for cap in &hold.caps {
            let hertz = (u64::from(cap.khz) * 1000).to_string();
            settings.add(root, "hold.cap", PathBuf::from(&cap.node), hertz);
        }
        let cgroup = [
            (
                "cpu.max",
                hold.cpu_max_percent.map(|of_one| format!("{} {PERIOD_US}", of_one * (PERIOD_US / 100))),
            ),
            ("cpu.uclamp.min", hold.uclamp_min_percent.map(|percent| format!("{percent}.00"))),
            ("cpu.uclamp.max", hold.uclamp_max_percent.map(|percent| format!("{percent}.00"))),
        ];
        for (node, value) in cgroup {
            let Some(value) = value else { continue };
            match own_cgroup(proc) {
                Some(group) => settings.add(root, "hold", group.join(node), value),
                None => settings.missing.push(format!("hold: {node}: no cgroup of version 2")),
            }
        }
        if let Some(us) = hold.cpu_dma_latency_us {
            match machine {
                Some(machine) => {
                    settings.latency = i32::try_from(us).ok().map(|us| (machine.path(LATENCY), us));
                }
                None => settings.missing.push(format!("hold.cpu_dma_latency_us: no {LATENCY} there")),
            }
        }
        settings
    }

    fn epp(&mut self, epp: &str, domains: &[DomainSpec], root: &SysfsRoot) {
        for domain in domains.iter().filter(|domain| domain.interface == DomainInterface::Cpufreq) {
            let Ok(nodes) = find_nodes(root, domain) else { continue };
            let offered = root.read(nodes.directory.join("energy_performance_available_preferences"));
            let offered = offered.unwrap_or_default();
            if !offered.is_empty() && !offered.split_ascii_whitespace().any(|known| known == epp) {
                self.missing.push(format!("hold.epp = {epp:?}: domain {} offers {offered}", domain.name));
                continue;
            }
            let node = nodes.directory.join("energy_performance_preference");
            self.add(root, "hold.epp", node, epp.to_owned());
        }
    }

    fn add(&mut self, root: &SysfsRoot, key: &str, node: PathBuf, value: String) {
        match root.may_write(&node) {
            Ok(()) => self.wanted.push((node, value)),
            Err(SysfsError::Write { path, source, .. }) => {
                self.missing.push(format!("{key}: {} cannot be set by this user: {source}", path.display()));
            }
            Err(error) => self.missing.push(format!("{key}: {error}")),
        }
    }

    /// Nodes below the root, with what they are to hold.
    pub(super) fn wanted(&self) -> &[(PathBuf, String)] {
        &self.wanted
    }

    /// Tells the kernel how soon CPUs must wake up, until this is dropped.
    pub(super) fn hold_latency(&mut self) {
        let Some((path, us)) = &self.latency else { return };
        match hold_latency(path, *us) {
            Ok(file) => {
                tracing::info!(node = %path.display(), us, "held");
                self._open = Some(file);
            }
            Err(error) => tracing::warn!(node = %path.display(), us, %error, "not held"),
        }
    }

    /// Lets go of the latency.
    pub(super) fn release_latency(&mut self) {
        self._open = None;
    }
}

fn hold_latency(path: &Path, us: i32) -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(&us.to_ne_bytes())?;
    Ok(file)
}

/// The daemon's own cgroup below `/sys`.
fn own_cgroup(proc: &SysfsRoot) -> Option<PathBuf> {
    let groups = proc.read("self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = own.trim().trim_start_matches('/');
    let below = !Path::new(own).components().any(|part| part == std::path::Component::ParentDir);
    below.then(|| Path::new("fs/cgroup").join(own))
}
