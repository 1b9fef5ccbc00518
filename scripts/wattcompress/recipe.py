"""Recipes: TOML as written -> validated. `config/recipes/README.md` describes every key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from .faults import Fault

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Table(BaseModel):
    """A table of a recipe: unknown keys are mistakes, and numbers must be finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Source(Table):
    """The model to start from: a variant of a model folder."""

    folder: str
    variant: str


class Data(Table):
    """Labelled items: Debian's Fashion-MNIST, generated tones, or a pair of .npy files."""

    source: Literal["fashion-mnist", "tones", "npy"]
    split: Literal["train", "test"] | None = None
    count: Count | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    inputs: dict[str, str] | None = None
    labels: str | None = None
    # From the first to before the second.
    items: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    description: str = ""

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> Data:
        needed = {
            "fashion-mnist": ["split"],
            "tones": ["count", "seed"],
            "npy": ["inputs", "labels"],
        }
        for source, keys in needed.items():
            for key in keys:
                given = getattr(self, key) is not None
                if given != (source == self.source):
                    wants = ", ".join(needed[self.source])
                    raise ValueError(f"source {self.source!r} wants {wants}, and no other of these keys")
        if self.items is not None and self.items[0] >= self.items[1]:
            raise ValueError(f"items {self.items} holds none: the first must be below the second")
        return self


class DataSets(Table):
    """Three sets without a common item."""

    train: Data
    tune: Data
    test: Data


class Layers(Table):
    """Which layers a step works on: globs over the names of nodes."""

    only: list[str] = ["*"]
    exclude: list[str] = []


class Sensitivity(Table):
    """How the accuracy drop of each layer is measured."""

    items: Count = 512
    levels: Annotated[list[Fraction], Field(min_length=1, max_length=8)] = [0.25, 0.5, 0.75]


class Prune(Layers):
    """Removes weights or channels, or makes weights share few values."""

    kind: Literal["prune"]
    method: Literal["l1", "l2", "cluster"]
    structure: Literal["weights", "channels"] = "weights"
    amount: Fraction | None = None
    budget: Literal["uniform", "global", "sensitivity"] = "uniform"
    sensitivity: Sensitivity = Sensitivity()
    round_to: Annotated[int, Field(ge=1, le=64)] = 8
    clusters: Annotated[int, Field(ge=2, le=256)] | None = None

    @model_validator(mode="after")
    def _keys_of_its_method(self) -> Prune:
        if self.method == "cluster":
            if self.clusters is None or self.amount is not None:
                raise ValueError("method 'cluster' wants clusters, from 2 to 256, and no amount")
            if self.structure == "channels":
                raise ValueError("method 'cluster' shares single weights: structure must be 'weights'")
        elif self.amount is None or self.clusters is not None:
            raise ValueError(f"method {self.method!r} wants an amount between 0 and 1, and no clusters")
        elif self.budget == "sensitivity" and self.amount > max(self.sensitivity.levels):
            raise ValueError(f"amount {self.amount} is beyond the highest of sensitivity.levels")
        return self


class Augment(Table):
    """Random changes of pictures while training."""

    flip: bool = False
    shift: Annotated[int, Field(ge=0, le=8)] = 0


class Training(Table):
    """A course of training."""

    examples: Count
    batch: Annotated[int, Field(ge=2, le=1024)] = 128
    rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    augment: Augment = Augment()
    # Trains through the rounding of int8, as the `quantise` that follows will do it.
    quantisation_aware: bool = False


class Finetune(Training):
    """Trains on the labels."""

    kind: Literal["finetune"]


class Student(Table):
    """A new small network to train from nothing."""

    family: Literal["separable", "frames"]
    width: Annotated[int, Field(ge=4, le=256)]


class Feature(Table):
    """A pair of layers whose outputs should be alike."""

    teacher: str
    student: str
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0


