//! What the nodes of a board of text do: bounds that hold each other and the clock, governors, switches. Taken from a
//! running kernel, whose answers `tests/detect/kernel` holds it against.

use super::attr::{dev_pm_qos, freq_qos, kstrtoul, sscanf_lu};
use super::faults::Faults;
use super::fixture::{Entry, Fixture};
use super::fuse::{Shape, Source};
use super::tree::NodeId;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Letters that the kernel takes of a governor's name.
const MAX_GOVERNOR: usize = 15;

/// A node of the served tree.
#[derive(Debug)]
enum Node {
    Directory(BTreeMap<String, NodeId>),
    Link(String),
    Leaf { path: String, mode: u16 },
}

/// What the file system serves.
pub(super) struct Live {
    nodes: Vec<Node>,
    pub(super) by_path: BTreeMap<String, NodeId>,
    state: Mutex<State>,
    pub(super) faults: Faults,
}

#[derive(Clone)]
pub(super) struct State {
    /// By node: what it holds, or what a read of it gives instead.
    pub(super) held: BTreeMap<NodeId, Result<Vec<u8>, Errno>>,
    pub(super) original: BTreeMap<NodeId, Result<Vec<u8>, Errno>>,
}

/// What a node of a clock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Min,
    Max,
    /// The clock itself.
    Current,
    Governor,
    /// The clock under the governor `userspace`.
    Speed,
}

/// The names of a clock's nodes.
struct Dialect {
    is_cpu: bool,
    table: &'static str,
    nodes: [(Role, &'static [&'static str]); 5],
    governors: &'static str,
}

const CPUFREQ: Dialect = Dialect {
    is_cpu: true,
    table: "scaling_available_frequencies",
    nodes: [
        (Role::Min, &["scaling_min_freq"]),
        (Role::Max, &["scaling_max_freq"]),
        (Role::Current, &["scaling_cur_freq", "cpuinfo_cur_freq"]),
        (Role::Governor, &["scaling_governor"]),
        (Role::Speed, &["scaling_setspeed"]),
    ],
    governors: "scaling_available_governors",
};
const DEVFREQ: Dialect = Dialect {
    is_cpu: false,
    table: "available_frequencies",
    nodes: [
        (Role::Min, &["min_freq"]),
        (Role::Max, &["max_freq"]),
        (Role::Current, &["cur_freq", "target_freq"]),
        (Role::Governor, &["governor"]),
        (Role::Speed, &["userspace/set_freq"]),
    ],
    governors: "available_governors",
};

/// A clock's node: its device's directory, what it is called there, and what it is.
#[derive(Clone, Copy)]
struct Clock<'a> {
    device: &'a str,
    dialect: &'static Dialect,
    role: Role,
}

/// Of which clock a node is, by its name.
fn clock_of(path: &str) -> Option<Clock<'_>> {
    for dialect in [&CPUFREQ, &DEVFREQ] {
        for (role, names) in &dialect.nodes {
            for name in *names {
                if let Some(device) = path.strip_suffix(name).and_then(|device| device.strip_suffix('/')) {
                    return Some(Clock { device, dialect, role: *role });
                }
            }
        }
    }
    None
}

