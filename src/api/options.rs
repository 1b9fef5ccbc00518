//! What the listener may be told.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

/// Where to listen, for whom, and how much of it.
#[derive(Debug, Default)]
pub struct Options {
    /// Path of the Unix socket.
    pub socket: Option<PathBuf>,
    /// Permission bits of the socket; zero = 0660.
    pub mode: u32,
    /// Group of the socket, by name or number.
    pub group: Option<String>,
    /// A listening socket that the service manager passed (see [`super::listener::inherited`]): takes the
    /// place of `socket`.
    pub inherited: Option<UnixListener>,
    /// Loopback TCP for clients that know no Unix sockets.
    pub tcp: Option<SocketAddr>,
    /// Groups whose members may use the operator's endpoints, besides root and the daemon's own user.
    pub operator_gids: Vec<u32>,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds on what clients may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one uid (all TCP clients count as one).
    pub connections_per_uid: usize,
    /// Concurrent calls on one connection.
    pub streams: u32,
    /// Requests of one `ModelStreamInfer` call that are worked on at a time.
    pub stream_depth: usize,
    /// Bytes of one message, and of one tensor in shared memory.
    pub message_bytes: usize,
    /// Bytes of the headers of one request.
    pub header_bytes: u32,
    /// Bytes of requests and responses that one app may have in flight.
    pub app_bytes: u64,
    /// Shared memory regions of one connection.
    pub regions: usize,
    /// HTTP/2 flow control: bytes that a client may send ahead on one call.
    pub stream_window: u32,
    /// The same for all calls of a connection.
    pub connection_window: u32,
    /// HTTP/2: largest frame that clients may send. Few large frames cost less than many small ones.
    pub frame_bytes: u32,
    /// A new connection must say something within this time.
    pub greeting: Duration,
    /// A connection without calls is closed after this time.
    pub idle: Duration,
    /// A request must have arrived in full within this time after its headers.
    pub receive: Duration,
    /// A connection in the middle of a transfer that moves nothing for this time is closed.
    pub stall: Duration,
    /// Time that calls have to end when the daemon stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_uid: 128,
            streams: 256,
            stream_depth: 16,
            message_bytes: 64 << 20,
            header_bytes: 16 << 10,
            app_bytes: 256 << 20,
            regions: 64,
            stream_window: 4 << 20,
            connection_window: 8 << 20,
            frame_bytes: 1 << 20,
            greeting: Duration::from_secs(5),
            idle: Duration::from_secs(600),
            receive: Duration::from_secs(30),
            stall: Duration::from_secs(20),
            drain: Duration::from_secs(5),
        }
    }
}
