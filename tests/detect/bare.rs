//! Boards that lack something, or say it in an odd way: they are opened, say what they lack, and are read.

use crate::tree::{self, Tree};
use std::sync::Arc;
use wattd::board::detect::{Places, draft};
use wattd::board::sysfs::{Roots, SysfsBoard};
use wattd::board::{Actuator as _, BoardSpec, Telemetry as _};
use wattd::core::event::{Readings, SensorFault, Setpoints};
use wattd::ctl::board::Look;
use wattd::time::MonotonicClock;
use wattd::units::{Kilohertz, Microwatts, MilliCelsius};

/// A shipped board file on a tree.
fn open(board: &str, tree: &Tree) -> SysfsBoard {
    let spec = wattd::board::shipped::named(board).unwrap().unwrap();
    SysfsBoard::open(&spec, &Roots::below(tree.root()), Arc::new(MonotonicClock::start())).unwrap()
}

/// What the written file makes of a tree.
fn drafted(tree: &Tree) -> (BoardSpec, SysfsBoard) {
    let look = Look::over(&Places::below(tree.root()), None).unwrap();
    let text = draft("board", &look.found, look.nearest.as_ref(), &[]).unwrap();
    let spec = BoardSpec::parse(&text, std::path::Path::new("board.toml")).unwrap();
    let board = SysfsBoard::open(&spec, &Roots::below(tree.root()), Arc::new(MonotonicClock::start()));
    (spec, board.unwrap())
}

