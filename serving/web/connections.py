"""Connections: how many there are, how long one may wait, and how much of one is read or kept at a time.

uvicorn speaks HTTP (by h11, which stops at the end of a request until that is answered) and WebSockets. Its protocols
are subclassed here, which its `http=` and `ws=` allow; of their attributes only those without an underscore are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import itertools
import logging
import re
import resource
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEADER_BYTES = 2**16
# Until a TLS handshake is done, then until a header is complete; and from an answer to the next request's first byte.
HEADER_SECONDS, IDLE_SECONDS = 10.0, 75.0
# A connection without a request may take so long to take what it was sent.
LINGER_SECONDS = 10.0
SWEEP_SECONDS = 0.25
# Connections beyond the bounds are answered health checks, and 429 for all else.
HEALTH_ROOM, HEALTH_SECONDS = 32, 2.0
# Of a request; each costs more than its bytes do.
HEADER_LINES = 128
HEADER_END = re.compile(rb"\n\r?\n")
# What is read of one connection before the others' turn; a WebSocket's messages are short and cost more per byte.
READ_BYTES, READ_MESSAGE_BYTES = 2**14, 2**8
# A byte may cost fifty times as much as another: chunks of one byte, empty pings. So a request's bytes are looked at in
# pieces, the first one short, until that has taken so long; and all connections of one address together may take so
# much of the event loop's time, for which they rest. A rest that is shorter than a moment is left until it is longer.
TURN_SECONDS, FIRST_PIECE_BYTES = 1e-3, 2**9
READ_SHARE, MOMENT_SECONDS = 0.25, 5e-3
# A WebSocket's client may send so much, on average and at once.
MESSAGE_BYTES_PER_SECOND, MESSAGE_BYTES_AT_ONCE = 2**14, 2**15
# Descriptors for everything but HTTP connections: bundles, logs, gRPC.
OTHER_DESCRIPTORS = 128
# Few, so that a connection's request is read before later connections could take its place.
ACCEPTS_AT_ONCE = 8
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
NOT_A_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
log = logging.getLogger("serving.web.connections")


class Address:
    """What the connections of one address have in common."""

    def __init__(self) -> None:
        self.open = 0
        self.unsent_bytes = 0
        self.resting: dict[Connection, None] = {}
        self.waiting: dict[Connection, None] = {}


class Connection:
    """One open connection. It waits (for a handshake, a header, a next request), or a request is being answered."""

    def __init__(self, connections: Connections, name: str, address: Address, *, crowded: bool) -> None:
        self._connections, self.name, self.address = connections, name, address
        self.crowded = crowded  # Beyond the bounds: for health checks only.
        self.transport: asyncio.Transport | None = None
        self.socket: socket.socket | None = None  # Until there is a transport.
        self.deadline: float | None = None
        self.stuck_since: float | None = None
        self.rested_at = 0.0
        self.closed = False

    def wait(self, seconds: float) -> None:
        """Nothing is being answered: closes the connection after so many seconds, or when its place is needed."""
        if not self.closed:
            self.deadline = time.monotonic() + seconds
            for waiting in (self.address.waiting, self._connections.waiting):
                waiting.pop(self, None)
                waiting[self] = None

    def hurry(self, seconds: float) -> None:
        """A waiting connection gets at most so many seconds more."""
        if self.deadline is not None:
            self.deadline = min(self.deadline, time.monotonic() + seconds)

    def work(self) -> None:
        """A request is being answered; until then its own limits bound the time."""
        self.deadline = None
        self.address.waiting.pop(self, None)
        self._connections.waiting.pop(self, None)

    def rest(self, seconds: float) -> float:
        """Returns for how long nothing more of it is to be read, after its bytes took so many seconds.

        The more connections of its address rest, the longer.
        """
        now = time.monotonic()
        self.rested_at = max(now, self.rested_at) + seconds / READ_SHARE * max(1, len(self.address.resting))
        left = self.rested_at - now
        if left < MOMENT_SECONDS or self.closed:
            return 0.0
        self.address.resting[self] = None
        return left

    def abort(self) -> None:
        """Ends the connection without sending what is unsent."""
        if self.transport is not None:
            self.transport.abort()
        elif self.socket is not None:
            # Whoever waits for a handshake there sees the connection end.
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        self.forget()

    def forget(self) -> None:
        """Takes note that it is closed."""
        if not self.closed:
            self.work()
            self.closed = True
            self.address.resting.pop(self, None)
            self._connections.forget(self)

    def sweep(self, now: float) -> None:
        """Closes the connection if its time is over, and ends it if it does not take what it was sent."""
        if self.transport is None:
            late = self.deadline is not None and now > self.deadline
            return self.abort() if late else None
        closing = self.transport.is_closing()
        if not closing and self.deadline is not None and now > self.deadline:
            self.transport.close()
        if closing or (self.deadline is not None and self.transport.get_write_buffer_size()):
            self.stuck_since = self.stuck_since or now
            if now - self.stuck_since > LINGER_SECONDS:
                self.abort()
        else:
            self.stuck_since = None


class Connections:
    """All open connections, with bounds on their number in all and for each address.

    If there is no room, the connection of that address (or, for the bound in all, of any) that has waited longest makes
    room. If none waits, a few more are accepted for health checks.
    """

    def __init__(self, max_open: int, max_per_address: int) -> None:
        self.max_open, self.max_per_address = max_open, max_per_address
        self.open: dict[Connection, None] = {}
        self.waiting: dict[Connection, None] = {}
        self.crowd: dict[Connection, None] = {}
        self._addresses: dict[str, Address] = {}

    def add(self, host: str) -> Connection | None:
        """Returns a connection's entry, or None if it must be refused."""
        name = network(host)
        address = self._addresses.setdefault(name, Address())
        crowded = False
        if address.open >= self.max_per_address or len(self.open) - len(self.crowd) >= self.max_open:
            waiting = address.waiting if address.open >= self.max_per_address else self.waiting
            longest = next((each for each in waiting if not each.crowded), None)
            if longest is not None:
                longest.abort()
            elif len(self.crowd) < HEALTH_ROOM:
                crowded = True
            else:
                first = next(iter(self.crowd))
                if first.deadline is None:
                    self._drop(name, address)
                    return None
                first.abort()
                crowded = True
            address = self._addresses.setdefault(name, address)
        connection = Connection(self, name, address, crowded=crowded)
        self.open[connection] = None
        if crowded:
            self.crowd[connection] = None
        else:
            address.open += 1
        connection.wait(HEALTH_SECONDS if crowded else HEADER_SECONDS)
        return connection

    def forget(self, connection: Connection) -> None:
        """Takes a closed connection out."""
        self.open.pop(connection, None)
        if connection.crowded:
            self.crowd.pop(connection, None)
        else:
            connection.address.open -= 1
        self._drop(connection.name, connection.address)

    def _drop(self, name: str, address: Address) -> None:
        if not address.open and not address.unsent_bytes and not any(each.name == name for each in self.crowd):
            self._addresses.pop(name, None)

    def make_room(self) -> None:
        """Ends some connections that have waited longest."""
        for connection in list(itertools.islice(self.waiting, ACCEPTS_AT_ONCE)):
            connection.abort()

    def sweep(self) -> None:
        """Closes the connections whose time is over."""
        now = time.monotonic()
        for connection in list(self.open):
            connection.sweep(now)


