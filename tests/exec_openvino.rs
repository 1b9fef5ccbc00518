//! A real second execution provider: the OpenVINO plug-in, where `scripts/setup` was asked for it.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

mod support;

use std::path::PathBuf;
use support::{batch, cpu, floats, mlp, root, spec, variant, x8};
use wattd::exec::ort::{ExecUnit, OrtExecutor, OrtSettings};
use wattd::exec::{DataType, Executor};

/// Where `scripts/setup --openvino` puts it. A folder without the library is a failure, not a reason to skip.
fn plugin() -> Option<PathBuf> {
    let folder = root().join(".wattd/openvino");
    if !folder.exists() {
        eprintln!("NOT RUN: no {}; `scripts/setup --openvino` fetches it on x86-64", folder.display());
        return None;
    }
    let library = folder.join("onnxruntime_ep_openvino/libonnxruntime_providers_openvino_plugin.so");
    assert!(library.exists(), "no {}", library.display());
    Some(library)
}

/// An executor on the plug-in's CPU device, if there is one: OpenVINO runs on Intel processors only. Says so
/// if the test cannot run.
fn executor() -> Option<OrtExecutor> {
    let unit = unit(plugin()?);
    let intel = std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("GenuineIntel");
    match OrtExecutor::new(support::runtime(), unit, OrtSettings::default()) {
        Ok(executor) => Some(executor),
        Err(error) => {
            let text = error.to_string();
            assert!(!intel && text.contains("has no cpu device"), "{text}");
            eprintln!("NOT RUN: not an Intel processor: {text}");
            None
        }
    }
}

fn unit(library: PathBuf) -> ExecUnit {
    let mut unit = ExecUnit::cpu("openvino", 1);
    unit.provider = "OpenVINOExecutionProvider".to_owned();
    unit.provider_library = Some(library);
    let config = r#"{"CPU":{"INFERENCE_NUM_THREADS":"1","INFERENCE_PRECISION_HINT":"f32"}}"#;
    unit.provider_options.insert("load_config".to_owned(), config.to_owned());
    unit
}

#[test]
fn a_model_runs_on_the_plug_in_and_agrees_with_the_cpu() {
    let Some(mut plugin) = executor() else { return };
    // A second unit of the same library registers nothing anew.
    executor().unwrap();
    assert!(support::runtime().available().contains("OpenVINOExecutionProvider on cpu"));
    let mut here = cpu(1);
    // Loading fails if the provider takes no node of the graph: see the next test.
    plugin.load(&mlp(0, "mlp.onnx")).unwrap();
    here.load(&mlp(0, "mlp.onnx")).unwrap();
    for items in [1, 5] {
        let there = plugin.run(&batch(1, 0, vec![x8(items, 3)])).unwrap();
        let here = here.run(&batch(1, 0, vec![x8(items, 3)])).unwrap();
        let pairs = floats(&there.requests[0][0]).into_iter().zip(floats(&here.requests[0][0]));
        for (a, b) in pairs {
            assert!((a - b).abs() < 1e-3 * b.abs().max(1.0), "{a} is not {b}");
        }
    }
}

#[test]
fn a_graph_that_the_plug_in_does_not_take_is_refused_not_run_elsewhere() {
    let Some(plugin) = executor() else { return };
    let square = |name| spec(name, DataType::Fp32, &[Some(2), Some(2)]);
    let inverse = variant(0, "inverse.onnx", vec![square("x")], vec![square("y")]);
    cpu(1).load(&inverse).unwrap();
    let error = plugin.load(&inverse).unwrap_err().to_string();
    assert!(
        error.contains("takes none of the graph's nodes") && error.contains("CPUExecutionProvider"),
        "{error}"
    );
}
