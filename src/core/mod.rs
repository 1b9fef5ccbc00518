//! The pure core: what decides. No files, clocks, threads, sockets, metrics or randomness in here.
//!
//! ```text
//! handle(now, Event) ──▶ state ──▶ schedule(now) ──▶ Effects, drained with poll_effect()
//! ```
//! and `next_wakeup()` says when to call `handle(now, Event::Wake)` if nothing happens before.

mod admission;
mod caps;
pub mod catalog;
pub mod clocks;
pub mod energy;
pub mod estimate;
pub mod event;
pub mod explain;
pub mod fit;
mod hedge;
mod lanes;
pub mod plan;
pub mod points;
mod preempt;
pub mod queue;
mod ready;
pub mod residency;
pub mod snapshot;
mod status;
pub mod thermal;
pub mod tuning;

use crate::time::Timestamp;
use crate::units::{Microjoules, Microwatts, MilliCelsius, Nanos};
use catalog::{Catalog, DomainId, Profile, UnitId, VariantId};
use clocks::Clocks;
use energy::{Budgets, Ledger, Objective};
use estimate::Estimates;
use event::{
    BatchRequests, ClockBounds, Dispatch, Effect, Event, Note, Outcome, Readings, Rejection, RequestId,
};
use hedge::Hedges;
use lanes::{Lane, Member, Running};
use plan::{Awaits, Choice, CostTable, Explanation, Risk, View};
use queue::{Queue, Waiting};
use residency::{Limits, Order, Pair, Residence, Residency};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use snapshot::Snapshot;
use std::collections::VecDeque;
use thermal::{Regime, Thermal};
use tuning::Tuning;

#[cfg(test)]
mod tests;

pub use status::{BudgetStatus, CoreStatus};

/// Most urgent requests looked at per decision round; the rest wait for the next event.
const HORIZON: usize = 64;

/// Which cap the device's power is held back by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum DeviceCap {
    None,
    Power,
    Heat,
    Energy,
}

/// The state machine. As serialised it lacks the request that is watched, which changes no decision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Core {
    catalog: Catalog,
    budgets: Budgets,
    budgets_since: Timestamp,
    energy_at_budgets: Microjoules,
    /// Energy of the board when the battery was read last.
    energy_at_battery: Microjoules,
    costs: CostTable,
    queue: Queue,
    snapshot: Snapshot,
    thermal: Thermal,
    ledger: Ledger,
    estimates: Estimates,
    tuning: Tuning,
    /// By unit.
    risks: Vec<Risk>,
    residency: Residency,
    clocks: Clocks,
    lanes: Vec<Lane>,
    /// By model.
    ready: Vec<Option<ready::Ready>>,
    device_cap: DeviceCap,
    hold_until: Option<Timestamp>,
    /// The unit that the profiler occupies.
    probing: Option<UnitId>,
    /// Whether a probe ran since the last sweep of the sensors.
    probed: bool,
    board_power: Microwatts,
    effects: VecDeque<Effect>,
    next_batch: u64,
    draining: bool,
    #[serde(skip)]
    watch: Option<Box<explain::Watch>>,
}

impl Core {
    /// A core that has seen nothing yet.
    ///
    /// # Panics
    /// If `budgets` has no class; validation of the configuration provides the default one.
    #[must_use]
    pub fn new(catalog: Catalog, budgets: Budgets, now: Timestamp) -> Self {
        Self::tuned(catalog, budgets, Tuning::default(), now)
    }

