//! What became of every request, from its arrival until the last run that it caused has ended.

use crate::board::sim::Finished;
use crate::core::catalog::{UnitId, VariantId};
use crate::core::event::{ClassId, Dispatch, Outcome, Rejection, RequestId};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Microjoules};
use std::collections::VecDeque;

/// A run that a request was part of, as the plant tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The variant.
    pub variant: VariantId,
    /// The unit.
    pub unit: UnitId,
    /// The unit's clock at the end; zero if it has no clock domain.
    pub clock: Kilohertz,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// One request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The request.
    pub request: RequestId,
    /// Its class.
    pub class: ClassId,
    /// When it came.
    pub arrival: Timestamp,
    /// When its answer is due: its hard deadline, or else the latency objective of its class.
    pub deadline: Timestamp,
    /// When it was answered.
    pub answered: Timestamp,
    /// How.
    pub outcome: Outcome,
    /// The last run that it was part of.
    pub run: Option<Run>,
    /// Its share of the energy of all runs that it was part of, above the idle board, as the plant tells it.
    pub energy: Microjoules,
}

impl Row {
    /// Place of its request in lists of all of a run's requests: ids count from 1.
    pub(super) fn index(&self) -> Option<usize> {
        usize::try_from(self.request.0).ok()?.checked_sub(1)
    }

    /// Whether an answer came after its time.
    #[must_use]
    pub fn late(&self) -> bool {
        self.answered > self.deadline
    }

    /// Whether the deadline was missed: answered late, or turned away because it had passed. To be turned away for
    /// another reason is none.
    #[must_use]
    pub fn missed(&self) -> bool {
        match self.outcome {
            Outcome::Served(_) => self.late(),
            Outcome::Rejected { reason, .. } => reason == Rejection::DeadlinePassed,
        }
    }
}

/// Requests by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// With an answer, late or not.
    pub served: u64,
    /// Whose deadline was missed: see [`Row::missed`]; those without an answer at the end too.
    pub missed: u64,
    /// Turned away for another reason.
    pub rejected: u64,
    /// Whose predecessor, in the order of arrival, missed its deadline.
    pub after_miss: u64,
    /// Those of them that missed theirs.
    pub missed_after_miss: u64,
    last_missed: bool,
}

impl Counts {
    fn count(&mut self, served: bool, missed: bool) {
        self.served += u64::from(served);
        self.missed += u64::from(missed);
        self.rejected += u64::from(!served && !missed);
        self.after_miss += u64::from(self.last_missed);
        self.missed_after_miss += u64::from(self.last_missed && missed);
        self.last_missed = missed;
    }
}

/// A request without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The request.
    pub request: RequestId,
    /// Its class.
    pub class: ClassId,
    /// Its items.
    pub items: u32,
    /// When it came.
    pub arrival: Timestamp,
    /// When its answer is due.
    pub deadline: Timestamp,
    /// The last run that has ended.
    pub run: Option<Run>,
    /// Its share of the energy of the runs that have ended.
    pub energy: Microjoules,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    asked: Asked,
    answer: Option<(Timestamp, Outcome)>,
    /// Runs that it is part of and that have not ended.
    runs: u32,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    /// Asking, or running.
    Open(Open),
    /// Over, but one that came before is not.
    Done(Row),
}

/// All requests, by their ids, which ascend one by one. They are counted in the order of their arrival.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    slots: VecDeque<Slot>,
    /// Requests that have been counted: the id before the first slot.
    counted: u64,
    unanswered: usize,
    counts: Counts,
    rows: Vec<Row>,
    keep_rows: bool,
}

impl Requests {
    pub(super) fn new(keep_rows: bool) -> Self {
        Self { keep_rows, ..Self::default() }
    }

    /// The id of the next request.
    pub(super) fn next_id(&self) -> RequestId {
        RequestId(self.counted + self.slots.len() as u64 + 1)
    }

