//! Caps by which a Jetson's power modes hold clocks that have no other control: memory, DLA, and what inference does not
//! run on. They are where their drivers make them, which differs from one JetPack to the next.

use super::{Notes, shown};
use crate::board::check::MAX_ENTRIES;
use crate::board::sysfs::root::SysfsRoot;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Folders of caps of several devices.
const SHARED: [&str; 2] = ["kernel/nvpmodel_clk_cap", "kernel/nvpmodel_emc_cap"];
/// Folders in which the devices of a host1x bus are, and the caps of such a device.
const BUSES: [&str; 3] = ["devices/platform/bus@0", "devices/platform", "devices"];
const OWN: [&str; 2] = ["clk_cap", "acm/clk_cap"];

/// A cap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundCap {
    /// The clock, as its driver calls it.
    pub name: String,
    /// The node below `/sys`, as `hold.cap[].node` names it.
    pub node: String,
    /// The highest clock now in kHz; `None` if there is no cap, or it cannot be read.
    pub khz: Option<u32>,
}

/// All of them.
pub(super) fn caps(root: &SysfsRoot, notes: &mut Notes) -> Vec<FoundCap> {
    let mut folders: Vec<PathBuf> = SHARED.map(PathBuf::from).into();
    for bus in BUSES.map(Path::new) {
        for host in root.list(bus).into_iter().filter(|name| name.ends_with(".host1x")).take(MAX_ENTRIES) {
            let devices = root.list(bus.join(&host)).into_iter().take(MAX_ENTRIES);
            folders.extend(devices.flat_map(|device| OWN.map(|own| bus.join(&host).join(&device).join(own))));
        }
    }
    let mut found = Vec::new();
    for folder in folders {
        for name in root.list(&folder).into_iter().take(MAX_ENTRIES - found.len()) {
            let node = folder.join(&name);
            let hertz = root.read_number(&node).map_err(|error| notes.add(error)).unwrap_or(0);
            let khz = u32::try_from(hertz / 1000).ok().filter(|khz| *khz > 0);
            found.push(FoundCap { name: shown(&name), node: shown(&node.display().to_string()), khz });
        }
    }
    found
}
