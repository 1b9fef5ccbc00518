use super::*;
use crate::core::catalog::{Board, Domain, DomainId, PowerModel, ThermalModel, Unit, UnitKind};
use crate::units::{Kilohertz, Microwatts};
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const MHZ: [u32; 6] = [200, 400, 600, 800, 1000, 1300];

fn board(models: &[PowerModel], idle_w: f64) -> (Board, Vec<Points>) {
    let opps: Vec<Kilohertz> = MHZ.iter().map(|mhz| Kilohertz(mhz * 1000)).collect();
    let unit = |(index, model): (usize, &PowerModel)| Unit {
        name: format!("u{index}"),
        kind: UnitKind::Gpu,
        group: u8::try_from(index).unwrap(),
        domain: Some(DomainId(0)),
        memory_domain: None,
        preemptible: false,
        busy_power: *model,
        rail: None,
    };
    let board = Board {
        name: "t".into(),
        units: models.iter().enumerate().map(unit).collect(),
        domains: vec![Domain {
            name: "d".into(),
            opps,
            settle: Nanos::from_millis(1),
            held_power: PowerModel::default(),
        }],
        zones: vec![],
        rails: vec![],
        idle_power: Microwatts::from_watts(idle_w),
        thermal: ThermalModel { fast_k_per_w: 1.0, fast_tau_s: 1.0, slow_k_per_w: 1.0, slow_tau_s: 1.0 },
    };
    let points = (0..models.len()).map(|unit| Points::of(&board, UnitId::at(unit))).collect();
    (board, points)
}

fn model(constant_w: f64, linear_w_per_ghz: f64, cubic_w_per_ghz3: f64) -> PowerModel {
    PowerModel { constant_w, linear_w_per_ghz, cubic_w_per_ghz3 }
}

/// Another curve than the form has: half a watt more at 800 MHz.
fn truth(point: usize) -> f64 {
    let ghz = f64::from(MHZ[point]) / 1e3;
    0.6 + 3.0 * ghz + 1.5 * ghz.powi(3) + if MHZ[point] == 800 { 0.5 } else { 0.0 }
}

#[test]
fn metered_runs_correct_the_board_file_at_every_clock() {
    // The file says half of it.
    let (board, points) = board(&[model(0.3, 1.5, 0.75)], 2.0);
    let mut power = Power::new(&board, &points);
    let mut scale = Scale::new(1.0, true);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    for run in 0..120 {
        let point = run % MHZ.len();
        let noise = 1.0 + rng.random_range(-0.02..0.02);
        power.observe_run(0, point, &mut scale, 0.05, truth(point) * 0.05 * noise);
    }
    for (point, mhz) in MHZ.iter().enumerate() {
        let off = scale.value * power.unit(0).watts(point) / truth(point) - 1.0;
        println!("{mhz} MHz: off by {:+.1} %", off * 100.0);
        assert!(off.abs() < 0.02, "{mhz} MHz: {off}");
    }
    assert!(power.run_error.is_known());
}

#[test]
fn rails_alone_correct_a_unit_that_is_busy_for_a_part_of_every_sweep() {
    // Two units; each sweep shows what runs at its very moment. The first draws twice what the file says.
    let (board, points) = board(&[model(0.3, 1.5, 0.75), model(0.5, 1.0, 0.2)], 2.0);
    let (point, of_first, of_second) = (4, 2.0 * 2.55, 1.7);
    let mut power = Power::new(&board, &points);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
    let mut now = Timestamp::ZERO;
    for _ in 0..3000 {
        // A sweep of 100 ms: each unit is busy for a part of it, and its sensor shows all or nothing of that.
        let shares = [rng.random_range(0.0..1.0), rng.random_range(0.0..1.0)];
        for (unit, share) in shares.into_iter().enumerate() {
            power.begin(unit, point, 1.0, now);
            power.end(unit, now.after(Nanos::from_secs_f64(0.1 * share)));
        }
        let (first, second) = (rng.random_bool(shares[0]), rng.random_bool(shares[1]));
        now = now.after(Nanos::from_millis(100));
        let busy = power.close(now, None);
        let shown = 2.0 + if first { of_first } else { 0.0 } + if second { of_second } else { 0.0 };
        power.observe_board(shown, busy, now);
    }
    println!(
        "{:.2} W for {of_first:.2}, {:.2} W for {of_second:.2}",
        power.unit(0).watts(point),
        power.unit(1).watts(point)
    );
    assert!((power.unit(0).watts(point) / of_first - 1.0).abs() < 0.12, "{}", power.unit(0).watts(point));
    assert!((power.unit(1).watts(point) / of_second - 1.0).abs() < 0.2, "{}", power.unit(1).watts(point));
    assert!(power.is_confirmed(now, Nanos::from_secs(1)));
}

