//! Sensors that vanish, stick or lie, clocks that refuse, and a board that goes away under the daemon.

use crate::harness::{Setup, SimBoard, eventually, inputs};
use wattd::core::event::SensorFault;
use wattd::core::thermal::Regime;

/// A disturbance at the start.
fn event(set: &str, target: &str, to: &str) -> String {
    format!("[[event]]\nat_s = 0.3\nset = \"{set}\"\ntarget = \"{target}\"\nto = {to}\n")
}

#[test]
fn whatever_the_sensors_say_requests_are_served_and_the_fault_is_shown() {
    for in_process in [true, false] {
        let cases = [
            ("zone:PLL-therm", "\"missing\"", SensorFault::Missing),
            ("zone:PLL-therm", "\"enodata\"", SensorFault::NoData),
            ("zone:PLL-therm", "\"text:hot\"", SensorFault::Garbled),
            ("zone:PLL-therm", "-273000", SensorFault::Implausible),
            ("zone:PLL-therm", "\"eio\"", SensorFault::Io),
        ];
        let tiny = inputs("tests/data/models", "tiny");
        for (target, to, fault) in cases {
            let script = event("sensor", target, to);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &script).unwrap();
            let board = (!in_process)
                .then(|| SimBoard::start_with("jetson-tx2", &["--script", file.path().to_str().unwrap()]));
            let mut setup = Setup::new();
            match &board {
                Some(board) => setup.on(board),
                None => setup.script(&script),
            };
            setup.models("tests/data/models");
            let daemon = setup.start();
            let zone = eventually("the fault", || {
                daemon
                    .status()
                    .zones
                    .into_iter()
                    .find(|zone| zone.name == "PLL-therm" && zone.fault.is_some())
            });
            assert_eq!((zone.fault, zone.c), (Some(fault), None), "{to}");
            daemon.infer(tiny.ask(0, 1));
            let page = daemon.get("/metrics");
            assert!(page.contains("wattd_temperature_celsius{zone=\"PLL-therm\"} NaN"), "{page}");
            let faults = page
                .lines()
                .find(|line| line.starts_with("wattd_sensor_faults_total{sensor=\"zone:PLL-therm\""));
            assert!(faults.is_some(), "{page}");
            daemon.stop();
        }
    }
}

#[test]
fn impossible_stuck_and_missing_readings_of_everything_at_once() {
    let mut setup = Setup::new();
    let zones = ["GPU-therm", "MCPU-therm", "PLL-therm"];
    let mut script: String = zones.map(|zone| event("sensor", &format!("zone:{zone}"), "-40000")).concat();
    script += &event("sensor", "rail:VDD_IN", "\"missing\"");
    script += &event("sensor", "rail:VDD_SYS_GPU", "\"text:a lot\"");
    script += &event("sensor", "rail:VDD_SYS_CPU", "\"stuck\"");
    script += &event("sensor", "domain:gpu", "\"enodata\"");
    setup.script(&script).models("tests/data/models");
    let daemon = setup.start();
    let tiny = inputs("tests/data/models", "tiny");
    // From 48 to -40 degrees in one step is no reading: after a while the daemon counts as blind, and careful.
    let status = eventually("all faults", || {
        let status = daemon.status();
        let rails = status.rails.iter().filter(|rail| rail.fault.is_some()).count();
        (rails == 2 && status.regime != Regime::Nominal).then_some(status)
    });
    assert!(status.rails.iter().any(|rail| rail.name == "VDD_IN" && rail.w.is_none()), "{status:?}");
    daemon.logs(&["thermal regime changed", "from=Nominal"]);
    daemon.infer(tiny.ask(0, 1));
    daemon.stop();
}

#[test]
fn a_clock_that_refuses_is_a_fact_and_the_others_are_set() {
    for in_process in [true, false] {
        // From the start on: the first setting fails already.
        let script = event("actuator", "cpu", "\"refuse\"") + &event("actuator", "gpu", "726750");
        let script = script.replace("at_s = 0.3", "at_s = 0");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &script).unwrap();
        let board = (!in_process)
            .then(|| SimBoard::start_with("jetson-tx2", &["--script", file.path().to_str().unwrap()]));
        let before = board.as_ref().map(SimBoard::nodes);
        let mut setup = Setup::new();
        match &board {
            Some(board) => setup.on(board),
            None => setup.script(&script),
        };
        setup.models("tests/data/models").set("budget.objective", "performance");
        let daemon = setup.start();
        let tiny = inputs("tests/data/models", "tiny");
        let domain = |name: &str| daemon.status().domains.into_iter().find(|one| one.name == name).unwrap();
        eventually("a clock that does not follow", || {
            daemon.infer(tiny.ask(0, 1));
            (!domain("cpu").controllable).then_some(())
        });
        daemon.logs(&["WARN", "domain=\"cpu\""]);
        eventually("the highest clock that the firmware gives", || {
            (domain("gpu").max_khz == Some(726_750)).then_some(())
        });
        assert!(domain("gpu").controllable, "held down is not refused");
        daemon.infer(tiny.ask(1, 1));
        assert_eq!(daemon.metric("wattd_clock_controllable{domain=\"cpu\"}"), Some(0.0));
        daemon.stop();
        assert_eq!(board.as_ref().map(SimBoard::nodes), before);
    }
}

#[test]
fn a_board_that_goes_and_comes_back_is_lived_with() {
    let mut board = SimBoard::start("jetson-tx2");
    let mut setup = Setup::new();
    setup.on(&board).models("tests/data/models").set("models.load", vec!["tiny"]);
    let mut daemon = setup.start();
    let tiny = inputs("tests/data/models", "tiny");
    daemon.infer(tiny.ask(0, 1));
    board.kill();
    let status = eventually("missing sensors", || {
        let status = daemon.status();
        status.zones.iter().all(|zone| zone.c.is_none()).then_some(status)
    });
    assert!(status.rails.iter().all(|rail| rail.w.is_none()), "{status:?}");
    // Nothing can run: requests are turned away, not kept for ever.
    for item in 0..4 {
        let mut ask = tiny.ask(item, 1);
        ask.deadline = Some(wattd::units::Nanos::from_millis(500));
        assert!(daemon.ask(ask).is_err());
    }
    assert!(daemon.runs());
    board.begin();
    eventually("service again", || daemon.ask(tiny.ask(0, 1)).ok());
    eventually("sensors again", || daemon.status().zones.iter().all(|zone| zone.c.is_some()).then_some(()));
    daemon.stop();
}

#[test]
fn without_any_sysfs_the_daemon_starts_says_so_and_serves() {
    let mut setup = Setup::new();
    setup
        .without("simulation")
        .set("board.file", crate::harness::root().join("config/boards/desktop.toml").display().to_string())
        .set("board.sysfs_root", "/no/such/sys")
        .models("tests/data/models");
    let daemon = setup.start();
    let status = daemon.status();
    for part in ["no directory that stands for /sys", "no cpufreq policy", "no thermal zone"] {
        assert!(status.missing.iter().any(|what| what.contains(part)), "{part} in {:?}", status.missing);
    }
    let tiny = inputs("tests/data/models", "tiny");
    daemon.infer(tiny.ask(0, 1));
    daemon.stop();
}
