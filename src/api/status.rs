//! Errors as clients see them: one gRPC code and one HTTP status each, a machine-readable reason, and
//! when to try again.

use super::backend::Peer;
use crate::core::event::Rejection;
use crate::units::Nanos;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tonic::Code;
use tonic::metadata::MetadataMap;

/// Trailer and header with the machine-readable reason.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("wattd-reason");
/// Trailer and header with the microseconds after which a new try may help.
pub const RETRY_HEADER: HeaderName = HeaderName::from_static("retry-after-us");
/// Trailer and header with the daemon's id of the request, where it had one.
pub const REQUEST_HEADER: HeaderName = HeaderName::from_static("wattd-request-id");
/// The trailer that gRPC clients with a retry policy obey by themselves, in milliseconds.
const PUSHBACK_HEADER: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Why a call failed, for both protocols.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The gRPC code; the HTTP status follows from it.
    pub code: Code,
    /// Machine-readable: a [`Rejection::name`] or one of the API's own.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When trying again may help; `None`: it will not, as things are.
    pub retry_after: Option<Nanos>,
    /// The daemon's id of the request, once it has one.
    pub request: Option<u64>,
}

impl ApiError {
    /// An error that will come again if the same request is sent again.
    pub(super) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None, request: None }
    }

    /// The request is not what the model or the protocol wants.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "invalid_request", message)
    }

    /// A parameter is not what it may be.
    pub(super) fn parameter(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "invalid_parameter", message)
    }

    /// There is no such thing.
    pub(super) fn not_found(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, reason, message)
    }

    /// The server has no such function.
    pub(super) fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, "unimplemented", message)
    }

    /// The daemon is stopping.
    pub(super) fn stopping() -> Self {
        Self::new(Code::Unavailable, Rejection::Draining.name(), "the daemon is stopping")
    }

    /// Only operators may do that.
    pub(super) fn operators_only(peer: &Peer) -> Self {
        let who = peer.uid.map_or_else(|| "a TCP client".to_owned(), |uid| format!("uid {uid}"));
        let message =
            format!("{who} may not do this: only root, the daemon's own user and operator groups may");
        Self::new(Code::PermissionDenied, "permission_denied", message)
    }

    /// A request that the core turned away.
    #[must_use]
    pub fn rejected(reason: Rejection, retry_after: Option<Nanos>) -> Self {
        let (code, message) = of_rejection(reason);
        let message = retry_after.map_or_else(
            || message.to_owned(),
            |span| format!("{message}; try again in {} ms", span.as_micros().div_ceil(1000)),
        );
        Self { code, reason: reason.name(), message, retry_after, request: None }
    }

    /// The same with the request's id.
    #[must_use]
    pub fn of_request(self, request: u64) -> Self {
        Self { request: Some(request), ..self }
    }

    /// The HTTP status with the same meaning.
    #[must_use]
    pub fn http_status(&self) -> StatusCode {
        match self.code {
            _ if self.reason == "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Reason, retry-after and the request's id as headers (HTTP) or trailers (gRPC).
    pub(super) fn annotate(&self, headers: &mut HeaderMap) {
        headers.insert(REASON_HEADER, HeaderValue::from_static(self.reason));
        if let Some(span) = self.retry_after {
            headers.insert(RETRY_HEADER, HeaderValue::from(span.as_micros()));
        }
        if let Some(request) = self.request {
            headers.insert(REQUEST_HEADER, HeaderValue::from(request));
        }
    }

    /// As the trailers of a gRPC call.
    #[must_use]
    pub fn to_grpc(&self) -> tonic::Status {
        let mut trailers = HeaderMap::new();
        self.annotate(&mut trailers);
        if let Some(span) = self.retry_after {
            trailers.insert(PUSHBACK_HEADER, HeaderValue::from(span.as_micros().div_ceil(1000)));
        }
        tonic::Status::with_metadata(self.code, self.message.clone(), MetadataMap::from_headers(trailers))
    }
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> Self {
        error.to_grpc()
    }
}

/// The gRPC code of each rejection, and the sentence that goes with it.
const fn of_rejection(reason: Rejection) -> (Code, &'static str) {
    match reason {
        Rejection::QueueFull => (Code::ResourceExhausted, "the queue is full"),
        Rejection::AppLimit => (Code::ResourceExhausted, "this app has too many requests in flight"),
        Rejection::DeadlineUnreachable => {
            (Code::DeadlineExceeded, "no configuration can meet the deadline with what is queued")
        }
        Rejection::DeadlinePassed => (Code::DeadlineExceeded, "the deadline passed"),
        Rejection::AccuracyUnreachable => (Code::FailedPrecondition, "no variant is accurate enough"),
        Rejection::EnergyUnreachable => (
            Code::FailedPrecondition,
            "every acceptable configuration costs more energy than the request allows",
        ),
        Rejection::EnergyExhausted => (Code::ResourceExhausted, "the energy budget is spent"),
        Rejection::PowerBudget => (Code::ResourceExhausted, "the power budget leaves no room"),
        Rejection::TooHot => (Code::Unavailable, "the board is too hot to take work"),
        Rejection::NotResident => (Code::Unavailable, "no variant that would do is loaded"),
        Rejection::NoCandidate => (Code::FailedPrecondition, "no variant that would do may run on any unit"),
        Rejection::ExecutionFailed => (Code::Internal, "the execution provider failed"),
        Rejection::Cancelled => (Code::Cancelled, "the request was cancelled"),
        Rejection::Draining => (Code::Unavailable, "the daemon is stopping"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rejection_has_a_code_a_status_and_a_sentence() {
        let table: Vec<String> = Rejection::ALL
            .into_iter()
            .map(|reason| {
                let error = ApiError::rejected(reason, None);
                let (code, status) = (error.code, error.http_status().as_u16());
                format!("{:<22} {code:?} {status}: {error}", error.reason)
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn retry_after_travels_in_both_units() {
        let status = ApiError::rejected(Rejection::TooHot, Some(Nanos::from_micros(1_500))).to_grpc();
        let text = |key: &str| status.metadata().get(key).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(text("wattd-reason").as_deref(), Some("too_hot"));
        assert_eq!(text("retry-after-us").as_deref(), Some("1500"));
        assert_eq!(text("grpc-retry-pushback-ms").as_deref(), Some("2"));
        assert_eq!(text("wattd-request-id"), None, "not every error is about a request that has one");
    }

    #[test]
    fn a_refusal_says_which_request_it_was() {
        let status = ApiError::rejected(Rejection::QueueFull, None).of_request(12).to_grpc();
        assert_eq!(status.metadata().get("wattd-request-id").unwrap().to_str().unwrap(), "12");
    }
}
