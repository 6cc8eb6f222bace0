"""A small client for the native routes, sync and async. Needs httpx and NumPy.

with Client("http://127.0.0.1:8501") as client:
    clip = client.generate(seed=7)               # uint8 [1, T, H, W, C]
    client.save("clip.gif", seed=7, scale=4)
    for frames in client.stream(seed=7):         # uint8 [T, H, W, C], for ever
        show(frames)
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import pathlib
import random
import time
from collections.abc import AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
T = TypeVar("T")
# A request to send (method, route, JSON), or seconds to wait.
Step = tuple[str, str, Any] | float
# The steps to a T; each request is answered by its response.
Steps = Generator[Step, httpx.Response | None, T]

DEFAULT_URL = "http://127.0.0.1:8501"
SUFFIXES = (".webp", ".gif", ".apng", ".png", ".npy", ".mp4", ".webm")


class RequestFailed(Exception):
    """The server refused; `status` and `error_type` say how, `retry_after` (seconds) when to come back."""

    def __init__(self, status: int, error_type: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {error_type}: {message}")
        self.status, self.error_type, self.retry_after = status, error_type, retry_after


def _check(response: httpx.Response | None) -> httpx.Response:
    """Raises RequestFailed for an answer that is an error."""
    assert response is not None
    if response.status_code < 400:
        return response
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    wait = response.headers.get("retry-after")
    message = body.get("error", response.text[:200])
    raise RequestFailed(response.status_code, body.get("error_type", "unknown"), message, float(wait) if wait else None)


def _with_picture(fields: dict[str, Any]) -> dict[str, Any]:
    """Puts a picture, which may be a file's name or its bytes, into base64."""
    image = fields.get("image")
    if isinstance(image, os.PathLike):
        image = pathlib.Path(image).read_bytes()
    return fields | {"image": base64.b64encode(image).decode()} if isinstance(image, bytes) else fields


class _Core:
    """All that both clients do; they differ in how they take `Steps`."""

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 3
    ) -> None:
        """Connects to nothing yet.

        Args:
            url: The server's.
            api_key: Sent with every request.
            timeout: Seconds for a request.
            retries: How often a request that met a full queue is sent again, after the wait that the server asks for.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connect(base_url=url, headers=headers, timeout=timeout)
        self._socket_url = "ws" + url.rstrip("/").removeprefix("http") + "/v1/stream"
        self._first_fields = {"format": "raw"} | ({"api_key": api_key} if api_key else {})
        self._retries = retries

    def _connect(self, **options: Any) -> None:
        """Sets `_http`, httpx's client with these options."""
        raise NotImplementedError

    def _info(self) -> Steps[dict[str, Any]]:
        body: dict[str, Any] = _check((yield "GET", "/info", None)).json()
        return body

    def _post(self, route: str, fields: dict[str, Any], kind: str) -> Steps[bytes]:
        fields = _with_picture(fields)
        for attempt in range(self._retries + 1):
            try:
                return _check((yield "POST", route, fields | {"format": kind})).content
            except RequestFailed as error:
                if error.status not in (429, 503) or attempt == self._retries:
                    raise
                # With jitter, so that refused clients do not come back together.
                yield (error.retry_after or 1.0) * random.uniform(1.0, 1.5)
        raise AssertionError("unreachable")

    def _clips(self, route: str, fields: dict[str, Any]) -> Steps[Pixels]:
        pixels: Pixels = np.load(io.BytesIO((yield from self._post(route, fields, "npy"))), allow_pickle=False)
        return pixels

    def _save(self, path: str | pathlib.Path, fields: dict[str, Any]) -> Steps[pathlib.Path]:
        path = pathlib.Path(path)
        if path.suffix not in SUFFIXES:
            raise ValueError(f"`path` must end in one of {', '.join(SUFFIXES)}. Received: path={str(path)!r}")
        path.write_bytes((yield from self._post("/v1/generate", fields, path.suffix[1:])))
        return path

    def _first_message(self, fields: dict[str, Any]) -> str:
        return json.dumps(_with_picture(fields) | self._first_fields)

    @staticmethod
    def _frame_shape(answer: str | bytes) -> tuple[int, ...]:
        """Shape of a stream's frames, out of the answer to the first message."""
        start = json.loads(answer)
        if "error" in start:
            raise RequestFailed(0, start.get("error_type", "unknown"), start["error"])
        return (start["height"], start["width"], start["channels"])

    @staticmethod
    def _frames(message: str | bytes, frame_shape: tuple[int, ...]) -> Pixels:
        if isinstance(message, str):
            body = json.loads(message)
            raise RequestFailed(0, body.get("error_type", "unknown"), body.get("error", message))
        return np.frombuffer(message, np.uint8).reshape(-1, *frame_shape)


