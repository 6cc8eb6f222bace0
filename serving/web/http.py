"""What all HTTP routes share: answers in JSON, errors as JSON, and clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serving.runtime.errors import (
    Cancelled,
    DeadlineExceeded,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    ServingError,
    Timeout,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unimplemented,
    UnsupportedMediaType,
    WrongHost,
)

T = TypeVar("T")

# 499 is the code that proxies and TensorFlow Serving use for a client that went away.
STATUS: dict[type[ServingError], int] = {
    Malformed: 400,
    Invalid: 422,
    Unauthorized: 401,
    NotFound: 404,
    MethodNotAllowed: 405,
    Timeout: 408,
    TooLarge: 413,
    UnsupportedMediaType: 415,
    WrongHost: 421,
    Overloaded: 429,
    Cancelled: 499,
    Unimplemented: 501,
    Unavailable: 503,
    DeadlineExceeded: 504,
}
# In TensorFlow Serving and Open Inference servers every bad argument is 400, and a full queue is 503.
PROTOCOL_STATUS = STATUS | {Invalid: 400, Overloaded: 503, UnsupportedMediaType: 400}


class JSONResponse(Response):
    """JSON by orjson, NumPy arrays included."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def error_response(error: ServingError, *, native: bool) -> Response:
    """Returns an error's code and body, in the form of the native routes or of the other protocols."""
    status = (STATUS if native else PROTOCOL_STATUS).get(type(error), 500)
    message = str(error) if status != 500 else "The server failed on this request; its log says why."
    body = {"error": message, "error_type": error.error_type} if native else {"error": message}
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(round(error.retry_after))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (408, 413):
        headers["Connection"] = "close"
    return JSONResponse(body, status, headers)


def check_json_type(request: Request) -> None:
    """Native routes take JSON only, so that a page of another site cannot post a form to a server on loopback.

    Raises:
        UnsupportedMediaType: The content type is not JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType(f"`Content-Type` must be application/json. Received: {kind[:60]!r}")


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits work and cancels it when the client goes away. The body must have been read before.

    Raises:
        Cancelled: It went away.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("The client went away.")
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
