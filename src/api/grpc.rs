//! The Open Inference Protocol over gRPC.
//!
//! The calls are dispatched here rather than by a generated server: a unary call then costs one decoded
//! message, one encoded message and no boxes in between, and the bytes of a message are charged to its
//! app before they are received. Framing is in [`super::body`]; messages are generated from the protocol.

use super::body::{ApiBody, Messages, Outgoing, encode};
use super::contents;
use super::infer::{Ask, infer};
use super::params::{Collector, Value, grpc_timeout};
use super::proto::infer_parameter::ParameterChoice;
use super::proto::{self, InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use super::request::{Payload, Reference, WireInput, WireOutput};
use super::service;
use super::status::ApiError;
use super::traffic::{Charge, Connection};
use super::wire;
use crate::units::Nanos;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

const SERVICE: &str = "/inference.GRPCInferenceService/";

/// Answers one call.
pub(super) async fn serve(connection: &Arc<Connection>, request: Request<Incoming>) -> Response<ApiBody> {
    let charge = Charge::new(connection);
    match call(&charge, request).await {
        Ok(body) => {
            let mut response = Response::new(body);
            let content_type = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
            response
        }
        Err(error) => error.to_grpc().into_http::<()>().map(|()| ApiBody::empty()),
    }
}

async fn call(charge: &Arc<Charge>, request: Request<Incoming>) -> Result<ApiBody, ApiError> {
    let (head, body) = request.into_parts();
    let timeout = timeout(&head.headers)?;
    let mut messages = Messages::new(body);
    let path = head.uri.path();
    let Some(method) = path.strip_prefix(SERVICE) else {
        return Err(ApiError::unimplemented(format!(
            "there is no gRPC service at {:?}",
            super::params::clip(path)
        )));
    };
    if method == "ModelStreamInfer" {
        return Ok(stream_infer(charge, messages, timeout));
    }
    let message = messages.only(charge).await?;
    if method == "ModelInfer" {
        let (id, ask) = ask_of(decode(message)?, timeout)?;
        let done = infer(charge, ask).await?;
        return Ok(ApiBody::message(wire::infer_response(&id, &done)?, charge));
    }
    Ok(ApiBody::message(control(&charge.connection, method, message).await?, charge))
}

fn timeout(headers: &HeaderMap) -> Result<Option<Nanos>, ApiError> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(grpc_timeout);
    parsed.map(Some).ok_or_else(|| {
        ApiError::invalid("header grpc-timeout is not up to 8 digits and a unit (H, M, S, m, u, n)")
    })
}

fn decode<T: prost::Message + Default>(message: Bytes) -> Result<T, ApiError> {
    T::decode(message).map_err(|error| ApiError::invalid(format!("the message cannot be decoded: {error}")))
}

/// Every call but the inferences.
async fn control(connection: &Arc<Connection>, method: &str, message: Bytes) -> Result<Bytes, ApiError> {
    let backend = connection.backend();
    match method {
        "ServerLive" => encode(&proto::ServerLiveResponse { live: true }),
        "ServerReady" => encode(&proto::ServerReadyResponse { ready: backend.ready() }),
        "ServerMetadata" => encode(&service::server_metadata()),
        "ModelReady" => {
            let asked: proto::ModelReadyRequest = decode(message)?;
            encode(&proto::ModelReadyResponse {
                ready: service::model_ready(backend, &asked.name, &asked.version)?,
            })
        }
        "ModelMetadata" => {
            let asked: proto::ModelMetadataRequest = decode(message)?;
            encode(&service::model_metadata(backend, &asked.name, &asked.version)?)
        }
        "ModelConfig" => {
            let asked: proto::ModelConfigRequest = decode(message)?;
            let config = Some(service::model_config(backend, &asked.name, &asked.version)?);
            encode(&proto::ModelConfigResponse { config })
        }
        "ModelStatistics" => {
            let asked: proto::ModelStatisticsRequest = decode(message)?;
            encode(&service::statistics(backend, &asked.name, &asked.version)?)
        }
        "RepositoryIndex" => {
            let asked: proto::RepositoryIndexRequest = decode(message)?;
            encode(&service::index(backend, asked.ready))
        }
        "RepositoryModelLoad" => {
            let asked: proto::RepositoryModelLoadRequest = decode(message)?;
            service::retain(connection, &asked.model_name, true).await?;
            encode(&proto::RepositoryModelLoadResponse {})
        }
        "RepositoryModelUnload" => {
            let asked: proto::RepositoryModelUnloadRequest = decode(message)?;
            service::retain(connection, &asked.model_name, false).await?;
            encode(&proto::RepositoryModelUnloadResponse {})
        }
        _ => shared_memory(connection, method, message),
    }
}

