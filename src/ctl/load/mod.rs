//! The load generator.

pub mod arrivals;
pub mod inputs;
pub mod runner;
pub mod scenario;
pub mod session;
pub mod target;
pub mod timebase;