class Client(_Core):
    """Talks to one server. Fields are those of `/v1/generate` and `/v1/grid` (see `/docs` of the server).

    `image`, where the model takes one, may be a `pathlib.Path` or a picture's bytes.
    """

    def _connect(self, **options: Any) -> None:
        self._http = httpx.Client(**options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _take(self, steps: Steps[T]) -> T:
        answer = None
        try:
            while True:
                answer = self._do(steps.send(answer))
        except StopIteration as done:
            result: T = done.value
            return result

    def _do(self, step: Step) -> httpx.Response | None:
        if isinstance(step, tuple):
            method, route, fields = step
            return self._http.request(method, route, json=fields)
        time.sleep(step)
        return None

    def info(self) -> dict[str, Any]:
        """Models, engine and limits of the server."""
        return self._take(self._info())

    def generate(self, **fields: Any) -> Pixels:
        """Clips as uint8 `[B, T, H, W, C]`."""
        return self._take(self._clips("/v1/generate", fields))

    def grid(self, **fields: Any) -> Pixels:
        """Every content with every motion, row-major, as uint8 `[rows * columns, T, H, W, C]`."""
        return self._take(self._clips("/v1/grid", fields))

    def save(self, path: str | pathlib.Path, **fields: Any) -> pathlib.Path:
        """Writes clips to a file; the ending chooses the format."""
        return self._take(self._save(path, fields))

    def stream(self, **fields: Any) -> Iterator[Pixels]:
        """A clip without end: uint8 `[T, H, W, C]` chunks, at the clip's speed. Needs the package `websockets`."""
        from websockets.sync.client import connect

        with connect(self._socket_url) as socket:
            socket.send(self._first_message(fields))
            frame_shape = self._frame_shape(socket.recv())
            for message in socket:
                yield self._frames(message, frame_shape)


class AsyncClient(_Core):
    """`Client` for asyncio: the same methods, to be awaited."""

    def _connect(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _take(self, steps: Steps[T]) -> T:
        answer = None
        try:
            while True:
                answer = await self._do(steps.send(answer))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _do(self, step: Step) -> httpx.Response | None:
        if isinstance(step, tuple):
            method, route, fields = step
            return await self._http.request(method, route, json=fields)
        await asyncio.sleep(step)
        return None

    async def info(self) -> dict[str, Any]:
        """See `Client.info`."""
        return await self._take(self._info())

    async def generate(self, **fields: Any) -> Pixels:
        """See `Client.generate`."""
        return await self._take(self._clips("/v1/generate", fields))

    async def grid(self, **fields: Any) -> Pixels:
        """See `Client.grid`."""
        return await self._take(self._clips("/v1/grid", fields))

    async def save(self, path: str | pathlib.Path, **fields: Any) -> pathlib.Path:
        """See `Client.save`."""
        return await self._take(self._save(path, fields))

    async def stream(self, **fields: Any) -> AsyncIterator[Pixels]:
        """See `Client.stream`."""
        from websockets.asyncio.client import connect

        async with connect(self._socket_url) as socket:
            await socket.send(self._first_message(fields))
            frame_shape = self._frame_shape(await socket.recv())
            async for message in socket:
                yield self._frames(message, frame_shape)