    /// The same with parts of the planner and of the estimators turned off, to show what they are worth.
    ///
    /// # Panics
    /// As [`Core::new`].
    #[must_use]
    pub fn tuned(catalog: Catalog, budgets: Budgets, tuning: Tuning, now: Timestamp) -> Self {
        assert!(!budgets.classes.is_empty(), "budgets have at least the default class");
        Self {
            costs: CostTable::new(&catalog),
            queue: Queue::default(),
            snapshot: Snapshot::new(&catalog.board),
            thermal: Thermal::new(&catalog.board),
            ledger: Ledger::new(&budgets, now),
            estimates: Estimates::tuned(&catalog, tuning),
            tuning,
            risks: vec![Risk::default(); catalog.board.units.len()],
            residency: Residency::new(&catalog),
            clocks: Clocks::new(&catalog.board),
            lanes: vec![Lane::default(); catalog.board.units.len()],
            ready: vec![None; catalog.models.len()],
            device_cap: DeviceCap::None,
            hold_until: None,
            probing: None,
            probed: false,
            board_power: catalog.board.idle_power,
            effects: VecDeque::with_capacity(HORIZON),
            next_batch: 0,
            draining: false,
            watch: None,
            budgets_since: now,
            energy_at_budgets: Microjoules::ZERO,
            energy_at_battery: Microjoules::ZERO,
            catalog,
            budgets,
        }
    }

    /// Takes in an event and decides. Effects are then drained with [`Core::poll_effect`].
    ///
    /// An event that names a variant, unit, model or domain that does not exist changes nothing; such a
    /// request is turned away.
    pub fn handle(&mut self, now: Timestamp, event: Event) {
        let arrives = matches!(event, Event::Submit(_));
        match event {
            event if !event.fits(&self.catalog) => {}
            Event::Submit(request) => self.submit(now, request),
            Event::Cancel(request) => self.cancel(request),
            Event::Completed(completion) => self.completed(now, &completion),
            Event::Loaded { variant, unit, footprint } => {
                self.lanes[unit.index()].end_load(now);
                self.residency.set(variant, unit, Residence::Loaded { footprint });
                if let Some(profile) = &mut self.catalog.variants[variant.index()].profiles[unit.index()] {
                    profile.footprint = footprint;
                }
            }
            Event::LoadFailed { variant, unit } => self.load_failed(now, variant, unit),
            Event::Unloaded { variant, unit } => self.residency.unloaded(variant, unit),
            Event::Present { unit, yes } => self.residency.present(unit, yes),
            Event::Retain { model, resident } => self.residency.retain(model, resident),
            Event::Sampled(readings) => self.sampled(now, &readings),
            Event::Applied(report) => {
                let changed = self.clocks.applied(&report, now);
                self.correct_courses(&report, now);
                self.note_controllable(&changed);
            }
            Event::Probing(unit) => {
                self.probing = unit;
                self.probed = true;
            }
            Event::Hold { domain, clock } => self.clocks.hold(domain, clock, now),
            Event::Profiled { variant, unit, profile } => self.profiled(variant, unit, profile),
            Event::Restored(learned) => self.estimates.restore(&learned),
            Event::Reconfigured(budgets) => self.reconfigure(now, *budgets),
            Event::Drain => self.draining = true,
            Event::Wake => {}
        }
        self.expire(now);
        self.queue.put_late_last(now);
        self.carry_out_programs(now);
        // Before the choice: who waits for a run that is sped up is not too late.
        if arrives {
            self.hasten(now);
        }
        self.schedule(now);
        self.make_room(now);
        self.watch_standing();
        self.move_in(now);
        self.settle_clocks(now);
        if cfg!(debug_assertions) {
            self.invariants();
        }
    }

