"""What an attack does to a server: its memory while it runs, and how long a bystander waits."""

import contextlib
import http.client
import pathlib
import resource
import threading
import time

import numpy as np

from tests.support.servers import wait_for

MEGABYTE = 2**20


class Watch:
    """Samples a server's resident memory, and asks for its health every 20 ms on a connection of its own."""

    def __init__(self, process):
        self.pid, self.url = process.process.pid, process.url
        self.quiet_bytes = self.peak_bytes = self.resident()
        self.waits, self.failures = [], []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=target) for target in (self._sample, self._stand_by)]

    def resident(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def _sample(self):
        while not self._stopping.wait(0.01):
            self.peak_bytes = max(self.peak_bytes, self.resident())

    def _stand_by(self):
        client = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)
        with contextlib.closing(client):
            while not self._stopping.wait(0.02):
                begin = time.perf_counter()
                try:
                    client.request("GET", "/livez")
                    with client.getresponse() as response:
                        response.read()
                    code = response.status
                except (OSError, http.client.HTTPException) as error:
                    code = repr(error)
                if code != 200:
                    self.failures.append(code)
                self.waits.append(time.perf_counter() - begin)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.waits)
        self._begin = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self._begin
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def grown(self):
        return self.peak_bytes - self.quiet_bytes

    def p99(self):
        return float(np.percentile(self.waits, 99))

    def check(self, *, megabytes, seconds, p99=0.5):
        """The attack took little memory and time, and the bystander was answered soon.

        The bound on the wait is above the promised 100 ms: the tests share their processors, and the attacker is
        among them.
        """
        told = f"{self.grown / MEGABYTE:.0f} MB, {self.seconds:.1f} s, p99 {self.p99() * 1e3:.0f} ms"
        assert not self.failures, self.failures[:3]
        assert self.grown < megabytes * MEGABYTE, told
        assert self.seconds < seconds, told
        assert self.p99() < p99, told


@contextlib.contextmanager
def address_space(process, bytes_more):
    """Gives a running server no more than this much address space beside what it has."""
    pid = process.process.pid
    size = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.prlimit(pid, resource.RLIMIT_AS, (size + bytes_more, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)
