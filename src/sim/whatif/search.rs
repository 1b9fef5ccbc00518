//! Plays the day with several seeds, and searches for the budget that would hold.
//!
//! Looser values are tried in strides, a sixteenth, a quarter and all of the way to the loosest; from the first that
//! holds halving leads back towards the last that broke. What is suggested was played itself, over the whole day and
//! with every seed. A run that cannot hold any more ends there, and the seed that fared worst goes first: the others are
//! not played where it breaks. The result does not depend on how many threads there are.

use super::day::Day;
use super::judge::{Judge, Outcome};
use super::knob::Knob;
use super::limit::{Finding, Limit};
use super::trackers::share;
use crate::core::Core;
use crate::core::event::Rejection;
use crate::sim::WorldOptions;
use crate::time::Timestamp;
use crate::units::Nanos;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use std::sync::atomic::{AtomicBool, Ordering};

/// Most values that are changed.
const MAX_KNOBS: usize = 16;
/// Strides: shares of the way to the loosest value, each with the halvings after which what is left of the way from the
/// stride before is at most 1/128. Of a factor of thirty that is 3 %.
const STRIDES: [(f64, u64); 3] = [(1.0 / 16.0, 3), (1.0 / 4.0, 5), (1.0, 7)];
/// Most days that one value takes: all strides twice, and the halvings after the last.
const MOST_DAYS: u64 = 2 * STRIDES.len() as u64 + 7;

/// How far below the margin of its limit a board may be held back by heat to come: it looks ahead.
const NEAR_K: f64 = 10.0;

/// How far the work is: virtual time, over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So much more will be played at most.
    Planned(Nanos),
    /// So much was played, or need not be any more.
    Played(Nanos),
}

/// What became of a limit over all runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowOf {
    /// The worst run's finding, with the earliest break of all.
    pub worst: Finding,
    /// That run, by its place in [`Answer::outcomes`].
    pub run: usize,
    /// Runs in which it held.
    pub held: usize,
}

/// What happens with another value of one budget, all else as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suggestion {
    /// The value.
    pub knob: Knob,
    /// What it is now: the day breaks.
    pub from: f64,
    /// The nearest value found that holds, if any does.
    pub to: Option<f64>,
    /// The nearest value found that does not; the loosest that was tried, if none holds.
    pub breaks: f64,
    /// Whether with it everything holds, or only what it is a limit of and what held before.
    pub all: bool,
    /// Runs that were made for it.
    pub runs: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// One row per limit.
    pub rows: Vec<RowOf>,
    /// The runs, by seed.
    pub outcomes: Vec<Outcome>,
    /// What would hold, if it does not and that was asked.
    pub suggestions: Vec<Suggestion>,
    /// Whether all suggestions together hold that mend only their own limit; `None` if that was no question.
    pub together: Option<bool>,
    /// Runs in all.
    pub runs: u64,
}

impl Answer {
    /// Whether every limit held in every run.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.worst.holds)
    }

    /// The limit that broke first, over all runs.
    #[must_use]
    pub fn first_broken(&self) -> Option<&Finding> {
        let broken = self.rows.iter().map(|row| &row.worst).filter(|finding| !finding.holds);
        broken.min_by_key(|finding| finding.broken_at)
    }
}

/// Plays the day with these seeds on so many threads (0 = one per processor), and, if it breaks and `search` is set,
/// looks for what would hold.
///
/// # Errors
/// If the threads cannot be started.
pub fn ask(
    day: &Day,
    seeds: &[u64],
    search: bool,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Answer, rayon::ThreadPoolBuildError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    Ok(pool.install(|| Searcher { day, seeds, progress }.answer(search)))
}

/// What was found of a value.
struct Nearest {
    to: Option<f64>,
    breaks: f64,
    runs: u64,
}