/// The calls about shared memory, and those that are there but do nothing.
fn shared_memory(connection: &Connection, method: &str, message: Bytes) -> Result<Bytes, ApiError> {
    match method {
        "SystemSharedMemoryStatus" => {
            let asked: proto::SystemSharedMemoryStatusRequest = decode(message)?;
            encode(&service::region_status(connection, &asked.name)?)
        }
        "SystemSharedMemoryRegister" => {
            let asked: proto::SystemSharedMemoryRegisterRequest = decode(message)?;
            let proto::SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = &asked;
            connection.regions.register(&connection.peer, name, key, *offset, *byte_size)?;
            encode(&proto::SystemSharedMemoryRegisterResponse {})
        }
        "SystemSharedMemoryUnregister" => {
            let asked: proto::SystemSharedMemoryUnregisterRequest = decode(message)?;
            connection.regions.unregister(&asked.name);
            encode(&proto::SystemSharedMemoryUnregisterResponse {})
        }
        "CudaSharedMemoryStatus" => encode(&proto::CudaSharedMemoryStatusResponse::default()),
        "CudaSharedMemoryUnregister" => encode(&proto::CudaSharedMemoryUnregisterResponse {}),
        "CudaSharedMemoryRegister" => {
            Err(ApiError::unimplemented("device memory cannot be registered: use system shared memory"))
        }
        "TraceSetting" => Err(ApiError::unimplemented("there are no trace settings")),
        "LogSettings" => {
            Err(ApiError::unimplemented("log levels are set in the daemon's environment (RUST_LOG)"))
        }
        _ => Err(ApiError::unimplemented(format!("there is no method {:?}", super::params::clip(method)))),
    }
}

/// Inferences over one stream. Several are worked on at a time; the answers keep the order of the requests.
fn stream_infer(charge: &Arc<Charge>, messages: Messages, timeout: Option<Nanos>) -> ApiBody {
    let connection = Arc::clone(&charge.connection);
    let depth = connection.limits().stream_depth.max(1);
    let received = stream::unfold(Some(messages), move |messages| {
        let charge = Charge::new(&connection);
        async move {
            let mut messages = messages?;
            match messages.next(&charge).await {
                Ok(message) => message.map(|message| ((charge, Ok(message)), Some(messages))),
                // Where one message ends and the next begins is not known any more.
                Err(error) => Some(((charge, Err(error)), None)),
            }
        }
    });
    let answered = received.map(move |(charge, message)| async move {
        let answer = stream_answer(&charge, message, timeout).await;
        answer.ok().map(|message| Outgoing { message, charge })
    });
    ApiBody::stream(answered.buffered(depth).filter_map(std::future::ready).boxed(), charge)
}

