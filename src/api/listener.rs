//! Where clients come in: a Unix socket of our own or of the service manager's, and loopback TCP.

use super::backend::Peer;
use super::options::Options;
use crate::core::event::AppId;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Group;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// Mode of the socket if none is given: the daemon's user and its group.
const DEFAULT_MODE: u32 = 0o660;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There is nowhere to listen.
    #[error("neither a socket path nor a TCP address nor a socket of the service manager is given")]
    Nowhere,
    /// Another process listens there.
    #[error("{}: another process serves this socket; stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// There is something else at that path.
    #[error("{}: is there and is not a socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The group is not known.
    #[error("{}: there is no group {group:?}; give a group's name or number", .path.display())]
    NoGroup {
        /// Of the socket.
        path: PathBuf,
        /// As configured.
        group: String,
    },
    /// The address is not this machine's own.
    #[error(
        "{0}: not a loopback address; the protocol has no authentication over TCP: use 127.0.0.1 or [::1]"
    )]
    NotLoopback(SocketAddr),
    /// The kernel refused.
    #[error("{what} {place}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Path or address.
        place: String,
        /// The kernel's word.
        source: io::Error,
    },
}

impl ListenError {
    fn at(path: &Path, what: &'static str) -> impl Fn(io::Error) -> Self {
        let place = path.display().to_string();
        move |source| Self::Io { what, place: place.clone(), source }
    }
}

/// What `FileDescriptorName=` calls the socket for Prometheus in `wattd-metrics.socket`.
const METRICS: &str = "metrics";

/// Listening sockets that the service manager passed (`LISTEN_FDS`).
#[derive(Debug, Default)]
pub struct Inherited {
    /// For the protocol.
    pub unix: Option<StdUnixListener>,
    /// For Prometheus.
    pub metrics: Option<StdTcpListener>,
}

/// The sockets that the service manager passed, if any: one called `metrics` is TCP, for Prometheus; any other is a
/// Unix socket, for the protocol. To be called once, early: it takes them out of the environment.
///
/// # Errors
/// If one is not of its kind, or is one too many.
pub fn inherited() -> io::Result<Inherited> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = listenfd::ListenFd::from_env();
    let mut found = Inherited::default();
    for index in 0..passed.len() {
        let name = names.next().unwrap_or_default();
        let before = if name == METRICS {
            passed.take_tcp_listener(index)?.and_then(|socket| found.metrics.replace(socket)).is_some()
        } else {
            passed.take_unix_listener(index)?.and_then(|socket| found.unix.replace(socket)).is_some()
        };
        if before {
            let message =
                format!("socket {index} ({name:?}): one Unix socket and one called {METRICS:?} are right");
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
    }
    Ok(found)
}

/// Sockets that are bound and not served yet.
#[derive(Debug)]
pub struct Bound {
    pub(super) unix: Option<UnixListener>,
    pub(super) tcp: Option<TcpListener>,
    /// Removes the socket's file at the end.
    pub(super) _file: Option<SocketFile>,
}

impl Bound {
    /// The TCP address, with the port that the kernel chose if none was given.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }
}

/// Binds all that the options name. Must run inside a Tokio runtime.
///
/// # Errors
/// If a socket is taken, the path is no socket, the group is unknown, or the address is not loopback.
pub fn bind_all(options: &mut Options) -> Result<Bound, ListenError> {
    let (unix, file) = match (options.inherited.take(), &options.socket) {
        (Some(inherited), _) => (Some(inherited), None),
        (None, Some(path)) => {
            let mode = if options.mode == 0 { DEFAULT_MODE } else { options.mode };
            let (socket, file) = bind_unix(path, mode, options.group.as_deref())?;
            (Some(socket), Some(file))
        }
        (None, None) => (None, None),
    };
    let tcp = options.tcp.map(bind_tcp).transpose()?;
    if unix.is_none() && tcp.is_none() {
        return Err(ListenError::Nowhere);
    }
    let place = options.socket.clone().unwrap_or_else(|| "inherited socket".into());
    let adopt = |socket: StdUnixListener| {
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket)
    };
    let unix = unix.map(adopt).transpose().map_err(ListenError::at(&place, "listening on"))?;
    Ok(Bound { unix, tcp, _file: file })
}

/// Binds a TCP port of this machine's own.
pub(super) fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    if !address.ip().is_loopback() {
        return Err(ListenError::NotLoopback(address));
    }
    let bound = StdTcpListener::bind(address).and_then(adopt_tcp);
    bound.map_err(|source| ListenError::Io { what: "binding", place: address.to_string(), source })
}

