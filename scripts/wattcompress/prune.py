"""Pruning: single weights, whole channels, or weights that share values; how much of each layer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import models
import numpy as np
import onnx
import torch
import torch_pruning as tp
from torch import Tensor, nn

from . import graph, quantise, trainable
from .data import Arrays, Labelled
from .faults import Fault
from .recipe import Prune
from .trainable import Net

Say = Callable[[str], None]


# Behind these, which weight belongs to which channel is guessed, and guessed wrong.
LOSE_CHANNELS = ("Transpose", "Reshape", "DepthToSpace", "SpaceToDepth")


def check(model: onnx.ModelProto, step: Prune, file: Path, key: str) -> None:
    """Fails if channels cannot be followed through the graph.

    Raises:
        Fault: it names the node.

    """
    before = graph.front(model)
    for node in model.graph.node:
        if step.structure == "channels" and node.op_type in LOSE_CHANNELS and node.name not in before:
            rule = f"node `{node.name}` is {node.op_type}, behind which channels cannot be followed: prune weights"
            raise Fault.at(file, f"{key}.structure", step.structure, rule)


def prune(net: Net, step: Prune, tune: Labelled, score: str, seed: int, file: Path, key: str, say: Say = print) -> None:
    """Applies the step to `net` in place. Sensitivity is measured on `tune`.

    Raises:
        Fault: if a layer is unknown, or nothing can be removed.

    """
    trainable.deterministic(seed)
    if step.method == "cluster":
        for name in graph.chosen(file, key, list(net.layers), step.only, step.exclude):
            weight = _weight(net.layers[name])
            assert step.clusters is not None, "validated"
            index, values, _ = quantise.codebook(weight.numpy(), step.clusters, seed)
            weight.copy_(torch.from_numpy(values[index]))
        return
    pruner = Channels(net, step, tune, file, key) if step.structure == "channels" else Weights(net, step)
    names = graph.chosen(file, key, pruner.names(), step.only, step.exclude)
    pruner.apply(_amounts(pruner, names, step, tune, score, say))


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight.detach()
    assert isinstance(weight, Tensor), "a layer's weight"
    return weight


def accuracy(net: Net, data: Labelled, score: str) -> float:
    """The fraction of items that a module gets right."""
    hits = 0
    with torch.no_grad():
        for start in range(0, len(data), 64):
            part = data.take(slice(start, start + 64))
            output = net.module(*trainable.tensors(part.inputs, net.inputs)).numpy()
            hits += int(models.correct(score, output, part.labels).sum())
    return hits / len(data)


class Weights:
    """Sets the smallest weights to zero."""

    def __init__(self, net: Net, step: Prune) -> None:
        self.net, self.step = net, step

    def names(self) -> list[str]:
        """What can be pruned."""
        return list(self.net.layers)

    def size(self, name: str) -> int:
        """How much of it there is."""
        return _weight(self.net.layers[name]).numel()

    def magnitudes(self, name: str) -> Tensor:
        """How much each weight matters, comparable between layers: its share of the layer's norm."""
        weight = _weight(self.net.layers[name])
        norm = weight.abs().mean() if self.step.method == "l1" else weight.pow(2).mean().sqrt()
        return weight.abs() / norm.clamp(min=1e-12)

    def apply(self, amounts: dict[str, float]) -> None:
        """Zeroes a fraction of each layer."""
        for name, amount in amounts.items():
            magnitudes, count = self.magnitudes(name), round(self.size(name) * amount)
            lowest = magnitudes.flatten().argsort(stable=True)[:count]
            _weight(self.net.layers[name]).view(-1)[lowest] = 0

    def trial(self, name: str, amount: float) -> Net:
        """A copy with one layer pruned."""
        other = self.net.copy()
        Weights(other, self.step).apply({name: amount})
        return other


