//! The search over configurations, and their ranking.

use super::crowd::{Crowd, joined_s};
use super::draft::{ACCURACY_SLACK, Draft, MOST_RESCUED, Priced, allowed_rescues};
use super::foreseen::{Newcomers, foreseen_s, newcomers};
use super::paid::{Paid, owed};
use super::place::{Fallback, Pair, Place};
use super::prefix::{Prefix, prefixes};
use super::prospect::{Prospect, Prospects};
use super::terms::Terms;
use super::{Awaits, COOLING, Candidate, Choice, Considered, Constraint, Explanation, Grade, Ruling, View};
use crate::core::catalog::{ModelId, UnitId, VariantId};
use crate::core::energy::Objective;
use crate::core::event::Rejection;
use crate::core::queue::Waiting;
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos, Ppm};
use smallvec::SmallVec;

/// By how much a run may exceed its share of the time before it crowds out those behind it.
const CROWDING: f64 = 1.05;

/// Rounding must not rule out the highest clock that there is.
const ROUNDING: f64 = 1.0 + 1e-9;

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

impl Ranked {
    /// Expected energy per item, microjoules.
    fn per_item(&self) -> f64 {
        self.candidate.energy.as_f64() / f64::from(self.candidate.items.max(1))
    }
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

impl Tally {
    /// The cheapest operating point of something, and whether it is fast enough and accurate.
    fn bind(&mut self, least: f64, holds: bool, accurate: bool) {
        if !holds {
            self.cheapest_slow = self.cheapest_slow.min(least);
        } else if !accurate {
            self.cheapest_inaccurate = self.cheapest_inaccurate.min(least);
        }
    }
}

/// Where runs can go, and what was found out about that so far.
struct Ground<'v, 'p> {
    places: &'p [Place<'v>],
    /// Per unit: the work behind the batch, and what other models will ask it for.
    crowds: SmallVec<[(Crowd, Newcomers); 4]>,
    /// Per prefix and unit.
    sites: SmallVec<[Option<Site<'v, 'p>>; 16]>,
}

impl<'v, 'p> Ground<'v, 'p> {
    fn new(view: &View<'v>, places: &'p [Place<'v>], model: ModelId, prefixes: usize) -> Self {
        let crowd = |place| (Crowd::behind(view, place), newcomers(view, place, model));
        let sites = SmallVec::from_elem(None, prefixes * places.len());
        Self { places, crowds: places.iter().map(crowd).collect(), sites }
    }
}

/// A batch on a unit.
#[derive(Debug, Clone, Copy)]
struct Site<'v, 'p> {
    fallback: Option<Fallback<'v, 'p>>,
    /// Work of those that join the head's run, s.
    joined_s: f64,
}

pub(super) struct Search<'v, 'l> {
    view: &'v View<'v>,
    head: &'v Waiting,
    /// See [`owed`].
    owed: Microjoules,
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
        let head = batch[0];
        let model = &view.catalog.models[head.request.model.index()];
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
            head,
            owed: owed(view, head),
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
        let mut ground = Ground::new(view, &places, self.head.request.model, self.prefixes.len());
        let mut all = Prospects::find(view, &self.prefixes, &places, self.variants);
        self.tally.any_loaded = !all.is_empty();
        self.try_prospects(&all.on_target, &mut ground);
        if self.log.is_some() || all.others.iter().any(|other| !self.is_beaten(other, other.least)) {
            all.sort_others();
            self.try_prospects(&all.others, &mut ground);
        }
        self.find_binding(&all, &mut ground);
        self.look(&places);
    }

    fn try_prospects(&mut self, prospects: &[Prospect], ground: &mut Ground<'v, '_>) {
        for prospect in prospects {
            if self.log.is_some() || !self.is_beaten(prospect, prospect.least) {
                self.try_prospect(prospect, ground);
            }
        }
    }

    /// Whether what was found is better than anything that costs so much per item.
    fn is_beaten(&self, prospect: &Prospect, per_item: f64) -> bool {
        let Some(best) = self.best.filter(|_| !self.races()) else { return false };
        match best.rank.grade {
            Grade::OnTarget => !prospect.accurate || best.rank.keys[0] <= per_item,
            Grade::OnTime => {
                let more = best.candidate.accuracy.cmp(&prospect.accuracy);
                !prospect.accurate && (more.is_gt() || more.is_eq() && best.rank.keys[1] <= per_item)
            }
            _ => false,
        }
    }

