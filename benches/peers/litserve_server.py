"""LitServe: the tiny model over JSON, which is what LitServe speaks."""

from typing import Any

import litserve
import numpy as np
import sessions


class OnnxApi(litserve.LitAPI):
    """One model."""

    def setup(self, device: str) -> None:
        """Open the session."""
        self.session = sessions.session("mlp")

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        """Take the input out of an Open Inference request."""
        (tensor,) = request["inputs"]
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Run the model."""
        (y,) = self.session.run(["y"], {"x": x})
        return y

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """Make an Open Inference response."""
        tensor = {"name": "y", "datatype": "FP32", "shape": output.shape, "data": output.ravel().tolist()}
        return {"model_name": "mlp", "outputs": [tensor]}


if __name__ == "__main__":
    server = litserve.LitServer(OnnxApi(api_path="/v2/models/mlp/infer"), accelerator="cpu")
    server.run(host="127.0.0.1", port=18090, log_level="warning", generate_client_file=False)
