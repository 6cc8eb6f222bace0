"""Our training step as `training.loop` runs it, and batches of random pixels to time it with."""

import tensorflow as tf

from mocogan_tf.distribution import devices
from mocogan_tf.gans import build


def make_step(config, precision):
    """Builds the networks and their step under a strategy.

    Args:
        config: Resolved `mocogan_tf.config.Config`.
        precision: Keras's dtype policy of the networks.

    Returns:
        The networks (`AdversarialModel`), and the step: a `tf.function` from a batch to the logged scalars.
    """
    devices.set_graph_options()
    strategy = devices.make_strategy(config)
    with strategy.scope():
        gan = build.build_gan(config, policy=precision)
    return gan, tf.function(lambda batch: strategy.run(gan.train_step, args=(batch,)), autograph=False)


def random_batch(config):
    """Returns a batch of uniform noise in [-1, 1], with labels that count through the categories."""
    frame = (config.image_size, config.image_size, config.channels)
    return {
        "images": tf.random.stateless_uniform((config.image_batch, *frame), (0, 0), -1, 1),
        "videos": tf.random.stateless_uniform((config.video_batch, config.video_length, *frame), (0, 1), -1, 1),
        "labels": tf.range(config.video_batch) % max(1, config.dim_category),
    }
