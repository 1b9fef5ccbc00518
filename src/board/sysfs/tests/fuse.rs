//! The same code against a tree with a real kernel's semantics: every simulated board, over FUSE.

use super::tree::HandClock;
use crate::board::restore::journal::file;
use crate::board::restore::{JournalFate, restore};
use crate::board::sim::process::{BoardProcess, ServeOptions, TreeKind};
use crate::board::sim::{ActuatorFault, Change, PlantSpec, Sensor, SensorFailure};
use crate::board::spec::BoardSpec;
use crate::board::sysfs::kill::on::{after, revive};
use crate::board::sysfs::{Roots, SysfsBoard};
use crate::board::{Actuator, Telemetry};
use crate::core::catalog::{DomainId, RailId, ZoneId};
use crate::core::event::{Applied, ClockBounds, DomainBounds, Readings, SensorFault, Setpoints};
use crate::units::Nanos;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Served {
    process: BoardProcess,
    spec: BoardSpec,
    clock: Arc<HandClock>,
    directory: tempfile::TempDir,
}

/// The named board on a mount of its own, or `None`, and why, where FUSE is not to be had.
fn serve(name: &str) -> Option<Served> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/boards/{name}.toml"));
    let spec = BoardSpec::load(&path).unwrap_or_else(|error| panic!("{error}"));
    let directory = tempfile::tempdir().unwrap();
    let options = ServeOptions {
        mount: directory.path().join("sys"),
        socket: directory.path().join("board.sock"),
        seed: 1,
        script: None,
        until: None,
        files_only: false,
    };
    let process = BoardProcess::start(Arc::new(PlantSpec::from_board(&spec).unwrap()), options).unwrap();
    if let TreeKind::Files(why) = process.tree_kind() {
        println!("skipped: no FUSE here: {why}");
        return None;
    }
    Some(Served { process, spec, clock: Arc::default(), directory })
}

