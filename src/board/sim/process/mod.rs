//! A simulated board as a process of its own: its plant in real time, behind a sysfs tree that a daemon
//! reads and writes as it would a kernel's, and an accelerator socket on which the daemon's lanes run.
//!
//! The board outlives the daemon: after a crash or a SIGKILL of the daemon its clocks can be inspected and
//! restored, and runs of the vanished daemon are aborted.

mod attr;
mod faults;
mod fixture;
mod fuse;
mod live;
mod mirror;
mod mount;
mod remote;
mod server;
mod tree;
mod wire;

pub use fixture::{Fixture, FixtureBoard, FixtureError, NodeFault};
pub use remote::RemoteAccelerator;

use self::mirror::Mirror;
use self::server::Server;
use self::tree::Tree;
use super::board::SimBoard;
use super::plant::PlantStats;
use super::script::Script;
use super::spec::PlantSpec;
use crate::time::{Clock, MonotonicClock};
use crate::units::Nanos;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the tree of files is refreshed and the stop flag looked at.
const PERIOD: Duration = Duration::from_millis(20);
/// Periods that stopping waits for the file system's thread when something still holds the tree open.
const UNMOUNT_PATIENCE: u32 = 25;

/// How to serve a board.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Directory on which the tree appears; made if missing.
    pub mount: PathBuf,
    /// The accelerator socket.
    pub socket: PathBuf,
    /// Seed of everything random.
    pub seed: u64,
    /// Disturbances, from the start.
    pub script: Option<Script>,
    /// Stop by itself after this time.
    pub until: Option<Nanos>,
    /// Do not try FUSE: a tree of files, as where `/dev/fuse` is missing.
    pub files_only: bool,
}

/// How the tree is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeKind {
    /// FUSE: behaves as sysfs does.
    Fuse,
    /// Ordinary files, with the reason why it is not FUSE. Values are refreshed every 20 ms, errors of the
    /// kernel cannot be shown.
    Files(String),
}

/// Why a board could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The mount directory cannot be used.
    #[error("mount directory {path}: {source}")]
    Mount {
        /// The directory.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The socket cannot be used.
    #[error("accelerator socket {path}: {source}")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// What there was when the board stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeReport {
    /// How the tree was served.
    pub tree: TreeKind,
    /// What the board went through.
    pub stats: PlantStats,
}

enum Served {
    Fuse(fuser::BackgroundSession),
    Files(Mirror),
}

/// A board that is being served.
pub struct BoardProcess {
    board: SimBoard,
    options: ServeOptions,
    clock: Arc<dyn Clock>,
    kind: TreeKind,
    tree: Option<Served>,
    /// Closed on drop.
    server: Option<Server>,
}

impl BoardProcess {
    /// Mounts the tree and opens the socket.
    ///
    /// # Errors
    /// If the directory or the socket cannot be used. That FUSE is not to be had is no error: see
    /// [`BoardProcess::tree_kind`].
    pub fn start(spec: Arc<PlantSpec>, options: ServeOptions) -> Result<Self, ServeError> {
        let clock = MonotonicClock::shared();
        let tree = Tree::of(&spec);
        let board = SimBoard::new(spec, options.seed, Arc::clone(&clock));
        let mount_error = |source| ServeError::Mount { path: options.mount.clone(), source };
        mount::prepare(&options.mount).map_err(mount_error)?;
        // The socket first: a second process for the same board fails before it touches the tree.
        let server = Server::start(board.clone(), &options.socket)
            .map_err(|source| ServeError::Socket { path: options.socket.clone(), source })?;
        let mounted = if options.files_only {
            Err(io::Error::other("asked for"))
        } else {
            let source = fuse::PlantSource { board: board.clone(), tree: tree.clone() };
            fuse::mount(source, &options.mount)
        };
        let (kind, served) = match mounted {
            Ok(session) => (TreeKind::Fuse, Served::Fuse(session)),
            Err(error) => {
                tracing::warn!(%error, "no FUSE: the sysfs tree is made of ordinary files");
                let mirror = Mirror::create(board.clone(), &tree, &options.mount).map_err(mount_error)?;
                (TreeKind::Files(error.to_string()), Served::Files(mirror))
            }
        };
        if let Some(script) = &options.script {
            board.play(script);
        }
        Ok(Self { board, options, clock, kind, tree: Some(served), server: Some(server) })
    }

    /// How the tree is served.
    #[must_use]
    pub fn tree_kind(&self) -> &TreeKind {
        &self.kind
    }

    /// The board itself.
    #[must_use]
    pub fn board(&self) -> &SimBoard {
        &self.board
    }

    /// Serves until `stop` is set or the time is over, then unmounts.
    ///
    /// # Errors
    /// If the tree of files cannot be kept up, or the tree cannot be unmounted.
    pub fn run(mut self, stop: &AtomicBool) -> Result<ServeReport, ServeError> {
        let start = self.clock.now();
        let mut result = Ok(());
        while result.is_ok() && !stop.load(Ordering::Relaxed) {
            let served = self.clock.now().since(start);
            if self.options.until.is_some_and(|until| served >= until) {
                break;
            }
            result = self.step();
            std::thread::sleep(PERIOD);
        }
        let report = ServeReport { tree: self.kind.clone(), stats: self.board.stats() };
        result
            .and(self.stop())
            .map_err(|source| ServeError::Mount { path: self.options.mount.clone(), source })?;
        Ok(report)
    }

    /// Lets the plant go on, so that no reader finds a long gap to integrate; refreshes files.
    fn step(&mut self) -> io::Result<()> {
        self.board.with(|plant, now| plant.advance(now));
        match &mut self.tree {
            Some(Served::Files(mirror)) => mirror.refresh(),
            _ => Ok(()),
        }
    }

    fn stop(&mut self) -> io::Result<()> {
        drop(self.server.take());
        match self.tree.take() {
            None => Ok(()),
            Some(Served::Files(mirror)) => mirror.remove(),
            Some(Served::Fuse(session)) => {
                // Detached, the tree is gone for everyone at once; a file still open somewhere keeps only
                // its own end of it.
                mount::detach(&self.options.mount)?;
                for _ in 0..UNMOUNT_PATIENCE {
                    if session.guard.is_finished() {
                        return session.join();
                    }
                    std::thread::sleep(PERIOD);
                }
                tracing::warn!("a process still holds the simulated sysfs tree open");
                Ok(())
            }
        }
    }
}

impl Drop for BoardProcess {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "the simulated board's tree could not be taken down");
        }
    }
}

/// Serves a board until `stop` is set: the whole of a simulated board's process.
///
/// # Errors
/// As [`BoardProcess::start`] and [`BoardProcess::run`].
pub fn serve(
    spec: Arc<PlantSpec>,
    options: ServeOptions,
    stop: &AtomicBool,
) -> Result<ServeReport, ServeError> {
    BoardProcess::start(spec, options)?.run(stop)
}

#[cfg(test)]
mod tests;
