"""What all HTTP routes share: bounded bodies, JSON, errors as JSON, and clients that go away."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
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
from serving.runtime.service import Limits

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
# No request needs a JSON object with more members.
MAX_KEYS = 64


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


async def read_body(request: Request, limits: Limits) -> bytes:
    """Returns the body, unpacked.

    Raises:
        TooLarge: It is larger than allowed, packed or unpacked.
        Timeout: It did not come in time.
        UnsupportedMediaType: Its encoding is neither gzip nor deflate.
        Malformed: It cannot be unpacked.
        Cancelled: The client went away.
    """
    bound = limits.max_body_bytes
    too_large = TooLarge(f"The body must be at most {bound} bytes.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > bound:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > bound:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise Timeout(f"The body did not come within {limits.body_seconds:g} s.") from None
    except ClientDisconnect:
        raise Cancelled("The client went away before its body was here.") from None
    body = b"".join(chunks)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise UnsupportedMediaType(f"`Content-Encoding` must be gzip or deflate. Received: {encoding[:40]}")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # Reads both headers.
    try:
        body = unpacker.decompress(body, bound + 1)
    except zlib.error as error:
        raise Malformed(f"The body is not {encoding}: {error}") from None
    if len(body) > bound:
        raise too_large
    if not unpacker.eof:
        raise Malformed(f"The {encoding} body is cut off.")
    return body


def parse_json(body: bytes) -> dict[str, Any]:
    """Returns the JSON object in a body.

    Raises:
        Malformed: It is not JSON, not an object, nested too deep, or has more keys than any request.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    if not isinstance(value, dict):
        raise Malformed("The body must be a JSON object.")
    if len(value) > MAX_KEYS:
        raise Malformed(f"The body has {len(value)} keys; no request has more than {MAX_KEYS}.")
    return value


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
