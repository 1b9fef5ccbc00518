//! The explanation for people.

use super::document::{Decision, Ended, Explained, Offer, Ran, Row};
use super::figures::{clock, clocks, micros, seconds, share};
use super::verdict::{energy, left_aside, moment, us, waiting_for};
use crate::core::catalog::Provenance;
use crate::ctl::report::table::{right, table};
use comfy_table::{Cell, Table};
use std::fmt::Write as _;

/// Runs of others that are shown.
const MEANWHILE: usize = 8;

/// What `wattctl explain` prints.
#[must_use]
pub fn text(explained: &Explained) -> String {
    let mut text = String::new();
    heading(&mut text, explained);
    text.push('\n');
    for sentence in &explained.verdict {
        let _ = writeln!(text, "{sentence}");
    }
    if let Some(admission) = &explained.admission {
        text.push_str("\nWhat there would have been, had it been its turn:\n");
        offer(&mut text, &admission.offer);
    }
    for hold in &explained.holds {
        held(&mut text, hold, explained.request.id);
    }
    for decision in &explained.decisions {
        decided(&mut text, decision);
    }
    happened(&mut text, explained);
    notes(&mut text, explained);
    text
}

fn heading(text: &mut String, explained: &Explained) {
    let asked = &explained.request;
    let kind = if asked.hard { "hard" } else { "soft" };
    let target = if asked.accuracy_target > asked.min_accuracy {
        format!(" and {} while the budgets allow", share(asked.accuracy_target))
    } else {
        String::new()
    };
    let _ = writeln!(
        text,
        "Request {}: model {}, class {}, {} item{}, {}",
        asked.id,
        asked.model,
        asked.class,
        asked.items,
        if asked.items == 1 { "" } else { "s" },
        asked.uid.map_or_else(|| "over TCP".to_owned(), |uid| format!("uid {uid}")),
    );
    let came = jiff::Timestamp::from_second(i64::try_from(asked.came_unix_s).unwrap_or(0))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_zoned_datetime(jiff::tz::TimeZone::system());
    let _ = writeln!(
        text,
        "Came {} ({} after the daemon's start)",
        came.strftime("%F %T %:z"),
        seconds(asked.came_us)
    );
    let mut wishes = vec![
        format!("{kind} deadline {}", us(asked.deadline_us)),
        format!("accuracy at least {}{target}", share(asked.min_accuracy)),
    ];
    wishes.extend(asked.max_energy_uj.map(|limit| format!("at most {}", energy(limit))));
    wishes.extend(asked.variant.as_ref().map(|variant| format!("only {variant}")));
    let _ = writeln!(text, "Wanted: {}", wishes.join(", "));
}

fn held(text: &mut String, hold: &Decision, id: u64) {
    let what = hold.awaits.map_or("", waiting_for);
    let with = if hold.about == id {
        String::new()
    } else {
        format!(" with request {}, which is alike and due before it", hold.about)
    };
    let (times, last) = (times(hold.times), moment(hold.at_us));
    let _ = writeln!(text, "\nHeld {times} {what}, last {last}{with}. Then there was:");
    offer(text, &hold.offer);
}

fn decided(text: &mut String, decision: &Decision) {
    let batch = match decision.batch.as_slice() {
        [] | [_] => "alone".to_owned(),
        [head, rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
            format!("in one run with others: request {head} first, then {}", rest.join(", "))
        }
    };
    let what = match (decision.decided, decision.reason) {
        ("reject", Some(reason)) => format!("to turn it away ({reason})"),
        _ => format!("to run it {batch}"),
    };
    let _ = writeln!(text, "\nDecided {} {what}. There was:", moment(decision.at_us));
    offer(text, &decision.offer);
}

fn times(times: u64) -> String {
    if times == 1 { "once".to_owned() } else { format!("{times} times") }
}

fn offer(text: &mut String, offer: &Offer) {
    if offer.candidates.is_empty() {
        text.push_str("nothing that could be priced\n");
    } else {
        let _ = writeln!(text, "{}", candidates(offer));
    }
    if offer.left_out > 0 {
        let _ = writeln!(text, "and {} more candidates: --all shows them", offer.left_out);
    }
    if offer.candidates.iter().any(|row| row.guess) {
        text.push_str(
            "guess: no profile was measured there and it never ran; `wattctl profile` measures it\n",
        );
    }
    let busy: Vec<String> = offer
        .units
        .iter()
        .filter(|unit| unit.free_in_us > 0)
        .map(|unit| {
            let what = match unit.busy {
                Some("profiler") => " (the profiler measures)",
                _ => "",
            };
            format!("{} in {}{what}", unit.unit, us(unit.free_in_us))
        })
        .collect();
    if !busy.is_empty() {
        let _ = writeln!(text, "busy, free as expected: {}", busy.join(", "));
    }
    for line in left_aside(&offer.excluded) {
        let _ = writeln!(text, "{line}");
    }
}

