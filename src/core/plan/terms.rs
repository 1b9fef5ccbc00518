//! What a run has to keep to: its own deadline, and the time that others need, those who wait and those to come.

use super::course::Course;
use super::draft::{Draft, hold};
use super::foreseen::{Newcomer, Newcomers};
use super::place::{Fallback, Pair};
use super::{CANCEL, View};

/// What a variant has to keep to on a unit.
pub(super) struct Terms<'v, 'p> {
    pub(super) pair: Pair<'v, 'p>,
    /// Seconds that it may take for the sake of those behind it, and after which they are late.
    pub(super) share_s: f64,
    pub(super) spare_s: f64,
    /// What rescues it, and how slow a run that must be rescued has shown itself to be.
    pub(super) armed: Option<(Fallback<'v, 'p>, f64)>,
    /// How slow a run must be done in time.
    pub(super) need: f64,
    /// The time that there is for it, s.
    pub(super) time_s: f64,
    /// What other models will ask the unit for, and the time that there is if all of it must find the unit free, s.
    pub(super) newcomers: Newcomers,
    pub(super) free_s: f64,
    /// Whether it may be stopped for them and begin anew.
    pub(super) yields: bool,
}

impl<'v, 'p> Terms<'v, 'p> {
    pub(super) fn draft(&self, opp: usize) -> Draft<'v, 'p> {
        Draft {
            opp,
            boost: None,
            fallback: self.armed,
            share_s: self.share_s,
            spare_s: self.spare_s,
            held: true,
        }
    }

    /// How a run at the first of some operating points keeps to them; see [`hold`].
    pub(super) fn hold(&self, view: &View<'_>, ladder: &[usize]) -> Option<Option<(f64, usize)>> {
        let boost = self.hold_within(view, ladder, self.time_s)?;
        if self.free_s >= self.time_s || self.gives_way(*ladder.first()?, boost) {
            return Some(boost);
        }
        self.hold_within(view, ladder, self.free_s)
    }

    pub(super) fn hold_within(
        &self,
        view: &View<'_>,
        ladder: &[usize],
        time_s: f64,
    ) -> Option<Option<(f64, usize)>> {
        hold(view, &self.pair, ladder, time_s, self.armed.map(|(fallback, _)| fallback), self.need)
    }

    /// Whether other models' requests that come while it runs are in time if it is then sped up (see
    /// [`haste`](super::haste)) or stopped (see [`preempt`](crate::core::preempt)).
    fn gives_way(&self, opp: usize, boost: Option<(f64, usize)>) -> bool {
        let (place, top) = (self.pair.place, self.pair.place.top());
        let mut course = self.pair.course(opp);
        if let Some((asked_s, raised)) = boost {
            let settled_s = asked_s + place.between_s(opp, raised);
            course.change(settled_s, self.pair.seconds(raised), self.pair.watts(raised));
        }
        self.newcomers.iter().all(|newcomer| {
            let fast_s = newcomer.arrival_s.max(0.0) + place.between_s(opp, top);
            let left = self.need - course.work(fast_s.min(newcomer.due_s));
            course.work(newcomer.free_s) >= self.need
                || left * self.pair.seconds(top) <= newcomer.due_s - fast_s
                || self.yields && self.can_be_stopped(opp, &course, newcomer)
        })
    }

    /// Whether there is time to begin anew at the highest operating point, should a request come when it is too late to
    /// speed up for it, and that costs less than to run there from the start.
    fn can_be_stopped(&self, opp: usize, course: &Course, newcomer: &Newcomer) -> bool {
        let (pair, place, top) = (&self.pair, self.pair.place, self.pair.place.top());
        let (rise_s, cancel_s, top_s) = (place.between_s(opp, top), CANCEL.as_secs_f64(), pair.seconds(top));
        let sped_up = (newcomer.due_s - newcomer.arrival_s - rise_s).max(0.0) / top_s;
        let latest_s = course.when(self.need - sped_up);
        let anew_s = cancel_s + rise_s + newcomer.own_s + top_s * self.need;
        let odds = ((latest_s - newcomer.arrival_s) / newcomer.gap_s).clamp(0.0, 1.0);
        newcomer.free_s - newcomer.arrival_s >= cancel_s
            && latest_s + anew_s <= self.time_s
            && pair.per_item(opp) + odds * pair.per_item(top) < pair.per_item(top)
    }
}
