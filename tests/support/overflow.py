"""Two virtual devices: what they do with infinite gradients, and that both together make the step of one.

It prints weight and loss scale after a step in which the second device's gradient is infinite, and after one more; then
the weight after a step on a batch that both share, as its own loss divided over them makes it.

A script, because a process chooses its devices once: python -m tests.support.overflow
"""

import keras
import tensorflow as tf

from mocogan_tf.distribution import devices
from mocogan_tf.gans.base import AdversarialModel
from mocogan_tf.gans.build import LossScale
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
    print(shared_step(strategy))


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
            second = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 1)
            x = tf.where(second, 3.0, 1.0)[None, None]
            model._descend(lambda inputs: {"generator": (tf.reduce_mean(network(inputs["x"]) ** 2), {})}, {"x": x})

        strategy.run(on_replica)

    step()
    return round(float(network.get_weights()[0][0, 0]), 6)


if __name__ == "__main__":
    main()
