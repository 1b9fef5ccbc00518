use super::*;
use crate::units::Nanos;
use proptest::prelude::*;

const MODEL: ThermalModel =
    ThermalModel { fast_k_per_w: 0.4, fast_tau_s: 6.0, slow_k_per_w: 4.0, slow_tau_s: 450.0 };

/// A board with another air and heatsink than the file's, and a sensor that shows half degrees.
struct Board {
    die_c: f64,
    sink_c: f64,
    air_c: f64,
    resistance: f64,
}

impl Board {
    fn step(&mut self, watts: f64, dt: f64) -> f64 {
        let flow = (self.die_c - self.sink_c) / 0.4;
        self.die_c += dt * (watts - flow) / (6.0 / 0.4);
        self.sink_c += dt * (flow - (self.sink_c - self.air_c) / self.resistance) / (450.0 / 4.0);
        (self.die_c * 2.0).round() / 2.0
    }
}

/// Drives both for `seconds` with a power that goes up and down.
fn drive(board: &mut Board, heat: &mut Heat, from_s: f64, seconds: u32, watts: impl Fn(f64) -> f64) {
    for step in 0..seconds * 10 {
        let t = from_s + f64::from(step) * 0.1;
        let shown = board.step(watts(t), 0.1);
        heat.observe(Timestamp(Nanos::from_secs_f64(t + 0.1).0), shown, watts(t));
    }
}

fn up_and_down(t: f64) -> f64 {
    if t % 240.0 < 120.0 { 14.0 } else { 6.0 }
}

#[test]
fn the_sustained_power_is_found_whatever_the_air_and_the_heatsink() {
    for (air_c, resistance) in [(25.0, 4.0), (45.0, 4.0), (25.0, 2.0), (10.0, 6.0)] {
        let mut board = Board { die_c: air_c, sink_c: air_c, air_c, resistance };
        let mut heat = Heat::new(MODEL);
        drive(&mut board, &mut heat, 0.0, 1800, up_and_down);
        let truth = (90.0 - air_c) / (resistance + 0.4);
        let found = heat.steady_watts(90.0);
        println!(
            "air {air_c}, {resistance} K/W: found {:.1}, {:.2}; {found:.1} W for {truth:.1} W, {:?}",
            heat.air_c(),
            heat.resistance(),
            heat.error
        );
        assert!((found / truth - 1.0).abs() < 0.15, "{air_c}, {resistance}: {found} for {truth}");
        assert!(heat.error.is_known() && heat.error.error < 0.05, "{:?}", heat.error);
    }
}

#[test]
fn a_fan_that_fails_is_noticed() {
    let mut board = Board { die_c: 25.0, sink_c: 25.0, air_c: 25.0, resistance: 2.0 };
    let mut heat = Heat::new(MODEL);
    drive(&mut board, &mut heat, 0.0, 1200, |_| 15.0);
    let before = heat.steady_watts(90.0);
    board.resistance = 4.0;
    drive(&mut board, &mut heat, 1200.0, 400, |_| 15.0);
    let (after, truth) = (heat.steady_watts(90.0), 65.0 / 4.4);
    println!("{before:.1} W before, {after:.1} W after, truth {truth:.1} W");
    assert!(after < 0.75 * before, "{before} {after}");
    assert!((after / truth - 1.0).abs() < 0.25, "{after} for {truth}");
}

#[test]
fn a_horizon_of_nothing_knows_the_die_alone_and_a_long_one_the_air() {
    let mut heat = Heat::new(MODEL);
    heat.restore(30.0, 0.0);
    // (90 - 50) K / 0.4 K/W; (90 - 30) K / 4.4 K/W.
    assert!((heat.watts_within(50.0, 90.0, 0.0) - 100.0).abs() < 1e-9);
    assert!((heat.watts_within(50.0, 90.0, 1e6) - 60.0 / 4.4).abs() < 1e-9);
    assert!((heat.steady_watts(90.0) - 60.0 / 4.4).abs() < 1e-9);
    assert_eq!(heat.steady_watts(20.0), 0.0);
}

proptest! {
    #[test]
    fn no_reading_makes_it_unsound(
        steps in proptest::collection::vec((
            prop_oneof![-60.0f64..150.0, Just(f64::NAN), Just(1e9)],
            prop_oneof![-5.0f64..100.0, Just(f64::NAN), Just(1e300)],
            prop_oneof![Just(0u64), Just(100), 0u64..100_000],
        ), 0..200),
        model in (0.0f64..5.0, 0.0f64..20.0, 0.0f64..20.0, 0.0f64..1000.0),
    ) {
        let (fast_k_per_w, fast_tau_s, slow_k_per_w, slow_tau_s) = model;
        let mut heat = Heat::new(ThermalModel { fast_k_per_w, fast_tau_s, slow_k_per_w, slow_tau_s });
        let mut now = Timestamp::ZERO;
        for (celsius, watts, ms) in steps {
            now = now.after(Nanos::from_millis(ms));
            heat.observe(now, celsius, watts);
            prop_assert!(heat.state.iter().chain(heat.covariance.iter().flatten()).all(|v| v.is_finite()), "{heat:?}");
            prop_assert!((0..3).all(|i| heat.covariance[i][i] >= 0.0), "{heat:?}");
            prop_assert!(heat.steady_watts(90.0) >= 0.0 && heat.watts_within(50.0, 90.0, 18.0).is_finite());
        }
    }
}

#[test]
fn of_air_and_heatsink_only_what_was_told_apart_is_kept() {
    let mut heat = Heat::new(MODEL);
    heat.state = [60.0, -18.0, 0.9];
    assert_eq!(heat.kept(), [AIR_C, 0.0], "no more is known of either than at first");
    heat.covariance[2][2] /= 2.0;
    assert_eq!(heat.kept(), [AIR_C, 0.45]);
    (heat.covariance[1][1], heat.covariance[2][2]) = (0.0, 0.0);
    assert_eq!(heat.kept(), [-18.0, 0.9]);
}
