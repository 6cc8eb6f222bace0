"""Pictures over HTTP and WebSocket, for models whose content comes from pictures."""

import base64
import io
import json
import types

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mocogan_tf.video import to_uint8
from serving.app import create_app
from serving.client import Client
from serving.protocols.fields import CHANGE, STREAM, Fields
from serving.protocols.stream import Walk
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine
from serving.runtime.errors import BundleError
from serving.runtime.options import EngineError, EngineOptions
from tests.support.made_bundles import BundleSpec, write_bundle
from tests.support.servers import make_service, running
from tests.test_pictures import BOMBS, encoded, photo, png

SPEC = BundleSpec("animated", dim_content=40, pictures=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "animated", SPEC)


@pytest.fixture(scope="module")
def engine(folder):
    return Engine(read_bundle(folder), EngineOptions(provider="cpu", threads=1))


@pytest.fixture(scope="module")
def client(folder, bundle_dir):
    """A server of two models: `animated` takes pictures, `tiny` does not."""
    with TestClient(create_app(make_service(folder, bundle_dir)), raise_server_exceptions=False) as client:
        yield client


def base64_of(data):
    return base64.b64encode(data).decode()


def generate(client, route="/v1/generate", **fields):
    return client.post(route, json={"format": "npy", "num_frames": 5, "seed": 3, **fields})


def clip_of(response):
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


def close(found, expected):
    return found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1


def expected_clip(engine, content, num_videos=1, **seeds):
    latents = engine.bundle.sample(num_videos, 5, seed=3, **seeds)
    latents["content"] = np.repeat(content, num_videos, axis=0)
    return to_uint8(engine.generate(latents)[0])


@pytest.fixture(scope="module")
def picture():
    return photo(80, 48)


@pytest.fixture(scope="module")
def content(engine, picture):
    square = picture.crop((16, 0, 64, 48)).resize((16, 16), Image.Resampling.BICUBIC)
    return engine.encode(np.asarray(square)[None])


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_picture_is_animated_and_the_answer_says_what_was_done_to_it(client, engine, picture, content, prefix):
    response = generate(client, image=prefix + base64_of(encoded(picture, "PNG")), category=1)
    assert close(clip_of(response), expected_clip(engine, content, category=1))
    assert response.headers["X-Picture"] == "80x48 cropped to 48x48, resized to 16x16"


def test_several_clips_animate_one_picture_each_with_its_motion(client, engine, picture, content):
    clips = clip_of(generate(client, image=base64_of(encoded(picture, "PNG")), num_videos=3))
    assert close(clips, expected_clip(engine, content, num_videos=3))
    assert (clips[0] != clips[1]).any()


def test_without_a_picture_a_seed_chooses_one_of_the_bundles_own(client, engine):
    for seed, first in ((0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2)):
        response = client.get(f"/v1/generate?seed={seed}&first_clip={first}&format=npy&num_frames=5")
        latents = engine.bundle.sample(1, 5, seed=seed, first_clip=first)
        assert (latents["content"] == engine.bundle.contents).all(axis=1).any()
        assert close(clip_of(response), to_uint8(engine.generate(latents)[0]))
        number = int(np.flatnonzero((engine.bundle.contents == latents["content"]).all(axis=1))[0]) + 1
        assert response.headers["X-Picture"] == f"number {number} of the model's 5"


def test_encode_gives_the_content_that_other_routes_take(client, engine, picture, content):
    response = client.post(
        "/v1/encode", content=encoded(picture, "JPEG", quality=100), headers={"Content-Type": "image/jpeg"}
    )
    answer = response.json()
    assert (answer["model"], answer["version"]) == ("animated", 1)
    assert answer["picture"] == response.headers["X-Picture"] == "80x48 cropped to 48x48, resized to 16x16"
    assert np.abs(np.array(answer["content"]) - content).max() < 0.2  # A JPEG's pixels are nearly the picture's.
    clip = clip_of(generate(client, latents={"content": [answer["content"]]}))
    assert close(clip, expected_clip(engine, np.float32([answer["content"]])))
    noise = engine.bundle.sample(1, 5, seed=3)
    inputs = {name: value.tolist() for name, value in noise.items()} | {"content": [answer["content"]]}
    predicted = client.post("/v1/models/animated:predict", json={"inputs": inputs}).json()["outputs"]["video"]
    assert close(to_uint8(np.array(predicted)), clip)


