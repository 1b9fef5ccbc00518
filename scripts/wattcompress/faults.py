"""What is wrong with something that came from outside, in one line."""

from __future__ import annotations

from pathlib import Path


class Fault(Exception):
    """A mistake in a recipe, a model or a dataset, which the user can put right."""

    @classmethod
    def at(cls, file: Path | str, key: str, value: object, rule: str) -> Fault:
        """A fault of `key` in `file`: what its value is, and what would be right."""
        shown = repr(value)
        if len(shown) > 100:
            shown = f"{shown[:97]}..."
        return cls(f"{file}: {key} = {shown}: {rule}")
