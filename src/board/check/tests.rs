//! Every wrong value is named with its key, the value and what would be right.

use crate::board::spec::{BoardSpec, SpecError};
use crate::core::catalog::{DomainId, RailId};
use crate::units::Kilohertz;
use proptest::prelude::*;
use std::path::Path;

const GOOD: &str = r#"
name = "test"
description = "a board"
compatible = ["vendor,board"]
idle_power_w = 2.5
thermal = { fast_k_per_w = 1.0, fast_tau_s = 2.0, slow_k_per_w = 3.0, slow_tau_s = 60.0 }
[[domain]]
name = "cpu"
interface = "cpufreq"
select = "0"
opps_khz = [600000, 1200000]
[[domain]]
name = "emc"
interface = "devfreq"
select = "emc"
[[unit]]
name = "cpu"
kind = "cpu"
threads = 2
cpus = [0, 1]
domain = "cpu"
memory_domain = "emc"
rail = "VDD"
busy_power = { constant_w = -0.1, linear_w_per_ghz = 1.0, cubic_w_per_ghz3 = 0.5 }
[[unit]]
name = "cpu-1t"
kind = "cpu"
shares = "cpu"
[[zone]]
name = "soc-thermal"
passive_c = 80
critical_c = 95
[[rail]]
name = "VDD"
interface = "hwmon"
chip = "ina3221"
"#;

fn error(text: &str) -> String {
    BoardSpec::parse(text, Path::new("boards/test.toml")).unwrap_err().to_string()
}

fn replaced(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    error(&GOOD.replacen(from, to, 1))
}

#[test]
fn a_good_file_becomes_the_board_it_describes() {
    let spec = BoardSpec::parse(GOOD, Path::new("test.toml")).unwrap();
    let board = spec.board();
    assert_eq!(board.domains[0].opps, [Kilohertz(600_000), Kilohertz(1_200_000)]);
    assert_eq!(board.units[0].domain, Some(DomainId(0)));
    assert_eq!(board.units[0].memory_domain, Some(DomainId(1)));
    assert_eq!(board.units[0].rail, Some(RailId(0)));
    assert_eq!(board.units[0].group, board.units[1].group, "they share a processor");
    assert!(board.units[0].preemptible, "a CPU run can be cancelled");
    assert_eq!(board.units[1].domain, None);
}