class Distil(Training):
    """Trains on what a teacher says: its soft labels, and the outputs of its layers."""

    kind: Literal["distil"]
    # A variant of the recipe; by default the source.
    teacher: str | None = None
    student: Student | None = None
    temperature: Annotated[float, Field(ge=1, le=100)] = 2.0
    soft: Annotated[float, Field(ge=0, le=1)] = 0.5
    features: list[Feature] = []

    @model_validator(mode="after")
    def _something_is_taught(self) -> Distil:
        if self.soft == 0 and not self.features:
            raise ValueError("soft is 0 and there are no features: nothing would be taught; use 'finetune'")
        return self


class Calibration(Table):
    """How the ranges of activations are found."""

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    items: Count = 512
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99


Int8 = Literal["int8", "uint8"]
# Those that leave the graph as it is and shrink the weights only.
WEIGHT_ONLY = ("int8-weights", "int4-weights", "log2", "codebook")


class Quantise(Layers):
    """Fewer bits."""

    kind: Literal["quantise"]
    format: Literal["int8", "fp16", "int8-weights", "int4-weights", "log2", "codebook", "matmul-nbits"]
    activations: Int8 = "uint8"
    weights: Int8 = "int8"
    per_channel: bool = True
    # 7 bits: x86 without VNNI saturates otherwise.
    reduce_range: bool = True
    calibration: Calibration = Calibration()
    bias_correction: bool = False
    bits: Annotated[int, Field(ge=2, le=8)] | None = None

    @model_validator(mode="after")
    def _keys_of_its_format(self) -> Quantise:
        if (self.bits is not None) != (self.format in ("log2", "codebook", "matmul-nbits")):
            raise ValueError("bits belongs to the formats log2, codebook and matmul-nbits, which want it")
        if self.format == "matmul-nbits" and self.bits not in (4, 8):
            raise ValueError("format 'matmul-nbits' wants 4 or 8 bits")
        if self.format == "int8" and self.weights == "uint8" and self.per_channel:
            raise ValueError("uint8 weights have no zero in the middle: set per_channel = false, or int8")
        if self.bias_correction and self.format in ("fp16", "matmul-nbits"):
            raise ValueError(f"format {self.format!r} has no bias correction")
        return self


class Pack(Table):
    """Writes each weight in its smallest exact form; the runtime unpacks it at load."""

    kind: Literal["pack"]
    # Rounds weights to fp16 first.
    half: bool = False


Step = Annotated[Prune | Finetune | Distil | Quantise | Pack, Field(discriminator="kind")]
TRAINED = ("prune", "finetune", "distil")


class Variant(Table):
    """A variant and the steps that make it."""

    name: Name
    # The variant that it continues; by default the source.
    parent: str | None = None
    # False: only a stage that others continue.
    listed: bool = True
    step: list[Step] = []
    description: str = ""


class Quick(Table):
    """The cut that is built with --quick."""

    variants: list[str]
    examples: Count
    test_items: Count


class Recipe(Table):
    """A whole recipe."""

    name: Name
    version: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    source: Source
    data: DataSets
    quick: Quick
    variant: Annotated[list[Variant], Field(min_length=1, max_length=64)]


def load(file: Path) -> Recipe:
    """Reads a recipe. Every mistake in it is told at once, one a line.

    Raises:
        Fault: if it cannot be read or makes no sense.

    """
    try:
        raw = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Fault(f"{file}: cannot be read as TOML: {error}") from error
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise Fault("\n".join(str(_fault(file, raw, e)) for e in error.errors())) from error
    if problems := list(_problems(file, recipe)):
        raise Fault("\n".join(str(problem) for problem in problems))
    return recipe


