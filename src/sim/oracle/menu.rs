//! For every request the points in time and energy among which a lower bound must choose, favourable in everything
//! that the bound does not decide: the conditions within its window, the luck and the size of a batch it might join.

use super::hull::{Point, lower_left, within};
use super::instance::{Ask, Instance};
use crate::core::catalog::ModelId;
use crate::units::Ppm;
use std::collections::BTreeMap;
use std::rc::Rc;

/// An answer to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dish {
    /// Index into [`Instance::groups`].
    pub(super) group: usize,
    /// Seconds of the processor, this request's share of a batch.
    pub(super) seconds: f64,
    /// Joules above the idle board, likewise, its heating included.
    pub(super) joules: f64,
    /// Accuracy, as a fraction.
    pub(super) accuracy: f64,
}

/// A variant on a unit, at a luck of 1.
#[derive(Debug)]
struct Course {
    group: usize,
    accuracy: f64,
    /// Most that a share of a batch takes of the time of a run alone: 1 where there is no batch.
    shared: f64,
    rim: Vec<Point>,
}

/// What requests may have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    model: ModelId,
    floor: Ppm,
    items: u32,
    /// Most items of a batch that it may be in.
    batch: u32,
    seasons: (usize, usize),
}

/// Makes the menus of an instance.
#[derive(Debug)]
pub(super) struct Kitchen<'a> {
    instance: &'a Instance,
    courses: BTreeMap<Kind, Rc<Vec<Course>>>,
    /// Per request its company.
    company: Vec<Company>,
}

/// Whom a request may share a batch with.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Company {
    /// Most items together.
    items: u32,
    /// The best luck among them: the run takes that of its first request.
    luck: f64,
}

impl<'a> Kitchen<'a> {
    pub(super) fn new(instance: &'a Instance) -> Self {
        Self { instance, courses: BTreeMap::new(), company: company(instance) }
    }

    /// The menu of a request; empty if it cannot be served in time at all.
    pub(super) fn menu(&mut self, index: usize) -> Vec<Dish> {
        let (ask, company) = (self.instance.asks[index], self.company[index]);
        let kind = Kind {
            model: ask.model,
            floor: ask.floor,
            items: ask.items,
            batch: company.items,
            seasons: self.instance.seasons_of(&ask),
        };
        let instance = self.instance;
        let courses = self.courses.entry(kind).or_insert_with(|| Rc::new(courses(instance, &kind)));
        let (limit, joule) = (ask.window_s() / company.luck, instance.joule(&ask));
        let mut dishes = Vec::new();
        for course in courses.iter() {
            dishes.extend(within(&course.rim, limit * course.shared).map(|point| Dish {
                group: course.group,
                seconds: point.seconds * company.luck,
                joules: point.joules * company.luck * joule,
                accuracy: course.accuracy,
            }));
        }
        dishes
    }
}

/// The rims of all variants that are accurate enough, on all units.
fn courses(instance: &Instance, kind: &Kind) -> Vec<Course> {
    let mut points: BTreeMap<_, (usize, f64, f64, Vec<Point>)> = BTreeMap::new();
    for (index, configuration) in instance.configurations.iter().enumerate() {
        if configuration.model != kind.model || configuration.accuracy < kind.floor {
            continue;
        }
        let group = instance.groups.iter().position(|group| *group == configuration.group).unwrap_or(0);
        let (alone_s, share) = cheapest_share(instance, kind, index);
        let accuracy = configuration.accuracy.as_fraction();
        let entry = points.entry((configuration.variant, configuration.unit));
        let (_, _, shared, points) = entry.or_insert((group, accuracy, 0.0, Vec::new()));
        *shared = shared.max(share.seconds / alone_s);
        points.push(share);
    }
    let course =
        |(group, accuracy, shared, points)| Course { group, accuracy, shared, rim: lower_left(points) };
    points.into_values().map(course).collect()
}

