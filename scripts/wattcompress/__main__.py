"""`scripts/compress`: the arguments and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from . import graph, recipe
from .build import Builder
from .cache import Cache
from .faults import Fault
from .report import write

STATE = Path(os.environ.get("WATTD_STATE", ".wattd"))


def build(args: argparse.Namespace) -> None:
    """`build`: variants, measurements, model folder."""
    started = time.monotonic()
    made = recipe.load(args.recipe)
    builder = Builder(args.recipe, made, Cache(args.cache), args.quick)
    results = builder.results(args.remeasure)
    out: Path = args.out or STATE / "models" / (f"{made.name}-quick" if args.quick else made.name)
    kept = write(builder, results, out, args.all)
    print((out / "report" / "README.md").read_text())
    print(f"{out}: {len(kept)} of {len(results)} variants, {time.monotonic() - started:.0f} s")


def check(args: argparse.Namespace) -> None:
    """`check`: the recipe, its source and its data."""
    builder = Builder(args.recipe, recipe.load(args.recipe), Cache(args.cache))
    names = [node.name for node in graph.layers(graph.read(builder.source.file, args.recipe, "source"))]
    sets = builder.sets
    print(f"{args.recipe}: {len(builder.recipe.variant)} variants")
    print(f"items: train {len(sets.train)}, tune {len(sets.tune)}, test {len(sets.test)}")
    print(f"layers: {' '.join(names)}")


def main() -> int:
    """Runs a command. 0: done, 2: a mistake in what was given."""
    parser = argparse.ArgumentParser(prog="compress", description="Makes a ladder of variants by a recipe.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run in (("build", build), ("check", check)):
        command = commands.add_parser(name, help=(run.__doc__ or "").partition(": ")[2])
        command.add_argument("recipe", type=Path, help="TOML file; config/recipes has some")
        command.add_argument("--cache", type=Path, default=STATE / "compress/cache", help="results of steps")
        command.set_defaults(run=run)
        if run is build:
            command.add_argument("--out", type=Path, help="model folder [default: .wattd/models/NAME]")
            command.add_argument("--quick", action="store_true", help="the cut that the recipe's [quick] says")
            command.add_argument("--all", action="store_true", help="keep dominated variants too")
            command.add_argument("--remeasure", action="store_true", help="measure times again")
    args = parser.parse_args()
    # Libraries report their own progress there.
    logging.disable(logging.WARNING)
    try:
        args.run(args)
    except Fault as fault:
        print("\n".join(f"compress: {line}" for line in str(fault).splitlines()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