def _fault(file: Path, raw: dict[str, Any], error: ErrorDetails) -> Fault:
    """A mistake as pydantic tells it, with the key as TOML writes it."""
    key = ""
    at: Any = raw
    for part in error["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
        elif isinstance(at, dict) and part not in at and part == at.get("kind"):
            continue  # The name of a union's member is no key.
        else:
            key += f".{part}" if key else str(part)
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            at = {}
    if error["type"] == "missing":
        return Fault(f"{file}: {key}: is missing")
    rule = re.sub(r"^(Value error, |Input )", "", error["msg"])
    rule = {"Extra inputs are not permitted": "is no key of this table"}.get(rule, rule)
    return Fault.at(file, key, error["input"], rule)


def _problems(file: Path, recipe: Recipe) -> list[Fault]:
    """What is wrong between the parts of a recipe."""
    found: list[Fault] = []
    names: dict[str, Variant] = {}
    for i, variant in enumerate(recipe.variant):
        key = f"variant[{i}]"
        if variant.name in names:
            found.append(Fault.at(file, f"{key}.name", variant.name, "is the name of an earlier variant"))
        if variant.parent is not None and variant.parent not in names:
            found.append(Fault.at(file, f"{key}.parent", variant.parent, _earlier(names)))
        parent = names.get(variant.parent or "")
        found.extend(_order(file, key, variant, lineage(recipe, parent) if parent else []))
        for j, step in enumerate(variant.step):
            if isinstance(step, Distil) and step.teacher is not None and step.teacher not in names:
                found.append(Fault.at(file, f"{key}.step[{j}].teacher", step.teacher, _earlier(names)))
        names.setdefault(variant.name, variant)
    for i, name in enumerate(recipe.quick.variants):
        if name not in names:
            rule = f"is the name of no variant; there are: {', '.join(names)}"
            found.append(Fault.at(file, f"quick.variants[{i}]", name, rule))
    if not recipe.variant[0].listed:
        found.append(Fault.at(file, "variant[0].listed", False, "the first variant is the reference: true"))
    return found


def _earlier(names: dict[str, Variant]) -> str:
    return f"is no earlier variant; there are: {', '.join(names) or 'none yet'}"


def lineage(recipe: Recipe, variant: Variant) -> list[Step]:
    """All steps from the source to a variant. What continues a packed variant starts before its packing."""
    by_name = {v.name: v for v in recipe.variant}
    steps: list[Step] = list(variant.step)
    seen = {variant.name}
    while variant.parent is not None and variant.parent in by_name and variant.parent not in seen:
        variant = by_name[variant.parent]
        seen.add(variant.name)
        steps = [*(step for step in variant.step if not isinstance(step, Pack)), *steps]
    return steps


def _order(file: Path, key: str, variant: Variant, before: list[Step]) -> list[Fault]:
    """Steps that come too late: most need a graph in floating point."""
    found: list[Fault] = []
    done: list[Step] = [step for step in before if not isinstance(step, Pack)]
    for j, step in enumerate(variant.step):
        at = f"{key}.step[{j}].kind"
        quantised = next((s for s in done if isinstance(s, Quantise)), None)
        if any(s.kind == "pack" for s in done):
            found.append(Fault.at(file, at, step.kind, "comes after 'pack': pack is the last step"))
        elif quantised and step.kind in TRAINED:
            rule = f"comes after 'quantise' ({quantised.format}), which cannot be trained: put it before"
            found.append(Fault.at(file, at, step.kind, rule))
        elif quantised and isinstance(step, Quantise):
            rule = f"is the second 'quantise' after {quantised.format}: only one fits a variant"
            found.append(Fault.at(file, f"{key}.step[{j}].format", step.format, rule))
        if isinstance(step, Distil) and step.student and done:
            rule = "starts anew, which would throw away the steps before: a student must be the first step"
            found.append(Fault.at(file, f"{key}.step[{j}].student.family", step.student.family, rule))
        aware = any(isinstance(s, Training) and s.quantisation_aware for s in done)
        if aware and (step.kind in TRAINED):
            rule = "comes after quantisation-aware training, and would undo it: only 'quantise' may follow"
            found.append(Fault.at(file, at, step.kind, rule))
        if aware and isinstance(step, Quantise) and step.format != "int8":
            rule = "follows quantisation-aware training, which was for 'int8'"
            found.append(Fault.at(file, f"{key}.step[{j}].format", step.format, rule))
        done.append(step)
    return found
