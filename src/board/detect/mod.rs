//! Looks over a board that no file describes yet: what it is, what it can measure and what can be set; says
//! which board file that comes with the project fits, and writes one to start from. Only reads.
//!
//! Nodes are known by what stands in them (`name`, `type`, `of_node`), never by their numbers, through the same
//! readers that the daemon uses: what is listed here can be named in a board file. Anything may be missing, and
//! nothing that a node says is trusted: reads and lists are bounded, and texts are made fit to be shown.

mod caps;
mod clocks;
mod draft;
mod gaps;
mod identity;
mod nearest;
mod sensors;

pub use caps::FoundCap;
pub use clocks::{ClockKind, FoundClock};
pub use draft::{Accelerator, draft};
pub use gaps::Gap;
pub use identity::{Identity, L4t};
pub use nearest::{Nearest, nearest};
pub use sensors::{FoundBattery, FoundRail, FoundZone};

use super::cpus::listed;
use super::sysfs::psi::PressureSensor;
use super::sysfs::root::{SysfsError, SysfsRoot};
use super::sysfs::{BoardError, Roots};
use crate::core::event::SensorFault;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Most characters of a text from the board that are shown.
const MAX_SHOWN: usize = 300;
/// Most nodes that could not be read and are told of.
const MAX_COMPLAINTS: usize = 64;

/// The directories that are looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Stand for `/sys` and `/proc`.
    pub roots: Roots,
    /// Stands for `/etc`.
    pub etc: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { roots: Roots::default(), etc: PathBuf::from("/etc") }
    }
}

impl Places {
    /// All of them in another root directory, such as that of a mounted image.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { roots: Roots::below(root), etc: root.join("etc") }
    }
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// What the board and its software say they are.
    pub identity: Identity,
    /// CPUs that are online.
    pub cpus: Vec<u16>,
    /// CPUs that are switched off.
    pub offline: Vec<u16>,
    /// Clock domains.
    pub clocks: Vec<FoundClock>,
    /// Caps of clocks that have no other control.
    pub caps: Vec<FoundCap>,
    /// Thermal zones, one for each `type`.
    pub zones: Vec<FoundZone>,
    /// Power rails.
    pub rails: Vec<FoundRail>,
    /// The batteries together.
    pub battery: Option<FoundBattery>,
    /// Whether the kernel tells how long tasks wait for each other (PSI).
    pub pressure: bool,
    /// Nodes that are there but cannot be read, and why.
    pub unreadable: Vec<String>,
}

/// Looks over a board.
///
/// # Errors
/// If there is no directory that stands for `/sys`. All else may be missing.
pub fn look(places: &Places) -> Result<Found, BoardError> {
    let sys = &places.roots.sys;
    if !sys.is_dir() {
        return Err(BoardError::NoRoot { root: sys.clone() });
    }
    let (root, proc) = (SysfsRoot::new(sys), SysfsRoot::new(&places.roots.proc));
    let mut notes = Notes::default();
    let identity = identity::identify(&root, &proc, &SysfsRoot::new(&places.etc), &mut notes);
    let mut present = |node: &str| {
        let text = notes.keep(root.read(format!("devices/system/cpu/{node}")));
        text.map(|text| listed(&text)).unwrap_or_default()
    };
    let (mut cpus, offline) = (present("online"), present("offline"));
    let clocks = clocks::clocks(&root, &mut notes);
    if cpus.is_empty() {
        cpus = clocks.iter().flat_map(|clock| clock.cpus.iter().copied()).collect();
        cpus.sort_unstable();
        cpus.dedup();
    }
    let caps = caps::caps(&root, &mut notes);
    let zones = sensors::zones(&root, &mut notes);
    let rails = sensors::rails(&root);
    let battery = sensors::battery(&root);
    let pressure = PressureSensor::find(&proc).is_ok();
    Ok(Found { identity, cpus, offline, clocks, caps, zones, rails, battery, pressure, unreadable: notes.0 })
}

/// What could not be read.
#[derive(Debug, Default)]
struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, what: impl ToString) {
        if self.0.len() < MAX_COMPLAINTS {
            self.0.push(shown(&what.to_string()));
        }
    }

    /// A text that may be missing or empty; any other trouble is noted.
    fn keep(&mut self, text: Result<String, SysfsError>) -> Option<String> {
        match text {
            Ok(text) => Some(text).filter(|text| !text.is_empty()),
            Err(error) => {
                if error.fault() != SensorFault::Missing {
                    self.add(error);
                }
                None
            }
        }
    }
}

/// A text from the board as it may be shown: without control characters, which a terminal would obey, and
/// not endless.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_SHOWN)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_cannot_command_a_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(shown(&"x".repeat(5_000)).len(), MAX_SHOWN);
    }
}
