//! What is read on each kind of board when all is well.

use super::tree::{jetson, laptop, pi5, rk3588};
use crate::board::Telemetry;
use crate::core::event::{BatteryState, ClockState, Pressure, SensorFault};
use crate::units::{Kilohertz, Microjoules, Microwatts, MilliCelsius, Nanos, Ppm};

fn khz(values: &[u32]) -> Vec<Kilohertz> {
    values.iter().copied().map(Kilohertz).collect()
}

#[test]
fn a_jetson_shows_rails_zones_and_clocks() {
    let tree = jetson();
    let board = tree.board();
    assert_eq!(board.missing(), &[] as &[String]);
    assert_eq!(board.board().domains[0].opps, khz(&[115_200, 729_600, 1_510_400]), "the kernel's, sorted");
    assert_eq!(board.board().domains[1].opps, khz(&[306_000, 612_000, 1_020_000]));
    let readings = board.into_telemetry().sample();
    assert_eq!(readings.zones, [Ok(MilliCelsius(48_500)), Ok(MilliCelsius(50_250))]);
    // 5000 mV x 1200 mA = 6 W; 5000 mV x -8 mA = -40 mW: an idle rail may be slightly negative.
    assert_eq!(readings.rails, [Ok(Microwatts(6_000_000)), Ok(Microwatts(-40_000))]);
    let cpu = ClockState { current: Kilohertz(729_600), min: Kilohertz(115_200), max: Kilohertz(1_510_400) };
    let gpu = ClockState { current: Kilohertz(612_000), min: Kilohertz(306_000), max: Kilohertz(1_020_000) };
    assert_eq!(readings.domains, [Ok(cpu), Ok(gpu)]);
    assert_eq!(readings.battery, None);
    let pressure = Pressure { cpu: Ppm(15_000), memory: Ppm(15_000), io: Ppm(15_000) };
    assert_eq!(readings.pressure, Some(Ok(pressure)));
    assert!(readings.memory.is_ok());
}

#[test]
fn the_kernels_trips_win_where_it_shows_believable_ones() {
    let tree = jetson();
    let zones = &tree.board().board().zones.clone();
    assert_eq!((zones[0].passive, zones[0].critical), (MilliCelsius(99_000), MilliCelsius(104_500)));
    // -274000 is a disabled trip: the file's 80 and 95 stand.
    assert_eq!((zones[1].passive, zones[1].critical), (MilliCelsius(80_000), MilliCelsius(95_000)));
}

#[test]
fn a_pi_keeps_the_files_passive_trip_and_takes_the_kernels_critical() {
    let tree = pi5();
    let board = tree.board();
    let zone = &board.board().zones[0];
    assert_eq!((zone.passive, zone.critical), (MilliCelsius(80_000), MilliCelsius(110_000)));
    let missing = board.missing().join("\n");
    assert!(missing.contains("battery: no battery"), "{missing}");
    let readings = board.into_telemetry().sample();
    assert_eq!(readings.zones, [Ok(MilliCelsius(61_200))]);
    assert_eq!(readings.battery, None, "looked for, not there");
}

#[test]
fn devfreq_devices_are_found_by_name_and_no_limit_is_the_highest_point() {
    let tree = rk3588();
    let board = tree.board();
    assert_eq!(board.missing(), &[] as &[String]);
    let readings = board.into_telemetry().sample();
    let open = ClockState { current: Kilohertz(300_000), min: Kilohertz(0), max: Kilohertz(1_000_000) };
    assert_eq!(&readings.domains[2..], [Ok(open), Ok(open), Ok(open)]);
    assert_eq!(readings.domains[1].unwrap().current, Kilohertz(1_008_000), "CPU 5 belongs to policy 4");
}

#[test]
fn a_devfreq_name_that_fits_two_devices_is_refused_by_name() {
    let mut tree = rk3588();
    tree.spec.domains[2].select = "000000.g".to_owned();
    let board = tree.board();
    let missing = board.missing().join("\n");
    assert!(missing.contains("fits several devfreq devices, fb000000.gpu, fb000000.gpu-mali"), "{missing}");
    assert_eq!(board.into_telemetry().sample().domains[2], Err(SensorFault::Missing));
}

