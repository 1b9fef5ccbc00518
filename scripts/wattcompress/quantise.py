"""Fewer bits: the formats of a recipe's `quantise` step, on ONNX graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import quantization as q
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16
from scipy.cluster.vq import kmeans2

from . import graph, pack
from .data import Arrays, Labelled
from .faults import Fault
from .recipe import Quantise

# What static quantisation covers; an operator that is not here stays in floating point.
STATIC_OPS = [
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("ReduceMean", "Concat", "Pad", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"),
]
TYPES = {"int8": q.QuantType.QInt8, "uint8": q.QuantType.QUInt8}
METHODS = {
    "minmax": q.CalibrationMethod.MinMax,
    "entropy": q.CalibrationMethod.Entropy,
    "percentile": q.CalibrationMethod.Percentile,
}
BATCH = 32


class Reader(q.CalibrationDataReader):
    """Calibration items in batches, all of one size: histograms want that."""

    def __init__(self, data: Labelled) -> None:
        starts = range(0, max(1, len(data) - BATCH + 1), BATCH)
        self.batches = iter([data.take(slice(i, i + BATCH)).inputs for i in starts])

    def get_next(self) -> Arrays | None:
        """The next batch; none at the end."""
        return next(self.batches, None)


def quantise(
    model: onnx.ModelProto, step: Quantise, data: Labelled, seed: int, file: Path, key: str
) -> onnx.ModelProto:
    """Applies the step. `data` is for calibration.

    Raises:
        Fault: if a layer is unknown, or the graph has nothing that the format can work on.

    """
    names = [node.name for node in graph.layers(model)]
    if not names:
        raise Fault.at(file, f"{key}.format", step.format, "the graph has no layer with constant weights")
    layers = graph.chosen(file, key, names, step.only, step.exclude)
    rng = np.random.default_rng(seed)
    some = rng.choice(len(data), min(step.calibration.items, len(data)), replace=False)
    data = data.take(np.sort(some))
    if step.format == "int8":
        return _static(model, step, layers, data)
    if step.format == "fp16":
        return _half(model, file, key)
    if step.format == "matmul-nbits":
        return _matmul(model, step, layers, file, key)
    return _weights(model, step, layers, data, seed)


def _static(model: onnx.ModelProto, step: Quantise, layers: list[str], data: Labelled) -> onnx.ModelProto:
    """Static QDQ by ONNX Runtime's quantiser."""
    left_out = set(graph.front(model)) | {n.name for n in graph.layers(model) if n.name not in layers}
    options: dict[str, object] = {}
    if step.calibration.method == "percentile":
        options["CalibPercentile"] = step.calibration.percentile
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch) / "given.onnx", Path(scratch) / "made.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), given)
        q.quantize_static(
            given,
            made,
            Reader(data),
            quant_format=q.QuantFormat.QDQ,
            op_types_to_quantize=STATIC_OPS,
            nodes_to_exclude=sorted(left_out),
            activation_type=TYPES[step.activations],
            weight_type=TYPES[step.weights],
            calibrate_method=METHODS[step.calibration.method],
            per_channel=step.per_channel,
            reduce_range=step.reduce_range,
            extra_options=options,
        )
        quantised = onnx.load(made)
    quantised = graph.clean(quantised)
    if step.bias_correction:
        _correct_static(model, quantised, layers, data)
    return quantised


def _half(model: onnx.ModelProto, file: Path, key: str) -> onnx.ModelProto:
    """The net in fp16, its preprocessing, inputs and outputs as they were."""
    for node in graph.layers(model):
        largest = float(np.abs(graph.weight(model, node)).max())
        if largest > models.HALF_MAX:
            rule = f"node `{node.name}` has a weight of {largest:.3g}, beyond fp16's {models.HALF_MAX:.0f}"
            raise Fault.at(file, f"{key}.format", "fp16", rule)
    half = convert_float_to_float16(
        onnx.shape_inference.infer_shapes(model),
        keep_io_types=True,
        max_finite_val=models.HALF_MAX,
        node_block_list=graph.front(model),
    )
    sorted_half = ONNXModel(half)
    sorted_half.topological_sort()
    return graph.clean(sorted_half.model)


