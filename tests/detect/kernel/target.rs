//! Who is asked: a kernel, a board of text, or a simulated board.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use wattd::board::BoardSpec;
use wattd::board::sim::process::{BoardProcess, Fixture, FixtureBoard, NodeFault, ServeOptions, TreeKind};
use wattd::board::sim::{ActuatorFault, Change, PlantSpec, Sensor, SensorFailure};
use wattd::core::catalog::{DomainId, ZoneId};
use wattd::units::Kilohertz;

/// The highest clocks of the board that tests/vm/board.c makes, in kHz.
const HIGHEST: [(&str, u32); 2] = [("cpu", 1_200_000), ("gpu", 1_020_000)];

/// What a zone shows whose driver says EAGAIN, which a kernel of 5.15 passes on.
const SHOWN_FOR_EAGAIN: &str = "ENODATA";

/// A board that answers, and to which things happen.
pub(super) trait Target {
    /// What stands for `/sys`.
    fn sys(&self) -> &Path;
    /// `cap cpu|gpu KHZ` (0: none), `heat MILLICELSIUS`, `heat-error ERRNO`, `offline CPU`, `online CPU`.
    fn act(&self, action: &str);
    /// Waits until what was written is in force.
    fn settle(&self) {}
}

fn words(action: &str) -> Vec<&str> {
    action.split(' ').collect()
}

/// The kernel itself, on which tests/vm/board.c runs.
pub(super) struct Kernel;

impl Target for Kernel {
    fn sys(&self) -> &Path {
        Path::new("/sys")
    }

    fn act(&self, action: &str) {
        let parameter = |name: &str, value: &str| {
            std::fs::write(Path::new("/sys/module/board/parameters").join(name), value).unwrap();
        };
        match words(action)[..] {
            ["cap", clock, khz] => parameter(&format!("{clock}_cap_khz"), khz),
            ["heat", value] => {
                parameter("temp_error", "0");
                parameter("temp", value);
            }
            ["heat-error", name] => {
                let known = [nix::errno::Errno::EAGAIN, nix::errno::Errno::EIO, nix::errno::Errno::ENODATA];
                let errno = known.into_iter().find(|errno| format!("{errno:?}") == name).unwrap();
                parameter("temp_error", &(errno as i32).to_string());
            }
            [state @ ("offline" | "online"), cpu] => {
                let node = format!("/sys/devices/system/cpu/cpu{cpu}/online");
                std::fs::write(node, if state == "online" { "1" } else { "0" }).unwrap();
            }
            _ => panic!("{action}: no such action"),
        }
    }

    /// A cpufreq bound is taken over by a worker thread, some time after the write() has ended.
    fn settle(&self) {
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
}

/// A board of text.
pub(super) struct Text {
    board: FixtureBoard,
    directory: tempfile::TempDir,
    sys: PathBuf,
}

impl Text {
    /// `None`, and why, where FUSE is not to be had.
    pub(super) fn mount(fixture: &Fixture) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("board");
        match FixtureBoard::mount(fixture, &at) {
            Ok(board) => Some(Self { board, sys: at.join("sys"), directory }),
            Err(error) => {
                println!("skipped: no FUSE here: {error}");
                None
            }
        }
    }

    /// What stands for `/`.
    pub(super) fn root(&self) -> PathBuf {
        self.directory.path().join("board")
    }

    fn zone(&self) -> String {
        let types = self.board.held("*/thermal_zone*/type");
        let (path, _) = types.iter().find(|(_, text)| *text == "board-thermal").unwrap();
        path.replace("/type", "/temp")
    }
}

impl Target for Text {
    fn sys(&self) -> &Path {
        &self.sys
    }

    fn act(&self, action: &str) {
        match words(action)[..] {
            ["cap", clock, khz] => {
                let node = if clock == "cpu" { "*/policy0/scaling_max_freq" } else { "*/1000.gpu/max_freq" };
                let (_, highest) = HIGHEST.into_iter().find(|(name, _)| *name == clock).unwrap();
                let percent = khz.parse::<u64>().unwrap() * 100 / u64::from(highest);
                let fault = (percent > 0).then_some(NodeFault::Clamp(percent));
                assert_eq!(self.board.fault(node, fault.as_ref()), 1);
            }
            ["heat", value] => {
                self.board.fault(&self.zone(), None);
                assert_eq!(self.board.put(&self.zone(), value), 1);
            }
            ["heat-error", name] => {
                let shown = if name == "EAGAIN" { SHOWN_FOR_EAGAIN } else { name };
                let fault = NodeFault::parse(&shown.to_lowercase()).unwrap();
                assert_eq!(self.board.fault(&self.zone(), Some(&fault)), 1);
            }
            [state @ ("offline" | "online"), cpu] => {
                let fault = NodeFault::parse("ebusy").unwrap();
                let pattern = format!("*/policy{cpu}/*");
                assert!(self.board.fault(&pattern, (state == "offline").then_some(&fault)) > 0);
            }
            _ => panic!("{action}: no such action"),
        }
    }
}

/// A simulated board, whose plant is described in `tests/data/kernel/board.toml`.
pub(super) struct Plant {
    process: BoardProcess,
    sys: PathBuf,
    _directory: tempfile::TempDir,
}

impl Plant {
    pub(super) fn start() -> Option<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kernel/board.toml");
        let spec = PlantSpec::from_board(&BoardSpec::load(&file).unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let sys = directory.path().join("sys");
        let options = ServeOptions {
            mount: sys.clone(),
            socket: directory.path().join("board.sock"),
            seed: 1,
            script: None,
            until: None,
            files_only: false,
        };
        let process = BoardProcess::start(Arc::new(spec), options).unwrap();
        if let TreeKind::Files(why) = process.tree_kind() {
            println!("skipped: no FUSE here: {why}");
            return None;
        }
        Some(Self { process, sys, _directory: directory })
    }

    fn disturb(&self, change: &Change) {
        self.process.board().disturb(change);
    }
}

impl Target for Plant {
    fn sys(&self) -> &Path {
        &self.sys
    }

    fn act(&self, action: &str) {
        let sensor = |sensor, failure| self.disturb(&Change::Sensor { sensor, failure });
        let zone = Sensor::Zone(ZoneId(0));
        match words(action)[..] {
            ["cap", clock, khz] => {
                let domain = DomainId(if clock == "cpu" { 0 } else { 2 });
                let khz: u32 = khz.parse().unwrap();
                let fault = (khz > 0).then_some(ActuatorFault::Clamp(Kilohertz(khz)));
                self.disturb(&Change::Actuator { domain, fault });
            }
            ["heat", value] => {
                let celsius = value.parse::<f64>().unwrap() / 1e3;
                sensor(zone, Some(SensorFailure::Value(celsius)));
            }
            ["heat-error", "EIO"] => sensor(zone, Some(SensorFailure::Io)),
            ["heat-error", "EAGAIN" | "ENODATA"] => sensor(zone, Some(SensorFailure::NoData)),
            [state @ ("offline" | "online"), _] => {
                let failure = (state == "offline").then_some(SensorFailure::Busy);
                sensor(Sensor::Domain(DomainId(1)), failure);
            }
            _ => panic!("{action}: no such action"),
        }
    }
}
