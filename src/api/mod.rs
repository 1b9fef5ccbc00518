//! The socket: Open Inference Protocol over gRPC and HTTP/1.1 on one listener.

pub mod backend;

/// Messages and service of the Open Inference Protocol, generated from `proto/inference.proto`.
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
