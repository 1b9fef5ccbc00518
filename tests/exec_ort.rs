//! The executor on the real ONNX Runtime.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

mod support;

use std::sync::mpsc::sync_channel;
use std::time::Duration;
use support::{batch, cached, cpu, cpu_with, floats, fp32, mlp, root, slow, spec, variant, variant_at, x8};
use wattd::core::catalog::VariantId;
use wattd::core::event::BatchId;
use wattd::exec::ort::{ExecUnit, OrtExecutor, OrtSettings};
use wattd::exec::{DataType, ExecError, Executor, Tensor};
use wattd::units::Bytes;

/// Why loading failed.
fn refusal(executor: &mut OrtExecutor, variant: &wattd::exec::VariantFile) -> String {
    match executor.load(variant) {
        Err(error @ ExecError::Provider { .. }) => error.to_string(),
        other => panic!("{}: {other:?}", variant.name),
    }
}

#[test]
fn the_library_says_its_version_and_the_environment_is_made_once() {
    let runtime = support::runtime();
    assert!(runtime.version().starts_with("1."), "{}", runtime.version());
    assert!(std::ptr::eq(runtime, support::runtime()));
    assert!(runtime.available().contains("CPUExecutionProvider on cpu"), "{}", runtime.available());
}

#[test]
fn a_batch_gives_what_its_requests_give_alone() {
    for threads in [1, 2] {
        let mut executor = cpu(threads);
        executor.load(&mlp(0, "mlp.onnx")).unwrap();
        let requests = vec![x8(1, 1), x8(3, 100), x8(2, 200)];
        let together = executor.run(&batch(1, 0, requests.clone())).unwrap().requests;
        for (request, joined) in requests.into_iter().zip(together) {
            let items = request[0].shape[0];
            let alone = executor.run(&batch(2, 0, vec![request])).unwrap().requests.remove(0);
            assert_eq!(joined[0].shape, [items, 4]);
            assert_eq!(alone[0].shape, [items, 4]);
            for (a, b) in floats(&joined[0]).iter().zip(floats(&alone[0])) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
            }
        }
    }
}

#[test]
fn outputs_are_those_of_the_weights() {
    // mean.onnx has none: the mean of 1, 2, 6 is 3.
    let x = spec("x", DataType::Fp32, &[None]);
    let y = spec("y", DataType::Fp32, &[Some(1)]);
    let mut executor = cpu(1);
    executor.load(&variant(0, "mean.onnx", vec![x], vec![y])).unwrap();
    let output = executor.run(&batch(1, 0, vec![vec![fp32(&[1, 3], &[1.0, 2.0, 6.0])]])).unwrap();
    assert_eq!(floats(&output.requests[0][0]), [3.0]);
    // Requests of different free dimensions cannot share a run, but still get their answers.
    let long = fp32(&[2, 4], &[1.0, 1.0, 1.0, 5.0, 0.0, 0.0, 0.0, 4.0]);
    let mixed = batch(2, 0, vec![vec![fp32(&[1, 2], &[3.0, 5.0])], vec![long]]);
    let output = executor.run(&mixed).unwrap();
    assert_eq!(floats(&output.requests[0][0]), [4.0]);
    assert_eq!(floats(&output.requests[1][0]), [2.0, 1.0]);
}

#[test]
fn every_element_type_goes_in_and_comes_out() {
    let pairs = [
        ("half", DataType::Fp16, 2, vec![0x00, 0x3c, 0x00, 0xc0]), // 1, -2
        ("flag", DataType::Bool, 2, vec![1, 0]),
        ("long", DataType::Int64, 2, [5_i64.to_le_bytes(), (-1_i64).to_le_bytes()].concat()),
        ("byte", DataType::Uint8, 3, vec![7, 8, 9]),
    ];
    let inputs = pairs.iter().map(|(name, dtype, n, _)| spec(name, *dtype, &[Some(*n)])).collect();
    let outputs = pairs.iter().map(|(name, dtype, n, _)| spec(&format!("{name}_out"), *dtype, &[Some(*n)]));
    let types = variant(0, "types.onnx", inputs, outputs.collect());
    let folder = tempfile::tempdir().unwrap();
    // From the file, and from a cached graph, whose weights are used where they lie.
    let mut executors = [OrtSettings::default(), cached(&folder.path().join("g"))].map(|s| cpu_with(1, s));
    executors.iter_mut().for_each(|executor| assert!(executor.load(&types).unwrap() > Bytes::ZERO));
    // One byte off: nothing is aligned, everything must be copied.
    for (offset, from) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let executor = &mut executors[from];
        let tensor = |(_, dtype, n, bytes): &(&str, DataType, usize, Vec<u8>)| {
            let padded = bytes::Bytes::from([vec![0; offset], bytes.clone()].concat());
            Tensor { dtype: *dtype, shape: vec![1, *n], data: padded.slice(offset..) }
        };
        let request: Vec<Tensor> = pairs.iter().map(tensor).collect();
        let output = executor.run(&batch(1, 0, vec![request])).unwrap().requests.remove(0);
        let bytes: Vec<&[u8]> = output.iter().map(|tensor| &tensor.data[..]).collect();
        assert_eq!(bytes[0], [0x00, 0x40, 0x00, 0xc4], "2, -4");
        assert_eq!(bytes[1], [0, 1]);
        assert_eq!(bytes[2], [6_i64.to_le_bytes(), 0_i64.to_le_bytes()].concat());
        assert_eq!(bytes[3], [7, 8, 9]);
    }
    // A Boolean that is neither 0 nor 1.
    let mut request: Vec<Tensor> = pairs
        .iter()
        .map(|(_, dtype, n, bytes)| Tensor { dtype: *dtype, shape: vec![1, *n], data: bytes.clone().into() })
        .collect();
    request[1].data = bytes::Bytes::from_static(&[1, 7]);
    let error = executors[0].run(&batch(2, 0, vec![request])).unwrap_err().to_string();
    assert!(error.contains("`flag`"), "{error}");
}

