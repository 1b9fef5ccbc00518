//! A certified lower bound on the energy of every schedule that serves given requests in time.
//!
//! *Relaxation.* Each request chooses from its menu ([`super::menu`]) a mixture `x` of answers, so that
//! `sum_c x_ic = 1`, at the least energy, subject to the capacity of each processor: the requests whose windows lie
//! within an interval `[s, e]` need no more than `e - s` of it (and, where wanted, to a mean accuracy). Every feasible
//! schedule satisfies these constraints, at no less energy: see [`super::menu`] for time and energy of a run,
//! [`super::idle`] for the rest of the board. What the relaxation leaves out can only cost more: runs are not
//! preempted, clocks change late and wait between runs, firmware throttles, aborted runs are paid too.
//!
//! *Dual.* With a price `l_I >= 0` per second on every interval `I` of a processor and `m >= 0` per point of accuracy,
//! `D = sum_i min_c (e_ic + t_ic sum_{I of c's processor, holding i} l_I - m a_ic) - sum_I l_I |I| + m sum_i Q`
//! is a lower bound whatever the prices (weak duality): the proof needs no solver to be believed. Good prices are found
//! so: with prices given, every request takes its cheapest answer; preemptive earliest-deadline-first shows whether
//! the processors can do that, and if not, the interval that is overfull; its price rises until it is not. Prices of
//! overlapping intervals are balanced by coordinate ascent.

use super::hull::{Point, lower_left};
use super::instance::Instance;
use super::menu::{Dish, Kitchen};
use super::overfull::{Task, overfull};

/// Rounds of looking for overfull intervals.
const ROUNDS: usize = 60;
/// Sweeps of coordinate ascent over the priced intervals in each round.
const SWEEPS: usize = 3;
/// Answers looked at in repricing, after which the prices are taken as they are: the bound holds at any prices.
const EFFORT: u64 = 40_000_000;
/// Relative accuracy of a price.
const FINE: f64 = 1e-5;
/// Share of the bound given up to rounding.
const ROUNDING: f64 = 1e-9;

/// What must be served.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand<'a> {
    /// By request; `None` = all that count.
    pub served: Option<&'a [bool]>,
    /// Mean accuracy of the answers, as a fraction; `None` = the floors are enough.
    pub mean_accuracy: Option<f64>,
}

impl Demand<'_> {
    /// All requests, to their floors.
    pub const ALL: Self = Self { served: None, mean_accuracy: None };
}

/// A lower bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Energy of the board over the horizon, J.
    pub joules: f64,
    /// Of that, the idle board's.
    pub idle_j: f64,
    /// What queueing adds to the sum of the requests' minima.
    pub queueing_j: f64,
    /// Requests in the bound.
    pub requests: usize,
    /// Requests of the demand that no schedule can serve in time; they are not in the bound.
    pub unservable: usize,
    /// Whether some interval is too short for what must be served in it, so that no schedule serves all.
    pub overloaded: bool,
}

/// The bound of all that counts, to its floors.
#[must_use]
pub fn certified_bound(instance: &Instance) -> Bound {
    certified_bound_of(instance, Demand::ALL)
}

/// The bound of a demand.
#[must_use]
pub fn certified_bound_of(instance: &Instance, demand: Demand<'_>) -> Bound {
    let mut dual = Dual::new(instance, demand);
    let free_j = dual.value();
    dual.ascend();
    let joules = (dual.best_j + instance.idle_j()) * (1.0 - ROUNDING);
    Bound {
        joules,
        idle_j: instance.idle_j(),
        queueing_j: (dual.best_j - free_j).max(0.0),
        requests: dual.jobs.len(),
        unservable: dual.unservable,
        overloaded: dual.overloaded,
    }
}

struct Job {
    arrival_s: f64,
    deadline_s: f64,
    /// Its part of [`Dual::dishes`].
    menu: std::ops::Range<usize>,
    /// Sum of the prices of the intervals that hold it, by processor, J/s.
    price: Vec<f64>,
}

struct Interval {
    group: usize,
    from_s: f64,
    until_s: f64,
    price: f64,
    members: Vec<usize>,
    /// Whether a price of its members has changed since its own was chosen.
    stale: bool,
}