impl Served {
    fn roots(&self) -> Roots {
        Roots::with_sys(self.directory.path().join("sys"))
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn open(&self) -> SysfsBoard {
        SysfsBoard::open(&self.spec, &self.roots(), self.clock.clone()).unwrap()
    }

    fn sensor(&self, sensor: Sensor, failure: Option<SensorFailure>) {
        self.process.board().disturb(&Change::Sensor { sensor, failure });
    }

    fn clamp(&self, domain: usize, fault: Option<ActuatorFault>) {
        self.process.board().disturb(&Change::Actuator { domain: DomainId::at(domain), fault });
    }

    /// All bounds, as the kernel shows them.
    fn bounds(&self) -> Vec<String> {
        let mut found = Vec::new();
        for class in ["class/devfreq", "devices/system/cpu/cpufreq"] {
            let mut entries: Vec<PathBuf> = std::fs::read_dir(self.roots().sys.join(class))
                .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
                .unwrap_or_default();
            entries.sort();
            for directory in entries {
                for node in ["min_freq", "max_freq", "scaling_min_freq", "scaling_max_freq"] {
                    if let Ok(text) = std::fs::read_to_string(directory.join(node)) {
                        found.push(format!("{}/{node}={}", directory.display(), text.trim()));
                    }
                }
            }
        }
        found
    }
}

const BOARDS: [&str; 7] = [
    "desktop",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-tx2",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "rk3588",
];

fn failures(readings: &Readings) -> Vec<(String, SensorFault)> {
    let zones = readings.zones.iter().map(|r| r.err()).enumerate().map(|(i, e)| (format!("zone {i}"), e));
    let rails = readings.rails.iter().map(|r| r.err()).enumerate().map(|(i, e)| (format!("rail {i}"), e));
    let clocks =
        readings.domains.iter().map(|r| r.err()).enumerate().map(|(i, e)| (format!("domain {i}"), e));
    let battery = readings.battery.map(|r| ("battery".to_owned(), r.err()));
    zones.chain(rails).chain(clocks).chain(battery).filter_map(|(name, e)| Some((name, e?))).collect()
}

#[test]
fn every_board_is_found_whole_and_every_sensor_reads() {
    for name in BOARDS {
        let Some(served) = serve(name) else { return };
        let board = served.open();
        assert_eq!(board.missing(), &[] as &[String], "{name}");
        for (domain, spec) in board.board().domains.iter().zip(&served.spec.domains) {
            let listed: Vec<u32> = domain.opps.iter().map(|opp| opp.0).collect();
            assert!(!listed.is_empty() && (spec.opps_khz.is_empty() || listed == spec.opps_khz), "{name}");
        }
        let mut telemetry = board.into_telemetry();
        telemetry.sample();
        served.clock.advance(Nanos::from_millis(100));
        assert_eq!(failures(&telemetry.sample()), [], "{name}");
    }
}

#[test]
fn what_a_failing_sensor_shows_is_its_fault_and_it_comes_back() {
    let Some(served) = serve("jetson-tx2") else { return };
    let cases = [
        (SensorFailure::NoData, SensorFault::NoData),
        (SensorFailure::Busy, SensorFault::Busy),
        (SensorFailure::Io, SensorFault::Io),
        (SensorFailure::Text("hot".to_owned()), SensorFault::Garbled),
        (SensorFailure::Value(-40.0), SensorFault::Implausible),
        (SensorFailure::Missing, SensorFault::Missing),
    ];
    let mut telemetry = served.open().into_telemetry();
    assert_eq!(failures(&telemetry.sample()), []);
    for (failure, fault) in cases {
        served.sensor(Sensor::Zone(ZoneId(0)), Some(failure.clone()));
        assert_eq!(failures(&telemetry.sample()), [("zone 0".to_owned(), fault)], "{failure:?}");
        served.sensor(Sensor::Zone(ZoneId(0)), None);
        served.clock.advance(Nanos::from_secs(3));
        assert_eq!(failures(&telemetry.sample()), [], "{failure:?} healed");
    }
    served.sensor(Sensor::Rail(RailId(0)), Some(SensorFailure::NoData));
    served.sensor(Sensor::Domain(DomainId(0)), Some(SensorFailure::Busy));
    let expected = [("rail 0".to_owned(), SensorFault::NoData), ("domain 0".to_owned(), SensorFault::Busy)];
    assert_eq!(failures(&telemetry.sample()), expected);
}

#[test]
fn every_clock_of_every_board_can_be_set_to_every_point_and_is_given_back_after_a_crash() {
    for name in BOARDS {
        let Some(served) = serve(name) else { return };
        let before = served.bounds();
        let board = served.open();
        let domains = board.board().domains.clone();
        let (_, mut actuator) = board.into_parts(&served.state()).unwrap();
        for step in 0..domains.iter().map(|domain| domain.opps.len()).max().unwrap_or(0) {
            let wanted: DomainBounds = domains
                .iter()
                .map(|domain| {
                    let opp = *domain.opps.get(step).or(domain.opps.last())?;
                    Some(ClockBounds { min: opp, max: opp })
                })
                .collect();
            let report = actuator.apply(&Setpoints { domains: wanted.clone() });
            let expected: Vec<Option<Applied>> = wanted.iter().map(|b| b.map(Applied::Bounds)).collect();
            assert_eq!(report.domains, expected, "{name}, step {step}");
        }
        after(0);
        drop(actuator);
        revive();
        assert!(domains.is_empty() || served.bounds() != before, "{name}");
        let report = restore(&served.state(), &served.roots()).unwrap();
        assert_eq!(served.bounds(), before, "{name}: {report}");
        assert!(report.is_complete(), "{name}: {report}");
    }
}

#[test]
fn a_capped_bound_is_told_restored_under_the_cap_and_free_after_it() {
    let Some(served) = serve("jetson-tx2") else { return };
    let before = served.bounds();
    let board = served.open();
    let opps = board.board().domains[0].opps.clone();
    let count = board.board().domains.len();
    let (_, mut actuator) = board.into_parts(&served.state()).unwrap();
    let (low, high) = (opps[opps.len() / 3], opps[opps.len() - 2]);
    let mut wanted = Setpoints { domains: DomainBounds::from_elem(None, count) };
    wanted.domains[0] = Some(ClockBounds { min: opps[0], max: high });
    actuator.apply(&wanted);
    served.clamp(0, Some(ActuatorFault::Clamp(low)));
    let report = actuator.apply(&wanted);
    assert_eq!(report.domains[0], Some(Applied::Bounds(ClockBounds { min: opps[0], max: low })));
    after(0);
    drop(actuator);
    revive();
    let report = restore(&served.state(), &served.roots()).unwrap();
    assert_eq!(report.journal, JournalFate::Removed, "{report}");
    served.clamp(0, None);
    assert_eq!(served.bounds(), before, "{report}");
}

#[test]
fn an_actuator_that_refuses_is_reported_and_restored_when_it_heals() {
    let Some(served) = serve("jetson-tx2") else { return };
    let before = served.bounds();
    let board = served.open();
    let domains = board.board().domains.clone();
    let (_, mut actuator) = board.into_parts(&served.state()).unwrap();
    let lowest = domains.iter().map(|domain| Some(ClockBounds { min: domain.opps[0], max: domain.opps[0] }));
    let wanted = Setpoints { domains: lowest.collect() };
    actuator.apply(&wanted);
    served.clamp(0, Some(ActuatorFault::Refuse));
    let raised = Setpoints {
        domains: domains.iter().map(|d| Some(ClockBounds { min: d.opps[1], max: d.opps[1] })).collect(),
    };
    let report = actuator.apply(&raised);
    assert_eq!(report.domains[0], Some(Applied::Refused(SensorFault::Io)));
    assert_eq!(
        &report.domains[1..],
        &raised.domains[1..].iter().map(|b| b.map(Applied::Bounds)).collect::<Vec<_>>()
    );
    actuator.restore();
    assert!(file(&served.state()).exists(), "the refusing one is left");
    served.clamp(0, None);
    drop(actuator);
    assert_eq!(served.bounds(), before);
}
