"""What readers and streams may cost: unread answers, bursts of messages, slots, encoding, and what the log shows."""

import contextlib
import json
import logging
import os
import struct
import time

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.runtime.errors import Overloaded
from serving.runtime.repository import BatchOptions
from serving.runtime.service import Forecast, Limits
from serving.web.guard import Keys, is_name_of
from serving.web.logs import TextFormatter
from tests.serving.web.test_connections import in_this_process
from tests.support.attacks import MB, connect_from, frame, open_socket, post, streams_open, survives
from tests.support.servers import make_service, running, wait_for

KEY = "a-key-of-good-length"


def read_messages(connection, seconds):
    """Texts and number of binary messages that a server sends within the time."""
    connection.settimeout(0.5)
    data, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            part = connection.recv(MB)
            if not part:
                break
            data += part
    texts, binaries = [], 0
    while len(data) > 4:
        size, at = data[1] & 127, 2
        if size == 126:
            (size,), at = struct.unpack("!H", data[2:4]), 4
        elif size == 127:
            (size,), at = struct.unpack("!Q", data[2:10]), 10
        if data[0] & 15 == 1:
            texts.append(data[at : at + size])
        binaries += data[0] & 15 == 2
        data = data[at + size :]
    return texts, binaries


def inputs_of(model, num_frames):
    """All inputs of a model by name, zeros, for one clip."""
    dims = {"content": model["dim_content"], "category": len(model["categories"]), "motion_init": model["dim_motion"]}
    inputs = {name: [[0.0] * size] for name, size in dims.items()}
    return inputs | {"motion_noise": [[[0.0] * model["dim_motion"]] * num_frames]}


def test_readers_that_never_read_hold_little_and_not_for_long(bundle_dir):
    """Each asks for 16 MB or so; more than a few are refused, and all are gone after the time for an answer."""
    limits = Limits(write_seconds=2.0, min_bytes_per_second=16 * MB, max_unsent_bytes=32 * MB, body_seconds=2.0)
    service = make_service(bundle_dir, limits=limits, batch=BatchOptions(max_wait_seconds=60))
    with in_this_process(service) as port, contextlib.ExitStack() as stack:
        url = f"http://127.0.0.1:{port}"
        server = type("Server", (), {"url": url})
        model = httpx.get(f"{url}/info").json()["models"][0]
        body = post(f"/v1/models/{model['name']}:predict", json.dumps({"inputs": inputs_of(model, 1024)}).encode())
        highest, begin = 0, time.monotonic()
        while time.monotonic() < begin + 20 and (service.unsent_bytes or time.monotonic() < begin + 6):
            if time.monotonic() < begin + 4:
                for i in range(8):
                    stack.enter_context(connect_from(server, f"127.0.0.{2 + i}")).sendall(body)
            highest = max(highest, service.unsent_bytes)
            time.sleep(0.1)
        assert 8 * MB < highest < 32 * MB + 24 * MB  # One was accepted before the bound was reached.
        assert service.unsent_bytes == 0
        assert service.metrics.rejected.labels("slow_client")._value.get() > 1
        assert httpx.get(f"{url}/v1/generate?seed=1&format=npy").status_code == 200


