//! `wattctl simulate` from outside: its files, its output, and that the same seed gives the same bytes.

#![allow(clippy::unwrap_used, reason = "a test may")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn config(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)
}

/// Runs `wattctl simulate`, without timing.
fn simulate<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattctl"));
    command.arg("simulate").arg("--no-timing").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The complaint of a run that must fail as one with bad input.
fn refused(args: &[&OsStr]) -> String {
    let output = simulate(args);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    text(&output.stderr)
}

fn runs(output: &Output) -> Vec<Value> {
    let document: Value = serde_json::from_str(&succeeded(output)).unwrap();
    document["runs"].as_array().unwrap().clone()
}

/// A short workload for any board; `more` goes before its stream.
fn workload(folder: &Path, more: &str, stream: &str) -> PathBuf {
    let manifest = config("models/fashion/model.toml");
    let file = folder.join("short.toml");
    let body = format!(
        "[workload]\nname = \"short\"\n{more}\n[[model]]\nmanifest = \"{}\"\n\
         [[class]]\nname = \"camera\"\nlatency_ms = 80.0\nmin_accuracy = 0.89\n[[stream]]\n{stream}\n",
        manifest.display()
    );
    std::fs::write(&file, body).unwrap();
    file
}

fn ten_seconds(folder: &Path) -> PathBuf {
    workload(folder, "seconds = 10.0", "arrival = \"poisson\"\nrate_hz = 20.0")
}

/// The columns of a CSV file by name, row by row.
fn rows(file: &Path) -> Vec<std::collections::BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(file).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

const FIELDS: [&str; 17] = [
    "board",
    "workload",
    "disturbance",
    "policy",
    "seed",
    "requests",
    "served",
    "misses",
    "rejected",
    "after_miss",
    "missed_after_miss",
    "energy_uj",
    "accuracy_mean",
    "seconds_above_trip",
    "peak_milli_celsius",
    "decision_ns_p50",
    "decision_ns_p99",
];

#[test]
fn every_board_runs_and_has_the_fields_of_the_interface() {
    let folder = tempfile::tempdir().unwrap();
    let boards = std::fs::read_dir(config("boards")).unwrap().map(|entry| entry.unwrap().path());
    let boards: BTreeSet<PathBuf> = boards.collect();
    assert!(boards.len() >= 5);
    let workload = ten_seconds(folder.path());
    let flags = ["--policy", "wattd,performance", "--json"].map(OsStr::new);
    let mut args = vec![OsStr::new("--workload"), workload.as_os_str(), OsStr::new("--board")];
    args.extend(boards.iter().map(|board| board.as_os_str()));
    args.extend::<[&OsStr; 3]>(flags);
    let runs = runs(&simulate(&args));
    assert_eq!(runs.len(), 2 * boards.len());
    for run in &runs {
        let fields: BTreeSet<&str> = run.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(FIELDS));
        let number = |field: &str| run[field].as_u64().unwrap();
        // 200 expected, standard deviation 14.
        assert!((140..=260).contains(&number("requests")), "{run}");
        assert!(number("served") + number("misses") + number("rejected") >= number("requests"), "{run}");
        assert!(number("served") * 100 >= number("requests") * 95, "{run}");
        assert!((0.89..0.94).contains(&run["accuracy_mean"].as_f64().unwrap()), "{run}");
        // Boards draw from 0.5 W to 100 W over 12.08 s.
        assert!((6_000_000..1_200_000_000).contains(&number("energy_uj")), "{run}");
        assert!(run["decision_ns_p99"].is_null() && run["disturbance"].is_null());
    }
    // Both policies meet the same requests, on every board, and it costs less to choose.
    for pair in runs.chunks(2) {
        assert_eq!((&pair[0]["policy"], &pair[1]["policy"]), (&"wattd".into(), &"performance".into()));
        assert_eq!(pair[0]["requests"], pair[1]["requests"]);
        assert!(pair[0]["energy_uj"].as_u64() < pair[1]["energy_uj"].as_u64(), "{pair:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let workload = ten_seconds(folder.path());
    let disturb = config("disturbances/contention-bursts.toml");
    let board = config("boards/jetson-tx2.toml");
    let run = |name: &str, jobs: &str, seed: &str| {
        let (csv, html) = (folder.path().join(name), folder.path().join(name).with_extension("html"));
        let mut args: Vec<&OsStr> = vec!["--jobs".as_ref(), jobs.as_ref(), "--seed".as_ref(), seed.as_ref()];
        args.extend::<[&OsStr; 4]>([
            "--board".as_ref(),
            board.as_ref(),
            "--workload".as_ref(),
            workload.as_ref(),
        ]);
        args.extend::<[&OsStr; 4]>([
            "--disturb".as_ref(),
            "none".as_ref(),
            disturb.as_ref(),
            "--json".as_ref(),
        ]);
        args.extend::<[&OsStr; 4]>(["--schedule".as_ref(), csv.as_ref(), "--html".as_ref(), html.as_ref()]);
        args.extend::<[&OsStr; 2]>(["--policy".as_ref(), "wattd,performance".as_ref()]);
        let printed = succeeded(&simulate(&args));
        (printed, std::fs::read(csv).unwrap(), std::fs::read(html).unwrap())
    };
    let first = run("a.csv", "1", "1..3");
    assert!(first == run("b.csv", "2", "1..3"), "two threads differ from one");
    let other = run("c.csv", "2", "4..6");
    assert!(first.0 != other.0 && first.1 != other.1, "another seed is another run");
    let all = rows(&folder.path().join("a.csv"));
    let labels: Vec<_> = all.iter().map(|row| (&row["disturbance"], &row["policy"], &row["seed"])).collect();
    let mut order = labels.clone();
    order.dedup();
    assert_eq!(order.len(), 2 * 2 * 3, "each run in one piece: {order:?}");
    assert_eq!(order[0], (&String::new(), &"wattd".to_owned(), &"1".to_owned()));
}

/// With `--oracle` a run has the five figures; nobody who serves everything in time takes less than the bound.
#[test]
fn the_bound_is_below_whoever_serves_everything() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload(folder.path(), "seconds = 5.0", "arrival = \"periodic\"\nrate_hz = 10.0");
    let board = config("boards/jetson-tx2.toml");
    let args: [&OsStr; 8] = [
        "--board".as_ref(),
        board.as_ref(),
        "--workload".as_ref(),
        workload.as_ref(),
        "--policy".as_ref(),
        "performance,static-best,o3".as_ref(),
        "--oracle".as_ref(),
        "--json".as_ref(),
    ];
    let runs = runs(&simulate(args));
    assert_eq!(runs.len(), 3);
    for run in &runs {
        let number = |field: &str| run[field].as_u64().unwrap_or_else(|| panic!("{field} of {run}"));
        assert_eq!((number("misses"), number("rejected")), (0, 0), "{run}");
        assert_eq!(number("oracle_feasible_requests"), number("requests"));
        assert!(0 < number("bound_energy_uj") && number("bound_energy_uj") <= number("energy_uj"), "{run}");
        assert!(number("o1_energy_uj") >= number("bound_energy_uj"), "{run}");
        assert_eq!(number("o3_misses"), 0);
        assert!(number("idle_energy_uj") < number("bound_energy_uj"), "{run}");
        // Both served everything, so that equal service is the whole.
        assert_eq!((number("feasible_misses"), number("feasible_rejected")), (0, 0), "{run}");
        assert_eq!(number("common_requests"), number("requests"));
        assert_eq!(number("common_energy_uj"), number("energy_uj"));
        assert_eq!(number("o3_common_energy_uj"), number("o3_energy_uj"));
    }
    // The causal oracle as a policy is the one that the others are compared with.
    assert_eq!(runs[2]["energy_uj"], runs[2]["o3_energy_uj"]);
}

