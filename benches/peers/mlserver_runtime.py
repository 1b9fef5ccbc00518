"""MLServer: a runtime for the benchmark's models, and the folder of settings that it is started on.

python mlserver_runtime.py FOLDER writes the folder; mlserver start FOLDER serves it.
"""

import json
import sys
from pathlib import Path

import sessions
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """One model, run where its request is handled."""

    async def load(self) -> bool:
        """Open the session."""
        self._session = sessions.session(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        (y,) = self._session.run(["y"], {"x": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])


def write(folder: Path) -> None:
    """Write the settings: no worker processes, since one hop less is in MLServer's favour."""
    settings = {
        "host": "127.0.0.1",
        "http_port": 18080,
        "grpc_port": 18081,
        "metrics_port": 18082,
        "parallel_workers": 0,
        "grpc_max_message_length": 64 << 20,
        "use_structured_logging": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    for name in sessions.NAMES:
        (folder / name).mkdir(exist_ok=True)
        model = {"name": name, "implementation": "mlserver_runtime.OnnxModel"}
        (folder / name / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
