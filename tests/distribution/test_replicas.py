"""Promises of training on several devices."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from mocogan_tf.config import Config
from mocogan_tf.distribution import devices, hardware

ROOT = pathlib.Path(__file__).parents[2]


def results(tmp_path, model, floatx="float32", **fields):
    """What `tests.support.replicas` writes: arrays by name, by way of training."""
    out = tmp_path / "results.npz"
    command = [sys.executable, "-m", "tests.support.replicas", str(out), model, floatx, json.dumps(fields)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = {}
    for key, value in np.load(out).items():
        way, _, name = key.partition(": ")
        found.setdefault(way, {})[name] = value
    return found


def assert_same(one, other, atol, pixels=1):
    assert sorted(one) == sorted(other)
    for name in one:
        if name == "clips":
            assert one[name].shape == other[name].shape
            assert np.abs(one[name].astype(int) - other[name]).max() <= pixels
        else:
            np.testing.assert_allclose(other[name], one[name], atol=atol, rtol=0, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_devices_end_in_the_weights_and_samples_of_one_on_the_same_global_batches(tmp_path):
    """In float64 and by plain gradient descent: what is left between device counts is an error, in scale as well.

    One device makes all steps in one call, as the profile `paper` does. Two cannot.
    """
    found = results(tmp_path, "mocogan", "float64", ways=["one", "two"], sgd=True, steps_per_execution=3)
    assert_same(found["one"], found["two"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("model", "fields"), [("vgan", {}), ("tgan", {"clip_every": 2})])
def test_the_baselines_end_in_the_same_weights_and_samples_on_two_devices_and_by_xla(model, fields, tmp_path):
    """As above. XLA compiles losses and gradients only, whatever the optimizer does with them."""
    ways = ["one", "two", "two, own statistics", "two, own statistics, XLA"]
    found = results(tmp_path, model, "float64", **fields, ways=ways, sgd=True)
    assert_same(found["one"], found["two"], atol=1e-5)
    assert_same(found["two, own statistics"], found["two, own statistics, XLA"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("fields", "atol"),
    [
        ({"noise_sigma": 0.1, "augment": "colour,translation,cutout", "image_frames": 2}, 2e-3),
        (
            {"discriminator_norm": "spectral", "r1_image": 1.0, "r1_video": 1.0, "r1_every": 2, "share_fakes": True},
            2e-3,
        ),
        ({"share_fakes": True, "precision": "mixed_float16"}, 0.01),
    ],
)
def test_xla_gives_the_losses_and_weights_of_the_plain_step_on_two_devices_and_two_those_of_one(fields, atol, tmp_path):
    """What XLA must not change on one device it must not change on either of two."""
    one = [] if "noise_sigma" in fields else ["one", "two"]  # Instance noise is drawn on each replica.
    found = results(tmp_path, "mocogan", **fields, ways=[*one, "two, own statistics", "two, own statistics, XLA"])
    pixels = 8 if "precision" in fields else 1
    if one:
        assert_same(found["one"], found["two"], atol, pixels)
    assert_same(found["two, own statistics"], found["two, own statistics, XLA"], atol, pixels)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_xla_gives_the_losses_and_weights_of_the_plain_step_in_bfloat16(tmp_path):
    """On one device: without a loss scale, no second device does anything of its own in this precision."""
    found = results(tmp_path, "mocogan", share_fakes=True, precision="mixed_bfloat16", ways=["one", "one, XLA"])
    assert_same(found["one"], found["one, XLA"], atol=0.05, pixels=8)


@pytest.mark.core
def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(
        ValueError, match="divisible by the number of replicas, 2. Received: video_batch=5.*video_batch=6"
    ):
        devices.check_batches(Config(image_batch=4, video_batch=5), 2)


@pytest.mark.core
@pytest.mark.parametrize(
    ("has_gpu", "with_cuda", "visible", "words"),
    [
        (False, True, None, r"profile: cpu \(no GPU visible\)"),
        (True, False, None, r"has an NVIDIA GPU, but this TensorFlow is built without CUDA.*install the extra `gpu`"),
        (True, True, None, r"has an NVIDIA GPU, but TensorFlow does not find its CUDA libraries.*extra `gpu`"),
        (True, True, "-1", r"profile: cpu \(no GPU visible\)"),
    ],
)
def test_a_gpu_that_tensorflow_does_not_see_is_told_of_with_what_to_install(
    has_gpu, with_cuda, visible, words, monkeypatch, capsys
):
    monkeypatch.setattr(devices.tf.config, "list_physical_devices", lambda kind=None: [])
    monkeypatch.setattr(devices.tf.test, "is_built_with_cuda", lambda: with_cuda)
    monkeypatch.setattr(hardware, "has_nvidia_gpu", lambda: has_gpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.choose_profile("auto") == "cpu"
    assert re.search(words, capsys.readouterr().out)


@pytest.fixture(scope="module")
def on_two_devices():
    """What `tests.support.two_devices` finds."""
    command = [sys.executable, "-m", "tests.support.two_devices"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


@pytest.mark.core
def test_two_replicas_make_the_step_of_one_on_the_whole_batch(on_two_devices):
    assert on_two_devices["shared_step"] == pytest.approx(0.0, abs=1e-5)  # Undivided, it would be -1.


@pytest.mark.core
def test_a_strategy_splits_every_part_of_a_batch_over_its_replicas(on_two_devices):
    assert on_two_devices["shared_batch"] == {
        "images": [[3, 3], True], "videos": [[2, 2], True], "labels": [[2, 2], True]
    }  # fmt: skip


@pytest.mark.core
def test_infinite_gradients_of_any_replica_halve_the_loss_scale_and_leave_the_weights_alone(on_two_devices):
    # After the step that overflows; and after one whose gradients are 8 and 16, at the scale of 4 that is left.
    assert on_two_devices["overflow"] == [[1.0, 4.0], [-2.0, 4.0]]
