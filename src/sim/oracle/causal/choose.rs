//! The cheapest way to serve the head of the queue.

use super::gears::Gears;
use super::outlook::Due;
use super::program::{Drifts, Expected, Limits, Program, Rank, Task};
use super::{Causal, Clocks, HOPELESS, MISS};
use crate::core::catalog::{ModelId, UnitId, VariantId};
use crate::time::Timestamp;
use crate::units::Ppm;
use std::sync::Arc;

/// A processor that is busy is waited for if that saves this share of the energy.
const WORTH_WAITING: f64 = 0.98;
/// Sizes of batches that are tried, in requests.
const BATCHES: [usize; 9] = [1, 2, 3, 4, 6, 8, 12, 16, 32];

/// What becomes of a request.
pub(super) enum Next {
    /// It runs now.
    Run(Box<Choice>),
    /// It waits for a processor.
    Wait,
    /// It cannot be served in time.
    Hopeless,
}

/// A run.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    /// Indices into the queue, ascending.
    pub(super) batch: Vec<usize>,
    pub(super) items: u32,
    pub(super) gears: Arc<Gears>,
    pub(super) program: Program,
    pub(super) expected: Expected,
    /// The variant that it is given up for, and after how many seconds.
    pub(super) rescue: Option<(VariantId, f64)>,
    /// Seconds that it takes at worst.
    pub(super) worst_s: f64,
    rank: Rank,
}

/// What is common to the programs of a batch.
struct Batch {
    model: ModelId,
    /// Indices into the queue; none for a request that has not come yet.
    indices: Vec<usize>,
    items: u32,
    target: Ppm,
    floor: Ppm,
}

impl Causal {
    /// What becomes of the request at an index of the queue; those before it wait for a busy processor.
    pub(super) fn choose(&mut self, now: Timestamp, head: usize) -> Next {
        let (mut free, mut later): (Option<Choice>, Option<Choice>) = (None, None);
        for group in self.groups() {
            // What is busy is free only later, with less time left.
            let busy = self.running.get(&group).map(|run| run.ends.map(|end| end.since(now).as_secs_f64()));
            let slot = if busy.is_some() { &mut later } else { &mut free };
            let before = slot.take();
            let best = self.on_processor(now, head, group, busy.unwrap_or([0.0, 0.0]), before);
            if busy.is_some() { later = best } else { free = best }
        }
        match (free, later) {
            (Some(free), Some(later)) if later.rank.beats(&free.rank, WORTH_WAITING) => Next::Wait,
            (Some(free), _) if free.expected.own_miss < self.hopeless() => Next::Run(Box::new(free)),
            (None, _) if self.running.is_empty() => Next::Hopeless,
            (None | Some(_), Some(later)) if later.expected.own_miss < self.hopeless() => Next::Wait,
            (None | Some(_), Some(_)) | (Some(_), None) => Next::Hopeless,
            (None, None) => Next::Wait,
        }
    }

    /// The chance to be late from which a request is turned away: sooner where others would be late for it.
    fn hopeless(&self) -> f64 {
        if self.queue.len() > 1 { HOPELESS[1] } else { HOPELESS[0] }
    }

