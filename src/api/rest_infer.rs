//! JSON of the Open Inference Protocol, with the binary tensor data extension: elements may follow the
//! JSON as bytes, and a header says where the JSON ends.

use super::backend::ModelView;
use super::contents;
use super::infer::{Ask, Done, DoneOutput};
use super::params::{Collector, Value, clip, of_answer};
use super::proto;
use super::request::{Payload, Reference, WireInput, WireOutput};
use super::rest::Reply;
use super::service;
use super::status::ApiError;
use crate::exec::{DataType, TensorSpec};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};
use std::borrow::Cow;

/// Length of the JSON before the binary data.
pub(super) const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

#[derive(Deserialize)]
struct RequestJson<'a> {
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Json>,
    #[serde(borrow)]
    inputs: Vec<InputJson<'a>>,
    #[serde(default)]
    outputs: Vec<OutputJson>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Map<String, Json>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    #[serde(default)]
    parameters: Map<String, Json>,
}

fn value<'a>(key: &str, json: &'a Json) -> Result<Value<'a>, ApiError> {
    match json {
        Json::Bool(value) => Ok(Value::Bool(*value)),
        Json::String(text) => Ok(Value::Text(Cow::Borrowed(text))),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Ok(Value::Int(i128::from(value))),
            (None, Some(value), _) => Ok(Value::Int(i128::from(value))),
            (None, None, value) => Ok(Value::Float(value.unwrap_or(f64::NAN))),
        },
        Json::Null | Json::Array(_) | Json::Object(_) => {
            let message = format!("parameter {:?} is neither a number nor text, true or false", clip(key));
            Err(ApiError::parameter(message))
        }
    }
}

/// Takes a request apart. Returns its id and whether outputs are to be binary unless they say otherwise.
pub(super) fn ask(
    view: &ModelView,
    body: &Bytes,
    json_length: Option<usize>,
    limit: usize,
) -> Result<(Option<String>, bool, Ask), ApiError> {
    if json_length == Some(0) {
        return Ok((None, true, raw_ask(view, body)?));
    }
    let length = json_length.unwrap_or(body.len());
    let head = body.get(..length).ok_or_else(|| {
        let has = body.len();
        ApiError::invalid(format!(
            "header Inference-Header-Content-Length: {length}, but the body has {has} bytes"
        ))
    })?;
    let request: RequestJson<'_> = serde_json::from_slice(head)
        .map_err(|error| ApiError::invalid(format!("the body is not an inference request: {error}")))?;
    let mut parameters = Collector::default();
    for (key, given) in &request.parameters {
        parameters.take(key, &value(key, given)?)?;
    }
    let mut rest = body.slice(length..);
    let take = |input| input_of(input, &mut rest, limit);
    let inputs = request.inputs.into_iter().map(take).collect::<Result<Vec<_>, _>>()?;
    if !rest.is_empty() {
        return Err(ApiError::invalid(format!(
            "{} bytes of binary data that belong to no input",
            rest.len()
        )));
    }
    let outputs = request.outputs.into_iter().map(output_of).collect::<Result<Vec<_>, _>>()?;
    let binary = parameters.binary_outputs;
    let ask = Ask { model: view.name.clone(), version: String::new(), parameters, inputs, outputs };
    Ok((request.id, binary, ask))
}

/// The body is nothing but the elements of the only input: the batch follows from their number.
fn raw_ask(view: &ModelView, body: &Bytes) -> Result<Ask, ApiError> {
    let [spec] = view.inputs.as_ref() else {
        let message =
            format!("model {} has {} inputs: a raw body would be for one", view.name, view.inputs.len());
        return Err(ApiError::invalid(message));
    };
    let item: Option<usize> =
        spec.item_shape.iter().try_fold(spec.dtype.size(), |bytes, dim| bytes.checked_mul((*dim)?));
    let Some(item) = item.filter(|&item| item > 0) else {
        return Err(ApiError::invalid(format!(
            "input {:?} has free dimensions: a raw body says nothing of them",
            spec.name
        )));
    };
    let batch = i64::try_from(body.len() / item).unwrap_or(i64::MAX);
    let shape = std::iter::once(batch).chain(super::request::wire_dims(spec)).collect();
    let input = WireInput {
        name: spec.name.clone(),
        datatype: spec.dtype.wire_name().to_owned(),
        shape,
        payload: Payload::Bytes(body.clone()),
    };
    Ok(Ask {
        model: view.name.clone(),
        version: String::new(),
        parameters: Collector::default(),
        inputs: vec![input],
        outputs: Vec::new(),
    })
}

