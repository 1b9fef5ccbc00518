//! Sets clock bounds, and what else the board file asks to be held. Bounds alone suffice: with both on one operating
//! point every governor gives that clock; only where the board file says `userspace` is the governor changed too.
//! Nothing under hwmon is ever written.

use super::clock::ClockNodes;
use super::control::{Control, Raw, Refusal, originals, read};
use super::online::ONLINE;
use super::others::Others;
use super::root::{SysfsError, SysfsRoot, garbled, parse_integer};
use super::settings::Settings;
use super::settle::read_back;
use super::{highest, members};
use crate::board::Actuator;
use crate::board::panel::Panel;
use crate::board::restore::journal::{Journal, Node, Role, StateLock, is_cap};
use crate::board::restore::{
    JournalFate, NodeOutcome, NodeReport, RestoreError, RestoreReport, max_first, put_back,
    restore_left_over, settle, unlimited,
};
use crate::board::spec::DomainSpec;
use crate::core::event::{Applied, ApplyReport, ClockBounds, SensorFault, Setpoints};
use std::path::Path;
use std::sync::Arc;

/// The governor under which a clock is set directly.
const USERSPACE: &str = "userspace";

/// Writes bounds to the sysfs tree, and puts back what was there: on [`Actuator::restore`], on drop, and
/// at the next start if the process had no chance to.
#[derive(Debug)]
pub struct SysfsActuator {
    root: SysfsRoot,
    boot: Option<String>,
    lock: StateLock,
    /// One for each policy or device.
    controls: Vec<Control>,
    /// Each with those of them that are its.
    domains: Vec<(DomainSpec, Vec<usize>)>,
    /// CPUs that were online when policies were looked for, as the kernel lists them.
    online: String,
    held: Settings,
    journal: Option<Journal>,
    left_over: RestoreReport,
    panel: Arc<Panel>,
}

/// What of a board that was opened is set.
pub(super) struct Opened<'a> {
    pub(super) root: SysfsRoot,
    pub(super) boot: Option<String>,
    pub(super) domains: &'a [DomainSpec],
    pub(super) held: Settings,
    pub(super) panel: Arc<Panel>,
}

impl SysfsActuator {
    /// Takes the state directory, puts back what an earlier process left changed, and sets what is to be held.
    ///
    /// # Errors
    /// If another process holds the state directory, or it cannot be used: clocks that could not be
    /// restored are not changed.
    pub(super) fn open(board: Opened<'_>, state_directory: &Path) -> Result<Self, RestoreError> {
        let Opened { root, boot, domains, held, panel } = board;
        let lock = StateLock::acquire(state_directory)?;
        let left_over = restore_left_over(&lock, &root, boot.as_deref())?;
        let mut journal = None;
        if left_over.journal == JournalFate::Kept
            && let Some(contents) = lock.read()?
        {
            // What is not back yet keeps its true original.
            journal = Some(Journal::create(&lock, boot.clone(), contents.nodes)?);
        }
        let domains = domains.iter().map(|spec| (spec.clone(), Vec::new())).collect();
        let (controls, online) = (Vec::new(), root.read(ONLINE).unwrap_or_default());
        let mut actuator =
            Self { root, boot, lock, controls, domains, online, held, journal, left_over, panel };
        actuator.look_for_policies();
        actuator.held.prepare(&actuator.root);
        actuator.hold(0);
        actuator.held.hold_latency();
        Ok(actuator)
    }

    /// Takes in the policies and devices of each domain that are not known yet; their names.
    fn look_for_policies(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for (spec, own) in &mut self.domains {
            for member in members(&self.root, spec) {
                if own.iter().all(|known| self.controls[*known].spec.select != member.select) {
                    own.push(self.controls.len());
                    self.controls.push(Control::new(&self.root, &member));
                    found.push(member.name);
                }
            }
        }
        found
    }

