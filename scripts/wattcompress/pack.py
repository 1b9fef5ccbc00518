"""Weights in fewer bytes, unpacked by standard ONNX operators.

A packed weight is a few constants and the nodes that compute the plain weight from them. The runtime folds
these when it loads the model, so packing costs time at load and none at a run.

    codes      1 to 8 bits per weight, an index into a list of values, perhaps with a scale per channel
    bitmap     1 bit per weight that says which are not zero, and the values of those
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import graph

# Weights of fewer elements than this stay as they are.
MIN_ELEMENTS = 64


class Unpacking:
    """Collects the constants and nodes that compute one weight."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.model, self.name, self.nodes = model, name, list[onnx.NodeProto]()
        self.constants = list[TensorProto]()

    def constant(self, label: str, values: np.ndarray) -> str:
        """Adds a constant; its name."""
        name = f"{self.name}.{label}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, inputs: list[str], label: str, **attributes: str | int) -> str:
        """Adds a node with one output; the output's name. The label "" stands for the weight itself."""
        name = f"{self.name}.{label}" if label else self.name
        self.nodes.append(helper.make_node(op, inputs, [name], f"{name}.unpack", **attributes))  # type: ignore[arg-type]
        return name

    def size(self) -> int:
        """Bytes that it adds to the file, about."""
        return sum(len(c.SerializeToString()) for c in self.constants) + sum(
            len(n.SerializeToString()) for n in self.nodes
        )

    def commit(self) -> None:
        """Puts it in the place of the plain constant."""
        kept = [t for t in self.model.graph.initializer if t.name != self.name]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept + self.constants)
        nodes = self.nodes + list(self.model.graph.node)
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)


def _bits(unpacking: Unpacking, values: np.ndarray, bits: int, label: str) -> str:
    """Numbers below 2^bits, as many in a byte as fit; the name of the flat uint8 tensor."""
    if bits > 4:
        return unpacking.constant(label, values.astype(np.uint8).ravel())
    width = 1 if bits == 1 else 2 if bits == 2 else 4
    each, count = 8 // width, values.size
    padded = np.zeros(-(-count // each) * each, np.uint8)
    padded[:count] = values.ravel()
    shifts = np.arange(each, dtype=np.uint8) * width
    stored = (padded.reshape(-1, each) << shifts).sum(1, dtype=np.uint16).astype(np.uint8)
    packed = unpacking.constant(f"{label}_packed", stored[:, None])
    by = unpacking.constant(f"{label}_shifts", shifts[None])
    shifted = unpacking.node("BitShift", [packed, by], f"{label}_shifted", direction="RIGHT")
    modulus = unpacking.constant(f"{label}_modulus", np.array(1 << width, np.uint8))
    low = unpacking.node("Mod", [shifted, modulus], f"{label}_low")
    flat = unpacking.node("Reshape", [low, unpacking.constant(f"{label}_flat", np.array([-1]))], f"{label}_all")
    if padded.size == count:
        return flat
    ends = [unpacking.constant(f"{label}_{n}", np.array([v])) for n, v in (("from", 0), ("to", count))]
    return unpacking.node("Slice", [flat, *ends], f"{label}_cut")


def codes(
    model: onnx.ModelProto, name: str, index: np.ndarray, values: np.ndarray, scale: np.ndarray | None
) -> Unpacking:
    """A weight as `values[index] * scale`; `scale` broadcasts against the weight."""
    u = Unpacking(model, name)
    bits = max(1, int(len(values) - 1).bit_length())
    flat = _bits(u, index, bits, "codes")
    whole = u.node("Cast", [flat], "index", to=TensorProto.INT32)
    shaped = u.node("Reshape", [whole, u.constant("shape", np.array(index.shape))], "shaped")
    book = u.constant("values", values)
    if scale is None:
        u.node("Gather", [book, shaped], "")
    else:
        plain = u.node("Gather", [book, shaped], "plain")
        u.node("Mul", [plain, u.constant("scale", scale.astype(values.dtype))], "")
    return u


def bitmap(model: onnx.ModelProto, name: str, weight: np.ndarray, half: bool) -> Unpacking:
    """A weight with many zeros: a bitmap, and the values of the others."""
    u = Unpacking(model, name)
    kept = weight.ravel() != 0
    mask = u.node("Cast", [_bits(u, kept.astype(np.uint8), 1, "mask")], "mask_whole", to=TensorProto.INT32)
    count = u.node("CumSum", [mask, u.constant("axis", np.array(0))], "count")
    at = u.node("Mul", [count, mask], "at")
    stored = np.concatenate([np.zeros(1, weight.dtype), weight.ravel()[kept]])
    values = u.constant("values", stored.astype(np.float16) if half else stored)
    flat = u.node("Gather", [values, at], "flat")
    if half:
        flat = u.node("Cast", [flat], "flat_plain", to=TensorProto.FLOAT)
    u.node("Reshape", [flat, u.constant("shape", np.array(weight.shape))], "")
    return u


def rounded(model: onnx.ModelProto, name: str, weight: np.ndarray) -> Unpacking:
    """A weight stored as fp16."""
    u = Unpacking(model, name)
    u.node("Cast", [u.constant("half", weight.astype(np.float16))], "", to=TensorProto.FLOAT)
    return u


def pack(model: onnx.ModelProto, half: bool) -> onnx.ModelProto:
    """Stores every weight in the smallest of the exact forms; `half` rounds fp32 weights to fp16 first."""
    packed = onnx.ModelProto()
    packed.CopyFrom(model)
    constants = graph.initializers(packed)
    for name, tensor in list(constants.items()):
        weight = numpy_helper.to_array(tensor)
        wanted = weight.dtype in (np.float32, np.int8, np.uint8)
        if not wanted or weight.ndim < 2 or weight.size < MIN_ELEMENTS:
            continue
        is_half = half and weight.dtype == np.float32
        if is_half:
            weight = weight.astype(np.float16).astype(np.float32)
        forms = [rounded(packed, name, weight)] if is_half else []
        if weight.dtype == np.float32:
            values, index = np.unique(weight, return_inverse=True)
            if len(values) <= 256:
                forms.append(codes(packed, name, index.reshape(weight.shape), values, None))
        if (weight == 0).mean() > 0.2:
            forms.append(bitmap(packed, name, weight, is_half))
        best = min(forms, key=Unpacking.size, default=None)
        if best is not None and best.size() < weight.nbytes:
            best.commit()
    return graph.clean(packed)
