//! What can be seen from outside: metrics and logs.
//!
//! An [`Observer`] watches the core's events and effects; [`logging`] sets up the process's log.

mod board;
mod effects;
mod labels;
pub mod logging;
pub mod metrics;
pub mod names;
mod notes;

pub use effects::Observer;
pub use labels::Names;
pub use metrics::{Page, Registry};
pub use names::{Kind, Metric};