    pub(super) fn groups(&self) -> Vec<u8> {
        let mut groups: Vec<u8> = self.machine.catalog.board.units.iter().map(|unit| unit.group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// The best batch that the head can lead on a processor that is free in so many seconds, probably and at worst; or
    /// the one found before.
    fn on_processor(
        &mut self,
        now: Timestamp,
        head: usize,
        group: u8,
        wait_s: [f64; 2],
        before: Option<Choice>,
    ) -> Option<Choice> {
        let mut best = before;
        for batch in self.batches(head) {
            let own_s = self.fastest(group, self.queue[head].request.model, batch.items, batch.floor);
            if !own_s.is_finite() {
                continue;
            }
            let mut limits = self.limits(now, group, &batch.indices, own_s);
            limits.latest_s -= wait_s[1];
            limits.own_s -= wait_s[1];
            limits.mean_s -= wait_s[0];
            let drifts = |this: &Self, gears: &Gears| this.drifts(now, gears.unit);
            let found = self.programs(group, &batch, &limits, drifts);
            if found.as_ref().is_some_and(|found| best.as_ref().is_none_or(|best| found.rank < best.rank)) {
                best = found;
            }
        }
        best
    }

    /// The batches that a request can lead.
    fn batches(&self, head: usize) -> Vec<Batch> {
        let model = self.queue[head].request.model;
        let room = self.machine.catalog.models[model.index()].max_batch;
        let same = (head..self.queue.len()).filter(|index| self.queue[*index].request.model == model);
        let mut batch = Batch { model, indices: Vec::new(), items: 0, target: Ppm(0), floor: Ppm(0) };
        let mut all = Vec::new();
        for index in same {
            let waiting = &self.queue[index];
            let items = batch.items + waiting.request.items;
            if items > room && !batch.indices.is_empty() {
                break;
            }
            batch.indices.push(index);
            batch.items = items;
            batch.target = batch.target.max(waiting.target);
            batch.floor = batch.floor.max(waiting.floor);
            if BATCHES.contains(&batch.indices.len()) {
                all.push(Batch { indices: batch.indices.clone(), ..batch });
            }
        }
        all
    }

    /// The best program of a batch on a processor whose domains stand as `drifts` tells.
    fn programs(
        &mut self,
        group: u8,
        batch: &Batch,
        limits: &Limits,
        drifts: impl Fn(&Self, &Gears) -> Drifts,
    ) -> Option<Choice> {
        let able = self.able(group, batch.model, batch.floor);
        let spread = Arc::clone(&self.spread);
        let rests = self.queue.len() <= batch.indices.len();
        let share = 1.0 / batch.indices.len().max(1) as f64;
        let mut best: Option<Choice> = None;
        for hedged in [false, true] {
            for gears in &able {
                let held = gears.domains.map(|domain| domain.and_then(|domain| self.held(domain, group)));
                let (rim, drifts) = (gears.rim_with(held), drifts(self, gears));
                let accuracy = |gears: &Gears| self.machine.variants[gears.variant.index()].accuracy;
                let on_target = accuracy(gears) >= batch.target;
                let preemptible = self.machine.catalog.board.units[gears.unit.index()].preemptible;
                // Below the target nothing is given up for less.
                let less = |other: &&Arc<Gears>| other.unit == gears.unit && accuracy(other) < batch.target;
                let less = able.iter().filter(|other| on_target && preemptible && less(other));
                let smaller: Vec<Arc<Gears>> = less.cloned().collect();
                let items = batch.items;
                let task =
                    Task { gears, rim: &rim, items, drifts, spread: &spread, smaller: &smaller, rests };
                let rank = |expected: &Expected| limits.rank(expected, on_target, share);
                let floor = best.as_ref().map(|best| best.rank);
                // To speed up or give up saves at most what the cheapest gear does.
                if hedged && floor.is_some_and(|floor| rank(&task.least()) >= floor) {
                    continue;
                }
                if let Some((program, expected, rank)) = task.best(limits, hedged, floor, rank) {
                    let worst_s = task.end_s(&program, spread.quantile(MISS));
                    best = Some(Choice {
                        batch: batch.indices.clone(),
                        items: batch.items,
                        gears: Arc::clone(gears),
                        program,
                        expected,
                        rescue: program.rescue.map(|(small, at_s)| (smaller[small].variant, at_s)),
                        worst_s,
                        rank,
                    });
                }
            }
        }
        best
    }

    /// The unit and the clocks to bring up before a request is due; `None` if it is as well to let it begin with the
    /// clocks at rest. To bring them up costs what they draw until it comes.
    pub(super) fn preparation(&mut self, due: &Due) -> Option<(UnitId, Clocks)> {
        let (slow, late) = self.conditions;
        let conditions = [slow.compute, slow.memory, late].map(f64::to_bits);
        let latency = due.deadline.since(due.from);
        let key = (due.model, due.items, due.floor, latency, conditions);
        if let Some(known) = self.preparations.get(&key) {
            return *known;
        }
        let best = self.prepare(due);
        self.preparations.insert(key, best);
        best
    }

    fn prepare(&mut self, due: &Due) -> Option<(UnitId, Clocks)> {
        let Due { model, items, floor, target, .. } = *due;
        let batch = Batch { model, indices: Vec::new(), items, target, floor };
        let latest_s = due.deadline.since(due.from).as_secs_f64();
        let wait_s = due.jitter.as_secs_f64() / 2.0;
        let mut best: Option<(Rank, Option<(UnitId, Clocks)>)> = None;
        for group in self.groups() {
            let fastest_s = self.fastest(group, model, items, floor);
            let lost = self.spread.above(latest_s / fastest_s);
            let limits = Limits { latest_s, own_s: latest_s, mean_s: f64::INFINITY, miss: MISS + lost };
            let at_rest = |this: &Self, gears: &Gears| this.standing(gears.unit, None);
            let found = self.programs(group, &batch, &limits, at_rest);
            let mut offers: Vec<_> = found.into_iter().map(|found| (found.rank, None)).collect();
            for gears in self.able(group, model, floor) {
                for &gear in &gears.rim {
                    let clocks = gears.khz(gear);
                    let up = |this: &Self, other: &Gears| {
                        this.standing(other.unit, (other.unit == gears.unit).then_some(clocks))
                    };
                    let Some(found) = self.programs(group, &batch, &limits, up) else { continue };
                    let watts = gears.held_watts(gear);
                    let drifts = self.standing(gears.unit, None);
                    let held =
                        watts.iter().zip(&drifts).map(|(watts, drift)| watts * (drift.delay_s + wait_s));
                    offers.push((found.rank.dearer(held.sum()), Some((gears.unit, clocks))));
                }
            }
            for offer in offers {
                if best.is_none_or(|(rank, _)| offer.0 < rank) {
                    best = Some(offer);
                }
            }
        }
        best.and_then(|(_, preparation)| preparation)
    }
}
