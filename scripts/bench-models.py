#!/usr/bin/env python3
"""Generate the models that benchmarks and tests run, with seeded random weights.

    mlp          four small layers: what a run costs beyond its arithmetic
    mobile5ms    a mobile convolutional net, about 5 ms on one x86 core
    large-input  4.9 MB per item and next to no arithmetic: what moving tensors costs
    heavy        100 MB of weights: what loading costs
    tiny         the model of tests/data/models, with variants that must be refused

Each becomes a model folder DIR/NAME with manifest and sample, labelled by its first
variant. The same seed gives the same files. Needs numpy, onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import models

SEED = 4


@dataclass(frozen=True)
class Variant:
    """One [[variant]]; accuracy None means: measure it on the sample."""

    name: str
    precision: str
    accuracy: float | None = None
    comment: str = ""


class Net:
    """A graph under construction, its weights drawn as He proposed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def random(self, *shape: int, gain: float = 2.0) -> str:
        deviation = (gain / np.prod(shape[1:])) ** 0.5
        return self.constant((self.rng.normal(size=shape) * deviation).astype(np.float32))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        bias = self.constant(self.rng.normal(size=outputs).astype(np.float32) * 0.1)
        return self.op("Gemm", x, self.random(outputs, inputs), bias, transB=1)

    def conv(self, x: str, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> str:
        weights = self.random(outputs, inputs // groups, size, size)
        bias = self.constant(np.zeros(outputs, np.float32))
        pads = [(size - 1) // 2] * 4
        square: dict[str, list[int]] = {"kernel_shape": [size] * 2, "strides": [stride] * 2}
        y = self.op("Conv", x, weights, bias, group=groups, pads=pads, **square)
        return self.op("Relu", y)

    def save(self, path: Path, shape: list[int], result: str, classes: int) -> None:
        """Save the graph from `x` of this shape per item to `y`, scores of the classes."""
        self.nodes[-1].output[0] = "y"
        assert result == self.nodes[-1].name
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])
        graph = helper.make_graph(self.nodes, path.stem, [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
        model.producer_name = "wattd scripts/bench-models.py"
        onnx.checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)


def dense_net(path: Path, sizes: list[int], seed: int = SEED, bias: float = 0.0) -> None:
    """Dense layers with ReLU between; `bias` is added to the outputs."""
    net = Net(np.random.default_rng(seed))
    x = "x"
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        x = net.dense(net.op("Relu", x) if i else x, inputs, outputs)
    if bias:
        x = net.op("Add", x, net.constant(np.array([bias], np.float32)))
    net.save(path, [sizes[0]], x, sizes[-1])


def mlp(folder: Path) -> None:
    dense_net(folder / "fp32.onnx", [64, 64, 64, 64, 10])
    finish(folder, "Four dense layers of random weights", [64], 10, 64, [Variant("fp32", "fp32")])


def mobile5ms(folder: Path) -> None:
    """Depthwise-separable blocks at 224x224, as in MobileNet."""
    net = Net(np.random.default_rng(SEED))
    channels = 24
    x = net.conv("x", 3, channels, 3, stride=2)
    blocks = [(48, 1), (96, 2), (96, 1), (192, 2), (192, 1), (384, 2), (384, 1), (384, 1), (768, 2)]
    for outputs, stride in blocks:
        x = net.conv(x, channels, channels, 3, stride, groups=channels)
        x = net.conv(x, channels, outputs, 1)
        channels = outputs
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.save(folder / "fp32.onnx", [3, 224, 224], net.dense(x, channels, 100), 100)
    text = "A mobile convolutional net of random weights, about 5 ms on one x86 core"
    finish(folder, text, [3, 224, 224], 100, 8, [Variant("fp32", "fp32")])


def large_input(folder: Path) -> None:
    """Every 64th pixel of every 64th row, averaged, and one small dense layer."""
    net = Net(np.random.default_rng(SEED))
    starts, ends, axes, steps = (
        net.constant(np.array(v, np.int64)) for v in ([0, 0], [640, 640], [2, 3], [64, 64])
    )
    x = net.op("Slice", "x", starts, ends, axes, steps)
    x = net.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    net.save(folder / "fp32.onnx", [3, 640, 640], net.dense(x, 3, 10), 10)
    text = "4.9 MB per item and next to no arithmetic"
    finish(folder, text, [3, 640, 640], 10, 2, [Variant("fp32", "fp32")])


def heavy(folder: Path) -> None:
    """25 million parameters in convolutions, as a residual net of 50 layers has them."""
    net = Net(np.random.default_rng(SEED))
    x = net.conv("x", 3, 64, 7, stride=2)
    for inputs, outputs in pairwise([64, 128, 256, 512]):
        x = net.conv(x, inputs, outputs, 3, stride=2)
    for _ in range(10):
        x = net.conv(x, 512, 512, 3)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.save(folder / "fp32.onnx", [3, 64, 64], net.dense(x, 512, 100), 100)
    text = "A convolutional net with 100 MB of random weights"
    finish(folder, text, [3, 64, 64], 100, 8, [Variant("fp32", "fp32")])


def tiny(folder: Path) -> None:
    """A sound pair of variants, and two whose manifest lies about them."""
    sizes = [16, 32, 4]
    dense_net(folder / "base.onnx", sizes)
    calibration = np.random.default_rng([SEED, 2]).normal(size=(128, 16)).astype(np.float32)
    models.quantise_static(folder / "base.onnx", folder / "int8.onnx", calibration)
    net = onnx.load(folder / "int8.onnx")
    models.keep_used_domains(net)
    onnx.save(net, folder / "int8.onnx")
    dense_net(folder / "far.onnx", sizes, seed=SEED + 1)
    dense_net(folder / "nan.onnx", sizes, bias=float("nan"))
    lie = "\n# Its accuracy is a lie: a profiler must refuse it."
    variants = [
        Variant("base", "fp32"),
        Variant("int8", "int8"),
        Variant("far", "fp32", 0.95, f"Other random weights: outputs far from the reference.{lie}"),
        Variant("nan", "fp32", 0.95, f"Every output is NaN.{lie}"),
    ]
    finish(folder, "A dense net of random weights, for tests", [16], 4, 64, variants)


def finish(
    folder: Path, text: str, shape: list[int], classes: int, items: int, variants: list[Variant]
) -> None:
    """Write the manifest and the sample of a folder whose ONNX files are there."""
    manifest = f'''# Model folder made by scripts/bench-models.py.
# config/models/fashion/model.toml explains every key.

name = "{folder.name}"
version = "1"
task = "benchmark"
description = "{text}"
license = "MIT OR Apache-2.0"
max_batch = 32

[[input]]
name = "x"
dtype = "fp32"
shape = {[-1, *shape]}

[[output]]
name = "y"
dtype = "fp32"
shape = {[-1, classes]}

[accuracy]
metric = "top-1"
data = "the sample, labelled by {variants[0].name}"

[sample]
inputs = {{ x = "sample/x.npy" }}
labels = "sample/labels.npy"
score = "argmax"
output = "y"
'''
    for variant in variants:
        comment = f"# {variant.comment}\n" if variant.comment else ""
        parent = f'parent = "{variants[0].name}"\n' if variant is not variants[0] else ""
        manifest += f'''
{comment}[[variant]]
name = "{variant.name}"
file = "{variant.name}.onnx"
sha256 = ""
bytes = 0
precision = "{variant.precision}"
accuracy = 0.0
macs = 0
traffic_bytes = 0
units = ["cpu", "gpu", "npu"]
{parent}'''
    (folder / "model.toml").write_text(manifest)

    x = np.random.default_rng([SEED, 3]).normal(size=(items, *shape)).astype(np.float32)
    (y,) = models.session(folder / f"{variants[0].name}.onnx").run(["y"], {"x": x})
    models.save_array(folder / "sample/x.npy", x)
    models.save_array(folder / "sample/labels.npy", y.argmax(1).astype(np.int64))
    claimed = {v.name: v.accuracy for v in variants if v.accuracy is not None}
    models.fill_manifest(folder, "sample", claimed)


MODELS: dict[str, Callable[[Path], None]] = {
    "mlp": mlp,
    "mobile5ms": mobile5ms,
    "large-input": large_input,
    "heavy": heavy,
    "tiny": tiny,
}


def main() -> None:
    """Parse the arguments and generate."""
    summary, details = (__doc__ or "").split("\n", 1)
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details, formatter_class=plain)
    parser.add_argument("dir", type=Path, help="where the model folders go")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which models (default: all but heavy and tiny)")
    args = parser.parse_args()
    for name in args.names or ["mlp", "mobile5ms", "large-input"]:
        if name not in MODELS:
            parser.error(f"{name}: not one of {', '.join(MODELS)}")
        MODELS[name](args.dir / name)
        print(args.dir / name)


if __name__ == "__main__":
    main()