/// Three requests written by hand, a second apart: the schedule has them, and nothing else.
#[test]
fn a_trace_written_by_hand_is_served_as_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("t.csv"),
        "arrival_us,class\n0,camera\n1000000,camera\n2500000,camera\n",
    )
    .unwrap();
    let workload = workload(folder.path(), "", "arrival = \"trace\"\ntrace = \"t.csv\"");
    let schedule = folder.path().join("s.csv");
    let board = config("boards/raspberry-pi-5.toml");
    let args: [&OsStr; 7] = [
        "--board".as_ref(),
        board.as_ref(),
        "--workload".as_ref(),
        workload.as_ref(),
        "--schedule".as_ref(),
        schedule.as_ref(),
        "--json".as_ref(),
    ];
    let runs = runs(&simulate(args));
    assert_eq!((runs[0]["requests"].as_u64(), runs[0]["served"].as_u64()), (Some(3), Some(3)));
    let header = std::fs::read_to_string(&schedule).unwrap();
    let columns =
        "arrival_us,class,deadline_us,start_us,finish_us,variant,unit,clock_khz,energy_uj,outcome\n";
    assert!(header.starts_with(columns), "{header}");
    let rows = rows(&schedule);
    let arrivals: Vec<&str> = rows.iter().map(|row| row["arrival_us"].as_str()).collect();
    assert_eq!(arrivals, ["0", "1000000", "2500000"]);
    for row in &rows {
        let us = |column: &str| row[column].parse::<u64>().unwrap();
        assert_eq!((row["class"].as_str(), row["outcome"].as_str()), ("camera", "served"));
        assert_eq!(us("deadline_us"), us("arrival_us") + 80_000);
        assert!(us("arrival_us") <= us("start_us") && us("start_us") < us("finish_us"), "{row:?}");
        assert!(
            us("finish_us") <= us("deadline_us") && us("energy_uj") > 0 && us("clock_khz") > 0,
            "{row:?}"
        );
    }
    // A schedule is a trace: run again, it brings the same requests.
    std::fs::copy(&schedule, folder.path().join("t.csv")).unwrap();
    let again = simulate(args);
    assert_eq!(self::runs(&again)[0], runs[0]);
}

