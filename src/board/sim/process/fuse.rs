//! A tree as a FUSE file system that answers as sysfs does: that of a plant, or of a text.

use super::tree::{Node, NodeId, Tree};
use crate::board::sim::board::SimBoard;
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, SessionACL, TimeOrNow,
    WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nothing is cached: nodes come and go, and every read is a new value.
const TTL: Duration = Duration::ZERO;
/// sysfs shows this size for every attribute.
const ATTRIBUTE_SIZE: u64 = 4096;
/// Most files open at once.
const MAX_OPEN: usize = 4096;

/// The mount options: readable by everyone, permission bits enforced by the kernel.
pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("wattd-sim".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
    ];
    config.acl = SessionACL::All;
    config
}

/// What a node is.
pub(super) enum Shape<'a> {
    Directory(&'a BTreeMap<String, NodeId>),
    Attribute,
    Link(&'a str),
}

/// What the nodes are and hold.
pub(super) trait Source: Send + Sync + 'static {
    /// What a node is, whether or not it is there now.
    fn shape(&self, id: NodeId) -> Option<Shape<'_>>;
    /// Whether it is there now.
    fn exists(&self, id: NodeId) -> bool;
    /// Permission bits of an attribute as its driver sets them. Without a bit to write, root is refused too.
    fn mode(&self, id: NodeId) -> u16;
    /// What an attribute reads now, newline included.
    fn value(&self, id: NodeId) -> Result<Vec<u8>, nix::errno::Errno>;
    /// What a write of `data` does, as one `write()` call.
    fn write(&self, id: NodeId, data: &[u8]) -> Result<(), nix::errno::Errno>;
    /// What a read has to wait for first.
    fn delay(&self, _id: NodeId) -> Option<Box<dyn FnOnce() + Send>> {
        None
    }
}

/// A plant and its tree.
pub(super) struct PlantSource {
    pub(super) board: SimBoard,
    pub(super) tree: Tree,
}

impl PlantSource {
    fn attribute<T>(&self, id: NodeId, of: impl FnOnce(&super::attr::Attr) -> T) -> Option<T> {
        match self.tree.node(id) {
            Some(Node::Attribute(attr)) => Some(of(attr)),
            _ => None,
        }
    }
}

impl Source for PlantSource {
    fn shape(&self, id: NodeId) -> Option<Shape<'_>> {
        Some(match self.tree.node(id)? {
            Node::Directory(entries) => Shape::Directory(entries),
            Node::Attribute(_) => Shape::Attribute,
            Node::Link(target) => Shape::Link(target),
        })
    }

    fn exists(&self, id: NodeId) -> bool {
        if let Some(Node::Directory(entries)) = self.tree.node(id) {
            // A group of nodes comes and goes with them.
            return entries.is_empty() || entries.values().any(|entry| self.exists(*entry));
        }
        let there = self.attribute(id, |attr| {
            self.board.with(|plant, now| {
                plant.advance(now);
                attr.exists(plant)
            })
        });
        there.unwrap_or(true)
    }

    fn mode(&self, id: NodeId) -> u16 {
        self.attribute(id, super::attr::Attr::mode).unwrap_or(0o444)
    }

    fn value(&self, id: NodeId) -> Result<Vec<u8>, nix::errno::Errno> {
        let text = self.attribute(id, |attr| {
            self.board.with(|plant, now| {
                plant.advance(now);
                attr.read(plant)
            })
        });
        text.unwrap_or(Err(nix::errno::Errno::ENOENT)).map(String::into_bytes)
    }

    fn write(&self, id: NodeId, data: &[u8]) -> Result<(), nix::errno::Errno> {
        let written = self.attribute(id, |attr| self.board.with(|plant, now| attr.write(plant, now, data)));
        written.unwrap_or(Err(nix::errno::Errno::EACCES))
    }
}

/// Mounts a tree at a directory and serves it on a thread of its own.
pub(super) fn mount(source: impl Source, at: &Path) -> io::Result<fuser::BackgroundSession> {
    let served = Arc::new(Served { source, open: Mutex::default() });
    fuser::spawn_mount(SysFs { served, owners: Mutex::default() }, at, &config())
}

/// Owner and mode of a node, where they were changed.
#[derive(Debug, Clone, Copy, Default)]
struct Owner {
    mode: Option<u16>,
    uid: u32,
    gid: u32,
}

#[derive(Default)]
struct OpenFiles {
    last: u64,
    /// What the read at offset 0 gave: one open file sees one value until it seeks back.
    content: BTreeMap<u64, Vec<u8>>,
}

struct SysFs<S> {
    served: Arc<Served<S>>,
    owners: Mutex<BTreeMap<NodeId, Owner>>,
}

/// What a read that has to wait takes along.
struct Served<S> {
    source: S,
    open: Mutex<OpenFiles>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ino(id: NodeId) -> INodeNo {
    INodeNo(id as u64 + 1)
}

fn errno(error: nix::errno::Errno) -> Errno {
    // nix and fuser both carry the system's own number.
    Errno::from_i32(error as i32)
}

impl<S: Source> Served<S> {
    /// The value as text, at this moment.
    fn value(&self, id: NodeId) -> Result<Vec<u8>, Errno> {
        self.source.value(id).map_err(|error| match error {
            // The file is open, so the node was there: its device has gone since.
            nix::errno::Errno::ENOENT => Errno::ENODEV,
            other => errno(other),
        })
    }