fn input_of(input: InputJson<'_>, rest: &mut Bytes, limit: usize) -> Result<WireInput, ApiError> {
    let name = clip(&input.name);
    let mut shared = None;
    let mut binary = None;
    for (key, given) in &input.parameters {
        let given = value(key, given)?;
        if key == "binary_data_size" {
            binary = Some(usize::try_from(given.size(key)?).unwrap_or(usize::MAX));
        } else {
            Reference::take(&mut shared, key, &given)?;
        }
    }
    let payload = match (shared, binary, input.data) {
        (Some(reference), None, None) => Payload::Shared(reference),
        (None, Some(size), None) if size <= rest.len() => Payload::Bytes(rest.split_to(size)),
        (None, Some(size), None) => {
            let left = rest.len();
            return Err(ApiError::invalid(format!(
                "input {name:?}: binary_data_size {size}, but {left} bytes are left"
            )));
        }
        (None, None, Some(data)) => {
            let Some(dtype) = DataType::from_wire_name(&input.datatype) else {
                let found = clip(&input.datatype);
                return Err(ApiError::invalid(format!(
                    "input {name:?}: datatype {found:?} is not one that models here take"
                )));
            };
            Payload::Bytes(contents::from_json(name, dtype, data.get(), limit)?)
        }
        (None, None, None) => {
            return Err(ApiError::invalid(format!(
                "input {name:?}: no data, no binary data, no shared memory"
            )));
        }
        _ => return Err(ApiError::invalid(format!("input {name:?}: data in more than one place"))),
    };
    Ok(WireInput { name: input.name, datatype: input.datatype, shape: input.shape.into(), payload })
}

fn output_of(output: OutputJson) -> Result<WireOutput, ApiError> {
    let mut asked = WireOutput { name: output.name, ..WireOutput::default() };
    for (key, given) in &output.parameters {
        let given = value(key, given)?;
        if key == "binary_data" {
            asked.binary = Some(given.flag(key)?);
        } else if !Reference::take(&mut asked.shared, key, &given)? {
            service::refuse_classification(&asked.name, key, &given)?;
        }
    }
    Ok(asked)
}

/// The response to an inference.
pub(super) fn reply(id: Option<&str>, binary: bool, done: &Done) -> Result<Reply, ApiError> {
    let view = done.view();
    let mut json = Vec::with_capacity(512);
    let mut head = json!({ "model_name": view.name, "model_version": view.version });
    if let Some(id) = id {
        head["id"] = json!(id);
    }
    let said = of_answer(&done.answer, &done.served);
    let parameters: Map<String, Json> =
        said.into_iter().map(|(key, value)| (key.to_owned(), to_json(&value))).collect();
    head["parameters"] = Json::Object(parameters);
    json.extend_from_slice(head.to_string().as_bytes());
    // The outputs go in by hand: their elements are written straight from the tensors.
    json.pop();
    json.extend_from_slice(b",\"outputs\":[");
    let mut tail: Vec<&Bytes> = Vec::new();
    for (at, output) in done.outputs.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        let spec = &view.outputs[output.asked.index];
        if write_output(spec, output, output.asked.binary.unwrap_or(binary), &mut json)? {
            tail.push(&output.data);
        }
    }
    json.extend_from_slice(b"]}");
    if tail.is_empty() {
        let content_type = HeaderValue::from_static("application/json");
        return Ok(Reply { status: StatusCode::OK, content_type, json_length: None, body: json.into() });
    }
    let json_length = Some(json.len());
    json.reserve_exact(tail.iter().map(|data| data.len()).sum());
    tail.into_iter().for_each(|data| json.extend_from_slice(data));
    let content_type = HeaderValue::from_static("application/octet-stream");
    Ok(Reply { status: StatusCode::OK, content_type, json_length, body: json.into() })
}

