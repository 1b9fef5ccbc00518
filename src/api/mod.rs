//! The socket: Open Inference Protocol over gRPC and HTTP/1.1 on one listener.

pub mod backend;
