"""Results of steps, kept under a hash of all that they depend on: a build goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from . import graph

# Raise it when a step gives another result for the same recipe.
REVISION = 1
TOOLS = ("numpy", "onnx", "onnxruntime", "onnxslim", "onnx2torch", "torch-pruning", "scipy")


def tools() -> dict[str, str]:
    """Versions of what makes the files."""
    import torch

    return {"wattcompress": str(REVISION), "torch": torch.__version__, **{n: version(n) for n in TOOLS}}


def digest(value: object) -> str:
    """A name for a value of JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Cache:
    """A folder of results. What is half written or was changed since is made anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def model(self, key: str) -> tuple[Path, dict[str, Any]] | None:
        """The file and the record of a step."""
        file, record = self.folder / f"{key}.onnx", self.json(key)
        if record is None or not file.is_file() or file_digest(file) != record.get("sha256"):
            return None
        return file, record

    def put_model(self, key: str, model: onnx.ModelProto, record: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Keeps the result of a step; the record comes last and says that it is whole."""
        file = self.folder / f"{key}.onnx"
        graph.save(model, file)
        record = {**record, "sha256": file_digest(file), "bytes": file.stat().st_size}
        self.put_json(key, record)
        return file, record

    def json(self, key: str) -> dict[str, Any] | None:
        """A kept value."""
        try:
            value = json.loads((self.folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def put_json(self, key: str, value: dict[str, Any]) -> None:
        """Keeps a value."""
        part = self.folder / f"{key}.json.part"
        part.write_text(json.dumps(value, indent=1, sort_keys=True))
        part.replace(self.folder / f"{key}.json")