def test_a_grid_shows_one_picture_with_every_motion(client, engine, picture, content):
    fields = {"image": base64_of(encoded(picture, "PNG")), "motion_seeds": [4, 5], "categories": [0, 2]}
    clips = clip_of(generate(client, "/v1/grid", **fields))
    for clip, seed, category in zip(clips, (4, 5), (0, 2), strict=True):
        assert close(clip[None], expected_clip(engine, content, motion_seed=seed, category=category))
    seeds = clip_of(generate(client, "/v1/grid", content_seeds=[1, 2], motion_seeds=[4]))
    assert seeds.shape[0] == 2


def test_contents_of_pictures_blend_in_a_straight_line(client, engine, picture, content):
    other = engine.bundle.sample(1, 1, seed=9)["content"]
    clip = clip_of(generate(client, image=base64_of(encoded(picture, "PNG")), content_seed_to=9, content_blend=0.25))
    assert close(clip, expected_clip(engine, 0.75 * content + 0.25 * other))
    first = engine.bundle.sample(1, 1, seed=2)["content"]
    clip = clip_of(generate(client, content_seed=2, content_seed_to=9, content_blend=0.5))
    assert close(clip, expected_clip(engine, 0.5 * first + 0.5 * other))


GOOD = base64_of(encoded(photo(32, 32), "PNG"))
MOVING = encoded(photo(32, 32), "GIF", save_all=True, append_images=[photo(32, 32, seed=1)])
REFUSED = {
    "no text": ({"image": 7}, 422, "the bytes of a picture in base64"),
    "empty": ({"image": ""}, 422, "the bytes of a picture in base64"),
    "no base64": ({"image": "%%%"}, 400, "unable to base64 decode"),
    "no picture": ({"image": base64_of(b"hello")}, 422, "must be a PNG, JPEG, WebP, BMP or GIF"),
    "a drawing": ({"image": base64_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>")}, 422, "must be a PNG"),
    "moving": ({"image": base64_of(MOVING)}, 422, "several frames"),
    "cut off": ({"image": GOOD[: len(GOOD) // 8 * 4]}, 422, "cut off"),
    "tiny": ({"image": base64_of(encoded(photo(9, 4), "PNG"))}, 422, "at least 8"),
    "too many pixels": ({"image": base64_of(png(4096, 4096, 8, 0, b""))}, 422, "at most 8388608"),
    "too many bytes": ({"image": "A" * 2**22}, 413, "at most 4194304 bytes"),
    "with a content seed": ({"image": GOOD, "content_seed": 1}, 422, "without `content_seed`"),
    "with a content": ({"image": GOOD, "latents": {"content": [[0.0] * 40]}}, 422, "without `content_seed`"),
    "with a strength": ({"content_scale": 0.5}, 422, "`content_scale` must be 1"),
    "another model": ({"image": GOOD, "model": "tiny"}, 422, "makes up its contents"),
    "no model": ({"image": GOOD, "model": "nobody"}, 404, "nobody"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why_in_one_line(client, name):
    fields, status, reason = REFUSED[name]
    response = generate(client, **fields)
    assert response.status_code == status
    assert reason in response.json()["error"] and "\n" not in response.json()["error"]


def test_a_grid_of_a_picture_has_no_other_rows(client):
    for fields in ({"rows": 2}, {"content_seeds": [1]}):
        response = generate(client, "/v1/grid", image=GOOD, **fields)
        assert response.status_code == 422 and "makes one row" in response.json()["error"]
    assert generate(client, "/v1/grid", image=GOOD, rows=1, columns=2).status_code == 200


@pytest.mark.parametrize("route", ["/v1/generate", "/v1/grid", "/v1/stream"])
def test_a_query_carries_no_picture(client, route):
    response = client.get(route, params={"image": GOOD[:200], "seed": 1})
    assert response.status_code == 422 and "POST" in response.json()["error"]


def test_encode_takes_images_only(client):
    data = encoded(photo(32, 32), "PNG")
    for kind in ("application/json", "text/plain", ""):
        response = client.post("/v1/encode", content=data, headers={"Content-Type": kind})
        assert response.status_code == 415 and "image/png" in response.json()["error"]
    headers = {"Content-Type": "image/png"}
    assert client.post("/v1/encode?model=tiny", content=data, headers=headers).status_code == 422
    assert "no bytes" in client.post("/v1/encode", content=b"", headers=headers).json()["error"]
    assert client.get("/v1/encode").status_code == 405


@pytest.mark.parametrize("name", [name for name in BOMBS if name != "bytes"])
def test_a_bomb_is_refused_over_http_too(client, name):
    data = BOMBS[name][1]()
    response = client.post("/v1/encode", content=data, headers={"Content-Type": "image/png"})
    assert response.status_code in (413, 422)


def test_pictures_of_the_bundle_can_be_looked_at(client, engine):
    response = client.get("/v1/pictures?model=animated")
    strip = np.asarray(Image.open(io.BytesIO(response.content)))
    assert np.array_equal(strip, np.concatenate(list(engine.bundle.pictures), axis=1))
    assert client.get("/v1/pictures?model=tiny").status_code == 422
    models = {model["name"]: model["content_from"] for model in client.get("/info").json()["models"]}
    assert models == {"animated": "pictures", "tiny": "noise"}


def stream(client, first, chunks, *changes):
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps({"format": "raw", "chunk_frames": 4, "fps": 120, **first}))
        start = socket.receive_json()
        assert start.get("type") == "start", start
        frames = []
        for number in range(chunks):
            frames.append(np.frombuffer(socket.receive_bytes(), np.uint8).reshape(-1, 16, 16, 3))
            if number == 0:
                for change in changes:
                    socket.send_text(json.dumps(change))
    return np.concatenate(frames)


def test_a_stream_goes_on_where_a_clip_of_the_picture_ends(client, engine, picture, content):
    frames = stream(client, {"seed": 3, "image": base64_of(encoded(picture, "PNG"))}, 5)
    latents = engine.bundle.sample(1, 20, seed=3)
    assert close(frames, to_uint8(engine.generate({**latents, "content": content})[0])[0])


def test_a_stream_that_turns_to_another_picture_moves_on(client, engine):
    """The motion begins in its first picture; a later picture must not throw it elsewhere."""
    walk = Walk(engine.bundle, Fields({"seed": 3}, STREAM))
    model = types.SimpleNamespace(engine=engine)
    rows = [walk.step(model, 4)]
    walk.change(Fields({"content_seed": 9, "transition_frames": 2}, CHANGE))
    rows.append(walk.step(model, 4))
    motion, _ = engine.motion(engine.bundle.sample(1, 8, seed=3))
    assert np.abs(np.concatenate([row["motion"] for row in rows]) - motion[0]).max() < 1e-5
    first, other = (engine.bundle.sample(1, 1, seed=seed)["content"][0] for seed in (3, 9))
    assert np.abs(rows[1]["content"] - [(first + other) / 2, other, other, other]).max() < 1e-6


def test_a_stream_refuses_a_large_picture_and_goes_on_with_small_messages(client):
    large = base64_of(
        encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)), "PNG")
    )
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps({"image": large}))
        assert "at most 32768 bytes" in socket.receive_json()["error"]
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text(json.dumps({"image": GOOD, "model": "tiny"}))
        assert "makes up its contents" in socket.receive_json()["error"]


def test_a_server_animates_the_picture_of_a_client(folder, engine, content, picture, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture, "PNG"))
    with running(f"--bundle={folder}", "--drain_delay=0") as server, Client(server.url) as client:
        for given in (path, path.read_bytes()):
            assert close(client.generate(image=given, seed=3, num_frames=5), expected_clip(engine, content))
        answer = httpx.post(f"{server.url}/v1/encode", content=path.read_bytes(), headers={"Content-Type": "image/png"})
        assert np.abs(np.array(answer.json()["content"]) - content).max() < 1e-5
        assert not [line for line in server.log() if line.get("level") == "ERROR"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"contents": lambda c: c[:, :3]}, "shape"),
        ({"contents": lambda c: c * np.nan}, "finite"),
        ({"contents": lambda c: c[:0], "pictures": lambda p: p[:0]}, "1 to 64"),
        ({"pictures": lambda p: p[:, :8]}, "shape"),
        ({"contents": lambda c: c + 1}, "does not make the contents"),
    ],
)  # fmt: skip
def test_a_bundle_whose_contents_are_wrong_is_refused(change, reason, tmp_path):
    broken = write_bundle(tmp_path / "broken", SPEC)
    (broken / "SHA256SUMS").unlink()
    with np.load(broken / "contents.npz") as file:
        arrays = {name: change.get(name, lambda value: value)(file[name]) for name in file}
    np.savez(broken / "contents.npz", **arrays)
    with pytest.raises((BundleError, EngineError), match=reason):
        Engine(read_bundle(broken), EngineOptions(provider="cpu", threads=1))


def test_a_bundle_without_its_encoder_is_refused(tmp_path):
    broken = write_bundle(tmp_path / "broken", SPEC)
    (broken / "SHA256SUMS").unlink()
    (broken / "encode.onnx").unlink()
    with pytest.raises(BundleError, match="lacks the file of role 'encode'"):
        read_bundle(broken)
