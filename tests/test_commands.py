"""Promises of the commands: what they print, how they end, and what bad input gets."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import ROOT, TINY, complaint, run, start


@pytest.mark.core
@pytest.mark.parametrize("script", ["train.py", "sample.py", "evaluate.py"])
def test_help_names_every_flag_and_does_not_wait_for_tensorflow(script):
    code = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    process = start("-c", code)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "--seed" in out and "--run_dir" in out


@pytest.mark.core
def test_help_of_training_is_grouped_shows_the_defaults_that_would_be_taken_and_ends_with_0():
    status, out, err = run("train.py", "--profile=smoke", "--model=tgan", "--help")
    assert (status, err) == (0, "")
    titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    groups = ["start here", "data", "model", "objective", "optimiser", "devices", "what is written"]
    assert titles == [f"{group}:" for group in groups]
    for line in ("--steps=120", "--video_batch=4", "--learning_rate=5e-05", "--[no]sync_batch_norm (on)"):
        assert line in out
    _, out, _ = run("train.py", "--profile=cpu", "--help")
    assert "--steps=3600" in out and "--video_batch=8" in out


@pytest.mark.core
def test_help_is_quiet_when_its_reader_has_enough():
    process = start("train.py", "--help")
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (0, "")
    process.stderr.close()


@pytest.mark.core
def test_an_unknown_set_is_refused_before_tensorflow_is_imported():
    code = (
        "import runpy, sys; sys.argv = ['train.py', '--dataset=tachi']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    out, err = start("-c", code).communicate()
    assert out.split() == ["1", "False"]
    assert "tachi" in complaint(err)


@pytest.mark.slow
@pytest.mark.core
def test_tensorflow_starts_in_silence_unless_it_is_asked_to_speak(tmp_path):
    arguments = ["train.py", *TINY, "--dry_run", f"--cache_dir={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}

    def said(*more):
        process = subprocess.run(
            [sys.executable, *arguments, *more], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr
        return process.stderr

    said()  # Renders, with a progress bar.
    assert said() == ""
    assert re.search("InitializeLog|port.cc", said("--verbosity=0"))  # By TensorFlow's version.


@pytest.mark.slow
@pytest.mark.core
def test_clips_of_a_folder_name_the_run_and_warnings_are_plain(tmp_path):
    for i, name in enumerate(["a", "b", "c", "d"]):
        frames = np.full((4, 32, 32, 3), 40 * i, np.uint8)
        frames = frames[:2] if name == "d" else frames  # Too short: a warning.
        (tmp_path / "own").mkdir(exist_ok=True)
        np.save(tmp_path / "own" / f"{name}.npy", frames)
    flags = [flag for flag in TINY if not flag.startswith(("--dataset", "--num_clips"))]
    flags += [f"--data_dir={tmp_path}/own", f"--cache_dir={tmp_path}/cache", "--steps=1", "--every_nth=1"]
    flags += ["--image_batch=2", "--video_batch=2"]

    def trained_with(*more):
        return subprocess.CompletedProcess((), *run("train.py", *flags, *more, cwd=tmp_path))

    process = trained_with()
    assert process.returncode == 0, process.stderr
    run_dir = tmp_path / "runs" / "own-smoke"
    assert json.loads((run_dir / "config.json").read_text())["dataset"] == "folder"
    (line,) = [line for line in process.stderr.splitlines() if "have fewer than" in line]
    assert line.startswith("warning: 1 of 4 clips")

    os.remove(tmp_path / "own" / "a.npy")
    process = trained_with("--steps=2")
    assert process.returncode == 1
    assert "1 gone (a.npy/000000)" in complaint(process.stderr) and "--allow_changed_data" in process.stderr
    process = trained_with("--steps=2", "--allow_changed_data")
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset=kinetics"], ["kinetics", "taichi", "shapes", "folder"]),
        (["--dataset=mug"], ["mug", "--data_dir", "prepare.py"]),
        (["--dataset=folder", "--data_dir=/nowhere"], ["/nowhere"]),
        (["--image_size=48"], ["32, 64 or 128", "48"]),
        (["--category_to=decoder"], ["motion|image|both", "decoder"]),
        (["--mask_weight=0.5"], ["mask_weight=0.5", "does nothing", "still_background=False"]),
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


# Trains with a second checkpoint that takes a minute.
SLOW_SAVE = """
import time
from mocogan_tf.training import checkpoints
save, saved = checkpoints.save, []
def slow_save(*args, **kwargs):
    saved.append(save(*args, **kwargs))
    if len(saved) == 2:
        print("in the second save", flush=True)
        time.sleep(60)
