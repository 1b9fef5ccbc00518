//! The tree and the socket, against a real mount where there is one to be had.

mod socket;
mod sysfs;

use super::*;
use crate::board::sim::tests::{BOARDS, board, quiet};
use std::path::Path;

/// A served board in a directory of its own; taken down on drop.
struct Served {
    process: BoardProcess,
    // Removed after the process has let go of it: fields drop in order.
    directory: tempfile::TempDir,
}

impl Served {
    fn start(name: &str, files_only: bool, change: impl FnOnce(&mut PlantSpec)) -> Self {
        let mut spec = PlantSpec::from_board(&board(name)).unwrap();
        quiet(&mut spec);
        change(&mut spec);
        let directory = tempfile::tempdir().unwrap();
        let options = ServeOptions {
            mount: directory.path().join("sys"),
            socket: directory.path().join("board.sock"),
            seed: 1,
            script: None,
            until: None,
            files_only,
        };
        Self { process: BoardProcess::start(Arc::new(spec), options).unwrap(), directory }
    }

    /// The board with a real sysfs tree, or `None`, and why, where FUSE is not to be had.
    fn fuse(name: &str) -> Option<Self> {
        let served = Self::start(name, false, |_| {});
        if let TreeKind::Files(reason) = served.process.tree_kind() {
            println!("skipped: no FUSE here: {reason}");
            return None;
        }
        Some(served)
    }

    fn root(&self) -> &Path {
        &self.process.options.mount
    }

    fn socket(&self) -> &Path {
        &self.process.options.socket
    }

    fn units(&self) -> Vec<String> {
        self.process.board().spec().units.iter().map(|unit| unit.name.clone()).collect()
    }

    fn remote(&self) -> RemoteAccelerator {
        let name = self.process.board().spec().board.clone();
        RemoteAccelerator::connect(self.socket(), &name, &self.units()).unwrap()
    }
}
