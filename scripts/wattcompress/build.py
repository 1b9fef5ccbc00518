"""From a recipe to measured variants: each step is kept, so that a build goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx

from . import data, graph, measure, pack, prune, quantise, train, trainable
from .cache import Cache, digest, file_digest, tools
from .faults import Fault
from .recipe import Distil, Finetune, Pack, Prune, Quantise, Recipe, Step, Variant

Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A model file as a step left it, and the records of the steps."""

    file: Path
    sha256: str
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """A finished variant."""

    variant: Variant
    made: Made
    accuracy: measure.Accuracy
    speed: measure.Speed
    cost: models.Cost
    # The nearest ancestor that is listed.
    parent: str | None

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.made.file.stat().st_size


class Builder:
    """Builds the variants of a recipe."""

    def __init__(self, file: Path, recipe: Recipe, cache: Cache, quick: bool = False, say: Say = print) -> None:
        self.file, self.recipe, self.cache, self.quick, self.say = file, recipe, cache, quick, say
        self.folder = self._open_source()
        self.finished: dict[str, Made] = {}
        self.stages: dict[str, Made] = {}

    # --- The source and the data ---

    def _open_source(self) -> models.Folder:
        source = self.recipe.source
        path = self.file.parent / source.folder
        try:
            folder = models.Folder.open(path)
            names = [variant["name"] for variant in folder.manifest["variant"]]
        except (OSError, ValueError, KeyError) as error:
            rule = f"has no model.toml that can be read: {error}"
            raise Fault.at(self.file, "source.folder", source.folder, rule) from error
        if source.variant not in names:
            rule = f"is no variant of {path}; there are: {', '.join(names)}"
            raise Fault.at(self.file, "source.variant", source.variant, rule)
        for key in ("license", "max_batch", "input", "output", "accuracy", "sample"):
            if key not in folder.manifest:
                rule = f"its model.toml has no `{key}`, which the new one needs: wattctl check says what is right"
                raise Fault.at(self.file, "source.folder", source.folder, rule)
        return folder

    @property
    def score(self) -> str:
        """How outputs are compared with labels."""
        return str(self.folder.manifest["sample"]["score"])

    @cached_property
    def sets(self) -> data.Sets:
        """The labelled data; with --quick fewer items."""
        sets = data.load(self.file, self.recipe, self.folder.manifest)
        train, test = sets.train, sets.test
        if self.quick:
            train = train.take(slice(0, self.recipe.quick.examples))
        if self.quick and len(test) > self.recipe.quick.test_items:
            which = np.random.default_rng(self.recipe.seed).permutation(len(test))
            test = test.take(np.sort(which[: self.recipe.quick.test_items]))
        return data.Sets(train, sets.tune, test)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Hashes of the three sets."""
        return {key: getattr(self.sets, key).digest() for key in ("train", "tune", "test")}

    @cached_property
    def source(self) -> Made:
        """The model to start from, in the form that steps work on."""
        given = self.recipe.source.variant
        (file,) = (v["file"] for v in self.folder.manifest["variant"] if v["name"] == given)
        model = graph.read(self.folder.path / file, self.file, "source.variant")
        if any(node.op_type in ("QuantizeLinear", "QLinearConv", "ConvInteger") for node in model.graph.node):
            rule = "is quantised already: name a variant in floating point"
            raise Fault.at(self.file, "source.variant", given, rule)
        try:
            models.check_signature(self.folder, file)
        except SystemExit as error:
            raise Fault.at(self.file, "source.variant", given, str(error)) from None
        key = digest(["source", file_digest(self.folder.path / file), tools()])
        kept = self.cache.model(key) or self.cache.put_model(key, graph.prepare(model), {"kind": "source"})
        return Made(kept[0], kept[1]["sha256"])

    # --- Variants ---

    def variants(self) -> list[Variant]:
        """Those to build, each after what it continues."""
        if not self.quick:
            return self.recipe.variant
        by_name = {variant.name: variant for variant in self.recipe.variant}
        wanted = {self.recipe.variant[0].name, *self.recipe.quick.variants}
        for variant in reversed(self.recipe.variant):
            if variant.name in wanted:
                teachers = [step.teacher for step in variant.step if isinstance(step, Distil)]
                wanted.update(n for n in [variant.parent, *teachers] if n is not None and n in by_name)
        return [variant for variant in self.recipe.variant if variant.name in wanted]

    def build(self, variant: Variant) -> Made:
        """Runs the steps of a variant."""
        if variant.name in self.finished:
            return self.finished[variant.name]
        made = self.stages[variant.parent] if variant.parent else self.source
        self.stages[variant.name] = made
        for j, step in enumerate(variant.step):
            where = f"variant[{self.recipe.variant.index(variant)}].step[{j}]"
            made = self._step(variant.name, made, step, where)
            if not isinstance(step, Pack):
                self.stages[variant.name] = made
        self.finished[variant.name] = made
        return made

    def _step(self, name: str, given: Made, step: Step, where: str) -> Made:
        if self.quick and isinstance(step, (Finetune, Distil)):
            step = step.model_copy(update={"examples": min(step.examples, self.recipe.quick.examples)})
        depends: dict[str, object] = {
            "parent": given.sha256,
            "step": step.model_dump(),
            "seed": self.recipe.seed,
            "tools": tools(),
        }
        if not isinstance(step, Pack):
            depends["train"] = self.digests["train"]
        if isinstance(step, Prune) and step.budget == "sensitivity":
            depends["tune"] = self.digests["tune"]
        if isinstance(step, Distil):
            depends["teacher"] = self._teacher(step).sha256
        key = digest(depends)
        kept = self.cache.model(key)
        if kept is None:
            self.say(f"{name}: {describe(step)}")
            start, seed = time.monotonic(), int(key[:8], 16)
            model = self._run(graph.read(given.file, self.file, where), step, where, seed)
            record: dict[str, Any] = {**depends, "seconds": round(time.monotonic() - start, 1)}
            kept = self.cache.put_model(key, model, record)
        return Made(kept[0], kept[1]["sha256"], [*given.records, kept[1]])

    def _run(self, model: onnx.ModelProto, step: Step, where: str, seed: int) -> onnx.ModelProto:
        if isinstance(step, Pack):
            return pack.pack(model, step.half)
        if isinstance(step, Quantise):
            return quantise.quantise(model, step, self.sets.train, seed, self.file, where)
        some = self.sets.train.take(slice(0, 512)).inputs
        trainable.deterministic(seed)
        if isinstance(step, Distil) and step.student:
            net = trainable.student(step.student, model, some, self.file, where)
        else:
            net = trainable.from_onnx(model, self.file, f"{where}.kind")
        if isinstance(step, Prune):
            prune.check(model, step, self.file, where)
            # Norms from before keep the statistics of what is left as they were.
            trainable.add_norms(net, some)
            prune.prune(net, step, self.sets.tune, self.score, seed, self.file, where, self.say)
            trainable.follow(net, some)
        else:
            trainable.add_norms(net, some)
            lesson = self._lesson(step, where) if isinstance(step, Distil) else None
            train.train(net, step, self.sets.train, self.score, lesson, seed, self.file, where, self.say)
        return trainable.to_onnx(net, some)

    # --- Teachers ---

    def _teacher(self, step: Distil) -> Made:
        return self.stages[step.teacher] if step.teacher else self.source

    def _lesson(self, step: Distil, where: str) -> train.Lesson:
        """What the teacher says of the training items, kept."""
        teacher = self._teacher(step)
        model = graph.read(teacher.file, self.file, f"{where}.teacher")
        nodes = {node.name: node.output[0] for node in model.graph.node}
        for i, feature in enumerate(step.features):
            if feature.teacher not in nodes:
                some = ", ".join(list(nodes)[-6:])
                rule = f"is no node of the teacher; the last are: {some}"
                raise Fault.at(self.file, f"{where}.features[{i}].teacher", feature.teacher, rule)
        names = [feature.teacher for feature in step.features]
        outputs = self._ask(teacher, model, [model.graph.output[0].name, *(nodes[n] for n in names)])
        return train.Lesson(outputs[0], dict(zip(names, outputs[1:], strict=True)))

    def _ask(self, teacher: Made, model: onnx.ModelProto, tensors: list[str]) -> list[np.ndarray]:
        keys = [digest(["lesson", teacher.sha256, name, self.digests["train"], tools()]) for name in tensors]
        files = {name: self.cache.folder / f"{key}.npy" for name, key in zip(tensors, keys, strict=True)}
        if lacking := [name for name in files if not files[name].exists()]:
            self.say(f"  asking the teacher about {len(self.sets.train)} items")
            runtime = graph.runtime(graph.with_outputs(model, lacking), threads=2)
            parts: dict[str, list[np.ndarray]] = {name: [] for name in lacking}
            for start in range(0, len(self.sets.train), measure.BATCH):
                items = self.sets.train.take(slice(start, start + measure.BATCH))
                for name, x in zip(lacking, runtime.run(lacking, items.inputs), strict=True):
                    # Features are large and need no precision.
                    parts[name].append(x if name == tensors[0] else x.astype(np.float16))
            for name in lacking:
                part = files[name].with_suffix(".part.npy")
                np.save(part, np.concatenate(parts[name]))
                part.replace(files[name])
        return [np.load(files[name]) for name in tensors]

    # --- Measuring ---

    def results(self, remeasure: bool = False) -> list[Result]:
        """Builds what is not built, and measures it."""
        listed = [v for v in self.variants() if v.listed]
        made = {variant.name: self.build(variant) for variant in self.variants()}
        accuracies = {v.name: self._accuracy(v.name, made[v.name]) for v in listed}
        speeds = self._speeds({v.name: made[v.name] for v in listed}, remeasure)
        return [
            Result(
                v,
                made[v.name],
                accuracies[v.name],
                speeds[v.name],
                measure.cost(made[v.name].file),
                self._listed_parent(v),
            )
            for v in listed
        ]

    def _listed_parent(self, variant: Variant) -> str | None:
        by_name = {v.name: v for v in self.recipe.variant}
        reference = self.recipe.variant[0].name
        parent = variant.parent
        while parent is not None and not by_name[parent].listed:
            parent = by_name[parent].parent
        return parent or (reference if variant.name != reference else None)

    def _accuracy(self, name: str, made: Made) -> measure.Accuracy:
        key = digest(["accuracy", made.sha256, self.digests["test"], self.score, tools()["onnxruntime"]])
        kept = self.cache.json(key)
        if kept is None:
            self.say(f"{name}: accuracy")
            output = self.folder.manifest["sample"]["output"]
            try:
                found = measure.accuracy(made.file, self.sets.test, self.score, output)
            except measure.NotFiniteError:
                names = [variant.name for variant in self.recipe.variant]
                rule = "answers with NaN or infinity: its last step does not fit this model, take another format"
                raise Fault.at(self.file, f"variant[{names.index(name)}].name", name, rule) from None
            kept = measure.as_json(found)
            self.cache.put_json(key, kept)
        return measure.Accuracy(**kept)

    def _speeds(self, made: dict[str, Made], remeasure: bool) -> dict[str, measure.Speed]:
        """Times that were measured together; a new variant means that all are measured again."""
        key = digest(["speeds", sorted(m.sha256 for m in made.values()), measure.machine(), self.quick])
        kept = None if remeasure else self.cache.json(key)
        if kept is None:
            self.say("latency of all")
            item = self.sets.test.take(slice(0, 1)).inputs
            files = [m.file for m in made.values()]
            speeds = measure.speeds(files, item, seconds=0.3 if self.quick else 2.0)
            shas = [m.sha256 for m in made.values()]
            kept = {s: measure.as_json(speed) for s, speed in zip(shas, speeds, strict=True)}
            self.cache.put_json(key, kept)
        return {name: measure.Speed(**kept[m.sha256]) for name, m in made.items()}


def describe(step: Step) -> str:
    """A step in a few words."""
    if isinstance(step, Prune):
        if step.method == "cluster":
            return f"cluster {step.clusters} values"
        return f"prune {100 * (step.amount or 0):.0f} % of {step.structure} ({step.method}, {step.budget})"
    if isinstance(step, Quantise):
        if step.format != "int8":
            return f"quantise {step.format}" + (f" {step.bits} bit" if step.bits else "")
        kinds = f"{step.activations} x {step.weights}, per {'channel' if step.per_channel else 'tensor'}"
        corrected = ", bias corrected" if step.bias_correction else ""
        return f"quantise int8 ({kinds}, {step.calibration.method}{corrected})"
    if isinstance(step, Pack):
        return "pack" + (" as fp16" if step.half else "")
    aware = ", quantisation-aware" if step.quantisation_aware else ""
    if isinstance(step, Distil):
        who = f" into {step.student.family} {step.student.width}" if step.student else ""
        return f"distil{who} ({step.examples} examples{aware})"
    return f"fine-tune ({step.examples} examples{aware})"