    /// What an open file reads from `offset`. The value is taken at offset 0, as seq_file does it.
    fn content(&self, id: NodeId, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let kept = lock(&self.open).content.get(&handle.0).cloned().unwrap_or_default();
        let content = if offset == 0 || kept.is_empty() { self.value(id)? } else { kept };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let to = from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(content.len());
        let part = content[from..to].to_vec();
        if let Some(known) = lock(&self.open).content.get_mut(&handle.0) {
            *known = content;
        }
        Ok(part)
    }
}

impl<S: Source> SysFs<S> {
    fn node(&self, ino: INodeNo) -> Option<(NodeId, Shape<'_>)> {
        let id = usize::try_from(ino.0).ok()?.checked_sub(1)?;
        Some((id, self.served.source.shape(id)?))
    }

    fn attribute(&self, ino: INodeNo) -> Result<NodeId, Errno> {
        match self.node(ino) {
            Some((id, Shape::Attribute)) => Ok(id),
            Some((_, Shape::Directory(_))) => Err(Errno::EISDIR),
            Some((_, Shape::Link(_))) => Err(Errno::ELOOP),
            None => Err(Errno::ENOENT),
        }
    }

    fn exists(&self, id: NodeId) -> bool {
        self.served.source.exists(id)
    }

    fn stat(&self, id: NodeId, shape: &Shape<'_>) -> FileAttr {
        let owner = lock(&self.owners).get(&id).copied().unwrap_or_default();
        let (kind, perm, size) = match shape {
            Shape::Directory(_) => (FileType::Directory, 0o755, 0),
            Shape::Attribute => (FileType::RegularFile, self.served.source.mode(id), ATTRIBUTE_SIZE),
            Shape::Link(target) => (FileType::Symlink, 0o777, target.len() as u64),
        };
        FileAttr {
            ino: ino(id),
            size,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: owner.mode.unwrap_or(perm),
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl<S: Source> Filesystem for SysFs<S> {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = match self.node(parent) {
            Some((_, Shape::Directory(entries))) => name.to_str().and_then(|name| entries.get(name).copied()),
            _ => None,
        };
        match found.and_then(|id| self.served.source.shape(id).map(|shape| (id, shape))) {
            Some((id, shape)) if self.exists(id) => {
                reply.entry(&TTL, &self.stat(id, &shape), Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Some((id, shape)) if self.exists(id) => reply.attr(&TTL, &self.stat(id, &shape)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some((id, shape)) = self.node(ino) else { return reply.error(Errno::ENOENT) };
        {
            let mut owners = lock(&self.owners);
            let owner = owners.entry(id).or_default();
            if let Some(mode) = mode.and_then(|mode| u16::try_from(mode & 0o7777).ok()) {
                owner.mode = Some(mode);
            }
            owner.uid = uid.unwrap_or(owner.uid);
            owner.gid = gid.unwrap_or(owner.gid);
        }
        // Truncating an attribute means nothing, as in sysfs.
        reply.attr(&TTL, &self.stat(id, &shape));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino) {
            Some((_, Shape::Link(target))) => reply.data(target.as_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let id = match self.attribute(ino) {
            Ok(id) => id,
            Err(error) => return reply.error(error),
        };
        if flags.acc_mode() != OpenAccMode::O_RDONLY && self.served.source.mode(id) & 0o222 == 0 {
            return reply.error(Errno::EACCES);
        }
        let mut open = lock(&self.served.open);
        if open.content.len() >= MAX_OPEN {
            return reply.error(Errno::ENFILE);
        }
        open.last += 1;
        let handle = open.last;
        open.content.insert(handle, Vec::new());
        // Every read and write comes here as it is made: one write() is one value.
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let id = match self.attribute(ino) {
            Ok(id) => id,
            Err(error) => return reply.error(error),
        };
        let served = Arc::clone(&self.served);
        let answer = move || match served.content(id, fh, offset, size) {
            Ok(part) => reply.data(&part),
            Err(error) => reply.error(error),
        };
        match self.served.source.delay(id) {
            None => answer(),
            // The others are answered meanwhile.
            Some(wait) => {
                std::thread::spawn(move || {
                    wait();
                    answer();
                });
            }
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.attribute(ino).and_then(|id| self.served.source.write(id, data).map_err(errno));
        match (written, u32::try_from(data.len())) {
            (Ok(()), Ok(length)) => reply.written(length),
            (Ok(()), Err(_)) => reply.error(Errno::EINVAL),
            (Err(error), _) => reply.error(error),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.served.open).content.remove(&fh.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _req: &Request,
        ino_of: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some((_, Shape::Directory(entries))) = self.node(ino_of) else {
            return reply.error(Errno::ENOTDIR);
        };
        let dots = [(ino_of, FileType::Directory, "."), (ino_of, FileType::Directory, "..")];
        let below = entries.iter().filter_map(|(name, id)| {
            let kind = match self.served.source.shape(*id)? {
                Shape::Directory(_) => FileType::Directory,
                Shape::Attribute => FileType::RegularFile,
                Shape::Link(_) => FileType::Symlink,
            };
            self.exists(*id).then_some((ino(*id), kind, name.as_str()))
        });
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (ino, kind, name)) in dots.into_iter().chain(below).enumerate().skip(skip) {
            if reply.add(ino, index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    // Nothing can be made or removed. The errors are those of kernfs.

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EACCES);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EACCES);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }
}
