use super::*;
use crate::board::sim::fault::{ActuatorFault, Sensor, SensorFailure};
use crate::board::sim::script::Change;
use crate::core::catalog::{DomainId, RailId, ZoneId};
use crate::units::Kilohertz;
use nix::errno::Errno;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const GPU: &str = "class/devfreq/17000000.gp10b";
const CPU: &str = "devices/system/cpu/cpufreq/policy0";

fn read(served: &Served, path: &str) -> String {
    let text = fs::read_to_string(served.root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.strip_suffix('\n').unwrap_or_else(|| panic!("{path}: no newline")).to_owned()
}

fn read_error(served: &Served, path: &str) -> Errno {
    let error = fs::read_to_string(served.root().join(path)).unwrap_err();
    Errno::from_raw(error.raw_os_error().unwrap())
}

/// One open and one write(), as a shell's `echo` does it.
fn write(served: &Served, path: &str, text: &str) -> Result<(), Errno> {
    let errno = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap());
    let mut file = OpenOptions::new().write(true).open(served.root().join(path)).map_err(errno)?;
    file.write_all(text.as_bytes()).map_err(errno)
}

fn disturb(served: &Served, sensor: Sensor, failure: SensorFailure) {
    served.process.board().disturb(&Change::Sensor { sensor, failure: Some(failure) });
}

#[test]
fn every_board_has_a_tree_whose_every_node_reads_and_whose_every_link_leads_somewhere() {
    for (name, _) in BOARDS {
        let Some(served) = Served::fuse(name) else { return };
        let spec = served.process.board().spec();
        let (mut files, mut links) = (0, 0);
        let mut pending = vec![served.root().to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    pending.push(path);
                } else if metadata.is_symlink() {
                    links += 1;
                    assert!(fs::metadata(&path).unwrap().is_dir(), "{}", path.display());
                } else {
                    files += 1;
                    assert_eq!(metadata.len(), 4096, "{}", path.display());
                    let text = fs::read_to_string(&path).unwrap();
                    // Texts of a device tree end in NUL, lines of all others.
                    let end = if path.starts_with(served.root().join("firmware")) { '\0' } else { '\n' };
                    assert!(text.ends_with(end) && text.len() > 1, "{}: {text:?}", path.display());
                }
            }
        }
        println!("{name}: {files} files, {links} links");
        assert!(files > 20 && links > 1);
        let zones = fs::read_dir(served.root().join("class/thermal")).unwrap();
        let zones =
            zones.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("thermal"));
        assert_eq!(zones.count(), spec.zones.len());
    }
}

#[test]
fn devfreq_takes_any_value_and_reads_it_back() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    let max = format!("{GPU}/max_freq");
    assert_eq!(read(&served, &max), "1300500000");
    write(&served, &max, "1020000000\n").unwrap();
    assert_eq!(read(&served, &max), "1020000000", "not an operating point");
    // A shorter text over a longer one: one write() is one value, nothing of the old one is left.
    write(&served, &max, "612000000").unwrap();
    assert_eq!(read(&served, &max), "612000000");
    write(&served, &max, "0x10").unwrap();
    assert_eq!(read(&served, &max), "1300500000", "0x.. parses as 0: no limit");
    write(&served, &max, "612000000").unwrap();
    write(&served, &max, "0").unwrap();
    assert_eq!(read(&served, &max), "1300500000");
    for bad in ["fast", "", " ", "-5"] {
        let expected = if bad.is_empty() { Ok(()) } else { Err(Errno::EINVAL) };
        assert_eq!(write(&served, &max, bad), expected, "{bad:?}");
    }
    assert_eq!(read(&served, &max), "1300500000");
}

#[test]
fn cpufreq_clamps_to_its_table_and_refuses_bad_text() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    let max = format!("{CPU}/scaling_max_freq");
    write(&served, &max, "1000000").unwrap();
    assert_eq!(read(&served, &max), "960000");
    write(&served, &max, "99999999").unwrap();
    assert_eq!(read(&served, &max), "2035200");
    write(&served, &format!("{CPU}/scaling_min_freq"), "1000000").unwrap();
    assert_eq!(read(&served, &format!("{CPU}/scaling_min_freq")), "1113600");
    for bad in ["fast", "960000 kHz", "-1", "1e6"] {
        assert_eq!(write(&served, &max, bad), Err(Errno::EINVAL), "{bad}");
    }
    assert_eq!(read(&served, &max), "2035200");
    assert_eq!(read(&served, "devices/system/cpu/cpu3/cpufreq/related_cpus"), "0 1 2 3");
}

#[test]
fn governors_and_set_speed_behave() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    let speed = format!("{CPU}/scaling_setspeed");
    assert_eq!(read(&served, &speed), "<unsupported>");
    assert_eq!(write(&served, &speed, "960000"), Err(Errno::EINVAL));
    let governor = format!("{CPU}/scaling_governor");
    assert_eq!(write(&served, &governor, "turbo"), Err(Errno::EINVAL));
    assert_eq!(read(&served, &governor), "schedutil");
    write(&served, &governor, "userspace\n").unwrap();
    write(&served, &speed, "960000").unwrap();
    let board = served.process.board();
    board.with(|plant, now| plant.advance(now.after(Nanos::from_millis(5))));
    assert_eq!(read(&served, &format!("{CPU}/scaling_cur_freq")), "960000");
    assert_eq!(read(&served, &format!("{GPU}/governor")), "nvhost_podgov");
    assert_eq!(read(&served, &format!("{GPU}/device/of_node/name")), "gp10b");
}

