//! Inference over gRPC on the daemon's Unix socket, as a client of the Open Inference Protocol.

use crate::api::client;
use crate::api::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use crate::api::proto::infer_parameter::ParameterChoice;
use crate::api::proto::model_infer_request::InferInputTensor;
use crate::api::proto::{InferParameter, ModelInferRequest, ModelInferResponse};
use crate::core::catalog::Provenance;
use crate::ctl::ask::{self, AskError};
use crate::ctl::load::target::{Ask, NamedTensor, Reply, Target};
use crate::ctl::record::ServedLine;
use crate::ctl::status::Status;
use crate::exec::{DataType, Tensor};
use crate::units::Nanos;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::UnixStream;
use tonic::transport::Channel;

/// Largest answer.
const MESSAGE_LIMIT: usize = 256 << 20;
/// Trailer with the machine-readable reason of a refusal.
const REASON: &str = "wattd-reason";
/// Trailer with the time after which trying again may help, in microseconds.
const RETRY: &str = "retry-after-us";

/// Trailer with the daemon's id of the request.
const REQUEST: &str = "wattd-request-id";

/// Connections to the daemon.
#[derive(Debug)]
pub struct Rpc {
    socket: PathBuf,
    clients: Vec<GrpcInferenceServiceClient<Channel>>,
    turn: AtomicUsize,
}

impl Rpc {
    /// Opens `connections` connections, among which requests take turns.
    ///
    /// # Errors
    /// If nobody serves the socket.
    pub async fn connect(socket: &Path, connections: usize) -> Result<Self, AskError> {
        // The transport hides why it could not connect: this says it.
        let probe = UnixStream::connect(socket).await;
        drop(probe.map_err(|error| AskError::connect(socket.to_owned(), error))?);
        let mut clients = Vec::with_capacity(connections.max(1));
        for _ in 0..connections.max(1) {
            let client = client::connect(socket).await?;
            clients.push(client.max_decoding_message_size(MESSAGE_LIMIT));
        }
        Ok(Self { socket: socket.to_owned(), clients, turn: AtomicUsize::new(0) })
    }

    /// One inference, with all parameters of its answer in the order of their names.
    ///
    /// # Errors
    /// How it was turned away, or failed.
    pub async fn infer_in_full(&self, ask: Ask) -> Result<(Reply, Vec<(String, String)>), Reply> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        let response = self.clients[turn].clone().model_infer(request(ask)).await;
        let response = response.map_err(|status| refusal(&status))?.into_inner();
        let parameters =
            response.parameters.iter().map(|(name, value)| (name.clone(), word(value))).collect();
        let reply = answer(response).map_err(Reply::Failed)?;
        Ok((reply, parameters))
    }
}

impl Target for Rpc {
    async fn infer(&self, ask: Ask) -> Reply {
        self.infer_in_full(ask).await.map_or_else(|refused| refused, |(reply, _)| reply)
    }

    async fn status(&self) -> Result<Status, String> {
        ask::get(&self.socket, ask::STATUS).await.map_err(|error| error.to_string())
    }
}

fn request(ask: Ask) -> ModelInferRequest {
    let integer = |value: u64| ParameterChoice::Int64Param(i64::try_from(value).unwrap_or(i64::MAX));
    let choices = [
        ("deadline_us", ask.deadline.map(|deadline| integer(deadline.as_micros().max(1)))),
        ("min_accuracy_ppm", ask.min_accuracy.map(|accuracy| integer(accuracy.0.into()))),
        ("max_energy_uj", ask.max_energy_uj.map(integer)),
        ("variant", ask.variant.map(ParameterChoice::StringParam)),
        ("class", ask.class.map(ParameterChoice::StringParam)),
    ];
    let parameters = choices
        .into_iter()
        .filter_map(|(name, choice)| {
            Some((name.to_owned(), InferParameter { parameter_choice: Some(choice?) }))
        })
        .collect();
    let mut inputs = Vec::with_capacity(ask.inputs.len());
    let mut raw_input_contents = Vec::with_capacity(ask.inputs.len());
    for NamedTensor { name, tensor } in ask.inputs {
        inputs.push(InferInputTensor {
            name,
            datatype: tensor.dtype.wire_name().to_owned(),
            shape: tensor.shape.iter().map(|side| i64::try_from(*side).unwrap_or(i64::MAX)).collect(),
            parameters: BTreeMap::new(),
            contents: None,
        });
        raw_input_contents.push(tensor.data);
    }
    ModelInferRequest { model_name: ask.model, parameters, inputs, raw_input_contents, ..Default::default() }
}