    pub(super) fn ask(&mut self, asked: Asked) {
        self.slots.push_back(Slot::Open(Open { asked, answer: None, runs: 0 }));
        self.unanswered += 1;
    }

    fn slot(&mut self, id: RequestId) -> Option<&mut Slot> {
        let index = id.0.checked_sub(self.counted + 1)?;
        self.slots.get_mut(usize::try_from(index).ok()?)
    }

    fn open(&mut self, id: RequestId) -> Option<&mut Open> {
        match self.slot(id)? {
            Slot::Open(open) => Some(open),
            Slot::Done(_) => None,
        }
    }

    /// Requests without an answer.
    pub(super) const fn unanswered(&self) -> usize {
        self.unanswered
    }

    pub(super) fn is_asking(&mut self, id: RequestId) -> bool {
        self.open(id).is_some_and(|open| open.answer.is_none())
    }

    /// A run of these requests has begun.
    pub(super) fn begin(&mut self, dispatch: &Dispatch) {
        for id in &dispatch.requests {
            if let Some(open) = self.open(*id) {
                open.runs += 1;
            }
        }
    }

    /// A run of these requests has ended, or was stopped.
    pub(super) fn end(&mut self, dispatch: &Dispatch, finished: &Finished) {
        let run = Run {
            variant: dispatch.variant,
            unit: finished.unit,
            clock: finished.clock,
            started: finished.started,
            finished: finished.finished,
        };
        for id in &dispatch.requests {
            let Some(open) = self.open(*id) else { continue };
            let energy = finished.energy.0.saturating_mul(u64::from(open.asked.items));
            let share = Microjoules(energy / u64::from(dispatch.items.max(1)));
            open.asked.energy = open.asked.energy.saturating_add(share);
            open.asked.run = Some(run);
            open.runs = open.runs.saturating_sub(1);
            self.close(*id);
        }
    }

    /// The scheduler answers; the row as it stands, unless nobody asks.
    pub(super) fn answer(&mut self, id: RequestId, now: Timestamp, outcome: Outcome) -> Option<Row> {
        let open = self.open(id).filter(|open| open.answer.is_none())?;
        open.answer = Some((now, outcome));
        let row = open.row();
        self.unanswered -= 1;
        self.close(id);
        row
    }

    /// Lets go of a request that is answered and runs no more.
    fn close(&mut self, id: RequestId) {
        let Some(slot) = self.slot(id) else { return };
        if let Slot::Open(open) = slot
            && open.runs == 0
            && let Some(row) = open.row()
        {
            *slot = Slot::Done(row);
        }
        while let Some(Slot::Done(row)) = self.slots.front().copied() {
            self.slots.pop_front();
            self.count(&row);
        }
    }

    fn count(&mut self, row: &Row) {
        self.counted += 1;
        self.counts.count(matches!(row.outcome, Outcome::Served(_)), row.missed());
        if self.keep_rows {
            self.rows.push(*row);
        }
    }

    /// The end: counts what is left as it stands. Those without an answer are returned; they missed their deadline.
    pub(super) fn finish(&mut self) -> Vec<Asked> {
        let mut asking = Vec::new();
        for slot in std::mem::take(&mut self.slots) {
            let row = match slot {
                Slot::Done(row) => Some(row),
                Slot::Open(open) => open.row(),
            };
            match (row, slot) {
                (Some(row), _) => self.count(&row),
                (None, Slot::Open(open)) => {
                    self.counted += 1;
                    self.counts.count(false, true);
                    asking.push(open.asked);
                }
                (None, Slot::Done(_)) => {}
            }
        }
        self.unanswered = 0;
        asking
    }

    /// Those that were counted.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Hands them out, for a watcher that keeps none.
    pub(super) fn take_rows(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.rows)
    }

    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }
}

impl Open {
    fn row(&self) -> Option<Row> {
        let (answered, outcome) = self.answer?;
        let Asked { request, class, arrival, deadline, run, energy, .. } = self.asked;
        Some(Row { request, class, arrival, deadline, answered, outcome, run, energy })
    }
}
