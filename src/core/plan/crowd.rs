//! The time that a run may take for the sake of those behind it.
//!
//! Of the time until the deadline of the k-th request behind it, a run takes the share that its work has in all the
//! work up to there, so that those behind may run at the same speed as it does: the speed is the highest of
//! `sum w_j / (d_k - now)`, which is optimal for what is known when energy is convex in speed (Yao, Demers and
//! Shenker, FOCS'95). Work is counted by the latency at the highest clock, of the fastest variant on target.

use super::View;
use super::place::Place;
use super::search::seconds_until;
use crate::core::queue::Waiting;
use crate::time::Timestamp;
use crate::units::Nanos;
use smallvec::SmallVec;

/// Deadlines kept: the ones that ask for the most speed.
const MOST: usize = 6;

/// The work behind a batch on one unit.
#[derive(Debug, Clone, Default)]
pub(super) struct Crowd {
    /// Deadlines and the work up to there, s.
    shares: SmallVec<[(f64, f64); MOST]>,
    /// The deadline that leaves the least time beside the work up to there at its fastest, and that work, s.
    tightest: Option<(f64, f64)>,
}

impl Crowd {
    /// What waits behind the head for a unit: what others cannot serve in time.
    pub(super) fn behind(view: &View<'_>, place: &Place<'_>) -> Self {
        let mut crowd = Self::default();
        let mut free_at: SmallVec<[Timestamp; 8]> = view.free_at.iter().copied().collect();
        let (mut work_s, mut least_s) = (0.0, 0.0);
        for waiting in view.behind {
            if goes_elsewhere(view, place, waiting, &mut free_at) {
                continue;
            }
            let own = waiting.usual.get(place.unit.index()).copied().unwrap_or(Nanos::MAX);
            let time_s = seconds_until(waiting.deadline, place.free_at);
            if own < Nanos::MAX && time_s > 0.0 {
                let fastest = waiting.fastest.get(place.unit.index()).copied().unwrap_or(own);
                work_s += own.as_secs_f64();
                least_s += own.min(fastest).as_secs_f64();
                crowd.add(time_s, work_s);
                if crowd.tightest.is_none_or(|(time, work)| time_s - least_s <= time - work) {
                    crowd.tightest = Some((time_s, least_s));
                }
            }
        }
        crowd
    }

    pub(super) fn add(&mut self, time_s: f64, work_s: f64) {
        let known = |&(time, work): &(f64, f64)| time <= time_s && work * time_s >= work_s * time;
        if self.shares.iter().any(known) {
            return;
        }
        if self.shares.len() == MOST {
            self.shares.pop();
        }
        self.shares.push((time_s, work_s));
    }

    /// Seconds after which those behind are late even at their fastest, if a run does `joined_s` of their work, too.
    pub(super) fn spare_s(&self, joined_s: f64) -> f64 {
        let left = self.tightest.map(|(time_s, work_s)| (time_s, work_s - joined_s));
        left.filter(|(_, left_s)| *left_s > 0.0).map_or(f64::INFINITY, |(time_s, left_s)| time_s - left_s)
    }

    /// Seconds that a run may take which takes `work_s` at the highest clock and does `joined_s` of the work behind the
    /// head, too.
    pub(super) fn share_s(&self, work_s: f64, joined_s: f64) -> f64 {
        let left = self.shares.iter().map(|&(time_s, behind_s)| (time_s, behind_s - joined_s));
        let shares = left.filter(|(_, behind_s)| *behind_s > 0.0);
        shares
            .fold(f64::INFINITY, |least, (time_s, behind_s)| least.min(time_s * work_s / (work_s + behind_s)))
    }
}

/// Work on a unit of those that join the head's run.
pub(super) fn joined_s(place: &Place<'_>, batch: &[&Waiting]) -> f64 {
    let latencies = batch.iter().skip(1).filter_map(|waiting| waiting.usual.get(place.unit.index()));
    latencies.filter(|latency| **latency < Nanos::MAX).map(|latency| latency.as_secs_f64()).sum()
}

/// Whether another processor serves a request in time; it is then busy until that is done.
fn goes_elsewhere(view: &View<'_>, place: &Place<'_>, waiting: &Waiting, free_at: &mut [Timestamp]) -> bool {
    let units = &view.catalog.board.units;
    let group = units[place.unit.index()].group;
    let others = (0..units.len()).filter(|&unit| units[unit].group != group);
    let finishes = others.filter_map(|unit| {
        let latency = waiting.usual.get(unit).copied().filter(|latency| *latency < Nanos::MAX)?;
        Some((free_at.get(unit)?.after(latency), units[unit].group))
    });
    let Some((finish, taken)) = finishes.min().filter(|(finish, _)| *finish <= waiting.deadline) else {
        return false;
    };
    for (unit, free) in free_at.iter_mut().enumerate() {
        if units[unit].group == taken {
            *free = finish;
        }
    }
    true
}
