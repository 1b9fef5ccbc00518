//! The planner: which variant, on which unit, at which clock, in which batch.
//!
//! For the most urgent request and those of the same model behind it, every configuration is priced:
//! the variants that are accurate enough and loaded, the units they may run on, the operating points of the
//! unit's clock domain, and prefixes of the queue as batches. A configuration costs the energy above idle
//! of its run, plus that of the time a clock change takes. It is
//!
//! 1. *on target* if its start (once the unit is free and the energy budgets have paid for it) plus its
//!    latency at the 99 % tail meets the batch's earliest deadline, and its accuracy the class's target;
//! 2. *on time* if only the accuracy falls short, though not below the floor;
//! 3. *tight* if it meets the deadline at its expected latency only;
//! 4. *late* otherwise, which only a soft deadline allows, or a latency that is no more than a guess.
//!
//! The best of the best grade wins: by energy per item on target, by accuracy and then energy on time, by
//! finish below that. So budgets that run dry push the start back, which pushes expensive variants from
//! grade 1 to grade 2, and accuracy falls only as far as a budget forces it to.

use crate::core::catalog::{Catalog, DomainId, Profile, UnitId, VariantId};
use crate::core::clocks::Clocks;
use crate::core::energy::{Budgets, Ledger, Objective};
use crate::core::estimate::Estimates;
use crate::core::event::{Rejection, RequestId};
use crate::core::queue::Waiting;
use crate::core::residency::Residency;
use crate::core::snapshot::Snapshot;
use crate::core::thermal::Regime;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microjoules, Nanos, Ppm};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// When asking again may help on a board that is too hot.
const COOLING: Nanos = Nanos::from_secs(5);

/// A configuration that was considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Variant.
    pub variant: VariantId,
    /// Unit.
    pub unit: UnitId,
    /// Clock; zero where the unit has no clock domain.
    pub clock: Kilohertz,
    /// Items in the batch.
    pub items: u32,
    /// Expected latency, queueing excluded.
    pub latency: Nanos,
    /// Expected energy of the batch above the board's idle.
    pub energy: Microjoules,
    /// Accuracy.
    pub accuracy: Ppm,
}

/// What kept the planner from something cheaper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// Nothing: the cheapest of all was taken.
    None,
    /// The deadline: cheaper ones are too slow.
    Deadline,
    /// The accuracy target: cheaper ones are less accurate.
    Accuracy,
    /// An energy, power or thermal budget: better ones cost more than is there.
    Budget,
}

/// A decision and its reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Explanation {
    /// The most urgent request of the batch.
    pub request: RequestId,
    /// Configurations priced.
    pub considered: u32,
    /// Those that met every constraint.
    pub feasible: u32,
    /// What was chosen.
    pub chosen: Candidate,
    /// What kept it from something cheaper or better.
    pub binding: Constraint,
}

/// What a held request waits for, and so who must wait with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaits {
    /// A busy unit: others may run elsewhere.
    Unit,
    /// Its class's budget: less urgent requests of the class must not drain it.
    Class,
    /// The device's budget: nobody less urgent may drain it.
    Device,
}

/// What to do with the most urgent request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// Run the first `requests` of the batch like this.
    Run {
        /// Requests of the batch that are taken.
        requests: usize,
        /// The decision.
        explanation: Explanation,
    },
    /// Wait: a busy unit, or a budget that fills up, makes a better start then than any does now.
    Hold {
        /// When to look again.
        until: Timestamp,
        /// What for.
        awaits: Awaits,
    },
    /// Nothing that would do is loaded yet.
    AwaitLoad,
    /// Turn it away.
    Reject(Rejection, Option<Nanos>),
}

/// Latency of a variant on a unit at each operating point of the unit's domain.
#[derive(Debug, Clone)]
struct Cost {
    /// Seconds for one item, overhead excluded, by operating point.
    item_s: Box<[f64]>,
    overhead_s: f64,
    marginal: f64,
}

/// All costs, tabulated so that pricing a configuration is a few multiplications: the p-norm is
/// homogeneous, so a batch scales the tabulated item latency.
#[derive(Debug, Clone)]
pub struct CostTable {
    clocks: Vec<Vec<Kilohertz>>,
    costs: Vec<Vec<Option<Cost>>>,
}

impl CostTable {
    /// Tabulates a catalogue.
    #[must_use]
    pub fn new(catalog: &Catalog) -> Self {
        let clocks: Vec<Vec<Kilohertz>> = (0..catalog.board.units.len())
            .map(|unit| {
                let domain =
                    catalog.board.units[unit].domain.map(|domain| &catalog.board.domains[domain.index()]);
                domain
                    .map(|domain| domain.opps.clone())
                    .filter(|opps| !opps.is_empty())
                    .unwrap_or(vec![Kilohertz::ZERO])
            })
            .collect();
        let mut table =
            Self { clocks, costs: vec![vec![None; catalog.board.units.len()]; catalog.variants.len()] };
        for variant in 0..catalog.variants.len() {
            for unit in 0..catalog.board.units.len() {
                table.update(catalog, VariantId::at(variant), UnitId::at(unit));
            }
        }
        table
    }

