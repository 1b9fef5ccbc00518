//! The waiting requests, earliest deadline first within a priority, bounded in number over all and per app. Those that
//! will be late anyhow come after the others of their priority, or they would make all that follow late, too.

use crate::core::catalog::{Catalog, VariantId};
use crate::core::event::{AppId, ClassId, Rejection, Request, RequestId};
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos, Ppm};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A request in the queue with its class's defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The request.
    pub request: Request,
    /// When it came.
    pub arrival: Timestamp,
    /// When the answer must be there.
    pub deadline: Timestamp,
    /// A deadline that the client named is hard: past it the answer is worthless. A class's latency
    /// objective is soft: a late answer is counted as missed, but still given.
    pub hard: bool,
    /// Least accuracy.
    pub floor: Ppm,
    /// Accuracy to give while the budgets allow.
    pub target: Ppm,
    /// Most energy.
    pub max_energy: Option<Microjoules>,
    /// Lower is more urgent.
    pub priority: u32,
    /// Fastest latency per unit over the variants that would do; `Nanos::MAX` where none would.
    pub fastest: SmallVec<[Nanos; 4]>,
    /// The same over the variants that meet the target, where there are some.
    pub usual: SmallVec<[Nanos; 4]>,
    /// Expected energy of the cheapest run that would do, alone.
    pub least: Microjoules,
    /// A soft deadline that nothing keeps any more: it comes after those of its priority that can still be in time.
    pub late: bool,
    /// What runs that were stopped have cost it already.
    pub spent: Microjoules,
    /// Whether a run of it gave way to another request.
    pub gave_way: bool,
}

impl Waiting {
    /// Whether a variant of the request's model would do, as far as wishes go.
    #[must_use]
    pub fn accepts(&self, catalog: &Catalog, variant: VariantId) -> bool {
        self.request.variant.is_none_or(|only| only == variant)
            && catalog.variants[variant.index()].accuracy >= self.floor
    }

    /// Whether its run may be stopped and begin anew: once, and not where its energy is limited, since it is paid twice.
    #[must_use]
    pub fn may_begin_anew(&self) -> bool {
        !self.gave_way && self.max_energy.is_none()
    }

    /// Whether what was decided of this one holds for another: itself, or one that differs in having more time. If this
    /// one waits for something, so does that.
    #[must_use]
    pub fn speaks_for(&self, other: &Self) -> bool {
        let wishes = |one: &Self| {
            let request = &one.request;
            (
                request.model,
                request.class,
                request.variant,
                request.items,
                one.floor,
                one.target,
                one.max_energy,
            )
        };
        self.hard == other.hard && self.deadline <= other.deadline && wishes(self) == wishes(other)
    }

    /// Whether it is late even if it begins now and at its fastest.
    fn is_hopeless(&self, now: Timestamp) -> bool {
        let fastest = self.fastest.iter().min().copied().unwrap_or(Nanos::ZERO);
        fastest < Nanos::MAX && now.after(fastest) > self.deadline
    }

    pub(super) fn key(&self) -> Key {
        (self.priority, self.late, self.deadline, self.request.id)
    }
}

pub(super) type Key = (u32, bool, Timestamp, RequestId);

/// The queue. Iteration is in order of urgency. Its tables keep their room: a queue that was as long before takes
/// requests in without allocating.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Queue {
    /// Most urgent first, with their place in `slots`.
    order: Vec<(Key, usize)>,
    slots: Vec<Option<Waiting>>,
    free: Vec<usize>,
    /// Keys by id, ascending.
    keys: Vec<(RequestId, Key)>,
    /// Requests in the queue or running by app, ascending.
    in_flight: Vec<(AppId, u32)>,
}

impl Queue {
    /// Requests waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether the limits leave room for one more of this app.
    ///
    /// # Errors
    /// [`Rejection::QueueFull`] or [`Rejection::AppLimit`].
    pub fn room_for(&self, app: AppId, queue_limit: u32, app_limit: u32) -> Result<(), Rejection> {
        if self.len() >= queue_limit as usize {
            return Err(Rejection::QueueFull);
        }
        if self.in_flight(app) >= app_limit {
            return Err(Rejection::AppLimit);
        }
        Ok(())
    }