/// Seconds of a run alone, and the least time and energy that a share of a batch can have, each for itself: over the
/// seasons, over the number of other busy processors, and over the size of the batch. (Time per item is linear in the
/// reciprocal of the size, so an extreme size is the best.)
fn cheapest_share(instance: &Instance, kind: &Kind, configuration: usize) -> (f64, Point) {
    let (first, last) = kind.seasons;
    let mut alone_s = f64::INFINITY;
    let mut least = Point { seconds: f64::INFINITY, joules: f64::INFINITY };
    for season in first..=last {
        for others in 0..instance.groups.len() {
            let rate = instance.rate(season, others, configuration);
            alone_s = alone_s.min(rate.seconds(kind.items));
            for items in [kind.items, kind.batch] {
                let share = f64::from(kind.items) / f64::from(items);
                let seconds = rate.seconds(items) * share;
                least.seconds = least.seconds.min(seconds);
                least.joules = least.joules.min(seconds * rate.least_watts);
            }
        }
    }
    (alone_s, least)
}

/// Finds out who may share a batch. All of a batch must have come before it begins, and it must end before the first
/// deadline: so the windows, shortened by the least time that a run takes, have a moment in common.
fn company(instance: &Instance) -> Vec<Company> {
    let asks = &instance.asks;
    let lucks: Vec<f64> = asks.iter().map(|ask| instance.best_luck(ask)).collect();
    let longest = asks.iter().map(|ask| ask.deadline.since(ask.arrival)).max().unwrap_or_default();
    let fastest = fastest_runs(instance);
    let alone = |index: usize| Company { items: asks[index].items, luck: lucks[index] };
    let mut all = Vec::with_capacity(asks.len());
    for (index, ask) in asks.iter().enumerate() {
        let room = instance.max_batch[ask.model.index()];
        if room <= ask.items {
            all.push(alone(index));
            continue;
        }
        let from = asks.partition_point(|other| other.arrival.after(longest) < ask.arrival);
        let near = (from..asks.len()).take_while(|other| asks[*other].arrival <= ask.deadline);
        let near: Vec<usize> = near.filter(|other| asks[*other].model == ask.model).collect();
        let luck = near.iter().map(|other| lucks[*other]).fold(lucks[index], f64::min);
        let least_s = fastest[ask.model.index()] * luck;
        all.push(join(instance, index, &near, &lucks, least_s, room));
    }
    all
}

fn join(
    instance: &Instance,
    index: usize,
    near: &[usize],
    lucks: &[f64],
    least_s: f64,
    room: u32,
) -> Company {
    let ask = &instance.asks[index];
    let latest = |ask: &Ask| ask.deadline.before(crate::units::Nanos::from_secs_f64(least_s));
    let mut company = Company { items: ask.items, luck: lucks[index] };
    let mut turns = Vec::new();
    for &other in near.iter().filter(|other| **other != index) {
        let their = &instance.asks[other];
        let (from, until) = (their.arrival.max(ask.arrival), latest(their).min(latest(ask)));
        if from <= until {
            company.luck = company.luck.min(lucks[other]);
            turns.push((from, 0, their.items));
            turns.push((until, 1, their.items));
        }
    }
    // The most items present at one moment; who comes counts before who goes.
    turns.sort_unstable();
    let mut present = ask.items;
    for (_, goes, items) in turns {
        present = if goes == 1 { present - items } else { present + items };
        company.items = company.items.max(present);
    }
    company.items = company.items.min(room.max(ask.items));
    company
}

/// The least seconds of a run of one item at a luck of 1, by model.
fn fastest_runs(instance: &Instance) -> Vec<f64> {
    let mut fastest = vec![f64::INFINITY; instance.max_batch.len()];
    for season in 0..instance.seasons.len() {
        for (index, configuration) in instance.configurations.iter().enumerate() {
            let least = &mut fastest[configuration.model.index()];
            *least = least.min(instance.rate(season, 0, index).seconds(1));
        }
    }
    fastest
}
