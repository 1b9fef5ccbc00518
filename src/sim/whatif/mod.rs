//! What if: a recorded or described day under a configuration, in virtual time. Do its budgets hold, when does the
//! first one break, and which one would have to give?
//!
//! ```text
//!  wattd.toml ───────────────────┐
//!  board, ambient, battery ──────┤
//!  journal or workload, repeated ┼─▶ Day ──(seed)──▶ World ──▶ Judge ──▶ Finding per budget
//!  disturbance script ───────────┘    ▲                                        │
//!                                     └──── Knob: one budget looser ◀── search ┘
//! ```
//!
//! It is the machinery of [`crate::sim::experiment`] with the real [`crate::core::Core`], judged by [`Limit`]s
//! instead of against other policies. All figures are of the simulated board: modelled, not measured.

mod day;
mod judge;
mod knob;
mod limit;
mod recorded;
mod search;
mod trackers;

pub use day::{Asked, Day, Demand, Source, WhatIfError, read_config};
pub use judge::{ClassTally, Outcome};
pub use knob::Knob;
pub use limit::{Finding, Limit};
pub use search::{Answer, Progress, RowOf, Suggestion, ask};

#[cfg(test)]
mod tests;