#[test]
fn what_cannot_be_served_is_turned_away_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let stream = "arrival = \"periodic\"\nrate_hz = 5.0\nmin_accuracy = 0.99";
    let workload = workload(folder.path(), "seconds = 3.0", stream);
    let board = config("boards/jetson-tx2.toml");
    let schedule = folder.path().join("s.csv");
    let args: [&OsStr; 7] = [
        "--board".as_ref(),
        board.as_ref(),
        "--workload".as_ref(),
        workload.as_ref(),
        "--json".as_ref(),
        "--schedule".as_ref(),
        schedule.as_ref(),
    ];
    let runs = runs(&simulate(args));
    assert_eq!(runs[0]["rejected"], runs[0]["requests"]);
    assert!(runs[0]["accuracy_mean"].is_null());
    let rows = rows(&schedule);
    assert!(
        rows.iter()
            .all(|row| row["outcome"] == "rejected:accuracy_unreachable" && row["start_us"].is_empty())
    );
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let board = config("boards/jetson-tx2.toml");
    let pi = config("boards/raspberry-pi-5.toml");
    let good = ten_seconds(folder.path());
    let measured = config("workloads/vgg19.toml");
    let missing = folder.path().join("none.toml");
    let script = folder.path().join("script.toml");
    std::fs::write(&script, "[[event]]\nat_s = 1\nset = \"weather\"\nto = 3\n").unwrap();
    let cases: [(&Path, &Path, &str, &str, &str); 5] = [
        (&board, &good, "--policy", "wattd,magic", "--policy: `magic` is no policy; there are: wattd"),
        (&board, &missing, "--seed", "1", "none.toml: cannot be read"),
        (&missing, &good, "--seed", "1", "none.toml: cannot be read as a board file"),
        (&pi, &measured, "--seed", "1", "board raspberry-pi-5 has no such measured network; it has: none"),
        (&board, &good, "--disturb", script.to_str().unwrap(), "script.toml: event 1: set: `weather`"),
    ];
    for (board, workload, flag, value, wanted) in cases {
        let args: [&OsStr; 6] = [
            "--board".as_ref(),
            board.as_ref(),
            "--workload".as_ref(),
            workload.as_ref(),
            flag.as_ref(),
            value.as_ref(),
        ];
        let found = refused(&args);
        assert!(found.contains(wanted), "{found}\nwanted {wanted}");
    }
}

/// Every shipped workload runs on a board that can, under every shipped disturbance.
#[test]
fn every_shipped_workload_and_disturbance_runs() {
    let toml = |folder: &str| {
        let files = std::fs::read_dir(config(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|e| e == "toml")).collect::<BTreeSet<PathBuf>>()
    };
    let (workloads, disturbances) = (toml("workloads"), toml("disturbances"));
    let board = config("boards/jetson-tx2.toml");
    let mut args: Vec<&OsStr> =
        vec!["--board".as_ref(), board.as_ref(), "--json".as_ref(), "--workload".as_ref()];
    args.extend(workloads.iter().map(|file| file.as_os_str()));
    args.push("--disturb".as_ref());
    args.extend(disturbances.iter().map(|file| file.as_os_str()));
    let runs = runs(&simulate(&args));
    assert_eq!(runs.len(), workloads.len() * disturbances.len());
    for run in &runs {
        assert!(run["requests"].as_u64().unwrap() > 0 && run["served"].as_u64().unwrap() > 0, "{run}");
    }
}

/// The page holds a table and pictures, is well-formed, and asks nobody for anything.
#[test]
fn the_page_is_self_contained() {
    let folder = tempfile::tempdir().unwrap();
    let (workload, html) = (ten_seconds(folder.path()), folder.path().join("r.html"));
    let board = config("boards/jetson-tx2.toml");
    let args: [&OsStr; 10] = [
        "--board".as_ref(),
        board.as_ref(),
        "--workload".as_ref(),
        workload.as_ref(),
        "--policy".as_ref(),
        "wattd,performance".as_ref(),
        "--html".as_ref(),
        html.as_ref(),
        "--seed".as_ref(),
        "1..2".as_ref(),
    ];
    let table = succeeded(&simulate(args));
    assert!(table.contains("vs performance %") && table.contains('±'), "{table}");
    let page = std::fs::read_to_string(html).unwrap();
    assert_eq!(page.matches("<svg").count(), 2, "energy against misses, and the timeline");
    assert!(page.contains("Clock of gpu") && page.contains("deadlines missed, %"));
    for outside in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for link in page.split("http").skip(1) {
        assert!(link.starts_with("://www.w3.org/"), "names of namespaces only: {}", &link[..30]);
    }
    well_formed(&page);
}

/// Every element that is opened is closed, in order.
fn well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let tag = tag.split_once('>').unwrap().0;
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !(tag.starts_with(['!', '?']) || tag.ends_with('/') || name == "meta") {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}