fn candidates(offer: &Offer) -> Table {
    let starts = offer.candidates.iter().any(|row| row.start_us > 0);
    let batches = offer.candidates.iter().any(|row| row.requests > 1);
    let hedges = offer.candidates.iter().any(|row| row.boost.is_some() || row.rescue.is_some());
    let mut heads = vec!["variant", "unit", "clock"];
    heads.extend(batches.then_some("requests"));
    heads.extend(starts.then_some("starts in"));
    heads.extend(["latency", "energy", "accuracy", "odds late"]);
    heads.extend(hedges.then_some("if it takes long"));
    heads.push("ruling");
    let mut table = table(&heads);
    for row in &offer.candidates {
        let mut cells =
            vec![Cell::new(&row.variant), Cell::new(&row.unit), right(clocks(row.clock_khz, row.memory_khz))];
        cells.extend(batches.then(|| right(row.requests)));
        cells.extend(starts.then(|| right(us(row.start_us))));
        cells.extend([
            right(format!("{}{}", us(row.latency_us), if row.guess { " guess" } else { "" })),
            right(energy(row.energy_uj)),
            right(share(row.accuracy)),
            right(share(row.miss)),
        ]);
        cells.extend(hedges.then(|| Cell::new(hedge(row))));
        cells.push(Cell::new(&row.why));
        table.add_row(cells);
    }
    table
}

fn hedge(row: &Row) -> String {
    let boost =
        row.boost.as_ref().map(|boost| format!("{} from {} on", clock(boost.clock_khz), us(boost.after_us)));
    let rescue = row.rescue.as_ref().map(|rescue| {
        let place = if rescue.unit == row.unit { String::new() } else { format!(" on {}", rescue.unit) };
        format!("{}{place} from {} on ({})", rescue.variant, us(rescue.after_us), share(rescue.odds))
    });
    boost.into_iter().chain(rescue).collect::<Vec<_>>().join("; ")
}

fn happened(text: &mut String, explained: &Explained) {
    if explained.runs.is_empty() && explained.meanwhile.is_empty() {
        return;
    }
    text.push_str("\nWhat happened (times from its arrival):\n");
    let mut table = table(&["run", "unit", "clock", "requests", "from", "to", "took", "expected", "ended"]);
    let others = explained.meanwhile.iter().take(MEANWHILE);
    for run in others.chain(&explained.runs) {
        table.add_row(ran(run));
    }
    let _ = writeln!(text, "{table}");
    let hidden = explained.meanwhile.len().saturating_sub(MEANWHILE) + explained.meanwhile_left_out;
    if hidden > 0 {
        let _ = writeln!(text, "and {hidden} more runs of others while it waited");
    }
    if let Some(Ended::Served { queue_us, compute_us, energy_uj, energy_source, batch_items, .. }) =
        &explained.outcome
    {
        let source = match energy_source {
            Provenance::Measured => "measured",
            Provenance::Modelled => "modelled, not measured",
            Provenance::Conservative => "guessed",
        };
        let reserved: u64 = explained.runs.iter().map(|run| run.reserved_uj).sum();
        let whole = if *batch_items > explained.request.items {
            format!(
                ", its share of a run of {batch_items} items for which {} were expected",
                energy(reserved)
            )
        } else {
            format!("; {} were expected", energy(reserved))
        };
        let _ = writeln!(
            text,
            "queued {}, ran {}; energy {} ({source}){whole}",
            us(*queue_us),
            us(*compute_us),
            energy(*energy_uj)
        );
    }
}

/// The clock of a run, and what it was raised to.
fn clocks_of(run: &Ran) -> String {
    let began = clocks(run.clock_khz, run.memory_khz);
    match &run.raised {
        None => began,
        Some(raised) => {
            let at = run.at_us.saturating_add_unsigned(raised.after_us);
            format!("{began}, {} from {} on", clock(raised.clock_khz), micros(at))
        }
    }
}

fn ran(run: &Ran) -> Vec<Cell> {
    let took = run.from_us.zip(run.to_us).map(|(from, to)| micros(to - from));
    let ended = match (run.failure, run.stopped_us, run.to_us) {
        (None, _, None) => "still running".to_owned(),
        (None, ..) => "with an output".to_owned(),
        (Some(_), Some(at), _) => format!("stopped at {}", micros(at)),
        (Some(failure), ..) => format!("without output: {failure:?}"),
    };
    let requests: Vec<String> = run.requests.iter().map(ToString::to_string).collect();
    vec![
        Cell::new(format!("{}/{}", run.model, run.variant)),
        Cell::new(&run.unit),
        right(clocks_of(run)),
        Cell::new(requests.join(" ")),
        right(micros(run.from_us.unwrap_or(run.at_us))),
        right(run.to_us.map_or_else(|| "-".to_owned(), micros)),
        right(took.unwrap_or_else(|| "-".to_owned())),
        right(us(run.expected_us)),
        Cell::new(ended),
    ]
}

fn notes(text: &mut String, explained: &Explained) {
    if explained.torn && explained.outcome.is_some() {
        text.push_str("The journal ends within a line: it is being written, or was cut off.\n");
    }
}
