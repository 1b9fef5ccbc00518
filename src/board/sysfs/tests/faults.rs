//! What a sensor can do wrong, one by one; all others go on.

use super::tree::{jetson, laptop};
use crate::board::Telemetry;
use crate::board::sysfs::fault_of;
use crate::board::sysfs::kill::on::fail;
use crate::board::sysfs::root::{Attribute, page, parse_clocks, parse_integer};
use crate::board::sysfs::root::{Limits, SysfsRoot};
use crate::core::event::SensorFault;
use crate::units::{Microwatts, MilliCelsius, Nanos};
use nix::errno::Errno;
use proptest::prelude::*;
use std::io;

const TEMP: &str = "class/thermal/thermal_zone0/temp";
const CURRENT: &str = "class/hwmon/hwmon2/curr1_input";
const GPU: &str = "class/devfreq/17000000.ga10b";

#[test]
fn every_text_that_is_no_plausible_temperature_has_its_fault() {
    let cases = [
        ("hot", SensorFault::Garbled),
        ("48.5", SensorFault::Garbled),
        ("0x1000", SensorFault::Garbled),
        ("99999999999999999999", SensorFault::Garbled),
        ("", SensorFault::NoData),
        ("-40000", SensorFault::Implausible),
        ("-274000", SensorFault::Implausible),
        ("150001", SensorFault::Implausible),
        ("2147483647", SensorFault::Implausible),
    ];
    let tree = jetson();
    let mut telemetry = tree.telemetry();
    for (text, fault) in cases {
        tree.put(TEMP, text);
        let readings = telemetry.sample();
        assert_eq!(readings.zones, [Err(fault), Ok(MilliCelsius(50_250))], "{text:?}");
    }
    for (text, value) in [("-39000", -39_000), ("150000", 150_000), (" 48500 ", 48_500)] {
        tree.put(TEMP, text);
        assert_eq!(telemetry.sample().zones[0], Ok(MilliCelsius(value)));
    }
}

#[test]
fn bytes_that_are_no_text_are_garbled() {
    let tree = jetson();
    std::fs::write(tree.path(TEMP), [0xff, 0xfe, b'1']).unwrap();
    assert_eq!(tree.telemetry().sample().zones[0], Err(SensorFault::Garbled));
}

#[test]
fn every_error_of_the_kernel_has_its_fault() {
    let cases = [
        (Errno::ENODATA, SensorFault::NoData),
        (Errno::EAGAIN, SensorFault::NoData),
        (Errno::EBUSY, SensorFault::Busy),
        (Errno::EACCES, SensorFault::Denied),
        (Errno::EPERM, SensorFault::Denied),
        (Errno::EINVAL, SensorFault::Io),
        (Errno::EIO, SensorFault::Io),
        (Errno::ENODEV, SensorFault::Missing),
    ];
    for (errno, fault) in cases {
        let tree = jetson();
        let mut telemetry = tree.telemetry();
        fail(tree.path(CURRENT), errno as i32);
        assert_eq!(telemetry.sample().rails, [Err(fault), Ok(Microwatts(-40_000))], "{errno}");
        fail(tree.path(CURRENT), 0);
    }
    assert_eq!(fault_of(&io::Error::other("no errno")), SensorFault::Io);
}

#[test]
fn a_sensor_that_only_lacks_data_is_kept_and_reads_again_at_once() {
    let tree = jetson();
    let mut telemetry = tree.telemetry();
    fail(tree.path(TEMP), Errno::ENODATA as i32);
    assert_eq!(telemetry.sample().zones[0], Err(SensorFault::NoData));
    fail(tree.path(TEMP), 0);
    assert_eq!(telemetry.sample().zones[0], Ok(MilliCelsius(48_500)));
}

#[test]
fn a_vanished_chip_is_found_again_under_another_number() {
    let tree = jetson();
    let mut telemetry = tree.telemetry();
    assert_eq!(telemetry.sample().rails[0], Ok(Microwatts(6_000_000)));
    std::fs::rename(tree.path("class/hwmon/hwmon2"), tree.path("class/hwmon/hwmon7")).unwrap();
    assert_eq!(telemetry.sample().rails[0], Err(SensorFault::Missing));
    assert_eq!(telemetry.sample().rails[0], Err(SensorFault::Missing), "looked for every 3 s at most");
    tree.clock.advance(Nanos::from_secs(3));
    assert_eq!(telemetry.sample().rails[0], Ok(Microwatts(6_000_000)));
}

#[test]
fn another_chip_under_the_old_number_is_not_mistaken_for_it() {
    let tree = jetson();
    let mut telemetry = tree.telemetry();
    tree.remove("class/hwmon/hwmon2");
    assert_eq!(telemetry.sample().rails[0], Err(SensorFault::Missing));
    tree.put("class/hwmon/hwmon2/name", "other");
    tree.put("class/hwmon/hwmon2/in1_label", "VDD_IN");
    tree.put("class/hwmon/hwmon2/in1_input", "1");
    tree.put("class/hwmon/hwmon2/curr1_input", "1");
    tree.clock.advance(Nanos::from_secs(3));
    assert_eq!(telemetry.sample().rails[0], Err(SensorFault::Missing));
}

#[test]
fn looking_for_what_stays_away_gets_rarer_but_never_stops() {
    let tree = jetson();
    let mut telemetry = tree.telemetry();
    tree.remove("class/thermal/thermal_zone0");
    for _ in 0..200 {
        tree.clock.advance(Nanos::from_secs(3));
        assert_eq!(telemetry.sample().zones[0], Err(SensorFault::Missing));
    }
    tree.put("class/thermal/thermal_zone9/type", "cpu-thermal");
    tree.put("class/thermal/thermal_zone9/temp", "40000");
    tree.clock.advance(Nanos::from_secs(48));
    assert_eq!(telemetry.sample().zones[0], Ok(MilliCelsius(40_000)));
}