    /// CPUs that came online may have brought policies.
    fn follow_cpus(&mut self) {
        let online = self.root.read(ONLINE).unwrap_or_default();
        if online == self.online {
            return;
        }
        self.online = online;
        let policies = self.look_for_policies();
        if policies.is_empty() {
            return;
        }
        tracing::info!(online = self.online, ?policies, "CPUs came online: their clocks are set too");
        let domains: Vec<DomainSpec> = self.domains.iter().map(|(spec, _)| spec.clone()).collect();
        let known = self.held.wanted().len();
        self.held.look_for_policies(&domains, &self.root);
        self.hold(known);
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
        // From here on the nodes are others' again.
        for control in &mut self.controls {
            (control.others, control.before) = (Others::default(), None);
        }
        Ok(report)
    }

    /// Sets what the board file asks to be held, from one of them on. What does not take is said and lived without.
    fn hold(&mut self, from: usize) {
        let wanted = self.held.wanted()[from..].to_vec();
        for (node, value) in wanted {
            let result = self.root.read(&node).map_err(Refusal::from).and_then(|original| {
                if original == value {
                    return Ok(original);
                }
                let role = if is_cap(&node) { Role::Cap } else { Role::Setting };
                if role == Role::Cap && parse_integer(&original).is_none() {
                    return Err(garbled(&self.root.path(&node), &original, "a clock in hertz").into());
                }
                self.on_record(vec![Node::new("held", role, &node, original)])?;
                self.write_text(&node, &value)?;
                let shown = self.root.read(&node)?;
                self.note_difference(&node, &shown);
                Ok(shown)
            });
            let node = node.display();
            match result {
                Ok(shown) if shown == value => tracing::info!(%node, value, "held"),
                Ok(shown) => {
                    tracing::warn!(%node, value, shown, "held, but the kernel made something else of it")
                }
                Err(error) => tracing::warn!(%node, value, %error, "not held"),
            }
        }
    }

    /// Sets all policies of a domain alike.
    fn set_domain(&mut self, domain: usize, wanted: ClockBounds) -> Applied {
        let own = self.domains.get(domain).map(|(_, own)| own.clone()).unwrap_or_default();
        let several = own.len() > 1;
        let mut each = Vec::with_capacity(own.len());
        for index in own {
            let result = self.set(index, wanted);
            let control = &mut self.controls[index];
            let applied = control.report(result);
            each.push(if several { control.as_wanted(applied, wanted) } else { applied });
        }
        together(&each).unwrap_or(Applied::Refused(SensorFault::Missing))
    }

    fn set(&mut self, index: usize, wanted: ClockBounds) -> Result<ClockBounds, Refusal> {
        let control = &mut self.controls[index];
        let nodes = control.found(&self.root).map_err(Refusal::NotThere)?;
        let wanted = control.round(&nodes, wanted)?;
        let mut found = read(&self.root, &nodes)?;
        self.notice(index, &nodes, found)?;
        let mut doubt = self.is_doubtful(index, &nodes, found);
        let control = &self.controls[index];
        let mut target = control.others.keep(wanted, &control.points);
        if doubt && self.last_written(&nodes.max) != Some(target.max) {
            self.tell_cap_from_person(index, &nodes, found)?;
            (doubt, found) = (false, read(&self.root, &nodes)?);
            let control = &self.controls[index];
            target = control.others.keep(wanted, &control.points);
        }
        let min_in_force = self.last_written(&nodes.min).map_or(found.min, |last| last.max(found.min));
        let order = if max_first(min_in_force, target.max) {
            [(Role::Max, target.max), (Role::Min, target.min)]
        } else {
            [(Role::Min, target.min), (Role::Max, target.max)]
        };
        let mut expected = found;
        for (role, value) in order {
            if self.must_write(index, &nodes, role, found, value) {
                self.write(&nodes, role, value)?;
                *(if role == Role::Max { &mut expected.max } else { &mut expected.min }) = value;
            }
        }
        if self.controls[index].spec.userspace {
            self.govern(&nodes, target)?;
        }
        let shown = read_back(&expected, || read(&self.root, &nodes))?;
        self.note_difference(&nodes.min, &shown.min.to_string());
        self.note_difference(&nodes.max, &shown.max.to_string());
        let control = &mut self.controls[index];
        if !doubt {
            control.before = Some(shown);
        }
        let max =
            if shown.max == 0 { highest(&nodes, &control.points) } else { nodes.unit.to_khz(shown.max) };
        Ok(ClockBounds { min: nodes.unit.to_khz(shown.min), max })
    }

