"""Promise: a run that is killed, however often and whenever, ends as one that was never disturbed."""

import json
import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.training import checkpoints

ROOT = pathlib.Path(__file__).parents[2]


def log(run_dir):
    """The log without the pace, which no two runs share."""
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds_per_step", "clips_per_second")} for line in lines]


def curves(run_dir):
    """TensorBoard's points, (tag, step, value), in order."""
    points = []
    for path in (run_dir / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                points.append((value.tag, event.step, value.tensor.SerializeToString()))
    return sorted(points)


def arrays(run_dir, step):
    found = {}
    with h5py.File(checkpoints.paths(run_dir, step)[0]) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_twenty_moments_writes_what_an_undisturbed_one_writes(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    chains = []
    for seed, folder in enumerate(folders):  # Two at a time, ten kills each.
        folder.mkdir()
        command = [sys.executable, "-m", "tests.support.killing", str(folder), str(seed), "10"]
        chains.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for chain, folder in zip(chains, folders, strict=True):
        out, err = chain.communicate()
        assert chain.returncode == 0, err
        assert out.count("killed: ") == 10
        killed, whole = folder / "killed", folder / "whole"
        steps = [line["step"] for line in log(whole)]
        assert log(killed) == log(whole) and steps == list(range(1, steps[-1] + 1))
        assert [point for point in curves(killed) if point[0] != "samples"] == [
            point for point in curves(whole) if point[0] != "samples"
        ]
        # Four steps after the last checkpoint of three: 4 = 3 + the one at the end.
        assert checkpoints.steps(killed) == checkpoints.steps(whole) == [steps[-1] - 1, steps[-1]]
        assert len(list((killed / checkpoints.FOLDER).iterdir())) == 4  # Nothing half-written is left.
        for name, expected in arrays(whole, steps[-1]).items():
            np.testing.assert_array_equal(arrays(killed, steps[-1])[name], expected, err_msg=name)
