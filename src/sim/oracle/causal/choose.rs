//! The cheapest way to serve the head of the queue.

use super::gears::Gears;
use super::program::{Expected, Limits, Program, Rank, Task};
use super::{Causal, HOPELESS, MISS};
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
    Run(Choice),
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
    /// Seconds that it takes at worst.
    pub(super) worst_s: f64,
    rank: Rank,
}

/// What is common to the programs of a batch on a processor.
struct Batch {
    indices: Vec<usize>,
    items: u32,
    target: Ppm,
    floor: Ppm,
}

impl Causal {
    /// What becomes of the request at an index of the queue; those before it wait for a busy processor.
    pub(super) fn choose(&mut self, now: Timestamp, head: usize) -> Next {
        let mut groups: Vec<u8> = self.machine.catalog.board.units.iter().map(|unit| unit.group).collect();
        groups.sort_unstable();
        groups.dedup();
        let (mut free, mut later): (Option<Choice>, Option<Choice>) = (None, None);
        for group in groups {
            // What is busy is free only later, with less time left.
            let busy = self.running.get(&group).map(|run| run.ends.map(|end| end.since(now).as_secs_f64()));
            let slot = if busy.is_some() { &mut later } else { &mut free };
            let before = slot.take();
            let best = self.on_processor(now, head, group, busy.unwrap_or([0.0, 0.0]), before);
            if busy.is_some() { later = best } else { free = best }
        }
        match (free, later) {
            (Some(free), Some(later)) if later.rank.beats(&free.rank, WORTH_WAITING) => Next::Wait,
            (Some(free), _) if free.expected.miss < HOPELESS => Next::Run(free),
            (None, _) if self.running.is_empty() => Next::Hopeless,
            (None | Some(_), Some(later)) if later.expected.miss < HOPELESS => Next::Wait,
            (None | Some(_), Some(_)) | (Some(_), None) => Next::Hopeless,
            (None, None) => Next::Wait,
        }
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
            limits.mean_s -= wait_s[0];
            let found = self.programs(now, group, &batch, &limits);
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
        let mut batch = Batch { indices: Vec::new(), items: 0, target: Ppm(0), floor: Ppm(0) };
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

    fn programs(&mut self, now: Timestamp, group: u8, batch: &Batch, limits: &Limits) -> Option<Choice> {
        let model = self.queue[batch.indices[0]].request.model;
        let able = self.able(group, model, batch.floor);
        let spread = Arc::clone(&self.spread);
        let mut best: Option<Choice> = None;
        for boosts in [false, true] {
            for gears in &able {
                let held = gears.domains.map(|domain| domain.and_then(|domain| self.held(domain, group)));
                let rim = gears.rim_with(held);
                let drifts = self.drifts(now, gears.unit);
                let task = Task { gears, rim: &rim, items: batch.items, drifts, spread: &spread };
                let accuracy = self.machine.variants[gears.variant.index()].accuracy;
                let on_target = accuracy >= batch.target;
                let share = 1.0 / batch.indices.len() as f64;
                let rank = |expected: &Expected| limits.rank(expected, on_target, share);
                let floor = best.as_ref().map(|best| best.rank);
                // A boost saves at most what the cheapest gear does.
                if boosts && floor.is_some_and(|floor| rank(&task.least()) >= floor) {
                    continue;
                }
                if let Some((program, expected, rank)) = task.best(limits, boosts, floor, rank) {
                    let worst_s = task.end_s(&program, spread.quantile(MISS));
                    best = Some(Choice {
                        batch: batch.indices.clone(),
                        items: batch.items,
                        gears: Arc::clone(gears),
                        program,
                        expected,
                        worst_s,
                        rank,
                    });
                }
            }
        }
        best
    }
}
