//! What clients have in motion: bytes in flight per app, calls and transfers per connection.

use super::backend::{Backend, Peer};
use super::options::Limits;
use super::shm::Regions;
use super::status::ApiError;
use crate::units::Nanos;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What all connections share.
pub(super) struct Shared {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) limits: Limits,
    pub(super) operator_gids: Vec<u32>,
    apps: Mutex<Apps>,
}

#[derive(Default)]
struct Apps {
    /// Connections in all.
    connections: usize,
    /// By app; there is an entry as long as it has a connection.
    by_app: HashMap<u32, App>,
}

struct App {
    connections: usize,
    bytes: Arc<AtomicU64>,
}

impl Shared {
    pub(super) fn new(backend: Arc<dyn Backend>, limits: Limits, operator_gids: Vec<u32>) -> Arc<Self> {
        Arc::new(Self { backend, limits, operator_gids, apps: Mutex::default() })
    }

    fn apps(&self) -> std::sync::MutexGuard<'_, Apps> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in; `None` if there are enough, in all or of that app.
    pub(super) fn admit(self: &Arc<Self>, peer: Peer, gid: Option<u32>) -> Option<Arc<Connection>> {
        let mut apps = self.apps();
        if apps.connections >= self.limits.connections {
            return None;
        }
        let app =
            apps.by_app.entry(peer.app.0).or_insert_with(|| App { connections: 0, bytes: Arc::default() });
        if app.connections >= self.limits.connections_per_uid {
            return None;
        }
        app.connections += 1;
        let app_bytes = Arc::clone(&app.bytes);
        apps.connections += 1;
        drop(apps);
        Some(Arc::new(Connection {
            regions: Regions::new(self.limits.regions),
            shared: Arc::clone(self),
            peer,
            gid,
            app_bytes,
            charges: AtomicUsize::new(0),
            moving: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
        }))
    }
}

/// One connection, and everything that belongs to it alone.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    /// Primary group of the peer.
    pub(super) gid: Option<u32>,
    pub(super) regions: Regions,
    app_bytes: Arc<AtomicU64>,
    /// Calls and messages that are not over.
    charges: AtomicUsize,
    /// How many of them are being received or sent.
    moving: AtomicUsize,
    /// Counts bytes read and written, to tell slow from stuck.
    progress: AtomicU64,
}

impl Connection {
    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.shared.backend
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Whether no call is going on.
    pub(super) fn is_idle(&self) -> bool {
        self.charges.load(Relaxed) == 0
    }

    /// Bytes moved so far, if some transfer is not done.
    pub(super) fn transfer(&self) -> Option<u64> {
        (self.moving.load(Relaxed) > 0).then(|| self.progress.load(Relaxed))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut apps = self.shared.apps();
        apps.connections -= 1;
        if let Some(app) = apps.by_app.get_mut(&self.peer.app.0) {
            app.connections -= 1;
            if app.connections == 0 {
                apps.by_app.remove(&self.peer.app.0);
            }
        }
    }
}

/// The bytes that one message has in flight, from its first byte until its answer has left.
pub(super) struct Charge {
    pub(super) connection: Arc<Connection>,
    bytes: AtomicU64,
    moving: AtomicBool,
}

impl Charge {
    /// A charge of nothing yet, at rest.
    pub(super) fn new(connection: &Arc<Connection>) -> Arc<Self> {
        connection.charges.fetch_add(1, Relaxed);
        Arc::new(Self {
            connection: Arc::clone(connection),
            bytes: AtomicU64::new(0),
            moving: AtomicBool::new(false),
        })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// If the app has too many in flight; they are not added then.
    pub(super) fn add(&self, bytes: u64) -> Result<(), ApiError> {
        let most = self.connection.limits().app_bytes;
        let add = |total: u64| total.checked_add(bytes).filter(|&total| total <= most);
        if self.connection.app_bytes.fetch_update(Relaxed, Relaxed, add).is_err() {
            let message = format!("this app would have more than the {most} bytes in flight that it may");
            let mut error = ApiError::new(tonic::Code::ResourceExhausted, "app_bytes", message);
            error.retry_after = Some(Nanos::from_millis(100));
            return Err(error);
        }
        self.bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Adds bytes that are there already, whether or not there is room: the next request will feel it.
    pub(super) fn owe(&self, bytes: u64) {
        self.connection.app_bytes.fetch_add(bytes, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Whether the client is expected to send or receive now.
    pub(super) fn moves(&self, moving: bool) {
        if self.moving.swap(moving, Relaxed) != moving {
            if moving {
                self.connection.moving.fetch_add(1, Relaxed);
            } else {
                self.connection.moving.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.moves(false);
        self.connection.app_bytes.fetch_sub(self.bytes.load(Relaxed), Relaxed);
        self.connection.charges.fetch_sub(1, Relaxed);
    }
}

/// A socket that counts what goes through it.
pub(super) struct Watched<T> {
    pub(super) io: T,
    pub(super) connection: Arc<Connection>,
}

impl<T> Watched<T> {
    fn count(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &result {
            self.connection.progress.fetch_add(*bytes as u64, Relaxed);
        }
        result
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.connection.progress.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