struct Searcher<'a> {
    day: &'a Day,
    seeds: &'a [u64],
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl Searcher<'_> {
    fn answer(&self, search: bool) -> Answer {
        (self.progress)(Progress::Planned(self.virtual_time(1)));
        let run = |seed: &u64| play(self.day, *seed, None, self.progress);
        let outcomes: Vec<Outcome> = self.seeds.par_iter().map(run).collect();
        let rows = rows(&outcomes);
        let mut answer =
            Answer { rows, outcomes, suggestions: Vec::new(), together: None, runs: self.seeds.len() as u64 };
        if search && !answer.holds() {
            let broken =
                |outcome: &&Outcome| outcome.findings.iter().filter(|finding| !finding.holds).count();
            let mut worst_first: Vec<&Outcome> = answer.outcomes.iter().collect();
            worst_first.sort_by_key(|outcome| std::cmp::Reverse(broken(outcome)));
            let seeds: Vec<u64> = worst_first.iter().map(|outcome| outcome.seed).collect();
            Searcher { seeds: &seeds, ..*self }.search(&mut answer);
        }
        answer
    }

    fn search(&self, answer: &mut Answer) {
        let broken: Vec<Limit> =
            answer.rows.iter().map(|row| row.worst).filter(|f| !f.holds).map(|f| f.limit).collect();
        let outcomes = &answer.outcomes;
        let in_time =
            |limit: &&Limit| !matches!(limit, Limit::Latency(class) if !self.late(*class, outcomes));
        let worth: Vec<Limit> = broken.iter().filter(in_time).copied().collect();
        let mut knobs = Knob::that_may_help(self.day, &worth, self.hot(outcomes));
        knobs.truncate(MAX_KNOBS);
        (self.progress)(Progress::Planned(self.virtual_time(knobs.len() as u64 * MOST_DAYS + 1)));
        answer.suggestions = knobs.par_iter().map(|knob| self.suggest(*knob, &broken)).collect();
        let alone: Vec<&Suggestion> = answer
            .suggestions
            .iter()
            .filter(|suggestion| suggestion.to.is_some() && !suggestion.all)
            .collect();
        answer.runs += answer.suggestions.iter().map(|suggestion| suggestion.runs).sum::<u64>();
        // Where one value mends everything there is no need for several.
        if alone.len() > 1 && !answer.suggestions.iter().any(|s| s.all && s.to.is_some()) {
            let mut day = self.day.clone();
            for suggestion in alone {
                day = suggestion.knob.turned(&day, suggestion.to.unwrap_or(suggestion.from));
            }
            let (holds, runs) = self.holds(&day, &day.limits());
            answer.together = Some(holds);
            answer.runs += runs;
        } else {
            (self.progress)(Progress::Played(self.virtual_time(1)));
        }
    }

    /// Whether too many requests of a class failed for want of time, and not of energy, power or accuracy: more time
    /// would not help those.
    fn late(&self, class: usize, outcomes: &[Outcome]) -> bool {
        use Rejection::{AppLimit, DeadlinePassed, DeadlineUnreachable, QueueFull};
        outcomes.iter().filter_map(|outcome| outcome.classes.get(class)).any(|tally| {
            let reasons = [AppLimit, DeadlinePassed, DeadlineUnreachable, QueueFull];
            let refused: u64 = reasons.iter().filter_map(|reason| tally.refused.get(reason)).sum();
            share(tally.late + refused, tally.requests) > self.day.allowance
        })
    }

    /// Whether some zone came so near to its limit that heat may have cost something.
    fn hot(&self, outcomes: &[Outcome]) -> bool {
        let budgets = &self.day.scenario.budgets;
        let zones = self.day.scenario.machine.plant.zones.iter();
        let limits = zones.map(|zone| budgets.max_temperature.unwrap_or(zone.passive).as_celsius());
        let limit = limits.fold(f64::INFINITY, f64::min) - budgets.temperature_margin.as_celsius() - NEAR_K;
        outcomes.iter().filter_map(|outcome| outcome.hottest_c).any(|celsius| celsius >= limit)
    }

    /// The virtual time of so many days with all seeds.
    fn virtual_time(&self, days: u64) -> Nanos {
        let runs = days.saturating_mul(self.seeds.len() as u64);
        Nanos(self.day.scenario.duration.0.saturating_mul(runs))
    }

    fn suggest(&self, knob: Knob, broken: &[Limit]) -> Suggestion {
        let everything = self.day.limits();
        let alone = broken.len() > 1 && knob.limit().is_some_and(|limit| broken.contains(&limit));
        let mut found = self.nearest(knob, &everything);
        let mut all = true;
        if found.to.is_none() && alone {
            // Of what broke, only its own; and what held must go on to.
            let own = |limit: &Limit| !broken.contains(limit) || knob.limit() == Some(*limit);
            let own: Vec<Limit> = everything.into_iter().filter(own).collect();
            let before = found.runs;
            found = self.nearest(knob, &own);
            found.runs += before;
            all = false;
        }
        let most = MOST_DAYS * self.seeds.len() as u64;
        let spared = most.saturating_sub(found.runs);
        (self.progress)(Progress::Played(Nanos(self.day.scenario.duration.0.saturating_mul(spared))));
        let all = all && found.to.is_some();
        Suggestion {
            knob,
            from: knob.value(self.day),
            to: found.to,
            breaks: found.breaks,
            all,
            runs: found.runs,
        }
    }

    /// The nearest value with which these limits hold.
    fn nearest(&self, knob: Knob, goal: &[Limit]) -> Nearest {
        let (from, loosest) = (knob.value(self.day), knob.loosest(self.day));
        let mut nearest = Nearest { to: None, breaks: from, runs: 0 };
        let mut halvings = 0;
        for (stride, then) in STRIDES {
            let value = knob.along(from, loosest, stride);
            if value == nearest.breaks {
                continue;
            }
            let (it_holds, runs) = self.holds(&knob.turned(self.day, value), goal);
            nearest.runs += runs;
            if it_holds {
                (nearest.to, halvings) = (Some(value), then);
                break;
            }
            nearest.breaks = value;
        }
        let Some(mut holds) = nearest.to else { return nearest };
        for _ in 0..halvings {
            let middle = knob.along(nearest.breaks, holds, 0.5);
            if middle == nearest.breaks || middle == holds {
                break;
            }
            let (it_holds, runs) = self.holds(&knob.turned(self.day, middle), goal);
            nearest.runs += runs;
            *(if it_holds { &mut holds } else { &mut nearest.breaks }) = middle;
        }
        nearest.to = Some(holds);
        nearest
    }

    /// Whether these limits hold in all runs of a day, and how many runs it took to know.
    fn holds(&self, day: &Day, goal: &[Limit]) -> (bool, u64) {
        let broken = AtomicBool::new(false);
        let run = |seed: &u64| {
            let outcome = play(day, *seed, Some((goal, &broken)), self.progress);
            let lost = |finding: &Finding| goal.contains(&finding.limit) && !finding.holds;
            if outcome.findings.iter().any(lost) {
                broken.store(true, Ordering::Relaxed);
            }
            // A shorter day than planned.
            let spared = self.day.scenario.duration.saturating_sub(day.scenario.duration);
            (self.progress)(Progress::Played(spared));
        };
        let Some((first, others)) = self.seeds.split_first() else { return (true, 0) };
        run(first);
        if broken.load(Ordering::Relaxed) {
            return (false, 1);
        }
        others.par_iter().for_each(run);
        (!broken.load(Ordering::Relaxed), self.seeds.len() as u64)
    }
}

