"""Our training step against PyTorch's, in turns: python -m benchmarks.train_step [--ngf=64 ...] [--json]

Needs the extra `bench`. Both sides do the same work on the same sizes (parameter counts are compared first); each is
timed in float32 and in bfloat16. `ratio` is the fastest rival's median over our best, `ratio_float32` PyTorch eager's
over ours, both in float32.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import torch

from benchmarks.torch_step import TorchStep
from mocogan_tf import building, training
from mocogan_tf.config import Config

CATEGORIES = 4


def our_step(config, precision):
    """Returns a function that makes one of our steps, and our parameter counts."""
    strategy = training.make_strategy(config)
    with strategy.scope():
        gan = building.build_gan(config, policy=precision)
    rng = np.random.default_rng(0)
    frame = (config.image_size, config.image_size, config.channels)
    batch = {
        "images": tf.constant(rng.uniform(-1, 1, (config.image_batch, *frame)), tf.float32),
        "videos": tf.constant(rng.uniform(-1, 1, (config.video_batch, config.video_length, *frame)), tf.float32),
        "labels": tf.constant(np.arange(config.video_batch) % CATEGORIES, tf.int32),
    }
    step = tf.function(lambda batch: strategy.run(gan.train_step, args=(batch,)))
    networks = (gan.generator, gan.image_discriminator, gan.video_discriminator)
    counts = [sum(v.numpy().size for v in network.trainable_variables) for network in networks]
    return (lambda: float(step(batch)["loss_g"])), counts


def torch_step(config, **options):
    """Returns a function that makes one PyTorch step, and its parameter counts."""
    step = TorchStep(config, **options)
    images = torch.rand(config.image_batch, config.channels, config.image_size, config.image_size) * 2 - 1
    videos = torch.rand(config.video_batch, config.channels, config.video_length, *images.shape[2:]) * 2 - 1
    labels = torch.arange(config.video_batch) % CATEGORIES
    return (lambda: step(images, videos, labels)), step.num_parameters()


def measure(steps, rounds):
    """Times all steps in turns, after one warm-up each: a machine that slows down slows all of them.

    Returns:
        dict by name: `median_s`, `min_s`, `max_s`.
    """
    seconds = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if i:
                seconds[name].append(time.perf_counter() - started)
    return {
        name: {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times)}
        for name, times in seconds.items()
    }


def main():
    """Prints a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ngf", type=int, default=64, help="filters of all networks")
    parser.add_argument("--image_batch", type=int, default=10)
    parser.add_argument("--video_batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well, which takes minutes first")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    config = Config(
        ngf=flags.ngf, ndf=flags.ngf, image_batch=flags.image_batch, video_batch=flags.video_batch
    ).resolve_categories(CATEGORIES)
    made = {
        "ours float32": our_step(config, "float32"),
        "ours bfloat16": our_step(config, "mixed_bfloat16"),
        "torch eager float32": torch_step(config),
        "torch eager bfloat16": torch_step(config, half=True),
    }
    if flags.compile:
        made["torch compiled float32"] = torch_step(config, compiled=True)
        made["torch compiled bfloat16"] = torch_step(config, compiled=True, half=True)
    counts = {name: count for name, (_, count) in made.items() if "torch" not in name or "eager" in name}
    # PyTorch's GRU and ours have the same parameters; a difference would mean different work.
    if len({tuple(count) for count in counts.values()}) != 1:
        raise SystemExit(f"The two sides are different networks: {counts}")
    results = measure({name: step for name, (step, _) in made.items()}, flags.rounds)
    ours = {name: result["median_s"] for name, result in results.items() if name.startswith("ours")}
    rivals = {name: result["median_s"] for name, result in results.items() if name.startswith("torch")}
    report = {
        "results": results,
        "ratio": min(rivals.values()) / min(ours.values()),
        "ratio_vs": {name: seconds / min(ours.values()) for name, seconds in rivals.items()},
        "ratio_float32": results["torch eager float32"]["median_s"] / results["ours float32"]["median_s"],
    }
    if flags.json:
        print(json.dumps(report))
        return
    for name, result in results.items():
        print(f"{name:24} {result['median_s']:7.3f} s  ({result['min_s']:.3f} to {result['max_s']:.3f})")
    print(f"fastest rival over our best: {report['ratio']:.2f}; float32 against eager: {report['ratio_float32']:.2f}")


if __name__ == "__main__":
    main()
