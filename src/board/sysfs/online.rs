//! Which CPUs are online: power modes, people and idle governors switch some off and on again.

use super::bank::{Probe, Value};
use super::root::{Attribute, Page, SysfsError, SysfsRoot, garbled};
use crate::board::cpus::listed;
use crate::time::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The kernel's list.
pub(super) const ONLINE: &str = "devices/system/cpu/online";

/// Tells of CPUs that come and go.
#[derive(Debug)]
pub(super) struct OnlineCpus {
    node: Attribute,
    /// What the kernel listed last, and how many CPUs that are.
    last: Option<(String, u16)>,
    changed: Arc<AtomicBool>,
}

impl OnlineCpus {
    /// Sets `changed` when the list is another one than before.
    pub(super) fn find(root: &SysfsRoot, changed: Arc<AtomicBool>) -> Result<Self, String> {
        let missing = || format!("no {}", root.path(ONLINE).display());
        root.exists(ONLINE)
            .then(|| Self { node: root.attribute(ONLINE), last: None, changed })
            .ok_or_else(missing)
    }
}

impl Probe for OnlineCpus {
    fn sample(&mut self, _: Timestamp, buffer: &mut Page) -> Result<Value, SysfsError> {
        let text = self.node.text(buffer)?;
        if let Some((_, count)) = self.last.as_ref().filter(|(known, _)| known == text) {
            return Ok(Value::Online(*count));
        }
        let count = u16::try_from(listed(text).len()).unwrap_or(u16::MAX);
        if count == 0 {
            return Err(garbled(self.node.path(), text, "a list of CPUs such as \"0-3,6\""));
        }
        if let Some((before, _)) = self.last.replace((text.to_owned(), count)) {
            tracing::warn!(before, now = text, "CPUs were switched on or off");
            self.changed.store(true, Ordering::Relaxed);
        }
        Ok(Value::Online(count))
    }

    fn source(&self) -> &Path {
        self.node.path()
    }
}
