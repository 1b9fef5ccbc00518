//! The answer as text.

use super::Report;
use super::words::{clock, count, number, percent, plural};
use crate::ctl::report::table::table;
use crate::sim::whatif::{ClassTally, Finding, Knob, Limit, RowOf, Source, Suggestion};
use comfy_table::Table;
use std::fmt::Write as _;

/// Most reasons of failures that are told.
const MOST_REASONS: usize = 3;

/// What `wattctl whatif` prints.
#[must_use]
pub fn text(report: &Report<'_>) -> String {
    let mut text = String::new();
    heading(&mut text, report);
    verdict(&mut text, report);
    let _ = writeln!(text, "{}", budgets(report));
    if !report.answer.holds() && report.searched {
        let _ = write!(text, "\nWhich budget would hold, all else as it is:\n{}\n", changes(report));
        together(&mut text, report);
    }
    notes(&mut text, report);
    text
}

fn heading(text: &mut String, report: &Report<'_>) {
    let day = report.day;
    let plant = &day.scenario.machine.plant;
    let disturbed = day.scenario.disturbance.as_ref().map(|name| format!(", disturbed by {name}"));
    let _ = writeln!(
        text,
        "{} on {} at {} °C{}: a day of {} h from {}",
        report.file().display(),
        day.scenario.board,
        number(plant.ambient_c),
        disturbed.unwrap_or_default(),
        number(day.lasting.as_secs_f64() / 3600.0),
        report.start.strftime("%H:%M"),
    );
    let (what, file) = match &day.demand.source {
        Source::Journal(file) => ("recorded in", file),
        Source::Workload(file) => ("described in", file),
    };
    let (once, times) = (clock(day.demand.once), day.demand.times);
    let fill = if times > 1.0 {
        format!("{once} of it played {} times to fill the day", number(times))
    } else if times < 1.0 {
        format!("the first {} % of its {once}", number(times * 100.0))
    } else {
        format!("{once} of it")
    };
    let requests: u64 = report.answer.outcomes.iter().flat_map(|run| &run.classes).map(|c| c.requests).sum();
    let runs = report.answer.outcomes.len() as u64;
    let _ = writeln!(
        text,
        "demand {what} {}: {fill}, {} a run",
        file.display(),
        plural(requests / runs.max(1), "request")
    );
    let _ = writeln!(
        text,
        "modelled, not measured: {} in virtual time on the simulated board, in {}",
        plural(report.answer.runs, "run"),
        plural(runs, "seed")
    );
}

fn verdict(text: &mut String, report: &Report<'_>) {
    let answer = report.answer;
    let Some(first) = answer.first_broken() else {
        let _ = writeln!(text, "\nIt HOLDS.");
        return;
    };
    let broken = answer.rows.iter().filter(|row| !row.worst.holds).count() as u64;
    let at = first.broken_at.map_or_else(String::new, |at| format!(" at {}", clock(at)));
    let _ = writeln!(
        text,
        "\nIt does NOT hold: {} of {} break; the first is {}{at}.",
        count(broken),
        plural(answer.rows.len() as u64, "budget"),
        report.key(first.limit),
    );
}

fn budgets(report: &Report<'_>) -> Table {
    let mut table = table(&["budget", "asked", "got, in the worst run", "worst hour", "holds"]);
    for row in &report.answer.rows {
        table.add_row([
            report.key(row.worst.limit),
            asked(report, row.worst.limit),
            got(report, row),
            worst_hour(&row.worst),
            holds(report, row),
        ]);
    }
    table
}

fn holds(report: &Report<'_>, row: &RowOf) -> String {
    let runs = report.answer.outcomes.len();
    if row.worst.holds {
        return "yes".to_owned();
    }
    let since = if matches!(row.worst.limit, Limit::Target(_)) { "below from" } else { "broken at" };
    let at = row.worst.broken_at.map_or_else(String::new, |at| format!(", {since} {}", clock(at)));
    if row.held > 0 { format!("in {} of {runs} runs{at}", row.held) } else { format!("NO{at}") }
}

/// What a limit asks for.
fn asked(report: &Report<'_>, limit: Limit) -> String {
    let budgets = &report.day.scenario.budgets;
    let allowance = percent(report.day.allowance);
    let window = number(budgets.power_window.as_secs_f64());
    let value = |limit: Limit| {
        let knob = Knob::of_limit(limit)?;
        Some(number(knob.value(report.day)))
    };
    let set = value(limit).unwrap_or_default();
    match limit {
        Limit::Latency(_) => format!("{set} ms, but for {allowance}"),
        Limit::Floor(_) => format!("{set}, but for {allowance}"),
        Limit::Target(_) => format!("{set} on average"),
        Limit::RequestEnergy(_) => format!("{set} mJ, but for {allowance}"),
        Limit::ClassPower(_) | Limit::Power => format!("{set} W in any {window} s"),
        Limit::Energy => {
            let unit = if report.in_watt_hours() { "Wh" } else { "J" };
            let span = budgets.energy.map_or(0.0, |energy| energy.lasting.as_secs_f64());
            format!("{set} {unit} for {} h", number(span / 3600.0))
        }
        Limit::Battery => {
            let span = budgets.battery.map_or(0.0, |battery| battery.lasting.as_secs_f64());
            format!("{set} % left after {} h", number(span / 3600.0))
        }
        Limit::Temperature => {
            let zones = report.day.scenario.machine.plant.zones.iter();
            let trip = zones.map(|zone| zone.passive.as_celsius()).fold(f64::MAX, f64::min);
            let limit = budgets.max_temperature.map_or(trip, crate::units::MilliCelsius::as_celsius);
            if limit < f64::MAX { format!("below {} °C", number(limit)) } else { "no zones".to_owned() }
        }
    }
}

