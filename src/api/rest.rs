//! The Open Inference Protocol over HTTP, the metrics page, and the operator's endpoints.

use super::backend::Order;
use super::body::{ApiBody, collect};
use super::infer::infer;
use super::request::find_model;
use super::rest_infer as wire;
use super::service;
use super::status::ApiError;
use super::traffic::{Charge, Connection};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
/// Time that the disk has for what is not in the journal yet.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);
/// No path here has more segments.
const MOST_SEGMENTS: usize = 8;

/// What the connection's port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything.
    All,
    /// `GET /metrics` and nothing else.
    MetricsOnly,
}

/// An answer before it is turned into a response.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: HeaderValue,
    /// Length of the JSON before the binary data, if there is binary data.
    pub(super) json_length: Option<usize>,
    pub(super) body: Bytes,
}

impl Reply {
    fn json(value: &Json) -> Self {
        Self::with_status(StatusCode::OK, value)
    }

    fn with_status(status: StatusCode, value: &Json) -> Self {
        Self { status, content_type: JSON, json_length: None, body: value.to_string().into() }
    }

    /// Health: the answer is in the status as well as in the body.
    fn health(good: bool, value: &Json) -> Self {
        Self::with_status(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, value)
    }
}

/// Why there is no [`Reply`].
enum Failure {
    Api(ApiError),
    /// The path is there, but not for this method.
    Method(&'static str),
    /// The body is encoded.
    Encoded,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// Answers one request.
pub(super) async fn serve(
    connection: &Arc<Connection>,
    scope: Scope,
    request: Request<Incoming>,
) -> Response<ApiBody> {
    let charge = Charge::new(connection);
    match route(&charge, scope, request).await {
        Ok(reply) => {
            let mut response = Response::new(ApiBody::plain(reply.body, &charge));
            *response.status_mut() = reply.status;
            response.headers_mut().insert(CONTENT_TYPE, reply.content_type);
            if let Some(length) = reply.json_length {
                response.headers_mut().insert(wire::JSON_LENGTH, HeaderValue::from(length));
            }
            response
        }
        Err(failure) => refuse(&failure, &charge),
    }
}

fn refuse(failure: &Failure, charge: &Arc<Charge>) -> Response<ApiBody> {
    let (status, error, allow) = match failure {
        Failure::Api(error) => (error.http_status(), Cow::Borrowed(error), None),
        Failure::Method(allow) => {
            let error = ApiError::unimplemented(format!("this path takes {allow} only"));
            (StatusCode::METHOD_NOT_ALLOWED, Cow::Owned(error), Some(*allow))
        }
        Failure::Encoded => {
            let error =
                ApiError::unimplemented("encoded bodies are not supported: send with identity encoding");
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, Cow::Owned(error), None)
        }
    };
    let mut body = json!({ "error": error.message, "reason": error.reason });
    if let Some(span) = error.retry_after {
        body["retry_after_us"] = json!(span.as_micros());
    }
    if let Some(request) = error.request {
        body["request_id"] = json!(request);
    }
    let mut response = Response::new(ApiBody::plain(body.to_string().into(), charge));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    error.annotate(headers);
    headers.insert(CONTENT_TYPE, JSON);
    if let Some(allow) = allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(span) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(span.0.div_ceil(1_000_000_000)));
    }
    response
}

