"""`/v1/generate` and `/v1/grid`: what a seed means on them, what each format holds, and what bad input gets."""

import dataclasses
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8
from serving.runtime.encode import FORMATS, encode
from serving.runtime.errors import Invalid


def npy(response):
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


def generate(client, **fields):
    return npy(client.post("/v1/generate", json={"format": "npy", **fields}))


def expected(engine, num_videos, num_frames, **seeds):
    video, _ = engine.generate(sample_latents(engine.bundle.latents, num_videos, num_frames, **seeds))
    return to_uint8(video)


def test_a_seed_is_the_clip_of_the_contract(client, engine):
    assert np.array_equal(generate(client, seed=9), expected(engine, 1, 16, seed=9))
    got = generate(client, seed=9, num_videos=3, num_frames=21, category="kick")
    assert np.array_equal(got, expected(engine, 3, 21, seed=9, category=2))
    got = generate(client, seed=9, content_seed=1, motion_seed=str(2**64 - 1), category=0)
    assert np.array_equal(got, expected(engine, 1, 16, seed=9, content_seed=1, motion_seed=2**64 - 1, category=0))
    assert np.array_equal(generate(client, seed=9, first_clip=2), expected(engine, 3, 16, seed=9)[2:])


def test_get_and_post_are_one(client):
    url = "/v1/generate?seed=4&num_videos=2&num_frames=5&category=push&format=npy"
    assert np.array_equal(npy(client.get(url)), generate(client, seed=4, num_videos=2, num_frames=5, category=1))


def test_without_a_seed_one_is_drawn_and_told(client):
    first, second = (client.post("/v1/generate", json={"format": "npy"}) for _ in range(2))
    assert first.headers["x-seed"] != second.headers["x-seed"]
    assert np.array_equal(npy(first), generate(client, seed=int(first.headers["x-seed"])))


def test_given_latents_take_the_place_of_drawn_ones(client, engine):
    latents = sample_latents(engine.bundle.latents, 2, 6, seed=1)
    given = {name: value.tolist() for name, value in latents.items()}
    got = generate(client, seed=99, num_videos=2, num_frames=6, latents=given)
    assert np.array_equal(got, expected(engine, 2, 6, seed=1))
    mixed = generate(client, seed=99, num_videos=2, num_frames=6, latents={"content": given["content"]})
    assert not np.array_equal(mixed, got)


def test_blends_lead_from_one_seed_to_the_other(client):
    ends = [generate(client, seed=1, category=0, content_seed=seed) for seed in (1, 2)]
    path = [
        generate(client, seed=1, category=0, content_seed=1, content_seed_to=2, content_blend=t) for t in (0, 0.5, 1)
    ]
    assert np.array_equal(path[0], ends[0])
    assert np.abs(path[2].astype(int) - ends[1]).max() <= 1  # The great circle ends where it should, up to rounding.
    gaps = [np.abs(a.astype(int) - b).mean() for a, b in zip([path[0], path[1]], [path[1], path[2]], strict=True)]
    assert min(gaps) > 1
    moved = generate(client, seed=1, category=0, motion_seed_to=5, motion_blend=1.0)
    assert np.abs(moved.astype(int) - generate(client, seed=1, category=0, motion_seed=5)).max() <= 1


def test_a_blend_lies_on_the_great_circle_and_a_strength_is_a_factor(client, engine):
    spec = engine.bundle.latents

    def asked_for(**fields):
        return generate(client, seed=1, category=0, num_frames=6, **fields)

    def made_of(**changes):
        latents = sample_latents(spec, 1, 6, seed=1, category=0)
        return to_uint8(engine.generate({**latents, **changes})[0])

    one, other = (sample_latents(spec, 1, 6, seed=seed) for seed in (1, 2))
    for share in (0.25, 0.5):
        a, b = one["content"][0].astype(np.float64), other["content"][0].astype(np.float64)
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        content = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
        blended = asked_for(content_seed_to=2, content_blend=share)
        assert np.abs(blended.astype(int) - made_of(content=content[None].astype(np.float32))).max() <= 1
        line = made_of(content=((1 - share) * a + share * b)[None].astype(np.float32))
        assert np.abs(blended.astype(int) - line).max() > 5
    for scale in (0.0, 0.5, 2.0):
        scaled = asked_for(content_scale=scale)
        assert np.abs(scaled.astype(int) - made_of(content=one["content"] * np.float32(scale))).max() <= 1
        scaled = asked_for(motion_scale=scale)
        motion = {name: one[name] * np.float32(scale) for name in ("motion_init", "motion_noise")}
        assert np.abs(scaled.astype(int) - made_of(**motion)).max() <= 1


