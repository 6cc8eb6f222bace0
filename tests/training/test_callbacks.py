"""Promises of the callbacks: when values of the device are read, and what is found then."""

import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from mocogan_tf.config import Config
from mocogan_tf.gans.base import to_float
from mocogan_tf.training import callbacks, checkpoints, loop
from tests.support.tiny import TINY

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("plain_graphs")]


@pytest.fixture
def config(tmp_path):
    intervals = {"log_every": 4, "sample_every": 8, "checkpoint_every": 8, "evaluate_every": 0}
    return Config(**TINY, cache_dir=str(tmp_path / "cache"), steps=8, **intervals)


def test_between_log_lines_no_value_of_the_device_is_read(config, tmp_path, monkeypatch):
    reads, after = [], {}
    read, end = ops._EagerTensorBase._numpy, callbacks.Callbacks.on_train_batch_end

    def counted(tensor):
        if tensor.dtype != tf.bool:  # Whether there was a batch; TensorFlow keeps that on the host.
            reads.append(tensor)
        return read(tensor)

    def on_train_batch_end(self, batch, logs=None):
        end(self, batch, logs)
        after[batch + 1] = len(reads)

    monkeypatch.setattr(ops._EagerTensorBase, "_numpy", counted)
    monkeypatch.setattr(callbacks.Callbacks, "on_train_batch_end", on_train_batch_end)
    loop.train(config, tmp_path / "run")
    new = {step: after[step] - after[step - 1] for step in range(2, 9)}
    assert [step for step, number in new.items() if number] == [4, 8]
    assert new[4] == 2  # The note of losses that are not finite, and all losses together.


def test_logs_of_earlier_steps_are_read_with_those_of_a_later_one():
    unread = []
    first, second = (callbacks.StepLogs({"b": tf.constant(x), "a": tf.constant(2 * x)}, unread) for x in (1.0, 3.0))
    assert unread == [first, second] and dict(second) == {"a": 6.0, "b": 3.0}
    assert not unread and first["a"] == 2.0 and first._values == {"a": 2.0, "b": 1.0}


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_a_loss_that_is_not_finite_is_found_at_the_next_reading_with_its_step(
    steps_per_execution, config, tmp_path, monkeypatch
):
    training_batches = loop.training_batches

    def spoiled(videos, config, **where):
        batches = training_batches(videos, config, **where).enumerate()
        return batches.map(
            lambda i, batch: {**batch, "images": to_float(batch["images"]) + tf.where(i == 5, float("nan"), 0.0)}
        )

    monkeypatch.setattr(loop, "training_batches", spoiled)
    config = type(config)(**{**vars(config), "steps_per_execution": steps_per_execution, "steps": 16})
    with pytest.raises(FloatingPointError, match=r"not finite at step 6\. There is no checkpoint yet"):
        loop.train(config, tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run") == []
