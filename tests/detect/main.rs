//! Boards are recognised from what their kernels show, and the board file that is written suits them.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod bare;
mod caps;
mod faults;
mod instruments;
mod kernel;
mod matrix;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tree::Tree;
use wattd::board::detect::{Accelerator, Places, draft};
use wattd::board::sysfs::SysfsBoard;
use wattd::board::{BoardSpec, Telemetry as _};
use wattd::core::catalog::UnitKind;
use wattd::ctl::board::Look;
use wattd::time::MonotonicClock;

/// Looks over a tree, nobody having asked for providers.
fn look(tree: &Tree) -> Look {
    Look::over(&Places::below(tree.root()), None).unwrap()
}

/// The board file for a tree.
fn written(tree: &Tree, look: &Look, offers: &[Accelerator]) -> (BoardSpec, String) {
    let text = draft("board", &look.found, look.nearest.as_ref(), offers).unwrap();
    let text = tree.without_root(&text);
    (BoardSpec::parse(&text, Path::new("board.toml")).unwrap(), text)
}

fn offer(provider: &str, kind: UnitKind) -> Accelerator {
    Accelerator { provider: provider.to_owned(), kind, library: None }
}

/// All files with what is in them.
fn contents(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            contents(&path, found);
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
}

#[test]
fn every_board_is_shown_as_it_is() {
    let names = tree::names();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let tree = Tree::of(&name);
        let mut before = BTreeMap::new();
        contents(tree.root(), &mut before);
        let look = look(&tree);
        insta::assert_snapshot!(name.as_str(), tree.without_root(&look.text()));
        let mut after = BTreeMap::new();
        contents(tree.root(), &mut after);
        assert!(before == after, "{name}: something was written");
    }
}

#[test]
fn the_written_file_opens_the_board_whole_and_every_sensor_reads() {
    for name in tree::names() {
        let tree = Tree::of(&name);
        let look = look(&tree);
        let (spec, text) = written(&tree, &look, &[]);
        insta::assert_snapshot!(format!("{name}-file"), text);
        let roots = Places::below(tree.root()).roots;
        let board = SysfsBoard::open(&spec, &roots, Arc::new(MonotonicClock::start())).unwrap();
        let missing: Vec<&String> =
            board.missing().iter().filter(|what| !what.contains("pressure stall information")).collect();
        assert!(missing.is_empty(), "{name}: {missing:?}");
        for (domain, spec) in board.board().domains.iter().zip(&spec.domains) {
            let opps: Vec<u32> = domain.opps.iter().map(|opp| opp.0).collect();
            assert_eq!(opps, spec.opps_khz, "{name}: {}", domain.name);
        }
        let mut telemetry = board.into_telemetry();
        telemetry.sample();
        std::thread::sleep(std::time::Duration::from_millis(10));
        let readings = telemetry.sample();
        assert!(readings.zones.iter().all(Result::is_ok), "{name}: {:?}", readings.zones);
        assert!(readings.rails.iter().all(Result::is_ok), "{name}: {:?}", readings.rails);
        assert!(readings.domains.iter().all(Result::is_ok), "{name}: {:?}", readings.domains);
        assert_eq!(spec.battery, readings.battery.is_some(), "{name}");
    }
}

#[test]
fn every_board_that_has_a_file_gets_it() {
    for (name, expected) in [
        ("jetson-orin-nano", Some("jetson-orin-nano")),
        ("jetson-nano", Some("jetson-nano")),
        ("raspberry-pi-4", Some("raspberry-pi-4")),
        ("raspberry-pi-5", Some("raspberry-pi-5")),
        ("rk3588-vendor", Some("rk3588")),
        ("rk3588-mainline", Some("rk3588")),
        ("laptop-intel", Some("generic-x86")),
        ("desktop-amd", Some("generic-x86")),
        ("linux-vm", Some("generic-x86")),
        ("jetson-orin-nx", Some("jetson-orin-nx")),
        ("jetson-agx-orin", Some("jetson-agx-orin")),
        ("jetson-xavier", Some("jetson-agx-xavier")),
        ("jetson-thor", Some("jetson-thor")),
        ("arm-generic", Some("generic-arm")),
    ] {
        let look = look(&Tree::of(name));
        assert_eq!(look.nearest.as_ref().map(|nearest| nearest.board.as_str()), expected, "{name}");
    }
}

