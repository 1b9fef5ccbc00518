//! Checks a request against the model it is for, before anything is read, copied or queued for it.

use super::backend::ModelView;
use super::params::{Value, clip};
use super::status::ApiError;
use crate::exec::{DataType, TensorSpec};
use bytes::Bytes;
use smallvec::SmallVec;
use std::sync::Arc;

/// Part of a shared memory region of the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reference {
    /// The region's name.
    pub(super) region: String,
    /// Where in the region, in bytes.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) size: u64,
}

impl Reference {
    /// Takes a parameter of a tensor if it is about shared memory. Returns whether it was.
    pub(super) fn take(slot: &mut Option<Self>, key: &str, value: &Value<'_>) -> Result<bool, ApiError> {
        match key {
            "shared_memory_region" => {
                value.text(key)?.clone_into(&mut slot.get_or_insert_default().region);
            }
            "shared_memory_offset" => slot.get_or_insert_default().offset = value.size(key)?,
            "shared_memory_byte_size" => slot.get_or_insert_default().size = value.size(key)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Where the elements of an input are.
#[derive(Debug)]
pub(super) enum Payload {
    /// Here, little-endian.
    Bytes(Bytes),
    /// In shared memory.
    Shared(Reference),
}

/// An input as it came.
#[derive(Debug)]
pub(super) struct WireInput {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: SmallVec<[i64; 6]>,
    pub(super) payload: Payload,
}

/// An output that is asked for.
#[derive(Debug, Default)]
pub(super) struct WireOutput {
    pub(super) name: String,
    /// Write it there instead of sending it.
    pub(super) shared: Option<Reference>,
    /// REST: as binary data rather than JSON; `None` = as the request says.
    pub(super) binary: Option<bool>,
}

/// An input that fits the model.
#[derive(Debug)]
pub(super) struct CheckedInput {
    pub(super) dtype: DataType,
    pub(super) shape: Vec<usize>,
    pub(super) payload: Payload,
}

/// An output that the model has.
#[derive(Debug)]
pub(super) struct CheckedOutput {
    /// Index in the model's outputs.
    pub(super) index: usize,
    pub(super) shared: Option<Reference>,
    pub(super) binary: Option<bool>,
}

/// Finds a model by name and version; an empty version leaves the choice to the server.
pub(super) fn find_model(models: &Arc<Vec<ModelView>>, name: &str, version: &str) -> Result<usize, ApiError> {
    let index = models.iter().position(|view| view.name == name).ok_or_else(|| {
        let known: Vec<&str> = models.iter().take(16).map(|view| view.name.as_str()).collect();
        let message = format!("there is no model {:?}; there are: {}", clip(name), known.join(", "));
        ApiError::not_found("unknown_model", message)
    })?;
    let has = &models[index].version;
    if !version.is_empty() && version != has {
        let message = format!("model {name} has no version {:?}, only {has:?}", clip(version));
        return Err(ApiError::not_found("unknown_version", message));
    }
    Ok(index)
}

/// Checks the inputs and brings them into the model's order. Returns the items along the batch dimension.
///
/// `limit` bounds the bytes of one tensor.
pub(super) fn check_inputs(
    view: &ModelView,
    inputs: Vec<WireInput>,
    limit: usize,
) -> Result<(u32, Vec<CheckedInput>), ApiError> {
    if inputs.len() != view.inputs.len() {
        return Err(wrong_count(view, &inputs));
    }
    let mut placed: SmallVec<[Option<CheckedInput>; 4]> = view.inputs.iter().map(|_| None).collect();
    let mut items: Option<u32> = None;
    for input in inputs {
        let Some(place) = view.inputs.iter().position(|spec| spec.name == input.name) else {
            let message = format!(
                "model {} has no input {:?}; it wants {}",
                view.name,
                clip(&input.name),
                names(&view.inputs)
            );
            return Err(ApiError::invalid(message));
        };
        if placed[place].is_some() {
            return Err(ApiError::invalid(format!("input {:?} is there twice", input.name)));
        }
        let (count, checked) = check_input(&view.inputs[place], view.max_batch, input, limit)?;
        if let Some(others) = items.filter(|&others| others != count) {
            let name = &view.inputs[place].name;
            return Err(ApiError::invalid(format!(
                "input {name:?}: {count} items along the batch dimension, but {others} in the inputs before it"
            )));
        }
        items = Some(count);
        placed[place] = Some(checked);
    }
    // As many inputs as places, none twice: every place is taken.
    Ok((items.unwrap_or(1), placed.into_iter().flatten().collect()))
}

fn wrong_count(view: &ModelView, inputs: &[WireInput]) -> ApiError {
    let (found, wanted) = (inputs.len(), view.inputs.len());
    let list = names(&view.inputs);
    ApiError::invalid(format!("{found} inputs, but model {} wants {wanted}: {list}", view.name))
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| format!("{:?}", spec.name)).collect::<Vec<_>>().join(", ")
}

fn check_input(
    spec: &TensorSpec,
    max_batch: u32,
    input: WireInput,
    limit: usize,
) -> Result<(u32, CheckedInput), ApiError> {
    let name = &spec.name;
    if input.datatype != spec.dtype.wire_name() {
        let (found, wanted) = (clip(&input.datatype), spec.dtype.wire_name());
        return Err(ApiError::invalid(format!(
            "input {name:?}: datatype {found:?}, but the model wants {wanted}"
        )));
    }
    let (items, shape) = check_shape(spec, max_batch, &input.shape)?;
    let wanted = byte_count(&shape, spec.dtype).filter(|&bytes| bytes <= limit).ok_or_else(|| {
        let shape = show(&input.shape);
        ApiError::invalid(format!(
            "input {name:?}: shape {shape} takes more than the {limit} bytes that one tensor may have"
        ))
    })?;
    let found = match &input.payload {
        Payload::Bytes(data) => data.len() as u64,
        Payload::Shared(reference) => reference.size,
    };
    if found != wanted as u64 {
        let (shape, dtype) = (show(&input.shape), spec.dtype.wire_name());
        return Err(ApiError::invalid(format!(
            "input {name:?}: {found} bytes, but {shape} of {dtype} takes {wanted}"
        )));
    }
    Ok((items, CheckedInput { dtype: spec.dtype, shape, payload: input.payload }))
}

fn check_shape(spec: &TensorSpec, max_batch: u32, shape: &[i64]) -> Result<(u32, Vec<usize>), ApiError> {
    let mismatch = || {
        let (found, wanted) = (show(shape), wire_shape(spec));
        ApiError::invalid(format!(
            "input {:?}: shape {found}, but the model wants {}",
            spec.name,
            show(&wanted)
        ))
    };
    let (&batch, item) = shape.split_first().ok_or_else(mismatch)?;
    if item.len() != spec.item_shape.len() {
        return Err(mismatch());
    }
    let items =
        u32::try_from(batch).ok().filter(|items| (1..=max_batch).contains(items)).ok_or_else(|| {
            ApiError::invalid(format!(
                "input {:?}: {batch} items along the batch dimension, but the model takes 1 to {max_batch}",
                spec.name
            ))
        })?;
    let mut sizes = Vec::with_capacity(shape.len());
    sizes.push(usize::try_from(items).map_err(|_| mismatch())?);
    for (&found, wanted) in item.iter().zip(&spec.item_shape) {
        let size = usize::try_from(found).ok().filter(|&size| size > 0).ok_or_else(mismatch)?;
        if wanted.is_some_and(|wanted| wanted != size) {
            return Err(mismatch());
        }
        sizes.push(size);
    }
    Ok((items, sizes))
}

/// Bytes of a tensor; `None` if that overflows.
pub(super) fn byte_count(shape: &[usize], dtype: DataType) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |bytes, &dim| bytes.checked_mul(dim))
}

