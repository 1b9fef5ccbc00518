//! The pure core: what decides. No files, clocks, threads, sockets, metrics or randomness in here.

pub mod catalog;
pub mod energy;
pub mod event;
pub mod fit;
pub mod plan;
pub mod thermal;
