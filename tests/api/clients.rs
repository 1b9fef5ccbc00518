//! Unmodified clients.

use crate::double::{BIG, eventually, singles};
use crate::{FOREVER, Server};
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;
use wattd::api::proto::{self, model_infer_request::InferInputTensor};
use wattd::api::{Limits, client};

/// The interpreter that has the clients.
fn python() -> std::path::PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".wattd/venv/bin/python");
    assert!(python.exists(), "{}: missing; scripts/setup makes it", python.display());
    python
}

async fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(4 * FOREVER, command.output()).await.expect("ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}: {}\n{out}\n{err}", arguments, output.status);
    out.into_owned()
}

async fn script(name: &str, argument: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    let out = run(python(), &["-B", script.to_str().unwrap(), argument]).await;
    assert_eq!(out.trim().lines().last(), Some("ok"), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tritonclient_over_grpc_on_the_unix_socket() {
    let server = Server::start(Limits::default());
    script("grpc_client.py", server.socket.to_str().unwrap()).await;
    let retained = server.double.retained.lock().unwrap().clone();
    assert_eq!(retained, [(0, true), (0, false)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tritonclient_over_http_on_tcp() {
    let server = Server::start(Limits::default());
    script("http_client.py", &server.port.to_string()).await;
    server.stop().await;
}

async fn curl(server: &Server, arguments: &[&str], path: &str) -> (u16, String) {
    let url = format!("http://localhost{path}");
    let socket = server.socket.to_str().unwrap();
    let mut all = vec!["-sS", "--unix-socket", socket, "-w", "\n%{http_code}"];
    all.extend_from_slice(arguments);
    all.push(&url);
    let out = run("curl", &all).await;
    let (body, status) = out.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_on_the_unix_socket() {
    let server = Server::start(Limits::default());
    let get = |path: &'static str| curl(&server, &[], path);
    assert_eq!(get("/v2/health/live").await, (200, r#"{"live":true}"#.into()));
    assert_eq!(get("/v2/health/ready").await, (200, r#"{"ready":true}"#.into()));
    assert_eq!(get("/v2/models/add/ready").await, (200, r#"{"name":"add","ready":true}"#.into()));
    assert_eq!(get("/v2/models/broken/ready").await.0, 503);
    assert_eq!(get("/v2/models/add/versions/1").await.0, 200);
    assert_eq!(get("/v2/models/add/versions/2").await.0, 404);
    assert_eq!(get("/v2/models/%61dd/config").await.0, 200);
    assert_eq!(get("/v2/nothing").await.0, 404);
    assert_eq!(get("/v2/models/add/infer").await.0, 405);
    assert!(get("/metrics").await.1.contains("wattd_requests_total 0"));
    assert!(get("/wattd/v1/status").await.1.contains("\"served\":0"));

    let body = r#"{"id":"q","inputs":[{"name":"a","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]},
        {"name":"b","datatype":"FP32","shape":[1,4],"data":[[0.5,0.5,0.5,0.5]]}],
        "parameters":{"min_accuracy":"0.9","deadline_us":50000,"priority":2}}"#;
    let (status, answer) = curl(&server, &["-d", body], "/v2/models/add/infer").await;
    assert_eq!(status, 200, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["id"], "q");
    assert_eq!(answer["outputs"][0]["data"], serde_json::json!([1.5, 2.5, 3.5, 4.5]));
    assert_eq!(answer["parameters"]["energy_source"], "modelled");
    let seen = server.double.last.lock().unwrap().clone().unwrap();
    assert_eq!(seen.wishes.min_accuracy, Some(wattd::units::Ppm(900_000)));
    assert_eq!(seen.wishes.deadline, Some(wattd::units::Nanos::from_micros(50_000)));
    assert_eq!(seen.wishes.priority, Some(2));
    assert_eq!(seen.peer.uid, Some(nix::unistd::Uid::effective().as_raw()));
    assert!(seen.peer.pid.is_some());

    // A body that is nothing but the elements of the only input.
    let raw = ["--data-binary", "abcd", "-H", "Inference-Header-Content-Length: 0"];
    let (status, answer) = curl(&server, &raw, "/v2/models/echo/infer").await;
    assert_eq!(status, 400, "echo has a free dimension: {answer}");
    // HTTP/2 without TLS.
    let h2c = curl(&server, &["--http2-prior-knowledge"], "/v2/health/live").await;
    assert_eq!(h2c, (200, r#"{"live":true}"#.into()));
    assert_eq!(curl(&server, &["-d", "{}"], "/wattd/v1/profile").await.0, 202);
    assert_eq!(curl(&server, &["-d", r#"{"model":"big"}"#], "/wattd/v1/profile").await.0, 202);
    assert_eq!(*server.double.profiled.lock().unwrap(), [None, Some(BIG)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejections_by_http_carry_reason_and_retry_after() {
    let server = Server::start(Limits::default());
    let body = r#"{"inputs":[{"name":"x","datatype":"INT8","shape":[1,1],"data":[1]}],"parameters":{"class":"too_hot"}}"#;
    let (status, answer) = curl(&server, &["-d", body, "-D", "-"], "/v2/models/echo/infer").await;
    assert_eq!(status, 503, "{answer}");
    let lower = answer.to_lowercase();
    for line in ["wattd-reason: too_hot", "retry-after: 1", "retry-after-us: 25000", "wattd-request-id: "] {
        assert!(lower.contains(line), "{line} in {answer}");
    }
    assert!(answer.contains(r#""retry_after_us":25000"#) && answer.contains(r#""request_id":"#), "{answer}");
    server.stop().await;
}

fn input(name: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn one_input(
    model: &str,
    name: &str,
    shape: &[i64],
    raw: bytes::Bytes,
) -> proto::ModelInferRequest {
    proto::ModelInferRequest {
        model_name: model.into(),
        inputs: vec![input(name, shape)],
        raw_input_contents: vec![raw],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_client_by_both_protocols() {
    let server = Server::start(Limits::default());
    let mut grpc = client::connect(&server.socket).await.unwrap();
    let mut elements = vec![0.0_f32; 3 * 640 * 640];
    elements[0] = 42.0;
    let request = one_input("big", "image", &[1, 3, 640, 640], singles(&elements));
    let response = grpc.model_infer(request).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents, [singles(&[42.0])]);

    let typed = |values: Vec<f32>| proto::InferTensorContents { fp32_contents: values, ..Default::default() };
    let with = |name, values| InferInputTensor { contents: Some(typed(values)), ..input(name, &[1, 4]) };
    let request = proto::ModelInferRequest {
        model_name: "add".into(),
        inputs: vec![with("a", vec![1.0; 4]), with("b", vec![2.0; 4])],
        ..Default::default()
    };
    let response = grpc.model_infer(request).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents, [singles(&[3.0; 4]), singles(&[-1.0; 4])]);

    let status = client::get(&server.socket, "/wattd/v1/status", FOREVER).await.unwrap();
    assert!(status.starts_with(b"{"));
    let error = client::get(&server.socket, "/v2/models/nothing", FOREVER).await.unwrap_err();
    assert!(error.to_string().contains("there are: add, big"), "{error}");
    let profiled = client::post(&server.socket, "/wattd/v1/profile", &serde_json::json!({}), FOREVER).await;
    profiled.unwrap();
    let nobody = client::get(Path::new("/nonexistent/s"), "/", FOREVER).await.unwrap_err();
    assert!(nobody.to_string().contains("is the daemon running"), "{nobody}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_a_rejection_are_machine_readable() {
    let server = Server::start(Limits::default());
    let mut grpc = client::connect(&server.socket).await.unwrap();
    let mut request = one_input("echo", "x", &[1, 1], vec![1].into());
    request.inputs[0].datatype = "INT8".into();
    let class = proto::infer_parameter::ParameterChoice::StringParam("energy_exhausted".into());
    request.parameters.insert("class".into(), proto::InferParameter { parameter_choice: Some(class) });
    let status = grpc.model_infer(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.metadata().get("wattd-reason").unwrap(), "energy_exhausted");
    assert_eq!(status.metadata().get("retry-after-us").unwrap(), "25000");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_is_cancelled() {
    let server = Server::start(Limits::default());
    let mut grpc = client::connect(&server.socket).await.unwrap();
    let request = one_input("hold", "a", &[1, 4], singles(&[0.0; 4]));
    let call = tokio::spawn(async move { grpc.model_infer(request).await });
    eventually("submission", FOREVER, || server.double.submissions() == 1).await;
    assert_eq!(server.double.cancellations(), 0);
    call.abort();
    eventually("cancellation", FOREVER, || server.double.cancellations() == 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_port_has_metrics_only() {
    let double = crate::double::Double::new();
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap();
    drop(probe);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(wattd::api::serve_metrics(None, address, double, async move {
        let _ = stopped.await;
    }));
    let url = |path: &str| format!("http://{address}{path}");
    let retry = ["-sS", "--retry", "20", "--retry-connrefused", "--retry-delay", "1"];
    let page = run("curl", &[&retry[..], &[&url("/metrics")]].concat()).await;
    assert!(page.contains("wattd_requests_total"), "{page}");
    let other = run("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &url("/v2")]).await;
    assert_eq!(other, "404");
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
}
