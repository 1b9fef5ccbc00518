//! Caps of a Jetson's power modes: found, written into the board file as a hint, held where it asks for that, and put
//! back, whatever the nodes do.

use crate::tree::{self, Tree};
use crate::{look, written};
use std::path::Path;
use std::sync::Arc;
use wattd::board::detect::Places;
use wattd::board::restore::NodeOutcome;
use wattd::board::sim::process::{FixtureBoard, NodeFault};
use wattd::board::sysfs::{Roots, SysfsActuator, SysfsBoard};
use wattd::board::{BoardSpec, spec::CapSpec};
use wattd::ctl::board::Look;
use wattd::time::MonotonicClock;

const DLA: &str = "devices/platform/bus@0/13e00000.host1x/15880000.nvdla0/clk_cap/dla0_core";
const EMC: &str = "kernel/nvpmodel_clk_cap/emc";

#[test]
fn caps_are_found_wherever_a_jetpack_has_them_and_none_elsewhere() {
    for (board, expected) in [
        ("jetson-nano", &[("emc_iso_cap", None)][..]),
        ("jetson-xavier", &[("emc_iso_cap", None), ("nafll_dla", Some(1_395_200))]),
        ("jetson-orin-nx", &[("emc_iso_cap", None), ("dla0_core", Some(614_400))]),
        ("jetson-orin-nano", &[("emc", Some(3_199_000))]),
        ("jetson-agx-orin", &[("emc", Some(3_199_000)), ("dla1_core", Some(1_600_000))]),
        ("jetson-thor", &[("emc", Some(4_266_000))]),
        ("raspberry-pi-5", &[]),
    ] {
        let look = look(&Tree::of(board));
        let caps = &look.found.caps;
        for (name, khz) in expected {
            let found = caps.iter().find(|cap| cap.name == *name).map(|cap| cap.khz);
            assert_eq!(found, Some(*khz), "{board}: {name} in {caps:?}");
        }
        assert_eq!(caps.is_empty(), expected.is_empty(), "{board}: {caps:?}");
    }
}

#[test]
fn the_hint_in_the_board_file_is_one_that_can_be_taken() {
    let tree = Tree::of("jetson-agx-orin");
    let (_, text) = written(&tree, &look(&tree), &[]);
    let hints = text.lines().skip_while(|line| !line.starts_with("#[[hold.cap]]"));
    let hints = hints.take_while(|line| line.starts_with('#')).map(|line| line[1..].to_owned() + "\n");
    let spec = BoardSpec::parse(&(text.clone() + &hints.collect::<String>()), Path::new("board.toml"));
    let nodes: Vec<String> = spec.unwrap().hold.caps.into_iter().map(|cap| cap.node).collect();
    assert!(nodes.contains(&EMC.to_owned()) && nodes.contains(&DLA.to_owned()), "{nodes:?} in\n{text}");
}

/// A board over FUSE whose file asks for caps.
struct Bench {
    fixture: FixtureBoard,
    spec: BoardSpec,
    directory: tempfile::TempDir,
}

fn bench(name: &str, caps: &[(&str, u32)]) -> Option<Bench> {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("board");
    let fixture = match FixtureBoard::mount(&tree::fixture(name), &at) {
        Ok(fixture) => fixture,
        Err(error) => {
            println!("skipped: no FUSE here: {error}");
            return None;
        }
    };
    let look = Look::over(&Places::below(&at), None).unwrap();
    let text = wattd::board::detect::draft("board", &look.found, look.nearest.as_ref(), &[]).unwrap();
    let mut spec = BoardSpec::parse(&text, Path::new("board.toml")).unwrap();
    spec.hold.caps = caps.iter().map(|(node, khz)| CapSpec { node: (*node).to_owned(), khz: *khz }).collect();
    Some(Bench { fixture, spec, directory })
}

impl Bench {
    fn actuator(&self) -> SysfsActuator {
        let roots = Roots::below(&self.directory.path().join("board"));
        let board = SysfsBoard::open(&self.spec, &roots, Arc::new(MonotonicClock::start())).unwrap();
        board.into_parts(&self.directory.path().join("state")).unwrap().1
    }

    fn shows(&self, node: &str) -> String {
        let text = std::fs::read_to_string(self.directory.path().join("board/sys").join(node));
        text.unwrap_or_else(|error| panic!("{node}: {error}")).trim().to_owned()
    }

    fn others_write(&self, node: &str, value: &str) {
        assert_eq!(self.fixture.put(&format!("sys/{node}"), value), 1, "{node}");
    }

