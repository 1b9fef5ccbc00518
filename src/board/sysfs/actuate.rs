//! Sets clock bounds. Only bounds, never a governor and never anything under hwmon: with both bounds
//! on one operating point every governor gives that clock.

use super::clock::ClockNodes;
use super::root::{SysfsError, SysfsRoot};
use super::{find_nodes, highest};
use crate::board::Actuator;
use crate::board::restore::journal::{Journal, Node, Role, StateLock};
use crate::board::restore::{
    JournalFate, NodeOutcome, RestoreError, RestoreReport, max_first, put_back, restore_left_over, settle,
};
use crate::board::spec::DomainSpec;
use crate::core::event::{Applied, ApplyReport, ClockBounds, SensorFault, Setpoints};
use crate::units::Kilohertz;
use std::path::Path;

/// Why a setpoint was not applied.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    NotThere(String),
    #[error("{min} to {max} asked: expected bounds above 0, min at most max")]
    Nonsense { min: Kilohertz, max: Kilohertz },
    #[error(transparent)]
    Node(#[from] SysfsError),
    #[error("no clock is changed that cannot be recorded first: {0}")]
    Unrecorded(#[from] RestoreError),
}

impl Refusal {
    fn fault(&self) -> SensorFault {
        match self {
            Self::NotThere(_) => SensorFault::Missing,
            Self::Nonsense { .. } => SensorFault::Implausible,
            Self::Node(error) => error.fault(),
            Self::Unrecorded(_) => SensorFault::Io,
        }
    }
}

/// Writes bounds to the sysfs tree, and puts back what was there: on [`Actuator::restore`], on drop, and
/// at the next start if the process had no chance to.
#[derive(Debug)]
pub struct SysfsActuator {
    root: SysfsRoot,
    boot: Option<String>,
    lock: StateLock,
    domains: Vec<Control>,
    journal: Option<Journal>,
    left_over: RestoreReport,
}

/// One clock domain.
#[derive(Debug)]
struct Control {
    spec: DomainSpec,
    nodes: Option<ClockNodes>,
    /// Raw operating points, ascending.
    points: Vec<u64>,
    fault: Option<SensorFault>,
}

/// Raw bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Raw {
    min: u64,
    max: u64,
}

impl SysfsActuator {
    /// Takes the state directory and puts back what an earlier process left changed.
    ///
    /// # Errors
    /// If another process holds the state directory, or it cannot be used: clocks that could not be
    /// restored are not changed.
    pub(crate) fn open(
        root: SysfsRoot,
        boot: Option<String>,
        domains: &[DomainSpec],
        state_directory: &Path,
    ) -> Result<Self, RestoreError> {
        let lock = StateLock::acquire(state_directory)?;
        let left_over = restore_left_over(&lock, &root, boot.as_deref())?;
        let mut journal = None;
        if left_over.journal == JournalFate::Kept
            && let Some(contents) = lock.read()?
        {
            // What is not back yet keeps its true original.
            journal = Some(Journal::create(&lock, boot.clone(), contents.nodes)?);
        }
        let domains = domains.iter().map(|spec| Control::new(&root, spec)).collect();
        Ok(Self { root, boot, lock, domains, journal, left_over })
    }

    /// What an earlier process had left changed, and what became of it.
    #[must_use]
    pub fn left_over(&self) -> &RestoreReport {
        &self.left_over
    }

    /// Puts everything back, and says what became of each node.
    ///
    /// # Errors
    /// If the journal cannot be removed; the clocks are back all the same.
    pub fn restore_all(&mut self) -> Result<RestoreReport, RestoreError> {
        let Some(journal) = &self.journal else { return Ok(RestoreReport::default()) };
        let mut report =
            RestoreReport { nodes: put_back(&self.root, journal.nodes()), ..RestoreReport::default() };
        settle(&self.lock, &mut report)?;
        if report.journal != JournalFate::Kept {
            self.journal = None;
        }
        Ok(report)
    }

    fn set(&mut self, index: usize, wanted: ClockBounds) -> Result<ClockBounds, Refusal> {
        let control = self
            .domains
            .get_mut(index)
            .ok_or_else(|| Refusal::NotThere(format!("the board has no clock domain {index}")))?;
        let nodes = control.found(&self.root).map_err(Refusal::NotThere)?;
        let target = control.round(&nodes, wanted)?;
        let found = read(&self.root, &nodes)?;
        let min_in_force = self.last_written(&nodes.min).map_or(found.min, |last| last.max(found.min));
        let order = if max_first(min_in_force, target.max) {
            [(Role::Max, target.max), (Role::Min, target.min)]
        } else {
            [(Role::Min, target.min), (Role::Max, target.max)]
        };
        for (role, value) in order {
            if self.must_write(index, &nodes, role, found, value) {
                self.write(&nodes, role, value)?;
            }
        }
        let shown = read(&self.root, &nodes)?;
        self.note_difference(&nodes.min, shown.min);
        self.note_difference(&nodes.max, shown.max);
        let points = &self.domains[index].points;
        let max = if shown.max == 0 { highest(&nodes, points) } else { nodes.unit.to_khz(shown.max) };
        Ok(ClockBounds { min: nodes.unit.to_khz(shown.min), max })
    }

