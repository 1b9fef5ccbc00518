//! Tensor elements that do not come as bytes: the typed contents of gRPC and the numbers of JSON.

use super::params::clip;
use super::proto::InferTensorContents;
use super::status::ApiError;
use crate::exec::DataType;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// Deepest nesting of JSON data that is followed: more than any tensor has dimensions.
const DEEPEST: usize = 16;

/// Little-endian bytes of the typed contents of an input.
pub(super) fn to_bytes(
    input: &str,
    datatype: &str,
    contents: InferTensorContents,
) -> Result<Bytes, ApiError> {
    let Some(dtype) = DataType::from_wire_name(datatype) else {
        let message =
            format!("input {input:?}: datatype {:?} is not one that models here take", clip(datatype));
        return Err(ApiError::invalid(message));
    };
    let out_of_range = |value: &dyn fmt::Display| {
        ApiError::invalid(format!("input {input:?}: {value} does not fit {datatype}"))
    };
    macro_rules! narrow {
        ($field:ident, $to:ty) => {{
            let mut bytes = Vec::with_capacity(contents.$field.len() * size_of::<$to>());
            for value in &contents.$field {
                let narrow = <$to>::try_from(*value).map_err(|_| out_of_range(value))?;
                bytes.extend_from_slice(&narrow.to_le_bytes());
            }
            bytes
        }};
    }
    let bytes = match dtype {
        DataType::Bool => contents.bool_contents.iter().map(|&value| u8::from(value)).collect(),
        DataType::Int8 => narrow!(int_contents, i8),
        DataType::Int16 => narrow!(int_contents, i16),
        DataType::Int32 => narrow!(int_contents, i32),
        DataType::Int64 => narrow!(int64_contents, i64),
        DataType::Uint8 => narrow!(uint_contents, u8),
        DataType::Uint16 => narrow!(uint_contents, u16),
        DataType::Uint32 => narrow!(uint_contents, u32),
        DataType::Uint64 => narrow!(uint64_contents, u64),
        DataType::Fp32 => contents.fp32_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::Fp64 => contents.fp64_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::Fp16 => {
            return Err(ApiError::invalid(format!(
                "input {input:?}: FP16 has no typed contents: send it raw"
            )));
        }
    };
    Ok(bytes.into())
}

/// Reads the `data` of a JSON tensor, flat or nested, as little-endian bytes. Never takes more than
/// `limit` bytes.
pub(super) fn from_json(input: &str, dtype: DataType, json: &str, limit: usize) -> Result<Bytes, ApiError> {
    if dtype == DataType::Fp16 {
        return Err(ApiError::invalid(format!("input {input:?}: FP16 travels as binary data only")));
    }
    let mut bytes = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(json);
    let element = Element { dtype, limit, depth: 0, bytes: &mut bytes };
    element.deserialize(&mut reader).map_err(|error| {
        ApiError::invalid(format!("input {input:?}: data is not an array of {}: {error}", dtype.wire_name()))
    })?;
    Ok(bytes.into())
}

/// A number, or an array of elements.
struct Element<'a> {
    dtype: DataType,
    limit: usize,
    depth: usize,
    bytes: &'a mut Vec<u8>,
}