#[test]
fn read_only_attributes_refuse_even_root_and_nothing_can_be_made_or_removed() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    for path in [format!("{GPU}/cur_freq"), format!("{CPU}/scaling_cur_freq")] {
        assert_eq!(write(&served, &path, "1"), Err(Errno::EACCES), "{path}");
    }
    assert_eq!(write(&served, "class/thermal/thermal_zone0/temp", "1"), Err(Errno::EACCES));
    let root = served.root();
    let errno = |result: std::io::Result<()>| Errno::from_raw(result.unwrap_err().raw_os_error().unwrap());
    assert_eq!(errno(fs::write(root.join("class/new"), "x")), Errno::EACCES);
    assert_eq!(errno(fs::create_dir(root.join("class/new"))), Errno::EPERM);
    assert_eq!(errno(fs::remove_file(root.join(format!("{GPU}/max_freq")))), Errno::EPERM);
    assert_eq!(errno(fs::rename(root.join("class"), root.join("klass"))), Errno::EPERM);
    assert_eq!(fs::metadata(root.join(format!("{CPU}/cpuinfo_cur_freq"))).unwrap().mode() & 0o777, 0o400);
    // Modes and owners can be changed, as tmpfiles does for the control group.
    let max = root.join(format!("{GPU}/max_freq"));
    fs::set_permissions(&max, fs::Permissions::from_mode(0o664)).unwrap();
    assert_eq!(fs::metadata(&max).unwrap().mode() & 0o777, 0o664);
}

#[test]
fn faults_read_as_the_kernels_errors() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    let zone = "class/thermal/thermal_zone0/temp";
    let sensor = Sensor::Zone(ZoneId(0));
    for (failure, errno) in [
        (SensorFailure::NoData, Errno::ENODATA),
        (SensorFailure::Busy, Errno::EBUSY),
        (SensorFailure::Io, Errno::EIO),
        (SensorFailure::Missing, Errno::ENOENT),
    ] {
        disturb(&served, sensor, failure);
        assert_eq!(read_error(&served, zone), errno);
    }
    // A file that was open when its device went.
    disturb(&served, sensor, SensorFailure::Value(40.0));
    let mut open = fs::File::open(served.root().join(zone)).unwrap();
    disturb(&served, sensor, SensorFailure::Missing);
    let error = open.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENODEV as i32));
    disturb(&served, sensor, SensorFailure::Text("n/a".to_owned()));
    assert_eq!(read(&served, zone), "n/a");
    disturb(&served, sensor, SensorFailure::Value(-40.0));
    assert_eq!(read(&served, zone), "-40000");
    // An offline CPU: every node of the policy is busy.
    disturb(&served, Sensor::Domain(DomainId(0)), SensorFailure::Busy);
    assert_eq!(read_error(&served, &format!("{CPU}/scaling_max_freq")), Errno::EBUSY);
    assert_eq!(write(&served, &format!("{CPU}/scaling_max_freq"), "960000"), Err(Errno::EBUSY));
    // An actuator that refuses.
    let fault = Some(ActuatorFault::Refuse);
    served.process.board().disturb(&Change::Actuator { domain: DomainId(1), fault });
    assert_eq!(write(&served, &format!("{GPU}/max_freq"), "612000000"), Err(Errno::EIO));
}

#[test]
fn a_disabled_channel_has_no_data_and_power_is_volts_times_amperes() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    let mut found = 0.0;
    for entry in fs::read_dir(served.root().join("class/hwmon")).unwrap() {
        let chip = format!("class/hwmon/{}", entry.unwrap().file_name().to_string_lossy());
        if read(&served, &format!("{chip}/name")) != "ina3221" {
            continue;
        }
        for channel in 1..=3 {
            let Ok(label) = fs::read_to_string(served.root().join(format!("{chip}/in{channel}_label")))
            else {
                continue;
            };
            if label.trim() == "VDD_IN" {
                let number = |name: &str| read(&served, &format!("{chip}/{name}")).parse::<f64>().unwrap();
                let (mv, ma) = (format!("in{channel}_input"), format!("curr{channel}_input"));
                found = number(&mv) * number(&ma) / 1e6;
                write(&served, &format!("{chip}/in{channel}_enable"), "0").unwrap();
                assert_eq!(read_error(&served, &format!("{chip}/{ma}")), Errno::ENODATA);
                write(&served, &format!("{chip}/in{channel}_enable"), "1").unwrap();
                assert!(number(&ma) > 0.0);
            }
        }
    }
    let shown = served.process.board().with(|plant, _| plant.sense(Sensor::Rail(RailId(0)))).unwrap();
    assert!((found - shown).abs() < 0.05, "{found} W against {shown} W");
}

