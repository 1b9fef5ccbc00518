//! O1: every request alone gets the cheapest configuration that meets its deadline, chosen with its luck and the
//! disturbances to come known, and never waits for another. It is what ALERT (Wan et al., ATC'20) compares with.
//!
//! It is no bound: runs may change their clocks on the way, and batches are cheaper. And no schedule need reach it:
//! requests that queue have less time. [`super::certified_bound`] is the bound.

use super::instance::{Ask, Instance};
use std::collections::BTreeMap;

/// A request's cheapest answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Index into [`Instance::configurations`].
    pub configuration: usize,
    /// Seconds of the run.
    pub seconds: f64,
    /// Energy above the idle board, J, without what it warms the board.
    pub joules: f64,
}

/// The per-request clairvoyant.
#[derive(Debug, Clone, PartialEq)]
pub struct Clairvoyant {
    /// Energy of the board over the horizon, J.
    pub joules: f64,
    /// By request: its answer; `None` where none is in time, or none is needed ([`Ask::counts`]).
    pub choices: Vec<Option<Choice>>,
}

impl Clairvoyant {
    /// Requests that can be served in time at all, each alone on the board from its arrival on.
    #[must_use]
    pub fn feasible(&self) -> Vec<bool> {
        self.choices.iter().map(Option::is_some).collect()
    }
}

/// Asks the per-request clairvoyant.
#[must_use]
pub fn o1(instance: &Instance) -> Clairvoyant {
    let mut fronts = BTreeMap::new();
    let mut choose = |ask: &Ask| {
        let (first, last) = instance.seasons_of(ask);
        if first < last {
            return through_the_seasons(instance, ask);
        }
        let condition = instance.seasons[first].condition;
        let key = (ask.model, ask.floor, ask.items, condition);
        let front = fronts.entry(key).or_insert_with(|| front(instance, ask, first));
        let luck = instance.luck(ask, first);
        let in_time = front.partition_point(|choice| choice.seconds * luck <= ask.window_s());
        let best = front[..in_time].last()?;
        Some(Choice { seconds: best.seconds * luck, joules: best.joules * luck, ..*best })
    };
    let choose = |ask: &Ask| if ask.counts { choose(ask) } else { None };
    let choices: Vec<Option<Choice>> = instance.asks.iter().map(choose).collect();
    let answered = instance.asks.iter().zip(&choices);
    let runs = answered.filter_map(|(ask, choice)| Some(choice.as_ref()?.joules * instance.joule(ask)));
    Clairvoyant { joules: instance.idle_j() + runs.sum::<f64>(), choices }
}

/// The configurations that would do for a request.
fn candidates<'a>(instance: &'a Instance, ask: &Ask) -> impl Iterator<Item = usize> + 'a {
    let (model, floor) = (ask.model, ask.floor);
    let fits = move |index: &usize| {
        let configuration = &instance.configurations[*index];
        configuration.model == model && configuration.accuracy >= floor
    };
    (0..instance.configurations.len()).filter(fits)
}

/// What is cheaper than everything faster, at a luck of 1 in one season: seconds ascend, joules descend.
fn front(instance: &Instance, ask: &Ask, season: usize) -> Vec<Choice> {
    let price = |configuration| {
        let rate = instance.rate(season, 0, configuration);
        let seconds = rate.seconds(ask.items);
        Choice { configuration, seconds, joules: seconds * rate.watts }
    };
    let mut all: Vec<Choice> = candidates(instance, ask).map(price).collect();
    all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds).then(a.joules.total_cmp(&b.joules)));
    let mut least = f64::INFINITY;
    all.retain(|choice| {
        let better = choice.joules < least;
        least = least.min(choice.joules);
        better
    });
    all
}

/// The choice of a request within whose window conditions change.
fn through_the_seasons(instance: &Instance, ask: &Ask) -> Option<Choice> {
    let luck = instance.luck(ask, instance.season_at(ask.arrival));
    let run = |configuration| {
        let (end, joules) = instance.run(configuration, ask.items, luck, ask.arrival);
        let seconds = end.since(ask.arrival).as_secs_f64();
        (end <= ask.deadline).then_some(Choice { configuration, seconds, joules })
    };
    candidates(instance, ask).filter_map(run).min_by(|a, b| a.joules.total_cmp(&b.joules))
}
