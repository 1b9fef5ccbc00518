//! Putting clocks back as they were found: at a normal stop, after a crash, and at the next start.
//!
//! **The rule.** The journal ([`journal`]) says what a node held before the daemon's first write and
//! what the daemon wrote last. A node is put back only if it still holds something that the daemon may
//! have left there:
//!
//! 1. it holds its original: nothing to do;
//! 2. the daemon never wrote it: left alone;
//! 3. it holds the last written value, what the kernel showed after that write, or (after a kill between
//!    announcing and writing) the values before: put back;
//! 4. an upper bound reads *lower* than written: either the kernel caps it (cpufreq and devfreq show
//!    the lower of bound and cap) or a person lowered it. The original is written: if the node then
//!    shows it, no cap was in force and so a person had set the bound, which is put back again;
//!    otherwise it was the cap. A lower bound that reads lower because the cap presses it down to the
//!    upper bound is the daemon's;
//! 5. anything else was set by someone else: left alone, and said so.
//!
//! Bounds are written in an order in which min never exceeds max. The journal goes only when every node
//! is settled; what could not be written stays in it for the next try. All of it can be repeated.
//!
//! Known limit: a bound that was under a cap when it was first read is taken for what it showed.

pub(crate) mod journal;

use crate::board::sysfs::settle::read_back;
use crate::board::sysfs::{Roots, SysfsError, SysfsRoot};
use crate::core::event::SensorFault;
use journal::{Contents, Node, Role, StateLock};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why nothing could be restored, or recorded.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Another process drives the clocks.
    #[error("{} is held by a running wattd: stop it first", directory.display())]
    Held {
        /// The state directory.
        directory: PathBuf,
    },
    /// The state directory or a file in it cannot be used.
    #[error("cannot use {}: {source}: expected a state directory that this user can write", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

/// What became of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeOutcome {
    /// It held its original.
    AsFound,
    /// It holds its original again.
    Restored,
    /// Its original is written but a cap of the kernel, or a bound that someone else set, holds it here.
    Limited(String),
    /// Someone else set it to this, or it was never written and cannot be read (`None`).
    LeftAlone(Option<String>),
    /// It is gone, and what was set with it: the cgroup of a daemon that ended.
    Gone,
    /// It could not be put back; the next restore tries again.
    Failed(String),
}

/// One node of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Name of the clock domain.
    pub domain: String,
    /// Path below the sysfs root.
    pub path: PathBuf,
    /// What it held before the daemon's first write.
    pub original: String,
    /// What became of it.
    pub outcome: NodeOutcome,
}

impl fmt::Display for NodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, path, original, outcome } = self;
        let path = path.display();
        match outcome {
            NodeOutcome::AsFound => write!(f, "{domain}: {path} holds {original}, as found"),
            NodeOutcome::Restored => write!(f, "{domain}: {path} is {original} again"),
            NodeOutcome::Limited(reads) => {
                write!(
                    f,
                    "{domain}: {path} is put back to {original} but held at {reads} by a cap or bound of others"
                )
            }
            NodeOutcome::LeftAlone(Some(found)) => {
                write!(f, "{domain}: {path} was set to {found} by someone else (originally {original}): left")
            }
            NodeOutcome::LeftAlone(None) => write!(f, "{domain}: {path} was never written: left"),
            NodeOutcome::Gone => write!(f, "{domain}: {path} is gone, and what was set with it"),
            NodeOutcome::Failed(why) => write!(f, "{domain}: {path} not put back to {original}: {why}"),
        }
    }
}

/// What became of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum JournalFate {
    /// There was none: no clock was changed.
    #[default]
    None,
    /// Everything is settled; it is gone.
    Removed,
    /// It was written before the machine was started anew, when the kernel set its own clocks: gone.
    OtherBoot,
    /// Some nodes are left for the next try.
    Kept,
    /// It was not whole; it lies under this name now.
    SetAside(PathBuf),
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreReport {
    /// Every node of the journal.
    pub nodes: Vec<NodeReport>,
    /// What was wrong with the journal.
    pub damage: Vec<String>,
    /// What became of it.
    pub journal: JournalFate,
}

