//! The search over configurations, and their ranking.
//!
//! A run at clock `f1` may be raised to `f2` once it has gone on for long. The later, the cheaper: only the odds
//! that it is still running then pay for the higher clock. So the moment is the latest at which the work `r` that
//! all but the allowed odds of the runs need is done by the end `e` of the time there is,
//! `w1(a) + (e - a)/L2 = r`, where `w1` is the course at `f1` and `a` the moment at which `f2` is in force. The
//! end is the deadline, or the last moment at which a rescue still fits; the allowed odds are those to miss, or
//! those at which what rescues lose of the accuracy is tolerable. Of the clocks that hold without a boost, the
//! first that does is the cheapest, since points above which another costs less are left out.

use super::crowd::{Crowd, joined_s};
use super::foreseen::{foreseen_s, free_s};
use super::place::{Fallback, Pair, Place};
use super::prefix::{Prefix, prefixes};
use super::{
    Awaits, Boost, COOLING, Candidate, Choice, Considered, Constraint, Explanation, Grade, Rescue, Ruling,
    View,
};
use crate::core::catalog::{UnitId, VariantId};
use crate::core::energy::Objective;
use crate::core::event::Rejection;
use crate::core::queue::Waiting;
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos, Ppm};
use smallvec::SmallVec;

/// By how much rescues may push the expected accuracy below the target, a share: two thirds of what is aimed at
/// against an oracle at equal energy.
const ACCURACY_SLACK: f64 = 0.002;
/// By how much a run may exceed its share of the time before it crowds out those behind it.
const CROWDING: f64 = 1.05;
/// Most of the runs of a configuration that may be expected to be rescued.
const MOST_RESCUED: f64 = 0.05;

/// Standard deviation of the logarithm of a slowdown that is worth a look, and the least share of its variance that a
/// look must take away.
const UNSURE: f64 = 0.05;
const TELLING: f64 = 0.2;

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Rank {
    grade: Grade,
    /// Less is better, in order.
    keys: [f64; 2],
}

#[derive(Debug, Clone, Copy)]
struct Ranked {
    rank: Rank,
    start: Timestamp,
    for_budget: bool,
    /// At this clock for what it tells.
    looks: bool,
    count: usize,
    candidate: Candidate,
}

/// Tally of what was priced and why cheaper ones fell out.
#[derive(Debug, Clone, Copy)]
struct Tally {
    considered: u32,
    feasible: u32,
    cheapest_slow: f64,
    cheapest_inaccurate: f64,
    accurate_unpaid: Option<Ppm>,
    /// On target but for its latency.
    unheld: Option<(VariantId, UnitId)>,
    soonest_paid: Option<Timestamp>,
    any_loaded: bool,
    any_affordable: bool,
}

/// A program for a run: its clock, the raised one and when it is asked for, and whether it is rescued.
#[derive(Debug, Clone, Copy)]
struct Draft<'a, 'p> {
    opp: usize,
    boost: Option<(f64, usize)>,
    /// What rescues it, and how slow a run that must be rescued has shown itself to be.
    fallback: Option<(Fallback<'a, 'p>, f64)>,
    /// Seconds that it may take for the sake of those behind it.
    share_s: f64,
    /// Whether it is done when it must be for the sake of those to come, too; others are only looked at.
    held: bool,
}

/// A draft with its price.
#[derive(Debug, Clone, Copy)]
struct Priced {
    candidate: Candidate,
    miss: f64,
    accuracy: f64,
    rescued: f64,
    per_item: f64,
}

pub(super) struct Search<'v, 'l> {
    view: &'v View<'v>,
    head: &'v Waiting,
    batch: &'l [&'v Waiting],
    variants: &'v [VariantId],
    prefixes: SmallVec<[Prefix; 8]>,
    tally: Tally,
    best: Option<Ranked>,
    log: Option<&'l mut Vec<Considered>>,
}

