//! One loaded variant: its session, checked against the manifest's tensors.

use super::build::{Resident, check_placement};
use super::tensors::{Scratch, element_type, feed, split};
use super::{ExecUnit, OrtRuntime, OrtSettings, guarded, memory};
use crate::exec::{Tensor, TensorSpec, VariantFile};
use crate::units::Bytes;
use bytes::Bytes as Buffer;
use ort::session::{RunOptions, SessionInputValue};
use ort::value::Outlet;
use smallvec::SmallVec;
use std::sync::Arc;

/// A loaded variant.
#[derive(Debug)]
pub(super) struct Loaded {
    resident: Resident,
    footprint: Bytes,
    name: String,
    inputs: Arc<[TensorSpec]>,
    outputs: Arc<[TensorSpec]>,
    /// For each input of the session, in its order: the index among `inputs`.
    input_order: SmallVec<[usize; 4]>,
    /// For each of `outputs`: the index among the outputs of the session.
    output_order: SmallVec<[usize; 4]>,
    /// The file's batch dimension is fixed at one item, as compilers for NPUs want it.
    single_item: bool,
    scratch: Vec<Scratch>,
}

/// Output tensors per request.
type Outputs = Vec<Vec<Tensor>>;

impl Loaded {
    /// Reads, checks and loads a variant, and runs it once on zeros, so that the first request does not
    /// pay for first-time allocations and the footprint has the activations in it.
    pub(super) fn open(
        runtime: &OrtRuntime,
        unit: &ExecUnit,
        settings: &OrtSettings,
        variant: &VariantFile,
    ) -> Result<Self, String> {
        let _guard = memory::measuring();
        let before = memory::resident_anonymous();
        let resident = guarded(|| Resident::open(runtime, unit, settings, variant))?;
        let size = resident.size;
        let mut loaded = Self::check(resident, variant)?;
        if !unit.is_cpu_provider() {
            check_placement(&loaded.resident.session, unit)?;
        }
        loaded.warm_up();
        let grown = memory::resident_anonymous().saturating_sub(before);
        // Reused heap can hide the growth; the weights are there in any case.
        loaded.footprint = grown.max(size);
        Ok(loaded)
    }

