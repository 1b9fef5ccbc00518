//! Plays the day with several seeds, and searches for the budget that would hold.
//!
//! A value is looked for between one that breaks and the loosest that is tried: if that one holds, halving brings the
//! two together. What is suggested was played itself, over the whole day and with every seed. A run that cannot hold
//! any more ends there. The result does not depend on how many threads there are.

use super::day::Day;
use super::judge::{Judge, Outcome};
use super::knob::Knob;
use super::limit::{Finding, Limit};
use crate::core::Core;
use crate::sim::WorldOptions;
use crate::time::Timestamp;
use crate::units::Nanos;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use std::sync::atomic::{AtomicBool, Ordering};

/// Most values that are changed.
const MAX_KNOBS: usize = 16;
/// Most halvings for one of them: of a factor of ten they leave less than 4 %.
const HALVINGS: u64 = 6;

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
    /// Days that were played for it, with all seeds each.
    pub days: u64,
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
            self.search(&mut answer);
        }
        answer
    }

    fn search(&self, answer: &mut Answer) {
        let broken: Vec<Limit> =
            answer.rows.iter().map(|row| row.worst).filter(|f| !f.holds).map(|f| f.limit).collect();
        let mut knobs = Knob::that_may_help(self.day, &broken);
        knobs.truncate(MAX_KNOBS);
        (self.progress)(Progress::Planned(self.virtual_time(knobs.len() as u64 * (2 + HALVINGS) + 1)));
        answer.suggestions = knobs.par_iter().map(|knob| self.suggest(*knob, &broken)).collect();
        let alone: Vec<&Suggestion> = answer
            .suggestions
            .iter()
            .filter(|suggestion| suggestion.to.is_some() && !suggestion.all)
            .collect();
        let mut days: u64 = answer.suggestions.iter().map(|suggestion| suggestion.days).sum();
        // Where one value mends everything there is no need for several.
        if alone.len() > 1 && !answer.suggestions.iter().any(|s| s.all && s.to.is_some()) {
            let mut day = self.day.clone();
            for suggestion in alone {
                day = suggestion.knob.turned(&day, suggestion.to.unwrap_or(suggestion.from));
            }
            answer.together = Some(self.holds(&day, &day.limits()));
            days += 1;
        } else {
            (self.progress)(Progress::Played(self.virtual_time(1)));
        }
        answer.runs += days * self.seeds.len() as u64;
    }

    /// The virtual time of so many days with all seeds.
    fn virtual_time(&self, days: u64) -> Nanos {
        let runs = days.saturating_mul(self.seeds.len() as u64);
        Nanos(self.day.scenario.duration.0.saturating_mul(runs))
    }

    fn suggest(&self, knob: Knob, broken: &[Limit]) -> Suggestion {
        let from = knob.value(self.day);
        let everything = self.day.limits();
        // Of what broke, only its own; and what held must go on to.
        let own: Vec<Limit> = everything
            .iter()
            .copied()
            .filter(|limit| !broken.contains(limit) || knob.limit() == Some(*limit))
            .collect();
        let loosest = knob.loosest(self.day);
        let all = self.holds(&knob.turned(self.day, loosest), &everything);
        let mends_its_own = broken.len() > 1 && knob.limit().is_some_and(|limit| broken.contains(&limit));
        let found = all || (mends_its_own && self.holds(&knob.turned(self.day, loosest), &own));
        let mut days = if !all && mends_its_own { 2 } else { 1 };
        let goal = if all { everything } else { own };
        let (mut breaks, mut holds) = if found { (from, loosest) } else { (loosest, loosest) };
        for _ in 0..HALVINGS {
            let middle = knob.between(breaks, holds);
            if !found || middle == breaks || middle == holds {
                break;
            }
            days += 1;
            let it_holds = self.holds(&knob.turned(self.day, middle), &goal);
            *(if it_holds { &mut holds } else { &mut breaks }) = middle;
        }
        (self.progress)(Progress::Played(self.virtual_time(2 + HALVINGS - days)));
        Suggestion { knob, from, to: found.then_some(holds), breaks, all, days }
    }

    /// Whether these limits hold in all runs of a day.
    fn holds(&self, day: &Day, goal: &[Limit]) -> bool {
        let broken = AtomicBool::new(false);
        self.seeds.par_iter().for_each(|seed| {
            let outcome = play(day, *seed, Some((goal, &broken)), self.progress);
            let lost = |finding: &Finding| goal.contains(&finding.limit) && !finding.holds;
            if outcome.findings.iter().any(lost) {
                broken.store(true, Ordering::Relaxed);
            }
            // A shorter day than planned.
            let spared = self.day.scenario.duration.saturating_sub(day.scenario.duration);
            (self.progress)(Progress::Played(spared));
        });
        !broken.load(Ordering::Relaxed)
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
    let row = |(index, finding): (usize, &Finding)| {
        let all = outcomes.iter().filter_map(|outcome| outcome.findings.get(index).copied());
        let held = all.clone().filter(|finding| finding.holds).count();
        RowOf { worst: all.fold(*finding, Finding::worse), held }
    };
    first.findings.iter().enumerate().map(row).collect()
}