impl Element<'_> {
    fn push<E: Error>(self, bytes: &[u8]) -> Result<(), E> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(E::custom(format_args!(
                "more than the {} bytes that one tensor may have",
                self.limit
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn integer<E: Error>(self, value: i128) -> Result<(), E> {
        macro_rules! exactly {
            ($to:ty) => {
                match <$to>::try_from(value) {
                    Ok(value) => self.push(&value.to_le_bytes()),
                    Err(_) => Err(E::custom(format_args!("{value} does not fit {}", self.dtype.wire_name()))),
                }
            };
        }
        match self.dtype {
            DataType::Bool if value == 0 || value == 1 => self.push(&[u8::from(value == 1)]),
            DataType::Bool => Err(E::custom(format_args!("{value} is neither true nor false"))),
            DataType::Int8 => exactly!(i8),
            DataType::Int16 => exactly!(i16),
            DataType::Int32 => exactly!(i32),
            DataType::Int64 => exactly!(i64),
            DataType::Uint8 => exactly!(u8),
            DataType::Uint16 => exactly!(u16),
            DataType::Uint32 => exactly!(u32),
            DataType::Uint64 => exactly!(u64),
            #[allow(clippy::cast_precision_loss, reason = "a JSON number where a float is wanted")]
            DataType::Fp16 | DataType::Fp32 | DataType::Fp64 => self.float(value as f64),
        }
    }

    fn float<E: Error>(self, value: f64) -> Result<(), E> {
        match self.dtype {
            #[allow(clippy::cast_possible_truncation, reason = "rounds to the nearest single")]
            DataType::Fp32 => self.push(&(value as f32).to_le_bytes()),
            DataType::Fp64 => self.push(&value.to_le_bytes()),
            other => Err(E::custom(format_args!("{value} is not of type {}", other.wire_name()))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number or an array of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.depth >= DEEPEST {
            return Err(A::Error::custom("nested too deeply"));
        }
        loop {
            let depth = self.depth + 1;
            let inner = Element { dtype: self.dtype, limit: self.limit, depth, bytes: &mut *self.bytes };
            if seq.next_element_seed(inner)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        if self.dtype == DataType::Bool {
            return self.push(&[u8::from(value)]);
        }
        Err(E::custom(format_args!("{value} is not of type {}", self.dtype.wire_name())))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.float(value)
    }
}

/// Writes elements as a flat JSON array. What JSON cannot say (NaN, infinities) becomes `null`.
pub(super) fn to_json(dtype: DataType, data: &[u8], json: &mut Vec<u8>) -> Result<(), ApiError> {
    macro_rules! numbers {
        ($of:ty) => {{
            let elements = data.chunks_exact(size_of::<$of>()).map(|chunk| {
                let mut bytes = [0; size_of::<$of>()];
                bytes.copy_from_slice(chunk);
                <$of>::from_le_bytes(bytes)
            });
            write_array(elements, json)
        }};
    }
    let written = match dtype {
        DataType::Bool => write_array(data.iter().map(|&byte| byte != 0), json),
        DataType::Uint8 => numbers!(u8),
        DataType::Uint16 => numbers!(u16),
        DataType::Uint32 => numbers!(u32),
        DataType::Uint64 => numbers!(u64),
        DataType::Int8 => numbers!(i8),
        DataType::Int16 => numbers!(i16),
        DataType::Int32 => numbers!(i32),
        DataType::Int64 => numbers!(i64),
        DataType::Fp32 => numbers!(f32),
        DataType::Fp64 => numbers!(f64),
        DataType::Fp16 => {
            return Err(ApiError::invalid("FP16 outputs travel as binary data only: ask for binary_data"));
        }
    };
    written.map_err(|error| ApiError::new(tonic::Code::Internal, "internal", error.to_string()))
}

fn write_array<T: serde::Serialize>(
    elements: impl Iterator<Item = T>,
    json: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    json.push(b'[');
    for (at, element) in elements.enumerate() {
        if at > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut *json, &element)?;
    }
    json.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nested_and_flat_data_are_the_same() {
        let read = |json| from_json("x", DataType::Int16, json, 1024).unwrap();
        assert_eq!(read("[[1, -2], [3, 4]]"), read("[1, -2, 3, 4]"));
        assert_eq!(read("[1, -2]").as_ref(), [1, 0, 0xfe, 0xff]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refusal = |dtype, json| from_json("x", dtype, json, 16).unwrap_err().message;
        let deep = "[".repeat(40);
        insta::assert_snapshot!(
            [
                refusal(DataType::Uint8, "[256]"),
                refusal(DataType::Int32, "[1.5]"),
                refusal(DataType::Fp32, "[\"a\"]"),
                refusal(DataType::Fp32, "[true]"),
                refusal(DataType::Fp64, "[1,2,3]"),
                refusal(DataType::Fp16, "[1]"),
                refusal(DataType::Fp32, &deep),
                refusal(DataType::Bool, "[2]"),
            ]
            .join("\n")
        );
    }

    #[test]
    fn typed_contents_are_range_checked() {
        let contents = InferTensorContents { int_contents: vec![127, 128], ..Default::default() };
        let error = to_bytes("x", "INT8", contents).unwrap_err();
        assert_eq!(error.message, "input \"x\": 128 does not fit INT8");
    }

    proptest! {
        #[test]
        fn json_gives_back_what_it_got(values in proptest::collection::vec(any::<i64>(), 0..20)) {
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let mut json = Vec::new();
            to_json(DataType::Int64, &data, &mut json).unwrap();
            let read = from_json("x", DataType::Int64, std::str::from_utf8(&json).unwrap(), 1 << 20).unwrap();
            prop_assert_eq!(read.as_ref(), data.as_slice());
        }

        #[test]
        fn singles_survive_json(values in proptest::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), 0..20)) {
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let mut json = Vec::new();
            to_json(DataType::Fp32, &data, &mut json).unwrap();
            let read = from_json("x", DataType::Fp32, std::str::from_utf8(&json).unwrap(), 1 << 20).unwrap();
            prop_assert_eq!(read.as_ref(), data.as_slice());
        }
    }
}
