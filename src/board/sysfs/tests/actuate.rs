//! Setting bounds, and every way that can fail.

use super::tree::{Tree, bounds, jetson, rk3588};
use crate::board::Actuator;
use crate::board::restore::journal::file;
use crate::board::sysfs::kill::on::{cap, fail, fail_write, writes};
use crate::core::event::{Applied, ClockBounds, SensorFault};
use crate::units::Kilohertz;
use nix::errno::Errno;

const CPU: &str = "devices/system/cpu/cpufreq/policy0";
const GPU: &str = "class/devfreq/17000000.ga10b";

fn applied(min: u32, max: u32) -> Option<Applied> {
    Some(Applied::Bounds(ClockBounds { min: Kilohertz(min), max: Kilohertz(max) }))
}

fn written(tree: &Tree) -> Vec<(String, String)> {
    let sys = tree.sys();
    let inside = |path: std::path::PathBuf| {
        path.strip_prefix(&sys).ok().map(|node| node.to_string_lossy().into_owned())
    };
    writes().into_iter().filter_map(|(path, value)| Some((inside(path)?, value))).collect()
}

#[test]
fn bounds_go_to_real_operating_points_in_the_nodes_own_unit() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    // 700 MHz rounds down to 612 MHz as an upper bound; 400 MHz up to 612 MHz as a lower.
    let report = actuator.apply(&bounds(1, 2, 400_000, 700_000));
    assert_eq!(report.domains, [None, applied(612_000, 612_000)]);
    assert_eq!(tree.get(&format!("{GPU}/min_freq")), "612000000");
    assert_eq!(tree.get(&format!("{GPU}/max_freq")), "612000000");
    assert_eq!(tree.get(&format!("{CPU}/scaling_max_freq")), "1510400", "not asked");
}

#[test]
fn min_never_exceeds_max_on_the_way() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    let steps = [(612_000, 612_000), (1_020_000, 1_020_000), (306_000, 306_000), (306_000, 1_020_000)];
    for (min, max) in steps {
        let mut now = (
            tree.get(&format!("{GPU}/min_freq")).parse::<u64>().unwrap(),
            tree.get(&format!("{GPU}/max_freq")).parse::<u64>().unwrap(),
        );
        writes();
        assert_eq!(actuator.apply(&bounds(1, 2, min, max)).domains[1], applied(min, max));
        for (node, value) in written(&tree) {
            let value = value.parse::<u64>().unwrap();
            if node.ends_with("min_freq") {
                now.0 = value
            } else {
                now.1 = value
            }
            assert!(now.0 <= now.1, "{now:?} on the way to {min}..{max}");
        }
    }
}

#[test]
fn what_is_already_so_is_not_written() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    writes();
    assert_eq!(actuator.apply(&bounds(0, 2, 115_200, 1_510_400)).domains[0], applied(115_200, 1_510_400));
    assert_eq!(written(&tree), []);
    assert!(!file(&tree.state()).exists(), "no write, no journal");
    actuator.apply(&bounds(0, 2, 115_200, 729_600));
    let max = format!("{CPU}/scaling_max_freq");
    assert_eq!(written(&tree), [(max.clone(), "729600".to_owned())], "min is as it was");
    actuator.apply(&bounds(0, 2, 115_200, 729_600));
    assert_eq!(written(&tree), [], "written once");
    tree.put(&max, "1510400");
    actuator.apply(&bounds(0, 2, 115_200, 729_600));
    assert_eq!(written(&tree), [(max, "729600".to_owned())], "someone raised it");
}

#[test]
fn a_cap_is_reported_as_the_bounds_in_force_and_not_fought() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(1, 2, 612_000, 612_000));
    writes();
    // The kernel throttles: both bounds read lower than written.
    for node in ["min_freq", "max_freq"] {
        cap(tree.path(&format!("{GPU}/{node}")), Some(306_000_000));
    }
    let report = actuator.apply(&bounds(1, 2, 612_000, 612_000));
    assert_eq!(report.domains[1], applied(306_000, 306_000));
    assert_eq!(written(&tree), []);
    actuator.apply(&bounds(1, 2, 306_000, 1_020_000));
    for node in ["min_freq", "max_freq"] {
        cap(tree.path(&format!("{GPU}/{node}")), None);
    }
    assert_eq!(tree.get(&format!("{GPU}/max_freq")), "1020000000", "asked for in spite of the cap");
    assert_eq!(tree.get(&format!("{GPU}/min_freq")), "306000000", "though it read so already");
}

