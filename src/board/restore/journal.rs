//! The state journal: what every clock node held before the daemon touched it, and what the daemon
//! wrote last.
//!
//! One file of lines, each with its own checksum. The originals are written at once (new file, fsync,
//! rename, fsync of the directory) before the first node is touched. Every write to a node is announced
//! by an appended line first, so that a kill at any moment leaves a file that covers what the node
//! holds. Appended lines are not synced: they must outlive the process, which the page cache sees to;
//! after a power failure the kernel starts with its own clocks and the boot id no longer matches.

use crate::board::restore::RestoreError;
use crate::board::sysfs::kill;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

const FILE: &str = "clocks.journal";
const NEW: &str = "clocks.journal.new";
const DAMAGED: &str = "clocks.journal.damaged";
const LOCK: &str = "clocks.lock";
const VERSION: u32 = 1;
/// The file is written anew when it has grown to this many bytes.
const COMPACT_AT: u64 = 256 << 10;
/// More than this is no journal.
const MAX_BYTES: u64 = 4 << 20;
/// Most nodes: governor and two bounds of as many domains as a board may have, with room.
const MAX_NODES: usize = 512;
/// Most writes of one node that may be in force: one per kill while it refuses.
const MAX_ATTEMPTS: usize = 64;
/// Longest value of a node, in bytes.
const MAX_VALUE: usize = 64;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Governor: written only where the board file asks for `userspace`.
    Governor,
    /// Lower bound.
    Min,
    /// Upper bound.
    Max,
    /// A cap of a clock that has no other control: see [`is_cap`].
    Cap,
    /// What the board file asks to be held besides: see [`is_setting`].
    Setting,
}

impl Role {
    /// Whether a node of this role may be called so: nothing else is ever written.
    fn fits(self, path: &Path) -> bool {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        match self {
            Self::Governor => ["scaling_governor", "governor"].contains(&name),
            Self::Min => ["scaling_min_freq", "min_freq"].contains(&name),
            Self::Max => ["scaling_max_freq", "max_freq"].contains(&name),
            Self::Cap => is_cap(path),
            Self::Setting => is_setting(path),
        }
    }
}

/// Nodes that may be held: the energy preference of CPUs, and the limits of a cgroup's CPU time.
fn is_setting(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    ["energy_performance_preference", "cpu.max", "cpu.uclamp.min", "cpu.uclamp.max"].contains(&name)
}

/// Caps by which a Jetson's power modes hold clocks that have no other control. Never a limit of a power monitor.
pub(crate) fn is_cap(path: &Path) -> bool {
    let folder = path.parent().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    ["nvpmodel_clk_cap", "nvpmodel_emc_cap", "clk_cap"].contains(&folder)
}

/// One write to a node, and what the node showed afterwards if that was something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) value: String,
    pub(crate) seen: Option<String>,
    /// Announced by this process, and carried out if a later one follows. What an earlier process
    /// announced last may or may not have been carried out.
    own: bool,
}

/// A node and its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Name of its clock domain.
    pub(crate) domain: String,
    /// What it is.
    pub(crate) role: Role,
    /// Its path below the sysfs root.
    pub(crate) path: PathBuf,
    /// What it held before the first write.
    pub(crate) original: String,
    /// The writes that may be in force, the last one last; none: never written.
    attempts: Vec<Attempt>,
}

impl Node {
    /// A node as found.
    pub(crate) fn new(domain: &str, role: Role, path: &Path, original: String) -> Self {
        Self { domain: domain.to_owned(), role, path: path.to_owned(), original, attempts: Vec::new() }
    }

    /// Whether the daemon may have changed it.
    pub(crate) fn is_written(&self) -> bool {
        !self.attempts.is_empty()
    }

    /// Whether the daemon may have left `value` there.
    pub(crate) fn wrote(&self, value: &str) -> bool {
        self.attempts.iter().any(|attempt| attempt.value == value || attempt.seen.as_deref() == Some(value))
    }

    /// Whether `value` is all that the daemon ever wrote, as far as it matters.
    pub(crate) fn wrote_only(&self, value: &str) -> bool {
        self.attempts.iter().all(|attempt| attempt.value == value)
    }

    /// The last value that was written or announced.
    pub(crate) fn last(&self) -> Option<&str> {
        self.attempts.last().map(|attempt| attempt.value.as_str())
    }

