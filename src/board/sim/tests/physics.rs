use super::*;
use crate::core::catalog::ZoneId;

/// Advances from event to event until `end`.
fn play_out(plant: &mut Plant, end: Timestamp) -> Vec<Finished> {
    let mut finished = Vec::new();
    while let Some(next) = plant.next_event().filter(|next| *next < end) {
        plant.advance(next);
        finished.append(&mut plant.take_finished());
    }
    plant.advance(end);
    finished.append(&mut plant.take_finished());
    finished
}

/// Keeps the GPU busy with VGG19 until `end`; returns the runs.
fn keep_busy(plant: &mut Plant, end: Timestamp) -> Vec<Finished> {
    let vgg19 = plant.spec().grid_named("vgg19").unwrap();
    let gpu = unit(plant, "gpu");
    let mut finished = Vec::new();
    while plant.now() < end {
        if plant.running() == 0 {
            plant.begin(plant.now(), gpu, Work::measured(vgg19, 1)).unwrap();
        }
        let next = plant.next_event().unwrap().min(end);
        plant.advance(next);
        finished.append(&mut plant.take_finished());
    }
    finished
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let play = |seed: u64| {
        let mut plant = Plant::new(tx2(|_| {}), seed);
        let runs = keep_busy(&mut plant, at_s(20.0));
        serde_json::to_string(&(runs, plant.readings())).unwrap()
    };
    assert_eq!(play(11), play(11));
    assert_ne!(play(11), play(12));
}

#[test]
fn the_input_is_the_rails_plus_the_losses() {
    let spec = tx2(|_| {});
    let mut plant = Plant::new(Arc::clone(&spec), 3);
    keep_busy(&mut plant, at_s(30.0));
    let stats = plant.stats();
    let expected = stats.rails_j * (1.0 + spec.conversion_loss);
    assert!((stats.input_j / expected - 1.0).abs() < 1e-9, "{stats:?}");
    let by_rail: f64 = plant.rail_joules().iter().sum();
    assert!((by_rail / stats.rails_j - 1.0).abs() < 1e-9);
}

#[test]
fn the_energy_of_runs_is_what_the_input_carried_above_the_idle_board() {
    // Without leakage the idle board draws the same at any temperature.
    let spec = tx2(|spec| {
        quiet(spec);
        spec.rails.iter_mut().for_each(|rail| rail.leakage_w = 0.0);
    });
    let mut plant = Plant::new(Arc::clone(&spec), 3);
    let idle_w = plant.input_watts();
    let runs = keep_busy(&mut plant, at_s(10.0));
    let metered: f64 = runs.iter().map(|run| run.energy.as_f64() / 1e6).sum();
    let above = plant.stats().input_j - idle_w * 10.0;
    // The last run is still going, and the clock needs 5 ms to rise at the start.
    println!("metered {metered:.3} J, above idle {above:.3} J");
    assert!((metered / above - 1.0).abs() < 0.02);
}

#[test]
fn the_steady_state_is_power_times_resistance() {
    let spec = tx2(|spec| {
        quiet(spec);
        spec.fan = None;
    });
    let mut plant = Plant::new(Arc::clone(&spec), 1);
    plant.advance(at_s(20_000.0));
    let watts = plant.input_watts();
    let expected = spec.ambient_c + watts * (spec.thermal.fast_k_per_w + spec.thermal.slow_k_per_w);
    assert!((plant.heat().die_c - expected).abs() < 0.05, "{:?} against {expected}", plant.heat());
}

#[test]
fn heat_flows_faster_by_the_speedup_and_ends_at_the_same_temperature() {
    let warm = |speedup: f64, seconds: f64| {
        let spec = tx2(quiet).as_ref().clone().with_thermal_speedup(speedup).unwrap();
        let mut plant = Plant::new(Arc::new(spec), 1);
        plant.preheat(Heat::uniform(25.0));
        plant.advance(at_s(seconds));
        plant.heat().sink_c
    };
    assert!((warm(10.0, 20.0) - warm(1.0, 200.0)).abs() < 0.2);
    assert!(tx2(quiet).as_ref().clone().with_thermal_speedup(f64::NAN).is_err());
}