/// The answer to one message of a stream: what went wrong is said in it, and the stream goes on.
async fn stream_answer(
    charge: &Charge,
    message: Result<Bytes, ApiError>,
    timeout: Option<Nanos>,
) -> Result<Bytes, ApiError> {
    let mut id = String::new();
    let outcome = async {
        let request: ModelInferRequest = decode(message?)?;
        id.clone_from(&request.id);
        let (id, ask) = ask_of(request, timeout)?;
        wire::stream_response(&id, &infer(charge, ask).await?)
    };
    let error = match outcome.await {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    let mut parameters = BTreeMap::new();
    parameters.insert("triton_final_response".to_owned(), parameter(ParameterChoice::BoolParam(true)));
    parameters
        .insert("wattd_reason".to_owned(), parameter(ParameterChoice::StringParam(error.reason.to_owned())));
    if let Some(span) = error.retry_after {
        let us = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        parameters.insert("retry_after_us".to_owned(), parameter(ParameterChoice::Int64Param(us)));
    }
    let infer_response = Some(ModelInferResponse { id, parameters, ..Default::default() });
    encode(&ModelStreamInferResponse { error_message: error.message, infer_response })
}

/// Takes a request apart. Returns its id as well.
fn ask_of(request: ModelInferRequest, timeout: Option<Nanos>) -> Result<(String, Ask), ApiError> {
    let mut parameters = Collector::default();
    for (key, given) in &request.parameters {
        parameters.take(key, &value(key, given)?)?;
    }
    if let Some(span) = timeout {
        parameters.deadline(span);
    }
    let mut raw = RawContents {
        any: !request.raw_input_contents.is_empty(),
        rest: request.raw_input_contents.into_iter(),
    };
    let inputs =
        request.inputs.into_iter().map(|input| input_of(input, &mut raw)).collect::<Result<Vec<_>, _>>()?;
    if raw.rest.next().is_some() {
        return Err(ApiError::invalid("more raw_input_contents than inputs that are not in shared memory"));
    }
    let outputs = request.outputs.into_iter().map(output_of).collect::<Result<Vec<_>, _>>()?;
    let ask = Ask { model: request.model_name, version: request.model_version, parameters, inputs, outputs };
    Ok((request.id, ask))
}

struct RawContents {
    any: bool,
    rest: std::vec::IntoIter<Bytes>,
}

fn input_of(
    input: proto::model_infer_request::InferInputTensor,
    raw: &mut RawContents,
) -> Result<WireInput, ApiError> {
    let mut shared = None;
    for (key, given) in &input.parameters {
        Reference::take(&mut shared, key, &value(key, given)?)?;
    }
    let name = super::params::clip(&input.name);
    let payload = match (shared, input.contents) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(format!("input {name:?}: both contents and shared memory")));
        }
        (Some(reference), None) => Payload::Shared(reference),
        (None, Some(_)) if raw.any => {
            return Err(ApiError::invalid(format!("input {name:?}: both contents and raw_input_contents")));
        }
        (None, Some(typed)) => Payload::Bytes(contents::to_bytes(name, &input.datatype, typed)?),
        (None, None) => Payload::Bytes(raw.rest.next().ok_or_else(|| {
            ApiError::invalid(format!("input {name:?}: no contents, no raw_input_contents, no shared memory"))
        })?),
    };
    Ok(WireInput { name: input.name, datatype: input.datatype, shape: input.shape.into(), payload })
}

fn output_of(output: proto::model_infer_request::InferRequestedOutputTensor) -> Result<WireOutput, ApiError> {
    let mut asked = WireOutput { name: output.name, ..WireOutput::default() };
    for (key, given) in &output.parameters {
        let given = value(key, given)?;
        if !Reference::take(&mut asked.shared, key, &given)? {
            service::refuse_classification(&asked.name, key, &given)?;
        }
    }
    Ok(asked)
}

fn value<'a>(key: &str, given: &'a InferParameter) -> Result<Value<'a>, ApiError> {
    match &given.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Ok(Value::Bool(*value)),
        Some(ParameterChoice::Int64Param(value)) => Ok(Value::Int(i128::from(*value))),
        Some(ParameterChoice::Uint64Param(value)) => Ok(Value::Int(i128::from(*value))),
        Some(ParameterChoice::DoubleParam(value)) => Ok(Value::Float(*value)),
        Some(ParameterChoice::StringParam(value)) => Ok(Value::Text(Cow::Borrowed(value))),
        None => Err(ApiError::parameter(format!("parameter {:?} has no value", super::params::clip(key)))),
    }
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}
