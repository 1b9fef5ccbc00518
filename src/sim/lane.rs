//! Fake lanes: batches one at a time and in order, and beside them loads one at a time and in order, as the two threads of
//! a real unit work.

use crate::board::sim::RunId;
use crate::core::catalog::VariantId;
use crate::core::event::{BatchId, Dispatch};
use crate::time::Timestamp;
use std::collections::VecDeque;

/// What goes wrong on lanes. Shares from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LaneFaults {
    /// Of runs that the provider fails.
    pub run: f64,
    /// Of loads that fail.
    pub load: f64,
    /// Of runs at whose start the lane is lost, with all that it holds and was ordered; a new one takes its place.
    pub lost: f64,
}

/// An order to the side of a lane that loads.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Order {
    Load(VariantId),
    Unload(VariantId),
}

/// What a lane is doing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Doing {
    Nothing,
    Running { dispatch: Dispatch, run: RunId, started: Timestamp, fails: bool },
}

/// A lane.
#[derive(Debug, Clone)]
pub(super) struct FakeLane {
    pub(super) doing: Doing,
    pub(super) batches: VecDeque<Dispatch>,
    /// What is being loaded, and until when.
    pub(super) loading: Option<(VariantId, Timestamp)>,
    pub(super) orders: VecDeque<Order>,
    pub(super) loaded: Vec<VariantId>,
}

impl FakeLane {
    pub(super) const fn new() -> Self {
        Self {
            doing: Doing::Nothing,
            batches: VecDeque::new(),
            loading: None,
            orders: VecDeque::new(),
            loaded: Vec::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.doing == Doing::Nothing
            && self.batches.is_empty()
            && self.loading.is_none()
            && self.orders.is_empty()
    }

    /// When it will have something to say by itself, the plant's runs apart.
    pub(super) fn next_event(&self) -> Option<Timestamp> {
        self.loading.map(|(_, until)| until)
    }

    /// Takes a batch out that has not begun.
    pub(super) fn withdraw(&mut self, batch: BatchId) -> bool {
        let found = self.batches.iter().position(|dispatch| dispatch.batch == batch);
        found.is_some_and(|index| self.batches.remove(index).is_some())
    }

    pub(super) fn runs(&self, batch: BatchId) -> Option<RunId> {
        match &self.doing {
            Doing::Running { dispatch, run, .. } if dispatch.batch == batch => Some(*run),
            _ => None,
        }
    }
}
