//! What is printed, of an answer made by hand for a real day.

use super::*;
use crate::board::shipped;
use crate::sim::whatif::{Asked, ClassTally, Finding, Outcome, RowOf, Source, Suggestion, read_config};
use crate::units::Nanos;
use std::collections::BTreeMap;

const START: jiff::civil::Time = jiff::civil::time(8, 0, 0, 0);

fn day() -> (Config, Day) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let config = read_config(&root.join("demo.toml"), START).unwrap();
    let asked = Asked {
        config: config.clone(),
        board: shipped::named("jetson-tx2").unwrap().unwrap(),
        hours: 10.0,
        ambient_c: Some(45.0),
        battery_wh: None,
        work_scale: None,
        demand: Source::Workload(root.join("workloads/camera.toml")),
        disturb: None,
        allowance: 0.001,
    };
    let day = Day::load(&asked).unwrap_or_else(|error| panic!("{error}"));
    (config, day)
}

fn finding(limit: Limit, got: f64, bound: f64, broken_s: Option<u64>) -> RowOf {
    let worst = Finding {
        limit,
        got,
        bound,
        holds: broken_s.is_none(),
        broken_at: broken_s.map(Nanos::from_secs),
        worst_hour: Some((4, got)),
        projected: false,
    };
    RowOf { worst, run: 0, held: if broken_s.is_none() { 3 } else { 1 } }
}

fn answer(late: Option<u64>) -> Answer {
    let tally = ClassTally {
        requests: 540_000,
        answered: 539_000,
        late: 700,
        refused: BTreeMap::from([(crate::core::event::Rejection::PowerBudget, 1000)]),
        accuracy: Some(0.9331),
        latency_ms: Some(71.25),
        energy_mj: Some(55.0),
    };
    let outcome = Outcome {
        seed: 1,
        findings: Vec::new(),
        classes: vec![ClassTally::default(), tally],
        energy_j: 180_000.0,
        lasted: Nanos::from_secs(36_000),
        hottest_c: Some(74.25),
        battery_left: None,
    };
    let latency =
        Suggestion { knob: Knob::Latency(1), from: 66.0, to: Some(81.3), breaks: 79.2, all: true, runs: 9 };
    let ambient =
        Suggestion { knob: Knob::Ambient, from: 45.0, to: None, breaks: -15.0, all: false, runs: 1 };
    Answer {
        rows: vec![
            finding(Limit::Latency(1), 0.00315, 0.001, late),
            finding(Limit::Target(1), 0.9331, 0.9325, None),
            finding(Limit::Temperature, 0.0, 0.0, None),
        ],
        outcomes: vec![outcome.clone(), outcome.clone(), outcome],
        suggestions: if late.is_some() { vec![latency, ambient] } else { Vec::new() },
        together: None,
        runs: 33,
    }
}

fn with<T>(late: Option<u64>, look: impl FnOnce(&Report<'_>) -> T) -> T {
    let ((config, day), answer) = (day(), answer(late));
    look(&Report {
        config: &config,
        day: &day,
        start: START,
        seeds: &[1, 2, 3],
        searched: true,
        answer: &answer,
    })
}

#[test]
fn a_day_that_breaks_says_where_when_and_what_would_hold() {
    let text = with(Some(3 * 3600 + 62), text);
    for wanted in [
        "demo.toml on jetson-tx2 at 45 °C: a day of 10 h from 08:00",
        "00:01:00 of it played 600 times to fill the day, 540,000 requests a run",
        "modelled, not measured: 33 runs in virtual time on the simulated board, in 3 seeds",
        "It does NOT hold: 1 of 3 budgets break; the first is class camera latency_ms at 03:01:02.",
        "66 ms, but for 0.1 %",
        "0.315 % late or refused",
        "1,000 power budget, 700 late of 540,000",
        "99.9 % of the answers within 71.25 ms",
        "04-05 h: 0.315 %",
        "in 1 of 3 runs, broken at 03:01:02",
        "below 78 °C",
        "hottest 74.2 °C",
        "then everything holds",
        "not even -15",
        "The board takes 50 Wh, 5 W on average.",
        "every run costs 40 times what its manifest says",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
    let cells = |line: &str| line.split(['┆', '│']).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let latency: Vec<_> =
        text.lines().filter(|line| line.starts_with("│ class camera latency_ms ")).map(cells).collect();
    assert_eq!(latency[1][1..5], ["class camera latency_ms", "66", "81.3", "79.2"], "{text}");
}

#[test]
fn a_day_that_holds_says_so_and_no_more() {
    let text = with(None, text);
    assert!(
        text.contains("\nIt HOLDS.\n") && !text.contains("would hold") && !text.contains("NOT"),
        "{text}"
    );
}

#[test]
fn the_document_says_the_same() {
    let document = with(Some(3723), document);
    assert!(document.modelled && !document.holds);
    assert_eq!(document.first_broken.as_deref(), Some("class camera latency_ms"));
    assert_eq!(document.first_broken_s, Some(3723.0));
    let latency = &document.budgets[0];
    assert_eq!(
        (latency.asked, latency.got, latency.bound, latency.runs_held),
        (Some(66.0), 0.00315, 0.001, 1)
    );
    assert_eq!(latency.measure, "share_late_or_refused");
    let change = &document.would_hold.as_ref().unwrap()[0];
    assert_eq!(
        (change.now, change.holds_at, change.breaks_at, change.everything),
        (66.0, Some(81.3), 79.2, true)
    );
    assert_eq!(document.runs[0].classes["camera"].refused["power_budget"], 1000);
    assert_eq!(document.runs[0].classes.len(), 1, "only classes with requests");
    let json = serde_json::to_string(&document).unwrap();
    assert!(!json.contains("NaN") && json.contains("\"would_hold\":["));
    assert!(with(None, super::document).would_hold.is_none());
}