checkpoints.save = slow_save
from mocogan_tf.commands.train import run
run()
"""


@pytest.mark.slow
def test_ctrl_c_is_answered_while_it_saves_and_a_second_one_ends_at_once_without_harm(tmp_path):
    run_dir = tmp_path / "run"
    flags = [*TINY, f"--run_dir={run_dir}", f"--cache_dir={tmp_path}/cache", "--checkpoint_every=2"]
    process = start("-c", SLOW_SAVE, *flags)
    for line in process.stdout:
        if line.startswith("in the second save"):
            break
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    answer = next(line for line in process.stderr if line.startswith("saving at step "))
    assert "press again to stop without saving" in answer
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 10  # Two seconds on a machine that is not busy; the save takes sixty.
    assert process.returncode == 130
    saved = sorted((run_dir / "checkpoints").glob("step-*.json"))
    assert len(saved) == 2
    for description in saved:
        weights = description.with_name(description.name.replace(".json", ".weights.h5"))
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == json.loads(description.read_text())["sha256"]


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
        (["--category=down"], "There are: up, left"),
        (["--checkpoint=best"], "Use latest, or a step: 2"),
        (["--frames=1000000"], "A .webp is made in memory as a whole"),
    ],
)
def test_sample_refuses_what_it_cannot_do(trained, flags, words, tmp_path):
    status, _, err = run("sample.py", f"--run_dir={trained}", f"--out={tmp_path}", *flags)
    assert status == 1
    assert words in complaint(err)


@pytest.mark.core
def test_a_run_that_is_not_there_is_told_with_those_that_are(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    status, _, err = run("sample.py", f"--run_dir={tmp_path}/runs/three", f"--out={tmp_path}/out")
    assert status == 1
    line = complaint(err)
    assert f"There are: {tmp_path}/runs/one, {tmp_path}/runs/two" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_category_is_chosen_by_name_or_number(trained, tmp_path):
    flags = [f"--run_dir={trained}", "--num_videos=2", "--formats=npy"]
    for category in ("left", "1"):
        status, _, err = run("sample.py", *flags, f"--out={tmp_path}/{category}", f"--category={category}")
        assert status == 0, err
    by_name, by_number = (np.load(tmp_path / name / "random-0001.npy") for name in ("left", "1"))
    np.testing.assert_array_equal(by_name, by_number)


@pytest.mark.slow
def test_a_bundle_is_sampled_as_a_run_is_by_the_rule_of_its_recorded_clips(tmp_path):
    bundle = ROOT / "pretrained" / "shapes"
    golden = np.load(bundle / "golden.npz")
    number, frames = golden["video"].shape[:2]
    flags = [f"--num_videos={number}", f"--frames={frames}", f"--seed={int(golden['seed'])}", "--formats=npy"]
    status, out, err = run("sample.py", f"--bundle={bundle}", f"--out={tmp_path}", *flags)
    assert status == 0, err
    assert f"{number} clips of {frames} frames from step 16000" in out
    expected = np.clip(np.round((golden["video"] + 1) * 127.5), 0, 255)
    for i in range(number):
        assert np.abs(np.load(tmp_path / f"random-{i:04d}.npy") - expected[i]).max() <= 1