def _matmul(model: onnx.ModelProto, step: Quantise, layers: list[str], file: Path, key: str) -> onnx.ModelProto:
    """ONNX Runtime's MatMulNBits: weights in 4 or 8 bits, unpacked inside the kernel."""
    found = [node for node in graph.layers(model) if node.name in layers]
    fit = [node.name for node in found if node.op_type == "MatMul"]
    if not fit:
        node = found[0]
        rule = f"works on MatMul only; node `{node.name}` is {node.op_type}: use int8-weights or int4-weights"
        raise Fault.at(file, f"{key}.format", step.format, rule)
    assert step.bits is not None, "validated"
    left_out = [node.name for node in model.graph.node if node.name not in fit]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantiser = MatMulNBitsQuantizer(copy, bits=step.bits, block_size=32, is_symmetric=True, nodes_to_exclude=left_out)
    quantiser.process()
    return graph.clean(quantiser.model.model)


# --- Weights only ---


def _weights(model: onnx.ModelProto, step: Quantise, layers: list[str], data: Labelled, seed: int) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    found = [node for node in graph.layers(result) if node.name in layers]
    means = _input_means(model, found, data) if step.bias_correction else {}
    for node in found:
        name, before = node.input[1], graph.weight(model, node)
        if before.size < pack.MIN_ELEMENTS:
            continue
        coded = _coder(step, node, seed)(before)
        index, values, scale = coded
        after = values[index] * (1 if scale is None else scale)
        if step.bias_correction:
            _shift_bias(result, node, _mean_error(node, before, after, means[node.input[0]]))
        pack.codes(result, name, index, values, scale).commit()
    return graph.clean(result)


Coded = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _coder(step: Quantise, node: onnx.NodeProto, seed: int) -> Callable[[np.ndarray], Coded]:
    axis = graph.channel_axis(node)
    if step.format == "codebook":
        assert step.bits is not None, "validated"
        size = 1 << step.bits
        return lambda w: codebook(w, size, seed)
    if step.format == "log2":
        assert step.bits is not None, "validated"
        bits = step.bits
        return lambda w: logarithmic(w, bits, _scale(w, axis, step.per_channel))
    bits = 8 if step.format == "int8-weights" else 4
    return lambda w: linear(w, bits, _scale(w, axis, step.per_channel))


def _scale(weight: np.ndarray, axis: int, per_channel: bool) -> np.ndarray:
    """The largest magnitude, of each channel or of all; 1 where all are zero."""
    over = tuple(i for i in range(weight.ndim) if i != axis) if per_channel else None
    largest = np.abs(weight).max(over, keepdims=True)
    return np.where(largest == 0, 1, largest).astype(np.float32)


def linear(weight: np.ndarray, bits: int, scale: np.ndarray) -> Coded:
    """Equal steps from -scale to scale, zero among them."""
    top = (1 << (bits - 1)) - 1
    index = np.clip(np.rint(weight / scale * top), -top, top).astype(np.int64) + top
    return index, np.arange(-top, top + 1, dtype=np.float32), scale / np.float32(top)


def logarithmic(weight: np.ndarray, bits: int, scale: np.ndarray) -> Coded:
    """Zero and, of both signs, powers of two downwards from the scale's."""
    powers = (1 << (bits - 1)) - 1
    positive = np.exp2(-np.arange(powers, dtype=np.float32))[::-1]
    values = np.concatenate([-positive[::-1], [0], positive]).astype(np.float32)
    scale = np.exp2(np.rint(np.log2(scale))).astype(np.float32)
    borders = (values[1:] + values[:-1]) / 2
    return np.searchsorted(borders, weight / scale), values, scale