#[test]
fn an_open_file_sees_one_value_until_it_seeks_back() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    let mut file = fs::File::open(served.root().join(format!("{GPU}/max_freq"))).unwrap();
    let mut part = [0; 4];
    file.read_exact(&mut part).unwrap();
    write(&served, &format!("{GPU}/max_freq"), "612000000").unwrap();
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(format!("{}{rest}", String::from_utf8_lossy(&part)), "1300500000\n");
    file.seek(SeekFrom::Start(0)).unwrap();
    rest.clear();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "612000000\n");
}

#[test]
fn throttling_reads_back_as_a_lower_max_freq() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    served.process.board().with(|plant, now| {
        plant.preheat(crate::board::sim::Heat::uniform(110.0));
        plant.advance(now.after(Nanos::from_secs(1)));
    });
    assert_eq!(read(&served, &format!("{GPU}/max_freq")), "114750000");
}

#[test]
fn rapl_counts_and_the_battery_drains() {
    let Some(served) = Served::fuse("desktop") else { return };
    let counter = "class/powercap/intel-rapl:0/energy_uj";
    let left = "class/power_supply/BAT0/energy_now";
    let number = |path: &str| read(&served, path).parse::<u64>().unwrap();
    assert_eq!(read(&served, "class/powercap/intel-rapl:0/name"), "package-0");
    let before = (number(counter), number(left));
    served.process.board().with(|plant, now| plant.advance(now.after(Nanos::from_secs(10))));
    let after = (number(counter), number(left));
    assert!(after.0 > before.0 + 1_000_000 && after.1 < before.1, "{before:?} {after:?}");
    assert_eq!(read(&served, "class/power_supply/BAT0/status"), "Discharging");
    assert!(number("class/power_supply/BAT0/power_now") > 1_000_000);
    assert_eq!(read(&served, "class/power_supply/AC/online"), "0");
}

#[test]
fn a_pi_tells_that_it_throttles() {
    let Some(served) = Served::fuse("raspberry-pi-5") else { return };
    let node = "devices/platform/soc/soc:firmware/get_throttled";
    assert_eq!(read(&served, node), "0");
    served.process.board().with(|plant, now| {
        plant.preheat(crate::board::sim::Heat::uniform(90.0));
        plant.advance(now.after(Nanos::from_secs(1)));
    });
    assert_eq!(read(&served, node), "e000e");
}

#[test]
fn stopping_unmounts_and_a_dead_mount_is_replaced() {
    let Some(served) = Served::fuse("jetson-tx2") else { return };
    let mount = served.root().to_owned();
    let live = mount::prepare(&mount).unwrap_err();
    assert_eq!(live.kind(), std::io::ErrorKind::AddrInUse, "{live}");
    let Served { process, directory } = served;
    let stop = AtomicBool::new(true);
    let report = process.run(&stop).unwrap();
    assert_eq!(report.tree, TreeKind::Fuse);
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
    assert!(!directory.path().join("board.sock").exists());
    // What a killed board leaves: a mount that nobody serves.
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0", std::os::fd::AsRawFd::as_raw_fd(&device));
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("dead"), &mount, Some("fuse"), flags, Some(options.as_str())).unwrap();
    drop(device);
    assert_eq!(fs::read_dir(&mount).unwrap_err().raw_os_error(), Some(Errno::ENOTCONN as i32));
    mount::prepare(&mount).unwrap();
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
}

#[test]
fn without_fuse_a_tree_of_files_does_what_files_can_and_says_so() {
    let mut served = Served::start("jetson-tx2", true, |_| {});
    assert_eq!(*served.process.tree_kind(), TreeKind::Files("asked for".to_owned()));
    let max = format!("{GPU}/max_freq");
    assert_eq!(read(&served, &max), "1300500000");
    fs::write(served.root().join(&max), "612000000").unwrap();
    served.process.step().unwrap();
    let gpu = DomainId(1);
    let in_force = served.process.board().with(|plant, _| plant.clock(gpu).max);
    assert_eq!(in_force, Kilohertz(612_000));
    fs::write(served.root().join(&max), "fast").unwrap();
    served.process.step().unwrap();
    assert_eq!(read(&served, &max), "612000000", "a bad value is undone");
    disturb(&served, Sensor::Zone(ZoneId(0)), SensorFailure::Io);
    served.process.step().unwrap();
    assert_eq!(read_error(&served, "class/thermal/thermal_zone0/temp"), Errno::ENOENT);
    let mount = served.root().to_owned();
    served.process.run(&AtomicBool::new(true)).unwrap();
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
}

#[test]
fn a_directory_with_someones_files_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.txt"), "x").unwrap();
    let spec = Arc::new(PlantSpec::from_board(&board("desktop")).unwrap());
    let options = ServeOptions {
        mount: directory.path().to_owned(),
        socket: directory.path().join("s"),
        seed: 1,
        script: None,
        until: None,
        files_only: true,
    };
    let error = BoardProcess::start(spec, options).err().unwrap().to_string();
    assert!(error.contains("not empty"), "{error}");
    assert!(directory.path().join("thesis.txt").exists());
}
