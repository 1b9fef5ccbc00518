//! One inference from checked request to answer, the same for both protocols.

use super::backend::{Answer, ModelView, Peer, Submission};
use super::params::Collector;
use super::request::{
    CheckedInput, CheckedOutput, Payload, WireInput, WireOutput, check_inputs, check_outputs, find_model,
    no_room,
};
use super::shm::Place;
use super::status::ApiError;
use super::traffic::Charge;
use crate::core::event::{Outcome, Served};
use crate::exec::{DataType, Tensor};
use bytes::Bytes;
use smallvec::SmallVec;
use std::sync::Arc;

/// Copies to and from shared memory of more than this many bytes do not run on the server's own threads.
const LONG_COPY: usize = 256 * 1024;

/// What a client asks for.
pub(super) struct Ask {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) parameters: Collector,
    pub(super) inputs: Vec<WireInput>,
    pub(super) outputs: Vec<WireOutput>,
}

/// An output and where its elements are.
pub(super) struct DoneOutput {
    pub(super) asked: CheckedOutput,
    pub(super) dtype: DataType,
    pub(super) shape: Vec<usize>,
    /// Empty if they went into shared memory.
    pub(super) data: Bytes,
}

/// A served request.
pub(super) struct Done {
    models: Arc<Vec<ModelView>>,
    model: usize,
    pub(super) answer: Answer,
    pub(super) served: Served,
    pub(super) outputs: SmallVec<[DoneOutput; 4]>,
}

impl Done {
    #[cfg(test)]
    pub(super) fn new(
        models: Arc<Vec<ModelView>>,
        model: usize,
        answer: Answer,
        served: Served,
        outputs: SmallVec<[DoneOutput; 4]>,
    ) -> Self {
        Self { models, model, answer, served, outputs }
    }

    pub(super) fn view(&self) -> &ModelView {
        &self.models[self.model]
    }
}

/// Carries a request through. Dropping the future before its end cancels the request.
pub(super) async fn infer(charge: &Charge, ask: Ask) -> Result<Done, ApiError> {
    let connection = &charge.connection;
    let models = connection.backend().models();
    let model = find_model(&models, &ask.model, &ask.version)?;
    let view = &models[model];
    if let Some(why) = &view.unavailable {
        let message = format!("model {} cannot be served: {why}", view.name);
        return Err(ApiError::new(tonic::Code::Unavailable, "model_unavailable", message));
    }
    let (items, inputs) = check_inputs(view, ask.inputs, connection.limits().message_bytes)?;
    let outputs = check_outputs(view, items, ask.outputs)?;
    let wishes = ask.parameters.wishes(&view.name, &view.variants)?;
    let places = output_places(charge, view, &outputs)?;
    let inputs = fetch(charge, view, inputs).await?;

    let peer: Peer = connection.peer.clone();
    let submitted = connection.backend().submit(Submission { peer, model, items, inputs, wishes });
    let mut pending = submitted.map_err(|error| ApiError::parameter(error.to_string()))?;
    let mut answer = (&mut pending.answer).await.map_err(|_| ApiError::stopping())?;
    pending.guard.disarm();
    let served = match answer.outcome {
        Outcome::Served(served) => served,
        Outcome::Rejected { reason, retry_after } => {
            return Err(ApiError::rejected(reason, retry_after).of_request(answer.request));
        }
    };
    let tensors = std::mem::take(&mut answer.outputs);
    if tensors.len() != view.outputs.len() {
        let (found, wanted) = (tensors.len(), view.outputs.len());
        let message = format!("model {} gave {found} outputs instead of {wanted}", view.name);
        return Err(ApiError::new(tonic::Code::Internal, "execution_failed", message));
    }
    let outputs = deliver(view, outputs, places, tensors).await?;
    Ok(Done { models, model, answer, served, outputs })
}

type Places = SmallVec<[Option<Place>; 4]>;

fn output_places(charge: &Charge, view: &ModelView, outputs: &[CheckedOutput]) -> Result<Places, ApiError> {
    let place = |output: &CheckedOutput| {
        let name = &view.outputs[output.index].name;
        let resolve = |reference| charge.connection.regions.resolve(&format!("output {name:?}"), reference);
        output.shared.as_ref().map(resolve).transpose()
    };
    outputs.iter().map(place).collect()
}

/// Brings the inputs together: what is in shared memory is copied out of it.
async fn fetch(
    charge: &Charge,
    view: &ModelView,
    inputs: Vec<CheckedInput>,
) -> Result<Vec<Tensor>, ApiError> {
    let mut tensors = Vec::with_capacity(inputs.len());
    for (input, spec) in inputs.into_iter().zip(view.inputs.iter()) {
        let data = match input.payload {
            Payload::Bytes(data) => data,
            Payload::Shared(reference) => {
                let place =
                    charge.connection.regions.resolve(&format!("input {:?}", spec.name), &reference)?;
                charge.add(reference.size)?;
                // check_inputs compared the size with the shape, which fits a usize.
                let bytes = usize::try_from(reference.size).unwrap_or(0);
                if bytes > LONG_COPY { place.read_aside(bytes).await? } else { place.read(bytes)? }
            }
        };
        tensors.push(Tensor { dtype: input.dtype, shape: input.shape, data });
    }
    Ok(tensors)
}

/// Picks the outputs that are asked for, and writes those that belong into shared memory.
async fn deliver(
    view: &ModelView,
    asked: SmallVec<[CheckedOutput; 4]>,
    places: Places,
    mut tensors: Vec<Tensor>,
) -> Result<SmallVec<[DoneOutput; 4]>, ApiError> {
    let mut outputs = SmallVec::with_capacity(asked.len());
    for (asked, place) in asked.into_iter().zip(places) {
        let tensor = &mut tensors[asked.index];
        let (dtype, shape) = (tensor.dtype, std::mem::take(&mut tensor.shape));
        let mut data = std::mem::take(&mut tensor.data);
        if let (Some(place), Some(reference)) = (place, &asked.shared) {
            if data.len() as u64 > reference.size {
                return Err(no_room(&view.outputs[asked.index].name, data.len(), reference.size));
            }
            let whole = std::mem::take(&mut data);
            if whole.len() > LONG_COPY { place.write_aside(whole).await? } else { place.write(&whole)? }
        }
        outputs.push(DoneOutput { asked, dtype, shape, data });
    }
    Ok(outputs)
}
