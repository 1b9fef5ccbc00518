//! The socket as clients see it: unmodified clients from other hands, and hostile ones of our own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "api/clients.rs"]
mod clients;
#[path = "double/mod.rs"]
mod double;
#[path = "api/hostile.rs"]
mod hostile;

use double::Double;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wattd::api::backend::Backend;
use wattd::api::{Limits, Options, bind_all, serve_bound};

/// Nothing here takes nearly as long; a test that waits that long has failed.
const FOREVER: Duration = Duration::from_secs(30);

/// A server on a socket of its own.
struct Server {
    socket: PathBuf,
    port: u16,
    double: Arc<Double>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("wattd.sock");
        let tcp = Some("127.0.0.1:0".parse().unwrap());
        let mut options = Options { socket: Some(socket.clone()), tcp, limits, ..Options::default() };
        let bound = bind_all(&mut options).unwrap();
        let port = bound.tcp_address().unwrap().port();
        let double = Double::new();
        let backend: Arc<dyn Backend> = double.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve_bound(bound, options, backend, async move {
            let _ = stopped.await;
        }));
        Self { socket, port, double, stop: Some(stop), task, _dir: dir }
    }

    async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(FOREVER, &mut self.task).await.expect("stops").unwrap();
        assert!(!self.socket.exists(), "the socket goes with the server");
    }
}