impl RestoreReport {
    /// Whether nothing that the daemon changed is left, as far as can be known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.damage.is_empty() && self.journal != JournalFate::Kept
    }

    /// Whether there was anything to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.journal == JournalFate::None
    }
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            writeln!(f, "{node}")?;
        }
        for damage in &self.damage {
            writeln!(f, "journal: {damage}")?;
        }
        match &self.journal {
            JournalFate::None => write!(f, "no journal: no clock was changed"),
            JournalFate::Removed => write!(f, "all clocks are settled"),
            JournalFate::OtherBoot => write!(f, "the journal is from before the last boot: nothing to do"),
            JournalFate::Kept => write!(f, "some clocks are not back: run this again"),
            JournalFate::SetAside(path) => {
                write!(f, "the journal was not whole and is kept as {}", path.display())
            }
        }
    }
}

/// Puts back what a process that is gone left changed. Does nothing where there is no journal.
///
/// # Errors
/// [`RestoreError::Held`] while a daemon runs on this state directory; [`RestoreError::State`] if the
/// directory cannot be read or written. Nodes that could not be written are in the report.
pub fn restore(state_directory: &Path, roots: &Roots) -> Result<RestoreReport, RestoreError> {
    if !state_directory.exists() {
        return Ok(RestoreReport::default());
    }
    let lock = StateLock::acquire(state_directory)?;
    restore_left_over(&lock, &SysfsRoot::new(&roots.sys), boot_id(&roots.proc).as_deref())
}

/// The running kernel's boot id.
pub(crate) fn boot_id(proc: &Path) -> Option<String> {
    let text = SysfsRoot::new(proc).read("sys/kernel/random/boot_id").ok()?;
    (text.len() <= 64 && !text.is_empty()).then_some(text)
}

/// Puts back what the journal in a locked state directory names.
pub(crate) fn restore_left_over(
    lock: &StateLock,
    root: &SysfsRoot,
    boot: Option<&str>,
) -> Result<RestoreReport, RestoreError> {
    let Some(Contents { boot: written, nodes, damage }) = lock.read()? else {
        return Ok(RestoreReport::default());
    };
    let mut report = RestoreReport { damage, ..RestoreReport::default() };
    if written.as_deref().zip(boot).is_some_and(|(then, now)| then != now) {
        lock.remove()?;
        report.damage.clear();
        report.journal = JournalFate::OtherBoot;
        return Ok(report);
    }
    report.nodes = put_back(root, &nodes);
    settle(lock, &mut report)?;
    Ok(report)
}

/// Removes the journal if the report says that it has served.
pub(crate) fn settle(lock: &StateLock, report: &mut RestoreReport) -> Result<(), RestoreError> {
    let failed = report.nodes.iter().any(|node| matches!(node.outcome, NodeOutcome::Failed(_)));
    report.journal = if failed {
        JournalFate::Kept
    } else if report.damage.is_empty() {
        lock.remove()?;
        JournalFate::Removed
    } else {
        JournalFate::SetAside(lock.set_aside()?)
    };
    Ok(())
}

/// Puts back all nodes, domain by domain; tries all.
pub(crate) fn put_back(root: &SysfsRoot, nodes: &[Node]) -> Vec<NodeReport> {
    let mut reports = Vec::new();
    let mut done: Vec<&Path> = Vec::new();
    for node in nodes {
        let directory = node.path.parent().unwrap_or(Path::new(""));
        if done.contains(&directory) {
            continue;
        }
        done.push(directory);
        let of = |role| nodes.iter().find(|n| n.path.parent() == Some(directory) && n.role == role);
        let bounds = put_back_bounds(root, of(Role::Min), of(Role::Max));
        reports.extend(bounds.into_iter().flatten());
        // An upper bound without a lower one; a directory may hold several.
        let caps = nodes.iter().filter(|n| n.path.parent() == Some(directory) && n.role == Role::Cap);
        reports.extend(caps.flat_map(|cap| put_back_bounds(root, None, Some(cap))).flatten());
        let text = |node: &&Node| {
            node.path.parent() == Some(directory) && [Role::Governor, Role::Setting].contains(&node.role)
        };
        reports.extend(nodes.iter().filter(text).map(|node| report(node, put_back_text(root, node))));
    }
    reports
}

