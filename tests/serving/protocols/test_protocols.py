"""TensorFlow Serving's REST and the Open Inference Protocol: by the letter, and by clients that others wrote."""

import base64
import json
import subprocess

import numpy as np
import pytest

from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8

PREDICT = "/v1/models/tiny:predict"
INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def latents(engine):
    return sample_latents(engine.bundle.latents, 2, 5, seed=3)


@pytest.fixture(scope="module")
def truth(engine, latents):
    return engine.generate(latents)


def as_lists(latents):
    return {name: value.tolist() for name, value in latents.items()}


def rows_of(latents):
    return [{name: value[i].tolist() for name, value in latents.items()} for i in range(2)]


def test_tfs_column_form(client, latents, truth):
    response = client.post(PREDICT, json={"signature_name": "serving_default", "inputs": as_lists(latents)})
    outputs = response.json()["outputs"]
    assert outputs.keys() == {"video", "motion_state"}
    np.testing.assert_allclose(outputs["video"], truth[0], atol=1e-6)
    np.testing.assert_allclose(outputs["motion_state"], truth[1], atol=1e-6)
    assert response.headers["content-type"] == "application/json"


def test_tfs_row_form(client, latents, truth):
    predictions = client.post(PREDICT, json={"instances": rows_of(latents)}).json()["predictions"]
    np.testing.assert_allclose([row["video"] for row in predictions], truth[0], atol=1e-6)
    np.testing.assert_allclose([row["motion_state"] for row in predictions], truth[1], atol=1e-6)


def test_tfs_base64_tensors(client, latents, truth):
    packed = as_lists(latents) | {"motion_noise": as_lists(latents)["motion_noise"]}
    rows = [{k: {"b64": base64.b64encode(v[i].tobytes()).decode()} for k, v in latents.items()} for i in range(2)]
    for body in ({"instances": rows}, {"inputs": packed}):
        response = client.post(PREDICT, json=body)
        assert response.status_code == 200, response.text
    got = client.post(PREDICT, json={"instances": rows}).json()["predictions"]
    np.testing.assert_allclose([row["video"] for row in got], truth[0], atol=1e-6)


def test_tfs_base64_of_whole_tensors(client, latents, truth):
    packed = {name: {"b64": base64.b64encode(value.tobytes()).decode()} for name, value in latents.items()}
    for inputs in (packed, as_lists(latents) | {"motion_noise": packed["motion_noise"]}):
        response = client.post(PREDICT, json={"inputs": inputs})
        assert response.status_code == 200, response.text
        np.testing.assert_allclose(response.json()["outputs"]["video"], truth[0], atol=1e-6)
    cut = base64.b64encode(latents["motion_noise"].tobytes()[:-4]).decode()
    response = client.post(PREDICT, json={"inputs": packed | {"motion_noise": {"b64": cut}}})
    assert response.status_code == 400 and "`motion_noise` must have shape" in response.json()["error"]


