//! A unit as a place to run on, and what could rescue a run there.

use super::cost::Cost;
use super::prefix::Prefix;
use super::{CANCEL, Course, Risk, View};
use crate::core::catalog::{DomainId, UnitId, VariantId};
use crate::core::energy::Objective;
use crate::core::estimate::Outlook;
use crate::core::points::{OperatingPoint, Points, domains_of, position_below};
use crate::time::Timestamp;
use crate::units::Kilohertz;
use smallvec::SmallVec;
use std::ops::{Deref, Range};

/// What is common to all runs on a unit now. Operating points are named by their index in `points`.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    pub(super) unit: UnitId,
    points: &'a Points,
    /// Positions to choose from, of the unit's clocks and of the memory's.
    allowed: [Range<usize>; 2],
    /// The operating point in force.
    present: usize,
    /// The positions that the two clocks are on their way to, and for how long still, s.
    asked: [usize; 2],
    left_s: [f64; 2],
    /// How long a change of each of them takes, s.
    settle_s: [f64; 2],
    /// When it will be free.
    pub(super) free_at: Timestamp,
    pub(super) risk: Risk,
}

impl<'a> Place<'a> {
    /// As it is when what runs there is over.
    pub(super) fn new(view: &View<'a>, unit: UnitId) -> Self {
        Self::at_time(view, unit, view.free_at[unit.index()].max(view.now))
    }

    /// As it is at a time that is not past.
    pub(super) fn at_time(view: &View<'a>, unit: UnitId, free_at: Timestamp) -> Self {
        let points = view.costs.points(unit);
        let mut place = Self {
            unit,
            points,
            allowed: [0..1, 0..1],
            present: 0,
            asked: [0; 2],
            left_s: [0.0; 2],
            settle_s: [0.0; 2],
            free_at,
            risk: view.risks.get(unit.index()).copied().unwrap_or_default(),
        };
        // A domain whose clock is not known runs at its lowest at worst.
        let mut present = [0; 2];
        let domains = domains_of(&view.catalog.board, unit);
        for (index, (domain, clocks)) in domains.into_iter().zip(points.each()).enumerate() {
            let Some(domain) = domain else { continue };
            let (allowed, asked) = clock_points(view, domain);
            // By then a change under way may be through.
            let way = asked.and_then(|asked| view.clocks.way_to(domain, asked, view.snapshot, free_at));
            let position =
                |clock: Option<Kilohertz>| clock.map_or(allowed.start, |clock| position_below(clocks, clock));
            place.asked[index] = position(asked);
            present[index] = position(way.map(|(clock, _)| clock).or(asked));
            place.left_s[index] = way.map_or(0.0, |(_, left)| left.as_secs_f64());
            place.settle_s[index] = view.clocks.settle(domain).as_secs_f64();
            place.allowed[index] = allowed;
        }
        place.present = points.index(present);
        place
    }

    /// The operating point in force.
    pub(super) fn present(&self) -> usize {
        self.present
    }

    /// The operating point that was asked for last.
    pub(super) fn asked(&self) -> usize {
        self.points.index(self.asked)
    }

    /// The highest operating point to choose from.
    pub(super) fn top(&self) -> usize {
        self.points.index([self.allowed[0].end - 1, self.allowed[1].end - 1])
    }

    /// The highest operating points with slow and with fast memory.
    pub(super) fn fastest(&self) -> [usize; 2] {
        let [clocks, memories] = &self.allowed;
        [memories.start, memories.end - 1].map(|memory| self.points.index([clocks.end - 1, memory]))
    }

    /// The clocks at an operating point.
    pub(super) fn at(&self, point: usize) -> OperatingPoint {
        self.points.at(point)
    }

    /// Whether an operating point may be chosen.
    pub(super) fn allows(&self, point: usize) -> bool {
        let [clock, memory] = self.points.parts(point);
        self.allowed[0].contains(&clock) && self.allowed[1].contains(&memory)
    }

