//! A Linux board through sysfs: what is there, what it says, and its clocks.
//!
//! Everything is found by name below an injected root and everything may be missing: a board with no
//! sensor at all still runs, on models alone.

pub(crate) mod kill;

mod actuate;
mod bank;
pub(crate) mod battery;
mod cgroup;
pub(crate) mod clock;
mod control;
pub(crate) mod cpufreq;
pub(crate) mod devfreq;
mod drm;
mod gate;
pub(crate) mod hwmon;
pub(crate) mod iio;
mod load;
mod memory;
mod nvpmodel;
mod online;
mod others;
mod overcurrent;
pub(crate) mod powercap;
pub(crate) mod probes;
pub(crate) mod psi;
mod raspberry;
pub(crate) mod root;
mod sampler;
mod settings;
pub(crate) mod settle;
mod telemetry;
pub(crate) mod thermal;

pub use actuate::SysfsActuator;
pub use root::{SysfsError, SysfsRoot, fault_of};
pub use sampler::Sampler;
pub use telemetry::SysfsTelemetry;

use crate::board::check::{self, Problem};
use crate::board::cpus::CpuSet;
use crate::board::panel::Panel;
use crate::board::restore::{RestoreError, boot_id};
use crate::board::spec::{BoardSpec, DomainInterface, DomainSpec};
use crate::core::catalog::Board;
use crate::time::Clock;
use crate::units::Kilohertz;
use clock::ClockNodes;
use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directories that stand for `/sys`, `/proc` and `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Stands for `/sys`.
    pub sys: PathBuf,
    /// Stands for `/proc`.
    pub proc: PathBuf,
    /// Stands for `/`, of which `dev`, `etc` and `var` are looked at; `None`: they are not, since `sys` is another
    /// machine's.
    pub machine: Option<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: PathBuf::from("/sys"), proc: PathBuf::from("/proc"), machine: Some(PathBuf::from("/")) }
    }
}

impl Roots {
    /// This machine's, but for what stands for `/sys`.
    #[must_use]
    pub fn with_sys(sys: PathBuf) -> Self {
        let here = Self::default();
        let machine = here.machine.filter(|_| sys == here.sys);
        Self { sys, machine, ..here }
    }

    /// All of them below one directory that stands for `/`.
    #[must_use]
    pub fn below(machine: &Path) -> Self {
        Self { sys: machine.join("sys"), proc: machine.join("proc"), machine: Some(machine.to_owned()) }
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
    held: settings::Settings,
    root: SysfsRoot,
    boot: Option<String>,
    telemetry: SysfsTelemetry,
    panel: Arc<Panel>,
}

/// Said where clocks may be read and not set.
const OBSERVER: &str = "clocks that cannot be set are only watched, and variants and units are chosen by them; to \
    have them set, run the daemon in the group wattd-ctl, to which systemd/wattd.tmpfiles.conf hands the files \
    (`systemd-tmpfiles --create`), on a /sys that is not mounted read-only";

impl SysfsBoard {
    /// Finds what the board file names. Operating points and trips come from the kernel where it shows
    /// them, else from the file. Only reads.
    ///
    /// # Errors
    /// [`BoardError`] if the board description is invalid. What the board lacks, all of sysfs included, is no error.
    pub fn open(spec: &BoardSpec, roots: &Roots, clock: Arc<dyn Clock>) -> Result<Self, BoardError> {
        let problems = check::problems(spec);
        if !problems.is_empty() {
            return Err(BoardError::Invalid { name: spec.name.clone(), problems });
        }
        let root = SysfsRoot::new(&roots.sys);
        let (mut missing, mut observed) = (Vec::new(), 0);
        let spec = &without_absent_heat(spec, &root, &mut missing);
        let mut board = spec.board();
        if !roots.sys.is_dir() {
            missing.push(format!("{}: no directory that stands for /sys", roots.sys.display()));
        }
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
            let nodes = members(&root, file).into_iter().filter_map(|member| find_nodes(&root, &member).ok());
            let refused = nodes.into_iter().find_map(|nodes| unwritable(&root, &nodes));
            observed += usize::from(refused.is_some());
            missing.extend(refused.map(|why| format!("domain {}: {why}", domain.name)));
        }
        if observed > 0 {
            missing.push(OBSERVER.to_owned());
        }
        let proc = SysfsRoot::new(&roots.proc);
        let machine = roots.machine.as_ref().map(SysfsRoot::new);
        let at = telemetry::Where { root: &root, proc: &proc, machine: machine.as_ref() };
        let panel = Arc::new(Panel::default());
        let telemetry = SysfsTelemetry::open(spec, &at, clock, Arc::clone(&panel), &mut missing);
        missing.extend(telemetry.unreadable());
        let held = settings::Settings::find(&spec.hold, &spec.domains, &root, &proc, machine.as_ref());
        missing.extend(held.missing.iter().cloned());
        let boot = boot_id(&roots.proc);
        let domains = spec.domains.clone();
        Ok(Self { board, missing, domains, held, root, boot, telemetry, panel })
    }

    /// What the board shows besides its readings.
    #[must_use]
    pub fn panel(&self) -> Arc<Panel> {
        Arc::clone(&self.panel)
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
        let board = actuate::Opened {
            root: self.root,
            boot: self.boot,
            domains: &self.domains,
            held: self.held,
            panel: self.panel,
        };
        let actuator = SysfsActuator::open(board, state_directory)?;
        Ok((self.telemetry, actuator))
    }
}

/// Reads the memory of this machine and of this process, for boards without a tree of their own.
#[must_use]
pub fn memory_probe() -> crate::board::sim::MemoryProbe {
    let mut sensor = memory::MemorySensor::new();
    let mut buffer = Box::new(root::page());
    Box::new(move || sensor.sample(&mut buffer).map_err(|error| error.fault()))
}

/// The same board without zones if none of them is there: one that was never seen is no sensor that failed, which would
/// make the board count as hot for ever.
fn without_absent_heat(spec: &BoardSpec, root: &SysfsRoot, missing: &mut Vec<String>) -> BoardSpec {
    let mut spec = spec.clone();
    let absent = spec.zones.iter().map(|zone| {
        let why = thermal::ThermalSensor::find(root, &zone.name).err()?;
        Some(format!("zone {}: {why}", zone.name))
    });
    if let Some(absent) = absent.collect::<Option<Vec<String>>>().filter(|absent| !absent.is_empty()) {
        missing.extend(absent);
        missing.push("no zone of the board file is here: its heat is left to the kernel".to_owned());
        spec.zones.clear();
    }
    spec
}

/// Why one of a domain's bounds cannot be set.
fn unwritable(root: &SysfsRoot, nodes: &ClockNodes) -> Option<String> {
    let refused = [&nodes.min, &nodes.max].into_iter().find_map(|bound| root.may_write(bound).err())?;
    let (SysfsError::Write { path, source, .. } | SysfsError::Read { path, source }) = refused else {
        return None;
    };
    Some(format!("{} cannot be set by this user: {source}", path.display()))
}

/// A clock domain as the domains of one policy each that it is made of, those that go highest first: at least one, which
/// may not be there. Where the kernel shows no operating points, all have those of the first, as far as they go.
pub(crate) fn members(root: &SysfsRoot, domain: &DomainSpec) -> Vec<DomainSpec> {
    if domain.interface == DomainInterface::Devfreq {
        return vec![domain.clone()];
    }
    let cpus = CpuSet::parse(&domain.select).unwrap_or(CpuSet::All);
    let policies = cpufreq::policies(root, &cpus).into_iter();
    let mut found: Vec<(u16, ClockNodes)> = policies
        .filter_map(|policy| Some((policy, cpufreq::find(root, &policy.to_string()).ok()?)))
        .collect();
    found.sort_by_key(|(policy, nodes)| (Reverse(nodes.top()), *policy));
    let member = |policy: u16| DomainSpec { select: policy.to_string(), ..domain.clone() };
    match found.as_slice() {
        [] => vec![member(if let CpuSet::Of(cpus) = cpus { cpus[0] } else { 0 })],
        [(policy, _)] => vec![member(*policy)],
        [(_, highest), ..] => {
            let points = highest.operating_points(&domain.opps_khz);
            let opps_khz: Vec<u32> = points.iter().map(|raw| highest.unit.to_khz(*raw).0).collect();
            let named = |(policy, _): &(u16, ClockNodes)| DomainSpec {
                name: format!("{} (policy{policy})", domain.name),
                opps_khz: opps_khz.clone(),
                ..member(*policy)
            };
            found.iter().map(named).collect()
        }
    }
}

/// A clock domain's nodes; those of its highest policy, if it has several.
pub(crate) fn find_nodes(root: &SysfsRoot, domain: &DomainSpec) -> Result<ClockNodes, String> {
    match domain.interface {
        DomainInterface::Cpufreq => cpufreq::find(root, &members(root, domain)[0].select),
        DomainInterface::Devfreq => devfreq::find(root, &domain.select),
    }
}

/// The highest operating point; zero if there is none.
fn highest(nodes: &ClockNodes, points: &[u64]) -> Kilohertz {
    points.last().map_or(Kilohertz::ZERO, |raw| nodes.unit.to_khz(*raw))
}

#[cfg(test)]
pub(crate) mod tests;
