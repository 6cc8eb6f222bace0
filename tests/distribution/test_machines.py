"""Promises of training on several machines."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from mocogan_tf.data.pipeline import Replicas, training_batches
from mocogan_tf.distribution import cluster
from mocogan_tf.distribution.workers import WorkerLost, Workers, telling_of_lost_workers
from mocogan_tf.training import checkpoints
from mocogan_tf.training.stopping import StopOnSignal
from tests.support import workers
from tests.support.tiny import TINY, tiny_config

TWO = {"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 1}}


def environment(**changes):
    return {"TF_CONFIG": json.dumps({**TWO, **changes})}


@pytest.mark.core
@pytest.mark.parametrize("environ", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, environment(cluster={})])
def test_without_a_cluster_one_worker_trains_alone(environ):
    found = cluster.from_environment(environ)
    assert found.num_workers == 1 and found.is_chief


@pytest.mark.core
def test_the_chief_is_the_one_named_so_or_else_the_first_worker():
    assert cluster.from_environment(environment()) == cluster.Cluster(("a:2222", "b:2222"), 1)
    assert cluster.from_environment(environment(task={"type": "worker", "index": "0"})).is_chief
    with_chief = {"chief": ["c:1"], "worker": ["a:2222", "b:2222"]}
    found = cluster.from_environment(environment(cluster=with_chief))
    assert (found.addresses, found.index) == (("c:1", "a:2222", "b:2222"), 2)
    assert cluster.from_environment(environment(cluster=with_chief, task={"type": "chief", "index": 0})).is_chief


@pytest.mark.core
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (environment(cluster=["a:1"])["TF_CONFIG"], "jobs `worker`"),
        (environment(cluster={"worker": ["a:1"], "ps": ["b:1"]})["TF_CONFIG"], "and no others"),
        (environment(cluster={"worker": "a:1"})["TF_CONFIG"], 'a list of "host:port"'),
        (environment(cluster={"worker": ["a"]})["TF_CONFIG"], 'a list of "host:port"'),
        (environment(cluster={"worker": ["a:99999", "b:1"]})["TF_CONFIG"], 'a list of "host:port"'),
        (environment(cluster={"worker": ["a:1", "a:1"]})["TF_CONFIG"], "same address"),
        (environment(cluster={"chief": ["a:1", "b:1"], "worker": ["c:1"]})["TF_CONFIG"], "only one chief"),
        (environment(task={"type": "evaluator", "index": 0})["TF_CONFIG"], "type must be worker"),
        (environment(task={"type": "worker", "index": 2})["TF_CONFIG"], "index must be from 0 to 1"),
        (environment(task={"type": "worker"})["TF_CONFIG"], "index must be from 0 to 1"),
        (environment(task=None)["TF_CONFIG"], "type must be worker"),
    ],
)
def test_a_tf_config_that_is_wrong_is_refused_in_one_line_that_shows_a_right_one(text, why):
    with pytest.raises(ValueError) as caught:
        cluster.from_environment({"TF_CONFIG": text})
    message = str(caught.value)
    assert why in message and '"task": {"type": "worker", "index": 1}' in message and "\n" not in message


class Agreeing(Workers):
    """One worker of two; the other one gives the numbers of a list, one after the other."""

    def __init__(self, index, others):
        self.cluster = cluster.Cluster(("a:1", "b:1"), index)
        self.is_chief, self.num_workers = index == 0, 2
        self.others = list(others)

    def gather(self, value):
        other = self.others.pop(0)
        return [value, other] if self.is_chief else [other, value]


class Trained:
    """What a callback needs of a model."""

    def __init__(self, steps_per_execution=1):
        self.steps_per_execution, self.stop_training = steps_per_execution, False


@pytest.mark.core
def test_a_signal_to_one_worker_stops_all_at_the_same_step():
    stop = StopOnSignal(Agreeing(0, [0, 15]))
    stop.set_model(Trained())
    stop.on_train_begin()
    stop.on_train_batch_end(0)
    assert not stop.model.stop_training
    stop.on_train_batch_end(1)
    assert stop.model.stop_training and stop.signal == 15
    stop.restore()


@pytest.mark.core
@pytest.mark.parametrize(("at_once", "asked_after", "said"), [(1, [10, 20], 20), (4, [12, 20], 20)])
def test_workers_ask_for_each_others_signals_only_every_so_many_steps(at_once, asked_after, said):
    """To ask is to read a value of the device: it keeps the host waiting for all steps before."""
    others = Agreeing(0, [0, 15])
    stop = StopOnSignal(others, every=10)
    stop.set_model(Trained(at_once))
    stop.on_train_begin()
    asked = []
    while not stop.model.stop_training:
        before = len(others.others)
        stop.on_train_batch_end(0)
        asked += [stop.last_step] if len(others.others) < before else []
        if stop.last_step == 12:
            assert stop._last_of_all() == said
    stop.on_train_end()  # All know of the signal.
    stop.restore()
    assert asked == asked_after


@pytest.mark.core
def test_a_signal_after_the_last_question_ends_all_workers_with_the_same_code():
    stop = StopOnSignal(Agreeing(0, [2]), every=10)
    stop.set_model(Trained())
    stop.on_train_batch_end(0)
    stop.on_train_end()
    assert stop.signal == 2


@pytest.mark.core
def test_others_end_when_the_chief_cannot_start_and_all_when_they_differ():
    with pytest.raises(ValueError, match="The chief, a:1, could not start"), Agreeing(1, [1]).chief_first():
        pytest.fail("the others must not go on")
    failing = Agreeing(0, [0])
    with pytest.raises(ValueError, match="no clips"), failing.chief_first():
        raise ValueError("no clips")
    assert not failing.others  # They were told.
    with pytest.raises(ValueError, match=r"same clips. Other than the chief's: b:1\."):
        Agreeing(0, [7]).check_same("clips", [1, 2])


@pytest.mark.core
def test_only_among_several_workers_is_a_lost_connection_a_lost_worker():
    import tensorflow as tf

    error = tf.errors.UnavailableError(None, None, "first\nCollective ops is aborted by: task:1 is gone.")
    with pytest.raises(WorkerLost, match=r"Worker 1 \(b:1\) has lost the others: .*task:1 is gone\. Start all"):
        with telling_of_lost_workers(cluster.Cluster(("a:1", "b:1"), 1)):
            raise error
    with pytest.raises(tf.errors.UnavailableError), telling_of_lost_workers(cluster.Cluster()):
        raise error


@pytest.mark.core
@pytest.mark.parametrize(("num_workers", "local"), [(2, 1), (1, 2), (2, 2)])
def test_the_shares_of_all_workers_make_up_the_global_batch_and_begin_at_its_step(num_workers, local, tmp_path):
    from mocogan_tf.data.datasets import open_videos

    config = tiny_config(cache_dir=str(tmp_path))
    videos, total = open_videos(config), num_workers * local
    whole = list(training_batches(videos, config, start_step=5).take(3).as_numpy_iterator())
    shares = [
        list(
            training_batches(videos, config, start_step=5, replicas=Replicas(worker * local, local, total))
            .take(3 * local)
            .as_numpy_iterator()
        )
        for worker in range(num_workers)
    ]
    for step in range(3):
        parts = [share[step * local + i] for share in shares for i in range(local)]
        for name, expected in whole[step].items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected)


FLAGS = [
    *(f"--{name}={value}" for name, value in TINY.items()),
    "--profile=smoke",
    "--log_every=1",
    "--checkpoint_every=2",
]


def weights_of(run_dir, step):
    """All arrays of a checkpoint but Adam's second moments, which are large, by name."""
    found = {}
    with h5py.File(checkpoints.paths(run_dir, step)[0]) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return {name: value for name, value in found.items() if "optimizer" not in name}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_two_processes_end_in_the_weights_of_one_though_a_worker_is_killed_on_the_way(tmp_path):
    flags = [*FLAGS, f"--cache_dir={tmp_path}/cache"]
    folders = [tmp_path / "chief", tmp_path / "other"]  # Not shared: state must reach the other worker by itself.
    chief, other = workers.start(folders, [*flags, "--steps=100000"])
    for line in chief.stdout:
        if line.startswith("step 3/"):
            other.kill()
            break
    codes, _, errors = workers.wait([chief, other])
    assert codes == (75, -9), errors
    complaints = [line for line in errors[0].splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1 and "Start all of them again with the same command" in complaints[0]
    assert "Traceback" not in errors[0]

    last = checkpoints.steps(folders[0])[-1]
    steps = last + 3
    codes, outputs, errors = workers.wait(workers.start(folders, [*flags, f"--steps={steps}"]))
    assert codes == (0, 0), errors
    assert f"going on with {folders[0]}: steps {last + 1} to {steps}" in outputs[0] and "2 replica(s)" in outputs[0]
    assert not folders[1].exists() and "step" not in outputs[1]

    one = tmp_path / "one"
    command = [sys.executable, "train.py", *flags, f"--steps={steps}", f"--run_dir={one}"]
    subprocess.run(command, cwd=workers.ROOT, check=True, capture_output=True)
    expected, found = weights_of(one, steps), weights_of(folders[0], steps)
    assert sorted(expected) == sorted(found)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=0, err_msg=name)
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, folders[0])]
    assert [line["step"] for line in logs[1]] == [line["step"] for line in logs[0]] == list(range(1, steps + 1))
    for ours, theirs in zip(*logs, strict=True):
        assert ours["loss_g"] == pytest.approx(theirs["loss_g"], abs=1e-4)
