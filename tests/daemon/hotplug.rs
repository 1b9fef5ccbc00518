//! CPUs that are switched off and on: what the kernel takes from the daemon's main thread and gives back stands for them.

use crate::harness::{Daemon, Setup, eventually, inputs};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const BOARD: &str = r#"
name = "board"
description = "two units that are bound to a CPU each"
idle_power_w = 1.0
unit = [
  { name = "near", kind = "cpu", cpus = [NEAR] },
  { name = "far", kind = "cpu", cpus = [FAR] },
]
thermal = { fast_k_per_w = 1.0, fast_tau_s = 2.0, slow_k_per_w = 3.0, slow_tau_s = 60.0 }
"#;

/// Leaves these CPUs to a thread.
fn allow(thread: Pid, cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu).unwrap());
    sched_setaffinity(thread, &set).unwrap();
}

/// What the far unit has loaded, and whether the status says that it is left out.
fn far(daemon: &Daemon<'_>) -> (usize, bool) {
    let status = daemon.status();
    let unit = status.units.iter().find(|unit| unit.name == "far").unwrap();
    (unit.variants.len(), status.missing.iter().any(|what| what.starts_with("unit far: left out")))
}

#[test]
fn units_come_and_go_with_their_cpus_and_the_others_serve() {
    let here = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let here: Vec<usize> = (0..CpuSet::count()).filter(|cpu| here.is_set(*cpu).unwrap()).collect();
    let [near, other, ..] = here[..] else {
        println!("not tested: it takes two CPUs");
        return;
    };
    let mut setup = Setup::new();
    let file = setup.path("board.toml");
    let text = BOARD.replace("NEAR", &near.to_string()).replace("FAR", &other.to_string());
    std::fs::write(&file, text).unwrap();
    setup
        .without("simulation")
        .set("board.file", file.display().to_string())
        .set("board.sysfs_root", "/no/such/sys")
        .set("models.load", vec!["tiny"])
        .models("tests/data/models");
    // The daemon has what the thread has that starts it.
    allow(Pid::from_raw(0), &[near]);
    let daemon = setup.start();
    allow(Pid::from_raw(0), &here);
    let tiny = inputs("tests/data/models", "tiny");
    assert_eq!(far(&daemon), (0, true));
    assert_eq!(daemon.infer(tiny.ask(0, 1)).served.unit, "near");
    let main = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    allow(main, &[near, other]);
    eventually("variants on the unit whose CPU came", || (far(&daemon).0 > 0).then_some(()));
    assert!(!far(&daemon).1);
    daemon.logs(&["INFO", "the unit's CPUs are there", "far"]);
    daemon.infer(tiny.ask(1, 1));
    allow(main, &[near]);
    eventually("none on the unit whose CPU went", || (far(&daemon) == (0, true)).then_some(()));
    daemon.logs(&["WARN", "CPUs are offline", "far"]);
    assert_eq!(daemon.infer(tiny.ask(2, 1)).served.unit, "near");
    daemon.stop();
}
