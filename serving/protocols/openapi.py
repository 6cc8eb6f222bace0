"""The OpenAPI document of the HTTP routes. Written out, since it is the contract; the tests hold the server to it."""

from __future__ import annotations

from typing import Any

import serving
from serving.protocols.fields import MAX_FPS, MAX_SCALE, MAX_STRENGTH, MIN_FPS
from serving.runtime.encode import FORMATS
from serving.runtime.service import Limits, Service

Schema = dict[str, Any]

SEED: Schema = {
    "description": "An integer in [0, 2^64), or the same in decimal digits.",
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"type": "string", "pattern": "^[0-9]{1,19}$"},
    ],
}
CATEGORY: Schema = {
    "description": "Index or name of a category; left out, the seed draws it.",
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}],
}
REASONS = {
    "400": "The body is not JSON, or is cut off.",
    "401": "No API key, or a wrong one.",
    "404": "No such model or version.",
    "408": "The body came too slowly.",
    "413": "More bytes or more work than one request may have.",
    "415": "Another content type than JSON.",
    "422": "A field is unknown, of the wrong type or out of range.",
    "429": "The queue is full; `Retry-After` says when to come back.",
    "501": "The format needs a package that this server lacks.",
    "503": "Starting or draining.",
    "504": "The deadline passed.",
}


def _integer(low: int, high: int | None = None, **more: Any) -> Schema:
    return {"type": "integer", "minimum": low, **({} if high is None else {"maximum": high}), **more}


def _common(limits: Limits) -> dict[str, Schema]:
    return {
        "model": {"type": "string", "minLength": 1, "maxLength": 200, "description": "Default: the first model."},
        "version": _integer(1, description="Default: the newest."),
        "seed": {**SEED, "description": "Default: a random one, told in `X-Seed`. " + SEED["description"]},
        "num_frames": _integer(1, limits.max_frames, description="Default: the length of a training clip."),
        "category": CATEGORY,
        "fps": {"type": "number", "minimum": MIN_FPS, "maximum": MAX_FPS},
        "format": {"type": "string", "enum": list(FORMATS), "default": "webp"},
        "scale": _integer(1, MAX_SCALE, default=1, description="Enlarges pictures; `npy` stays as it is."),
        "timeout": {"type": "number", "exclusiveMinimum": 0, "maximum": limits.timeout_seconds},
    }


def _generate(limits: Limits) -> dict[str, Schema]:
    return _common(limits) | {
        "num_videos": _integer(1, limits.max_videos, default=1),
        "content_seed": {**SEED, "description": "Seed of the content only. Default: `seed`."},
        "motion_seed": {**SEED, "description": "Seed of the motion only. Default: `seed`."},
        "content_seed_to": {**SEED, "description": "Seed of the content to blend towards."},
        "content_blend": {"type": "number", "minimum": 0, "maximum": 1, "default": 0, "description": "How far."},
        "content_scale": {"type": "number", "minimum": 0, "maximum": MAX_STRENGTH, "default": 1},
        "motion_seed_to": {**SEED, "description": "Seed of the motion to blend towards."},
        "motion_blend": {"type": "number", "minimum": 0, "maximum": 1, "default": 0, "description": "How far."},
        "motion_scale": {"type": "number", "minimum": 0, "maximum": MAX_STRENGTH, "default": 1},
        "first_clip": _integer(0, 2**32 - 2, default=0, description="Index of the first clip within the seed."),
    }


def _grid(limits: Limits) -> dict[str, Schema]:
    seeds: Schema = {"type": "array", "items": SEED, "minItems": 1, "maxItems": limits.max_videos}
    return _common(limits) | {
        "rows": _integer(1, limits.max_videos, default=3),
        "columns": _integer(1, limits.max_videos, default=3),
        "content_seeds": {**seeds, "description": "One per row. Default: `seed`, `seed` + 1, ..."},
        "motion_seeds": {**seeds, "description": "One per column. Default: `seed`, `seed` + 1, ..."},
        "categories": {"type": "array", "items": CATEGORY, "minItems": 1, "description": "One per column."},
    }


def _error(description: str) -> Schema:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _answers(success: Schema, *codes: str) -> Schema:
    return {"200": success, **{code: _error(REASONS[code]) for code in codes}}