/// What the worst run got.
fn got(report: &Report<'_>, row: &RowOf) -> String {
    let finding = &row.worst;
    let Some(run) = report.answer.outcomes.get(row.run) else { return String::new() };
    let tally = |class: usize| run.classes.get(class).cloned().unwrap_or_default();
    let projected = if finding.projected { ", projected" } else { "" };
    match finding.limit {
        Limit::Latency(class) => lateness(&tally(class), finding.got, report.day.allowance),
        Limit::Floor(_) => format!("{} refused for it", percent(finding.got)),
        Limit::Target(_) => format!("{:.4}", finding.got),
        Limit::RequestEnergy(class) => {
            let mean = tally(class).energy_mj.map(|mj| format!("\n{} mJ on average", number(mj)));
            format!("{} above it or refused for it{}", percent(finding.got), mean.unwrap_or_default())
        }
        Limit::ClassPower(_) | Limit::Power => format!("at most {} W", number(finding.got)),
        Limit::Energy if report.in_watt_hours() => format!("{} Wh{projected}", number(finding.got / 3600.0)),
        Limit::Energy => format!("{} J{projected}", number(finding.got)),
        Limit::Battery => format!("{} % left{projected}", number(finding.got * 100.0)),
        Limit::Temperature => {
            let hottest = run.hottest_c.map(|celsius| format!("hottest {celsius:.1} °C")).unwrap_or_default();
            if finding.got > 0.0 { format!("{hottest}, {} s there", number(finding.got)) } else { hottest }
        }
    }
}

/// Late and refused requests of a class by reason, and how long its answers took.
fn lateness(tally: &ClassTally, failed: f64, allowance: f64) -> String {
    let mut text = format!("{} late or refused", percent(failed));
    let refused = tally.refused.iter().map(|(reason, number)| (*number, reason.name().replace('_', " ")));
    let late = (tally.late, "late".to_owned());
    let mut reasons: Vec<(u64, String)> = refused.chain([late]).filter(|(number, _)| *number > 0).collect();
    reasons.sort_by(|a, b| b.cmp(a));
    if !reasons.is_empty() {
        let reasons =
            reasons.iter().take(MOST_REASONS).map(|(number, reason)| format!("{} {reason}", count(*number)));
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        let _ = write!(text, "\n{reasons} of {}", count(tally.requests));
    }
    if let Some(ms) = tally.latency_ms {
        let _ = write!(text, "\n{} of the answers within {} ms", percent(1.0 - allowance), number(ms));
    }
    text
}

fn worst_hour(finding: &Finding) -> String {
    let Some((hour, figure)) = finding.worst_hour else { return String::new() };
    let figure = match finding.limit {
        Limit::Latency(_) | Limit::Floor(_) | Limit::RequestEnergy(_) => percent(figure),
        Limit::Target(_) => format!("{figure:.4}"),
        Limit::ClassPower(_) | Limit::Power => format!("{} W", number(figure)),
        Limit::Energy => format!("{} Wh", number(figure / 3600.0)),
        Limit::Battery => percent(figure),
        Limit::Temperature => format!("{figure:.1} °C"),
    };
    format!("{hour:02}-{:02} h: {figure}", hour + 1)
}

fn changes(report: &Report<'_>) -> Table {
    let mut table = table(&["budget", "now", "would hold", "nearest that breaks", ""]);
    for suggestion in &report.answer.suggestions {
        let Suggestion { knob, from, to, breaks, all, .. } = *suggestion;
        let word = match (to, all) {
            (None, _) => format!("not even {}", number(breaks)),
            (Some(_), true) => "then everything holds".to_owned(),
            (Some(_), false) => "then this holds; what else broke does not".to_owned(),
        };
        let breaks = if to.is_some() { number(breaks) } else { String::new() };
        let to = to.map_or_else(|| "none".to_owned(), number);
        table.add_row([report.name(knob), number(from), to, breaks, word]);
    }
    table
}

fn together(text: &mut String, report: &Report<'_>) {
    let words = match report.answer.together {
        Some(true) => "All values that mend only their own budget, together: everything holds.",
        Some(false) => "All values that mend only their own budget, together: something still breaks.",
        None if report.answer.suggestions.iter().all(|suggestion| suggestion.to.is_none()) => {
            "No single value within these bounds makes the day hold."
        }
        None => return,
    };
    let _ = writeln!(text, "{words}");
}

fn notes(text: &mut String, report: &Report<'_>) {
    let runs = &report.answer.outcomes;
    let mean = |of: &dyn Fn(&crate::sim::whatif::Outcome) -> f64| {
        runs.iter().map(of).sum::<f64>() / f64::from(u32::try_from(runs.len()).unwrap_or(1).max(1))
    };
    let (wh, hours) = (mean(&|run| run.energy_j / 3600.0), mean(&|run| run.lasted.as_secs_f64() / 3600.0));
    let _ =
        write!(text, "\nThe board takes {} Wh, {} W on average. ", number(wh), number(wh / hours.max(1e-9)));
    let _ = writeln!(
        text,
        "Times count from the start of the day. A share breaks at the moment from\nwhich the day cannot keep its \
         allowance any more (--allowance), a mean from when it stays below."
    );
    for note in &report.day.notes {
        let _ = writeln!(text, "- {note}");
    }
}
