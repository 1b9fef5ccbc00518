"""Training graphs: an ONNX graph as a PyTorch module, and back. Every step that trains starts and ends in ONNX."""

from __future__ import annotations

import copy
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx2torch
import onnxslim
import torch
from onnx2torch.node_converters import get_converter
from torch import Tensor, nn

from . import graph
from .data import Arrays
from .faults import Fault
from .recipe import Student

OPSET = 17
# With more, sums are rounded in another order on each number of cores, and on a busy machine the threads
# wait for each other: 13 times slower was seen.
THREADS = 1
LAYER_TYPES = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass
class Net:
    """A module, and its layers by the names that they have in the ONNX graph."""

    module: nn.Module
    layers: dict[str, nn.Module]
    inputs: list[str]
    outputs: list[str]

    def named(self, name: str) -> nn.Module | None:
        """The module of a node."""
        return self.layers.get(name) or dict(self.module.named_modules()).get(name.replace(".", "/"))

    def copy(self) -> Net:
        """One that can be changed without this."""
        paths = {id(m): path for path, m in self.module.named_modules()}
        module = copy.deepcopy(self.module)
        layers = {name: module.get_submodule(paths[id(m)]) for name, m in self.layers.items()}
        return Net(module, layers, self.inputs, self.outputs)

    def names(self) -> list[str]:
        """Names that `named` knows."""
        return [*self.layers, *(n for n, _ in self.module.named_modules() if n and n not in self.layers)]


def deterministic(seed: int) -> None:
    """The same numbers each time, on the same kind of processor."""
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)


def tensors(inputs: Arrays, names: list[str]) -> list[Tensor]:
    """Inputs in the order of the graph."""
    return [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in names]


def from_onnx(model: onnx.ModelProto, file: Path, key: str) -> Net:
    """A training graph.

    Raises:
        Fault: if a node cannot be trained; it is named.

    """
    version = model.opset_import[0].version
    for node in model.graph.node:
        try:
            get_converter(domain=node.domain, operation_type=node.op_type, version=version)
        except NotImplementedError:
            rule = f"node `{node.name}` is {node.op_type}, which no training graph can be made of"
            raise Fault.at(file, key, node.op_type, f"{rule}: use steps that do not train") from None
    found = graph.layers(model)
    for node in found:
        if node.op_type == "MatMul":
            rule = f"node `{node.name}` is a MatMul with constant weights, which is not trained: export it as Gemm"
            raise Fault.at(file, key, "MatMul", rule)
    module = onnx2torch.convert(model)
    modules: list[nn.Module] = []
    for node in module.graph.nodes:
        if node.op == "call_module":
            inner = module.get_submodule(node.target).modules()
            modules.extend(m for m in inner if isinstance(m, LAYER_TYPES))
    layers = dict(zip([node.name for node in found], modules, strict=True))
    for m in module.modules():
        if isinstance(m, NORM_TYPES):
            # Converted graphs have 0, with which statistics would never follow the weights.
            m.momentum = 0.1
    inputs = [value.name for value in model.graph.input]
    return Net(module.eval(), layers, inputs, [value.name for value in model.graph.output])


def to_onnx(net: Net, example: Arrays) -> onnx.ModelProto:
    """The graph of a module, with the layers' names kept."""
    module = net.module.eval().to(memory_format=torch.contiguous_format)
    axes = {name: {0: "N"} for name in [*net.inputs, *net.outputs]}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(tensors({n: x[:2] for n, x in example.items()}, net.inputs)),
            buffer,
            opset_version=OPSET,
            input_names=net.inputs,
            output_names=net.outputs,
            dynamic_axes=axes,
        )
    model = onnxslim.slim(onnx.load_from_string(buffer.getvalue()))
    modules = dict(module.named_modules())
    for node in model.graph.node:
        # The exporter writes the module's path and then what the node does.
        path = node.name.strip("/").rpartition("/")[0]
        node.name = path if path in modules else node.name
    for node, name in zip(graph.layers(model), net.layers, strict=True):
        node.name = name
    return graph.prepare(model)


def add_norms(net: Net, example: Arrays) -> None:
    """Puts a BatchNorm behind each convolution where the graph has none (they are folded into the weights).

    It starts as the identity, with the statistics of `example`; the export folds it again.
    """
    if any(isinstance(m, NORM_TYPES) for m in net.module.modules()):
        return
    statistics: dict[str, tuple[Tensor, Tensor]] = {}

    def observer(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, out: Tensor) -> None:
            over = [0, *range(2, out.dim())]
            statistics[name] = out.mean(over), out.var(over, unbiased=False)

        return hook

    convolutions = {n: m for n, m in net.layers.items() if isinstance(m, (nn.Conv1d, nn.Conv2d))}
    hooks = [m.register_forward_hook(observer(n)) for n, m in convolutions.items()]
    with torch.no_grad():
        net.module(*tensors(example, net.inputs))
    for hook in hooks:
        hook.remove()
    places = {id(m): name for name, m in net.module.named_modules()}
    for name, conv in convolutions.items():
        mean, var = statistics[name]
        kind = nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm1d
        norm = kind(len(mean))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        with torch.no_grad():
            norm.weight.copy_((var + norm.eps).sqrt())
            norm.bias.copy_(mean)
        parent, _, last = places[id(conv)].rpartition(".")
        setattr(net.module.get_submodule(parent), last, nn.Sequential(OrderedDict(conv=conv, norm=norm)))
    net.module.eval()