/// Writes one output; true if its elements are to follow as binary data.
fn write_output(
    spec: &TensorSpec,
    output: &DoneOutput,
    binary: bool,
    json: &mut Vec<u8>,
) -> Result<bool, ApiError> {
    let mut head = json!({ "name": spec.name, "datatype": output.dtype.wire_name(), "shape": output.shape });
    if let Some(Reference { region, offset, size }) = &output.asked.shared {
        head["parameters"] = json!({
            "shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": size,
        });
    } else if binary {
        head["parameters"] = json!({ "binary_data_size": output.data.len() });
    }
    json.extend_from_slice(head.to_string().as_bytes());
    if output.asked.shared.is_some() || binary {
        return Ok(output.asked.shared.is_none());
    }
    json.pop();
    json.extend_from_slice(b",\"data\":");
    contents::to_json(output.dtype, &output.data, json)?;
    json.push(b'}');
    Ok(false)
}

fn to_json(value: &Value<'_>) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::Int(value) => {
            i64::try_from(*value).map_or_else(|_| json!(u64::try_from(*value).ok()), |value| json!(value))
        }
        Value::Float(value) => json!(value),
        Value::Text(text) => json!(text),
    }
}

/// Metadata of a model.
pub(super) fn metadata(of: &proto::ModelMetadataResponse) -> Json {
    let tensors = |list: &[proto::model_metadata_response::TensorMetadata]| -> Vec<Json> {
        let show = |tensor: &proto::model_metadata_response::TensorMetadata| json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape });
        list.iter().map(show).collect()
    };
    json!({
        "name": of.name, "versions": of.versions, "platform": of.platform,
        "inputs": tensors(&of.inputs), "outputs": tensors(&of.outputs),
    })
}

/// Configuration of a model.
pub(super) fn config(of: &proto::ModelConfig) -> Json {
    let input = |it: &proto::ModelInput| json!({ "name": it.name, "data_type": it.data_type().as_str_name(), "dims": it.dims });
    let output = |it: &proto::ModelOutput| json!({ "name": it.name, "data_type": it.data_type().as_str_name(), "dims": it.dims });
    let parameter = |(key, value): (&String, &proto::ModelParameter)| {
        (key.clone(), json!({ "string_value": value.string_value }))
    };
    json!({
        "name": of.name, "platform": of.platform, "backend": of.backend, "max_batch_size": of.max_batch_size,
        "input": of.input.iter().map(input).collect::<Vec<_>>(),
        "output": of.output.iter().map(output).collect::<Vec<_>>(),
        "dynamic_batching": {},
        "parameters": of.parameters.iter().map(parameter).collect::<Map<_, _>>(),
        "model_transaction_policy": { "decoupled": false },
    })
}

/// Counters of models.
pub(super) fn statistics(of: &proto::ModelStatisticsResponse) -> Json {
    let took = |duration: &Option<proto::StatisticDuration>| {
        let duration = duration.unwrap_or_default();
        json!({ "count": duration.count, "ns": duration.ns })
    };
    let show = |model: &proto::ModelStatistics| {
        let stats = model.inference_stats.unwrap_or_default();
        json!({
            "name": model.name, "version": model.version, "last_inference": model.last_inference,
            "inference_count": model.inference_count, "execution_count": model.execution_count,
            "inference_stats": {
                "success": took(&stats.success), "fail": took(&stats.fail), "queue": took(&stats.queue),
                "compute_input": took(&stats.compute_input), "compute_infer": took(&stats.compute_infer),
                "compute_output": took(&stats.compute_output), "cache_hit": took(&stats.cache_hit),
                "cache_miss": took(&stats.cache_miss),
            },
            "batch_stats": [], "memory_usage": [],
        })
    };
    json!({ "model_stats": of.model_stats.iter().map(show).collect::<Vec<_>>() })
}

/// The models that there are.
pub(super) fn index(of: &proto::RepositoryIndexResponse) -> Json {
    let show = |model: &proto::repository_index_response::ModelIndex| json!({ "name": model.name, "version": model.version, "state": model.state, "reason": model.reason });
    of.models.iter().map(show).collect()
}

/// Shared memory regions of the connection.
pub(super) fn regions(of: &proto::SystemSharedMemoryStatusResponse) -> Json {
    let show = |region: &proto::system_shared_memory_status_response::RegionStatus| json!({ "name": region.name, "key": region.key, "offset": region.offset, "byte_size": region.byte_size });
    of.regions.values().map(show).collect()
}
