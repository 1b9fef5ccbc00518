"""Labelled data: where it comes from, and whether it can be worked with."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np

from .faults import Fault
from .recipe import Data, Recipe

Arrays = dict[str, np.ndarray]
# Fewest items that a set may have.
MIN_ITEMS = 10


@dataclass(frozen=True)
class Labelled:
    """Inputs by name, batch first, and one label per item."""

    inputs: Arrays
    labels: np.ndarray
    description: str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: np.ndarray | slice) -> Labelled:
        """Some of the items."""
        inputs = {name: x[which] for name, x in self.inputs.items()}
        return Labelled(inputs, self.labels[which], self.description)

    def digest(self) -> str:
        """SHA-256 over names, shapes, types and values."""
        sha = hashlib.sha256()
        for name, array in [*sorted(self.inputs.items()), ("", self.labels)]:
            sha.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    def items(self) -> set[bytes]:
        """The items as hashes, to find those that are in two sets."""
        names = sorted(self.inputs)
        rows = (b"".join(self.inputs[n][i].tobytes() for n in names) for i in range(len(self)))
        return {hashlib.blake2b(row, digest_size=16).digest() for row in rows}


@dataclass(frozen=True)
class Sets:
    """The three sets of a recipe."""

    train: Labelled
    tune: Labelled
    test: Labelled

    def common(self) -> int:
        """Items of the test set that were seen before, in the training set or in the tuning set."""
        return len(self.test.items() & (self.train.items() | self.tune.items()))


def load(file: Path, recipe: Recipe, manifest: dict[str, Any]) -> Sets:
    """Loads the three sets of a recipe and checks them against the manifest of the source.

    Raises:
        Fault: if one is missing or unfit for the model.

    """
    sets = {}
    for key in ("train", "tune", "test"):
        spec: Data = getattr(recipe.data, key)
        where = f"data.{key}"
        labelled = _read(file, where, spec)
        if spec.items is not None:
            if spec.items[1] > len(labelled):
                raise Fault.at(file, f"{where}.items", spec.items, f"there are {len(labelled)} items")
            labelled = labelled.take(slice(*spec.items))
        check(file, where, labelled, manifest)
        sets[key] = labelled
    result = Sets(**sets)
    common = result.common()
    # Collections have their own duplicates; a set that was named twice has more.
    if common > len(result.test) // 100:
        rule = f"{common} of {len(result.test)} items are also in data.train or data.tune: take others"
        raise Fault.at(file, "data.test.source", recipe.data.test.source, rule)
    return result


def _read(file: Path, where: str, spec: Data) -> Labelled:
    if spec.source == "fashion-mnist":
        folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
        try:
            split = "train" if spec.split == "train" else "t10k"
            inputs, labels = models.fashion_mnist(folder, split)
        except (OSError, EOFError, ValueError) as error:
            rule = f"{error}; install Debian's dataset-fashion-mnist, or name its folder in FASHION_MNIST"
            raise Fault.at(file, f"{where}.source", spec.source, rule) from error
        return Labelled(inputs, labels, spec.description)
    if spec.source == "tones":
        assert spec.count is not None and spec.seed is not None, "validated"
        return Labelled(*models.tones(spec.count, spec.seed), spec.description)
    assert spec.inputs is not None and spec.labels is not None, "validated"
    inputs = {n: _array(file, f"{where}.inputs.{n}", path) for n, path in spec.inputs.items()}
    return Labelled(inputs, _array(file, f"{where}.labels", spec.labels), spec.description)


def _array(file: Path, key: str, path: str) -> np.ndarray:
    try:
        array = np.load(file.parent / path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Fault.at(file, key, path, f"cannot be read as .npy: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise Fault.at(file, key, path, "holds no array of items: save one array with numpy.save")
    return array


NUMPY = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}


def check(file: Path, where: str, data: Labelled, manifest: dict[str, Any]) -> None:
    """Fails unless the items fit the model's inputs and the labels can be scored."""
    inputs = manifest["input"]
    names = [str(spec["name"]) for spec in inputs]
    if sorted(data.inputs) != sorted(names):
        raise Fault.at(file, f"{where}.inputs", sorted(data.inputs), f"the model's inputs are {names}")
    labels = data.labels
    if labels.ndim != 1:
        raise Fault.at(file, f"{where}.labels", labels.shape, "one label per item: the shape must be (N,)")
    if len(labels) < MIN_ITEMS:
        raise Fault.at(file, f"{where}.labels", len(labels), f"too few items: at least {MIN_ITEMS}")
    for spec in inputs:
        name, x = str(spec["name"]), data.inputs[str(spec["name"])]
        key = f"{where}.inputs.{name}"
        dtype = NUMPY.get(str(spec["dtype"]), str(spec["dtype"]))
        if x.dtype != np.dtype(dtype):
            raise Fault.at(file, key, str(x.dtype), f"the model takes {dtype}")
        shape = spec["shape"]
        fits = x.ndim == len(shape) and all(w in (-1, h) for w, h in zip(shape, x.shape, strict=True))
        if not fits:
            raise Fault.at(file, key, x.shape, f"the model takes items of shape {shape}")
        if len(x) != len(labels):
            rule = f"there are {len(labels)} labels: {abs(len(x) - len(labels))} are missing or too many"
            raise Fault.at(file, key, len(x), rule)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            bad = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0])
            raise Fault.at(file, key, f"item {bad}", "holds NaN or infinity: leave it out")
    _check_labels(file, where, labels, manifest)


def _check_labels(file: Path, where: str, labels: np.ndarray, manifest: dict[str, Any]) -> None:
    key, scored = f"{where}.labels", manifest["sample"]
    (shape,) = (output["shape"] for output in manifest["output"] if output["name"] == scored["output"])
    if scored["score"] == "argmax":
        if labels.dtype.kind not in "iu":
            raise Fault.at(file, key, str(labels.dtype), "labels are class numbers: whole numbers from 0")
        if labels.min() < 0:
            raise Fault.at(file, key, int(labels.min()), "a label below 0: missing labels must be left out")
        if len(shape) == 2 and 0 < shape[1] <= labels.max():
            rule = f"the model tells {shape[1]} classes apart: labels are from 0 to {shape[1] - 1}"
            raise Fault.at(file, key, int(labels.max()), rule)
        if len(np.unique(labels)) < 2:
            rule = "all items are of one class, on which any accuracy is luck: two or more are needed"
            raise Fault.at(file, key, int(labels[0]), rule)
    elif labels.dtype.kind != "f" or not np.isfinite(labels).all() or labels.min() <= 0:
        raise Fault.at(file, key, str(labels.dtype), "labels are pitches in hertz, above 0, without NaN")
