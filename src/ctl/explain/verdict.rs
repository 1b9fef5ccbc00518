//! The explanation in sentences: what an operator wants to know first.

use super::document::{Admission, Decision, Ended, Explained, Out, Ran, Row};
use super::figures::{clock, clocks, micros, millijoules, share};
use crate::core::plan::{Constraint, Grade, Ruling};

/// A run that takes so much longer than expected is worth a word.
const SLOW: f64 = 1.05;
/// So long between the order to run and the start of the run is worth a word.
const LONG_GAP_US: i64 = 2_000;

pub(super) fn sentences(explained: &Explained) -> Vec<String> {
    match &explained.outcome {
        None => vec![unanswered(explained)],
        Some(Ended::Rejected { at_us, reason, retry_after_us }) => {
            let mut all = vec![refused(*at_us, reason, *retry_after_us)];
            all.extend(refusal(explained, reason));
            all.extend(waited(explained).filter(|_| *at_us > 0));
            all
        }
        Some(Ended::Served { .. }) => served(explained),
    }
}

fn unanswered(explained: &Explained) -> String {
    let state = if explained.runs.is_empty() { "it waited" } else { "it ran" };
    let end = if explained.torn { "the journal was cut off" } else { "the journal ends" };
    format!("Not answered yet: {state} when {end}.")
}

fn refused(at_us: i64, reason: &str, retry_after_us: Option<u64>) -> String {
    let when = moment(at_us);
    let retry = retry_after_us.map_or_else(String::new, |us| {
        format!("; it was told to try again in {}", micros(i64::try_from(us).unwrap_or(i64::MAX)))
    });
    format!("Turned away {when}: {reason}{retry}.")
}

/// Why it was turned away, with the figures.
fn refusal(explained: &Explained, reason: &str) -> Vec<String> {
    let asked = &explained.request;
    let sentence = match (reason, &explained.admission) {
        ("deadline_unreachable", Some(admission)) => return unreachable(explained, admission),
        ("queue_full", Some(admission)) => {
            format!(
                "The queue was full: {} requests waited, as many as budget.queue_limit.",
                admission.queued
            )
        }
        ("app_limit", Some(admission)) => {
            format!("Its app had {} requests in the queue or running, budget.app_limit.", admission.in_flight)
        }
        ("accuracy_unreachable", _) => {
            format!("It wanted an accuracy of {}, which no variant has.", share(asked.min_accuracy))
        }
        ("energy_unreachable", _) => format!(
            "It allowed {}; the cheapest that would do costs {}.",
            asked.max_energy_uj.map_or_else(String::new, energy),
            cheapest(explained).map_or_else(|| "more".to_owned(), energy),
        ),
        ("no_candidate", _) => match &asked.variant {
            Some(variant) => format!("Variant {variant} may run on no unit of this board."),
            None => "No variant of the model may run on any unit of this board.".to_owned(),
        },
        ("too_hot", Some(admission)) => {
            let hottest = admission.hottest_c.map_or_else(String::new, |c| format!(" at {c:.1} °C"));
            format!("The board was too hot{hottest}.")
        }
        ("draining", _) => "The daemon was stopping.".to_owned(),
        ("cancelled", _) => "Its client left.".to_owned(),
        ("not_resident", _) => "No variant that would do was in memory, and none could be loaded.".to_owned(),
        ("deadline_passed", _) => return passed(explained),
        ("execution_failed", _) => {
            "Its run failed; the daemon's log has the execution provider's words.".to_owned()
        }
        _ => return best_of(explained.decisions.last()).into_iter().collect(),
    };
    vec![sentence]
}

/// Energy of the cheapest, as admission or the planner saw it.
fn cheapest(explained: &Explained) -> Option<u64> {
    let priced = explained.decisions.last().map(|decision| &decision.offer.candidates);
    let priced = priced.and_then(|rows| rows.iter().map(|row| row.energy_uj).min());
    priced.or(explained.admission.as_ref()?.cheapest_uj)
}

fn unreachable(explained: &Explained, admission: &Admission) -> Vec<String> {
    let deadline = us(explained.request.deadline_us);
    let soonest = admission.fastest.iter().min_by_key(|fastest| fastest.free_in_us + fastest.latency_us);
    let mut all = vec![match soonest {
        Some(soonest) => format!(
            "Its deadline was {deadline} after it came; the fastest configuration, on {} at its highest clock, takes {}{}.",
            soonest.unit,
            us(soonest.latency_us),
            if soonest.free_in_us == 0 {
                String::new()
            } else {
                format!(" and can begin in {}", us(soonest.free_in_us))
            },
        ),
        None => {
            format!("Its deadline was {deadline} after it came, and nothing that would do was in memory.")
        }
    }];
    if admission.offer.candidates.iter().any(|row| row.guess) {
        all.push("The guesses below are cautious; admission takes them for less.".to_owned());
    }
    if let (Some(late), Some(whose)) = (admission.late_us, admission.late_request) {
        let whose = if whose == explained.request.id {
            "it".to_owned()
        } else {
            format!("request {whose}, which has a hard deadline and would have come after it,")
        };
        let queue = match admission.queued {
            0 => "With an empty queue".to_owned(),
            1 => "With one request in the queue".to_owned(),
            queued => format!("With {queued} requests in the queue"),
        };
        all.push(format!("{queue}, {whose} would have been late by {}.", us(late)));
    }
    all
}

