//! A Linux board through sysfs: what is there, what it says, and its clocks.
//!
//! Everything is found by name below an injected root and everything may be missing: a board with no
//! sensor at all still runs, on models alone.

pub(crate) mod kill;

mod actuate;
pub(crate) mod battery;
pub(crate) mod clock;
pub(crate) mod cpufreq;
pub(crate) mod devfreq;
pub(crate) mod hwmon;
pub(crate) mod iio;
mod memory;
pub(crate) mod powercap;
pub(crate) mod psi;
pub(crate) mod root;
pub(crate) mod telemetry;
pub(crate) mod thermal;

pub use actuate::SysfsActuator;
pub use root::{SysfsError, SysfsRoot, fault_of};
pub use telemetry::SysfsTelemetry;

use crate::board::check::{self, Problem};
use crate::board::restore::{RestoreError, boot_id};
use crate::board::spec::{BoardSpec, DomainInterface, DomainSpec};
use crate::core::catalog::Board;
use crate::time::Clock;
use crate::units::Kilohertz;
use clock::ClockNodes;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directories that stand for `/sys` and `/proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Stands for `/sys`.
    pub sys: PathBuf,
    /// Stands for `/proc`.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: PathBuf::from("/sys"), proc: PathBuf::from("/proc") }
    }
}

/// Why a board cannot be opened at all. Missing nodes are no reason.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The root is not a directory.
    #[error("{}: expected a directory that stands for /sys", root.display())]
    NoRoot {
        /// The root.
        root: PathBuf,
    },
    /// The board description was not validated.
    #[error("board {name:?}: {}", check::sentence(problems))]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong.
        problems: Vec<Problem>,
    },
}

/// A board that has been looked over.
#[derive(Debug)]
pub struct SysfsBoard {
    board: Board,
    missing: Vec<String>,
    domains: Vec<DomainSpec>,
    root: SysfsRoot,
    boot: Option<String>,
    telemetry: SysfsTelemetry,
}

impl SysfsBoard {
    /// Finds what the board file names. Operating points and trips come from the kernel where it shows
    /// them, else from the file. Only reads.
    ///
    /// # Errors
    /// [`BoardError`] if the root is no directory or the board description is invalid.
    pub fn open(spec: &BoardSpec, roots: &Roots, clock: Arc<dyn Clock>) -> Result<Self, BoardError> {
        let problems = check::problems(spec);
        if !problems.is_empty() {
            return Err(BoardError::Invalid { name: spec.name.clone(), problems });
        }
        if !roots.sys.is_dir() {
            return Err(BoardError::NoRoot { root: roots.sys.clone() });
        }
        let root = SysfsRoot::new(&roots.sys);
        let mut board = spec.board();
        let mut missing = Vec::new();
        for zone in &mut board.zones {
            thermal::adopt_trips(&root, zone);
        }
        for (domain, file) in board.domains.iter_mut().zip(&spec.domains) {
            let Ok(nodes) = find_nodes(&root, file) else { continue };
            let points = nodes.operating_points(&file.opps_khz);
            domain.opps = points.iter().map(|raw| nodes.unit.to_khz(*raw)).collect();
            domain.opps.dedup();
            if domain.opps.is_empty() {
                let at = root.path(&nodes.directory);
                missing.push(format!("domain {}: no operating points in {}", domain.name, at.display()));
            }
            for bound in [&nodes.min, &nodes.max] {
                missing.extend(unwritable(&root, bound).map(|why| format!("domain {}: {why}", domain.name)));
            }
        }
        let proc = SysfsRoot::new(&roots.proc);
        let mut telemetry = SysfsTelemetry::open(spec, root.clone(), &proc, clock, &mut missing);
        missing.extend(telemetry.unreadable());
        let boot = boot_id(&roots.proc);
        Ok(Self { board, missing, domains: spec.domains.clone(), root, boot, telemetry })
    }

    /// The board as the core sees it.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// What the board file names and the board lacks, or does not let this user do: a sentence each.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Sensors only: no clock is touched.
    #[must_use]
    pub fn into_telemetry(self) -> SysfsTelemetry {
        self.telemetry
    }

    /// Sensors and clocks. If an earlier process left clocks changed, they are put back first
    /// ([`SysfsActuator::left_over`] says so).
    ///
    /// # Errors
    /// [`RestoreError`] if the state directory is in use or cannot be used.
    pub fn into_parts(self, state_directory: &Path) -> Result<(SysfsTelemetry, SysfsActuator), RestoreError> {
        let actuator = SysfsActuator::open(self.root, self.boot, &self.domains, state_directory)?;
        Ok((self.telemetry, actuator))
    }
}

/// Reads the memory of this machine and of this process, for boards without a tree of their own.
#[must_use]
pub fn memory_probe() -> crate::board::sim::MemoryProbe {
    let mut sensor = memory::MemorySensor::new();
    Box::new(move || sensor.sample())
}

fn unwritable(root: &SysfsRoot, bound: &Path) -> Option<String> {
    use nix::unistd::{AccessFlags, access};
    let path = root.path(bound);
    let error = access(&path, AccessFlags::W_OK).err()?;
    Some(format!("{} cannot be set by this user: {}", path.display(), error.desc()))
}

/// A clock domain's nodes.
pub(crate) fn find_nodes(root: &SysfsRoot, domain: &DomainSpec) -> Result<ClockNodes, String> {
    match domain.interface {
        DomainInterface::Cpufreq => cpufreq::find(root, &domain.select),
        DomainInterface::Devfreq => devfreq::find(root, &domain.select),
    }
}

/// The highest operating point; zero if there is none.
fn highest(nodes: &ClockNodes, points: &[u64]) -> Kilohertz {
    points.last().map_or(Kilohertz::ZERO, |raw| nodes.unit.to_khz(*raw))
}

#[cfg(test)]
pub(crate) mod tests;
