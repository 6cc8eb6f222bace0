"""The first hour of somebody who brings their own clips: the commands of the README, one after the other."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests.support.made_clips import save_video

av = pytest.importorskip("av")
pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent
# (file, height, width, frames per second, seconds)
CLIPS = [
    ("wave/short.mp4", 48, 64, 15, 2),
    ("wave/portrait.mp4", 96, 54, 30, 3),
    ("wave/square.avi", 48, 48, 15, 3),
    ("jump/one.mov", 64, 64, 60, 3),
    ("jump/two.mp4", 36, 64, 24, 3),
]
# The smallest networks, and a handful of steps.
SMALL = "--profile=smoke --steps=3 --ngf=4 --ndf=4 --image_batch=2 --video_batch=2 --precision=float32".split()


def film(height, width, number):
    """A bright square that moves across a dark picture."""
    frames = np.full((number, height, width, 3), 40, np.uint8)
    for i in range(number):
        frames[i, 8:24, (left := i % (width - 16)) : left + 16] = 220
    return frames


def save_with_audio(path, frames, fps):
    with av.open(str(path), "w") as output:
        picture, sound = output.add_stream("mpeg4", rate=fps), output.add_stream("aac", rate=44100)
        picture.height, picture.width, picture.pix_fmt = *frames.shape[1:3], "yuv420p"
        for pixels in frames:
            output.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        samples = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        samples.sample_rate = 44100
        output.mux(sound.encode(samples))
        output.mux([*picture.encode(), *sound.encode()])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with clips as people have them, where the commands are run."""
    home = tmp_path_factory.mktemp("home")
    for name, height, width, fps, seconds in CLIPS:
        save_video(home / "my_clips" / name, film(height, width, fps * seconds), codec="mpeg4", fps=fps)
    save_with_audio(home / "my_clips" / "jump" / "loud.mp4", film(48, 48, 90), 30)
    whole = (home / "my_clips" / "wave" / "short.mp4").read_bytes()
    (home / "my_clips" / "wave" / "damaged.mp4").write_bytes(whole[: len(whole) // 2])
    return home


def call(home, command, *more):
    """Runs a command as the README writes it; returns its exit code, output and messages."""
    words = shlex.split(command)
    assert words[0] == "python"
    process = subprocess.run(
        [sys.executable, str(ROOT / words[1]), *words[2:], *more],
        cwd=home,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home / "cache")},
    )
    assert "Traceback" not in process.stderr
    return process.returncode, process.stdout, process.stderr


def test_from_own_videos_to_clips_and_scores(home):
    code, said, errors = call(home, "python prepare.py my_clips --out=prepared --image_size=32")
    assert code == 0, errors
    assert "5 clips" in said and "Classes: jump 3, wave 2." in said
    assert "Rejected wave/short.mp4: 30 frames; --min_frames=31" in said
    assert re.search(r"^Rejected wave/damaged.mp4: .+", said, re.MULTILINE) and "Rejected in all: 2" in said
    (rate,) = re.findall(r"^Frame rates differ, from 15 to 60 per second.*--fps=(\S+) ", said, re.MULTILINE)

    # As proposed: one rate, and the short clip too. The suggested command takes it.
    flags = f"--image_size=32 --fps={rate} --min_frames=30 --overwrite"
    code, said, errors = call(home, f"python prepare.py my_clips --out=prepared {flags}")
    assert code == 0 and "6 clips" in said and "rates differ" not in said, errors
    (command,) = re.findall(r"^Train with: (.+)$", said, re.MULTILINE)
    assert command.endswith("--every_nth=1")

    code, said, errors = call(home, command, *SMALL)
    assert code == 0, errors
    assert "6 clips, 2 categories" in said and "left out" not in errors
    run = home / "runs" / "prepared-smoke"
    assert (run / "samples" / "step-00000003.webp").exists() and (run / "checkpoints" / "step-00000003.json").exists()

    code, said, errors = call(
        home, "python sample.py --run_dir=runs/prepared-smoke --out=out --category=jump --num_videos=4 --formats=gif"
    )
    assert code == 0 and "4 clips of 16 frames" in said, errors
    assert len(list((home / "out").glob("random-*.gif"))) == 5

    # The folder also holds the grid that sample.py wrote.
    code, said, errors = call(home, "python evaluate.py --clips=out --metrics=motion,diversity --report=report")
    assert code == 0, errors
    scores = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {score["metric"] for score in scores} == {"motion", "diversity"}
    assert {score["num_videos"] for score in scores} == {4}
    assert "warning: out: left out, random-grid.gif" in errors
    assert (home / "report" / "index.html").exists()
