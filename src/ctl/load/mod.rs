//! The load generator.

pub mod arrivals;
pub mod runner;
pub mod scenario;
pub mod target;
pub mod timebase;
