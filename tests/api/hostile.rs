//! Clients that mean no good, or do not know what they do. Each test also shows that others are served.

use crate::clients::one_input;
use crate::double::{eventually, singles};
use crate::{FOREVER, Server};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use wattd::api::{Limits, client};

const SOON: Duration = Duration::from_millis(200);

async fn connect(server: &Server) -> UnixStream {
    UnixStream::connect(&server.socket).await.unwrap()
}

/// Everything until the server hangs up.
async fn to_the_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is as good an end as any.
    let _ = timeout(FOREVER, stream.read_to_end(&mut all)).await.expect("the server hangs up");
    all
}

async fn still_serves(server: &Server) {
    let live = client::get(&server.socket, "/v2/health/live", FOREVER).await.unwrap();
    assert_eq!(live.as_ref(), br#"{"live":true}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_hung_up_on() {
    let server = Server::start(Limits::default());
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let oversized_frame = [&preface[..], &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1]].concat();
    let bad_hpack =
        [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 3, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff]].concat();
    let junk = [
        vec![0_u8; 100],
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
        b"PRX\r\n\r\n".to_vec(),
        oversized_frame,
        bad_hpack,
    ];
    for bytes in junk {
        let mut stream = connect(&server).await;
        stream.write_all(&bytes).await.unwrap();
        to_the_end(&mut stream).await;
        still_serves(&server).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_not_waited_for() {
    let server = Server::start(Limits { greeting: SOON, ..Limits::default() });
    let mut silent = connect(&server).await;
    let mut hesitant = connect(&server).await;
    hesitant.write_all(b"PR").await.unwrap();
    assert!(to_the_end(&mut silent).await.is_empty());
    assert!(to_the_end(&mut hesitant).await.is_empty());
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_idle_connections_have_their_time() {
    let server = Server::start(Limits { idle: SOON, ..Limits::default() });
    let mut half_a_head = connect(&server).await;
    half_a_head.write_all(b"GET /v2 HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut idle = connect(&server).await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    to_the_end(&mut half_a_head).await;
    // The HTTP/2 client is told to leave: SETTINGS, and somewhere after it GOAWAY (type 7).
    let frames = to_the_end(&mut idle).await;
    assert!(frames.len() > 9 && frames[3] == 4, "{frames:?}");
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_given_up() {
    let server = Server::start(Limits { receive: SOON, ..Limits::default() });
    let mut stream = connect(&server).await;
    let head = b"POST /v2/models/add/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{\"inputs\"";
    stream.write_all(head).await.unwrap();
    let answer = String::from_utf8(to_the_end(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("slow_client"), "{answer}");
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_is_cut_off() {
    let server = Server::start(Limits { stall: SOON, ..Limits::default() });
    let mut stream = connect(&server).await;
    // The answer is as long as the question, and longer than any socket buffer.
    let elements = vec![b'1'; 8 << 20];
    let json = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"INT8","shape":[1,{0}],"parameters":{{"binary_data_size":{0}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
        elements.len()
    );
    let head = format!(
        "POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\ninference-header-content-length: {}\r\n\r\n{json}",
        json.len() + elements.len(),
        json.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&elements).await.unwrap();
    eventually("submission", FOREVER, || server.double.submissions() == 1).await;
    tokio::time::sleep(4 * SOON).await;
    let answer = to_the_end(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer[..64]));
    assert!(answer.len() < elements.len(), "cut off in the middle");
    still_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_have_a_largest_size() {
    let server = Server::start(Limits { message_bytes: 1 << 20, ..Limits::default() });
    let mut stream = connect(&server).await;
    let head = b"POST /v2/models/add/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1048577\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let answer = String::from_utf8(to_the_end(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("too_large"), "{answer}");

    let mut grpc = client::connect(&server.socket).await.unwrap();
    let request = one_input("add", "a", &[1, 4], vec![0; 1 << 20].into());
    let status = grpc.model_infer(request).await.unwrap_err();
    assert_eq!(status.metadata().get("wattd-reason").unwrap(), "too_large", "{status}");
    // The channel is as good as before.
    let request = one_input("hold", "a", &[1, 3], vec![].into());
    assert_eq!(grpc.model_infer(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_in_flight_are_bounded_per_app_and_given_back() {
    let server = Server::start(Limits { app_bytes: 1 << 20, ..Limits::default() });
    let mut greedy = connect(&server).await;
    let head = b"POST /v2/models/add/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n{";
    greedy.write_all(head).await.unwrap();
    let ask = || async {
        let mut other = client::connect(&server.socket).await.unwrap();
        let mut request = one_input("echo", "x", &[1, 300_000], vec![0; 300_000].into());
        request.inputs[0].datatype = "INT8".into();
        other.model_infer(request).await
    };
    // The head may not have been looked at yet when the first call comes in.
    let mut refusal = None;
    for _ in 0..200 {
        match ask().await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(status) => {
                refusal = Some(status);
                break;
            }
        }
    }
    let refusal = refusal.expect("is refused while the other holds 900 000 bytes");
    assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
    assert_eq!(refusal.metadata().get("wattd-reason").unwrap(), "app_bytes");
    drop(greedy);
    for attempt in 0.. {
        match ask().await {
            Ok(_) => break,
            Err(status) => assert!(attempt < 200, "still refused: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_and_refused_politely() {
    let server = Server::start(Limits { connections_per_uid: 2, ..Limits::default() });
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&server).await;
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut http = connect(&server).await;
    http.write_all(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    http.shutdown().await.unwrap();
    let answer = String::from_utf8(to_the_end(&mut http).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("connection_limit"), "{answer}");
    let status = match client::connect(&server.socket).await {
        Ok(mut grpc) => {
            grpc.server_live(wattd::api::proto::ServerLiveRequest {}).await.unwrap_err().to_string()
        }
        Err(error) => error.to_string(),
    };
    assert!(!status.is_empty());
    let mut h2 = connect(&server).await;
    h2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    h2.shutdown().await.unwrap();
    let frames = to_the_end(&mut h2).await;
    assert_eq!(frames[9 + 3], 7, "GOAWAY follows SETTINGS: {frames:?}");
    assert_eq!(frames[9 + 9 + 7], 0xb, "ENHANCE_YOUR_CALM: {frames:?}");
    drop(held);
    for _ in 0..200 {
        if client::get(&server.socket, "/v2", FOREVER).await.is_ok() {
            return server.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("still refused after the others left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_is_cancelled() {
    let server = Server::start(Limits::default());
    let body = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}"#;
    let head = format!(
        "POST /v2/models/hold/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = connect(&server).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("submission", FOREVER, || server.double.submissions() == 1).await;
    drop(stream);
    eventually("cancellation", FOREVER, || server.double.cancellations() == 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_waits_for_calls_but_not_forever() {
    let server = Server::start(Limits { drain: SOON, ..Limits::default() });
    let mut grpc = client::connect(&server.socket).await.unwrap();
    let request = one_input("hold", "a", &[1, 4], singles(&[0.0; 4]));
    let call = tokio::spawn(async move { grpc.model_infer(request).await });
    eventually("submission", FOREVER, || server.double.submissions() == 1).await;
    let double = server.double.clone();
    server.stop().await;
    call.await.unwrap().expect_err("the call ends with the server");
    eventually("cancellation", FOREVER, || double.cancellations() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_streams_is_bounded() {
    let server = Server::start(Limits { streams: 8, ..Limits::default() });
    let grpc = client::connect(&server.socket).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mut grpc = grpc.clone();
        let request = one_input("hold", "a", &[1, 4], singles(&[0.0; 4]));
        calls.spawn(async move { grpc.model_infer(request).await });
    }
    eventually("the first calls", FOREVER, || server.double.submissions() >= 8).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(server.double.submissions(), 8, "as many as there may be streams");
    still_serves(&server).await;
    calls.shutdown().await;
    eventually("all are cancelled", FOREVER, || server.double.cancellations() == server.double.submissions())
        .await;
    server.stop().await;
}