def test_tfs_status_and_metadata(client):
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/tiny", "/v1/models/tiny/versions/1", "/V1/models/tiny".replace("V", "v")):
        assert client.get(path).json() == {"model_version_status": [available]}
    metadata = client.get("/v1/models/tiny/metadata").json()
    assert metadata["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    dims = [dim["size"] for dim in signature["inputs"]["motion_noise"]["tensor_shape"]["dim"]]
    assert dims == ["-1", "-1", "4"]
    assert set(signature["inputs"]) == {"content", "category", "motion_init", "motion_noise"}


TFS_ERRORS = [
    ("GET", "/v1/models/none", None, 404, "Could not find any versions of model none"),
    ("GET", "/v1/models/tiny/versions/9", None, 404, "version 9"),
    ("GET", "/v1/models/tiny/labels/stable", None, 404, "label"),
    ("GET", "/v1/models/", None, 400, "Missing model name in request."),
    ("GET", "/v1/nothing", None, 400, "Malformed request: GET /v1/nothing"),
    ("PUT", "/v1/models/tiny", None, 400, "Malformed request: PUT"),
    ("POST", "/v1/models/tiny:explain", {}, 400, "Malformed request: POST /v1/models/tiny:explain"),
    ("POST", "/v1/models/tiny/versions/99999999999999999999:predict", {}, 400, "Malformed request"),
    ("POST", "/v1/models/tiny:classify", {}, 400, "Expected classify signature"),
    ("POST", "/v1/models/none:predict", {}, 404, "Servable not found for request: Latest(none)"),
    ("POST", PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
    ("POST", PREDICT, b"{", 400, "JSON Parse error"),
    ("POST", PREDICT, {"instances": []}, 400, "non-empty"),
    ("POST", PREDICT, {"instances": [1, 2]}, 400, "not an object"),
    ("POST", PREDICT, {"instances": [{}]}, 400, "Missing named input: content"),
    ("POST", PREDICT, {"inputs": {}}, 400, "Missing named input: content in 'inputs' object."),
    ("POST", PREDICT, {"inputs": [1]}, 400, "must be an object in 'inputs'"),
    ("POST", PREDICT, {"inputs": {}, "instances": []}, 400, "both 'inputs' and 'instances'"),
    ("POST", PREDICT, {"signature_name": "x", "inputs": {}}, 400, 'Serving signature name: "x" not found'),
    ("POST", PREDICT, {"signature_name": 3, "inputs": {}}, 400, "must be a string"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "message"), TFS_ERRORS, ids=lambda v: str(v)[:30])
def test_tfs_errors(client, method, path, body, status, message):
    content = body if isinstance(body, bytes) or body is None else json.dumps(body)
    response = client.request(method, path, content=content)
    assert response.status_code == status
    assert list(response.json()) == ["error"] and message in response.json()["error"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": [[1, 2]]}, "`content` must have shape [2, 6]. Received: shape [1, 2]"),
        ({"content": "abc"}, "`content` must hold numbers"),
        ({"content": None}, "`content` must hold numbers"),
        ({"content": [[1], [2, 3]]}, "`content` must hold numbers"),
        ({"content": [[1e60] * 6] * 2}, "`content` must hold finite"),
        ({"content": [[True] * 6] * 2}, "`content` must hold numbers"),
        ({"content": {"b64": "!!"}}, "unable to base64 decode"),
        ({"content": {"b64": "AAA="}}, "not a whole number of float32"),
        ({"content": {"c64": "AAA="}}, '{"b64": "..."}'),
        ({"motion_noise": [[], []]}, "`motion_noise` must have shape [-1, -1, 4]"),
        ({"motion_noise": 3}, "`motion_noise` must have shape"),
        ({"extra": 1}, "Sent extra: {extra}"),
    ],
)
def test_tfs_tensors_that_do_not_fit(client, latents, change, message):
    response = client.post(PREDICT, json={"inputs": as_lists(latents) | change})
    assert response.status_code == 400 and message in response.json()["error"], response.text


def test_tfs_work_is_bounded(client, latents):
    noise = np.zeros((2, 600, 4)).tolist()
    response = client.post(PREDICT, json={"inputs": as_lists(latents) | {"motion_noise": noise}})
    assert response.status_code == 413 and list(response.json()) == ["error"]


def oip_body(latents, **more):
    inputs = [
        {"name": name, "shape": list(value.shape), "datatype": "FP32", "data": value.reshape(-1).tolist()}
        for name, value in latents.items()
    ]
    return {"inputs": inputs, **more}


def test_oip_json(client, latents, truth):
    answer = client.post(INFER, json=oip_body(latents, id="abc")).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "abc")
    video, state = answer["outputs"]
    assert (video["name"], video["datatype"], video["shape"]) == ("video", "FP32", [2, 5, 16, 16, 3])
    np.testing.assert_allclose(np.reshape(video["data"], video["shape"]), truth[0], atol=1e-6)
    np.testing.assert_allclose(np.reshape(state["data"], state["shape"]), truth[1], atol=1e-6)


