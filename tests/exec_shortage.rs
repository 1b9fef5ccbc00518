//! A load that there is no memory for fails; what is loaded goes on. A process of its own, whose memory is limited.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

mod support;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::{batch, cpu, floats, fp32, mlp, spec, variant_at, x8};
use wattd::exec::{DataType, ExecError, Executor};

/// Width of a model whose weights take 64 MiB.
const WIDE: usize = 4096;

/// Address space of this process.
fn address_space() -> u64 {
    let statm = procfs::process::Process::myself().unwrap().statm().unwrap();
    statm.size * procfs::page_size()
}

/// A protocol buffer's number.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn part(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// An ONNX file with weights of its own: y = x w, all of w 1.
fn matrix_product() -> Vec<u8> {
    let wide = WIDE as u64;
    let tensor = |name: &str| {
        let shape = [part(1, &part(2, b"N")), part(1, &number(1, wide))].concat();
        let kind = part(1, &[number(1, 1), part(2, &shape)].concat());
        [part(1, name.as_bytes()), part(2, &kind)].concat()
    };
    let node = [part(1, b"x"), part(1, b"w"), part(2, b"y"), part(4, b"MatMul")].concat();
    let weights = 1.0_f32.to_le_bytes().repeat(WIDE * WIDE);
    let weights = [number(1, wide), number(1, wide), number(2, 1), part(8, b"w"), part(9, &weights)].concat();
    let graph =
        [part(1, &node), part(2, b"g"), part(5, &weights), part(11, &tensor("x")), part(12, &tensor("y"))];
    [number(1, 8), part(8, &number(2, 13)), part(7, &graph.concat())].concat()
}

#[test]
fn a_load_without_memory_fails_and_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wide.onnx");
    std::fs::write(&file, matrix_product()).unwrap();
    let wide = |name| spec(name, DataType::Fp32, &[Some(WIDE)]);
    let wide = variant_at(0, &file, vec![wide("x")], vec![wide("y")]);
    let mut executor = cpu(1);
    executor.load(&mlp(1, "mlp.onnx")).unwrap();
    let expected = executor.run(&batch(1, 1, vec![x8(2, 1)])).unwrap();

    // The file does not fit into 40 MiB; nor, in 90, what is made of it besides.
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    for room in [40, 90] {
        setrlimit(Resource::RLIMIT_AS, address_space() + (room << 20), hard).unwrap();
        for _ in 0..3 {
            let error = executor.load(&wide).unwrap_err();
            assert!(matches!(error, ExecError::Memory { .. }), "{room} MiB: {error}");
        }
        let output = executor.run(&batch(2, 1, vec![x8(2, 1)])).unwrap();
        assert_eq!(floats(&output.requests[0][0]), floats(&expected.requests[0][0]), "served meanwhile");
        setrlimit(Resource::RLIMIT_AS, hard, hard).unwrap();
    }
    executor.load(&wide).unwrap();
    let request = vec![fp32(&[1, WIDE], &vec![1.0; WIDE])];
    let output = executor.run(&batch(3, 0, vec![request])).unwrap();
    assert_eq!(floats(&output.requests[0][0])[..2], [4096.0; 2]);
}
