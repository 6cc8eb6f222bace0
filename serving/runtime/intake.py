"""What requests may hold before they are admitted: bytes that wait to be parsed, and the one thread that parses."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from serving.runtime.errors import OUT_OF_MEMORY, Overloaded, Unavailable
from serving.runtime.threads import make_pool

T = TypeVar("T")

# The first bytes of each request are free, so that large bodies cannot keep small ones out. Connections bound them.
FREE_BYTES = 2**16
# Large bodies that may be here at one time, in units of the largest that is allowed.
LARGE_BODIES = 4
# Requests that wait for the parser, and for the reader of pictures. A picture may take half a second, so they have a
# thread of their own, and keep nobody waiting who sends none.
MAX_WAITING, MAX_PICTURES_WAITING = 64, 8


class Held:
    """One request's bytes, counted in the intake's."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._bytes = 0

    def add(self, size: int) -> None:
        """Counts more bytes of this request. May be called from any thread.

        Raises:
            Overloaded: All requests together would hold too many.
        """
        before, self._bytes = max(0, self._bytes - FREE_BYTES), self._bytes + size
        self._intake.take(max(0, self._bytes - FREE_BYTES) - before)

    def release(self) -> None:
        self._intake.give(max(0, self._bytes - FREE_BYTES))


class Reader:
    """A thread that parses one thing after the other.

    Parsing holds Python's lock, so that more threads would not make it faster, only everything else slower.

    Args:
        name: Of the thread.
        most: How many may wait.
    """

    def __init__(self, name: str, most: int) -> None:
        self.most = most
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread = make_pool(1, name)

    def submit(self, function: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Runs a parser on the thread.

        Raises:
            Overloaded: Too many requests wait for it.
        """

        def parse() -> T:
            try:
                return function()
            except MemoryError:
                raise Unavailable(OUT_OF_MEMORY, retry_after=1.0) from None

        with self._lock:
            if self._waiting >= self.most:
                raise Overloaded(f"{self.most} requests wait to be read. Try again later.", retry_after=1.0)
            self._waiting += 1
        job = self._thread.submit(parse)
        job.add_done_callback(self._done)
        return job

    def _done(self, _: concurrent.futures.Future[T]) -> None:
        with self._lock:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown()


class Intake:
    """Counts the bytes that requests hold until they are parsed, and parses them one after the other.

    Attributes:
        bodies: The thread that parses bodies.
        pictures: The thread that reads pictures out of them.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.max_bytes = LARGE_BODIES * max_body_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self.bodies = Reader("parse", MAX_WAITING)
        self.pictures = Reader("picture", MAX_PICTURES_WAITING)

    @contextlib.contextmanager
    def hold(self) -> Iterator[Held]:
        """Counts the bytes of one request while the block runs."""
        held = Held(self)
        try:
            yield held
        finally:
            held.release()

    def take(self, size: int) -> None:
        """Raises Overloaded if there is no room; the bytes then count until they are given back all the same."""
        with self._lock:
            self._bytes += size
            full = size > 0 and self._bytes > self.max_bytes
        if full:
            raise Overloaded(f"Requests of {self.max_bytes} bytes are waiting. Try again later.", retry_after=1.0)

    def give(self, size: int) -> None:
        with self._lock:
            self._bytes -= size

    def close(self) -> None:
        """Ends the threads."""
        self.bodies.close()
        self.pictures.close()
