"""The server under load, beside the engine alone and a plain wrapper: python -m benchmarks.serving [BUNDLE] [--json]

Needs the extra `serving` and neither TensorFlow nor PyTorch. Three sides take turns over the rounds: the engine in this
process, one clip after the other; this project's server; and the simplest server, which takes one request at a time and
queues without bound, both under an open loop of requests (`serving.load`) at more than the engine could answer. Then
the server at shares of its own capacity, and with `--requests` its memory over so many requests, good and bad.

`median_s` is seconds per answered clip. `ratio` is the plain server's over ours, `share_of_engine` the part of the
engine's own rate that reaches clients; `loads` are the load generator's reports, latencies in milliseconds.
"""

import argparse
import asyncio
import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
import urllib.parse

import numpy as np

from benchmarks import timing
from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8
from serving.load import run_load
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine
from serving.runtime.options import EngineOptions

ROOT = pathlib.Path(__file__).parents[1]
OURS, PLAIN, ENGINE = "ours", "plain server", "engine alone"
SHARES = (0.5, 0.8, 5.0)  # Of our capacity.


def clip_of(engine, seed):
    """Returns the clip of a seed, uint8 `[1, T, H, W, C]`."""
    bundle = engine.bundle
    video, _ = engine.generate(sample_latents(bundle.latents, 1, bundle.video_length, seed=seed))
    return to_uint8(video)


def engine_rate(engine, seconds):
    """Clips a second without any server: latents, both networks, pixels, one clip after the other."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        clip_of(engine, count)
        count += 1
    return count / (time.perf_counter() - begin)


def plain_server(bundle, provider="auto"):
    """Prints its address, then serves clips as .npy, one request at a time."""
    import http.server

    engine = Engine(read_bundle(bundle), EngineOptions(provider, spinning=False))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            seed = int(urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["seed"][0])
            file = io.BytesIO()
            np.save(file, clip_of(engine, seed))
            self.send_response(200)
            self.send_header("Content-Length", str(len(file.getvalue())))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(file.getvalue())
            self.close_connection = True

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # Clients that gave up are counted by the load generator.
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


@contextlib.contextmanager
def running(command, stream, pattern):
    """Starts a server; yields its process and the address that it prints on a stream, found by a pattern."""
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, text=True, **{stream: subprocess.PIPE}) as process:
        lines = getattr(process, stream)
        # Left unread, a full pipe would stop the server.
        reader = threading.Thread(target=lambda: [None for _ in lines], daemon=True)
        try:
            found = next((match for line in lines if (match := re.search(pattern, line))), None)
            if found is None:
                raise SystemExit(f"The server did not start: {' '.join(command)}")
            reader.start()
            yield process, found.group(1)
        finally:
            process.kill()
            if reader.is_alive():
                reader.join()  # Before the pipe is closed under it.


def our_server(bundle, provider="auto"):
    """Starts this project's server."""
    flags = [
        f"--bundle={bundle}",
        f"--provider={provider}",
        "--port=0",
        "--drain_delay=0",
        "--log_format=json",
        "--max_queue_frames=256",
    ]
    return running(["-m", "serving", *flags], "stderr", r'"url": "(http[^"]+)/"')


def load(url, rate, seconds, query="format=npy"):
    """Sends requests at a rate and returns the load generator's report."""
    return asyncio.run(run_load(url, rate, seconds, query=query))


def memory(bundle, requests):
    """Returns the server's resident megabytes after each tenth of so many requests, good and bad."""
    sizes = []
    with our_server(bundle) as (process, url):
        for part in range(10):
            query = ("format=npy", "format=webp", "format=gif", "num_frames=-1", "format=png&num_videos=3")[part % 5]
            load(url, 150, requests / 10 / 150, query)
            pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            sizes.append(round(pages * 4096 / 1e6, 1))
    return sizes


def run(bundle, seconds, rounds, requests=0):
    """Measures all of it and returns the report."""
    engine = Engine(read_bundle(bundle), EngineOptions(spinning=False))  # As the server runs it.
    rate = 2 * engine_rate(engine, seconds)
    plain = ["-c", f"from benchmarks.serving import plain_server; plain_server({str(bundle)!r}, {engine.provider!r})"]
    started = time.perf_counter()
    with our_server(bundle, engine.provider) as (_, ours):
        ready = time.perf_counter() - started
        load(ours, 5, 1)
        per_clip = {OURS: [], PLAIN: [], ENGINE: []}
        loads = {}
        for _ in range(rounds):
            per_clip[ENGINE].append(1 / engine_rate(engine, seconds))
            # A new one each time: the old one would still work on its queue during the others' turns.
            with running(plain, "stdout", r"(http://\S+)") as (_, theirs):
                load(theirs, 5, 1)
                loads[PLAIN] = load(theirs, rate, seconds)
            loads[OURS] = load(ours, rate, seconds)
            for name in (OURS, PLAIN):
                per_clip[name].append(1 / loads[name]["goodput"])
        results = {name: timing.summary(times) for name, times in per_clip.items()}
        capacity = 1 / results[OURS]["median_s"]
        for share in SHARES:
            loads[f"{share:g} of capacity"] = load(ours, share * capacity, seconds)
        loads["saturated, webp"] = load(ours, 2 * capacity, seconds, "format=webp")
    report = {
        "results": results,
        "seconds_to_ready": ready,
        **timing.ratios({name: results[name] for name in (OURS, PLAIN)}, OURS),
        "share_of_engine": results[ENGINE]["median_s"] / results[OURS]["median_s"],
        "loads": loads,
    }
    return {**report, "rss_megabytes": memory(bundle, requests)} if requests else report


def main():
    """Prints a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=pathlib.Path, default=ROOT / "pretrained" / "taichi")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of engine and servers in turns")
    parser.add_argument("--requests", type=int, default=0, help="for the memory; 0 leaves it out")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    report = run(flags.bundle.resolve(), flags.seconds, flags.rounds, flags.requests)
    if flags.json:
        print(json.dumps(report))
        return
    print(f"from start to ready {report['seconds_to_ready']:.1f} s")
    for name, result in report["results"].items():
        print(f"{name:16} {1 / result['median_s']:7.1f} clips/s")
    for name, result in report["loads"].items():
        refused = {code: answers["count"] for code, answers in result["refused"].items()}
        print(f"{name:16} at {result['rate']:6.1f}/s: p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms, {refused}")
    print(
        f"ours reaches {report['share_of_engine']:.2f} of the engine alone, {report['ratio']:.2f} of the plain server"
    )
    if flags.requests:
        print(f"resident megabytes after each tenth of {flags.requests} requests: {report['rss_megabytes']}")


if __name__ == "__main__":
    main()
