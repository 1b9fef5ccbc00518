//! One connection from its first byte to its last: which protocol it speaks, and when it has to go.

use super::authority::{LegalAuthority, PREFACE};
use super::body::ApiBody;
use super::grpc;
use super::options::Limits;
use super::rest::{self, Scope};
use super::traffic::{Connection, Watched};
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Enough to tell the protocols apart: no HTTP/1 method begins so.
const H2_START: &[u8] = b"PRI";
/// Longest time that an HTTP/1 connection may take for a request's head, the pause before it included.
const HEAD: Duration = Duration::from_secs(75);
/// Headers of one HTTP/1 request.
const MOST_HEADERS: usize = 64;
/// Time for a client that is turned away to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// A byte stream.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Serves a connection until it ends, the client deserves no more patience, or the daemon stops.
pub(super) async fn serve(
    io: impl Io,
    connection: Arc<Connection>,
    scope: Scope,
    stop: watch::Receiver<bool>,
) {
    let mut io = Watched { io, connection: Arc::clone(&connection) };
    let mut start = [0; PREFACE.len()];
    let greeting = connection.limits().greeting;
    let Ok(Some(length)) = timeout(greeting, greet(&mut io, &mut start)).await else { return };
    let start = &start[..length];
    let answer = Arc::clone(&connection);
    // The future is large, and hyper moves it several times: a box is cheaper.
    let service = service_fn(move |request| Box::pin(answer_one(Arc::clone(&answer), scope, request)));
    if start.starts_with(H2_START) {
        let io = TokioIo::new(LegalAuthority::new(io, start));
        let http2 = http2_settings(connection.limits()).serve_connection(io, service);
        drive(pin!(http2), |http2| http2.graceful_shutdown(), &connection, stop).await;
    } else {
        let io = TokioIo::new(LegalAuthority::transparent(io, start));
        let http1 = http1_settings(connection.limits()).serve_connection(io, service);
        drive(pin!(http1), |http1| http1.graceful_shutdown(), &connection, stop).await;
    }
}

/// Reads until the protocol is clear; `None` if the client left before.
async fn greet(io: &mut (impl AsyncRead + Unpin), start: &mut [u8; PREFACE.len()]) -> Option<usize> {
    let mut length = 0;
    while length < H2_START.len() && H2_START.starts_with(&start[..length]) {
        match io.read(&mut start[length..]).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => length += read,
        }
    }
    Some(length)
}

async fn answer_one(
    connection: Arc<Connection>,
    scope: Scope,
    request: Request<Incoming>,
) -> Result<Response<ApiBody>, Infallible> {
    let content_type = request.headers().get(CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"));
    Ok(if is_grpc && scope == Scope::All {
        grpc::serve(&connection, request).await
    } else {
        rest::serve(&connection, scope, request).await
    })
}

fn http2_settings(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame_bytes.clamp(1 << 14, (1 << 24) - 1))
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes);
    builder
}

fn http1_settings(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .header_read_timeout(HEAD.min(limits.idle))
        .max_headers(MOST_HEADERS)
        // hyper wants room for 8 KiB at least.
        .max_buf_size((limits.header_bytes as usize).max(8 << 10));
    builder
}

/// Polls a connection, and looks at it from time to time.
async fn drive<C: Future>(
    mut http: Pin<&mut C>,
    say_goodbye: impl Fn(Pin<&mut C>),
    connection: &Connection,
    mut stop: watch::Receiver<bool>,
) {
    let limits = connection.limits();
    let step = (limits.stall.min(limits.idle) / 4).max(Duration::from_millis(10));
    let mut ticks = interval(step);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut patience = Patience::new(limits);
    loop {
        tokio::select! {
            _ = http.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => break,
            _ = ticks.tick() => match patience.after(step, connection) {
                Verdict::Stay => {}
                Verdict::Leave => break,
                Verdict::Cut => {
                    tracing::info!(peer = ?connection.peer, "a client stalled in the middle of a transfer: closed");
                    return;
                }
            },
        }
    }
    say_goodbye(http.as_mut());
    let _ = timeout(limits.drain, http).await;
}

/// Whether a connection may go on.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    /// It was idle for too long: it is told so.
    Leave,
    /// It stalls: there is nothing to tell it.
    Cut,
}

/// For how long a connection has done nothing, and for how long nothing has moved in its transfers.
struct Patience {
    idle: Duration,
    stalled: Duration,
    moved: Option<u64>,
    most_idle: Duration,
    most_stalled: Duration,
}

impl Patience {
    fn new(limits: &Limits) -> Self {
        let nothing = Duration::ZERO;
        Self {
            idle: nothing,
            stalled: nothing,
            moved: None,
            most_idle: limits.idle,
            most_stalled: limits.stall,
        }
    }

    /// Takes note of another `step` of time.
    fn after(&mut self, step: Duration, connection: &Connection) -> Verdict {
        let moved = connection.transfer();
        self.idle = if connection.is_idle() { self.idle + step } else { Duration::ZERO };
        self.stalled =
            if moved.is_some() && moved == self.moved { self.stalled + step } else { Duration::ZERO };
        self.moved = moved;
        if self.stalled >= self.most_stalled {
            Verdict::Cut
        } else if self.idle >= self.most_idle {
            Verdict::Leave
        } else {
            Verdict::Stay
        }
    }
}

/// Tells a client that there are too many connections, in its own protocol.
pub(super) async fn turn_away(mut io: impl Io) {
    const BUSY: &str = "too many connections";
    let talk = async {
        let mut start = [0; PREFACE.len()];
        let length = greet(&mut io, &mut start).await?;
        let text = if start[..length].starts_with(H2_START) { go_away(BUSY) } else { too_many(BUSY) };
        io.write_all(&text).await.ok()?;
        io.shutdown().await.ok()?;
        // A socket that is closed with bytes unread takes what was written with it.
        let mut rest = [0; 1024];
        while io.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        Some(())
    };
    let _ = timeout(FAREWELL, talk).await;
}

/// An empty SETTINGS frame, and GOAWAY with ENHANCE_YOUR_CALM (RFC 9113, sections 6.5, 6.8 and 7).
fn go_away(why: &str) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const LAST_STREAM_AND_CODE: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 0xb];
    let length = u8::try_from(LAST_STREAM_AND_CODE.len() + why.len()).unwrap_or(u8::MAX);
    let mut frames = SETTINGS.to_vec();
    frames.extend_from_slice(&[0, 0, length, 7, 0, 0, 0, 0, 0]);
    frames.extend_from_slice(&LAST_STREAM_AND_CODE);
    frames.extend_from_slice(why.as_bytes());
    frames
}

fn too_many(why: &str) -> Vec<u8> {
    let body = format!("{{\"error\":\"{why}\",\"reason\":\"connection_limit\"}}");
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         wattd-reason: connection_limit\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
