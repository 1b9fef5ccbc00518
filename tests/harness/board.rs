//! A simulated board in a process of its own: it outlives the daemon, and its nodes can be looked at.

use super::{Guarded, eventually, root};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether FUSE trees can be had here; elsewhere trees are plain files, and the test says so.
pub fn fuse_works() -> bool {
    File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

/// A running `wattctl sim-board`.
#[derive(Debug)]
pub struct SimBoard {
    process: Option<Guarded>,
    dir: tempfile::TempDir,
    arguments: Vec<String>,
    pub file: PathBuf,
    pub mount: PathBuf,
    pub socket: PathBuf,
}

impl SimBoard {
    /// The board of `config/boards/NAME.toml`.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// The same with further arguments.
    pub fn start_with(name: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("board").tempdir().unwrap();
        let mut board = Self {
            process: None,
            file: root().join(format!("config/boards/{name}.toml")),
            mount: dir.path().join("sys"),
            socket: dir.path().join("board.sock"),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            dir,
        };
        board.begin();
        board
    }

    /// Starts it (again).
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let out = self.dir.path().join("out");
        let mut command = Command::new(env!("CARGO_BIN_EXE_wattctl"));
        command.arg("sim-board").arg("--board").arg(&self.file).arg("--mount").arg(&self.mount);
        command.arg("--socket").arg(&self.socket).args(&self.arguments).stdin(Stdio::null());
        let to = File::create(&out).unwrap();
        let child = command.stdout(to.try_clone().unwrap()).stderr(to).spawn().unwrap();
        let mut process = Guarded(child);
        let line = eventually("the simulated board", || {
            let text = std::fs::read_to_string(&out).unwrap();
            assert!(process.0.try_wait().unwrap().is_none(), "the simulated board ended: {text}");
            text.lines().find(|line| line.contains(" is at ")).map(str::to_owned)
        });
        // A person who reads the test's output knows what was tested.
        println!("{line}");
        assert_eq!(line.contains("plain files"), !fuse_works() || self.files_only(), "{line}");
        self.process = Some(process);
    }

    fn files_only(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "--files-only")
    }

    /// Ends it with SIGKILL: the tree stays behind, dead.
    pub fn kill(&mut self) {
        drop(self.process.take());
        self.unmount();
    }

    /// Ends it with SIGTERM.
    pub fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::SIGTERM);
        let status = process.ended();
        assert!(
            status.success(),
            "{status}: {}",
            std::fs::read_to_string(self.dir.path().join("out")).unwrap()
        );
    }

    fn unmount(&self) {
        // Where it is not mounted there is nothing to do.
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
    }

    /// Governors and bounds of all clock domains, by path.
    pub fn nodes(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        collect(&self.mount.join("devices"), &mut found);
        assert!(!found.is_empty(), "the board has clocks");
        found
    }
}

/// Fails with what differs from `before`, and nothing else.
pub fn as_found(board: &SimBoard, before: &BTreeMap<PathBuf, String>, when: &str) {
    let now = board.nodes();
    let differs = |(path, value): (&PathBuf, &String)| {
        let found = now.get(path).map_or("nothing", String::as_str);
        (found != value).then(|| format!("{}: {found}, was {value}", path.display()))
    };
    let faults: Vec<String> = before.iter().filter_map(differs).collect();
    assert!(faults.is_empty() && now.len() == before.len(), "{when}:\n{}", faults.join("\n"));
}

impl Drop for SimBoard {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            for _ in 0..100 {
                if !matches!(process.0.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        self.unmount();
    }
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    const NODES: [&str; 6] =
        ["scaling_governor", "scaling_min_freq", "scaling_max_freq", "governor", "min_freq", "max_freq"];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else if path.file_name().is_some_and(|name| NODES.iter().any(|node| name == *node)) {
            let text = std::fs::read_to_string(&path).unwrap();
            found.insert(path, text.trim().to_owned());
        }
    }
}
