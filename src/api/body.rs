//! Bodies: requests are collected within their bounds, responses carry their charge until they have left.

use super::status::ApiError;
use super::traffic::Charge;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes before each gRPC message: a flag for compression and the length.
const PREFIX: usize = 5;
/// A frame of at least that many bytes keeps its charge while it waits in the transport's buffers.
const LARGE: usize = 16 * 1024;

/// Runs a transfer, but not for longer than `limit`. The timer is set only if the bytes are not there yet.
async fn within<T>(
    limit: Duration,
    transfer: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let slow = || {
        let message = format!("the request did not arrive within {limit:?}");
        ApiError::new(tonic::Code::DeadlineExceeded, "slow_client", message)
    };
    tokio::time::timeout(limit, transfer).await.map_err(|_| slow())?
}

fn broken(error: &hyper::Error) -> ApiError {
    ApiError::new(tonic::Code::Cancelled, "client_left", format!("the request broke off: {error}"))
}

fn too_large(bytes: u64, limit: usize) -> ApiError {
    let message = format!("a message of {bytes} bytes; the limit is {limit}");
    ApiError::new(tonic::Code::InvalidArgument, "too_large", message)
}

/// Collects the body of a REST request.
pub(super) async fn collect(body: Incoming, charge: &Charge) -> Result<Bytes, ApiError> {
    let (limit, receive) = (charge.connection.limits().message_bytes, charge.connection.limits().receive);
    charge.moves(true);
    let whole = within(receive, collect_frames(body, charge, limit)).await?;
    charge.moves(false);
    Ok(whole)
}

async fn collect_frames(mut body: Incoming, charge: &Charge, limit: usize) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(too_large(announced, limit));
    }
    charge.add(announced)?;
    let mut charged = announced;
    let mut only: Option<Bytes> = None;
    let mut several = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        let so_far = several.len() + only.as_ref().map_or(0, Bytes::len) + data.len();
        if so_far > limit {
            return Err(too_large(so_far as u64, limit));
        }
        if so_far as u64 > charged {
            charge.add(so_far as u64 - charged)?;
            charged = so_far as u64;
        }
        match only.take() {
            None if several.is_empty() => only = Some(data),
            first => {
                several.reserve(usize::try_from(announced).unwrap_or(0).saturating_sub(several.len()));
                several.extend_from_slice(&first.unwrap_or_default());
                several.extend_from_slice(&data);
            }
        }
    }
    Ok(only.unwrap_or_else(|| several.freeze()))
}

/// The messages of a gRPC request, one after the other.
pub(super) struct Messages {
    body: Incoming,
    /// What is left of the last frame.
    rest: Bytes,
}

impl Messages {
    pub(super) const fn new(body: Incoming) -> Self {
        Self { body, rest: Bytes::new() }
    }

    /// The next message, charged in full before it is received; `None` after the last. Waits without
    /// limit for a message to begin, but not for it to end.
    pub(super) async fn next(&mut self, charge: &Charge) -> Result<Option<Bytes>, ApiError> {
        if !self.more().await? {
            return Ok(None);
        }
        charge.moves(true);
        let receive = charge.connection.limits().receive;
        let message = within(receive, self.message(charge)).await?;
        charge.moves(false);
        Ok(Some(message))
    }

    /// The only message of a unary call.
    pub(super) async fn only(&mut self, charge: &Charge) -> Result<Bytes, ApiError> {
        charge.moves(true);
        let receive = charge.connection.limits().receive;
        let message = within(receive, async {
            let message = self.message(charge).await?;
            if self.more().await? {
                return Err(ApiError::invalid("more than one message in a unary call"));
            }
            Ok(message)
        });
        let message = message.await?;
        charge.moves(false);
        Ok(message)
    }

    /// Receives a frame if nothing is left of the last one; false at the end of the body.
    async fn more(&mut self) -> Result<bool, ApiError> {
        while self.rest.is_empty() {
            let Some(frame) = self.body.frame().await else { return Ok(false) };
            if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
                self.rest = data;
            }
        }
        Ok(true)
    }

    async fn message(&mut self, charge: &Charge) -> Result<Bytes, ApiError> {
        let limit = charge.connection.limits().message_bytes;
        let mut prefix = self.take(PREFIX).await?;
        let compressed = prefix.get_u8();
        let length = prefix.get_u32() as usize;
        if compressed != 0 {
            return Err(ApiError::unimplemented(
                "compressed messages are not supported: send with identity encoding",
            ));
        }
        if length > limit {
            return Err(too_large(length as u64, limit));
        }
        charge.add(length as u64)?;
        self.take(length).await
    }

    /// The next `bytes`: part of a frame if one frame has them all, otherwise put together as the frames
    /// come in, while each is still in the processor's cache.
    async fn take(&mut self, bytes: usize) -> Result<Bytes, ApiError> {
        let cut_short = || ApiError::invalid("the call ended inside a message");
        if bytes > 0 && !self.more().await? {
            return Err(cut_short());
        }
        if self.rest.len() >= bytes {
            return Ok(self.rest.split_to(bytes));
        }
        let mut whole = BytesMut::with_capacity(bytes);
        while whole.len() < bytes {
            if !self.more().await? {
                return Err(cut_short());
            }
            let part = self.rest.split_to(self.rest.len().min(bytes - whole.len()));
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }
}

