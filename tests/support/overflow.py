"""Gives two virtual devices gradients of which the second's is infinite, and prints weight and loss scale after.

A script, because a process chooses its devices once: python -m tests.support.overflow
"""

import keras
import tensorflow as tf

from mocogan_tf.distribution import devices
from mocogan_tf.gans.optimizers import LossScale
from tests.support.tiny import tiny_config


def main():
    strategy = devices.make_strategy(tiny_config(cpu_devices=2))
    with strategy.scope():
        variable = keras.Variable(1.0, dtype="float32")
        optimizer = LossScale(keras.optimizers.SGD(0.5), initial_scale=8.0)
        optimizer.build([variable])

    @tf.function(autograph=False)
    def step(of_second):
        def on_replica():
            is_second = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 1)
            optimizer.apply([tf.where(is_second, of_second, 8.0)], [variable])

        strategy.run(on_replica)

    for of_second in (float("inf"), 16.0):
        step(tf.constant(of_second))
        print(float(variable.numpy()), float(optimizer.dynamic_scale.numpy()))


if __name__ == "__main__":
    main()