#[test]
fn the_firmware_throttles_a_hot_board_and_it_reads_back() {
    let spec = tx2(|spec| {
        quiet(spec);
        spec.fan = None;
        spec.ambient_c = 55.0;
    });
    let mut plant = Plant::new(Arc::clone(&spec), 1);
    let gpu = plant.spec().domain_named("gpu").unwrap();
    assert_eq!(plant.clock(gpu).max, Kilohertz(1_300_500));
    let runs = keep_busy(&mut plant, at_s(2_000.0));
    // Unthrottled: 55 + 16 W x 4.4 K/W = 125 degC.
    assert!(plant.clock(gpu).max < Kilohertz(1_300_500), "{:?}", plant.clock(gpu));
    let stats = plant.stats();
    assert!(stats.throttled > Nanos::from_secs(60), "{stats:?}");
    assert!(stats.hottest.as_celsius() < 101.0, "{stats:?}");
    let (first, last) = (runs[5].latency(), runs[runs.len() - 5].latency());
    assert!(last > first, "throttled runs take longer: {first} then {last}");
    // Cooled down, the cap is released.
    plant.disturb(at_s(2_000.0), &Change::AmbientC(20.0));
    plant.advance(at_s(4_000.0));
    assert_eq!(plant.clock(gpu).max, Kilohertz(1_300_500));
}

#[test]
fn the_critical_trip_forces_the_lowest_clock() {
    let mut plant = Plant::new(tx2(quiet), 1);
    plant.preheat(Heat::uniform(110.0));
    plant.advance(at_s(1.1));
    let gpu = plant.spec().domain_named("gpu").unwrap();
    assert_eq!(plant.clock(gpu).max, Kilohertz(114_750));
    assert!(plant.stats().above_critical > Nanos::ZERO);
}

#[test]
fn a_failed_fan_makes_the_board_hotter() {
    let hot = |failed: bool| {
        let mut plant = Plant::new(tx2(quiet), 1);
        plant.disturb(Timestamp::ZERO, &Change::FanFailed(failed));
        keep_busy(&mut plant, at_s(1_500.0));
        assert_eq!(plant.fan_turns(), !failed);
        plant.heat().die_c
    };
    // 16 W through 4.0 K/W instead of 1.8 K/W.
    assert!(hot(true) > hot(false) + 25.0);
}

#[test]
fn a_clock_that_changes_in_the_middle_of_a_run_moves_its_finish() {
    let mut plant = Plant::new(tx2(quiet), 1);
    let grid = plant.spec().grid_named("vgg19").unwrap();
    let gpu = unit(&plant, "gpu");
    pin(&mut plant, Timestamp::ZERO, "gpu", 114_750);
    plant.advance(at_s(1.0));
    plant.begin(at_s(1.0), gpu, Work::measured(grid, 1)).unwrap();
    // The whole run takes 800 us + 576.568 ms at 114.75 MHz and 800 us + 67.235 ms at 1300.5 MHz. Half is
    // done at 288.684 ms; the change is asked for 5 ms earlier, so that it is in force just then.
    let half = (0.0008 + 0.576_568) / 2.0;
    pin(&mut plant, at_s(1.0 + half - 0.005), "gpu", 1_300_500);
    let finished = play_out(&mut plant, at_s(3.0));
    let expected = half + (0.0008 + 0.067_235) / 2.0;
    let latency = finished[0].latency().as_secs_f64();
    assert!((latency - expected).abs() < 1e-6, "{latency} against {expected}");
    assert_eq!(finished[0].clock, Kilohertz(1_300_500));
}

