//! The explanation as a document: names instead of ids, times from the request's arrival.

use super::story::{Decided, Run, Story, Wait};
use super::{verdict, why};
use crate::core::catalog::{Catalog, Provenance, UnitId, VariantId};
use crate::core::event::{AppId, BatchFailure, Outcome, Rejection, RequestId, Served};
use crate::core::explain::{Arrival, Exclusion, Options};
use crate::core::plan::{Candidate, Choice, Considered, Constraint, Grade, Ruling};
use crate::core::queue::Waiting;
use crate::core::thermal::Regime;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos, Ppm};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What was decided about a request and why, and what came of it. Spans of time are microseconds; `at_us`, `from_us`
/// and `to_us` count from the request's arrival and are negative before it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// The journal.
    pub journal: PathBuf,
    /// Whether a check after the request's end agreed with the replay; if not, none came after it yet.
    pub checked: bool,
    /// Whether the journal's last line was cut off.
    pub torn: bool,
    /// The request.
    pub request: Asked,
    /// In sentences.
    pub verdict: Vec<String>,
    /// How it ended; none: not by the end of the journal.
    pub outcome: Option<Ended>,
    /// What admission saw, where the request was turned away at once.
    pub admission: Option<Admission>,
    /// What it waited for, and how long.
    pub waits: Vec<Waited>,
    /// Runs for others while it waited.
    pub meanwhile: Vec<Ran>,
    /// How many more of those there were.
    pub meanwhile_left_out: usize,
    /// Decisions to hold it: the last for each reason.
    pub holds: Vec<Decision>,
    /// Decisions to run it or to turn it away.
    pub decisions: Vec<Decision>,
    /// Its runs.
    pub runs: Vec<Ran>,
}

/// The request with the defaults of its class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asked {
    /// The daemon's id.
    pub id: u64,
    /// Seconds since the Unix epoch, give or take one.
    pub came_unix_s: u64,
    /// Time from the daemon's start.
    pub came_us: u64,
    /// User id of who asked; none over TCP.
    pub uid: Option<u32>,
    /// Class.
    pub class: String,
    /// Model.
    pub model: String,
    /// Items.
    pub items: u32,
    /// Deadline.
    pub deadline_us: u64,
    /// Whether an answer after it is worthless, as the client named it; else it is its class's objective.
    pub hard: bool,
    /// Least accuracy, a share.
    pub min_accuracy: f64,
    /// Accuracy to give while the budgets allow.
    pub accuracy_target: f64,
    /// Most energy.
    pub max_energy_uj: Option<u64>,
    /// The only variant that was asked for.
    pub variant: Option<String>,
    /// Lower is more urgent.
    pub priority: u32,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Ended {
    /// With an answer.
    Served {
        /// When the output was there.
        at_us: i64,
        /// The variant that answered.
        variant: String,
        /// Its unit.
        unit: String,
        /// The unit's clock at the end of the run.
        clock_khz: u32,
        /// Waiting before the first run.
        queue_us: u64,
        /// All time on units.
        compute_us: u64,
        /// Its share of the energy of its runs.
        energy_uj: u64,
        /// Where that figure is from.
        energy_source: Provenance,
        /// Accuracy of that variant.
        accuracy: f64,
        /// Items of the run.
        batch_items: u32,
        /// Whether it came after the deadline.
        missed: bool,
        /// Whether a smaller variant answered in place of the one chosen first.
        rescued: bool,
    },
    /// Without one.
    Rejected {
        /// When.
        at_us: i64,
        /// Machine-readable reason.
        reason: &'static str,
        /// When trying again may have helped.
        retry_after_us: Option<u64>,
    },
}

/// What admission saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Admission {
    /// Requests in the queue.
    pub queued: usize,
    /// Of this app, in the queue or running.
    pub in_flight: u32,
    /// Thermal regime.
    pub regime: Regime,
    /// Highest temperature.
    pub hottest_c: Option<f64>,
    /// By how much a hard deadline would have been missed if it had been let in.
    pub late_us: Option<u64>,
    /// Whose deadline that is.
    pub late_request: Option<u64>,
    /// Energy of the cheapest configuration, by the profiles.
    pub cheapest_uj: Option<u64>,
    /// What there was to choose from.
    #[serde(flatten)]
    pub offer: Offer,
}

