//! O2: whole traces solved exactly, everything known. For small problems, on which the solvers must agree.
//!
//! Requests are served in a given order (earliest deadline first, which loses nothing where windows are nested in no
//! other), each in one way on one machine, or dropped at a price; each machine works without pause as soon as it may.
//! Quantities are integers, so that solvers can be compared to the last digit.

use super::instance::Instance;
use crate::units::Ppm;
use std::ops::Range;

/// A way to serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Index of the machine: a group of units that share a processor.
    pub machine: usize,
    /// Time, ns.
    pub nanos: u64,
    /// Energy, nJ.
    pub nanojoules: u64,
    /// Accuracy.
    pub accuracy: Ppm,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// When it comes, ns.
    pub arrival: u64,
    /// When it must be done, ns.
    pub deadline: u64,
    /// How it may be served.
    pub ways: Vec<Way>,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The requests, in the order in which each machine serves those it gets.
    pub jobs: Vec<Job>,
    /// Number of machines.
    pub machines: usize,
    /// Least mean accuracy of what is served; `None` = any.
    pub mean_accuracy: Option<Ppm>,
    /// Price of a request that is not served, nJ.
    pub drop_nanojoules: u64,
}

/// A solution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Energy and prices of the dropped, nJ.
    pub cost: u64,
    /// By request the index of its way; `None` = dropped.
    pub choices: Vec<Option<usize>>,
}

impl Problem {
    /// Some of the requests of an instance, in the order of their deadlines, each in every configuration that no other
    /// one beats, under the conditions at its arrival. Requests that need not be answered are left out.
    #[must_use]
    pub fn of(
        instance: &Instance,
        which: Range<usize>,
        mean_accuracy: Option<Ppm>,
        drop_nanojoules: u64,
    ) -> Self {
        let asks = instance.asks[which].iter().filter(|ask| ask.counts);
        let mut jobs: Vec<Job> = asks
            .map(|ask| {
                let season = instance.season_at(ask.arrival);
                let (luck, joule) = (instance.luck(ask, season), instance.joule(ask));
                let fits = instance.configurations.iter().enumerate().filter(|(_, configuration)| {
                    configuration.model == ask.model && configuration.accuracy >= ask.floor
                });
                let ways = fits.map(|(index, configuration)| {
                    let rate = instance.rate(season, 0, index);
                    let seconds = rate.seconds(ask.items) * luck;
                    let group = |group: &u8| *group == configuration.group;
                    Way {
                        machine: instance.groups.iter().position(group).unwrap_or(0),
                        nanos: nanos(seconds),
                        nanojoules: nanos(seconds * rate.watts * joule),
                        accuracy: configuration.accuracy,
                    }
                });
                let ways = unbeaten(ways.collect(), mean_accuracy.is_some());
                Job { arrival: ask.arrival.0, deadline: ask.deadline.0, ways }
            })
            .collect();
        jobs.sort_by_key(|job| (job.deadline, job.arrival));
        Self { jobs, machines: instance.groups.len(), mean_accuracy, drop_nanojoules }
    }

    /// What serving a way adds to the accuracies above the wanted mean, in millionths.
    pub(super) fn surplus(&self, way: &Way) -> i64 {
        self.mean_accuracy.map_or(0, |mean| i64::from(way.accuracy.0) - i64::from(mean.0))
    }
}

fn nanos(value: f64) -> u64 {
    crate::units::Nanos::from_secs_f64(value).0
}

/// The ways that no other one of the same machine beats in time, energy and, where it matters, accuracy.
fn unbeaten(mut ways: Vec<Way>, accuracy_matters: bool) -> Vec<Way> {
    ways.sort_by_key(|way| (way.nanos, way.nanojoules, std::cmp::Reverse(way.accuracy)));
    let mut kept: Vec<Way> = Vec::new();
    for way in ways {
        let beaten = kept.iter().any(|other| {
            other.machine == way.machine
                && other.nanojoules <= way.nanojoules
                && (!accuracy_matters || other.accuracy >= way.accuracy)
        });
        if !beaten {
            kept.push(way);
        }
    }
    kept
}

/// Longest problem for [`brute_force`].
pub const MOST_JOBS: usize = 12;

/// Tries every way of every request. `None` if there are too many requests, or the mean accuracy cannot be had.
#[must_use]
pub fn brute_force(problem: &Problem) -> Option<Plan> {
    if problem.jobs.len() > MOST_JOBS {
        return None;
    }
    let mut search = Search { problem, choices: Vec::new(), best: None };
    search.descend(&mut vec![0; problem.machines], 0, 0);
    search.best
}