    fn fault(&self, node: &str, fault: &str) {
        let hit = self.fixture.fault(&format!("sys/{node}"), Some(&NodeFault::parse(fault).unwrap()));
        assert_eq!(hit, 1, "{node}");
    }
}

fn outcome(actuator: &mut SysfsActuator, node: &str) -> Option<NodeOutcome> {
    let report = actuator.restore_all().unwrap();
    report.nodes.into_iter().find(|one| one.path == Path::new(node)).map(|one| one.outcome)
}

#[test]
fn caps_are_held_and_put_back_in_both_dialects() {
    for (board, node, khz) in [
        ("jetson-agx-orin", EMC, 2_133_000),
        ("jetson-agx-orin", DLA, 614_400),
        // 0 there is no cap.
        ("jetson-orin-nx", "kernel/nvpmodel_emc_cap/emc_iso_cap", 2_133_000),
        ("jetson-xavier", "kernel/nvpmodel_emc_cap/nafll_dla", 1_100_800),
    ] {
        let Some(bench) = bench(board, &[(node, khz)]) else { return };
        let before = bench.shows(node);
        let mut actuator = bench.actuator();
        assert_eq!(bench.shows(node), format!("{khz}000"), "{board}: {node}");
        assert_eq!(outcome(&mut actuator, node), Some(NodeOutcome::Restored), "{board}: {node}");
        assert_eq!(bench.shows(node), before, "{board}: {node}");
    }
}

#[test]
fn several_caps_of_one_folder_are_each_put_back() {
    let (dla, falcon) = ("kernel/nvpmodel_emc_cap/nafll_dla", "kernel/nvpmodel_emc_cap/nafll_dla_falcon");
    let Some(bench) = bench("jetson-xavier", &[(dla, 1_100_800), (falcon, 640_000)]) else { return };
    drop(bench.actuator());
    assert_eq!((bench.shows(dla).as_str(), bench.shows(falcon).as_str()), ("1395200000", "844800000"));
}

#[test]
fn a_cap_that_fails_when_it_is_to_be_held_is_left_as_it_is() {
    for fault in ["refuse EIO", "refuse EACCES", "refuse EINVAL", "eio", "text fast", "vanish"] {
        let Some(bench) = bench("jetson-agx-orin", &[(EMC, 2_133_000)]) else { return };
        bench.fault(EMC, fault);
        let mut actuator = bench.actuator();
        bench.fixture.heal();
        assert_eq!(bench.shows(EMC), "3199000000", "{fault}: nothing was changed");
        actuator.restore_all().unwrap();
        assert_eq!(bench.shows(EMC), "3199000000", "{fault}");
    }
}

#[test]
fn what_becomes_of_a_held_cap_is_told_and_others_are_respected() {
    let held = |after: &dyn Fn(&Bench), expected: NodeOutcome, shows: &str| {
        let Some(bench) = bench("jetson-agx-orin", &[(EMC, 2_133_000)]) else { return };
        let mut actuator = bench.actuator();
        after(&bench);
        assert_eq!(outcome(&mut actuator, EMC), Some(expected.clone()));
        bench.fixture.heal();
        assert_eq!(bench.shows(EMC), shows, "{expected:?}");
    };
    // nvpmodel chose another mode: its caps stay.
    let raised = NodeOutcome::LeftAlone(Some("2800000000".to_owned()));
    held(&|bench| bench.others_write(EMC, "2800000000"), raised, "2800000000");
    let lowered = NodeOutcome::LeftAlone(Some("665600000".to_owned()));
    held(&|bench| bench.others_write(EMC, "665600000"), lowered, "665600000");
    // The firmware lowers it further, or never raises again what was lowered: the original is written all the same.
    let limited = NodeOutcome::Limited("1919400000".to_owned());
    held(&|bench| bench.fault(EMC, "clamp 60"), limited, "3199000000");
    let gone = "cannot read";
    let Some(bench) = bench("jetson-agx-orin", &[(EMC, 2_133_000)]) else { return };
    let mut actuator = bench.actuator();
    bench.fault(EMC, "eio");
    let failed = outcome(&mut actuator, EMC);
    assert!(matches!(&failed, Some(NodeOutcome::Failed(why)) if why.contains(gone)), "{failed:?}");
    bench.fixture.heal();
    assert_eq!(outcome(&mut actuator, EMC), Some(NodeOutcome::Restored), "the next try");
    assert_eq!(bench.shows(EMC), "3199000000");
}
