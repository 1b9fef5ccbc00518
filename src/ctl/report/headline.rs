//! The words and figures above and below the picture.

use crate::ctl::report::Compared;
use crate::ctl::report::tally::{RunLabel, share};

/// Name of the figure that needs labels.
const RIGHT_ANSWERS: &str = "Right answers";

/// A figure of each run under one name.
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) values: Vec<String>,
}

/// The scenario's title.
pub(super) fn title(first: &Compared) -> String {
    first.run.header.scenario.clone()
}

/// What is compared with what, on which board.
pub(super) fn subtitle(compared: &[Compared]) -> String {
    let board = compared.first().map(|one| &one.tally.label);
    let board = board.map_or_else(String::new, |label| {
        let kind = if label.simulated { "simulated " } else { "" };
        format!("{kind}{}", label.board)
    });
    let policies: Vec<&str> = compared.iter().map(|one| words(&one.tally.label)).collect();
    format!("{} on a {board}", policies.join(" against "))
}

fn words(label: &RunLabel) -> &str {
    if let Some(name) = &label.name {
        return name;
    }
    match label.objective {
        crate::core::energy::Objective::LeastEnergy => "wattd (least energy that keeps the promises)",
        crate::core::energy::Objective::Performance => "performance (largest variant, highest clock)",
    }
}

/// Whether some answers were compared with labels.
fn labelled(compared: &[Compared]) -> bool {
    compared.iter().any(|one| one.tally.whole.accuracy().is_some())
}

/// The figures that matter most.
pub(super) fn figures(compared: &[Compared]) -> Vec<Figure> {
    let each = |name, value: &dyn Fn(&Compared) -> String| Figure {
        name,
        values: compared.iter().map(value).collect(),
    };
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
    let mut figures = vec![
        each("Energy of the board", &|one| {
            or_none(one.tally.whole.board.energy_j().map(|joules| format!("{joules:.0} J")))
        }),
        each("per answer in time", &|one| {
            or_none(one.tally.whole.joules_per_timely_answer().map(|j| format!("{:.0} mJ", j * 1e3)))
        }),
        each("Late or refused", &|one| or_none(shortfall(one).map(percent))),
        each(RIGHT_ANSWERS, &|one| or_none(one.tally.whole.accuracy().map(percent))),
        each("Hottest", &|one| {
            or_none(one.tally.whole.board.hottest.as_ref().map(|(_, c)| format!("{c:.1} °C")))
        }),
        each("Above the trip", &|one| format!("{:.1} s", one.tally.whole.board.above_trip_s)),
    ];
    // A simulated run answers with no output that could be right.
    figures.retain(|figure| figure.name != RIGHT_ANSWERS || !simulated(compared) || labelled(compared));
    figures
}

fn simulated(compared: &[Compared]) -> bool {
    compared.iter().all(|one| one.tally.label.name.is_some())
}

/// Share of requests without an answer in time.
fn shortfall(one: &Compared) -> Option<f64> {
    let whole = &one.tally.whole;
    let requests = whole.sum(|app| app.requests);
    share(requests - whole.sum(|app| app.served - app.missed), requests)
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Where the figures come from.
pub(super) fn footnote(compared: &[Compared]) -> String {
    let Some(first) = compared.first() else { return String::new() };
    if simulated(compared) {
        return format!(
            "Energy of the whole simulated board, idle time included. Same requests and noise (seed {}). wattd {}",
            first.run.header.seed,
            env!("CARGO_PKG_VERSION"),
        );
    }
    format!(
        "Energy of the whole board, idle time included: {}. Answers are compared with the labels of the \
         models' samples. Same arrivals and inputs (seed {}). wattd {}",
        first.tally.label.energy_words(),
        first.run.header.seed,
        env!("CARGO_PKG_VERSION"),
    )
}
