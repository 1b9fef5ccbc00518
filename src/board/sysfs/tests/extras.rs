//! What a board shows and no board file needs to name; and that a device which sleeps is let sleep.

use super::tree::{Tree, jetson, laptop, pi5, rk3588};
use crate::board::Telemetry;
use crate::board::panel::{Alarm, AlarmState, Instrument, Quality};
use crate::board::sysfs::Sampler;
use crate::core::event::SensorFault;
use crate::time::Clock;
use crate::units::{Microwatts, Nanos};

/// Sweeps once, and gives the instrument of a name.
fn instrument(tree: &Tree, name: &str) -> Option<Instrument> {
    let board = tree.board();
    let panel = board.panel();
    let mut telemetry = board.into_telemetry();
    telemetry.sample();
    panel.instruments(tree.clock.now()).into_iter().find(|instrument| instrument.name == name)
}

fn alarm(alarms: &[AlarmState], alarm: Alarm) -> (Option<bool>, u64) {
    let state = alarms.iter().find(|state| state.alarm == alarm).unwrap();
    (state.on, state.events)
}

#[test]
fn every_reading_has_unit_age_source_and_quality() {
    let tree = jetson();
    let board = tree.board();
    let panel = board.panel();
    let mut telemetry = board.into_telemetry();
    assert!(panel.instruments(tree.clock.now()).iter().all(|one| one.quality == Quality::Missing));
    telemetry.sample();
    tree.clock.advance(Nanos::from_millis(250));
    for one in panel.instruments(tree.clock.now()) {
        assert_eq!(one.quality, Quality::Measured, "{one:?}");
        assert!(one.value.is_some() && !one.unit.is_empty() && !one.source.is_empty(), "{one:?}");
        assert_eq!(one.age_s, Some(0.25), "{one:?}");
    }
    let rail = panel.instruments(tree.clock.now()).into_iter().find(|one| one.name == "rail VDD_IN").unwrap();
    assert_eq!((rail.value, rail.unit.as_str()), (Some(6.0), "W"));
    assert!(rail.source.ends_with("class/hwmon/hwmon2/curr1_input"), "{}", rail.source);
    tree.remove("class/hwmon/hwmon2/curr1_input");
    telemetry.sample();
    let rail = panel.instruments(tree.clock.now()).into_iter().find(|one| one.name == "rail VDD_IN").unwrap();
    assert_eq!(
        (rail.quality, rail.fault, rail.value),
        (Quality::Stale, Some(SensorFault::Missing), Some(6.0))
    );
}

#[test]
fn the_loads_of_processors_are_read_in_their_dialects() {
    let tree = rk3588();
    let load = instrument(&tree, "load npu").unwrap();
    assert_eq!((load.value, load.unit.as_str()), (Some(0.99), "1"));
    let tree = jetson();
    tree.put("class/devfreq/17000000.ga10b/device/load", "250");
    assert_eq!(instrument(&tree, "load gpu").unwrap().value, Some(0.25), "parts per thousand");
    tree.put("class/devfreq/17000000.ga10b/device/load", "busy");
    let load = instrument(&tree, "load gpu").unwrap();
    assert_eq!((load.value, load.fault), (None, Some(SensorFault::Garbled)));
}

#[test]
fn a_graphics_processor_without_a_load_node_shows_this_processs_work() {
    let tree = jetson();
    std::fs::create_dir_all(tree.roots().proc.join("self/fdinfo")).unwrap();
    std::fs::create_dir_all(tree.roots().proc.join("self/fd")).unwrap();
    let board = tree.board();
    let panel = board.panel();
    let mut telemetry = board.into_telemetry();
    telemetry.sample();
    tree.clock.advance(Nanos::from_secs(1));
    telemetry.sample();
    let load = panel.instruments(tree.clock.now()).into_iter().find(|one| one.name == "load gpu").unwrap();
    assert_eq!((load.value, load.quality), (Some(0.0), Quality::Partial));
    assert!(load.note.unwrap().contains("only this process"));
}

#[test]
fn over_current_events_are_counted_from_the_start() {
    let tree = jetson();
    tree.put("class/hwmon/hwmon5/name", "soctherm_oc");
    tree.put("class/hwmon/hwmon5/oc1_event_cnt", "3");
    tree.put("class/hwmon/hwmon5/oc3_event_cnt", "4");
    let board = tree.board();
    let panel = board.panel();
    let mut telemetry = board.into_telemetry();
    telemetry.sample();
    assert_eq!(alarm(&panel.alarms(), Alarm::OverCurrent), (Some(false), 0), "those before do not count");
    tree.put("class/hwmon/hwmon5/oc3_event_cnt", "6");
    tree.clock.advance(Nanos::from_secs(1));
    telemetry.sample();
    assert_eq!(alarm(&panel.alarms(), Alarm::OverCurrent), (Some(true), 2));
    tree.clock.advance(Nanos::from_secs(1));
    telemetry.sample();
    assert_eq!(alarm(&panel.alarms(), Alarm::OverCurrent), (Some(false), 2));
}

