"""Promises of the commands: what they print, how they end, and what bad input gets."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
TINY = (
    "--dataset=shapes",
    "--profile=smoke",
    "--num_clips=8",
    "--image_size=32",
    "--video_length=4",
    "--ngf=4",
    "--ndf=4",
    "--precision=float32",
)


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"},
        **options,
    )


def run(*arguments):
    process = start(*arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def complaint(err):
    """The one line that an error is; TensorFlow's own lines before it do not count."""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "FATAL Flags parsing error"))]
    assert len(lines) == 1, err
    return err[err.index(lines[0]) :].strip()


@pytest.mark.core
@pytest.mark.parametrize("script", ["train.py", "sample.py"])
def test_help_names_every_flag_and_does_not_wait_for_tensorflow(script):
    code = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    status, out, _ = run("-c", code)
    assert status == 0
    assert "--seed" in out and "--run_dir" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset=kinetics"], ["kinetics", "taichi", "shapes", "folder"]),
        (["--dataset=mug"], ["mug", "--data_dir", "prepare.py"]),
        (["--dataset=folder", "--data_dir=/nowhere"], ["/nowhere"]),
        (["--image_size=48"], ["32, 64 or 128", "48"]),
        (["--category_to=both"], ["motion|image", "both"]),
        (["--steps=many"], ["steps", "many"]),
        (["--video_batch=5", "--cpu_devices=2"], ["video_batch", "5", "2"]),
        (["taichi"], ["unexpected argument 'taichi'"]),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_1(flags, words, tmp_path):
    status, _, err = run("train.py", *flags, "--profile=smoke", f"--run_dir={tmp_path}/run")
    assert status == 1
    line = complaint(err)
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.mark.core
def test_dry_run_prints_the_configuration_parameters_and_shapes_and_writes_no_run(tmp_path):
    status, out, _ = run("train.py", *TINY, "--dry_run", f"--run_dir={tmp_path}/run", f"--cache_dir={tmp_path}/cache")
    assert status == 0
    configuration = json.loads(out[out.index("{") : out.index("}") + 1])
    assert configuration["dim_category"] == 2 and configuration["steps"] == 120
    for expected in ("generator: ", "video discriminator: ", "images: 8 x 32 x 32 x 3", "videos: 4 x 4 x 32 x 32 x 3"):
        assert expected in out
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_go_on_and_ends_with_its_code(number, code, tmp_path):
    run_dir = tmp_path / "run"
    process = start(
        "train.py", *TINY, f"--run_dir={run_dir}", f"--cache_dir={tmp_path}/cache", "--steps=100000", "--log_every=1"
    )
    for line in process.stdout:
        if line.startswith("step "):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "the same command goes on from there" in out
    assert "Traceback" not in err
    logged = [json.loads(line)["step"] for line in (run_dir / "log.jsonl").read_text().splitlines()]
    saved = sorted((run_dir / "checkpoints").glob("step-*.json"))
    assert json.loads(saved[-1].read_text())["step"] == logged[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few steps, and of two categories."""
    folder = tmp_path_factory.mktemp("trained")
    status, _, err = run("train.py", *TINY, f"--run_dir={folder}/run", f"--cache_dir={folder}/cache", "--steps=2")
    assert status == 0, err
    return folder / "run"


@pytest.mark.slow
def test_sample_writes_what_it_says_and_clip_i_of_a_seed_is_the_same_however_many(trained, tmp_path):
    status, out, err = run(
        "sample.py", f"--run_dir={trained}", f"--out={tmp_path}/a", "--num_videos=4", "--formats=npy,webp,gif,apng,png"
    )
    assert status == 0, err
    assert "4 clips of 4 frames from step 2" in out
    clip = np.load(tmp_path / "a" / "random-0001.npy")
    assert (clip.shape, clip.dtype) == ((4, 32, 32, 3), np.uint8)
    for suffix in ("webp", "gif", "apng"):
        assert Image.open(tmp_path / "a" / f"random-0001.{suffix}").n_frames == 4
    assert Image.open(tmp_path / "a" / "random-0001.png").size == (4 * 32, 32)
    assert Image.open(tmp_path / "a" / "random-grid.webp").size == (2 * 34 - 2, 2 * 34 - 2)
    run("sample.py", f"--run_dir={trained}", f"--out={tmp_path}/b", "--num_videos=2", "--frames=7", "--formats=npy")
    longer = np.load(tmp_path / "b" / "random-0001.npy")
    assert len(longer) == 7
    assert np.abs(longer[:4].astype(int) - clip).max() <= 1  # Another batch size may round a pixel the other way.


@pytest.mark.parametrize("fps", ["1e-9", "-1", "nan", "inf"])
def test_sample_refuses_a_speed_that_no_format_holds(fps, tmp_path):
    status, _, err = run("sample.py", "--run_dir=x", f"--out={tmp_path}", f"--fps={fps}")
    assert status == 1 and "must be 0, or in [0.1, 1000]" in complaint(err)


@pytest.mark.slow
def test_the_grid_of_any_number_of_random_clips_is_about_square(trained, tmp_path):
    status, _, err = run("sample.py", f"--run_dir={trained}", f"--out={tmp_path}", "--num_videos=7")
    assert status == 0, err
    assert Image.open(tmp_path / "random-grid.webp").size == (3 * 34 - 2, 3 * 34 - 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--run_dir=/nowhere"], "/nowhere"),
        (["--formats=bmp"], "Unknown format 'bmp'. Known: gif, webp"),
        (["--checkpoint=77"], "There are: latest, best, 2"),
        (["--category=5"], "must be in [0, 2)"),
    ],
)
def test_sample_refuses_what_it_cannot_do(trained, flags, words, tmp_path):
    status, _, err = run("sample.py", f"--run_dir={trained}", f"--out={tmp_path}", *flags)
    assert status == 1
    assert words in complaint(err)
