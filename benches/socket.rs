//! What the socket costs: our server beside bare tonic, over a Unix socket, in one run.
//!
//! `cargo bench --bench socket`. Each server is a process of its own, so that its processor time can be
//! told from the client's. The rounds alternate between the servers; the table has the median round.
//! A word on the command line (`-- tiny`) leaves out loads without it.
//! Both answer at once (no scheduler, no model): what is compared is the way in and the way out.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "../tests/double/mod.rs"]
mod double;

use bytes::Bytes;
use double::Double;
use http::{Request, Response};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Builder;
use wattd::api::proto::model_infer_request::InferInputTensor;
use wattd::api::proto::model_infer_response::InferOutputTensor;
use wattd::api::proto::{ModelInferRequest, ModelInferResponse};
use wattd::api::{Limits, Options, client};
use wattd::time::{Clock, MonotonicClock};

const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--serve") {
        Some(at) => serve(&arguments[at + 1], &arguments[at + 2], Path::new(&arguments[at + 3])),
        None => compare(),
    }
}

// --- servers -------------------------------------------------------------------------------------

fn serve(which: &str, threads: &str, socket: &Path) {
    let runtime = match threads {
        "1" => Builder::new_current_thread().enable_all().build().unwrap(),
        count => {
            Builder::new_multi_thread().worker_threads(count.parse().unwrap()).enable_all().build().unwrap()
        }
    };
    if which == "bare" {
        return runtime.block_on(serve_bare(socket));
    }
    let options = Options { socket: Some(socket.to_owned()), limits: limits(), ..Options::default() };
    runtime.block_on(wattd::api::serve(options, Double::new(), std::future::pending())).unwrap();
}

/// Limits as the defaults have them, unless the environment says otherwise: for trying out.
fn limits() -> Limits {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u32>().unwrap());
    let mut limits = Limits::default();
    limits.stream_window = number("STREAM_WINDOW").unwrap_or(limits.stream_window);
    limits.connection_window = number("CONNECTION_WINDOW").unwrap_or(limits.connection_window);
    limits.frame_bytes = number("FRAME_BYTES").unwrap_or(limits.frame_bytes);
    limits
}

async fn serve_bare(socket: &Path) {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let incoming = futures_util::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    tonic::transport::Server::builder().add_service(Bare).serve_with_incoming(incoming).await.unwrap();
}

/// The unary call as tonic's generated code has it, with default settings and without any checks.
#[derive(Clone)]
struct Bare;

impl tonic::server::NamedService for Bare {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, Infallible>> + Send>>;

impl tower::Service<Request<tonic::body::Body>> for Bare {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async {
            let codec = tonic_prost::ProstCodec::<ModelInferResponse, ModelInferRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(64 << 20);
            Ok(grpc.unary(BareInfer, request).await)
        })
    }
}

struct BareInfer;

