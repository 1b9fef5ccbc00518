//! Switching off the telemetry of ONNX Runtime, in a process that still has one thread.

use wattd::exec::ort::disable_telemetry;

fn main() {
    let variable = || std::env::var("ORT_DISABLE_TELEMETRY").ok();
    if variable().is_none() {
        // Another thread could read the environment at the same time: refused.
        let refused = std::thread::scope(|scope| scope.spawn(disable_telemetry).join().expect("no panic"));
        let error = refused.expect_err("two threads run").to_string();
        assert!(error.contains("has 2"), "{error}");
        assert_eq!(variable(), None);
    }
    disable_telemetry().expect("one thread runs");
    assert_eq!(variable().as_deref(), Some("1"));
    // Once set, it is fine from anywhere.
    std::thread::scope(|scope| scope.spawn(disable_telemetry).join().expect("no panic"))
        .expect("already set");
    println!("telemetry: ok");
}
