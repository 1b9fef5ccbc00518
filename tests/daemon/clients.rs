//! Unmodified clients of other hands against the real daemon.

use crate::harness::{Setup, free_address, inputs, python, root, run_well};

#[test]
fn tritonclient_by_grpc_and_http_for_every_model() {
    let mut setup = Setup::new();
    let address = free_address();
    // Fast, so that the time goes to the clients.
    setup.set("socket.tcp", address.clone()).set("budget.objective", "performance");
    let daemon = setup.start();
    let script = root().join("tests/clients/daemon_client.py");
    let (socket, port) = (daemon.socket.to_str().unwrap(), address.rsplit_once(':').unwrap().1);
    let out = run_well(python(), &["-B", script.to_str().unwrap(), socket, port]);
    assert_eq!(out.trim().lines().last(), Some("ok"), "{out}\n{}", daemon.log());
    daemon.stop();
}

#[test]
fn curl_over_the_unix_socket() {
    let setup = Setup::new();
    let daemon = setup.start();
    let curl = |arguments: &[&str], path: &str| {
        let url = format!("http://localhost{path}");
        let mut all = vec!["-sS", "--unix-socket", daemon.socket.to_str().unwrap(), "-w", "\n%{http_code}"];
        all.extend_from_slice(arguments);
        all.push(&url);
        let out = run_well("curl", &all);
        let (body, code) = out.rsplit_once('\n').unwrap();
        (code.parse::<u16>().unwrap(), body.to_owned())
    };
    assert_eq!(curl(&[], "/v2/health/live"), (200, r#"{"live":true}"#.into()));
    let (code, index) = curl(&["-d", "{}"], "/v2/repository/index");
    assert!(code == 200 && index.contains("crepe") && index.contains("fashion"), "{code} {index}");
    assert_eq!(curl(&[], "/v2/models/fashion").0, 200);
    assert_eq!(curl(&[], "/v2/models/fashion/config").0, 200);
    assert_eq!(curl(&[], "/v2/models/nothing").0, 404);

    // The pixels alone, as they are in a file: the binary extension without a JSON header.
    let fashion = inputs("config/models", "fashion");
    let ask = fashion.ask(3, 1);
    let pixels = setup.path("pixels");
    std::fs::write(&pixels, &ask.inputs[0].tensor.data).unwrap();
    let data = format!("@{}", pixels.display());
    let raw = [
        "--data-binary",
        data.as_str(),
        "-H",
        "Inference-Header-Content-Length: 0",
        "-H",
        "Content-Type: application/octet-stream",
    ];
    let (code, body) = curl(&raw, "/v2/models/fashion/infer");
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("\"variant\"") && body.contains("logits"), "{body}");

    let body = r#"{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,28,28],"data":[1,2,3]}]}"#;
    let (code, message) = curl(&["-d", body], "/v2/models/fashion/infer");
    assert!(code == 400 && message.contains("784"), "{code} {message}");
    let wish = r#"{"inputs":[],"parameters":{"deadline_us":-5}}"#;
    let (code, message) = curl(&["-d", wish], "/v2/models/fashion/infer");
    assert!(code == 400 && message.contains("deadline_us"), "{code} {message}");
    daemon.stop();
}