def test_every_format_is_told_by_its_type(client):
    types = {
        "webp": "image/webp", "gif": "image/gif", "apng": "image/apng", "png": "image/png", "sheet": "image/webp",
        "npy": "application/x-npy", "mp4": "video/mp4", "webm": "video/webm",
    }  # fmt: skip
    begins = {
        "webp": b"RIFF",
        "gif": b"GIF89a",
        "apng": b"\x89PNG",
        "png": b"\x89PNG",
        "sheet": b"RIFF",
        "npy": b"\x93NUMPY",
    }
    assert set(types) == set(FORMATS)
    for name, media_type in types.items():
        response = client.get(f"/v1/generate?seed=1&num_frames=2&format={name}")
        if FORMATS[name].available:
            assert response.headers["content-type"] == media_type
            assert response.content.startswith(begins.get(name, b"")), name


def test_a_gif_is_no_faster_than_browsers_play_it(client):
    durations = {}
    for name in ("gif", "webp"):
        picture = Image.open(io.BytesIO(client.get(f"/v1/generate?seed=1&format={name}&fps=120").content))
        picture.load()
        durations[name] = picture.info["duration"]
    assert durations == {"gif": 20, "webp": 8}


def test_without_motion_noise_the_clip_comes_to_rest(client):
    def movement(scale):
        clip = generate(client, seed=1, category=0, motion_scale=scale, num_frames=40)[0].astype(int)
        return np.abs(np.diff(clip[-8:], axis=0)).mean()

    assert movement(0) < 0.1 < movement(1) < movement(2)


def test_a_grid_crosses_contents_with_motions(client):
    body = {"content_seeds": [5, 6], "motion_seeds": [7, 8, 9], "seed": 3, "format": "npy", "num_frames": 4}
    grid = npy(client.post("/v1/grid", json=body))
    assert grid.shape == (6, 4, 16, 16, 3)
    cell = generate(client, seed=3, content_seed=6, motion_seed=7, num_frames=4)
    assert np.array_equal(grid[3:4], cell)
    by_column = npy(client.post("/v1/grid", json=body | {"categories": ["kick", 0, 1]}))
    cell = generate(client, seed=3, content_seed=5, motion_seed=9, num_frames=4, category="push")
    assert np.array_equal(by_column[2:3], cell)
    default = npy(client.get("/v1/grid?seed=20&format=npy&rows=1&columns=2&num_frames=4&category=0"))
    assert np.array_equal(default[1:], generate(client, seed=20, motion_seed=21, num_frames=4, category=0))


@pytest.mark.parametrize("name", ["webp", "gif", "apng"])
def test_animations_play_at_the_speed_of_the_clip(client, name):
    response = client.get(f"/v1/generate?seed=1&num_videos=3&format={name}&fps=10&scale=2")
    picture = Image.open(io.BytesIO(response.content))
    assert response.headers["content-type"] == f"image/{name}"
    assert picture.size == (64, 64) and picture.n_frames == 16  # 3 clips: a mosaic of 2 by 2, twice as large.
    durations = []
    for frame in range(16):
        picture.seek(frame)
        picture.load()
        durations.append(picture.info["duration"])
    assert durations == [100] * 16
    assert picture.info.get("loop") == 0
    whole = np.asarray(picture.convert("RGB"))
    assert whole[34:, 34:].max() < 9 and whole[:30].any()  # The place of a fourth clip is black.


def distances_between(shown, clip):
    """Of every frame shown to every frame of the clip. Luma: lossy formats halve the colours' resolution."""
    shown, clip = (pixels @ np.array([0.299, 0.587, 0.114]) for pixels in (shown, clip))
    return np.abs(shown[:, None] - clip[None]).mean(axis=(2, 3))


