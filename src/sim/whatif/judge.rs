//! Watches one run of a day and says of each limit whether it held.
//!
//! It sees what came of the requests, and the plant itself: true power and temperatures, not what the scheduler
//! believes of them.

use super::day::Day;
use super::limit::{Finding, Limit};
use super::trackers::{Allowance, Heat, Mean, Reserve, Share, Windows};
use crate::board::sim::Plant;
use crate::core::event::{Outcome as Answer, Rejection};
use crate::sim::{Asked, Row};
use crate::time::Timestamp;
use crate::units::{MilliCelsius, Nanos, Ppm};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Longest time between two looks at the board.
const LOOK_EVERY: Nanos = Nanos::from_millis(250);
/// Longest latency that is told from a longer one, in microseconds: the longest objective that there is.
const LONGEST_US: u64 = 3_600_000_000;

/// Requests of a class and what became of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassTally {
    /// Requests that came.
    pub requests: u64,
    /// With an answer, late or not.
    pub answered: u64,
    /// Answered late, or not answered by their deadline or the end.
    pub late: u64,
    /// Turned away for another reason than a deadline that passed.
    pub refused: BTreeMap<Rejection, u64>,
    /// Mean accuracy of the answers.
    pub accuracy: Option<f64>,
    /// The time within which the share of the answers came that the allowance asks for, in ms.
    pub latency_ms: Option<f64>,
    /// Mean energy of an answer above the idle board, in mJ.
    pub energy_mj: Option<f64>,
}

/// What came of one run of a day.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// One finding per limit of the day, in their order.
    pub findings: Vec<Finding>,
    /// By class of the configuration.
    pub classes: Vec<ClassTally>,
    /// Energy of the board from power-on, J.
    pub energy_j: f64,
    /// How long it ran from power-on.
    pub lasted: Nanos,
    /// The hottest that a zone was, in degrees Celsius; none of a board without zones.
    pub hottest_c: Option<f64>,
    /// Share of the battery left at the end, if there is one.
    pub battery_left: Option<f64>,
}

/// The trackers of a class.
struct Class {
    index: usize,
    late: Share,
    floor: Option<Share>,
    target: Option<Mean>,
    costly: Option<(Share, f64)>,
    power: Option<Windows>,
    tally: ClassTally,
    accuracy_sum: f64,
    energy_sum_j: f64,
    latencies: Option<Histogram<u64>>,
}

/// The watcher.
pub(super) struct Judge<'a> {
    day: &'a Day,
    classes: Vec<Class>,
    power: Option<Windows>,
    energy: Option<Allowance>,
    battery: Option<Reserve>,
    heat: Heat,
    step: Nanos,
    looked: Timestamp,
    joules: f64,
}

impl<'a> Judge<'a> {
    /// `totals` are the requests of the whole day by class.
    pub(super) fn new(day: &'a Day, totals: &[u64], plant: &Plant) -> Self {
        let budgets = &day.scenario.budgets;
        let lasting = day.lasting;
        let with_slack = |watts: f64| watts * (1.0 + Limit::METER_SLACK);
        let cap = budgets.power_cap.map(|cap| with_slack(cap.as_watts()));
        let limit = |passive: MilliCelsius| budgets.max_temperature.unwrap_or(passive).as_celsius();
        let zones = plant.spec().zones.iter().map(|zone| limit(zone.passive)).collect();
        let windows = |limit, watts| Windows::new(limit, watts, budgets.power_window, lasting);
        let full = plant.spec().battery.map(|battery| battery.capacity_wh * 3600.0);
        let reserve = budgets.battery.zip(full).map(|(battery, full)| {
            let bound = (battery.reserve.as_fraction() - Limit::BATTERY_SLACK).max(0.0);
            Reserve::new(full, plant.battery_joules().unwrap_or(full), bound, battery.lasting)
        });
        Self {
            day,
            classes: classes(day, totals),
            power: cap.map(|watts| windows(Limit::Power, watts)),
            energy: budgets.energy.map(|energy| {
                Allowance::new(with_slack(energy.total.as_f64() / 1e6), energy.lasting, lasting)
            }),
            battery: reserve,
            heat: Heat::new(zones, lasting),
            // A whole number of looks to a window.
            step: match budgets.power_cap {
                Some(_) => Nanos(budgets.power_window.0 / budgets.power_window.0.div_ceil(LOOK_EVERY.0)),
                None => LOOK_EVERY,
            },
            looked: plant.now(),
            joules: plant.stats().input_j,
        }
    }

    /// From one look at the board to the next.
    pub(super) fn step(&self) -> Nanos {
        self.step.max(Nanos(1))
    }

    /// Time of the day; zero before it has begun.
    fn at(&self, moment: Timestamp) -> Nanos {
        moment.since(Timestamp::ZERO.after(self.day.scenario.warmup))
    }

