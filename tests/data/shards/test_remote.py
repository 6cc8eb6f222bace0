"""Shards that stream from a server: http and S3, both on loopback, in an environment with tensorflow-io."""

import hashlib
import http.server
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from mocogan_tf.config import Config
from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.shards import remote
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import prepare
from mocogan_tf.training import loop
from tests.support.made_clips import frames_of, save_strip
from tests.support.tiny import TINY

pytestmark = pytest.mark.core
ROOT = pathlib.Path(__file__).parents[3]
needs_tensorflow_io = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_io") is None, reason="needs tensorflow-io (extra io)"
)


@pytest.fixture
def encoding():
    return "png"


@pytest.fixture
def prepared(tmp_path, encoding):
    for i in range(6):
        save_strip(tmp_path / "clips" / ("up" if i % 2 else "down") / f"{i}.png", frames_of(8, first=20 * i))
    options = PrepareOptions(image_size=32, min_frames=8, clips_per_shard=2, encoding=encoding)
    prepare(tmp_path / "clips", tmp_path / "out", options)
    return tmp_path / "out"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and ranges of them, as object stores do."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        try:
            content = pathlib.Path(self.translate_path(self.path)).read_bytes()
        except OSError:
            return self.send_error(404)
        span, status = self.headers.get("Range"), 200
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            total, status = len(content), 206
            if int(first) >= total:
                return self.send_error(416)
            content = content[int(first) : int(last or total - 1) + 1]
        self.send_response(status)
        if span:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{total}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def web(tmp_path):
    handler = lambda *args: _Handler(*args, directory=str(tmp_path))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def digest(frames):
    return str(frames.shape), hashlib.sha256(frames.tobytes()).hexdigest()


def clips_of(videos):
    """Class and pixels of each clip, by name."""
    return {name: (videos.categories[videos.labels[i]], digest(videos[i])) for i, name in enumerate(videos.names)}


PREPARED = {
    f"{category}/{i}.png": (category, digest(frames_of(8, first=20 * i)))
    for i, category in enumerate(("down", "up") * 3)
}


@needs_tensorflow_io
@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_shards_stream_over_http(prepared, web, make_config):
    assert clips_of(open_videos(make_config(data_dir=f"{web}/out"))) == PREPARED


@needs_tensorflow_io
def test_training_streams_its_clips_over_http(prepared, web, tmp_path):
    changes = {"dataset": "folder", "data_dir": f"{web}/out", "cache_dir": str(tmp_path / "cache"), "steps": 2}
    assert loop.train(Config(**{**TINY, **changes, "log_every": 1}, asked=changes), tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and "loss_category_d" in lines[0]


@needs_tensorflow_io
def test_a_missing_folder_on_a_server_is_one_line(prepared, web, make_config):
    with pytest.raises(ValueError, match="Cannot read http://.*/nothing/manifest.json"):
        open_videos(make_config(data_dir=f"{web}/nothing"))


@needs_tensorflow_io
def test_shards_stream_from_s3_and_the_program_ends_with_0(prepared, make_config, monkeypatch):
    boto3 = pytest.importorskip("boto3")
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "S3_ENDPOINT": f"http://{host}:{port}",
        }.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="clips")
        for path in prepared.iterdir():
            if path.is_file():
                client.upload_file(str(path), "clips", f"set/{path.name}")
        config = make_config(data_dir="s3://clips/set")
        assert clips_of(open_videos(config)) == PREPARED
        code = (
            "import sys; from mocogan_tf.config import Config; from mocogan_tf.data.datasets import open_videos; "
            "from mocogan_tf.data.pipeline import training_batches; config = Config.from_json(sys.argv[1]); "
            "print(len(next(iter(training_batches(open_videos(config), config)))['videos']))"
        )
        fresh = make_config(data_dir="s3://clips/set", cache_dir=str(prepared.parent / "fresh"))
        (prepared.parent / "config.json").write_text(fresh.to_json())
        run = subprocess.run(
            [sys.executable, "-c", code, str(prepared.parent / "config.json")], cwd=ROOT, capture_output=True, text=True
        )
        assert run.returncode == 0 and run.stdout.strip() == "4", run.stderr
    finally:
        server.stop()


@pytest.mark.parametrize("scheme", ["s3", "http", "https", "az", "hdfs"])
def test_without_tensorflow_io_the_error_names_the_extra(make_config, monkeypatch, scheme):
    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"Reading {scheme}:// needs tensorflow-io: pip install 'mocogan-tf\[io\]'"):
        open_videos(make_config(data_dir=f"{scheme}://somewhere/set"))


def test_what_tensorflow_reads_itself_needs_no_extra(prepared, make_config):
    assert clips_of(open_videos(make_config(data_dir=f"file://{prepared}"))) == PREPARED


def test_training_does_not_load_tensorflow_io(prepared, make_config):
    code = (
        "import sys; from mocogan_tf.config import Config; from mocogan_tf.data.datasets import open_videos; "
        "open_videos(Config.from_json(sys.argv[1])); sys.exit('tensorflow_io' in sys.modules)"
    )
    path = prepared.parent / "config.json"
    path.write_text(make_config(data_dir=f"file://{prepared}").to_json())
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, env=dict(os.environ)).returncode == 0