    /// The last value, if this process wrote it.
    pub(crate) fn own_last(&self) -> Option<&str> {
        self.attempts.last().filter(|attempt| attempt.own).map(|attempt| attempt.value.as_str())
    }

    /// A tampered or damaged journal must not direct a write to anything but a clock node.
    fn is_sound(&self) -> bool {
        self.path.components().all(|part| matches!(part, Component::Normal(_)))
            && self.role.fits(&self.path)
            && is_value(self.role, &self.original)
    }

    /// A write is announced. That this process goes on shows that its last one was carried out (a
    /// refused one is taken back first), so nothing before that can be in force; what an earlier process
    /// left behind can.
    fn attempt(&mut self, value: String) {
        if self.attempts.last().is_some_and(|attempt| attempt.own) {
            self.attempts.drain(..self.attempts.len() - 1);
        }
        self.push(value, true);
    }

    fn push(&mut self, value: String, own: bool) {
        if self.attempts.len() == MAX_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push(Attempt { value, seen: None, own });
    }

    fn refused(&mut self) {
        self.attempts.pop();
    }

    fn adopt(&mut self, value: String) {
        self.original = value;
        self.attempts.clear();
    }
}

fn is_value(role: Role, value: &str) -> bool {
    let fits = |c: char| match role {
        Role::Governor => c.is_ascii_alphanumeric() || c == '_' || c == '-',
        Role::Min | Role::Max | Role::Cap => c.is_ascii_digit(),
        Role::Setting => c.is_ascii_alphanumeric() || "_-. ".contains(c),
    };
    !value.is_empty() && value.len() <= MAX_VALUE && value.chars().all(fits)
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Head {
        version: u32,
        boot: Option<String>,
        nodes: usize,
    },
    Node {
        id: usize,
        domain: String,
        role: Role,
        path: PathBuf,
        original: String,
    },
    Maybe {
        id: usize,
        value: String,
    },
    Write {
        id: usize,
        value: String,
    },
    Seen {
        id: usize,
        value: String,
    },
    Refused {
        id: usize,
    },
    /// Someone else set it to this: its original from now on.
    Adopt {
        id: usize,
        value: String,
    },
}

impl Line {
    fn encode(&self) -> io::Result<String> {
        let json = serde_json::to_string(self).map_err(io::Error::other)?;
        Ok(format!("{} {json}\n", checksum(json.as_bytes())))
    }

    fn decode(line: &[u8]) -> Option<Self> {
        let (sum, json) = line.split_at_checked(16)?;
        let json = json.strip_prefix(b" ")?;
        if sum != checksum(json).as_bytes() {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

/// The first 64 bits of SHA-256, in hex.
fn checksum(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..8])
}

/// The state directory, held by one process at a time.
#[derive(Debug)]
pub(crate) struct StateLock {
    directory: PathBuf,
    _held: File,
}

impl StateLock {
    /// Takes the directory, creating it if need be. The lock goes with the process, however it ends.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, RestoreError> {
        let failed = |source| RestoreError::State { path: directory.join(LOCK), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let held = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join(LOCK))
            .map_err(failed)?;
        match held.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _held: held }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(RestoreError::Held { directory: directory.to_owned() })
            }
            Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn failed(&self, name: &str) -> impl Fn(io::Error) -> RestoreError {
        let path = self.path(name);
        move |source| RestoreError::State { path: path.clone(), source }
    }

    fn sync(&self) -> io::Result<()> {
        kill::step()?;
        File::open(&self.directory)?.sync_all()
    }

    /// What an earlier process left behind.
    pub(crate) fn read(&self) -> Result<Option<Contents>, RestoreError> {
        let file = match File::open(self.path(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(FILE)(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(self.failed(FILE))?;
        Ok(Some(Contents::parse(&bytes)))
    }

    /// Forgets the journal.
    pub(crate) fn remove(&self) -> Result<(), RestoreError> {
        let unlink = || {
            kill::step()?;
            std::fs::remove_file(self.path(FILE))?;
            self.sync()
        };
        unlink().map_err(self.failed(FILE))
    }

    /// Keeps a journal that is not whole under another name, for a person to look at.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, RestoreError> {
        let rename = || {
            kill::step()?;
            std::fs::rename(self.path(FILE), self.path(DAMAGED))?;
            self.sync()
        };
        rename().map_err(self.failed(DAMAGED))?;
        Ok(self.path(DAMAGED))
    }
}

/// What a journal says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Boot in which it was written, if known.
    pub(crate) boot: Option<String>,
    /// Its nodes, those that could be read.
    pub(crate) nodes: Vec<Node>,
    /// What is wrong with it. A torn last line is not: a kill leaves one, and the write that it
    /// announces never happened.
    pub(crate) damage: Vec<String>,
}

