//! A tree of plain files shaped as a board's sysfs, and the board files that go with it.

use crate::board::spec::BoardSpec;
use crate::board::sysfs::{Roots, SysfsActuator, SysfsBoard, SysfsTelemetry};
use crate::core::event::{ClockBounds, DomainBounds, Setpoints};
use crate::time::{Clock, Timestamp};
use crate::units::{Kilohertz, Nanos};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock that tests move.
#[derive(Debug, Default)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn advance(&self, span: Nanos) {
        self.0.fetch_add(span.0, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// In memory where possible: the journal syncs, which costs nothing there.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// A board in a temporary directory.
pub(crate) struct Tree {
    directory: tempfile::TempDir,
    pub(crate) spec: BoardSpec,
    pub(crate) clock: Arc<HandClock>,
}

impl Tree {
    pub(crate) fn new(spec: &str, nodes: &[(&str, &str)]) -> Self {
        let spec = BoardSpec::parse(spec, Path::new("test.toml")).unwrap_or_else(|error| panic!("{error}"));
        let tree = Self { directory: scratch(), spec, clock: Arc::default() };
        std::fs::create_dir_all(tree.sys()).unwrap();
        for (path, value) in nodes {
            tree.put(path, value);
        }
        for kind in ["cpu", "memory", "io"] {
            let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
            let path = tree.directory.path().join("proc/pressure").join(kind);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        tree.boot("11111111-2222-3333-4444-555555555555");
        tree
    }

    /// The same board, whose file asks for things to be held: lines of `[hold]`.
    pub(crate) fn with_hold(mut self, lines: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct Held {
            hold: crate::board::spec::HoldSpec,
        }
        let text = if lines.starts_with('[') { lines.to_owned() } else { format!("[hold]\n{lines}") };
        self.spec.hold = toml::from_str::<Held>(&text).unwrap().hold;
        self
    }

    pub(crate) fn boot(&self, id: &str) {
        let path = self.directory.path().join("proc/sys/kernel/random/boot_id");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{id}\n")).unwrap();
    }

    pub(crate) fn sys(&self) -> PathBuf {
        self.directory.path().join("sys")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::below(self.directory.path())
    }

    pub(crate) fn path(&self, node: &str) -> PathBuf {
        self.sys().join(node)
    }

    pub(crate) fn put(&self, node: &str, value: &str) {
        let path = self.path(node);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{value}\n")).unwrap();
    }

    pub(crate) fn get(&self, node: &str) -> String {
        std::fs::read_to_string(self.path(node)).unwrap().trim().to_owned()
    }

    pub(crate) fn remove(&self, node: &str) {
        let path = self.path(node);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }

    pub(crate) fn board(&self) -> SysfsBoard {
        SysfsBoard::open(&self.spec, &self.roots(), self.clock.clone()).unwrap()
    }

    pub(crate) fn telemetry(&self) -> SysfsTelemetry {
        self.board().into_telemetry()
    }

    pub(crate) fn actuator(&self) -> SysfsActuator {
        self.board().into_parts(&self.state()).unwrap().1
    }
}

/// Bounds in kHz for one domain out of `of`.
pub(crate) fn bounds(index: usize, of: usize, min: u32, max: u32) -> Setpoints {
    let mut domains = DomainBounds::from_elem(None, of);
    domains[index] = Some(ClockBounds { min: Kilohertz(min), max: Kilohertz(max) });
    Setpoints { domains }
}

pub(crate) const THERMAL: &str =
    "thermal = { fast_k_per_w = 1.0, fast_tau_s = 2.0, slow_k_per_w = 3.0, slow_tau_s = 60.0 }\n";

/// Jetson Orin Nano: two INA3221 channels of interest among noise, devfreq GPU by device-tree node.
pub(crate) fn jetson() -> Tree {
    let spec = format!(
        r#"
name = "jetson"
description = "test"
idle_power_w = 3.0
{THERMAL}
[[domain]]
name = "cpu"
interface = "cpufreq"
select = "0"
opps_khz = [1000, 2000]
[[domain]]
name = "gpu"
interface = "devfreq"
select = "gpu"
[[unit]]
name = "cpu"
kind = "cpu"
threads = 2
cpus = [0, 1]
domain = "cpu"
[[unit]]
name = "gpu"
kind = "gpu"
provider = "CUDAExecutionProvider"
domain = "gpu"
rail = "VDD_CPU_GPU_CV"
[[zone]]
name = "cpu-thermal"
passive_c = 80
critical_c = 95
[[zone]]
name = "gpu-thermal"
passive_c = 80
critical_c = 95
[[rail]]
name = "VDD_IN"
interface = "hwmon"
chip = "ina3221"
input = true
[[rail]]
name = "VDD_CPU_GPU_CV"
interface = "hwmon"
chip = "ina3221"
"#
    );
    Tree::new(&spec, JETSON)
}

const JETSON: &[(&str, &str)] = &[
    ("devices/system/cpu/cpufreq/policy0/related_cpus", "0 1 2 3"),
    ("devices/system/cpu/cpufreq/policy0/scaling_available_frequencies", "1510400 729600 115200"),
    ("devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "729600"),
    ("devices/system/cpu/cpufreq/policy0/scaling_min_freq", "115200"),
    ("devices/system/cpu/cpufreq/policy0/scaling_max_freq", "1510400"),
    ("devices/system/cpu/cpufreq/policy0/scaling_governor", "schedutil"),
    ("class/devfreq/17000000.ga10b/device/of_node/name", "gpu\0"),
    ("class/devfreq/17000000.ga10b/available_frequencies", "306000000 612000000 1020000000"),
    ("class/devfreq/17000000.ga10b/cur_freq", "612000000"),
    ("class/devfreq/17000000.ga10b/min_freq", "306000000"),
    ("class/devfreq/17000000.ga10b/max_freq", "1020000000"),
    ("class/devfreq/17000000.ga10b/governor", "nvhost_podgov"),
    ("class/devfreq/15340000.vic/cur_freq", "1"),
    ("class/thermal/thermal_zone0/type", "cpu-thermal"),
    ("class/thermal/thermal_zone0/temp", "48500"),
    ("class/thermal/thermal_zone0/trip_point_0_type", "active"),
    ("class/thermal/thermal_zone0/trip_point_0_temp", "51000"),
    ("class/thermal/thermal_zone0/trip_point_1_type", "passive"),
    ("class/thermal/thermal_zone0/trip_point_1_temp", "99000"),
    ("class/thermal/thermal_zone0/trip_point_2_type", "critical"),
    ("class/thermal/thermal_zone0/trip_point_2_temp", "104500"),
    ("class/thermal/thermal_zone3/type", "gpu-thermal"),
    ("class/thermal/thermal_zone3/temp", "50250"),
    ("class/thermal/thermal_zone3/trip_point_0_type", "passive"),
    ("class/thermal/thermal_zone3/trip_point_0_temp", "-274000"),
    ("class/hwmon/hwmon0/name", "cpu_thermal"),
    ("class/hwmon/hwmon0/in1_label", "VDD_IN"),
    ("class/hwmon/hwmon2/name", "ina3221"),
    ("class/hwmon/hwmon2/in1_label", "VDD_IN"),
    ("class/hwmon/hwmon2/in1_input", "5000"),
    ("class/hwmon/hwmon2/curr1_input", "1200"),
    ("class/hwmon/hwmon2/curr1_max", "32760"),
    ("class/hwmon/hwmon2/curr1_crit", "32760"),
    ("class/hwmon/hwmon2/in2_label", "VDD_CPU_GPU_CV"),
    ("class/hwmon/hwmon2/in2_input", "5000"),
    ("class/hwmon/hwmon2/curr2_input", "-8"),
    ("class/hwmon/hwmon2/in3_label", "NC"),
    ("class/hwmon/hwmon2/in3_input", "0"),
    ("class/hwmon/hwmon2/curr3_input", "0"),
    ("class/hwmon/hwmon2/in7_label", "sum of shunt voltages"),
    ("class/hwmon/hwmon2/in7_input", "7"),
];

/// Raspberry Pi 5: one policy, one zone without a passive trip, nothing else.
pub(crate) fn pi5() -> Tree {
    let spec = format!(
        r#"
name = "pi5"
description = "test"
idle_power_w = 2.7
battery = true
{THERMAL}
[[domain]]
name = "cpu"
interface = "cpufreq"
select = "0"
[[unit]]
name = "cpu"
kind = "cpu"
threads = 4
domain = "cpu"
[[zone]]
name = "cpu-thermal"
passive_c = 80
critical_c = 115
"#
    );
    Tree::new(
        &spec,
        &[
            ("devices/system/cpu/cpufreq/policy0/scaling_available_frequencies", "1500000 1800000 2400000 "),
            ("devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1500000"),
            ("devices/system/cpu/cpufreq/policy0/scaling_min_freq", "1500000"),
            ("devices/system/cpu/cpufreq/policy0/scaling_max_freq", "2400000"),
            ("devices/system/cpu/cpufreq/policy0/scaling_governor", "ondemand"),
            ("class/thermal/thermal_zone0/type", "cpu-thermal"),
            ("class/thermal/thermal_zone0/temp", "61200"),
            ("class/thermal/thermal_zone0/trip_point_0_type", "critical"),
            ("class/thermal/thermal_zone0/trip_point_0_temp", "110000"),
            ("class/hwmon/hwmon1/name", "rpi_volt"),
            ("class/hwmon/hwmon1/in0_lcrit_alarm", "0"),
        ],
    )
}

/// RK3588: three policies, GPU and NPU and memory under devfreq.
pub(crate) fn rk3588() -> Tree {
    let mut spec = format!(
        "name = \"rk3588\"\ndescription = \"test\"\nidle_power_w = 2.0\n{THERMAL}
[[unit]]\nname = \"npu\"\nkind = \"npu\"\nprovider = \"RknnExecutionProvider\"\ndomain = \"npu\"\nmemory_domain = \"dmc\"\n"
    );
    for (name, interface, select) in [
        ("little", "cpufreq", "0"),
        ("big0", "cpufreq", "5"),
        ("gpu", "devfreq", "fb000000.gpu"),
        ("npu", "devfreq", ".npu"),
        ("dmc", "devfreq", "dmc"),
    ] {
        spec +=
            &format!("[[domain]]\nname = \"{name}\"\ninterface = \"{interface}\"\nselect = \"{select}\"\n");
    }
    let tree = Tree::new(&spec, &[]);
    for (policy, cpus) in [(0, "0 1 2 3"), (4, "4 5"), (6, "6 7")] {
        let node = |name: &str| format!("devices/system/cpu/cpufreq/policy{policy}/{name}");
        tree.put(&node("related_cpus"), cpus);
        tree.put(&node("scaling_available_frequencies"), "408000 1008000 1800000");
        tree.put(&node("scaling_cur_freq"), "1008000");
        tree.put(&node("scaling_min_freq"), "408000");
        tree.put(&node("scaling_max_freq"), "1800000");
        tree.put(&node("scaling_governor"), "ondemand");
    }
    for device in ["fb000000.gpu", "fb000000.gpu-mali", "fdab0000.npu", "dmc"] {
        let node = |name: &str| format!("class/devfreq/{device}/{name}");
        tree.put(&node("available_frequencies"), "300000000 600000000 1000000000");
        tree.put(&node("cur_freq"), "300000000");
        tree.put(&node("min_freq"), "0");
        tree.put(&node("max_freq"), "0");
        tree.put(&node("governor"), "simple_ondemand");
        tree.put(&node("load"), "99@1000000000Hz");
    }
    tree
}

/// A laptop: intel_pstate without a table, RAPL, a battery, two zones of one type.
pub(crate) fn laptop() -> Tree {
    let spec = format!(
        r#"
name = "laptop"
description = "test"
idle_power_w = 4.0
battery = true
{THERMAL}
[[domain]]
name = "cpu"
interface = "cpufreq"
select = "0"
[[unit]]
name = "cpu"
kind = "cpu"
domain = "cpu"
rail = "package-0"
[[zone]]
name = "acpitz"
passive_c = 90
critical_c = 100
[[rail]]
name = "package-0"
interface = "powercap"
[[rail]]
name = "PPT"
interface = "hwmon"
chip = "amdgpu"
"#
    );
    Tree::new(
        &spec,
        &[
            ("devices/system/cpu/cpufreq/policy0/cpuinfo_min_freq", "400000"),
            ("devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "4450000"),
            ("devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1200000"),
            ("devices/system/cpu/cpufreq/policy0/scaling_min_freq", "400000"),
            ("devices/system/cpu/cpufreq/policy0/scaling_max_freq", "4450000"),
            ("devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave"),
            ("class/powercap/intel-rapl:0/name", "package-0"),
            ("class/powercap/intel-rapl:0/energy_uj", "262143300000"),
            ("class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850"),
            ("class/powercap/intel-rapl:0:0/name", "core"),
            ("class/powercap/intel-rapl:0:0/energy_uj", "5"),
            ("class/hwmon/hwmon4/name", "amdgpu"),
            ("class/hwmon/hwmon4/power1_label", "PPT"),
            ("class/hwmon/hwmon4/power1_average", "7012000"),
            ("class/thermal/thermal_zone0/type", "acpitz"),
            ("class/thermal/thermal_zone0/temp", "27800"),
            ("class/thermal/thermal_zone1/type", "acpitz"),
            ("class/thermal/thermal_zone1/temp", "51000"),
            ("class/power_supply/AC/type", "Mains"),
            ("class/power_supply/BAT0/type", "Battery"),
            ("class/power_supply/BAT0/present", "1"),
            ("class/power_supply/BAT0/status", "Discharging"),
            ("class/power_supply/BAT0/energy_now", "25000000"),
            ("class/power_supply/BAT0/energy_full", "50000000"),
            ("class/power_supply/BAT0/power_now", "8000000"),
            ("class/power_supply/hidpp_battery_0/type", "Battery"),
            ("class/power_supply/hidpp_battery_0/scope", "Device"),
            ("class/power_supply/hidpp_battery_0/status", "Discharging"),
            ("class/power_supply/hidpp_battery_0/energy_now", "1"),
            ("class/power_supply/hidpp_battery_0/energy_full", "1"),
            ("class/power_supply/hidpp_battery_0/power_now", "1"),
        ],
    )
}