#[test]
fn another_busy_unit_slows_a_run_down() {
    let latency = |with_cpu: bool| {
        let mut plant = Plant::new(tx2(quiet), 1);
        pin(&mut plant, Timestamp::ZERO, "gpu", 1_300_500);
        plant.advance(at_s(0.1));
        if with_cpu {
            let cpu = unit(&plant, "cpu");
            plant.begin(at_s(0.1), cpu, Work::of_size(1 << 40, 1, Precision::Fp32, 1)).unwrap();
        }
        let (gpu, grid) = (unit(&plant, "gpu"), plant.spec().grid_named("vgg19").unwrap());
        plant.begin(at_s(0.1), gpu, Work::measured(grid, 1)).unwrap();
        play_out(&mut plant, at_s(2.0))[0].latency().as_secs_f64()
    };
    // The memory roof of 59.5 ms grows by 30 % and dominates at this clock.
    let ratio = latency(true) / latency(false);
    assert!((1.1..1.3).contains(&ratio), "{ratio}");
}

#[test]
fn units_of_one_processor_exclude_each_other() {
    let mut plant = Plant::new(tx2(quiet), 1);
    let (one, two, gpu) = (unit(&plant, "cpu"), unit(&plant, "cpu-2t"), unit(&plant, "gpu"));
    let work = Work::of_size(1_000_000, 1, Precision::Fp32, 1);
    let run = plant.begin(at_s(0.0), one, work).unwrap();
    let busy = PlantError::Busy { unit: two, group: "cpu".to_owned() };
    assert_eq!(plant.begin(at_s(0.0), two, work), Err(busy));
    plant.begin(at_s(0.0), gpu, work).unwrap();
    let aborted = plant.abort(at_s(0.001), run).unwrap();
    assert_eq!(aborted.latency(), Nanos::from_millis(1));
    assert!(plant.abort(at_s(0.001), run).is_none());
    plant.begin(at_s(0.001), two, work).unwrap();
    assert_eq!(plant.begin(at_s(0.001), UnitId(9), work), Err(PlantError::NoSuchUnit(UnitId(9))));
    let none = Work { items: 0, ..work };
    assert_eq!(plant.begin(at_s(9.0), gpu, none), Err(PlantError::NoItems));
    let elsewhere = Work::measured(GridId(0), 1);
    assert!(matches!(plant.begin(at_s(9.0), one, elsewhere), Err(PlantError::NoSuchGrid { .. })));
}

#[test]
fn the_battery_drains_by_the_input_power() {
    let spec = tx2(|spec| {
        quiet(spec);
        spec.battery = Some(Battery { capacity_wh: 10.0, start: 0.5, voltage_v: 11.4 });
    });
    let mut plant = Plant::new(spec, 1);
    let left = |plant: &Plant| plant.readings().battery.unwrap().unwrap().remaining.as_f64() / 1e6;
    assert!((left(&plant) - 18_000.0).abs() < 1e-6);
    plant.advance(at_s(100.0));
    assert!((18_000.0 - left(&plant) - plant.stats().input_j).abs() < 1e-3);
    plant.disturb(at_s(100.0), &Change::ChargerW(30.0));
    assert!(plant.readings().battery.unwrap().unwrap().draw.0 < 0);
    plant.advance(at_s(100_000.0));
    assert!((left(&plant) - 36_000.0).abs() < 1e-6, "full");
}

#[test]
fn a_board_that_is_not_polled_comes_to_the_same_as_one_that_is() {
    let mut leap = Plant::new(tx2(|_| {}), 5);
    let mut step = leap.clone();
    let (gpu, grid) = (unit(&leap, "gpu"), leap.spec().grid_named("resnet").unwrap());
    for plant in [&mut leap, &mut step] {
        plant.begin(at_s(0.0), gpu, Work::measured(grid, 100)).unwrap();
    }
    for ms in 1..=4000 {
        step.advance(Timestamp::ZERO.after(Nanos::from_millis(ms)));
    }
    leap.advance(at_s(4.0));
    let (a, b) = (leap.take_finished(), step.take_finished());
    assert_eq!((a.len(), a[0].finished, a[0].clock), (1, b[0].finished, b[0].clock));
    assert!((leap.stats().input_j / step.stats().input_j - 1.0).abs() < 1e-3);
    assert!((leap.zone_celsius(ZoneId(0).index()) - step.zone_celsius(0)).abs() < 0.05);
}
