"""ONNX graphs: reading, the layers in them, and putting them into a form that every step can work on."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxslim
from onnx import TensorProto, helper, numpy_helper, shape_inference

from .faults import Fault

# Nodes with weights: the layers that recipes name.
LAYERS = ("Conv", "Gemm", "MatMul")


def initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Constants by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes with constant weights, in the order of the graph."""
    constants = initializers(model)
    return [n for n in model.graph.node if n.op_type in LAYERS and n.input[1] in constants]


def weight(model: onnx.ModelProto, node: onnx.NodeProto) -> np.ndarray:
    """The weights of a layer."""
    return numpy_helper.to_array(initializers(model)[node.input[1]])


def set_constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    """Replaces a constant."""
    initializers(model)[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weights that counts its outputs."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def chosen(file: Path, key: str, names: Sequence[str], only: list[str], exclude: list[str]) -> list[str]:
    """The names that `only` and `exclude` let through. A glob that fits nothing is a mistake."""
    for which, globs in (("only", only), ("exclude", exclude)):
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in names):
                listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
                raise Fault.at(file, f"{key}.{which}", glob, f"fits no layer; there are: {listed}")

    def fits(name: str, globs: list[str]) -> bool:
        return any(fnmatchcase(name, glob) for glob in globs)

    found = [name for name in names if fits(name, only) and not fits(name, exclude)]
    if not found:
        raise Fault.at(file, f"{key}.exclude", exclude, "leaves no layer to work on")
    return found


def read(file: Path, recipe: Path, key: str) -> onnx.ModelProto:
    """Reads a model file whose weights must be finite numbers."""
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx and the file system each raise their own
        text = str(error).strip().splitlines() or ["unknown"]
        raise Fault.at(recipe, key, str(file), f"cannot be read as ONNX: {text[0]}") from error
    for name, tensor in initializers(model).items():
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            users = [n.name or n.op_type for n in model.graph.node if name in n.input]
            bad = int((~np.isfinite(values)).sum())
            rule = f"tensor `{name}` of node `{users[0] if users else '-'}` holds {bad} NaN or infinite weights"
            raise Fault.at(recipe, key, file.name, f"{rule}: train or export the model anew")
    return model


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with its constants folded, plain fp32 weights, opset 17 and a name for every node."""
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if version < 17:
        model = onnx.version_converter.convert_version(model, 17)
    model = onnxslim.slim(fold(model))
    _flatten(model)
    _channels_first(model)
    name_nodes(model)
    return clean(model)


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Computes once whatever depends on constants only: packed weights become plain ones."""
    constants = set(initializers(model))
    constant_nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" and all(i in constants for i in node.input if i):
            constant_nodes.append(node)
            constants.update(node.output)
    rest = [n for n in model.graph.node if n not in constant_nodes]
    made = {name for node in constant_nodes for name in node.output}
    wanted = [name for name in made if any(name in n.input for n in rest)]
    if not wanted:
        return model
    values = [helper.make_empty_tensor_value_info(name) for name in sorted(wanted)]
    part = helper.make_graph(constant_nodes, "constants", [], values, list(model.graph.initializer))
    small = helper.make_model(part, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    results = run(onnx.shape_inference.infer_shapes(small), {})
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:]
    folded.graph.node.extend(rest)
    folded.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in results.items())
    return clean(folded)


def _flatten(model: onnx.ModelProto) -> None:
    """Reshapes to [batch, features] become Flatten, which still fits when channels are removed."""
    shapes = {v.name: len(v.type.tensor_type.shape.dim) for v in shape_inference.infer_shapes(model).graph.value_info}
    constants = initializers(model)
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = numpy_helper.to_array(constants[node.input[1]])
        if len(target) == 2 and shapes.get(node.input[0], 0) > 2:
            node.op_type = "Flatten"
            del node.input[1:]
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("axis", 1))


def _channels_first(model: onnx.ModelProto) -> None:
    """Transpose, Flatten and Gemm become Flatten and Gemm with other columns.

    Each channel's features then lie side by side, which is what removing channels takes for granted.
    """
    nodes, constants = list(model.graph.node), initializers(model)
    inferred = shape_inference.infer_shapes(model).graph.value_info
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred}

    def only_user(name: str, op: str) -> onnx.NodeProto | None:
        users = [node for node in nodes if name in node.input]
        return users[0] if len(users) == 1 and users[0].op_type == op else None

    for turn in [node for node in nodes if node.op_type == "Transpose"]:
        flat = only_user(turn.output[0], "Flatten")
        gemm = flat and only_user(flat.output[0], "Gemm")
        given = shapes.get(turn.input[0], [0])[1:]
        if flat is None or gemm is None or gemm.input[1] not in constants or 0 in given:
            continue
        (order,) = (list(a.ints) for a in turn.attribute)
        if order[0] != 0:
            continue
        back = np.argsort([axis - 1 for axis in order[1:]])
        columns = np.arange(np.prod(given)).reshape([given[axis - 1] for axis in order[1:]])
        moved = np.take(weight(model, gemm), columns.transpose(back).ravel(), axis=1 - channel_axis(gemm))
        set_constant(model, gemm.input[1], moved)
        flat.input[0] = turn.input[0]
        model.graph.node.remove(turn)


def name_nodes(model: onnx.ModelProto) -> None:
    """Names that a recipe can use: without slashes at the ends, and each once."""
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        name = node.name.strip("/") or node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what no one needs: unused constants and opsets, and what tools write about themselves."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(sorted(kept, key=lambda tensor: tensor.name))
    del model.graph.value_info[:]
    del model.metadata_props[:]
    domains = {node.domain or "" for node in model.graph.node}
    opsets = {
        o.domain.replace("ai.onnx", "") if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import
    }
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(d, v) for d, v in sorted(opsets.items()) if d in domains)
    model.producer_name, model.producer_version = "wattd scripts/compress", ""
    model.graph.name, model.graph.doc_string, model.doc_string = "net", "", ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    # What ONNX Runtime 1.28 reads.
    model.ir_version = min(model.ir_version, 10)
    return model


def front(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first layer: preprocessing, which keeps its precision."""
    behind: set[str] = set()
    found = []
    weighted = {node.name for node in layers(model)}
    for node in model.graph.node:
        if node.name in weighted or any(name in behind for name in node.input):
            behind.update(node.output)
        else:
            found.append(node.name)
    return found


def runtime(model: onnx.ModelProto | Path, threads: int = 1) -> ort.InferenceSession:
    """ONNX Runtime with a model, on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a model, by name."""
    names = [value.name for value in model.graph.output]
    return dict(zip(names, runtime(model).run(names, inputs), strict=True))


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The same model with inner tensors as its only outputs."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    tapped.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    inferred = shape_inference.infer_shapes(tapped)
    types = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.input]}
    del tapped.graph.output[:]
    for name in names:
        plain = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        tapped.graph.output.append(types.get(name, plain))
    return tapped


def save(model: onnx.ModelProto, file: Path) -> None:
    """Writes a checked model, whole or not at all."""
    onnx.checker.check_model(model, full_check=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        part.write(model.SerializeToString(deterministic=True))
    Path(part.name).chmod(0o644)
    Path(part.name).replace(file)