/// Time spent waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waited {
    /// Machine-readable: `all_busy`, `unit`, `class`, `device`, `load`, `behind`.
    pub for_what: &'static str,
    /// How long in all.
    pub span_us: u64,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// When.
    pub at_us: i64,
    /// How often it was decided so; the rest is of the last time.
    pub times: u64,
    /// `run`, `hold`, `await_load` or `reject`.
    pub decided: &'static str,
    /// What it was held for.
    pub awaits: Option<&'static str>,
    /// When it was to be looked at again.
    pub until_us: Option<i64>,
    /// Why it was turned away.
    pub reason: Option<&'static str>,
    /// What kept the planner from something cheaper or better.
    pub binding: Option<Constraint>,
    /// Requests of the run, the most urgent first.
    pub batch: Vec<u64>,
    /// Configurations that the decision itself looked at; it does not look at what cannot be the best.
    pub considered: Option<u32>,
    /// What there was to choose from.
    #[serde(flatten)]
    pub offer: Offer,
}

/// What there was to choose from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Offer {
    /// When each unit was expected to be free, from the decision on.
    pub units: Vec<Free>,
    /// Candidates, the best first.
    pub candidates: Vec<Row>,
    /// How many more were priced.
    pub left_out: usize,
    /// What was not priced.
    pub excluded: Vec<Out>,
}

/// When a unit was expected to be free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Free {
    /// The unit.
    pub unit: String,
    /// From the decision on.
    pub free_in_us: u64,
}

/// A candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Variant.
    pub variant: String,
    /// Unit.
    pub unit: String,
    /// Clock; 0 where the unit has none.
    pub clock_khz: u32,
    /// Requests that share the run.
    pub requests: usize,
    /// Items of the run.
    pub items: u32,
    /// When it would start, from the decision on.
    pub start_us: u64,
    /// Expected latency of the run.
    pub latency_us: u64,
    /// Expected energy of the run above the idle board.
    pub energy_uj: u64,
    /// Expected accuracy, a share.
    pub accuracy: f64,
    /// Odds to miss the deadline, a share.
    pub miss: f64,
    /// The clock is raised if the run goes on for so long.
    pub boost: Option<RaisedAt>,
    /// Another variant answers if it goes on for so long.
    pub rescue: Option<RescuedAt>,
    /// How good it is.
    pub grade: Grade,
    /// What ruled it out.
    pub ruling: Ruling,
    /// The same for people, with figures.
    pub why: String,
}

/// A boost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RaisedAt {
    /// After the start of the run.
    pub after_us: u64,
    /// The clock asked for then.
    pub clock_khz: u32,
}

/// A rescue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RescuedAt {
    /// After the start of the run.
    pub after_us: u64,
    /// The variant that answers then.
    pub variant: String,
    /// Where.
    pub unit: String,
    /// At which clock.
    pub clock_khz: u32,
    /// Odds that it comes to that, a share.
    pub odds: f64,
}

/// A variant on a unit that was not priced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Out {
    /// Variant.
    pub variant: String,
    /// Unit.
    pub unit: String,
    /// Machine-readable: `not_allowed`, `not_named`, `below_floor`, `not_loaded`.
    pub why: &'static str,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ran {
    /// When it was sent to its unit.
    pub at_us: i64,
    /// Variant.
    pub variant: String,
    /// Model.
    pub model: String,
    /// Unit.
    pub unit: String,
    /// The clock that it began with.
    pub clock_khz: u32,
    /// Who shared it.
    pub requests: Vec<u64>,
    /// Items.
    pub items: u32,
    /// Expected latency.
    pub expected_us: u64,
    /// Energy that was reserved for it.
    pub reserved_uj: u64,
    /// When it began.
    pub from_us: Option<i64>,
    /// When it ended.
    pub to_us: Option<i64>,
    /// When it was told to stop.
    pub stopped_us: Option<i64>,
    /// Why it gave no output.
    pub failure: Option<BatchFailure>,
}

