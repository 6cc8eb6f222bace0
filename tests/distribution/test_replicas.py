"""Promises of training on several devices."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mocogan_tf.config import MODELS, Config
from mocogan_tf.distribution import devices

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_two_devices_end_in_the_weights_of_one_on_the_same_global_batches(model, tmp_path):
    results = []
    for num_devices in (1, 2):
        out = tmp_path / f"{num_devices}.npz"
        command = [sys.executable, "-m", "tests.support.replicas", str(num_devices), str(out), model]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        results.append(np.load(out))
    one, two = results
    assert sorted(one.files) == sorted(two.files)
    for name in one.files:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.core
def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(
        ValueError, match="divisible by the number of replicas, 2. Received: video_batch=5.*video_batch=6"
    ):
        devices.check_batches(Config(image_batch=4, video_batch=5), 2)
