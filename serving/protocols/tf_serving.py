"""TensorFlow Serving's REST protocol, version 1: status, metadata and `:predict` in row and column form.

Clients written for `tensorflow_model_server` work unchanged. Errors have the original's words, since some clients match
on them. The inputs are latents, so the caller draws them.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.protocols.latents import answer_latents, check_latents, numbers
from serving.runtime.errors import Invalid, Malformed, NotFound
from serving.runtime.options import Floats
from serving.runtime.repository import Model
from serving.runtime.service import Clip, Limits, Service
from serving.web.bodies import parse_json, read_body, skip_body
from serving.web.http import JSONResponse, until_disconnect

MODEL = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata|:[a-z]+)?", re.IGNORECASE)
SIGNATURE = "serving_default"
PREDICT = "tensorflow/serving/predict"


async def handle(request: Request) -> Response:
    """Everything under `/v1/` that is not a native route."""
    path, method = request.scope["path"], request.method
    malformed = Malformed(f"Malformed request: {method} {path[:200]}")
    request.state.route = "/v1/models"
    if path in ("/v1/models", "/v1/models/"):
        raise Malformed("Missing model name in request.")
    match = MODEL.fullmatch(path)
    if not match:
        raise malformed
    name, version_text, label, verb = match.groups()
    verb = (verb or "").lower()
    version = int(version_text) if version_text and len(version_text) < 20 else None
    if label:
        raise NotFound(f"Unrecognized servable version label: {label[:60]}")
    if version_text and version is None:
        raise malformed
    request.state.route = f"/v1/models{verb}" if verb in ("", "/metadata", ":predict") else "/v1/models"
    if method == "GET" and verb == "":
        return _status(request, name, version)
    if method == "GET" and verb == "/metadata":
        return _metadata(request, name, version)
    if method == "POST" and verb == ":predict":
        return await _predict(request, name, version)
    if method == "POST" and verb in (":classify", ":regress"):
        await skip_body(request, request.app.state.service.limits)
        raise Invalid(f"Expected {verb[1:]} signature method_name to be tensorflow/serving/{verb[1:]}. Was: {PREDICT}")
    raise malformed


def _status(request: Request, name: str, version: int | None) -> Response:
    service: Service = request.app.state.service
    states = service.repository.status(name)
    if version is not None:
        states = [state for state in states if state.version == version]
        if not states:
            raise NotFound(f"Could not find version {version} of model {name}")
    entries = [
        {
            "version": str(state.version),
            "state": state.state,
            "status": {"error_code": "UNKNOWN" if state.error else "OK", "error_message": state.error},
        }
        for state in states
    ]
    return JSONResponse({"model_version_status": entries})


def _tensor_info(name: str, shape: tuple[int | None, ...]) -> dict[str, Any]:
    dims = [{"size": str(-1 if size is None else size), "name": ""} for size in shape]
    return {"dtype": "DT_FLOAT", "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": f"{name}:0"}


def _metadata(request: Request, name: str, version: int | None) -> Response:
    model = request.app.state.service.repository.find(name, version)
    inputs = {
        k: _tensor_info(f"{SIGNATURE}_{k}", shape) for k, shape in model.bundle.latents.shapes(None, None).items()
    }
    outputs = {
        k: _tensor_info("StatefulPartitionedCall", shape) for k, shape in model.bundle.output_shapes(None, None).items()
    }
    signature = {"inputs": inputs, "outputs": outputs, "method_name": PREDICT, "defaults": {}}
    return JSONResponse(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(model.version)},
            "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
        }
    )


async def _predict(request: Request, name: str, version: int | None) -> Response:
    service: Service = request.app.state.service
    with service.repository.lease(name, version) as model:
        service.check_room(model)
        row, latents = await read_body(request, service, lambda body: _parse(body, model, service.limits))
        work = answer_latents(request, model, latents, lambda clip: _respond(clip, row), "json")
        return await until_disconnect(request, work)


def _respond(clip: Clip, row: bool) -> Response:
    if not row:
        return JSONResponse({"outputs": {"video": clip.video, "motion_state": clip.motion_state}})
    pairs = zip(clip.video, clip.motion_state, strict=True)
    return JSONResponse({"predictions": [{"video": video, "motion_state": state} for video, state in pairs]})


def _parse(body: bytes, model: Model, limits: Limits) -> tuple[bool, dict[str, Floats]]:
    """Returns whether the request is in row form, and its latents."""
    document = parse_json(body, limits)
    signature = document.get("signature_name", SIGNATURE) or SIGNATURE
    if not isinstance(signature, str):
        raise Invalid("'signature_name' key must be a string value.")
    if signature != SIGNATURE:
        raise Invalid(f'Serving signature name: "{signature[:60]}" not found in signature def')
    if "instances" in document and "inputs" in document:
        raise Invalid("Not formatted correctly: both 'inputs' and 'instances' keys are present; expected one of them.")
    names = list(model.bundle.latents.shapes(None, None))
    if "instances" in document:
        columns = _columns(document["instances"], names)
    elif "inputs" in document:
        columns = document["inputs"]
        if not isinstance(columns, dict):
            raise Invalid("Request payload must be an object in 'inputs' when the signature has more than one input.")
    else:
        raise Invalid("Missing 'inputs' or 'instances' key")
    _same_names(columns, names, "'inputs' object")
    arrays = {name: numbers(_unpack(columns[name], name), name) for name in names}
    for name, shape in model.bundle.latents.shapes(None, None).items():
        if isinstance(columns[name], dict):
            arrays[name] = _shaped(arrays[name], shape, len(arrays["content"]))
    check_latents(arrays, model)
    return "instances" in document, arrays


def _columns(instances: Any, names: list[str]) -> dict[str, list[Any]]:
    """Turns row form into column form."""
    if not isinstance(instances, list) or not instances:
        raise Invalid("'instances' must be a list and non-empty.")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise Invalid(f"Encountered list element at index {index} that is not an object; names are needed.")
        _same_names(instance, names, f"instance {index}")
        for name in names:
            columns[name].append(instance[name])
    return columns


def _same_names(given: dict[str, Any], names: list[str], where: str) -> None:
    missing = [name for name in names if name not in given]
    extra = [name for name in given if name not in names]
    if missing:
        raise Invalid(f"Missing named input: {missing[0]} in {where}.")
    if extra:
        raise Invalid(
            f"input size does not match signature: {len(given)}!={len(names)} len({{{','.join(given)[:200]}}}) != "
            f"len({{{','.join(names)}}}). Sent extra: {{{','.join(extra)[:200]}}}. Missing but required: {{}}."
        )


def _shaped(values: Floats, shape: tuple[int | None, ...], num_videos: int) -> Floats:
    """The values of a whole tensor in an input's shape, if they fit it.

    Args:
        values: Flat, as base64 carries them.
        shape: The input's; its last size is not free.
        num_videos: As `content` has it, which is the first input.
    """
    leading, last = [num_videos] * (len(shape) - 2), shape[-1]
    assert last is not None
    unit = math.prod(leading) * last
    return values.reshape(*leading, -1, last) if unit and len(values) % unit == 0 else values


def _unpack(value: Any, name: str) -> Any:
    """`{"b64": ...}` holds the raw little-endian floats of a tensor's rows."""
    if isinstance(value, dict):
        if set(value) != {"b64"} or not isinstance(value["b64"], str):
            raise Invalid(f'`{name}`: an object in place of a tensor must be {{"b64": "..."}}.')
        try:
            raw = base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise Malformed(f"`{name}`: unable to base64 decode.") from None
        if len(raw) % 4:
            raise Malformed(f"`{name}`: {len(raw)} bytes are not a whole number of float32 values.")
        return np.frombuffer(raw, "<f4")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_unpack(item, name) if isinstance(item, dict) else item for item in value]
    return value
