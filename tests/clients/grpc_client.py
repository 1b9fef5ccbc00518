"""Drives the server with an unmodified tritonclient over gRPC on a Unix socket.

usage: grpc_client.py SOCKET
"""

import os
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

A = np.arange(8, dtype=np.float32).reshape(2, 4)
B = np.full((2, 4), 0.5, dtype=np.float32)


def tensors():
    a, b = triton.InferInput("a", [2, 4], "FP32"), triton.InferInput("b", [2, 4], "FP32")
    a.set_data_from_numpy(A)
    b.set_data_from_numpy(B)
    return [a, b]


def check(result):
    np.testing.assert_array_equal(result.as_numpy("sum"), A + B)
    np.testing.assert_array_equal(result.as_numpy("difference"), A - B)


def refused(call, code, words):
    try:
        call()
    except InferenceServerException as error:
        assert code in str(error.status()), (error.status(), code)
        assert words in error.message(), (error.message(), words)
        return
    raise AssertionError(f"not refused: {code} {words}")


def describe(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and not client.is_model_ready("broken")
    server = client.get_server_metadata()
    assert server.name == "wattd" and "statistics" in server.extensions
    metadata = client.get_model_metadata("add")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("a", "FP32", [-1, 4]),
        ("b", "FP32", [-1, 4]),
    ]
    config = client.get_model_config("add").config
    assert config.max_batch_size == 8 and list(config.input[0].dims) == [4]
    index = {m.name: (m.state, m.reason) for m in client.get_model_repository_index().models}
    assert index["add"] == ("READY", ""), index
    assert index["broken"][0] == "UNAVAILABLE" and "hash" in index["broken"][1], index


def infer(client):
    result = client.infer(
        "add",
        tensors(),
        request_id="seven",
        priority=3,
        timeout=250000,
        parameters={"min_accuracy_ppm": 900000, "max_energy_uj": 5000, "variant": "small"},
    )
    check(result)
    response = result.get_response()
    assert response.id == "seven"
    said = {key: getattr(p, p.WhichOneof("parameter_choice")) for key, p in response.parameters.items()}
    assert said["variant"] == "small" and said["unit"] == "cpu" and said["clock_khz"] == 1200000, said
    assert said["queue_us"] == 12 and said["compute_us"] == 345 and said["energy_uj"] == 678, said
    assert said["energy_source"] == "modelled" and said["request_id"] > 0, said
    only = client.infer("add", tensors(), outputs=[triton.InferRequestedOutput("difference")], client_timeout=5)
    assert only.as_numpy("sum") is None
    np.testing.assert_array_equal(only.as_numpy("difference"), A - B)
    empty = triton.InferInput("x", [1, 1], "INT8")
    empty.set_data_from_numpy(np.array([[-3]], dtype=np.int8))
    assert client.infer("echo", [empty]).as_numpy("y")[0, 0] == -3


def asynchronous(client):
    answers = queue.Queue()
    for _ in range(20):
        client.async_infer("add", tensors(), callback=lambda result, error: answers.put((result, error)))
    for _ in range(20):
        result, error = answers.get(timeout=30)
        assert error is None, error
        check(result)


