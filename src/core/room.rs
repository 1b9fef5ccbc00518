//! What variants are brought in and let go of, and how much memory they may hold: the configured cap, or less where the
//! machine or a limit on this process's control groups leaves less. Where memory is short, only what is in use stays.
//!
//! What is left is counted from what variants held when it was read: that much, and what was free then, less a reserve
//! for everybody else. To begin a load the whole reserve must be left; what is loaded goes when half of it is used up, so
//! that a machine near the bound does not swing between the two.

use super::queue::Waiting;
use super::residency::{Limits, Order, Pair, Residence};
use super::{Core, HORIZON};
use crate::core::catalog::{ModelId, UnitId};
use crate::core::event::{Effect, MemoryState, RequestId};
use crate::time::Timestamp;
use crate::units::{Bytes, Nanos, Ppm};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// The part of all memory, or of the limit, that is left to others.
const RESERVE: u64 = 20;
/// Share of the last 10 s in which some task waited for memory from which on it counts as short.
const PRESSED: Ppm = Ppm(100_000);
/// It counts as short for so long after that was last so: what is loaded sooner would press again.
const CALM: Nanos = Nanos::from_secs(60);
/// A model that was asked for once is not expected sooner.
const ONCE: Nanos = Nanos::from_secs(60);

/// What was read of memory, and what variants held then.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Room {
    read: Option<(MemoryState, Bytes)>,
    pressed_until: Option<Timestamp>,
}

impl Room {
    /// Bytes that variants may hold if `part` of the reserve is kept.
    fn cap(&self, part: u64) -> Option<Bytes> {
        let (memory, held) = self.read?;
        let whole = memory.limit.map_or(memory.total, |limit| limit.min(memory.total));
        let reserve = Bytes(whole.0 / RESERVE / part);
        Some(held.saturating_add(memory.room()).saturating_sub(reserve))
    }
}

impl Core {
    /// Takes in what the sensors say of memory.
    pub(super) fn observe_memory(&mut self, now: Timestamp) {
        let memory = &self.snapshot.memory;
        let known = memory.value.filter(|_| memory.fault.is_none());
        match known {
            None => self.room.read = None,
            // A load under way has taken some of what it will: neither counts. Nor does a reading that was here before.
            Some(memory) if !self.residency.is_moving() => {
                if self.room.read.is_none_or(|(before, _)| before != memory) {
                    self.room.read = Some((memory, self.residency.held(&self.catalog)));
                }
            }
            Some(_) => {}
        }
        let pressure = &self.snapshot.pressure;
        if pressure.at == now && pressure.value.is_some_and(|pressure| pressure.memory >= PRESSED) {
            self.room.pressed_until = Some(now.after(CALM));
        }
    }

    /// What bounds residence now.
    #[must_use]
    pub fn memory_limits(&self, now: Timestamp) -> Limits {
        let cap = self.budgets.memory_cap;
        let within = |part| self.room.cap(part).map_or(cap, |room| room.min(cap));
        Limits {
            cap: within(2),
            room: within(1),
            pressed: self.room.pressed_until.is_some_and(|until| now < until),
            unload_after: self.budgets.unload_after,
        }
    }

    /// The least memory with which a model can be served; `None` if it may run nowhere.
    #[must_use]
    pub fn least_memory(&self, model: ModelId) -> Option<Bytes> {
        let variants = &self.catalog.models[model.index()].variants;
        let profiles = variants.iter().flat_map(|variant| &self.catalog.variants[variant.index()].profiles);
        profiles.flatten().map(|profile| profile.footprint).min()
    }

    /// By how much a request would be late because what would do for it is only being loaded, with its id; `None` if it
    /// would not be, or something that would do is there, or nothing is on its way.
    pub(super) fn late_load(&self, now: Timestamp, waiting: &Waiting) -> Option<(Nanos, RequestId)> {
        let mut loaded: Option<Timestamp> = None;
        let variants = &self.catalog.models[waiting.request.model.index()].variants;
        for &variant in variants.iter().filter(|variant| waiting.accepts(&self.catalog, **variant)) {
            for (unit, lane) in self.lanes.iter().enumerate() {
                match self.residency.of(variant, UnitId::at(unit)) {
                    Residence::Loaded { .. } => return None,
                    Residence::Loading { .. } => {
                        let at = lane.loaded_at(now);
                        loaded = Some(loaded.map_or(at, |other| other.min(at)));
                    }
                    _ => {}
                }
            }
        }
        let finish = loaded?.after(waiting.fastest.iter().copied().min()?);
        (finish > waiting.deadline).then(|| (finish.since(waiting.deadline), waiting.request.id))
    }

    /// For each urgent request that nothing loaded would do for: the smallest of what would.
    fn awaited(&self, now: Timestamp) -> SmallVec<[Pair; 4]> {
        let mut awaited: SmallVec<[Pair; 4]> = SmallVec::new();
        let cap = self.memory_limits(now).room;
        for waiting in self.queue.iter().take(HORIZON) {
            let accepts = |variant| waiting.accepts(&self.catalog, variant);
            let (catalog, model) = (&self.catalog, waiting.request.model);
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
            let wishes = (&awaited[..], &self.next_uses(now)[..]);
            let orders = residency.orders(&self.catalog, limits, wishes, |_| true, |_| false, now);
            assert!(orders.is_empty(), "settled, and yet {orders:?}");
        }
        settled
    }

    /// By model: how long it is expected to be until it is asked for. Of one that was asked for once that is not known:
    /// as long again as it has been silent, and a minute at least.
    fn next_uses(&self, now: Timestamp) -> SmallVec<[Nanos; 8]> {
        let expected = |model: ModelId| {
            let silent = self.residency.unused_for(model, now);
            if self.tuning.last_use {
                return silent;
            }
            self.estimates.rhythm(model).map_or(silent.max(ONCE), |rhythm| rhythm.expected_in(now))
        };
        (0..self.catalog.models.len()).map(ModelId::at).map(expected).collect()
    }

    /// Orders loads and unloads.
    pub(super) fn move_in(&mut self, now: Timestamp) {
        let limits = self.memory_limits(now);
        if self.is_settled(limits, now) {
            return;
        }
        let (awaited, next_uses) = (self.awaited(now), self.next_uses(now));
        let lanes = &self.lanes;
        let may_load = |pair: Pair| lanes[pair.1.index()].loading_since.is_none();
        let counted_on = |(variant, unit): Pair| lanes.iter().any(|lane| lane.counts_on(variant, unit));
        let in_use = |pair: Pair| lanes[pair.1.index()].runs(pair.0) || counted_on(pair);
        let wishes = (&awaited[..], &next_uses[..]);
        let orders = self.residency.orders(&self.catalog, limits, wishes, may_load, in_use, now);
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
}
