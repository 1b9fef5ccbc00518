"""Fine-tuning, distillation and quantisation-aware training: one loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.ao.quantization import FusedMovingAvgObsFakeQuantize, MovingAverageMinMaxObserver
from torch.ao.quantization.observer import MovingAveragePerChannelMinMaxObserver
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrize

from . import trainable
from .data import Labelled
from .faults import Fault
from .recipe import Distil, Feature, Finetune
from .trainable import Net

Say = Callable[[str], None]


@dataclass
class Lesson:
    """What a teacher says of the training items: its outputs, and those of some layers."""

    outputs: np.ndarray
    features: dict[str, np.ndarray] = field(default_factory=dict)


# --- Losses, for each way to score ---


def pitch_target(hertz: Tensor) -> Tensor:
    """CREPE's target: a bell of 25 cents about the true pitch, over 360 bins of 20 cents."""
    cents = 1200 * torch.log2(hertz / 10)
    bins = torch.linspace(0, 7180, 360) + 1997.3794084376191
    return torch.exp(-((bins[None] - cents[:, None]) ** 2) / (2 * 25**2)).float()


def hard_loss(score: str, output: Tensor, labels: Tensor) -> Tensor:
    """How far an output is from the labels."""
    if score == "argmax":
        return F.cross_entropy(output, labels)
    return F.binary_cross_entropy(output, pitch_target(labels))