/// A tensor's shape as the protocol shows it: -1 where any size goes.
pub(super) fn wire_shape(spec: &TensorSpec) -> Vec<i64> {
    std::iter::once(-1).chain(wire_dims(spec)).collect()
}

/// The same without the batch dimension.
pub(super) fn wire_dims(spec: &TensorSpec) -> impl Iterator<Item = i64> {
    spec.item_shape.iter().map(|dim| dim.and_then(|dim| i64::try_from(dim).ok()).unwrap_or(-1))
}

fn show(shape: &[i64]) -> String {
    let dims: Vec<String> = shape.iter().take(8).map(ToString::to_string).collect();
    let more = if shape.len() > 8 { ", ..." } else { "" };
    format!("[{}{more}]", dims.join(", "))
}

/// Checks the outputs that are asked for; none means all of them.
pub(super) fn check_outputs(
    view: &ModelView,
    items: u32,
    outputs: Vec<WireOutput>,
) -> Result<SmallVec<[CheckedOutput; 4]>, ApiError> {
    if outputs.is_empty() {
        let all = (0..view.outputs.len()).map(|index| CheckedOutput { index, shared: None, binary: None });
        return Ok(all.collect());
    }
    let mut checked: SmallVec<[CheckedOutput; 4]> = SmallVec::new();
    for output in outputs {
        let Some(index) = view.outputs.iter().position(|spec| spec.name == output.name) else {
            let (found, has) = (clip(&output.name), names(&view.outputs));
            return Err(ApiError::invalid(format!(
                "model {} has no output {found:?}; it has {has}",
                view.name
            )));
        };
        if checked.iter().any(|other| other.index == index) {
            return Err(ApiError::invalid(format!("output {:?} is asked for twice", output.name)));
        }
        if let Some(reference) = &output.shared {
            check_room(&view.outputs[index], items, reference)?;
        }
        checked.push(CheckedOutput { index, shared: output.shared, binary: output.binary });
    }
    Ok(checked)
}

