//! Asking the daemon for documents, with errors that say what to do.

use crate::api::client::{self, ClientError};
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for the whole exchange.
const PATIENCE: Duration = Duration::from_secs(5);
/// Path of [`crate::ctl::status::Status`].
pub const STATUS: &str = "/wattd/v1/status";
/// Path of [`crate::ctl::status::Models`].
pub const MODELS: &str = "/wattd/v1/models";
/// Path of [`crate::ctl::explain::Place`].
pub const JOURNAL: &str = "/wattd/v1/journal";
/// Path of [`crate::ctl::rollout::Rollouts`].
pub const ROLLOUT: &str = "/wattd/v1/rollout";
/// Path that orders a version in or back.
pub const DEPLOY: &str = "/wattd/v1/deploy";
/// Path that orders profiling.
pub const PROFILE: &str = "/wattd/v1/profile";

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
    /// The exchange broke off, or was refused.
    #[error(transparent)]
    Client(ClientError),
    /// The answer is not the document.
    #[error("{} {path}: not the answer of this version of wattd: {error}", socket.display())]
    Document {
        /// The socket.
        socket: PathBuf,
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

impl AskError {
    /// The error of a socket that could not be connected to, with what to do about it.
    #[must_use]
    pub fn connect(socket: PathBuf, error: std::io::Error) -> Self {
        let hint = match error.kind() {
            ErrorKind::NotFound => "no such socket: is wattd running, and with this --socket?",
            ErrorKind::ConnectionRefused => "a socket that nobody serves: start wattd",
            ErrorKind::PermissionDenied => {
                "not allowed: join the group that the configuration gives the socket"
            }
            _ => "cannot be connected to",
        };
        Self::Connect { socket, hint, error }
    }
}

impl From<ClientError> for AskError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Connect { path, source } => Self::connect(path, source),
            other => Self::Client(other),
        }
    }
}

/// Asks for a JSON document.
///
/// # Errors
/// If nobody answers, or not with the document.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    let body = client::get(socket, path, PATIENCE).await?;
    read(socket, path, &body)
}

/// Sends a JSON document; the answer is another.
///
/// # Errors
/// If nobody answers, or with a refusal.
pub async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    document: &serde_json::Value,
) -> Result<T, AskError> {
    let body = client::post(socket, path, document, PATIENCE).await?;
    read(socket, path, &body)
}

fn read<T: DeserializeOwned>(socket: &Path, path: &str, body: &[u8]) -> Result<T, AskError> {
    serde_json::from_slice(body).map_err(|error| AskError::Document {
        socket: socket.to_owned(),
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::status::Status;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(answer: &'static str) -> Result<Status, AskError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /wattd/v1/status HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        get(&socket, STATUS).await
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
        assert_eq!(error.to_string(), "503 Service Unavailable: stopping");
        let error = ask("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\"\"").await.unwrap_err();
        assert!(error.to_string().contains("not the answer of this version"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_daemon_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("none");
        let error = get::<Status>(&socket, STATUS).await.unwrap_err().to_string();
        assert!(error.contains("none: no such socket: is wattd running"), "{error}");
    }
}
