//! A board, its lanes and its clients in virtual time: the whole machine around a scheduler.
//!
//! ```text
//!  Workload ──Submit──▶            ──Dispatch, Abort──▶ lanes ──▶
//!                        Scheduler ──Set──▶ actuator ───────────▶  Plant
//!    Client ◀──Reply───            ◀──Completed, Sampled, Applied──
//! ```
//!
//! [`World`] jumps to the next thing that happens, so that hours run in seconds, and the same seed gives the
//! same run. It drives anything that speaks the core's two enums ([`Scheduler`]): the real
//! [`crate::core::Core`], and whatever is compared with it. [`Checkers`] watch both directions and know only
//! those enums; [`Summary`] is counted from the plant and from the replies, not from what the scheduler
//! believes.

mod checkers;
pub mod experiment;
mod lane;
pub mod oracle;
pub mod policy;
mod report;
mod requests;
mod setup;
pub mod whatif;
mod workload;
mod world;

pub use checkers::{Checkers, Violation};
pub use lane::LaneFaults;
pub use report::Summary;
pub use requests::{Asked, Counts, Row, Run};
pub use setup::{Machine, SimModel, SimVariant};
pub use workload::{Arrival, Arrivals, Repeat, Spike, Stream, Workload};
pub use world::{Scheduler, World, WorldOptions};

#[cfg(test)]
mod tests;
