"""Our own client and load generator against a server in its own process."""

import asyncio
import json

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8
from serving.client import AsyncClient, Client, RequestFailed
from serving.load import main, run_load


@pytest.fixture(scope="module")
def clip(engine):
    video, _ = engine.generate(sample_latents(engine.bundle.latents, 2, 16, seed=5))
    return to_uint8(video)


def test_the_client(server, clip, tmp_path):
    with Client(server.url) as client:
        assert client.info()["default_model"] == "tiny"
        assert np.array_equal(client.generate(seed=5, num_videos=2), clip)
        assert client.grid(seed=5, rows=2, columns=3, num_frames=4).shape == (6, 4, 16, 16, 3)
        assert Image.open(client.save(tmp_path / "clip.gif", seed=5, scale=2)).size == (32, 32)
        with pytest.raises(RequestFailed, match="422 validation: `seed`"):
            client.generate(seed=-1)
        with pytest.raises(ValueError, match="`path` must end in"):
            client.save(tmp_path / "clip.avi")
        frames = []
        for chunk in client.stream(seed=5, fps=120, chunk_frames=4):
            frames.append(chunk)
            if len(frames) == 4:
                break
        assert np.abs(np.concatenate(frames).astype(int) - clip[0]).max() <= 1
        with pytest.raises(RequestFailed, match="not_found"):
            next(client.stream(model="none"))


def test_the_async_client(server, clip, tmp_path):
    async def talk():
        async with AsyncClient(server.url) as client:
            both = await asyncio.gather(client.generate(seed=5, num_videos=2), client.generate(seed=5))
            assert np.array_equal(both[0], clip) and np.array_equal(both[1], clip[:1])
            assert (await client.save(tmp_path / "clip.webp", seed=5)).stat().st_size > 100
            async for chunk in client.stream(seed=5, fps=120, chunk_frames=16):
                assert np.abs(chunk.astype(int) - clip[0]).max() <= 1
                break

    asyncio.run(talk())


def test_the_load_generator_counts_what_it_sent(server, capsys):
    report = asyncio.run(run_load(server.url, 20, 1.0, query="num_frames=2&format=npy"))
    assert report["sent"] == 20 == report["answered"] + sum(kind["count"] for kind in report["refused"].values())
    assert report["p50_ms"] <= report["p95_ms"] <= report["p99_ms"]
    bad = asyncio.run(run_load(server.url, 20, 0.5, query="num_frames=-2"))
    assert bad["answered"] == 0 and bad["refused"]["422"]["count"] == 10
    assert main([server.url, "--rate=10", "--seconds=0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["sent"] == 5


@pytest.mark.parametrize(
    "flags",
    [
        "ftp://x --rate=1",
        "http://h:99999 --rate=1",
        "http://h:x --rate=1",
        "http://[::1 --rate=1",
        "http://h --rate=nan",
        "http://h --rate=1 --rate=inf",
        "http://h --rate=0",
        "http://h --rate=1 --seconds=inf",
        "http://h --rate=1 --seconds=nan",
        "http://h --rate=1 --seconds=-1",
    ],
)
def test_a_bad_load_is_refused_in_one_line(capsys, flags):
    assert main(flags.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m serving.load: an http:// URL and positive, finite --rate and --seconds")
    assert flags.split()[0] in line