struct Dual {
    groups: usize,
    /// By arrival.
    jobs: Vec<Job>,
    dishes: Vec<Dish>,
    intervals: Vec<Interval>,
    /// Price of accuracy, J per whole point, and the mean that is wanted.
    accuracy_price: f64,
    mean_accuracy: Option<f64>,
    /// No price is ever above this, J/s.
    dearest: f64,
    unservable: usize,
    overloaded: bool,
    best_j: f64,
    effort: u64,
}

impl Dual {
    fn new(instance: &Instance, demand: Demand<'_>) -> Self {
        let mut kitchen = Kitchen::new(instance);
        let (mut jobs, mut dishes, mut unservable) = (Vec::new(), Vec::new(), 0);
        for (index, ask) in instance.asks.iter().enumerate() {
            let wanted = demand.served.is_none_or(|served| served.get(index).copied().unwrap_or(false));
            if !ask.counts || !wanted {
                continue;
            }
            let from = dishes.len();
            dishes.extend(kitchen.menu(index));
            if dishes.len() == from {
                unservable += 1;
                continue;
            }
            if demand.mean_accuracy.is_none() {
                prune(&mut dishes, from, instance.groups.len());
            }
            jobs.push(Job {
                arrival_s: ask.arrival.since(crate::time::Timestamp::ZERO).as_secs_f64(),
                deadline_s: ask.deadline.since(crate::time::Timestamp::ZERO).as_secs_f64(),
                menu: from..dishes.len(),
                price: vec![0.0; instance.groups.len()],
            });
        }
        let energy: f64 = dishes.iter().map(|dish| dish.joules).fold(0.0, f64::max);
        let time = dishes.iter().map(|dish| dish.seconds).fold(f64::INFINITY, f64::min);
        let dearest = if time > 0.0 && time.is_finite() { 1e3 * energy / time } else { 0.0 };
        Self {
            groups: instance.groups.len(),
            jobs,
            dishes,
            intervals: Vec::new(),
            accuracy_price: 0.0,
            mean_accuracy: demand.mean_accuracy,
            dearest,
            unservable,
            overloaded: false,
            best_j: f64::NEG_INFINITY,
            effort: 0,
        }
    }

    /// The cheapest answer to a job at the present prices, and its price.
    fn choice(&self, job: &Job) -> (&Dish, f64) {
        let mut best = (&self.dishes[job.menu.start], f64::INFINITY);
        for dish in &self.dishes[job.menu.clone()] {
            let cost =
                dish.joules + dish.seconds * job.price[dish.group] - self.accuracy_price * dish.accuracy;
            if cost < best.1 {
                best = (dish, cost);
            }
        }
        best
    }

    /// The dual function: a lower bound of the energy above the idle board, J.
    fn value(&self) -> f64 {
        let answers: f64 = self.jobs.iter().map(|job| self.choice(job).1).sum();
        let capacity: f64 = self.intervals.iter().map(|i| i.price * (i.until_s - i.from_s)).sum();
        let wanted = self.mean_accuracy.unwrap_or(0.0) * self.accuracy_price * self.jobs.len() as f64;
        answers - capacity + wanted
    }

    fn ascend(&mut self) {
        self.best_j = self.value();
        for _ in 0..ROUNDS {
            self.price_accuracy();
            let fresh = self.find_overfull();
            for _ in 0..SWEEPS {
                for index in (0..self.intervals.len()).rev() {
                    self.reprice(index);
                }
                self.price_accuracy();
            }
            let value = self.value();
            let risen = value > self.best_j + 1e-7 * self.best_j.abs();
            self.best_j = self.best_j.max(value);
            if !fresh && !risen || self.overloaded || self.effort > EFFORT {
                break;
            }
        }
    }

    /// Adds the intervals that are overfull at the present choices; false if there is no new one.
    fn find_overfull(&mut self) -> bool {
        let mut fresh = false;
        for group in 0..self.groups {
            let chosen = self.jobs.iter().filter_map(|job| {
                let dish = self.choice(job).0;
                let task =
                    Task { arrival_s: job.arrival_s, deadline_s: job.deadline_s, seconds: dish.seconds };
                (dish.group == group).then_some(task)
            });
            let found = overfull(&chosen.collect::<Vec<_>>());
            for (from_s, until_s) in found {
                let same = |i: &Interval| (i.group, i.from_s, i.until_s) == (group, from_s, until_s);
                if !self.intervals.iter().any(same) {
                    self.add(group, from_s, until_s);
                    fresh = true;
                }
            }
        }
        fresh
    }

