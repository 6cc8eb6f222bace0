"""The stream: the frames of a seed's clip without end, at its speed, moving to new content on request."""

import asyncio
import json
import pickle
import time
import types

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mocogan_tf.latents import sample_latents, slerp
from mocogan_tf.video import to_uint8
from serving.app import create_app
from serving.protocols.fields import CHANGE, STREAM, Fields
from serving.protocols.stream import Stream, Walk
from serving.runtime.errors import Invalid
from serving.runtime.service import Limits
from serving.web.guard import Keys
from tests.support.made_bundles import BundleSpec, write_bundle
from tests.support.servers import make_service, wait_for


def begin(socket, **fields):
    socket.send_text(json.dumps({"fps": 120, **fields}))
    start = json.loads(socket.receive_text())
    return start, (start["height"], start["width"], start["channels"]) if "height" in start else None


def frames(socket, shape, count):
    got = []
    while sum(map(len, got)) < count:
        message = socket.receive()
        if message.get("bytes"):
            got.append(np.frombuffer(message["bytes"], np.uint8).reshape(-1, *shape))
        else:
            raise AssertionError(message)
    return np.concatenate(got)[:count]


@pytest.mark.parametrize("chunk_frames", [1, 5, 16])
def test_frame_n_of_a_stream_is_frame_n_of_the_clip(client, engine, chunk_frames):
    with client.websocket_connect("/v1/stream") as socket:
        start, shape = begin(socket, seed=6, category="push", chunk_frames=chunk_frames)
        got = frames(socket, shape, 48)
    assert (start["type"], start["seed"], start["model"]) == ("start", "6", "tiny")
    video, _ = engine.generate(sample_latents(engine.bundle.latents, 1, 48, seed=6, category=1))
    assert np.abs(got.astype(int) - to_uint8(video[0])).max() <= 1


def walk_rows(engine, bundle, steps, changes=(), **fields):
    """Rows of a walk, with changes at given chunks."""

    class Model:
        pass

    model = Model()
    model.engine, model.bundle = engine, bundle
    walk = Walk(bundle, Fields({"seed": 1, "category": 0, **fields}, STREAM))
    rows = []
    for step in range(steps):
        if step in dict(changes):
            walk.change(Fields(dict(changes)[step], CHANGE))
        rows.append(walk.step(model, 4))
    return walk, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def test_content_moves_on_the_great_circle_and_arrives(engine):
    change = {2: {"content_seed": 9, "transition_frames": 10}}
    walk, rows = walk_rows(engine, engine.bundle, 8, change.items())
    spec = engine.bundle.latents
    a, b = (sample_latents(spec, 1, 1, seed=seed)["content"][0] for seed in (1, 9))
    assert np.array_equal(rows["content"][:8], np.tile(a, (8, 1)))
    for i in range(10):
        np.testing.assert_allclose(rows["content"][8 + i], slerp(a, b, (i + 1) / 10), atol=1e-6)
    assert np.array_equal(rows["content"][18:], np.tile(b, (14, 1)))
    # The motion goes on as if nothing had happened.
    _, plain = walk_rows(engine, engine.bundle, 8)
    np.testing.assert_allclose(rows["motion"], plain["motion"], atol=1e-6)


def test_a_change_during_a_transition_starts_from_the_current_content(engine):
    changes = {0: {"content_seed": 9, "transition_frames": 40}, 2: {"content_seed": 5, "transition_frames": 40}}
    _, rows = walk_rows(engine, engine.bundle, 12, changes.items())
    jumps = np.linalg.norm(np.diff(rows["content"], axis=0), axis=1)
    assert jumps.max() < 0.2 and jumps.min() >= 0