def test_oip_health_and_metadata(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/tiny/versions/1/ready").json()["ready"] is True
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
    metadata = client.get("/v2/models/tiny").json()
    shapes = {entry["name"]: entry["shape"] for entry in metadata["inputs"] + metadata["outputs"]}
    assert shapes["motion_noise"] == [-1, -1, 4] and shapes["video"] == [-1, -1, 16, 16, 3]


def change_first(body, **fields):
    body = json.loads(json.dumps(body))
    body["inputs"][0] |= fields
    return body


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda body: {}, "`inputs` must be a list of tensors"),
        (lambda body: {"inputs": [3]}, "`inputs` must be a list of tensors"),
        (lambda body: {"inputs": body["inputs"][1:]}, "`inputs` must be exactly"),
        (lambda body: {"inputs": body["inputs"] + body["inputs"][:1]}, "`inputs` must be exactly"),
        (lambda body: change_first(body, datatype="BYTES"), "`datatype` must be FP32"),
        (lambda body: change_first(body, datatype=["FP32"]), "`datatype` must be FP32"),
        (lambda body: change_first(body, shape=[2, -6]), "list of positive integers"),
        (lambda body: change_first(body, shape=[]), "list of positive integers"),
        (lambda body: change_first(body, shape=[2**30] * 7), "must have"),
        (lambda body: change_first(body, shape=[12]), "must have shape"),
        (lambda body: change_first(body, data=["x"] * 12), "must hold numbers"),
        (lambda body: change_first(body, data=[1.0]), "must have 12 numbers"),
        (lambda body: change_first(body, parameters=3), "`parameters` must be an object"),
        (lambda body: change_first(body, parameters={"binary_data_size": 48}), "without `data`"),
        (lambda body: body | {"outputs": [{"name": "x"}]}, "`outputs` must name"),
        (lambda body: body | {"outputs": []}, "`outputs` must be a list"),
        (lambda body: body | {"id": 7}, "`id` must be a string"),
    ],
)
def test_oip_errors(client, latents, make, message):
    response = client.post(INFER, json=make(oip_body(latents)))
    assert response.status_code == 400 and message in response.json()["error"], response.text


def test_bodies_as_deep_as_json_may_be_are_bad_arguments(client, latents):
    def send(path, body, deep):
        response = client.post(path, content=json.dumps(body).replace('"DEEP"', deep))
        assert response.status_code == 400 and len(response.json()["error"]) < 250, response.text
        return response.json()["error"]

    lists = "[" * 990 + "]" * 990
    for name in ("name", "datatype", "shape", "data", "parameters"):
        send(INFER, change_first(oip_body(latents), **{name: "DEEP"}), lists)
    for deep in (lists, '[{"b64": ""}, ' * 990 + "1" + "]" * 990):
        assert "`content` must hold numbers" in send(PREDICT, {"inputs": as_lists(latents) | {"content": "DEEP"}}, deep)


def test_oip_binary_bodies_that_are_cut_off(client, latents):
    inputs = [
        {"name": name, "shape": list(value.shape), "datatype": "FP32", "parameters": {"binary_data_size": value.nbytes}}
        for name, value in latents.items()
    ]
    head = json.dumps({"inputs": inputs}).encode()
    tensors = b"".join(value.tobytes() for value in latents.values())

    def send(body, length):
        return client.post(INFER, content=body, headers={"Inference-Header-Content-Length": str(length)})

    assert send(head + tensors, len(head)).status_code == 200
    assert "cut off" in send(head + tensors[:-1], len(head)).json()["error"]
    assert "left after the last tensor" in send(head + tensors + b"x", len(head)).json()["error"]
    assert "JSON Parse error" in send(head + tensors, len(head) - 1).json()["error"]
    for length in ("-1", "9" * 12, "x", len(head + tensors) + 1):
        assert send(head + tensors, length).status_code == 400
    nan = tensors[:-4] + np.float32(np.nan).tobytes()
    assert "finite" in send(head + nan, len(head)).json()["error"]


def read_outputs(response):
    """Arrays by name out of an answer of `/v2`, by the letter of the protocol and its binary extension."""
    length = int(response.headers.get("inference-header-content-length", len(response.content)))
    head, rest = json.loads(response.content[:length]), response.content[length:]
    arrays = {}
    for entry in head["outputs"]:
        dtype = np.dtype({"FP32": "<f4", "UINT8": "u1"}[entry["datatype"]])
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            flat = np.array(entry["data"], dtype)
        else:
            assert "data" not in entry
            flat, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        arrays[entry["name"]] = flat.reshape(entry["shape"])
    assert rest == b""
    return arrays


