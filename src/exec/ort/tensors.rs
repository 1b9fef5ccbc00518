//! Tensors in and out of ONNX Runtime: borrowed where they are aligned, copied once otherwise.

use crate::exec::{DataType, Tensor, TensorSpec};
use bytes::Bytes as Buffer;
use half::f16;
use ort::session::SessionInputValue;
use ort::value::{DynTensorValueType, DynValue, Shape, TensorElementType, TensorRef};
use smallvec::SmallVec;

/// A shape without an allocation.
pub(super) type Dims = SmallVec<[usize; 6]>;

/// Scratch that a run needed beyond this is given back after it.
const KEPT_SCRATCH_BYTES: usize = 1 << 20;

/// The element type in ONNX Runtime's terms.
pub(super) fn element_type(dtype: DataType) -> TensorElementType {
    match dtype {
        DataType::Bool => TensorElementType::Bool,
        DataType::Uint8 => TensorElementType::Uint8,
        DataType::Uint16 => TensorElementType::Uint16,
        DataType::Uint32 => TensorElementType::Uint32,
        DataType::Uint64 => TensorElementType::Uint64,
        DataType::Int8 => TensorElementType::Int8,
        DataType::Int16 => TensorElementType::Int16,
        DataType::Int32 => TensorElementType::Int32,
        DataType::Int64 => TensorElementType::Int64,
        DataType::Fp16 => TensorElementType::Float16,
        DataType::Fp32 => TensorElementType::Float32,
        DataType::Fp64 => TensorElementType::Float64,
    }
}

/// An aligned buffer that is reused from run to run.
#[derive(Debug, Default)]
pub(super) struct Scratch(Vec<u64>);

impl Scratch {
    /// Copies the parts one behind the other; the result is aligned for every element type.
    fn fill<'p>(&mut self, parts: impl Iterator<Item = &'p [u8]>, length: usize) -> &[u8] {
        let words = length.div_ceil(size_of::<u64>());
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.0);
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        &bytes[..length]
    }

    /// Lets go of a large buffer, so that one large batch does not hold memory for ever.
    pub(super) fn shrink(&mut self) {
        if self.0.len() * size_of::<u64>() > KEPT_SCRATCH_BYTES {
            self.0 = Vec::new();
        }
    }
}

/// The tensors of one input, concatenated along the batch dimension, as ONNX Runtime takes them. The
/// shapes must agree beyond the first dimension.
pub(super) fn feed<'a>(
    spec: &TensorSpec,
    parts: &'a [&'a [Tensor]],
    input: usize,
    scratch: &'a mut Scratch,
) -> Result<SessionInputValue<'a>, String> {
    let first = &parts[0][input];
    let mut shape = Dims::from_slice(&first.shape);
    shape[0] = parts.iter().map(|tensors| tensors[input].shape[0]).sum();
    let size = spec.dtype.size();
    let bytes = if parts.len() == 1 && first.data.as_ptr().addr().is_multiple_of(size) {
        &first.data[..]
    } else {
        let length = parts.iter().map(|tensors| tensors[input].data.len()).sum();
        scratch.fill(parts.iter().map(|tensors| &tensors[input].data[..]), length)
    };
    let shape = shape.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX));
    view(spec.dtype, Shape::new(shape), bytes).map_err(|problem| format!("input `{}`: {problem}", spec.name))
}

/// A view of aligned bytes.
fn view<'a>(dtype: DataType, shape: Shape, bytes: &'a [u8]) -> Result<SessionInputValue<'a>, String> {
    macro_rules! of {
        ($type:ty) => {{
            let elements: &[$type] =
                bytemuck::checked::try_cast_slice(bytes).map_err(|error| error.to_string())?;
            TensorRef::from_array_view((shape, elements)).map(SessionInputValue::from)
        }};
    }
    let value = match dtype {
        DataType::Bool => of!(bool),
        DataType::Uint8 => of!(u8),
        DataType::Uint16 => of!(u16),
        DataType::Uint32 => of!(u32),
        DataType::Uint64 => of!(u64),
        DataType::Int8 => of!(i8),
        DataType::Int16 => of!(i16),
        DataType::Int32 => of!(i32),
        DataType::Int64 => of!(i64),
        DataType::Fp16 => of!(f16),
        DataType::Fp32 => of!(f32),
        DataType::Fp64 => of!(f64),
    };
    value.map_err(|error| error.to_string())
}

/// Splits one output along the batch dimension and appends a tensor to each request's list.
pub(super) fn split(
    spec: &TensorSpec,
    value: &DynValue,
    items: &[usize],
    requests: &mut [Vec<Tensor>],
) -> Result<(), String> {
    let name = &spec.name;
    let total: usize = items.iter().sum();
    let (shape, bytes) = read(spec, value)?;
    let fits = |(&dim, &wanted): (&usize, &Option<usize>)| wanted.is_none_or(|wanted| wanted == dim);
    let right = shape.first() == Some(&total)
        && shape.len() == spec.item_shape.len() + 1
        && shape[1..].iter().zip(&spec.item_shape).all(fits);
    if !right {
        let shape = &shape[..];
        return Err(format!(
            "output `{name}` came back as {shape:?}, expected {total} items of {}",
            super::session::item_shape(&spec.item_shape)
        ));
    }
    let per_item = bytes.len() / total;
    let mut at = 0;
    for (tensors, &count) in requests.iter_mut().zip(items) {
        let mut shape = shape.to_vec();
        shape[0] = count;
        let end = at + count * per_item;
        tensors.push(Tensor { dtype: spec.dtype, shape, data: Buffer::copy_from_slice(&bytes[at..end]) });
        at = end;
    }
    Ok(())
}

/// Shape and bytes of an output that is what its specification says.
#[allow(
    unsafe_code,
    reason = "the bytes of a tensor of any element type, without `bool` values that are none"
)]
fn read<'v>(spec: &TensorSpec, value: &'v DynValue) -> Result<(Dims, &'v [u8]), String> {
    let name = &spec.name;
    let dtype = value.dtype();
    let (Some(found), Some(shape)) = (dtype.tensor_type(), dtype.tensor_shape()) else {
        return Err(format!("output `{name}` is no tensor, but {dtype}"));
    };
    if found != element_type(spec.dtype) {
        return Err(format!("output `{name}` came back as {found}, expected {}", spec.dtype.wire_name()));
    }
    let dims = shape.iter().map(|&dim| usize::try_from(dim));
    let dims = dims.collect::<Result<Dims, _>>().map_err(|_| format!("output `{name}` has shape {shape}"))?;
    let length = dims.iter().try_fold(spec.dtype.size(), |product, &dim| product.checked_mul(dim));
    let length = length.ok_or_else(|| format!("output `{name}` has shape {shape}"))?;
    let tensor = value.view().downcast::<DynTensorValueType>().map_err(|error| error.to_string())?;
    if !tensor.memory_info().is_cpu_accessible() {
        return Err(format!("output `{name}` lies in memory that the CPU cannot read"));
    }
    let pointer = tensor.data_ptr().cast::<u8>();
    if pointer.is_null() || length == 0 {
        return if length == 0 { Ok((dims, &[])) } else { Err(format!("output `{name}` has no data")) };
    }
    // SAFETY: the pointer is not null and CPU accessible; ONNX Runtime allocated `product(shape)` elements
    // of this very type there, all initialised by the kernel that produced the tensor; `u8` has no
    // alignment and no invalid values; the data lives and stays unchanged as long as `value`, whose
    // lifetime the slice takes.
    let bytes = unsafe { std::slice::from_raw_parts(pointer, length) };
    Ok((dims, bytes))
}
