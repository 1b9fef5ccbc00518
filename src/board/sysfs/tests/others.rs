//! Other masters of the clocks, and what is held besides.

use super::tree::{Tree, bounds, jetson, laptop};
use crate::board::Actuator;
use crate::board::restore::journal::{Contents, file};
use crate::board::restore::restore;
use crate::board::sysfs::kill::on::{after, cap, fail_write, revive};
use crate::core::event::{Applied, ClockBounds, SensorFault};
use crate::units::Kilohertz;
use nix::errno::Errno;

const CPU: &str = "devices/system/cpu/cpufreq/policy0";
const GPU_MIN: &str = "class/devfreq/17000000.ga10b/min_freq";
const GPU_MAX: &str = "class/devfreq/17000000.ga10b/max_freq";
const GPU_GOVERNOR: &str = "class/devfreq/17000000.ga10b/governor";

fn applied(min: u32, max: u32) -> Option<Applied> {
    Some(Applied::Bounds(ClockBounds { min: Kilohertz(min), max: Kilohertz(max) }))
}

#[test]
fn a_bound_that_was_there_at_first_is_kept_to_and_a_cap_is_not() {
    let tree = jetson();
    // A power mode allows 612 MHz.
    tree.put(GPU_MAX, "612000000");
    let board = tree.board();
    let panel = board.panel();
    let mut actuator = board.into_parts(&tree.state()).unwrap().1;
    assert_eq!(actuator.apply(&bounds(1, 2, 306_000, 1_020_000)).domains[1], applied(306_000, 612_000));
    assert_eq!(tree.get(GPU_MAX), "612000000");
    assert_eq!(panel.foreign()[0].max_khz, Some(Kilohertz(612_000)));
    drop(actuator);
    // The same by a cap: it is asked for more than that, so that more comes when the cap is lifted.
    tree.put(GPU_MAX, "1020000000");
    cap(tree.path(GPU_MAX), Some(612_000_000));
    let mut actuator = tree.actuator();
    assert_eq!(actuator.apply(&bounds(1, 2, 306_000, 1_020_000)).domains[1], applied(306_000, 612_000));
    cap(tree.path(GPU_MAX), None);
    assert_eq!(tree.get(GPU_MAX), "1020000000");
}

#[test]
fn a_person_who_lowers_the_upper_bound_is_obeyed_until_it_is_raised_again() {
    let tree = jetson();
    let board = tree.board();
    let panel = board.panel();
    let mut actuator = board.into_parts(&tree.state()).unwrap().1;
    actuator.apply(&bounds(1, 2, 306_000, 1_020_000));
    actuator.apply(&bounds(1, 2, 612_000, 612_000));
    tree.put(GPU_MIN, "306000000");
    tree.put(GPU_MAX, "500000000");
    // Lower than the person's bound, and then higher: rounded down to an operating point within it.
    assert_eq!(actuator.apply(&bounds(1, 2, 306_000, 306_000)).domains[1], applied(306_000, 306_000));
    assert_eq!(actuator.apply(&bounds(1, 2, 306_000, 1_020_000)).domains[1], applied(306_000, 306_000));
    assert_eq!(panel.foreign()[0].max_khz, Some(Kilohertz(500_000)));
    tree.put(GPU_MAX, "1020000000");
    assert_eq!(actuator.apply(&bounds(1, 2, 1_020_000, 1_020_000)).domains[1], applied(1_020_000, 1_020_000));
    assert_eq!(panel.foreign()[0].max_khz, None, "open again");
    actuator.restore();
    assert_eq!((tree.get(GPU_MIN), tree.get(GPU_MAX)), ("306000000".to_owned(), "1020000000".to_owned()));
}

#[test]
fn what_someone_else_set_is_what_is_restored_also_after_a_crash() {
    for crash in [false, true] {
        let tree = jetson();
        let mut actuator = tree.actuator();
        actuator.apply(&bounds(1, 2, 306_000, 306_000));
        // Someone else lets the clock rise, not to the highest.
        tree.put(GPU_MAX, "612000000");
        assert_eq!(actuator.apply(&bounds(1, 2, 306_000, 306_000)).domains[1], applied(306_000, 306_000));
        if crash {
            after(0);
            drop(actuator);
            revive();
            let report = restore(&tree.state(), &tree.roots()).unwrap();
            assert!(report.is_complete(), "{report}");
        } else {
            actuator.restore();
        }
        assert_eq!(tree.get(GPU_MAX), "612000000", "crash: {crash}");
    }
}

#[test]
fn a_raised_lower_bound_is_kept_to() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(1, 2, 306_000, 612_000));
    actuator.apply(&bounds(1, 2, 306_000, 1_020_000));
    // As `jetson_clocks` does it: both bounds at the top.
    tree.put(GPU_MIN, "1020000000");
    assert_eq!(actuator.apply(&bounds(1, 2, 306_000, 306_000)).domains[1], applied(1_020_000, 1_020_000));
    tree.put(GPU_MIN, "306000000");
    assert_eq!(actuator.apply(&bounds(1, 2, 306_000, 306_000)).domains[1], applied(306_000, 306_000));
}