@pytest.mark.parametrize(("name", "tolerance"), [("apng", 0), ("webp", 8), ("gif", 8)])
def test_animations_show_the_frames(client, name, tolerance):
    clip = generate(client, seed=2)[0]
    picture = Image.open(io.BytesIO(client.get(f"/v1/generate?seed=2&format={name}").content))
    shown = []
    for frame in range(16):
        picture.seek(frame)
        shown.append(np.asarray(picture.convert("RGB")))
    distances = distances_between(np.stack(shown), clip)
    assert distances.diagonal().max() <= tolerance
    assert (distances.diagonal() <= 1.5 * distances.min(axis=1)).all()  # Neighbours may look alike.


def test_sheets_have_a_row_per_clip_and_a_column_per_frame(client):
    clips = generate(client, seed=2, num_videos=2, num_frames=5)
    response = client.get("/v1/generate?seed=2&num_videos=2&num_frames=5&format=png")
    sheet = np.asarray(Image.open(io.BytesIO(response.content)))
    assert sheet.shape == (32, 80, 3)
    assert np.array_equal(sheet[16:, 64:], clips[1, 4])
    lossy = Image.open(io.BytesIO(client.get("/v1/generate?seed=2&num_frames=5&format=sheet").content))
    assert lossy.format == "WEBP" and lossy.size == (80, 16)
    too_wide = client.get("/v1/generate?seed=2&num_frames=1024&format=sheet")
    assert too_wide.status_code == 422 and "format png" in too_wide.json()["error"]


SLOW = [0.1, 0.1000001, 0.1234567, 0.77777]


@pytest.mark.parametrize("name", ["webp", "gif", "apng", "mp4", "webm"])
def test_the_slowest_clips_have_every_format(client, name):
    for fps in SLOW:
        response = client.get(f"/v1/generate?seed=1&num_frames=2&format={name}&fps={fps}")
        assert response.status_code in (200, 501), response.text
        if response.status_code == 200 and name in ("webp", "gif", "apng"):
            picture = Image.open(io.BytesIO(response.content))
            picture.load()
            assert picture.info["duration"] == pytest.approx(1000 / fps, abs=10)


def test_a_picture_that_stands_still_longer_than_a_gif_can_say_is_refused():
    still = np.full((1, 80, 16, 16, 3), 100, np.uint8)
    for name in ("webp", "apng"):
        assert encode(still, name, fps=0.1)
    for clips in (still, still[..., :1]):
        with pytest.raises(Invalid, match="`fps` is too low for a GIF"):
            encode(clips, "gif", fps=0.1)


@pytest.mark.parametrize(
    ("name", "most"), [("webp", 16383), ("sheet", 16383), ("gif", 65535), ("mp4", 16384), ("webm", 16382)]
)
def test_a_picture_larger_than_its_format_can_hold_is_refused(name, most):
    if not FORMATS[name].available:
        pytest.skip("needs av")
    for shape in ((1, 1, most, 16, 3), (1, 1, 16, most, 3)):
        assert encode(np.zeros(shape, np.uint8), name, fps=8)
        larger = np.zeros([size + 1 if size == most else size for size in shape], np.uint8)
        with pytest.raises(Invalid, match=f"`format` {name} is at most {most} pixels.*Lower `scale`"):
            encode(larger, name, fps=8)


def limit(client, monkeypatch, **changes):
    """Changes limits until the test ends."""
    service = client.app.state.service
    monkeypatch.setattr(service, "limits", dataclasses.replace(service.limits, **changes))


def test_a_grid_too_long_for_its_format_is_422(client, monkeypatch):
    # 64 rows of 16 pixels 8 times as high are 8,192: twice that is too much.
    limit(client, monkeypatch, max_videos=128)
    response = client.get("/v1/grid?seed=1&num_frames=1&rows=128&columns=1&scale=8&category=0")
    assert response.status_code == 422 and "128 by 16384" in response.json()["error"], response.text


@pytest.mark.parametrize(("name", "codec"), [("mp4", "h264"), ("webm", "vp8")])
def test_films_hold_the_frames(client, name, codec):
    av = pytest.importorskip("av")
    clip = generate(client, seed=2)[0]
    response = client.get(f"/v1/generate?seed=2&format={name}&fps=12")
    assert response.headers["content-type"] == f"video/{name}"
    with av.open(io.BytesIO(response.content)) as film:
        stream = film.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert stream.codec_context.name == codec and stream.average_rate == 12
    assert len(frames) == 16
    distances = distances_between(np.stack(frames), clip)
    assert distances.diagonal().max() <= 12
    assert (distances.diagonal() <= 1.5 * distances.min(axis=1)).all()  # Neighbours may look alike.


