//! What a run owes to those behind it.
//!
//! *Latest end.* Backwards through the followers in the order of their deadlines: each must have ended by its deadline
//! and by the moment at which the next must begin; it must begin its worst time in the fastest gear before that, but
//! never before it has come.
//!
//! *Mean time.* Ahead of the `k`-th follower's deadline the processor has so much time for so much work. A run's share
//! of that time is its share of the work, and it should take no more than the least of these shares: the rule of
//! Optimal Available for clocks (Yao, Demers and Shenker 1995).

use super::gears::Gears;
use super::program::Limits;
use super::{Causal, MISS, Waiting};
use crate::core::catalog::ModelId;
use crate::time::Timestamp;
use crate::units::{Nanos, Ppm};
use std::sync::Arc;

/// A request behind the one that is planned.
#[derive(Debug, Clone, Copy)]
struct Follower {
    from: Timestamp,
    deadline: Timestamp,
    /// Seconds in the fastest gear: usual, and at worst.
    usual_s: f64,
    worst_s: f64,
    /// Whether it is known when it comes, so that room can be kept for it.
    sure: bool,
}

impl Causal {
    /// The limits of a run on a processor that would head the queue without `batch` (indices into the queue).
    pub(super) fn limits(&mut self, now: Timestamp, group: u8, batch: &[usize], own_s: f64) -> Limits {
        let own = batch.iter().map(|index| self.queue[*index].deadline).min().unwrap_or(now);
        let followers = self.followers(now, group, batch, own_s);
        let latest_s = own.min(room(&followers)).since(now).as_secs_f64();
        let (mut work_s, mut mean_s) = (own_s, f64::INFINITY);
        for follower in &followers {
            work_s += follower.usual_s;
            mean_s = mean_s.min(follower.deadline.since(now).as_secs_f64() * own_s / work_s);
        }
        // What even the fastest gear could not save is nobody's fault.
        let lost = self.spread.above(own.since(now).as_secs_f64() / own_s);
        Limits { latest_s, own_s: own.since(now).as_secs_f64(), mean_s, miss: MISS + lost }
    }

    /// When a run on a processor that will take some seconds more must have made room for what waits.
    pub(super) fn room(&mut self, now: Timestamp, group: u8, left_s: f64) -> Timestamp {
        room(&self.followers(now, group, &[], left_s))
    }

    fn followers(&mut self, now: Timestamp, group: u8, batch: &[usize], own_s: f64) -> Vec<Follower> {
        let waiting = self.queue.iter().enumerate().filter(|(index, _)| !batch.contains(index));
        let waiting = waiting.map(|(_, Waiting { request, deadline, floor, .. })| {
            (now, *deadline, request.model, request.items, *floor, true)
        });
        let due = self.outlook.due(now);
        let due = due.iter().map(|due| (due.from, due.deadline, due.model, due.items, due.floor, due.sure));
        let all: Vec<_> = waiting.chain(due).collect();
        let mut followers = Vec::with_capacity(all.len());
        let worst = self.spread.quantile(MISS);
        for (from, deadline, model, items, floor, sure) in all {
            let usual_s = self.fastest(group, model, items, floor);
            // As much as can be had: a request that is due may have the processor from its arrival, one that waits after
            // this run. What cannot be served here in time anyway needs no protection.
            let before_s = if from > now { 0.0 } else { own_s };
            let worst_s = (usual_s * worst).min(deadline.since(from).as_secs_f64() - before_s);
            if worst_s >= usual_s {
                // What only may come is spread over all processors that could take it.
                let spread_over = if sure { 1.0 } else { self.able_processors(model, items, floor, worst_s) };
                followers.push(Follower { from, deadline, usual_s: usual_s / spread_over, worst_s, sure });
            }
        }
        followers.sort_by_key(|follower| follower.deadline);
        followers
    }

    /// On how many processors a run takes at most so many seconds; at least 1.
    fn able_processors(&mut self, model: ModelId, items: u32, floor: Ppm, within_s: f64) -> f64 {
        let groups = self.groups();
        let able = groups.into_iter().filter(|group| self.fastest(*group, model, items, floor) <= within_s);
        f64::from(u32::try_from(able.count().max(1)).unwrap_or(u32::MAX))
    }

    /// Seconds of a run on a processor in the fastest gear, infinite if none may run there.
    pub(super) fn fastest(&mut self, group: u8, model: ModelId, items: u32, floor: Ppm) -> f64 {
        let able = self.able(group, model, floor);
        let fastest = |gears: &Arc<Gears>| {
            gears.rim.first().map_or(f64::INFINITY, |gear| gears.rate(*gear).seconds(items))
        };
        able.iter().map(fastest).fold(f64::INFINITY, f64::min)
    }

    /// What of a model may run on a processor, is loaded there and accurate enough.
    pub(super) fn able(&mut self, group: u8, model: ModelId, floor: Ppm) -> Vec<Arc<Gears>> {
        let loaded: Vec<_> = self.resident.iter().copied().collect();
        let fits = loaded.into_iter().filter(|(variant, unit)| {
            let known = &self.machine.catalog.variants[variant.index()];
            known.model == model && known.accuracy >= floor && self.group(*unit) == group
        });
        let others = self.running.keys().filter(|other| **other != group).count();
        let slow = self.machine.plant.beside(self.conditions.0, others);
        let bits = [slow.compute, slow.memory].map(f64::to_bits);
        let fits: Vec<_> = fits.collect();
        let mut able = Vec::with_capacity(fits.len());
        for (variant, unit) in fits {
            let machine = &self.machine;
            let gears = self.gears.entry((variant, unit, bits));
            able.push(Arc::clone(
                gears.or_insert_with(|| Arc::new(Gears::new(machine, variant, unit, slow))),
            ));
        }
        able
    }
}

/// When a processor must be free for followers.
fn room(followers: &[Follower]) -> Timestamp {
    let mut latest = Timestamp::MAX;
    for follower in followers.iter().rev().filter(|follower| follower.sure) {
        let end = follower.deadline.min(latest);
        let begin = end.before(Nanos::from_secs_f64(follower.worst_s));
        latest = begin.max(follower.from);
    }
    latest
}