impl tonic::server::UnaryService<ModelInferRequest> for BareInfer {
    type Response = ModelInferResponse;
    type Future = std::future::Ready<Result<tonic::Response<ModelInferResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<ModelInferRequest>) -> Self::Future {
        let request = request.into_inner();
        let raw = &request.raw_input_contents;
        let output = |name: &str, shape: &[i64]| InferOutputTensor {
            name: name.into(),
            datatype: "FP32".into(),
            shape: shape.to_vec(),
            ..InferOutputTensor::default()
        };
        let (outputs, contents) = match raw.as_slice() {
            [a, b] => {
                let both = |f: fn(f32, f32) -> f32| {
                    let values = floats(a).zip(floats(b)).map(|(a, b)| f(a, b));
                    values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into()
                };
                let outputs = vec![output("sum", &[1, 4]), output("difference", &[1, 4])];
                (outputs, vec![both(|a, b| a + b), both(|a, b| a - b)])
            }
            raw => (vec![output("total", &[1, 1])], vec![raw[0].slice(..4)]),
        };
        let response = ModelInferResponse {
            model_name: request.model_name,
            outputs,
            raw_output_contents: contents,
            ..ModelInferResponse::default()
        };
        std::future::ready(Ok(tonic::Response::new(response)))
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

// --- load ----------------------------------------------------------------------------------------

struct Load {
    name: &'static str,
    clients: usize,
    requests: usize,
    request: ModelInferRequest,
}

fn input(name: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn loads() -> Vec<Load> {
    let tiny = ModelInferRequest {
        model_name: "add".into(),
        inputs: vec![input("a", &[1, 4]), input("b", &[1, 4])],
        raw_input_contents: vec![double::singles(&[1.0; 4]), double::singles(&[2.0; 4])],
        ..ModelInferRequest::default()
    };
    let big = ModelInferRequest {
        model_name: "big".into(),
        inputs: vec![input("image", &[1, 3, 640, 640])],
        raw_input_contents: vec![Bytes::from(vec![0; 3 * 640 * 640 * 4])],
        ..ModelInferRequest::default()
    };
    vec![
        Load { name: "tiny, 1 client", clients: 1, requests: 4000, request: tiny.clone() },
        Load { name: "tiny, 4 clients", clients: 4, requests: 4000, request: tiny },
        Load { name: "4.9 MB, 1 client", clients: 1, requests: 150, request: big },
    ]
}

/// A server process; killed when dropped.
struct Server {
    name: String,
    child: Child,
    socket: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(which: &str, threads: &str, dir: &Path) -> Self {
        let name = format!("{which}, {threads} thread(s)");
        let socket = dir.join(format!("{which}{threads}"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        let child = command.args(["--serve", which, threads]).arg(&socket).spawn().unwrap();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { name, child, socket }
    }

    /// Nanoseconds on a processor, over all threads.
    fn processor_time(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |task: std::io::Result<std::fs::DirEntry>| -> u64 {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            text.split_whitespace().next().unwrap().parse().unwrap()
        };
        tasks.map(of).sum()
    }

    async fn run(&self, load: &Load) -> Figures {
        let clock = MonotonicClock::start();
        let before = self.processor_time();
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..load.clients {
            let (request, socket, requests) = (load.request.clone(), self.socket.clone(), load.requests);
            clients.spawn(async move {
                let mut grpc = client::connect(&socket).await.unwrap();
                let mut latencies = Vec::with_capacity(requests);
                for _ in 0..requests {
                    let start = clock.now();
                    grpc.model_infer(request.clone()).await.unwrap();
                    latencies.push(clock.now().since(start).0);
                }
                latencies
            });
        }
        let mut latencies: Vec<u64> = clients.join_all().await.into_iter().flatten().collect();
        let (span, total) = (clock.now().0, u64::try_from(latencies.len()).unwrap());
        latencies.sort_unstable();
        Figures {
            p50: latencies[latencies.len() / 2] / 1000,
            p99: latencies[latencies.len() * 99 / 100] / 1000,
            per_second: total * 1_000_000_000 / span,
            cpu: (self.processor_time() - before) / total / 1000,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    p50: u64,
    p99: u64,
    per_second: u64,
    cpu: u64,
}

fn compare() {
    let dir = tempfile::tempdir().unwrap();
    let start = |(which, threads)| Server::start(which, threads, dir.path());
    let servers: Vec<Server> = [("bare", "1"), ("bare", "2"), ("ours", "1"), ("ours", "2")].map(start).into();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("| load | server | p50 us | p99 us | requests/s | server CPU us/request |");
    println!("|---|---|---|---|---|---|");
    let word = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for load in loads().into_iter().filter(|load| load.name.contains(&word)) {
        let mut rounds: Vec<Vec<Figures>> = servers.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (server, rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(runtime.block_on(server.run(&load)));
            }
        }
        for (server, mut rounds) in servers.iter().zip(rounds) {
            rounds.sort_by_key(|figures| figures.p50);
            let Figures { p50, p99, per_second, cpu } = rounds[ROUNDS / 2];
            println!("| {} | {} | {p50} | {p99} | {per_second} | {cpu} |", load.name, server.name);
        }
    }
}
