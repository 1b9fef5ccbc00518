//! What both protocols answer besides inferences.

use super::backend::{Backend, ModelView};
use super::params::Value;
use super::proto;
use super::request::{find_model, wire_dims, wire_shape};
use super::status::ApiError;
use super::traffic::Connection;
use crate::exec::{DataType, TensorSpec};
use nix::unistd::{Gid, Uid, User, getgrouplist};
use proto::model_metadata_response::TensorMetadata;
use proto::repository_index_response::ModelIndex;
use proto::system_shared_memory_status_response::RegionStatus;
use proto::{InferStatistics, ModelStatistics, ModelStatisticsResponse, StatisticDuration};
use std::ffi::CString;
use tonic::Code;

/// As clients know runtimes by.
const PLATFORM: &str = "onnxruntime_onnx";
const BACKEND: &str = "onnxruntime";
/// Extensions of the protocol, by the names that clients look for.
const EXTENSIONS: [&str; 7] = [
    "model_repository",
    "model_configuration",
    "schedule_policy",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
];

pub(super) fn server_metadata() -> proto::ServerMetadataResponse {
    proto::ServerMetadataResponse {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

pub(super) fn model_ready(backend: &dyn Backend, name: &str, version: &str) -> Result<bool, ApiError> {
    let models = backend.models();
    let index = find_model(&models, name, version)?;
    Ok(models[index].unavailable.is_none() && backend.ready() && backend.model_ready(index))
}

fn view_of(backend: &dyn Backend, name: &str, version: &str) -> Result<(usize, ModelView), ApiError> {
    let models = backend.models();
    let index = find_model(&models, name, version)?;
    Ok((index, models[index].clone()))
}

pub(super) fn model_metadata(
    backend: &dyn Backend,
    name: &str,
    version: &str,
) -> Result<proto::ModelMetadataResponse, ApiError> {
    let (_, view) = view_of(backend, name, version)?;
    let show = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.dtype.wire_name().to_owned(),
        shape: wire_shape(spec),
    };
    Ok(proto::ModelMetadataResponse {
        versions: vec![view.version],
        platform: PLATFORM.to_owned(),
        inputs: view.inputs.iter().map(show).collect(),
        outputs: view.outputs.iter().map(show).collect(),
        name: view.name,
    })
}

const fn config_type(dtype: DataType) -> proto::DataType {
    match dtype {
        DataType::Bool => proto::DataType::TypeBool,
        DataType::Uint8 => proto::DataType::TypeUint8,
        DataType::Uint16 => proto::DataType::TypeUint16,
        DataType::Uint32 => proto::DataType::TypeUint32,
        DataType::Uint64 => proto::DataType::TypeUint64,
        DataType::Int8 => proto::DataType::TypeInt8,
        DataType::Int16 => proto::DataType::TypeInt16,
        DataType::Int32 => proto::DataType::TypeInt32,
        DataType::Int64 => proto::DataType::TypeInt64,
        DataType::Fp16 => proto::DataType::TypeFp16,
        DataType::Fp32 => proto::DataType::TypeFp32,
        DataType::Fp64 => proto::DataType::TypeFp64,
    }
}

/// The configuration as load generators want it. A batch size above zero means: the shapes of the
/// metadata begin with a batch dimension that the `dims` here do not have.
pub(super) fn model_config(
    backend: &dyn Backend,
    name: &str,
    version: &str,
) -> Result<proto::ModelConfig, ApiError> {
    let (_, view) = view_of(backend, name, version)?;
    let parameter = |value: String| proto::ModelParameter { string_value: value };
    Ok(proto::ModelConfig {
        platform: PLATFORM.to_owned(),
        backend: BACKEND.to_owned(),
        max_batch_size: i32::try_from(view.max_batch).unwrap_or(i32::MAX),
        input: view.inputs.iter().map(config_input).collect(),
        output: view.outputs.iter().map(config_output).collect(),
        parameters: [("variants".to_owned(), parameter(view.variants.join(",")))].into(),
        model_transaction_policy: Some(proto::ModelTransactionPolicy { decoupled: false }),
        scheduling_choice: Some(proto::model_config::SchedulingChoice::DynamicBatching(Default::default())),
        name: view.name,
    })
}

fn config_input(spec: &TensorSpec) -> proto::ModelInput {
    let data_type = config_type(spec.dtype).into();
    proto::ModelInput { name: spec.name.clone(), data_type, dims: wire_dims(spec).collect() }
}

fn config_output(spec: &TensorSpec) -> proto::ModelOutput {
    let data_type = config_type(spec.dtype).into();
    proto::ModelOutput { name: spec.name.clone(), data_type, dims: wire_dims(spec).collect() }
}

/// Counters of one model, or of all if the name is empty.
pub(super) fn statistics(
    backend: &dyn Backend,
    name: &str,
    version: &str,
) -> Result<ModelStatisticsResponse, ApiError> {
    let models = backend.models();
    let asked = if name.is_empty() {
        0..models.len()
    } else {
        let index = find_model(&models, name, version)?;
        index..index + 1
    };
    let model_stats = asked.map(|index| model_statistics(backend, index, &models[index])).collect();
    Ok(ModelStatisticsResponse { model_stats })
}

fn model_statistics(backend: &dyn Backend, index: usize, view: &ModelView) -> ModelStatistics {
    let counters = backend.counters(index);
    let took = |count, ns| Some(StatisticDuration { count, ns });
    ModelStatistics {
        name: view.name.clone(),
        version: view.version.clone(),
        last_inference: counters.last_inference_ms,
        inference_count: counters.inferences,
        execution_count: counters.executions,
        // Load generators divide the three compute times by one count: it must be the same in all.
        inference_stats: Some(InferStatistics {
            success: took(counters.served, counters.success.0),
            fail: took(counters.failed, 0),
            queue: took(counters.served, counters.queue.0),
            compute_input: took(counters.served, 0),
            compute_infer: took(counters.served, counters.compute.0),
            compute_output: took(counters.served, 0),
            cache_hit: took(0, 0),
            cache_miss: took(0, 0),
        }),
    }
}

pub(super) fn index(backend: &dyn Backend, only_ready: bool) -> proto::RepositoryIndexResponse {
    let models = backend.models();
    let show = |(at, view): (usize, &ModelView)| {
        let ready = view.unavailable.is_none() && backend.model_ready(at);
        let reason =
            view.unavailable.clone().unwrap_or_else(|| if ready { String::new() } else { "unloaded".into() });
        let state = if ready { "READY" } else { "UNAVAILABLE" };
        ModelIndex { name: view.name.clone(), version: view.version.clone(), state: state.to_owned(), reason }
    };
    let shown = models.iter().enumerate().map(show);
    proto::RepositoryIndexResponse {
        models: shown.filter(|model| !only_ready || model.state == "READY").collect(),
    }
}

/// Asks for a model to be kept in memory, or let go. For operators: it concerns everybody.
pub(super) async fn retain(connection: &Connection, name: &str, resident: bool) -> Result<(), ApiError> {
    operators_only(connection).await?;
    let models = connection.backend().models();
    let index = find_model(&models, name, "")?;
    let retained = connection.backend().retain(index, resident);
    retained.map_err(|error| ApiError::new(Code::FailedPrecondition, "too_large", error.to_string()))
}

pub(super) fn region_status(
    connection: &Connection,
    name: &str,
) -> Result<proto::SystemSharedMemoryStatusResponse, ApiError> {
    let regions = connection.regions.status(name)?.into_iter().map(|region| {
        let status = RegionStatus {
            name: region.name.clone(),
            key: region.key,
            offset: region.offset,
            byte_size: region.size,
        };
        (region.name, status)
    });
    Ok(proto::SystemSharedMemoryStatusResponse { regions: regions.collect() })
}

/// An output parameter that would change what the output means must not be overlooked.
pub(super) fn refuse_classification(output: &str, key: &str, value: &Value<'_>) -> Result<(), ApiError> {
    match value {
        _ if key != "classification" => Ok(()),
        Value::Int(0) => Ok(()),
        _ => Err(ApiError::unimplemented(format!("output {output:?}: classification is not supported"))),
    }
}

/// Lets root, the daemon's own user and members of the operators' groups pass.
pub(super) async fn operators_only(connection: &Connection) -> Result<(), ApiError> {
    let refusal = || ApiError::operators_only(&connection.peer);
    let uid = Uid::from_raw(connection.peer.uid.ok_or_else(refusal)?);
    if uid.is_root() || uid == Uid::effective() {
        return Ok(());
    }
    let groups = connection.shared.operator_gids.clone();
    if connection.gid.is_some_and(|gid| groups.contains(&gid)) {
        return Ok(());
    }
    // The user database may be on the network.
    let member = tokio::task::spawn_blocking(move || is_member(uid, &groups)).await;
    if member.unwrap_or(false) { Ok(()) } else { Err(refusal()) }
}

fn is_member(uid: Uid, groups: &[u32]) -> bool {
    if groups.is_empty() {
        return false;
    }
    let Ok(Some(user)) = User::from_uid(uid) else { return false };
    let Ok(name) = CString::new(user.name) else { return false };
    let member = getgrouplist(&name, user.gid).unwrap_or_default();
    member.into_iter().map(Gid::as_raw).any(|gid| groups.contains(&gid))
}