fn passed(explained: &Explained) -> Vec<String> {
    let deadline = us(explained.request.deadline_us);
    let mut all = match explained.runs.last() {
        None => vec![format!("Its hard deadline of {deadline} passed before it could run.")],
        Some(run) => vec![format!(
            "Its hard deadline of {deadline} passed while {} ran on {}, from {} after it came on; {} were expected.",
            run.variant,
            run.unit,
            micros(run.from_us.unwrap_or(run.at_us)),
            us(run.expected_us)
        )],
    };
    all.extend(all_late(explained));
    all
}

fn best_of(decision: Option<&Decision>) -> Option<String> {
    let best = decision?.offer.candidates.first()?;
    Some(format!("The best that there was, {}: {}.", configuration(best), best.why))
}

fn served(explained: &Explained) -> Vec<String> {
    let Some(Ended::Served { at_us, variant, unit, clock_khz, missed, rescued, energy_uj, accuracy, .. }) =
        &explained.outcome
    else {
        return Vec::new();
    };
    let deadline = i64::try_from(explained.request.deadline_us).unwrap_or(i64::MAX);
    let slack = (deadline - at_us).abs();
    let against = if *missed { "too late: " } else { "" };
    let side = if *missed { "after" } else { "before" };
    let on = match clock(*clock_khz) {
        known if known.is_empty() => unit.clone(),
        known => format!("{unit} at {known}"),
    };
    let mut all = vec![format!(
        "Served {against}{} after it came, {} {side} its deadline, by {variant} on {on} ({} of accuracy, {}).",
        micros(*at_us),
        micros(slack),
        share(*accuracy),
        energy(*energy_uj)
    )];
    all.extend(waited(explained));
    all.extend(explained.runs.first().and_then(not_at_once));
    if *rescued {
        all.extend(rescue(explained));
    } else {
        all.extend(explained.runs.split_last().and_then(|(_, before)| gave_way(before)));
        all.extend(explained.runs.last().and_then(|run| slow_run(run, *missed)));
    }
    if *missed {
        all.extend(all_late(explained));
    }
    all.extend(explained.decisions.last().and_then(binding));
    all
}

fn waited(explained: &Explained) -> Option<String> {
    let total: u64 = explained.waits.iter().map(|wait| wait.span_us).sum();
    let parts: Vec<String> = explained
        .waits
        .iter()
        .filter(|wait| wait.span_us > 0)
        .map(|wait| format!("{} {}", us(wait.span_us), waiting_for(wait.for_what)))
        .collect();
    (total > 0).then(|| match parts.as_slice() {
        [only] => format!("It waited {only}."),
        parts => format!("It waited {}: {}.", us(total), parts.join(", ")),
    })
}

/// What a wait was for, in words.
pub(super) fn waiting_for(what: &str) -> &'static str {
    match what {
        "all_busy" => "since every unit was busy",
        "unit" => "for a busy unit that was better than the free ones",
        "class" => "for the power budget of its class",
        "device" => "for the power, energy or heat budget of the board",
        "load" => "for a variant to be loaded",
        _ => "behind more urgent requests that were held",
    }
}

fn rescue(explained: &Explained) -> Option<String> {
    let [.., first, last] = explained.runs.as_slice() else { return None };
    let stopped = first.stopped_us.map_or("was still running", |_| "was stopped");
    let after = last.at_us - first.from_us.unwrap_or(first.at_us);
    Some(format!(
        "Rescued: {} {stopped} after {} where {} were expected, and {} answered in its place.",
        first.variant,
        micros(after),
        us(first.expected_us),
        last.variant
    ))
}

/// A run that was stopped and begun anew.
fn gave_way(before: &[Ran]) -> Option<String> {
    let stopped = before.iter().find(|run| run.stopped_us.is_some())?;
    let after = stopped.stopped_us? - stopped.from_us.unwrap_or(stopped.at_us);
    Some(format!(
        "Its run on {} gave way after {} to a request that would have been late behind it, and began anew.",
        stopped.unit,
        micros(after.max(0))
    ))
}

/// A run that did not begin when it was ordered.
fn not_at_once(run: &Ran) -> Option<String> {
    let gap = run.from_us? - run.at_us;
    let why = if run.probed { ", since the profiler was measuring there" } else { "" };
    (gap >= LONG_GAP_US)
        .then(|| format!("Its run on {} began {} after it was ordered{why}.", run.unit, micros(gap)))
}