/// Turns ids into names and moments into spans.
pub(super) struct Names<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) came: Timestamp,
}

impl Names<'_> {
    pub(super) fn variant(&self, variant: VariantId) -> String {
        self.catalog.variants.get(variant.index()).map(|found| found.name.clone()).unwrap_or_default()
    }

    pub(super) fn unit(&self, unit: UnitId) -> String {
        self.catalog.board.units.get(unit.index()).map(|found| found.name.clone()).unwrap_or_default()
    }

    fn model_of(&self, variant: VariantId) -> String {
        let variant = self.catalog.variants.get(variant.index());
        let model = variant.and_then(|variant| self.catalog.models.get(variant.model.index()));
        model.map(|model| model.name.clone()).unwrap_or_default()
    }

    /// Microseconds from the arrival to a moment.
    pub(super) fn us(&self, at: Timestamp) -> i64 {
        let us = |span: Nanos| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        if at >= self.came { us(at.since(self.came)) } else { -us(self.came.since(at)) }
    }

    fn ran(&self, run: &Run) -> Ran {
        let Run { at, dispatch, aborted, completion } = run;
        Ran {
            at_us: self.us(*at),
            variant: self.variant(dispatch.variant),
            model: self.model_of(dispatch.variant),
            unit: self.unit(dispatch.unit),
            clock_khz: dispatch.clock.0,
            requests: ids(&dispatch.requests),
            items: dispatch.items,
            expected_us: dispatch.expected.as_micros(),
            reserved_uj: dispatch.reserved.0,
            from_us: completion.as_ref().map(|done| self.us(done.started)),
            to_us: completion.as_ref().map(|done| self.us(done.finished)),
            stopped_us: aborted.map(|at| self.us(at)),
            failure: completion.as_ref().and_then(|done| done.result.err()),
        }
    }

    fn row(&self, one: &Considered, at: Timestamp, why: String) -> Row {
        let Candidate { variant, unit, clock, items, latency, energy, miss, boost, rescue, .. } =
            one.candidate;
        Row {
            variant: self.variant(variant),
            unit: self.unit(unit),
            clock_khz: clock.0,
            requests: one.requests,
            items,
            start_us: one.start.since(at).as_micros(),
            latency_us: latency.as_micros(),
            energy_uj: energy.0,
            accuracy: one.accuracy,
            miss: miss.as_fraction(),
            boost: boost
                .map(|boost| RaisedAt { after_us: boost.after.as_micros(), clock_khz: boost.clock.0 }),
            rescue: rescue.map(|rescue| RescuedAt {
                after_us: rescue.after.as_micros(),
                variant: self.variant(rescue.variant),
                unit: self.unit(rescue.unit),
                clock_khz: rescue.clock.0,
                odds: rescue.odds.as_fraction(),
            }),
            grade: one.grade,
            ruling: one.ruling,
            why,
        }
    }

    fn offer(&self, options: &Options, at: Timestamp, waiting: &Waiting, all: bool) -> Offer {
        let shown = if all { (0..options.candidates.len()).collect() } else { select(&options.candidates) };
        let reasons = why::Reasons::new(options, at, waiting);
        let units = options.free_at.iter().enumerate();
        Offer {
            units: units
                .map(|(unit, free)| Free {
                    unit: self.unit(UnitId::at(unit)),
                    free_in_us: free.since(at).as_micros(),
                })
                .collect(),
            left_out: options.candidates.len() - shown.len(),
            candidates: shown
                .into_iter()
                .map(|place| &options.candidates[place])
                .map(|one| self.row(one, at, reasons.of(one)))
                .collect(),
            excluded: options
                .excluded
                .iter()
                .map(|out| Out {
                    variant: self.variant(out.variant),
                    unit: self.unit(out.unit),
                    why: exclusion(out.why),
                })
                .collect(),
        }
    }

    fn decision(&self, decided: &Decided, waiting: &Waiting, all: bool) -> Decision {
        let Decided { at, times, look } = decided;
        let (decided, awaits, until, reason) = match &look.choice {
            Choice::Run { .. } => ("run", None, None, None),
            Choice::Hold { until, .. } => ("hold", Wait::of(&look.choice), Some(*until), None),
            Choice::AwaitLoad => ("await_load", Some(Wait::Load), None, None),
            Choice::Reject(reason, _) => ("reject", None, None, Some(reason.name())),
        };
        let explanation = match &look.choice {
            Choice::Run { explanation, .. } => Some(explanation),
            _ => None,
        };
        let taken = match &look.choice {
            Choice::Run { requests, .. } => *requests,
            _ => 1,
        };
        let options = settled(&look.options, &look.choice);
        Decision {
            at_us: self.us(*at),
            times: *times,
            decided,
            awaits: awaits.map(wait_name),
            until_us: until.map(|until| self.us(until)),
            reason,
            binding: explanation.map(|explanation| explanation.binding),
            batch: ids(&look.batch[..taken.min(look.batch.len())]),
            considered: explanation.map(|explanation| explanation.considered),
            offer: self.offer(&options, *at, waiting, all),
        }
    }
}