#[test]
fn clocks_that_cannot_be_are_implausible() {
    for (node, text) in [("cur_freq", "-1"), ("cur_freq", "10000000001"), ("max_freq", "-5")] {
        let tree = jetson();
        tree.put(&format!("{GPU}/{node}"), text);
        let readings = tree.telemetry().sample();
        assert_eq!(readings.domains[1], Err(SensorFault::Implausible), "{node} {text}");
        assert!(readings.domains[0].is_ok());
    }
}

#[test]
fn more_than_a_kilowatt_is_implausible_even_if_it_overflows() {
    let tree = jetson();
    let mut telemetry = tree.telemetry();
    for (mv, ma) in [("50000", "20001"), ("9223372036854775807", "9223372036854775807")] {
        tree.put("class/hwmon/hwmon2/in1_input", mv);
        tree.put(CURRENT, ma);
        assert_eq!(telemetry.sample().rails[0], Err(SensorFault::Implausible));
    }
}

#[test]
fn a_battery_that_vanishes_is_missing_and_a_strange_status_is_garbled() {
    let tree = laptop();
    let mut telemetry = tree.telemetry();
    tree.put("class/power_supply/BAT0/status", "Levitating");
    assert_eq!(telemetry.sample().battery, Some(Err(SensorFault::Garbled)));
    tree.remove("class/power_supply/BAT0");
    assert_eq!(telemetry.sample().battery, Some(Err(SensorFault::Garbled)), "read once a second");
    tree.clock.advance(Nanos::from_secs(1));
    assert_eq!(telemetry.sample().battery, Some(Err(SensorFault::Missing)));
}

#[test]
fn one_dead_zone_of_two_alike_does_not_hide_the_other() {
    let tree = laptop();
    tree.put("class/thermal/thermal_zone0/temp", "-40000");
    assert_eq!(tree.telemetry().sample().zones[0], Ok(MilliCelsius(51_000)));
    tree.put("class/thermal/thermal_zone0/temp", "27800");
    tree.put("class/thermal/thermal_zone1/temp", "-40000");
    assert_eq!(tree.telemetry().sample().zones[0], Ok(MilliCelsius(27_800)));
}

#[test]
fn an_empty_tree_is_a_board_that_lacks_everything_and_says_so() {
    let mut tree = jetson();
    tree.remove("class");
    tree.remove("devices");
    tree.spec.battery = true;
    let board = tree.board();
    let missing = board.missing().join("\n");
    for part in ["zone cpu-thermal", "rail VDD_IN", "domain cpu", "domain gpu", "battery"] {
        assert!(missing.contains(part), "{part} in {missing}");
    }
    let readings = board.into_telemetry().sample();
    assert!(readings.zones.iter().all(|zone| *zone == Err(SensorFault::Missing)));
    assert!(readings.rails.iter().all(|rail| *rail == Err(SensorFault::Missing)));
    assert!(readings.domains.iter().all(|domain| *domain == Err(SensorFault::Missing)));
}

#[test]
fn a_reading_that_fails_says_where_and_what() {
    let tree = jetson();
    tree.put(TEMP, "lukewarm");
    let missing = tree.board().missing().join("\n");
    let path = tree.path(TEMP);
    let expected = format!("zone cpu-thermal: {} reads \"lukewarm\": expected an integer", path.display());
    assert_eq!(missing, expected);
}

#[test]
fn a_kept_descriptor_shows_new_values_and_survives_an_error() {
    let tree = jetson();
    let root = SysfsRoot::new(tree.sys()).keeping_descriptors(true);
    let mut attribute: Attribute = root.attribute(TEMP);
    assert_eq!(attribute.number(&mut page()).unwrap(), 48_500);
    tree.put(TEMP, "51000");
    assert_eq!(attribute.number(&mut page()).unwrap(), 51_000, "same descriptor, offset 0");
    fail(tree.path(TEMP), Errno::ENODEV as i32);
    assert_eq!(attribute.number(&mut page()).unwrap_err().fault(), SensorFault::Missing);
    fail(tree.path(TEMP), 0);
    assert_eq!(attribute.number(&mut page()).unwrap(), 51_000, "opened anew");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_a_value_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let tree = jetson();
        std::fs::write(tree.path(TEMP), &bytes).unwrap();
        std::fs::write(tree.path(CURRENT), &bytes).unwrap();
        std::fs::write(tree.path(&format!("{GPU}/available_frequencies")), &bytes).unwrap();
        std::fs::write(tree.path("class/thermal/thermal_zone3/trip_point_0_temp"), &bytes).unwrap();
        std::fs::write(tree.path("class/hwmon/hwmon2/in2_label"), &bytes).unwrap();
        let board = tree.board();
        let opps = &board.board().domains[1].opps;
        prop_assert!(opps.windows(2).all(|pair| pair[0] < pair[1]));
        let _ = board.into_telemetry().sample();
    }
}

proptest! {
    #[test]
    fn any_text_makes_a_sound_table(text in "[0-9 \\-]{0,60}|\\PC{0,60}") {
        let clocks = parse_clocks(&text, &Limits::HERTZ);
        prop_assert!(clocks.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(clocks.iter().all(|clock| (1..=10_000_000_000).contains(clock)));
    }

    #[test]
    fn a_printed_integer_is_read_back(value in any::<i64>()) {
        prop_assert_eq!(parse_integer(&value.to_string()), Some(value));
    }
}