def network(host: str) -> str:
    """What counts as one address: an IPv4 address, or the 64 bits of an IPv6 address that one site gets."""
    if ":" not in host:
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))


def descriptors_for(wanted: int) -> int:
    """Raises this process's limit of open files if need be, and returns for how many connections it suffices."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + HEALTH_ROOM + OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    enough = wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - HEALTH_ROOM - OTHER_DESCRIPTORS))
    if enough < wanted:
        log.warning("the limit of open files (ulimit -n) is low", extra={"files": soft, "connections": enough})
    return enough


class Buffered(asyncio.BufferedProtocol):
    """Reads a bounded number of bytes before it is another connection's turn."""

    size = READ_BYTES
    _buffer: memoryview | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(self.size))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert self._buffer is not None
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError


class HTTPConnection(H11Protocol, Buffered):
    """HTTP/1.1, one request at a time: while it is answered, at most one buffer of the next is read."""

    def __init__(self, connection: Connection, **options: Any) -> None:
        super().__init__(**options)
        self._connection, self._app = connection, self.app
        self._header_began, self._requests = False, 0
        self._held = bytearray()  # What was read and not yet looked at,
        self._next_turn: asyncio.TimerHandle | None = None  # and when it will be.
        self._lines, self._last = 0, b""
        self._unread: int | None = None  # After a refusal, bytes that are still read and thrown away.
        self.app = self._answer
        self.app_state = {**self.app_state, "connection": connection}
        self.ws_protocol_class = functools.partial(WebSocketConnection, connection)  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection.transport = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.forget()
        if self._next_turn is not None:
            self._next_turn.cancel()
        super().connection_lost(exc)

    def buffer_updated(self, nbytes: int) -> None:
        assert self._buffer is not None
        self._held += self._buffer[:nbytes]
        if self._next_turn is None:
            self._take_turn()
        else:  # uvicorn, which knows nothing of turns, went on reading.
            self.transport.pause_reading()

    def _take_turn(self) -> None:
        """Looks at some of what was read, and leaves the rest for later."""
        self._next_turn = None
        self._connection.address.resting.pop(self._connection, None)
        begin, spent, size = time.perf_counter(), 0.0, FIRST_PIECE_BYTES
        while self._held and spent < TURN_SECONDS and not self._next_must_wait:
            piece = bytes(self._held[:size])
            del self._held[:size]
            self.data_received(piece)
            spent, size = time.perf_counter() - begin, 2 * size
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                self._held.clear()
                return
        if rest := self._connection.rest(spent):
            self._next_turn = self.loop.call_later(rest, self._take_turn)
        elif self._held and not self._next_must_wait:
            self._next_turn = self.loop.call_later(0, self._take_turn)
        if self._held or self._next_turn is not None:
            self.transport.pause_reading()
        elif not self.flow.read_paused:
            self.transport.resume_reading()

    @property
    def _next_must_wait(self) -> bool:
        """Whether a request is complete and being answered."""
        return self.conn.their_state is h11.DONE and self._unread is None

    def _too_many_lines(self, data: bytes) -> bool:
        """Counts the lines of a header, before they are parsed, which is done to all of them at once."""
        data, known = self._last + data, len(self._last)
        end = HEADER_END.search(data)
        self._lines += data.count(b"\n", known, end.end() if end else len(data))
        self._last = b"" if end else data[-2:]
        return self._lines > HEADER_LINES

    def data_received(self, data: bytes) -> None:
        if self._unread is not None:
            self._unread -= len(data)
            if self._unread < 0:
                self.transport.close()
            return
        if not self._header_began:
            self._header_began = True
            self._connection.hurry(HEADER_SECONDS)
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            data = data.lstrip(b"\r\n")  # Empty lines before a request are to be ignored, says RFC 9112.
            if not data:
                return
        if self.conn.their_state is h11.IDLE and self._too_many_lines(data):
            self._refuse_header()
            return
        try:
            super().data_received(data)
        except h11.ProtocolError:  # After its answer a request went wrong: it can get no other.
            self.transport.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._requests = number = self._requests + 1
        self._connection.work()

        async def send_if_possible(message: Message) -> None:
            try:
                await send(message)  # type: ignore[arg-type]
            except h11.LocalProtocolError:  # The rest of the request is malformed, which was its answer.
                self.transport.close()
                await asyncio.sleep(0)  # Until the connection is known to be lost.

        try:
            await self._app(scope, receive, send_if_possible)  # type: ignore[arg-type]
        finally:
            if number == self._requests:  # Otherwise the next request is being answered already.
                self._rest()

    def on_response_complete(self) -> None:
        self._rest()
        self._lines, self._last = 0, b""
        super().on_response_complete()
        if self._held and self._next_turn is None:
            self._next_turn = self.loop.call_later(0, self._take_turn)

    def _rest(self) -> None:
        self._header_began = False
        self._connection.wait(IDLE_SECONDS)
        if self._connection.crowded and not self.transport.is_closing():
            self._connection.hurry(0.0)

    def send_400_response(self, msg: str) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse_header()
        else:
            super().send_400_response(msg)

    def _refuse_header(self) -> None:
        """The header is too large."""
        if self.conn.our_state is not h11.IDLE or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closed with bytes unread, a connection is reset, and the client would not see the answer.
        self.transport.write(TOO_LARGE)
        self.transport.write_eof()
        self._unread = HEADER_BYTES
        self._connection.hurry(HEALTH_SECONDS)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        if event.method != b"GET":
            self.transport.write(NOT_A_HANDSHAKE)
            self.transport.close()
        else:
            super().handle_websocket_upgrade(event)


