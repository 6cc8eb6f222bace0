"""Sends what no client should to a server, over all routes and protocols, and checks that it stays well.

`python -m tests.serving.abuse.fuzz --minutes=60` runs for an hour with a new seed, which it prints. Every request
depends on the seed and its number only: `--seed=S --first=N --requests=1` sends one again. The exit code is 1 if the
server failed on a request, died, grew or kept something. Each finding is a line.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import functools
import gzip
import json
import pathlib
import random
import secrets
import socket
import sys
import tempfile
import time
import urllib.parse
import zlib
from collections.abc import Callable
from typing import Any

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from mocogan_tf.latents import sample_latents
from serving.protocols import fields as f
from serving.runtime.bundle import read_bundle
from tests.support.attacks import MB, Bystander, open_files
from tests.support.made_bundles import write_bundle
from tests.support.ports import free_port
from tests.support.servers import running

PREDICT, INFER = "/v1/models/tiny:predict", "/v2/models/tiny/infer"
PATHS = [
    *(
        "/",
        "/livez",
        "/readyz",
        "/info",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/studio/index.html",
        "/studio/../app.py",
    ),
    *("/v1/generate", "/v1/grid", "/v1/models/tiny", "/v1/models/tiny/metadata", "/v1/models/", PREDICT, "/v1/x"),
    *("/v2", "/v2/health/live", "/v2/models/tiny", "/v2/models/tiny/config", "/v2/models/stats", INFER, "/v2/x"),
    *("/v2/repository/index", "/v2/repository/models/tiny/load", "/v2/repository/models/tiny/unload"),
]
METHODS = ["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"]
CALLS = ["PredictionService/Predict", "PredictionService/GetModelMetadata", "ModelService/GetModelStatus"]
# The server's own words for a failure. 501, 503 and 504 are answers.
FAILURES = {500, 502, 505}
MAX_BYTES = 2**30


def hostile(rng: random.Random) -> Any:
    """A value that a field is not meant to have."""
    simple = [None, True, "", " ", "\0", "\ud83d\ude00", "a" * 5000, "1e999", "NaN", "../../etc/passwd", {}, [], [[]]]
    numbers = [0, -1, 1, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, 2**64, -(2**63), 0.5, 1e-300, 5e-324, 1e39, 1e300]
    makers: list[Callable[[], Any]] = [
        lambda: rng.choice(simple),
        lambda: rng.choice(numbers),
        lambda: [rng.choice(numbers) for _ in range(rng.randrange(70))],
        lambda: [[rng.random() for _ in range(rng.randrange(8))] for _ in range(rng.randrange(8))],
        lambda: {"b64": rng.choice(["", "AAAA", "!!", base64.b64encode(rng.randbytes(rng.randrange(100))).decode()])},
        lambda: nested(rng.randrange(1, 900)),
        lambda: ["a" * rng.randrange(3000), *[""] * rng.randrange(3000)],
    ]
    return rng.choice(makers)()


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def mutate(rng: random.Random, value: Any, repeats: tuple[int, ...] = (0, 1, 1, 1, 2, 20)) -> Any:
    """The value with one thing in it changed. Items are repeated at one level only: deep lists would fill memory."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, kind = rng.choice(list(value)), rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return value | {str(hostile(rng))[:50]: hostile(rng)}
        return value | {key: mutate(rng, value[key], repeats)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at, times = rng.randrange(len(value)), rng.choice(repeats)
        changed = mutate(rng, value[at], (1,) if times > 1 else repeats)
        return value[:at] + [changed] * times + value[at + 1 :]
    return hostile(rng)


def broken(rng: random.Random, data: bytes) -> bytes:
    """The bytes as they are, cut off, with some changed, or repeated."""
    if not data or rng.random() < 0.5:
        return data
    at = rng.randrange(len(data))
    return rng.choice(
        [data[:at], data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at + 1 :], data + data[at:], data[at:]]
    )