impl<'v, 'l> Search<'v, 'l> {
    /// `batch` is not empty. With a `log` everything is looked at and written there.
    pub(super) fn new(
        view: &'v View<'v>,
        batch: &'l [&'v Waiting],
        log: Option<&'l mut Vec<Considered>>,
    ) -> Self {
        let model = &view.catalog.models[batch[0].request.model.index()];
        let tally = Tally {
            considered: 0,
            feasible: 0,
            cheapest_slow: f64::INFINITY,
            cheapest_inaccurate: f64::INFINITY,
            accurate_unpaid: None,
            unheld: None,
            soonest_paid: None,
            any_loaded: false,
            any_affordable: false,
        };
        Self {
            view,
            head: batch[0],
            batch,
            variants: &model.variants,
            prefixes: prefixes(batch, model.max_batch),
            tally,
            best: None,
            log,
        }
    }

    pub(super) fn run(&mut self) {
        let view = self.view;
        let units = (0..view.catalog.board.units.len()).map(UnitId::at);
        let places: SmallVec<[Place<'v>; 4]> = units.map(|unit| Place::new(view, unit)).collect();
        let model = self.head.request.model;
        let crowds: SmallVec<[(Crowd, f64); 4]> =
            places.iter().map(|place| (Crowd::behind(view, place), free_s(view, place, model))).collect();
        let variants = self.variants;
        for prefix in self.prefixes.clone() {
            for (place, (crowd, free_s)) in places.iter().zip(&crowds) {
                let fallback = match self.may_rescue() {
                    true => Fallback::find(view, &places, place.unit, &prefix, variants),
                    false => None,
                };
                let joined_s = joined_s(place, &self.batch[..prefix.count]);
                for &variant in variants {
                    if view.residency.is_available(variant, place.unit) {
                        self.try_pair(&prefix, variant, place, fallback, (crowd, *free_s, joined_s));
                    }
                }
            }
        }
        self.look(&places);
    }

    /// Where what would be on target is too slow by what was last seen of it, a run at the highest clock, with fast
    /// memory or slow, tells more of that than one at the cheapest: now and then it is chosen for what it tells.
    fn look(&mut self, places: &[Place<'v>]) {
        let (Some(best), Some((slow, unit))) = (self.best, self.tally.unheld) else { return };
        let (view, chosen) = (self.view, best.candidate);
        let ready = best.rank.grade == Grade::OnTime && best.start <= view.now && unit == chosen.unit;
        let Some(prefix) = self.prefixes.iter().find(|prefix| ready && prefix.count == best.count) else {
            return;
        };
        let place = &places[unit.index()];
        let of = (slow, place.top());
        let told = |by: usize| view.estimates.unknown(unit, of, (chosen.variant, by));
        let Some(by) = place.fastest().into_iter().max_by(|&a, &b| told(a).1.total_cmp(&told(b).1)) else {
            return;
        };
        let (variance, told) = told(by);
        if variance.sqrt() <= UNSURE || told <= TELLING {
            return;
        }
        let Some(pair) = Pair::new(view, chosen.variant, place, prefix.items) else { return };
        let draft = Draft { opp: by, boost: None, fallback: None, share_s: f64::INFINITY, held: true };
        let (prefix, priced) = (*prefix, self.price(prefix, &pair, &draft, best.start));
        let in_time = priced.miss <= place.risk.miss || by == place.top();
        let paid = view.ledger.available_at(self.head.request.class, priced.candidate.energy, view.now);
        if in_time && priced.per_item <= prefix.energy_per_item && paid.is_some_and(|paid| paid <= view.now) {
            self.note(&prefix, &priced, best.start, best.rank.grade, Ruling::Chosen);
            self.best = Some(Ranked { looks: true, candidate: priced.candidate, ..best });
        }
    }

    fn may_rescue(&self) -> bool {
        let budgets = self.view.budgets;
        budgets.objective == Objective::LeastEnergy && budgets.class(&self.head.request).rescue
    }

    fn try_pair<'p>(
        &mut self,
        prefix: &Prefix,
        variant: VariantId,
        place: &'p Place<'v>,
        fallback: Option<Fallback<'v, 'p>>,
        (crowd, free_s, joined_s): (&Crowd, f64, f64),
    ) {
        if self.view.catalog.variants[variant.index()].accuracy < prefix.floor
            || prefix.variant.is_some_and(|only| only != variant)
        {
            return;
        }
        let Some(pair) = Pair::new(self.view, variant, place, prefix.items) else { return };
        self.tally.any_loaded = true;
        let fallback = fallback.filter(|fallback| fallback.pair.variant != variant);
        let share_s = crowd.share_s(pair.seconds(place.top()), joined_s);
        let plain = Draft { opp: place.top(), boost: None, fallback: None, share_s, held: true };
        if self.view.budgets.objective == Objective::Performance {
            self.consider(prefix, &pair, &plain);
        } else if self.try_clocks(prefix, &pair, fallback, (share_s, free_s)) {
            // A budget is short: a dearer clock starts later but runs faster.
            for opp in pair.ladder() {
                self.consider(prefix, &pair, &Draft { opp, ..plain });
            }
        }
    }

    /// Looks at the clocks from the lowest up. True if a budget could not pay for something at once.
    fn try_clocks<'p>(
        &mut self,
        prefix: &Prefix,
        pair: &Pair<'v, 'p>,
        fallback: Option<Fallback<'v, 'p>>,
        (share_s, free_s): (f64, f64),
    ) -> bool {
        let (view, place) = (self.view, pair.place);
        let time_s = seconds_until(prefix.deadline, place.free_at).min(share_s);
        let quantile = |odds: f64| view.estimates.quantile(pair.variant, place.unit, 1.0 - odds);
        // One in twenty can be told from few runs, one in a thousand cannot: what can be rescued is.
        let armed = fallback.and_then(|fallback| {
            let odds = allowed_rescues(prefix, pair, &fallback) * place.risk.trust;
            (odds > place.risk.miss).then(|| (fallback, quantile(odds)))
        });
        let need = armed.map_or_else(|| quantile(place.risk.miss), |(_, need)| need);
        let fallback = armed.map(|(fallback, _)| fallback);
        // What is to come may ask for a higher clock, not for more than there is.
        let fastest_s = pair.seconds(place.top());
        let foreseen_s = foreseen_s(view, pair, self.head, prefix.count).min(free_s);
        let foreseen_s = foreseen_s.max(fastest_s * need);
        let time_s =
            time_s.min(foreseen_s + fallback.map_or(0.0, |fallback| fallback.lead(place.top(), need).1));
        let mean = view.estimates.mean_excess(place.unit, 0.0);
        let accurate = view.catalog.variants[pair.variant.index()].accuracy >= prefix.target;
        let (mut short, mut found) = (false, false);
        let ladder = pair.ladder();
        for (position, &opp) in ladder.iter().enumerate() {
            self.tally.considered += 1;
            let least = pair.seconds(opp) * pair.watts(opp) * mean * 1e6 / f64::from(prefix.items.max(1));
            let beaten = self.least_on_target().filter(|_| self.log.is_none());
            if beaten.is_some_and(|best| best <= least) {
                break;
            }
            let pointless = beaten.is_some() && !accurate;
            let hold = self.hold(pair, &ladder[position..], time_s, fallback, need);
            found |= hold.is_some();
            if let Some(boost) = hold.filter(|_| !pointless) {
                short |=
                    self.consider(prefix, pair, &Draft { opp, boost, fallback: armed, share_s, held: true });
            } else if self.log.is_some() && opp != place.top() {
                let draft = Draft { opp, boost: None, fallback: armed, share_s, held: false };
                self.consider(prefix, pair, &draft);
            }
            let holds = hold.is_some_and(|boost| boost.is_none());
            if !holds {
                self.tally.cheapest_slow = self.tally.cheapest_slow.min(least);
            } else if !accurate {
                self.tally.cheapest_inaccurate = self.tally.cheapest_inaccurate.min(least);
            }
            if holds && self.log.is_none() {
                break;
            }
        }
        if self.log.is_some() {
            let others: SmallVec<[usize; 64]> = place.allowed().filter(|opp| !ladder.contains(opp)).collect();
            for opp in others {
                let draft = Draft { opp, boost: None, fallback: armed, share_s, held: false };
                self.consider(prefix, pair, &draft);
            }
        }
        if !found {
            if accurate {
                self.tally.unheld = Some((pair.variant, place.unit));
            }
            let draft = Draft { opp: place.top(), boost: None, fallback: armed, share_s, held: true };
            short |= self.consider(prefix, pair, &draft);
        }
        short
    }

    /// What the best on target costs per item.
    fn least_on_target(&self) -> Option<f64> {
        self.best.filter(|best| best.rank.grade == Grade::OnTarget).map(|best| best.rank.keys[0])
    }

    /// How a run at the first of some operating points does `need` in its time: without a boost, `Some(None)`, or with
    /// the cheapest of some boosts to others as late as possible. `None` if it does not.
    fn hold(
        &self,
        pair: &Pair<'_, '_>,
        ladder: &[usize],
        time_s: f64,
        fallback: Option<Fallback<'_, '_>>,
        need: f64,
    ) -> Option<Option<(f64, usize)>> {
        let (&opp, last) = (ladder.first()?, ladder.len() - 1);
        let end_s = |opp: usize| time_s - fallback.map_or(0.0, |fallback| fallback.lead(opp, need).1);
        let course = pair.course(opp);
        if end_s(opp) > 0.0 && course.work(end_s(opp)) >= need {
            return Some(None);
        }
        let place = pair.place;
        if last == 0 || !self.view.tuning.hedging || place.between_s(opp, ladder[last]) <= 0.0 {
            return None;
        }
        let mut cheapest: Option<(f64, (f64, usize))> = None;
        let mut seen = 0;
        for position in [1, last.div_ceil(2), last] {
            if position <= seen {
                continue;
            }
            seen = position;
            let raised = ladder[position];
            let begun_s = place.change_s(opp);
            let (slow, fast) = (pair.seconds(opp).recip(), pair.seconds(raised).recip());
            let done = course.work(begun_s) - begun_s * slow;
            let at_s = ((end_s(raised) * fast + done - need) / (fast - slow)).min(end_s(raised));
            let asked_s = at_s - place.between_s(opp, raised);
            // What profiles as faster may not be now; one change at a time; a moment that is no number is none.
            if fast <= slow || asked_s.is_nan() || asked_s < begun_s {
                continue;
            }
            let work = course.work(at_s);
            let excess = |ratio| self.view.estimates.mean_excess(place.unit, ratio);
            let left = excess(work);
            let joules = (excess(0.0) - left) * pair.watts(opp) / slow + left * pair.watts(raised) / fast;
            if cheapest.is_none_or(|(least, _)| joules < least) {
                cheapest = Some((joules, (asked_s, raised)));
            }
        }
        cheapest.map(|(_, boost)| Some(boost))
    }

    /// Prices a draft and keeps it if it is the best so far. True if a budget could not pay for it at once.
    fn consider<'p>(&mut self, prefix: &Prefix, pair: &Pair<'v, 'p>, draft: &Draft<'v, 'p>) -> bool {
        let (view, free_at) = (self.view, pair.place.free_at);
        let mut priced = self.price(prefix, pair, draft, free_at);
        if priced.per_item > prefix.energy_per_item {
            self.note(prefix, &priced, free_at, Grade::Unfit, Ruling::AboveRequestEnergy);
            return false;
        }
        self.tally.any_affordable = true;
        let performance = view.budgets.objective == Objective::Performance;
        let paid = if performance {
            Some(view.now)
        } else {
            view.ledger.available_at(self.head.request.class, priced.candidate.energy, view.now)
        };
        let Some(paid) = paid else {
            self.note(prefix, &priced, free_at, Grade::Unfit, Ruling::Unpaid);
            return true;
        };
        self.tally.soonest_paid = Some(self.tally.soonest_paid.map_or(paid, |soonest| soonest.min(paid)));
        let start = free_at.max(paid);
        if paid > free_at {
            priced = self.price(prefix, pair, draft, start);
        }
        let mut rank = self.rank(prefix, &priced, draft.share_s, start, paid > free_at);
        if !draft.held {
            rank.grade = rank.grade.max(Grade::Crowding);
        }
        let ruling =
            if paid > free_at && rank.grade > Grade::OnTarget { Ruling::Unpaid } else { Ruling::Dearer };
        self.note(prefix, &priced, start, rank.grade, ruling);
        if rank.grade < Grade::Unfit && self.best.is_none_or(|best| rank < best.rank) {
            let (count, candidate) = (prefix.count, priced.candidate);
            self.best =
                Some(Ranked { rank, start, for_budget: paid > free_at, looks: false, count, candidate });
        }
        paid > free_at
    }

    /// Seconds per item that a unit, or a budget that must bring in the energy, is taken up: where not all can be on
    /// time, what matters is to get through the queue. What a budget holds already is no gain: who comes next lacks it.
    fn progress(&self, start: Timestamp, candidate: &Candidate) -> f64 {
        let refill = self.view.ledger.refill_time(self.head.request.class, candidate.energy);
        let busy = start.after(candidate.latency).since(self.view.now);
        busy.max(refill).as_secs_f64() / f64::from(candidate.items.max(1))
    }

    fn note(&mut self, prefix: &Prefix, priced: &Priced, start: Timestamp, grade: Grade, ruling: Ruling) {
        if self.log.is_none() {
            return;
        }
        let (candidate, accuracy, requests) = (priced.candidate, priced.accuracy, prefix.count);
        let progress = self.progress(start, &candidate);
        if let Some(log) = &mut self.log {
            log.push(Considered { requests, candidate, start, accuracy, progress, grade, ruling });
        }
    }

    /// What a draft costs and risks if it starts at `start`.
    fn price(&self, prefix: &Prefix, pair: &Pair<'v, '_>, draft: &Draft<'v, '_>, start: Timestamp) -> Priced {
        let (view, place) = (self.view, pair.place);
        let time_s = seconds_until(prefix.deadline, start);
        let mut course = pair.course(draft.opp);
        let mut last = draft.opp;
        if let Some((asked_s, raised)) = draft.boost {
            course.change(
                asked_s + place.between_s(draft.opp, raised),
                pair.seconds(raised),
                pair.watts(raised),
            );
            last = raised;
        }
        let survival = |ratio| view.estimates.survival(pair.variant, place.unit, ratio);
        let mean_excess = |ratio| view.estimates.mean_excess(place.unit, ratio);
        let mut late = survival(course.work(time_s.max(0.0)));
        let rescue = draft.fallback.and_then(|(fallback, ratio)| {
            let (opp, lead_s) = fallback.lead(last, ratio);
            let at_s = time_s - lead_s;
            (at_s > 0.0).then(|| (fallback, opp, at_s, survival(course.work(at_s))))
        });
        let cut_s = match rescue {
            Some((fallback, _, at_s, _)) if fallback.cancels => at_s,
            _ => f64::INFINITY,
        };
        let (mut seconds, mut joules) = course.expect(cut_s, mean_excess);
        let (mut accuracy, mut rescued) = (pair.accuracy, 0.0);
        if let Some((fallback, opp, _, odds)) = rescue {
            let more_s = fallback.pair.seconds(opp);
            joules += odds * more_s * fallback.pair.watts(opp);
            seconds += if fallback.cancels { odds * more_s } else { 0.0 };
            late = fallback.fails.min(if fallback.cancels { odds } else { late });
            accuracy -= odds * (pair.accuracy - fallback.pair.accuracy);
            rescued = odds;
        }
        let candidate = Candidate {
            variant: pair.variant,
            unit: place.unit,
            point: place.at(draft.opp),
            items: prefix.items,
            latency: Nanos::from_secs_f64(seconds),
            energy: Microjoules::from_f64(joules * 1e6),
            accuracy: view.catalog.variants[pair.variant.index()].accuracy,
            miss: Ppm::from_fraction(late.clamp(0.0, 1.0)),
            boost: draft.boost.map(|(asked_s, raised)| Boost {
                after: Nanos::from_secs_f64(asked_s),
                point: place.at(raised),
            }),
            rescue: rescue.map(|(fallback, opp, at_s, odds)| Rescue {
                after: Nanos::from_secs_f64(at_s),
                variant: fallback.pair.variant,
                unit: fallback.pair.place.unit,
                point: fallback.pair.place.at(opp),
                odds: Ppm::from_fraction(odds.clamp(0.0, 1.0)),
            }),
        };
        let per_item = joules * 1e6 / f64::from(prefix.items.max(1));
        Priced { candidate, miss: late, accuracy, rescued, per_item }
    }

    fn rank(
        &mut self,
        prefix: &Prefix,
        priced: &Priced,
        share_s: f64,
        start: Timestamp,
        for_budget: bool,
    ) -> Rank {
        let candidate = &priced.candidate;
        let finish = start.after(candidate.latency);
        let lateness = Nanos(finish.0).as_f64();
        if self.view.budgets.objective == Objective::Performance {
            let grade = if finish > prefix.deadline && prefix.hard { Grade::Unfit } else { Grade::OnTarget };
            return Rank { grade, keys: [-candidate.accuracy.as_f64(), lateness] };
        }
        let progress = self.progress(start, candidate);
        let target = prefix.target.as_fraction();
        let slack = if candidate.rescue.is_some() { ACCURACY_SLACK } else { 0.0 };
        let accurate = candidate.accuracy >= prefix.target && priced.accuracy >= target - slack;
        let risk = self.view.risks.get(candidate.unit.index()).copied().unwrap_or_default();
        // Rounding must not rule out what was made to hold just so.
        if priced.miss <= risk.miss * 1.01 {
            if candidate.latency.as_secs_f64() > share_s * CROWDING {
                return Rank { grade: Grade::Crowding, keys: [progress, priced.per_item] };
            }
            self.tally.feasible += 1;
            // A run that is likely to be rescued is paid twice, and tells nothing of how long it takes.
            if priced.rescued <= MOST_RESCUED * 1.01 {
                return if accurate {
                    Rank { grade: Grade::OnTarget, keys: [priced.per_item, lateness] }
                } else {
                    Rank { grade: Grade::OnTime, keys: [-priced.accuracy, priced.per_item] }
                };
            }
        }
        if accurate && for_budget {
            self.tally.accurate_unpaid = self.tally.accurate_unpaid.max(Some(candidate.accuracy));
        }
        if finish <= prefix.deadline {
            return Rank { grade: Grade::Tight, keys: [priced.miss, priced.per_item] };
        }
        let guess = self.view.estimates.is_guess(self.view.catalog, candidate.variant, candidate.unit);
        let grade = if prefix.hard && !guess { Grade::Unfit } else { Grade::Late };
        Rank { grade, keys: [progress, priced.per_item] }
    }

    /// What the search comes to.
    pub(super) fn conclude(&self) -> Choice {
        match self.best {
            Some(ranked) if ranked.start > self.view.now => {
                Choice::Hold { until: ranked.start, awaits: self.awaits(&ranked) }
            }
            Some(ranked) => Choice::Run { requests: ranked.count, explanation: self.explain(&ranked) },
            None => self.nothing_fits(),
        }
    }

    fn awaits(&self, ranked: &Ranked) -> Awaits {
        let device = self.view.ledger.device_available_at(ranked.candidate.energy, self.view.now);
        match (ranked.for_budget, device) {
            (false, _) => Awaits::Unit,
            (true, Some(at)) if at < ranked.start => Awaits::Class,
            (true, _) => Awaits::Device,
        }
    }

    fn nothing_fits(&self) -> Choice {
        let (view, head, tally) = (self.view, self.head, &self.tally);
        if !tally.any_loaded {
            let (cap, accepts) = (view.budgets.memory_cap, |variant| head.accepts(view.catalog, variant));
            return match view.residency.any_hope(view.catalog, head.request.model, cap, accepts) {
                true => Choice::AwaitLoad,
                false => Choice::Reject(Rejection::NotResident, None),
            };
        }
        if !tally.any_affordable {
            return Choice::Reject(Rejection::EnergyUnreachable, None);
        }
        match (tally.soonest_paid, head.hard) {
            // Only hard deadlines leave `best` empty while something is affordable and paid for.
            (Some(paid), true) => {
                let reason = if paid > view.now { view.shortage } else { Rejection::DeadlineUnreachable };
                Choice::Reject(reason, Some(paid.since(view.now)))
            }
            (Some(paid), false) => Choice::Hold { until: paid, awaits: Awaits::Device },
            // Heat passes by itself; a cap that leaves nothing does not.
            (None, _) => {
                let passes = view.shortage == Rejection::TooHot;
                Choice::Reject(view.shortage, passes.then_some(COOLING))
            }
        }
    }

    fn explain(&self, ranked: &Ranked) -> Explanation {
        let (chosen, tally) = (ranked.candidate, &self.tally);
        let per_item = chosen.energy.as_f64() / f64::from(chosen.items.max(1));
        let binding = if ranked.looks {
            Constraint::Knowledge
        } else if tally.accurate_unpaid.is_some_and(|accuracy| accuracy > chosen.accuracy) {
            Constraint::Budget
        } else if tally.cheapest_slow < per_item && tally.cheapest_slow <= tally.cheapest_inaccurate {
            Constraint::Deadline
        } else if tally.cheapest_inaccurate < per_item {
            Constraint::Accuracy
        } else {
            Constraint::None
        };
        Explanation {
            request: self.head.request.id,
            considered: tally.considered,
            feasible: tally.feasible,
            chosen,
            binding,
        }
    }
}

/// The share of the runs that may be rescued: what their smaller variant loses of the accuracy must be tolerable.
fn allowed_rescues(prefix: &Prefix, pair: &Pair<'_, '_>, fallback: &Fallback<'_, '_>) -> f64 {
    let lost = pair.accuracy - fallback.pair.accuracy;
    let slack = pair.accuracy - (prefix.target.as_fraction() - ACCURACY_SLACK);
    if lost <= 0.0 || slack < 0.0 {
        return MOST_RESCUED;
    }
    (slack / lost).min(MOST_RESCUED)
}

/// Seconds from one moment to a later one; negative if it is an earlier one.
pub(super) fn seconds_until(end: Timestamp, start: Timestamp) -> f64 {
    if end >= start { end.since(start).as_secs_f64() } else { -start.since(end).as_secs_f64() }
}