    /// Looks at the board.
    pub(super) fn look(&mut self, plant: &Plant) {
        let (now, joules) = (plant.now(), plant.stats().input_j);
        let (span, at) = (now.since(self.looked), self.at(now));
        let since_power_on = now.since(Timestamp::ZERO);
        if at > Nanos::ZERO {
            // What was drawn up to this moment belongs to the window before it.
            let before = Nanos(at.0 - 1);
            if let Some(power) = &mut self.power {
                power.spend(before, joules - self.joules);
            }
            self.heat.look(at, span, |zone| plant.zone_celsius(zone));
        }
        if let Some(energy) = &mut self.energy {
            energy.spent(since_power_on, at, joules);
        }
        if let (Some(battery), Some(left)) = (&mut self.battery, plant.battery_joules()) {
            battery.left(since_power_on, at, left);
        }
        (self.looked, self.joules) = (now, joules);
    }

    /// Takes in requests that are over.
    pub(super) fn count(&mut self, rows: &[Row]) {
        for row in rows {
            let (arrival, answered) = (self.at(row.arrival), self.at(row.answered));
            let due = self.at(row.deadline);
            let accuracy = |served: &crate::core::event::Served| {
                let variant = self.day.scenario.machine.catalog.variants.get(served.variant.index());
                variant.map_or(Ppm::ZERO, |variant| variant.accuracy).as_fraction()
            };
            let joules = row.energy.as_f64() / 1e6;
            let over = match &row.outcome {
                Answer::Served(served) => Over::Answered { accuracy: accuracy(served), joules },
                Answer::Rejected { .. } if row.missed() => Over::Unanswered,
                Answer::Rejected { reason, .. } => Over::Refused(*reason),
            };
            let late = row.missed();
            let failed = match over {
                _ if late => Some(due),
                Over::Refused(_) => Some(answered),
                Over::Answered { .. } | Over::Unanswered => None,
            };
            if let Some(class) = class_of(&mut self.classes, row.class.0.into()) {
                class.over(Moments { arrival, answered, failed }, over, late, joules);
            }
        }
    }

    /// Takes in requests without an answer at the end.
    pub(super) fn unanswered(&mut self, asked: &[Asked]) {
        for asked in asked {
            let (arrival, due) = (self.at(asked.arrival), self.at(asked.deadline));
            let joules = asked.energy.as_f64() / 1e6;
            if let Some(class) = class_of(&mut self.classes, asked.class.0.into()) {
                let moments = Moments { arrival, answered: due, failed: Some(due) };
                class.over(moments, Over::Unanswered, true, joules);
            }
        }
    }

    /// The first of these limits, if any, that can hold no more whatever comes.
    pub(super) fn broken(&self, of: &[Limit]) -> Option<Limit> {
        of.iter().copied().find(|limit| {
            let class =
                limit.class().and_then(|index| self.classes.iter().find(|class| class.index == index));
            match limit {
                Limit::Latency(_) => class.is_some_and(|class| class.late.broken()),
                Limit::Floor(_) => class.and_then(|class| class.floor.as_ref()).is_some_and(Share::broken),
                Limit::Target(_) => class.and_then(|class| class.target.as_ref()).is_some_and(Mean::broken),
                Limit::RequestEnergy(_) => {
                    class.and_then(|class| class.costly.as_ref()).is_some_and(|(costly, _)| costly.broken())
                }
                Limit::ClassPower(_) => {
                    class.and_then(|class| class.power.as_ref()).is_some_and(Windows::broken)
                }
                Limit::Power => self.power.as_ref().is_some_and(Windows::broken),
                Limit::Energy => self.energy.as_ref().is_some_and(Allowance::broken),
                Limit::Battery => self.battery.as_ref().is_some_and(Reserve::broken),
                Limit::Temperature => self.heat.broken(),
            }
        })
    }