/// A gRPC message with its prefix.
pub(super) fn encode(message: &impl prost::Message) -> Result<Bytes, ApiError> {
    let length = message.encoded_len();
    let Ok(announced) = u32::try_from(length) else {
        return Err(ApiError::new(tonic::Code::Internal, "too_large", "the response exceeds 4 GiB"));
    };
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.extend_from_slice(&[0]);
    buffer.extend_from_slice(&announced.to_be_bytes());
    // The buffer grows where it must, so encoding cannot fail.
    let _ = message.encode(&mut buffer);
    Ok(buffer.freeze())
}

/// The trailers of a call that went well.
fn all_well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(tonic::Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

enum Content {
    /// Nothing (more).
    Done,
    /// The body of a REST response.
    Plain(Bytes),
    /// The message of a unary gRPC response.
    Message(Bytes),
    /// Nothing more but the trailers.
    Trailers,
    /// The messages of a streaming gRPC response.
    Stream(BoxStream<'static, Outgoing>),
}

/// A message on its way out, and what it has in flight.
pub(super) struct Outgoing {
    pub(super) message: Bytes,
    pub(super) charge: Arc<Charge>,
}

/// The body of a response.
pub(super) struct ApiBody {
    content: Content,
    charge: Option<Arc<Charge>>,
}

impl ApiBody {
    /// Nothing.
    pub(super) const fn empty() -> Self {
        Self { content: Content::Done, charge: None }
    }

    /// Bytes of a REST response.
    pub(super) fn plain(bytes: Bytes, charge: &Arc<Charge>) -> Self {
        Self::sending(Content::Plain(bytes), charge)
    }

    /// The message of a unary gRPC response.
    pub(super) fn message(bytes: Bytes, charge: &Arc<Charge>) -> Self {
        Self::sending(Content::Message(bytes), charge)
    }

    /// The messages of a streaming gRPC response.
    pub(super) fn stream(messages: BoxStream<'static, Outgoing>, charge: &Arc<Charge>) -> Self {
        Self { content: Content::Stream(messages), charge: Some(Arc::clone(charge)) }
    }

    fn sending(content: Content, charge: &Arc<Charge>) -> Self {
        charge.moves(true);
        if let Content::Plain(bytes) | Content::Message(bytes) = &content {
            charge.owe(bytes.len() as u64);
        }
        Self { content, charge: Some(Arc::clone(charge)) }
    }
}

/// Bytes that keep their charge for as long as anyone holds them.
struct Charged {
    bytes: Bytes,
    _charge: Arc<Charge>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn keep(bytes: Bytes, charge: Option<Arc<Charge>>) -> Bytes {
    match charge {
        Some(charge) if bytes.len() >= LARGE => Bytes::from_owner(Charged { bytes, _charge: charge }),
        _ => bytes,
    }
}

impl Body for ApiBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let frame = match std::mem::replace(&mut this.content, Content::Done) {
            Content::Done => return Poll::Ready(None),
            Content::Plain(bytes) => Frame::data(keep(bytes, this.charge.take())),
            Content::Message(bytes) => {
                this.content = Content::Trailers;
                Frame::data(keep(bytes, this.charge.clone()))
            }
            Content::Trailers => Frame::trailers(all_well()),
            Content::Stream(mut messages) => match messages.as_mut().poll_next(cx) {
                Poll::Pending => {
                    this.content = Content::Stream(messages);
                    return Poll::Pending;
                }
                Poll::Ready(None) => Frame::trailers(all_well()),
                Poll::Ready(Some(Outgoing { message, charge })) => {
                    this.content = Content::Stream(messages);
                    charge.moves(true);
                    charge.owe(message.len() as u64);
                    Frame::data(keep(message, Some(charge)))
                }
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Done => SizeHint::with_exact(0),
            Content::Plain(bytes) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
