//! Which variants are held in memory, on which lane.
//!
//! First comes what a waiting request cannot do without. Then every retained model gets its smallest variant
//! on one unit, so that it can be served at all; then the most used models and the rest of their ladders
//! follow while the memory cap lasts. Loading is ordered one at a time per lane; a failure backs off and,
//! after a few tries, gives up for good.

use crate::core::catalog::{Catalog, ModelId, UnitId, VariantId};
use crate::time::Timestamp;
use crate::units::{Bytes, Nanos};
use serde::{Deserialize, Serialize};

/// Tries before a variant is left alone until its profile or manifest changes.
const MAX_TRIES: u32 = 3;
const BACKOFF: Nanos = Nanos::from_secs(5);

/// Where a variant stands on a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Residence {
    /// Not in memory.
    #[default]
    Absent,
    /// Ordered.
    Loading {
        /// Tries that failed before.
        tries: u32,
    },
    /// Ready to run.
    Loaded {
        /// Memory it holds.
        footprint: Bytes,
    },
    /// Ordered out.
    Unloading,
    /// Could not be loaded.
    Failed {
        /// How often.
        tries: u32,
        /// No new try before; the origin of time once that has passed, the end of time if it is given up.
        until: Timestamp,
    },
}

/// A model used so recently keeps what it has in memory.
const KEEP: Nanos = Nanos::from_secs(10);

/// A variant on a unit.
pub type Pair = (VariantId, UnitId);

/// What bounds residence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory that all loaded variants may hold together.
    pub cap: Bytes,
    /// Time after which an unused model is let go of; `None` = only when memory is needed.
    pub unload_after: Option<Nanos>,
}

/// An order to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Bring it in.
    Load(VariantId, UnitId),
    /// Let go of it.
    Unload(VariantId, UnitId),
}

/// The table of residences and wishes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Residency {
    table: Vec<Vec<Residence>>,
    /// Failures since the last run that succeeded.
    strikes: Vec<Vec<u32>>,
    retained: Vec<bool>,
    last_used: Vec<Option<Timestamp>>,
    /// Running and in the way of what a request waits for: no new work, and out when done.
    leaving: Vec<Pair>,
    /// A load that a memory cap denied, since the last change.
    denied: Option<(VariantId, Bytes)>,
    settled: Option<Settled>,
}

/// Everything wanted is there and nothing else: what [`Residency::orders`] found under these limits. It stays
/// so until this time, unless something changes before.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Settled {
    limits: Limits,
    until: Timestamp,
}

impl Residency {
    /// Nothing in memory, nothing retained.
    #[must_use]
    pub fn new(catalog: &Catalog) -> Self {
        let mut new = Self {
            table: Vec::new(),
            strikes: Vec::new(),
            retained: Vec::new(),
            last_used: Vec::new(),
            leaving: Vec::new(),
            denied: None,
            settled: None,
        };
        new.extend(catalog);
        new
    }

    /// Takes in the models and variants that a catalogue has beyond those that are known here.
    pub fn extend(&mut self, catalog: &Catalog) {
        let (units, models, variants) =
            (catalog.board.units.len(), catalog.models.len(), catalog.variants.len());
        self.table.resize(variants, vec![Residence::Absent; units]);
        self.strikes.resize(variants, vec![0; units]);
        self.retained.resize(models, false);
        self.last_used.resize(models, None);
        self.settled = None;
    }

    /// Whether a new batch may be sent there now.
    #[must_use]
    pub fn is_available(&self, variant: VariantId, unit: UnitId) -> bool {
        self.is_loaded(variant, unit) && !self.leaving.contains(&(variant, unit))
    }

    /// Whether [`Residency::orders`] would order nothing, whatever runs and whoever waits. That is so for most
    /// of the time, and cheaper to ask than to find out anew with every event.
    #[must_use]
    pub fn is_settled(&self, limits: Limits, now: Timestamp) -> bool {
        self.settled.is_some_and(|settled| settled.limits == limits && now < settled.until)
    }

    /// The catalogue's profiles changed, and with them what is wanted.
    pub fn profiles_changed(&mut self) {
        self.settled = None;
    }

    /// Where a variant stands on a unit.
    #[must_use]
    pub fn of(&self, variant: VariantId, unit: UnitId) -> Residence {
        self.table[variant.index()][unit.index()]
    }

    /// Whether it can run there now.
    #[must_use]
    pub fn is_loaded(&self, variant: VariantId, unit: UnitId) -> bool {
        matches!(self.of(variant, unit), Residence::Loaded { .. })
    }