/// A run that took long.
fn slow_run(run: &Ran, missed: bool) -> Option<String> {
    let took = run.to_us? - run.from_us?;
    let expected = i64::try_from(run.expected_us).unwrap_or(i64::MAX);
    let slow = took as f64 > expected as f64 * SLOW;
    (missed || slow).then(|| {
        let words = if slow { "longer than" } else { "about as long as" };
        format!("The run took {}, {words} the {} that were expected.", micros(took), micros(expected))
    })
}

/// Whether it was too late already when it was decided about.
fn all_late(explained: &Explained) -> Option<String> {
    let decision = explained.decisions.first()?;
    let chosen = decision.offer.candidates.iter().find(|row| row.ruling == Ruling::Chosen)?;
    match chosen.grade {
        Grade::Tight => Some(format!(
            "When it was decided, {}, nothing was sure enough to be in time: the best had odds of {} to be late.",
            moment(decision.at_us),
            share(chosen.miss)
        )),
        Grade::Late | Grade::Unfit => Some(format!(
            "When it was decided, {}, nothing could be in time any more.",
            moment(decision.at_us)
        )),
        Grade::OnTarget | Grade::OnTime | Grade::Crowding | Grade::Ousting => None,
    }
}

/// What kept the choice from something cheaper or better.
fn binding(decision: &Decision) -> Option<String> {
    let rows = &decision.offer.candidates;
    // Where nothing is in time, something else counts than what it costs.
    let chosen = rows.iter().find(|row| row.ruling == Ruling::Chosen && row.grade < Grade::Crowding)?;
    let cheaper = |ruling: Ruling| {
        let others = rows.iter().filter(|row| row.ruling == ruling && per_item(row) < per_item(chosen));
        others.min_by(|a, b| per_item(a).total_cmp(&per_item(b)))
    };
    let named = |row: Option<&Row>| {
        row.map_or_else(String::new, |row| {
            format!(": {} would cost {}, but: {}", configuration(row), energy(row.energy_uj), row.why)
        })
    };
    Some(match decision.binding? {
        Constraint::None => "Binding: nothing; it is the cheapest of all that would do.".to_owned(),
        Constraint::Deadline => format!("Binding: the deadline{}.", named(cheaper(Ruling::Slow))),
        Constraint::Accuracy => {
            format!("Binding: the accuracy target{}.", named(cheaper(Ruling::Inaccurate)))
        }
        Constraint::Budget => {
            let unpaid = rows.iter().filter(|row| row.ruling == Ruling::Unpaid);
            let better = unpaid.max_by(|a, b| a.accuracy.total_cmp(&b.accuracy));
            format!("Binding: an energy, power or heat budget{}.", named(better))
        }
        Constraint::Knowledge => {
            "Chosen for what its clock tells: what would be on target was too slow when last \
                                  seen, and may not be any more."
                .to_owned()
        }
    })
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn per_item(row: &Row) -> f64 {
    row.energy_uj as f64 / f64::from(row.items.max(1))
}

/// Variants that were not priced, by reason, in words.
pub(super) fn left_aside(excluded: &[Out]) -> Vec<String> {
    let reasons = [
        ("not_loaded", "not in memory"),
        ("below_floor", "less accurate than the request accepts"),
        ("not_allowed", "may not run there"),
        ("not_named", "not the variant that was asked for"),
    ];
    let mut lines = Vec::new();
    for (why, words) in reasons {
        let mut variants: Vec<(&str, Vec<&str>)> = Vec::new();
        for out in excluded.iter().filter(|out| out.why == why) {
            match variants.iter_mut().find(|(variant, _)| *variant == out.variant) {
                Some((_, units)) => units.push(&out.unit),
                None => variants.push((&out.variant, vec![&out.unit])),
            }
        }
        let named: Vec<String> = variants
            .iter()
            .map(|(variant, units)| match why {
                "below_floor" | "not_named" => (*variant).to_owned(),
                _ => format!("{variant} on {}", units.join("/")),
            })
            .collect();
        if !named.is_empty() {
            lines.push(format!("{words}: {}", named.join(", ")));
        }
    }
    lines
}

/// A candidate in short.
pub(super) fn configuration(row: &Row) -> String {
    let clock = clocks(row.clock_khz, row.memory_khz);
    let at = if clock.is_empty() { String::new() } else { format!(" at {clock}") };
    format!("{} on {}{at}", row.variant, row.unit)
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn energy(uj: u64) -> String {
    millijoules(uj as f64)
}

/// A moment from the arrival on.
pub(super) fn moment(us: i64) -> String {
    if us == 0 { "at once".to_owned() } else { format!("{} after it came", micros(us)) }
}

pub(super) fn us(us: u64) -> String {
    micros(i64::try_from(us).unwrap_or(i64::MAX))
}
