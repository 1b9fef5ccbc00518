//! The planner: which variant, on which unit, at which clock, in which batch, and what then.
//!
//! For the most urgent request and those of the same model behind it, configurations are priced: the variants
//! that are accurate enough and loaded, the units they may run on, the operating points (the clock of the unit and
//! that of its memory), and prefixes of the queue as batches. A configuration is a small program ([`course`], [`draft`]):
//! it may *boost* (raise the clock if the run still goes on at some moment) and it may be *rescued* (at the last
//! moment that still fits, the run is cancelled and a smaller variant answers; where a run cannot be cancelled,
//! the smaller one runs on another unit beside it). It costs the expected energy above idle of all that, clock
//! changes included, and it is
//!
//! 1. *on target* if, from its start (once the unit is free and the energy budgets have paid for it), the odds
//!    to miss the batch's earliest deadline are small enough and its expected accuracy meets the class's target;
//! 2. *on time* if only the accuracy falls short, though not below the floor;
//! 3. *crowding* if it takes more than its share of the time that those behind it have, or draws on what the energy
//!    budgets keep in reserve;
//! 4. *tight* if it meets the deadline at its expected latency only;
//! 5. *ousting* if it meets the deadline, but those behind it are then late even at their fastest;
//! 6. *late* otherwise, which only a soft deadline allows, or a latency that is no more than a guess.
//!
//! The best of the best grade wins: by energy per item on target, by accuracy and then energy on time, by the
//! odds to miss or the finish below that. So budgets that run dry push the start back, which pushes expensive
//! variants from grade 1 to grade 2, and accuracy falls only as far as a budget forces it to.

mod cost;
mod course;
mod crowd;
mod draft;
mod foreseen;
mod haste;
mod paid;
mod place;
mod prefix;
mod prospect;
mod risk;
mod search;
mod terms;

pub use cost::CostTable;
pub(super) use cost::{Cost, memory_watts};
pub(super) use course::Course;
pub(super) use foreseen::SHORT;
pub(super) use haste::{Underway, hasten, soonest};
pub use risk::Risk;

use crate::core::catalog::{Catalog, UnitId, VariantId};
use crate::core::clocks::Clocks;
use crate::core::energy::{Budgets, Ledger};
use crate::core::estimate::Estimates;
use crate::core::event::{Rejection, RequestId};
use crate::core::points::OperatingPoint;
use crate::core::queue::Waiting;
use crate::core::residency::Residency;
use crate::core::snapshot::Snapshot;
use crate::core::thermal::Regime;
use crate::core::tuning::Tuning;
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos, Ppm};
use search::Search;
use serde::{Deserialize, Serialize};

/// When asking again may help on a board that is too hot.
const COOLING: Nanos = Nanos::from_secs(5);
/// From the order to cancel a run until its lane is free: about 100 us on the CPU provider, and as much for the
/// wake-up that gives the order.
pub(super) const CANCEL: Nanos = Nanos::from_micros(200);

/// Clocks to be asked for if the run still goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Boost {
    /// So long after the start; the domains' settling time comes on top.
    pub after: Nanos,
    /// The clocks.
    #[serde(flatten)]
    pub point: OperatingPoint,
}

/// A variant that answers in place of a run that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rescue {
    /// So long after the start.
    pub after: Nanos,
    /// The variant.
    pub variant: VariantId,
    /// Where: on the unit of the run itself, which is cancelled, or beside it on another.
    pub unit: UnitId,
    /// At which clocks.
    #[serde(flatten)]
    pub point: OperatingPoint,
    /// Odds that it comes to that.
    pub odds: Ppm,
}

