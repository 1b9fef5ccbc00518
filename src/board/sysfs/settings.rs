//! What the board file asks to be held while the daemon runs, besides clocks: where it is set, and to what. The nodes'
//! originals are in the same journal as the clocks', and come back as they do.

use super::root::SysfsRoot;
use super::{SysfsError, find_nodes, members};
use crate::board::spec::{DomainInterface, DomainSpec, HoldSpec};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A period of `cpu.max` in microseconds: the kernel's default.
const PERIOD_US: u32 = 100_000;
/// What is switched on for the parts of a cgroup, and the daemon's part.
const SUBTREE: &str = "cgroup.subtree_control";
const PART: &str = "daemon";
const LATENCY: &str = "dev/cpu_dma_latency";

/// What is to be held and where.
#[derive(Debug, Default)]
pub(super) struct Settings {
    wanted: Vec<(PathBuf, String)>,
    epp: Option<String>,
    /// The daemon's cgroup, if it may divide it.
    delegated: Option<PathBuf>,
    latency: Option<(PathBuf, i32)>,
    /// The kernel holds the latency for as long as this is open.
    held: Option<File>,
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
        let mut settings = Self { epp: hold.epp.clone(), ..Self::default() };
        settings.look_for_policies(domains, root);
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
                Some(group) => settings.cgroup(root, &group, node, value),
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

    /// Takes in the energy preferences of policies that are not known yet.
    pub(super) fn look_for_policies(&mut self, domains: &[DomainSpec], root: &SysfsRoot) {
        let Some(epp) = self.epp.clone() else { return };
        for domain in domains.iter().filter(|domain| domain.interface == DomainInterface::Cpufreq) {
            let complaints = self.missing.len();
            for policy in members(root, domain) {
                self.preference(&epp, &policy, root);
                // What one of many policies lacks the others lack too.
                if self.missing.len() > complaints {
                    break;
                }
            }
        }
    }

    fn preference(&mut self, epp: &str, policy: &DomainSpec, root: &SysfsRoot) {
        let Ok(nodes) = find_nodes(root, policy) else { return };
        let offered = root.read(nodes.directory.join("energy_performance_available_preferences"));
        let offered = offered.unwrap_or_default();
        if offered.is_empty() || offered.split_ascii_whitespace().any(|known| known == epp) {
            let node = nodes.directory.join("energy_performance_preference");
            self.add(root, "hold.epp", node, epp.to_owned());
        } else {
            self.missing.push(format!("hold.epp = {epp:?}: domain {} offers {offered}", policy.name));
        }
    }

    /// A limit of the daemon's cgroup, or, where systemd has delegated that to it, of a part that it makes for itself.
    fn cgroup(&mut self, root: &SysfsRoot, group: &Path, node: &str, value: String) {
        let own = group.join(node);
        if root.may_write(&own).is_err() && root.may_write(group.join(SUBTREE)).is_ok() {
            self.delegated = Some(group.to_owned());
            self.wanted.push((group.join(PART).join(node), value));
        } else {
            self.add(root, "hold", own, value);
        }
    }

    fn add(&mut self, root: &SysfsRoot, key: &str, node: PathBuf, value: String) {
        match root.may_write(&node) {
            Ok(()) if self.wanted.iter().any(|(known, _)| *known == node) => {}
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

    /// Moves this process into a part of its delegated cgroup, since limits can be set on parts alone. Both end with the
    /// service.
    pub(super) fn prepare(&self, root: &SysfsRoot) {
        let Some(group) = &self.delegated else { return };
        let part = group.join(PART);
        // A part that is there already is one of an earlier start.
        if let Err(error) = std::fs::create_dir_all(root.path(&part)) {
            tracing::warn!(%error, group = %part.display(), "CPU time is not limited");
            return;
        }
        for (node, value) in [
            (part.join("cgroup.procs"), std::process::id().to_string()),
            (group.join(SUBTREE), "+cpu".to_owned()),
        ] {
            if let Err(error) = root.write(&node, &value) {
                tracing::warn!(%error, "CPU time is not limited");
            }
        }
    }

    /// Tells the kernel how soon CPUs must wake up, until this is dropped.
    pub(super) fn hold_latency(&mut self) {
        let Some((path, us)) = self.latency.as_ref().filter(|_| self.held.is_none()) else { return };
        match hold_latency(path, *us) {
            Ok(file) => {
                tracing::info!(node = %path.display(), us, "held");
                self.held = Some(file);
            }
            Err(error) => tracing::warn!(node = %path.display(), us, %error, "not held"),
        }
    }

    /// Lets go of the latency.
    pub(super) fn release_latency(&mut self) {
        self.held = None;
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