async fn route(charge: &Arc<Charge>, scope: Scope, request: Request<Incoming>) -> Result<Reply, Failure> {
    let (head, body) = request.into_parts();
    let unknown = || {
        let message = format!("there is nothing at {:?}", super::params::clip(head.uri.path()));
        Failure::Api(ApiError::not_found("unknown_path", message))
    };
    let path = head.uri.path().trim_matches('/');
    let decode = |segment| percent_decode_str(segment).decode_utf8().map_err(|_| unknown());
    let segments = path.split('/').take(MOST_SEGMENTS + 1).map(decode);
    let segments: SmallVec<[Cow<'_, str>; MOST_SEGMENTS]> = segments.collect::<Result<_, _>>()?;
    let segments: SmallVec<[&str; MOST_SEGMENTS]> = segments.iter().map(AsRef::as_ref).collect();
    if segments.as_slice() == ["metrics"] {
        only(&head, "GET")?;
        let body = charge.connection.backend().metrics().into();
        return Ok(Reply { status: StatusCode::OK, content_type: PROMETHEUS, json_length: None, body });
    }
    if scope == Scope::MetricsOnly {
        return Err(unknown());
    }
    match segments.as_slice() {
        ["v2", "models", model, rest @ ..] => {
            let (version, what) = match rest {
                ["versions", version, what @ ..] => (*version, what),
                what => ("", what),
            };
            of_model(charge, &head, body, model, version, what).await?.ok_or_else(unknown)
        }
        ["v2", rest @ ..] => of_server(charge, &head, body, rest).await?.ok_or_else(unknown),
        ["wattd", "v1", "status"] => {
            only(&head, "GET")?;
            Ok(Reply::json(&charge.connection.backend().status()))
        }
        ["wattd", "v1", "models"] => {
            only(&head, "GET")?;
            Ok(Reply::json(&charge.connection.backend().models_status()))
        }
        ["wattd", "v1", "journal"] => {
            only(&head, "GET")?;
            Ok(journal(charge).await)
        }
        ["wattd", "v1", "rollout"] => {
            only(&head, "GET")?;
            Ok(Reply::json(&charge.connection.backend().rollouts()))
        }
        ["wattd", "v1", "deploy"] => {
            only(&head, "POST")?;
            Ok(deploy(charge, body).await?)
        }
        ["wattd", "v1", "profile"] => {
            only(&head, "POST")?;
            Ok(profile(charge, body).await?)
        }
        _ => Err(unknown()),
    }
}

fn only(head: &Parts, method: &'static str) -> Result<(), Failure> {
    if head.method.as_str() == method { Ok(()) } else { Err(Failure::Method(method)) }
}

async fn of_model(
    charge: &Arc<Charge>,
    head: &Parts,
    body: Incoming,
    model: &str,
    version: &str,
    what: &[&str],
) -> Result<Option<Reply>, Failure> {
    let backend = charge.connection.backend();
    Ok(Some(match what {
        ["infer"] => {
            only(head, "POST")?;
            return Ok(Some(answer(charge, head, body, model, version).await?));
        }
        ["stats"] if model == "stats" && version.is_empty() => return Ok(None),
        [] => {
            only(head, "GET")?;
            wire::metadata(&service::model_metadata(backend, model, version)?)
        }
        ["ready"] => {
            only(head, "GET")?;
            let ready = service::model_ready(backend, model, version)?;
            return Ok(Some(Reply::health(ready, &json!({ "name": model, "ready": ready }))));
        }
        ["config"] => {
            only(head, "GET")?;
            wire::config(&service::model_config(backend, model, version)?)
        }
        ["stats"] => {
            only(head, "GET")?;
            wire::statistics(&service::statistics(backend, model, version)?)
        }
        _ => return Ok(None),
    })
    .map(|value| Reply::json(&value)))
}

async fn of_server(
    charge: &Arc<Charge>,
    head: &Parts,
    body: Incoming,
    what: &[&str],
) -> Result<Option<Reply>, Failure> {
    let connection = &charge.connection;
    let backend = connection.backend();
    let value = match what {
        [] => {
            only(head, "GET")?;
            let proto = service::server_metadata();
            json!({ "name": proto.name, "version": proto.version, "extensions": proto.extensions })
        }
        ["health", "live"] => {
            only(head, "GET")?;
            json!({ "live": true })
        }
        ["health", "ready"] => {
            only(head, "GET")?;
            let ready = backend.ready();
            return Ok(Some(Reply::health(ready, &json!({ "ready": ready }))));
        }
        ["repository", "index"] => {
            // POST by the protocol's extension, with an optional body; GET for people.
            if head.method != Method::GET {
                only(head, "POST")?;
            }
            let asked: IndexBody = parse(&collect(body, charge).await?)?;
            wire::index(&service::index(backend, asked.ready))
        }
        ["repository", "models", model, action @ ("load" | "unload")] => {
            only(head, "POST")?;
            service::retain(connection, model, *action == "load").await?;
            json!({})
        }
        ["systemsharedmemory", rest @ ..] => return shared_memory(charge, head, body, rest).await,
        ["cudasharedmemory", "status"] => {
            only(head, "GET")?;
            json!([])
        }
        ["cudasharedmemory", "unregister"] | ["cudasharedmemory", "region", _, "unregister"] => {
            only(head, "POST")?;
            json!({})
        }
        ["cudasharedmemory", ..] => {
            let message = "device memory cannot be registered: use system shared memory";
            return Err(ApiError::unimplemented(message).into());
        }
        ["trace", ..] | ["logging"] => {
            let message = "there are no trace settings, and log levels are set in the daemon's environment";
            return Err(ApiError::unimplemented(message).into());
        }
        _ => return Ok(None),
    };
    Ok(Some(Reply::json(&value)))
}

async fn shared_memory(
    charge: &Arc<Charge>,
    head: &Parts,
    body: Incoming,
    what: &[&str],
) -> Result<Option<Reply>, Failure> {
    let connection = &charge.connection;
    let value = match what {
        ["status"] => {
            only(head, "GET")?;
            wire::regions(&service::region_status(connection, "")?)
        }
        ["region", name, "status"] => {
            only(head, "GET")?;
            wire::regions(&service::region_status(connection, name)?)
        }
        ["region", name, "register"] => {
            only(head, "POST")?;
            let RegisterBody { key, offset, byte_size } = parse(&collect(body, charge).await?)?;
            connection.regions.register(&connection.peer, name, &key, offset, byte_size)?;
            json!({})
        }
        ["region", name, "unregister"] => {
            only(head, "POST")?;
            connection.regions.unregister(name);
            json!({})
        }
        ["unregister"] => {
            only(head, "POST")?;
            connection.regions.unregister("");
            json!({})
        }
        _ => return Ok(None),
    };
    Ok(Some(Reply::json(&value)))
}

#[derive(Deserialize, Default)]
struct IndexBody {
    #[serde(default)]
    ready: bool,
}

#[derive(Deserialize, Default)]
struct RegisterBody {
    #[serde(default)]
    key: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    byte_size: u64,
}

#[derive(Deserialize, Default)]
struct ProfileBody {
    /// All models if there is none.
    model: Option<String>,
    /// Only what has no profile yet.
    #[serde(default)]
    missing: bool,
}

/// One of both.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct DeployBody {
    folder: Option<PathBuf>,
    #[serde(default)]
    now: bool,
    rollback: Option<String>,
}

