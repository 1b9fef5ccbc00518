//! Accepts connections until told to stop.

use super::backend::{Backend, Peer};
use super::connection::{self, Io};
use super::listener::{Bound, ListenError, adopt_tcp, bind_all, bind_tcp, peer_of};
use super::options::{Limits, Options};
use super::rest::Scope;
use super::traffic::Shared;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Clients that are being turned away at a time; the rest is just hung up on.
const FAREWELLS: usize = 64;
/// Pause after the kernel refused to accept, as when descriptors have run out.
const BREATHER: Duration = Duration::from_millis(100);

/// Binds and serves until `shutdown` completes; then lets calls end for [`Limits::drain`].
///
/// # Errors
/// If binding fails (see [`bind_all`]).
pub async fn serve(
    mut options: Options,
    backend: Arc<dyn Backend>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ListenError> {
    let bound = bind_all(&mut options)?;
    serve_bound(bound, options, backend, shutdown).await;
    Ok(())
}

/// Serves sockets that are bound already: for daemons that report readiness in between.
pub async fn serve_bound(
    bound: Bound,
    options: Options,
    backend: Arc<dyn Backend>,
    shutdown: impl Future<Output = ()>,
) {
    let Bound { unix, tcp, _file } = bound;
    let shared = Shared::new(backend, options.limits, options.operator_gids);
    run(Server::new(shared, Scope::All), unix, tcp, shutdown).await;
}

/// Serves `GET /metrics`, and nothing else, on a socket of the service manager's (see
/// [`super::listener::inherited`]), or else on a loopback port.
///
/// # Errors
/// If the address is not loopback or cannot be bound.
pub async fn serve_metrics(
    inherited: Option<StdTcpListener>,
    address: SocketAddr,
    backend: Arc<dyn Backend>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ListenError> {
    let adopted = |source| ListenError::Io { what: "serving", place: "inherited socket".to_owned(), source };
    let tcp = match inherited {
        Some(socket) => adopt_tcp(socket).map_err(adopted)?,
        None => bind_tcp(address)?,
    };
    // Scrapers are few and want little.
    let limits =
        Limits { connections: 16, connections_per_uid: 16, message_bytes: 64 << 10, ..Limits::default() };
    let shared = Shared::new(backend, limits, Vec::new());
    run(Server::new(shared, Scope::MetricsOnly), None, Some(tcp), shutdown).await;
    Ok(())
}

struct Server {
    shared: Arc<Shared>,
    scope: Scope,
    stop: watch::Sender<bool>,
    connections: JoinSet<()>,
    farewells: Arc<Semaphore>,
}

impl Server {
    fn new(shared: Arc<Shared>, scope: Scope) -> Self {
        let farewells = Arc::new(Semaphore::new(FAREWELLS));
        Self { shared, scope, stop: watch::Sender::new(false), connections: JoinSet::new(), farewells }
    }

    /// Takes a client in, or turns it away.
    fn welcome(&mut self, io: impl Io, peer: Peer, gid: Option<u32>) {
        while self.connections.try_join_next().is_some() {}
        if let Some(connection) = self.shared.admit(peer, gid) {
            self.connections.spawn(connection::serve(io, connection, self.scope, self.stop.subscribe()));
        } else if let Ok(permit) = Arc::clone(&self.farewells).try_acquire_owned() {
            self.connections.spawn(async move {
                connection::turn_away(io).await;
                drop(permit);
            });
        }
    }
}

async fn run(
    mut server: Server,
    unix: Option<UnixListener>,
    tcp: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = shutdown.as_mut() => break,
            accepted = accept_unix(unix.as_ref()) => match accepted {
                Ok((stream, peer, gid)) => server.welcome(stream, peer, Some(gid)),
                Err(error) => pause(&error).await,
            },
            accepted = accept_tcp(tcp.as_ref()) => match accepted {
                Ok(stream) => server.welcome(stream, Peer { app: Peer::TCP, uid: None, pid: None }, None),
                Err(error) => pause(&error).await,
            },
        }
    }
    drop((unix, tcp));
    server.stop.send_replace(true);
    // Connections see to the time limit themselves; this one is for those that are stuck before a call.
    let limit = server.shared.limits.drain + BREATHER;
    let _ = timeout(limit, async { while server.connections.join_next().await.is_some() {} }).await;
    server.connections.shutdown().await;
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept connections for the moment");
    sleep(BREATHER).await;
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<(tokio::net::UnixStream, Peer, u32)> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (stream, _) = listener.accept().await?;
    let (peer, gid) = peer_of(&stream)?;
    Ok((stream, peer, gid))
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
