//! Requests that will not do, and clients that do not behave.

use crate::harness::{Daemon, Setup, eventually, free_address, inputs, run_well, wait_for};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use wattd::api::client;
use wattd::api::proto::infer_parameter::ParameterChoice;
use wattd::api::proto::model_infer_request::InferInputTensor;
use wattd::api::proto::{InferParameter, ModelInferRequest};

fn request(model: &str, name: &str, datatype: &str, shape: &[i64], bytes: usize) -> ModelInferRequest {
    let (name, datatype, shape) = (name.to_owned(), datatype.to_owned(), shape.to_vec());
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![InferInputTensor { name, datatype, shape, ..Default::default() }],
        raw_input_contents: vec![vec![0; bytes].into()],
        ..Default::default()
    }
}

fn send(daemon: &Daemon<'_>, request: ModelInferRequest) -> Result<(), tonic::Status> {
    wait_for(async {
        let mut client = client::connect(&daemon.socket).await.unwrap();
        client.model_infer(request).await.map(|_| ())
    })
}

fn tiny() -> Setup {
    let mut setup = Setup::new();
    setup.models("tests/data/models");
    setup
}

#[test]
fn requests_that_do_not_fit_the_model_are_named() {
    use tonic::Code::{InvalidArgument, NotFound, OutOfRange, ResourceExhausted};
    let mut setup = tiny();
    setup.set("socket.max_message_mb", 1);
    let daemon = setup.start();
    let of = |name: &str, datatype: &str, shape: &[i64], bytes| request("tiny", name, datatype, shape, bytes);
    let mut two = of("x", "FP32", &[1, 16], 64);
    two.inputs.push(two.inputs[0].clone());
    let mut no_raw = of("x", "FP32", &[1, 16], 64);
    no_raw.raw_input_contents.clear();
    let mut version = of("x", "FP32", &[1, 16], 64);
    version.model_version = "7".to_owned();
    let cases = [
        (request("none", "x", "FP32", &[1, 16], 64), vec![NotFound], "no model \"none\""),
        (version, vec![NotFound], "version \"7\""),
        (of("y", "FP32", &[1, 16], 64), vec![InvalidArgument], "\"y\""),
        (of("x", "INT8", &[1, 16], 16), vec![InvalidArgument], "INT8"),
        (of("x", "FP33", &[1, 16], 64), vec![InvalidArgument], "FP33"),
        (of("x", "FP32", &[1, 17], 68), vec![InvalidArgument], "[1, 17]"),
        (of("x", "FP32", &[16], 64), vec![InvalidArgument], "[16]"),
        (of("x", "FP32", &[0, 16], 0), vec![InvalidArgument], "0"),
        (of("x", "FP32", &[-1, 16], 64), vec![InvalidArgument], "-1"),
        (of("x", "FP32", &[i64::MAX, 16], 64), vec![InvalidArgument], ""),
        (of("x", "FP32", &[33, 16], 33 * 64), vec![InvalidArgument], "32"),
        (of("x", "FP32", &[1, 16], 63), vec![InvalidArgument], "63"),
        (of("x", "FP32", &[1, 16], 65), vec![InvalidArgument], "65"),
        (two, vec![InvalidArgument], ""),
        (no_raw, vec![InvalidArgument], ""),
        (of("x", "FP32", &[1, 16], 2 << 20), vec![InvalidArgument, OutOfRange, ResourceExhausted], ""),
    ];
    for (index, (request, codes, word)) in cases.into_iter().enumerate() {
        let status = send(&daemon, request).unwrap_err();
        assert!(
            codes.contains(&status.code()) && status.message().contains(word),
            "case {index}: {status:?}"
        );
    }
    daemon.infer(inputs("tests/data/models", "tiny").ask(0, 1));
    assert_eq!(daemon.status().counters.rejected.len(), 0, "none of them came to the core");
    daemon.stop();
}