    /// Takes over a changed profile.
    pub fn update(&mut self, catalog: &Catalog, variant: VariantId, unit: UnitId) {
        let profile = catalog.variants[variant.index()].profiles[unit.index()];
        let clocks = &self.clocks[unit.index()];
        self.costs[variant.index()][unit.index()] = profile.map(|profile: Profile| {
            let bare = crate::core::catalog::Roofline { overhead_s: 0.0, ..profile.latency };
            Cost {
                item_s: clocks.iter().map(|&clock| bare.latency(clock, 1).as_secs_f64()).collect(),
                overhead_s: profile.latency.overhead_s,
                marginal: profile.latency.marginal,
            }
        });
    }

    /// Operating points of a unit; a single zero where it has no clock.
    #[must_use]
    pub fn clocks(&self, unit: UnitId) -> &[Kilohertz] {
        &self.clocks[unit.index()]
    }

    /// Profiled latency at the unit's `opp`-th operating point; `None` where the variant may not run.
    #[must_use]
    pub fn latency(&self, variant: VariantId, unit: UnitId, opp: usize, items: u32) -> Option<Nanos> {
        let cost = self.costs[variant.index()][unit.index()].as_ref()?;
        Some(Nanos::from_secs_f64(cost.seconds(opp, items)))
    }

    /// Index of the operating point of `unit` nearest below `clock`.
    #[must_use]
    pub fn opp_at(&self, unit: UnitId, clock: Kilohertz) -> usize {
        self.clocks[unit.index()].iter().rposition(|&opp| opp <= clock).unwrap_or(0)
    }
}

impl Cost {
    fn seconds(&self, opp: usize, items: u32) -> f64 {
        let scale = 1.0 + self.marginal * f64::from(items.saturating_sub(1));
        self.overhead_s + self.item_s[opp] * scale
    }
}

/// What the planner looks at. Borrowed whole from the core; nothing in here can be changed.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The present.
    pub now: Timestamp,
    /// What there is to choose from.
    pub catalog: &'a Catalog,
    /// Its costs.
    pub costs: &'a CostTable,
    /// What was learned about them.
    pub estimates: &'a Estimates,
    /// What is loaded.
    pub residency: &'a Residency,
    /// Clock domains.
    pub clocks: &'a Clocks,
    /// Last readings.
    pub snapshot: &'a Snapshot,
    /// Energy accounts.
    pub ledger: &'a Ledger,
    /// Budgets.
    pub budgets: &'a Budgets,
    /// Per unit: when it, and everything that shares its processor, is expected to be free.
    pub free_at: &'a [Timestamp],
    /// Per domain: whether a batch is running on it.
    pub domain_busy: &'a [bool],
    /// Thermal regime.
    pub regime: Regime,
    /// How a shortage of device budget is reported.
    pub shortage: Rejection,
}

/// The first `count` requests taken as one batch: the strictest of their constraints.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    count: usize,
    items: u32,
    deadline: Timestamp,
    hard: bool,
    floor: Ppm,
    target: Ppm,
    variant: Option<VariantId>,
    energy_per_item: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Grade {
    class: u8,
    /// Less is better, in order.
    keys: [f64; 2],
}

#[derive(Debug, Clone, Copy)]
struct Ranked {
    grade: Grade,
    start: Timestamp,
    for_budget: bool,
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
    soonest_paid: Option<Timestamp>,
    any_loaded: bool,
    any_affordable: bool,
}

/// Chooses for `batch[0]`, the most urgent request, with `batch[1..]` (same model, in order of urgency) to share
/// its run if that pays. Pure: the same view gives the same choice.
#[must_use]
pub fn choose(view: &View<'_>, batch: &[&Waiting]) -> Choice {
    let Some(head) = batch.first() else { return Choice::AwaitLoad };
    if view.regime == Regime::Critical {
        return too_hot(view, head);
    }
    let model = &view.catalog.models[head.request.model.index()];
    let prefixes = prefixes(batch, model.max_batch);
    let mut tally = Tally {
        considered: 0,
        feasible: 0,
        cheapest_slow: f64::INFINITY,
        cheapest_inaccurate: f64::INFINITY,
        accurate_unpaid: None,
        soonest_paid: None,
        any_loaded: false,
        any_affordable: false,
    };
    let mut best: Option<Ranked> = None;
    for &variant in &model.variants {
        for unit in (0..view.catalog.board.units.len()).map(UnitId::at) {
            if view.residency.is_available(variant, unit) {
                price(view, head, &prefixes, variant, unit, &mut tally, &mut best);
            }
        }
    }
    match best {
        Some(ranked) if ranked.start > view.now => {
            Choice::Hold { until: ranked.start, awaits: awaits(view, &ranked) }
        }
        Some(ranked) => Choice::Run { requests: ranked.count, explanation: explain(head, &ranked, &tally) },
        None => nothing_fits(view, head, &tally),
    }
}