/// A configuration that was considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Variant.
    pub variant: VariantId,
    /// Unit.
    pub unit: UnitId,
    /// Clocks.
    #[serde(flatten)]
    pub point: OperatingPoint,
    /// Items in the batch.
    pub items: u32,
    /// Expected latency, queueing excluded, boost and rescue included.
    pub latency: Nanos,
    /// Expected energy of the batch above the board's idle, boost and rescue included.
    pub energy: Microjoules,
    /// Accuracy of the variant.
    pub accuracy: Ppm,
    /// Odds to miss the deadline.
    pub miss: Ppm,
    /// What happens if the run takes long.
    pub boost: Option<Boost>,
    /// What happens if it takes too long.
    pub rescue: Option<Rescue>,
}

/// What kept the planner from something cheaper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// Nothing: the cheapest of all was taken.
    None,
    /// The deadline: cheaper ones are too slow.
    Deadline,
    /// The accuracy target: cheaper ones are less accurate.
    Accuracy,
    /// An energy, power or thermal budget: better ones cost more than is there.
    Budget,
    /// What is not known: better ones were too slow when last seen, and this clock tells whether they still are.
    Knowledge,
}

/// A decision and its reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Explanation {
    /// The most urgent request of the batch.
    pub request: RequestId,
    /// Configurations looked at.
    pub considered: u32,
    /// Those priced that met every constraint.
    pub feasible: u32,
    /// What was chosen.
    pub chosen: Candidate,
    /// What kept it from something cheaper or better.
    pub binding: Constraint,
}

/// How good a configuration is, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Meets the deadline and the accuracy target.
    OnTarget,
    /// Meets the deadline below the accuracy target.
    OnTime,
    /// Meets the deadline, but takes from others the time, or the reserve of a budget, that they may need.
    Crowding,
    /// Meets the deadline if it takes no longer than expected.
    Tight,
    /// Meets the deadline, but those behind it are then late even at their fastest.
    Ousting,
    /// Too late, which a soft deadline allows.
    Late,
    /// Ruled out.
    Unfit,
}

/// Why a configuration was not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It is the choice.
    Chosen,
    /// Another of its grade costs less, or is more accurate or sooner where that counts.
    Dearer,
    /// The odds to miss the deadline are too high.
    Slow,
    /// Less accurate than the target.
    Inaccurate,
    /// An energy budget pays for it too late or never.
    Unpaid,
    /// Others may be late for it.
    Crowding,
    /// It costs more than the request allows.
    AboveRequestEnergy,
}

/// A configuration that was looked at, priced by the code that chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Considered {
    /// Requests of the batch that it takes.
    pub requests: usize,
    /// The configuration, with its expected latency and energy and its odds to miss.
    pub candidate: Candidate,
    /// When it would start.
    pub start: Timestamp,
    /// Expected accuracy, a share: that of the variant, less what a rescue would lose.
    pub accuracy: f64,
    /// Seconds per item that its unit and the budgets are taken up.
    pub progress: f64,
    /// How good it is.
    pub grade: Grade,
    /// What ruled it out.
    pub ruling: Ruling,
}

/// What a held request waits for, and so who must wait with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaits {
    /// A busy unit: others may run elsewhere.
    Unit,
    /// Its class's budget: less urgent requests of the class must not drain it.
    Class,
    /// The device's budget: nobody less urgent may drain it.
    Device,
}

/// What to do with the most urgent request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// Run the first `requests` of the batch like this.
    Run {
        /// Requests of the batch that are taken.
        requests: usize,
        /// The decision.
        explanation: Explanation,
    },
    /// Wait: a busy unit, or a budget that fills up, makes a better start then than any does now.
    Hold {
        /// When to look again.
        until: Timestamp,
        /// What for.
        awaits: Awaits,
    },
    /// Nothing that would do is loaded yet.
    AwaitLoad,
    /// Turn it away.
    Reject(Rejection, Option<Nanos>),
}

