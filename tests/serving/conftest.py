"""Bundles made once per session, and servers: in this process for most tests, in one of their own where it matters."""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import time

import httpx
import pytest
from made_bundles import write_bundle
from starlette.testclient import TestClient

from serving.app import create_app
from serving.bundle import read_bundle
from serving.engine import Engine, EngineOptions
from serving.repository import BatchOptions, Repository
from serving.service import Limits, Service

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory):
    """A bundle with three categories that go to the motion."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def engine(bundle_dir):
    return Engine(read_bundle(bundle_dir), EngineOptions(threads=1))


def make_service(*sources, limits=None, batch=None, **options):
    repository = Repository(
        sources, engine_options=EngineOptions(threads=1, **options), batch_options=batch or BatchOptions()
    )
    repository.load()
    return Service(repository, limits or Limits(body_seconds=2.0))


@pytest.fixture(scope="module")
def service(bundle_dir):
    return make_service(bundle_dir)


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


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
        import threading

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


@pytest.fixture(scope="module")
def server(bundle_dir):
    """A server in its own process, for independent clients."""
    with running(f"--bundle={bundle_dir}", "--drain_delay=0") as process:
        yield process


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
