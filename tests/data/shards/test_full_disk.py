"""A disk that is really full: a file system of a few kilobytes, in a mount namespace that only the command sees."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from mocogan_tf.data.cache import FRAMES_FILE, INDEX_FILE, VideoSetWriter
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import prepare
from tests.support.made_clips import frames_of, save_strip

pytestmark = pytest.mark.core
ROOT = pathlib.Path(__file__).parents[3]
NO_MOUNT = 77
PREPARE = ("prepare.py", "--image_size=32", "--min_frames=7", "--encoding=raw", "--clips_per_shard=2")
OPEN = """
import sys
from mocogan_tf import cli
from mocogan_tf.config import Config
from mocogan_tf.data.datasets import open_videos
cli.run(lambda argv: print(len(open_videos(Config.from_json(argv[1])))), positional=1)
"""


@pytest.fixture
def clips(tmp_path):
    for i in range(8):
        save_strip(tmp_path / "clips" / f"{i}.png", frames_of(8, first=10 * i))  # 24 kB of pixels each.
    return tmp_path / "clips"


@pytest.fixture
def on_small_disk(tmp_path):
    """Runs shell lines with a file system of the given size at the folder `disk`; skips where none can be mounted."""
    (tmp_path / "disk").mkdir()
    unshare = shutil.which("unshare")

    def run(size, lines):
        if unshare is None:
            pytest.skip("needs unshare, of util-linux")
        mount = f"mount -t tmpfs -o size={size} none {tmp_path}/disk || exit {NO_MOUNT}"
        command = [unshare, "--mount", "--user", "--map-root-user", "sh", "-c", f"{mount}\n{lines}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode == NO_MOUNT or "unshare" in done.stderr:
            pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
        return done

    return run


def errors(done):
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_prepare_says_so_in_one_line_leaves_nothing_half_written_and_goes_on_when_there_is_room(
    clips, tmp_path, on_small_disk
):
    arguments = (*PREPARE, str(clips), f"--out={tmp_path}/disk/out")
    command = " ".join([sys.executable, *arguments])
    lines = [
        f"{command}; echo code $?",
        f"cp -r {tmp_path}/disk/out {tmp_path}/stopped",
        f"mount -o remount,size=4m {tmp_path}/disk",
        f"{command}; echo code $?",
        f"cp -r {tmp_path}/disk/out {tmp_path}/whole",
    ]
    done = on_small_disk("120k", "\n".join(lines))
    (error,) = errors(done)
    assert error.startswith(f"error: Cannot write to {tmp_path}/disk/out: ") and "No space left on device" in error
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == ["code 1", "code 0"]
    options = PrepareOptions(image_size=32, min_frames=7, encoding="raw", clips_per_shard=2)
    prepare(clips, tmp_path / "fresh", options)
    expected, stopped = contents(tmp_path / "fresh"), contents(tmp_path / "stopped")
    assert 0 < len(stopped) < len(expected) and stopped.items() <= expected.items() and "manifest.json" not in stopped
    assert contents(tmp_path / "whole") == expected


def test_a_cache_on_it_is_one_line_and_leaves_nothing(clips, tmp_path, make_config, on_small_disk):
    config = make_config(data_dir=str(clips), cache_dir=str(tmp_path / "disk" / "cache"))
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "open.py").write_text(OPEN)
    command = f"{sys.executable} {tmp_path}/open.py {tmp_path}/config.json"
    done = on_small_disk("100k", f"{command}; echo code $?; ls -A {tmp_path}/disk/cache | sed 's/^/left: /'")
    (error,) = errors(done)
    assert error.startswith(f"error: Cannot keep decoded clips in {tmp_path}/disk/cache: No space left on device")
    assert done.stdout.split("\n", 1) == ["code 1", ""]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_set_of_tiny_clips_that_stay_in_the_buffer_is_abandoned_too(tmp_path):
    (tmp_path / FRAMES_FILE).symlink_to("/dev/full")
    writer = VideoSetWriter(tmp_path, image_size=32, channels=1)
    with pytest.raises(OSError, match="No space left"):
        for i in range(9):
            writer.append(str(i), "", frames_of(1, channels=1))
    writer.abandon()
    assert not (tmp_path / INDEX_FILE).exists()