    /// Memory that it took: growth of the process's anonymous resident memory while it was loaded and
    /// run once, at least the size of the file. Other lanes' work at the same time shows up in it.
    pub(super) const fn footprint(&self) -> Bytes {
        self.footprint
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Checks the session's inputs and outputs against the manifest's.
    fn check(resident: Resident, variant: &VariantFile) -> Result<Self, String> {
        let session = &resident.session;
        let ins = match_tensors("input", session.inputs(), &variant.inputs)?;
        let outs = match_tensors("output", session.outputs(), &variant.outputs)?;
        let mut batches = ins.iter().chain(&outs).filter_map(|tensor| tensor.batch);
        let single_item = match batches.next() {
            None => false,
            Some(1) => true,
            Some(n) => {
                return Err(format!("the file's batch dimension is fixed at {n}; it must be free, or 1"));
            }
        };
        if let Some(n) = batches.find(|&n| n != 1) {
            return Err(format!("the file's batch dimension is fixed at 1 here and {n} there"));
        }
        let mut output_order = SmallVec::from_elem(0, outs.len());
        for (index, tensor) in outs.iter().enumerate() {
            output_order[tensor.spec] = index;
        }
        Ok(Self {
            scratch: ins.iter().map(|_| Scratch::default()).collect(),
            input_order: ins.iter().map(|tensor| tensor.spec).collect(),
            output_order,
            single_item,
            resident,
            footprint: Bytes::ZERO,
            name: variant.name.clone(),
            inputs: Arc::clone(&variant.inputs),
            outputs: Arc::clone(&variant.outputs),
        })
    }

    /// One item of zeros, free dimensions taken as one. A model that refuses that may still like real inputs.
    fn warm_up(&mut self) {
        let zeros = self.inputs.iter().map(|spec| {
            let dims = spec.item_shape.iter().map(|dim| dim.unwrap_or(1));
            let shape: Vec<usize> = std::iter::once(1).chain(dims).collect();
            let length = shape.iter().product::<usize>() * spec.dtype.size();
            Tensor { dtype: spec.dtype, shape, data: Buffer::from(vec![0; length]) }
        });
        let zeros: Vec<Tensor> = zeros.collect();
        let ran = guarded(|| {
            let options = RunOptions::new().map_err(|error| error.to_string())?;
            self.run(&[zeros], &options)
        });
        if let Err(message) = ran {
            tracing::warn!(variant = %self.name, %message, "it does not run on zeros");
        }
    }

    /// Runs the requests as one batch, or one by one where their shapes or the file do not allow that.
    pub(super) fn run(&mut self, requests: &[Vec<Tensor>], options: &RunOptions) -> Result<Outputs, String> {
        let items = requests.iter().map(|request| self.items(request));
        let items = items.collect::<Result<SmallVec<[usize; 8]>, String>>()?;
        if self.single_item && items.iter().any(|&count| count > 1) {
            return requests.iter().zip(&items).map(|(r, &n)| self.run_by_item(r, n, options)).collect();
        }
        if requests.len() > 1 && (self.single_item || !same_item_shapes(requests)) {
            let alone = requests.iter().zip(&items);
            let ran = alone.map(|(request, &count)| self.run_once(&[request], &[count], options));
            return ran.map(|outputs| outputs.map(|mut list| list.pop().unwrap_or_default())).collect();
        }
        let parts: SmallVec<[&[Tensor]; 8]> = requests.iter().map(Vec::as_slice).collect();
        self.run_once(&parts, &items, options)
    }

    /// Items of a request whose tensors are what the manifest says.
    fn items(&self, request: &[Tensor]) -> Result<usize, String> {
        if request.len() != self.inputs.len() {
            return Err(format!("{} input tensors, expected {}", request.len(), self.inputs.len()));
        }
        let items = request.first().and_then(|tensor| tensor.shape.first()).copied().unwrap_or(0);
        for (tensor, spec) in request.iter().zip(self.inputs.iter()) {
            let right = items > 0
                && tensor.dtype == spec.dtype
                && tensor.shape.len() == spec.item_shape.len() + 1
                && tensor.shape[0] == items
                && tensor.shape[1..].iter().zip(&spec.item_shape).all(|(a, b)| b.is_none_or(|b| b == *a));
            if !right {
                return Err(format!(
                    "input `{}`: {} {:?}, expected at least one item, as many as in the other inputs, of {} {}",
                    spec.name,
                    tensor.dtype.wire_name(),
                    tensor.shape,
                    spec.dtype.wire_name(),
                    item_shape(&spec.item_shape)
                ));
            }
        }
        Ok(items)
    }

    fn run_once(
        &mut self,
        parts: &[&[Tensor]],
        items: &[usize],
        options: &RunOptions,
    ) -> Result<Outputs, String> {
        let mut fed: SmallVec<[SessionInputValue<'_>; 4]> = SmallVec::new();
        for (&input, scratch) in self.input_order.iter().zip(&mut self.scratch) {
            fed.push(feed(&self.inputs[input], parts, input, scratch)?);
        }
        let values =
            self.resident.session.run_with_options(&fed[..], options).map_err(|error| error.to_string())?;
        drop(fed);
        let mut outputs: Outputs = parts.iter().map(|_| Vec::with_capacity(self.outputs.len())).collect();
        for (spec, &index) in self.outputs.iter().zip(&self.output_order) {
            split(spec, &values[index], items, &mut outputs)?;
        }
        drop(values);
        self.scratch.iter_mut().for_each(Scratch::shrink);
        Ok(outputs)
    }

    /// Runs each item of a request alone and joins the outputs.
    fn run_by_item(
        &mut self,
        request: &[Tensor],
        items: usize,
        options: &RunOptions,
    ) -> Result<Vec<Tensor>, String> {
        let mut joined: Vec<(Vec<usize>, Vec<u8>)> = vec![Default::default(); self.outputs.len()];
        for item in 0..items {
            let one: Vec<Tensor> = request.iter().map(|tensor| slice_item(tensor, item, items)).collect();
            let outputs = self.run_once(&[&one], &[1], options)?;
            for ((shape, data), tensor) in joined.iter_mut().zip(outputs.iter().flatten()) {
                if item == 0 {
                    shape.clone_from(&tensor.shape);
                }
                shape[0] = item + 1;
                data.extend_from_slice(&tensor.data);
            }
        }
        let named = joined.into_iter().zip(self.outputs.iter());
        Ok(named
            .map(|((shape, data), spec)| Tensor { dtype: spec.dtype, shape, data: data.into() })
            .collect())
    }
}

/// The `item`-th of `items` along the batch dimension; shares the bytes.
fn slice_item(tensor: &Tensor, item: usize, items: usize) -> Tensor {
    let per_item = tensor.data.len() / items;
    let mut shape = tensor.shape.clone();
    shape[0] = 1;
    Tensor { dtype: tensor.dtype, shape, data: tensor.data.slice(item * per_item..(item + 1) * per_item) }
}

fn same_item_shapes(requests: &[Vec<Tensor>]) -> bool {
    let first = &requests[0];
    let same = |request: &Vec<Tensor>| request.iter().zip(first).all(|(a, b)| a.shape[1..] == b.shape[1..]);
    requests.iter().all(same)
}

/// A tensor of the session and its place in the manifest.
struct Matched {
    /// Index among the manifest's tensors.
    spec: usize,
    /// The fixed batch dimension of the file, if it is fixed.
    batch: Option<i64>,
}

/// Pairs the session's tensors with the manifest's by name and checks types and shapes.
fn match_tensors(role: &str, found: &[Outlet], wanted: &[TensorSpec]) -> Result<Vec<Matched>, String> {
    let names = |list: Vec<&str>| list.join("`, `");
    let mismatch = || {
        format!(
            "the file's {role}s are `{}`, the manifest's are `{}`",
            names(found.iter().map(Outlet::name).collect()),
            names(wanted.iter().map(|spec| spec.name.as_str()).collect())
        )
    };
    if found.len() != wanted.len() {
        return Err(mismatch());
    }
    let matched = found.iter().map(|outlet| {
        let spec = wanted.iter().position(|spec| spec.name == outlet.name()).ok_or_else(mismatch)?;
        let batch = match_tensor(role, outlet, &wanted[spec])?;
        Ok(Matched { spec, batch })
    });
    matched.collect()
}

fn match_tensor(role: &str, outlet: &Outlet, spec: &TensorSpec) -> Result<Option<i64>, String> {
    let wrong = || {
        format!(
            "{role} `{}` is {} in the file, but {} {} per item in the manifest",
            spec.name,
            outlet.dtype(),
            spec.dtype.wire_name(),
            item_shape(&spec.item_shape)
        )
    };
    let (Some(dtype), Some(shape)) = (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape()) else {
        return Err(wrong());
    };
    if dtype != element_type(spec.dtype) {
        return Err(wrong());
    }
    // An output of unknown rank has an empty shape; it is checked when it is there.
    if role == "output" && shape.is_empty() {
        return Ok(None);
    }
    let fits = |(&dim, wanted): (&i64, &Option<usize>)| {
        dim < 0 || wanted.is_some_and(|wanted| usize::try_from(dim) == Ok(wanted))
    };
    if shape.len() != spec.item_shape.len() + 1 || !shape[1..].iter().zip(&spec.item_shape).all(fits) {
        return Err(wrong());
    }
    Ok(Some(shape[0]).filter(|&batch| batch >= 0))
}

/// A shape per item for messages: `[3, ?, 64]`.
pub(super) fn item_shape(shape: &[Option<usize>]) -> String {
    let dims: Vec<String> =
        shape.iter().map(|dim| dim.map_or_else(|| "?".to_owned(), |dim| dim.to_string())).collect();
    format!("[{}]", dims.join(", "))
}
