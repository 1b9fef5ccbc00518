//! One HTTP/1.1 request over the daemon's Unix socket: how status and models are asked for.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Time for the whole exchange.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const BODY_LIMIT: usize = 16 << 20;
/// Longest part of a refusal that is shown.
const WORDS_LIMIT: usize = 300;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers there.
    #[error("{}: {hint} ({error})", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What to do.
        hint: &'static str,
        /// The kernel's words.
        error: std::io::Error,
    },
    /// The exchange broke off.
    #[error("{} {path}: {message}", socket.display())]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// What was asked for.
        path: String,
        /// What went wrong.
        message: String,
    },
}

impl AskError {
    /// The error of a socket that could not be connected to, with what to do about it.
    #[must_use]
    pub fn connect(socket: &Path, error: std::io::Error) -> Self {
        let hint = match error.kind() {
            ErrorKind::NotFound => "no such socket: is wattd running, and with this --socket?",
            ErrorKind::ConnectionRefused => "a socket that nobody serves: start wattd",
            ErrorKind::PermissionDenied => {
                "not allowed: join the group that the configuration gives the socket"
            }
            _ => "cannot be connected to",
        };
        Self::Connect { socket: socket.to_owned(), hint, error }
    }
}

/// Asks for a JSON document.
///
/// # Errors
/// If nobody answers, or not with the document.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    let body = exchange(socket, Method::GET, path, Bytes::new()).await?;
    serde_json::from_slice(&body).map_err(|error| AskError::Exchange {
        socket: socket.to_owned(),
        path: path.to_owned(),
        message: format!("not the answer of this version of wattd: {error}"),
    })
}

/// Sends a JSON document; the answer's body is returned as it is.
///
/// # Errors
/// If nobody answers, or with a refusal.
pub async fn post(socket: &Path, path: &str, document: &serde_json::Value) -> Result<Bytes, AskError> {
    exchange(socket, Method::POST, path, Bytes::from(document.to_string())).await
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, AskError> {
    let fail =
        |message: String| AskError::Exchange { socket: socket.to_owned(), path: path.to_owned(), message };
    tokio::time::timeout(PATIENCE, attempt(socket, method, path, body))
        .await
        .unwrap_or_else(|_| Err(fail(format!("no answer within {} s", PATIENCE.as_secs()))))
}

async fn attempt(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, AskError> {
    let fail = |error: &dyn std::fmt::Display| AskError::Exchange {
        socket: socket.to_owned(),
        path: path.to_owned(),
        message: error.to_string(),
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| AskError::connect(socket, error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| fail(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|error| fail(&error))?;
    let response = sender.send_request(request).await.map_err(|error| fail(&error))?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(|error| fail(&error))?;
    driver.abort();
    let body = body.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let words: String = String::from_utf8_lossy(&body).chars().take(WORDS_LIMIT).collect();
    Err(fail(&format!("refused with {status}: {}", words.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn serve_once(socket: &Path, answer: &'static str) {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /wattd/v1/status HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
    }

    async fn ask(answer: &'static str) -> Result<crate::ctl::status::Status, AskError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        serve_once(&socket, answer).await;
        get(&socket, "/wattd/v1/status").await
    }

    #[tokio::test]
    async fn a_document_is_parsed() {
        let status = ask("HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"version\":\"1.2\"}").await.unwrap();
        assert_eq!(status.version, "1.2");
    }

    #[tokio::test]
    async fn refusals_and_nonsense_are_told_in_one_line() {
        let error =
            ask("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\nstopping").await.unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with("/wattd/v1/status: refused with 503 Service Unavailable: stopping"), "{text}");
        let error = ask("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("not the answer of this version"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_daemon_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("none");
        let error = get::<serde_json::Value>(&socket, "/").await.unwrap_err().to_string();
        assert!(error.contains("none: no such socket: is wattd running"), "{error}");
    }
}