    /// Whether every operating point may be chosen.
    fn allows_all(&self) -> bool {
        self.allowed.iter().zip(self.points.each()).all(|(allowed, clocks)| *allowed == (0..clocks.len()))
    }

    /// All operating points to choose from.
    pub(super) fn allowed(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.points.len()).filter(|&point| self.allows(point))
    }

    /// Seconds in which the clocks are not yet those of an operating point.
    pub(super) fn change_s(&self, point: usize) -> f64 {
        let parts = self.points.parts(point);
        let change_s = |index: usize| {
            if parts[index] == self.asked[index] { self.left_s[index] } else { self.settle_s[index] }
        };
        change_s(0).max(change_s(1))
    }

    /// Seconds that a change from one operating point to another takes.
    pub(super) fn between_s(&self, from: usize, to: usize) -> f64 {
        let (from, to) = (self.points.parts(from), self.points.parts(to));
        let change_s = |index: usize| if from[index] == to[index] { 0.0 } else { self.settle_s[index] };
        change_s(0).max(change_s(1))
    }
}

/// The operating points to choose from in a domain, and the clock in force.
fn clock_points(view: &View<'_>, domain: DomainId) -> (Range<usize>, Option<Kilohertz>) {
    let all = view.clocks.choices(&view.catalog.board, domain, view.snapshot);
    if all.is_empty() {
        return (0..1, None);
    }
    let present = view.clocks.present(domain, view.snapshot);
    let points = match view.budgets.objective {
        _ if view.regime.is_blind() => all.start..all.start + 1,
        Objective::Performance => all.end - 1..all.end,
        Objective::LeastEnergy => {
            let shared = shared_floor(view, domain, all.clone(), present);
            ready_floor(view, domain, all).max(shared.start)..shared.end
        }
    };
    (points, present)
}

/// A clock that is kept up for what may come next is not let down by a run before that.
fn ready_floor(view: &View<'_>, domain: DomainId, all: Range<usize>) -> usize {
    let opps = &view.catalog.board.domains[domain.index()].opps;
    let floor = view.clocks.floor(domain).and_then(|floor| opps.iter().position(|&opp| opp >= floor));
    floor.map_or(all.start, |floor| floor.clamp(all.start, all.end - 1))
}

/// While another unit runs on the same domain, its clock may rise but not fall under it.
fn shared_floor(
    view: &View<'_>,
    domain: DomainId,
    all: Range<usize>,
    present: Option<Kilohertz>,
) -> Range<usize> {
    let Some(present) = present.filter(|_| view.domain_busy[domain.index()]) else { return all };
    let opps = &view.catalog.board.domains[domain.index()].opps;
    let floor = opps.iter().position(|&opp| opp >= present).unwrap_or(all.end - 1);
    floor.min(all.end - 1)..all.end
}

/// Some operating points of a unit.
#[allow(clippy::large_enum_variant, reason = "lives for one look and must not allocate")]
pub(super) enum Ladder<'a> {
    Whole(&'a [usize]),
    Part(SmallVec<[usize; 32]>),
}

impl Deref for Ladder<'_> {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        match self {
            Self::Whole(points) => points,
            Self::Part(points) => points,
        }
    }
}

/// By operating point, joules above idle that a run takes whatever it does, and for each item as counted by
/// [`Cost::batch`].
pub(super) type Prices = SmallVec<[(f64, f64); 32]>;

/// A variant on a place, with what was learned about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a, 'p> {
    pub(super) variant: VariantId,
    pub(super) place: &'p Place<'a>,
    pub(super) accuracy: f64,
    items: u32,
    /// See [`Cost::batch`].
    batch: f64,
    cost: &'a Cost,
    outlook: Outlook<'a>,
}

