"""Our training step as `training.loop` runs it, and batches of random pixels to time it with.

`python -m benchmarks.our_step --beside=TREE` compares it with the step of another checkout, such as an earlier version:
the paper's networks in bfloat16, a process each, a step of each in turn. Processor time is compared, which other
programs hardly change.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys

from benchmarks import timing

ROOT = pathlib.Path(__file__).parents[1]


def make_step(config, precision):
    """Builds the networks and their step under a strategy.

    Args:
        config: Resolved `mocogan_tf.config.Config`.
        precision: Keras's dtype policy of the networks.

    Returns:
        The networks (`AdversarialModel`), and the step: a `tf.function` from a batch to the logged scalars.
    """
    import tensorflow as tf

    from mocogan_tf.distribution import devices
    from mocogan_tf.gans import build

    devices.set_graph_options()
    strategy = devices.make_strategy(config)
    with strategy.scope():
        gan = build.build_gan(config, policy=precision)
    return gan, tf.function(lambda batch: strategy.run(gan.train_step, args=(batch,)), autograph=False)


def random_batch(config):
    """Returns a batch of uniform noise in [-1, 1], with labels that count through the categories."""
    import tensorflow as tf

    frame = (config.image_size, config.image_size, config.channels)
    return {
        "images": tf.random.stateless_uniform((config.image_batch, *frame), (0, 0), -1, 1),
        "videos": tf.random.stateless_uniform((config.video_batch, config.video_length, *frame), (0, 1), -1, 1),
        "labels": tf.range(config.video_batch) % max(1, config.dim_category),
    }


# Runs in a process of each tree, with that tree's modules; every line on stdin asks for a step.
STEPS = """
import json, sys, time
from benchmarks.our_step import make_step, random_batch
from mocogan_tf.config import Config
fields, precision = json.loads(sys.argv[1])
config = Config(**fields).resolve_categories(4)
_, step = make_step(config, precision)
batch = random_batch(config)
for _ in sys.stdin:
    started = time.process_time()
    float(step(batch)["loss_g"])
    print("step", time.process_time() - started, flush=True)
"""


@contextlib.contextmanager
def _steps_of(tree, fields, precision):
    """Starts a tree's process; yields a function that makes one step and returns its processor seconds."""
    command = [sys.executable, "-c", STEPS, json.dumps([fields, precision])]
    environ = {**os.environ, "PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tree, env=environ, **pipes) as process:

        def step():
            process.stdin.write("\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("step "):
                    return float(line.split()[1])
            raise SystemExit(f"error: the process of {tree} ended")

        yield step
        process.stdin.close()


def compare(trees, fields, precision, rounds, warm_up=2):
    """Makes steps of all trees in turns; returns `timing.summary` of their processor seconds, in the trees' order."""
    with contextlib.ExitStack() as stack:
        steps = [stack.enter_context(_steps_of(tree, fields, precision)) for tree in trees]
        turns = [[step() for step in steps] for _ in range(warm_up + rounds)][warm_up:]
    return [timing.summary(seconds) for seconds in zip(*turns, strict=True)]


def main():
    """Prints the ratio, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=pathlib.Path, required=True, help="the other checkout")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2, help="clips, and images")
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    fields = {"ngf": flags.filters, "ndf": flags.filters, "image_batch": flags.batch, "video_batch": flags.batch}
    ours, theirs = compare([ROOT, flags.beside.resolve()], fields, flags.precision, flags.rounds)
    ratio = ours["median_s"] / theirs["median_s"]
    if flags.json:
        print(json.dumps({"ours": ours, "beside": theirs, "ratio": ratio}))
        return
    for name, result in (("ours", ours), (str(flags.beside), theirs)):
        print(f"{name}: {result['median_s']:.3f} s ({result['min_s']:.3f} to {result['max_s']:.3f}) of processor time")
    print(f"ours over the other: {ratio:.3f}")


if __name__ == "__main__":
    main()
