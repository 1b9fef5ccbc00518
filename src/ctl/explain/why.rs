//! Why a candidate was not chosen, with figures.

use super::figures::{millijoules, millis, share};
use crate::core::explain::Options;
use crate::core::plan::{Choice, Considered, Grade, Ruling};
use crate::core::queue::Waiting;
use crate::time::Timestamp;

/// What candidates are compared with.
pub(super) struct Reasons<'a> {
    best: Option<&'a Considered>,
    at: Timestamp,
    /// When the run must have ended.
    deadline: Timestamp,
    waiting: &'a Waiting,
    /// Whether something was chosen at all.
    decided: bool,
}

impl<'a> Reasons<'a> {
    pub(super) fn new(
        options: &'a Options,
        choice: Option<&Choice>,
        (at, deadline): (Timestamp, Timestamp),
        waiting: &'a Waiting,
    ) -> Self {
        let decided = matches!(choice, Some(Choice::Run { .. } | Choice::Hold { .. }));
        let best = options.candidates.iter().find(|one| one.ruling == Ruling::Chosen);
        Self { best, at, deadline, waiting, decided }
    }

    /// What ruled a candidate out.
    pub(super) fn of(&self, one: &Considered) -> String {
        match one.ruling {
            Ruling::Chosen if !self.decided => "would have been the choice".to_owned(),
            Ruling::Chosen if one.start > self.at => {
                let late = if one.grade >= Grade::Late { ", if late" } else { "" };
                format!("awaited: the best, in {}{late}", millis(one.start.since(self.at)))
            }
            Ruling::Chosen => match one.grade {
                Grade::OnTarget => "chosen".to_owned(),
                Grade::OnTime => "chosen: the most accurate in time".to_owned(),
                Grade::Crowding | Grade::Ousting => {
                    "chosen: done soonest, if late for those behind".to_owned()
                }
                Grade::Tight => "chosen: the least odds to miss".to_owned(),
                Grade::Late => "chosen: done soonest, if late".to_owned(),
                Grade::Unfit => "chosen, though ruled out".to_owned(),
            },
            Ruling::Dearer => self.dearer(one),
            Ruling::Slow => self.slow(one),
            Ruling::Inaccurate => {
                format!("below the accuracy target of {}", share(self.waiting.target.as_fraction()))
            }
            Ruling::Unpaid if one.grade == Grade::Unfit && one.start <= self.at => {
                "no budget pays for it".to_owned()
            }
            Ruling::Unpaid => format!("the budget pays for it in {}", millis(one.start.since(self.at))),
            Ruling::Crowding => "would make requests behind it late".to_owned(),
            Ruling::AboveRequestEnergy => {
                let limit = self.waiting.max_energy.map(|limit| millijoules(limit.as_f64()));
                format!("more than the {} that the request allows", limit.unwrap_or_default())
            }
        }
    }

    fn dearer(&self, one: &Considered) -> String {
        let per_item =
            |one: &Considered| one.candidate.energy.as_f64() / f64::from(one.candidate.items.max(1));
        let Some(best) = self.best.map(per_item).filter(|best| *best > 0.0) else {
            return "costs more".to_owned();
        };
        let more = per_item(one) - best;
        if more < 0.5 {
            return "costs the same".to_owned();
        }
        let each = if one.candidate.items > 1 { " an item" } else { "" };
        format!("{} more{each} ({:+.0} %)", millijoules(more), 100.0 * more / best)
    }

    fn slow(&self, one: &Considered) -> String {
        let finish = one.start.after(one.candidate.latency);
        if finish > self.deadline {
            return format!("expected {} after the deadline", millis(finish.since(self.deadline)));
        }
        let rescued = one.candidate.rescue.map_or(0.0, |rescue| rescue.odds.as_fraction());
        let miss = one.candidate.miss.as_fraction();
        if rescued > miss {
            format!("too likely to be rescued: {}", share(rescued))
        } else {
            format!("too likely to be late: {}", share(miss))
        }
    }
}
