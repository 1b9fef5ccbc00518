"""A tiny model with data that it can learn, and a folder to build in."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

CLASSES = 4
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (uint8[N,8,8] image) => (float[N,4] logits)
<float one = {0.01}, int64[1] axis = {1}, int64[2] rows = {-1, 24}>
{
  pixels = Cast <to = 1> (image)
  scaled = Mul (pixels, one)
  plane = Unsqueeze (scaled, axis)
  a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (plane, w1, b1)
  ar = Relu (a)
  d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 16> (ar, w2, b2)
  dr = Clip (d, low, high)
  e = Conv <kernel_shape = [1, 1]> (dr, w3, b3)
  er = Relu (e)
  pooled = ReduceMean <axes = [2, 3], keepdims = 0> (er)
  logits = Gemm <transB = 1> (pooled, w4, b4)
}
"""
SHAPES = {"w1": (16, 1, 3, 3), "w2": (16, 1, 3, 3), "w3": (24, 16, 1, 1), "w4": (CLASSES, 24)}
NAMES = ["first", "depth", "point", "head"]


def patterns(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of four kinds: bars lying or standing, a chequerboard, noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    y, x = np.mgrid[0:8, 0:8]
    kinds = np.stack([y // 2 % 2, x // 2 % 2, (x + y) % 2, np.zeros((8, 8), int)])
    images = kinds[labels] * 160 + rng.integers(0, 90, (count, 8, 8))
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def tiny_net() -> onnx.ModelProto:
    """Random weights, always the same."""
    model = parser.parse_model(NET)
    rng = np.random.default_rng(3)
    constants = {"low": np.float32(0), "high": np.float32(6)}
    for i, (name, shape) in enumerate(SHAPES.items(), start=1):
        fan = np.prod(shape[1:])
        constants[name] = rng.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32)
        constants[f"b{i}"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    weighted = (n for n in model.graph.node if n.op_type in ("Conv", "Gemm"))
    for node, name in zip(weighted, NAMES, strict=True):
        node.name = name
    return model


MANIFEST = """
name = "tiny"
version = "1"
license = "MIT"
max_batch = 8
input = [{ name = "image", dtype = "uint8", shape = [-1, 8, 8] }]
output = [{ name = "logits", dtype = "fp32", shape = [-1, 4] }]
accuracy = { metric = "top-1", data = "patterns" }
sample = { inputs = { image = "image.npy" }, labels = "labels.npy", score = "argmax", output = "logits" }

[[variant]]
name = "base"
file = "base.onnx"
sha256 = ""
bytes = 0
precision = "fp32"
accuracy = 0.25
macs = 0
traffic_bytes = 0
units = ["cpu"]
"""

RECIPE = """
name = "tiny"
version = "2"
seed = 5
source = { folder = "model", variant = "base" }
quick = { variants = ["learnt"], examples = 256, test_items = 50 }

[data.train]
source = "npy"
inputs = { image = "train.npy" }
labels = "train-labels.npy"

[data.tune]
source = "npy"
inputs = { image = "tune.npy" }
labels = "tune-labels.npy"

[data.test]
source = "npy"
inputs = { image = "test.npy" }
labels = "test-labels.npy"

[[variant]]
name = "base"

[[variant]]
name = "learnt"
step = [{ kind = "finetune", examples = 1500, batch = 32, rate = 1e-2 }]
"""


class Place:
    """A folder with a model, data and a recipe."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path / "recipe.toml"
        (path / "model").mkdir()
        onnx.save(tiny_net(), path / "model/base.onnx")
        (path / "model/model.toml").write_text(MANIFEST)
        for name, count, seed in (("train", 600, 1), ("tune", 200, 2), ("test", 300, 3)):
            images, labels = patterns(count, seed)
            np.save(path / f"{name}.npy", images)
            np.save(path / f"{name}-labels.npy", labels)
        images, labels = patterns(20, 4)
        np.save(path / "model/image.npy", images)
        np.save(path / "model/labels.npy", labels)
        models.fill_manifest(path / "model", None)
        self.file.write_text(RECIPE)

    def add(self, text: str) -> None:
        """Adds variants to the recipe."""
        self.file.write_text(self.file.read_text() + textwrap.dedent(text))

    def change(self, old: str, new: str) -> None:
        """Changes the recipe, where it says `old`."""
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made")
    Place(path)
    return path


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    shutil.copytree(made, tmp_path / "place")
    copy = Place.__new__(Place)
    copy.path, copy.file = tmp_path / "place", tmp_path / "place/recipe.toml"
    return copy
