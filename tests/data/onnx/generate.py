"""Writes the small ONNX files that the tests of `src/exec` load. Needs the `onnx` package.

Run it in this folder; the files are kept in git, so that the tests need no Python.
"""

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

F = T.FLOAT


def save(name, nodes, inputs, outputs, initializers=()):
    graph = h.make_graph(list(nodes), name, list(inputs), list(outputs), list(initializers))
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)], producer_name="wattd-tests")
    model.ir_version = 9
    with open(f"{name}.onnx", "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


def value(name, shape, dtype=F):
    return h.make_tensor_value_info(name, dtype, shape)


def const(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def mlp(name, scale=0.0, batch="N", inp="x", out="y", outputs=4, seed=1):
    """Two dense layers, 8 -> 16 -> 4; `scale` perturbs the weights."""
    rng = np.random.default_rng(seed)
    noise = np.random.default_rng(99)
    def weights(shape):
        w = rng.standard_normal(shape).astype(np.float32)
        return w + scale * noise.standard_normal(shape).astype(np.float32)
    save(
        name,
        [
            h.make_node("Gemm", [inp, "w1", "b1"], ["h"]),
            h.make_node("Relu", ["h"], ["r"]),
            h.make_node("Gemm", ["r", "w2", "b2"], [out]),
        ],
        [value(inp, [batch, 8])],
        [value(out, [batch, outputs])],
        [
            const("w1", weights((8, 16))),
            const("b1", weights((16,))),
            const("w2", weights((16, outputs))),
            const("b2", weights((outputs,))),
        ],
    )


def slow():
    """As many 64x64 matrix products as the largest input says: zero takes no time, 1e9 takes an hour."""
    body = h.make_graph(
        [
            h.make_node("MatMul", ["state_in", "m"], ["product"]),
            h.make_node("Tanh", ["product"], ["state_out"]),
            h.make_node("Identity", ["cond_in"], ["cond_out"]),
        ],
        "body",
        [value("i", [], T.INT64), value("cond_in", [], T.BOOL), value("state_in", [64, 64])],
        [value("cond_out", [], T.BOOL), value("state_out", [64, 64])],
    )
    save(
        "slow",
        [
            h.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            h.make_node("Cast", ["largest"], ["trips"], to=T.INT64),
            h.make_node("ConstantOfShape", ["square"], ["m"], value=h.make_tensor("v", F, [1], [0.01])),
            h.make_node("Loop", ["trips", "yes", "m"], ["state"], body=body),
            h.make_node("ReduceSum", ["state"], ["sum"], keepdims=0),
            h.make_node("Mul", ["sum", "zero"], ["nothing"]),
            h.make_node("Add", ["x", "nothing"], ["y"]),
        ],
        [value("x", ["N", 4])],
        [value("y", ["N", 4])],
        [const("square", np.array([64, 64], np.int64)), const("yes", np.array(True)), const("zero", np.float32(0))],
    )


def types():
    """Each element type in and out: half, bool (inverted), 64 bit integers (plus one), bytes."""
    save(
        "types",
        [
            h.make_node("Add", ["half", "half"], ["half_out"]),
            h.make_node("Not", ["flag"], ["flag_out"]),
            h.make_node("Add", ["long", "one"], ["long_out"]),
            h.make_node("Identity", ["byte"], ["byte_out"]),
        ],
        [
            value("half", ["N", 2], T.FLOAT16),
            value("flag", ["N", 2], T.BOOL),
            value("long", ["N", 2], T.INT64),
            value("byte", ["N", 3], T.UINT8),
        ],
        [
            value("half_out", ["N", 2], T.FLOAT16),
            value("flag_out", ["N", 2], T.BOOL),
            value("long_out", ["N", 2], T.INT64),
            value("byte_out", ["N", 3], T.UINT8),
        ],
        [const("one", np.array([1], np.int64))],
    )


def main():
    mlp("mlp")
    mlp("mlp_near", scale=0.01)
    mlp("mlp_far", seed=7)
    mlp("mlp_fixed", batch=1)
    mlp("mlp_names", out="z")
    mlp("mlp_shape", outputs=5)
    save(
        "mlp_dtype",
        [h.make_node("Gemm", ["x", "w"], ["y"])],
        [value("x", ["N", 8], T.DOUBLE)],
        [value("y", ["N", 4], T.DOUBLE)],
        [const("w", np.ones((8, 4)))],
    )
    save(
        "mlp_nan",
        [
            h.make_node("MatMul", ["x", "w"], ["h"]),
            h.make_node("Sub", ["h", "h"], ["zero"]),
            h.make_node("Div", ["zero", "zero"], ["y"]),
        ],
        [value("x", ["N", 8])],
        [value("y", ["N", 4])],
        [const("w", np.ones((8, 4), np.float32))],
    )
    slow()
    types()
    # A free dimension beside the batch.
    save(
        "mean",
        [h.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)],
        [value("x", ["N", "T"])],
        [value("y", ["N", 1])],
    )
    # An operator that only ONNX Runtime's own kernels know.
    save(
        "inverse",
        [h.make_node("Inverse", ["x"], ["y"], domain="com.microsoft")],
        [value("x", ["N", 2, 2])],
        [value("y", ["N", 2, 2])],
    )
    # 64 MiB of weights out of a file of a few hundred bytes.
    save(
        "heavy",
        [
            h.make_node("ConstantOfShape", ["square"], ["w"], value=h.make_tensor("v", F, [1], [0.5])),
            h.make_node("Mul", ["x", "half"], ["h"]),
            h.make_node("MatMul", ["h", "w"], ["y"]),
        ],
        [value("x", ["N", 4096])],
        [value("y", ["N", 4096])],
        [const("square", np.array([4096, 4096], np.int64)), const("half", np.float32(0.5))],
    )
    # Hostile: 4 PB of weights.
    save(
        "bomb",
        [
            h.make_node("ConstantOfShape", ["square"], ["w"], value=h.make_tensor("v", F, [1], [0.5])),
            h.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        [value("x", ["N", 8])],
        [value("y", ["N", 4])],
        [const("square", np.array([8, 1 << 47], np.int64))],
    )
    # Hostile: weights that lie in a file of the machine.
    weight = const("w", np.ones((8, 4), np.float32))
    weight.ClearField("raw_data")
    weight.data_location = T.EXTERNAL
    for key, text in (("location", "generate.py"), ("offset", "0"), ("length", "128")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, text
    save(
        "external",
        [h.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", ["N", 8])],
        [value("y", ["N", 4])],
        [weight],
    )
    with open("mlp.onnx", "rb") as whole, open("truncated.onnx", "wb") as part:
        data = whole.read()
        part.write(data[: len(data) * 3 // 5])


main()