#[test]
fn a_board_is_known_by_its_most_specific_name() {
    let tree = Tree::empty();
    tree.put("sys/firmware/devicetree/base/compatible 444 vendor,board\\0raspberrypi,5-model-b\\0rockchip,rk3588\\0").unwrap();
    assert_eq!(look(&tree).nearest.unwrap().board, "raspberry-pi-5");
}

#[test]
fn the_device_tree_is_found_in_proc_too() {
    let tree = Tree::empty();
    tree.put("proc/device-tree/model 444 Some Board\\0").unwrap();
    assert_eq!(look(&tree).found.identity.name(), "Some Board");
}

#[test]
fn what_a_board_file_names_and_the_board_lacks_is_told_and_the_other_way_round() {
    let look = look(&Tree::of("rk3588-mainline"));
    let nearest = look.nearest.unwrap();
    let absent = nearest.absent.join("\n");
    for expected in ["domain npu: no devfreq device fits", "zone soc-thermal: no thermal zone of type"] {
        assert!(absent.contains(expected), "{expected} in {absent}");
    }
    for expected in ["clock fb000000.gpu-panthor", "zone package-thermal", "clock policy6"] {
        assert!(nearest.unused.contains(&expected.to_owned()), "{expected} in {:?}", nearest.unused);
    }
}

#[test]
fn a_provider_makes_a_unit_of_the_clock_it_drives() {
    let tree = Tree::of("jetson-orin-nano");
    let look = look(&tree);
    let offers = [
        offer("CPUExecutionProvider", UnitKind::Cpu),
        offer("CUDAExecutionProvider", UnitKind::Gpu),
        offer("TensorrtExecutionProvider", UnitKind::Gpu),
    ];
    let (spec, text) = written(&tree, &look, &offers);
    let gpu = spec.units.iter().find(|unit| unit.kind == UnitKind::Gpu).unwrap();
    assert_eq!((gpu.provider.as_str(), gpu.domain.as_deref()), ("TensorrtExecutionProvider", Some("gpu")));
    assert_eq!(gpu.rail.as_deref(), Some("VDD_CPU_GPU_CV"));
    let (without, hint) = written(&tree, &look, &[]);
    assert!(
        without.units.iter().all(|unit| unit.kind == UnitKind::Cpu),
        "nothing runs on what has no provider"
    );
    assert!(hint.contains("#provider = \"NAME\""), "{hint}");
    assert!(!text.contains("NAME"), "{text}");
    let library = Some(PathBuf::from("/usr/lib/plug-in.so"));
    let npu = Accelerator { library: library.clone(), ..offer("QNNExecutionProvider", UnitKind::Npu) };
    let (spec, _) = written(&tree, &look, &[npu]);
    let npu = spec.units.iter().find(|unit| unit.kind == UnitKind::Npu).unwrap();
    assert_eq!(
        (npu.domain.as_ref(), &npu.provider_library),
        (None, &library),
        "without a clock, by a plug-in"
    );
}

#[test]
fn what_is_missing_says_what_it_costs() {
    let tree = Tree::empty();
    let places = Places::below(tree.root());
    let look = Look::over(&places, None).unwrap();
    let text = look.text();
    for expected in [
        "unknown board",
        "missing: no power sensor: energy is modelled",
        "missing: no thermal zone: ",
        "missing: no cpufreq policy: ",
        "missing: no battery: ",
        "missing: no pressure stall information: ",
        "board file: none that comes with wattd fits",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    let (spec, _) = written(&tree, &look, &[]);
    assert_eq!(spec.units.len(), 1, "a CPU there is always");
    let text = tree.without_root(&look.text());
    insta::assert_snapshot!("nothing", text);
}

#[test]
fn the_document_for_programs_says_the_same() {
    let document = serde_json::to_value(look(&Tree::of("jetson-orin-nano"))).unwrap();
    assert_eq!(document["identity"]["l4t"], serde_json::json!({ "release": "36.4.3", "jetpack": 6 }));
    assert_eq!(document["nearest"]["board"], "jetson-orin-nano");
    assert_eq!(document["rails"][0]["name"], "VDD_IN");
    // 5.04 V x 0.924 A.
    assert_eq!(document["rails"][0]["watts"], 4.65696);
    assert_eq!(document["clocks"][0]["opps_khz"].as_array().unwrap().len(), 22);
    assert_eq!(document["providers"], serde_json::Value::Null);
    assert!(document["missing"].as_array().unwrap().iter().all(|gap| gap["costs"].is_string()));
}
