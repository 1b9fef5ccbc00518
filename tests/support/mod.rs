//! What the tests of the executor share: the real ONNX Runtime, the small models, and tensors for them.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support; each test binary uses its part"
)]

use bytes::Bytes as Buffer;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wattd::core::catalog::VariantId;
use wattd::core::event::BatchId;
use wattd::exec::ort::{ExecUnit, LibraryCandidates, OrtExecutor, OrtRuntime, OrtSettings};
use wattd::exec::{Batch, DataType, Tensor, TensorSpec, VariantFile};

/// The package's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The real runtime: `WATTD_ORT_LIB`, or what `scripts/setup` put into `.wattd`.
pub fn runtime() -> &'static OrtRuntime {
    let candidates = LibraryCandidates {
        configured: std::env::var_os("WATTD_ORT_LIB").map(PathBuf::from),
        environment: None,
        folders: vec![root().join(".wattd/onnxruntime")],
    };
    match OrtRuntime::init(&candidates) {
        Ok(runtime) => runtime,
        Err(error) => panic!("these tests need ONNX Runtime; run scripts/setup first.\n{error}"),
    }
}

/// An executor of the CPU provider.
pub fn cpu(threads: u16) -> OrtExecutor {
    cpu_with(threads, OrtSettings::default())
}

/// The same with settings.
pub fn cpu_with(threads: u16, settings: OrtSettings) -> OrtExecutor {
    OrtExecutor::new(runtime(), ExecUnit::cpu("cpu", threads), settings).unwrap()
}

/// One input or output.
pub fn spec(name: &str, dtype: DataType, item_shape: &[Option<usize>]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, item_shape: item_shape.to_vec() }
}

/// A variant from a file of `tests/data/onnx`.
pub fn variant(id: u16, file: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> VariantFile {
    variant_at(id, &root().join("tests/data/onnx").join(file), inputs, outputs)
}

/// A variant from any file.
pub fn variant_at(id: u16, path: &Path, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> VariantFile {
    let sha256 = std::fs::read(path).map(|data| hex::encode(Sha256::digest(data))).unwrap_or_default();
    VariantFile {
        id: VariantId(id),
        name: format!("test/{}", path.file_stem().unwrap().to_string_lossy()),
        path: path.to_owned(),
        sha256,
        inputs: inputs.into(),
        outputs: outputs.into(),
        macs: 0,
        traffic_bytes: 0,
        precision: "fp32".to_owned(),
    }
}

/// A file with the signature of `mlp.onnx`: 8 numbers in, 4 out.
pub fn mlp(id: u16, file: &str) -> VariantFile {
    let (x, y) = (spec("x", DataType::Fp32, &[Some(8)]), spec("y", DataType::Fp32, &[Some(4)]));
    variant(id, file, vec![x], vec![y])
}

/// `slow.onnx`: the largest input is the number of matrix products.
pub fn slow(id: u16) -> VariantFile {
    let (x, y) = (spec("x", DataType::Fp32, &[Some(4)]), spec("y", DataType::Fp32, &[Some(4)]));
    variant(id, "slow.onnx", vec![x], vec![y])
}

/// A tensor of single precision.
pub fn fp32(shape: &[usize], values: &[f32]) -> Tensor {
    assert_eq!(shape.iter().product::<usize>(), values.len());
    let data = Buffer::copy_from_slice(bytemuck::cast_slice(values));
    Tensor { dtype: DataType::Fp32, shape: shape.to_vec(), data }
}

/// Back to numbers.
pub fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.dtype, DataType::Fp32);
    bytemuck::pod_collect_to_vec(&tensor.data)
}

/// `items` items of 8 numbers that depend on `seed`.
pub fn x8(items: usize, seed: u32) -> Vec<Tensor> {
    let count = u32::try_from(items * 8).unwrap();
    let values: Vec<f32> =
        (0..count).map(|n| f32::from_bits(0x3f80_0000 | ((n + seed) * 7919 % (1 << 23))) - 1.5).collect();
    vec![fp32(&[items, 8], &values)]
}

/// A batch.
pub fn batch(id: u64, variant: u16, requests: Vec<Vec<Tensor>>) -> Batch {
    Batch { id: BatchId(id), variant: VariantId(variant), requests }
}

/// Settings with a cache of optimised graphs.
pub fn cached(folder: &Path) -> OrtSettings {
    let cache = wattd::exec::cache::GraphCache::open(folder, 256 << 20).unwrap();
    OrtSettings { cache: Some(Arc::new(cache)), ..OrtSettings::default() }
}