fn awaits(view: &View<'_>, ranked: &Ranked) -> Awaits {
    let device = view.ledger.device_available_at(ranked.candidate.energy, view.now);
    match (ranked.for_budget, device) {
        (false, _) => Awaits::Unit,
        (true, Some(at)) if at < ranked.start => Awaits::Class,
        (true, _) => Awaits::Device,
    }
}

fn too_hot(view: &View<'_>, head: &Waiting) -> Choice {
    if head.hard {
        Choice::Reject(Rejection::TooHot, Some(COOLING))
    } else {
        Choice::Hold { until: view.now.after(COOLING), awaits: Awaits::Device }
    }
}

fn nothing_fits(view: &View<'_>, head: &Waiting, tally: &Tally) -> Choice {
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

/// Batches to consider: powers of two and the longest prefix whose requests agree.
fn prefixes(batch: &[&Waiting], max_batch: u32) -> SmallVec<[Prefix; 8]> {
    let mut all = SmallVec::new();
    let mut grown: Option<Prefix> = None;
    for (index, waiting) in batch.iter().enumerate() {
        let request = &waiting.request;
        let share = waiting
            .max_energy
            .map_or(f64::INFINITY, |energy| energy.as_f64() / f64::from(request.items.max(1)));
        let next = match grown {
            None => Prefix {
                count: 1,
                items: request.items,
                deadline: waiting.deadline,
                hard: waiting.hard,
                floor: waiting.floor,
                target: waiting.target,
                variant: request.variant,
                energy_per_item: share,
            },
            Some(prefix) => {
                let same_class = request.class == batch[0].request.class;
                let agrees = prefix.variant == request.variant && same_class;
                let items = prefix.items.saturating_add(request.items);
                if !agrees || items > max_batch {
                    break;
                }
                Prefix {
                    count: index + 1,
                    items,
                    deadline: prefix.deadline.min(waiting.deadline),
                    hard: prefix.hard && waiting.hard,
                    floor: prefix.floor.max(waiting.floor),
                    target: prefix.target.max(waiting.target),
                    variant: prefix.variant,
                    energy_per_item: prefix.energy_per_item.min(share),
                }
            }
        };
        grown = Some(next);
        if next.count.is_power_of_two() {
            all.push(next);
        }
    }
    all.extend(grown.filter(|last| !last.count.is_power_of_two()));
    all
}

/// Prices one variant on one unit over all clocks and batches.
fn price(
    view: &View<'_>,
    head: &Waiting,
    prefixes: &[Prefix],
    variant: VariantId,
    unit: UnitId,
    tally: &mut Tally,
    best: &mut Option<Ranked>,
) {
    let Some(cost) = &view.costs.costs[variant.index()][unit.index()] else { return };
    let accuracy = view.catalog.variants[variant.index()].accuracy;
    let tail = view.estimates.tail(unit);
    let free_at = view.free_at[unit.index()].max(view.now);
    let domain = view.catalog.board.units[unit.index()].domain;
    let (points, present) = clock_points(view, unit);
    let settle = domain.map_or(0.0, |domain| view.catalog.board.domains[domain.index()].settle.as_secs_f64());
    for prefix in prefixes {
        if accuracy < prefix.floor || prefix.variant.is_some_and(|only| only != variant) {
            continue;
        }
        for opp in points.clone() {
            let clock = view.costs.clocks[unit.index()][opp];
            let slowdown = view.estimates.slowdown_at_point(variant, unit, opp);
            let run_s = cost.seconds(opp, prefix.items) * slowdown;
            // Until a raised clock is in force the run is slower: at worst, all of that time is lost.
            let change_s = if present == Some(clock) { 0.0 } else { settle };
            let lost_s = if present.is_some_and(|present| clock > present) { change_s } else { 0.0 };
            let watts = view.estimates.busy_watts_at_point(variant, unit, opp);
            let energy = Microjoules::from_f64((run_s + change_s) * watts * 1e6);
            let candidate = Candidate {
                variant,
                unit,
                clock,
                items: prefix.items,
                latency: Nanos::from_secs_f64(run_s + lost_s),
                energy,
                accuracy,
            };
            tally.considered += 1;
            tally.any_loaded = true;
            let finish_tail = Nanos::from_secs_f64(run_s * tail + lost_s);
            rank(view, head, prefix, candidate, free_at, finish_tail, tally, best);
        }
    }
}

/// The operating points to choose from on a unit, and the clock in force.
fn clock_points(view: &View<'_>, unit: UnitId) -> (std::ops::Range<usize>, Option<Kilohertz>) {
    let Some(domain) = view.catalog.board.units[unit.index()].domain else { return (0..1, None) };
    let all = view.clocks.choices(&view.catalog.board, domain, view.snapshot);
    if all.is_empty() {
        return (0..1, None);
    }
    let present = view.clocks.present(domain, view.snapshot);
    let points = match view.budgets.objective {
        _ if view.regime.is_blind() => all.start..all.start + 1,
        Objective::Performance => all.end - 1..all.end,
        Objective::LeastEnergy => shared_floor(view, domain, all, present),
    };
    (points, present)
}

/// While another unit runs on the same domain, its clock may rise but not fall under it.
fn shared_floor(
    view: &View<'_>,
    domain: DomainId,
    all: std::ops::Range<usize>,
    present: Option<Kilohertz>,
) -> std::ops::Range<usize> {
    let Some(present) = present.filter(|_| view.domain_busy[domain.index()]) else { return all };
    let opps = &view.catalog.board.domains[domain.index()].opps;
    let floor = opps.iter().position(|&opp| opp >= present).unwrap_or(all.end - 1);
    floor.min(all.end - 1)..all.end
}

#[allow(clippy::too_many_arguments, reason = "the inner loop: everything that is priced once per candidate")]
fn rank(
    view: &View<'_>,
    head: &Waiting,
    prefix: &Prefix,
    candidate: Candidate,
    free_at: Timestamp,
    tail: Nanos,
    tally: &mut Tally,
    best: &mut Option<Ranked>,
) {
    let per_item = candidate.energy.as_f64() / f64::from(candidate.items.max(1));
    if per_item > prefix.energy_per_item {
        return;
    }
    tally.any_affordable = true;
    let performance = view.budgets.objective == Objective::Performance;
    let paid = if performance {
        Some(view.now)
    } else {
        view.ledger.available_at(head.request.class, candidate.energy, view.now)
    };
    let Some(paid) = paid else { return };
    tally.soonest_paid = Some(tally.soonest_paid.map_or(paid, |soonest| soonest.min(paid)));
    let start = free_at.max(paid);
    let finish = start.after(candidate.latency);
    let accurate = candidate.accuracy >= prefix.target;
    let lateness = Nanos(finish.0).as_f64();
    let grade = if performance {
        Grade {
            class: u8::from(finish > prefix.deadline && prefix.hard) * 4,
            keys: [-candidate.accuracy.as_f64(), lateness],
        }
    } else if start.after(tail) <= prefix.deadline {
        tally.feasible += 1;
        if accurate {
            Grade { class: 0, keys: [per_item, lateness] }
        } else {
            tally.cheapest_inaccurate = tally.cheapest_inaccurate.min(per_item);
            Grade { class: 1, keys: [-candidate.accuracy.as_f64(), per_item] }
        }
    } else {
        tally.cheapest_slow = tally.cheapest_slow.min(per_item);
        if accurate && paid > free_at {
            tally.accurate_unpaid = tally.accurate_unpaid.max(Some(candidate.accuracy));
        }
        match finish <= prefix.deadline {
            true => Grade { class: 2, keys: [lateness, per_item] },
            // Late anyway: what matters now is to get through the queue.
            false => {
                let share = Nanos(candidate.latency.0 / u64::from(candidate.items.max(1)));
                let progress = Nanos(start.after(share).0).as_f64();
                let guess = view.estimates.is_guess(view.catalog, candidate.variant, candidate.unit);
                Grade { class: if prefix.hard && !guess { 4 } else { 3 }, keys: [progress, per_item] }
            }
        }
    };
    if grade.class < 4 && best.is_none_or(|best| grade < best.grade) {
        *best = Some(Ranked { grade, start, for_budget: paid > free_at, count: prefix.count, candidate });
    }
}

fn explain(head: &Waiting, ranked: &Ranked, tally: &Tally) -> Explanation {
    let chosen = ranked.candidate;
    let per_item = chosen.energy.as_f64() / f64::from(chosen.items.max(1));
    let binding = if tally.accurate_unpaid.is_some_and(|accuracy| accuracy > chosen.accuracy) {
        Constraint::Budget
    } else if tally.cheapest_slow < per_item && tally.cheapest_slow <= tally.cheapest_inaccurate {
        Constraint::Deadline
    } else if tally.cheapest_inaccurate < per_item {
        Constraint::Accuracy
    } else {
        Constraint::None
    };
    Explanation {
        request: head.request.id,
        considered: tally.considered,
        feasible: tally.feasible,
        chosen,
        binding,
    }
}
