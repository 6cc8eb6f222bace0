"""The ASGI middleware around every route: request ids, API keys, errors as JSON, metrics, a log line per request."""

from __future__ import annotations

import asyncio
import hmac
import logging
import pathlib
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.runtime.errors import OUT_OF_MEMORY, Cancelled, NotFound, ServingError, Unauthorized, Unavailable
from serving.runtime.service import Service
from serving.web.http import error_response

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
log = logging.getLogger("serving.access")


class SlowClient(Exception):
    """A client did not take its answer in time; the connection is dropped."""


def read_api_keys(path: pathlib.Path) -> tuple[bytes, ...]:
    """Reads keys from a file, one per line; empty lines and lines that begin with # are skipped.

    Raises:
        ValueError: There is none, or one shorter than 16 characters.
    """
    lines = (line.strip() for line in path.read_text().splitlines())
    keys = tuple(line.encode() for line in lines if line and not line.startswith("#"))
    if not keys or min(map(len, keys)) < 16:
        raise ValueError(f"{path} must hold at least one API key, each of 16 characters or more, one per line.")
    return keys


def key_of(headers: Headers) -> str:
    """The key that a request carries, in `Authorization: Bearer` or `X-API-Key`; empty if none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


class Keys:
    """The accepted API keys; if there are none, no key is needed."""

    def __init__(self, keys: tuple[bytes, ...] = ()) -> None:
        self._keys = keys

    @property
    def needed(self) -> bool:
        return bool(self._keys)

    def accept(self, key: str) -> bool:
        """Compares with every key in constant time, so that the time taken tells nothing about a key."""
        given, good = key.encode(errors="replace"), False
        for known in self._keys:
            good |= hmac.compare_digest(given, known)
        return good or not self._keys


class Guard:
    """Wraps the application.

    Args:
        app: The application.
        service: For limits, metrics and whether it drains.
        keys: Accepted API keys.
        is_open: Whether a path needs no key.
        is_native: Whether a path's errors have our own form.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        keys: Keys,
        is_open: Callable[[str], bool],
        is_native: Callable[[str], bool],
    ) -> None:
        self.app = app
        self.service = service
        self.keys = keys
        self.is_open = is_open
        self.is_native = is_native

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Exchange(self, scope, receive, send).run()


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self.receive, self._send = guard, scope, receive, send
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.status = 0
        self.notes: dict[str, Any] = {}
        # Handlers add to the log line through the scope.
        scope.setdefault("state", {})["notes"] = self.notes

    async def run(self) -> None:
        service, metrics = self.guard.service, self.guard.service.metrics
        begin = time.perf_counter()
        metrics.in_flight.inc()
        try:
            await self._answer()
        except SlowClient:
            # Raising ends the connection: the answer has begun, so no other can be sent.
            self.notes["aborted"] = "the client did not take its answer"
            metrics.rejected.labels("slow_client").inc()
            raise
        finally:
            metrics.in_flight.dec()
            seconds = time.perf_counter() - begin
            route = self.scope["state"].get("route") or "other"
            code = self.status or 499
            metrics.requests.labels(route, self.scope["method"] if route != "other" else "any", str(code)).inc()
            metrics.request_seconds.labels(route).observe(seconds)
            quiet = self.scope["state"].get("quiet") and code == 200
            level = logging.DEBUG if quiet else logging.INFO
            if log.isEnabledFor(level):
                fields = {"request_id": self.id, "method": self.scope["method"], "path": self.scope["path"][:200]}
                fields |= {"status": code, "ms": round(seconds * 1e3, 2), **self.notes}
                if service.draining:
                    fields["draining"] = True
                log.log(level, "request", extra=fields)

    async def _answer(self) -> None:
        path = self.scope["path"]
        try:
            if not self.guard.is_open(path) and not self.guard.keys.accept(key_of(self.headers)):
                raise Unauthorized("An API key is needed: `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
            await self.guard.app(self.scope, self.receive, self.send)
        except ServingError as error:
            await self._fail(error)
        except (SlowClient, asyncio.CancelledError):
            raise
        except MemoryError:
            await self._fail(Unavailable(OUT_OF_MEMORY, retry_after=1.0))
        except Exception:
            logging.getLogger("serving.app").exception("a request failed", extra={"request_id": self.id})
            await self._fail(ServingError("internal"))

    async def _fail(self, error: ServingError) -> None:
        self.notes["error_type"] = error.error_type
        self.notes["error"] = str(error)[:300]
        if not isinstance(error, NotFound):
            self.guard.service.metrics.rejected.labels(error.error_type).inc()
        if isinstance(error, Cancelled):
            self.status = 499
            return
        if not self.status:
            response: Response = error_response(error, native=self.guard.is_native(self.scope["path"]))
            await response(self.scope, self.receive, self.send)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            headers["X-Content-Type-Options"] = "nosniff"
            if self.guard.service.draining:
                headers["Connection"] = "close"
        try:
            async with asyncio.timeout(self.guard.service.limits.write_seconds):
                await self._send(message)
        except TimeoutError:
            raise SlowClient from None
