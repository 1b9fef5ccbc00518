//! Runs as tables for people and as JSON for programs.

use crate::ctl::report::headline::percent;
use crate::ctl::report::tally::{AppTotals, RunLabel, Tally, Totals};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use std::collections::BTreeMap;

/// A run's sums as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// What ran.
    pub label: RunLabel,
    /// How far energy figures are to be trusted.
    pub energy: &'static str,
    /// The whole run.
    pub whole: Figures,
    /// Its phases.
    pub phases: Vec<PhaseFigures>,
}

/// A phase as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseFigures {
    /// Start in seconds.
    pub from_s: f64,
    /// End in seconds.
    pub to_s: f64,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Figures of a run or phase as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Energy of the whole board in joules.
    pub energy_j: Option<f64>,
    /// The same per answer.
    pub joules_per_answer: Option<f64>,
    /// The same per answer in time.
    pub joules_per_timely_answer: Option<f64>,
    /// Mean power in watts.
    pub mean_w: Option<f64>,
    /// Highest temperature in degrees Celsius.
    pub hottest_c: Option<f64>,
    /// Its zone.
    pub hottest_zone: Option<String>,
    /// Seconds above a passive trip.
    pub above_trip_s: f64,
    /// Seconds in which power was held back because of heat.
    pub throttled_s: f64,
    /// By application.
    pub apps: Vec<AppFigures>,
}

/// Figures of an application as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct AppFigures {
    /// Name.
    pub name: String,
    /// Its model.
    pub model: String,
    /// Requests.
    pub requests: u64,
    /// With an answer.
    pub served: u64,
    /// With a late answer.
    pub missed: u64,
    /// Turned away, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Without a valid answer.
    pub failed: u64,
    /// What went wrong the first time.
    pub first_failure: Option<String>,
    /// Never sent.
    pub unsent: u64,
    /// Sent more than a millisecond late.
    pub delayed: u64,
    /// Share of right answers.
    pub accuracy: Option<f64>,
    /// Items compared with a label.
    pub scored: u64,
    /// Energy attributed to the answers, in joules.
    pub attributed_j: f64,
    /// Median latency from the intended arrival, in milliseconds.
    pub latency_ms_p50: Option<f64>,
    /// 95 % quantile.
    pub latency_ms_p95: Option<f64>,
    /// 99 % quantile.
    pub latency_ms_p99: Option<f64>,
    /// Longest.
    pub latency_ms_max: Option<f64>,
    /// Answers by variant.
    pub variants: BTreeMap<String, u64>,
    /// Answers by unit.
    pub units: BTreeMap<String, u64>,
}

/// The sums as JSON.
#[must_use]
pub fn summary(tally: &Tally) -> Summary {
    Summary {
        label: tally.label.clone(),
        energy: tally.label.energy_words(),
        whole: figures(&tally.whole),
        phases: tally
            .phases
            .iter()
            .map(|phase| PhaseFigures {
                from_s: phase.from_s,
                to_s: phase.to_s,
                figures: figures(&phase.totals),
            })
            .collect(),
    }
}

fn figures(totals: &Totals) -> Figures {
    let board = &totals.board;
    Figures {
        energy_j: board.energy_j(),
        joules_per_answer: totals.joules_per_answer(),
        joules_per_timely_answer: totals.joules_per_timely_answer(),
        mean_w: board.mean_w(),
        hottest_c: board.hottest.as_ref().map(|(_, c)| *c),
        hottest_zone: board.hottest.as_ref().map(|(zone, _)| zone.clone()),
        above_trip_s: board.above_trip_s,
        throttled_s: board.throttled_s,
        apps: totals.apps.iter().map(app_figures).collect(),
    }
}

fn app_figures(app: &AppTotals) -> AppFigures {
    AppFigures {
        name: app.name.clone(),
        model: app.model.clone(),
        requests: app.requests,
        served: app.served,
        missed: app.missed,
        rejected: app.rejected.clone(),
        failed: app.failed,
        first_failure: app.first_failure.clone(),
        unsent: app.unsent,
        delayed: app.delayed,
        accuracy: super::tally::share(app.correct, app.scored),
        scored: app.scored,
        attributed_j: joules(app.energy_uj),
        latency_ms_p50: app.latency_ms(0.50),
        latency_ms_p95: app.latency_ms(0.95),
        latency_ms_p99: app.latency_ms(0.99),
        latency_ms_max: app.latency_ms(1.0),
        variants: app.variants.clone(),
        units: app.units.clone(),
    }
}

fn joules(uj: u64) -> f64 {
    crate::units::Microjoules(uj).as_f64() / 1e6
}

/// An empty table in the house style. Colours only where the output is a terminal.
#[must_use]
pub fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(heads.iter().map(|head| Cell::new(head).add_attribute(Attribute::Bold)));
    // A serial line is a terminal that has no size.
    if table.width() == Some(0) {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}

