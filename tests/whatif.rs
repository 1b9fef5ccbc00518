//! `wattctl whatif` from outside: exit codes, what it prints, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test may")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn config(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A configuration with one class, and a workload for it.
struct Files(tempfile::TempDir);

impl Files {
    fn new(class_and_budgets: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        // The board stands beside it, as on a device.
        std::fs::copy(config("boards/jetson-tx2.toml"), files.path("jetson-tx2.toml")).unwrap();
        let models = config("models");
        files.write(
            "wattd.toml",
            &format!(
                "[board]\nfile = \"jetson-tx2.toml\"\n[models]\ndir = [\"{}\"]\n\
                 [[class]]\nname = \"camera\"\n{class_and_budgets}",
                models.display()
            ),
        );
        files.write(
            "day.toml",
            "[workload]\nseconds = 10.0\n[[stream]]\nmodel = \"fashion\"\narrival = \"poisson\"\nrate_hz = 10.0\n",
        );
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// `wattctl whatif` in the folder, with words apart by blanks.
    fn whatif(&self, args: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wattctl"));
        command.current_dir(self.0.path()).arg("whatif").args(args.split_whitespace()).output().unwrap()
    }

    fn refused(&self, args: &str) -> String {
        let output = self.whatif(args);
        assert_eq!(output.status.code(), Some(2), "{args}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.stdout.is_empty());
        text(&output.stderr)
    }
}

const EASY: &str = "latency_ms = 500.0\nmin_accuracy = 0.89\n";
/// 18 seconds.
const SHORT: &str = "wattd.toml --hours 0.005 --seed 1..2";

#[test]
fn a_day_that_holds_ends_with_0_and_one_that_does_not_with_1() {
    let files = Files::new(EASY);
    let output = files.whatif(&format!("{SHORT} --workload day.toml --ambient 30"));
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}{}", text(&output.stderr));
    assert!(printed.contains("It HOLDS.") && printed.contains("modelled, not measured: 2 runs"), "{printed}");
    assert!(printed.contains("wattd.toml on jetson-tx2 at 30 °C: a day of 0.005 h from 08:00"), "{printed}");
    assert!(printed.contains("00:00:10 of it played 1.8 times to fill the day"), "{printed}");

    let files = Files::new("latency_ms = 3.0\nmin_accuracy = 0.93\n");
    let output = files.whatif(&format!("{SHORT} --workload day.toml --no-search"));
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("It does NOT hold") && printed.contains("class camera latency_ms at 00:00:0"),
        "{printed}"
    );
    assert!(!printed.contains("would hold"), "nothing was looked for: {printed}");
    assert_eq!(text(&output.stderr), "wattctl: wattd.toml does not hold\n");
}

/// What is suggested is a value of the file: written into it, the day holds. And the same question has the same bytes
/// for an answer, on any number of threads.
#[test]
fn the_suggested_value_holds_when_it_is_written_into_the_file() {
    let files = Files::new("latency_ms = 8.0\nmin_accuracy = 0.93\n");
    let ask = |more: &str| files.whatif(&format!("{SHORT} --workload day.toml --json {more}"));
    let first = ask("--jobs 1");
    assert_eq!(first.status.code(), Some(1), "{}", text(&first.stderr));
    assert_eq!(first.stdout, ask("--jobs 2").stdout, "two threads differ from one");
    let document: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!((&document["modelled"], &document["holds"]), (&true.into(), &false.into()));
    assert!(document["runs_played"].as_u64().unwrap() > 4, "{document:#}");
    let changes = document["would_hold"].as_array().unwrap();
    let change = changes.iter().find(|change| change["budget"] == "class camera latency_ms").unwrap();
    let (holds_at, breaks_at) = (change["holds_at"].as_f64().unwrap(), change["breaks_at"].as_f64().unwrap());
    assert!(8.0 <= breaks_at && breaks_at < holds_at && change["everything"] == true, "{change}");
    for (latency, code) in [(holds_at, 0), (breaks_at, 1)] {
        let files = Files::new(&format!("latency_ms = {latency:?}\nmin_accuracy = 0.93\n"));
        let output = files.whatif(&format!("{SHORT} --workload day.toml --no-search"));
        assert_eq!(output.status.code(), Some(code), "{latency} ms: {}", text(&output.stdout));
    }
}