def test_a_format_without_its_package_is_501_and_not_listed(client, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "av" else find(name, *rest))
    response = client.get("/v1/generate?format=mp4")
    assert response.status_code == 501 and "webp, gif or apng" in response.json()["error"]
    assert "mp4" not in client.get("/info").json()["formats"]


def test_the_same_seed_is_answered_from_the_clients_cache(client):
    first = client.get("/v1/generate?seed=1")
    again = client.get("/v1/generate?seed=1", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content
    other = client.get("/v1/generate?seed=2", headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200
    assert "etag" not in client.get("/v1/generate").headers


BAD_FIELDS = [
    ({"seed": -1}, 422, "`seed` must be an integer in [0, 2^64)"),
    ({"seed": 2**64}, 422, "`seed`"),
    ({"seed": 1.5}, 422, "`seed`"),
    ({"seed": True}, 422, "`seed`"),
    ({"seed": "0x10"}, 422, "`seed`"),
    ({"seed": "٣"}, 422, "`seed`"),
    ({"seed": [1]}, 422, "`seed`"),
    ({"num_videos": 0}, 422, "`num_videos` must be an integer at least 1"),
    ({"num_videos": "2"}, 422, "`num_videos`"),
    ({"num_videos": 65}, 413, "`num_videos` must be at most 64"),
    ({"num_videos": 10**30}, 422, "`num_videos`"),
    ({"num_frames": -5}, 422, "`num_frames`"),
    ({"num_frames": 1025}, 413, "`num_frames` must be at most 1024"),
    ({"num_videos": 64, "num_frames": 17}, 413, "`num_videos times num_frames` must be at most 1024"),
    ({"num_frames": 1024, "scale": 8, "num_videos": 1, "format": "png"}, 413, None),
    ({"category": 3}, 422, "`category` must be an index below 3 or one of wave, push, kick. Received: category=3"),
    ({"category": "fly"}, 422, "`category`"),
    ({"category": -1}, 422, "`category`"),
    ({"category": True}, 422, "`category`"),
    ({"category": {}}, 422, "`category`"),
    ({"fps": 0}, 422, "`fps` must be a number in [0.1, 120]. Received: fps=0"),
    ({"fps": 5e-324}, 422, "`fps` must be a number in [0.1, 120]"),
    ({"fps": 0.099}, 422, "`fps`"),
    ({"fps": 1e300}, 422, "`fps`"),
    ({"format": "avi"}, 422, "`format` must be one of webp, gif"),
    ({"format": 3}, 422, "`format`"),
    ({"content_blend": 1.1}, 422, "`content_blend` must be a number in [0, 1]"),
    ({"motion_scale": -1}, 422, "`motion_scale` must be a number in [0, 3]"),
    ({"scale": 9}, 422, "`scale`"),
    ({"timeout": -1}, 422, "`timeout`"),
    ({"timeout": 5e-324}, 422, "`timeout` must be a number in [1e-06, 30]"),
    ({"model": ""}, 422, "`model`"),
    ({"model": "../../etc/passwd"}, 404, "Servable not found"),
    ({"version": 99}, 404, "Servable not found"),
    ({"version": 0}, 422, "`version`"),
    ({"sede": 1}, 422, "Unknown field 'sede'. Known: model, version, seed"),
    ({"first_clip": 2**32}, 422, "`first_clip`"),
    ({"latents": []}, 422, "`latents` must be an object"),
    ({"latents": {"z": []}}, 422, "`latents` must have members out of content"),
    ({"latents": {"content": [[1, 2]]}}, 422, "`latents.content` must be finite numbers of shape [1, 6]"),
    ({"latents": {"content": [["a"] * 6]}}, 422, "`latents.content`"),
    ({"latents": {"content": [[1, 2], [3]]}}, 422, "`latents.content`"),
    ({"latents": {"content": [[1e39] * 6]}}, 422, "not finite"),
    ({"latents": {"content": None}}, 422, "`latents.content`"),
]


@pytest.mark.parametrize(("fields", "status", "message"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_fields_get_their_code_and_their_name_at_once(client, fields, status, message, monkeypatch):
    try:
        body = json.dumps(fields)
    except ValueError:
        body = str(fields)
    if message is None:  # Work that is refused for the size of its answer.
        limit(client, monkeypatch, max_pixels=2**20)
    begin = time.perf_counter()
    response = client.post("/v1/generate", content=body, headers={"Content-Type": "application/json"})
    seconds = time.perf_counter() - begin
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer["error_type"] in ("validation", "too_large", "not_found", "malformed")
    assert message is None or message in answer["error"]
    assert seconds < 0.5  # 0.1 on a quiet machine; the tests share theirs.


BAD_BODIES = [
    (b"", 400, "JSON Parse error"),
    (b"{", 400, "JSON Parse error"),
    (b'{"seed": NaN}', 400, "JSON Parse error"),
    (b'{"seed": 1}trailing', 400, "JSON Parse error"),
    (b"\xff\xfe", 400, "JSON Parse error"),
    (b"[]", 400, "must be a JSON object"),
    (b"3", 400, "must be a JSON object"),
    (b"[" * 100_000, 400, "JSON Parse error"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "JSON Parse error"),
    (json.dumps({f"k{i}": i for i in range(10_000)}).encode(), 400, "10000 keys"),
    (b'{"x": "' + b"a" * 5_000_000 + b'"}', 413, "at most 4194304 bytes"),
]


@pytest.mark.parametrize(("body", "status", "message"), BAD_BODIES, ids=lambda value: str(value)[:20])
def test_bad_bodies_get_their_code(client, body, status, message):
    response = client.post("/v1/generate", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status and message in response.json()["error"]


DEEP = "[" * 1000 + "]" * 1000  # orjson reads 1,024 levels; Python's repr and str stop at a thousand.


@pytest.mark.parametrize(
    "body",
    [
        *(f'{{"{name}": {DEEP}}}' for name in ("seed", "num_frames", "fps", "category", "format", "model", "latents")),
        f'{{"latents": {{"content": {DEEP}}}}}',
        '{"category": ' + '{"a":' * 1000 + "1" + "}" * 1001,
    ],
    ids=lambda body: body[:20],
)
def test_values_as_deep_as_json_may_be_are_shown_shortly(client, body):
    response = client.post("/v1/generate", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422 and len(response.json()["error"]) < 250, response.text


def test_wrong_methods_types_encodings_and_paths(client):
    assert client.post("/v1/generate", content=b"{}").status_code == 415
    assert client.post("/v1/generate", data={"seed": 1}).json()["error_type"] == "unsupported_media_type"
    assert client.delete("/v1/generate").status_code == 405
    assert client.put("/v1/grid", json={}).status_code == 405
    assert client.post("/livez").status_code == 405
    json_type = {"Content-Type": "application/json"}
    for encoding, status in (("br", 415), ("gzip", 400)):
        headers = json_type | {"Content-Encoding": encoding}
        assert client.post("/v1/generate", content=b"{}", headers=headers).status_code == status
    for path in (
        "/nope",
        "/studio/../app.py",
        "/studio/%2e%2e/app.py",
        "/studio/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
    ):
        response = client.get(path)
        assert response.status_code == 404 and response.json()["error_type"] == "not_found", path


def test_a_gzip_bomb_is_unpacked_only_to_the_limit(client):
    import gzip

    small = gzip.compress(json.dumps({"seed": 1, "format": "npy"}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert client.post("/v1/generate", content=small, headers=headers).status_code == 200
    bomb = gzip.compress(b"0" * 100_000_000)
    assert client.post("/v1/generate", content=bomb, headers=headers).status_code == 413
    assert client.post("/v1/generate", content=small[:-9], headers=headers).status_code == 400


def test_query_strings_are_checked_like_bodies(client):
    for query in (
        "seed=x",
        "num_frames=1.5",
        "fps=nan",
        "fps=inf",
        "fps=-1",
        "sede=1",
        "seed=%00",
        "format=",
        "latents=1",
    ):
        response = client.get(f"/v1/generate?{query}")
        assert response.status_code == 422, (query, response.text)
    for query in ("rows=0", "rows=9&columns=9", "content_seeds=1,b", "rows=3&content_seeds=1,2", "categories=0"):
        response = client.get(f"/v1/grid?{query}")
        assert response.status_code in (413, 422), (query, response.text)