#[test]
fn the_firmware_of_a_pi_is_heard() {
    let tree = pi5();
    let node = "devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";
    tree.put(node, "50000");
    let board = tree.board();
    let panel = board.panel();
    let mut telemetry = board.into_telemetry();
    telemetry.sample();
    assert_eq!(alarm(&panel.alarms(), Alarm::UnderVoltage), (Some(false), 0), "history is none");
    // Under-voltage and throttled, now.
    tree.put(node, "50005");
    tree.clock.advance(Nanos::from_secs(1));
    telemetry.sample();
    assert_eq!(alarm(&panel.alarms(), Alarm::UnderVoltage), (Some(true), 1));
    assert_eq!(alarm(&panel.alarms(), Alarm::Throttled), (Some(true), 1));
    assert_eq!(alarm(&panel.alarms(), Alarm::ClockCapped), (Some(false), 0));
}

#[test]
fn without_the_firmwares_word_the_voltage_alarm_counts() {
    let tree = pi5();
    tree.put("class/hwmon/hwmon1/in0_lcrit_alarm", "1");
    let board = tree.board();
    let panel = board.panel();
    board.into_telemetry().sample();
    assert_eq!(alarm(&panel.alarms(), Alarm::UnderVoltage), (Some(true), 1));
    assert_eq!(alarm(&panel.alarms(), Alarm::Throttled), (None, 0), "nobody says");
}

#[test]
fn a_zone_at_its_hot_trip_is_an_alarm() {
    let tree = jetson();
    let board = tree.board();
    let panel = board.panel();
    let mut telemetry = board.into_telemetry();
    telemetry.sample();
    assert_eq!(alarm(&panel.alarms(), Alarm::OverTemperature), (Some(false), 0));
    tree.put("class/thermal/thermal_zone0/temp", "99000");
    telemetry.sample();
    assert_eq!(alarm(&panel.alarms(), Alarm::OverTemperature), (Some(true), 1));
}

#[test]
fn rails_of_the_power_management_chip_are_partial_and_no_rail_of_the_board() {
    let tree = pi5();
    let mailbox = tree.roots().machine.unwrap().join("dev/vcio");
    std::fs::create_dir_all(mailbox.parent().unwrap()).unwrap();
    std::fs::write(
        &mailbox,
        "VDD_CORE_A current(7)=2.0A\nVDD_CORE_V volt(15)=0.75V\nEXT5V_V volt(24)=5.1V\n",
    )
    .unwrap();
    let pmic = instrument(&tree, "rails of the PMIC").unwrap();
    assert_eq!((pmic.value, pmic.unit.as_str(), pmic.quality), (Some(1.5), "W", Quality::Partial));
    assert!(pmic.note.unwrap().contains("5 V input are not seen"));
    assert_eq!(tree.board().board().rails, []);
}

#[test]
fn the_power_mode_is_read_with_the_names_of_the_modes() {
    let tree = jetson();
    let machine = tree.roots().machine.unwrap();
    for (path, text) in [
        ("var/lib/nvpmodel/status", "pmode:0002 fmode:quiet\n"),
        ("etc/nvpmodel.conf", "< POWER_MODEL ID=2 NAME=MAXN >\n"),
    ] {
        std::fs::create_dir_all(machine.join(path).parent().unwrap()).unwrap();
        std::fs::write(machine.join(path), text).unwrap();
    }
    let mode = instrument(&tree, "nvpmodel").unwrap();
    assert_eq!((mode.value, mode.note.as_deref()), (Some(2.0), Some("modes: 2 MAXN")));
}

#[test]
fn a_device_that_sleeps_is_not_read() {
    let tree = laptop();
    let status = "class/hwmon/hwmon4/device/power/runtime_status";
    tree.put(status, "active");
    let mut telemetry = tree.telemetry();
    assert_eq!(telemetry.sample().rails[1], Ok(Microwatts(7_012_000)));
    tree.put(status, "suspended");
    // Were it read, this would show.
    tree.put("class/hwmon/hwmon4/power1_average", "9000000");
    assert_eq!(telemetry.sample().rails[1], Err(SensorFault::Busy));
    tree.put(status, "active");
    assert_eq!(telemetry.sample().rails[1], Ok(Microwatts(9_000_000)));
    // One that knows no sleep is read without asking.
    tree.put(status, "unsupported");
    let mut telemetry = tree.telemetry();
    tree.put(status, "suspended");
    assert_eq!(telemetry.sample().rails[1], Ok(Microwatts(9_000_000)));
}

#[test]
fn readers_on_threads_of_their_own_give_the_same() {
    let (tree, other) = (jetson(), jetson());
    let mut sampler = Sampler::start(tree.telemetry()).unwrap();
    let mut inline = other.telemetry();
    for _ in 0..3 {
        let (here, there) = (inline.sample(), sampler.sample());
        assert_eq!((here.zones, here.rails, here.domains), (there.zones, there.rails, there.domains));
        tree.clock.advance(Nanos::from_millis(100));
        other.clock.advance(Nanos::from_millis(100));
    }
}