@pytest.mark.parametrize(
    "binary",
    [
        {"video": True, "video_uint8": True, "motion_state": True},
        {"motion_state": False, "video_uint8": True, "video": False},
        {"video_uint8": False, "motion_state": True},
    ],
    ids=["all", "pixels", "state"],
)
def test_oip_outputs_as_bytes_and_as_numbers_are_the_clip(client, latents, truth, binary):
    outputs = [{"name": name, "parameters": {"binary_data": as_bytes}} for name, as_bytes in binary.items()]
    response = client.post(INFER, json=oip_body(latents, outputs=outputs))
    assert response.headers["content-type"] == "application/octet-stream"
    found = read_outputs(response)
    expected = {"video": truth[0], "video_uint8": to_uint8(truth[0].copy()), "motion_state": truth[1]}
    assert list(found) == list(binary)
    for name, array in found.items():
        assert array.shape == expected[name].shape
        np.testing.assert_allclose(array, expected[name], atol=1 if name == "video_uint8" else 1e-6, rtol=0)


def test_oip_one_word_asks_for_all_outputs_as_bytes(client, latents, truth):
    response = client.post(INFER, json=oip_body(latents, parameters={"binary_data_output": True}))
    length = int(response.headers["inference-header-content-length"])
    assert len(response.content) - length == truth[0].nbytes + truth[1].nbytes
    found = read_outputs(response)
    np.testing.assert_allclose(found["video"], truth[0], atol=1e-6)
    np.testing.assert_allclose(found["motion_state"], truth[1], atol=1e-6)


@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient_works_unchanged(server, engine, latents, truth, binary):
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny", "1")
    assert {entry["name"] for entry in client.get_model_metadata("tiny")["inputs"]} == set(latents)
    assert client.get_model_repository_index()[0]["name"] == "tiny"
    inputs = []
    for name, value in latents.items():
        tensor = triton.InferInput(name, value.shape, "FP32")
        tensor.set_data_from_numpy(value, binary_data=binary)
        inputs.append(tensor)
    names = ("video", "motion_state", "video_uint8")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer("tiny", inputs, outputs=outputs, request_id="7", model_version="1")
    np.testing.assert_allclose(result.as_numpy("video"), truth[0], atol=1e-6)
    np.testing.assert_allclose(result.as_numpy("motion_state"), truth[1], atol=1e-6)
    assert np.array_equal(result.as_numpy("video_uint8"), to_uint8(truth[0].copy()))
    assert result.get_response()["id"] == "7"
    for algorithm in ("gzip", "deflate"):
        squeezed = client.infer("tiny", inputs, request_compression_algorithm=algorithm)
        np.testing.assert_allclose(squeezed.as_numpy("video"), truth[0], atol=1e-6)
    with pytest.raises(Exception, match="Servable not found"):
        client.infer("none", inputs)
    config = client.get_model_config("tiny")
    assert {entry["name"] for entry in config["input"]} == set(latents) and config["max_batch_size"] == 0
    for statistics in (client.get_inference_statistics("tiny", "1"), client.get_inference_statistics()):
        (entry,) = statistics["model_stats"]
        assert entry["inference_count"] >= 3 and entry["inference_stats"]["compute_infer"]["ns"] > 0
    client.load_model("tiny")
    for refused in (lambda: client.load_model("none"), lambda: client.unload_model("tiny")):
        with pytest.raises(Exception, match="Servable not found|unload is not allowed"):
            refused()
    assert client.is_model_ready("tiny")
    client.close()


def curl(*arguments):
    result = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_curl_lines_of_tensorflow_serving(server, latents, truth, tmp_path):
    """The calls of its REST guide, with our model's name and inputs."""
    model = f"{server.url}/v1/models/tiny"
    assert json.loads(curl(model))["model_version_status"][0]["state"] == "AVAILABLE"
    assert "signature_def" in json.loads(curl("-X", "GET", f"{model}/metadata"))["metadata"]
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"instances": rows_of(latents)}))
    for url in (f"{model}:predict", f"{model}/versions/1:predict"):
        answer = json.loads(curl("-d", f"@{body}", "-X", "POST", url))
        np.testing.assert_allclose([row["video"] for row in answer["predictions"]], truth[0], atol=1e-6)
    assert json.loads(curl("-d", '{"instances": [1.0]}', "-X", "POST", f"{model}:predict")).keys() == {"error"}
