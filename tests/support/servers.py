"""Servers for tests: in this process for most, in one of their own where it matters."""

import concurrent.futures
import contextlib
import io
import json
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np

from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8
from serving.runtime.options import EngineOptions
from serving.runtime.repository import BatchOptions, Repository
from serving.runtime.service import Limits, Service

ROOT = pathlib.Path(__file__).parents[2]


def make_service(*sources, limits=None, batch=None, **options):
    engine_options = EngineOptions(**{"threads": 1, "provider": "cpu", **options})
    repository = Repository(sources, engine_options=engine_options, batch_options=batch or BatchOptions())
    repository.load()
    return Service(repository, limits or Limits(body_seconds=2.0))


class Process:
    """`python -m serving` with its log."""

    def __init__(self, *flags, env=None):
        usual = ["--port=0", "--threads=1", "--provider=cpu", "--log_format=json"]
        command = [sys.executable, "-m", "serving", *usual, *flags]
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


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def send_raw(server, data, wait=0.0):
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=15)
    connection.sendall(data)
    time.sleep(wait)
    return connection


class Load:
    """Clients that keep asking; everything that is not 200 with the right clip is kept.

    Args:
        url: Of the server.
        engines: By the version that an answer names, what makes the right clips.
        clients: Each asks for a seed of its own.
    """

    def __init__(self, url, engines, clients=6):
        self.url, self.engines, self.stopping = url, engines, threading.Event()
        self.done, self.failures, self.right = 0, [], {}
        self.pool = concurrent.futures.ThreadPoolExecutor(clients)
        self.versions = set()
        self.jobs = [self.pool.submit(self.ask, i) for i in range(clients)]

    def ask(self, seed):
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.stopping.is_set():
                try:
                    response = client.get(f"/v1/generate?seed={seed}&format=npy&category=1")
                except httpx.ConnectError:
                    return  # The server no longer listens: it never took the request.
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    return
                version = response.headers.get("x-model-version")
                if response.status_code != 200:
                    self.failures.append(response.text)
                elif not self._is_right(response.content, seed, version):
                    self.failures.append(f"another clip than that of seed {seed} of version {version}")
                self.versions.add(version)
                self.done += 1

    def _is_right(self, content, seed, version):
        if (seed, version) not in self.right:
            engine = self.engines[version]
            latents = sample_latents(engine.bundle.latents, 1, engine.bundle.video_length, seed=seed, category=1)
            self.right[seed, version] = to_uint8(engine.generate(latents)[0]).astype(int)
        clip = np.load(io.BytesIO(content))
        right = self.right[seed, version]
        return clip.shape == right.shape and np.abs(clip - right).max() <= 1

    def stop(self):
        self.stopping.set()
        for job in self.jobs:
            job.result()
        self.pool.shutdown()