    fn last_written(&self, path: &Path) -> Option<u64> {
        let journal = self.journal.as_ref()?;
        journal.nodes()[journal.find(path)?].own_last()?.parse().ok()
    }

    /// Whether the daemon, or one before it, may have written the node.
    fn is_written(&self, path: &Path) -> bool {
        let node = self.journal.as_ref().and_then(|journal| Some(&journal.nodes()[journal.find(path)?]));
        node.is_some_and(Node::is_written)
    }

    /// Takes note of bounds that are neither what was written nor what the kernel made of it, and that no cap
    /// explains: someone else has set them, and from now on they are kept to and restored.
    fn notice(&mut self, index: usize, nodes: &ClockNodes, found: Raw) -> Result<(), Refusal> {
        let control = &self.controls[index];
        let Some(before) = control.before else { return Ok(()) };
        let mut others = control.others;
        let (lowest, highest) = (control.points.first().copied(), control.points.last().copied());
        let last_max = self.last_written(&nodes.max).unwrap_or(before.max);
        let raised = unlimited(found.max) > unlimited(before.max).max(unlimited(last_max));
        if raised {
            others.max = highest.filter(|highest| found.max < *highest && found.max > 0).map(|_| found.max);
        }
        let last_min = self.last_written(&nodes.min).unwrap_or(before.min);
        let pressed = found.min == found.max && found.min < last_min;
        let moved = found.min != before.min && found.min != last_min && !pressed;
        if moved {
            others.min = lowest.filter(|lowest| found.min > *lowest).map(|_| found.min);
        }
        if raised {
            self.yield_to(index, nodes, &nodes.max, found.max, others)?;
        }
        if moved {
            self.yield_to(index, nodes, &nodes.min, found.min, others)?;
        }
        Ok(())
    }

    /// Whether the upper bound is lower than it was left, or at first sight lower than it could be: a cap of the kernel
    /// or firmware, or a person's bound.
    fn is_doubtful(&self, index: usize, nodes: &ClockNodes, found: Raw) -> bool {
        let (control, max) = (&self.controls[index], unlimited(found.max));
        match (self.last_written(&nodes.max), control.before) {
            (Some(last), Some(before)) => max < unlimited(last) && max != unlimited(before.max),
            (None, None) if !self.is_written(&nodes.max) => {
                control.points.last().is_some_and(|highest| max < *highest)
            }
            (None, Some(before)) => max < unlimited(before.max),
            _ => false,
        }
    }

    /// Asks for more than the node shows: under a cap it goes on showing less. If it shows what was asked for there
    /// was none, so that someone had lowered it, to which it is put back at once. (A cap that is lifted
    /// in between is mistaken for a person until the bound is changed again.)
    fn tell_cap_from_person(&mut self, index: usize, nodes: &ClockNodes, found: Raw) -> Result<(), Refusal> {
        let highest = self.controls[index].points.last().copied();
        let Some(more) = self.last_written(&nodes.max).or(highest) else { return Ok(()) };
        self.write(nodes, Role::Max, more)?;
        let shown = read_back(&more, || Ok::<_, SysfsError>(read(&self.root, nodes)?.max))?;
        if unlimited(shown) <= unlimited(found.max) {
            return Ok(());
        }
        self.write(nodes, Role::Max, found.max)?;
        let others = Others { max: Some(found.max), ..self.controls[index].others };
        self.yield_to(index, nodes, &nodes.max, found.max, others)
    }

