//! Experiments in virtual time: boards x workloads x disturbances x policies x seeds, from documented files
//! (`config/README.md`).
//!
//! ```text
//!  board.toml ─┐
//!  workload.toml ├─▶ Scenario ──(policy, seed)──▶ World ──▶ Record, schedule
//!  disturbance.toml ┘
//! ```

mod equal;
mod oracle;
mod policies;
mod raw;
mod results;
mod runner;
mod scenario;
mod timed;
mod timeline;
mod trace;
mod workload;

pub use equal::Comparison;
pub use oracle::OracleRecord;
pub use policies::{CAUSAL_ORACLE, policies};
pub use results::{Document, Record, ScheduleRow, mean_and_interval, write_schedule};
pub use runner::{Experiment, Finished, RunError, RunOptions};
pub use scenario::{ExperimentError, Scenario};
pub use timeline::{Moment, watch};

pub(in crate::sim) use scenario::{Disturbance, Parts};
pub(in crate::sim) use workload::{ModelSource, Under, WorkloadFile, longest_deadline};
