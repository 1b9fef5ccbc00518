//! A client of the daemon over its Unix socket, for `wattctl` and the tests.

use super::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Largest answer that is taken.
const LARGEST: usize = 64 << 20;
/// HTTP/2 flow control window: large outputs come in one go.
const WINDOW: u32 = 8 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon cannot be reached.
    #[error("{}: cannot connect: {source} (is the daemon running, and may you use its socket?)", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// The daemon cannot be reached by gRPC.
    #[error("{}: cannot connect: {source}", .path.display())]
    Channel {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: tonic::transport::Error,
    },
    /// The connection broke.
    #[error("{}: {message}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// It took too long.
    #[error("{}: no answer within {limit:?}", .path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The daemon refused.
    #[error("{status}: {message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its message.
        message: String,
    },
}

/// A gRPC channel over a Unix socket.
///
/// # Errors
/// If nobody listens there.
pub async fn channel(socket: &Path) -> Result<Channel, ClientError> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The connector knows where to go; the URI only gives the calls an authority.
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ClientError::Channel { path: socket.to_owned(), source })
}

/// A client of the inference service over a Unix socket.
///
/// # Errors
/// If nobody listens there.
pub async fn connect(socket: &Path) -> Result<GrpcInferenceServiceClient<Channel>, ClientError> {
    Ok(GrpcInferenceServiceClient::new(channel(socket).await?).max_decoding_message_size(LARGEST))
}

/// `GET` by HTTP over a Unix socket; returns the body.
///
/// # Errors
/// If nobody listens there, the answer takes longer than `limit`, or its status is not a success.
pub async fn get(socket: &Path, path: &str, limit: Duration) -> Result<Bytes, ClientError> {
    send(socket, Method::GET, path, Bytes::new(), limit).await
}

/// `POST` of JSON by HTTP over a Unix socket; returns the body.
///
/// # Errors
/// As [`get`].
pub async fn post(
    socket: &Path,
    path: &str,
    json: &serde_json::Value,
    limit: Duration,
) -> Result<Bytes, ClientError> {
    send(socket, Method::POST, path, json.to_string().into(), limit).await
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> Result<Bytes, ClientError> {
    let late = |_| ClientError::Timeout { path: socket.to_owned(), limit };
    tokio::time::timeout(limit, exchange(socket, method, path, body)).await.map_err(late)?
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
    let broken = |message: String| ClientError::Broken { path: socket.to_owned(), message };
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| ClientError::Connect { path: socket.to_owned(), source })?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(error.to_string()))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| broken(format!("{path:?} is not a path")))?;
    request.headers_mut().insert(http::header::HOST, HeaderValue::from_static("localhost"));
    let call = async {
        let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            Err(ClientError::Refused { status, message: message_of(&body) })
        }
    };
    let mut call = std::pin::pin!(call);
    tokio::select! {
        outcome = call.as_mut() => outcome,
        // The connection may be closed before the answer has been looked at.
        _ = connection => call.await,
    }
}

/// The message of an error body.
fn message_of(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| json["error"].as_str()).map(str::to_owned);
    message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned())
}