class Fuzzer:
    """Requests by number, for one server."""

    def __init__(self, process: Any, seed: int, grpc_address: str | None, bundle: pathlib.Path) -> None:
        self.process, self.seed = process, seed
        self.address = process.url.removeprefix("http://")
        self.client = httpx.Client(base_url=process.url, timeout=60)
        self.codes: collections.Counter[str] = collections.Counter()
        self.kinds = [self.query, self.query, self.body, self.body, self.body, self.raw, self.websocket]
        latents = sample_latents(read_bundle(bundle).latents, 2, 3, seed=3)
        self.latents = {name: value.tolist() for name, value in latents.items()}
        self.raw_latents = {name: (list(value.shape), value.tobytes()) for name, value in latents.items()}
        self.calls: list[Any] = []
        if grpc_address:
            import grpc

            self.channel = grpc.insecure_channel(grpc_address)
            self.calls = [self.channel.unary_unary(f"/tensorflow.serving.{name}") for name in CALLS]
            self.kinds += [self.grpc, self.grpc]

    def send(self, number: int) -> str | None:
        """Sends one request; returns what is wrong with the answer, if anything is."""
        rng = random.Random(f"{self.seed} {number}")
        kind = rng.choice(self.kinds)
        code, text = kind(rng)
        self.codes[f"{kind.__name__} {code}"] += 1
        if code in FAILURES or code in ("INTERNAL", "UNKNOWN") or "Traceback" in text:
            return f"request {number} ({kind.__name__}): {code} {text[:200]!r}"
        return None

    def http(self, method: str, url: str, **options: Any) -> tuple[int, str]:
        try:
            response = self.client.request(method, url, **options)
        except httpx.RemoteProtocolError as error:  # Closed, as a server may.
            return 0, repr(error)
        return response.status_code, response.text if response.status_code >= 400 else ""

    def query(self, rng: random.Random) -> tuple[int, str]:
        path = rng.choice(PATHS)
        table = {"/v1/generate": f.GENERATE, "/v1/grid": f.GRID}.get(path, f.GENERATE)
        names = rng.sample(list(table), rng.randrange(5))
        query = {name: str(rng.choice([rng.randrange(20), hostile(rng)]))[:2000] for name in names}
        text = urllib.parse.urlencode(query, errors="replace")
        return self.http(rng.choice(METHODS), f"{path}?{text}", headers=self.headers(rng))

    def headers(self, rng: random.Random) -> dict[str, str]:
        given = {
            "Content-Type": ["application/json", "text/plain", ""],
            "Content-Encoding": ["identity", "br", "gzip"],
            "X-Request-Id": ["a", "x" * 900, "%0a"],
            "Inference-Header-Content-Length": ["0", "-1", "7", "9" * 20],
            "Origin": ["http://example.com", "null"],
            "Range": ["bytes=0-1"],
            "Upgrade": ["h2c", "websocket"],
            "Expect": ["100-continue"],
        }
        return {name: rng.choice(given[name]) for name in rng.sample(list(given), rng.choice([0, 0, 1, 2]))}

    def document(self, rng: random.Random, path: str) -> tuple[bytes, dict[str, str]]:
        """A request's body, valid in its first form, and headers that belong to it."""
        seeds = {"seed": 7, "num_frames": 2, "format": "npy"}
        if path == "/v1/generate":
            value: Any = seeds | {
                "num_videos": 2,
                "latents": {"content": self.latents["content"]},
                "fps": 8,
                "timeout": 5,
            }
        elif path == "/v1/grid":
            value = seeds | {"rows": 2, "columns": 2, "content_seeds": [1, 2], "category": "wave"}
        elif path == PREDICT:
            rows = [{name: value[i] for name, value in self.latents.items()} for i in range(2)]
            value = rng.choice([{"inputs": self.latents}, {"instances": rows}])
        else:
            binary = rng.random() < 0.4
            inputs, tail = [], b""
            for name, (shape, raw) in self.raw_latents.items():
                entry: dict[str, Any] = {"name": name, "shape": shape, "datatype": "FP32"}
                inputs.append(
                    entry | ({"parameters": {"binary_data_size": len(raw)}} if binary else {"data": self.latents[name]})
                )
                tail += raw if binary else b""
            value = {"inputs": inputs, "outputs": [{"name": "video_uint8", "parameters": {"binary_data": True}}]}
            head = json.dumps(mutate(rng, value)).encode()
            return head + broken(rng, tail), {"Inference-Header-Content-Length": str(len(head))} if binary else {}
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            value = mutate(rng, value)
        return json.dumps(value).encode(), {}

    def body(self, rng: random.Random) -> tuple[int, str]:
        path = rng.choice(["/v1/generate", "/v1/grid", PREDICT, PREDICT, INFER, INFER])
        body, headers = self.document(rng, path)
        body = broken(rng, body)
        headers |= {"Content-Type": "application/json"}
        packed = {"gzip": gzip.compress, "deflate": zlib.compress}
        if rng.random() < 0.2:
            encoding = rng.choice(list(packed))
            if rng.random() < 0.2:
                body = rng.choice([b"[]," * 500_000, b"[" * 500_000, b"0" * 5_000_000, b'"a",' * 300_000])
            body, headers["Content-Encoding"] = broken(rng, packed[encoding](body)), encoding
        return self.http("POST", path, content=body, headers=headers | self.headers(rng))

    def raw(self, rng: random.Random) -> tuple[int, str]:
        """Bytes on a connection, most of them nearly a request."""
        method, path = rng.choice(METHODS), rng.choice([*PATHS, "/v1/stream"])
        body, _ = self.document(rng, rng.choice(["/v1/generate", PREDICT]))
        length = rng.choice(
            [f"Content-Length: {len(body)}", "Transfer-Encoding: chunked", "Content-Length: 9999999999"]
        )
        more = [f"{name}: {value}" for name, value in self.headers(rng).items()]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", length, *more, "", ""])
        host, port = self.address.split(":")
        answer = b""
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=0.5) as connection:
            connection.sendall(broken(rng, head.encode(errors="replace") + body) * rng.choice([1, 1, 1, 3]))
            while len(answer) < 2**16 and (piece := connection.recv(2**14)):
                answer += piece
        code = answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/1.") else ""
        return int(code) if code.isdecimal() else 0, answer[:2000].decode(errors="replace")

    def websocket(self, rng: random.Random) -> tuple[int, str]:
        messages = [{"seed": 1, "chunk_frames": 2, "fps": 120, "num_frames": 4}, {"content_seed": 2}, {"pause": True}]
        said = ""
        try:
            with connect(f"ws://{self.address}/v1/stream", open_timeout=20, close_timeout=1) as websocket:
                for message in messages[: rng.randrange(1, 4)]:
                    text = broken(rng, json.dumps(mutate(rng, message) if rng.random() < 0.7 else message).encode())
                    websocket.send(text if rng.random() < 0.5 else text.decode(errors="replace"))
                for _ in range(rng.randrange(4)):
                    answer = websocket.recv(timeout=0.5)
                    said += answer if isinstance(answer, str) else ""
        except (WebSocketException, TimeoutError, OSError) as error:
            said += repr(error)
        return (500 if "internal" in said.lower() or "1011" in said else 101), said

    def grpc(self, rng: random.Random) -> tuple[str, str]:
        import grpc

        from serving.protocols.grpc_messages import PROTO

        request = PROTO["PredictRequest"]()
        request.model_spec.name = "tiny"
        for name, (shape, raw) in self.raw_latents.items():
            sizes = (
                [rng.choice([size, size, size, -1, 0, 2**24, 2**40]) for size in shape] if rng.random() < 0.3 else shape
            )
            tensor = PROTO["TensorProto"](dtype=rng.choice([1, 1, 1, 2, 7]), tensor_content=broken(rng, raw))
            tensor.tensor_shape.dim.extend(PROTO["Dim"](size=size) for size in sizes)
            request.inputs[name].CopyFrom(tensor)
        data = broken(rng, request.SerializeToString())
        if rng.random() < 0.1:
            data = rng.choice([b"\x12\x00", b"\x1a\x00", rng.randbytes(2)]) * rng.randrange(1_000_000)
        try:
            rng.choice([self.calls[0], *self.calls])(data, timeout=rng.choice([20, 20, 0.001]))
            return "OK", ""
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""


