//! The mount point: made if missing, freed of what a killed board left there.

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use std::io;
use std::path::Path;

/// Mounts stacked on one another that are freed at most.
const MAX_STALE: usize = 8;

/// Makes `at` a directory on which nothing of ours is mounted.
///
/// A board that was killed leaves a mount whose every access fails with ENOTCONN; it is detached. One that
/// still answers belongs to a living process and is an error.
pub(super) fn prepare(at: &Path) -> io::Result<()> {
    for _ in 0..MAX_STALE {
        match statfs(at) {
            Err(Errno::ENOTCONN | Errno::ECONNABORTED) => detach(at)?,
            Err(Errno::ENOENT) => return std::fs::create_dir_all(at),
            Err(errno) => return Err(errno.into()),
            Ok(found) if found.filesystem_type() == FUSE_SUPER_MAGIC && is_mount_point(at)? => {
                let message = format!("{}: a FUSE file system is mounted there and alive", at.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
            Ok(_) => return Ok(()),
        }
    }
    let message = format!("{}: more than {MAX_STALE} dead mounts", at.display());
    Err(io::Error::new(io::ErrorKind::AddrInUse, message))
}

/// Detaches the mount at once; it ends when the last open file is closed.
pub(super) fn detach(at: &Path) -> io::Result<()> {
    umount2(at, MntFlags::MNT_DETACH).map_err(io::Error::from)
}

fn is_mount_point(at: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let here = std::fs::metadata(at)?;
    let above = std::fs::metadata(at.join(".."))?;
    Ok(here.dev() != above.dev() || here.ino() == above.ino())
}