    /// The end of the run.
    pub(super) fn conclude(mut self, seed: u64, plant: &Plant) -> Outcome {
        let lasted = plant.now().since(Timestamp::ZERO);
        let warmup = self.day.scenario.warmup;
        let mut findings = Vec::new();
        for class in &self.classes {
            findings.push(class.late.finding());
            findings.extend(class.floor.as_ref().map(Share::finding));
            findings.extend(class.target.as_ref().map(Mean::finding));
            findings.extend(class.costly.as_ref().map(|(costly, _)| costly.finding()));
            findings.extend(class.power.as_ref().map(Windows::finding));
        }
        findings.extend(self.power.as_ref().map(Windows::finding));
        findings.extend(self.energy.as_ref().map(|energy| energy.finding(lasted, warmup)));
        findings.extend(self.battery.as_ref().map(|battery| battery.finding(lasted, warmup)));
        findings.push(self.heat.finding());
        let full = plant.spec().battery.map(|battery| battery.capacity_wh * 3600.0);
        let mut tallies = vec![ClassTally::default(); self.day.scenario.budgets.classes.len()];
        for class in &mut self.classes {
            tallies[class.index] = class.close(self.day.allowance);
        }
        Outcome {
            seed,
            findings,
            classes: tallies,
            energy_j: plant.stats().input_j,
            lasted,
            hottest_c: self.heat.hottest(),
            battery_left: plant.battery_joules().zip(full).map(|(left, full)| left / full.max(1e-9)),
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Over {
    Answered { accuracy: f64, joules: f64 },
    Refused(Rejection),
    Unanswered,
}

/// Of a request, in the time of the day.
#[derive(Debug, Clone, Copy)]
struct Moments {
    arrival: Nanos,
    answered: Nanos,
    /// When it was too late, or turned away.
    failed: Option<Nanos>,
}

fn class_of(classes: &mut [Class], index: usize) -> Option<&mut Class> {
    classes.iter_mut().find(|class| class.index == index)
}

/// The trackers of all classes that someone asks for.
fn classes(day: &Day, totals: &[u64]) -> Vec<Class> {
    let budgets = &day.scenario.budgets;
    let catalog = &day.scenario.machine.catalog;
    // The best that the models can do that the class asks for.
    let best = |class: usize| {
        let streams = day.scenario.streams.iter().filter(|stream| usize::from(stream.class.0) == class);
        let models = streams.filter_map(|stream| catalog.models.get(stream.model.index()));
        let variants = models.flat_map(|model| &model.variants);
        variants.map(|id| catalog.variants[id.index()].accuracy.as_fraction()).fold(0.0, f64::max)
    };
    let classes = budgets.classes.iter().enumerate();
    classes
        .filter(|(index, _)| day.scenario.streams.iter().any(|stream| usize::from(stream.class.0) == *index))
        .map(|(index, budget)| {
            let total = totals.get(index).copied().unwrap_or(0);
            let share = |limit| Share::new(limit, day.allowance, total, day.lasting);
            let target = budget.accuracy_target.map(|target| {
                let bound = target.as_fraction() - Limit::ACCURACY_SLACK;
                Mean::new(Limit::Target(index), bound, best(index), total, day.lasting)
            });
            // Runs are billed when they end: windows of a second at least.
            let width = budgets.power_window.max(Nanos::from_secs(1));
            let power = budget.power.map(|cap| {
                let bound = cap.as_watts() * (1.0 + Limit::METER_SLACK);
                Windows::new(Limit::ClassPower(index), bound, width, day.lasting)
            });
            let costly = budget.energy_per_request.map(|most| {
                (share(Limit::RequestEnergy(index)), most.as_f64() / 1e6 * (1.0 + Limit::METER_SLACK))
            });
            Class {
                index,
                late: share(Limit::Latency(index)),
                floor: (budget.min_accuracy.0 > 0).then(|| share(Limit::Floor(index))),
                target,
                costly,
                power,
                tally: ClassTally::default(),
                accuracy_sum: 0.0,
                energy_sum_j: 0.0,
                latencies: Histogram::new_with_max(LONGEST_US, 3).ok(),
            }
        })
        .collect()
}

impl Class {
    fn over(&mut self, moments: Moments, over: Over, late: bool, joules: f64) {
        let Moments { arrival, answered, failed } = moments;
        self.tally.requests += 1;
        self.tally.late += u64::from(late);
        self.late.count(arrival, failed);
        let (mut unserved, mut costly) = (false, false);
        match over {
            Over::Answered { accuracy, joules } => {
                self.tally.answered += 1;
                self.accuracy_sum += accuracy;
                self.energy_sum_j += joules;
                costly = self.costly.as_ref().is_some_and(|(_, most)| joules > *most);
                if let Some(latencies) = &mut self.latencies {
                    latencies.saturating_record(answered.saturating_sub(arrival).as_micros());
                }
            }
            Over::Refused(reason) => {
                *self.tally.refused.entry(reason).or_insert(0) += 1;
                unserved = reason == Rejection::AccuracyUnreachable;
                costly = reason == Rejection::EnergyUnreachable;
            }
            Over::Unanswered => {}
        }
        if let Some(floor) = &mut self.floor {
            floor.count(arrival, unserved.then_some(answered));
        }
        if let Some(target) = &mut self.target {
            let answer =
                if let Over::Answered { accuracy, .. } = over { Some((answered, accuracy)) } else { None };
            target.count(arrival, answer);
        }
        if let Some((share, _)) = &mut self.costly {
            share.count(arrival, costly.then_some(answered));
        }
        if let Some(power) = &mut self.power {
            power.spend(answered, joules);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts and microseconds far below 2^53")]
    fn close(&mut self, allowance: f64) -> ClassTally {
        let mut tally = std::mem::take(&mut self.tally);
        if tally.answered > 0 {
            let answered = tally.answered as f64;
            tally.accuracy = Some(self.accuracy_sum / answered);
            tally.energy_mj = Some(self.energy_sum_j / answered * 1e3);
            let latencies = self.latencies.as_ref();
            tally.latency_ms = latencies.map(|all| all.value_at_quantile(1.0 - allowance) as f64 / 1e3);
        }
        tally
    }
}
