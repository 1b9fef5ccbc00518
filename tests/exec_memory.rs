//! Memory comes back after unloading. A process of its own: other tests would disturb the figures.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

mod support;

use support::{batch, cpu, fp32, spec, variant};
use wattd::core::catalog::VariantId;
use wattd::exec::{DataType, Executor};

/// Anonymous resident bytes of this process.
fn resident() -> u64 {
    let statm = procfs::process::Process::myself().unwrap().statm().unwrap();
    (statm.resident - statm.shared) * procfs::page_size()
}

#[test]
fn the_footprint_is_real_and_comes_back_after_unloading() {
    const WEIGHTS: u64 = 4096 * 4096 * 4;
    let wide = |name| spec(name, DataType::Fp32, &[Some(4096)]);
    let heavy = variant(0, "heavy.onnx", vec![wide("x")], vec![wide("y")]);
    let mut executor = cpu(1);
    // The first session makes what all share.
    executor.load(&support::mlp(1, "mlp.onnx")).unwrap();
    let before = resident();
    let mut left = Vec::new();
    for round in 0..3 {
        let footprint = executor.load(&heavy).unwrap().0;
        let held = resident() - before;
        assert!(footprint >= WEIGHTS, "round {round}: {footprint} B for weights of {WEIGHTS} B");
        assert!(footprint <= held + WEIGHTS, "round {round}: {footprint} B said, {held} B held");
        executor.run(&batch(round, 0, vec![vec![fp32(&[1, 4096], &[1.0; 4096])]])).unwrap();
        executor.unload(VariantId(0));
        left.push(resident().saturating_sub(before));
    }
    assert!(left.iter().all(|&left| left < WEIGHTS / 4), "left behind after each unload: {left:?} B");
}
