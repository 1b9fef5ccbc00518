//! One policy or device: where its nodes are, what may be asked of it, and what it was found with.

use super::clock::ClockNodes;
use super::others::Others;
use super::root::{SysfsError, SysfsRoot};
use super::{find_nodes, highest};
use crate::board::restore::RestoreError;
use crate::board::restore::journal::{Node, Role};
use crate::board::spec::DomainSpec;
use crate::core::event::{Applied, ClockBounds, SensorFault};
use crate::units::Kilohertz;
use std::path::Path;

/// Why a setpoint was not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
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
    pub(super) fn fault(&self) -> SensorFault {
        match self {
            Self::NotThere(_) => SensorFault::Missing,
            Self::Nonsense { .. } => SensorFault::Implausible,
            Self::Node(error) => error.fault(),
            Self::Unrecorded(_) => SensorFault::Io,
        }
    }
}

/// One policy or device.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) spec: DomainSpec,
    pub(super) nodes: Option<ClockNodes>,
    /// Raw operating points, ascending.
    pub(super) points: Vec<u64>,
    fault: Option<SensorFault>,
    /// Bounds that are not ours to pass.
    pub(super) others: Others,
    /// What the nodes showed after the last setting.
    pub(super) before: Option<Raw>,
}

/// Raw bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Control {
    pub(super) fn new(root: &SysfsRoot, spec: &DomainSpec) -> Self {
        let mut control = Self {
            spec: spec.clone(),
            nodes: None,
            points: Vec::new(),
            fault: None,
            others: Others::default(),
            before: None,
        };
        // A domain that is not there may come later.
        let _ = control.found(root);
        control
    }

    pub(super) fn found(&mut self, root: &SysfsRoot) -> Result<ClockNodes, String> {
        if let Some(nodes) = &self.nodes {
            return Ok(nodes.clone());
        }
        let nodes = find_nodes(root, &self.spec)?;
        self.points = nodes.operating_points(&self.spec.opps_khz);
        self.nodes = Some(nodes.clone());
        Ok(nodes)
    }

    /// The raw bounds on operating points: the upper rounds down, the lower up, but not past the upper.
    pub(super) fn round(&self, nodes: &ClockNodes, wanted: ClockBounds) -> Result<Raw, Refusal> {
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

    /// What a policy that does not go as high as others shows of bounds that are beyond it is as good as these.
    pub(super) fn as_wanted(&self, applied: Applied, wanted: ClockBounds) -> Applied {
        let (Applied::Bounds(shown), Some(nodes)) = (applied, &self.nodes) else { return applied };
        let top = highest(nodes, &self.points);
        let beyond =
            |shown: Kilohertz, wanted: Kilohertz| if shown >= top { shown.max(wanted) } else { shown };
        Applied::Bounds(ClockBounds {
            min: beyond(shown.min, wanted.min),
            max: beyond(shown.max, wanted.max),
        })
    }

    pub(super) fn report(&mut self, result: Result<ClockBounds, Refusal>) -> Applied {
        let fault = result.as_ref().err().map(Refusal::fault);
        if fault != self.fault {
            match &result {
                Err(error) => tracing::warn!(domain = self.spec.name, %error, "clock not set"),
                Ok(_) => tracing::info!(domain = self.spec.name, "clock follows again"),
            }
            self.fault = fault;
        }
        if fault == Some(SensorFault::Missing) {
            (self.nodes, self.before) = (None, None);
        }
        match (result, fault) {
            (Ok(bounds), _) => Applied::Bounds(bounds),
            (Err(_), fault) => Applied::Refused(fault.unwrap_or(SensorFault::Io)),
        }
    }
}

pub(super) fn read(root: &SysfsRoot, nodes: &ClockNodes) -> Result<Raw, SysfsError> {
    let bound = |path: &Path| {
        let value = nodes.unit.limits().check(root.read_number(path)?, &root.path(path))?;
        Ok(u64::try_from(value).unwrap_or(0))
    };
    Ok(Raw { min: bound(&nodes.min)?, max: bound(&nodes.max)? })
}

/// A domain's nodes with what they hold now. A governor that cannot be read is left out: it is never
/// written.
pub(super) fn originals(root: &SysfsRoot, domain: &str, nodes: &ClockNodes) -> Result<Vec<Node>, SysfsError> {
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