    fn last_written(&self, path: &Path) -> Option<u64> {
        let journal = self.journal.as_ref()?;
        journal.nodes()[journal.find(path)?].own_last()?.parse().ok()
    }

    /// Whether a write would change something. A bound that was written before and now reads lower is
    /// capped (upper bound) or pressed down by the cap (lower bound): writing it again is no use. A
    /// bound never written may read as wanted only because of a cap, unless it is at its extreme.
    fn must_write(&self, index: usize, nodes: &ClockNodes, role: Role, found: Raw, value: u64) -> bool {
        let extreme = self.domains[index].points.last() == Some(&value);
        match role {
            Role::Governor => false,
            Role::Max => match self.last_written(&nodes.max) {
                Some(last) if last == value => found.max == 0 || found.max > value,
                Some(_) => true,
                None => found.max != value || !extreme,
            },
            Role::Min => match self.last_written(&nodes.min) {
                Some(last) if last == value => found.min != value && found.min != found.max,
                Some(_) => true,
                None => found.min != value || found.min == found.max,
            },
        }
    }

    fn write(&mut self, nodes: &ClockNodes, role: Role, value: u64) -> Result<(), Refusal> {
        let path = if role == Role::Max { &nodes.max } else { &nodes.min };
        self.record(nodes)?;
        let text = value.to_string();
        let id = self.journal.as_ref().and_then(|journal| journal.find(path));
        let (Some(journal), Some(id)) = (&mut self.journal, id) else {
            return Err(Refusal::NotThere(format!("{} has no original on record", path.display())));
        };
        journal.announce(&self.lock, id, &text)?;
        if let Err(error) = self.root.write(path, &text) {
            if let Err(error) = journal.refused(&self.lock, id) {
                tracing::warn!(%error, "a refused write is not noted in the journal");
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Makes sure that the originals of this domain are on record; the first time, those of all domains.
    fn record(&mut self, nodes: &ClockNodes) -> Result<(), Refusal> {
        if let Some(journal) = &mut self.journal {
            if journal.find(&nodes.max).is_some() && journal.find(&nodes.min).is_some() {
                return Ok(());
            }
            let name = self.domains.iter().find(|control| control.nodes.as_ref() == Some(nodes));
            let name = name.map_or("", |control| control.spec.name.as_str());
            return Ok(journal.add(&self.lock, originals(&self.root, name, nodes)?)?);
        }
        let mut all = Vec::new();
        for control in &self.domains {
            let Some(there) = &control.nodes else { continue };
            match originals(&self.root, &control.spec.name, there) {
                Ok(nodes) => all.extend(nodes),
                Err(error) if there == nodes => return Err(error.into()),
                // It is recorded before its own first write.
                Err(error) => tracing::debug!(%error, domain = control.spec.name, "no original yet"),
            }
        }
        self.journal = Some(Journal::create(&self.lock, self.boot.clone(), all)?);
        Ok(())
    }

    fn note_difference(&mut self, path: &Path, shown: u64) {
        let Some(journal) = &mut self.journal else { return };
        let Some(id) = journal.find(path) else { return };
        let text = shown.to_string();
        let as_written = journal.nodes()[id].last().is_none_or(|last| last == text);
        if !as_written && let Err(error) = journal.saw(&self.lock, id, &text) {
            tracing::warn!(%error, "a read-back is not noted in the journal");
        }
    }
}

impl Control {
    fn new(root: &SysfsRoot, spec: &DomainSpec) -> Self {
        let mut control = Self { spec: spec.clone(), nodes: None, points: Vec::new(), fault: None };
        // A domain that is not there may come later.
        let _ = control.found(root);
        control
    }

    fn found(&mut self, root: &SysfsRoot) -> Result<ClockNodes, String> {
        if let Some(nodes) = &self.nodes {
            return Ok(nodes.clone());
        }
        let nodes = find_nodes(root, &self.spec)?;
        self.points = nodes.operating_points(&self.spec.opps_khz);
        self.nodes = Some(nodes.clone());
        Ok(nodes)
    }

    /// The raw bounds on operating points: the upper rounds down, the lower up, but not past the upper.
    fn round(&self, nodes: &ClockNodes, wanted: ClockBounds) -> Result<Raw, Refusal> {
        let ClockBounds { min, max } = wanted;
        if max == Kilohertz::ZERO || min > max {
            return Err(Refusal::Nonsense { min, max });
        }
        let (Some(lowest), Some(highest)) = (self.points.first(), self.points.last()) else {
            let raw = |khz: Kilohertz| u64::from(khz.0) * nodes.unit.per_khz();
            return Ok(Raw { min: raw(min), max: raw(max) });
        };
        let below = self.points.iter().rev().find(|point| nodes.unit.to_khz(**point) <= max);
        let above = self.points.iter().find(|point| nodes.unit.to_khz(**point) >= min);
        let max = *below.unwrap_or(lowest);
        Ok(Raw { min: (*above.unwrap_or(highest)).min(max), max })
    }

    fn report(&mut self, result: Result<ClockBounds, Refusal>) -> Applied {
        let fault = result.as_ref().err().map(Refusal::fault);
        if fault != self.fault {
            match &result {
                Err(error) => tracing::warn!(domain = self.spec.name, %error, "clock not set"),
                Ok(_) => tracing::info!(domain = self.spec.name, "clock follows again"),
            }
            self.fault = fault;
        }
        if fault == Some(SensorFault::Missing) {
            self.nodes = None;
        }
        match (result, fault) {
            (Ok(bounds), _) => Applied::Bounds(bounds),
            (Err(_), fault) => Applied::Refused(fault.unwrap_or(SensorFault::Io)),
        }
    }
}

fn read(root: &SysfsRoot, nodes: &ClockNodes) -> Result<Raw, SysfsError> {
    let bound = |path: &Path| {
        let value = nodes.unit.limits().check(root.read_number(path)?, &root.path(path))?;
        Ok(u64::try_from(value).unwrap_or(0))
    };
    Ok(Raw { min: bound(&nodes.min)?, max: bound(&nodes.max)? })
}

/// A domain's nodes with what they hold now. A governor that cannot be read is left out: it is never
/// written.
fn originals(root: &SysfsRoot, domain: &str, nodes: &ClockNodes) -> Result<Vec<Node>, SysfsError> {
    let found = read(root, nodes)?;
    let node = |role, path: &Path, original: String| Node::new(domain, role, path, original);
    let mut all = vec![
        node(Role::Min, &nodes.min, found.min.to_string()),
        node(Role::Max, &nodes.max, found.max.to_string()),
    ];
    if let Ok(governor) = root.read(&nodes.governor) {
        all.push(node(Role::Governor, &nodes.governor, governor));
    }
    Ok(all)
}

impl Actuator for SysfsActuator {
    fn apply(&mut self, setpoints: &Setpoints) -> ApplyReport {
        let mut report = ApplyReport::default();
        for (index, wanted) in setpoints.domains.iter().enumerate() {
            let applied = wanted.map(|wanted| {
                let result = self.set(index, wanted);
                match self.domains.get_mut(index) {
                    Some(control) => control.report(result),
                    None => Applied::Refused(SensorFault::Missing),
                }
            });
            report.domains.push(applied);
        }
        report
    }

    fn restore(&mut self) -> ApplyReport {
        let restored = self.restore_all();
        if let Err(error) = &restored {
            tracing::error!(%error, "the clock journal is left behind");
        }
        let nodes = restored.map(|report| report.nodes).unwrap_or_default();
        for node in &nodes {
            match node.outcome {
                NodeOutcome::Failed(_) => tracing::error!("{node}"),
                NodeOutcome::LeftAlone(_) | NodeOutcome::Limited(_) => tracing::warn!("{node}"),
                NodeOutcome::AsFound | NodeOutcome::Restored => tracing::debug!("{node}"),
            }
        }
        let mut report = ApplyReport::default();
        for control in &mut self.domains {
            let own = |path: &Path| nodes.iter().any(|node| node.path == path);
            let there = control.nodes.clone().filter(|there| own(&there.max));
            let applied = there.map(|there| match read(&self.root, &there) {
                Ok(raw) => Applied::Bounds(ClockBounds {
                    min: there.unit.to_khz(raw.min),
                    max: there.unit.to_khz(raw.max),
                }),
                Err(error) => Applied::Refused(error.fault()),
            });
            let failed = nodes.iter().any(|node| {
                node.domain == control.spec.name && matches!(node.outcome, NodeOutcome::Failed(_))
            });
            report.domains.push(if failed { Some(Applied::Refused(SensorFault::Io)) } else { applied });
        }
        report
    }
}

impl Drop for SysfsActuator {
    fn drop(&mut self) {
        if self.journal.is_some() {
            self.restore();
        }
    }
}