def test_an_output_is_named_once(bundle_dir):
    with TestClient(create_app(make_service(bundle_dir))) as client:
        model = client.get("/info").json()["models"][0]
        inputs = []
        for name, rows in inputs_of(model, 2).items():
            array = np.asarray(rows)
            entry = {"name": name, "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
            inputs.append(entry)
        request = {"inputs": inputs, "outputs": [{"name": "video"}, {"name": "video_uint8"}]}
        path = f"/v2/models/{model['name']}/infer"
        assert client.post(path, json=request).status_code == 200
        answer = client.post(path, json=request | {"outputs": [{"name": "video"}] * 3})
        assert answer.status_code == 400 and "each output once" in answer.json()["error"]


def test_a_burst_of_changes_is_one_change(server):
    with survives(server, megabytes=60):
        connection, _ = open_socket(server)
        connection.sendall(frame(b'{"seed": 1, "chunk_frames": 4, "fps": 20}'))
        burst = b"".join(frame(b'{"content_seed": %d}' % i) for i in range(10_000))
        connection.settimeout(20)
        with contextlib.suppress(TimeoutError):
            for at in range(0, len(burst), 20_000):
                connection.send(burst[at : at + 20_000])
        texts, chunks = read_messages(connection, 2)
        connection.close()
    assert json.loads(texts[0])["type"] == "start" and chunks > 3


def test_of_the_changes_between_two_chunks_the_newest_of_each_kind_counts(client):
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text('{"seed": 1, "chunk_frames": 2, "fps": 4}')
        assert socket.receive_json()["type"] == "start"
        for message in ({"fps": 8}, {"fps": 0}, {"motion_scale": 0.5}, {"fps": 100}):
            socket.send_text(json.dumps(message))
        begin, chunks, errors = time.perf_counter(), 0, []
        while chunks < 20:
            message = socket.receive()
            chunks += message.get("bytes") is not None
            if message.get("text"):
                errors.append(json.loads(message["text"]))
        assert time.perf_counter() - begin < 5  # At 4 or 8 frames a second it would take longer.
        assert len(errors) == 1 and "fps" in errors[0]["error"]


@pytest.mark.parametrize("reads", [False, True], ids=["never reading", "reading"])
def test_a_flood_of_pings_is_answered_slowly(server, reads):
    with survives(server, megabytes=60):
        connection, _ = open_socket(server)
        connection.sendall(frame(b'{"seed": 1, "chunk_frames": 4, "fps": 20}'))
        pings, sent, end = frame(b"x" * 100, opcode=9) * 1000, 0, time.monotonic() + 4
        connection.settimeout(0.05)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                sent += connection.send(pings)
            if reads:
                with contextlib.suppress(TimeoutError):
                    connection.recv(MB)
        connection.close()
    print(f"{sent / MB:.1f} MB of pings")
    assert sent < 12 * MB  # Mostly what the kernel's buffers hold.


def test_without_a_key_nobody_takes_a_streams_place(bundle_dir, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(KEY + "\n")
    with running(f"--bundle={bundle_dir}", "--drain_delay=0", "--max_streams=2", f"--api_key_file={keys}") as process:
        with survives(process, megabytes=60), contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(open_socket(process)[0])
            connection, _ = open_socket(process)
            stack.enter_context(connection).sendall(frame(b'{"api_key": "%s"}' % KEY.encode()))
            texts, chunks = read_messages(connection, 1)
            assert json.loads(texts[0])["type"] == "start" and chunks


def test_streams_are_accepted_like_requests(bundle_dir, monkeypatch):
    """A chunk waits while the queue is full, and a stream is ended if it stays so."""
    monkeypatch.setattr("serving.protocols.stream.REFUSED_SECONDS", 1.0)
    service = make_service(bundle_dir, batch=BatchOptions(max_queue_frames=20))
    batcher = service.repository.find().batcher
    rendered = []
    render = batcher.renderer.render
    monkeypatch.setattr(batcher.renderer, "render", lambda *args: rendered.append(1) or render(*args))
    with TestClient(create_app(service)) as client, client.websocket_connect("/v1/stream") as socket:
        with batcher.admit(16):
            socket.send_text('{"seed": 1, "chunk_frames": 8, "fps": 60}')
            assert socket.receive_json()["type"] == "start"
            time.sleep(0.5)
            assert not rendered
        assert socket.receive()["bytes"] and rendered
        with contextlib.ExitStack() as stack:
            while True:
                with contextlib.suppress(Overloaded):
                    stack.enter_context(batcher.admit(16))
                    break
            while "bytes" in (message := socket.receive()):
                pass
        assert json.loads(message["text"])["error_type"] == "overloaded"


def test_streams_in_number_leave_others_their_share(server, http):
    with survives(server, megabytes=150, slack=1.0), contextlib.ExitStack() as stack:
        for _ in range(32):
            connection, _ = open_socket(server)
            stack.enter_context(connection).sendall(frame(b'{"fps": 120, "chunk_frames": 16}'))
        times = []
        for seed in range(10):
            begin = time.perf_counter()
            assert http.get(f"/v1/generate?seed={seed}&format=npy").status_code in (200, 429)
            times.append(time.perf_counter() - begin)
        assert max(times) < 3
    wait_for(lambda: streams_open(http) == 0)


def test_encoding_is_within_the_deadline(bundle_dir, monkeypatch):
    """The client is told in time; what a thread is still at counts until it is done."""
    service = make_service(bundle_dir)
    monkeypatch.setattr("serving.protocols.native.encode", lambda *args, **options: time.sleep(2) or b"late")
    with TestClient(create_app(service)) as client:
        batcher = service.repository.find().batcher
        begin = time.monotonic()
        answer = client.post("/v1/generate", json={"timeout": 0.5, "num_frames": 4})
        assert answer.status_code == 504 and time.monotonic() - begin < 1.5
        assert batcher.admitted_frames == 4
        wait_for(lambda: batcher.admitted_frames == 0, 5)


def test_what_encoding_took_before_is_foreseen(bundle_dir):
    service = make_service(bundle_dir)
    model = service.repository.find()
    service._forecast = Forecast(1)
    for amount in (1000, 2000):
        service._forecast.learn("slow", amount, amount / 1000)
    deadline = time.monotonic() + 5
    with service.admit(model, 1, deadline, "slow", 4000):  # Alone, it is accepted.
        with pytest.raises(Overloaded), service.admit(model, 1, deadline, "slow", 1000):
            pass  # It would wait for the other's encoding.
    service._forecast = Forecast(2)
    for amount in (1000, 2000):
        service._forecast.learn("slow", amount, amount / 1000)
    with service.admit(model, 1, deadline, "slow", 4000):
        with service.admit(model, 1, deadline, "slow", 1000):  # The other thread is free,
            pass
        with pytest.raises(Overloaded), service.admit(model, 1, deadline, "slow", 20_000):
            pass  # but this would not be done in time.
    service.close()


HOSTS = [
    ("127.0.0.1", True), ("127.0.0.1:8501", True), ("[::1]:8501", True), ("localhost:1", True), ("a.localhost", True),
    ("10.1.2.3", True), ("clips.example", True), ("CLIPS.example.:80", True), ("evil.example", False),
    ("clips.example.evil", False), ("127.0.0.1.evil.example", False), ("", False), ("[evil", False),
]  # fmt: skip


@pytest.mark.parametrize("host, good", HOSTS)
def test_names_of_the_server(host, good):
    assert is_name_of(host, ("clips.example",)) == good


def test_a_page_whose_name_points_here_gets_nothing(server, http):
    for path, code in (("/info", 421), ("/", 421), ("/v1/generate?seed=1", 421), ("/livez", 200)):
        assert http.get(path, headers={"Host": "evil.example"}).status_code == code
    connection, head = open_socket(server, host="evil.example")
    connection.close()
    assert head.startswith(b"HTTP/1.1 403")


def test_keys_are_read_again_when_their_file_changes(tmp_path):
    """As a mounted secret changes: a link is moved to another folder."""
    for name, key in (("1", "the-first-key-here"), ("2", "the-second-key-here"), ("3", "short")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_text(key + "\n")
    link, path = tmp_path / "data", tmp_path / "data" / "keys"

    def point_to(name):
        (tmp_path / "new").symlink_to(tmp_path / name)
        os.replace(tmp_path / "new", link)

    point_to("1")
    keys = Keys.of_file(path)
    point_to("2")
    keys.reload()
    assert keys.accept("the-second-key-here") and not keys.accept("the-first-key-here")
    point_to("3")  # Too short: the last good ones stay.
    keys.reload()
    link.unlink()
    keys.reload()
    assert keys.accept("the-second-key-here") and not keys.accept("short") and not keys.accept("")


def test_a_running_server_takes_new_keys(bundle_dir, tmp_path):
    path = tmp_path / "keys"
    path.write_text(KEY + "\n")
    with running(f"--bundle={bundle_dir}", "--drain_delay=0", f"--api_key_file={path}") as process:
        with httpx.Client(base_url=process.url) as client:

            def code(key):
                return client.get("/info", headers={"X-API-Key": key}).status_code

            assert code(KEY) == 200
            path.write_text("another-key-of-good-length\n")
            wait_for(lambda: code("another-key-of-good-length") == 200, 10)
            assert code(KEY) == 401


def test_a_text_log_gives_a_terminal_no_orders():
    def line(message, **extra):
        record = logging.makeLogRecord({"msg": message, "levelname": "INFO", **extra})
        return TextFormatter().format(record)

    said = line("a\x1b]0;title\x07", path="/\x1b[2J\x9b31m\r\nfake\u202e", exc_info=None)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e" for c in said)
    assert "\\x1b[2J" in said
    try:
        raise ValueError("\x1b[2J")
    except ValueError as error:
        said = line("failed", exc_info=(ValueError, error, error.__traceback__))
    assert "\x1b" not in said and said.count("\n") >= 2
