"""Trains tiny networks on one and on two virtual CPU devices, with and without XLA, and saves what comes out.

A script, because a process chooses its devices once:
python -m tests.support.replicas OUT.npz MODEL FLOATX FIELDS, FIELDS the changes to the configuration as JSON.

It writes, per way of training, the last step's losses, the weights and the pixels of samples.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from mocogan_tf import sampling
from mocogan_tf.distribution import devices
from mocogan_tf.gans import build
from tests.support.tiny import baseline_config, tiny_batch, tiny_config

STEPS = 3
# One device, two that share the statistics of batch normalisation, two that do not; the last also compiled by XLA.
WAYS = {
    "one": {},
    "one, XLA": {"jit_compile": "on"},
    "two": {"cpu_devices": 2},
    "two, own statistics": {"cpu_devices": 2, "sync_batch_norm": False},
    "two, own statistics, XLA": {"cpu_devices": 2, "sync_batch_norm": False, "jit_compile": "on"},
}


def train(config, strategy, sgd=False):
    """Trains some steps on the same global batches, with the configuration's optimizers or plain gradient descent.

    Returns arrays by name.
    """
    keras.utils.set_random_seed(0)
    with strategy.scope():
        gan = build.build_gan(config, policy=config.precision if config.precision != "float32" else None)
        if sgd:
            names = ["g_optimizer", "d_video_optimizer", *(["d_image_optimizer"] if gan.d_image_optimizer else [])]
            optimizers = {name: keras.optimizers.SGD(0.1) for name in names}
            gan.compile(**optimizers, steps_per_execution=config.steps_per_execution)
    batches = [tiny_batch(config, seed) for seed in range(STEPS)]
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    untuned = tf.data.Options()
    untuned.autotune.enabled = False  # Or `fit` would end with a wait for the thread that tunes, as long as it has run.
    dataset = tf.data.Dataset.from_tensor_slices(stacked).with_options(untuned)
    if config.steps_per_execution > 1:
        dataset = dataset.repeat()  # Keras's loop over steps does not know the sizes of a finite one's batches.
    history = gan.fit(dataset, steps_per_epoch=STEPS, verbose=0, shuffle=False)
    losses = {name: values[-1] for name, values in history.history.items()}
    weights = {f"weight_{i:03d}": variable.numpy() for i, variable in enumerate(gan.weights)}
    frames = config.video_length // gan.sampler.frame_stride
    if config.task == "image_to_video":
        gan.sampler.pictures = (127.5 * (batches[0]["images"] + 1)).astype(np.uint8)
    return {**losses, **weights, "clips": sampling.random_clips(gan.sampler, 5, frames, seed=3)}


def main(out, model, floatx, fields):
    """Trains in all ways that `fields` does not exclude by `ways`; by plain gradient descent if it says `sgd`."""
    keras.config.set_floatx(floatx)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    changes = json.loads(fields)
    sgd = changes.pop("sgd", False)
    ways = changes.pop("ways", list(WAYS))
    # One strategy per number of devices: a second one would give the keys of the first's collectives out again.
    strategies = {number: devices.make_strategy(tiny_config(cpu_devices=number)) for number in (2, 1)}
    results = {}
    for way in ways:
        settings = {**changes, **WAYS[way]}
        config = tiny_config(**settings) if model == "mocogan" else baseline_config(model, **settings)
        found = train(config, strategies[config.cpu_devices], sgd)
        results |= {f"{way}: {name}": value for name, value in found.items()}
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