def soft_loss(score: str, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far an output is from the teacher's, both softened (Hinton et al., 2015)."""
    t = temperature
    if score == "argmax":
        mine, theirs = (output / t).log_softmax(1), (taught / t).softmax(1)
        return t * t * F.kl_div(mine, theirs, reduction="batchmean")
    mine, theirs = (x.clamp(1e-6, 1 - 1e-6).logit() / t for x in (output, taught))
    return t * t * F.binary_cross_entropy_with_logits(mine, theirs.sigmoid())


class FeatureLoss(nn.Module):
    """How far a layer's output is from the teacher's, after a linear map where they differ in channels."""

    def __init__(self, feature: Feature, layer: nn.Module, taught: np.ndarray) -> None:
        super().__init__()
        self.feature, self.seen = feature, list[Tensor]()
        self.scale = feature.weight / max(float(np.var(taught[:1024].astype(np.float32))), 1e-12)
        self.adapter: nn.Module | None = None
        self.hook = layer.register_forward_hook(lambda _, __, out: self.seen.append(out))

    def build(self, taught: np.ndarray, file: Path, key: str) -> None:
        """Makes the map, from a first output that the hook has seen."""
        mine = self.seen.pop()
        if mine.dim() != taught.ndim or mine.shape[2:] != taught.shape[2:]:
            rule = f"gives items of shape {tuple(mine.shape[1:])}, the teacher's {taught.shape[1:]}"
            raise Fault.at(file, f"{key}.student", self.feature.student, f"{rule}: only channels may differ")
        a, b = mine.shape[1], taught.shape[1]
        self.adapter = nn.Identity()
        if a != b:
            self.adapter = nn.Linear(a, b) if mine.dim() == 2 else nn.Conv2d(a, b, 1)

    def forward(self, taught: Tensor) -> Tensor:
        """The loss of the last output seen."""
        assert self.adapter is not None, "built"
        return self.scale * F.mse_loss(self.adapter(self.seen.pop()), taught.float())


# --- What holds while weights are trained ---


class Masked(nn.Module):
    """Keeps pruned weights at zero."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its zeros."""
        return weight * self.mask


class Shared(nn.Module):
    """Trains the few values that weights share (Han et al., ICLR 2016)."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.index: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """The weight."""
        return values[self.index]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The shared values of a weight."""
        values = torch.zeros(int(self.index.max()) + 1)
        return values.index_put((self.index,), weight)


class Rounded(nn.Module):
    """Rounds as int8 quantisation will; gradients pass as if it did not (Jacob et al., CVPR 2018).

    A scale per output channel makes a BatchNorm behind the layer no matter: folding it scales weight and
    grid alike.
    """

    def __init__(self, weights: bool) -> None:
        super().__init__()
        if weights:
            # 7 bits, one scale per output channel: the defaults of `quantise`.
            self.fake = FusedMovingAvgObsFakeQuantize(
                observer=MovingAveragePerChannelMinMaxObserver,
                quant_min=-64,
                quant_max=63,
                dtype=torch.qint8,
                qscheme=torch.per_channel_symmetric,
                ch_axis=0,
                averaging_constant=1.0,
            )
        else:
            self.fake = FusedMovingAvgObsFakeQuantize(
                observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
            )

    def forward(self, x: Tensor) -> Tensor:
        """The same, rounded."""
        rounded: Tensor = self.fake(x.contiguous())
        return rounded


@contextmanager
def held(net: Net, step: Finetune | Distil) -> Iterator[None]:
    """Zeros stay zero, shared values stay shared, and with `quantisation_aware` all is rounded."""
    hooks = []
    for layer in net.layers.values():
        weight = layer.weight.detach()
        assert isinstance(weight, Tensor), "a layer's weight"
        values, index = weight.unique(return_inverse=True)
        if len(values) <= 256 and len(values) * 4 < weight.numel():
            parametrize.register_parametrization(layer, "weight", Shared(index), unsafe=True)
        elif (weight == 0).float().mean() > 0.1:
            parametrize.register_parametrization(layer, "weight", Masked((weight != 0).float()))
        if step.quantisation_aware:
            parametrize.register_parametrization(layer, "weight", Rounded(weights=True))
            rounding = Rounded(weights=False)
            hooks.append(layer.register_forward_pre_hook(lambda _, x, r=rounding: (r(x[0]), *x[1:])))
    yield
    for hook in hooks:
        hook.remove()
    for layer in net.layers.values():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


# --- The loop ---


def augmented(x: Tensor, step: Finetune | Distil) -> Tensor:
    """Pictures [N,...,H,W], flipped and shifted at random."""
    if step.augment.flip:
        which = torch.rand(len(x)) < 0.5
        x = torch.where(which.view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)
    if s := step.augment.shift:
        i, j = (int(v) for v in torch.randint(0, 2 * s + 1, (2,)))
        height, width = x.shape[-2:]
        x = F.pad(x, (s, s, s, s))[..., i : i + height, j : j + width]
    return x


def order(items: int, examples: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of item numbers: each item once before any twice."""
    rng, left = np.random.default_rng(seed), np.empty(0, np.int64)
    for start in range(0, examples, batch):
        want = min(batch, examples - start)
        while len(left) < want:
            left = np.concatenate([left, rng.permutation(items)])
        # A batch of one has no statistics.
        if want > 1:
            yield left[:want]
        left = left[want:]


def train(
    net: Net,
    step: Finetune | Distil,
    data: Labelled,
    score: str,
    lesson: Lesson | None,
    seed: int,
    file: Path,
    key: str,
    say: Say = print,
) -> None:
    """Trains `net` in place. `lesson` is what the teacher says of each item of `data`.

    Raises:
        Fault: if a feature's layer is unknown or fits its teacher's not, or if training diverges.

    """
    trainable.deterministic(seed)
    module = net.module.to(memory_format=torch.channels_last)
    inputs = trainable.tensors(data.inputs, net.inputs)
    labels = torch.from_numpy(data.labels.astype(np.int64 if score == "argmax" else np.float32))
    taught = torch.from_numpy(lesson.outputs) if lesson else None
    with held(net, step):
        features = _features(net, step, inputs, lesson, file, key)
        parameters = [*module.parameters(), *(p for f in features for p in f.parameters())]
        optimiser = _optimiser(step, parameters)
        steps = max(1, -(-step.examples // step.batch))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, step.rate, total_steps=steps, pct_start=0.15)
        module.train()
        done, told = 0, time.monotonic()
        for which in order(len(data), step.examples, step.batch, seed):
            output = module(*(augmented(x[which], step) for x in inputs))
            loss = _loss(step, score, output, labels[which], None if taught is None else taught[which])
            for f in features:
                assert lesson is not None, "features are the teacher's"
                loss = loss + f(torch.from_numpy(lesson.features[f.feature.teacher][which]))
            if not torch.isfinite(loss):
                rule = f"the loss is {loss.item()} after {done} examples: take a smaller rate"
                raise Fault.at(file, f"{key}.rate", step.rate, rule)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            done += len(which)
            if time.monotonic() - told > 20:
                told = time.monotonic()
                say(f"    {done}/{step.examples} examples, loss {loss.item():.3f}")
        for f in features:
            f.hook.remove()
    module.eval()


def _loss(step: Finetune | Distil, score: str, output: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    hard = hard_loss(score, output, labels)
    if not isinstance(step, Distil) or taught is None:
        return hard
    return (1 - step.soft) * hard + step.soft * soft_loss(score, output, taught, step.temperature)


def _optimiser(step: Finetune | Distil, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if step.optimiser == "sgd":
        return torch.optim.SGD(parameters, step.rate, momentum=0.9, weight_decay=step.weight_decay, nesterov=True)
    return torch.optim.AdamW(parameters, step.rate, weight_decay=step.weight_decay)


def _features(
    net: Net, step: Finetune | Distil, inputs: list[Tensor], lesson: Lesson | None, file: Path, key: str
) -> list[FeatureLoss]:
    if not isinstance(step, Distil) or lesson is None:
        return []
    found = []
    for i, feature in enumerate(step.features):
        layer = net.named(feature.student)
        if layer is None:
            some = ", ".join(net.names()[:8])
            rule = f"is no layer of the student; there are: {some}, ..."
            raise Fault.at(file, f"{key}.features[{i}].student", feature.student, rule)
        found.append(FeatureLoss(feature, layer, lesson.features[feature.teacher]))
    if found:
        with torch.no_grad():
            net.module(*(x[:2] for x in inputs))
        for i, loss in enumerate(found):
            loss.build(lesson.features[loss.feature.teacher], file, f"{key}.features[{i}]")
    return found
