"""Triton: a model of its Python backend, and the repository that it is started on.

python triton_model.py FOLDER writes the repository, with this very file as the code of each model.
"""

import sys
from pathlib import Path
from typing import Any

import sessions

CONFIG = """
backend: "python"
max_batch_size: 32
input [ {{ name: "x" data_type: TYPE_FP32 dims: {dims} }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
DIMS = {"mlp": [64], "mobile5ms": [3, 224, 224], "large-input": [3, 640, 640]}


class TritonPythonModel:
    """One model."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Open the session."""
        self.session = sessions.session(args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer what has come in, one by one."""
        import triton_python_backend_utils as backend

        responses = []
        for request in requests:
            x = backend.get_input_tensor_by_name(request, "x").as_numpy()
            (y,) = self.session.run(["y"], {"x": x})
            responses.append(backend.InferenceResponse([backend.Tensor("y", y)]))
        return responses


def write(folder: Path) -> None:
    """Write the repository."""
    for name in sessions.NAMES:
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(dims=DIMS[name]))
        # Triton looks for modules beside the model only.
        for source, target in [(__file__, "model.py"), (sessions.__file__, "sessions.py")]:
            (folder / name / "1" / target).write_text(Path(source).read_text())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