struct Search<'a> {
    problem: &'a Problem,
    choices: Vec<Option<usize>>,
    best: Option<Plan>,
}

impl Search<'_> {
    fn descend(&mut self, free: &mut Vec<u64>, cost: u64, surplus: i64) {
        let Some(job) = self.problem.jobs.get(self.choices.len()) else {
            if surplus >= 0 && self.best.as_ref().is_none_or(|best| cost < best.cost) {
                self.best = Some(Plan { cost, choices: self.choices.clone() });
            }
            return;
        };
        for (index, way) in job.ways.iter().enumerate() {
            let before = free[way.machine];
            let end = before.max(job.arrival) + way.nanos;
            if end <= job.deadline {
                free[way.machine] = end;
                self.choices.push(Some(index));
                self.descend(free, cost + way.nanojoules, surplus + self.problem.surplus(way));
                self.choices.pop();
                free[way.machine] = before;
            }
        }
        self.choices.push(None);
        self.descend(free, cost + self.problem.drop_nanojoules, surplus);
        self.choices.pop();
    }
}

/// A state after some requests: label-setting keeps those that no other beats in everything.
#[derive(Debug, Clone)]
struct Label {
    /// When each machine is free.
    free: Vec<u64>,
    cost: u64,
    surplus: i64,
    /// The last choice, and the label before it.
    choice: Option<usize>,
    before: usize,
}

impl Label {
    fn beats(&self, other: &Self) -> bool {
        self.cost <= other.cost
            && self.surplus >= other.surplus
            && self.free.iter().zip(&other.free).all(|(mine, theirs)| mine <= theirs)
    }
}

/// Solves a problem by dynamic programming over labels of (when each machine is free, cost, accuracy above the mean).
/// `None` if some request leaves more than `most_labels` of them, or the mean accuracy cannot be had.
#[must_use]
pub fn dp(problem: &Problem, most_labels: usize) -> Option<Plan> {
    let start = Label { free: vec![0; problem.machines], cost: 0, surplus: 0, choice: None, before: 0 };
    let mut stages = vec![vec![start]];
    for (index, job) in problem.jobs.iter().enumerate() {
        let next_arrival = problem.jobs[index + 1..].iter().map(|job| job.arrival).min().unwrap_or(0);
        let mut fresh = Vec::new();
        for (before, label) in stages[index].iter().enumerate() {
            let dropped =
                Label { cost: label.cost + problem.drop_nanojoules, choice: None, before, ..label.clone() };
            fresh.push(dropped);
            for (choice, way) in job.ways.iter().enumerate() {
                let end = label.free[way.machine].max(job.arrival) + way.nanos;
                if end <= job.deadline {
                    let mut next = label.clone();
                    next.free[way.machine] = end;
                    next.cost += way.nanojoules;
                    next.surplus += problem.surplus(way);
                    (next.choice, next.before) = (Some(choice), before);
                    fresh.push(next);
                }
            }
        }
        // Free before anything can come is as good as free then.
        let free = fresh.iter_mut().flat_map(|label| &mut label.free);
        free.for_each(|free| *free = (*free).max(next_arrival));
        stages.push(unbeaten_labels(fresh, most_labels)?);
    }
    trace(&stages)
}

fn unbeaten_labels(mut labels: Vec<Label>, most: usize) -> Option<Vec<Label>> {
    labels.sort_by(|a, b| (a.cost, -a.surplus, &a.free).cmp(&(b.cost, -b.surplus, &b.free)));
    let mut kept: Vec<Label> = Vec::new();
    for label in labels {
        // Of equal cost and surplus the one that is free earlier came first, so nothing kept is beaten later.
        if !kept.iter().any(|other| other.beats(&label)) {
            kept.push(label);
        }
        if kept.len() > most {
            return None;
        }
    }
    Some(kept)
}

/// The best final label and the choices that led to it.
fn trace(stages: &[Vec<Label>]) -> Option<Plan> {
    let (last, stages) = stages.split_last()?;
    let mut label = last.iter().filter(|label| label.surplus >= 0).min_by_key(|label| label.cost)?;
    let (cost, mut choices) = (label.cost, Vec::new());
    for stage in stages.iter().rev() {
        choices.push(label.choice);
        label = &stage[label.before];
    }
    choices.reverse();
    Some(Plan { cost, choices })
}