#[test]
fn absurd_parameters_are_named() {
    let setup = tiny();
    let daemon = setup.start();
    let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
    for (key, choice) in [
        ("deadline_us", ParameterChoice::Int64Param(i64::MIN)),
        ("deadline_us", ParameterChoice::Uint64Param(u64::MAX)),
        ("timeout", ParameterChoice::Int64Param(-1)),
        ("min_accuracy", text("very")),
        ("min_accuracy", ParameterChoice::DoubleParam(f64::NAN)),
        ("min_accuracy_ppm", ParameterChoice::Int64Param(1_000_001)),
        ("max_energy_uj", ParameterChoice::Int64Param(0)),
        ("max_energy_uj", ParameterChoice::BoolParam(true)),
        ("priority", ParameterChoice::Int64Param(-2)),
        ("variant", text(&"v".repeat(5000))),
        ("variant", text("\u{0}")),
        ("class", text("")),
    ] {
        let mut request = request("tiny", "x", "FP32", &[1, 16], 64);
        let parameter = InferParameter { parameter_choice: Some(choice.clone()) };
        request.parameters.insert(key.to_owned(), parameter);
        let status = send(&daemon, request).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{key} {choice:?}: {status:?}");
        assert!(status.message().contains(key) && status.message().len() < 400, "{key}: {status:?}");
    }
    daemon.infer(inputs("tests/data/models", "tiny").ask(0, 1));
    daemon.stop();
}

#[test]
fn clients_that_stall_or_flood_or_leave_hold_up_nobody_else() {
    let mut setup = tiny();
    let address = free_address();
    setup.set("socket.tcp", address.clone()).set("socket.max_connections_per_app", 20);
    let daemon = setup.start();
    let connect = || UnixStream::connect(&daemon.socket).unwrap();
    // Silent ones, ones that stop in the middle of a request, and ones that send what is no protocol.
    let silent: Vec<UnixStream> = (0..3).map(|_| connect()).collect();
    let half: Vec<UnixStream> = (0..3)
        .map(|_| {
            let mut stream = connect();
            let head = "POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{\"inp";
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    for noise in [
        "\0\0\0\0",
        "SSH-2.0-x\r\n",
        "GET / HTTP/9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\u{1}\u{1}\u{1}",
    ] {
        connect().write_all(noise.as_bytes()).unwrap();
    }
    let tiny = inputs("tests/data/models", "tiny");
    daemon.infer(tiny.ask(0, 1));
    // As many as one user may have: the next is refused in words, another app is served.
    let flood: Vec<UnixStream> = (0..20).map(|_| connect()).collect();
    let refusal = eventually("a refusal", || {
        let mut stream = connect();
        // It may be refused before it has said anything.
        let _ = stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains("503").then_some(answer)
    });
    assert!(refusal.contains("connection_limit"), "{refusal}");
    let other = run_well("curl", &["-sS", &format!("http://{address}/v2/health/ready")]);
    assert_eq!(other, r#"{"ready":true}"#);
    drop((silent, half, flood));
    eventually("room again", || daemon.ask(tiny.ask(0, 1)).ok());
    daemon.stop();
}

#[test]
fn whoever_leaves_is_cancelled_and_holds_no_place() {
    let mut setup = Setup::new();
    setup.set("budget.app_limit", 4);
    let daemon = setup.start();
    let fashion = inputs("config/models", "fashion");
    let ask = fashion.ask(0, 8);
    // More work than a second's worth, dropped as soon as it is under way.
    for _ in 0..6 {
        wait_for(async {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let (socket, tensor) = (daemon.socket.clone(), ask.inputs[0].tensor.data.clone());
                calls.spawn(async move {
                    let mut request = request("fashion", "image", "UINT8", &[8, 28, 28], 0);
                    request.raw_input_contents = vec![tensor];
                    client::connect(&socket).await.unwrap().model_infer(request).await
                });
            }
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            calls.shutdown().await;
        });
    }
    eventually("an empty house", || {
        let status = daemon.status();
        (status.queue.requests == 0 && status.units.iter().all(|unit| !unit.busy)).then_some(())
    });
    let status = daemon.status();
    assert!(
        status.counters.rejected.get("cancelled").is_some_and(|count| *count > 0),
        "{:?}",
        status.counters
    );
    daemon.infer(fashion.ask(0, 1));
    daemon.stop();
}