fn ids(requests: &[RequestId]) -> Vec<u64> {
    requests.iter().map(|request| request.0).collect()
}

const fn exclusion(why: Exclusion) -> &'static str {
    match why {
        Exclusion::NotAllowed => "not_allowed",
        Exclusion::NotNamed => "not_named",
        Exclusion::BelowFloor => "below_floor",
        Exclusion::NotLoaded(_) => "not_loaded",
    }
}

const fn wait_name(wait: Wait) -> &'static str {
    match wait {
        Wait::AllBusy => "all_busy",
        Wait::Unit => "unit",
        Wait::Class => "class",
        Wait::Device => "device",
        Wait::Load => "load",
        Wait::Behind => "behind",
    }
}

/// The options with what was decided in front. Of candidates that come to the same, the decision may have taken
/// another than the one that is listed first; what it took is the choice.
fn settled(options: &Options, choice: &Choice) -> Options {
    let mut options = options.clone();
    let Choice::Run { requests, explanation } = choice else { return options };
    let chosen = explanation.chosen;
    for one in options.candidates.iter_mut().filter(|one| one.ruling == Ruling::Chosen) {
        one.ruling = Ruling::Dearer;
    }
    let same = |one: &Considered| one.candidate == chosen && one.requests == *requests;
    let place = options.candidates.iter().position(same);
    let first = options.candidates.first().copied();
    let entry = place.map(|place| options.candidates.remove(place)).or(first);
    if let Some(entry) = entry {
        let taken = Considered { requests: *requests, candidate: chosen, ruling: Ruling::Chosen, ..entry };
        options.candidates.insert(0, taken);
    }
    options
}

/// Candidates that are shown if not all are: the choice, then the best of each ruling, then the best of each variant
/// on each unit.
const SHOWN: usize = 12;

fn select(all: &[Considered]) -> Vec<usize> {
    let mut shown: Vec<usize> = Vec::new();
    let mut take = |place: usize| {
        if shown.len() < SHOWN && !shown.contains(&place) {
            shown.push(place);
        }
    };
    let first_of = |same: &dyn Fn(&Considered, &Considered) -> bool| -> Vec<usize> {
        let fresh = |place: &usize| !all[..*place].iter().any(|earlier| same(earlier, &all[*place]));
        (0..all.len()).filter(fresh).collect()
    };
    first_of(&|a, b| a.ruling == b.ruling).into_iter().for_each(&mut take);
    let pair = |one: &Considered| (one.candidate.variant, one.candidate.unit);
    first_of(&|a, b| pair(a) == pair(b)).into_iter().for_each(&mut take);
    shown.sort_unstable();
    shown
}