    fn add(&mut self, group: usize, from_s: f64, until_s: f64) {
        let first = self.jobs.partition_point(|job| job.arrival_s < from_s);
        let later = self.jobs[first..].iter().enumerate().take_while(|(_, job)| job.arrival_s <= until_s);
        let within = later.filter(|(_, job)| job.deadline_s <= until_s);
        let members = within.map(|(offset, _)| first + offset).collect();
        self.intervals.push(Interval { group, from_s, until_s, price: 0.0, members, stale: true });
    }

    /// The best price of one interval, all others given: where what its requests choose just fits into it. The dual
    /// function is concave, so bisection finds it.
    fn reprice(&mut self, index: usize) {
        if !std::mem::take(&mut self.intervals[index].stale) || self.effort > EFFORT {
            return;
        }
        let (group, present) = (self.intervals[index].group, self.intervals[index].price);
        let capacity = self.intervals[index].until_s - self.intervals[index].from_s;
        if self.needed(index, -present) <= capacity {
            return self.set_price(index, group, 0.0);
        }
        let (mut low, mut high) = (0.0, (2.0 * present).max(0.1));
        while self.needed(index, high - present) > capacity {
            if high >= self.dearest {
                self.overloaded = true;
                return self.set_price(index, group, high);
            }
            low = high;
            high = (high * 4.0).min(self.dearest);
        }
        while high - low > FINE * high {
            let middle = f64::midpoint(low, high);
            if self.needed(index, middle - present) > capacity { low = middle } else { high = middle }
        }
        self.set_price(index, group, high);
    }

    /// Seconds of the processor that the requests within an interval choose if its price changes by `change`.
    fn needed(&mut self, index: usize, change: f64) -> f64 {
        let Interval { group, members, .. } = &self.intervals[index];
        let (mut seconds, mut effort) = (0.0, 0);
        for job in members.iter().map(|member| &self.jobs[*member]) {
            let mut best = (f64::INFINITY, 0.0);
            effort += job.menu.len() as u64;
            for dish in &self.dishes[job.menu.clone()] {
                let own = dish.group == *group;
                let price = job.price[dish.group] + if own { change } else { 0.0 };
                let cost = dish.joules + dish.seconds * price - self.accuracy_price * dish.accuracy;
                if cost < best.0 {
                    best = (cost, if own { dish.seconds } else { 0.0 });
                }
            }
            seconds += best.1;
        }
        self.effort += effort;
        seconds
    }

    fn set_price(&mut self, index: usize, group: usize, price: f64) {
        let change = price - self.intervals[index].price;
        if change.abs() <= FINE * price.abs() {
            return;
        }
        self.intervals[index].price = price;
        for member in &self.intervals[index].members {
            self.jobs[*member].price[group] += change;
        }
        let (from_s, until_s) = (self.intervals[index].from_s, self.intervals[index].until_s);
        for (other, interval) in self.intervals.iter_mut().enumerate() {
            interval.stale |= other != index && interval.from_s < until_s && from_s < interval.until_s;
        }
    }

    /// The best price of accuracy, likewise.
    fn price_accuracy(&mut self) {
        let Some(wanted) = self.mean_accuracy else { return };
        let wanted = wanted * self.jobs.len() as f64;
        let mut reached = |price: f64| {
            self.accuracy_price = price;
            self.jobs.iter().map(|job| self.choice(job).0.accuracy).sum::<f64>() >= wanted
        };
        let (mut low, mut high) = (0.0, 1.0);
        if reached(0.0) {
            return;
        }
        while !reached(high) && high < 1e9 {
            (low, high) = (high, high * 8.0);
        }
        while high - low > 1e-6 * high {
            let middle = f64::midpoint(low, high);
            if reached(middle) { high = middle } else { low = middle }
        }
        self.accuracy_price = high;
    }
}

/// Leaves out of the last menu what a mixture of other dishes of the same processor beats: no price makes it the choice.
fn prune(dishes: &mut Vec<Dish>, from: usize, groups: usize) {
    let menu = dishes.split_off(from);
    for group in 0..groups {
        let own = menu.iter().filter(|dish| dish.group == group);
        let points = own.map(|dish| Point { seconds: dish.seconds, joules: dish.joules }).collect();
        let rim = lower_left(points);
        dishes.extend(rim.into_iter().map(|Point { seconds, joules }| Dish {
            group,
            seconds,
            joules,
            accuracy: 0.0,
        }));
    }
}
