"""Drives the real daemon with unmodified tritonclients, for every model it serves.

usage: daemon_client.py SOCKET HTTP_PORT
"""

import os
import queue
import sys

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

WISHES = {"min_accuracy_ppm": 100000, "max_energy_uj": 60_000_000, "deadline_us": 30_000_000}
SAID = {"variant", "unit", "clock_khz", "queue_us", "compute_us", "energy_uj", "energy_source", "request_id"}


def array(tensor, items, seed):
    shape = [items] + [int(side) for side in list(tensor.shape)[1:]]
    assert all(side > 0 for side in shape), shape
    dtype, random = triton_to_np_dtype(tensor.datatype), np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 100, shape).astype(dtype)


def grpc_inputs(metadata, items=1, seed=1):
    inputs = []
    for tensor in metadata.inputs:
        data = array(tensor, items, seed)
        inputs.append(grpc.InferInput(tensor.name, list(data.shape), tensor.datatype))
        inputs[-1].set_data_from_numpy(data)
    return inputs


def parameters(result):
    found = result.get_response().parameters
    return {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in found.items()}


def outputs(result, metadata):
    return [result.as_numpy(tensor.name) for tensor in metadata.outputs]


def same(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def whole_model(client, name, variants):
    metadata = client.get_model_metadata(name)
    config = client.get_model_config(name).config
    assert config.name == name and config.max_batch_size >= 1 and len(config.input) == len(metadata.inputs)
    wishes = {**WISHES, "variant": variants[0]}
    first = client.infer(name, grpc_inputs(metadata), request_id="one", priority=1, timeout=20_000_000, parameters=wishes)
    assert first.get_response().id == "one"
    said = parameters(first)
    assert SAID <= said.keys(), said
    assert said["variant"] == variants[0] and said["energy_source"] in ("measured", "modelled"), said
    expected = outputs(first, metadata)

    answers = queue.Queue()
    for _ in range(6):
        client.async_infer(
            name, grpc_inputs(metadata), callback=lambda result, error: answers.put((result, error)), parameters=wishes
        )
    for _ in range(6):
        result, error = answers.get(timeout=60)
        assert error is None, error
        assert parameters(result)["variant"] == variants[0]
        same(outputs(result, metadata), expected)

    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(4):
        client.async_stream_infer(name, grpc_inputs(metadata), request_id=str(number), parameters=wishes)
    for number in range(4):
        result, error = answers.get(timeout=60)
        assert error is None, error
        assert result.get_response().id == str(number)
        assert result.get_response().parameters["triton_final_response"].bool_param
        same(outputs(result, metadata), expected)
    client.stop_stream()

    shared_memory(client, name, metadata, wishes, expected)
    stats = client.get_inference_statistics(name).model_stats[0].inference_stats
    assert stats.success.count == stats.compute_infer.count == stats.compute_input.count >= 12, stats
    return metadata, wishes, expected


def shared_memory(client, name, metadata, wishes, expected):
    data = [array(tensor, 1, 1) for tensor in metadata.inputs]
    sizes = [one.nbytes for one in data] + [one.nbytes for one in expected]
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    key = f"/wattd_daemon_{os.getpid()}"
    region = shm.create_shared_memory_region("all", key, sum(sizes))
    try:
        client.register_system_shared_memory("all", key, sum(sizes))
        inputs, wanted = [], []
        for tensor, one, offset in zip(metadata.inputs, data, offsets):
            shm.set_shared_memory_region(region, [one], offset=offset)
            inputs.append(grpc.InferInput(tensor.name, list(one.shape), tensor.datatype))
            inputs[-1].set_shared_memory("all", one.nbytes, offset)
        for tensor, one, offset in zip(metadata.outputs, expected, offsets[len(data):]):
            wanted.append(grpc.InferRequestedOutput(tensor.name))
            wanted[-1].set_shared_memory("all", one.nbytes, offset)
        result = client.infer(name, inputs, outputs=wanted, parameters=wishes)
        assert list(result.get_response().raw_output_contents) == [b""] * len(expected)
        for one, offset in zip(expected, offsets[len(data):]):
            same([shm.get_contents_as_numpy(region, one.dtype, list(one.shape), offset)], [one])
        client.unregister_system_shared_memory("all")
    finally:
        shm.destroy_shared_memory_region(region)


def by_http(client, name, metadata, wishes, expected):
    assert client.get_model_config(name)["name"] == name
    for binary in (True, False):
        inputs = []
        for tensor in metadata.inputs:
            data = array(tensor, 1, 1)
            inputs.append(http.InferInput(tensor.name, list(data.shape), tensor.datatype))
            inputs[-1].set_data_from_numpy(data, binary_data=binary)
        wanted = [http.InferRequestedOutput(tensor.name, binary_data=binary) for tensor in metadata.outputs]
        result = client.infer(name, inputs, outputs=wanted, request_id="h", parameters=wishes)
        assert SAID <= result.get_response()["parameters"].keys()
        same([result.as_numpy(tensor.name) for tensor in metadata.outputs], expected)
        waiting = [client.async_infer(name, inputs, outputs=wanted, parameters=wishes) for _ in range(4)]
        for one in waiting:
            result = one.get_result(timeout=60)
            same([result.as_numpy(tensor.name) for tensor in metadata.outputs], expected)
    assert client.get_inference_statistics(name)["model_stats"][0]["inference_stats"]["success"]["count"] >= 20


def refused(call, words):
    try:
        call()
    except InferenceServerException as error:
        assert words in error.message(), (error.message(), words)
        return
    raise AssertionError(f"not refused: {words}")


def main():
    client = grpc.InferenceServerClient(f"unix:{sys.argv[1]}")
    web = http.InferenceServerClient(f"127.0.0.1:{sys.argv[2]}", concurrency=4, network_timeout=120)
    assert client.is_server_live() and client.is_server_ready() and web.is_server_ready()
    assert client.get_server_metadata().name == web.get_server_metadata()["name"] == "wattd"
    index = [model.name for model in client.get_model_repository_index().models]
    assert sorted(index) == ["crepe", "fashion"] == sorted(model["name"] for model in web.get_model_repository_index())
    variants = {"fashion": ["student-fp32"], "crepe": ["tiny-int8"]}
    for name in index:
        by_http(web, name, *whole_model(client, name, variants[name]))
        assert client.is_model_ready(name) and web.is_model_ready(name)
    fashion = client.get_model_metadata("fashion")
    refused(lambda: client.infer("fashion", grpc_inputs(fashion), parameters={"class": "x"}), "default, interactive")
    refused(lambda: client.infer("fashion", grpc_inputs(fashion), parameters={"min_accuracy": "0.99"}), "accura")
    client.unload_model("fashion")
    client.load_model("fashion")
    client.infer("fashion", grpc_inputs(fashion, items=3))
    print("ok")


main()
