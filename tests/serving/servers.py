"""Servers for tests: in this process for most, in one of their own where it matters."""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import threading
import time

from serving.engine import EngineOptions
from serving.repository import BatchOptions, Repository
from serving.service import Limits, Service

ROOT = pathlib.Path(__file__).parents[2]


def make_service(*sources, limits=None, batch=None, **options):
    repository = Repository(
        sources, engine_options=EngineOptions(threads=1, **options), batch_options=batch or BatchOptions()
    )
    repository.load()
    return Service(repository, limits or Limits(body_seconds=2.0))


class Process:
    """`python -m serving` with its log."""

    def __init__(self, *flags, env=None):
        command = [sys.executable, "-m", "serving", "--port=0", "--threads=1", "--log_format=json", *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=env)
        self.lines = []
        begin = time.monotonic()
        for line in self.process.stderr:
            self.lines.append(line)
            ready = re.search(r'"url": "(http[^"]+)/"', line)
            if ready:
                self.url = ready.group(1)
                self.seconds_to_ready = time.monotonic() - begin
                break
        else:
            raise AssertionError("".join(self.lines))
        # Left unread, a full pipe would stop the server.
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self._reader.start()

    def log(self):
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def stop(self, signal=15):
        self.process.send_signal(signal)
        code = self.process.wait(60)
        self._reader.join(10)
        return code


@contextlib.contextmanager
def running(*flags, **options):
    process = Process(*flags, **options)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