    /// Someone else set a node: that is what will be restored, and what is kept to until then.
    fn yield_to(
        &mut self,
        index: usize,
        nodes: &ClockNodes,
        node: &Path,
        value: u64,
        others: Others,
    ) -> Result<(), Refusal> {
        let id = self.journal.as_ref().and_then(|journal| journal.find(node));
        if let (Some(journal), Some(id)) = (&mut self.journal, id) {
            journal.adopt(&self.lock, id, &value.to_string())?;
        }
        let control = &mut self.controls[index];
        control.others = others;
        let khz = |bound: Option<u64>| bound.map(|raw| nodes.unit.to_khz(raw));
        let (domain, node) = (&control.spec.name, self.root.path(node));
        tracing::warn!(domain, node = %node.display(), value, "someone else set this clock bound: it is kept to");
        self.panel.set_by_others(domain, khz(others.min), khz(others.max));
        Ok(())
    }

    /// One clock is set directly; a range is the original governor's to use.
    fn govern(&mut self, nodes: &ClockNodes, target: Raw) -> Result<(), Refusal> {
        self.record(nodes)?;
        let pinned = target.min == target.max;
        let found = self.root.read(&nodes.governor)?;
        if pinned && found != USERSPACE {
            self.write_text(&nodes.governor, USERSPACE)?;
        }
        if pinned {
            let Some(speed) = &nodes.speed else { return Ok(()) };
            return Ok(self.root.write(speed, &target.max.to_string())?);
        }
        let id = self.journal.as_ref().and_then(|journal| journal.find(&nodes.governor));
        let original =
            self.journal.as_ref().zip(id).map(|(journal, id)| journal.nodes()[id].original.clone());
        match original {
            Some(original) if found == USERSPACE && found != original => {
                self.write_text(&nodes.governor, &original)
            }
            _ => Ok(()),
        }
    }

