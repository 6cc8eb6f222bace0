"""Pictures that clients send: read off the event loop, and `POST /v1/encode`, which gives the content of one.

Only models whose content comes from pictures take any.
"""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from mocogan_tf import pictures, video
from serving.protocols import fields as f
from serving.protocols.fields import Fields
from serving.runtime.bundle import Bundle
from serving.runtime.errors import Invalid, UnsupportedMediaType
from serving.runtime.service import Service
from serving.web.bodies import read_body
from serving.web.http import JSONResponse

# Before it is scaled. Decoding so many takes about half a second of one processor.
MAX_PIXELS = 2**23


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a model's size, uint8 `[H, W, C]`, and what was done to make it that."""

    pixels: NDArray[np.uint8]
    said: str


def _read(data: bytes, bundle: Bundle, name: str) -> Picture:
    try:
        return Picture(*pictures.read_picture(data, bundle.height, bundle.channels, max_pixels=MAX_PIXELS))
    except pictures.PictureError as error:
        raise Invalid(f"{name}: {error}") from None


def _check(bundle: Bundle, name: str) -> None:
    if bundle.pictures is None:
        raise Invalid(f"{name} is for models that animate pictures; {bundle.name} makes up its contents.")


async def given_picture(fields: Fields, service: Service) -> Picture | None:
    """Reads the picture of a request; None if it has none.

    Raises:
        Invalid: The model takes none, or it is no picture that is taken.
        Malformed: It is not base64.
        NotFound: There is no such model.
        Overloaded: Too many wait to be read.
    """
    text = fields.raw(f.IMAGE)
    if text is None:
        return None
    bundle = service.repository.find(fields.given(f.MODEL), fields.given(f.VERSION)).bundle
    _check(bundle, "`image`")
    return await service.read_picture(lambda: _read(f.IMAGE.read(text, service.limits), bundle, "`image`"))


async def encode(request: Request) -> Response:
    """`POST /v1/encode`: a picture's bytes to the content of its clips, for `latents.content` of other routes."""
    service: Service = request.app.state.service
    request.state.route = "/v1/encode"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/"):
        raise UnsupportedMediaType(f"`Content-Type` must be image/png or another image. Received: {kind[:60]!r}")
    fields = Fields(f.from_query(request.scope["query_string"], f.ENCODE), f.ENCODE, service.limits)
    with service.repository.lease(fields.given(f.MODEL), fields.given(f.VERSION)) as model:
        _check(model.bundle, "`/v1/encode`")
        service.check_room(model)
        data = await read_body(request, service, lambda body: body)
        picture = await service.read_picture(lambda: _read(data, model.bundle, "The body"))
        content = await service.parse(lambda: model.engine.encode(picture.pixels[None])[0])
        described = {"model": model.name, "version": model.version, "picture": picture.said, "content": content}
    return JSONResponse(described, headers={"Cache-Control": "no-store", "X-Picture": picture.said})


async def shown(request: Request) -> Response:
    """`GET /v1/pictures`: the pictures that a seed chooses from, side by side in a PNG."""
    service: Service = request.app.state.service
    request.state.route = "/v1/pictures"
    fields = Fields(f.from_query(request.scope["query_string"], f.ENCODE), f.ENCODE, service.limits)
    bundle = service.repository.find(fields.given(f.MODEL), fields.given(f.VERSION)).bundle
    _check(bundle, "`/v1/pictures`")
    assert bundle.pictures is not None
    strip = video.film_strips(bundle.pictures[None])
    body = await asyncio.to_thread(video.picture, strip, "PNG")
    return Response(body, media_type="image/png", headers={"Cache-Control": "no-cache"})
