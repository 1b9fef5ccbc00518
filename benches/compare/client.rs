//! The load: closed loops over gRPC, gRPC with shared memory, and HTTP with binary tensors.

use crate::servers::Address;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};
use wattd::api::client;
use wattd::api::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use wattd::api::proto::infer_parameter::ParameterChoice;
use wattd::api::proto::model_infer_request::InferInputTensor;
use wattd::api::proto::{
    InferParameter, ModelInferRequest, SystemSharedMemoryRegisterRequest, SystemSharedMemoryUnregisterRequest,
};
use wattd::time::{Clock, MonotonicClock};

/// How tensors travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In the gRPC message.
    Grpc,
    /// In shared memory, the call over gRPC.
    Shared,
    /// As bytes in the body of an HTTP/1.1 request.
    Http,
    /// As numbers in the JSON of an HTTP/1.1 request.
    Json,
}

/// A load.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    pub(crate) model: &'static str,
    shape: &'static [i64],
    clients: usize,
    span: Duration,
}

impl Load {
    pub(crate) fn all() -> Vec<Self> {
        let tiny = Self {
            key: "tiny1",
            name: "tiny model, 1 client, gRPC",
            way: Way::Grpc,
            model: "mlp",
            shape: &[1, 64],
            clients: 1,
            span: Duration::from_secs(1),
        };
        let large = Self { model: "large-input", shape: &[1, 3, 640, 640], ..tiny };
        let five =
            Self { model: "mobile5ms", shape: &[1, 3, 224, 224], span: Duration::from_secs(2), ..tiny };
        vec![
            Self { ..tiny },
            Self { key: "tiny4", name: "tiny model, 4 clients, gRPC", clients: 4, ..tiny },
            Self { key: "http", name: "tiny model, 1 client, HTTP binary", way: Way::Http, ..tiny },
            Self { key: "json", name: "tiny model, 1 client, HTTP JSON", way: Way::Json, ..tiny },
            Self { key: "5ms1", name: "5 ms model, 1 client, gRPC", ..five },
            Self { key: "5ms4", name: "5 ms model, 4 clients, gRPC", clients: 4, ..five },
            Self { key: "large", name: "4.9 MB input, 1 client, gRPC", ..large },
            Self { key: "shm", name: "4.9 MB input, 1 client, shared memory", way: Way::Shared, ..large },
        ]
    }

    pub(crate) fn shape(&self) -> &'static [i64] {
        self.shape
    }

    /// Some numbers as the input.
    pub(crate) fn input(&self) -> Bytes {
        let count = usize::try_from(self.shape.iter().product::<i64>()).unwrap();
        let values: Vec<f32> =
            (0..count).map(|n| f32::from(u8::try_from(n % 251).unwrap()) / 251.0).collect();
        Bytes::copy_from_slice(bytemuck::cast_slice(&values))
    }

    fn grpc(&self) -> ModelInferRequest {
        let input = InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: self.shape.to_vec(),
            ..InferInputTensor::default()
        };
        ModelInferRequest {
            model_name: self.model.into(),
            inputs: vec![input],
            raw_input_contents: vec![self.input()],
            ..ModelInferRequest::default()
        }
    }
}

/// What one round measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) per_second: f64,
    /// Of the server.
    pub(crate) cpu_us: f64,
}

impl Figures {
    /// `cpu` is filled in by who knows the server.
    pub(crate) fn of(mut latencies: Vec<Duration>, span: Duration, cpu: Duration) -> Self {
        latencies.sort_unstable();
        let count = u32::try_from(latencies.len()).unwrap();
        let at = |share: usize| latencies[latencies.len() * share / 100].as_secs_f64() * 1e6;
        Self {
            p50_us: at(50),
            p99_us: at(99),
            per_second: f64::from(count) / span.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / f64::from(count),
        }
    }
}

/// Calls `once` in a loop until the load's time is over.
macro_rules! closed_loop {
    ($span:expr, $once:expr) => {{
        let clock = MonotonicClock::start();
        let mut latencies = Vec::with_capacity(1 << 16);
        let mut before = clock.now();
        while before.0 < $span {
            $once;
            let after = clock.now();
            latencies.push(Duration::from(after.since(before)));
            before = after;
        }
        latencies
    }};
}
pub(crate) use closed_loop;