/// One run; with a goal, it ends when that is lost, in this run or in another.
fn play(
    day: &Day,
    seed: u64,
    goal: Option<(&[Limit], &AtomicBool)>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Outcome {
    let scenario = &day.scenario;
    let core = Core::new(scenario.told(seed).catalog, scenario.budgets.clone(), Timestamp::ZERO);
    let mut world = scenario.world_with(core, seed, WorldOptions { rows: true, ..scenario.options });
    let mut judge = Judge::new(day, &day.requests(seed), world.plant());
    let (end, mut reported) = (scenario.end(), Timestamp::ZERO);
    let mut next = Timestamp::ZERO.after(scenario.warmup);
    while world.now() < end {
        world.run_until(next.min(end));
        judge.look(world.plant());
        judge.count(&world.take_rows());
        next = next.after(judge.step());
        if world.now().since(reported) > Nanos::from_secs(60) {
            (progress)(Progress::Played(world.now().since(reported)));
            reported = world.now();
        }
        if let Some((goal, lost)) = goal
            && (lost.load(Ordering::Relaxed) || judge.broken(goal).is_some())
        {
            lost.store(true, Ordering::Relaxed);
            break;
        }
    }
    let unanswered = world.finish();
    judge.count(&world.take_rows());
    judge.unanswered(&unanswered);
    (progress)(Progress::Played(end.since(reported)));
    judge.conclude(seed, world.plant())
}

fn rows(outcomes: &[Outcome]) -> Vec<RowOf> {
    let Some(first) = outcomes.first() else { return Vec::new() };
    let row = |index: usize| {
        let all = || outcomes.iter().enumerate().map(|(run, outcome)| (run, outcome.findings[index]));
        let worst = all().reduce(|worst, next| if next.1.is_worse_than(&worst.1) { next } else { worst });
        let (run, mut worst) = worst?;
        worst.broken_at = all().filter_map(|(_, finding)| finding.broken_at).min();
        Some(RowOf { worst, run, held: all().filter(|(_, finding)| finding.holds).count() })
    };
    (0..first.findings.len()).filter_map(row).collect()
}