    /// Whether a write would change something. A bound that was written before and now reads lower is
    /// capped (upper bound) or pressed down by the cap (lower bound): writing it again is no use. A
    /// bound never written may read as wanted only because of a cap, unless it is at its extreme.
    fn must_write(&self, index: usize, nodes: &ClockNodes, role: Role, found: Raw, value: u64) -> bool {
        let extreme = self.controls[index].points.last() == Some(&value);
        match role {
            Role::Governor | Role::Cap | Role::Setting => false,
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
        self.record(nodes)?;
        let path = if role == Role::Max { &nodes.max } else { &nodes.min };
        self.write_text(path, &value.to_string())
    }

    /// Writes a node whose original is on record, announced.
    fn write_text(&mut self, path: &Path, text: &str) -> Result<(), Refusal> {
        let id = self.journal.as_ref().and_then(|journal| journal.find(path));
        let (Some(journal), Some(id)) = (&mut self.journal, id) else {
            return Err(Refusal::NotThere(format!("{} has no original on record", path.display())));
        };
        journal.announce(&self.lock, id, text)?;
        if let Err(error) = self.root.write(path, text) {
            if let Err(error) = journal.refused(&self.lock, id) {
                tracing::warn!(%error, "a refused write is not noted in the journal");
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Puts originals on record.
    fn on_record(&mut self, nodes: Vec<Node>) -> Result<(), RestoreError> {
        match &mut self.journal {
            Some(journal) => journal.add(&self.lock, nodes),
            None => {
                self.journal = Some(Journal::create(&self.lock, self.boot.clone(), nodes)?);
                Ok(())
            }
        }
    }

    /// Makes sure that the originals of this domain are on record; the first time, those of all domains.
    fn record(&mut self, nodes: &ClockNodes) -> Result<(), Refusal> {
        if let Some(journal) = &self.journal
            && journal.find(&nodes.max).is_some()
            && journal.find(&nodes.min).is_some()
        {
            return Ok(());
        }
        let mut all = Vec::new();
        for control in &self.controls {
            let Some(there) = &control.nodes else { continue };
            match originals(&self.root, &control.spec.name, there) {
                Ok(nodes) => all.extend(nodes),
                Err(error) if there == nodes => return Err(error.into()),
                // It is recorded before its own first write.
                Err(error) => tracing::debug!(%error, domain = control.spec.name, "no original yet"),
            }
        }
        Ok(self.on_record(all)?)
    }

    fn note_difference(&mut self, path: &Path, shown: &str) {
        let Some(journal) = &mut self.journal else { return };
        let Some(id) = journal.find(path) else { return };
        let as_written = journal.nodes()[id].last().is_none_or(|last| last == shown);
        if !as_written && let Err(error) = journal.saw(&self.lock, id, shown) {
            tracing::warn!(%error, "a read-back is not noted in the journal");
        }
    }
}

impl Actuator for SysfsActuator {
    fn apply(&mut self, setpoints: &Setpoints) -> ApplyReport {
        self.follow_cpus();
        let mut report = ApplyReport::default();
        for (index, wanted) in setpoints.domains.iter().enumerate() {
            report.domains.push(wanted.map(|wanted| self.set_domain(index, wanted)));
        }
        report
    }

    fn restore(&mut self) -> ApplyReport {
        self.held.release_latency();
        let restored = self.restore_all();
        if let Err(error) = &restored {
            tracing::error!(%error, "the clock journal is left behind");
        }
        let nodes = restored.map(|report| report.nodes).unwrap_or_default();
        for node in &nodes {
            match node.outcome {
                NodeOutcome::Failed(_) => tracing::error!("{node}"),
                NodeOutcome::LeftAlone(_) | NodeOutcome::Limited(_) => tracing::warn!("{node}"),
                NodeOutcome::AsFound | NodeOutcome::Restored | NodeOutcome::Gone => tracing::debug!("{node}"),
            }
        }
        let restored = |control: &Control| {
            let own = |path: &Path| nodes.iter().any(|node| node.path == path);
            let failed = |node: &NodeReport| {
                node.domain == control.spec.name && matches!(node.outcome, NodeOutcome::Failed(_))
            };
            if nodes.iter().any(failed) {
                return Some(Applied::Refused(SensorFault::Io));
            }
            let there = control.nodes.as_ref().filter(|there| own(&there.max))?;
            Some(match read(&self.root, there) {
                Ok(Raw { min, max }) => {
                    Applied::Bounds(ClockBounds { min: there.unit.to_khz(min), max: there.unit.to_khz(max) })
                }
                Err(error) => Applied::Refused(error.fault()),
            })
        };
        let domain = |(_, own): &(DomainSpec, Vec<usize>)| {
            let each: Vec<Applied> =
                own.iter().filter_map(|control| restored(&self.controls[*control])).collect();
            together(&each)
        };
        ApplyReport { domains: self.domains.iter().map(domain).collect() }
    }
}

/// What became of several policies: bounds that all of them keep within. Those of CPUs that are offline do not count, if
/// others do.
fn together(each: &[Applied]) -> Option<Applied> {
    let offline =
        |applied: &&Applied| matches!(applied, Applied::Refused(SensorFault::Missing | SensorFault::Busy));
    let refused = each.iter().filter(|applied| !offline(applied)).find(|a| matches!(a, Applied::Refused(_)));
    let bounds = each.iter().filter_map(|applied| match applied {
        Applied::Bounds(bounds) => Some(*bounds),
        Applied::Refused(_) => None,
    });
    let common =
        bounds.reduce(|one, other| ClockBounds { min: one.min.min(other.min), max: one.max.min(other.max) });
    refused.copied().or(common.map(Applied::Bounds)).or_else(|| each.first().copied())
}

impl Drop for SysfsActuator {
    fn drop(&mut self) {
        if self.journal.is_some() {
            self.restore();
        }
    }
}