impl<'a, 'p> Pair<'a, 'p> {
    pub(super) fn new(view: &View<'a>, variant: VariantId, place: &'p Place<'a>, items: u32) -> Option<Self> {
        let cost = view.costs.of(variant, place.unit)?;
        Some(Self {
            variant,
            place,
            accuracy: view.catalog.variants[variant.index()].accuracy.as_fraction(),
            items,
            batch: cost.batch(items),
            cost,
            outlook: view.estimates.outlook(variant, place.unit),
        })
    }

    /// The same for so many items.
    pub(super) fn of(self, items: u32) -> Self {
        Self { items, batch: self.cost.batch(items), ..self }
    }

    /// Expected seconds at an operating point, if the clock were in force from the start.
    #[inline]
    pub(super) fn seconds(&self, opp: usize) -> f64 {
        self.cost.seconds_of(opp, self.batch) * self.outlook.slowdown(opp)
    }

    /// Expected seconds of so many items at the highest operating point.
    pub(super) fn fastest_s(&self, items: u32) -> f64 {
        self.of(items).seconds(self.place.top())
    }

    /// Expected seconds for the last part of a run, `left` of it, if an operating point is asked for now.
    pub(super) fn rest_s(&self, left: f64, opp: usize) -> f64 {
        let change_s = self.place.change_s(opp);
        let unchanged_s = left * self.seconds(self.place.present);
        if unchanged_s <= change_s {
            return unchanged_s;
        }
        change_s + (1.0 - change_s / unchanged_s) * left * self.seconds(opp)
    }

    pub(super) fn watts(&self, opp: usize) -> f64 {
        self.outlook.busy_watts(opp)
    }

    /// Expected energy per item at an operating point, the change to it included, microjoules.
    pub(super) fn per_item(&self, opp: usize) -> f64 {
        let excess = |ratio| self.outlook.mean_excess(ratio);
        let (change_s, present) = (self.place.change_s(opp), self.place.present);
        if change_s <= 0.0 {
            return self.steady(opp);
        }
        let after = excess(change_s / self.seconds(present)) / excess(0.0);
        self.steady(present) + after * (self.steady(opp) - self.steady(present))
    }

    /// The same if the clocks were in force from the start.
    #[inline]
    fn steady(&self, opp: usize) -> f64 {
        let mean = self.outlook.mean_excess(0.0);
        self.seconds(opp) * self.watts(opp) * mean * 1e6 / f64::from(self.items.max(1))
    }

    /// What batches cost at some operating points.
    pub(super) fn prices(&self, ladder: &[usize]) -> Prices {
        let price = |&point: &usize| {
            let per_second = self.outlook.slowdown(point) * self.watts(point);
            (self.cost.seconds_of(point, 0.0) * per_second, self.cost.item_s(point) * per_second)
        };
        ladder.iter().map(price).collect()
    }

    /// The cheapest of the operating points that these are the prices of, and what a run at any of them costs per item at
    /// least, microjoules.
    pub(super) fn cheapest(&self, ladder: &[usize], prices: &Prices) -> Option<(usize, f64)> {
        let (mut cheapest, mut least) = (None, f64::INFINITY);
        for (&point, (overhead, item)) in ladder.iter().zip(prices) {
            let price = overhead + item * self.batch;
            if price < least {
                (cheapest, least) = (Some(point), price);
            }
        }
        let point = cheapest.or(ladder.first().copied())?;
        let (least, present) = (self.steady(point), self.place.present);
        let changes = self.place.change_s(point) > 0.0;
        Some((point, if changes { least.min(self.steady(present)) } else { least }))
    }

