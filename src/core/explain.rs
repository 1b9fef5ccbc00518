//! Watching one request: what the planner looked at whenever it decided about it.
//!
//! A replay watches a request and gets a [`Sight`] for each event that concerns it: its arrival, the decisions that
//! it took part in, and what it waited for in between. Candidates are priced by [`plan::explain_all`] on the very
//! view on which [`plan::choose`] decided. Watching changes nothing: effects are the same with and without.

use super::Core;
use super::catalog::{UnitId, VariantId};
use super::event::{ClassId, Request, RequestId};
use super::plan::{self, Awaits, Choice, Considered, View};
use super::queue::Waiting;
use super::residency::Residence;
use super::thermal::Regime;
use crate::time::Timestamp;
use crate::units::{Microjoules, MilliCelsius, Nanos};

/// What a watched request went through.
#[derive(Debug, Clone, PartialEq)]
pub enum Sight {
    /// It came.
    Arrival(Box<Arrival>),
    /// A decision about it.
    Look(Box<Look>),
    /// The event ended with the request in the queue.
    Waits(Standing),
}

/// What a request that is in the queue waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The decision about it was to hold it.
    Held,
    /// No unit could start anything.
    AllBusy,
    /// A unit could, but a more urgent request was held, and this one with it; for what, if a budget was short.
    Behind(Option<Awaits>),
}

/// A request as it came, with what admission looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// The request with the defaults of its class; `fastest` is empty where no variant would do.
    pub waiting: Waiting,
    /// Requests in the queue.
    pub queued: usize,
    /// Of its app, in the queue or running.
    pub in_flight: u32,
    /// Thermal regime.
    pub regime: Regime,
    /// Highest fresh temperature.
    pub hottest: Option<MilliCelsius>,
    /// By how much a hard deadline would be missed if it joined the queue, and whose that is.
    pub late: Option<(Nanos, RequestId)>,
    /// Least energy for which a variant that would do serves it, by the profiles.
    pub cheapest: Option<Microjoules>,
    /// Units, and what could run on them if it were its turn.
    pub options: Options,
}

/// A decision that a request took part in.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Who could share the run. It was decided about the first; of one that is held, what holds for the request that is
    /// watched, which has more time.
    pub batch: Vec<RequestId>,
    /// The deadline of the first, which the others wait behind.
    pub deadline: Timestamp,
    /// What was decided.
    pub choice: Choice,
    /// What there was to choose from.
    pub options: Options,
}

/// What there was to choose from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    /// Per unit: when it was expected to be free.
    pub free_at: Vec<Timestamp>,
    /// Per unit: what occupied it.
    pub busy: Vec<Option<Busy>>,
    /// What was priced, best first.
    pub candidates: Vec<Considered>,
    /// What was not.
    pub excluded: Vec<Excluded>,
    /// Priced by a cautious guess of the latency: no profile was measured there, and it never ran.
    pub guesses: Vec<(VariantId, UnitId)>,
}

/// What occupies a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// A run on it, or on another unit of its processor.
    Runs,
    /// A variant is loaded on it.
    Loads,
    /// The profiler measures on its processor.
    Profiler,
}

/// A variant on a unit that was not priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excluded {
    /// The variant.
    pub variant: VariantId,
    /// The unit.
    pub unit: UnitId,
    /// Why.
    pub why: Exclusion,
}

/// Why a variant was not priced on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// It has no profile there: its kind of unit is not allowed, or it was found unfit.
    NotAllowed,
    /// The request names another variant.
    NotNamed,
    /// Less accurate than the request accepts.
    BelowFloor,
    /// Not in memory, or about to leave it.
    NotLoaded(Residence),
}

/// The request that is watched, and what was seen of it since this was asked for last.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    request: RequestId,
    sights: Vec<Sight>,
    /// The budget that a more urgent request is held for.
    behind: Option<Awaits>,
}

impl Options {
    fn of(view: &View<'_>, batch: &[&Waiting], busy: Vec<Option<Busy>>) -> Self {
        let candidates = plan::explain_all(view, batch);
        let mut guesses: Vec<_> =
            candidates.iter().map(|one| (one.candidate.variant, one.candidate.unit)).collect();
        guesses.sort_unstable();
        guesses.dedup();
        guesses.retain(|&(variant, unit)| view.estimates.is_guess(view.catalog, variant, unit));
        Self {
            free_at: view.free_at.iter().map(|&at| at.max(view.now)).collect(),
            busy,
            candidates,
            excluded: batch.first().map(|head| excluded(view, head)).unwrap_or_default(),
            guesses,
        }
    }
}

