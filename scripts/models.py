#!/usr/bin/env python3
"""Make and check the model folders that wattd loads.

A model folder holds `model.toml`, the ONNX file of every variant and a labelled
sample. All variants share one tensor signature: what one of them needs beyond it
(resize, normalise, repeat channels) becomes part of its own graph, so that a
client never knows which variant ran.

    quantise  make a plain int8 ONNX file from a plain fp32 one
    wrap      put the preprocessing in front of a plain ONNX file
    sample    write the labelled sample that model.toml names
    evaluate  print accuracy, size, time and cost of every variant
    manifest  fill in sha256, bytes, macs, traffic_bytes and accuracy

Labelled data is named by `--data`: a directory with Fashion-MNIST's four IDX
files, `tones:COUNT:SEED` for generated tones, or `sample` for the folder's own
sample.

Needs numpy, onnx and onnxruntime, and onnxconverter-common for
`wrap --compute half`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
import statistics
import tempfile
import time
import tomllib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, compose, helper, numpy_helper, parser, shape_inference

Arrays = dict[str, np.ndarray]

DTYPES = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "fp16": TensorProto.FLOAT16,
    "fp32": TensorProto.FLOAT,
    "fp64": TensorProto.DOUBLE,
}
HALF_MAX = float(np.finfo(np.float16).max)


# --- Preprocessing: each front end as a graph, and the same in numpy to check it ---

# ImageNet's channel means and deviations, and Fashion-MNIST's own.
RGB_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
RGB_STD = np.array([0.229, 0.224, 0.225], np.float32)
GREY_MEAN, GREY_STD = np.float32(0.2860), np.float32(0.3530)
# Below this deviation a frame is silence: its noise is not blown up to full scale.
SILENCE = np.float32(1e-8)


def braces(values: np.ndarray | np.floating[Any]) -> str:
    """A tensor literal of the ONNX text format."""
    return "{" + ", ".join(f"{float(v):.9g}" for v in np.ravel(values)) + "}"


# Pixel p becomes (p / 255 - mean) / std = p * gain + offset. Multiplying the one
# grey plane by a [1,3,1,1] tensor also repeats it into three channels.
RGB64 = f"""
front (uint8[N,28,28] image) => (float[N,3,64,64] front_output)
<float[1,3,1,1] front_gain = {braces(1 / (255 * RGB_STD))},
 float[1,3,1,1] front_offset = {braces(-RGB_MEAN / RGB_STD)},
 float[4] front_scales = {braces(np.array([1, 1, 64 / 28, 64 / 28]))},
 int64[1] front_axes = {{1}}>
{{
  front_pixels = Cast <to = 1> (image)
  front_plane = Unsqueeze (front_pixels, front_axes)
  front_large = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
    (front_plane, , front_scales)
  front_scaled = Mul (front_large, front_gain)
  front_output = Add (front_scaled, front_offset)
}}"""

GREY28 = f"""
front (uint8[N,28,28] image) => (float[N,1,28,28] front_output)
<float[1] front_gain = {braces(1 / (255 * GREY_STD))},
 float[1] front_offset = {braces(-GREY_MEAN / GREY_STD)},
 int64[1] front_axes = {{1}}>
{{
  front_pixels = Cast <to = 1> (image)
  front_plane = Unsqueeze (front_pixels, front_axes)
  front_scaled = Mul (front_plane, front_gain)
  front_output = Add (front_scaled, front_offset)
}}"""

AUDIO = f"""
front (float[N,1024] frames) => (float[N,1024] front_output)
<float[1] front_silence = {braces(SILENCE)}>
{{
  front_mean = ReduceMean <axes = [1], keepdims = 1> (frames)
  front_centred = Sub (frames, front_mean)
  front_squares = Mul (front_centred, front_centred)
  front_variance = ReduceMean <axes = [1], keepdims = 1> (front_squares)
  front_deviation = Sqrt (front_variance)
  front_divisor = Max (front_deviation, front_silence)
  front_output = Div (front_centred, front_divisor)
}}"""


def rgb64(image: np.ndarray) -> np.ndarray:
    """Bilinear 28 -> 64 with half-pixel centres, three normalised channels."""
    at = (np.arange(64) + 0.5) * 28 / 64 - 0.5
    low = np.floor(at).astype(int)
    part = (at - low).astype(np.float32)
    a, b = np.clip(low, 0, 27), np.clip(low + 1, 0, 27)
    x = image.astype(np.float32) / 255
    x = x[:, a] * (1 - part)[None, :, None] + x[:, b] * part[None, :, None]
    x = x[:, :, a] * (1 - part) + x[:, :, b] * part
    return (x[:, None] - RGB_MEAN.reshape(1, 3, 1, 1)) / RGB_STD.reshape(1, 3, 1, 1)


def grey28(image: np.ndarray) -> np.ndarray:
    """One normalised channel."""
    return (image[:, None].astype(np.float32) / 255 - GREY_MEAN) / GREY_STD


def audio(frames: np.ndarray) -> np.ndarray:
    """Frames of mean 0 and deviation 1."""
    centred = frames - frames.mean(1, keepdims=True)
    return centred / np.maximum(centred.std(1, keepdims=True), SILENCE)


def noise_images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (64, 28, 28), np.uint8)


def noise_frames(rng: np.random.Generator) -> np.ndarray:
    loudness = 10.0 ** rng.uniform(-4, 4, (64, 1))
    return (rng.normal(0.3, 1, (64, 1024)) * loudness).astype(np.float32)


# name: (input, graph, the same in numpy, random inputs for the check)
FRONTS = {
    "rgb64": ("image", RGB64, rgb64, noise_images),
    "grey28": ("image", GREY28, grey28, noise_images),
    "audio": ("frames", AUDIO, audio, noise_frames),
}


def rename_input(net: onnx.ModelProto, new: str) -> None:
    """Rename the only graph input."""
    (given,) = net.graph.input
    for node in net.graph.node:
        for i, name in enumerate(node.input):
            if name == given.name:
                node.input[i] = new
    given.name = new


def keep_used_domains(model: onnx.ModelProto) -> None:
    """Drop opset imports that no node uses (quantisers leave several)."""
    used = {node.domain for node in model.graph.node}
    kept = [o for o in model.opset_import if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def store_weights_as_half(model: onnx.ModelProto) -> None:
    """Store matrices and kernels as fp16, each followed by a cast to fp32.

    Halves the file. The model still computes in fp32: the runtime folds the casts
    once, when it loads the model.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > HALF_MAX:
            raise SystemExit(f"{tensor.name}: a weight is beyond the range of fp16")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = casts + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def compute_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the whole net to fp16, its inputs and outputs staying fp32."""
    from onnxconverter_common import float16

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            if np.abs(numpy_helper.to_array(tensor)).max() > HALF_MAX:
                raise SystemExit(f"{tensor.name}: a value is beyond the range of fp16")
    # The converter's default clamps every value at 1e4, which a running variance exceeds.
    return float16.convert_float_to_float16(model, keep_io_types=True, max_finite_val=HALF_MAX)


def wrap(args: argparse.Namespace) -> None:
    """`wrap`: compose the front end with a net and compare the result with numpy."""
    source: Path = args.source
    net = onnx.load(source)
    (output,) = net.graph.output
    plain_input = net.graph.input[0].name
    if args.compute == "half":
        net = compute_in_half(net)
    rename_input(net, "net_input")
    keep_used_domains(net)
    if args.weights == "half":
        store_weights_as_half(net)

    input_name, graph, by_numpy, noise = FRONTS[args.front]
    (opset,) = net.opset_import
    head = f'<ir_version: {net.ir_version}, opset_import: ["" : {opset.version}]>'
    front = parser.parse_model(head + graph)
    model = compose.merge_models(front, net, io_map=[("front_output", "net_input")])
    model.producer_name, model.producer_version = "wattd scripts/models.py", ""
    model.graph.name = args.out.stem
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, args.out)

    x = noise(np.random.default_rng(0))
    (expected,) = session(source).run([output.name], {plain_input: by_numpy(x).astype(np.float32)})
    (got,) = session(args.out).run([output.name], {input_name: x})
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    print(f"{args.out}: {args.out.stat().st_size} bytes, differs by {difference:.2g} of the largest output")
    if not difference <= args.tolerance:
        raise SystemExit(f"{args.out}: differs by more than {args.tolerance}")


def quantise_static(source: Path, out: Path, calibration: np.ndarray, full_range: bool = False) -> None:
    """Static int8 of a net with one input, as QDQ.

    Activations are uint8, which x86 needs to be fast. Weights are int8, one scale per
    channel, and keep to 7 bits: x86 without VNNI adds two 8-bit products in 16 bits,
    which saturates with 8-bit weights and cost MobileNetV2 1.6 points.
    """
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load(source).graph.input[0].name

    class Reader(q.CalibrationDataReader):
        batches = iter([{name: calibration[i : i + 32]} for i in range(0, len(calibration), 32)])

        def get_next(self) -> Arrays | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        q.quantize_static(
            prepared,
            out,
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod.MinMax,
            per_channel=True,
            reduce_range=not full_range,
        )


def quantise(args: argparse.Namespace) -> None:
    """`quantise`: calibrate on tones, or on 512 of the training images."""
    _, _, by_numpy, _ = FRONTS[args.front]
    if match := TONES.fullmatch(args.data):
        (x,) = tones(int(match[1]), int(match[2]))[0].values()
    else:
        images = fashion_mnist(Path(args.data), "train")[0]["image"]
        x = images[np.random.default_rng(0).choice(len(images), 512, replace=False)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    quantise_static(args.source, args.out, by_numpy(x).astype(np.float32), args.full_range)


# --- Labelled data ---

TONES = re.compile(r"tones:(\d+):(\d+)")


def fashion_mnist(directory: Path, split: str = "t10k") -> tuple[Arrays, np.ndarray]:
    """The 10,000 test images (or the 60,000 of `train`) and their labels, from IDX files."""
    images = gzip.decompress((directory / f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((directory / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return {"image": x}, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


def tones(count: int, seed: int) -> tuple[Arrays, np.ndarray]:
    """Harmonic tones of 55-880 Hz: random timbre, noise 0-20 dB and loudness 0-60 dB below them."""
    rng, loudness = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    frames = np.empty((count, 1024), np.float32)
    pitches = np.empty(count, np.float32)
    t = np.arange(1024) / 16000
    for i in range(count):
        pitch = 55 * 2 ** rng.uniform(0, 4)
        x = np.zeros(1024)
        for harmonic in range(1, 9):
            if pitch * harmonic < 7500:
                amplitude = rng.uniform(0, 1) / harmonic
                x += amplitude * np.sin(2 * np.pi * pitch * harmonic * t + rng.uniform(0, 6.28))
        x /= x.std() + 1e-9
        x += rng.normal(0, 10 ** (-rng.uniform(0, 20) / 20), 1024)
        frames[i] = x / np.abs(x).max() * 10 ** (-loudness.uniform(0, 60) / 20)
        pitches[i] = pitch
    return {"frames": frames}, pitches


def load_data(folder: Folder, spec: str) -> tuple[Arrays, np.ndarray]:
    """The inputs and labels that `--data` names."""
    if spec == "sample":
        sample = folder.manifest["sample"]
        inputs = {name: np.load(folder.path / file) for name, file in sample["inputs"].items()}
        return inputs, np.load(folder.path / sample["labels"])
    if match := TONES.fullmatch(spec):
        return tones(int(match[1]), int(match[2]))
    return fashion_mnist(Path(spec))


def write_sample(args: argparse.Namespace) -> None:
    """`sample`: write inputs and labels to where model.toml's [sample] says."""
    folder = Folder.open(args.folder)
    inputs, labels = load_data(folder, args.data)
    if args.count:
        rng = np.random.default_rng(args.seed)
        classes = np.unique(labels)
        each, rest = divmod(args.count, len(classes))
        if rest:
            raise SystemExit(f"--count: not a multiple of {len(classes)} classes")
        chosen = [rng.choice(np.flatnonzero(labels == c), each, replace=False) for c in classes]
        order = rng.permutation(np.concatenate(chosen))
        inputs, labels = {name: x[order] for name, x in inputs.items()}, labels[order]
    sample = folder.manifest["sample"]
    for name, file in sample["inputs"].items():
        save_array(folder.path / file, inputs[name])
    save_array(folder.path / sample["labels"], labels)


