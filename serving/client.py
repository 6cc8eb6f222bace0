"""A tiny client, sync and async, for the native routes. Needs httpx and NumPy, and no model.

with Client("http://127.0.0.1:8501") as client:
    clip = client.generate(seed=7)               # uint8 [1, T, H, W, C]
    client.save("clip.gif", seed=7, scale=4)
    for frames in client.stream(seed=7):         # for ever: uint8 [T, H, W, C]
        show(frames)
"""

from __future__ import annotations

import io
import json
import pathlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

FORMAT_OF_SUFFIX = {
    ".webp": "webp",
    ".gif": "gif",
    ".apng": "apng",
    ".png": "png",
    ".npy": "npy",
    ".mp4": "mp4",
    ".webm": "webm",
}


class RequestFailed(Exception):
    """The server refused; `status` and `error_type` say how, `retry_after` (seconds) when to come back."""

    def __init__(self, status: int, error_type: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {error_type}: {message}")
        self.status, self.error_type, self.retry_after = status, error_type, retry_after


def _check(response: httpx.Response) -> httpx.Response:
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


def _array(response: httpx.Response) -> Pixels:
    pixels: Pixels = np.load(io.BytesIO(response.content), allow_pickle=False)
    return pixels


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _format(path: pathlib.Path) -> str:
    if path.suffix not in FORMAT_OF_SUFFIX:
        raise ValueError(f"`path` must end in one of {', '.join(FORMAT_OF_SUFFIX)}. Received: path={str(path)!r}")
    return FORMAT_OF_SUFFIX[path.suffix]


def _pause(error: RequestFailed, attempt: int, retries: int) -> float:
    """Seconds to wait before another try, with jitter so that refused clients do not return together."""
    if error.status not in (429, 503) or attempt >= retries:
        raise error
    return (error.retry_after or 1.0) * random.uniform(1.0, 1.5)


def _socket_url(base: str) -> str:
    return "ws" + base.rstrip("/").removeprefix("http") + "/v1/stream"


def _frames(message: str | bytes, start: dict[str, Any]) -> Pixels:
    if isinstance(message, str):
        body = json.loads(message)
        raise RequestFailed(0, body.get("error_type", "unknown"), body.get("error", message))
    shape = (-1, start["height"], start["width"], start["channels"])
    return np.frombuffer(message, np.uint8).reshape(shape)


class Client:
    """Talks to one server. Fields are those of `/v1/generate` and `/v1/grid` (see `/docs` of the server)."""

    def __init__(
        self, url: str = "http://127.0.0.1:8501", *, api_key: str | None = None, timeout: float = 60.0, retries: int = 3
    ) -> None:
        """`retries` is how often a request that met a full queue is sent again, after the wait the server asks for."""
        self._url, self._api_key, self._retries = url, api_key, retries
        self._http = httpx.Client(base_url=url, headers=_headers(api_key), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def info(self) -> dict[str, Any]:
        """Models, engine and limits of the server."""
        body: dict[str, Any] = _check(self._http.get("/info")).json()
        return body

    def _post(self, route: str, fields: dict[str, Any]) -> httpx.Response:
        for attempt in range(self._retries + 1):
            try:
                return _check(self._http.post(route, json=fields))
            except RequestFailed as error:
                time.sleep(_pause(error, attempt, self._retries))
        raise AssertionError("unreachable")

    def generate(self, **fields: Any) -> Pixels:
        """Clips as uint8 `[B, T, H, W, C]`."""
        return _array(self._post("/v1/generate", fields | {"format": "npy"}))

    def grid(self, **fields: Any) -> Pixels:
        """Every content with every motion, row-major, as uint8 `[rows * columns, T, H, W, C]`."""
        return _array(self._post("/v1/grid", fields | {"format": "npy"}))

    def save(self, path: str | pathlib.Path, **fields: Any) -> pathlib.Path:
        """Writes clips to a file; the ending chooses the format."""
        path = pathlib.Path(path)
        path.write_bytes(self._post("/v1/generate", fields | {"format": _format(path)}).content)
        return path

    def stream(self, **fields: Any) -> Iterator[Pixels]:
        """A clip without end: uint8 `[T, H, W, C]` chunks, at the clip's speed. Needs the package `websockets`."""
        from websockets.sync.client import connect

        with connect(_socket_url(self._url)) as socket:
            socket.send(json.dumps(fields | {"format": "raw"} | ({"api_key": self._api_key} if self._api_key else {})))
            start = json.loads(socket.recv())
            if "error" in start:
                raise RequestFailed(0, start.get("error_type", "unknown"), start["error"])
            for message in socket:
                yield _frames(message, start)


class AsyncClient:
    """`Client` for asyncio."""

    def __init__(
        self, url: str = "http://127.0.0.1:8501", *, api_key: str | None = None, timeout: float = 60.0, retries: int = 3
    ) -> None:
        self._url, self._api_key, self._retries = url, api_key, retries
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(api_key), timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def info(self) -> dict[str, Any]:
        """Models, engine and limits of the server."""
        body: dict[str, Any] = _check(await self._http.get("/info")).json()
        return body

    async def _post(self, route: str, fields: dict[str, Any]) -> httpx.Response:
        import asyncio

        for attempt in range(self._retries + 1):
            try:
                return _check(await self._http.post(route, json=fields))
            except RequestFailed as error:
                await asyncio.sleep(_pause(error, attempt, self._retries))
        raise AssertionError("unreachable")

    async def generate(self, **fields: Any) -> Pixels:
        """Clips as uint8 `[B, T, H, W, C]`."""
        return _array(await self._post("/v1/generate", fields | {"format": "npy"}))

    async def grid(self, **fields: Any) -> Pixels:
        """Every content with every motion, row-major, as uint8 `[rows * columns, T, H, W, C]`."""
        return _array(await self._post("/v1/grid", fields | {"format": "npy"}))

    async def save(self, path: str | pathlib.Path, **fields: Any) -> pathlib.Path:
        """Writes clips to a file; the ending chooses the format."""
        path = pathlib.Path(path)
        path.write_bytes((await self._post("/v1/generate", fields | {"format": _format(path)})).content)
        return path

    async def stream(self, **fields: Any) -> AsyncIterator[Pixels]:
        """A clip without end: uint8 `[T, H, W, C]` chunks, at the clip's speed. Needs the package `websockets`."""
        from websockets.asyncio.client import connect

        async with connect(_socket_url(self._url)) as socket:
            key = {"api_key": self._api_key} if self._api_key else {}
            await socket.send(json.dumps(fields | {"format": "raw"} | key))
            start = json.loads(await socket.recv())
            if "error" in start:
                raise RequestFailed(0, start.get("error_type", "unknown"), start["error"])
            async for message in socket:
                yield _frames(message, start)