#[test]
fn a_file_with_a_fixed_batch_of_one_still_takes_batches() {
    let mut executor = cpu(1);
    executor.load(&mlp(0, "mlp.onnx")).unwrap();
    executor.load(&mlp(1, "mlp_fixed.onnx")).unwrap();
    let requests = vec![x8(3, 5), x8(1, 50)];
    let free = executor.run(&batch(1, 0, requests.clone())).unwrap().requests;
    let fixed = executor.run(&batch(2, 1, requests)).unwrap().requests;
    for (free, fixed) in free.iter().flatten().zip(fixed.iter().flatten()) {
        assert_eq!(free.shape, fixed.shape);
        assert!(floats(free).iter().zip(floats(fixed)).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}

#[test]
fn a_file_that_is_not_what_the_manifest_says_is_refused_by_name() {
    let mut executor = cpu(1);
    for (file, parts) in [
        ("mlp_names.onnx", ["`z`", "`y`"]),
        ("mlp_shape.onnx", ["output `y`", "[4]"]),
        ("mlp_dtype.onnx", ["input `x`", "FP32 [8]"]),
    ] {
        let text = refusal(&mut executor, &mlp(0, file));
        assert!(parts.iter().all(|part| text.contains(part)), "{file}: {text}");
    }
    // A free dimension in the manifest that the file does not have.
    let x = spec("x", DataType::Fp32, &[None]);
    let y = spec("y", DataType::Fp32, &[Some(4)]);
    let text = refusal(&mut executor, &variant(0, "mlp.onnx", vec![x.clone()], vec![y.clone()]));
    assert!(text.contains("[?]"), "{text}");
    let text = refusal(&mut executor, &variant(0, "mlp.onnx", vec![x.clone(), x], vec![y]));
    assert!(text.contains("inputs are `x`, the manifest's are `x`, `x`"), "{text}");
    let not_loaded = executor.run(&batch(1, 0, vec![x8(1, 0)]));
    assert!(matches!(not_loaded, Err(ExecError::NotLoaded(VariantId(0)))));
}

#[test]
fn hostile_and_broken_files_are_errors_and_the_executor_goes_on() {
    let mut executor = cpu(1);
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(&mut executor, &mlp(0, "truncated.onnx"));
    assert!(text.contains("test/truncated"), "{text}");
    refusal(&mut executor, &mlp(0, "external.onnx"));
    let text = refusal(&mut executor, &mlp(0, "missing.onnx"));
    assert!(text.contains("missing.onnx"), "{text}");
    let of = |name: &str, data: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, data).unwrap();
        let like = mlp(0, "mlp.onnx");
        variant_at(0, &path, like.inputs.to_vec(), like.outputs.to_vec())
    };
    refusal(&mut executor, &of("empty.onnx", b""));
    refusal(&mut executor, &of("text.onnx", b"model = 1\n"));
    let good = std::fs::read(root().join("tests/data/onnx/mlp.onnx")).unwrap();
    // The byte pattern of `ORT` flatbuffers in a file that is none.
    refusal(&mut executor, &of("fake.ort", &[b"\x20\0\0\0ORTM", &good[..]].concat()));
    let changed = wattd::exec::VariantFile { sha256: "00".repeat(32), ..of("changed.onnx", &good) };
    let text = refusal(&mut executor, &changed);
    assert!(text.contains("SHA-256") && text.contains(&changed.sha256), "{text}");
    let folder_as_file = wattd::exec::VariantFile { path: folder.path().to_owned(), ..changed };
    let text = refusal(&mut executor, &folder_as_file);
    assert!(text.contains("not a regular file"), "{text}");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = refusal(&mut executor, &wattd::exec::VariantFile { path: pipe, ..folder_as_file });
    assert!(text.contains("not a regular file"), "{text}");
    let mut small = cpu_with(1, OrtSettings { max_file: 1000, ..OrtSettings::default() });
    let text = refusal(&mut small, &mlp(0, "mlp.onnx"));
    assert!(text.contains("at most 1000"), "{text}");
    // Weights of 4 PB, which are made when it runs.
    executor.load(&mlp(1, "bomb.onnx")).unwrap();
    let error = executor.run(&batch(1, 1, vec![x8(1, 0)])).unwrap_err().to_string();
    assert!(error.contains("test/bomb"), "{error}");
    executor.load(&mlp(0, "mlp.onnx")).unwrap();
    executor.run(&batch(1, 0, vec![x8(1, 0)])).unwrap();
}

