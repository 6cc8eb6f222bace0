"""`python -m serving.load URL --rate=R`: an open-loop load generator.

Requests leave at a fixed rate whether or not earlier ones are answered, as many independent people would send them. (A
closed loop waits for answers, so a slow server slows its own test and long waits are never counted.) Latency counts
from the time at which a request was due. Prints one JSON line: latencies of answered requests, goodput,
rejections by code and how fast they came. Needs NumPy and absl.
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import sys
import time
import urllib.parse
from typing import Any

import numpy as np
from absl import flags

from serving.command_line import CommandLine


class Connection:
    """One keep-alive HTTP/1.1 connection. It does little work per request, since it may share the server's machine."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def request(self, head: bytes) -> tuple[int, int]:
        """Sends a request; returns the status and the bytes of the body."""
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=2**20)
        self.writer.write(head)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        status, length, close = int(answer[9:12]), 0, False
        for line in answer.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            close |= name.lower() == b"connection" and value.strip().lower() == b"close"
        await self.reader.readexactly(length)
        if close:
            self.close()
        return status, length

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Load:
    """One run, with the outcome of each request."""

    def __init__(self, url: str, query: str, api_key: str | None, timeout: float) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.query, self.timeout = query, timeout
        self.key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self.idle: collections.deque[Connection] = collections.deque()
        self.answered: list[float] = []
        self.refused: dict[str, list[float]] = collections.defaultdict(list)
        self.bytes = 0

    async def one(self, number: int, due: float) -> None:
        """Sends one request; its latency counts from the time at which it was due."""
        connection = self.idle.pop() if self.idle else Connection(self.host, self.port)
        path = f"/v1/generate?seed={number}&{self.query}"
        head = f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{self.key}\r\n".encode()
        try:
            async with asyncio.timeout(self.timeout):
                status, size = await connection.request(head)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
            connection.close()
            self.refused[type(error).__name__].append(time.perf_counter() - due)
            return
        self.idle.append(connection)
        seconds = time.perf_counter() - due
        if status == 200:
            self.answered.append(seconds)
            self.bytes += size
        else:
            self.refused[str(status)].append(seconds)

    async def run(self, rate: float, seconds: float, seed: int) -> dict[str, Any]:
        """Sends `rate` requests a second, evenly spaced, and waits for all of them."""
        tasks = []
        begin = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.create_task(self.one(seed + number, due)))
        await asyncio.gather(*tasks)
        took = time.perf_counter() - begin
        for connection in self.idle:
            connection.close()
        return self.report(rate, took, len(tasks))

    def report(self, rate: float, took: float, sent: int) -> dict[str, Any]:
        """The numbers, times in milliseconds."""
        return {
            "rate": rate,
            "sent": sent,
            "seconds": round(took, 2),
            "answered": len(self.answered),
            "goodput": round(len(self.answered) / took, 2),
            **{f"p{q}_ms": _percentile(self.answered, q) for q in (50, 95, 99)},
            "megabytes": round(self.bytes / 1e6, 2),
            "refused": {
                code: {"count": len(times), "p50_ms": _percentile(times, 50), "p99_ms": _percentile(times, 99)}
                for code, times in sorted(self.refused.items())
            },
        }


def _percentile(values: list[float], q: int) -> float | None:
    return round(float(np.percentile(values, q)) * 1e3, 2) if values else None


def _is_http(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme == "http" and parts.port != 0
    except ValueError:  # An impossible port or IPv6 address.
        return False


async def run_load(
    url: str, rate: float, seconds: float, *, query: str = "format=npy", api_key: str | None = None,
    timeout: float = 60.0, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Runs one load and returns its report; see the module."""
    return await Load(url, query, api_key, timeout).run(rate, seconds, seed)


def main(argv: list[str] | None = None) -> int:
    """Prints one JSON line per rate."""
    line = CommandLine("python -m serving.load", "Sends /v1/generate requests at a fixed rate.", ("URL",))
    add = line.group("load")
    flags.DEFINE_multi_float("rate", [], "Requests a second", **add)
    flags.DEFINE_float("seconds", 10.0, "How long to send.", **add)
    flags.DEFINE_string("query", "format=npy", "Of the requests, beside the seed.", **add)
    flags.DEFINE_string("api_key", None, "Sent as a bearer token.", **add)
    flags.DEFINE_float("timeout", 60.0, "Seconds after which a request is given up.", **add)
    (url,), values = line.parse(argv), line.values
    numbers = (*values.rate, values.seconds)
    if not _is_http(url) or not values.rate or not all(0 < number < math.inf for number in numbers):
        print(
            "python -m serving.load: an http:// URL and positive, finite --rate and --seconds are needed. Received: "
            f"{url}, --rate={', '.join(map(str, values.rate))}, --seconds={values.seconds}",
            file=sys.stderr,
        )
        return 1
    for rate in values.rate:
        work = run_load(url, rate, values.seconds, query=values.query, api_key=values.api_key, timeout=values.timeout)
        print(json.dumps(asyncio.run(work)), flush=True)
    return 0


def run() -> None:
    """The command, for a console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
