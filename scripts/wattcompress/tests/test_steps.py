"""What each step does to a graph, on a net that learns in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from wattcompress import data, graph, pack, prune, quantise, recipe, train, trainable
from wattcompress.cache import Cache
from wattcompress.faults import Fault

from .conftest import Place, patterns, tiny_net

FILE = Path("recipe.toml")


def labelled(count: int = 300, seed: int = 3) -> data.Labelled:
    images, labels = patterns(count, seed)
    return data.Labelled({"image": images}, labels, "patterns")


def step(**keys: Any) -> Any:
    """A step as a recipe has it."""
    variant = recipe.Variant.model_validate({"name": "x", "step": [keys]})
    return variant.step[0]


def quiet(_: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def learnt() -> onnx.ModelProto:
    """The net, trained."""
    net = trainable.from_onnx(graph.prepare(tiny_net()), FILE, "x")
    trainable.add_norms(net, labelled().inputs)
    course = step(kind="finetune", examples=3000, batch=32, rate=1e-2)
    train.train(net, course, labelled(600, 1), "argmax", None, 1, FILE, "x", quiet)
    return trainable.to_onnx(net, labelled().inputs)


def answers(model: onnx.ModelProto, count: int = 300) -> np.ndarray:
    (outputs,) = graph.run(model, labelled(count).inputs).values()
    return outputs


def right(model: onnx.ModelProto) -> float:
    return float((answers(model).argmax(1) == labelled().labels).mean())


def trained(model: onnx.ModelProto) -> trainable.Net:
    return trainable.from_onnx(model, FILE, "x")


# --- Graphs ---


def test_a_graph_goes_to_torch_and_back_unchanged() -> None:
    given = graph.prepare(tiny_net())
    back = trainable.to_onnx(trained(given), labelled().inputs)
    assert [n.name for n in graph.layers(back)] == [n.name for n in graph.layers(given)]
    np.testing.assert_allclose(answers(back), answers(given), atol=1e-4)
    again = trainable.to_onnx(trained(back), labelled().inputs)
    assert [n.name for n in again.graph.node] == [n.name for n in back.graph.node]


def test_norms_that_are_added_change_nothing(learnt: onnx.ModelProto) -> None:
    net = trained(learnt)
    trainable.add_norms(net, labelled().inputs)
    assert sum(isinstance(m, trainable.NORM_TYPES) for m in net.module.modules()) == 3
    np.testing.assert_allclose(answers(trainable.to_onnx(net, labelled().inputs)), answers(learnt), atol=1e-3)


def test_channels_lie_side_by_side_behind_a_transpose() -> None:
    net = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,4] x) => (float[N,2] y) <int64[2] rows = {-1, 12}>
        {
          a = Conv <kernel_shape = [1]> (x, w1, b1)
          turned = Transpose <perm = [0, 2, 1]> (a)
          flat = Reshape (turned, rows)
          y = Gemm <transB = 1> (flat, w2, b2)
        }""")
    rng = np.random.default_rng(1)
    for name, shape in (("w1", (3, 3, 1)), ("b1", (3,)), ("w2", (2, 12)), ("b2", (2,))):
        net.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 1, shape).astype(np.float32), name))
    x = {"x": rng.normal(0, 1, (5, 3, 4)).astype(np.float32)}
    made = graph.prepare(net)
    assert [n.op_type for n in made.graph.node] == ["Conv", "Flatten", "Gemm"]
    np.testing.assert_allclose(graph.run(made, x)["y"], graph.run(net, x)["y"], atol=1e-5)


def test_preprocessing_is_what_lies_before_the_first_layer(learnt: onnx.ModelProto) -> None:
    assert [n.op_type for n in learnt.graph.node if n.name in graph.front(learnt)] == [
        "Cast",
        "Mul",
        "Unsqueeze",
    ]


# --- Packing ---


def with_weight(weight: np.ndarray) -> onnx.ModelProto:
    model = graph.prepare(tiny_net())
    (node,) = (n for n in graph.layers(model) if n.name == "head")
    graph.set_constant(model, node.input[1], weight)
    return model


