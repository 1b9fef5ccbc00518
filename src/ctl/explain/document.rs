//! The explanation as a document: names instead of ids, times from the request's arrival.

use crate::core::catalog::Provenance;
use crate::core::event::BatchFailure;
use crate::core::plan::{Constraint, Grade, Ruling};
use crate::core::thermal::Regime;
use serde::Serialize;
use std::path::PathBuf;

/// What was decided about a request and why, and what came of it. Spans of time are microseconds; `at_us`, `from_us`
/// and `to_us` count from the request's arrival and are negative before it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// The journal.
    pub journal: PathBuf,
    /// Whether a check after the request's end agreed with the replay; if not, none came after it yet.
    pub checked: bool,
    /// Whether the journal's last line was cut off.
    pub torn: bool,
    /// The request.
    pub request: Asked,
    /// In sentences.
    pub verdict: Vec<String>,
    /// How it ended; none: not by the end of the journal.
    pub outcome: Option<Ended>,
    /// What admission saw, where the request was turned away at once.
    pub admission: Option<Admission>,
    /// What it waited for, and how long.
    pub waits: Vec<Waited>,
    /// Runs for others while it waited.
    pub meanwhile: Vec<Ran>,
    /// How many more of those there were.
    pub meanwhile_left_out: usize,
    /// Decisions to hold it: the last for each reason.
    pub holds: Vec<Decision>,
    /// Decisions to run it or to turn it away.
    pub decisions: Vec<Decision>,
    /// Its runs.
    pub runs: Vec<Ran>,
}

/// The request with the defaults of its class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asked {
    /// The daemon's id.
    pub id: u64,
    /// Seconds since the Unix epoch, give or take one.
    pub came_unix_s: u64,
    /// Time from the daemon's start.
    pub came_us: u64,
    /// User id of who asked; none over TCP.
    pub uid: Option<u32>,
    /// Class.
    pub class: String,
    /// Model.
    pub model: String,
    /// Items.
    pub items: u32,
    /// Deadline.
    pub deadline_us: u64,
    /// Whether an answer after it is worthless, as the client named it; else it is its class's objective.
    pub hard: bool,
    /// Least accuracy, a share.
    pub min_accuracy: f64,
    /// Accuracy to give while the budgets allow.
    pub accuracy_target: f64,
    /// Most energy.
    pub max_energy_uj: Option<u64>,
    /// The only variant that was asked for.
    pub variant: Option<String>,
    /// Lower is more urgent.
    pub priority: u32,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Ended {
    /// With an answer.
    Served {
        /// When the output was there.
        at_us: i64,
        /// The variant that answered.
        variant: String,
        /// Its unit.
        unit: String,
        /// The unit's clock at the end of the run.
        clock_khz: u32,
        /// Waiting before the first run.
        queue_us: u64,
        /// All time on units.
        compute_us: u64,
        /// Its share of the energy of its runs.
        energy_uj: u64,
        /// Where that figure is from.
        energy_source: Provenance,
        /// Accuracy of that variant.
        accuracy: f64,
        /// Items of the run.
        batch_items: u32,
        /// Whether it came after the deadline.
        missed: bool,
        /// Whether a smaller variant answered in place of the one chosen first.
        rescued: bool,
    },
    /// Without one.
    Rejected {
        /// When.
        at_us: i64,
        /// Machine-readable reason.
        reason: &'static str,
        /// When trying again may have helped.
        retry_after_us: Option<u64>,
    },
}

/// What admission saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Admission {
    /// Requests in the queue.
    pub queued: usize,
    /// Of this app, in the queue or running.
    pub in_flight: u32,
    /// Thermal regime.
    pub regime: Regime,
    /// Highest temperature.
    pub hottest_c: Option<f64>,
    /// By how much a hard deadline would have been missed if it had been let in.
    pub late_us: Option<u64>,
    /// Whose deadline that is.
    pub late_request: Option<u64>,
    /// Latency of the fastest configuration on each unit, at its highest clock, as admission reckons: a cautious guess
    /// counts for less.
    pub fastest: Vec<Fastest>,
    /// Energy of the cheapest configuration, by the profiles.
    pub cheapest_uj: Option<u64>,
    /// What there was to choose from.
    #[serde(flatten)]
    pub offer: Offer,
}

/// What admission reckons with on a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fastest {
    /// The unit.
    pub unit: String,
    /// When it was expected to be free.
    pub free_in_us: u64,
    /// Latency there.
    pub latency_us: u64,
}