    /// The next thing to do, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Event::Wake`] is due if nothing happens before; `None` = never.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let candidates = [
            self.queue.first_hard_deadline(),
            self.lanes.iter().filter_map(Lane::next_deadline).min(),
            self.lanes.iter().filter_map(Lane::next_hedge).min(),
            self.hold_until,
            self.next_relax(),
            self.next_ready(),
            self.clocks.next_retry(),
            self.residency.next_retry(),
            self.residency.next_expiry(self.budgets.unload_after),
            self.staleness(),
        ];
        candidates.into_iter().flatten().min()
    }

    /// When an idle clock is to be let down; never while all clocks are held.
    fn next_relax(&self) -> Option<Timestamp> {
        let held =
            self.thermal.regime() == Regime::Critical || self.budgets.objective == Objective::Performance;
        if held { None } else { self.clocks.next_relax(&self.catalog.board) }
    }

    /// When the regime must be looked at again because a reading grows too old.
    fn staleness(&self) -> Option<Timestamp> {
        if self.thermal.regime().is_blind() {
            return None;
        }
        let oldest = self.snapshot.zones.iter().filter(|zone| zone.value.is_some()).map(|zone| zone.at).min();
        oldest.map(|at| at.after(self.budgets.stale_after).after(Nanos(1)))
    }

    fn reply(&mut self, request: RequestId, app: event::AppId, outcome: Outcome) {
        self.queue.answered(app);
        self.effects.push_back(Effect::Reply { request, outcome });
    }

    fn reject(&mut self, id: RequestId, reason: Rejection, retry_after: Option<Nanos>) {
        if let Some(waiting) = self.queue.take(id) {
            self.reply(id, waiting.request.app, Outcome::Rejected { reason, retry_after });
        }
    }

    /// Turns away what waited too long and stops what runs for nobody.
    fn expire(&mut self, now: Timestamp) {
        for id in self.queue.expired(now) {
            self.reject(id, Rejection::DeadlinePassed, None);
        }
        while let Some((request, app)) = self.lanes.iter().find_map(|lane| lane.first_late(now)) {
            let outcome = Outcome::Rejected { reason: Rejection::DeadlinePassed, retry_after: None };
            self.reply(request, app, outcome);
            self.mark_missed(request);
        }
        self.update_regime(now);
        let back = self.clocks.retry(now);
        self.note_controllable(&back);
    }

    /// Gives the free lanes work, most urgent request first.
    fn schedule(&mut self, now: Timestamp) {
        self.hold_until = None;
        let mut skipped: SmallVec<[RequestId; HORIZON]> = SmallVec::new();
        let mut dry: SmallVec<[event::ClassId; 4]> = SmallVec::new();
        while skipped.len() < HORIZON && self.some_lane_free() {
            let Some((head, choice)) = self.choose_next(now, &skipped, &dry) else { return };
            self.watch_choice(now, &skipped, &dry, &choice);
            match choice {
                Choice::Run { requests, explanation } => self.dispatch(now, head, requests, &explanation),
                Choice::Hold { until, awaits } => {
                    self.hold_until = Some(self.hold_until.map_or(until, |at| at.min(until)));
                    match awaits {
                        Awaits::Unit => skipped.push(head),
                        Awaits::Class => dry.extend(self.queue.class_of(head)),
                        Awaits::Device => return,
                    }
                }
                Choice::AwaitLoad => skipped.push(head),
                Choice::Reject(reason, retry_after) => self.reject(head, reason, retry_after),
            }
        }
    }

    /// The most urgent request that was not skipped and whose class has energy, and what to do with it.
    fn choose_next(
        &self,
        now: Timestamp,
        skipped: &[RequestId],
        dry: &[event::ClassId],
    ) -> Option<(RequestId, Choice)> {
        let choose = |view: &View<'_>, batch: &[&Waiting]| (batch[0].request.id, plan::choose(view, batch));
        self.look_at_next(now, skipped, dry, choose)
    }

    /// Shows that request, first of those that could share its run, with all that a decision looks at.
    fn look_at_next<T>(
        &self,
        now: Timestamp,
        skipped: &[RequestId],
        dry: &[event::ClassId],
        look: impl FnOnce(&View<'_>, &[&Waiting]) -> T,
    ) -> Option<T> {
        let paid = self.queue.iter().filter(|waiting| !dry.contains(&waiting.request.class));
        let passed: SmallVec<[&Waiting; HORIZON]> =
            skipped.iter().filter_map(|id| self.queue.get(*id)).collect();
        let head =
            paid.take(HORIZON).find(|waiting| !passed.iter().any(|other| other.speaks_for(waiting)))?;
        let behind = self.queue.iter().skip_while(|waiting| waiting.request.id != head.request.id);
        let fellows = behind.filter(|waiting| waiting.request.model == head.request.model);
        let limit = self.catalog.models[head.request.model.index()].max_batch as usize;
        let batch: SmallVec<[&Waiting; HORIZON]> = fellows.take(limit.clamp(1, HORIZON)).collect();
        let behind = self.queue.iter().skip_while(|waiting| waiting.request.id != head.request.id);
        let behind: SmallVec<[&Waiting; HORIZON]> = behind.skip(1).take(HORIZON).collect();
        let free_at = self.free_times(now);
        let domain_busy = self.busy_domains();
        let followers = behind.iter().filter(|waiting| waiting.request.model == head.request.model).count();
        let view = View { followers, ..self.view(now, &free_at, &domain_busy, &behind) };
        Some(look(&view, &batch))
    }

    fn view<'a>(
        &'a self,
        now: Timestamp,
        free_at: &'a [Timestamp],
        domain_busy: &'a [bool],
        behind: &'a [&'a Waiting],
    ) -> View<'a> {
        View {
            now,
            catalog: &self.catalog,
            costs: &self.costs,
            estimates: &self.estimates,
            residency: &self.residency,
            clocks: &self.clocks,
            snapshot: &self.snapshot,
            ledger: &self.ledger,
            budgets: &self.budgets,
            tuning: self.tuning,
            risks: &self.risks,
            free_at,
            behind,
            followers: 0,
            domain_busy,
            regime: self.thermal.regime(),
            shortage: self.shortage(),
        }
    }

    fn shortage(&self) -> Rejection {
        match self.device_cap {
            DeviceCap::Heat => Rejection::TooHot,
            DeviceCap::Energy => Rejection::EnergyExhausted,
            DeviceCap::Power | DeviceCap::None => Rejection::PowerBudget,
        }
    }

    /// Takes the head and its followers out of the queue and sends them to their lane.
    fn dispatch(&mut self, now: Timestamp, head: RequestId, requests: usize, explanation: &Explanation) {
        let chosen = explanation.chosen;
        let Some(model) =
            self.queue.iter().find(|waiting| waiting.request.id == head).map(|waiting| waiting.request.model)
        else {
            return;
        };
        let ids: BatchRequests = self
            .queue
            .iter()
            .skip_while(|waiting| waiting.request.id != head)
            .filter(|waiting| waiting.request.model == model)
            .take(requests)
            .map(|waiting| waiting.request.id)
            .collect();
        let mut members: SmallVec<[Member; 8]> = SmallVec::new();
        for &id in &ids {
            let Some(waiting) = self.queue.take(id) else { continue };
            let share = share(chosen.energy, waiting.request.items, chosen.items);
            self.ledger.reserve(waiting.request.class, share, now);
            members.push(Member::new(waiting, share));
        }
        let dispatch = Dispatch {
            batch: self.next_batch_id(),
            unit: chosen.unit,
            variant: chosen.variant,
            requests: ids,
            items: chosen.items,
            point: chosen.point,
            expected: chosen.latency,
            reserved: chosen.energy,
        };
        self.effects.push_back(Effect::Note(Note::Decision(*explanation)));
        self.start(dispatch, members, Hedges::new(now, chosen.boost, chosen.rescue), now);
    }

    /// For each urgent request that nothing loaded would do for: the smallest of what would.
    fn awaited(&self, now: Timestamp) -> SmallVec<[Pair; 4]> {
        let mut awaited: SmallVec<[Pair; 4]> = SmallVec::new();
        for waiting in self.queue.iter().take(HORIZON) {
            let accepts = |variant| waiting.accepts(&self.catalog, variant);
            let (catalog, model) = (&self.catalog, waiting.request.model);
            let cap = self.budgets.memory_cap;
            let Some(pair) = self.residency.missing(catalog, model, cap, now, accepts) else { continue };
            if !awaited.contains(&pair) {
                awaited.push(pair);
            }
        }
        awaited
    }

    /// Whether there is nothing to load or unload. Tests of the core find out the long way, too.
    fn is_settled(&self, limits: Limits, now: Timestamp) -> bool {
        let settled = self.residency.is_settled(limits, now);
        if settled && cfg!(test) {
            let (mut residency, awaited) = (self.residency.clone(), self.awaited(now));
            let orders = residency.orders(&self.catalog, limits, &awaited, |_| true, |_| false, now);
            assert!(orders.is_empty(), "settled, and yet {orders:?}");
        }
        settled
    }

    /// Orders loads and unloads.
    fn move_in(&mut self, now: Timestamp) {
        let limits = Limits { cap: self.budgets.memory_cap, unload_after: self.budgets.unload_after };
        if self.is_settled(limits, now) {
            return;
        }
        let awaited = self.awaited(now);
        let lanes = &self.lanes;
        // Loading occupies the lane: it may where the planner left the lane idle. What a request waits for may
        // always; it comes after the batch that runs.
        let may_load = |pair: Pair| {
            let lane = &lanes[pair.1.index()];
            lane.loading_since.is_none() && (lane.running.is_none() || awaited.contains(&pair))
        };
        let counted_on = |(variant, unit): Pair| lanes.iter().any(|lane| lane.counts_on(variant, unit));
        let in_use = |pair: Pair| lanes[pair.1.index()].runs(pair.0) || counted_on(pair);
        let orders = self.residency.orders(&self.catalog, limits, &awaited, may_load, in_use, now);
        for order in orders {
            match order {
                Order::Load(variant, unit) => {
                    self.lanes[unit.index()].loading_since = Some(now);
                    self.effects.push_back(Effect::Load { variant, unit });
                }
                Order::Unload(variant, unit) => self.effects.push_back(Effect::Unload { variant, unit }),
            }
        }
    }

    /// Lets idle clocks down, holds everything at its lowest while critical, and sends what was asked.
    fn settle_clocks(&mut self, now: Timestamp) {
        let floors = self.floors(now);
        let board = &self.catalog.board;
        if self.thermal.regime() == Regime::Critical {
            for (index, domain) in board.domains.iter().enumerate() {
                if let Some(&low) = domain.opps.first() {
                    self.clocks.ask(DomainId::at(index), ClockBounds { min: low, max: low }, now);
                }
            }
        } else if self.budgets.objective == Objective::Performance {
            for (index, domain) in board.domains.iter().enumerate() {
                if let Some(&high) = domain.opps.last() {
                    self.clocks.ask(DomainId::at(index), ClockBounds { min: high, max: high }, now);
                }
            }
        } else {
            let lanes = &self.lanes;
            self.clocks.relax(board, &floors, |unit| lanes[unit.index()].running.is_some(), now);
        }
        if let Some(setpoints) = self.clocks.take_pending() {
            self.effects.push_back(Effect::Set(setpoints));
        }
    }

    fn sampled(&mut self, now: Timestamp, readings: &Readings) {
        let span = self.snapshot.sampled_at.map_or(Nanos::ZERO, |at| now.since(at));
        let fresh_rails = readings.rails.iter().any(Result::is_ok);
        self.snapshot.absorb(now, readings, self.board_power);
        let hottest = self.snapshot.hottest(now, self.budgets.stale_after);
        let busy = self.estimates.close_interval(now, hottest.map(MilliCelsius::as_celsius));
        let modelled = self.estimates.idle_power().saturating_add(busy);
        let measured = self.snapshot.board_power(now, Nanos::ZERO).filter(|_| fresh_rails);
        if let Some(measured) = measured {
            let above_idle = measured.saturating_sub(self.estimates.idle_power()).as_f64();
            self.ledger.true_up(above_idle * span.as_secs_f64(), now);
        }
        // What a probe draws is nobody's here.
        let probed = std::mem::replace(&mut self.probed, self.probing.is_some());
        if let Some(measured) = measured.filter(|_| !probed) {
            self.estimates.observe_power(measured, busy, now);
        }
        self.board_power = measured.unwrap_or(modelled);
        if let Some(hottest) = hottest.filter(|_| self.snapshot.all_fresh(now)) {
            self.estimates.observe_heat(now, hottest, self.board_power);
        }
        self.ledger.board_energy = self.ledger.board_energy.saturating_add(self.board_power.over(span));
        if self.snapshot.battery.at == now && self.snapshot.battery.fault.is_none() {
            self.energy_at_battery = self.ledger.board_energy;
        }
        self.clocks.sampled(&self.snapshot, now);
        self.update_regime(now);
        self.update_caps(now);
    }

    fn update_regime(&mut self, now: Timestamp) {
        if self.snapshot.sampled_at.is_none() {
            return;
        }
        let transition =
            self.thermal.update(now, &self.snapshot, &self.budgets, &self.catalog.board, self.board_power);
        if let Some(transition) = transition {
            self.effects.push_back(Effect::Note(Note::Regime(transition)));
            self.update_caps(now);
        }
    }

    fn load_failed(&mut self, now: Timestamp, variant: VariantId, unit: UnitId) {
        self.lanes[unit.index()].end_load(now);
        self.back_off(now, variant, unit);
    }

    /// Leaves a variant alone on a unit for a while, and after some tries for good.
    fn back_off(&mut self, now: Timestamp, variant: VariantId, unit: UnitId) {
        if self.residency.failed(variant, unit, now) {
            self.effects.push_back(Effect::Note(Note::Quarantined { variant, unit }));
        }
    }

    fn profiled(&mut self, variant: VariantId, unit: UnitId, profile: Option<Profile>) {
        self.catalog.variants[variant.index()].profiles[unit.index()] = profile;
        self.residency.profiles_changed();
        self.costs.update(&self.catalog, variant, unit);
        self.estimates.forget(&self.catalog, variant, unit);
        self.residency.pardon(variant, unit);
        if profile.is_none() {
            self.effects.push_back(Effect::Note(Note::Quarantined { variant, unit }));
        }
    }

    fn reconfigure(&mut self, now: Timestamp, budgets: Budgets) {
        // A reload that leaves the allowances alone must not start their clocks anew.
        if budgets.energy != self.budgets.energy || budgets.battery != self.budgets.battery {
            self.budgets_since = now;
            self.energy_at_budgets = self.ledger.board_energy;
        }
        debug_assert!(!budgets.classes.is_empty(), "budgets have at least the default class");
        if budgets.classes.is_empty() {
            return;
        }
        self.budgets = budgets;
        self.ledger.reconfigure(&self.budgets, now);
        self.update_caps(now);
    }

    fn note_controllable(&mut self, changed: &[(DomainId, bool)]) {
        self.effects
            .extend(changed.iter().map(|&(domain, yes)| Effect::Note(Note::Controllable { domain, yes })));
    }

    /// Panics if the state contradicts itself. Called after every event in debug builds.
    pub fn invariants(&self) {
        self.queue.invariants();
        let reserved: u64 =
            self.lanes.iter().filter_map(|lane| lane.running.as_ref()).map(Running::reserved).sum();
        assert_eq!(self.ledger.reserved().0, reserved, "what is reserved is what runs");
        for (unit, lane) in self.lanes.iter().enumerate() {
            if let Some(running) = &lane.running {
                let loaded = self.residency.of(running.dispatch.variant, UnitId::at(unit));
                assert!(
                    matches!(loaded, Residence::Loaded { .. }),
                    "only loaded variants run, not {loaded:?}"
                );
            }
        }
        let groups = &self.catalog.board.units;
        for (a, b) in (0..groups.len()).flat_map(|a| (a + 1..groups.len()).map(move |b| (a, b))) {
            let both = self.lanes[a].running.is_some() && self.lanes[b].running.is_some();
            assert!(!(both && groups[a].group == groups[b].group), "units that share a processor take turns");
        }
    }
}

/// A request's share of a batch's energy, by items. Rounded down: the shares never exceed the whole.
fn share(energy: Microjoules, items: u32, of: u32) -> Microjoules {
    let whole = u128::from(energy.0) * u128::from(items) / u128::from(of.max(1));
    Microjoules(u64::try_from(whole).unwrap_or(u64::MAX))
}