impl Contents {
    /// Reads as much as is whole.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut contents = Self::default();
        if bytes.len() as u64 > MAX_BYTES {
            contents.damage.push(format!("longer than {MAX_BYTES} bytes"));
            return contents;
        }
        let mut nodes: Vec<Option<Node>> = Vec::new();
        let mut expected = None;
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for (index, raw) in lines.iter().enumerate() {
            let whole = raw.strip_suffix(b"\n");
            match whole.and_then(Line::decode) {
                Some(Line::Head { version: VERSION, boot, nodes }) if index == 0 => {
                    contents.boot = boot;
                    expected = Some(nodes);
                }
                Some(Line::Head { version, .. }) => {
                    contents.damage.push(format!("line {}: head of version {version}", index + 1));
                }
                Some(line) => {
                    if !take(&mut nodes, line) {
                        contents.damage.push(format!("line {}: not a clock node", index + 1));
                    }
                }
                None if whole.is_none() => {}
                None => contents.damage.push(format!("line {}: checksum does not match", index + 1)),
            }
        }
        contents.nodes = nodes.into_iter().flatten().collect();
        match expected {
            None => contents.damage.push("its first line is missing".to_owned()),
            Some(expected) if expected != contents.nodes.len() => {
                let there = contents.nodes.len();
                contents.damage.push(format!("{there} of {expected} nodes are there"));
            }
            Some(_) => {}
        }
        contents
    }
}

/// Applies a line; false if it cannot be.
fn take(nodes: &mut Vec<Option<Node>>, line: Line) -> bool {
    fn known(nodes: &mut [Option<Node>], id: usize) -> Option<&mut Node> {
        nodes.get_mut(id)?.as_mut()
    }
    match line {
        Line::Head { .. } => false,
        Line::Node { id, domain, role, path, original } => {
            let node = Node { domain, role, path, original, attempts: Vec::new() };
            if id >= MAX_NODES || !node.is_sound() {
                return false;
            }
            if nodes.len() <= id {
                nodes.resize(id + 1, None);
            }
            nodes[id].replace(node).is_none()
        }
        Line::Write { id, value } => known(nodes, id).map(|node| node.attempt(value)).is_some(),
        Line::Maybe { id, value } => known(nodes, id).map(|node| node.push(value, false)).is_some(),
        Line::Seen { id, value } => {
            let last = known(nodes, id).and_then(|node| node.attempts.last_mut());
            last.map(|attempt| attempt.seen = Some(value)).is_some()
        }
        Line::Refused { id } => known(nodes, id).map(Node::refused).is_some(),
        Line::Adopt { id, value } => {
            let node = known(nodes, id).filter(|node| is_value(node.role, &value));
            node.map(|node| node.adopt(value)).is_some()
        }
    }
}

/// The journal of this process, open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    boot: Option<String>,
    nodes: Vec<Node>,
    /// `None` after a failed append: the file must be written anew first.
    file: Option<File>,
    bytes: u64,
}