/// Reads a small JSON body; an empty one stands for the defaults.
fn parse<T: for<'de> Deserialize<'de> + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(format!("the body is not the JSON it should be: {error}")))
}

/// Says where events are recorded, once those so far are in the file or the disk has had its time.
async fn journal(charge: &Arc<Charge>) -> Reply {
    let Some(journal) = charge.connection.backend().journal() else {
        return Reply::json(&json!({ "path": null, "recording": false, "complete": true }));
    };
    let flushed = tokio::time::timeout(FLUSH_PATIENCE, journal.flushed).await;
    let complete = matches!(flushed, Ok(Ok(())));
    Reply::json(&json!({ "path": journal.path, "recording": journal.recording, "complete": complete }))
}

async fn profile(charge: &Arc<Charge>, body: Incoming) -> Result<Reply, ApiError> {
    service::operators_only(&charge.connection).await?;
    let asked: ProfileBody = parse(&collect(body, charge).await?)?;
    let backend = charge.connection.backend();
    let model = asked.model.map(|name| find_model(&backend.models(), &name, "")).transpose()?;
    backend.profile(model, !asked.missing);
    Ok(Reply::with_status(StatusCode::ACCEPTED, &json!({ "accepted": true })))
}

async fn deploy(charge: &Arc<Charge>, body: Incoming) -> Result<Reply, ApiError> {
    service::operators_only(&charge.connection).await?;
    let order = match parse(&collect(body, charge).await?)? {
        DeployBody { folder: Some(folder), now, rollback: None } => Order::Deploy { folder, now },
        DeployBody { folder: None, rollback: Some(model), .. } => Order::RollBack { model },
        _ => return Err(ApiError::invalid("either `folder` or `rollback` is needed")),
    };
    match charge.connection.backend().deploy(order).await {
        Ok(Ok(accepted)) => Ok(Reply::with_status(StatusCode::ACCEPTED, &json!(accepted))),
        Ok(Err(reason)) => Err(ApiError::new(Code::FailedPrecondition, "not_deployed", reason)),
        Err(_) => Err(ApiError::stopping()),
    }
}

async fn answer(
    charge: &Arc<Charge>,
    head: &Parts,
    body: Incoming,
    model: &str,
    version: &str,
) -> Result<Reply, Failure> {
    if head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Failure::Encoded);
    }
    let json_length = head.headers.get(wire::JSON_LENGTH).map(|value| {
        let length = value.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok());
        length.ok_or_else(|| {
            ApiError::invalid("header Inference-Header-Content-Length is not a number of bytes")
        })
    });
    let json_length = json_length.transpose()?;
    let body = collect(body, charge).await?;
    let models = charge.connection.backend().models();
    let view = &models[find_model(&models, model, version)?];
    let limit = charge.connection.limits().message_bytes;
    let (id, binary, ask) = wire::ask(view, &body, json_length, limit)?;
    let done = infer(charge, ask).await?;
    Ok(wire::reply(id.as_deref(), binary, &done)?)
}