fn excluded(view: &View<'_>, head: &Waiting) -> Vec<Excluded> {
    let Waiting { request, floor, .. } = head;
    let mut all = Vec::new();
    for &variant in &view.catalog.models[request.model.index()].variants {
        let spec = &view.catalog.variants[variant.index()];
        for unit in (0..view.catalog.board.units.len()).map(UnitId::at) {
            let why = if request.variant.is_some_and(|only| only != variant) {
                Exclusion::NotNamed
            } else if spec.accuracy < *floor {
                Exclusion::BelowFloor
            } else if spec.profiles[unit.index()].is_none() {
                Exclusion::NotAllowed
            } else if !view.residency.is_available(variant, unit) {
                Exclusion::NotLoaded(view.residency.of(variant, unit))
            } else {
                continue;
            };
            all.push(Excluded { variant, unit, why });
        }
    }
    all
}

impl Core {
    /// Watches a request from now on, in place of the one before. For replays: it takes time.
    pub fn watch(&mut self, request: RequestId) {
        self.watch = Some(Box::new(Watch { request, sights: Vec::new(), behind: None }));
    }

    /// What was seen of the watched request since the last call, in order.
    pub fn take_sights(&mut self) -> Vec<Sight> {
        self.watch.as_mut().map(|watch| std::mem::take(&mut watch.sights)).unwrap_or_default()
    }

    fn watched(&self) -> Option<RequestId> {
        self.watch.as_ref().map(|watch| watch.request)
    }

    fn saw(&mut self, sight: Sight) {
        if let Some(watch) = &mut self.watch {
            watch.sights.push(sight);
        }
    }

    fn occupants(&self) -> Vec<Option<Busy>> {
        let units = &self.catalog.board.units;
        let of = |unit: usize| {
            let same = |other: usize| units[other].group == units[unit].group;
            let runs = (0..units.len()).any(|other| same(other) && self.lanes[other].running.is_some());
            let loads = self.lanes[unit].loading_since.is_some();
            let probed = self.probing.is_some_and(|probing| same(probing.index()));
            let all = [(runs, Busy::Runs), (loads, Busy::Loads), (probed, Busy::Profiler)];
            all.into_iter().find(|(so, _)| *so).map(|(_, busy)| busy)
        };
        (0..units.len()).map(of).collect()
    }

    /// Takes note of a request that comes; its model exists.
    pub(super) fn watch_arrival(&mut self, now: Timestamp, request: &Request) {
        if self.watched() != Some(request.id) {
            return;
        }
        let mut waiting = self.with_defaults(now, request.clone());
        let accepted = self.find_fastest(now, &mut waiting).is_ok();
        let (free_at, domain_busy) = (self.free_times(now), self.busy_domains());
        let view = self.view(now, &free_at, &domain_busy, &[]);
        let options = Options::of(&view, &[&waiting], self.occupants());
        let arrival = Arrival {
            queued: self.queue.len(),
            in_flight: self.queue.in_flight(request.app),
            regime: self.thermal.regime(),
            hottest: self.snapshot.hottest(now, self.budgets.stale_after),
            late: if accepted && waiting.hard { self.lateness(now, &waiting) } else { None },
            cheapest: self.cheapest(&waiting),
            waiting,
            options,
        };
        self.saw(Sight::Arrival(Box::new(arrival)));
    }

    /// Takes note of a decision, before anything comes of it.
    pub(super) fn watch_choice(
        &mut self,
        now: Timestamp,
        skipped: &[RequestId],
        dry: &[ClassId],
        choice: &Choice,
    ) {
        let Some(waiting) = self.watched().and_then(|request| self.queue.get(request)) else { return };
        let look = self.look_at_next(now, skipped, dry, |view, batch| {
            let is_it = |other: &&Waiting| other.request.id == waiting.request.id;
            let taken = match choice {
                Choice::Run { requests, .. } => batch.iter().take(*requests).any(is_it),
                Choice::Hold { .. } | Choice::AwaitLoad => {
                    batch.first().is_some_and(|head| is_it(head) || head.speaks_for(waiting))
                }
                Choice::Reject(..) => batch.first().is_some_and(is_it),
            };
            let deadline = batch.first()?.deadline;
            taken.then(|| Look {
                batch: batch.iter().map(|waiting| waiting.request.id).collect(),
                deadline,
                choice: *choice,
                options: Options::of(view, batch, self.occupants()),
            })
        });
        match (look.flatten(), choice, &mut self.watch) {
            (Some(look), _, _) => self.saw(Sight::Look(Box::new(look))),
            (None, Choice::Hold { awaits, .. }, Some(watch)) if *awaits != Awaits::Unit => {
                watch.behind = Some(*awaits);
            }
            _ => {}
        }
    }

    /// Takes note of where the request stands once an event is dealt with.
    pub(super) fn watch_standing(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let behind = watch.behind.take();
        if self.queue.get(watch.request).is_none() {
            return;
        }
        let looked = watch.sights.iter().any(|sight| matches!(sight, Sight::Look(_)));
        let standing = match (looked, self.some_lane_free()) {
            (true, _) => Standing::Held,
            (false, true) => Standing::Behind(behind),
            (false, false) => Standing::AllBusy,
        };
        self.saw(Sight::Waits(standing));
    }
}
