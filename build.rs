//! Compiles the protocol without a system `protoc`.

use std::path::Path;

const PROTO: &str = "src/api/proto/inference.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    println!("cargo::rerun-if-changed=build.rs");
    let descriptors = protox::compile([Path::new(PROTO)], [Path::new("src/api/proto")])?;
    let mut messages = tonic_prost_build::Config::new();
    // Tensors stay where the transport put them; maps are small and come out in a fixed order.
    messages.bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure().build_server(false).compile_fds_with_config(descriptors, messages)?;
    Ok(())
}