impl Journal {
    /// Writes the originals, synced, before anything is touched. Of nodes that an earlier process wrote,
    /// no write is known to have been carried out.
    pub(crate) fn create(
        lock: &StateLock,
        boot: Option<String>,
        mut nodes: Vec<Node>,
    ) -> Result<Self, RestoreError> {
        nodes.iter_mut().flat_map(|node| &mut node.attempts).for_each(|attempt| attempt.own = false);
        let mut journal = Self { boot, nodes, file: None, bytes: 0 };
        journal.rewrite(lock)?;
        Ok(journal)
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node at a path below the root.
    pub(crate) fn find(&self, path: &Path) -> Option<usize> {
        self.nodes.iter().position(|node| node.path == path)
    }

    /// Adds nodes that are not there yet. What is known of the others stays.
    pub(crate) fn add(&mut self, lock: &StateLock, nodes: Vec<Node>) -> Result<(), RestoreError> {
        let before = self.nodes.len();
        for node in nodes {
            if self.find(&node.path).is_none() {
                self.nodes.push(node);
            }
        }
        if self.nodes.len() == before { Ok(()) } else { self.rewrite(lock) }
    }

    /// Announces a write. Only after this may the node be written.
    pub(crate) fn announce(&mut self, lock: &StateLock, id: usize, value: &str) -> Result<(), RestoreError> {
        if !is_value(self.nodes[id].role, value) {
            let message = format!("{value:?} is no value for {}", self.nodes[id].path.display());
            return Err(lock.failed(FILE)(io::Error::other(message)));
        }
        if self.file.is_none() || self.bytes >= COMPACT_AT {
            self.rewrite(lock)?;
        }
        self.append(&Line::Write { id, value: value.to_owned() }).map_err(lock.failed(FILE))?;
        self.nodes[id].attempt(value.to_owned());
        Ok(())
    }

    /// Notes that the node shows something else than was written.
    pub(crate) fn saw(&mut self, lock: &StateLock, id: usize, value: &str) -> Result<(), RestoreError> {
        let role = self.nodes[id].role;
        let Some(last) = self.nodes[id].attempts.last_mut() else { return Ok(()) };
        if last.seen.as_deref() == Some(value) || !is_value(role, value) {
            return Ok(());
        }
        last.seen = Some(value.to_owned());
        self.append(&Line::Seen { id, value: value.to_owned() }).map_err(lock.failed(FILE))
    }

    /// Someone else has set the node to `value`, which is what will be restored.
    pub(crate) fn adopt(&mut self, lock: &StateLock, id: usize, value: &str) -> Result<(), RestoreError> {
        if !is_value(self.nodes[id].role, value) {
            let message = format!("{value:?} is no value for {}", self.nodes[id].path.display());
            return Err(lock.failed(FILE)(io::Error::other(message)));
        }
        if self.file.is_none() {
            self.rewrite(lock)?;
        }
        self.append(&Line::Adopt { id, value: value.to_owned() }).map_err(lock.failed(FILE))?;
        self.nodes[id].adopt(value.to_owned());
        Ok(())
    }

    /// Notes that the announced write was refused: the one before it is in force.
    pub(crate) fn refused(&mut self, lock: &StateLock, id: usize) -> Result<(), RestoreError> {
        self.nodes[id].refused();
        self.append(&Line::Refused { id }).map_err(lock.failed(FILE))
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let text = line.encode()?;
        let appended = self.file.as_mut().map_or_else(
            || Err(io::Error::other("the journal could not be extended before")),
            |file| append(file, text.as_bytes()),
        );
        if appended.is_err() {
            // Half a line may be there now, and a line after it would be lost.
            self.file = None;
        }
        self.bytes += text.len() as u64;
        appended
    }

    fn rewrite(&mut self, lock: &StateLock) -> Result<(), RestoreError> {
        self.file = None;
        let text = self.encode().map_err(lock.failed(NEW))?;
        let file = replace(lock, text.as_bytes()).map_err(lock.failed(NEW))?;
        self.file = Some(file);
        self.bytes = text.len() as u64;
        Ok(())
    }

    fn encode(&self) -> io::Result<String> {
        let head = Line::Head { version: VERSION, boot: self.boot.clone(), nodes: self.nodes.len() };
        let mut text = head.encode()?;
        for (id, node) in self.nodes.iter().enumerate() {
            let line = Line::Node {
                id,
                domain: node.domain.clone(),
                role: node.role,
                path: node.path.clone(),
                original: node.original.clone(),
            };
            text += &line.encode()?;
            for attempt in &node.attempts {
                text += &Line::Maybe { id, value: attempt.value.clone() }.encode()?;
                if let Some(seen) = &attempt.seen {
                    text += &Line::Seen { id, value: seen.clone() }.encode()?;
                }
            }
        }
        Ok(text)
    }
}

fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let through = kill::torn(bytes.len());
    kill::step()?;
    file.write_all(&bytes[..through])
}

/// Puts a new file in the place of the journal; either the old or the new one is there at any time.
fn replace(lock: &StateLock, bytes: &[u8]) -> io::Result<File> {
    kill::step()?;
    let path = lock.path(NEW);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    append(&mut file, bytes)?;
    kill::step()?;
    file.sync_all()?;
    kill::step()?;
    std::fs::rename(&path, lock.path(FILE))?;
    lock.sync()?;
    Ok(file)
}

#[cfg(test)]
pub(crate) fn file(directory: &Path) -> PathBuf {
    directory.join(FILE)
}
