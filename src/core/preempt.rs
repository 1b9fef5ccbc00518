//! Runs that give way to a request that comes while they go on.
//!
//! It would be late behind the run, even if that was sped up; the run's own requests have the time to begin anew
//! afterwards. What the run has cost is lost, so that a request gives way once at most, to one that is no less urgent by
//! its class, and only where all who wait are in time then.

use super::lanes::{Member, Running};
use super::plan::CANCEL;
use super::queue::Waiting;
use super::{Core, HORIZON};
use crate::core::catalog::UnitId;
use crate::core::event::{Dispatch, Effect, Note};
use crate::core::thermal::Regime;
use crate::time::Timestamp;
use crate::units::Microjoules;
use smallvec::SmallVec;

impl Core {
    /// Stops a run for a newcomer that would be late behind it, if all are in time then. True if it did.
    pub(super) fn make_way(&mut self, now: Timestamp, new: &Waiting) -> bool {
        let unit = (0..self.lanes.len()).map(UnitId::at).find(|&unit| self.can_give_way(unit, now, new));
        let running = unit.and_then(|unit| self.lanes[unit.index()].running.as_mut());
        let Some(running) = running else { return false };
        (running.aborted, running.gives_way) = (true, true);
        running.expected = now.after(CANCEL).since(running.since);
        let Dispatch { batch, variant, unit, .. } = running.dispatch;
        self.effects.push_back(Effect::Note(Note::GaveWay { variant, unit, request: new.request.id }));
        self.effects.push_back(Effect::Abort(batch));
        true
    }

    fn can_give_way(&self, unit: UnitId, now: Timestamp, new: &Waiting) -> bool {
        let able = self.tuning.hedging
            && self.catalog.board.units[unit.index()].preemptible
            && self.thermal.regime() != Regime::Critical
            && self.queue.len() < HORIZON;
        let running = self.lanes[unit.index()].running.as_ref().filter(|running| able && !running.aborted);
        let Some(running) = running else { return false };
        if running.waiting().any(|waiting| !waiting.may_begin_anew() || waiting.priority < new.priority) {
            return false;
        }
        let ends = |other| {
            if other == unit { now.after(CANCEL) } else { self.lanes[UnitId::index(other)].free_at(now) }
        };
        let mut free_at = self.free_times_if(now, ends);
        let luck =
            self.estimates.quantile(running.dispatch.variant, unit, 1.0 - self.risks[unit.index()].miss);
        let mut all: SmallVec<[&Waiting; HORIZON]> =
            self.queue.iter().chain(running.waiting()).chain(std::iter::once(new)).collect();
        all.sort_unstable_by_key(|waiting| waiting.key());
        all.into_iter().all(|waiting| {
            self.place(waiting, luck.max(1.0), &mut free_at).is_some_and(|finish| finish <= waiting.deadline)
        })
    }

    /// The requests of a run that gave way wait again.
    pub(super) fn wait_again(&mut self, running: &Running, spent: Microjoules) {
        for Member { waiting, spent, .. } in running.unanswered(spent, running.since) {
            self.queue.put_back(Waiting { spent, gave_way: true, ..waiting });
        }
    }
}
