//! The real daemon and the real tool, with real ONNX Runtime, real sockets and real clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../harness/mod.rs"]
mod harness;

mod activation;
mod bad_input;
mod boards;
mod clients;
mod deploying;
mod detecting;
mod explaining;
mod profiling;
mod reload_journal;
mod restoring;
mod serving;
mod signed;
