"""The ASGI middleware around every route: request ids, API keys, errors as JSON, metrics, a log line per request."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import pathlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.runtime.errors import (
    OUT_OF_MEMORY,
    Cancelled,
    NotFound,
    Overloaded,
    ServingError,
    Unauthorized,
    Unavailable,
    WrongHost,
)
from serving.runtime.service import Service
from serving.web.connections import Connection
from serving.web.http import error_response

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# A connection is handed so much at a time.
PIECE_BYTES = 2**16
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


def _version(path: pathlib.Path | None) -> tuple[int, int, int] | None:
    """What changes with a file's contents; a mounted secret's file is a link to another file then."""
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found else None


def is_name_of(host: str, names: tuple[str, ...]) -> bool:
    """Whether a `Host` header is an IP address, this machine's own name for itself, or one of the names.

    A page whose name its owner lets point here (DNS rebinding) is none of these.
    """
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0].rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def key_of(headers: Mapping[str, str]) -> str:
    """Returns the key of a request, from `Authorization: Bearer` or `X-API-Key`; empty if none.

    Args:
        headers: Or gRPC's metadata; names in lower case.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


class Keys:
    """The accepted API keys; if there are none, no key is needed.

    Args:
        keys: The keys.
        path: The file they are from, if `reload` is to read it again when it changes.
    """

    def __init__(self, keys: tuple[bytes, ...] = (), path: pathlib.Path | None = None) -> None:
        self._keys, self._path = keys, path
        self._read_at = _version(path)

    @classmethod
    def of_file(cls, path: pathlib.Path) -> Keys:
        """The keys of a file. Raises ValueError or OSError."""
        version = _version(path)
        keys = cls(read_api_keys(path), path)
        keys._read_at = version  # A change while it was read is seen by the next `reload`.
        return keys

    def reload(self) -> None:
        """Reads the file again if it changed. The keys stay as they are while it is missing or wrong."""
        version = _version(self._path)
        if self._path is None or version == self._read_at:
            return
        self._read_at = version
        try:
            self._keys = read_api_keys(self._path)
        except (OSError, ValueError) as error:
            logging.getLogger("serving.keys").error("the API keys stay as they were", extra={"error": str(error)})
        else:
            logging.getLogger("serving.keys").info("read the API keys again", extra={"keys": len(self._keys)})

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
        hosts: Names of this server, one of which `Host` must be; None: it is not checked.
        is_open: Whether a path needs no key.
        is_probe: Whether a path is a health check, which is answered whatever else is the case.
        is_native: Whether a path's errors have our own form.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        keys: Keys,
        hosts: tuple[str, ...] | None,
        is_open: Callable[[str], bool],
        is_probe: Callable[[str], bool],
        is_native: Callable[[str], bool],
    ) -> None:
        self.app = app
        self.service = service
        self.keys = keys
        self.hosts = hosts
        self.is_probe = is_probe
        self.is_open = is_open
        self.is_native = is_native

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                self.check(scope)
            except ServingError as error:
                self.service.metrics.rejected.labels(error.error_type).inc()
                await send({"type": "websocket.close", "code": 1008})
                return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Exchange(self, scope, receive, send).run()

    def check(self, scope: Scope) -> None:
        """Refuses a request by its host and by what connections hold, before anything else of it is looked at.

        Raises:
            WrongHost: It was meant for another host.
            Overloaded: There are too many connections, or too much is unsent.
        """
        if self.is_probe(scope["path"]):
            return
        host = Headers(scope=scope).get("host", "")
        if self.hosts is not None and not is_name_of(host, self.hosts):
            raise WrongHost(f"This server does not go by the name {host[:100]!r}; --allow_host adds a name.")
        connection: Connection | None = scope.get("state", {}).get("connection")
        if connection is not None and connection.crowded:
            raise Overloaded("There are too many connections. Try again later.", retry_after=1)
        bound = self.service.limits.max_unsent_bytes
        mine = connection.address.unsent_bytes if connection is not None else 0
        if self.service.unsent_bytes > bound or mine > bound // 2:
            raise Overloaded("Too many answers were not taken yet. Try again later.", retry_after=5)


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self.receive, self._send = guard, scope, receive, send
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.connection: Connection | None = scope.get("state", {}).get("connection")
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
            # The answer has begun, so no other can be sent.
            if self.connection is not None:
                self.connection.abort()
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
            self.guard.check(self.scope)
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
        limits, body = self.guard.service.limits, message.get("body", b"")
        try:
            async with asyncio.timeout(limits.write_seconds + len(body) / limits.min_bytes_per_second):
                if len(body) <= PIECE_BYTES:
                    await self._send(message)
                else:
                    await self._send_large(message, body)
        except TimeoutError:
            raise SlowClient from None

    async def _send_large(self, message: Message, body: bytes) -> None:
        """Sends a body in pieces, so that the time until it is taken can be known, and counts what is unsent."""
        service, address = self.guard.service, self.connection.address if self.connection is not None else None
        unsent = len(body)

        def count(size: int) -> None:
            service.unsent_bytes += size
            if address is not None:
                address.unsent_bytes += size

        count(unsent)
        try:
            for at in range(0, len(body), PIECE_BYTES):
                piece = body[at : at + PIECE_BYTES]
                more = message.get("more_body", False) or at + PIECE_BYTES < len(body)
                await self._send({**message, "body": piece, "more_body": more})
                await asyncio.sleep(0)  # A fast client is no reason to keep others waiting.
        finally:
            count(-unsent)