#[test]
fn the_idle_power_follows_within_seconds_and_with_the_heat() {
    let (board, points) = board(&[model(0.3, 1.5, 0.75)], 2.0);
    let mut power = Power::new(&board, &points);
    let mut now = Timestamp::ZERO;
    let mut sweep = |power: &mut Power, celsius: f64, watts: f64| {
        now = now.after(Nanos::from_millis(100));
        let busy = power.close(now, Some(celsius));
        power.observe_board(watts, busy, now);
    };
    (0..50).for_each(|_| sweep(&mut power, 50.0, 3.0));
    assert!((power.idle_w() - 3.0).abs() < 0.2, "{}", power.idle_w());
    // 30 mW a kelvin: seen between 40 and 60 degrees, told at 80.
    for round in 0..2000 {
        let celsius = 50.0 + 10.0 * f64::from(round % 200 - 100) / 100.0;
        sweep(&mut power, celsius, 3.0 + 0.03 * (celsius - 50.0));
    }
    power.close(now, Some(80.0));
    assert!((power.idle_w() - 3.9).abs() < 0.15, "{}", power.idle_w());
}

#[test]
fn what_another_process_drew_is_made_good_by_the_meter() {
    // Something else drew 1.5 W while the board was idle, and was gone when the first runs began: the rails then seem to
    // say that the unit draws less than nothing.
    let (board, points) = board(&[model(0.3, 1.5, 0.75)], 5.0);
    let at =
        |point: usize| 0.3 + 1.5 * f64::from(MHZ[point]) / 1e3 + 0.75 * (f64::from(MHZ[point]) / 1e3).powi(3);
    let mut power = Power::new(&board, &points);
    let mut scale = Scale::new(1.0, false);
    let mut now = Timestamp::ZERO;
    let mut sweep = |power: &mut Power, watts: f64, busy: bool| {
        if busy {
            power.begin(0, 0, 1.0, now);
        }
        now = now.after(Nanos::from_millis(100));
        let busy = power.close(now, Some(50.0));
        power.end(0, now);
        power.observe_board(watts, busy, now);
    };
    (0..60).for_each(|_| sweep(&mut power, 6.5, false));
    (0..2).for_each(|_| sweep(&mut power, 5.0 + at(0), true));
    println!("misled: {:.2} W at the lowest clock, which draws {:.2} W", power.unit(0).watts(0), at(0));
    assert!(power.unit(0).watts(0) < 0.3 * at(0));
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    for run in 0..40 {
        let noise = 1.0 + rng.random_range(-0.02..0.02);
        power.observe_run(0, 0, &mut scale, 0.05, at(0) * 0.05 * noise);
        sweep(&mut power, 5.0 + at(0), true);
        let off = scale.value * power.unit(0).watts(0) / at(0) - 1.0;
        assert!(run < 5 || off.abs() < 0.1, "after {run} runs: {off}");
        // Where nothing ran, the board file is all there is.
        for (point, mhz) in MHZ.iter().enumerate().skip(1) {
            let off = scale.value * power.unit(0).watts(point) / at(point);
            assert!((0.02..=4.0).contains(&off), "after {run} runs, {mhz} MHz: {off}");
        }
    }
    assert!((power.idle_w() - 5.0).abs() < 0.4, "{}", power.idle_w());
}

#[test]
fn a_board_without_figures_learns_from_the_meter() {
    let (board, points) = board(&[PowerModel::default()], 0.0);
    let mut power = Power::new(&board, &points);
    let mut scale = Scale::new(1.0, false);
    assert_eq!(power.unit(0).watts(5), 0.0);
    (0..300).for_each(|run| power.observe_run(0, run % 6, &mut scale, 0.1, 0.3));
    assert!(
        (scale.value * power.unit(0).watts(3) - 3.0).abs() < 0.3,
        "{}",
        scale.value * power.unit(0).watts(3)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_reading_makes_it_unsound(
        file in (0.0f64..5.0, 0.0f64..20.0, 0.0f64..10.0, 0.0f64..10.0),
        steps in proptest::collection::vec((0u8..6, 0usize..6, prop_oneof![-10.0f64..60.0, Just(f64::NAN), Just(1e12), Just(0.0)], 0u32..500), 0..300),
    ) {
        let (board, points) = board(&[model(file.0, file.1, file.2), PowerModel::default()], file.3);
        let mut power = Power::new(&board, &points);
        let mut scales = [Scale::new(1.0, true), Scale::new(f64::NAN, false)];
        let mut now = Timestamp::ZERO;
        for (kind, point, value, ms) in steps {
            let unit = usize::from(kind % 2);
            match kind {
                0 | 1 => power.begin(unit, point, scales[unit].value, now),
                2 => power.end(unit, now),
                3 => power.reclock(unit, point, now),
                4 => power.observe_run(unit, point, &mut scales[0], f64::from(ms) / 1e3, value),
                _ => {
                    let busy = power.close(now, Some(value));
                    prop_assert!(busy.is_finite() && busy >= 0.0);
                    power.observe_board(value, busy, now);
                }
            }
            now = now.after(Nanos::from_millis(ms.into()));
            prop_assert!(power.idle_w().is_finite() && power.idle_w() >= 0.0);
            for unit in 0..2 {
                for point in 0..MHZ.len() {
                    let watts = power.unit(unit).watts(point);
                    prop_assert!(watts.is_finite() && (0.0..=1e7).contains(&watts), "{watts}");
                }
                let covariance = power.units[unit].covariance;
                prop_assert!((0..4).all(|i| covariance[i][i] > 0.0 && covariance[i].iter().all(|c| c.is_finite())));
            }
            prop_assert!(scales.iter().all(|scale| scale.value > 0.0 && scale.value.is_finite()));
        }
    }
}
