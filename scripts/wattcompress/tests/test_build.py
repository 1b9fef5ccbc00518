"""From a recipe to a model folder: what is kept, what is left out, what is repeated."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
import onnx
import pytest

from wattcompress import graph, measure, recipe, report
from wattcompress.__main__ import main
from wattcompress.build import Builder
from wattcompress.cache import Cache

from .conftest import Place

LADDER = """
    [[variant]]
    name = "small"
    parent = "learnt"
    step = [
      { kind = "prune", method = "l2", structure = "channels", amount = 0.5, round_to = 4 },
      { kind = "distil", teacher = "learnt", examples = 640, batch = 32 },
      { kind = "pack", half = true },
    ]

    [[variant]]
    name = "small-int8"
    parent = "small"
    step = [{ kind = "quantise", format = "int8" }]

    [[variant]]
    name = "stage"
    parent = "learnt"
    listed = false
    step = [{ kind = "prune", method = "l1", amount = 0.8, exclude = ["first"] }]

    [[variant]]
    name = "sparse"
    parent = "stage"
    step = [{ kind = "finetune", examples = 640, batch = 32 }, { kind = "pack", half = true }]
"""


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure.speeds
    monkeypatch.setattr(measure, "speeds", lambda files, item, seconds: whole(files, item, seconds / 50))


def run(place: Place, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    cache = ["--cache", str(place.path / "cache")]
    monkeypatch.setattr(sys, "argv", ["compress", *arguments, str(place.file), *cache])
    return main()


def build(place: Place, out: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> Path:
    assert run(place, "build", "--out", str(place.path / out), *more, monkeypatch=monkeypatch) == 0
    return place.path / out


def test_a_ladder_is_built_and_says_how(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add(LADDER)
    out = build(place, "out", monkeypatch, "--all")
    manifest = tomllib.loads((out / "model.toml").read_text())
    assert manifest["variant"][0]["name"] == "base"
    found = {v["name"]: v for v in manifest["variant"]}
    assert set(found) == {"base", "learnt", "small", "small-int8", "sparse"}
    assert found["small-int8"]["parent"] == "small"
    # A stage that is not listed is no parent either.
    assert found["sparse"]["parent"] == "learnt"
    assert found["small-int8"]["precision"] == "int8"
    assert found["small"]["macs"] < found["learnt"]["macs"] * 0.7
    # Packed weights are not counted as work.
    assert found["sparse"]["macs"] == found["learnt"]["macs"]
    assert found["sparse"]["traffic_bytes"] == found["learnt"]["traffic_bytes"]
    sizes = [v["bytes"] for v in manifest["variant"][1:]]
    assert sizes == sorted(sizes, reverse=True)
    folder = models.Folder.open(out)
    for variant in manifest["variant"]:
        content = (out / variant["file"]).read_bytes()
        assert len(content) == variant["bytes"]
        test = np.load(place.path / "test.npy"), np.load(place.path / "test-labels.npy")
        measured = models.accuracy(folder, variant["file"], {"image": test[0]}, test[1])
        assert measured == pytest.approx(variant["accuracy"], abs=5e-5)
    record = json.loads((out / "report/report.json").read_text())
    assert [s["step"]["kind"] for s in record["variants"][2]["steps"]] == [
        "finetune",
        "prune",
        "distil",
        "pack",
    ]
    for variant in record["variants"]:
        low, high = variant["accuracy"]["interval"]
        assert low <= variant["accuracy"]["hits"] / variant["accuracy"]["items"] <= high
    assert "| small-int8 |" in (out / "report/README.md").read_text()
    assert (out / "report/pareto.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_files(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add(LADDER)
    first = build(place, "first", monkeypatch, "--all", "--quick")
    (place.path / "cache").rename(place.path / "cache-of-first")
    second = build(place, "second", monkeypatch, "--all", "--quick")
    files = [*sorted(p.relative_to(first) for p in first.rglob("*.onnx")), Path("model.toml")]
    assert len(files) == 3
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    place.change("seed = 5", "seed = 6")
    third = build(place, "third", monkeypatch, "--all", "--quick")
    assert (first / "learnt.onnx").read_bytes() != (third / "learnt.onnx").read_bytes()


def test_a_build_goes_on_where_it_stopped(place: Place) -> None:
    place.add(LADDER)
    builder = Builder(place.file, recipe.load(place.file), Cache(place.path / "cache"), say=lambda _: None)
    builder.build(builder.recipe.variant[1])
    said: list[str] = []
    builder = Builder(place.file, recipe.load(place.file), Cache(place.path / "cache"), say=said.append)
    for variant in builder.variants():
        builder.build(variant)
    assert not [line for line in said if line.startswith("learnt:")]
    assert [line for line in said if line.startswith("small:")] == [
        "small: prune 50 % of channels (l2, uniform)",
        "small: distil (640 examples)",
        "small: pack as fp16",
    ]
    said.clear()
    again = Builder(place.file, recipe.load(place.file), Cache(place.path / "cache"), say=said.append)
    for variant in again.variants():
        again.build(variant)
    assert said == []


def test_a_mistake_costs_nothing_that_was_there(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = build(place, "out", monkeypatch)
    before = (out / "model.toml").read_bytes()
    place.change("examples = 1500", "examples = 0")
    assert run(place, "build", "--out", str(out), monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"compress: {place.file}: variant[1].step[0].examples = 0:")
    assert told.count("\n") == 1
    assert (out / "model.toml").read_bytes() == before


def test_a_variant_that_answers_nan_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(place.path / "model/base.onnx")
    graph.set_constant(model, "b4", np.full(4, np.nan, np.float32))
    onnx.save(model, place.path / "nan.onnx")
    whole = measure.accuracy
    monkeypatch.setattr(measure, "accuracy", lambda _, *rest: whole(place.path / "nan.onnx", *rest))
    assert run(place, "build", "--quick", "--out", str(place.path / "out"), monkeypatch=monkeypatch) == 2
    assert "variant[0].name = 'base': answers with NaN or infinity" in capsys.readouterr().err


def test_check_lists_layers(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "check", monkeypatch=monkeypatch) == 0
    assert "layers: first depth point head" in capsys.readouterr().out


@dataclass
class Stub:
    """As much of a result as choosing looks at."""

    name: str
    hits: int
    bytes: int
    ms: float

    @property
    def variant(self) -> Stub:
        return self

    @property
    def accuracy(self) -> measure.Accuracy:
        return measure.Accuracy(self.hits, 100)

    @property
    def speed(self) -> measure.Speed:
        return measure.Speed(self.ms, None)


def test_what_is_worse_in_all_is_left_out() -> None:
    reference = Stub("reference", 90, 1000, 10)
    good, worse, slower = Stub("good", 91, 500, 5), Stub("worse", 90, 600, 6), Stub("slower", 92, 500, 9)
    equal, noisy = Stub("equal", 91, 500, 5), Stub("noisy", 91, 499, 5.1)
    kept, dropped = report.choose([reference, good, worse, slower], everything=False)  # type: ignore[list-item]
    # The reference stays, though `good` beats it.
    assert [r.variant.name for r in kept] == ["reference", "good", "slower"]
    assert dropped == {"worse": "good"}
    kept, _ = report.choose([reference, good, worse, slower], everything=True)  # type: ignore[list-item]
    assert len(kept) == 4
    # Equal ones do not throw each other out; a time within the noise counts as equal.
    assert not report.dominates(good, equal)  # type: ignore[arg-type]
    assert report.dominates(noisy, good)  # type: ignore[arg-type]


def test_intervals_are_wilsons() -> None:
    # 9,340 of 10,000: 0.9340 +- 1.96 sqrt(0.934 * 0.066 / 10,000) = 0.0049, moved a little inwards.
    low, high = measure.Accuracy(9340, 10_000).interval
    assert low == pytest.approx(0.9290, abs=1e-4)
    assert high == pytest.approx(0.9387, abs=1e-4)
    assert measure.Accuracy(10, 10).interval[1] == pytest.approx(1)


def test_an_energy_meter_is_found_where_it_can_be_read(tmp_path: Path) -> None:
    assert measure.meter(tmp_path) is None
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0/energy_uj").write_text("secret\n")
    assert measure.meter(tmp_path) is None
    (tmp_path / "intel-rapl:1").mkdir()
    (tmp_path / "intel-rapl:1/energy_uj").write_text("12\n")
    assert measure.meter(tmp_path) == tmp_path / "intel-rapl:1/energy_uj"
