"""The model folder: variants worth having, the manifest, and the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from textwrap import fill
from typing import Any

import models

from . import measure
from .build import Builder, Result, describe
from .cache import tools
from .recipe import Quantise, lineage

# Times closer than this are taken for equal.
NOISE = 0.03


def dominates(a: Result, b: Result) -> bool:
    """Whether `a` is at least as good as `b` in accuracy, size and time, and better in one."""
    faster = a.speed.milliseconds < b.speed.milliseconds * (1 - NOISE)
    no_slower = a.speed.milliseconds <= b.speed.milliseconds * (1 + NOISE)
    if a.accuracy.hits < b.accuracy.hits or a.bytes > b.bytes or not no_slower:
        return False
    return a.accuracy.hits > b.accuracy.hits or a.bytes < b.bytes or faster


def choose(results: list[Result], everything: bool) -> tuple[list[Result], dict[str, str]]:
    """The variants to keep, the reference first and then from the largest on, and by which the others fall."""
    reference, *others = results
    dropped: dict[str, str] = {}
    for result in others:
        better = next((r.variant.name for r in results if r is not result and dominates(r, result)), None)
        if better is not None:
            dropped[result.variant.name] = better
    kept = [r for r in others if everything or r.variant.name not in dropped]
    return [reference, *sorted(kept, key=lambda r: -r.bytes)], dropped


def precision(builder: Builder, result: Result) -> str:
    """What a variant computes in."""
    formats = [s.format for s in lineage(builder.recipe, result.variant) if isinstance(s, Quantise)]
    return {"int8": "int8", "fp16": "fp16"}.get(formats[-1] if formats else "", "fp32")


def write(builder: Builder, results: list[Result], out: Path, everything: bool) -> list[Result]:
    """Writes the model folder; the one that was there is replaced whole."""
    kept, dropped = choose(results, everything)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "report").mkdir(parents=True)
    for result in kept:
        shutil.copyfile(result.made.file, part / f"{result.variant.name}.onnx")
    sample = builder.folder.manifest["sample"]
    for name in [*sample["inputs"].values(), sample["labels"]]:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(builder.folder.path / name, part / name)
    (part / "model.toml").write_text(manifest(builder, kept, results))
    folder = models.Folder.open(part)
    for result in kept:
        models.check_signature(folder, f"{result.variant.name}.onnx")
    (part / "report" / "report.json").write_text(json.dumps(record(builder, results, dropped), indent=1) + "\n")
    (part / "report" / "README.md").write_text(table(builder, results, dropped))
    picture(results, dropped, part / "report" / "pareto.png", builder.recipe.name)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return kept


def _text(value: str) -> str:
    """A string of TOML."""
    return json.dumps(value, ensure_ascii=False)


def manifest(builder: Builder, kept: list[Result], results: list[Result]) -> str:
    """The text of model.toml."""
    recipe, given = builder.recipe, builder.folder.manifest
    lines = [
        f"# Model folder made by scripts/compress from the recipe {builder.file.name}.",
        "# report/README.md says how each variant was made and what was measured.",
        "",
        f"name = {_text(recipe.name)}",
        f"version = {_text(recipe.version)}",
        f"task = {_text(given.get('task', ''))}",
        f"description = {_text(recipe.description or given.get('description', ''))}",
        f"license = {_text(given['license'])}",
        f"max_batch = {given['max_batch']}",
    ]
    for table_name in ("input", "output"):
        for tensor in given[table_name]:
            lines += ["", f"[[{table_name}]]", f"name = {_text(tensor['name'])}"]
            lines += [f"dtype = {_text(tensor['dtype'])}", f"shape = {tensor['shape']}"]
    sample = given["sample"]
    pairs = ", ".join(f"{_text(n)} = {_text(f)}" for n, f in sample["inputs"].items())
    lines += ["", "[accuracy]", f"metric = {_text(given['accuracy']['metric'])}"]
    lines += [f"data = {_text(tested_on(builder))}", f"items = {len(builder.sets.test)}"]
    lines += ["", "[sample]", f"inputs = {{ {pairs} }}"]
    lines += [f"{key} = {_text(sample[key])}" for key in ("labels", "score", "output")]
    names = {result.variant.name for result in kept}
    parents = {result.variant.name: result.parent for result in results}
    for result in kept:
        lines += _variant(builder, result)
        parent = result.parent
        while parent is not None and parent not in names:
            parent = parents[parent]
        lines += [f"parent = {_text(parent)}"] if parent else []
    return "\n".join(lines) + "\n"


def _variant(builder: Builder, result: Result) -> list[str]:
    kind = precision(builder, result)
    low, high = result.accuracy.interval
    units = ["cpu", "gpu"] if kind == "fp32" else ["cpu", "gpu", "npu"]
    steps = "; ".join(describe(s) for s in lineage(builder.recipe, result.variant)) or "as it was"
    return [
        "",
        f"# {steps}. Accuracy: {low:.4f} to {high:.4f} at 95 %.",
        "[[variant]]",
        f"name = {_text(result.variant.name)}",
        f"file = {_text(result.variant.name + '.onnx')}",
        f"sha256 = {_text(result.made.sha256)}",
        f"bytes = {result.bytes}",
        f"precision = {_text(kind)}",
        f"accuracy = {result.accuracy.fraction:.4f}",
        f"macs = {result.cost.macs}",
        f"traffic_bytes = {result.cost.traffic_bytes}",
        f"units = {json.dumps(units)}",
    ]


def tested_on(builder: Builder) -> str:
    """What accuracies count."""
    given = builder.recipe.data.test.description or builder.recipe.data.test.source
    return f"{given}; {len(builder.sets.test)} of them" if builder.quick else given


def record(builder: Builder, results: list[Result], dropped: dict[str, str]) -> dict[str, Any]:
    """All that is known of how the variants came about."""
    return {
        "recipe": builder.recipe.model_dump(),
        "quick": builder.quick,
        "tools": tools(),
        "machine": measure.machine(),
        "data": {k: {"sha256": d, "items": len(getattr(builder.sets, k))} for k, d in builder.digests.items()},
        "test_items_seen_before": builder.sets.common(),
        "source": {"variant": builder.recipe.source.variant, "sha256": builder.source.sha256},
        "variants": [
            {
                "name": r.variant.name,
                "parent": r.parent,
                "sha256": r.made.sha256,
                "bytes": r.bytes,
                "accuracy": {**measure.as_json(r.accuracy), "interval": r.accuracy.interval},
                "speed": measure.as_json(r.speed),
                "macs": r.cost.macs,
                "traffic_bytes": r.cost.traffic_bytes,
                "dominated_by": dropped.get(r.variant.name),
                "steps": r.made.records,
            }
            for r in results
        ],
    }


def table(builder: Builder, results: list[Result], dropped: dict[str, str]) -> str:
    """The report for people."""
    where = measure.machine()
    metered = any(r.speed.joules is not None for r in results)
    lines = [
        f"# {builder.recipe.name} {builder.recipe.version}: variants and what they cost",
        "",
        fill(
            f"Accuracy ({builder.folder.manifest['accuracy']['metric']}) on {tested_on(builder)}, with Wilson's "
            "interval at 95 %. No step saw these items: it was trained and calibrated on `data.train`, and choices "
            f"were made on `data.tune`; {builder.sets.common()} items are equal to one of those, as the collection "
            f"has them. Time is the median of one item on one thread of {where['processor']} with ONNX Runtime "
            f"{where['onnxruntime']}.",
            118,
        ),
        "" if metered else "Energy was not measured: this machine has no meter that may be read.",
        "",
        "| variant | how | accuracy | interval | MB | ms | mJ | million MACs | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in [results[0], *sorted(results[1:], key=lambda r: -r.bytes)]:
        low, high = r.accuracy.interval
        how = "; ".join(describe(s) for s in lineage(builder.recipe, r.variant)) or "the source"
        energy = f"{r.speed.joules * 1e3:.2f}" if r.speed.joules is not None else "-"
        note = f"dominated by {dropped[r.variant.name]}" if r.variant.name in dropped else ""
        lines.append(
            f"| {r.variant.name} | {how} | {100 * r.accuracy.fraction:.2f} % | {100 * low:.2f}-{100 * high:.2f} "
            f"| {r.bytes / 1e6:.3f} | {r.speed.milliseconds:.3f} | {energy} | {r.cost.macs / 1e6:.2f} | {note} |"
        )
    lines += [
        "",
        "![accuracy against time, energy and size](pareto.png)",
        "",
        fill(
            "A variant is dominated if another is at least as accurate, as small and as fast (times within "
            f"{100 * NOISE:.0f} % count as equal), and better in one of these. Building again with the same seed on "
            "the same kind of processor gives the same files; other processors round sums differently. Which "
            "variants are dominated depends on times, and times on the machine.",
            118,
        ),
        "",
    ]
    return "\n".join(lines)


def picture(results: list[Result], dropped: dict[str, str], file: Path, title: str) -> None:
    """Accuracy against time, energy and size, with the frontier of each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels: list[tuple[str, list[float | None]]] = [
        ("ms", [r.speed.milliseconds for r in results]),
        ("mJ", [r.speed.joules and r.speed.joules * 1e3 for r in results]),
        ("MB", [r.bytes / 1e6 for r in results]),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(15, 5), sharey=True, layout="constrained")
    for axis, (unit, values) in zip(axes, panels, strict=True):
        axis.set_xlabel(unit)
        points = [(v, r) for v, r in zip(values, results, strict=True) if v is not None]
        if not points:
            axis.text(0.5, 0.5, "no meter on this machine", ha="center", transform=axis.transAxes)
            continue
        axis.set_xscale("log")
        best, frontier = 0.0, []
        for value, r in sorted(points, key=lambda p: (p[0], -p[1].accuracy.fraction)):
            if r.accuracy.fraction > best:
                best = r.accuracy.fraction
                frontier.append((value, 100 * best))
        axis.plot(*zip(*frontier, strict=True), color="teal", linewidth=1, zorder=1)
        for value, r in points:
            low, high = (100 * b for b in r.accuracy.interval)
            y, colour = 100 * r.accuracy.fraction, "silver" if r.variant.name in dropped else "teal"
            axis.errorbar(value, y, [[y - low], [high - y]], fmt="o", color=colour, capsize=2, zorder=2)
            axis.annotate(r.variant.name, (value, y), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes[0].set_ylabel("accuracy, %")
    figure.suptitle(title)
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)