#[test]
fn a_laptop_without_a_table_gets_evenly_spaced_points_over_its_range() {
    let tree = laptop();
    let opps = tree.board().board().domains[0].opps.clone();
    assert_eq!((opps[0], opps[opps.len() - 1]), (Kilohertz(400_000), Kilohertz(4_450_000)));
    assert!(opps.windows(2).all(|pair| pair[0] < pair[1]) && opps.len() <= 17, "{opps:?}");
    assert!(opps[1..opps.len() - 1].iter().all(|opp| opp.0 % 100_000 == 0), "{opps:?}");
}

#[test]
fn a_range_keeps_only_those_points_of_the_file_that_the_hardware_can_do() {
    let mut tree = laptop();
    tree.spec.domains[0].opps_khz = vec![100_000, 800_000, 2_000_000, 5_000_000];
    assert_eq!(tree.board().board().domains[0].opps, khz(&[800_000, 2_000_000]));
}

#[test]
fn a_rapl_counter_gives_power_across_its_wrap() {
    let tree = laptop();
    let mut telemetry = tree.telemetry();
    assert_eq!(telemetry.sample().rails[0], Err(SensorFault::NoData), "no rate from one reading");
    tree.clock.advance(Nanos::from_millis(100));
    // 28 850 µJ to the wrap and 971 150 after it: 1 J in 0.1 s is 10 W.
    tree.put("class/powercap/intel-rapl:0/energy_uj", "971150");
    assert_eq!(telemetry.sample().rails[0], Ok(Microwatts(10_000_000)));
    tree.clock.advance(Nanos::from_millis(1));
    tree.put("class/powercap/intel-rapl:0/energy_uj", "971151");
    assert_eq!(telemetry.sample().rails[0], Ok(Microwatts(10_000_000)), "too soon: the last rate stands");
    tree.clock.advance(Nanos::from_millis(1_000));
    tree.put("class/powercap/intel-rapl:0/energy_uj", "5000971150");
    assert_eq!(telemetry.sample().rails[0], Err(SensorFault::Implausible), "5 kW is no laptop");
}

#[test]
fn a_laptops_other_rail_zone_and_battery_are_read() {
    let tree = laptop();
    let readings = tree.telemetry().sample();
    assert_eq!(readings.rails[1], Ok(Microwatts(7_012_000)));
    assert_eq!(readings.zones[0], Ok(MilliCelsius(51_000)), "the hotter of two alike");
    // 25 Wh of 50 Wh; the mouse's battery is not the machine's.
    let battery = BatteryState {
        remaining: Microjoules(90_000_000_000),
        full: Microjoules(180_000_000_000),
        draw: Microwatts(8_000_000),
    };
    assert_eq!(readings.battery, Some(Ok(battery)));
}

#[test]
fn the_batterys_direction_comes_from_its_status_whatever_the_sign() {
    let cases = [
        ("Charging", "-1500000", -18_000_000),
        ("Charging", "1500000", -18_000_000),
        ("Discharging", "-1500000", 18_000_000),
    ];
    for (status, current, draw) in cases {
        let tree = laptop();
        let node = |name: &str| format!("class/power_supply/BAT0/{name}");
        for old in ["energy_now", "energy_full", "power_now"] {
            tree.remove(&node(old));
        }
        tree.put(&node("status"), status);
        tree.put(&node("charge_now"), "2000000");
        tree.put(&node("charge_full"), "4000000");
        tree.put(&node("voltage_min_design"), "11000000");
        tree.put(&node("voltage_now"), "12000000");
        tree.put(&node("current_now"), current);
        let battery = tree.telemetry().sample().battery.unwrap().unwrap();
        // 1.5 A x 12 V = 18 W; 4 Ah x 11 V = 44 Wh = 158.4 kJ.
        assert_eq!(battery.draw, Microwatts(draw), "{status} {current}");
        assert_eq!(battery.full, Microjoules(158_400_000_000));
        assert_eq!(battery.remaining, Microjoules(79_200_000_000));
    }
}