/// Runs the load's clients against a server; their latencies and the time it took.
pub(crate) async fn run(load: &Load, address: &Address) -> (Vec<Duration>, Duration) {
    let span = u64::try_from(load.span.as_nanos()).unwrap();
    let clock = MonotonicClock::start();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..load.clients {
        match load.way {
            Way::Grpc => {
                let (mut grpc, request) = (connect(address).await, load.grpc());
                clients.spawn(async move {
                    closed_loop!(span, drop(grpc.model_infer(request.clone()).await.unwrap()))
                });
            }
            Way::Shared => {
                let (mut grpc, region) = (connect(address).await, Region::new(number, &load.input()));
                let request = region.register(&mut grpc, load.grpc()).await;
                clients.spawn(async move {
                    let latencies =
                        closed_loop!(span, drop(grpc.model_infer(request.clone()).await.unwrap()));
                    region.unregister(&mut grpc).await;
                    latencies
                });
            }
            Way::Http | Way::Json => {
                let (mut sender, request) = (http(address).await, http_request(load));
                clients.spawn(async move {
                    closed_loop!(span, {
                        let response = sender.send_request(request()).await.unwrap();
                        assert!(response.status().is_success());
                        response.into_body().collect().await.unwrap();
                    })
                });
            }
        }
    }
    let latencies = clients.join_all().await.into_iter().flatten().collect();
    (latencies, Duration::from_nanos(clock.now().0))
}

async fn connect(address: &Address) -> GrpcInferenceServiceClient<Channel> {
    match address {
        Address::Unix(path) => client::connect(path).await.unwrap(),
        Address::Tcp(address) => {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().tcp_nodelay(true);
            GrpcInferenceServiceClient::new(endpoint.connect().await.unwrap())
        }
    }
}

async fn http(address: &Address) -> http1::SendRequest<Full<Bytes>> {
    match address {
        Address::Unix(path) => {
            // The bare server has another socket for it.
            let own = path.with_extension("http");
            let path = if own.exists() { &own } else { path };
            handshake(UnixStream::connect(path).await.unwrap()).await
        }
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            handshake(stream).await
        }
    }
}

async fn handshake<S>(stream: S) -> http1::SendRequest<Full<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn http_request(load: &Load) -> impl Fn() -> Request<Full<Bytes>> + Send + use<> {
    let (input, binary) = (load.input(), load.way == Way::Http);
    let mut head = serde_json::json!({
        "inputs": [{ "name": "x", "datatype": "FP32", "shape": load.shape }],
        "outputs": [{ "name": "y", "parameters": { "binary_data": binary } }]
    });
    if binary {
        head["inputs"][0]["parameters"] = serde_json::json!({ "binary_data_size": input.len() });
    } else {
        head["inputs"][0]["data"] = serde_json::json!(bytemuck::pod_collect_to_vec::<u8, f32>(&input));
    }
    let head = head.to_string();
    let length = head.len();
    let body = Bytes::from([head.as_bytes(), if binary { &input } else { &[] }].concat());
    let path = format!("/v2/models/{}/infer", load.model);
    move || {
        let request = Request::post(path.as_str()).header("host", "localhost");
        let request = request
            .header("content-type", if binary { "application/octet-stream" } else { "application/json" });
        let request =
            if binary { request.header("inference-header-content-length", length) } else { request };
        request.body(Full::new(body.clone())).unwrap()
    }
}

/// A shared memory region with a tensor in it.
struct Region {
    name: String,
    file: PathBuf,
    size: usize,
}

impl Region {
    fn new(number: usize, input: &[u8]) -> Self {
        let name = format!("wattd-bench-{}-{number}", std::process::id());
        let file = Path::new("/dev/shm").join(&name);
        std::fs::write(&file, input).unwrap();
        Self { name, file, size: input.len() }
    }

    /// Registers it, and puts a reference to it in the place of the request's input.
    async fn register(
        &self,
        grpc: &mut GrpcInferenceServiceClient<Channel>,
        mut request: ModelInferRequest,
    ) -> ModelInferRequest {
        let (size, key) = (self.size as u64, format!("/{}", self.name));
        let region =
            SystemSharedMemoryRegisterRequest { name: self.name.clone(), key, offset: 0, byte_size: size };
        grpc.system_shared_memory_register(region).await.unwrap();
        request.raw_input_contents.clear();
        let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
        let size = parameter(ParameterChoice::Int64Param(i64::try_from(self.size).unwrap()));
        let region = parameter(ParameterChoice::StringParam(self.name.clone()));
        request.inputs[0].parameters.insert("shared_memory_region".into(), region);
        request.inputs[0].parameters.insert("shared_memory_byte_size".into(), size);
        request
    }

    /// Some servers know a region beyond the connection that registered it.
    async fn unregister(self, grpc: &mut GrpcInferenceServiceClient<Channel>) {
        let region = SystemSharedMemoryUnregisterRequest { name: self.name.clone() };
        grpc.system_shared_memory_unregister(region).await.unwrap();
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
