"""Bodies of requests: received, unpacked and parsed within bounds that all requests share."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request

from serving.runtime.errors import Cancelled, Malformed, Timeout, TooLarge, UnsupportedMediaType
from serving.runtime.intake import Held
from serving.runtime.service import Limits, Service

T = TypeVar("T")

# No request needs a JSON object with more members.
MAX_KEYS = 64
# Unpacked at one time; what comes of it is counted before more is unpacked.
PIECE_BYTES = 2**18


async def read_body(request: Request, service: Service, parse: Callable[[bytes], T]) -> T:
    """Returns what a parser makes of the unpacked body. Unpacking and parsing happen off the event loop.

    Raises:
        TooLarge: The body is larger than allowed, packed or unpacked.
        Timeout: It did not come in time.
        UnsupportedMediaType: Its encoding is neither gzip nor deflate.
        Malformed: It cannot be unpacked.
        Cancelled: The client went away.
        Overloaded: Too many bodies are here already.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    with service.intake.hold() as held:
        chunks: list[bytes] = []

        def keep(chunk: bytes) -> None:
            held.add(len(chunk))
            chunks.append(chunk)

        await _receive(request, service.limits, keep)
        body = b"".join(chunks)
        if encoding == "identity":
            return await service.parse_body(lambda: parse(body))
        if encoding not in ("gzip", "deflate"):
            raise UnsupportedMediaType(f"`Content-Encoding` must be gzip or deflate. Received: {encoding[:40]}")
        return await service.parse_body(lambda: parse(_unpack(body, encoding, service.limits, held)))


async def skip_body(request: Request, limits: Limits) -> None:
    """Receives a body that nothing is done with.

    Raises:
        TooLarge, Timeout, Cancelled: As in `read_body`.
    """
    await _receive(request, limits, lambda chunk: None)


async def _receive(request: Request, limits: Limits, take: Callable[[bytes], None]) -> None:
    bound, size = limits.max_body_bytes, 0
    too_large = TooLarge(f"The body must be at most {bound} bytes.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > bound):
        raise too_large
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > bound:
                    raise too_large
                take(chunk)
    except TimeoutError:
        raise Timeout(f"The body did not come within {limits.body_seconds:g} s.") from None
    except ClientDisconnect:
        raise Cancelled("The client went away before its body was here.") from None


def _unpack(body: bytes, encoding: str, limits: Limits, held: Held) -> bytes:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # Reads both headers.
    unpacked = bytearray()
    while not unpacker.eof:
        try:
            piece = unpacker.decompress(body, PIECE_BYTES)
        except zlib.error as error:
            raise Malformed(f"The body is not {encoding}: {error}") from None
        body = unpacker.unconsumed_tail
        if not (piece or body or unpacker.eof):
            raise Malformed(f"The {encoding} body is cut off.")
        if len(unpacked) + len(piece) > limits.max_body_bytes:
            raise TooLarge(f"The body must be at most {limits.max_body_bytes} bytes.")
        held.add(len(piece))
        unpacked += piece
    return bytes(unpacked)


def parse_json(body: bytes, limits: Limits | None = None) -> dict[str, Any]:
    """Returns the JSON object in a body.

    Values are counted before any is made, by commas, colons and brackets. Those inside of strings count too; no request
    has many of them. The parser itself bounds the depth.

    Raises:
        Malformed: It is not JSON, not an object, nested too deep, or has more keys than any request.
        TooLarge: It has more values, lists or objects than a request may have.
    """
    limits = limits or Limits()
    containers = body.count(b"[") + body.count(b"{")
    if containers > limits.max_containers and containers != body.count(b"]") + body.count(b"}"):
        raise Malformed("JSON Parse error: there are more opening brackets than closing ones, or fewer.")
    values = containers + body.count(b",") + body.count(b":")
    for counted, bound, name in (
        (values, limits.max_values, "values"),
        (containers, limits.max_containers, "lists and objects"),
    ):
        if counted > bound:
            raise TooLarge(f"A body has at most {bound} {name}; this one has up to {counted}.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    if not isinstance(value, dict):
        raise Malformed("The body must be a JSON object.")
    if len(value) > MAX_KEYS:
        raise Malformed(f"The body has {len(value)} keys; no request has more than {MAX_KEYS}.")
    return value
