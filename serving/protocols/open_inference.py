"""The Open Inference Protocol, version 2, as KServe, Triton and MLServer speak it, with the binary tensor extension.

Inputs are `content`, `category`, `motion_init` and `motion_noise`; outputs are `video` (FP32 in [-1, 1]), `video_uint8`
(the same as pixels) and `motion_state`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

import serving
from mocogan_tf.video import to_uint8
from serving.protocols.latents import answer_latents, check_latents, numbers
from serving.runtime.errors import Invalid, Malformed, NotFound, shown
from serving.runtime.options import Floats
from serving.runtime.repository import Model
from serving.runtime.service import Clip, Limits, Service
from serving.web.bodies import parse_json, read_body, skip_body
from serving.web.http import JSONResponse, until_disconnect

MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/(\d{1,18}))?(/ready|/infer|/config|/stats)?")
LOADING = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
HEADER_LENGTH = "inference-header-content-length"
DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"), "FP16": np.dtype("<f2")}


async def handle(request: Request) -> Response:
    """Everything under `/v2`."""
    service: Service = request.app.state.service
    path, method = request.scope["path"], request.method
    request.state.route = "/v2"
    if method == "GET" and path in ("/v2", "/v2/"):
        return JSONResponse({"name": "mocogan-serving", "version": serving.__version__, "extensions": EXTENSIONS})
    if method == "GET" and path == "/v2/health/live":
        request.state.route = path
        return JSONResponse({"live": service.repository.alive}, 200 if service.repository.alive else 503)
    if method == "GET" and path == "/v2/health/ready":
        request.state.route = path
        ready = service.ready and not service.draining
        return JSONResponse({"ready": ready}, 200 if ready else 503)
    if method == "POST" and path == "/v2/repository/index":
        return JSONResponse(_index(service))
    if method == "GET" and path == "/v2/models/stats":
        request.state.route = path
        newest = {model.name: model for model in service.repository.models()}
        return JSONResponse({"model_stats": [_statistics(service, model) for model in newest.values()]})
    match = LOADING.fullmatch(path)
    if match and method == "POST":
        name, verb = match.groups()
        request.state.route = f"/v2/repository/models/{verb}"
        await skip_body(request, service.limits)
        service.repository.find(name)
        if verb == "load":  # It is loaded, and its newest version is found without being asked for.
            return JSONResponse({"name": name, "load": True})
        raise Invalid("explicit model load / unload is not allowed if polling is enabled")
    match = MODEL.fullmatch(path)
    if match:
        name, version_text, verb = match.groups()
        version = int(version_text) if version_text else None
        request.state.route = f"/v2/models{verb or ''}"
        if method == "POST" and verb == "/infer":
            return await _infer(request, service, name, version)
        if method == "GET" and verb != "/infer":
            model = service.repository.find(name, version)
            if verb == "/ready":
                return JSONResponse({"name": name, "ready": True})
            if verb == "/config":
                return JSONResponse(_config(model))
            if verb == "/stats":
                return JSONResponse({"model_stats": [_statistics(service, model)]})
            return JSONResponse(_metadata(service, model))
    raise NotFound(f"Not found: {method} {path[:200]}")


EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


def _index(service: Service) -> list[dict[str, str]]:
    return [
        {"name": model.name, "version": str(model.version), "state": "READY", "reason": ""}
        for model in service.repository.models()
    ]


def _metadata(service: Service, model: Model) -> dict[str, Any]:
    def described(shapes: dict[str, tuple[int | None, ...]]) -> list[dict[str, Any]]:
        return [
            {"name": name, "datatype": "FP32", "shape": [-1 if size is None else size for size in shape]}
            for name, shape in shapes.items()
        ]

    inputs = described(model.bundle.latents.shapes(None, None))
    outputs = described(model.bundle.output_shapes(None, None))
    outputs.append({**outputs[0], "name": "video_uint8", "datatype": "UINT8"})
    versions = [str(m.version) for m in service.repository.models() if m.name == model.name]
    return {
        "name": model.name, "versions": versions, "platform": "onnxruntime_onnx", "inputs": inputs, "outputs": outputs
    }  # fmt: skip


def _config(model: Model) -> dict[str, Any]:
    """The model as Triton's `config.pbtxt` would describe it; the server batches by frames, not by its rule."""

    def described(shapes: dict[str, tuple[int | None, ...]]) -> list[dict[str, Any]]:
        return [
            {"name": name, "data_type": "TYPE_FP32", "dims": [-1 if size is None else size for size in shape]}
            for name, shape in shapes.items()
        ]

    return {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": described(model.bundle.latents.shapes(None, None)),
        "output": described(model.bundle.output_shapes(None, None)),
        "version_policy": {"latest": {"num_versions": 1}},
    }


def _statistics(service: Service, model: Model) -> dict[str, Any]:
    """Triton's statistics out of the metrics, which count all versions of a model together."""

    def value(sample: str) -> float:
        return service.metrics.registry.get_sample_value(sample, {"model": model.name}) or 0.0

    def duration(name: str, count: int) -> dict[str, int]:
        return {"count": count, "ns": round(value(f"serving_{name}_seconds_sum") * 1e9)}

    requests, batches = (int(value(f"serving_{name}_seconds_count")) for name in ("queue", "inference"))
    return {
        "name": model.name,
        "version": str(model.version),
        "inference_count": requests,
        "execution_count": batches,
        "inference_stats": {
            "queue": duration("queue", requests),
            "compute_infer": duration("inference", batches),
        },
    }