/// A cell with a number.
#[must_use]
pub fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// One column per run, one row per figure.
#[must_use]
pub fn comparison(tallies: &[&Tally]) -> Table {
    let mut heads = vec![""];
    heads.extend(tallies.iter().map(|tally| tally.label.policy()));
    let mut table = table(&heads);
    let mut row = |name: String, value: &dyn Fn(&Tally) -> String| {
        let mut cells = vec![Cell::new(name)];
        cells.extend(tallies.iter().map(|tally| right(value(tally))));
        table.add_row(cells);
    };
    let known = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
    row("requests".into(), &|tally| tally.whole.sum(|app| app.requests).to_string());
    row("answered".into(), &|tally| tally.whole.sum(|app| app.served).to_string());
    row("  of these late".into(), &|tally| tally.whole.sum(|app| app.missed).to_string());
    row("refused".into(), &|tally| {
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, number) in tally.whole.apps.iter().flat_map(|app| &app.rejected) {
            *reasons.entry(reason).or_default() += number;
        }
        counted(tally.whole.sum(AppTotals::all_rejected), &reasons)
    });
    row("failed or unsent".into(), &|tally| tally.whole.sum(|app| app.failed + app.unsent).to_string());
    row("accuracy on labels".into(), &|tally| known(tally.whole.accuracy().map(percent)));
    row("energy of the board".into(), &|tally| {
        known(tally.whole.board.energy_j().map(|energy| format!("{energy:.1} J")))
    });
    row("  per answer".into(), &|tally| {
        known(tally.whole.joules_per_answer().map(|energy| format!("{:.1} mJ", energy * 1e3)))
    });
    row("  per answer in time".into(), &|tally| {
        known(tally.whole.joules_per_timely_answer().map(|energy| format!("{:.1} mJ", energy * 1e3)))
    });
    row("  source".into(), &|tally| tally.label.energy_words().to_owned());
    row("energy attributed to answers".into(), &|tally| {
        format!("{:.1} J", joules(tally.whole.sum(|app| app.energy_uj)))
    });
    row("mean power".into(), &|tally| known(tally.whole.board.mean_w().map(|w| format!("{w:.2} W"))));
    row("highest temperature".into(), &|tally| {
        known(tally.whole.board.hottest.as_ref().map(|(zone, c)| format!("{c:.1} °C ({zone})")))
    });
    row("above the trip point".into(), &|tally| format!("{:.1} s", tally.whole.board.above_trip_s));
    row("held back by heat".into(), &|tally| format!("{:.1} s", tally.whole.board.throttled_s));
    for (position, app) in tallies.first().into_iter().flat_map(|tally| tally.whole.apps.iter().enumerate()) {
        let of = |tally: &Tally| tally.whole.apps.get(position).cloned();
        row(format!("{}: latency p50 / p99", app.name), &|tally| {
            known(of(tally).and_then(|app| {
                Some(format!("{:.1} / {:.1} ms", app.latency_ms(0.5)?, app.latency_ms(0.99)?))
            }))
        });
        row(format!("{}: accuracy", app.name), &|tally| {
            known(of(tally).and_then(|app| super::tally::share(app.correct, app.scored)).map(percent))
        });
        row(format!("{}: variants", app.name), &|tally| known(of(tally).map(|app| mix(&app.variants))));
        row(format!("{}: units", app.name), &|tally| known(of(tally).map(|app| mix(&app.units))));
    }
    table
}

/// One row per application and phase.
#[must_use]
pub fn phases(tally: &Tally) -> Table {
    let mut table = table(&[
        "seconds", "app", "requests", "answered", "late", "refused", "failed", "p50 ms", "p95 ms", "p99 ms",
        "accuracy", "mean W",
    ]);
    let whole = (0.0, tally.phases.last().map_or(0.0, |phase| phase.to_s), &tally.whole);
    let several = tally.phases.len() > 1;
    let parts =
        tally.phases.iter().filter(|_| several).map(|phase| (phase.from_s, phase.to_s, &phase.totals));
    for (from_s, to_s, totals) in parts.chain(std::iter::once(whole)) {
        for app in totals.apps.iter().filter(|app| app.requests > 0) {
            let ms = |quantile| right(app.latency_ms(quantile).map_or("-".into(), |ms| format!("{ms:.2}")));
            table.add_row(vec![
                Cell::new(format!("{from_s:.0}-{to_s:.0}")),
                Cell::new(&app.name),
                right(app.requests),
                right(app.served),
                right(app.missed),
                right(app.all_rejected()),
                right(app.failed + app.unsent),
                ms(0.50),
                ms(0.95),
                ms(0.99),
                right(super::tally::share(app.correct, app.scored).map_or("-".into(), percent)),
                right(totals.board.mean_w().map_or("-".into(), |w| format!("{w:.2}"))),
            ]);
        }
    }
    table
}

/// What went wrong, one line per application with failures.
#[must_use]
pub fn failures(tally: &Tally) -> Vec<String> {
    tally
        .whole
        .apps
        .iter()
        .filter_map(|app| {
            let first = app.first_failure.as_ref()?;
            Some(format!("{}: {} failed; the first: {first}", app.name, app.failed))
        })
        .collect()
}

fn counted(total: u64, reasons: &BTreeMap<&str, u64>) -> String {
    if reasons.is_empty() {
        return total.to_string();
    }
    let parts: Vec<String> = reasons.iter().map(|(reason, number)| format!("{reason} {number}")).collect();
    format!("{total} ({})", parts.join(", "))
}

/// Shares by name, the largest first, one a line.
fn mix(counts: &BTreeMap<String, u64>) -> String {
    let total: u64 = counts.values().sum();
    let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
    sorted.sort_by(|left, right| right.1.cmp(left.1).then(left.0.cmp(right.0)));
    let parts: Vec<String> = sorted
        .iter()
        .filter_map(|(name, number)| {
            Some(format!("{name} {}", percent(super::tally::share(**number, total)?)))
        })
        .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_names_the_largest_first() {
        let counts = [("a".to_owned(), 1), ("b".to_owned(), 3)].into();
        assert_eq!(mix(&counts), "b 75.0 %\na 25.0 %");
        assert_eq!(mix(&BTreeMap::new()), "none");
    }

    #[test]
    fn refusals_name_their_reasons() {
        assert_eq!(counted(3, &[("too_hot", 2), ("queue_full", 1)].into()), "3 (queue_full 1, too_hot 2)");
        assert_eq!(counted(0, &BTreeMap::new()), "0");
    }
}
