//! The picture by its structure, from a small made-up pair of runs.

use super::*;
use crate::core::energy::Objective;
use crate::core::thermal::Regime;
use crate::ctl::record::{
    AppHeader, EndLine, FORMAT, Header, Ladder, NoteLine, Outcome, RequestLine, ServedLine, StatusLine,
};
use crate::ctl::status::{BoardStatus, Counters, DomainStatus, Status, ZoneStatus};

/// Ten seconds: one request and one state a second; hotter, slower and with late answers if not adaptive.
fn run(adaptive: bool) -> Run {
    let app =
        AppHeader { name: "camera".into(), model: "fashion".into(), end_s: 10.0, ..AppHeader::default() };
    let second = AppHeader { name: "audio <x>".into(), start_s: 6.0, ..app.clone() };
    let variants = ["large".to_owned(), "small".to_owned()].to_vec();
    let header = Header {
        format: FORMAT,
        scenario: "Test & trial".into(),
        duration_s: 10.0,
        apps: vec![app, second],
        ladders: vec![Ladder { model: "fashion".into(), variants }],
        ..Header::default()
    };
    let request = |t: u64| RequestLine {
        t_us: t * 1_000_000 + 500_000,
        delay_us: 0,
        latency_us: 20_000,
        app: "camera".into(),
        items: 1,
        missed: !adaptive && t > 6,
        request_id: None,
        outcome: if !adaptive && t == 9 {
            Outcome::Rejected { reason: "too_hot".into() }
        } else {
            Outcome::Served(ServedLine {
                variant: if adaptive && t > 4 { "small" } else { "large" }.into(),
                scored: 1,
                correct: 1,
                ..ServedLine::default()
            })
        },
    };
    let state = |t: u32| {
        let hot = 60.0 + f64::from(t) * if adaptive { 1.0 } else { 3.0 };
        let status = Status {
            board: BoardStatus { name: "tx2".into(), simulated: true, ..BoardStatus::default() },
            objective: if adaptive { Objective::LeastEnergy } else { Objective::Performance },
            regime: if hot > 75.0 { Regime::Throttled } else { Regime::Nominal },
            power_w: Some(if adaptive { 4.0 } else { 8.0 }),
            zones: vec![ZoneStatus {
                name: "gpu".into(),
                c: Some(hot),
                passive_c: 80.0,
                limit_c: 75.0,
                ..ZoneStatus::default()
            }],
            domains: vec![
                DomainStatus {
                    name: "gpu".into(),
                    khz: Some(if adaptive && t > 4 { 600_000 } else { 1_300_000 }),
                    ..DomainStatus::default()
                },
                DomainStatus { name: "emc".into(), khz: Some(1_600_000), ..DomainStatus::default() },
            ],
            counters: Counters {
                energy_j: Some(f64::from(t) * if adaptive { 4.0 } else { 8.0 }),
                ..Counters::default()
            },
            ..Status::default()
        };
        StatusLine { t_us: u64::from(t) * 1_000_000, status: Box::new(status) }
    };
    Run {
        header,
        requests: (0..10).map(request).collect(),
        statuses: (0..=10).map(state).collect(),
        notes: vec![NoteLine { t_us: 3_000_000, text: "fan fails".into() }],
        end: Some(EndLine { t_us: 10_000_000, interrupted: false, states_missed: 0 }),
    }
}

fn pair() -> Vec<Compared> {
    vec![Compared::new(run(true)), Compared::new(run(false))]
}

/// The words of the picture in drawing order.
fn words(svg: &str) -> Vec<String> {
    let texts = svg.split("<text").skip(1);
    texts
        .filter_map(|text| Some(text.split_once('>')?.1.split_once("</text>")?.0.trim().to_owned()))
        .collect()
}

#[test]
fn the_picture_says_what_happened() {
    let svg = svg(&pair()).unwrap();
    let words = words(&svg);
    for expected in [
        "Test &amp; trial",
        "Energy of the board",
        "40 J",
        "80 J",
        "fan fails",
        "audio &lt;x&gt; starts",
        "Hottest zone",
        "trip 80 °C",
        "limit 75 °C",
        "Power of the board",
        "Clock of gpu",
        "Variants of fashion for the camera",
        "large",
        "small",
        "Late or refused",
        "0 of 10",
        "3 of 10",
    ] {
        assert!(words.iter().any(|word| word == expected), "{expected:?} in {words:?}");
    }
    assert!(!words.iter().any(|word| word == "Clock of emc"), "a clock that never changes tells nothing");
    assert!(svg.starts_with("<svg width=\"1200\""), "{}", &svg[..80]);
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn the_area_above_the_trip_is_shaded_only_where_it_was_passed() {
    let shapes = |runs: Vec<Compared>| svg(&runs).unwrap().matches("<polygon").count();
    assert_eq!(shapes(pair()), 1);
    assert_eq!(shapes(vec![Compared::new(run(true))]), 0);
}

#[test]
fn the_png_is_as_wide_as_asked() {
    let svg = svg(&pair()).unwrap();
    let pixels = resvg::tiny_skia::Pixmap::decode_png(&png::render(&svg, 0.5).unwrap()).unwrap();
    assert_eq!(pixels.width(), 600);
    let colours: std::collections::BTreeSet<_> =
        pixels.pixels().iter().map(|pixel| (pixel.red(), pixel.green(), pixel.blue())).collect();
    assert!(colours.len() > 50, "{} colours", colours.len());
}

#[test]
fn a_run_without_anything_is_still_a_picture() {
    let empty = Compared::new(Run::default());
    let svg = svg(&[empty]).unwrap();
    assert!(words(&svg).iter().any(|word| word == "no readable thermal zone"), "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    png::render(&svg, 0.5).unwrap();
}

#[test]
fn readings_beyond_all_sense_do_not_break_the_picture() {
    let mut odd = run(true);
    odd.statuses[3].status.power_w = Some(f64::NAN);
    odd.statuses[4].status.power_w = Some(f64::INFINITY);
    odd.statuses[5].status.zones[0].c = Some(-1e300);
    odd.statuses[6].status.zones[0].passive_c = f64::NAN;
    odd.requests[0].t_us = u64::MAX;
    let svg = svg(&[Compared::new(odd)]).unwrap();
    assert!(!svg.contains("NaN"));
    png::render(&svg, 0.25).unwrap();
}

#[test]
fn the_comparison_has_a_column_for_each_run() {
    let pair = pair();
    let text = table::comparison(&[&pair[0].tally, &pair[1].tally]).to_string();
    let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(row("energy of the board").contains("40.0 J") && row("energy of the board").contains("80.0 J"));
    assert!(row("refused").contains("1 (too_hot 1)"), "{text}");
    assert!(row("per answer in time").contains("4000.0 mJ"), "10 answers for 40 J:\n{text}");
    // Seven of nine answers of the other run came in time: 80 J / 7.
    assert!(row("per answer in time").contains("11428.6 mJ"), "{text}");
    assert!(row("above the trip point").contains("3.0 s"), "81 to 90 °C from second 7 to 10:\n{text}");
}