async def _infer(request: Request, service: Service, name: str, version: int | None) -> Response:
    with service.repository.lease(name, version) as model:
        service.check_room(model)
        header_length = request.headers.get(HEADER_LENGTH)
        document, latents = await read_body(
            request, service, lambda body: _parse(body, header_length, model, service.limits)
        )
        wanted = _wanted(document)
        head: dict[str, Any] = {"model_name": model.name, "model_version": str(model.version)}
        if "id" in document:
            head["id"] = document["id"]
        kind = "tensor" if all(binary for name, binary in wanted if name != "motion_state") else "json"
        work = answer_latents(request, model, latents, lambda clip: _respond(head, clip, wanted), kind)
        return await until_disconnect(request, work)


def _parse(
    body: bytes, header_length: str | None, model: Model, limits: Limits
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Returns the JSON document, and the latents in it or in the bytes after it."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 9 or int(header_length) > len(body):
            raise Malformed(f"`Inference-Header-Content-Length` must be at most the body's length, {len(body)}.")
        length = int(header_length)
    document, rest = parse_json(body[:length], limits), memoryview(body)[length:]
    if not isinstance(document.get("id", ""), str):
        raise Invalid("`id` must be a string.")
    given = document.get("inputs")
    names = list(model.bundle.latents.shapes(None, None))
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise Invalid("`inputs` must be a list of tensors.")
    received = [entry.get("name") for entry in given]
    if not all(isinstance(name, str) for name in received) or sorted(received) != sorted(names):
        listed = ", ".join(shown(name) for name in received[:8])
        raise Invalid(f"`inputs` must be exactly {', '.join(names)}. Received: {listed}")
    latents: dict[str, Floats] = {}
    for entry in given:
        latents[entry["name"]], rest = _tensor(entry, rest)
    if len(rest):
        raise Malformed(f"{len(rest)} bytes are left after the last tensor.")
    check_latents(latents, model)
    return document, latents


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Invalid("`parameters` must be an object.")
    return parameters


def _tensor(entry: dict[str, Any], rest: memoryview) -> tuple[Floats, memoryview]:
    """Returns a tensor from `data` or from the next bytes, and the bytes after it."""
    name, shape, datatype = entry["name"], entry.get("shape"), entry.get("datatype")
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) < 8
        or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31 for n in shape)
    ):
        raise Invalid(f"`{name}`: `shape` must be a list of positive integers.")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise Invalid(f"`{name}`: `datatype` must be FP32, FP64 or FP16. Received: {shown(datatype)}")
    count = 1
    for size in shape:
        count *= size
    binary = _parameters(entry).get("binary_data_size")
    if binary is None:
        flat = numbers(entry.get("data"), name).reshape(-1)
        if len(flat) != count:
            raise Invalid(f"`{name}`: `data` must have {count} numbers for shape {shape}. Received: {len(flat)}")
        return flat.reshape(shape), rest
    dtype = DATATYPES[datatype]
    if "data" in entry or binary != count * dtype.itemsize or isinstance(binary, bool):
        raise Invalid(f"`{name}`: `binary_data_size` must be {count * dtype.itemsize}, without `data`.")
    if len(rest) < binary:
        raise Malformed(f"`{name}`: the body is cut off: {binary} bytes are announced, {len(rest)} are left.")
    with np.errstate(over="ignore"):
        values: Floats = np.frombuffer(rest[:binary], dtype).astype(np.float32).reshape(shape)
    return values, rest[binary:]


def _wanted(document: dict[str, Any]) -> list[tuple[str, bool]]:
    """Returns the names of the wanted outputs, each with whether it is sent as bytes."""
    default = _parameters(document).get("binary_data_output", False)
    outputs = document.get("outputs")
    if outputs is None:
        outputs = [{"name": "video"}, {"name": "motion_state"}]
    if not isinstance(outputs, list) or not outputs or len(outputs) > 3:
        raise Invalid("`outputs` must be a list of one to three outputs.")
    wanted = []
    for entry in outputs:
        if not isinstance(entry, dict) or entry.get("name") not in ("video", "motion_state", "video_uint8"):
            raise Invalid("`outputs` must name video, video_uint8 or motion_state.")
        binary = _parameters(entry).get("binary_data", default)
        if not isinstance(binary, bool):
            raise Invalid("`binary_data` must be true or false.")
        wanted.append((entry["name"], binary))
    if len(dict(wanted)) < len(wanted):
        raise Invalid("`outputs` must name each output once.")
    return wanted


def _respond(head: dict[str, Any], clip: Clip, wanted: list[tuple[str, bool]]) -> Response:
    outputs, parts = [], []
    for name, binary in wanted:
        array: NDArray[Any] = clip.motion_state if name == "motion_state" else clip.video
        if name == "video_uint8":
            array = to_uint8(clip.video)
        entry: dict[str, Any] = {
            "name": name, "shape": list(array.shape), "datatype": "UINT8" if array.dtype == np.uint8 else "FP32"
        }  # fmt: skip
        if binary:
            raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = array.reshape(-1)
        outputs.append(entry)
    document = head | {"outputs": outputs}
    if not parts:
        return JSONResponse(document)
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return Response(b"".join([text, *parts]), media_type="application/octet-stream", headers=headers)
