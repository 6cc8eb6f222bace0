"""Trains the tiny networks a few steps on a number of virtual CPU devices and saves their weights.

A script, because the devices of a process are chosen once:
python -m tests.support.replicas NUM_DEVICES OUT.npz [MODEL]
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from mocogan_tf.gans import build
from mocogan_tf.training import loop
from tests.support.tiny import baseline_config, tiny_batch, tiny_config


def main(num_devices, out, model="mocogan"):
    """Trains three steps on the same global batches, in float64: what is left between device counts is an error."""
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(0)
    config = tiny_config(cpu_devices=num_devices)
    if model != "mocogan":
        clipping = {"clip_every": 2} if model == "tgan" else {}
        config = baseline_config(model, cpu_devices=num_devices, **clipping)
    with loop.make_strategy(config).scope():
        gan = build.build_gan(config)
    batches = [tiny_batch(config, seed) for seed in range(3)]
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    history = gan.fit(tf.data.Dataset.from_tensor_slices(stacked), verbose=0, shuffle=False)
    losses = {name: values[-1] for name, values in history.history.items()}
    np.savez(out, **losses, **{f"weight_{i:03d}": variable.numpy() for i, variable in enumerate(gan.weights)})


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