def follow(net: Net, some: Arrays, batch: int = 128) -> None:
    """Lets each BatchNorm measure its input anew, so that what follows sees the mean and variance it is used to."""
    norms = [m for m in net.module.modules() if isinstance(m, NORM_TYPES)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        # The plain average of all batches.
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for start in range(0, len(next(iter(some.values()))), batch):
            net.module(*tensors({n: x[start : start + batch] for n, x in some.items()}, net.inputs))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.module.eval()


# --- New networks for `student` ---


class Separable(nn.Module):
    """Depthwise-separable convolutions on grey pictures [N,H,W]."""

    def __init__(self, width: int, outputs: int, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation
        w = width
        self.first = _block(nn.Conv2d(1, w, 3, 1, 1, bias=False))
        shapes = [(w, 2 * w, 2), (2 * w, 2 * w, 1), (2 * w, 4 * w, 2), (4 * w, 4 * w, 1)]
        self.body = nn.Sequential(*(_separable(i, o, s, (3, 3)) for i, o, s in shapes))
        self.head = nn.Linear(4 * w, outputs)
        self.pool = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Scores per class."""
        x = (image.float() - self.mean) / self.deviation
        x = self.body(self.first(x.unsqueeze(1)))
        pooled: Tensor = self.pool(x.mean([2, 3]))
        scores: Tensor = self.head(pooled)
        return scores


class Frames(nn.Module):
    """Strided convolutions along frames of sound [N,L], normalised first; outputs between 0 and 1."""

    def __init__(self, width: int, outputs: int, length: int) -> None:
        super().__init__()
        w = width
        self.first = _block(nn.Conv2d(1, w, (1, 64), (1, 8), (0, 28), bias=False))
        shapes = [(w, 2 * w, 2), *[(2 * w, 2 * w, 2)] * 3]
        self.body = nn.Sequential(*(_separable(i, o, s, (1, 15)) for i, o, s in shapes))
        self.pool = nn.Flatten()
        self.head = nn.Linear(2 * w * (length // 128), outputs)

    def forward(self, frames: Tensor) -> Tensor:
        """Salience per bin."""
        centred = frames - frames.mean(1, keepdim=True)
        # Silence is not blown up to full scale.
        deviation = (centred * centred).mean(1, keepdim=True).sqrt().clamp(min=1e-8)
        x = (centred / deviation).unsqueeze(1).unsqueeze(2)
        salience: Tensor = torch.sigmoid(self.head(self.pool(self.body(self.first(x)))))
        return salience


def _block(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())


def _separable(i: int, o: int, stride: int, kernel: tuple[int, int]) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    strides = (stride if kernel[0] > 1 else 1, stride)
    depthwise = nn.Conv2d(i, i, kernel, strides, padding, groups=i, bias=False)
    return nn.Sequential(_block(depthwise), _block(nn.Conv2d(i, o, 1, bias=False)))


def student(spec: Student, like: onnx.ModelProto, example: Arrays, file: Path, key: str) -> Net:
    """A new network with the inputs and outputs of a model."""
    inputs = [value.name for value in like.graph.input]
    outputs = [value.name for value in like.graph.output]
    (x, *others) = (example[name] for name in inputs)
    dims = [d.dim_value for d in like.graph.output[0].type.tensor_type.shape.dim]
    rank = {"separable": 3, "frames": 2}[spec.family]
    if others or len(outputs) > 1 or x.ndim != rank or len(dims) != 2:
        rule = f"takes one input of rank {rank} and gives one output of rank 2; the model's are other"
        raise Fault.at(file, f"{key}.student.family", spec.family, rule)
    module: nn.Module
    if spec.family == "separable":
        module = Separable(spec.width, dims[1], float(x.mean()), float(x.std()))
    else:
        module = Frames(spec.width, dims[1], x.shape[1])
    layers = {n.replace(".", "/"): m for n, m in module.named_modules() if isinstance(m, LAYER_TYPES)}
    if spec.family == "separable":
        layers["head"] = layers.pop("head")
    return Net(module.eval(), layers, inputs, outputs)
