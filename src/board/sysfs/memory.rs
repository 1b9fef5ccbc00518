//! Memory of the machine and of this process.

use crate::core::event::{MemoryState, SensorFault};
use crate::units::Bytes;
use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Asks the running kernel; an injected tree does not change that.
pub(crate) struct MemorySensor {
    system: System,
    own: Option<Pid>,
}

impl MemorySensor {
    /// A sensor for this process.
    pub(crate) fn new() -> Self {
        Self { system: System::new(), own: sysinfo::get_current_pid().ok() }
    }

    /// The memory now.
    pub(crate) fn sample(&mut self) -> Result<MemoryState, SensorFault> {
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let own = self.own.ok_or(SensorFault::Missing)?;
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[own]),
            false,
            ProcessRefreshKind::nothing().with_memory().without_tasks(),
        );
        let resident = self.system.process(own).map(sysinfo::Process::memory).ok_or(SensorFault::Missing)?;
        let total = self.system.total_memory();
        if total == 0 {
            return Err(SensorFault::NoData);
        }
        Ok(MemoryState {
            available: Bytes(self.system.available_memory()),
            total: Bytes(total),
            resident: Bytes(resident),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_fits_into_this_machine() {
        let state = MemorySensor::new().sample().unwrap();
        assert!(state.resident > Bytes::ZERO && state.resident < state.total, "{state:?}");
        assert!(state.available <= state.total, "{state:?}");
    }
}
