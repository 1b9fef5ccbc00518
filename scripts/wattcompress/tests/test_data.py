"""Data and models that cannot be worked with are refused, each in one line that says what would be right."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from wattcompress import data, graph, recipe
from wattcompress.build import Builder
from wattcompress.cache import Cache
from wattcompress.faults import Fault

from .conftest import MANIFEST, Place

TINY = tomllib.loads(MANIFEST)


def told(place: Place) -> str:
    with pytest.raises(Fault) as fault:
        data.load(place.file, recipe.load(place.file), TINY)
    assert str(fault.value).count("\n") == 0
    return str(fault.value)


def test_sound_data_is_loaded(place: Place) -> None:
    sets = data.load(place.file, recipe.load(place.file), TINY)
    assert (len(sets.train), len(sets.tune), len(sets.test)) == (600, 200, 300)
    assert sets.common() == 0
    assert sets.train.digest() != sets.tune.digest()


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("test-labels.npy", np.zeros_like, "data.test.labels = 0: all items are of one class"),
        (
            "test-labels.npy",
            lambda x: x[:-3],
            "data.test.inputs.image = 300: there are 297 labels: 3 are missing",
        ),
        ("test-labels.npy", lambda x: np.where(x == 1, -1, x), "data.test.labels = -1: a label below 0"),
        (
            "test-labels.npy",
            lambda x: x + 1,
            "data.test.labels = 4: the model tells 4 classes apart: labels are from 0",
        ),
        ("test-labels.npy", lambda x: x.astype(np.float32), "labels are class numbers"),
        ("test-labels.npy", lambda x: x[:, None], "one label per item: the shape must be (N,)"),
        (
            "test.npy",
            lambda x: x[:, :7],
            "data.test.inputs.image = (300, 7, 8): the model takes items of shape",
        ),
        (
            "test.npy",
            lambda x: x.astype(np.float32),
            "data.test.inputs.image = 'float32': the model takes uint8",
        ),
        ("tune-labels.npy", lambda x: x[:4], "data.tune.labels = 4: too few items: at least 10"),
    ],
)
def test_unfit_data_is_named(place: Place, file: str, change: Callable[[np.ndarray], np.ndarray], line: str) -> None:
    array = np.load(place.path / file)
    np.save(place.path / file, change(array))
    assert line in told(place)
    assert told(place).startswith(str(place.file))


def test_missing_or_broken_files_are_named(place: Place) -> None:
    (place.path / "train.npy").write_bytes(b"no array")
    assert "data.train.inputs.image = 'train.npy': cannot be read as .npy" in told(place)
    (place.path / "train.npy").unlink()
    assert "data.train.inputs.image = 'train.npy': cannot be read as .npy" in told(place)


def test_an_input_of_another_name_is_named(place: Place) -> None:
    place.change('inputs = { image = "tune.npy" }', 'inputs = { picture = "tune.npy" }')
    assert "data.tune.inputs = ['picture']: the model's inputs are ['image']" in told(place)


def test_items_beyond_the_end_are_named(place: Place) -> None:
    place.change('labels = "test-labels.npy"', 'labels = "test-labels.npy"\nitems = [0, 301]')
    assert "data.test.items = [0, 301]: there are 300 items" in told(place)


def test_a_test_set_that_was_trained_on_is_refused(place: Place) -> None:
    place.change('"test.npy"', '"train.npy"')
    place.change('"test-labels.npy"', '"train-labels.npy"')
    assert "600 of 600 items are also in data.train or data.tune" in told(place)


def test_a_few_items_in_common_are_counted(place: Place) -> None:
    test, train = np.load(place.path / "test.npy"), np.load(place.path / "train.npy")
    test[:2] = train[:2]
    np.save(place.path / "test.npy", test)
    assert data.load(place.file, recipe.load(place.file), TINY).common() == 2


def test_nan_in_sound_is_named(tmp_path: Path) -> None:
    frames = np.ones((20, 16), np.float32)
    frames[7, 3] = np.nan
    labelled = data.Labelled({"frames": frames}, np.full(20, 440.0, np.float32), "")
    manifest = {
        "input": [{"name": "frames", "dtype": "fp32", "shape": [-1, 16]}],
        "output": [{"name": "salience", "dtype": "fp32", "shape": [-1, 360]}],
        "sample": {"score": "pitch-50-cents", "output": "salience"},
    }
    with pytest.raises(Fault, match=r"data.test.inputs.frames = 'item 7': holds NaN or infinity"):
        data.check(tmp_path / "r.toml", "data.test", labelled, manifest)


def builder(place: Place) -> Builder:
    cache = Cache(place.path / "cache")
    return Builder(place.file, recipe.load(place.file), cache, say=lambda _: None)


def change_model(place: Place, change: Callable[[onnx.ModelProto], None]) -> None:
    file = place.path / "model/base.onnx"
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)


def test_nan_weights_are_named(place: Place) -> None:
    def change(model: onnx.ModelProto) -> None:
        weights = numpy_helper.to_array(graph.initializers(model)["w3"]).copy()
        weights[0, 0] = np.nan
        graph.set_constant(model, "w3", weights)

    change_model(place, change)
    with pytest.raises(Fault, match=r"source.variant = 'base.onnx': tensor `w3` of node `point` holds 1 NaN"):
        _ = builder(place).source


def test_a_file_that_is_no_model_is_named(place: Place) -> None:
    (place.path / "model/base.onnx").write_bytes(b"\x08\x07nonsense")
    with pytest.raises(Fault, match="cannot be read as ONNX"):
        _ = builder(place).source


def test_an_unknown_source_is_named(place: Place) -> None:
    place.change('variant = "base"', 'variant = "bass"')
    with pytest.raises(Fault, match=r"source.variant = 'bass': is no variant of .*; there are: base"):
        builder(place)
    place.change('folder = "model"', 'folder = "nowhere"')
    with pytest.raises(Fault, match=r"source.folder = 'nowhere': has no model.toml that can be read"):
        builder(place)


def test_a_model_that_is_not_as_declared_is_named(place: Place) -> None:
    manifest = place.path / "model/model.toml"
    manifest.write_text(manifest.read_text().replace("[-1, 4]", "[-1, 5]"))
    with pytest.raises(Fault, match=r"source.variant = 'base': base.onnx: output is .*, declared "):
        _ = builder(place).source
    manifest.write_text(manifest.read_text().replace('license = "MIT"', ""))
    with pytest.raises(Fault, match=r"source.folder = 'model': its model.toml has no `license`"):
        builder(place)


def test_an_operator_that_cannot_be_trained_is_named_with_its_node(place: Place) -> None:
    def unsupported(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "Relu")
        node.CopyFrom(helper.make_node("Hardmax", list(node.input), list(node.output), name="strange", axis=1))

    change_model(place, unsupported)
    built = builder(place)
    with pytest.raises(Fault, match=r"step\[0\].kind = 'Hardmax': node `strange` is Hardmax, which no training"):
        built.build(built.recipe.variant[1])


def test_a_node_that_channels_cannot_be_followed_through_is_named(place: Place) -> None:
    def turn(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.output[0] == "er")
        node.output[0] = "unturned"
        at = list(model.graph.node).index(node) + 1
        model.graph.node.insert(at, helper.make_node("Transpose", ["unturned"], ["er"], "turn", perm=[0, 1, 3, 2]))

    change_model(place, turn)
    place.change(
        '{ kind = "finetune", examples = 1500, batch = 32, rate = 1e-2 }',
        '{ kind = "prune", method = "l1", structure = "channels", amount = 0.5 }',
    )
    built = builder(place)
    with pytest.raises(Fault, match=r"step\[0\].structure = 'channels': node `turn` is Transpose, behind which"):
        built.build(built.recipe.variant[1])


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (
            '{ kind = "prune", method = "l1", amount = 0.5, exclude = ["heat"] }',
            "variant[2].step[0].exclude = 'heat': fits no layer; there are: first, depth, point, head",
        ),
        (
            '{ kind = "quantise", format = "int8", only = ["*"], exclude = ["*"] }',
            "variant[2].step[0].exclude = ['*']: leaves no layer to work on",
        ),
        (
            '{ kind = "quantise", format = "matmul-nbits", bits = 4 }',
            "works on MatMul only; node `first` is Conv: use int8-weights or int4-weights",
        ),
        (
            '{ kind = "distil", examples = 64, features = [{ teacher = "nose", student = "pool" }] }',
            "variant[2].step[0].features[0].teacher = 'nose': is no node of the teacher; the last are:",
        ),
        (
            '{ kind = "distil", examples = 64, features = [{ teacher = "ReduceMean", student = "nose" }] }',
            "variant[2].step[0].features[0].student = 'nose': is no layer of the student",
        ),
        (
            '{ kind = "distil", examples = 64, features = [{ teacher = "ReduceMean", student = "first" }] }',
            "gives items of shape (16, 8, 8), the teacher's (24,): only channels may differ",
        ),
        (
            '{ kind = "distil", examples = 64, student = { family = "frames", width = 8 } }',
            "variant[2].step[0].student.family = 'frames': takes one input of rank 2",
        ),
    ],
)
def test_a_step_that_does_not_fit_the_model_is_named(place: Place, step: str, line: str) -> None:
    place.add(f'[[variant]]\nname = "bad"\nstep = [{step}]\n')
    built = builder(place)
    with pytest.raises(Fault) as fault:
        built.build(built.recipe.variant[2])
    assert line in str(fault.value), fault.value
    assert str(fault.value).count("\n") == 0