#[test]
fn each_refusal_is_reported_and_the_other_domain_is_set_all_the_same() {
    let cases = [
        (Errno::EACCES, SensorFault::Denied),
        (Errno::EBUSY, SensorFault::Busy),
        (Errno::EINVAL, SensorFault::Io),
        (Errno::EROFS, SensorFault::Denied),
    ];
    for (errno, fault) in cases {
        let tree = jetson();
        let mut actuator = tree.actuator();
        let max = tree.path(&format!("{CPU}/scaling_max_freq"));
        fail_write(&max, errno as i32);
        let mut both = bounds(0, 2, 115_200, 729_600);
        both.domains[1] = bounds(1, 2, 306_000, 612_000).domains[1];
        let report = actuator.apply(&both);
        assert_eq!(report.domains, [Some(Applied::Refused(fault)), applied(306_000, 612_000)], "{errno}");
        fail_write(&max, 0);
        assert_eq!(actuator.apply(&both).domains[0], applied(115_200, 729_600), "it heals");
    }
}

#[test]
fn a_read_only_attribute_refuses_root_too() {
    // A real attribute of the running kernel: mode 0444, and root gets EACCES.
    let real = std::path::Path::new("/sys/kernel/uevent_seqnum");
    if !real.exists() {
        eprintln!("skipped: no /sys/kernel/uevent_seqnum here");
        return;
    }
    let root = crate::board::sysfs::SysfsRoot::new("/sys");
    let error = root.write("kernel/uevent_seqnum", "1").unwrap_err();
    assert_eq!(error.fault(), SensorFault::Denied, "{error}");
    assert!(error.to_string().contains("/sys/kernel/uevent_seqnum"), "{error}");
    assert!(error.to_string().contains("\"1\""), "{error}");
}

#[test]
fn an_offline_cpu_a_missing_device_and_nonsense_are_refused() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    fail(tree.path(&format!("{CPU}/scaling_min_freq")), Errno::EBUSY as i32);
    let report = actuator.apply(&bounds(0, 2, 115_200, 729_600));
    assert_eq!(report.domains[0], Some(Applied::Refused(SensorFault::Busy)));
    fail(tree.path(&format!("{CPU}/scaling_min_freq")), 0);
    let report = actuator.apply(&bounds(0, 2, 729_600, 115_200));
    assert_eq!(report.domains[0], Some(Applied::Refused(SensorFault::Implausible)), "min above max");
    let report = actuator.apply(&bounds(1, 2, 0, 0));
    assert_eq!(report.domains[1], Some(Applied::Refused(SensorFault::Implausible)), "0 would be no limit");
    tree.remove(GPU);
    let report = actuator.apply(&bounds(1, 2, 306_000, 612_000));
    assert_eq!(report.domains[1], Some(Applied::Refused(SensorFault::Missing)));
    let report = actuator.apply(&bounds(2, 3, 1, 2));
    assert_eq!(report.domains[2], Some(Applied::Refused(SensorFault::Missing)), "no such domain");
    assert_eq!(written(&tree), []);
}

#[test]
fn a_device_that_comes_back_is_set_again_and_its_original_recorded_then() {
    let tree = jetson();
    let saved = tree.path("saved");
    std::fs::rename(tree.path(GPU), &saved).unwrap();
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(0, 2, 115_200, 729_600));
    std::fs::rename(&saved, tree.path(GPU)).unwrap();
    assert_eq!(actuator.apply(&bounds(1, 2, 306_000, 306_000)).domains[1], applied(306_000, 306_000));
    actuator.restore();
    assert_eq!(tree.get(&format!("{GPU}/max_freq")), "1020000000");
    assert_eq!(tree.get(&format!("{CPU}/scaling_max_freq")), "1510400");
}

#[test]
fn nothing_is_changed_that_cannot_be_recorded() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    std::fs::remove_dir_all(tree.state()).unwrap();
    let report = actuator.apply(&bounds(1, 2, 306_000, 306_000));
    assert_eq!(report.domains[1], Some(Applied::Refused(SensorFault::Io)));
    assert_eq!(tree.get(&format!("{GPU}/max_freq")), "1020000000");
}

#[test]
fn restoring_gives_every_node_back_and_drop_does_too() {
    let tree = rk3588();
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(3, 5, 600_000, 600_000));
    actuator.apply(&bounds(0, 5, 408_000, 408_000));
    let report = actuator.restore();
    assert_eq!(report.domains[3], applied(0, 0), "0 again: no limit, as it was found");
    assert_eq!(tree.get("class/devfreq/fdab0000.npu/max_freq"), "0");
    assert_eq!(tree.get(&format!("{CPU}/scaling_max_freq")), "1800000");
    assert!(!file(&tree.state()).exists());
    actuator.apply(&bounds(3, 5, 600_000, 600_000));
    drop(actuator);
    assert_eq!(tree.get("class/devfreq/fdab0000.npu/max_freq"), "0");
    assert!(!file(&tree.state()).exists());
}

#[test]
fn no_write_ever_goes_to_hwmon_or_a_governor() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    writes();
    actuator.apply(&bounds(1, 2, 306_000, 306_000));
    actuator.apply(&bounds(0, 2, 115_200, 115_200));
    actuator.restore();
    let nodes = written(&tree);
    assert!(nodes.len() == 4, "{nodes:?}");
    assert!(nodes.iter().all(|(node, _)| node.ends_with("_freq")), "{nodes:?}");
}
