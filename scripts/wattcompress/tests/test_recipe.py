"""Recipes that make no sense are refused, each in one line that says what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattcompress import recipe
from wattcompress.faults import Fault

from .conftest import Place

SHIPPED = sorted((Path(__file__).parents[3] / "config/recipes").glob("*.toml"))


def told(place: Place) -> list[str]:
    with pytest.raises(Fault) as fault:
        recipe.load(place.file)
    return str(fault.value).splitlines()


def test_there_are_shipped_recipes() -> None:
    assert len(SHIPPED) >= 2


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_shipped_recipes_are_sound_and_have_all_kinds(file: Path) -> None:
    found = recipe.load(file)
    kinds = [{s.kind for s in recipe.lineage(found, v)} for v in found.variant if v.listed]
    assert len(kinds) >= 5
    assert any({"prune", "distil", "quantise"} <= k for k in kinds)


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (
            '{ kind = "quantise", format = "int8" }, { kind = "prune", method = "l1", amount = 0.5 }',
            "variant[2].step[1].kind = 'prune': comes after 'quantise' (int8), which cannot be trained: put it before",
        ),
        (
            '{ kind = "pack" }, { kind = "finetune", examples = 9 }',
            "variant[2].step[1].kind = 'finetune': comes after 'pack': pack is the last step",
        ),
        (
            '{ kind = "quantise", format = "fp16" }, { kind = "quantise", format = "int8" }',
            "variant[2].step[1].format = 'int8': is the second 'quantise' after fp16: only one fits a variant",
        ),
        (
            '{ kind = "finetune", examples = 9 }, '
            '{ kind = "distil", examples = 9, student = { family = "separable", width = 8 } }',
            "variant[2].step[1].student.family = 'separable': starts anew",
        ),
        (
            '{ kind = "finetune", examples = 9, quantisation_aware = true }, { kind = "quantise", format = "fp16" }',
            "variant[2].step[1].format = 'fp16': follows quantisation-aware training, which was for 'int8'",
        ),
        (
            '{ kind = "distil", examples = 9, teacher = "nobody" }',
            "variant[2].step[0].teacher = 'nobody': is no earlier variant; there are: base, learnt",
        ),
        ('{ kind = "prune", method = "l1", amount = 1.5 }', "step[0].amount = 1.5: should be less than 1"),
        (
            '{ kind = "prune", method = "l1", amount = nan }',
            "step[0].amount = nan: should be a finite number",
        ),
        ('{ kind = "prune", method = "l1" }', "method 'l1' wants an amount between 0 and 1, and no clusters"),
        (
            '{ kind = "prune", method = "l1", amount = 0.9, budget = "sensitivity" }',
            "amount 0.9 is beyond the highest of sensitivity.levels",
        ),
        (
            '{ kind = "prune", method = "cluster" }',
            "method 'cluster' wants clusters, from 2 to 256, and no amount",
        ),
        (
            '{ kind = "prune", method = "l3", amount = 0.5 }',
            "step[0].method = 'l3': should be 'l1', 'l2' or 'cluster'",
        ),
        (
            '{ kind = "quantise", format = "log2" }',
            "bits belongs to the formats log2, codebook and matmul-nbits",
        ),
        ('{ kind = "quantise", format = "int8", weights = "uint8" }', "set per_channel = false, or int8"),
        ('{ kind = "quantize" }', "variant[2].step[0]"),
        ('{ kind = "finetune", examples = 9, epochs = 1 }', "step[0].epochs = 1: is no key of this table"),
        ('{ kind = "finetune" }', "variant[2].step[0].examples: is missing"),
    ],
)
def test_an_impossible_step_is_named(place: Place, step: str, line: str) -> None:
    place.add(f'[[variant]]\nname = "bad"\nstep = [{step}]\n')
    lines = told(place)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{place.file}: variant[2]")
    assert line in lines[0], lines[0]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('name = "learnt"', 'name = "base"', "variant[1].name = 'base': is the name of an earlier variant"),
        ('name = "learnt"', 'name = "le arnt"', "variant[1].name = 'le arnt': String should match"),
        (
            'name = "learnt"',
            'name = "learnt"\nparent = "x"',
            "variant[1].parent = 'x': is no earlier variant",
        ),
        ('variants = ["learnt"]', 'variants = ["x"]', "quick.variants[0] = 'x': is the name of no variant"),
        ("seed = 5", "seed = -1", "seed = -1: should be greater than or equal to 0"),
        ("seed = 5", 'seed = "5"', "seed = '5': should be a valid integer"),
        (
            'source = "npy"',
            'source = "tones"',
            "source 'tones' wants count, seed, and no other of these keys",
        ),
        ('labels = "test-labels.npy"', 'labels = "test-labels.npy"\nitems = [9, 3]', "holds none"),
        ("[data.tune]", "[data.tun]", "data.tune: is missing"),
        ("seed = 5", "seed = ", "cannot be read as TOML"),
    ],
)
def test_a_mistake_elsewhere_is_named(place: Place, old: str, new: str, line: str) -> None:
    place.change(old, new)
    assert any(line in told_line for told_line in told(place)), told(place)


def test_all_mistakes_are_told_at_once(place: Place) -> None:
    place.change("seed = 5", "seed = -1")
    place.change("rate = 1e-2", "rate = -1.0")
    assert len(told(place)) == 2


def test_what_continues_a_packed_variant_starts_before_its_packing(place: Place) -> None:
    place.add("""
        [[variant]]
        name = "packed"
        parent = "learnt"
        step = [{ kind = "pack", half = true }]
        [[variant]]
        name = "on"
        parent = "packed"
        step = [{ kind = "quantise", format = "int8" }]
    """)
    found = recipe.load(place.file)
    assert [s.kind for s in recipe.lineage(found, found.variant[3])] == ["finetune", "quantise"]