/// Puts back a node that holds a word or a setting and no bound: if it holds what the daemon wrote.
fn put_back_text(root: &SysfsRoot, node: &Node) -> NodeOutcome {
    if !node.is_written() {
        return untouched(root, node);
    }
    let found = match root.read(&node.path) {
        Ok(found) => found,
        Err(error) if node.role == Role::Setting && error.fault() == SensorFault::Missing => {
            return NodeOutcome::Gone;
        }
        Err(error) => return NodeOutcome::Failed(error.to_string()),
    };
    if found == node.original {
        return NodeOutcome::AsFound;
    }
    if !node.wrote(&found) {
        return NodeOutcome::LeftAlone(Some(found));
    }
    match root.write(&node.path, &node.original).and_then(|()| root.read(&node.path)) {
        Ok(shown) if shown == node.original => NodeOutcome::Restored,
        Ok(shown) => NodeOutcome::Limited(shown),
        Err(error) => NodeOutcome::Failed(error.to_string()),
    }
}

fn report(node: &Node, outcome: NodeOutcome) -> NodeReport {
    NodeReport {
        domain: node.domain.clone(),
        path: node.path.clone(),
        original: node.original.clone(),
        outcome,
    }
}

/// A node that was never written.
fn untouched(root: &SysfsRoot, node: &Node) -> NodeOutcome {
    match root.read(&node.path) {
        Ok(found) if found == node.original => NodeOutcome::AsFound,
        Ok(found) => NodeOutcome::LeftAlone(Some(found)),
        Err(_) => NodeOutcome::LeftAlone(None),
    }
}

/// In which order two bounds must be written so that min never exceeds max. An upper bound of 0 is none.
pub(crate) fn max_first(found_min: u64, target_max: u64) -> bool {
    unlimited(target_max) >= found_min
}

/// A bound as a number: 0 is none.
pub(crate) fn unlimited(max: u64) -> u64 {
    if max == 0 { u64::MAX } else { max }
}

/// What is to be done with one bound.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Nothing; it stays at this.
    Stays(u64, NodeOutcome),
    /// Write the original.
    PutBack(u64),
    /// Nothing can be done.
    Lost(String),
}

/// Judges both bounds of a domain, writes those that are the daemon's, reads back.
fn put_back_bounds(root: &SysfsRoot, min: Option<&Node>, max: Option<&Node>) -> [Option<NodeReport>; 2] {
    let found = [min, max].map(|node| node.map(|node| bound(root, node)));
    let [min_read, max_read] = [&found[0], &found[1]].map(|found| found.as_ref()?.as_ref().ok().copied());
    let [found_min, found_max] = found;
    let max_verdict = max.zip(found_max).map(|(node, found)| judge_max(root, node, found));
    let min_verdict = min.zip(found_min).map(|(node, found)| judge_min(node, found, max_read));
    let targets = [min_verdict.as_ref(), max_verdict.as_ref()].map(target);
    let [min_goal, max_goal] = reconcile(targets, min_verdict.as_ref());
    // Under a cap the lower bound reads lower than it is.
    let min_in_force = min_read.max(min.and_then(last_written)).unwrap_or(0);
    let write = |node: Option<&Node>, verdict: Option<&Verdict>, goal: Option<u64>| {
        let (Some(node), Some(Verdict::PutBack(_)), Some(goal)) = (node, verdict, goal) else {
            return Ok(());
        };
        root.write(&node.path, &goal.to_string())
    };
    let (min_written, max_written) = if max_first(min_in_force, max_goal.unwrap_or(0)) {
        let max_written = write(max, max_verdict.as_ref(), max_goal);
        (write(min, min_verdict.as_ref(), min_goal), max_written)
    } else {
        let min_written = write(min, min_verdict.as_ref(), min_goal);
        (min_written, write(max, max_verdict.as_ref(), max_goal))
    };
    let finish = |node: Option<&Node>, verdict: Option<Verdict>, goal, written: Result<(), SysfsError>| {
        let (node, verdict) = node.zip(verdict)?;
        let outcome = match written {
            Ok(()) => outcome(root, node, verdict, goal),
            Err(error) => NodeOutcome::Failed(error.to_string()),
        };
        Some(report(node, outcome))
    };
    [finish(min, min_verdict, min_goal, min_written), finish(max, max_verdict, max_goal, max_written)]
}

/// The two targets without min above max: whichever is not ours to move, or else the upper, decides.
fn reconcile([min, max]: [Option<u64>; 2], min_verdict: Option<&Verdict>) -> [Option<u64>; 2] {
    let (Some(low), Some(high)) = (min, max) else { return [min, max] };
    if low <= unlimited(high) {
        [min, max]
    } else if matches!(min_verdict, Some(Verdict::Stays(..))) {
        [min, Some(low)]
    } else {
        [Some(high), max]
    }
}