/// Time spent waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waited {
    /// Machine-readable: `all_busy`, `unit`, `class`, `device`, `load`, `behind`.
    pub for_what: &'static str,
    /// How long in all.
    pub span_us: u64,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// When.
    pub at_us: i64,
    /// How often it was decided so; the rest is of the last time.
    pub times: u64,
    /// About whom: another request where it shares that one's run, or is held with it, having more time.
    pub about: u64,
    /// `run`, `hold`, `await_load` or `reject`.
    pub decided: &'static str,
    /// What it was held for.
    pub awaits: Option<&'static str>,
    /// When it was to be looked at again.
    pub until_us: Option<i64>,
    /// Why it was turned away.
    pub reason: Option<&'static str>,
    /// What kept the planner from something cheaper or better.
    pub binding: Option<Constraint>,
    /// Requests of the run, the most urgent first.
    pub batch: Vec<u64>,
    /// Configurations that the decision itself looked at; it does not look at what cannot be the best.
    pub considered: Option<u32>,
    /// What there was to choose from.
    #[serde(flatten)]
    pub offer: Offer,
}

/// What there was to choose from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Offer {
    /// When each unit was expected to be free, from the decision on.
    pub units: Vec<Free>,
    /// Candidates, the best first.
    pub candidates: Vec<Row>,
    /// How many more were priced.
    pub left_out: usize,
    /// What was not priced.
    pub excluded: Vec<Out>,
}

/// When a unit was expected to be free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Free {
    /// The unit.
    pub unit: String,
    /// From the decision on.
    pub free_in_us: u64,
    /// Machine-readable: `run`, `load` or `profiler`.
    pub busy: Option<&'static str>,
}

/// A candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Variant.
    pub variant: String,
    /// Unit.
    pub unit: String,
    /// Clock; 0 where the unit has none.
    pub clock_khz: u32,
    /// Memory clock, where there is one to set.
    pub memory_khz: Option<u32>,
    /// Requests that share the run.
    pub requests: usize,
    /// Items of the run.
    pub items: u32,
    /// When it would start, from the decision on.
    pub start_us: u64,
    /// Expected latency of the run.
    pub latency_us: u64,
    /// Whether that is a cautious guess: no profile was measured there, and it never ran.
    pub guess: bool,
    /// Expected energy of the run above the idle board.
    pub energy_uj: u64,
    /// Expected accuracy, a share.
    pub accuracy: f64,
    /// Odds to miss the deadline, a share.
    pub miss: f64,
    /// The clock is raised if the run goes on for so long.
    pub boost: Option<RaisedAt>,
    /// Another variant answers if it goes on for so long.
    pub rescue: Option<RescuedAt>,
    /// How good it is.
    pub grade: Grade,
    /// What ruled it out.
    pub ruling: Ruling,
    /// The same for people, with figures.
    pub why: String,
}

/// A boost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RaisedAt {
    /// From the start of the run on.
    pub after_us: u64,
    /// The clock asked for then.
    pub clock_khz: u32,
}

/// A rescue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RescuedAt {
    /// After the start of the run.
    pub after_us: u64,
    /// The variant that answers then.
    pub variant: String,
    /// Where.
    pub unit: String,
    /// At which clock.
    pub clock_khz: u32,
    /// Odds that it comes to that, a share.
    pub odds: f64,
}

/// A variant on a unit that was not priced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Out {
    /// Variant.
    pub variant: String,
    /// Unit.
    pub unit: String,
    /// Machine-readable: `not_allowed`, `not_named`, `below_floor`, `not_loaded`.
    pub why: &'static str,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ran {
    /// When it was sent to its unit.
    pub at_us: i64,
    /// Variant.
    pub variant: String,
    /// Model.
    pub model: String,
    /// Unit.
    pub unit: String,
    /// The clock that it began with.
    pub clock_khz: u32,
    /// The memory clock that it began with, where there is one to set.
    pub memory_khz: Option<u32>,
    /// Who shared it.
    pub requests: Vec<u64>,
    /// Items.
    pub items: u32,
    /// When a higher clock was asked for under way, from the order to run on.
    pub raised: Option<RaisedAt>,
    /// Whether the profiler measured on the same unit, between whose runs it had to go.
    pub probed: bool,
    /// Expected latency.
    pub expected_us: u64,
    /// Energy that was reserved for it.
    pub reserved_uj: u64,
    /// When it began.
    pub from_us: Option<i64>,
    /// When it ended.
    pub to_us: Option<i64>,
    /// When it was told to stop.
    pub stopped_us: Option<i64>,
    /// Why it gave no output.
    pub failure: Option<BatchFailure>,
}