/// Flips and cuts at fixed places: whatever happens, it is an error or a session, and the process lives.
#[test]
fn damaged_files_never_end_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read(root().join("tests/data/onnx/mlp.onnx")).unwrap();
    let like = mlp(0, "mlp.onnx");
    let mut executor = cpu(1);
    let (mut refused, mut loaded) = (0, 0);
    for at in (0..good.len()).step_by(5) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        let path = folder.path().join("bad.onnx");
        std::fs::write(&path, &bad).unwrap();
        let file = variant_at(0, &path, like.inputs.to_vec(), like.outputs.to_vec());
        match executor.load(&file) {
            Ok(_) => {
                loaded += 1;
                let _ = executor.run(&batch(1, 0, vec![x8(1, 0)]));
                executor.unload(VariantId(0));
            }
            Err(_) => refused += 1,
        }
    }
    assert!(
        refused > 0 && loaded > 0,
        "{refused} refused, {loaded} loaded: weights may change, structure not"
    );
}

#[test]
fn wrong_requests_are_errors_that_name_the_tensor() {
    let mut executor = cpu(1);
    executor.load(&mlp(0, "mlp.onnx")).unwrap();
    let wrong = [
        (vec![], "0 input tensors"),
        (vec![fp32(&[1, 7], &[0.0; 7])], "`x`: FP32 [1, 7]"),
        (vec![fp32(&[0, 8], &[])], "at least one item"),
        (vec![fp32(&[8], &[0.0; 8])], "`x`"),
        (vec![Tensor { dtype: DataType::Int32, ..x8(1, 0).remove(0) }], "INT32"),
        (vec![Tensor { shape: vec![2, 8], ..x8(1, 0).remove(0) }], "`x`"),
    ];
    for (request, part) in wrong {
        let error = executor.run(&batch(1, 0, vec![request])).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
    executor.run(&batch(2, 0, vec![x8(1, 0)])).unwrap();
}

#[test]
fn a_running_batch_is_cancelled_and_the_session_stays_usable() {
    let (ready, started) = sync_channel(1);
    let worker = std::thread::spawn(move || {
        let mut executor = cpu(1);
        executor.load(&slow(0)).unwrap();
        ready.send(executor.canceller()).unwrap();
        // An hour's work.
        let long = executor.run(&batch(7, 0, vec![vec![fp32(&[1, 4], &[1e9, 0.0, 0.0, 0.0])]]));
        let short = executor.run(&batch(8, 0, vec![vec![fp32(&[1, 4], &[3.0; 4])]]));
        (long.map(|_| ()), short.map(|output| floats(&output.requests[0][0])))
    });
    let cancel = started.recv().unwrap();
    // Another batch's cancellation hits nothing.
    cancel.cancel(BatchId(8_000));
    // It may not have begun: then the cancellation is remembered.
    std::thread::sleep(Duration::from_millis(50));
    cancel.cancel(BatchId(7));
    let (long, short) = worker.join().unwrap();
    assert!(matches!(long, Err(ExecError::Cancelled)), "{long:?}");
    assert_eq!(short.unwrap(), [3.0; 4]);
}

#[test]
fn a_batch_cancelled_before_it_begins_does_not_run() {
    let mut executor = cpu(1);
    executor.load(&slow(0)).unwrap();
    executor.canceller().cancel(BatchId(1));
    let forever = || vec![vec![fp32(&[1, 4], &[1e9; 4])]];
    assert!(matches!(executor.run(&batch(1, 0, forever())), Err(ExecError::Cancelled)));
    let output = executor.run(&batch(2, 0, vec![vec![fp32(&[1, 4], &[0.0; 4])]])).unwrap();
    assert_eq!(floats(&output.requests[0][0]), [0.0; 4]);
}

#[test]
fn units_that_cannot_be_are_refused_with_what_there_is() {
    let new =
        |unit| OrtExecutor::new(support::runtime(), unit, OrtSettings::default()).unwrap_err().to_string();
    let gpu = ExecUnit { provider: "CUDAExecutionProvider".to_owned(), ..ExecUnit::cpu("gpu", 1) };
    let text = new(gpu);
    assert!(text.contains("CUDAExecutionProvider") && text.contains("CPUExecutionProvider on cpu"), "{text}");
    let library = ExecUnit { provider_library: Some("/no/such.so".into()), ..ExecUnit::cpu("npu", 1) };
    assert!(new(library).contains("/no/such.so"));
    let text_file = root().join("Cargo.toml");
    let library = ExecUnit { provider_library: Some(text_file), ..ExecUnit::cpu("npu", 1) };
    assert!(new(library).contains("Cargo.toml"));
    assert!(new(ExecUnit::cpu("none", 0)).contains("`threads` is 0"));
    // CPUs may come while it waits: they are missed when something is to be loaded.
    let far = ExecUnit { cpus: vec![999], ..ExecUnit::cpu("far", 1) };
    let mut executor = OrtExecutor::new(support::runtime(), far, OrtSettings::default()).unwrap();
    let text = executor.load(&mlp(0, "mlp.onnx")).unwrap_err().to_string();
    assert!(text.contains("far") && text.contains("[999]"), "{text}");
}

#[test]
fn a_cached_graph_gives_the_same_outputs_and_bad_entries_are_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let graphs = folder.path().join("graphs");
    let entry = || {
        let mut found = std::fs::read_dir(&graphs).unwrap().map(|entry| entry.unwrap().path());
        let path = found.next().expect("an entry");
        assert!(found.next().is_none(), "one entry and no drafts");
        path
    };
    let outputs = |settings: OrtSettings| {
        let mut executor = cpu_with(1, settings);
        executor.load(&mlp(0, "mlp.onnx")).unwrap();
        floats(&executor.run(&batch(1, 0, vec![x8(4, 9)])).unwrap().requests[0][0])
    };
    let plain = outputs(OrtSettings::default());
    assert_eq!(outputs(cached(&graphs)), plain, "building the entry");
    let sound = std::fs::read(entry()).unwrap();
    assert_eq!(outputs(cached(&graphs)), plain, "from the entry");
    assert_eq!(std::fs::read(entry()).unwrap(), sound, "a hit writes nothing");
    let mut corrupt = sound.clone();
    *corrupt.last_mut().unwrap() ^= 1;
    std::fs::write(entry(), corrupt).unwrap();
    assert_eq!(outputs(cached(&graphs)), plain, "from a corrupt entry");
    // An entry with a right checksum whose graph the runtime refuses: as a library's bug would leave it.
    let mut refused = sound[..40].to_vec();
    refused.extend(<sha2::Sha256 as sha2::Digest>::digest(b"no graph"));
    refused.extend(8_u64.to_le_bytes());
    refused.extend(b"no graph");
    std::fs::write(entry(), refused).unwrap();
    assert_eq!(outputs(cached(&graphs)), plain, "from a refused entry");
    assert!(std::fs::read(entry()).unwrap().len() > 100, "rebuilt");
}

