"""What a variant is worth: accuracy with its interval, time, energy and cost."""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import models
import numpy as np
import onnxruntime as ort
from scipy.stats import binomtest

from . import graph
from .data import Arrays, Labelled

CONFIDENCE = 0.95
BATCH = 100


@dataclass(frozen=True)
class Accuracy:
    """How many items are right."""

    hits: int
    items: int

    @property
    def fraction(self) -> float:
        """The fraction of items that are right."""
        return self.hits / self.items

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval at 95 %: what the fraction is of all items like these."""
        low, high = binomtest(self.hits, self.items).proportion_ci(CONFIDENCE, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class Speed:
    """One item on one thread of this machine's CPU."""

    # Median.
    milliseconds: float
    # Joules of the whole package, where it has a meter.
    joules: float | None


class NotFiniteError(Exception):
    """A model answers with NaN or infinity."""


def accuracy(file: Path, data: Labelled, score: str, output: str) -> Accuracy:
    """Counts the items that a model file gets right.

    Raises:
        NotFiniteError: if an answer holds what is no number.

    """
    runtime, hits = graph.runtime(file, threads=2), 0
    for start in range(0, len(data), BATCH):
        part = data.take(slice(start, start + BATCH))
        (answer,) = runtime.run([output], part.inputs)
        if not np.isfinite(answer).all():
            raise NotFiniteError
        hits += int(models.correct(score, answer, part.labels).sum())
    return Accuracy(hits, len(data))


def meter(root: Path = Path("/sys/class/powercap")) -> Path | None:
    """The energy counter of the processor's package, where it may be read."""
    for counter in sorted(root.glob("intel-rapl:*/energy_uj")):
        try:
            int(counter.read_text())
        except (OSError, ValueError):
            continue
        return counter
    return None


def speeds(files: list[Path], item: Arrays, seconds: float, rounds: int = 7) -> list[Speed]:
    """Times all files in turn, several rounds, so that what else the machine does hits all alike."""
    sessions = [graph.runtime(file) for file in files]
    times: list[list[float]] = [[] for _ in files]
    joules: list[list[float]] = [[] for _ in files]
    counter = meter()
    for _ in range(rounds):
        for i, running in enumerate(sessions):
            for _ in range(3):
                running.run(None, item)
            before = int(counter.read_text()) if counter else 0
            runs, end = 0, time.perf_counter() + seconds / rounds
            while runs < 5 or time.perf_counter() < end:
                start = time.perf_counter()
                running.run(None, item)
                times[i].append(time.perf_counter() - start)
                runs += 1
            spent = int(counter.read_text()) - before if counter else 0
            # The counter begins anew now and then.
            if counter and spent >= 0:
                joules[i].append(spent / 1e6 / runs)
    return [
        Speed(statistics.median(t) * 1e3, statistics.median(j) if j else None)
        for t, j in zip(times, joules, strict=True)
    ]


def cost(file: Path) -> models.Cost:
    """Multiply-accumulates and bytes moved per item, with packed weights counted as they are computed with."""
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        graph.save(graph.fold(graph.read(file, file, "file")), plain)
        return models.cost(plain)


def machine() -> dict[str, str]:
    """Where times were measured."""
    model = "unknown"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {"processor": model, "architecture": platform.machine(), "onnxruntime": ort.__version__}


def as_json(value: Accuracy | Speed) -> dict[str, float | int | None]:
    """The fields of a measurement."""
    return asdict(value)
