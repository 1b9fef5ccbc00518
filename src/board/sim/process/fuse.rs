//! The tree as a FUSE file system that answers as sysfs does.

use super::attr::Attr;
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
use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// Mounts the tree at a directory and serves it on a thread of its own.
pub(super) fn mount(board: SimBoard, tree: Tree, at: &Path) -> io::Result<fuser::BackgroundSession> {
    let filesystem = SysFs { board, tree, open: Mutex::default(), owners: Mutex::default() };
    fuser::spawn_mount(filesystem, at, &config())
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

struct SysFs {
    board: SimBoard,
    tree: Tree,
    open: Mutex<OpenFiles>,
    owners: Mutex<BTreeMap<NodeId, Owner>>,
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

impl SysFs {
    fn node(&self, ino: INodeNo) -> Option<(NodeId, &Node)> {
        let id = usize::try_from(ino.0).ok()?.checked_sub(1)?;
        Some((id, self.tree.node(id)?))
    }

    fn attribute(&self, ino: INodeNo) -> Result<&Attr, Errno> {
        match self.node(ino) {
            Some((_, Node::Attribute(attr))) => Ok(attr),
            Some((_, Node::Directory(_))) => Err(Errno::EISDIR),
            Some((_, Node::Link(_))) => Err(Errno::ELOOP),
            None => Err(Errno::ENOENT),
        }
    }

    fn exists(&self, node: &Node) -> bool {
        match node {
            Node::Attribute(attr) => self.board.with(|plant, now| {
                plant.advance(now);
                attr.exists(plant)
            }),
            _ => true,
        }
    }

    fn stat(&self, id: NodeId, node: &Node) -> FileAttr {
        let owner = lock(&self.owners).get(&id).copied().unwrap_or_default();
        let (kind, perm, size) = match node {
            Node::Directory(_) => (FileType::Directory, 0o755, 0),
            Node::Attribute(attr) => (FileType::RegularFile, attr.mode(), ATTRIBUTE_SIZE),
            Node::Link(target) => (FileType::Symlink, 0o777, target.len() as u64),
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

    /// The value as text, at this moment.
    fn value(&self, attr: &Attr) -> Result<Vec<u8>, Errno> {
        let text = self.board.with(|plant, now| {
            plant.advance(now);
            attr.read(plant)
        });
        text.map(String::into_bytes).map_err(|error| match error {
            // The file is open, so the node was there: its device has gone since.
            nix::errno::Errno::ENOENT => Errno::ENODEV,
            other => errno(other),
        })
    }

    /// What an open file reads from `offset`. The value is taken at offset 0, as seq_file does it.
    fn content(&self, attr: &Attr, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let kept = lock(&self.open).content.get(&handle.0).cloned().unwrap_or_default();
        let content = if offset == 0 || kept.is_empty() { self.value(attr)? } else { kept };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let to = from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(content.len());
        let part = content[from..to].to_vec();
        lock(&self.open).content.insert(handle.0, content);
        Ok(part)
    }
}

impl Filesystem for SysFs {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = match self.node(parent) {
            Some((_, Node::Directory(entries))) => name.to_str().and_then(|name| entries.get(name).copied()),
            _ => None,
        };
        match found.and_then(|id| self.tree.node(id).map(|node| (id, node))) {
            Some((id, node)) if self.exists(node) => {
                reply.entry(&TTL, &self.stat(id, node), Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Some((id, node)) if self.exists(node) => reply.attr(&TTL, &self.stat(id, node)),
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
        let Some((id, node)) = self.node(ino) else { return reply.error(Errno::ENOENT) };
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
        reply.attr(&TTL, &self.stat(id, node));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino) {
            Some((_, Node::Link(target))) => reply.data(target.as_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let attr = match self.attribute(ino) {
            Ok(attr) => attr,
            Err(error) => return reply.error(error),
        };
        if flags.acc_mode() != OpenAccMode::O_RDONLY && !attr.writable() {
            return reply.error(Errno::EACCES);
        }
        let mut open = lock(&self.open);
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
        match self.attribute(ino).and_then(|attr| self.content(attr, fh, offset, size)) {
            Ok(part) => reply.data(&part),
            Err(error) => reply.error(error),
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
        let written = self
            .attribute(ino)
            .and_then(|attr| self.board.with(|plant, now| attr.write(plant, now, data)).map_err(errno));
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
        lock(&self.open).content.remove(&fh.0);
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
        let Some((_, Node::Directory(entries))) = self.node(ino_of) else {
            return reply.error(Errno::ENOTDIR);
        };
        let dots = [(ino_of, FileType::Directory, "."), (ino_of, FileType::Directory, "..")];
        let below = entries.iter().filter_map(|(name, id)| {
            let node = self.tree.node(*id)?;
            let kind = match node {
                Node::Directory(_) => FileType::Directory,
                Node::Attribute(_) => FileType::RegularFile,
                Node::Link(_) => FileType::Symlink,
            };
            self.exists(node).then_some((ino(*id), kind, name.as_str()))
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