/// Where all dimensions are known, an output that has no room is refused before it is computed.
fn check_room(spec: &TensorSpec, items: u32, reference: &Reference) -> Result<(), ApiError> {
    let fixed: Option<Vec<usize>> = spec.item_shape.iter().copied().collect();
    let bytes = fixed
        .and_then(|item| byte_count(&item, spec.dtype))
        .and_then(|item| usize::try_from(items).ok().and_then(|items| item.checked_mul(items)));
    match bytes {
        Some(bytes) if bytes as u64 > reference.size => Err(no_room(&spec.name, bytes, reference.size)),
        _ => Ok(()),
    }
}

/// A shared memory output is larger than its place.
pub(super) fn no_room(name: &str, bytes: usize, room: u64) -> ApiError {
    ApiError::invalid(format!("output {name:?}: {bytes} bytes, but its place in shared memory has {room}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn view() -> ModelView {
        let spec = |name: &str, item_shape: Vec<Option<usize>>| TensorSpec {
            name: name.into(),
            dtype: DataType::Fp32,
            item_shape,
        };
        ModelView {
            name: "m".into(),
            version: "1".into(),
            inputs: Arc::new([spec("a", vec![Some(4)]), spec("b", vec![None, Some(2)])]),
            outputs: Arc::new([spec("y", vec![Some(3)]), spec("z", vec![None])]),
            max_batch: 8,
            variants: vec!["small".into()],
            unavailable: None,
        }
    }

    fn input(name: &str, shape: &[i64], bytes: usize) -> WireInput {
        WireInput {
            name: name.into(),
            datatype: "FP32".into(),
            shape: shape.into(),
            payload: Payload::Bytes(vec![0; bytes].into()),
        }
    }

    fn refusal(inputs: Vec<WireInput>) -> String {
        check_inputs(&view(), inputs, 1 << 20).expect_err("must be refused").message
    }

    #[test]
    fn inputs_come_out_in_the_models_order() {
        // 2 items: a is 2*4*4 = 32 bytes, b is 2*3*2*4 = 48 bytes.
        let sent = vec![input("b", &[2, 3, 2], 48), input("a", &[2, 4], 32)];
        let (items, inputs) = check_inputs(&view(), sent, 1 << 20).unwrap();
        assert_eq!(items, 2);
        assert_eq!(
            inputs.iter().map(|input| input.shape.clone()).collect::<Vec<_>>(),
            [vec![2, 4], vec![2, 3, 2]]
        );
    }

    #[test]
    fn refusals_name_input_found_and_wanted() {
        let a = || input("a", &[1, 4], 16);
        let cases = [
            vec![a()],
            vec![a(), a()],
            vec![a(), input("nonsense", &[1], 4)],
            vec![a(), input("b", &[1, 3], 12)],
            vec![a(), input("b", &[1, 3, 5], 60)],
            vec![a(), input("b", &[1, 0, 2], 0)],
            vec![a(), input("b", &[1, -1, 2], 8)],
            vec![a(), input("b", &[0, 1, 2], 0)],
            vec![a(), input("b", &[9, 1, 2], 72)],
            vec![a(), input("b", &[2, 1, 2], 16)],
            vec![a(), input("b", &[1, 1, 2], 7)],
            vec![a(), input("b", &[1, i64::MAX, 2], 8)],
            vec![a(), WireInput { datatype: "INT8".into(), ..input("b", &[1, 1, 2], 8) }],
            vec![a(), input("b", &[], 8)],
        ];
        insta::assert_snapshot!(cases.map(refusal).join("\n"));
    }

    #[test]
    fn a_shared_output_without_room_is_refused_before_it_is_computed() {
        // y: 2 items * 3 * 4 bytes = 24.
        let shared = |size| Some(Reference { region: "r".into(), offset: 0, size });
        let ask = |size| vec![WireOutput { name: "y".into(), shared: shared(size), binary: None }];
        assert!(check_outputs(&view(), 2, ask(24)).is_ok());
        let error = check_outputs(&view(), 2, ask(23)).unwrap_err();
        assert_eq!(error.message, "output \"y\": 24 bytes, but its place in shared memory has 23");
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_the_bytes_of_its_shape(
            shape in proptest::collection::vec(prop_oneof![-1_i64..5, Just(i64::MAX), Just(i64::MIN)], 0..4),
            bytes in 0_usize..200,
        ) {
            let sent = vec![input("a", &[shape.first().copied().unwrap_or(1), 4], 16), input("b", &shape, bytes)];
            if let Ok((items, inputs)) = check_inputs(&view(), sent, 1 << 20) {
                prop_assert!((1..=8).contains(&items));
                for input in inputs {
                    let Payload::Bytes(data) = input.payload else { unreachable!() };
                    prop_assert_eq!(Some(data.len()), byte_count(&input.shape, input.dtype));
                }
            }
        }
    }
}