/// Checks an answer as it would one of a stranger.
fn answer(response: ModelInferResponse) -> Result<Reply, String> {
    if response.outputs.len() != response.raw_output_contents.len() {
        let (tensors, raw) = (response.outputs.len(), response.raw_output_contents.len());
        return Err(format!("the answer describes {tensors} outputs and holds {raw}"));
    }
    let mut outputs = Vec::with_capacity(response.outputs.len());
    for (output, data) in response.outputs.into_iter().zip(response.raw_output_contents) {
        let dtype = DataType::from_wire_name(&output.datatype)
            .ok_or_else(|| format!("output {}: unknown type {:?}", output.name, output.datatype))?;
        let shape: Option<Vec<usize>> = output.shape.iter().map(|side| usize::try_from(*side).ok()).collect();
        let shape = shape.ok_or_else(|| format!("output {}: shape {:?}", output.name, output.shape))?;
        let bytes = shape.iter().try_fold(dtype.size(), |bytes, side| bytes.checked_mul(*side));
        if bytes != Some(data.len()) {
            return Err(format!("output {}: {} bytes for shape {shape:?}", output.name, data.len()));
        }
        outputs.push(NamedTensor { name: output.name, tensor: Tensor { dtype, shape, data } });
    }
    let request = match response.parameters.get("request_id").and_then(|id| id.parameter_choice.as_ref()) {
        Some(ParameterChoice::Int64Param(id)) => u64::try_from(*id).ok(),
        Some(ParameterChoice::Uint64Param(id)) => Some(*id),
        _ => None,
    };
    let request = request.and_then(NonZeroU64::new);
    Ok(Reply::Answer { outputs, served: served(&response.parameters), request })
}

fn served(parameters: &BTreeMap<String, InferParameter>) -> ServedLine {
    let choice = |name: &str| parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref());
    let text = |name: &str| match choice(name) {
        Some(ParameterChoice::StringParam(text)) => text.clone(),
        _ => String::new(),
    };
    let integer = |name: &str| match choice(name) {
        Some(ParameterChoice::Int64Param(value)) => u64::try_from(*value).unwrap_or(0),
        Some(ParameterChoice::Uint64Param(value)) => *value,
        _ => 0,
    };
    ServedLine {
        variant: text("variant"),
        unit: text("unit"),
        clock_khz: u32::try_from(integer("clock_khz")).unwrap_or(0),
        queue_us: integer("queue_us"),
        compute_us: integer("compute_us"),
        energy_uj: integer("energy_uj"),
        energy_source: match text("energy_source").as_str() {
            "measured" => Some(Provenance::Measured),
            "modelled" => Some(Provenance::Modelled),
            _ => None,
        },
        rescued: choice("rescued") == Some(&ParameterChoice::BoolParam(true)),
        scored: 0,
        correct: 0,
    }
}

/// A refusal with a reason of the daemon is a rejection; any other is a failure.
fn refusal(status: &tonic::Status) -> Reply {
    let trailer = |name: &str| status.metadata().get(name).and_then(|value| value.to_str().ok());
    let message = status.message().to_owned();
    match trailer(REASON) {
        Some(reason) => Reply::Rejected {
            reason: reason.to_owned(),
            message,
            retry_after: trailer(RETRY).and_then(|us| us.parse().ok()).map(Nanos::from_micros),
            request: trailer(REQUEST).and_then(|id| id.parse().ok()),
        },
        None => Reply::Failed(format!("{:?}: {message}", status.code())),
    }
}

fn word(parameter: &InferParameter) -> String {
    match &parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => value.to_string(),
        Some(ParameterChoice::Int64Param(value)) => value.to_string(),
        Some(ParameterChoice::Uint64Param(value)) => value.to_string(),
        Some(ParameterChoice::DoubleParam(value)) => value.to_string(),
        Some(ParameterChoice::StringParam(value)) => value.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