def fuzz(seed: int, first: int, requests: int, minutes: float, report: Callable[[str], None]) -> int:
    """Runs until the time is over or the requests are sent; returns the number of findings."""
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        bundle = write_bundle(pathlib.Path(folder) / "tiny")
        port = free_port()
        flags = [f"--bundle={bundle}", "--drain_delay=0", "--poll_seconds=0.5"]
        try:
            import grpc  # noqa: F401

            address = f"127.0.0.1:{port}"
            flags.append(f"--grpc_port={port}")
        except ImportError:
            address = None
        process = stack.enter_context(running(*flags))
        fuzzer = Fuzzer(process, seed, address, bundle)
        open_before = open_files(process.process.pid)
        end, number, logged = time.monotonic() + minutes * 60, first, 0
        bystander = Bystander(process)
        try:
            while time.monotonic() < end and number < first + requests and process.process.poll() is None:
                wrong = fuzzer.send(number)
                if not wrong and any('"exception"' in line for line in process.lines[logged:]):
                    wrong = f"request {number}, or one shortly before: a traceback in the log"
                logged = len(process.lines)
                if wrong:
                    findings.append(wrong)
                    report(wrong)
                number += 1
        finally:
            p99 = bystander.stop()
        told = f"at most {bystander.peak / MB:.0f} MB; /livez p99 {p99 * 1e3:.0f} ms"
        report(f"{number - first} requests; {told}")
        report(" ".join(f"{kind}: {count}" for kind, count in sorted(fuzzer.codes.items())))
        fuzzer.client.close()
        if address:
            fuzzer.channel.close()
        for wrong in _after(process, bystander, open_before):
            findings.append(wrong)
            report(wrong)
    return len(findings)


def _after(process: Any, bystander: Bystander, open_before: int) -> list[str]:
    """What is wrong with the server once all is over."""
    if process.process.poll() is not None:
        return [f"the server ended with {process.process.returncode}: {''.join(process.lines[-20:])}"]
    time.sleep(3)
    wrong = [f"/livez: {failure}" for failure in bystander.failures[:3]]
    wrong += [f"log: {line}" for line in process.log() if "exception" in line][:5]
    if bystander.peak > MAX_BYTES:
        wrong.append(f"memory: {bystander.peak / MB:.0f} MB")
    if (files := open_files(process.process.pid)) > open_before + 8:
        wrong.append(f"open files: {open_before} before, {files} after")
    info = httpx.get(f"{process.url}/info").json()
    if info["models"][0]["queue"]["frames"]:
        wrong.append(f"frames are still admitted: {info['models'][0]['queue']['frames']}")
    if "serving_streams 0.0" not in httpx.get(f"{process.url}/metrics").text:
        wrong.append("a stream is still open")
    if process.stop() != 0:
        wrong.append("it did not drain")
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--requests", type=int, default=2**62, help="stop after as many")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    values = parser.parse_args(argv)
    print(f"--seed={values.seed}", flush=True)
    report = functools.partial(print, flush=True)
    return int(fuzz(values.seed, values.first, values.requests, values.minutes, report) > 0)


if __name__ == "__main__":
    sys.exit(main())
