//! What a scheduler is judged against: the truth of a scenario, bounds that no scheduler can beat, and oracles.
//!
//! ```text
//!  Machine, Workload, Script, seed ──► Instance ──► certified_bound   no schedule needs less        (proof)
//!                                          │──────► o1                each request for itself       (ALERT)
//!                                          │──────► brute_force, dp   the whole trace, exactly      (small)
//!                                          └──────► milp              the same, by HiGHS            (small)
//!                                      Plant ─────► Causal            true parameters, no future
//! ```
//!
//! A gap is always taken against a named one of these. The certified bound knows the future and pays for nothing that
//! it does not have to: a gap to it is an upper limit on what is left to gain, and part of it nobody can gain.
//! [`Causal`] (O3) shows which part: it knows everything about the present and the odds, and nothing of what is to come.

mod bound;
mod causal;
mod clairvoyant;
mod exact;
mod hull;
mod idle;
mod instance;
mod menu;
#[cfg(feature = "milp")]
mod milp;
mod overfull;
mod verdict;

pub use bound::{Bound, Demand, certified_bound, certified_bound_of};
pub use causal::{Causal, Insight, MISS};
pub use clairvoyant::{Choice, Clairvoyant, o1};
pub use exact::{Job, MOST_JOBS, Plan, Problem, Way, brute_force, dp};
pub use instance::{Ask, Configuration, Instance, MemoryClocks, Rate, Season, Truth};
#[cfg(feature = "milp")]
pub use milp::milp;
pub use verdict::{Answer, Verdict, judge};

#[cfg(test)]
mod tests;