class WebSocketConnection(WebSocketsSansIOProtocol, Buffered):
    """A WebSocket whose client can make the server read, keep and answer only so much."""

    size = READ_MESSAGE_BYTES

    def __init__(self, connection: Connection, **options: Any) -> None:
        super().__init__(**options)
        self._connection, self._app = connection, self.app
        self.app = self._answer
        self._budget, self._budget_at = float(MESSAGE_BYTES_AT_ONCE), time.monotonic()
        self._later: asyncio.TimerHandle | None = None  # When more is read.

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.forget()
        if self._later is not None:
            self._later.cancel()
        self.writable.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        begin = time.perf_counter()
        super().data_received(data)
        rest, now = self._connection.rest(time.perf_counter() - begin), time.monotonic()
        earned = (now - self._budget_at) * MESSAGE_BYTES_PER_SECOND
        self._budget = min(MESSAGE_BYTES_AT_ONCE, self._budget + earned) - len(data)
        self._budget_at = now
        rest = max(rest, -self._budget / MESSAGE_BYTES_PER_SECOND)
        if rest > 0 and self._later is None and not self.transport.is_closing():
            self._later = self.loop.call_later(rest, self._go_on)
        # Also when the client does not read: every ping is answered.
        if self._later is not None or not self.writable.is_set():
            self.transport.pause_reading()

    def _go_on(self) -> None:
        self._later = None
        self._connection.address.resting.pop(self._connection, None)
        if not self.read_paused and self.writable.is_set():
            self.transport.resume_reading()

    # These two are uvicorn's own from some version on.
    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()
        if self._later is None and not self.read_paused:
            self.transport.resume_reading()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._connection.work()
        try:
            await self._app(scope, receive, send)  # type: ignore[arg-type]
        finally:
            self._connection.wait(LINGER_SECONDS)