    /// A waiting request.
    #[must_use]
    pub fn get(&self, id: RequestId) -> Option<&Waiting> {
        let known = self.known(id).ok()?;
        let place = self.place(self.keys[known].1).ok()?;
        self.slots[self.order[place].1].as_ref()
    }

    fn known(&self, id: RequestId) -> Result<usize, usize> {
        self.keys.binary_search_by_key(&id, |(id, _)| *id)
    }

    fn place(&self, key: Key) -> Result<usize, usize> {
        self.order.binary_search_by_key(&key, |(key, _)| *key)
    }

    /// The class of a waiting request.
    #[must_use]
    pub fn class_of(&self, id: RequestId) -> Option<ClassId> {
        Some(self.get(id)?.request.class)
    }

    /// Adds a request. It counts as in flight of its app until [`Queue::answered`].
    pub fn push(&mut self, waiting: Waiting) {
        match self.of_app(waiting.request.app) {
            Ok(place) => self.in_flight[place].1 += 1,
            Err(place) => self.in_flight.insert(place, (waiting.request.app, 1)),
        }
        self.put_back(waiting);
    }

    fn of_app(&self, app: AppId) -> Result<usize, usize> {
        self.in_flight.binary_search_by_key(&app, |(app, _)| *app)
    }

    /// Puts back a request that was taken out and got no answer; it still counts as in flight.
    pub fn put_back(&mut self, waiting: Waiting) {
        let (id, key) = (waiting.request.id, waiting.key());
        self.take(id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // Room for all of them, for they may all become free.
            self.free.reserve(self.slots.len());
            self.slots.len() - 1
        });
        self.slots[slot] = Some(waiting);
        let (Ok(known) | Err(known), Ok(place) | Err(place)) = (self.known(id), self.place(key));
        self.keys.insert(known, (id, key));
        self.order.insert(place, (key, slot));
    }

    /// Takes a request out, to dispatch or to reject it.
    pub fn take(&mut self, id: RequestId) -> Option<Waiting> {
        let (_, key) = self.keys.remove(self.known(id).ok()?);
        let (_, slot) = self.order.remove(self.place(key).ok()?);
        self.free.push(slot);
        self.slots[slot].take()
    }

    /// Puts those who cannot be in time any more behind the others of their priority.
    pub fn put_late_last(&mut self, now: Timestamp) {
        let hopeless = |waiting: &&Waiting| !waiting.hard && !waiting.late && waiting.is_hopeless(now);
        let late: SmallVec<[RequestId; 8]> =
            self.iter().filter(hopeless).map(|waiting| waiting.request.id).collect();
        for id in late {
            if let Some(waiting) = self.take(id) {
                self.put_back(Waiting { late: true, ..waiting });
            }
        }
    }

    /// A request of this app got its answer.
    pub fn answered(&mut self, app: AppId) {
        if let Ok(place) = self.of_app(app) {
            self.in_flight[place].1 -= 1;
            if self.in_flight[place].1 == 0 {
                self.in_flight.remove(place);
            }
        }
    }

    /// The waiting requests, most urgent first.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.order.iter().filter_map(|(_, slot)| self.slots[*slot].as_ref())
    }

    /// The hard deadline that passes first.
    #[must_use]
    pub fn first_hard_deadline(&self) -> Option<Timestamp> {
        self.iter().filter(|waiting| waiting.hard).map(|waiting| waiting.deadline).min()
    }

    /// Requests whose hard deadline has passed.
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> SmallVec<[RequestId; 8]> {
        let late = self.iter().filter(|waiting| waiting.hard && waiting.deadline <= now);
        late.map(|waiting| waiting.request.id).collect()
    }

    /// Requests of the app in the queue or running.
    #[must_use]
    pub fn in_flight(&self, app: AppId) -> u32 {
        self.of_app(app).map_or(0, |place| self.in_flight[place].1)
    }

    /// Panics if the tables disagree.
    pub fn invariants(&self) {
        assert_eq!(self.order.len(), self.keys.len(), "every waiting request has exactly one key");
        assert_eq!(self.order.len() + self.free.len(), self.slots.len(), "a slot is taken or free");
        assert!(self.order.is_sorted() && self.keys.is_sorted(), "the most urgent and the oldest come first");
        let held = |(key, slot): &(Key, usize)| self.slots[*slot].as_ref().map(Waiting::key) == Some(*key);
        assert!(self.order.iter().all(held), "keys match their requests");
    }
}