@pytest.mark.parametrize("count", [2, 3, 4, 7, 16, 17, 256])
def test_shared_values_are_packed_exactly(count: int) -> None:
    rng = np.random.default_rng(count)
    weight = rng.normal(0, 1, count).astype(np.float32)[rng.integers(0, count, (4, 24))]
    model = with_weight(weight)
    name = next(n for n in graph.layers(model) if n.name == "head").input[1]
    values, index = np.unique(weight, return_inverse=True)
    pack.codes(model, name, index.reshape(weight.shape), values, None).commit()
    folded = graph.initializers(graph.fold(model))[name]
    np.testing.assert_array_equal(numpy_helper.to_array(folded), weight)


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("size", [(3, 5), (8, 8), (4, 25)])
def test_zeros_are_packed_exactly(size: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(1)
    weight = (rng.normal(0, 50, size) * (rng.random(size) < 0.3)).astype(dtype)
    kind = TensorProto.INT8 if dtype is np.int8 else TensorProto.FLOAT
    output = helper.make_tensor_value_info("y", kind, None)
    plain = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [output],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(plain, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pack.bitmap(model, "w", weight, half=False).commit()
    np.testing.assert_array_equal(graph.run(model, {})["y"], weight)


def test_packing_takes_the_smaller_form_and_halves_the_rest(learnt: onnx.ModelProto) -> None:
    exact, half = pack.pack(learnt, half=False), pack.pack(learnt, half=True)
    assert exact.ByteSize() == learnt.ByteSize()
    assert half.ByteSize() < learnt.ByteSize()
    np.testing.assert_allclose(answers(half), answers(learnt), atol=0.05)


# --- Quantisation ---


@pytest.mark.parametrize(
    ("keys", "largest_loss"),
    [
        ({"format": "fp16"}, 0.01),
        ({"format": "int8"}, 0.05),
        ({"format": "int8", "per_channel": False}, 0.1),
        ({"format": "int8", "activations": "int8", "reduce_range": False}, 0.05),
        ({"format": "int8", "weights": "uint8", "per_channel": False}, 0.1),
        ({"format": "int8", "bias_correction": True}, 0.05),
        ({"format": "int8", "calibration": {"method": "entropy"}}, 0.2),
        ({"format": "int8", "calibration": {"method": "percentile", "percentile": 99.9}}, 0.2),
        ({"format": "int8-weights"}, 0.02),
        ({"format": "int4-weights", "bias_correction": True}, 0.2),
        ({"format": "log2", "bits": 4}, 0.3),
        ({"format": "codebook", "bits": 4}, 0.1),
    ],
    ids=lambda keys: "-".join(str(v) for v in keys.values()) if isinstance(keys, dict) else "",
)
def test_a_quantised_net_still_knows(learnt: onnx.ModelProto, keys: dict[str, Any], largest_loss: float) -> None:
    made = quantise.quantise(learnt, step(kind="quantise", **keys), labelled(200, 1), 1, FILE, "x")
    onnx.checker.check_model(made, full_check=True)
    assert right(learnt) > 0.9
    assert right(made) > right(learnt) - largest_loss
    assert not np.array_equal(answers(made), answers(learnt))


def test_int8_is_computed_in_int8_but_for_the_preprocessing(learnt: onnx.ModelProto) -> None:
    made = quantise.quantise(learnt, step(kind="quantise", format="int8"), labelled(200, 1), 1, FILE, "x")
    for node in graph.layers(made):
        raise AssertionError(f"{node.name} has float weights")
    names = {n.name for n in made.graph.node}
    assert set(graph.front(learnt)) <= names
    left = quantise.quantise(
        learnt, step(kind="quantise", format="int8", exclude=["head"]), labelled(200, 1), 1, FILE, "x"
    )
    assert [n.name for n in graph.layers(left)] == ["head"]


def test_matmuls_are_packed_by_onnx_runtime() -> None:
    weight = np.random.default_rng(1).normal(0, 1, (64, 32)).astype(np.float32)
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", w]) for n, w in (("x", 64), ("y", 32))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="only")
    net = helper.make_graph([node], "g", tensors[:1], tensors[1:], [numpy_helper.from_array(weight, "w")])
    model = graph.prepare(helper.make_model(net, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    x = {"x": np.random.default_rng(2).normal(0, 1, (20, 64)).astype(np.float32)}
    some = data.Labelled(x, np.arange(20), "")
    made = quantise.quantise(model, step(kind="quantise", format="matmul-nbits", bits=8), some, 1, FILE, "x")
    assert [n.op_type for n in made.graph.node] == ["MatMulNBits"]
    (got,), (want,) = graph.run(made, x).values(), graph.run(model, x).values()
    assert 0 < np.abs(got - want).max() < 0.3


def test_the_logarithmic_grid_holds_powers_of_two_only() -> None:
    weight = np.random.default_rng(1).normal(0, 1, (8, 50)).astype(np.float32)
    index, values, scale = quantise.logarithmic(weight, 4, np.full((8, 1), 3.0, np.float32))
    assert scale is not None
    rounded = values[index] * scale
    exponents = np.log2(np.abs(rounded[rounded != 0]))
    np.testing.assert_array_equal(exponents, np.rint(exponents))
    # Within the grid the nearest power is never further than half a step of two.
    inside = (np.abs(weight) < 4) & (np.abs(weight) > 4 * 2**-6)
    assert (np.abs(rounded - weight)[inside] <= np.abs(weight)[inside] / 2).all()


def test_a_codebook_fits_better_than_equal_steps() -> None:
    weight = np.random.default_rng(1).laplace(0, 1, (16, 200)).astype(np.float32)
    index, values, _ = quantise.codebook(weight, 16, 1)
    assert len(values) <= 16
    even, grid, scale = quantise.linear(weight, 4, np.abs(weight).max(keepdims=True))
    assert scale is not None
    by_book, by_steps = values[index] - weight, grid[even] * scale - weight
    assert (by_book**2).mean() < (by_steps**2).mean() / 2


def test_bias_correction_moves_the_mean_back(learnt: onnx.ModelProto) -> None:
    def shift(corrected: bool) -> float:
        keys = step(kind="quantise", format="int4-weights", per_channel=False, bias_correction=corrected)
        made = quantise.quantise(learnt, keys, labelled(200, 1), 1, FILE, "x")
        # The first layer: what follows sees other inputs in any case.
        name = graph.layers(learnt)[0].output[0]
        before, after = (graph.run(graph.with_outputs(m, [name]), labelled().inputs)[name] for m in (learnt, made))
        return float(np.abs((before - after)[:, :, 1:-1, 1:-1].mean((0, 2, 3))).mean())

    assert shift(True) < shift(False) / 3


def test_beyond_fp16_is_named(learnt: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(learnt)
    node = next(n for n in graph.layers(model) if n.name == "point")
    weight = graph.weight(model, node).copy()
    weight.flat[0] = 1e5
    graph.set_constant(model, node.input[1], weight)
    with pytest.raises(Fault, match=r"x.format = 'fp16': node `point` has a weight of 1e\+05"):
        quantise.quantise(model, step(kind="quantise", format="fp16"), labelled(), 1, FILE, "x")


# --- Pruning ---


def pruned(model: onnx.ModelProto, **keys: Any) -> onnx.ModelProto:
    net = trained(model)
    prune.prune(net, step(kind="prune", **keys), labelled(200, 2), "argmax", 1, FILE, "x", quiet)
    return trainable.to_onnx(net, labelled().inputs)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {n.name: graph.weight(model, n) for n in graph.layers(model)}


@pytest.mark.parametrize("method", ["l1", "l2"])
@pytest.mark.parametrize("budget", ["uniform", "global", "sensitivity"])
def test_the_smallest_weights_become_zero(learnt: onnx.ModelProto, method: str, budget: str) -> None:
    given, made = weights(learnt), weights(pruned(learnt, method=method, amount=0.5, budget=budget))
    assert prune.zeros(list(made.values())) == pytest.approx(0.5, abs=0.03)
    for name, weight in made.items():
        kept = weight != 0
        if kept.any() and not kept.all():
            assert np.abs(given[name][~kept]).max() <= np.abs(given[name][kept]).min()


@pytest.mark.parametrize("budget", ["uniform", "global", "sensitivity"])
def test_channels_really_go(learnt: onnx.ModelProto, budget: str) -> None:
    made = weights(pruned(learnt, method="l2", structure="channels", amount=0.5, budget=budget, round_to=4))
    shapes = {name: w.shape for name, w in made.items()}
    # The first layer, the depthwise one and the inputs of the next go together.
    first, point = shapes["first"][0], shapes["point"][0]
    assert first + point < 40
    assert first % 4 == point % 4 == 0
    assert shapes["depth"] == (first, 1, 3, 3)
    assert shapes["point"][1] == first
    assert shapes["head"] == (4, point)


def test_only_chosen_layers_are_pruned(learnt: onnx.ModelProto) -> None:
    made = weights(pruned(learnt, method="l1", amount=0.5, exclude=["first", "h*"]))
    assert {name: bool((w == 0).any()) for name, w in made.items()} == {
        "first": False,
        "depth": True,
        "point": True,
        "head": False,
    }


def test_a_sensitive_layer_keeps_more() -> None:
    drops = {"tough": [(0.0, 0.0), (0.5, 0.0), (0.9, 0.02)], "tender": [(0.0, 0.0), (0.5, 0.2), (0.9, 0.6)]}
    amounts = prune.budget(drops, {"tough": 100, "tender": 100}, 0.5)
    # The tough one goes to its end, 0.9; 0.1 of the tender one is what lacks.
    assert amounts["tough"] == pytest.approx(0.9)
    assert amounts["tender"] == pytest.approx(0.1, abs=0.01)


def test_clusters_share_values(learnt: onnx.ModelProto) -> None:
    made = pruned(learnt, method="cluster", clusters=8)
    assert all(len(np.unique(w)) <= 8 for w in weights(made).values())
    assert pack.pack(made, half=False).ByteSize() < made.ByteSize() - 400


# --- Training ---


def fit(model: onnx.ModelProto, lesson: train.Lesson | None = None, **keys: Any) -> onnx.ModelProto:
    net = trained(model)
    course = {"kind": "finetune", "examples": 640, "batch": 32, "rate": 3e-3, **keys}
    trainable.add_norms(net, labelled().inputs)
    train.train(net, step(**course), labelled(600, 1), "argmax", lesson, 1, FILE, "x", quiet)
    return trainable.to_onnx(net, labelled().inputs)


def test_zeros_stay_zero_while_others_learn(learnt: onnx.ModelProto) -> None:
    sparse = pruned(learnt, method="l2", amount=0.6, exclude=["first"])
    before, after = weights(sparse), weights(fit(sparse))
    for name in ("depth", "point", "head"):
        np.testing.assert_array_equal(before[name] == 0, after[name] == 0)
        assert not np.array_equal(before[name], after[name])


def test_shared_values_stay_shared_while_they_learn(learnt: onnx.ModelProto) -> None:
    shared = pruned(learnt, method="cluster", clusters=6, only=["head"])
    before, after = weights(shared)["head"], weights(fit(shared))["head"]
    assert len(np.unique(after)) <= 6
    assert not np.array_equal(before, after)


def test_training_through_the_rounding_makes_int8_better(learnt: onnx.ModelProto) -> None:
    hard = step(kind="quantise", format="int8", per_channel=True)
    net = fit(learnt, quantisation_aware=True, examples=1600)
    made = quantise.quantise(net, hard, labelled(200, 1), 1, FILE, "x")
    # The weights lie on the grid that the quantiser finds: it changes next to nothing.
    assert right(made) >= right(net) - 0.01
    plain = quantise.quantise(learnt, hard, labelled(200, 1), 1, FILE, "x")
    assert np.abs(answers(made) - answers(net)).mean() < np.abs(answers(plain) - answers(learnt)).mean() * 1.5


def test_a_student_learns_from_its_teacher_alone(learnt: onnx.ModelProto) -> None:
    some = labelled(600, 1)
    (outputs,) = graph.run(learnt, some.inputs).values()
    net = trainable.student(recipe.Student(family="separable", width=8), learnt, some.inputs, FILE, "x")
    course = step(kind="distil", examples=3200, batch=32, rate=1e-2, soft=1.0, temperature=3.0)
    # With labels that are all alike, only the teacher can be learnt from.
    blind = data.Labelled(some.inputs, np.zeros_like(some.labels), "")
    train.train(net, course, blind, "argmax", train.Lesson(outputs), 1, FILE, "x", quiet)
    assert right(trainable.to_onnx(net, some.inputs)) > 0.8


def test_a_loss_that_is_no_number_is_told(learnt: onnx.ModelProto) -> None:
    net = trained(learnt)
    net.layers["head"].bias.data.fill_(float("inf"))
    course = step(kind="finetune", examples=64, rate=0.5)
    with pytest.raises(Fault, match=r"x.rate = 0.5: the loss is nan after 0 examples: take a smaller rate"):
        train.train(net, course, labelled(600, 1), "argmax", None, 1, FILE, "x", quiet)


def test_each_item_comes_once_before_any_comes_twice() -> None:
    batches = list(train.order(10, 25, 4, 1))
    assert sorted(np.concatenate([*batches[:2], batches[2][:2]])) == list(range(10))
    # 25 examples are 6 batches of 4; the last one has too few for a batch.
    assert [len(b) for b in batches] == [4] * 6


def test_pitch_targets_peak_at_the_pitch() -> None:
    import models
    import torch

    hertz = np.array([60.0, 440.0, 860.0], np.float32)
    target = train.pitch_target(torch.from_numpy(hertz)).numpy()
    np.testing.assert_allclose(models.pitch_hz(target), hertz, rtol=2e-3)


def test_a_cache_entry_that_was_changed_is_made_anew(place: Place) -> None:
    cache = Cache(place.path / "cache")
    file, _ = cache.put_model("k", tiny_net(), {"kind": "x"})
    assert cache.model("k") is not None
    file.write_bytes(file.read_bytes() + b" ")
    assert cache.model("k") is None