def _clip_answers() -> Schema:
    kinds = {kind.media_type for kind in FORMATS.values()}
    binary = {"schema": {"type": "string", "format": "binary"}}
    headers = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in {
            "X-Seed": "The seed that was used.",
            "X-Model": "The model.",
            "X-Model-Version": "Its version.",
            "X-Video-Shape": "B,T,H,W,C of the clips.",
            "Server-Timing": "Milliseconds in the queue, in the engine and in the encoder.",
        }.items()
    }
    success = {"description": "The clips.", "headers": headers, "content": {kind: binary for kind in sorted(kinds)}}
    answers = _answers(success, "400", "401", "404", "408", "413", "415", "422", "429", "501", "503", "504")
    return answers | {"304": {"description": "The same request with the same seed was answered before."}}


def _clip_route(name: str, summary: str, fields: dict[str, Schema], body_only: dict[str, Schema]) -> Schema:
    parameters = [
        {"name": key, "in": "query", "schema": schema, "style": "form", "explode": False}
        for key, schema in fields.items()
    ]
    body = {"type": "object", "properties": fields | body_only, "additionalProperties": False}
    return {
        "get": {
            "operationId": f"{name}_get",
            "summary": summary,
            "parameters": parameters,
            "responses": _clip_answers(),
        },
        "post": {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": _clip_answers(),
        },
    }


def _json(description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}}


def _get(operation: str, summary: str, parameters: list[Schema] | None = None, *codes: str) -> Schema:
    answers = _answers(_json(summary), *codes)
    return {"operationId": operation, "summary": summary, "parameters": parameters or [], "responses": answers}


def _post(operation: str, summary: str, parameters: list[Schema], body: Schema) -> Schema:
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": _answers(_json("The outputs."), "400", "401", "404", "408", "413", "503", "504"),
    }


def document(service: Service) -> Schema:
    """The document, with this server's limits in it."""
    limits = service.limits
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[^/:]+$"}}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": _integer(1)},
            "datatype": {"type": "string", "enum": ["FP32", "FP64", "FP16"]},
            "data": {"type": "array", "items": {}},
            "parameters": {"type": "object"},
        },
    }
    predict = {
        "type": "object",
        "properties": {
            "signature_name": {"type": "string", "enum": ["serving_default"]},
            "instances": {"type": "array", "items": {"type": "object"}},
            "inputs": {"type": "object"},
        },
    }
    infer = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": tensor},
            "outputs": {"type": "array", "items": {"type": "object"}},
            "parameters": {"type": "object"},
        },
    }
    latents = {"latents": {"type": "object", "description": "Generator inputs by name, as nested lists."}}
    text = {"200": {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    paths = {
        "/v1/generate": _clip_route("generate", "Clips from a seed or from latents.", _generate(limits), latents),
        "/v1/grid": _clip_route("grid", "Every content with every motion.", _grid(limits), {}),
        "/v1/models/{model}": {"get": _get("tfs_status", "TensorFlow Serving: states.", [name], "400", "401", "404")},
        "/v1/models/{model}/metadata": {
            "get": _get("tfs_metadata", "TensorFlow Serving: signatures.", [name], "400", "401", "404")
        },
        "/v1/models/{model}:predict": {
            "post": _post("tfs_predict", "TensorFlow Serving: latents to float video.", [name], predict)
        },
        "/v2": {"get": _get("oip_server", "Open Inference Protocol: server.", None, "401")},
        "/v2/health/live": {"get": _get("oip_live", "Open Inference Protocol: alive.", None, "503")},
        "/v2/health/ready": {"get": _get("oip_ready", "Open Inference Protocol: ready.", None, "503")},
        "/v2/models/{model}": {"get": _get("oip_model", "Open Inference Protocol: model.", [name], "401", "404")},
        "/v2/models/{model}/ready": {
            "get": _get("oip_model_ready", "Open Inference Protocol: model ready.", [name], "401", "404")
        },
        "/v2/models/{model}/infer": {
            "post": _post("oip_infer", "Open Inference Protocol: latents to float video.", [name], infer)
        },
        "/livez": {"get": _get("livez", "Whether the process should be left running.", None, "503")},
        "/readyz": {"get": _get("readyz", "Whether to send requests here.", None, "503")},
        "/info": {"get": _get("info", "Models, engine, limits.", None, "401")},
        "/metrics": {"get": {"operationId": "metrics", "summary": "Prometheus metrics.", "responses": text}},
    }
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {k: {"type": "string"} for k in ("error", "error_type")},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MoCoGAN serving",
            "version": serving.__version__,
            "description": "Clips from a seed. `/v1/stream` is a WebSocket: see docs/serving.md.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": error},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }
