"""uvicorn around the application: its own listeners bound the connections, and it drains on signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
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

from serving.runtime.errors import Unavailable
from serving.runtime.service import Service
from serving.web.connections import (
    HEADER_BYTES,
    IDLE_SECONDS,
    SWEEP_SECONDS,
    Connection,
    Connections,
    HTTPConnection,
    Listener,
    WebSocketConnection,
    descriptors_for,
)

BACKLOG = 2048
# A thread that computes gives Python's lock away after so long when others wait for it, such as the event loop, which
# needs it several times for each request. Python's own 5 ms, with a few such threads, made waits of 0.3 s.
SWITCH_SECONDS = 5e-4
# The exit code if a port cannot be had, as uvicorn's.
STARTUP_FAILURE = 3
LAST_REQUEST_SECONDS = 0.5
# A context in which a gRPC server runs; entering it gives the address.
GRPC = Callable[[], AbstractAsyncContextManager[str]]
log = logging.getLogger("serving.web.server")


def host_port(host: str, port: int) -> str:
    """`host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Returns a socket that listens at an address.

    Its connections send at once (TCP_NODELAY, which they inherit): otherwise the body of an answer waits until the
    client has acknowledged the header, 40 ms. asyncio sets it only for sockets that name their protocol.
    """
    bound = socket.create_server(address, family=family, backlog=BACKLOG)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


class DrainingServer(uvicorn.Server):
    """Drains on SIGTERM and SIGINT; a second signal ends the process at once.

    At first requests are still served, but `/readyz` answers 503 and every answer closes its connection, so that a
    load balancer turns to other servers. Then the server stops listening and finishes the running requests. A gRPC
    server starts before the HTTP server and is drained before it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        connections: Connections,
        drain_delay: float,
        grpc: GRPC | None,
    ) -> None:
        super().__init__(config)
        self.connections = connections
        self.service = service
        self.drain_delay = drain_delay
        self.grpc = grpc
        self._beside = contextlib.AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        # What is here now stays, and is nothing for the garbage collector to look through with the lock held.
        gc.collect()
        gc.freeze()
        self._loop = asyncio.get_running_loop()
        addresses = {}
        if self.grpc:
            try:
                addresses["grpc"] = await self._beside.enter_async_context(self.grpc())
            except Unavailable as error:
                # Just as uvicorn ends when the HTTP port is in use.
                log.error(str(error))
                sys.exit(STARTUP_FAILURE)
        # Not by uvicorn's own `startup`, whose listeners accept without bounds.
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        try:
            self.servers: list[Any] = [self._listener(sock) for sock in await self._bind()]
        except OSError as error:
            log.error(str(error))
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self._sweeper = asyncio.create_task(self._sweep())
        self.started = True
        scheme = "https" if self.config.is_ssl else "http"
        for listener in self.servers:
            for bound in listener.sockets:
                url = f"{scheme}://{host_port(*bound.getsockname()[:2])}/"
                log.info("ready", extra={"url": url, **addresses})

    async def _bind(self) -> list[socket.socket]:
        """Sockets that listen at all addresses of the host."""
        found = await self._loop.getaddrinfo(
            self.config.host, self.config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
        return [listen(family, address) for family, address in addresses]

    def _listener(self, sock: socket.socket) -> Listener:
        def make(connection: Connection) -> HTTPConnection:
            return HTTPConnection(
                connection, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        return Listener(sock, self.connections, make, self.config.ssl)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.connections.sweep()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        # The last clients get time to send their request before connections without one are closed.
        await asyncio.sleep(LAST_REQUEST_SECONDS)
        await self._beside.aclose()
        await super().shutdown(sockets)
        self._sweeper.cancel()

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
                max_connections: int = 1024, max_connections_per_address: int = 256, grpc: GRPC | None = None,
                **options: Any) -> DrainingServer:  # fmt: skip
    """Makes a server for the application; its `run()` blocks until it has drained.

    Args:
        app: What `create_app` made.
        host, port: Where to listen.
        drain_delay: Seconds after the signal in which new requests are still served.
        grace_seconds: Seconds after that for running requests to finish.
        max_connections: Open connections in all; fewer if the process may not open so many files.
        max_connections_per_address: Of one IPv4 address, or of one IPv6 network of 64 bits.
        grpc: Context of the gRPC server beside this one.
        options: More for `uvicorn.Config`, such as TLS.
    """
    config = uvicorn.Config(
        app, host=host, port=port, http=HTTPConnection, ws=WebSocketConnection, ws_max_size=2**16,
        # Pixels hardly compress, and it would be done between two requests of everybody.
        ws_per_message_deflate=False, h11_max_incomplete_event_size=HEADER_BYTES, timeout_keep_alive=int(IDLE_SECONDS),
        log_config=None, access_log=False, server_header=False, lifespan="on",
        timeout_graceful_shutdown=grace_seconds, **options,
    )  # fmt: skip
    connections = Connections(descriptors_for(max_connections), max_connections_per_address)
    return DrainingServer(config, app.state.service, connections, drain_delay, grpc)
