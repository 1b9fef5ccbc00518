//! `wattd`: a power-aware on-device inference scheduler.
//!
//! Mechanism is wide, policy is pure: everything that decides lives in [`core`], a deterministic
//! state machine without files, clocks, threads or sockets. The daemon, the simulator, the replay
//! tool and the tests drive that same core through [`core::event::Event`] and
//! [`core::event::Effect`]. `ARCHITECTURE.md` is the map of the other rooms.

pub mod api;
pub mod board;
pub mod config;
pub mod core;
pub mod ctl;
pub mod daemon;
pub mod exec;
pub mod journal;
pub mod model;
pub mod observe;
pub mod sim;
mod state_file;
pub mod time;
pub mod units;