class Listener:
    """Accepts connections at one socket. To uvicorn it is an `asyncio.Server`, but it bounds what it accepts."""

    def __init__(
        self,
        sock: socket.socket,
        connections: Connections,
        make: Callable[[Connection], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.sockets = (sock,)
        self._socket, self._connections, self._make, self._tls = sock, connections, make, tls
        self._loop = asyncio.get_running_loop()
        self._complained = -60.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True
        sock.setblocking(False)
        self._loop.add_reader(sock, self._accept)

    def _accept(self) -> bool:
        """Accepts some of the connections that the kernel has made; returns whether there may be more."""
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest(error)
                    return False
                continue  # A connection that was reset before it was accepted.
            connection = self._connections.add(address[0])
            if connection is None:
                sock.close()
                continue
            sock.setblocking(False)
            connection.socket = sock
            task = self._loop.create_task(self._begin(connection, sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    def _rest(self, error: OSError) -> None:
        """Out of descriptors or memory: some connections make room, and a line a minute says so."""
        self._connections.make_room()
        if time.monotonic() - self._complained > 60:
            self._complained = time.monotonic()
            log.error("no more connections for now", extra={"error": str(error)})
        self._loop.remove_reader(self._socket)
        self._loop.call_later(0.02, self._resume)

    def _resume(self) -> None:
        if self._open:
            self._loop.add_reader(self._socket, self._accept)

    async def _begin(self, connection: Connection, sock: socket.socket) -> None:
        times: dict[str, float] = {}
        if self._tls:
            times = {"ssl_handshake_timeout": HEADER_SECONDS, "ssl_shutdown_timeout": LINGER_SECONDS}
        try:
            await self._loop.connect_accepted_socket(lambda: self._make(connection), sock, ssl=self._tls, **times)  # type: ignore[arg-type]
        except OSError:  # A handshake that failed (ssl.SSLError is one), was ended or took too long.
            connection.forget()

    def close(self) -> None:
        """Stops listening, after accepting what the kernel has made already."""
        if self._open:
            self._open = False
            while self._accept():
                pass
            self._loop.remove_reader(self._socket)
            self._socket.close()

    async def wait_closed(self) -> None:
        """There is nothing to wait for: uvicorn waits for the connections."""
