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

    /// Seconds after which those behind are late even at their fastest, if a run does `joined_s` of their work, too. The
    /// highest clock, if it is asked for when that run begins, is in force after `change_s`; until then work takes
    /// `slower` times as long.
    pub(super) fn spare_s(&self, joined_s: f64, (change_s, slower): (f64, f64)) -> f64 {
        let left = self.tightest.map(|(time_s, work_s)| (time_s, work_s - joined_s));
        left.filter(|(_, left_s)| *left_s > 0.0).map_or(f64::INFINITY, |(time_s, left_s)| {
            let late_s = change_s + left_s - time_s;
            if late_s <= 0.0 {
                time_s - left_s
            } else if time_s >= change_s {
                // They begin while the clock is still on its way.
                change_s - slower * late_s
            } else {
                time_s - slower * left_s
            }
        })
    }

    /// Whether those behind are in time after a run of so many seconds if the clock changes `change_s` after its end, and
    /// their work takes so many times as long as at the highest clock until then and from then on.
    pub(super) fn is_in_time(&self, run_s: f64, change_s: f64, (before, after): (f64, f64)) -> bool {
        self.tightest.is_none_or(|(time_s, work_s)| {
            let begun_s = work_s.min(change_s / before);
            run_s + begun_s * before + (work_s - begun_s) * after <= time_s
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_run_of_the_spare_time_leaves_just_enough(
            time_s in 0.001f64..1.0,
            work_s in 0.001f64..1.0,
            change_s in 0.0f64..0.5,
            slower in 1.0f64..8.0,
            share in 0.0f64..1.0,
        ) {
            let crowd = Crowd { tightest: Some((time_s, work_s)), ..Crowd::default() };
            let spare_s = crowd.spare_s(0.0, (change_s, slower));
            let in_time = |run_s: f64| crowd.is_in_time(run_s, (change_s - run_s).max(0.0), (slower, 1.0));
            if spare_s > 0.0 {
                prop_assert!(in_time(spare_s * share * (1.0 - 1e-9)) && !in_time(spare_s + 1e-6), "{spare_s}");
            } else {
                prop_assert!(!in_time(1e-6), "{spare_s}");
            }
            // Who asks for the clock only then is no sooner, nor who asks for a lower one.
            let run_s = time_s * share;
            prop_assert!(in_time(run_s) || !crowd.is_in_time(run_s, change_s, (slower, 1.0)));
            prop_assert!(in_time(run_s) || !crowd.is_in_time(run_s, 0.0, (slower, slower)));
        }
    }

    #[test]
    fn nobody_behind_is_late() {
        let alone = Crowd::default();
        assert!(alone.spare_s(0.0, (1.0, 2.0)).is_infinite() && alone.is_in_time(9.0, 1.0, (2.0, 1.0)));
    }
}
