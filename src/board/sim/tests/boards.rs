//! Every board file: that it holds together, and that bad ones are refused with their place.

use super::*;
use crate::core::catalog::{Board, Domain, PowerModel};

#[test]
fn every_board_file_is_a_plant_whose_figures_agree_with_what_the_planner_is_told() {
    for (name, _) in BOARDS {
        let file = board(name);
        assert_eq!(file.name, name);
        let mut spec = PlantSpec::from_board(&file).unwrap();
        quiet(&mut spec);
        let idle = Plant::new(Arc::new(spec.clone()), 1);
        let idle_w = idle.input_watts();
        println!("{name}: idle {idle_w:.2} W at {:.1} degC", idle.heat().die_c);
        assert!((idle_w / file.idle_power_w - 1.0).abs() <= 0.05, "{name}: {idle_w:.3} W");
        for (index, unit) in file.units.iter().enumerate() {
            let plant_unit = &spec.units[index];
            let domain = plant_unit.domain.unwrap();
            let top = *spec.domains[domain.index()].opps.last().unwrap();
            let mut plant = idle.clone();
            let heat = plant.heat();
            let work = Work::of_size(1 << 45, 1, Precision::Fp32, 1);
            plant.begin(Timestamp::ZERO, UnitId::at(index), work).unwrap();
            plant.advance(at_s(0.1));
            plant.preheat(heat);
            let busy = plant.input_watts() - idle_w;
            let told = unit.busy_power.at(top).as_watts();
            println!("{name}/{}: busy {busy:.2} W, planner is told {told:.2} W", unit.name);
            assert!((told / busy - 1.0).abs() <= 0.12, "{name}/{}: {busy:.3} against {told:.3}", unit.name);
        }
    }
}

#[test]
fn operating_points_that_the_file_leaves_to_the_kernel_come_from_the_plant() {
    let file = board("desktop");
    assert!(file.domains[0].opps_khz.is_empty());
    let spec = PlantSpec::from_board(&file).unwrap();
    let domain = |opps| Domain {
        name: "cpu".to_owned(),
        opps,
        settle: Nanos::ZERO,
        held_power: PowerModel::default(),
    };
    let mut core = Board {
        name: "desktop".to_owned(),
        units: Vec::new(),
        domains: vec![domain(Vec::new())],
        zones: Vec::new(),
        rails: Vec::new(),
        idle_power: crate::units::Microwatts(0),
        thermal: crate::core::catalog::ThermalModel {
            fast_k_per_w: 1.0,
            fast_tau_s: 1.0,
            slow_k_per_w: 1.0,
            slow_tau_s: 1.0,
        },
    };
    spec.complete(&mut core);
    assert_eq!(core.domains[0].opps, spec.domains[0].opps);
    core.domains[0] = domain(vec![Kilohertz(5)]);
    spec.complete(&mut core);
    assert_eq!(core.domains[0].opps, [Kilohertz(5)]);
}

/// The TX2's file with one text replaced by another.
fn with(from: &str, to: &str) -> Result<PlantSpec, PlantSpecError> {
    let (_, text) = BOARDS[0];
    assert!(text.contains(from), "{from}");
    PlantSpec::from_board(&toml::from_str(&text.replacen(from, to, 1)).unwrap())
}

#[test]
fn a_wrong_plant_is_refused_with_board_key_value_and_what_would_be_right() {
    for (from, to, expected) in [
        ("work_scale = 40.0", "work_scale = nan", "plant.work_scale: NaN; wanted 0.001 to 1000000"),
        ("work_scale = 40.0", "work_scala = 40.0", "work_scala"),
        ("sigma = 0.03", "sigma = -1.0", "plant.noise.sigma: -1; wanted 0 to 1"),
        ("sigma = 0.03", "sigma = \"wide\"", "plant.noise"),
        ("tail_max = 1.5", "tail_max = 1.0", "plant.noise.tail_max: 1; wanted 1.15"),
        ("slow_k_per_w = 1.8", "slow_k_per_w = 9.0", "plant.fan.slow_k_per_w: 9; wanted"),
        ("device = \"17000000.gp10b\"", "device = \"17000000.gp10b\"\nx = 1", "plant.domain[gpu]"),
        (
            "governor = \"performance\"",
            "governor = \"turbo\"",
            "plant.domain[emc].governor: `turbo`; offered",
        ),
        ("unit = \"gpu\"\nwatts", "unit = \"npu\"\nwatts", "no unit `npu`; the board has: cpu, cpu-2t, gpu"),
        ("domain = \"gpu\"\nwatts", "watts", "wanted either unit or domain"),
        ("fp32 = 2.4,", "", "plant.unit[cpu].macs_per_cycle: fp32 is missing"),
        ("fp32 = 2.4,", "fp32 = 2.4, fp8 = 9.0,", "`fp8`; wanted fp32, fp16 or int8"),
        ("[114750, 0.339]", "[99114750, 0.339]", "wanted ascending clocks"),
        ("memory_used_mb = 1500", "memory_used_mb = 9999999", "plant.memory_used_mb"),
        ("name = \"VDD_SYS_SOC\"\nbase_w", "name = \"VDD_X\"\nbase_w", "VDD_SYS_SOC"),
        ("memory_ms = [97.182, ", "memory_ms = [", "3 values for 4 memory clocks"),
        ("passive_c = 95.5", "passive_c = 105.5", "wanted 0 < passive < critical"),
    ] {
        let error = with(from, to).unwrap_err().to_string();
        assert!(error.starts_with("board jetson-tx2: ") && error.contains(expected), "{to}: {error}");
    }
    let mut bare = board("jetson-tx2");
    bare.plant = None;
    assert!(PlantSpec::from_board(&bare).unwrap_err().to_string().contains("needs a [plant] table"));
}
