"""The OpenAPI document of the HTTP routes. Its requests come from `fields`; the tests hold the server to it."""

from __future__ import annotations

import serving
from serving.protocols.fields import CHANGE, ENCODE, GENERATE, GRID, STREAM, Schema, Table
from serving.runtime.encode import FORMATS
from serving.runtime.service import Limits, Service

REASONS = {
    "400": "The body is not JSON, or is cut off.",
    "401": "No API key, or a wrong one.",
    "404": "No such model or version.",
    "408": "The body came too slowly.",
    "413": "More bytes, values or work than one request may have.",
    "415": "The content type is not the route's.",
    "422": "A field is unknown, of the wrong type or out of range.",
    "429": "The queue, the parser or the connections are full; `Retry-After` says when to come back.",
    "501": "The format needs a package that this server lacks.",
    "503": "Starting, draining or short of memory.",
    "504": "The answer was not encoded in time.",
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
            "X-Picture": "Where content is a picture: what was done to the `image`, or which of the model's own it is.",
            "Server-Timing": "Milliseconds to draw the latents, in the queue, in the engine and in the encoder.",
        }.items()
    }
    success = {"description": "The clips.", "headers": headers, "content": {kind: binary for kind in sorted(kinds)}}
    answers = _answers(success, "400", "401", "404", "408", "413", "415", "422", "429", "501", "503", "504")
    return answers | {"304": {"description": "The client has the answer already."}}


def _body(table: Table, limits: Limits) -> Schema:
    properties = {name: field.schema(limits) for name, field in table.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _query(table: Table, limits: Limits) -> list[Schema]:
    return [
        {"name": key, "in": "query", "schema": field.schema(limits), "style": "form", "explode": False}
        for key, field in table.items()
        if field.in_query
    ]


def _encode_route(limits: Limits) -> Schema:
    codes = ("400", "401", "404", "408", "413", "415", "422", "429", "503")
    picture = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg")}
    return {
        "post": {
            "operationId": "encode",
            "summary": "A picture's bytes to the content of its clips.",
            "parameters": _query(ENCODE, limits),
            "requestBody": {"required": True, "content": picture},
            "responses": _answers(_json("The content, and what was done to the picture."), *codes),
        }
    }


def _pictures_route(limits: Limits) -> Schema:
    summary = "The pictures that a seed chooses from, side by side."
    png = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
    route = _get("pictures", summary, _query(ENCODE, limits), "401", "404", "422")
    return {"get": {**route, "responses": route["responses"] | {"200": {"description": summary, "content": png}}}}


def _clip_route(name: str, summary: str, table: Table, limits: Limits) -> Schema:
    parameters = _query(table, limits)
    body = _body(table, limits)
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
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
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
    text = {"200": {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    paths = {
        "/v1/generate": _clip_route("generate", "Clips from a seed or from latents.", GENERATE, limits),
        "/v1/grid": _clip_route("grid", "Every content with every motion.", GRID, limits),
        "/v1/encode": _encode_route(limits),
        "/v1/pictures": _pictures_route(limits),
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
            "description": "Clips from a seed. `/v1/stream` is a WebSocket: its first message is a `Stream`, "
            "later ones are `StreamChange`s. See docs/serving.md.",
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Error": error,
                "Stream": _body(STREAM, limits),
                "StreamChange": _body(CHANGE, limits),
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }
