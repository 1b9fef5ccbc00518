//! The socket: Open Inference Protocol over gRPC and HTTP/1.1 on one listener.
//!
//! [`serve`] is the way in for the daemon, [`client`] the way out for `wattctl`. A connection goes
//! through [`listener`] (who is it?), `connection` (which protocol, how long?), `authority` (a repair
//! that gRPC over Unix sockets needs), then `grpc` or `rest`, which share the checks of `request`, the
//! parameters of `params` and the path of `infer` to the [`backend`].

mod authority;
pub mod backend;
mod body;
pub mod client;
mod connection;
mod contents;
mod grpc;
mod hpack;
mod infer;
pub mod listener;
pub mod options;
mod params;
mod request;
mod rest;
mod rest_infer;
mod server;
mod service;
mod shm;
pub mod status;
mod traffic;
mod wire;

pub use listener::{Bound, ListenError, bind_all};
pub use options::{Limits, Options};
pub use server::{serve, serve_bound, serve_metrics};

/// Messages and client of the Open Inference Protocol, generated from `proto/inference.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::too_many_lines
)]
pub mod proto {
    tonic::include_proto!("inference");
}
