//! A provider that comes as a plug-in, from a checkout, as `config/README.md` says: OpenVINO's.

use crate::harness::{Setup, inputs, root, said, wattctl};

const LIBRARY: &str = "libonnxruntime_providers_openvino_plugin.so";
const BOARD: &str = r#"
name = "board"
description = "a unit by a plug-in alone"
idle_power_w = 1.0
thermal = { fast_k_per_w = 1.0, fast_tau_s = 2.0, slow_k_per_w = 3.0, slow_tau_s = 60.0 }

[[unit]]
name = "openvino"
kind = "cpu"
provider = "OpenVINOExecutionProvider"
provider_library = "plug-in/libonnxruntime_providers_openvino_plugin.so"
provider_options = { load_config = '{"CPU":{"INFERENCE_NUM_THREADS":"1"}}' }
"#;

#[test]
fn a_unit_on_a_plug_in_serves_and_its_offers_are_shown() {
    let folder = root().join(".wattd/openvino/onnxruntime_ep_openvino");
    let intel = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("GenuineIntel"));
    if !folder.exists() || !intel {
        println!("not tested: no {} (scripts/setup --openvino), or no Intel processor", folder.display());
        return;
    }
    let mut setup = Setup::new();
    let library = folder.join(LIBRARY).display().to_string();
    let shown = wattctl(["board", "--provider-library", &library]);
    assert!(shown.status.success(), "{}", said(&shown));
    assert!(said(&shown).contains("OpenVINOExecutionProvider on cpu"), "{}", said(&shown));
    let shown = wattctl(["board", "--provider-library", "/no/such.so"]);
    assert_eq!(shown.status.code(), Some(2), "{}", said(&shown));
    assert!(said(&shown).contains("/no/such.so"), "{}", said(&shown));

    // Relative to the board file.
    std::os::unix::fs::symlink(&folder, setup.path("plug-in")).unwrap();
    let file = setup.path("board.toml");
    std::fs::write(&file, BOARD).unwrap();
    setup
        .without("simulation")
        .set("board.file", file.display().to_string())
        .set("board.sysfs_root", "/no/such/sys")
        .models("tests/data/models");
    let daemon = setup.start();
    let tiny = inputs("tests/data/models", "tiny");
    let answer = daemon.infer(tiny.ask(0, 1));
    assert_eq!((tiny.right(&answer, 0, 1), answer.served.unit.as_str()), (1, "openvino"));
    daemon.stop();
}