@pytest.mark.parametrize("category_to", ["motion", "image", "both"])
def test_a_category_comes_gradually_and_then_is_the_one_asked_for(tmp_path, category_to):
    service = make_service(write_bundle(tmp_path / "b", BundleSpec(category_to=category_to)))
    engine, bundle = (model := service.repository.find()).engine, model.bundle
    changes = {1: {"category": "kick", "transition_frames": 8}}
    walk, rows = walk_rows(engine, bundle, 30, changes.items())
    assert walk.kind.target.tolist() == [0, 0, 1]
    if category_to != "motion":
        np.testing.assert_allclose(rows["category"].sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(rows["category"][4 + 3], [0.5, 0, 0.5], atol=1e-6)
        assert rows["category"][-1].tolist() == [0, 0, 1]
    if category_to != "image":
        # A GRU forgets where it was: under the same noise it ends where the other category leads from the start.
        _, other = walk_rows(engine, bundle, 30, category=2)
        gap = np.abs(rows["motion"] - other["motion"]).max(axis=1)
        assert gap[:4].max() > 0.05 and gap[-8:].max() < 0.02
    service.close()


def test_motion_goes_on_under_another_seed_or_strength_from_the_state_that_it_has(engine):
    """Exactly: the new noise at the place where the stream is, times the new strength."""
    changes = {2: {"motion_seed": 9}, 4: {"motion_scale": 0.25}, 5: {"fps": 60}}
    walk, rows = walk_rows(engine, engine.bundle, 6, changes.items())
    assert walk.fps == 60 and engine.bundle.fps == 8
    spec = engine.bundle.latents
    first = sample_latents(spec, 1, 24, seed=1, category=0)
    noise = np.concatenate(
        [first["motion_noise"][:, :8], sample_latents(spec, 1, 24, seed=1, motion_seed=9)["motion_noise"][:, 8:]],
        axis=1,
    )
    noise[:, 16:] *= np.float32(0.25)
    expected, state = engine.motion({**first, "motion_noise": noise})
    np.testing.assert_allclose(rows["motion"], expected[0], atol=1e-6)
    np.testing.assert_allclose(walk.state, state, atol=1e-6)
    np.testing.assert_array_equal(rows["content"], np.tile(first["content"], (24, 1)))


@pytest.mark.parametrize(("field", "value"), [("motion_seed", 9), ("motion_scale", 0.25), ("content_seed", 9)])
def test_the_first_message_may_say_what_later_ones_may(engine, field, value):
    _, rows = walk_rows(engine, engine.bundle, 2, **{field: value})
    seeds = {"seed": 1, "category": 0} | ({field: value} if field.endswith("seed") else {})
    latents = sample_latents(engine.bundle.latents, 1, 8, **seeds)
    if field == "motion_scale":
        latents |= {name: latents[name] * np.float32(value) for name in ("motion_init", "motion_noise")}
    np.testing.assert_allclose(rows["motion"], engine.motion(latents)[0][0], atol=1e-6)
    np.testing.assert_allclose(rows["content"], np.tile(latents["content"], (8, 1)), atol=1e-6)


class Clock:
    """Time that passes only where somebody sleeps or is told to take long."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("serving.protocols.stream.time.monotonic", lambda: self.now)
        monkeypatch.setattr("serving.protocols.stream.asyncio.sleep", self.sleep)

    async def sleep(self, seconds):
        self.now += seconds


class Ready(Stream):
    """A stream whose chunks of two frames are there at once."""

    def __init__(self, fps):
        self.walk = types.SimpleNamespace(fps=fps)
        self.running = asyncio.Event()
        self.running.set()

    async def chunk(self):
        return np.zeros((2, 1, 1, 3), np.uint8)


def times_of_chunks(clock, stream, number, after=lambda index: None):
    """When each chunk came, from the first on; `after` is called when a chunk is taken."""

    async def watch():
        times, chunks = [], stream.chunks()
        for index in range(number):
            await anext(chunks)
            times.append(clock.now - 1000.0)
            after(index)
        return times

    return asyncio.run(watch())


def test_chunks_come_one_ahead_at_the_speed_that_was_asked_for_last(monkeypatch):
    clock, stream = Clock(monkeypatch), Ready(fps=10)

    def after(index):
        if index == 3:
            stream.walk.fps = 4.0

    times = times_of_chunks(clock, stream, 8, after)
    assert times == pytest.approx([0, 0, 0.2, 0.4, 0.6, 1.1, 1.6, 2.1])


def test_a_client_that_was_late_gets_no_burst(monkeypatch):
    clock, stream = Clock(monkeypatch), Ready(fps=10)

    def after(index):
        if index == 4:
            clock.now += 60  # Three hundred chunks' time.

    times = np.array(times_of_chunks(clock, stream, 12, after))
    assert np.count_nonzero(np.diff(times[5:]) < 0.19) <= 2
    assert np.diff(times[8:]) == pytest.approx([0.2] * 3)


def test_a_pause_stops_the_frames_and_what_was_changed_meanwhile_is_seen_after_it(bundle_dir, engine):
    service = make_service(bundle_dir)
    spec = engine.bundle.latents

    async def watch():
        stream = Stream(service, Fields({"seed": 1, "category": 0, "chunk_frames": 2, "fps": 120}, STREAM), "raw")
        chunks = stream.chunks()
        before = await anext(chunks)
        stream.change(Fields({"pause": True, "content_seed": 7, "transition_frames": 0}, CHANGE))
        stream.change(Fields({"content_seed": 9}, CHANGE))  # Both are one change, of which the later counts.
        late = asyncio.create_task(anext(chunks))
        await asyncio.sleep(0.2)
        assert not late.done()
        stream.change(Fields({"pause": False}, CHANGE))
        return before, await asyncio.wait_for(late, 20)

    before, after = asyncio.run(watch())
    service.close()
    latents = sample_latents(spec, 1, 4, seed=1, category=0)
    other = {**latents, "content": sample_latents(spec, 1, 4, seed=9)["content"]}
    for found, inputs, part in ((before, latents, slice(0, 2)), (after, other, slice(2, 4))):
        assert np.abs(found.astype(int) - to_uint8(engine.generate(inputs)[0])[0, part]).max() <= 1


def test_a_speed_near_zero_is_refused_before_and_during_a_stream(engine):
    for fields, changes in (({"fps": 5e-324}, {}), ({}, {1: {"fps": 5e-324}})):
        with pytest.raises(Invalid, match="`fps` must be a number in"):
            walk_rows(engine, engine.bundle, 2, changes.items(), **fields)


def test_a_walk_does_not_grow(engine):
    def size(walk):
        return len(pickle.dumps({name: value for name, value in vars(walk).items() if name != "bundle"}))

    changes = {i: {"content_seed": i, "category": i % 3, "motion_seed": i} for i in range(1, 40)}
    short, _ = walk_rows(engine, engine.bundle, 3, changes.items())
    long, _ = walk_rows(engine, engine.bundle, 60, changes.items())
    assert long.position == 240 and size(long) <= size(short) + 16


def test_a_walk_draws_rarely_and_not_on_the_event_loop(engine, monkeypatch):
    """A draw costs nearly as much for one chunk as for many, with Python's lock held."""
    draws = []
    monkeypatch.setattr(
        "serving.runtime.bundle.sample_latents",
        lambda spec, *args, **options: draws.append(args) or sample_latents(spec, *args, **options),
    )
    Walk(engine.bundle, Fields({"seed": 1, "category": 0}, STREAM))
    assert not draws
    walk_rows(engine, engine.bundle, 80)
    assert len(draws) <= 2


def test_messages_change_a_running_stream_and_bad_ones_do_not_end_it(client, engine):
    with client.websocket_connect("/v1/stream") as socket:
        _, shape = begin(socket, seed=1, chunk_frames=2)
        for message in (
            "{",
            "[]",
            '{"content_seed": -1}',
            '{"category": "fly"}',
            '{"pause": 1}',
            '{"x": 1}',
            "x" * 5000,
        ):
            socket.send_text(message)
        errors = 0
        while errors < 7:
            message = socket.receive()
            errors += "error" in json.loads(message["text"]) if message.get("text") else 0
        change = {"content_seed": "5", "category": 1, "motion_scale": 0, "transition_frames": 0}
        socket.send_text(json.dumps(change))
        assert_comes_to(socket, shape, at_rest(engine, content_seed=5, category=1))


def at_rest(engine, **draw):
    """The picture at which a clip without motion noise comes to rest, by content and category."""
    latents = sample_latents(engine.bundle.latents, 1, 200, seed=1, **draw)
    latents["motion_noise"] = np.zeros_like(latents["motion_noise"])
    return to_uint8(engine.generate(latents)[0])[0, -1]


def assert_comes_to(socket, shape, picture):
    """The stream shows this picture within three seconds of clip."""
    for _ in range(60):
        shown = frames(socket, shape, 6)
        if np.abs(shown[-1].astype(int) - picture).max() <= 2:
            return
    raise AssertionError("the change is not seen")


def test_messages_may_be_bytes(client, engine):
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(b'{"seed": 1, "chunk_frames": 2, "fps": 120}')
        start = json.loads(socket.receive_text())
        shape = (start["height"], start["width"], start["channels"])
        for message in (b"\xff\xfe", b"", b" " * 5000):
            socket.send_bytes(message)
        errors = 0
        while errors < 3:
            message = socket.receive()
            errors += "error" in json.loads(message["text"]) if message.get("text") else 0
        socket.send_bytes(b'{"content_seed": 5, "category": 0, "motion_scale": 0, "transition_frames": 0}')
        assert_comes_to(socket, shape, at_rest(engine, content_seed=5, category=0))


def test_bad_beginnings_get_an_error_and_are_closed(client):
    for first in (
        "{",
        '{"sede": 1}',
        '{"chunk_frames": 65}',
        '{"model": "none"}',
        '{"format": "gif"}',
        '{"category": 9}',
        '{"category": ' + "[" * 1000 + "]" * 1000 + "}",
        b"\xff",
    ):
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_bytes(first) if isinstance(first, bytes) else socket.send_text(first)
            assert "error_type" in json.loads(socket.receive_text())
            with pytest.raises(WebSocketDisconnect):
                socket.receive_text()


@pytest.mark.parametrize(("name", "kind"), [("webp", "WEBP"), ("png", "PNG"), ("jpeg", "JPEG")])
def test_chunks_as_pictures(client, name, kind):
    import io

    from PIL import Image

    with client.websocket_connect("/v1/stream") as socket:
        begin(socket, seed=1, chunk_frames=4, format=name)
        picture = Image.open(io.BytesIO(socket.receive_bytes()))
    assert picture.format == kind and picture.size == (64, 16)


def test_the_stream_keeps_the_speed_of_the_clip(client):
    with client.websocket_connect("/v1/stream") as socket:
        _, shape = begin(socket, seed=1, chunk_frames=2, fps=20)
        frames(socket, shape, 2)
        start = time.perf_counter()
        frames(socket, shape, 20)
        seconds = time.perf_counter() - start
    assert 0.75 < seconds  # One second of clip, the chunk ahead excepted; a busy machine may take longer.


def test_streams_are_counted_and_need_the_key(bundle_dir):
    service = make_service(bundle_dir, limits=Limits(max_streams=1))
    with TestClient(create_app(service, keys=Keys((b"0123456789abcdef",)))) as client:
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_text('{"api_key": "wrong"}')
            assert json.loads(socket.receive_text())["error_type"] == "unauthorized"
        with client.websocket_connect("/v1/stream") as first:
            begin(first, api_key="0123456789abcdef")
            with client.websocket_connect("/v1/stream") as second:
                second.send_text('{"api_key": "0123456789abcdef"}')
                assert json.loads(second.receive_text())["error_type"] == "overloaded"


def test_one_client_cannot_take_all_streams(bundle_dir):
    """Of a key where keys are needed, whatever the protocol; else of an address."""
    service = make_service(bundle_dir, limits=Limits(max_streams=3, max_streams_per_client=2))
    one, other = "0123456789abcdef", "fedcba9876543210"
    with TestClient(create_app(service, keys=Keys((one.encode(), other.encode())))) as client:
        with client.websocket_connect("/v1/stream") as first, client.websocket_connect("/v1/stream") as second:
            begin(first, api_key=one)
            begin(second, api_key=one)
            with client.websocket_connect("/v1/stream") as third:
                third.send_text(json.dumps({"api_key": one}))
                assert "This key has 2 streams" in json.loads(third.receive_text())["error"]
            answer = client.get("/v1/stream?seed=1", headers={"X-API-Key": one})
            assert answer.status_code == 429 and "This key has 2 streams" in answer.json()["error"]
            with client.websocket_connect("/v1/stream") as third:
                begin(third, api_key=other)
                with client.websocket_connect("/v1/stream") as fourth:
                    fourth.send_text(json.dumps({"api_key": other}))
                    assert "All 3 streams" in json.loads(fourth.receive_text())["error"]
        wait_for(lambda: service.metrics.streams._value.get() == 0)
        with client.websocket_connect("/v1/stream") as socket:
            begin(socket, api_key=one)
    service = make_service(bundle_dir, limits=Limits(max_streams_per_client=1))
    with TestClient(create_app(service)) as client, client.websocket_connect("/v1/stream") as socket:
        begin(socket, seed=1)
        assert "This address has 1 streams, and may have no more" in client.get("/v1/stream?seed=1").json()["error"]


def test_pages_of_other_origins_are_turned_away(client):
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/v1/stream", headers={"Origin": "https://x.example"}),
    ):
        pass
    with client.websocket_connect("/v1/stream", headers={"Origin": "http://testserver"}) as socket:
        assert begin(socket)[0]["type"] == "start"