    /// Whether energy does not count.
    fn races(&self) -> bool {
        self.view.budgets.objective == Objective::Performance
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
        let draft = Draft {
            opp: by,
            boost: None,
            fallback: None,
            share_s: f64::INFINITY,
            spare_s: f64::INFINITY,
            held: true,
        };
        let (prefix, priced) = (*prefix, draft.price(view, prefix, &pair, best.start));
        let in_time = priced.miss <= place.risk.miss || by == place.top();
        let paid = view.ledger.available_at(self.head.request.class, priced.candidate.energy, 0.0, view.now);
        if in_time && priced.per_item <= prefix.energy_per_item && paid.is_some_and(|paid| paid <= view.now) {
            self.note(&prefix, &priced, best.start, best.rank.grade, Ruling::Chosen);
            self.best = Some(Ranked { looks: true, candidate: priced.candidate, ..best });
        }
    }

    /// What all variants have in common that run a batch on a unit.
    fn site<'p>(&self, prospect: &Prospect, ground: &mut Ground<'v, 'p>) -> Site<'v, 'p> {
        let index = prospect.prefix * ground.places.len() + prospect.place;
        *ground.sites[index].get_or_insert_with(|| {
            let (prefix, place) = (&self.prefixes[prospect.prefix], &ground.places[prospect.place]);
            let rescues = !self.races() && self.view.budgets.class(&self.head.request).rescue;
            let find = || Fallback::find(self.view, ground.places, place.unit, prefix, self.variants);
            let joined_s = joined_s(place, &self.batch[..prefix.count]);
            Site { fallback: rescues.then(find).flatten(), joined_s }
        })
    }

    fn terms<'p>(
        &self,
        prefix: &Prefix,
        prospect: &Prospect,
        ground: &mut Ground<'v, 'p>,
    ) -> Option<Terms<'v, 'p>> {
        let (view, place) = (self.view, &ground.places[prospect.place]);
        let pair = Pair::new(view, prospect.variant, place, prefix.items)?;
        let site = self.site(prospect, ground);
        let (crowd, newcomers) = &ground.crowds[prospect.place];
        let fastest_s = pair.seconds(place.top());
        let share_s = crowd.share_s(fastest_s, site.joined_s);
        let slower = (pair.seconds(place.present()) / fastest_s).max(1.0);
        let spare_s = crowd.spare_s(site.joined_s, (place.change_s(place.top()), slower));
        let quantile = |odds: f64| view.estimates.quantile(pair.variant, place.unit, 1.0 - odds);
        let fallback = site.fallback.filter(|fallback| fallback.pair.variant != pair.variant);
        // One in twenty can be told from few runs, one in a thousand cannot: what can be rescued is.
        let armed = fallback.and_then(|fallback| {
            let odds = allowed_rescues(prefix, &pair, &fallback) * place.risk.trust;
            (odds > place.risk.miss).then(|| (fallback, quantile(odds)))
        });
        let need = armed.map_or_else(|| quantile(place.risk.miss), |(_, need)| need);
        let time_s = seconds_until(prefix.deadline, place.free_at).min(share_s);
        let (top, settled_s) = (place.top(), place.change_s(place.top()));
        let lead_s = armed.map_or(0.0, |(fallback, _)| fallback.lead(top, need, time_s, settled_s).1);
        // What is to come may ask for a higher clock, not for more than there is.
        let reserving = |foreseen_s: f64, there_is_s: f64| time_s.min(foreseen_s.max(there_is_s) + lead_s);
        let foreseen_s = foreseen_s(view, &pair, self.head, prefix.count);
        let time_s = reserving(foreseen_s, fastest_s * need);
        let earliest_s = newcomers.iter().map(|newcomer| newcomer.free_s).min_by(f64::total_cmp);
        let free_s = earliest_s.map_or(time_s, |earliest_s| {
            let there_is_s = pair.course(top).when(need * ROUNDING) * self.group_speed(place);
            reserving(foreseen_s.min(earliest_s), there_is_s)
        });
        let yields = view.tuning.hedging
            && view.catalog.board.units[place.unit.index()].preemptible
            && self.batch[..prefix.count].iter().all(|waiting| waiting.may_begin_anew());
        let newcomers = newcomers.clone();
        Some(Terms { pair, share_s, spare_s, armed, need, time_s, newcomers, free_s, yields })
    }

    /// The time that the fastest unit of a unit's processor takes for the head, as a share of its own.
    fn group_speed(&self, place: &Place<'_>) -> f64 {
        let units = &self.view.catalog.board.units;
        let group = units[place.unit.index()].group;
        let of_group = units.iter().zip(&self.head.usual).filter(|(unit, _)| unit.group == group);
        let fastest = of_group.map(|(_, usual)| *usual).min().unwrap_or(Nanos::MAX);
        let own = self.head.usual.get(place.unit.index()).copied().unwrap_or(fastest);
        if own > fastest { fastest.as_f64() / own.as_f64() } else { 1.0 }
    }

    fn try_prospect(&mut self, prospect: &Prospect, ground: &mut Ground<'v, '_>) {
        let prefix = self.prefixes[prospect.prefix];
        let Some(terms) = self.terms(&prefix, prospect, ground) else { return };
        let plain = Draft { fallback: None, ..terms.draft(terms.pair.place.top()) };
        if self.races() {
            self.consider(&prefix, &terms.pair, &plain);
        } else if self.try_clocks(&prefix, &terms, prospect) {
            // A budget is short: a dearer clock starts later but runs faster.
            for &opp in terms.pair.ladder().iter() {
                if self.log.is_some() || !self.is_beaten(prospect, terms.pair.per_item(opp)) {
                    self.consider(&prefix, &terms.pair, &Draft { opp, ..plain });
                }
            }
        }
    }

    /// Looks at the clocks from the lowest up. True if a budget could not pay for something at once.
    fn try_clocks(&mut self, prefix: &Prefix, terms: &Terms<'v, '_>, prospect: &Prospect) -> bool {
        let (pair, ladder) = (&terms.pair, terms.pair.ladder());
        let (mut short, mut found) = (false, false);
        for (position, &opp) in ladder.iter().enumerate() {
            self.tally.considered += 1;
            let least = pair.per_item(opp);
            let pays = !self.is_beaten(prospect, least);
            if !pays && self.log.is_none() {
                continue;
            }
            let hold = terms.hold(self.view, &ladder[position..]);
            found |= hold.is_some();
            if let Some(boost) = hold {
                short |= self.consider(prefix, pair, &Draft { boost, ..terms.draft(opp) }) && pays;
            } else if self.log.is_some() && opp != pair.place.top() {
                self.consider(prefix, pair, &Draft { held: false, ..terms.draft(opp) });
            }
            let holds = hold.is_some_and(|boost| boost.is_none());
            self.tally.bind(least, holds, prospect.accurate);
            // What was learned may say that a higher one costs less, but little of that is true.
            if holds && self.log.is_none() {
                break;
            }
        }
        if self.log.is_some() {
            let others: SmallVec<[usize; 64]> =
                pair.place.allowed().filter(|opp| !ladder.contains(opp)).collect();
            for opp in others {
                self.consider(prefix, pair, &Draft { held: false, ..terms.draft(opp) });
            }
        }
        if !found {
            if prospect.accurate {
                self.tally.unheld = Some((pair.variant, pair.place.unit));
            }
            let top = pair.place.top();
            let pays = !self.is_beaten(prospect, pair.per_item(top));
            if pays || self.log.is_some() {
                // Another unit of the processor would be out of the way sooner.
                let held = terms.hold_within(self.view, &[top], terms.time_s).is_none();
                short |= self.consider(prefix, pair, &Draft { held, ..terms.draft(top) }) && pays;
            }
        }
        short
    }

    /// What keeps from something cheaper, of those that were not looked at.
    fn find_binding(&mut self, all: &Prospects, ground: &mut Ground<'v, '_>) {
        let Some(best) = self.best else { return };
        let mut cheaper: SmallVec<[&Prospect; 96]> =
            all.iter().filter(|one| one.least < best.per_item() && self.is_beaten(one, one.least)).collect();
        cheaper.sort_unstable_by(|a, b| a.least.total_cmp(&b.least));
        for prospect in cheaper {
            if prospect.least >= self.tally.cheapest_slow.min(self.tally.cheapest_inaccurate) {
                return;
            }
            let prefix = self.prefixes[prospect.prefix];
            if let Some(terms) = self.terms(&prefix, prospect, ground) {
                let holds = terms.hold(self.view, &[prospect.cheapest]).is_some();
                self.tally.bind(prospect.least, holds, prospect.accurate);
            }
        }
    }

    /// Prices a draft and keeps it if it is the best so far. True if a budget could not pay for it at once.
    fn consider<'p>(&mut self, prefix: &Prefix, pair: &Pair<'v, 'p>, draft: &Draft<'v, 'p>) -> bool {
        let (view, free_at) = (self.view, pair.place.free_at);
        let priced = draft.price(view, prefix, pair, free_at);
        if priced.per_item > prefix.energy_per_item {
            self.note(prefix, &priced, free_at, Grade::Unfit, Ruling::AboveRequestEnergy);
            return false;
        }
        self.tally.any_affordable = true;
        let Some(paid) = Paid::find(view, self.head.request.class, priced.candidate.energy, self.owed) else {
            self.note(prefix, &priced, free_at, Grade::Unfit, Ruling::Unpaid);
            return true;
        };
        self.tally.soonest_paid =
            Some(self.tally.soonest_paid.map_or(paid.at_all, |soonest| soonest.min(paid.at_all)));
        let (mut found, mut as_priced) = self.ranked(prefix, pair, draft, priced, paid.beside_all);
        if free_at.max(paid.at_all) < paid.beside_all && found.rank.grade > Grade::OnTime {
            let (mut hasty, mut priced) = self.ranked(prefix, pair, draft, priced, paid.at_all);
            if hasty.rank.grade < Grade::Crowding {
                let keys = [self.progress(&hasty.candidate), priced.per_item];
                hasty.rank = Rank { grade: Grade::Crowding, keys };
            } else if hasty.rank.grade == Grade::Late {
                (hasty, priced) = self.ranked(prefix, pair, draft, priced, paid.beside_reserve);
            }
            if hasty.rank < found.rank || found.rank.grade == Grade::Late {
                (found, as_priced) = (hasty, priced);
            }
        }
        let unpaid = found.for_budget && found.rank.grade > Grade::OnTarget;
        let ruling = if unpaid { Ruling::Unpaid } else { Ruling::Dearer };
        self.note(prefix, &as_priced, found.start, found.rank.grade, ruling);
        if found.rank.grade < Grade::Unfit && self.best.is_none_or(|best| found.rank < best.rank) {
            self.best = Some(found);
        }
        paid.beside_all > free_at
    }

    /// A draft that starts when it is paid for; `priced` as it would be if its unit were all that it waits for.
    fn ranked<'p>(
        &mut self,
        prefix: &Prefix,
        pair: &Pair<'v, 'p>,
        draft: &Draft<'v, 'p>,
        priced: Priced,
        paid: Timestamp,
    ) -> (Ranked, Priced) {
        let (start, for_budget) = (paid.max(pair.place.free_at), paid > pair.place.free_at);
        let priced = if for_budget { draft.price(self.view, prefix, pair, start) } else { priced };
        let mut rank = self.rank(prefix, &priced, (draft.share_s, draft.spare_s), start, for_budget);
        if !draft.held {
            rank.grade = rank.grade.max(Grade::Crowding);
        }
        let (count, candidate) = (prefix.count, priced.candidate);
        (Ranked { rank, start, for_budget, looks: false, count, candidate }, priced)
    }

    /// Seconds per item that a unit, or a budget that must bring in the energy, is taken up: where not all can be on
    /// time, what matters is to get through the queue. What a budget holds already is no gain: who comes next lacks it.
    fn progress(&self, candidate: &Candidate) -> f64 {
        let refill = self.view.ledger.refill_time(self.head.request.class, candidate.energy);
        // While it waits for a budget the unit is nobody's.
        let free_at = self.view.free_at[candidate.unit.index()].max(self.view.now);
        let busy = free_at.after(candidate.latency).since(self.view.now);
        busy.max(refill).as_secs_f64() / f64::from(candidate.items.max(1))
    }

    fn note(&mut self, prefix: &Prefix, priced: &Priced, start: Timestamp, grade: Grade, ruling: Ruling) {
        if self.log.is_none() {
            return;
        }
        let (candidate, accuracy, requests) = (priced.candidate, priced.accuracy, prefix.count);
        let progress = self.progress(&candidate);
        if let Some(log) = &mut self.log {
            log.push(Considered { requests, candidate, start, accuracy, progress, grade, ruling });
        }
    }

    fn rank(
        &mut self,
        prefix: &Prefix,
        priced: &Priced,
        (share_s, spare_s): (f64, f64),
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
        let progress = self.progress(candidate);
        let target = prefix.target.as_fraction();
        let slack = if candidate.rescue.is_some() { ACCURACY_SLACK } else { 0.0 };
        let accurate = candidate.accuracy >= prefix.target && priced.accuracy >= target - slack;
        let risk = self.view.risks.get(candidate.unit.index()).copied().unwrap_or_default();
        let ousts = candidate.latency.as_secs_f64() > spare_s;
        // Rounding must not rule out what was made to hold just so.
        if priced.miss <= risk.miss * 1.01 {
            if candidate.latency.as_secs_f64() > share_s * CROWDING {
                let grade = if ousts { Grade::Ousting } else { Grade::Crowding };
                return Rank { grade, keys: [progress, priced.per_item] };
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
            return if ousts {
                Rank { grade: Grade::Ousting, keys: [progress, priced.per_item] }
            } else {
                Rank { grade: Grade::Tight, keys: [priced.miss, priced.per_item] }
            };
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
        let (chosen, tally, per_item) = (ranked.candidate, &self.tally, ranked.per_item());
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

/// Seconds from one moment to a later one; negative if it is an earlier one.
pub(super) fn seconds_until(end: Timestamp, start: Timestamp) -> f64 {
    if end >= start { end.since(start).as_secs_f64() } else { -start.since(end).as_secs_f64() }
}
