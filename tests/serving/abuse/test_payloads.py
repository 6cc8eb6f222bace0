"""Requests that are small and would cost much: each is refused before it does, and others do not notice."""

import asyncio
import concurrent.futures
import contextlib
import gzip
import json
import socket
import time
import zlib

import httpx
import numpy as np
import pytest

from mocogan_tf.latents import sample_latents
from serving.runtime.service import Limits
from serving.web.guard import Keys
from tests.support.attacks import open_files, survives
from tests.support.ports import free_port
from tests.support.servers import make_service, running, wait_for

GENERATE, PREDICT, INFER = "/v1/generate", "/v1/models/tiny:predict", "/v2/models/tiny/infer"
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def attacked(bundle_dir, tmp_path_factory):
    """A server with gRPC beside HTTP; its address is `grpc`."""
    port = free_port()
    with running(f"--bundle={bundle_dir}", f"--grpc_port={port}", "--drain_delay=0") as process:
        process.grpc = f"127.0.0.1:{port}"
        yield process


@pytest.fixture(scope="module")
def latents(engine):
    return sample_latents(engine.bundle.latents, 1, 2, seed=3)


def as_lists(latents):
    return {name: value.tolist() for name, value in latents.items()}


def answers_as_before(process, latents):
    response = httpx.post(f"{process.url}{PREDICT}", json={"inputs": as_lists(latents)}, timeout=20)
    assert response.status_code == 200, response.text
    assert [line for line in process.log() if "exception" in line or "Traceback" in line.get("message", "")] == []


def post_all(process, bodies, *, encoding="gzip", clients=8):
    """Sends (path, body) pairs at the same time; returns the codes."""
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": encoding} if encoding else {})

    with httpx.Client(base_url=process.url, headers=headers, timeout=60) as client:
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            responses = list(pool.map(lambda pair: client.post(pair[0], content=pair[1]), bodies))
    assert not [response.text for response in responses if "Traceback" in response.text]
    return [response.status_code for response in responses]


def field(number, content):
    """A length-delimited field of a protocol buffer."""

    def varint(value):
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    return varint(number << 3 | 2) + varint(len(content)) + content


def predict_of(inputs):
    """A PredictRequest for `tiny` with these TensorProtos, serialised."""
    entries = [field(2, field(1, name.encode()) + field(2, tensor)) for name, tensor in inputs.items()]
    return field(1, field(1, b"tiny")) + b"".join(entries)


def tensor(sizes, values):
    from serving.protocols.grpc_messages import PROTO

    dims = [PROTO["Dim"](size=size) for size in sizes]
    shape = PROTO["TensorShapeProto"](dim=dims)
    return PROTO["TensorProto"](dtype=1, tensor_shape=shape, float_val=values).SerializeToString()


@contextlib.contextmanager
def predicting(process, method="PredictionService/Predict"):
    grpc = pytest.importorskip("grpc")
    with grpc.insecure_channel(process.grpc) as channel:
        call = channel.unary_unary(f"/tensorflow.serving.{method}")

        def send(message, **options):
            try:
                return "OK", call(message, timeout=30, **options)
            except grpc.RpcError as error:
                return error.code().name, error.details()

        yield send


def test_a_tensor_of_one_value_is_as_large_as_the_model_allows(attacked, latents):
    """148 bytes asked for 256 MB, and kept them."""
    one = tensor([2**24], [1.0])
    message = predict_of({name: one for name in latents})
    assert len(message) < 200
    with survives(attacked, megabytes=64, seconds=10), predicting(attacked) as send:
        for _ in range(20):
            code, details = send(message)
            assert code == "INVALID_ARGUMENT" and "must have shape" in details
        fits = {name: tensor(value.shape, [0.5]) for name, value in latents.items()}
        assert send(predict_of(fits))[0] == "OK"
    answers_as_before(attacked, latents)


def test_a_message_of_many_small_ones_is_counted_before_it_is_parsed(attacked, latents):
    """Two bytes of an empty message take forty when they are parsed."""
    dims = predict_of({"content": field(2, b"\x12\x00" * 2_000_000)})
    names = b"\x1a\x00" * 2_000_000
    with survives(attacked, megabytes=64, seconds=20), predicting(attacked) as send:
        for message in (dims, names) * 3:
            code, details = send(message)
            assert code == "INVALID_ARGUMENT" and "at most" in details
    answers_as_before(attacked, latents)