    /// The operating points worth a look, the slowest first and the highest that there is last: faster ones take more
    /// energy, by the board's power model.
    pub(super) fn ladder(&self) -> Ladder<'a> {
        let (top, front) = (self.place.top(), &self.cost.front);
        if self.place.allows_all() && front.last() == Some(&top) {
            return Ladder::Whole(front);
        }
        let below = front.iter().copied().filter(|&point| point != top && self.place.allows(point));
        Ladder::Part(below.chain(std::iter::once(top)).collect())
    }

    /// The course of a run at an operating point: at the clock in force until the change is through.
    pub(super) fn course(&self, opp: usize) -> Course {
        let change_s = self.place.change_s(opp);
        let present = if change_s > 0.0 { self.place.present } else { opp };
        let mut course = Course::steady(self.seconds(present), self.watts(present));
        if change_s > 0.0 {
            course.change(change_s, self.seconds(opp), self.watts(opp));
        }
        course
    }
}

/// What answers where a run takes too long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fallback<'a, 'p> {
    pub(super) pair: Pair<'a, 'p>,
    /// Whether the run is cancelled for it; else it runs beside it on another unit.
    pub(super) cancels: bool,
    /// How much longer than expected it may take: what delays the run that it replaces may delay it as much, so it is
    /// given what all but the odds to miss of all runs take.
    slack: f64,
    /// Those odds.
    pub(super) fails: f64,
}

impl<'a, 'p> Fallback<'a, 'p> {
    /// The fastest that the batch's requests accept, for runs on `unit`; they may be spent twice, so requests
    /// that limit their energy get none.
    pub(super) fn find(
        view: &View<'a>,
        places: &'p [Place<'a>],
        unit: UnitId,
        prefix: &Prefix,
        variants: &[VariantId],
    ) -> Option<Self> {
        if !view.tuning.hedging || prefix.variant.is_some() || prefix.energy_per_item.is_finite() {
            return None;
        }
        let units = &view.catalog.board.units;
        let cancels = units[unit.index()].preemptible;
        let fits = |place: &&Place<'_>| {
            let other = place.unit != unit;
            let apart = units[place.unit.index()].group != units[unit.index()].group;
            if cancels { !other } else { other && apart && place.free_at <= view.now }
        };
        let mut best: Option<(f64, Pair<'a, 'p>)> = None;
        for place in places.iter().filter(fits) {
            for &variant in variants {
                if view.catalog.variants[variant.index()].accuracy < prefix.floor
                    || !view.residency.is_available(variant, place.unit)
                {
                    continue;
                }
                let Some(pair) = Pair::new(view, variant, place, prefix.items) else { continue };
                let seconds = pair.seconds(place.top()) + place.change_s(place.top());
                if best.is_none_or(|(least, _)| seconds < least) {
                    best = Some((seconds, pair));
                }
            }
        }
        let (_, pair) = best?;
        let fails = pair.place.risk.miss;
        let slack = view.estimates.quantile(pair.variant, pair.place.unit, 1.0 - fails).max(1.0);
        Some(Self { pair, cancels, slack, fails })
    }

    /// The operating point of the rescue of a run that goes to `opp`, which is in force after `settled_s`, and how long
    /// before the deadline in `time_s` it must begin, s. It is taken to be as slow as the run that it replaces has been by
    /// then, `ratio`.
    pub(super) fn lead(&self, opp: usize, ratio: f64, time_s: f64, settled_s: f64) -> (usize, f64) {
        let place = self.pair.place;
        let (slack, top) = (self.slack.max(ratio), place.top());
        if !self.cancels {
            return (top, place.change_s(top) + self.pair.seconds(top) * slack);
        }
        let cancel_s = CANCEL.as_secs_f64();
        let end_s = time_s - cancel_s;
        let mut stays = cancel_s + self.pair.seconds(opp) * slack;
        if time_s - stays < settled_s {
            // It begins at the clock that the run itself began at.
            let left = slack - (end_s - settled_s).max(0.0) / self.pair.seconds(opp);
            stays = time_s - (settled_s.min(end_s) - left * self.pair.seconds(place.present));
        }
        if opp == top {
            return (top, stays);
        }
        let rises = cancel_s + place.between_s(opp, top) + self.pair.seconds(top) * slack;
        if stays <= rises { (opp, stays) } else { (top, rises) }
    }
}