fn asked(story: &Story, waiting: Option<&Waiting>) -> Asked {
    let request = &story.request;
    let names = Names { catalog: &story.catalog, came: story.came };
    let deadline = waiting.map(|waiting| waiting.deadline).or(request.deadline).unwrap_or(story.came);
    let floor = waiting.map(|waiting| waiting.floor).or(request.min_accuracy).unwrap_or(Ppm::ZERO);
    let model = story.catalog.models.get(request.model.index());
    Asked {
        id: request.id.0,
        came_unix_s: story.came_unix_s,
        came_us: story.came.0 / 1_000,
        uid: (request.app != AppId(u32::MAX)).then_some(request.app.0),
        class: story.class().to_owned(),
        model: model.map(|model| model.name.clone()).unwrap_or_default(),
        items: request.items,
        deadline_us: deadline.since(story.came).as_micros(),
        hard: request.deadline.is_some(),
        min_accuracy: floor.as_fraction(),
        accuracy_target: waiting.map_or(floor, |waiting| waiting.target).as_fraction(),
        max_energy_uj: waiting.and_then(|waiting| waiting.max_energy).map(|energy| energy.0),
        variant: request.variant.map(|variant| names.variant(variant)),
        priority: waiting.map_or(request.priority.unwrap_or(0), |waiting| waiting.priority),
    }
}

fn ended(story: &Story, names: &Names<'_>) -> Option<Ended> {
    let (at, outcome) = story.outcome?;
    Some(match outcome {
        Outcome::Served(served) => {
            let Served { variant, unit, clock: Kilohertz(clock_khz), energy, accuracy, .. } = served;
            let ended = story.runs.iter().filter_map(|run| run.completion.as_ref());
            let finished = ended.filter(|done| done.result.is_ok()).map(|done| done.finished).min();
            Ended::Served {
                at_us: names.us(finished.unwrap_or(at)),
                variant: names.variant(variant),
                unit: names.unit(unit),
                clock_khz,
                queue_us: served.queue.as_micros(),
                compute_us: served.compute.as_micros(),
                energy_uj: energy.0,
                energy_source: served.energy_source,
                accuracy: accuracy.as_fraction(),
                batch_items: served.batch_items,
                missed: served.missed,
                rescued: served.rescued,
            }
        }
        Outcome::Rejected { reason, retry_after } => Ended::Rejected {
            at_us: names.us(at),
            reason: reason.name(),
            retry_after_us: retry_after.map(Nanos::as_micros),
        },
    })
}

/// What admission saw, if it turned the request away: it was answered at once, without a decision of the planner.
fn admission(story: &Story, names: &Names<'_>, arrival: &Arrival, all: bool) -> Option<Admission> {
    let refused = matches!(story.outcome, Some((at, Outcome::Rejected { reason, .. }))
        if at == story.came && reason != Rejection::Cancelled);
    (refused && story.decisions.is_empty()).then(|| Admission {
        queued: arrival.queued,
        in_flight: arrival.in_flight,
        regime: arrival.regime,
        hottest_c: arrival.hottest.map(crate::units::MilliCelsius::as_celsius),
        late_us: arrival.late.map(|(late, _)| late.as_micros()),
        late_request: arrival.late.map(|(_, request)| request.0),
        cheapest_uj: arrival.cheapest.map(|energy| energy.0),
        offer: names.offer(&arrival.options, story.came, &arrival.waiting, all),
    })
}

/// Writes a story down.
pub(super) fn document(journal: &Path, story: &Story, all: bool) -> Explained {
    let names = Names { catalog: &story.catalog, came: story.came };
    let waiting = story.arrival.as_ref().map(|arrival| &arrival.waiting);
    let decision = |decided: &Decided| Some(names.decision(decided, waiting?, all));
    let mut explained = Explained {
        journal: journal.to_owned(),
        checked: story.checked,
        torn: story.torn,
        request: asked(story, waiting),
        verdict: Vec::new(),
        outcome: ended(story, &names),
        admission: story.arrival.as_ref().and_then(|arrival| admission(story, &names, arrival, all)),
        waits: story
            .waits
            .iter()
            .filter(|(_, span)| **span > Nanos::ZERO)
            .map(|(wait, span)| Waited { for_what: wait_name(*wait), span_us: span.as_micros() })
            .collect(),
        meanwhile: story.ahead.iter().map(|run| names.ran(run)).collect(),
        meanwhile_left_out: story.more_ahead,
        holds: story.holds.values().filter_map(decision).collect(),
        decisions: story.decisions.iter().filter_map(decision).collect(),
        runs: story.runs.iter().map(|run| names.ran(run)).collect(),
    };
    explained.verdict = verdict::sentences(&explained);
    explained
}