fn target(verdict: Option<&Verdict>) -> Option<u64> {
    match verdict? {
        Verdict::Stays(value, _) | Verdict::PutBack(value) => Some(*value),
        Verdict::Lost(_) => None,
    }
}

fn bound(root: &SysfsRoot, node: &Node) -> Result<u64, SysfsError> {
    let value = root.read_number(&node.path)?;
    u64::try_from(value).map_err(|_| SysfsError::Implausible {
        path: root.path(&node.path),
        value,
        expected: "0 or more",
    })
}

/// The rule, as far as it is the same for both bounds; `None`: the node reads something unexpected.
fn judge(node: &Node, found: &Result<u64, SysfsError>) -> Option<Verdict> {
    let Ok(original) = node.original.parse::<u64>() else {
        return Some(Verdict::Lost(format!("the journal has {:?}, no number", node.original)));
    };
    let found = match found {
        Ok(found) => *found,
        Err(_) if !node.is_written() => {
            return Some(Verdict::Stays(original, NodeOutcome::LeftAlone(None)));
        }
        Err(error) => return Some(Verdict::Lost(error.to_string())),
    };
    if found == original && node.wrote_only(&node.original) {
        Some(Verdict::Stays(found, NodeOutcome::AsFound))
    } else if !node.is_written() {
        Some(foreign(found))
    } else if found == original || node.wrote(&found.to_string()) {
        // A cap can make a bound of ours read like the original: writing it settles that.
        Some(Verdict::PutBack(original))
    } else {
        None
    }
}

fn foreign(found: u64) -> Verdict {
    Verdict::Stays(found, NodeOutcome::LeftAlone(Some(found.to_string())))
}

fn last_written(node: &Node) -> Option<u64> {
    node.last()?.parse().ok()
}

fn judge_min(node: &Node, found: Result<u64, SysfsError>, found_max: Option<u64>) -> Verdict {
    if let Some(verdict) = judge(node, &found) {
        return verdict;
    }
    let found = found.unwrap_or(0);
    let pressed_down = last_written(node).is_some_and(|last| found < last) && found_max == Some(found);
    let original = node.original.parse().unwrap_or(found);
    if pressed_down { Verdict::PutBack(original) } else { foreign(found) }
}

fn judge_max(root: &SysfsRoot, node: &Node, found: Result<u64, SysfsError>) -> Verdict {
    if let Some(verdict) = judge(node, &found) {
        return verdict;
    }
    let found = found.unwrap_or(0);
    let original = node.original.parse::<u64>().unwrap_or(found);
    if last_written(node).is_none_or(|last| unlimited(found) >= unlimited(last)) {
        return foreign(found);
    }
    if unlimited(original) <= unlimited(found) {
        return Verdict::PutBack(original);
    }
    // Capped, or lowered by a person: see rule 4.
    let shown = root.write(&node.path, &node.original);
    let shown = shown.and_then(|()| read_back(&original, || bound(root, node)));
    match shown {
        Ok(shown) if shown == original => match root.write(&node.path, &found.to_string()) {
            Ok(()) => foreign(found),
            Err(error) => Verdict::Lost(error.to_string()),
        },
        Ok(_) => Verdict::PutBack(original),
        Err(error) => Verdict::Lost(error.to_string()),
    }
}

/// Reads back and says what became of the node.
fn outcome(root: &SysfsRoot, node: &Node, verdict: Verdict, goal: Option<u64>) -> NodeOutcome {
    let original = match verdict {
        // The other bound may have pressed on it until now.
        Verdict::Stays(..) if !node.is_written() => return untouched(root, node),
        Verdict::Stays(_, outcome) => return outcome,
        Verdict::Lost(why) => return NodeOutcome::Failed(why),
        Verdict::PutBack(original) => original,
    };
    match read_back(&original, || bound(root, node)) {
        Ok(shown) if shown == original => NodeOutcome::Restored,
        Ok(shown) if unlimited(shown) < unlimited(original) || Some(shown) == goal => {
            NodeOutcome::Limited(shown.to_string())
        }
        Ok(shown) => NodeOutcome::Failed(format!("reads {shown} after writing")),
        Err(error) => NodeOutcome::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
