//! Memory of the machine and of this process, and what limits it.

use super::cgroup::OwnGroups;
use super::root::{Page, SysfsError, SysfsRoot};
use crate::core::event::MemoryState;
use crate::units::Bytes;
use std::io;
use std::path::Path;
use sysinfo::{MemoryRefreshKind, Pid, Process, ProcessRefreshKind, ProcessesToUpdate, System};

/// Where what `sysinfo` tells comes from.
const MACHINE: &str = "/proc/meminfo";
const OWN: &str = "/proc/self";
const PROC: &str = "/proc";
const GROUPS: &str = "/sys/fs/cgroup";

/// Asks the running kernel; an injected tree does not change that.
pub(crate) struct MemorySensor {
    system: System,
    own: Option<Pid>,
    groups: OwnGroups,
}

impl MemorySensor {
    /// A sensor for this process.
    pub(crate) fn new() -> Self {
        let groups = OwnGroups::find(&SysfsRoot::new(PROC), &SysfsRoot::new(GROUPS));
        Self { system: System::new(), own: sysinfo::get_current_pid().ok(), groups }
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        Path::new(MACHINE)
    }

    /// The memory now.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<MemoryState, SysfsError> {
        let unread =
            |path: &str, why: &str| SysfsError::Read { path: path.into(), source: io::Error::other(why) };
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let total = self.system.total_memory();
        if total == 0 {
            return Err(unread(MACHINE, "no MemTotal"));
        }
        let own = self.own.ok_or_else(|| unread(OWN, "this process has no number"))?;
        let how = ProcessRefreshKind::nothing().with_memory().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, how);
        let resident = self.system.process(own).map(Process::memory);
        let groups = self.groups.sample(buffer)?;
        Ok(MemoryState {
            available: Bytes(self.system.available_memory()),
            total: Bytes(total),
            resident: Bytes(resident.ok_or_else(|| unread(OWN, "no resident size"))?),
            limit: groups.map(|groups| groups.limit),
            headroom: groups.map(|groups| groups.headroom),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::root::page;
    use super::*;

    #[test]
    fn this_process_fits_into_this_machine() {
        let state = MemorySensor::new().sample(&mut page()).unwrap();
        assert!(state.resident > Bytes::ZERO && state.resident < state.total, "{state:?}");
        assert!(state.available <= state.total, "{state:?}");
    }
}
