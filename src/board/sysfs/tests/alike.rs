//! Domains of several policies, as x86 has one for each CPU.

use super::tree::{Tree, bounds, laptop};
use crate::board::sysfs::kill::on::{cap, fail, fail_write};
use crate::board::{Actuator, Telemetry};
use crate::core::event::{Applied, ClockBounds, SensorFault};
use crate::time::Clock as _;
use crate::units::{Kilohertz, Nanos};
use nix::errno::Errno;

fn node(cpu: usize, name: &str) -> String {
    format!("devices/system/cpu/cpufreq/policy{cpu}/{name}")
}

/// Three policies that go up to 4.45 GHz, and one of an efficient core, the first.
fn hybrid(select: &str) -> Tree {
    let mut tree = laptop();
    for cpu in 0..4 {
        let top = if cpu == 0 { "3000000" } else { "4450000" };
        for (name, value) in [
            ("cpuinfo_min_freq", "400000"),
            ("cpuinfo_max_freq", top),
            ("scaling_cur_freq", "1200000"),
            ("scaling_min_freq", "400000"),
            ("scaling_max_freq", top),
            ("scaling_governor", "powersave"),
        ] {
            tree.put(&node(cpu, name), value);
        }
    }
    tree.spec.domains[0].select = select.to_owned();
    tree
}

fn values(tree: &Tree, name: &str) -> Vec<String> {
    (0..4).map(|cpu| tree.get(&node(cpu, name))).collect()
}

fn applied(min: u32, max: u32) -> Option<Applied> {
    Some(Applied::Bounds(ClockBounds { min: Kilohertz(min), max: Kilohertz(max) }))
}

#[test]
fn all_policies_are_set_alike_each_as_far_as_it_goes_and_put_back() {
    let tree = hybrid("all");
    let points: Vec<u32> = tree.board().board().domains[0].opps.iter().map(|opp| opp.0).collect();
    assert_eq!(points.last(), Some(&4_450_000), "those of the fast cores");
    let mut actuator = tree.actuator();
    let (middle, top) = (points[6], points[16]);
    assert_eq!(actuator.apply(&bounds(0, 1, middle, middle)).domains[0], applied(middle, middle));
    assert_eq!(values(&tree, "scaling_max_freq"), [middle.to_string().as_str(); 4]);
    assert_eq!(actuator.apply(&bounds(0, 1, top, top)).domains[0], applied(top, top), "no cap");
    let slow = points.iter().rfind(|point| **point <= 3_000_000).unwrap().to_string();
    assert_eq!(values(&tree, "scaling_min_freq"), [slow.as_str(), "4450000", "4450000", "4450000"]);
    actuator.restore();
    assert_eq!(values(&tree, "scaling_max_freq"), ["3000000", "4450000", "4450000", "4450000"]);
    assert_eq!(values(&tree, "scaling_min_freq"), ["400000"; 4]);
}

#[test]
fn a_list_sets_the_policies_of_its_cpus_alone() {
    let tree = hybrid("1-2");
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(0, 1, 400_000, 400_000));
    assert_eq!(values(&tree, "scaling_max_freq"), ["3000000", "400000", "400000", "4450000"]);
}

#[test]
fn a_policy_whose_cpu_is_offline_does_not_count_and_one_that_refuses_does() {
    let tree = hybrid("all");
    let mut actuator = tree.actuator();
    for name in ["scaling_min_freq", "scaling_max_freq"] {
        fail(tree.path(&node(3, name)), Errno::EBUSY as i32);
    }
    assert_eq!(actuator.apply(&bounds(0, 1, 400_000, 400_000)).domains[0], applied(400_000, 400_000));
    fail_write(tree.path(&node(2, "scaling_max_freq")), Errno::EIO as i32);
    let refused = Some(Applied::Refused(SensorFault::Io));
    assert_eq!(actuator.apply(&bounds(0, 1, 4_450_000, 4_450_000)).domains[0], refused);
}

#[test]
fn policies_of_cpus_that_come_online_are_set_read_and_put_back_too() {
    const ONLINE: &str = "devices/system/cpu/online";
    let tree = hybrid("all").with_hold("epp = \"balance_power\"");
    for cpu in 0..4 {
        tree.put(&node(cpu, "energy_performance_preference"), "performance");
    }
    let policy = |name: &str| node(3, name);
    tree.put(ONLINE, "0-2");
    let away = tree.path("policy3");
    std::fs::rename(tree.path("devices/system/cpu/cpufreq/policy3"), &away).unwrap();
    let board = tree.board();
    let panel = board.panel();
    let (mut telemetry, mut actuator) = board.into_parts(&tree.state()).unwrap();
    telemetry.sample();
    assert_eq!(actuator.apply(&bounds(0, 1, 400_000, 400_000)).domains[0], applied(400_000, 400_000));
    std::fs::rename(&away, tree.path("devices/system/cpu/cpufreq/policy3")).unwrap();
    tree.put(ONLINE, "0-3");
    tree.put(&policy("scaling_cur_freq"), "4400000");
    assert_eq!(actuator.apply(&bounds(0, 1, 400_000, 2_900_000)).domains[0], applied(400_000, 2_900_000));
    assert_eq!(tree.get(&policy("scaling_max_freq")), "2900000");
    assert_eq!(tree.get(&policy("energy_performance_preference")), "balance_power");
    // What is online is read once a second, and of other policies one in each sweep.
    let mut fastest = Kilohertz(0);
    for _ in 0..8 {
        tree.clock.advance(Nanos::from_secs(1));
        fastest = fastest.max(telemetry.sample().domains[0].unwrap().current);
    }
    assert_eq!(fastest, Kilohertz(4_400_000));
    let online = panel.instruments(tree.clock.now()).into_iter().find(|one| one.name == "CPUs online");
    assert_eq!(online.unwrap().value, Some(4.0));
    actuator.restore();
    assert_eq!(tree.get(&policy("scaling_max_freq")), "4450000");
    assert_eq!(tree.get(&policy("energy_performance_preference")), "performance");
}

#[test]
fn a_cap_on_one_is_a_cap_on_all_and_is_read_in_turn() {
    let tree = hybrid("all");
    let mut telemetry = tree.telemetry();
    cap(tree.path(&node(2, "scaling_max_freq")), Some(2_000_000));
    tree.put(&node(3, "scaling_cur_freq"), "4000000");
    let shown: Vec<(u32, u32)> = (0..3)
        .map(|_| {
            let state = telemetry.sample().domains[0].unwrap();
            (state.current.0, state.max.0)
        })
        .collect();
    // Beside the first, policy1, each look sees one of the others: policy2 when the board was opened, then policy3,
    // policy0, and policy2 again.
    assert_eq!(shown, [(4_000_000, 4_450_000), (1_200_000, 4_450_000), (1_200_000, 2_000_000)]);
    let mut actuator = tree.actuator();
    assert_eq!(actuator.apply(&bounds(0, 1, 400_000, 4_450_000)).domains[0], applied(400_000, 2_000_000));
}