def test_only_numbers_become_arrays(attacked, latents):
    """A list of strings became an array as wide as the longest: 1.5 kB took 1.9 GB."""
    wide = ["a" * 20_000, *[""] * 20_000]
    column = json.dumps({"inputs": as_lists(latents) | {"content": wide}})
    tensors = [{"name": n, "shape": list(v.shape), "datatype": "FP32", "data": wide} for n, v in latents.items()]
    bodies = [
        (PREDICT, column),
        (INFER, json.dumps({"inputs": tensors})),
        (GENERATE, json.dumps({"latents": {"content": wide}})),
    ]
    packed = [(path, gzip.compress(body.encode())) for path, body in bodies]
    assert len(packed[0][1]) < 1500
    # What was asked for does not fit: without the bound it would be a MemoryError.
    with survives(attacked, megabytes=64, seconds=10):
        assert post_all(attacked, packed * 2, clients=2) == [400, 400, 422] * 2
    answers_as_before(attacked, latents)


def test_values_are_counted_before_they_are_parsed(attacked, latents):
    """Five bodies of 4.3 kB froze everything for 4.5 s, forty took 3.7 GB."""
    lists = b'{"seed": [' + b"[]," * 1_390_000 + b"[]]}"
    numbers = b'{"seed": [' + b"1," * 2_000_000 + b"1]}"
    bombs = [gzip.compress(lists), gzip.compress(numbers)]
    bodies = [(path, bomb) for bomb in bombs for path in (GENERATE, PREDICT, INFER)]
    with survives(attacked, megabytes=160, seconds=20):
        codes = post_all(attacked, bodies * 4)
        assert set(codes) <= {413, 429, 503}, codes
    answers_as_before(attacked, latents)


def test_as_many_values_as_are_allowed_hold_nobody_up(attacked, latents):
    body = b'{"seed": [' + b",".join([b"[]"] * 8000) + b"]}"
    with survives(attacked, megabytes=96, seconds=20):
        codes = post_all(attacked, [(GENERATE, gzip.compress(body))] * 40)
        assert set(codes) <= {422, 429}, codes
    answers_as_before(attacked, latents)


def test_bodies_that_wait_hold_a_bounded_number_of_bytes(attacked, latents):
    """Connections that send almost the whole of a large body and stop; a small request is answered meanwhile."""
    body = b"x" * (4 * 2**20)
    lines = [f"POST {GENERATE} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    head = "\r\n".join([*lines, "", ""])
    host, port = attacked.url.removeprefix("http://").split(":")
    with survives(attacked, megabytes=96, seconds=20), contextlib.ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=15))
            with contextlib.suppress(OSError):  # Refused, it is closed.
                connection.sendall(head.encode() + body[:-1])
        answers_as_before(attacked, latents)


async def connect_deaf(stack, address, bytes_heard):
    """Address of a proxy: what comes from the server goes no further after so many bytes, and then is not read."""
    host, port = address.split(":")

    async def copy(reader, writer, left=2**62):
        while left > 0 and (data := await reader.read(2**14)):
            writer.write(data)
            left -= len(data)
        await asyncio.sleep(3600 if left <= 0 else 0)

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection(host, int(port))
            with contextlib.closing(to_server), contextlib.closing(writer):
                await asyncio.gather(copy(reader, to_server), copy(from_server, writer, bytes_heard))

    proxy = await stack.enter_async_context(await asyncio.start_server(serve, "127.0.0.1", 0))
    return f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


def test_a_grpc_message_that_unpacks_to_too_much_leaves_no_traceback(attacked):
    grpc = pytest.importorskip("grpc")
    with grpc.insecure_channel(attacked.grpc, [("grpc.max_send_message_length", -1)]) as channel:
        call = channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
        with survives(attacked, megabytes=60):  # Which also looks for tracebacks.
            for _ in range(3):
                with pytest.raises(grpc.RpcError):
                    call(
                        iter([bytes(48 * 2**20)]),
                        compression=grpc.Compression.Gzip,
                        metadata=[("x-api-key", KEY)],
                        timeout=30,
                    )


def test_grpc_connections_take_few_of_the_descriptors(attacked):
    host, port = attacked.grpc.split(":")
    before = open_files(attacked.process.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=15))
        time.sleep(1)
        assert 50 < open_files(attacked.process.pid) - before < 110
        assert httpx.get(f"{attacked.url}/livez").status_code == 200
    wait_for(lambda: open_files(attacked.process.pid) <= before + 2)


def test_grpc_connections_that_say_nothing_or_half_a_preface_are_closed(bundle_dir, monkeypatch):
    """They take every place until the time for a handshake is over; then others have them."""
    grpc = pytest.importorskip("grpc")
    from serving.protocols import grpc as served

    monkeypatch.setattr(served, "HANDSHAKE_SECONDS", 1.0)
    method = "/tensorflow.serving.ModelService/GetModelStatus"

    async def talk(service):
        async with contextlib.AsyncExitStack() as stack:
            address = await stack.enter_async_context(served.grpc_server(service, Keys(), "127.0.0.1", 0, 1))
            host, port = address.split(":")
            begin, stalled = time.monotonic(), []
            for i in range(served.MAX_CONNECTIONS):
                reader, writer = await asyncio.open_connection(host, int(port))
                stack.callback(writer.close)
                writer.write((b"", b"PRI * HTTP/2.0\r\n")[i % 2])
                stalled.append(reader)
            for reader in stalled:  # The server's settings come first; then it closes.
                with contextlib.suppress(ConnectionError):
                    await asyncio.wait_for(reader.read(), 20)
            assert time.monotonic() - begin < 15
            good = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            assert await good.unary_unary(method)(field(1, field(1, b"tiny")), timeout=20)

    service = make_service(bundle_dir)
    asyncio.run(talk(service))
    service.close()


