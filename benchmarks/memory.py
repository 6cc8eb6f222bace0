"""The dry run's estimate of memory beside what a process takes: python -m benchmarks.memory

Trains a few steps at two batch sizes, each in a process of its own. What they differ by is activations and gradients;
the rest of a process, TensorFlow and the traced graph, is the same in both and said separately.
"""

import argparse
import multiprocessing
import resource

BATCHES = (2, 16)
STEPS = 3


def peak(flags, batch, queue):
    """Puts the estimate and the peak of the resident set, both in bytes, into a queue."""
    import dataclasses

    import tensorflow as tf

    from benchmarks.our_step import random_batch
    from mocogan_tf import devices, footprint
    from mocogan_tf.building import build_gan
    from mocogan_tf.cli import PRESETS
    from mocogan_tf.config import Config

    config = Config(**{**PRESETS["plain"], **flags, "image_batch": batch, "video_batch": batch})
    config = dataclasses.replace(config, r1_every=1).resolve_categories(2)
    gan = build_gan(config, policy=config.precision)
    whole = random_batch(config)
    devices.set_graph_options()
    gan.fit(tf.data.Dataset.from_tensors(whole).repeat(STEPS), verbose=0)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    queue.put((footprint.memory(config, 1), taken))


def main():
    """Measures two batch sizes in processes of their own, and prints growth by estimate and by measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="float32", choices=["float32", "mixed_bfloat16", "mixed_float16"])
    flags = vars(parser.parse_args())
    context = multiprocessing.get_context("spawn")
    results = []
    for batch in BATCHES:
        queue = context.Queue()
        process = context.Process(target=peak, args=(flags, batch, queue))
        process.start()
        results.append(queue.get())
        process.join()
    (small, small_taken), (large, large_taken) = results
    estimated, measured = large.activations - small.activations, large_taken - small_taken
    print(f"from {BATCHES[0]} to {BATCHES[1]} clips and images per step, R1 in every step, {flags['precision']}:")
    print(f"  estimated {estimated / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB more: {estimated / measured:.2f}")
    print(f"  the process beside the estimate: {(small_taken - small.total) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