def codebook(weight: np.ndarray, size: int, seed: int) -> Coded:
    """The values that k-means finds, from equal steps between the extremes."""
    flat = weight.ravel().astype(np.float64)
    start = np.linspace(flat.min(), flat.max(), min(size, len(np.unique(flat))))
    centres, _ = kmeans2(flat, start, minit="matrix", iter=25, seed=seed)
    # Weights that are zero stay so.
    if (flat == 0).mean() > 0.01:
        centres[np.abs(centres).argmin()] = 0
    values = np.unique(centres.astype(np.float32))
    borders = (values[1:] + values[:-1]) / 2
    return np.searchsorted(borders, flat.astype(np.float32)).reshape(weight.shape), values, None


# --- Bias correction (Nagel et al., ICCV 2019): the error that rounding causes on average ---


def _input_means(model: onnx.ModelProto, nodes: list[onnx.NodeProto], data: Labelled) -> Arrays:
    """The mean of each layer's input, by channel."""
    names = list(dict.fromkeys(node.input[0] for node in nodes))
    runtime = graph.runtime(graph.with_outputs(model, names), threads=2)
    sums: Arrays = {}
    for start in range(0, len(data), BATCH):
        part = data.take(slice(start, start + BATCH))
        for name, x in zip(names, runtime.run(names, part.inputs), strict=True):
            over = (0, *range(2, x.ndim))
            # Matrices count features last.
            mean = x.mean(over, dtype=np.float64) if x.ndim == 4 else x.reshape(-1, x.shape[-1]).mean(0)
            sums[name] = sums.get(name, 0) + mean * len(part) / len(data)
    return sums


def _mean_error(node: onnx.NodeProto, before: np.ndarray, after: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """What an output is too small by on average, by channel."""
    lost = before.astype(np.float64) - after
    if node.op_type != "Conv":
        return lost @ mean if graph.channel_axis(node) == 0 else mean @ lost
    per_input = lost.reshape(*lost.shape[:2], -1).sum(2)
    outputs, each = per_input.shape
    groups = len(mean) // each
    of_group = np.repeat(mean.reshape(groups, each), outputs // groups, axis=0)
    return (per_input * of_group).sum(1)


def _shift_bias(model: onnx.ModelProto, node: onnx.NodeProto, by: np.ndarray) -> None:
    """Adds to a layer's bias, where it has one."""
    if len(node.input) > 2 and node.input[2] in graph.initializers(model):
        bias = numpy_helper.to_array(graph.initializers(model)[node.input[2]])
        graph.set_constant(model, node.input[2], (bias + by).astype(np.float32))


def _correct_static(model: onnx.ModelProto, quantised: onnx.ModelProto, layers: list[str], data: Labelled) -> None:
    """Corrects the int32 biases of a QDQ graph."""
    plain = {node.name: node for node in graph.layers(model) if node.name in layers}
    means = _input_means(model, list(plain.values()), data)
    made_by = {name: node for node in quantised.graph.node for name in node.output}
    constants = graph.initializers(quantised)
    for node in quantised.graph.node:
        old, given = plain.get(node.name), [made_by.get(name) for name in node.input]
        if old is None or len(given) < 3 or given[1] is None or given[2] is None:
            continue
        stored, scale = (numpy_helper.to_array(constants[n]) for n in given[1].input[:2])
        zero = numpy_helper.to_array(constants[given[1].input[2]])
        axis = graph.channel_axis(node)
        shape = [-1 if i == axis else 1 for i in range(stored.ndim)]
        after = (stored.astype(np.float64) - zero.reshape(shape)) * scale.reshape(shape)
        error = _mean_error(node, graph.weight(model, old), after, means[old.input[0]])
        bias, bias_scale = (numpy_helper.to_array(constants[n]) for n in given[2].input[:2])
        corrected = np.rint(bias + error / bias_scale).astype(np.int32)
        graph.set_constant(quantised, given[2].input[0], corrected)