#[test]
fn another_board_and_bad_weather_change_the_answer() {
    let files = Files::new(&format!("{EASY}[budget]\nmax_temperature_c = 70.0\n"));
    files.write("fan.toml", "[[event]]\nat_s = 5.0\nset = \"ambient_c\"\nto = 84\n");
    let ask = |more: &str| {
        let output = files.whatif(&format!("{SHORT} --workload day.toml --no-search --json {more}"));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
    };
    let (usual, hot) = (ask("--ambient 25"), ask("--ambient 84"));
    assert_eq!((&usual["holds"], &hot["holds"]), (&true.into(), &false.into()));
    let budgets = hot["budgets"].as_array().unwrap();
    let heat = budgets.iter().find(|budget| budget["budget"] == "budget.max_temperature_c").unwrap();
    assert_eq!((&heat["holds"], &heat["asked"]), (&false.into(), &70.0.into()), "{hot:#}");
    let pi = ask("--board raspberry-pi-5");
    assert_eq!(pi["board"], "raspberry-pi-5");
    assert_ne!(pi["runs"][0]["energy_j"], usual["runs"][0]["energy_j"]);
    let notes = ask("--disturb fan.toml")["notes"].to_string();
    assert!(notes.contains("the disturbances set the ambient temperature"), "{notes}");
}

#[test]
fn bad_input_is_named_and_ends_with_2() {
    let files = Files::new(EASY);
    files.write("empty.jsonl", "");
    files.write("both.toml", "[budget.energy]\njoules = 1.0\nwatt_hours = 1.0\nlasting = \"1h\"\n");
    files.write("battery.toml", "[board]\nfile = \"jetson-tx2.toml\"\n[budget.battery]\nlasting = \"8h\"\n");
    for (args, wanted) in [
        ("wattd.toml", "--journal <FILE>|--workload <FILE>"),
        ("wattd.toml --workload day.toml --hours 0", "--hours = 0: a number from 0.0003 to 744 h is right"),
        ("wattd.toml --workload day.toml --hours NaN", "--hours = NaN: a number"),
        ("wattd.toml --workload day.toml --hours inf", "--hours = inf: a number"),
        ("wattd.toml --workload day.toml --ambient 300", "--ambient = 300: a number from -40"),
        ("wattd.toml --workload day.toml --allowance 2", "--allowance = 2: a number from 0"),
        ("wattd.toml --workload day.toml --battery 0", "--battery = 0: a number from 0.01"),
        ("wattd.toml --workload day.toml --work-scale 0", "work_scale"),
        (
            "wattd.toml --workload day.toml --board toaster",
            "no board of that name; there are: desktop, generic-arm",
        ),
        ("wattd.toml --workload none.toml", "none.toml: cannot be read"),
        ("wattd.toml --journal none.jsonl", "none.jsonl: No such file"),
        ("wattd.toml --journal empty.jsonl", "empty.jsonl, line 1:"),
        ("none.toml --workload day.toml", "none.toml: cannot be read"),
        (
            "both.toml --workload day.toml",
            "both.toml:1: budget.energy: needs either `joules` or `watt_hours`",
        ),
        (
            "battery.toml --workload day.toml",
            "[budget.battery] needs a battery, and board jetson-tx2 has none",
        ),
    ] {
        let found = files.refused(args);
        assert!(found.contains(wanted), "{args}: {found}\nwanted {wanted}");
    }
}

/// The shipped files work together as the documentation says.
#[test]
fn the_shipped_configuration_can_be_asked_about() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattctl"));
    command.arg("whatif").arg(config("demo.toml")).arg("--workload").arg(config("workloads/crowd.toml"));
    command.args(["--hours", "0.005", "--ambient", "45", "--seed", "1", "--no-search", "--json"]);
    let output = command.output().unwrap();
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let budgets = document["budgets"].as_array().unwrap();
    let keys: Vec<&str> = budgets.iter().map(|budget| budget["budget"].as_str().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "class camera latency_ms",
            "class camera min_accuracy",
            "class camera accuracy_target",
            "class audio latency_ms",
            "class audio min_accuracy",
            "budget.max_temperature_c",
        ]
    );
}
