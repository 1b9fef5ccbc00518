//! What the executor and the lane add to a run of ONNX Runtime, and what the graph cache saves.
//!
//! `cargo bench --bench exec`. Needs the runtime that `scripts/setup` fetches.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

#[path = "../tests/support/mod.rs"]
mod support;

use divan::Bencher;
use divan::counter::ItemsCount;
use ort::session::{RunOptions, Session};
use ort::value::TensorRef;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use support::{batch, cpu, cpu_with, mlp, x8};
use wattd::core::catalog::{UnitId, VariantId};
use wattd::core::event::Completion;
use wattd::exec::lane::{BoxError, Lane, LaneEvents, ProbeReport};
use wattd::exec::ort::{ExecUnit, OrtExecutor, OrtSettings};
use wattd::exec::{Batch, DataType, ExecError, Executor, Loader, Output, VariantFile};
use wattd::time::MonotonicClock;
use wattd::units::Bytes;

fn main() {
    support::runtime();
    divan::main();
}

/// The runtime through `ort` alone, inputs already typed and outputs only looked at.
#[divan::bench(args = [1, 8])]
fn bare_ort(bencher: Bencher<'_, '_>, items: usize) {
    let mut session = bare_session(&mlp(0, "mlp.onnx").path);
    let options = RunOptions::new().unwrap();
    let values: Vec<f32> = support::floats(&x8(items, 1)[0]);
    bencher.counter(ItemsCount::new(items)).bench_local(|| {
        let input = TensorRef::from_array_view(([items, 8], &values[..])).unwrap();
        let outputs = session.run_with_options(ort::inputs![input], &options).unwrap();
        outputs[0].try_extract_tensor::<f32>().unwrap().1[0]
    });
}

fn bare_session(path: &Path) -> Session {
    let environment = support::runtime().environment();
    let device = environment.devices().next().unwrap();
    let builder = Session::builder(environment).unwrap().with_intra_threads(1).unwrap();
    builder.with_devices([device], None).unwrap().commit_from_file(path).unwrap()
}

/// The same through the executor: checks, cancellation, output bytes.
#[divan::bench(args = [1, 8])]
fn executor(bencher: Bencher<'_, '_>, items: usize) {
    let mut executor = cpu(1);
    executor.load(&mlp(0, "mlp.onnx")).unwrap();
    let batch = batch(1, 0, vec![x8(items, 1)]);
    bencher.counter(ItemsCount::new(items)).bench_local(|| executor.run(&batch).unwrap());
}

/// Eight requests of one item, joined and split.
#[divan::bench]
fn executor_joining_eight(bencher: Bencher<'_, '_>) {
    let mut executor = cpu(1);
    executor.load(&mlp(0, "mlp.onnx")).unwrap();
    let batch = batch(1, 0, (0..8).map(|n| x8(1, n)).collect());
    bencher.counter(ItemsCount::new(8_usize)).bench_local(|| executor.run(&batch).unwrap());
}

struct Answer(SyncSender<Result<Output, ExecError>>);

impl LaneEvents for Answer {
    fn loaded(&self, _: UnitId, _: VariantId, _: Bytes) {}
    fn load_failed(&self, _: UnitId, _: VariantId, error: &ExecError) {
        panic!("{error}");
    }
    fn unloaded(&self, _: UnitId, _: VariantId) {}
    fn completed(&self, _: Completion, result: Result<Output, ExecError>) {
        self.0.send(result).unwrap();
    }
    fn probed(&self, _: UnitId, _: ProbeReport) {}
}

/// Answers without computing: what is left is the hop to the lane and back.
struct Echo;

impl Loader for Echo {
    fn load(&self, _: &VariantFile) -> Result<Bytes, ExecError> {
        Ok(Bytes::ZERO)
    }
    fn unload(&self, _: VariantId) {}
}

impl Executor for Echo {
    fn loader(&self) -> Arc<dyn Loader> {
        Arc::new(Echo)
    }
    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError> {
        Ok(Output { requests: batch.requests.clone(), energy: None })
    }
    fn canceller(&self) -> Arc<dyn wattd::exec::Cancel> {
        struct None;
        impl wattd::exec::Cancel for None {
            fn cancel(&self, _: wattd::core::event::BatchId) {}
        }
        Arc::new(None)
    }
}

fn round_trip(bencher: Bencher<'_, '_>, make: fn() -> Result<Box<dyn Executor>, BoxError>) {
    let (tell, answers) = sync_channel(1);
    let lane =
        Lane::spawn("bench", UnitId(0), make, Arc::new(Answer(tell)), MonotonicClock::shared()).unwrap();
    lane.load(mlp(0, "mlp.onnx")).unwrap();
    let batch = batch(1, 0, vec![x8(1, 1)]);
    let once = || {
        lane.run(batch.clone()).unwrap();
        answers.recv().unwrap()
    };
    // It is loaded beside the runs.
    while once().is_err() {}
    bencher.bench_local(|| once().unwrap());
}

/// To the lane and back, nothing computed.
#[divan::bench]
fn lane_hop(bencher: Bencher<'_, '_>) {
    round_trip(bencher, || Ok(Box::new(Echo)));
}

/// To the lane and back, with the model.
#[divan::bench]
fn lane_and_executor(bencher: Bencher<'_, '_>) {
    round_trip(bencher, || {
        let unit = ExecUnit::cpu("bench", 1);
        Ok(Box::new(OrtExecutor::new(support::runtime(), unit, OrtSettings::default())?))
    });
}

/// Loading and unloading a variant, without the cache of optimised graphs.
#[divan::bench(sample_count = 20)]
fn load_without_cache(bencher: Bencher<'_, '_>) {
    load(bencher, OrtSettings::default());
}

/// The same from the cache.
#[divan::bench(sample_count = 20)]
fn load_with_cache(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().unwrap();
    load(bencher, support::cached(&folder.path().join("graphs")));
}

fn load(bencher: Bencher<'_, '_>, settings: OrtSettings) {
    let executor = cpu_with(1, settings);
    let variant = bench_variant();
    executor.load(&variant).unwrap();
    executor.unload(variant.id);
    bencher.bench_local(|| {
        executor.load(&variant).unwrap();
        executor.unload(variant.id);
    });
}

/// `WATTD_BENCH_MODEL` names a larger model to load, of single precision tensors.
fn bench_variant() -> VariantFile {
    let Some(path) = std::env::var_os("WATTD_BENCH_MODEL").map(PathBuf::from) else {
        return mlp(0, "mlp.onnx");
    };
    let session = bare_session(&path);
    let specs = |outlets: &[ort::value::Outlet]| {
        let spec = |outlet: &ort::value::Outlet| {
            let dims = outlet.dtype().tensor_shape().unwrap().iter().skip(1);
            let dims: Vec<Option<usize>> = dims.map(|&dim| usize::try_from(dim).ok()).collect();
            support::spec(outlet.name(), DataType::Fp32, &dims)
        };
        outlets.iter().map(spec).collect()
    };
    support::variant_at(0, &path, specs(session.inputs()), specs(session.outputs()))
}