    /// Records a lane's report.
    pub fn set(&mut self, variant: VariantId, unit: UnitId, residence: Residence) {
        self.settled = None;
        self.table[variant.index()][unit.index()] = residence;
        self.leaving.retain(|pair| *pair != (variant, unit));
    }

    /// A lane let go of a variant. One that failed stays away until its time has come, one that was ordered
    /// again since is on its way.
    pub fn unloaded(&mut self, variant: VariantId, unit: UnitId) {
        if matches!(self.of(variant, unit), Residence::Loaded { .. } | Residence::Unloading) {
            self.set(variant, unit, Residence::Absent);
        }
    }

    /// A lane is gone with all that it held or was ordered: nothing more will be heard of it.
    pub fn lost(&mut self, unit: UnitId) {
        self.settled = None;
        self.leaving.retain(|pair| pair.1 != unit);
        for row in &mut self.table {
            let residence = &mut row[unit.index()];
            if !matches!(residence, Residence::Failed { .. }) {
                *residence = Residence::Absent;
            }
        }
    }

    /// Records a load or a series of runs that failed; returns whether it was the last try. That it could be
    /// loaded in between makes no difference: only a run does.
    pub fn failed(&mut self, variant: VariantId, unit: UnitId, now: Timestamp) -> bool {
        let strikes = &mut self.strikes[variant.index()][unit.index()];
        *strikes = strikes.saturating_add(1);
        let tries = *strikes;
        let until = if tries >= MAX_TRIES { Timestamp::MAX } else { now.after(BACKOFF) };
        self.set(variant, unit, Residence::Failed { tries, until });
        tries >= MAX_TRIES
    }

    /// A run succeeded: earlier failures do not count any more.
    pub fn proved(&mut self, variant: VariantId, unit: UnitId) {
        self.strikes[variant.index()][unit.index()] = 0;
    }

    /// The variant may be tried again at once, whatever happened.
    pub fn pardon(&mut self, variant: VariantId, unit: UnitId) {
        self.proved(variant, unit);
        if matches!(self.of(variant, unit), Residence::Failed { .. }) {
            self.set(variant, unit, Residence::Absent);
        }
    }

    /// Keeps a model in memory, or lets go of it.
    pub fn retain(&mut self, model: ModelId, resident: bool) {
        self.settled = None;
        self.retained[model.index()] = resident;
    }

    /// Whether the model is wanted in memory.
    #[must_use]
    pub fn is_retained(&self, model: ModelId) -> bool {
        self.retained[model.index()]
    }

    /// A request for this model came.
    pub fn used(&mut self, model: ModelId, now: Timestamp) {
        let retained = std::mem::replace(&mut self.retained[model.index()], true);
        let used = self.last_used[model.index()].replace(now);
        // From its first use on a model's time can end; a later use only puts that off.
        if !retained || used.is_none() {
            self.settled = None;
        }
    }

    /// Memory that loaded and loading variants hold.
    #[must_use]
    pub fn held(&self, catalog: &Catalog) -> Bytes {
        let mut sum = Bytes::ZERO;
        for (variant, row) in self.table.iter().enumerate() {
            for (unit, residence) in row.iter().enumerate() {
                sum = sum.saturating_add(match residence {
                    Residence::Loaded { footprint } => *footprint,
                    Residence::Loading { .. } | Residence::Unloading => expected(catalog, variant, unit),
                    Residence::Absent | Residence::Failed { .. } => Bytes::ZERO,
                });
            }
        }
        sum
    }

    /// Whether any variant of the model is loaded anywhere.
    #[must_use]
    pub fn any_loaded(&self, catalog: &Catalog, model: ModelId) -> bool {
        catalog.models[model.index()].variants.iter().any(|variant| {
            self.table[variant.index()].iter().any(|residence| matches!(residence, Residence::Loaded { .. }))
        })
    }

    /// Whether any acceptable variant of the model is loaded, coming, or may be tried again under the cap.
    #[must_use]
    pub fn any_hope(
        &self,
        catalog: &Catalog,
        model: ModelId,
        cap: Bytes,
        accepts: impl Fn(VariantId) -> bool,
    ) -> bool {
        self.pairs(catalog, model, accepts).any(|(variant, unit)| match self.of(variant, unit) {
            Residence::Loaded { .. } | Residence::Loading { .. } => true,
            Residence::Failed { until: Timestamp::MAX, .. } => false,
            _ => expected(catalog, variant.index(), unit.index()) <= cap,
        })
    }

