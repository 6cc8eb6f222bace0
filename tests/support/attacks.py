"""What tests of hostile clients share: raw connections, a bystander, and the server's memory and open files."""

import base64
import contextlib
import os
import pathlib
import resource
import socket
import struct
import threading
import time

import numpy as np

from tests.support.servers import send_raw, wait_for

MB = 2**20


def get(path, *headers, host="127.0.0.1"):
    """A request without a body."""
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def post(path, body, *headers):
    """A JSON request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def connect_from(server, address):
    """A connection from one of this machine's many loopback addresses."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=15, source_address=(address, 0))


def send_until_stuck(connection, data, seconds=3.0):
    """Sends, without reading, what the server takes within the time; returns the number of bytes."""
    connection.settimeout(0.3)
    sent, end = 0, time.monotonic() + seconds
    while sent < len(data) and time.monotonic() < end:
        try:
            sent += connection.send(data[sent : sent + MB])
        except TimeoutError:
            pass
        except OSError:
            break
    return sent


def read_all(connection, seconds=10.0):
    """All bytes until the server closes the connection."""
    connection.settimeout(seconds)
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            data += part
    return data


def frame(payload, opcode=1):
    """A client's WebSocket frame of less than 64 kB, masked with zeros."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + struct.pack("!H", len(payload))
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


def open_socket(server, path="/v1/stream", *headers, host="127.0.0.1"):
    """A WebSocket by hand: the connection, and the head of the server's answer."""
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = get(
        path, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
        *headers, host=host,
    )  # fmt: skip
    connection = send_raw(server, handshake)
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(1)
        assert part, head
        head += part
    return connection, head


def resident(pid):
    """Bytes of memory of a process."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def open_files(pid):
    """Number of its descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


CLIP = "/v1/generate?seed=1&num_frames=8&format=npy"


class Bystander:
    """Somebody who asks for the same thing again and again, each time over a new connection, and watches the memory.

    Args:
        server: The `Process`.
        path: What is asked for.
        pause: Seconds between an answer and the next request.
        accepted: Status codes that are no failure.
    """

    def __init__(self, server, path="/livez", pause=0.02, accepted=(200,)):
        self.server, self.path, self.pause = server, path, pause
        self.accepted = [f"HTTP/1.1 {code}".encode() for code in accepted]
        # Of requests that were answered with 200; others are `refused` or, with another code, failures.
        self.seconds, self.refused, self.failures = [], [], []
        self.peak = resident(server.process.pid)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._ask, self._sample)]
        for thread in self._threads:
            thread.start()

    def _ask(self):
        while not self._stop.wait(self.pause):
            begin, answer = time.perf_counter(), b""
            try:
                with send_raw(self.server, get(self.path, "Connection: close")) as connection:
                    answer = read_all(connection)
            except OSError as error:
                self.failures.append(repr(error))
            seconds = time.perf_counter() - begin
            if answer and not answer.startswith(tuple(self.accepted)):
                self.failures.append(answer[:200])
            refused = answer and not answer.startswith(b"HTTP/1.1 200")
            (self.refused if refused else self.seconds).append(seconds)

    def _sample(self):
        with contextlib.suppress(OSError):  # The server is gone.
            while not self._stop.wait(0.01):
                self.peak = max(self.peak, resident(self.server.process.pid))

    def stop(self):
        """Returns the p99 of its waits, in seconds."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        return float(np.quantile(self.seconds or [0.0], 0.99))


@contextlib.contextmanager
def survives(server, *, megabytes, seconds=60, slack=0.3):
    """Runs an attack as its block: the server lives, in bounded memory and time, others are served, nothing leaks.

    The server gets 1 GiB of address space beside what it has, so that what would take more fails. The block is given
    the bystander who asks for health; after it, this one also has `quiet_p99` and `p99`, seconds, and `grown`, the
    server's MB.

    Args:
        server: The `Process`.
        megabytes: By how much its memory may grow.
        seconds: How long the attack may keep the test.
        slack: By how much more than five times as in quiet the bystanders may wait at p99, in seconds: other tests and
            the attack itself run on the same cores.
    """
    pid = server.process.pid
    before, files = resident(pid), open_files(pid)

    def watch():
        """One who asks for health and one who asks for clips, and who may be refused."""
        return Bystander(server), Bystander(server, CLIP, pause=0.05, accepted=(200, 401, 429))

    quiet, quiet_client = watch()
    time.sleep(1)
    quiet_p99, quiet_clips = quiet.stop(), quiet_client.stop()
    limit_memory(pid, virtual(pid) + 1024 * MB)
    begin, (other, client) = time.monotonic(), watch()
    try:
        yield other
        time.sleep(0.5)
    finally:
        p99, clips = other.stop(), client.stop()
        limit_memory(pid, resource.RLIM_INFINITY)
    grown, latest = (other.peak - before) / MB, max(client.refused, default=0.0)
    other.quiet_p99, other.p99, other.grown = quiet_p99, p99, grown
    print(f"health: p99 {quiet_p99 * 1e3:.0f} -> {p99 * 1e3:.0f} ms of {len(other.seconds)}; +{grown:.0f} MB")
    print(f"clips: p99 {quiet_clips * 1e3:.0f} -> {clips * 1e3:.0f} ms of {len(client.seconds)}; {len(client.refused)} "
          f"refused after at most {latest * 1e3:.0f} ms")  # fmt: skip
    assert server.process.poll() is None, "the server died"
    assert time.monotonic() - begin < seconds
    assert grown < megabytes, f"{grown:.0f} MB"
    assert not other.failures and not client.failures, (other.failures + client.failures)[:3]
    assert len(other.seconds) > 5 and p99 < 5 * quiet_p99 + slack, (quiet_p99, p99)
    assert clips < 5 * quiet_clips + 2 * slack, (quiet_clips, clips)
    wait_for(lambda: open_files(pid) <= files + 2, 40)
    assert not [line for line in server.log() if "exception" in line]


def limit_memory(pid, size):
    """Sets the soft limit of a process's address space, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (size, hard))


def virtual(pid):
    """Bytes of address space of a process."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def streams_open(http):
    """The server's own count of streams."""
    text = http.get("/metrics").text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith("serving_streams"))
