//! Intervals into which what must be done within them does not fit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Work for a processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Task {
    /// From when it can be worked on.
    pub(super) arrival_s: f64,
    /// Until when it must be done.
    pub(super) deadline_s: f64,
    /// What it takes.
    pub(super) seconds: f64,
}

/// A number of seconds that sorts.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seconds(f64);

impl Eq for Seconds {}

impl PartialOrd for Seconds {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seconds {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Slack below which work counts as done in time.
const SLACK_S: f64 = 1e-9;

/// Plays preemptive earliest-deadline-first over tasks in the order of their arrivals, which does everything in time if
/// any order can. Returns, for each stretch in which the processor never rests, the latest answer's critical interval
/// `[s, d]`: from the last moment before which nothing with a deadline up to `d` waited, until `d`. What arrives and
/// must be done within it takes longer than `d - s`. Empty if all is done in time.
pub(super) fn overfull(tasks: &[Task]) -> Vec<(f64, f64)> {
    let mut found = Vec::new();
    let mut first = 0;
    while first < tasks.len() {
        // A stretch ends where all that has come is done before the next comes, whatever the order.
        let (mut end, mut done_s) = (first, tasks[first].arrival_s);
        while end < tasks.len() && (end == first || tasks[end].arrival_s < done_s) {
            done_s = done_s.max(tasks[end].arrival_s) + tasks[end].seconds;
            end += 1;
        }
        found.extend(critical(&tasks[first..end]));
        first = end;
    }
    found
}

/// The critical intervals of one stretch: that of the first late answer and that of the latest.
fn critical(tasks: &[Task]) -> Vec<(f64, f64)> {
    let late = late(tasks);
    let first = late.iter().min_by(|a, b| a.0.total_cmp(&b.0));
    let latest = late.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let mut deadlines: Vec<f64> = first.into_iter().chain(latest).map(|(deadline, _)| *deadline).collect();
    deadlines.dedup();
    deadlines.into_iter().filter_map(|deadline| widest(tasks, deadline)).collect()
}

/// Deadlines that are missed, and by how much.
fn late(tasks: &[Task]) -> Vec<(f64, f64)> {
    let mut waiting: BinaryHeap<Reverse<(Seconds, usize)>> = BinaryHeap::new();
    let mut left: Vec<f64> = tasks.iter().map(|task| task.seconds).collect();
    let (mut now, mut next, mut late) = (0.0_f64, 0, Vec::new());
    while next < tasks.len() || !waiting.is_empty() {
        if waiting.is_empty() {
            now = now.max(tasks[next].arrival_s);
        }
        while next < tasks.len() && tasks[next].arrival_s <= now {
            waiting.push(Reverse((Seconds(tasks[next].deadline_s), next)));
            next += 1;
        }
        let Some(&Reverse((Seconds(deadline), index))) = waiting.peek() else { continue };
        let done = now + left[index];
        match tasks.get(next) {
            Some(task) if task.arrival_s < done => {
                left[index] -= task.arrival_s - now;
                now = task.arrival_s;
            }
            _ => {
                now = done;
                waiting.pop();
                if now > deadline + SLACK_S {
                    late.push((deadline, now - deadline));
                }
            }
        }
    }
    late
}

/// The start of the fullest interval that ends at a deadline, if what lies within takes longer than it.
fn widest(tasks: &[Task], deadline: f64) -> Option<(f64, f64)> {
    let (mut need, mut best) = (0.0, (0.0, deadline));
    for task in tasks.iter().rev().filter(|task| task.deadline_s <= deadline) {
        need += task.seconds;
        let excess = need - (deadline - task.arrival_s);
        if excess > best.0 {
            best = (excess, task.arrival_s);
        }
    }
    (best.0 > SLACK_S).then_some((best.1, deadline))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(arrival_s: f64, deadline_s: f64, seconds: f64) -> Task {
        Task { arrival_s, deadline_s, seconds }
    }

    #[test]
    fn what_fits_leaves_nothing() {
        // The second is urgent and preempts: 0-1 first, 1-2 second, 2-4 first.
        assert_eq!(overfull(&[task(0.0, 4.0, 3.0), task(1.0, 2.0, 1.0)]), []);
        assert_eq!(overfull(&[]), []);
    }

    #[test]
    fn the_interval_of_a_late_answer_is_overfull() {
        // Of [1, 3] only 2 s can be used, 2.5 are wanted; the first task is no part of it.
        let tasks = [task(0.0, 9.0, 2.0), task(1.0, 3.0, 1.5), task(1.5, 3.0, 1.0)];
        assert_eq!(overfull(&tasks), [(1.0, 3.0)]);
        // Two stretches, each with its own.
        let tasks = [task(0.0, 1.0, 1.5), task(5.0, 6.0, 0.5), task(5.0, 6.0, 0.7)];
        assert_eq!(overfull(&tasks), [(0.0, 1.0), (5.0, 6.0)]);
    }
}
