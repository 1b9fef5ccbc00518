//! Memory of the machine and of this process.

use super::root::{Attribute, Limits, Page, SysfsError, SysfsRoot, garbled, parse_integer};
use crate::core::event::MemoryState;
use crate::units::Bytes;
use std::path::Path;

/// Asks the running kernel; an injected tree does not change that.
#[derive(Debug)]
pub(crate) struct MemorySensor {
    machine: Attribute,
    own: Attribute,
    page_bytes: u64,
}

impl MemorySensor {
    /// A sensor for this process.
    pub(crate) fn new() -> Self {
        let proc = SysfsRoot::new("/proc");
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        let page_bytes = page.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
        Self { machine: proc.attribute("meminfo"), own: proc.attribute("self/statm"), page_bytes }
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.machine.path()
    }

    /// The memory now.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<MemoryState, SysfsError> {
        let text = self.own.text(buffer)?;
        let pages = text.split_ascii_whitespace().nth(1).and_then(parse_integer);
        let pages = pages.ok_or_else(|| garbled(self.own.path(), text, "pages, the second resident"))?;
        let resident = unsigned(pages, self.own.path())?.saturating_mul(self.page_bytes);
        let text = self.machine.text(buffer)?;
        let kilobytes = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let number = line.and_then(|rest| parse_integer(rest.split_ascii_whitespace().next()?));
            let path = self.machine.path();
            unsigned(number.ok_or_else(|| garbled(path, text, "MemTotal and MemAvailable in kB"))?, path)
        };
        let bytes = |kilobytes: u64| Bytes(kilobytes.saturating_mul(1024));
        Ok(MemoryState {
            available: bytes(kilobytes("MemAvailable")?),
            total: bytes(kilobytes("MemTotal")?),
            resident: Bytes(resident),
        })
    }
}

fn unsigned(value: i64, path: &Path) -> Result<u64, SysfsError> {
    Limits::COUNT.check(value, path).map(|value| u64::try_from(value).unwrap_or(0))
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