    /// The smallest acceptable variant, where none is loaded or coming and one may be.
    #[must_use]
    pub fn missing(
        &self,
        catalog: &Catalog,
        model: ModelId,
        cap: Bytes,
        now: Timestamp,
        accepts: impl Fn(VariantId) -> bool,
    ) -> Option<Pair> {
        let mut smallest: Option<(Bytes, Pair)> = None;
        for (variant, unit) in self.pairs(catalog, model, accepts) {
            match self.of(variant, unit) {
                Residence::Loaded { .. } | Residence::Loading { .. } => return None,
                Residence::Failed { until, .. } if until > now => {}
                _ => {
                    let need = expected(catalog, variant.index(), unit.index());
                    if need <= cap && smallest.is_none_or(|(least, _)| need < least) {
                        smallest = Some((need, (variant, unit)));
                    }
                }
            }
        }
        smallest.map(|(_, pair)| pair)
    }

    /// The acceptable variants of a model with every unit that they may run on.
    fn pairs<'a>(
        &self,
        catalog: &'a Catalog,
        model: ModelId,
        accepts: impl Fn(VariantId) -> bool + 'a,
    ) -> impl Iterator<Item = Pair> + 'a {
        let variants = catalog.models[model.index()].variants.iter().copied();
        variants.filter(move |&variant| accepts(variant)).flat_map(|variant| {
            let profiles = catalog.variants[variant.index()].profiles.iter().enumerate();
            profiles.filter(|(_, known)| known.is_some()).map(move |(unit, _)| (variant, UnitId::at(unit)))
        })
    }

    /// The variant that the memory cap kept out, with what it would take.
    #[must_use]
    pub fn denied(&self) -> Option<(VariantId, Bytes)> {
        self.denied
    }

    /// The orders that bring the table nearer to what is wanted; at most one load per lane. `awaited` is what
    /// requests wait for: it comes first. The table already counts the orders as under way.
    pub fn orders(
        &mut self,
        catalog: &Catalog,
        limits: Limits,
        awaited: &[Pair],
        may_load: impl Fn(Pair) -> bool,
        in_use: impl Fn(Pair) -> bool,
        now: Timestamp,
    ) -> Vec<Order> {
        self.expire(limits.unload_after, now);
        let wanted = self.wanted(catalog, limits.cap, awaited, now);
        let mut orders = Vec::new();
        // Where not everything finds room, who is used next changes what is wanted.
        let mut settled = awaited.is_empty() && self.denied.is_none();
        for (variant, row) in self.table.iter_mut().enumerate() {
            for (unit, residence) in row.iter_mut().enumerate() {
                let pair = (VariantId::at(variant), UnitId::at(unit));
                let leaves = self.leaving.contains(&pair);
                let stays = wanted.contains(&(variant, unit)) && !leaves;
                if stays || !matches!(residence, Residence::Loaded { .. }) {
                    continue;
                }
                settled = false;
                if !in_use(pair) {
                    *residence = Residence::Unloading;
                    self.leaving.retain(|other| *other != pair);
                    orders.push(Order::Unload(pair.0, pair.1));
                } else if !awaited.is_empty() && !leaves {
                    self.leaving.push(pair);
                }
            }
        }
        let mut held = self.held(catalog);
        let mut taken = vec![false; catalog.board.units.len()];
        for &(variant, unit) in &wanted {
            let tries = match self.table[variant][unit] {
                Residence::Absent => 0,
                Residence::Failed { tries, until } if until <= now => tries,
                _ => continue,
            };
            settled = false;
            let (need, pair) = (expected(catalog, variant, unit), (VariantId::at(variant), UnitId::at(unit)));
            if !taken[unit] && may_load(pair) && held.saturating_add(need) <= limits.cap {
                taken[unit] = true;
                held = held.saturating_add(need);
                self.table[variant][unit] = Residence::Loading { tries };
                orders.push(Order::Load(pair.0, pair.1));
            }
        }
        let changes = [self.next_retry(), self.next_expiry(limits.unload_after)];
        let until = changes.into_iter().flatten().min().unwrap_or(Timestamp::MAX);
        self.settled = settled.then_some(Settled { limits, until });
        orders
    }

    fn expire(&mut self, unload_after: Option<Nanos>, now: Timestamp) {
        // A retry that is due needs no wake-up any more: whatever it waits for now ends with an event.
        for residence in self.table.iter_mut().flatten() {
            match residence {
                Residence::Failed { until, .. } if *until <= now => *until = Timestamp::ZERO,
                _ => {}
            }
        }
        let Some(limit) = unload_after else { return };
        for (retained, &used) in self.retained.iter_mut().zip(&self.last_used) {
            if used.is_some_and(|used| now.since(used) > limit) {
                *retained = false;
            }
        }
    }

    /// When an unused model is let go of next.
    #[must_use]
    pub fn next_expiry(&self, unload_after: Option<Nanos>) -> Option<Timestamp> {
        let limit = unload_after?;
        let retained = self.retained.iter().zip(&self.last_used).filter(|(retained, _)| **retained);
        retained.filter_map(|(_, used)| *used).map(|used| used.after(Nanos(limit.0.saturating_add(1)))).min()
    }

    /// When a failed load may be tried again.
    #[must_use]
    pub fn next_retry(&self) -> Option<Timestamp> {
        let failed = self.table.iter().flatten().filter_map(|residence| match residence {
            Residence::Failed { until, .. } if ![Timestamp::ZERO, Timestamp::MAX].contains(until) => {
                Some(*until)
            }
            _ => None,
        });
        failed.min()
    }

    /// What should be in memory, most important first, within the cap.
    fn wanted(
        &mut self,
        catalog: &Catalog,
        cap: Bytes,
        awaited: &[Pair],
        now: Timestamp,
    ) -> Vec<(usize, usize)> {
        let mut models: Vec<usize> =
            (0..catalog.models.len()).filter(|&model| self.retained[model]).collect();
        models.sort_by_key(|&model| std::cmp::Reverse(self.last_used[model]));
        let due = awaited.iter().map(|(variant, unit)| (variant.index(), unit.index()));
        let mut wishes: Vec<(usize, usize)> =
            due.filter(|&(variant, unit)| self.hopeful(variant, unit, now)).collect();
        let ladder = |model: usize| -> Vec<(usize, usize)> {
            let pairs = catalog.models[model].variants.iter().flat_map(|variant| {
                let profiles = catalog.variants[variant.index()].profiles.iter().enumerate();
                profiles.filter(|(_, profile)| profile.is_some()).map(|(unit, _)| (variant.index(), unit))
            });
            pairs.filter(|&(variant, unit)| self.hopeful(variant, unit, now)).collect()
        };
        let ladders: Vec<Vec<(usize, usize)>> = models.iter().map(|&model| ladder(model)).collect();
        // What somebody waits for; something of everything, the smallest; everything of the most recently used.
        for ladder in &ladders {
            let smallest =
                ladder.iter().copied().min_by_key(|&(variant, unit)| expected(catalog, variant, unit));
            wishes.extend(smallest.filter(|pair| !wishes.contains(pair)));
        }
        // What is there of models in use stays, lest two that take turns push each other out.
        let in_use = models
            .iter()
            .zip(&ladders)
            .filter(|(model, _)| self.last_used[**model].is_some_and(|used| now.since(used) <= KEEP));
        let there = |pair: &&(usize, usize)| {
            matches!(self.table[pair.0][pair.1], Residence::Loaded { .. } | Residence::Loading { .. })
        };
        let kept = in_use.flat_map(|(_, ladder)| ladder.iter().rev().filter(there).copied());
        let all = ladders.iter().flat_map(|ladder| ladder.iter().rev().copied());
        for pair in kept.chain(all) {
            if !wishes.contains(&pair) {
                wishes.push(pair);
            }
        }
        self.denied = None;
        let mut sum = Bytes::ZERO;
        wishes.retain(|&(variant, unit)| {
            let need = match self.table[variant][unit] {
                Residence::Loaded { footprint } => footprint,
                _ => expected(catalog, variant, unit),
            };
            let fits = sum.saturating_add(need) <= cap;
            if fits {
                sum = sum.saturating_add(need);
            } else if self.denied.is_none() {
                self.denied = Some((VariantId::at(variant), need));
            }
            fits
        });
        wishes
    }

    fn hopeful(&self, variant: usize, unit: usize, now: Timestamp) -> bool {
        !matches!(self.table[variant][unit], Residence::Failed { until, .. } if until > now)
    }
}

fn expected(catalog: &Catalog, variant: usize, unit: usize) -> Bytes {
    catalog.variants[variant].profiles[unit].map_or(Bytes::ZERO, |profile| profile.footprint)
}
