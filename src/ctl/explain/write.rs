//! From the story to the document.

use super::document::{
    Admission, Asked, Decision, Ended, Explained, Fastest, Free, Offer, Out, RaisedAt, Ran, RescuedAt, Row,
    Waited,
};
use super::story::{Decided, Run, Story, Wait};
use super::{verdict, why};
use crate::core::catalog::{Catalog, UnitId, VariantId};
use crate::core::event::{AppId, Outcome, Rejection, RequestId, Served};
use crate::core::explain::{Arrival, Busy, Exclusion, Options};
use crate::core::plan::{Candidate, Choice, Considered, Grade, Ruling};
use crate::core::points::OperatingPoint;
use crate::core::queue::Waiting;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos, Ppm};
use std::path::Path;

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
        let Run { at, dispatch, aborted, completion, .. } = run;
        Ran {
            at_us: self.us(*at),
            variant: self.variant(dispatch.variant),
            model: self.model_of(dispatch.variant),
            unit: self.unit(dispatch.unit),
            clock_khz: dispatch.point.clock.0,
            memory_khz: memory_khz(dispatch.point),
            requests: ids(&dispatch.requests),
            items: dispatch.items,
            raised: run.raised.map(|(raised, clock)| RaisedAt {
                after_us: raised.since(*at).as_micros(),
                clock_khz: clock.0,
            }),
            probed: run.probed,
            expected_us: dispatch.expected.as_micros(),
            reserved_uj: dispatch.reserved.0,
            from_us: completion.as_ref().map(|done| self.us(done.started)),
            to_us: completion.as_ref().map(|done| self.us(done.finished)),
            stopped_us: aborted.map(|at| self.us(at)),
            failure: completion.as_ref().and_then(|done| done.result.err()),
        }
    }

    fn row(&self, one: &Considered, at: Timestamp, guess: bool, why: String) -> Row {
        let Candidate { variant, unit, point, items, latency, energy, miss, boost, rescue, .. } =
            one.candidate;
        Row {
            variant: self.variant(variant),
            unit: self.unit(unit),
            clock_khz: point.clock.0,
            memory_khz: memory_khz(point),
            requests: one.requests,
            items,
            start_us: one.start.since(at).as_micros(),
            latency_us: latency.as_micros(),
            guess,
            energy_uj: energy.0,
            accuracy: one.accuracy,
            miss: miss.as_fraction(),
            boost: boost
                .map(|boost| RaisedAt { after_us: boost.after.as_micros(), clock_khz: boost.point.clock.0 }),
            rescue: rescue.map(|rescue| RescuedAt {
                after_us: rescue.after.as_micros(),
                variant: self.variant(rescue.variant),
                unit: self.unit(rescue.unit),
                clock_khz: rescue.point.clock.0,
                odds: rescue.odds.as_fraction(),
            }),
            grade: one.grade,
            ruling: one.ruling,
            why,
        }
    }

    fn offer(
        &self,
        options: &Options,
        choice: Option<&Choice>,
        (at, deadline): (Timestamp, Timestamp),
        waiting: &Waiting,
        all: bool,
    ) -> Offer {
        let options = &settled(options, choice);
        let shown = if all { (0..options.candidates.len()).collect() } else { select(&options.candidates) };
        let reasons = why::Reasons::new(options, choice, (at, deadline), waiting);
        let units = options.free_at.iter().enumerate();
        Offer {
            units: units
                .map(|(unit, free)| Free {
                    unit: self.unit(UnitId::at(unit)),
                    free_in_us: free.since(at).as_micros(),
                    busy: options.busy.get(unit).copied().flatten().map(busy),
                })
                .collect(),
            left_out: options.candidates.len() - shown.len(),
            candidates: shown
                .into_iter()
                .map(|place| &options.candidates[place])
                .map(|one| {
                    let pair = (one.candidate.variant, one.candidate.unit);
                    self.row(one, at, options.guesses.contains(&pair), reasons.of(one))
                })
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
        Decision {
            at_us: self.us(*at),
            times: *times,
            about: look.batch.first().map_or(0, |head| head.0),
            decided,
            awaits: awaits.map(wait_name),
            until_us: until.map(|until| self.us(until)),
            reason,
            binding: explanation.map(|explanation| explanation.binding),
            batch: ids(&look.batch[..taken.min(look.batch.len())]),
            considered: explanation.map(|explanation| explanation.considered),
            offer: self.offer(&look.options, Some(&look.choice), (*at, look.deadline), waiting, all),
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

const fn busy(busy: Busy) -> &'static str {
    match busy {
        Busy::Runs => "run",
        Busy::Profiler => "profiler",
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

/// The options without what is twice in them, and with what was decided in front. Of candidates that come to the same, the decision may have taken
/// another than the one that is listed first; what it took is the choice. Where nothing was taken, the best that is not
/// in time is no choice either.
fn settled(options: &Options, choice: Option<&Choice>) -> Options {
    let mut options = options.clone();
    options.candidates.dedup_by(|a, b| a.candidate == b.candidate && a.requests == b.requests);
    let Some(Choice::Run { requests, explanation }) = choice else {
        let waits = matches!(choice, Some(Choice::Hold { .. }));
        let late = |one: &&mut Considered| one.ruling == Ruling::Chosen && one.grade >= Grade::Tight;
        options
            .candidates
            .iter_mut()
            .filter(|one| !waits && late(one))
            .for_each(|one| one.ruling = Ruling::Slow);
        return options;
    };
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

/// Candidates that are shown if not all are: the choice, the best and the cheapest of each ruling, then the best of
/// each variant on each unit.
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
    let rulings = first_of(&|a, b| a.ruling == b.ruling);
    rulings.iter().copied().for_each(&mut take);
    for ruling in rulings.into_iter().map(|place| all[place].ruling) {
        let same = (0..all.len()).filter(|&place| all[place].ruling == ruling);
        let per_item = |place: usize| {
            all[place].candidate.energy.as_f64() / f64::from(all[place].candidate.items.max(1))
        };
        same.min_by(|&a, &b| per_item(a).total_cmp(&per_item(b))).into_iter().for_each(&mut take);
    }
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

fn fastest(names: &Names<'_>, came: Timestamp, arrival: &Arrival) -> Vec<Fastest> {
    let units = arrival.waiting.fastest.iter().zip(&arrival.options.free_at).enumerate();
    units
        .filter(|(_, (latency, _))| **latency < Nanos::MAX)
        .map(|(unit, (latency, free))| Fastest {
            unit: names.unit(UnitId::at(unit)),
            free_in_us: free.since(came).as_micros(),
            latency_us: latency.as_micros(),
        })
        .collect()
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
        fastest: fastest(names, story.came, arrival),
        cheapest_uj: arrival.cheapest.map(|energy| energy.0),
        offer: names.offer(
            &arrival.options,
            None,
            (story.came, arrival.waiting.deadline),
            &arrival.waiting,
            all,
        ),
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

fn memory_khz(point: OperatingPoint) -> Option<u32> {
    (point.memory > Kilohertz::ZERO).then_some(point.memory.0)
}
