//! The floor: bare tonic and bare hyper on a Unix socket, inference inline, no scheduler, no checks.

use crate::support;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use ort::session::{RunOptions, Session};
use ort::value::TensorRef;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::net::UnixListener;
use wattd::api::proto::model_infer_response::InferOutputTensor;
use wattd::api::proto::{ModelInferRequest, ModelInferResponse};

/// A model through `ort` alone.
pub(crate) struct Bare {
    session: Session,
    options: RunOptions,
    scratch: Vec<f32>,
}

impl Bare {
    pub(crate) fn open(models: &Path, name: &str) -> Self {
        let environment = support::runtime().environment();
        let device = environment.devices().next().unwrap();
        let builder = Session::builder(environment).unwrap().with_intra_threads(1).unwrap();
        let file = models.join(name).join("fp32.onnx");
        let session = builder.with_devices([device], None).unwrap().commit_from_file(file).unwrap();
        Self { session, options: RunOptions::new().unwrap(), scratch: Vec::new() }
    }

    /// Runs on little-endian numbers; the outputs' bytes and the number of classes.
    pub(crate) fn run(&mut self, shape: &[i64], bytes: &[u8]) -> (Bytes, i64) {
        let values: &[f32] = match bytemuck::try_cast_slice(bytes) {
            Ok(values) => values,
            Err(_) => {
                self.scratch.resize(bytes.len() / 4, 0.0);
                bytemuck::cast_slice_mut(&mut self.scratch).copy_from_slice(bytes);
                &self.scratch
            }
        };
        let input = TensorRef::from_array_view((shape, values)).unwrap();
        let outputs = self.session.run_with_options(ort::inputs![input], &self.options).unwrap();
        let (shape, scores) = outputs[0].try_extract_tensor::<f32>().unwrap();
        (Bytes::copy_from_slice(bytemuck::cast_slice(scores)), shape[1])
    }
}

type Models = Arc<HashMap<&'static str, Mutex<Bare>>>;

/// Serves gRPC at `socket` and HTTP beside it, at `socket` with `.http` behind it.
pub(crate) fn serve(socket: &Path, folder: &Path) {
    let open = |name: &'static str| (name, Mutex::new(Bare::open(folder, name)));
    let models: Models = Arc::new(["mlp", "mobile5ms", "large-input"].map(open).into());
    // One more than wattd's API has: it runs the models as well.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let http = UnixListener::bind(socket.with_extension("http")).unwrap();
        tokio::spawn(serve_http(http, Arc::clone(&models)));
        let grpc = UnixListener::bind(socket).unwrap();
        let incoming = futures_util::stream::unfold(grpc, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let server = tonic::transport::Server::builder().add_service(Grpc(models));
        server.serve_with_incoming(incoming).await.unwrap();
    });
}

/// The unary call as tonic's generated code has it, with default settings and without any checks.
#[derive(Clone)]
struct Grpc(Models);

impl tonic::server::NamedService for Grpc {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, Infallible>> + Send>>;

impl tower::Service<Request<tonic::body::Body>> for Grpc {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async {
            let codec = tonic_prost::ProstCodec::<ModelInferResponse, ModelInferRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(64 << 20);
            Ok(grpc.unary(service, request).await)
        })
    }
}

impl tonic::server::UnaryService<ModelInferRequest> for Grpc {
    type Response = ModelInferResponse;
    type Future = std::future::Ready<Result<tonic::Response<ModelInferResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<ModelInferRequest>) -> Self::Future {
        let request = request.into_inner();
        let mut model = self.0[request.model_name.as_str()].lock().unwrap();
        let (scores, classes) = model.run(&request.inputs[0].shape, &request.raw_input_contents[0]);
        let output = InferOutputTensor {
            name: "y".into(),
            datatype: "FP32".into(),
            shape: vec![1, classes],
            ..InferOutputTensor::default()
        };
        std::future::ready(Ok(tonic::Response::new(ModelInferResponse {
            model_name: request.model_name,
            outputs: vec![output],
            raw_output_contents: vec![scores],
            ..ModelInferResponse::default()
        })))
    }
}

async fn serve_http(listener: UnixListener, models: Models) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let models = Arc::clone(&models);
        let answer = move |request: Request<hyper::body::Incoming>| {
            let models = Arc::clone(&models);
            async move {
                let head: usize =
                    request.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let asked: serde_json::Value = serde_json::from_slice(&body[..head]).unwrap();
                let shape: Vec<i64> = serde_json::from_value(asked["inputs"][0]["shape"].clone()).unwrap();
                let (scores, classes) = models["mlp"].lock().unwrap().run(&shape, &body[head..]);
                let size = scores.len();
                let mut answer = serde_json::json!({ "model_name": "mlp", "outputs": [{
                    "name": "y", "datatype": "FP32", "shape": [1, classes],
                    "parameters": { "binary_data_size": size }
                }]})
                .to_string()
                .into_bytes();
                let head = answer.len();
                answer.extend_from_slice(&scores);
                let response = Response::builder().header("inference-header-content-length", head);
                Ok::<_, Infallible>(response.body(Full::new(Bytes::from(answer))).unwrap())
            }
        };
        let service = hyper::service::service_fn(answer);
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}