#[test]
fn each_wrong_value_is_named_with_what_would_be_right() {
    let cases = [
        ("idle_power_w = 2.5", "idle_power_w = nan", "idle_power_w = NaN: expected watts between 0 and 1000"),
        (
            "[\"vendor,board\"]",
            "[\"vendor,board\", \"board\"]",
            "compatible[1] = \"board\": expected a device tree's `compatible`, such as",
        ),
        ("\"vendor,board\"", "\"a board, or so\"", "compatible[0] = \"a board, or so\": expected a device"),
        ("idle_power_w = 2.5", "idle_power_w = -1", "idle_power_w = -1.0: expected watts"),
        (
            "name = \"emc\"",
            "name = \"cpu\"",
            "domain[1].name = \"cpu\": expected a name that no entry above has",
        ),
        ("name = \"cpu-1t\"", "name = \"cpu\"", "unit[1].name = \"cpu\": expected a name that no"),
        ("name = \"cpu-1t\"", "name = \"\"", "unit[1].name = \"\": expected 1 to 64 printable"),
        (
            "domain = \"cpu\"",
            "domain = \"gpu\"",
            "unit[0].domain = \"gpu\": expected a domain of this file: cpu, emc",
        ),
        ("memory_domain = \"emc\"", "memory_domain = \"cpu\"", "unit[0].memory_domain = Some(\"cpu\")"),
        ("rail = \"VDD\"", "rail = \"VIN\"", "unit[0].rail = \"VIN\": expected a rail of this file: VDD"),
        (
            "[600000, 1200000]",
            "[1200000, 600000]",
            "domain[0].opps_khz[1] = 600000: expected more than the 1200000 before",
        ),
        ("[600000, 1200000]", "[600000, 600000]", "domain[0].opps_khz[1] = 600000: expected more"),
        ("[600000, 1200000]", "[0]", "domain[0].opps_khz[0] = 0: expected kHz between 1 and"),
        (
            "select = \"0\"",
            "select = \"little\"",
            "domain[0].select = \"little\": expected a CPU below 1024, several such as",
        ),
        ("select = \"emc\"", "select = \"a/b\"", "domain[1].select = \"a/b\": expected part of a name"),
        ("cpus = [0, 1]", "cpus = [0, 4096]", "unit[0].cpus[1] = 4096: expected a CPU between 0 and 1023"),
        ("cpus = [0, 1]", "cpus = [0, 0]", "unit[0].cpus[1] = 0: expected each CPU once"),
        ("threads = 2", "threads = 3", "unit[0].threads = 3: expected 1 to 2"),
        ("threads = 2", "threads = 0", "unit[0].threads = 0: expected 1 to 2"),
        ("constant_w = -0.1", "constant_w = -9.0", "unit[0].busy_power = \"-8.292 W at 600000 kHz\""),
        ("linear_w_per_ghz = 1.0", "linear_w_per_ghz = inf", "unit[0].busy_power.linear_w_per_ghz = inf"),
        ("passive_c = 80", "passive_c = 95", "zone[0].passive_c = 95.0: expected less than critical_c = 95"),
        ("critical_c = 95", "critical_c = nan", "zone[0].critical_c = NaN: expected degrees Celsius"),
        ("chip = \"ina3221\"", "chip = \"\"", "rail[0].chip = \"\": expected the `name` of a hwmon device"),
        ("interface = \"hwmon\"", "interface = \"powercap\"", "rail[0].chip = \"ina3221\": expected no chip"),
        ("fast_tau_s = 2.0", "fast_tau_s = 0.0", "thermal.fast_tau_s = 0.0: expected a number above 0"),
        (
            "fast_tau_s = 2.0",
            "fast_tau_s = 90.0",
            "thermal.fast_tau_s = 90.0: expected less than slow_tau_s = 60",
        ),
    ];
    for (from, to, expected) in cases {
        let message = replaced(from, to);
        assert!(message.starts_with("boards/test.toml: "), "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn what_is_no_board_file_is_named_with_its_line() {
    let cases = [
        ("name = \"test\"", "name = \"test", "boards/test.toml:2: "),
        ("idle_power_w = 2.5", "idle_power_w = 2.5\nfan = 1", "boards/test.toml:6: unknown field `fan`"),
        ("kind = \"cpu\"", "kind = \"tpu\"", "unknown variant `tpu`"),
        ("description = \"a board\"\n", "", "missing field `description`"),
        ("threads = 2", "threads = -2", "boards/test.toml:19: "),
    ];
    for (from, to, expected) in cases {
        let message = replaced(from, to);
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    let none = "unit = []\nname = \"t\"\ndescription = \"\"\nidle_power_w = 1\nthermal = { fast_k_per_w = 1.0, fast_tau_s = 2.0, slow_k_per_w = 3.0, slow_tau_s = 60.0 }";
    assert!(error(none).contains("unit = []: expected at least one [[unit]]"), "{}", error(none));
}

#[test]
fn all_problems_are_told_at_once() {
    let text = GOOD.replace("threads = 2", "threads = 9").replace("passive_c = 80", "passive_c = 99");
    let message = error(&text);
    assert!(message.contains("unit[0].threads") && message.contains("zone[0].passive_c"), "{message}");
}

#[test]
fn a_file_carries_the_boards_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.toml");
    std::fs::write(&path, GOOD).unwrap();
    assert_eq!(BoardSpec::load(&path).unwrap().name, "test");
    let other = directory.path().join("other.toml");
    std::fs::write(&other, GOOD).unwrap();
    let message = BoardSpec::load(&other).unwrap_err().to_string();
    assert!(message.contains("name = \"test\": expected the file's stem, \"other\""), "{message}");
    let missing = BoardSpec::load(&directory.path().join("none.toml")).unwrap_err();
    assert!(matches!(missing, SpecError::Unreadable { .. }) && missing.to_string().contains("none.toml"));
    let huge = directory.path().join("huge.toml");
    std::fs::write(&huge, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(BoardSpec::load(&huge).unwrap_err().to_string().contains("longer than"));
}

proptest! {
    #[test]
    fn any_text_is_a_board_or_an_error(text in "\\PC{0,200}", at in any::<prop::sample::Index>()) {
        let _ = BoardSpec::parse(&text, Path::new("x"));
        let mut mixed = GOOD.to_owned();
        mixed.insert_str(at.index(GOOD.len()), &text);
        let _ = BoardSpec::parse(&mixed, Path::new("x"));
    }

    #[test]
    fn any_figure_gives_a_board_without_nan(figure in any::<f64>()) {
        let text = GOOD.replace("2.5", &format!("{figure:?}"));
        if let Ok(spec) = BoardSpec::parse(&text, Path::new("x")) {
            prop_assert!(spec.idle_power_w >= 0.0 && spec.idle_power_w <= 1_000.0);
        }
    }
}
