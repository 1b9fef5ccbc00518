//! Runtime power management: a device that the kernel has suspended is not woken by looking at it.

use super::root::{Attribute, Page, SysfsError, SysfsRoot};
use std::path::Path;

/// Says whether a device is awake. Most devices (every power monitor on I2C) know no sleep and have none.
#[derive(Debug)]
pub(crate) struct Gate {
    status: Option<Attribute>,
}

impl Gate {
    /// For the device whose directory below the root is `device`.
    pub(crate) fn find(root: &SysfsRoot, device: impl AsRef<Path>) -> Self {
        let node = device.as_ref().join("power/runtime_status");
        let managed = root.read(&node).is_ok_and(|status| status != "unsupported");
        Self { status: managed.then(|| root.attribute(node)) }
    }

    /// To be called before anything of the device is read.
    ///
    /// # Errors
    /// [`SysfsError::Asleep`] if that would wake it, or whatever keeps its state from being read.
    pub(crate) fn awake(&mut self, buffer: &mut Page) -> Result<(), SysfsError> {
        let Some(status) = &mut self.status else { return Ok(()) };
        match status.text(buffer)? {
            "suspended" | "suspending" => Err(SysfsError::Asleep { path: status.path().to_owned() }),
            _ => Ok(()),
        }
    }
}
