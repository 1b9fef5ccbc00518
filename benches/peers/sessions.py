"""What all the peers run: the benchmark's models, through ONNX Runtime on one thread, as wattd runs them."""

import os
from pathlib import Path

import onnxruntime

NAMES = ("mlp", "mobile5ms", "large-input")


def session(name: str) -> onnxruntime.InferenceSession:
    """Open a model in the folder that BENCH_MODELS names."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = Path(os.environ["BENCH_MODELS"], name, "fp32.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
