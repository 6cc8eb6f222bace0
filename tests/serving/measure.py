"""The numbers of docs/serving.md, in one run on one machine: `python tests/serving/measure.py [--seconds=20]`.

Engine alone, a plain one-request-at-a-time server, and this server under open-loop load, with the 64-filter model of
`made_bundles.py` (random weights cost what trained ones cost). Prints one JSON line per measurement.
"""

import argparse
import asyncio
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from serving.bundle import read_bundle
from serving.engine import Engine, EngineOptions, to_pixels
from serving.latents import sample_latents
from serving.load import run_load
from tests.serving.made_bundles import BundleSpec, write_bundle
from tests.serving.servers import running


def say(what, **numbers):
    print(json.dumps({"what": what, **numbers}), flush=True)


def rss_megabytes(pid):
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * 4096 / 1e6, 1)


def clip_of(engine, seed):
    video, _ = engine.generate(sample_latents(engine.bundle.latents, 1, 16, seed=seed))
    return to_pixels(video)


def engine_alone(bundle, seconds):
    """Clips a second without any server: latents, both networks, pixels, one clip after the other."""
    engine = Engine(read_bundle(bundle), EngineOptions())
    clip_of(engine, 0)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        clip_of(engine, count)
        count += 1
    return count / (time.perf_counter() - begin)


PLAIN = """
import http.server, io, sys, urllib.parse
sys.path[:0] = ['tests/serving', '.']
import numpy as np
from measure import clip_of
from serving.bundle import read_bundle
from serving.engine import Engine, EngineOptions

engine = Engine(read_bundle(sys.argv[1]), EngineOptions())

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *rest): pass
    def do_GET(self):
        seed = int(urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)['seed'][0])
        file = io.BytesIO()
        np.save(file, clip_of(engine, seed))
        self.send_response(200)
        self.send_header('Content-Length', str(len(file.getvalue())))
        self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(file.getvalue())
        self.close_connection = True

server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def plain_server(bundle, rate, seconds):
    """The wrapper that everybody writes first: one request at a time, without bound."""
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-c", PLAIN, str(bundle)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            asyncio.run(run_load(url, 5, 2))
            return asyncio.run(run_load(url, rate, seconds))
        finally:
            process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--requests", type=int, default=20_000, help="for the memory; 0 leaves it out")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = BundleSpec("random64", dim_content=50, dim_motion=10, ngf=64, image_size=64)
        bundle = write_bundle(pathlib.Path(folder) / "b", spec)
        before = engine_alone(bundle, flags.seconds)
        begin = time.perf_counter()
        options = ["--drain_delay=0", "--log_level=info", "--threads=0", "--max_queue_frames=256"]
        with running(f"--bundle={bundle}", *options) as server:
            say("start", seconds_to_ready=round(time.perf_counter() - begin, 2))
            asyncio.run(run_load(server.url, 5, 2))
            full = asyncio.run(run_load(server.url, 2 * before, flags.seconds))
            after = engine_alone(bundle, flags.seconds)
            alone = (before + after) / 2
            say("engine alone", clips_per_second=round(alone, 2), before=round(before, 2), after=round(after, 2))
            say("saturated", share_of_engine=round(full["goodput"] / alone, 3), **full)
            capacity = full["goodput"]
            for share in (0.5, 0.8, 5.0):
                run = asyncio.run(run_load(server.url, share * capacity, flags.seconds))
                say(f"{share:g} of capacity", p99_over_p50=round(run["p99_ms"] / run["p50_ms"], 2), **run)
            webp = asyncio.run(run_load(server.url, 2 * capacity, flags.seconds, query="format=webp"))
            say("saturated, webp", share_of_engine=round(webp["goodput"] / alone, 3), **webp)
        plain = plain_server(bundle, 1.2 * capacity, flags.seconds)
        say("plain server at 1.2 of our capacity", share_of_engine=round(plain["goodput"] / alone, 3), **plain)
        if flags.requests:
            memory(pathlib.Path(folder), flags.requests)


def memory(folder, requests):
    """Resident memory of a server with a small model, over many requests, good and bad."""
    bundle = write_bundle(folder / "small", BundleSpec())
    with running(f"--bundle={bundle}", "--drain_delay=0", "--log_level=info") as server:
        pid, sizes = server.process.pid, []
        for part in range(10):
            query = ("format=npy", "format=webp", "format=gif", "num_frames=-1", "format=png&num_videos=3")[part % 5]
            asyncio.run(run_load(server.url, 150, requests / 10 / 150, query=query))
            sizes.append(rss_megabytes(pid))
        say("memory", requests=requests, rss_megabytes_after_each_tenth=sizes)


if __name__ == "__main__":
    main()