def test_an_endless_picture_over_plain_http(server):
    import io

    from PIL import Image

    parts = b""
    with httpx.stream("GET", f"{server.url}/v1/stream?seed=3&fps=60&chunk_frames=4", timeout=20) as response:
        assert response.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
        for piece in response.iter_bytes():
            parts += piece
            if parts.count(b"--frame\r\n") > 8:
                break
    bodies = [part.split(b"\r\n\r\n", 1)[1] for part in parts.split(b"--frame\r\n")[1:8]]
    assert all(Image.open(io.BytesIO(body)).size == (16, 16) for body in bodies)


def test_a_stream_survives_a_new_version(tmp_path):
    folder = write_bundle(tmp_path / "b", BundleSpec(weight_seed=1))
    service = make_service(folder)
    with TestClient(create_app(service)) as client, client.websocket_connect("/v1/stream") as socket:
        _, shape = begin(socket, seed=1, chunk_frames=2)
        frames(socket, shape, 4)
        write_bundle(folder, BundleSpec(weight_seed=2))
        assert service.repository.poll()
        assert frames(socket, shape, 40).shape == (40, *shape)
        # One of another kind cannot take over.
        write_bundle(folder, BundleSpec(weight_seed=2, channels=1))
        assert service.repository.poll()
        with pytest.raises((WebSocketDisconnect, AssertionError), match="another kind"):
            frames(socket, shape, 4000)