#[test]
fn a_cap_that_comes_and_goes_is_no_persons_bound() {
    let tree = jetson();
    let board = tree.board();
    let panel = board.panel();
    let mut actuator = board.into_parts(&tree.state()).unwrap().1;
    actuator.apply(&bounds(1, 2, 1_020_000, 1_020_000));
    for most in [Some(612_000_000), Some(306_000_000), Some(612_000_000), None] {
        for node in [GPU_MIN, GPU_MAX] {
            cap(tree.path(node), most);
        }
        for (min, max) in [(306_000, 306_000), (306_000, 1_020_000), (1_020_000, 1_020_000)] {
            let top = most.map_or(1_020_000, |hertz| u32::try_from(hertz / 1000).unwrap());
            let report = actuator.apply(&bounds(1, 2, min, max));
            assert_eq!(report.domains[1], applied(min.min(top), max.min(top)), "{most:?}");
        }
    }
    assert_eq!(panel.foreign(), []);
}

#[test]
fn without_leave_to_write_the_daemon_watches_and_says_how_to_grant_it() {
    let tree = jetson();
    for node in [GPU_MAX, GPU_MIN] {
        fail_write(tree.path(node), Errno::EROFS as i32);
    }
    for node in ["scaling_min_freq", "scaling_max_freq"] {
        fail_write(tree.path(&format!("{CPU}/{node}")), Errno::EACCES as i32);
    }
    let board = tree.board();
    let missing = board.missing().join("\n");
    for part in [
        "domain cpu: ",
        "scaling_min_freq cannot be set by this user: Permission denied",
        "Read-only file system",
        "variants and units are chosen",
        "wattd-ctl",
    ] {
        assert!(missing.contains(part), "{part} in {missing}");
    }
    let mut actuator = board.into_parts(&tree.state()).unwrap().1;
    let mut both = bounds(0, 2, 115_200, 729_600);
    both.domains[1] = bounds(1, 2, 306_000, 612_000).domains[1];
    let refused = Some(Applied::Refused(SensorFault::Denied));
    assert_eq!(actuator.apply(&both).domains, [refused, refused]);
    actuator.restore();
    assert!(!file(&tree.state()).exists(), "nothing was changed, nothing is left");
}

/// A laptop whose board file asks for things to be held.
fn holding(hold: &str) -> Tree {
    let tree = laptop();
    for (node, text) in [
        ("energy_performance_available_preferences", "default performance balance_power power"),
        ("energy_performance_preference", "performance"),
    ] {
        tree.put(&format!("{CPU}/{node}"), text);
    }
    tree.put("fs/cgroup/system.slice/wattd.service/cpu.max", "max 100000");
    tree.put("fs/cgroup/system.slice/wattd.service/cpu.uclamp.max", "max");
    let proc = tree.roots().proc.join("self");
    std::fs::create_dir_all(&proc).unwrap();
    std::fs::write(proc.join("cgroup"), "0::/system.slice/wattd.service\n").unwrap();
    tree.with_hold(hold)
}

#[test]
fn what_the_board_file_asks_for_is_held_and_put_back() {
    let tree = holding("epp = \"balance_power\"\ncpu_max_percent = 150\nuclamp_max_percent = 60");
    let epp = format!("{CPU}/energy_performance_preference");
    let group = "fs/cgroup/system.slice/wattd.service";
    for crash in [false, true] {
        let actuator = tree.actuator();
        assert_eq!(tree.get(&epp), "balance_power");
        // 1.5 CPUs of a period of 100 ms.
        assert_eq!(tree.get(&format!("{group}/cpu.max")), "150000 100000");
        assert_eq!(tree.get(&format!("{group}/cpu.uclamp.max")), "60.00");
        let contents = Contents::parse(&std::fs::read(file(&tree.state())).unwrap());
        assert_eq!((contents.nodes.len(), contents.damage.len()), (3, 0));
        if crash {
            after(0);
        }
        drop(actuator);
        revive();
        restore(&tree.state(), &tree.roots()).unwrap();
        assert_eq!(tree.get(&epp), "performance", "crash: {crash}");
        assert_eq!(tree.get(&format!("{group}/cpu.max")), "max 100000");
        assert!(!file(&tree.state()).exists());
    }
}