fn put(tree: &Tree, lines: &[&str]) {
    for line in lines {
        tree.put(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

fn assert_nothing(readings: &Readings) {
    assert!(readings.zones.iter().all(|one| *one == Err(SensorFault::Missing)), "{readings:?}");
    assert!(readings.rails.iter().all(|one| *one == Err(SensorFault::Missing)), "{readings:?}");
    assert!(readings.domains.iter().all(|one| *one == Err(SensorFault::Missing)), "{readings:?}");
}

#[test]
fn a_container_without_sys_is_a_board_that_lacks_everything() {
    let tree = Tree::empty();
    std::fs::remove_dir_all(tree.root().join("sys")).unwrap();
    let board = open("raspberry-pi-5", &tree);
    let missing = board.missing().join("\n");
    for part in ["no directory that stands for /sys", "domain cpu: ", "zone cpu-thermal: ", "pressure stall"]
    {
        assert!(missing.contains(part), "{part} in {missing}");
    }
    let points = board.board().domains[0].opps.clone();
    let state = tree.root().join("state");
    let (mut telemetry, mut actuator) = board.into_parts(&state).unwrap();
    let readings = telemetry.sample();
    assert_nothing(&readings);
    assert!(readings.memory.is_ok(), "which is not in sysfs");
    let (min, max) = (points[0], points[0]);
    let wanted =
        Setpoints { domains: [Some(wattd::core::event::ClockBounds { min, max })].into_iter().collect() };
    let report = actuator.apply(&wanted);
    let refused = wattd::core::event::Applied::Refused(SensorFault::Missing);
    assert_eq!(report.domains, [Some(refused)]);
}

#[test]
fn an_empty_sys_lacks_clocks_zones_and_rails_by_name() {
    let tree = Tree::empty();
    let board = open("jetson-orin-nano", &tree);
    let missing = board.missing().join("\n");
    for part in
        ["no cpufreq policy holds CPU 0", "no devfreq device", "no thermal zone of type", "no hwmon device"]
    {
        assert!(missing.contains(part), "{part} in {missing}");
    }
    assert_nothing(&board.into_telemetry().sample());
}

#[test]
fn one_cpu_and_two_hundred_and_fifty_six_make_a_board() {
    for count in [1_u16, 256] {
        let tree = Tree::empty();
        let online = if count == 1 { "0".to_owned() } else { format!("0-{}", count - 1) };
        put(&tree, &[&format!("sys/devices/system/cpu/online 444 {online}")]);
        for cpu in 0..count {
            let policy = format!("sys/devices/system/cpu/cpufreq/policy{cpu}");
            put(
                &tree,
                &[
                    &format!("{policy}/affected_cpus 444 {cpu}"),
                    &format!("{policy}/related_cpus 444 {cpu}"),
                    &format!("{policy}/cpuinfo_min_freq 444 800000"),
                    &format!("{policy}/cpuinfo_max_freq 444 3200000"),
                    &format!("{policy}/scaling_cur_freq 444 800000"),
                    &format!("{policy}/scaling_min_freq 644 800000"),
                    &format!("{policy}/scaling_max_freq 644 3200000"),
                    &format!("{policy}/scaling_governor 644 schedutil"),
                ],
            );
        }
        let (spec, board) = drafted(&tree);
        assert!(!spec.units.is_empty() && !spec.domains.is_empty(), "{count}");
        let opps = &board.board().domains[0].opps;
        assert_eq!((opps.first(), opps.last()), (Some(&Kilohertz(800_000)), Some(&Kilohertz(3_200_000))));
        let readings = board.into_telemetry().sample();
        assert!(readings.domains.iter().all(Result::is_ok), "{count}: {:?}", readings.domains);
    }
}

#[test]
fn cpus_that_are_switched_off_are_no_reason_to_stop() {
    let tree = Tree::of("jetson-agx-orin");
    // Its third cluster is off: the policy is there and its nodes answer EBUSY, as directories do not read either.
    put(
        &tree,
        &[
            "sys/devices/system/cpu/cpufreq/policy8/affected_cpus error EBUSY",
            "sys/devices/system/cpu/cpufreq/policy8/related_cpus 444 8 9 10 11",
            "sys/devices/system/cpu/cpufreq/policy8/scaling_cur_freq error EBUSY",
            "sys/devices/system/cpu/cpufreq/policy8/scaling_min_freq error EBUSY",
            "sys/devices/system/cpu/cpufreq/policy8/scaling_max_freq error EBUSY",
        ],
    );
    let (_, board) = drafted(&tree);
    let readings = board.into_telemetry().sample();
    assert!(readings.domains[0].is_ok(), "{:?}", readings.domains);
}

#[test]
fn trips_in_any_order_or_none_and_clocks_in_any_order_are_understood() {
    let tree = tree::Tree::of("raspberry-pi-4");
    let zone = "sys/class/thermal/thermal_zone0";
    for entry in std::fs::read_dir(tree.root().join(zone)).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("trip_point") {
            std::fs::remove_file(path).unwrap();
        }
    }
    put(
        &tree,
        &[
            "sys/devices/system/cpu/cpufreq/policy0/scaling_available_frequencies 444 1500000 600000 1500000 1000000 600000 x -5 0",
        ],
    );
    let board = open("raspberry-pi-4", &tree);
    let spec = wattd::board::shipped::named("raspberry-pi-4").unwrap().unwrap();
    let opps: Vec<u32> = board.board().domains[0].opps.iter().map(|opp| opp.0).collect();
    assert_eq!(opps, [600_000, 1_000_000, 1_500_000], "ascending, each once, no nonsense");
    assert_eq!(
        board.board().zones[0].passive.as_celsius(),
        spec.zones[0].passive_c,
        "the file's, for want of any"
    );
    put(
        &tree,
        &[
            &format!("{zone}/trip_point_0_type 444 critical"),
            &format!("{zone}/trip_point_0_temp 444 110000"),
            &format!("{zone}/trip_point_1_type 444 passive"),
            &format!("{zone}/trip_point_1_temp 444 95000"),
            &format!("{zone}/trip_point_2_type 444 passive"),
            &format!("{zone}/trip_point_2_temp 444 75000"),
        ],
    );
    let zones = open("raspberry-pi-4", &tree).board().zones.clone();
    assert_eq!((zones[0].passive, zones[0].critical), (MilliCelsius(75_000), MilliCelsius(110_000)));
}

#[test]
fn a_rail_that_idles_below_zero_reads_below_zero() {
    let tree = Tree::of("jetson-thor");
    let (spec, board) = drafted(&tree);
    let gpu = spec.rails.iter().position(|rail| rail.name == "VDD_GPU");
    let readings = board.into_telemetry().sample();
    // 12 V x -24 mA.
    assert_eq!(readings.rails[gpu.unwrap()], Ok(Microwatts(-288_000)));
    assert!(readings.rails.iter().all(Result::is_ok), "{:?}", readings.rails);
}
