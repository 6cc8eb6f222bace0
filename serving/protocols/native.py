"""The native routes: `/v1/generate` and `/v1/grid`, clips and content x motion grids as files to look at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serving.protocols.fields import GENERATE_FIELDS, GRID_FIELDS, Fields, GenerateRequest, GridRequest, from_query
from serving.runtime.encode import check_format, encode, enlarge, mosaic
from serving.runtime.repository import Model
from serving.runtime.service import Limits, Service
from serving.web.http import check_json_type, parse_json, read_body, until_disconnect

Read = Callable[[Fields, Model, Limits], GenerateRequest | GridRequest]


async def generate(request: Request) -> Response:
    """`GET` (for an `<img>`) and `POST /v1/generate`."""
    return await _answer(request, "/v1/generate", GENERATE_FIELDS, GenerateRequest.read)


async def grid(request: Request) -> Response:
    """`GET` and `POST /v1/grid`."""
    return await _answer(request, "/v1/grid", GRID_FIELDS, GridRequest.read)


async def _answer(request: Request, route: str, known: tuple[str, ...], read: Read) -> Response:
    service: Service = request.app.state.service
    request.state.route = route
    values: dict[str, Any]
    if request.method == "POST":
        check_json_type(request)
        values = parse_json(await read_body(request, service.limits))
    else:
        await read_body(request, service.limits)
        values = from_query(dict(request.query_params))
    fields = Fields(values, known)
    name, version = fields.text("model"), fields.integer("version", 0, 1, None) or None
    with service.repository.lease(name, version) as model:
        wanted = await service.parse(lambda: read(fields, model, service.limits))
        tag = _tag(model, values) if request.method == "GET" and fields.get("seed") is not None else None
        if tag and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
        response = await until_disconnect(request, _render(request, service, model, wanted))
    if tag:
        response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "no-cache" if tag else "no-store"
    return response


def _tag(model: Model, values: dict[str, Any]) -> str:
    """A seed is one clip of one model: the request and the bundle's digest are the answer's identity."""
    said = orjson.dumps([model.bundle.digest, model.engine.provider, values], option=orjson.OPT_SORT_KEYS)
    return f'"{hashlib.sha256(said).hexdigest()[:32]}"'


async def _render(request: Request, service: Service, model: Model, wanted: GenerateRequest | GridRequest) -> Response:
    output = wanted.output
    kind = check_format(output.format)
    deadline = service.deadline(output.timeout)
    with model.batcher.admit(wanted.total_frames, deadline):
        clip = await service.render(model, wanted.draw, deadline=deadline, as_pixels=True)

        def to_bytes() -> bytes:
            clips = clip.video
            if isinstance(wanted, GridRequest) and output.format not in ("npy", "png", "sheet"):
                clips = mosaic(enlarge(clips, output.scale), len(wanted.motion_seeds))[None]
                return encode(clips, output.format, fps=output.fps)
            return encode(clips, output.format, fps=output.fps, scale=output.scale)

        body, encode_seconds = await service.encode_with(to_bytes, output.format)
    timing = {"queue": clip.queue_seconds, "render": clip.render_seconds, "encode": encode_seconds}
    request.state.notes.update(
        model=model.name, version=model.version, frames=wanted.total_frames, format=output.format,
        **{f"{name}_ms": round(seconds * 1e3, 2) for name, seconds in timing.items()},
    )  # fmt: skip
    filename = f"{_ascii(model.name)}-{wanted.seed}.{kind.extension}"
    headers = {
        "X-Seed": str(wanted.seed),
        "X-Model": _ascii(model.name),
        "X-Model-Version": str(model.version),
        "X-Video-Shape": ",".join(map(str, clip.video.shape)),
        "Content-Disposition": f'inline; filename="{filename}"',
        "Server-Timing": ", ".join(f"{name};dur={seconds * 1e3:.2f}" for name, seconds in timing.items()),
    }
    return Response(body, media_type=kind.media_type, headers=headers)


def _ascii(text: str) -> str:
    """A name that may stand in a header."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in text)