/// What the planner looks at. Borrowed whole from the core; nothing in here can be changed.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The present.
    pub now: Timestamp,
    /// What there is to choose from.
    pub catalog: &'a Catalog,
    /// Its costs.
    pub costs: &'a CostTable,
    /// What was learned about them.
    pub estimates: &'a Estimates,
    /// What is loaded.
    pub residency: &'a Residency,
    /// Clock domains.
    pub clocks: &'a Clocks,
    /// Last readings.
    pub snapshot: &'a Snapshot,
    /// Energy accounts.
    pub ledger: &'a Ledger,
    /// Budgets.
    pub budgets: &'a Budgets,
    /// What the planner may do.
    pub tuning: Tuning,
    /// Per unit: what may be risked on it.
    pub risks: &'a [Risk],
    /// Per unit: when it, and everything that shares its processor, is expected to be free.
    pub free_at: &'a [Timestamp],
    /// All that wait behind the most urgent request, most urgent first.
    pub behind: &'a [&'a Waiting],
    /// How many of them ask for the same model.
    pub followers: usize,
    /// Per domain: whether a batch is running on it.
    pub domain_busy: &'a [bool],
    /// Thermal regime.
    pub regime: Regime,
    /// How a shortage of device budget is reported.
    pub shortage: Rejection,
}

/// Chooses for `batch[0]`, the most urgent request, with `batch[1..]` (same model, in order of urgency) to share
/// its run if that pays. Pure: the same view gives the same choice.
#[must_use]
pub fn choose(view: &View<'_>, batch: &[&Waiting]) -> Choice {
    let Some(head) = batch.first() else { return Choice::AwaitLoad };
    if view.regime == Regime::Critical {
        return too_hot(view, head);
    }
    let mut search = Search::new(view, batch, None);
    search.run();
    search.conclude()
}

/// Everything that could be chosen for this batch, at every clock, best first; priced by what [`choose`] uses.
#[must_use]
pub fn explain_all(view: &View<'_>, batch: &[&Waiting]) -> Vec<Considered> {
    let mut all = Vec::new();
    if !batch.is_empty() && view.regime != Regime::Critical {
        Search::new(view, batch, Some(&mut all)).run();
    }
    rule(&mut all);
    all
}

fn too_hot(view: &View<'_>, head: &Waiting) -> Choice {
    if head.hard {
        Choice::Reject(Rejection::TooHot, Some(COOLING))
    } else {
        Choice::Hold { until: view.now.after(COOLING), awaits: Awaits::Device }
    }
}

/// Sorts what was looked at, best first, and says what is the choice and what rules the others out.
fn rule(all: &mut [Considered]) {
    let key = |one: &Considered| match one.grade {
        _ if one.ruling == Ruling::Chosen => (Grade::OnTarget, f64::NEG_INFINITY, 0.0),
        Grade::OnTarget => {
            (one.grade, one.candidate.energy.as_f64() / f64::from(one.candidate.items.max(1)), 0.0)
        }
        Grade::OnTime => (one.grade, -one.accuracy, one.candidate.energy.as_f64()),
        Grade::Tight => (one.grade, one.candidate.miss.as_f64(), one.candidate.energy.as_f64()),
        Grade::Crowding | Grade::Ousting | Grade::Late | Grade::Unfit => {
            (one.grade, one.progress, one.candidate.energy.as_f64())
        }
    };
    all.sort_by(|a, b| {
        let ((a0, a1, a2), (b0, b1, b2)) = (key(a), key(b));
        a0.cmp(&b0).then(a1.total_cmp(&b1)).then(a2.total_cmp(&b2))
    });
    for one in all.iter_mut().filter(|one| one.ruling == Ruling::Dearer) {
        one.ruling = match one.grade {
            Grade::OnTarget => Ruling::Dearer,
            Grade::OnTime => Ruling::Inaccurate,
            Grade::Crowding | Grade::Ousting => Ruling::Crowding,
            Grade::Tight | Grade::Late | Grade::Unfit => Ruling::Slow,
        };
    }
    if let Some(first) = all.first_mut().filter(|first| first.grade < Grade::Unfit) {
        first.ruling = Ruling::Chosen;
    }
}