#[test]
fn a_delegated_cgroup_is_divided_and_its_part_limited() {
    let tree = holding("cpu_max_percent = 150");
    let group = "fs/cgroup/system.slice/wattd.service";
    tree.remove(&format!("{group}/cpu.max"));
    let missing = tree.board().missing().join("\n");
    assert!(missing.contains("wattd.service/cpu.max"), "nothing is delegated: {missing}");
    tree.put(&format!("{group}/cgroup.subtree_control"), "");
    let board = tree.board();
    assert!(!board.missing().join("\n").contains("cpu.max"), "{:?}", board.missing());
    assert!(!tree.path(&format!("{group}/daemon")).exists(), "only looked at");
    // The kernel makes these with the directory.
    tree.put(&format!("{group}/daemon/cgroup.procs"), "");
    tree.put(&format!("{group}/daemon/cpu.max"), "max 100000");
    let _actuator = board.into_parts(&tree.state()).unwrap().1;
    assert_eq!(tree.get(&format!("{group}/daemon/cgroup.procs")), std::process::id().to_string());
    assert_eq!(tree.get(&format!("{group}/cgroup.subtree_control")), "+cpu");
    assert_eq!(tree.get(&format!("{group}/daemon/cpu.max")), "150000 100000");
}

#[test]
fn the_cgroup_of_a_daemon_that_is_gone_needs_no_restoring() {
    let tree = holding("cpu_max_percent = 150");
    let actuator = tree.actuator();
    after(0);
    drop(actuator);
    revive();
    tree.remove("fs/cgroup/system.slice/wattd.service");
    let report = restore(&tree.state(), &tree.roots()).unwrap();
    assert!(report.is_complete() && !file(&tree.state()).exists(), "{report}");
}

#[test]
fn what_cannot_be_held_is_said() {
    let tree = holding("epp = \"turbo\"\nuclamp_min_percent = 10\ncpu_dma_latency_us = 100");
    let missing = tree.board().missing().join("\n");
    assert!(missing.contains("hold.epp = \"turbo\": domain cpu offers default performance"), "{missing}");
    assert!(missing.contains("cpu.uclamp.min cannot be set by this user: No such file"), "{missing}");
    assert_eq!(tree.get(&format!("{CPU}/energy_performance_preference")), "performance");
}

#[test]
fn a_caps_node_is_held_and_no_other_file_can_be_named() {
    let tree = jetson();
    tree.put("kernel/nvpmodel_clk_cap/emc", "3199000000");
    let tree = tree.with_hold("[[hold.cap]]\nnode = \"kernel/nvpmodel_clk_cap/emc\"\nkhz = 2133000");
    let actuator = tree.actuator();
    assert_eq!(tree.get("kernel/nvpmodel_clk_cap/emc"), "2133000000");
    drop(actuator);
    assert_eq!(tree.get("kernel/nvpmodel_clk_cap/emc"), "3199000000");
    for node in ["class/hwmon/hwmon2/curr1_crit", "../etc/clk_cap/x", "/kernel/nvpmodel_clk_cap/emc"] {
        let mut spec = tree.spec.clone();
        spec.hold.caps[0].node = node.to_owned();
        let problems = crate::board::check::problems(&spec);
        assert!(problems.iter().any(|problem| problem.key == "hold.cap[0].node"), "{node}: {problems:?}");
    }
}

#[test]
fn the_wake_up_latency_is_held_while_the_daemon_runs() {
    let tree = holding("cpu_dma_latency_us = 100");
    let device = tree.roots().machine.unwrap().join("dev/cpu_dma_latency");
    std::fs::create_dir_all(device.parent().unwrap()).unwrap();
    std::fs::write(&device, "").unwrap();
    let _actuator = tree.actuator();
    assert_eq!(std::fs::read(&device).unwrap(), 100_i32.to_ne_bytes());
}

#[test]
fn under_the_userspace_governor_one_clock_is_set_and_a_range_is_the_governors() {
    let mut tree = jetson();
    tree.spec.domains[0].userspace = true;
    tree.spec.domains[1].userspace = true;
    let speed = format!("{CPU}/scaling_setspeed");
    tree.put(&speed, "<unsupported>");
    let mut actuator = tree.actuator();
    assert_eq!(actuator.apply(&bounds(1, 2, 612_000, 612_000)).domains[1], applied(612_000, 612_000));
    assert_eq!(tree.get(GPU_GOVERNOR), "userspace");
    actuator.apply(&bounds(0, 2, 729_600, 729_600));
    assert_eq!(tree.get(&format!("{CPU}/scaling_governor")), "userspace");
    assert_eq!(tree.get(&speed), "729600");
    actuator.apply(&bounds(1, 2, 306_000, 1_020_000));
    assert_eq!(tree.get(GPU_GOVERNOR), "nvhost_podgov");
    actuator.apply(&bounds(1, 2, 306_000, 306_000));
    after(0);
    drop(actuator);
    revive();
    assert_eq!(tree.get(GPU_GOVERNOR), "userspace");
    let report = restore(&tree.state(), &tree.roots()).unwrap();
    assert_eq!(tree.get(GPU_GOVERNOR), "nvhost_podgov", "{report}");
}
