//! Waiting requests, earliest deadline first within a priority.

use crate::core::catalog::{Catalog, VariantId};
use crate::core::event::{AppId, Rejection, Request, RequestId};
use crate::time::Timestamp;
use crate::units::{Microjoules, Ppm};
use std::collections::BTreeMap;

/// A request with its class's defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// The request.
    pub request: Request,
    /// When it came.
    pub arrival: Timestamp,
    /// When the answer must be there.
    pub deadline: Timestamp,
    /// Named by the client: past it the answer is worthless. A class's objective is soft.
    pub hard: bool,
    /// Least accuracy.
    pub floor: Ppm,
    /// Accuracy to give while some variant has it; at least the floor.
    pub target: Ppm,
    /// Most energy above idle that the request may cost.
    pub max_energy: Option<Microjoules>,
    /// Lower is more urgent.
    pub priority: u32,
}

impl Waiting {
    /// Whether a variant of the request's model would do.
    #[must_use]
    pub fn accepts(&self, catalog: &Catalog, variant: VariantId) -> bool {
        self.request.variant.is_none_or(|only| only == variant)
            && catalog.variants[variant.index()].accuracy >= self.floor
    }

    fn key(&self) -> Key {
        (self.priority, self.deadline, self.request.id)
    }
}

type Key = (u32, Timestamp, RequestId);

/// The queue, bounded over all and per app.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Key, Waiting>,
    in_flight: BTreeMap<AppId, u32>,
}

impl Queue {
    pub(super) fn room_for(&self, app: AppId, queue_limit: u32, app_limit: u32) -> Result<(), Rejection> {
        if self.waiting.len() >= queue_limit as usize {
            return Err(Rejection::QueueFull);
        }
        match self.in_flight.get(&app).is_some_and(|count| *count >= app_limit) {
            true => Err(Rejection::AppLimit),
            false => Ok(()),
        }
    }

    /// Adds a request; it counts as in flight of its app until [`Queue::answered`].
    pub(super) fn push(&mut self, waiting: Waiting) {
        *self.in_flight.entry(waiting.request.app).or_insert(0) += 1;
        self.waiting.insert(waiting.key(), waiting);
    }

    pub(super) fn answered(&mut self, app: AppId) {
        if let Some(count) = self.in_flight.get_mut(&app) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.in_flight.remove(&app);
            }
        }
    }

    pub(super) fn take(&mut self, id: RequestId) -> Option<Waiting> {
        let key = *self.waiting.iter().find(|(_, waiting)| waiting.request.id == id)?.0;
        self.waiting.remove(&key)
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Waiting> {
        self.waiting.values().find(|waiting| waiting.request.id == id)
    }

    /// Most urgent first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }

    /// The first hard deadline.
    pub(super) fn first_hard_deadline(&self) -> Option<Timestamp> {
        self.iter().filter(|waiting| waiting.hard).map(|waiting| waiting.deadline).min()
    }

    /// A request whose hard deadline has passed.
    pub(super) fn expired(&self, now: Timestamp) -> Option<RequestId> {
        let late = |waiting: &&Waiting| waiting.hard && waiting.deadline <= now;
        self.iter().find(late).map(|waiting| waiting.request.id)
    }
}
