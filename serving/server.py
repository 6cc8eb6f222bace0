"""uvicorn around the application: signals that drain, clients that never finish a header, one line on start."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.service import Service

HEADER_SECONDS = 10.0
LAST_REQUEST_SECONDS = 0.5
log = logging.getLogger("serving.server")


class ImpatientProtocol(HttpToolsProtocol):
    """HTTP with a bound on the time that a new connection may take to its first complete header."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._header_is_late)

    def _header_is_late(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        # The connection is the WebSocket's from here on; this object hears no more of it.
        self._header_timer.cancel()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_timer.cancel()
        super().connection_lost(exc)


class DrainingServer(uvicorn.Server):
    """Drains on SIGTERM and SIGINT: first `/readyz` says no and answers close their connections while requests are
    still served, so that a load balancer can turn away; then the door is shut and what runs is finished. A second
    signal ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_delay: float) -> None:
        super().__init__(config)
        self.service = service
        self.drain_delay = drain_delay

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.should_exit:
            return
        scheme = "https" if self.config.is_ssl else "http"
        for listener in self.servers:
            for bound in listener.sockets:
                host, port = bound.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                log.info("ready", extra={"url": f"{scheme}://{shown}:{port}/"})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Closing the door resets those who stand before it: let in whom the kernel has connected, and close right then.
        for _ in range(10):
            await asyncio.sleep(0)
        for listener in self.servers:
            listener.close()
        # Who was let in last gets to say what for, before connections without a request are closed.
        await asyncio.sleep(LAST_REQUEST_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining:
            self.force_exit = self.should_exit = True
            return
        self.service.draining = True
        self._loop.call_soon_threadsafe(self._shut_later, sig)

    def _shut_later(self, sig: int) -> None:
        log.info("draining", extra={"signal": signal.Signals(sig).name})
        self._loop.call_later(self.drain_delay, self._shut)

    def _shut(self) -> None:
        self.should_exit = True


def make_server(app: Starlette, *, host: str, port: int, drain_delay: float = 2.0, grace_seconds: int = 30,
                max_connections: int = 1024, **options: Any) -> DrainingServer:  # fmt: skip
    """A server for the application; `run()` blocks until it has drained.

    Args:
        app: What `create_app` made.
        host, port: Where to listen.
        drain_delay: Seconds between the signal and the shutting of the door.
        grace_seconds: Then, for requests that run.
        max_connections: More are answered 503 at once.
        options: Of `uvicorn.Config`, TLS for one.
    """
    config = uvicorn.Config(
        app, host=host, port=port, http=ImpatientProtocol, ws="websockets-sansio", ws_max_size=2**16, log_config=None,
        access_log=False, server_header=False, lifespan="on", timeout_keep_alive=75, limit_concurrency=max_connections,
        timeout_graceful_shutdown=grace_seconds, backlog=2048, **options,
    )  # fmt: skip
    return DrainingServer(config, app.state.service, drain_delay)
