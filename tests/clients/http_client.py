"""Drives the server with an unmodified tritonclient over HTTP on loopback TCP.

usage: http_client.py PORT
"""

import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

A = np.arange(8, dtype=np.float32).reshape(2, 4)
B = np.full((2, 4), 0.5, dtype=np.float32)


def tensors(binary):
    a, b = triton.InferInput("a", [2, 4], "FP32"), triton.InferInput("b", [2, 4], "FP32")
    a.set_data_from_numpy(A, binary_data=binary)
    b.set_data_from_numpy(B, binary_data=binary)
    return [a, b]


def refused(call, status, words):
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == status and words in error.message(), (error.status(), error.message())
        return
    raise AssertionError(f"not refused: {status} {words}")


def main():
    client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}", concurrency=4)
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and not client.is_model_ready("broken")
    assert client.get_server_metadata()["name"] == "wattd"
    assert client.get_model_metadata("add")["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 4]}
    assert client.get_model_config("add")["max_batch_size"] == 8
    assert {m["name"] for m in client.get_model_repository_index()} >= {"add", "big"}
    for send in (True, False):
        for receive in (True, False):
            asked = [triton.InferRequestedOutput(name, binary_data=receive) for name in ("sum", "difference")]
            result = client.infer("add", tensors(send), outputs=asked, request_id="x", priority=1, timeout=100000)
            np.testing.assert_array_equal(result.as_numpy("sum"), A + B)
            np.testing.assert_array_equal(result.as_numpy("difference"), A - B)
            assert result.get_response()["parameters"]["variant"] == "small"
    result = client.infer("add", tensors(True))
    np.testing.assert_array_equal(result.as_numpy("sum"), A + B)
    waiting = [client.async_infer("add", tensors(True)) for _ in range(16)]
    for each in waiting:
        np.testing.assert_array_equal(each.get_result(timeout=30).as_numpy("sum"), A + B)
    image = np.random.default_rng(1).random((1, 3, 640, 640), dtype=np.float32)
    big = triton.InferInput("image", list(image.shape), "FP32")
    big.set_data_from_numpy(image)
    assert client.infer("big", [big]).as_numpy("total")[0, 0] == image[0, 0, 0, 0]
    refused(lambda: client.infer("nothing", tensors(True)), "404", "no model")
    refused(lambda: client.infer("add", tensors(True)[:1]), "400", "wants 2")
    refused(lambda: client.infer("add", tensors(True), parameters={"class": "queue_full"}), "429", "queue is full")
    refused(lambda: client.load_model("add"), "403", "TCP client")
    refused(lambda: client.register_system_shared_memory("r", "/r", 4), "412", "Unix socket")
    stats = client.get_inference_statistics("add")["model_stats"][0]["inference_stats"]
    assert stats["compute_input"]["count"] == stats["compute_infer"]["count"] == stats["compute_output"]["count"] > 0
    client.unregister_cuda_shared_memory()
    assert client.get_system_shared_memory_status() == []
    client.close()
    print("ok")


main()
