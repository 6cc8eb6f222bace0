"""uvicorn around the application: it drains on signals and bounds how long a request's header may take."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from serving.runtime.errors import Unavailable
from serving.runtime.service import Service

HEADER_SECONDS = 10.0
HEADER_BYTES = 2**16
LAST_REQUEST_SECONDS = 0.5
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
# A context in which a gRPC server runs; entering it gives the address.
GRPC = Callable[[], AbstractAsyncContextManager[str]]
log = logging.getLogger("serving.web.server")


def host_port(host: str, port: int) -> str:
    """`host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ImpatientProtocol(HttpToolsProtocol):
    """HTTP with a bound on the time and the bytes until a header is complete, the connection's first or a later one.

    Bodies are bounded by the application.
    """

    _header_timer: asyncio.TimerHandle | None = None
    _receiving = False  # Between a complete header and the end of its body.
    _loose_bytes = 0  # Received since the last complete header or message, or part of a body.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_header()

    def data_received(self, data: bytes) -> None:
        self._loose_bytes += len(data)
        super().data_received(data)
        if self._loose_bytes and not self._busy():
            # Line breaks before a header begin no message, but end uvicorn's own timer for one.
            self._wait_for_header()
        if self._loose_bytes > HEADER_BYTES and not self.transport.is_closing():
            if not self._busy():  # During an answer it would become part of that.
                self.transport.write(TOO_LARGE)
            self.transport.close()

    def _busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self._receiving or (self.cycle is not None and not self.cycle.response_complete)

    def _wait_for_header(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._header_is_late)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_is_late(self) -> None:
        self._header_timer = None
        if self._busy():  # The header is of a pipelined request; the request before it is not bounded here.
            self._wait_for_header()
        elif not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        self._wait_for_header()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        # For a WebSocket too: this object hears no more of that connection.
        self._stop_waiting()
        self._receiving, self._loose_bytes = True, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._loose_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving, self._loose_bytes = False, 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)


class DrainingServer(uvicorn.Server):
    """Drains on SIGTERM and SIGINT; a second signal ends the process at once.

    At first requests are still served, but `/readyz` answers 503 and every answer closes its connection, so that a
    load balancer turns to other servers. Then the server stops listening and finishes the running requests. A gRPC
    server starts before the HTTP server and is drained before it.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_delay: float, grpc: GRPC | None) -> None:
        super().__init__(config)
        self.service = service
        self.drain_delay = drain_delay
        self.grpc = grpc
        self._beside = contextlib.AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        addresses = {}
        if self.grpc:
            try:
                addresses["grpc"] = await self._beside.enter_async_context(self.grpc())
            except Unavailable as error:
                # Just as uvicorn ends when the HTTP port is in use.
                log.error(str(error))
                sys.exit(STARTUP_FAILURE)
        await super().startup(sockets)
        if self.should_exit:
            return
        scheme = "https" if self.config.is_ssl else "http"
        for listener in self.servers:
            for bound in listener.sockets:
                url = f"{scheme}://{host_port(*bound.getsockname()[:2])}/"
                log.info("ready", extra={"url": url, **addresses})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Closing a listener resets connections that the kernel has made and we have not accepted: accept them first.
        for _ in range(10):
            await asyncio.sleep(0)
        for listener in self.servers:
            listener.close()
        # The last clients get time to send their request before connections without one are closed.
        await asyncio.sleep(LAST_REQUEST_SECONDS)
        await self._beside.aclose()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining:
            # Not through the event loop: that would log each cancelled request as an error, and wait for threads.
            os._exit(0)
        self.service.draining = True
        self._loop.call_soon_threadsafe(self._shut_later, sig)

    def _shut_later(self, sig: int) -> None:
        log.info("draining", extra={"signal": signal.Signals(sig).name})
        self._loop.call_later(self.drain_delay, self._shut)

    def _shut(self) -> None:
        self.should_exit = True


def make_server(app: Starlette, *, host: str, port: int, drain_delay: float = 2.0, grace_seconds: int = 30,
                max_connections: int = 1024, grpc: GRPC | None = None, **options: Any) -> DrainingServer:  # fmt: skip
    """Makes a server for the application; its `run()` blocks until it has drained.

    Args:
        app: What `create_app` made.
        host, port: Where to listen.
        drain_delay: Seconds after the signal in which new requests are still served.
        grace_seconds: Seconds after that for running requests to finish.
        max_connections: Any more are answered 503 at once.
        grpc: Context of the gRPC server beside this one.
        options: More for `uvicorn.Config`, such as TLS.
    """
    config = uvicorn.Config(
        app, host=host, port=port, http=ImpatientProtocol, ws=WebSocketsSansIOProtocol, ws_max_size=2**16,
        log_config=None, access_log=False, server_header=False, lifespan="on", timeout_keep_alive=75,
        limit_concurrency=max_connections, timeout_graceful_shutdown=grace_seconds, backlog=2048, **options,
    )  # fmt: skip
    return DrainingServer(config, app.state.service, drain_delay, grpc)