#[test]
fn a_full_disk_costs_the_cache_not_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let graphs = folder.path().join("graphs");
    let settings = cached(&graphs);
    let variant = mlp(0, "mlp.onnx");
    let cache = settings.cache.clone().unwrap();
    let key = cache.key(&variant.sha256, support::runtime().build(), "CPUExecutionProvider {}");
    // Where the runtime will save the graph lies a device that is full.
    let first = cache.draft(&key).unwrap();
    let next = first.path().to_string_lossy().replace("-0-", "-1-");
    std::os::unix::fs::symlink("/dev/full", next).unwrap();
    let mut executor = cpu_with(1, settings);
    executor.load(&variant).unwrap();
    executor.run(&batch(1, 0, vec![x8(1, 0)])).unwrap();
    assert_eq!(cache.get(&key), None);
    assert_eq!(std::fs::read_dir(&graphs).unwrap().count(), 0, "nothing half written is left");
}

#[test]
fn loading_twice_is_one_session_and_unloading_lets_go() {
    let mut executor = cpu(1);
    let first = executor.load(&mlp(0, "mlp.onnx")).unwrap();
    assert!(first > Bytes::ZERO);
    assert_eq!(executor.load(&mlp(0, "mlp.onnx")).unwrap(), first);
    executor.unload(VariantId(0));
    executor.unload(VariantId(0));
    assert!(matches!(executor.run(&batch(1, 0, vec![x8(1, 0)])), Err(ExecError::NotLoaded(_))));
    executor.load(&mlp(0, "mlp.onnx")).unwrap();
    executor.run(&batch(2, 0, vec![x8(1, 0)])).unwrap();
}