/// Takes a listening TCP socket into the runtime.
pub(super) fn adopt_tcp(socket: StdTcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// The file of a socket; removed when dropped, if it is still the one that was made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
    /// Held for as long as the socket is served. The file stays: removing a lock file is a race.
    _lock: Flock<File>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a listening socket at `path`, in place of one that nobody serves.
fn bind_unix(
    path: &Path,
    mode: u32,
    group: Option<&str>,
) -> Result<(StdUnixListener, SocketFile), ListenError> {
    let gid = group.map(|group| find_group(path, group)).transpose()?;
    let lock = take_lock(path)?;
    remove_stale(path)?;
    let fail = ListenError::at(path, "binding");
    let listening = || -> io::Result<StdUnixListener> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        // Linux gives the new file the mode of the unbound socket: nobody gets in before the real mode is set.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        std::os::unix::fs::chown(path, None, gid)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(StdUnixListener::from(fd))
    };
    let socket = listening().map_err(&fail)?;
    let inode = fs::symlink_metadata(path).map_err(&fail)?.ino();
    Ok((socket, SocketFile { path: path.to_owned(), inode, _lock: lock }))
}

fn find_group(path: &Path, group: &str) -> Result<u32, ListenError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let found = Group::from_name(group).ok().flatten();
    let unknown = || ListenError::NoGroup { path: path.to_owned(), group: group.to_owned() };
    found.map(|group| group.gid.as_raw()).ok_or_else(unknown)
}

/// Of two daemons that start at once, one gets the lock.
fn take_lock(path: &Path) -> Result<Flock<File>, ListenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = File::options().create(true).append(true).open(&name);
    let file = file.map_err(ListenError::at(&name, "opening lock file"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, why)| match why {
        nix::errno::Errno::EWOULDBLOCK => ListenError::InUse(path.to_owned()),
        other => ListenError::at(&name, "locking")(other.into()),
    })
}

/// Removes a socket that nobody serves.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(ListenError::at(path, "looking at")(why)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(why) if why.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(ListenError::at(path, "removing stale socket"))
        }
        // Somebody answers, or is too busy to: either way it is alive.
        _ => Err(ListenError::InUse(path.to_owned())),
    }
}

/// Who is on the other end of a Unix socket, and their primary group.
pub(super) fn peer_of(stream: &UnixStream) -> io::Result<(Peer, u32)> {
    let credentials = stream.peer_cred()?;
    let uid = credentials.uid();
    Ok((Peer { app: AppId(uid), uid: Some(uid), pid: credentials.pid() }, credentials.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(path: &Path) -> Options {
        Options { socket: Some(path.to_owned()), ..Options::default() }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(StdUnixListener::bind(&path).unwrap());
        let first = bind_all(&mut options(&path)).unwrap();
        assert!(matches!(bind_all(&mut options(&path)), Err(ListenError::InUse(_))));
        drop(first);
        assert!(!path.exists(), "the socket's file goes with the socket");
        // One that is served by somebody who knows no lock.
        let foreign = StdUnixListener::bind(&path).unwrap();
        assert!(matches!(bind_all(&mut options(&path)), Err(ListenError::InUse(_))));
        drop(foreign);
        bind_all(&mut options(&path)).unwrap();
    }

    #[tokio::test]
    async fn a_file_is_not_taken_for_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind_all(&mut options(&path)), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successors_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = bind_all(&mut options(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        // Keeps the first inode's number from being given out again.
        let _other = StdUnixListener::bind(dir.path().join("t")).unwrap();
        let _successor = StdUnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn mode_is_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _bound = bind_all(&mut Options { mode: 0o620, ..options(&path) }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o620);
    }

    #[tokio::test]
    async fn refusals_say_what_would_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let group = Some("no-such-group".to_owned());
        let error = bind_all(&mut Options { group, ..options(&path) }).unwrap_err().to_string();
        assert!(error.contains("no group \"no-such-group\""), "{error}");
        let tcp = Some("0.0.0.0:0".parse().unwrap());
        let error = bind_all(&mut Options { tcp, ..Options::default() }).unwrap_err().to_string();
        assert!(error.contains("not a loopback address"), "{error}");
        assert!(matches!(bind_all(&mut Options::default()), Err(ListenError::Nowhere)));
    }
}