class Channels:
    """Removes channels, with all that made and read them (Fang et al., CVPR 2023)."""

    def __init__(self, net: Net, step: Prune, data: Labelled, file: Path, key: str) -> None:
        self.net, self.step, self.file, self.key = net, step, file, key
        self.example: Arrays = data.take(slice(0, 2)).inputs
        self.importance = tp.importance.MagnitudeImportance(p=1 if step.method == "l1" else 2)
        self.groups = {self._name(g): (self._sources(g), len(g[0].idxs)) for g in self._all()}
        if not self.groups:
            raise Fault.at(file, f"{key}.structure", "channels", "no channel can be removed from this graph")

    def _dependencies(self) -> tp.DependencyGraph:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = tuple(trainable.tensors(self.example, self.net.inputs))
            # It follows gradients, so the weights must have some.
            self.net.module.requires_grad_(True)
            self.graph = tp.DependencyGraph().build_dependency(self.net.module, example_inputs=inputs)
            return self.graph

    def _all(self) -> list[tp.Group]:
        # What the last layer puts out is the output of the model.
        last = list(self.net.layers.values())[-1]
        kinds = list(trainable.LAYER_TYPES)
        return list(self._dependencies().get_all_groups(ignored_layers=[last], root_module_types=kinds))

    def _sources(self, group: tp.Group) -> list[str]:
        """The layers of a group that lose outputs."""
        makers = {id(d.target.module) for d, _ in group if self.graph.is_out_channel_pruning_fn(d.handler)}
        return [name for name, m in self.net.layers.items() if id(m) in makers]

    def _name(self, group: tp.Group) -> str:
        return self._sources(group)[0]

    def names(self) -> list[str]:
        """What can be pruned: each group by its first layer."""
        return list(self.groups)

    def size(self, name: str) -> int:
        """Channels of a group."""
        return self.groups[name][1]

    def magnitudes(self, name: str) -> Tensor:
        """How much each channel matters, as a share of the group's mean."""
        group = next(g for g in self._all() if self._name(g) == name)
        with torch.no_grad():
            scores: Tensor = self.importance(group)
        return scores / scores.mean().clamp(min=1e-12)

    def apply(self, amounts: dict[str, float]) -> None:
        """Removes a fraction of the channels of each group, leaving a multiple of `round_to`."""
        for name, amount in amounts.items():
            group = next(g for g in self._all() if self._name(g) == name)
            count, to = len(group[0].idxs), self.step.round_to
            left = min(count, max(to, round(count * (1 - amount) / to) * to))
            with torch.no_grad():
                lowest = self.importance(group).argsort(stable=True)[: count - left].tolist()
            if lowest:
                root = group[0].dep
                again = self._dependencies().get_pruning_group(root.target.module, root.handler, lowest)
                again.prune()
        self.net.module.requires_grad_(True)

    def trial(self, name: str, amount: float) -> Net:
        """A copy with one group pruned."""
        other = self.net.copy()
        pruner = copy.copy(self)
        pruner.net = other
        pruner.apply({name: amount})
        return other


def _amounts(
    pruner: Weights | Channels, names: list[str], step: Prune, tune: Labelled, score: str, say: Say
) -> dict[str, float]:
    """How much of each layer goes, so that `amount` of all goes."""
    assert step.amount is not None, "validated"
    if step.budget == "uniform":
        return dict.fromkeys(names, step.amount)
    if step.budget == "global":
        magnitudes = {name: pruner.magnitudes(name) for name in names}
        everything = torch.cat([m.flatten() for m in magnitudes.values()]).sort().values
        threshold = everything[round(len(everything) * step.amount) - 1]
        # A layer without weights would be a broken graph.
        return {n: min(0.95, float((m <= threshold).float().mean())) for n, m in magnitudes.items()}
    data = tune.take(slice(0, step.sensitivity.items))
    drops = sensitivity(pruner, names, sorted(step.sensitivity.levels), data, score, say)
    return budget(drops, {name: pruner.size(name) for name in names}, step.amount)


Curve = list[tuple[float, float]]


def sensitivity(
    pruner: Weights | Channels, names: list[str], levels: list[float], data: Labelled, score: str, say: Say
) -> dict[str, Curve]:
    """How much accuracy is lost if a layer alone is pruned, at each level; never falling."""
    whole = accuracy(pruner.net, data, score)
    curves: dict[str, Curve] = {}
    for name in names:
        curve: Curve = [(0.0, 0.0)]
        for level in levels:
            lost = whole - accuracy(pruner.trial(name, level), data, score)
            curve.append((level, max(lost, curve[-1][1])))
        say(f"    {name}: " + ", ".join(f"{100 * lost:.1f} points at {level}" for level, lost in curve[1:]))
        curves[name] = curve
    return curves


def budget(drops: dict[str, Curve], sizes: dict[str, int], amount: float) -> dict[str, float]:
    """The amounts at which every layer costs the same accuracy alone, and `amount` of all goes."""
    total = sum(sizes.values())

    def amounts(allowed: float) -> dict[str, float]:
        return {name: _reach(curve, allowed) for name, curve in drops.items()}

    def gone(parts: dict[str, float]) -> float:
        return sum(sizes[name] * part for name, part in parts.items()) / total

    # Below zero nothing is allowed, at the largest drop everything.
    low, high = -1e-9, max(curve[-1][1] for curve in drops.values())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if gone(amounts(middle)) < amount else (low, middle)
    # Layers that lose nothing for a while jump from one amount to another: both meet between.
    less, more = amounts(low), amounts(high)
    part = (amount - gone(less)) / max(gone(more) - gone(less), 1e-12)
    return {name: less[name] + min(part, 1.0) * (more[name] - less[name]) for name in drops}


def _reach(curve: Curve, allowed: float) -> float:
    """The largest amount whose drop is allowed, between the measured levels on straight lines."""
    reached = 0.0
    for (a, lost_a), (b, lost_b) in pairwise(curve):
        if lost_b <= allowed:
            reached = b
        elif lost_a <= allowed:
            return a + (b - a) * (allowed - lost_a) / (lost_b - lost_a)
    return reached


def zeros(weights: list[np.ndarray]) -> float:
    """The fraction of weights that are zero."""
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.size for w in weights))