def streaming(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for n in range(10):
        client.async_stream_infer("add", tensors(), request_id=str(n))
    client.async_stream_infer("nothing", tensors(), request_id="bad")
    client.async_stream_infer("add", tensors(), request_id="last")
    for n in range(10):
        result, error = answers.get(timeout=30)
        assert error is None, error
        check(result)
        assert result.get_response().id == str(n)
        assert result.get_response().parameters["triton_final_response"].bool_param
    _, error = answers.get(timeout=30)
    assert 'no model "nothing"' in str(error), error
    result, error = answers.get(timeout=30)
    assert error is None and result.get_response().id == "last"
    client.stop_stream()


def shared_memory(client):
    name = f"/wattd_test_{os.getpid()}"
    size = A.nbytes
    region = shm.create_shared_memory_region("all", name, 4 * size)
    try:
        shm.set_shared_memory_region(region, [A])
        shm.set_shared_memory_region(region, [B], offset=size)
        client.register_system_shared_memory("all", name, 4 * size)
        refused(lambda: client.register_system_shared_memory("all", name, 4 * size), "INVALID", "already")
        assert client.get_system_shared_memory_status().regions["all"].byte_size == 4 * size
        a, b = triton.InferInput("a", [2, 4], "FP32"), triton.InferInput("b", [2, 4], "FP32")
        a.set_shared_memory("all", size)
        b.set_shared_memory("all", size, size)
        total, rest = triton.InferRequestedOutput("sum"), triton.InferRequestedOutput("difference")
        total.set_shared_memory("all", size, 2 * size)
        rest.set_shared_memory("all", size, 3 * size)
        result = client.infer("add", [a, b], outputs=[total, rest])
        assert list(result.get_response().raw_output_contents) == [b"", b""]
        np.testing.assert_array_equal(shm.get_contents_as_numpy(region, np.float32, [2, 4], 2 * size), A + B)
        np.testing.assert_array_equal(shm.get_contents_as_numpy(region, np.float32, [2, 4], 3 * size), A - B)
        a.set_shared_memory("all", size, 4 * size)
        refused(lambda: client.infer("add", [a, b]), "INVALID", "lie outside region")
        with triton.InferenceServerClient(url(), channel_args=[("grpc.use_local_subchannel_pool", 1)]) as other:
            a.set_shared_memory("all", size)
            refused(lambda: other.infer("add", [a, b]), "NOT_FOUND", "not registered on this connection")
        refused(lambda: client.register_system_shared_memory("x", "/no_such_object", 4), "NOT_FOUND", "no shared memory")
        client.unregister_system_shared_memory("all")
        client.unregister_cuda_shared_memory()
        refused(lambda: client.infer("add", [a, b]), "NOT_FOUND", "not registered")
    finally:
        shm.destroy_shared_memory_region(region)


def errors(client):
    wrong = triton.InferInput("a", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    refused(lambda: client.infer("add", [wrong, tensors()[1]]), "INVALID", 'input "a": shape [1, 3]')
    refused(lambda: client.infer("add", tensors()[:1]), "INVALID", "1 inputs, but model add wants 2")
    refused(lambda: client.infer("broken", tensors()), "UNAVAILABLE", "hash differs")
    refused(lambda: client.infer("add", tensors(), model_version="9"), "NOT_FOUND", 'no version "9"')
    refused(lambda: client.infer("add", tensors(), parameters={"variant": "huge"}), "INVALID", "small, large")
    refused(lambda: client.infer("add", tensors(), parameters={"deadline_us": -1}), "INVALID", "deadline_us: -1")
    refused(lambda: client.infer("add", tensors(), parameters={"class": "too_hot"}), "UNAVAILABLE", "in 25 ms")
    refused(lambda: client.get_model_config("nothing"), "NOT_FOUND", "there are: add")
    refused(lambda: client.get_trace_settings(), "UNIMPLEMENTED", "trace")


def statistics(client):
    stats = client.get_inference_statistics("add").model_stats[0].inference_stats
    counts = {stats.compute_input.count, stats.compute_infer.count, stats.compute_output.count}
    assert counts == {stats.success.count} and stats.success.count > 30, stats
    assert len(client.get_inference_statistics().model_stats) == 5


def url():
    return f"unix:{sys.argv[1]}"


def main():
    for scheme in ("unix:", "unix://"):
        with triton.InferenceServerClient(scheme + sys.argv[1]) as client:
            describe(client)
    with triton.InferenceServerClient(url()) as client:
        infer(client)
        asynchronous(client)
        streaming(client)
        shared_memory(client)
        errors(client)
        statistics(client)
        client.load_model("add")
        client.unload_model("add")
    print("ok")


main()
