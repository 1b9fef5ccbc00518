"""Compares answers of two builds: compare.py FILE FILE, each with what `wattctl infer --json` printed, one after another.

Both must choose the same classes, and their outputs may differ by a share of the output's range: rounding in 32-bit
floats, and in 8-bit integers also by what instructions without saturation keep.
"""

import json
import sys

FLOAT, INTEGER = 1e-4, 0.05


def answers(file: str) -> list[dict]:
    text, found = open(file, encoding="utf-8").read().strip(), []
    while text:
        answer, end = json.JSONDecoder().raw_decode(text)
        found.append(answer)
        text = text[end:].strip()
    return found


def main(first: str, second: str) -> None:
    pairs = list(zip(answers(first), answers(second), strict=True))
    assert pairs, f"{first} has no answers"
    worst = {}
    for ours, theirs in pairs:
        variant = ours["parameters"]["variant"]
        assert variant == theirs["parameters"]["variant"], (ours, theirs)
        assert ours["correct"] == theirs["correct"], f"{variant}: {ours['correct']} and {theirs['correct']}"
        a, b = (answer["outputs"][0]["data"] for answer in (ours, theirs))
        assert len(a) == len(b) > 0 and a.index(max(a)) == b.index(max(b)), f"{variant}: {a} and {b}"
        off = max(abs(x - y) for x, y in zip(a, b)) / (max(a) - min(a))
        worst[variant] = max(off, worst.get(variant, 0.0))
    for variant, off in worst.items():
        limit = INTEGER if "int8" in variant else FLOAT
        print(f"{variant}: outputs differ by at most {off:.2g} of their range ({limit:g} allowed)")
        assert off <= limit, f"{variant}: more than {limit}"


main(*sys.argv[1:])