@pytest.mark.slow
def test_grpc_answers_that_nobody_reads_are_bounded_and_dropped(bundle_dir, latents, monkeypatch):
    """Neither the queue nor a deadline holds what was rendered. Some of it is in the kernel's buffers, which gRPC drops
    after twenty seconds."""
    grpc = pytest.importorskip("grpc")
    from serving.protocols import grpc as served

    monkeypatch.setattr(served, "CONNECTION_SECONDS", 2.0)
    frames = {name: np.repeat(value, 256, axis=1) if value.ndim == 3 else value for name, value in latents.items()}
    message = predict_of({name: tensor(value.shape, [0.5]) for name, value in frames.items()})
    method = "/tensorflow.serving.PredictionService/Predict"

    async def talk(service):
        async with contextlib.AsyncExitStack() as stack:
            address = await stack.enter_async_context(served.grpc_server(service, Keys(), "127.0.0.1", 0, 1))
            good = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            deaf = await connect_deaf(stack, address, 2**15)
            bad = await stack.enter_async_context(grpc.aio.insecure_channel(deaf, [("grpc.enable_retries", 0)]))
            calls, begin = [], time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError, match="not taken yet"):
                while time.monotonic() < begin + 10:
                    calls.append(bad.unary_unary(method)(message))
                    await asyncio.sleep(0.3)
                    await good.unary_unary(method)(message)
            assert 2 <= len(calls) < 16 and service.unsent_bytes == 0
            while time.monotonic() < begin + 50:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert len(await good.unary_unary(method)(message)) > 2**20
                    return
                await asyncio.sleep(0.5)
            pytest.fail("the answers were not dropped")

    service = make_service(bundle_dir, limits=Limits(max_unsent_bytes=3 * 2**20, timeout_seconds=2.0))
    asyncio.run(asyncio.wait_for(talk(service), 60))
    service.close()


def test_malformed_messages_cost_a_line_each_after_the_key(bundle_dir, tmp_path):
    (tmp_path / "keys").write_text(KEY)
    port = free_port()
    flags = [f"--bundle={bundle_dir}", f"--grpc_port={port}", "--drain_delay=0", f"--api_key_file={tmp_path / 'keys'}"]
    with running(*flags) as process:
        process.grpc = f"127.0.0.1:{port}"
        with survives(process, megabytes=64, seconds=10), predicting(process) as send:
            for message in (b"\xff" * 1000, b"\x12\xff\xff\xff\xff\x0f", b"x" * 2**20):
                assert send(message)[0] == "UNAUTHENTICATED"
                assert send(message, metadata=(("x-api-key", KEY),))[0] == "INVALID_ARGUMENT"
            wrong = field(1, field(1, b"tiny") + field(3, b"other"))
            assert send(wrong, metadata=(("x-api-key", KEY),))[0] == "FAILED_PRECONDITION"
        counted = httpx.get(f"{process.url}/metrics", headers={"X-API-Key": KEY}).text
        for code, number in (("UNAUTHENTICATED", 3), ("INVALID_ARGUMENT", 3), ("FAILED_PRECONDITION", 1)):
            line = f'serving_requests_total{{code="{code}",method="gRPC",route="PredictionService/Predict"}} {number}.0'
            assert line in counted
        assert 'code="OK",method="gRPC"' not in counted
        lines = [line for line in process.log() if line.get("method") == "gRPC"]
        assert [line["status"] for line in lines].count("INVALID_ARGUMENT") == 3 and len(lines) == 7
        assert process.stop() == 0
        assert all(line.startswith("{") for line in process.lines) and "Traceback" not in "".join(process.lines)


@pytest.mark.parametrize("size", [0, 2**18 - 1, 2**18, 2**18 + 1, 2**20])
@pytest.mark.parametrize("packed", [gzip.compress, zlib.compress])
def test_bodies_are_unpacked_to_their_end_and_no_further(attacked, size, packed):
    """As many bytes as one piece has, and one more or less."""
    body = b'{"num_frames": 2, "format": "npy"}'.ljust(max(34, size))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip" if packed is gzip.compress else "deflate"}
    for content, status in ((packed(body), 200), (packed(body)[:-1], 400), (packed(body.ljust(2**22 + 1)), 413)):
        assert httpx.post(f"{attacked.url}{GENERATE}", content=content, headers=headers).status_code == status