/// Whether a node is a cap of a Jetson's power modes. The one of JetPack 4 and 5 on memory holds what is written, and 0
/// is none.
fn is_cap(path: &str) -> bool {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = parent.rsplit('/').next().unwrap_or_default();
    ["nvpmodel_clk_cap", "nvpmodel_emc_cap", "clk_cap"].contains(&folder) && name != "emc_iso_cap"
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

impl Live {
    pub(super) fn of(fixture: &Fixture) -> Self {
        let mut nodes = vec![Node::Directory(BTreeMap::new())];
        let (mut by_path, mut held) = (BTreeMap::new(), BTreeMap::new());
        for (path, entry) in &fixture.entries {
            let mut at = 0;
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            for part in parent.split('/').filter(|part| !part.is_empty()) {
                at = child(&mut nodes, at, part, || Node::Directory(BTreeMap::new()));
            }
            let leaf = |mode| Node::Leaf { path: path.clone(), mode };
            let (node, holds) = match entry {
                Entry::Link(target) => (Node::Link(target.clone()), None),
                Entry::File { mode, content } => (leaf(*mode), Some(Ok(content.clone()))),
                Entry::Error { mode, errno } => (leaf(*mode), Some(Err(*errno))),
            };
            let id = child(&mut nodes, at, name, || node);
            by_path.insert(path.clone(), id);
            held.extend(holds.map(|holds| (id, holds)));
        }
        let state = State { original: held.clone(), held };
        Self { nodes, by_path, state: Mutex::new(state), faults: Faults::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn held(&self, id: NodeId) -> Result<Vec<u8>, Errno> {
        self.state().held.get(&id).cloned().unwrap_or(Err(Errno::ENOENT))
    }

    pub(super) fn leaf(&self, id: NodeId) -> Option<(&str, u16)> {
        match self.nodes.get(id)? {
            Node::Leaf { path, mode } => Some((path, *mode)),
            _ => None,
        }
    }

    fn hold(&self, id: NodeId, text: &str) {
        self.state().held.insert(id, Ok(format!("{text}\n").into_bytes()));
    }

    /// The text that a node holds.
    fn text(&self, path: &str) -> Option<String> {
        let held = self.held(*self.by_path.get(path)?).ok()?;
        Some(String::from_utf8_lossy(&held).trim().to_owned())
    }

    /// The first node of a clock that plays a role, and is there.
    fn playing(&self, clock: Clock<'_>, role: Role) -> Option<(String, NodeId)> {
        let (_, names) = clock.dialect.nodes.iter().find(|(known, _)| *known == role)?;
        names.iter().find_map(|name| {
            let path = format!("{}/{name}", clock.device);
            let id = *self.by_path.get(&path)?;
            Some((path, id))
        })
    }

    fn governor(&self, clock: Clock<'_>) -> Option<String> {
        self.text(&self.playing(clock, Role::Governor)?.0)
    }

    fn is_userspace(&self, clock: Clock<'_>) -> bool {
        self.governor(clock).as_deref() == Some("userspace")
    }

    /// The operating points, ascending; none if the kernel shows no table.
    fn points(&self, clock: Clock<'_>) -> Vec<u64> {
        let table = self.text(&format!("{}/{}", clock.device, clock.dialect.table)).unwrap_or_default();
        let mut points: Vec<u64> = table.split_ascii_whitespace().filter_map(number).collect();
        points.sort_unstable();
        points
    }

    /// What a bound reads: what was asked for, within the table and below a cap.
    fn bound(&self, clock: Clock<'_>, role: Role) -> Option<u64> {
        let (path, id) = self.playing(clock, role)?;
        let asked = number(&self.text(&path)?)?;
        let points = self.points(clock);
        let told = |name: &str| number(&self.text(&format!("{}/{name}", clock.device))?);
        let range = points.first().copied().zip(points.last().copied());
        let range = range.or_else(|| told("cpuinfo_min_freq").zip(told("cpuinfo_max_freq")));
        let Some((low, high)) = range else { return Some(asked) };
        let is_cpu = clock.dialect.is_cpu;
        if role == Role::Max {
            // devfreq alone knows a bound that is none.
            let asked = if asked == 0 && !is_cpu { high } else { asked };
            let asked = asked.min(high).min(self.faults.cap(id, high));
            return Some(if is_cpu { at_most(&points, asked.max(low)) } else { asked });
        }
        let most = self.bound(clock, Role::Max).unwrap_or(high);
        let asked = asked.clamp(low, high);
        Some(if is_cpu { at_least(&points, asked) } else { asked }.min(most))
    }

    /// The clock: where its governor and its bounds put it, else where it was.
    fn clock(&self, clock: Clock<'_>, was: u64) -> Option<u64> {
        let (min, max) = (self.bound(clock, Role::Min)?, self.bound(clock, Role::Max)?);
        let points = self.points(clock);
        let asked = match self.governor(clock).as_deref() {
            // Drivers without a table choose by themselves, whatever they call it.
            Some("performance") if !points.is_empty() => max,
            Some("powersave") if !points.is_empty() => min,
            Some("userspace") => self
                .playing(clock, Role::Speed)
                .and_then(|(path, _)| number(&self.text(&path)?))
                .unwrap_or(was),
            _ if (min..=max).contains(&was) => return Some(was),
            _ => was,
        };
        let asked = asked.clamp(min.min(max), max);
        let above = at_least(&points, asked);
        Some(if asked == max || above > max { at_most(&points, asked) } else { above })
    }

    /// What a cap of a power mode shows: the highest clock that the firmware gives. What was written is rounded by the
    /// firmware, of which only is known that it never goes beyond what the board of the text shows.
    fn cap(&self, id: NodeId) -> Option<u64> {
        let most = self.state().original.get(&id).cloned()?.ok()?;
        let most = number(&String::from_utf8_lossy(&most))?;
        let held = number(&String::from_utf8_lossy(&self.held(id).ok()?))?;
        Some(held.min(self.faults.cap(id, most)))
    }

    /// What a node of a clock shows; `None`: what it holds.
    fn shown(&self, id: NodeId) -> Option<u64> {
        if is_cap(self.leaf(id)?.0) {
            return self.cap(id);
        }
        let clock = clock_of(self.leaf(id)?.0)?;
        match clock.role {
            Role::Min | Role::Max => self.bound(clock, clock.role),
            Role::Current => self.clock(clock, number(&String::from_utf8_lossy(&self.held(id).ok()?))?),
            // cpufreq shows the clock that it made of what was asked for.
            Role::Speed if clock.dialect.is_cpu && self.is_userspace(clock) => {
                self.shown(self.playing(clock, Role::Current)?.1)
            }
            Role::Governor | Role::Speed => None,
        }
    }

    /// What a node reads without a fault.
    fn sound(&self, id: NodeId) -> Result<Vec<u8>, Errno> {
        match self.shown(id) {
            _ if self.leaf(id).is_some_and(|(path, _)| self.is_off(path)) => Err(Errno::ENODATA),
            Some(number) => Ok(format!("{number}\n").into_bytes()),
            None => self.held(id),
        }
    }

    /// Lets the clock stay where it is now, for governors that move it only when they must.
    fn stay(&self, clock: Clock<'_>) {
        let (_, names) = &clock.dialect.nodes[2];
        for name in *names {
            let id = self.by_path.get(&format!("{}/{name}", clock.device)).copied();
            if let Some((id, now)) = id.and_then(|id| Some((id, self.shown(id)?))) {
                self.hold(id, &now.to_string());
            }
        }
    }

    /// What a node of a clock holds after a write of `text`.
    fn set_clock(&self, clock: Clock<'_>, text: &str) -> Result<String, Errno> {
        let is_cpu = clock.dialect.is_cpu;
        let holds = match clock.role {
            Role::Current => return Err(Errno::EACCES),
            Role::Min if is_cpu => freq_qos(kstrtoul(text)?)?.unwrap_or(0).to_string(),
            Role::Max if is_cpu => freq_qos(kstrtoul(text)?)?.unwrap_or(u32::MAX).to_string(),
            Role::Min => {
                (u64::from(dev_pm_qos(sscanf_lu(text)? / 1000).unwrap_or(u32::MAX)) * 1000).to_string()
            }
            Role::Max => {
                (u64::from(dev_pm_qos(sscanf_lu(text)?.div_ceil(1000)).unwrap_or(0)) * 1000).to_string()
            }
            Role::Speed if !self.is_userspace(clock) => return Err(Errno::EINVAL),
            Role::Speed if is_cpu => sscanf_lu(text)?.to_string(),
            Role::Speed => kstrtoul(text)?.to_string(),
            Role::Governor => {
                let word = text.split_ascii_whitespace().next().ok_or(Errno::EINVAL)?;
                let word: String = word.chars().take(MAX_GOVERNOR).collect();
                let list = self.text(&format!("{}/{}", clock.device, clock.dialect.governors));
                if list.is_some_and(|list| !list.split_ascii_whitespace().any(|known| known == word)) {
                    return Err(Errno::EINVAL);
                }
                word
            }
        };
        self.stay(clock);
        if clock.role == Role::Governor
            && let Some((_, id)) = self.playing(clock, Role::Speed)
        {
            // A governor that starts does not know what was asked of it before.
            let mut state = self.state();
            if let Some(original) = state.original.get(&id).cloned() {
                state.held.insert(id, original);
            }
        }
        Ok(holds)
    }

    /// What any other node holds after a write of `text`.
    fn set_other(&self, path: &str, text: &str) -> Result<String, Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let word = text.trim();
        let offers = |list: String| list.split_ascii_whitespace().any(|known| known == word);
        match name {
            _ if parent.ends_with("/nvpmodel_emc_cap") => Ok(sscanf_lu(text)?.to_string()),
            _ if is_cap(path) => Ok(kstrtoul(text)?.to_string()),
            "energy_performance_preference" => {
                let list = self.text(&format!("{parent}/energy_performance_available_preferences"));
                list.is_none_or(offers).then(|| word.to_owned()).ok_or(Errno::EINVAL)
            }
            "mode" if parent.contains("/thermal_zone") => {
                ["enabled", "disabled"].contains(&word).then(|| word.to_owned()).ok_or(Errno::EINVAL)
            }
            _ if name.starts_with("in") && name.ends_with("_enable") => {
                Ok(u8::from(kstrtoul(text)? != 0).to_string())
            }
            _ => Ok(word.to_owned()),
        }
    }

    /// Whether the channel that a node belongs to is switched off.
    fn is_off(&self, path: &str) -> bool {
        let Some((parent, name)) = path.rsplit_once('/') else { return false };
        let channel = name.strip_suffix("_input");
        let channel = channel.and_then(|name| name.strip_prefix("in").or_else(|| name.strip_prefix("curr")));
        channel.and_then(|channel| self.text(&format!("{parent}/in{channel}_enable"))).as_deref() == Some("0")
    }
}

/// The highest point not above `asked`, or the lowest; `asked` where there are none.
fn at_most(points: &[u64], asked: u64) -> u64 {
    let below = points.iter().rfind(|point| **point <= asked);
    below.or(points.first()).copied().unwrap_or(asked)
}

/// The lowest point not below `asked`, or the highest; `asked` where there are none.
fn at_least(points: &[u64], asked: u64) -> u64 {
    let above = points.iter().find(|point| **point >= asked);
    above.or(points.last()).copied().unwrap_or(asked)
}

fn child(nodes: &mut Vec<Node>, of: NodeId, name: &str, node: impl FnOnce() -> Node) -> NodeId {
    let next = nodes.len();
    let Some(Node::Directory(entries)) = nodes.get_mut(of) else { return of };
    let id = *entries.entry(name.to_owned()).or_insert(next);
    if id == next {
        nodes.push(node());
    }
    id
}

impl Source for Arc<Live> {
    fn shape(&self, id: NodeId) -> Option<Shape<'_>> {
        Some(match self.nodes.get(id)? {
            Node::Directory(entries) => Shape::Directory(entries),
            Node::Link(target) => Shape::Link(target),
            Node::Leaf { .. } => Shape::Attribute,
        })
    }

    fn exists(&self, id: NodeId) -> bool {
        // The kernel makes this node when its governor starts.
        let sleeps = || {
            let clock = clock_of(self.leaf(id)?.0)?;
            Some(clock.role == Role::Speed && !clock.dialect.is_cpu && !self.is_userspace(clock))
        };
        !self.faults.vanished(id) && !sleeps().unwrap_or(false)
    }

    fn mode(&self, id: NodeId) -> u16 {
        self.leaf(id).map_or(0o444, |(_, mode)| mode)
    }

    fn value(&self, id: NodeId) -> Result<Vec<u8>, Errno> {
        self.faults.read(id, self.sound(id))
    }

    fn write(&self, id: NodeId, data: &[u8]) -> Result<(), Errno> {
        self.faults.write(id)?;
        let (path, _) = self.leaf(id).ok_or(Errno::EACCES)?;
        // A driver sees the text up to a NUL.
        let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let holds = match clock_of(path) {
            Some(clock) => self.set_clock(clock, text)?,
            None => self.set_other(path, text)?,
        };
        self.faults.written(id, self.sound(id));
        self.hold(id, &holds);
        Ok(())
    }

    fn delay(&self, id: NodeId) -> Option<Box<dyn FnOnce() + Send>> {
        self.faults.delay(id)
    }
}
