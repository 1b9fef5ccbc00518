//! Writes inference responses straight in Protocol Buffers' encoding.
//!
//! A generated message would need two dozen allocations for parameters that are the same in every
//! response but for their values; building, measuring and dropping it costs more than the model of a
//! small request. Everything rarer than an inference goes through the generated messages. The tests
//! read what is written here with those.

use super::infer::Done;
use super::params::{Value, of_answer};
use super::request::Reference;
use super::status::ApiError;
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// Bytes before each gRPC message: a flag for compression and the length.
const PREFIX: usize = 5;
/// Room for everything in a response but the elements of its outputs.
const HEAD: usize = 512;

/// A `ModelInferResponse` with its gRPC prefix.
pub(super) fn infer_response(id: &str, done: &Done) -> Result<Bytes, ApiError> {
    framed(done, |out| response(out, id, done, false))
}

/// A `ModelStreamInferResponse` with its gRPC prefix.
pub(super) fn stream_response(id: &str, done: &Done) -> Result<Bytes, ApiError> {
    framed(done, |out| nested(out, 2, |out| response(out, id, done, true)))
}

fn framed(done: &Done, write: impl FnOnce(&mut BytesMut)) -> Result<Bytes, ApiError> {
    let elements: usize = done.outputs.iter().map(|output| output.data.len()).sum();
    let mut out = BytesMut::with_capacity(PREFIX + HEAD + elements);
    out.put_bytes(0, PREFIX);
    write(&mut out);
    let Ok(length) = u32::try_from(out.len() - PREFIX) else {
        return Err(ApiError::new(tonic::Code::Internal, "too_large", "the response exceeds 4 GiB"));
    };
    out[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(out.freeze())
}

/// `ModelInferResponse`.
fn response(out: &mut BytesMut, id: &str, done: &Done, last_of_stream: bool) {
    let view = done.view();
    text(out, 1, &view.name);
    text(out, 2, &view.version);
    text(out, 3, id);
    for (key, value) in of_answer(&done.answer, &done.served) {
        parameter(out, 4, key, &value);
    }
    if last_of_stream {
        parameter(out, 4, "triton_final_response", &Value::Bool(true));
    }
    for output in &done.outputs {
        nested(out, 5, |out| {
            text(out, 1, &view.outputs[output.asked.index].name);
            text(out, 2, output.dtype.wire_name());
            nested(out, 3, |out| output.shape.iter().for_each(|&dim| encode_varint(dim as u64, out)));
            if let Some(Reference { region, offset, size }) = &output.asked.shared {
                parameter(out, 4, "shared_memory_byte_size", &Value::Int((*size).into()));
                if *offset > 0 {
                    parameter(out, 4, "shared_memory_offset", &Value::Int((*offset).into()));
                }
                parameter(out, 4, "shared_memory_region", &Value::Text(region.as_str().into()));
            }
        });
    }
    for output in &done.outputs {
        // An output in shared memory has an entry too, an empty one: clients count on it.
        delimited(out, 6, &output.data);
    }
}

/// An entry of a `map<string, InferParameter>`.
fn parameter(out: &mut BytesMut, field: u32, key: &str, value: &Value<'_>) {
    let number = |out: &mut BytesMut, field, value| {
        encode_key(field, WireType::Varint, out);
        encode_varint(value, out);
    };
    nested(out, field, |out| {
        text(out, 1, key);
        nested(out, 2, |out| match value {
            Value::Bool(value) => number(out, 1, u64::from(*value)),
            // Negative numbers are sent in two's complement.
            Value::Int(value) => number(out, 2, i64::try_from(*value).unwrap_or(i64::MAX).cast_unsigned()),
            // Written even if empty: it says which kind of value it is.
            Value::Text(value) => delimited(out, 3, value.as_bytes()),
            Value::Float(value) => {
                encode_key(4, WireType::SixtyFourBit, out);
                out.put_f64_le(*value);
            }
        });
    });
}

/// A string field; one that is empty is not written.
fn text(out: &mut BytesMut, field: u32, value: &str) {
    if !value.is_empty() {
        delimited(out, field, value.as_bytes());
    }
}

fn delimited(out: &mut BytesMut, field: u32, bytes: &[u8]) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A nested message, or packed numbers. Its length is known afterwards: one byte is kept for it, and what
/// was written moves up in case that is not enough.
fn nested(out: &mut BytesMut, field: u32, write: impl FnOnce(&mut BytesMut)) {
    encode_key(field, WireType::LengthDelimited, out);
    let place = out.len();
    out.put_u8(0);
    write(out);
    let start = place + 1;
    let length = out.len() - start;
    let extra = encoded_len_varint(length as u64) - 1;
    if extra > 0 {
        let end = out.len();
        out.put_bytes(0, extra);
        out.copy_within(start..end, start + extra);
    }
    encode_varint(length as u64, &mut &mut out[place..=place + extra]);
}

#[cfg(test)]
mod tests {
    use super::super::backend::{Answer, ModelView};
    use super::super::infer::DoneOutput;
    use super::super::proto::infer_parameter::ParameterChoice;
    use super::super::proto::{ModelInferResponse, ModelStreamInferResponse};
    use super::super::request::CheckedOutput;
    use super::*;
    use crate::core::catalog::{Provenance, UnitId, VariantId};
    use crate::core::event::{Outcome, Served};
    use crate::exec::{DataType, TensorSpec};
    use crate::units::{Kilohertz, Microjoules, Nanos, Ppm};
    use prost::Message;
    use std::sync::Arc;

    const SERVED: Served = Served {
        variant: VariantId(0),
        unit: UnitId(0),
        clock: Kilohertz(1_200_000),
        batch_items: 1,
        queue: Nanos(0),
        compute: Nanos(345_000),
        energy: Microjoules(u64::MAX),
        energy_source: Provenance::Measured,
        accuracy: Ppm(912_000),
        missed: true,
        rescued: true,
    };

    fn done(variant: &str, region: Option<&str>) -> Done {
        let spec =
            |name: &str| TensorSpec { name: name.into(), dtype: DataType::Fp32, item_shape: vec![None] };
        let view = ModelView {
            name: "m".repeat(200),
            version: "1".into(),
            inputs: Arc::new([]),
            outputs: Arc::new([spec("y"), spec("z")]),
            max_batch: 1,
            variants: Vec::new(),
            unavailable: None,
        };
        let output = |index, shared: Option<Reference>, data: &'static [u8]| DoneOutput {
            asked: CheckedOutput { index, shared, binary: None },
            dtype: DataType::Fp32,
            shape: vec![1, 300],
            data: Bytes::from_static(data),
        };
        let shared = region.map(|region| Reference { region: region.into(), offset: 8, size: 1200 });
        let outcome = Outcome::Served(SERVED);
        let answer =
            Answer { request: 7, outcome, outputs: vec![], variant: variant.into(), unit: "cpu".into() };
        let outputs = [output(1, None, b"elements"), output(0, shared, b"")].into_iter().collect();
        Done::new(Arc::new(vec![view]), 0, answer, SERVED, outputs)
    }

    fn unframed(frame: &Bytes) -> Bytes {
        assert_eq!(frame[0], 0, "not compressed");
        assert_eq!(frame[1..PREFIX], u32::try_from(frame.len() - PREFIX).unwrap().to_be_bytes());
        frame.slice(PREFIX..)
    }

    #[test]
    fn the_generated_messages_read_what_is_written() {
        // Long names make nested lengths of two bytes.
        let (variant, region) = ("v".repeat(150), "r".repeat(150));
        let done = done(&variant, Some(&region));
        let message = unframed(&infer_response("id", &done).unwrap());
        let read = ModelInferResponse::decode(message.clone()).unwrap();
        assert_eq!((read.model_name.len(), read.model_version.as_str(), read.id.as_str()), (200, "1", "id"));
        let said = |key: &str| read.parameters[key].parameter_choice.clone().unwrap();
        assert_eq!(said("variant"), ParameterChoice::StringParam(variant));
        assert_eq!(said("queue_us"), ParameterChoice::Int64Param(0));
        assert_eq!(said("energy_uj"), ParameterChoice::Int64Param(i64::MAX));
        assert_eq!(said("energy_source"), ParameterChoice::StringParam("measured".into()));
        assert_eq!(said("deadline_missed"), ParameterChoice::BoolParam(true));
        assert_eq!(said("rescued"), ParameterChoice::BoolParam(true));
        assert_eq!(read.parameters.len(), 11);
        assert_eq!(read.raw_output_contents, [&b"elements"[..], b""]);
        let [z, y] = read.outputs.as_slice() else { panic!("two outputs: {:?}", read.outputs) };
        assert_eq!((z.name.as_str(), z.datatype.as_str(), z.shape.as_slice()), ("z", "FP32", &[1, 300][..]));
        assert!(z.parameters.is_empty());
        assert_eq!(
            y.parameters["shared_memory_region"].parameter_choice,
            Some(ParameterChoice::StringParam(region))
        );
        assert_eq!(
            y.parameters["shared_memory_offset"].parameter_choice,
            Some(ParameterChoice::Int64Param(8))
        );
        assert_eq!(
            y.parameters["shared_memory_byte_size"].parameter_choice,
            Some(ParameterChoice::Int64Param(1200))
        );
        // The order of the map's entries is that of its keys: the encodings are the same to the byte.
        assert_eq!(read.encode_to_vec(), message);
    }

    #[test]
    fn a_stream_says_that_it_was_the_last_response() {
        let done = done("", None);
        let read = ModelStreamInferResponse::decode(unframed(&stream_response("", &done).unwrap())).unwrap();
        assert_eq!(read.error_message, "");
        let inner = read.infer_response.unwrap();
        let last = inner.parameters["triton_final_response"].parameter_choice.clone();
        assert_eq!(last, Some(ParameterChoice::BoolParam(true)));
        assert_eq!(
            inner.parameters["variant"].parameter_choice,
            Some(ParameterChoice::StringParam(String::new()))
        );
        assert_eq!((inner.parameters.len(), inner.raw_output_contents.len()), (12, 2));
    }
}
