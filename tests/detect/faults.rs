//! Nodes that cannot be read, lie, never end, or lead in circles: each is named, and nothing breaks.

use crate::tree::Tree;
use crate::{look, written};
use wattd::board::detect::Places;
use wattd::ctl::board::Look;

#[test]
fn no_directory_is_an_error_that_names_it() {
    let error = Look::over(&Places::below("/no/such/tree".as_ref()), None).unwrap_err().to_string();
    assert_eq!(error, "/no/such/tree/sys: expected a directory that stands for /sys");
}

#[test]
fn a_zone_that_cannot_be_read_says_why_and_is_left_out_of_the_file() {
    let tree = Tree::of("jetson-orin-nano");
    let look = look(&tree);
    let text = tree.without_root(&look.text());
    for expected in [
        "unreadable: tj-thermal: /sys/class/thermal/thermal_zone8/temp is empty: expected an integer",
        "unreadable: cv0-thermal: cannot read /sys/class/thermal/thermal_zone2/temp: Is a directory",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    let (spec, _) = written(&tree, &look, &[]);
    let zones: Vec<&str> = spec.zones.iter().map(|zone| zone.name.as_str()).collect();
    assert_eq!(zones, ["cpu-thermal", "gpu-thermal", "soc0-thermal", "soc1-thermal", "soc2-thermal"]);
}

#[test]
fn unconnected_channels_and_sums_are_no_rails() {
    for (name, expected) in [
        ("jetson-orin-nano", &["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"][..]),
        ("jetson-agx-orin", &["VDDQ_VDD2_1V8AO", "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
        ("jetson-xavier", &["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]),
        ("jetson-nano", &["POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"]),
        ("laptop-intel", &["package-0", "psys", "core", "uncore"]),
        ("desktop-amd", &["PPT", "package-0", "core"]),
        ("raspberry-pi-5", &[]),
    ] {
        let look = look(&Tree::of(name));
        let rails: Vec<&str> = look.found.rails.iter().map(|rail| rail.name.as_str()).collect();
        assert_eq!(rails, expected, "{name}");
    }
    // What the whole counts is not summed once more.
    let tree = Tree::of("desktop-amd");
    let (spec, text) = written(&tree, &look(&tree), &[]);
    assert!(spec.rails.iter().all(|rail| rail.name != "core"), "{text}");
    assert!(text.contains("# Left out: rail \"core\": counted in package-0"), "{text}");
}

#[test]
fn what_is_no_text_or_no_number_is_quoted_with_what_would_be_right() {
    let tree = Tree::of("raspberry-pi-4");
    tree.put("sys/class/thermal/thermal_zone0/temp 444 4\\xff2").unwrap();
    tree.put("sys/class/thermal/thermal_zone1/type 444 \\xfe\\xff").unwrap();
    tree.put("sys/class/thermal/thermal_zone2/type 444 evil\\x1b[2Jzone").unwrap();
    tree.put("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq 444 fast").unwrap();
    tree.put("sys/devices/system/cpu/cpufreq/policyX/scaling_max_freq 444 1").unwrap();
    tree.put("sys/firmware/devicetree/base/model 444 \\xff\\xff").unwrap();
    tree.put("etc/nv_tegra_release 644 # R-36").unwrap();
    let look = look(&tree);
    let text = tree.without_root(&look.text());
    for expected in [
        "thermal_zone0/temp reads \"4\u{fffd}2\\n\": expected UTF-8 text",
        "thermal_zone1/type reads \"\u{fffd}\u{fffd}\\n\": expected UTF-8 text",
        "thermal_zone2/type reads \"evil\\u{1b}[2Jzone\": expected a name",
        "scaling_cur_freq reads \"fast\": expected an integer",
        "cpufreq/policyX: expected a name such as policy0",
        "base/model reads \"\u{fffd}\u{fffd}\\n\": expected UTF-8 text",
        "nv_tegra_release reads \"# R-36\": expected \"# R36 (release), REVISION: 4.3, ...\"",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "a terminal must not obey the board");
    written(&tree, &look, &[]);
}

#[test]
fn endless_files_pipes_and_circles_are_survived() {
    let tree = Tree::of("raspberry-pi-4");
    let at = |node: &str| tree.root().join(node);
    std::fs::write(at("sys/class/thermal/thermal_zone0/temp"), vec![b'1'; 10_000_000]).unwrap();
    std::fs::write(at("sys/firmware/devicetree/base/compatible"), vec![b'a'; 10_000_000]).unwrap();
    std::fs::write(at("etc/os-release"), "x=".repeat(1_000_000)).unwrap();
    tree.put("sys/class/hwmon/hwmon7 link hwmon7").unwrap();
    tree.put("sys/class/thermal/thermal_zone1 link ../thermal").unwrap();
    tree.put("sys/class/thermal/thermal_zone2/type link type").unwrap();
    tree.put("sys/class/devfreq link devfreq").unwrap();
    tree.put("sys/class/power_supply/BAT0/type link ../BAT0/type").unwrap();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o644);
    std::fs::create_dir_all(at("sys/class/hwmon/hwmon9")).unwrap();
    nix::unistd::mkfifo(&at("sys/class/hwmon/hwmon9/name"), mode).unwrap();
    let look = look(&tree);
    let text = tree.without_root(&look.text());
    assert!(text.contains("thermal_zone2/type: Too many levels of symbolic links"), "{text}");
    assert!(text.len() < 20_000, "{} bytes", text.len());
    written(&tree, &look, &[]);
}

#[test]
fn a_crowd_of_nodes_is_cut_at_what_a_board_file_may_hold() {
    let tree = Tree::empty();
    for n in 0..200 {
        tree.put(&format!("sys/class/thermal/thermal_zone{n}/type 444 cpu{n}-thermal")).unwrap();
        tree.put(&format!("sys/class/thermal/thermal_zone{n}/temp 444 40000")).unwrap();
        tree.put(&format!("sys/class/hwmon/hwmon{n}/name 444 chip{n}")).unwrap();
        tree.put(&format!("sys/class/hwmon/hwmon{n}/power1_label 444 rail{n}")).unwrap();
        tree.put(&format!("sys/class/hwmon/hwmon{n}/power1_input 444 1000")).unwrap();
        for (node, value) in [("max_freq", "9000000"), ("available_frequencies", "1000000 9000000")] {
            tree.put(&format!("sys/class/devfreq/{n}.gpu/{node} 644 {value}")).unwrap();
        }
        let (policy, cpus) = (2 * n, format!("{} {}", 2 * n, 2 * n + 1));
        for (node, value) in [
            ("scaling_max_freq", "9000"),
            ("scaling_available_frequencies", "1000 9000"),
            ("affected_cpus", cpus.as_str()),
        ] {
            tree.put(&format!("sys/devices/system/cpu/cpufreq/policy{policy}/{node} 644 {value}")).unwrap();
        }
    }
    let look = look(&tree);
    let (spec, _) = written(&tree, &look, &[]);
    assert_eq!((spec.zones.len(), spec.rails.len(), spec.domains.len()), (64, 64, 64));
    assert_eq!(spec.units.len(), 32, "a unit for each cluster, and room for others");
}

#[test]
fn a_zone_that_shows_a_constant_is_left_out() {
    let tree = Tree::of("jetson-nano");
    let (spec, text) = written(&tree, &look(&tree), &[]);
    assert!(spec.zones.iter().all(|zone| zone.name != "PMIC-Die"), "{text}");
    assert!(text.contains("# Left out: zone \"PMIC-Die\": it shows no trip, and more than"), "{text}");
}

#[test]
fn trips_that_meet_are_set_apart() {
    let tree = Tree::empty();
    let zone = "sys/class/thermal/thermal_zone0";
    for (node, text) in [
        ("type", "soc"),
        ("temp", "50000"),
        ("trip_point_0_type", "passive"),
        ("trip_point_0_temp", "90000"),
        ("trip_point_1_type", "critical"),
        ("trip_point_1_temp", "90000"),
    ] {
        tree.put(&format!("{zone}/{node} 444 {text}")).unwrap();
    }
    let (spec, _) = written(&tree, &look(&tree), &[]);
    assert_eq!((spec.zones[0].passive_c, spec.zones[0].critical_c), (89.0, 90.0));
}

#[test]
fn a_name_that_no_board_file_may_have_is_refused() {
    let tree = Tree::of("raspberry-pi-4");
    let look = look(&tree);
    let error = wattd::board::detect::draft("", &look.found, None, &[]).unwrap_err().to_string();
    assert!(error.contains("name = \"\": expected 1 to 64 printable characters"), "{error}");
}