def save_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


# --- Accuracy and time ---


def session(path: Path) -> ort.InferenceSession:
    """A session on one thread of the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def pitch_hz(salience: np.ndarray) -> np.ndarray:
    """CREPE's decoding: the weighted mean of the 9 bins about the highest."""
    cents = np.linspace(0, 7180, 360) + 1997.3794084376191
    peak = salience.argmax(1)[:, None]
    weights = np.where(np.abs(np.arange(360) - peak) <= 4, salience, 0)
    return 10 * 2 ** ((weights * cents).sum(1) / weights.sum(1) / 1200)


def correct(score: str, output: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which items an output gets right."""
    if score == "argmax":
        return output.argmax(1) == labels
    if score == "pitch-50-cents":
        return np.abs(1200 * np.log2(pitch_hz(output) / labels)) < 50
    raise SystemExit(f"score: {score!r} is not known")


def accuracy(folder: Folder, file: str, inputs: Arrays, labels: np.ndarray) -> float:
    """The fraction of items that a variant gets right."""
    s, sample, hits = session(folder.path / file), folder.manifest["sample"], 0
    step = min(100, folder.manifest["max_batch"])
    for i in range(0, len(labels), step):
        batch = {name: x[i : i + step] for name, x in inputs.items()}
        (output,) = s.run([sample["output"]], batch)
        hits += int(correct(sample["score"], output, labels[i : i + step]).sum())
    return hits / len(labels)


def milliseconds(path: Path, item: Arrays, seconds: float = 1.0) -> float:
    """The median time of one item on one thread."""
    s = session(path)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        s.run(None, item)
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:]) * 1e3


# --- Cost, counted from the graph ---

# A runtime fuses these into a neighbour or only renames memory: they move nothing.
FREE = {
    *("Relu", "Clip", "QuantizeLinear", "DequantizeLinear"),
    *("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze"),
}


@dataclass(frozen=True)
class Cost:
    """What one item costs, whatever device runs it."""

    macs: int
    traffic_bytes: int


def cost(path: Path) -> Cost:
    """Multiply-accumulates, and bytes of weights and activations read and written.

    Weights count as they are computed with, so fp16 weights that are cast to fp32
    count four bytes each, and activations between a QuantizeLinear and a
    DequantizeLinear one byte.
    """
    model = onnx.load(path)
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = 1
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    tensors = {
        v.name: ([d.dim_value for d in v.type.tensor_type.shape.dim], v.type.tensor_type.elem_type)
        for v in [*graph.input, *graph.value_info, *graph.output]
    }
    constants = {t.name for t in graph.initializer}
    tensors |= {t.name: (list(t.dims), t.data_type) for t in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    used_by: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            used_by.setdefault(name, []).append(node)

    def is_free(node: onnx.NodeProto) -> bool:
        folded = node.op_type == "Cast" and node.input[0] in constants
        return folded or node.op_type in FREE

    def size(name: str) -> int:
        shape, dtype = tensors[name]
        return prod(shape) * helper.tensor_dtype_to_np_dtype(dtype).itemsize

    def bytes_read(name: str) -> int:
        smallest = size(name)
        while (node := made_by.get(name)) and is_free(node) and node.op_type != "Cast":
            name = node.input[0]
            smallest = min(smallest, size(name))
        return smallest

    def bytes_written(name: str) -> int:
        smallest = size(name)
        while len(users := used_by.get(name, [])) == 1 and is_free(users[0]):
            name = users[0].output[0]
            smallest = min(smallest, size(name))
        return smallest

    macs = traffic = 0
    for node in graph.node:
        if is_free(node):
            continue
        traffic += sum(bytes_read(name) for name in node.input if name)
        traffic += sum(bytes_written(name) for name in node.output)
        outputs = prod(tensors[node.output[0]][0])
        if node.op_type == "Conv":
            macs += outputs * prod(tensors[node.input[1]][0][1:])
        elif node.op_type == "Gemm":
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            macs += outputs * tensors[node.input[0]][0][0 if transposed else 1]
        elif node.op_type == "MatMul":
            macs += outputs * tensors[node.input[0]][0][-1]
    return Cost(macs, traffic)


# --- The manifest ---


@dataclass(frozen=True)
class Folder:
    """A model folder and its parsed model.toml."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Folder:
        return cls(path, tomllib.loads((path / "model.toml").read_text()))


def check_signature(folder: Folder, file: str) -> None:
    """Fail unless a variant's inputs and outputs are what the manifest declares."""
    graph = onnx.load(folder.path / file).graph
    for key, values in (("input", graph.input), ("output", graph.output)):
        declared = {t["name"]: (DTYPES[t["dtype"]], t["shape"]) for t in folder.manifest[key]}
        actual = {}
        for v in values:
            dims = [-1 if d.dim_param else d.dim_value for d in v.type.tensor_type.shape.dim]
            actual[v.name] = (v.type.tensor_type.elem_type, dims)
        if declared != actual:
            raise SystemExit(f"{file}: {key} is {actual}, declared {declared}")


def evaluate(args: argparse.Namespace) -> None:
    """`evaluate`: print a table of the variants."""
    folder = Folder.open(args.folder)
    inputs, labels = load_data(folder, args.data)
    sample_inputs, sample_labels = load_data(folder, "sample")
    item = {name: x[:1] for name, x in sample_inputs.items()}
    print(f"{'variant':16}{'accuracy':>10}{'sample':>10}{'MB':>8}{'ms':>8}{'macs':>12}{'traffic':>12}")
    for variant in folder.manifest["variant"]:
        file = variant["file"]
        path, counted = folder.path / file, cost(folder.path / file)
        row = f"{variant['name']:16}{accuracy(folder, file, inputs, labels):10.4f}"
        row += f"{accuracy(folder, file, sample_inputs, sample_labels):10.4f}"
        row += f"{path.stat().st_size / 1e6:8.3f}{milliseconds(path, item):8.3f}"
        print(f"{row}{counted.macs:12}{counted.traffic_bytes:12}", flush=True)


def fill_manifest(path: Path, data: str | None, claimed: dict[str, float] | None = None) -> None:
    """Set the measured keys of every variant in model.toml, keeping its comments.

    `claimed` gives accuracies, by variant, that are not measured.
    """
    folder = Folder.open(path)
    labelled = load_data(folder, data) if data else None
    measured: list[dict[str, str]] = []
    for variant in folder.manifest["variant"]:
        file = variant["file"]
        check_signature(folder, file)
        content, counted = (path / file).read_bytes(), cost(path / file)
        values = {
            "sha256": f'"{hashlib.sha256(content).hexdigest()}"',
            "bytes": str(len(content)),
            "macs": str(counted.macs),
            "traffic_bytes": str(counted.traffic_bytes),
        }
        if claimed and variant["name"] in claimed:
            values["accuracy"] = f"{claimed[variant['name']]:.4f}"
        elif labelled:
            values["accuracy"] = f"{accuracy(folder, file, *labelled):.4f}"
        if "sample_accuracy" in variant:
            values["sample_accuracy"] = f"{accuracy(folder, file, *load_data(folder, 'sample')):.4f}"
        measured.append(values)

    lines, block = (path / "model.toml").read_text().splitlines(), -1
    for i, line in enumerate(lines):
        if line.startswith("[[variant]]"):
            block += 1
        match = re.match(r'(\w+)( *= *)("[^"]*"|[\d.]+)', line)
        if block >= 0 and match and match[1] in measured[block]:
            lines[i] = f"{match[1]}{match[2]}{measured[block][match[1]]}{line[match.end() :]}"
    (path / "model.toml").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Parse the arguments and run the command."""
    summary, details = (__doc__ or "").split("\n", 1)
    plain = argparse.RawDescriptionHelpFormatter
    main_parser = argparse.ArgumentParser(description=summary, epilog=details, formatter_class=plain)
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")
    data_help = "IDX directory, tones:COUNT:SEED or sample"

    p = commands.add_parser("wrap", help="put the preprocessing in front of a plain ONNX file")
    p.add_argument("source", type=Path, help="plain ONNX file with one input and one output")
    p.add_argument("out", type=Path, help="ONNX file to write")
    p.add_argument("--front", choices=FRONTS, required=True, help="the preprocessing")
    p.add_argument("--weights", choices=["half"], help="store weights as fp16, compute in fp32")
    p.add_argument("--compute", choices=["half"], help="convert the net to fp16")
    p.add_argument("--tolerance", type=float, default=0.02, help="as a fraction of the largest output")
    p.set_defaults(run=wrap)

    p = commands.add_parser("quantise", help="make a plain int8 ONNX file from a plain fp32 one")
    p.add_argument("source", type=Path, help="plain ONNX file with one input")
    p.add_argument("out", type=Path, help="ONNX file to write, to be wrapped next")
    p.add_argument("--front", choices=FRONTS, required=True, help="the preprocessing")
    p.add_argument("--data", required=True, help="to calibrate on: IDX directory or tones:COUNT:SEED")
    p.add_argument("--full-range", action="store_true", help="8-bit weights: wrong on x86 without VNNI")
    p.set_defaults(run=quantise)

    p = commands.add_parser("sample", help="write the labelled sample that model.toml names")
    p.add_argument("folder", type=Path)
    p.add_argument("--data", required=True, help=data_help)
    p.add_argument("--count", type=int, help="as many items, the same number of each class")
    p.add_argument("--seed", type=int, default=0, help="for the choice of items")
    p.set_defaults(run=write_sample)

    p = commands.add_parser("evaluate", help="print accuracy, size, time and cost of every variant")
    p.add_argument("folder", type=Path)
    p.add_argument("--data", required=True, help=data_help)
    p.set_defaults(run=evaluate)

    p = commands.add_parser("manifest", help="fill in what model.toml says of every variant")
    p.add_argument("folder", type=Path)
    p.add_argument("--data", help=f"measure accuracy on it too: {data_help}")
    p.set_defaults(run=lambda args: fill_manifest(args.folder, args.data))

    args = main_parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
