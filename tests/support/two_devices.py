"""What two virtual devices do together, as JSON: gradients that overflow on one of them, steps and batches they share.

A script, because a process chooses its devices once: python -m tests.support.two_devices
"""

import json
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.pipeline import training_batches
from mocogan_tf.distribution import devices
from mocogan_tf.gans.base import AdversarialModel
from mocogan_tf.gans.optimizers import LossScale
from tests.support.tiny import tiny_config


def is_second():
    return tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 1)


def overflow(strategy):
    """Weight and loss scale after a step in which the second device's gradient is infinite, and after one more."""
    with strategy.scope():
        variable = keras.Variable(1.0, dtype="float32")
        optimizer = LossScale(keras.optimizers.SGD(0.5), initial_scale=8.0)
        optimizer.build([variable])

    @tf.function(autograph=False)
    def step(of_second):
        strategy.run(lambda: optimizer.apply([tf.where(is_second(), of_second, 8.0)], [variable]))

    found = []
    for of_second in (float("inf"), 16.0):
        step(tf.constant(of_second))
        found.append([float(variable.numpy()), float(optimizer.dynamic_scale.numpy())])
    return found


def shared_step(strategy):
    """The weight after a step of plain gradient descent of `mean((w x)^2)` with x = 1 on one device and 3 on the other.

    The mean's gradient is 1 + 9 = 10 at w = 1, so that a tenth of it leads to 0.
    """
    with strategy.scope():
        network = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
        network.build((None, 1))
        model = AdversarialModel(generator=network, video_discriminator=keras.Sequential([keras.Input((1,))]))
        model.compile(g_optimizer=keras.optimizers.SGD(0.1), d_video_optimizer=keras.optimizers.SGD(0.1))

    @tf.function(autograph=False)
    def step():
        def on_replica():
            x = tf.where(is_second(), 3.0, 1.0)[None, None]
            model._descend(lambda inputs: {"generator": (tf.reduce_mean(network(inputs["x"]) ** 2), {})}, {"x": x})

        strategy.run(on_replica)

    step()
    return float(network.get_weights()[0][0, 0])


def shared_batch(strategy):
    """By name, the rows that each device gets of a batch, and whether they are, one after the other, the batch."""
    with tempfile.TemporaryDirectory() as cache:
        config = tiny_config(image_batch=6, cache_dir=cache)
        videos = open_videos(config)
        whole = next(iter(training_batches(videos, config)))
        batch = next(iter(strategy.experimental_distribute_dataset(training_batches(videos, config))))
    found = {}
    for name, value in whole.items():
        parts = [part.numpy() for part in strategy.experimental_local_results(batch[name])]
        found[name] = [[len(part) for part in parts], bool(np.array_equal(np.concatenate(parts), value))]
    return found


if __name__ == "__main__":
    two = devices.make_strategy(tiny_config(cpu_devices=2))
    json.dump({test.__name__: test(two) for test in (overflow, shared_step, shared_batch)}, sys.stdout)
