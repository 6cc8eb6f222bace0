"""How step time and memory grow with the sizes of a run: python -m benchmarks.scaling [--json]

One size is varied at a time: filters (of all networks), frame size, clip length, batch (clips; images follow). Every
point is timed in a process of its own, so that its peak memory is its own; points of one size take turns over the
rounds. Beside each stand the operations of one step, counted in its graph (`flops`).
`growth` is the slope of a straight line through the logarithms, the power with which a number grows.
"""

import argparse
import json
import os
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from benchmarks import timing

BASE = {"ngf": 16, "image_size": 64, "video_length": 16, "video_batch": 4}
VARIED = {
    "filters": ("ngf", [8, 16, 32, 64]),
    "frame size": ("image_size", [32, 64, 128]),
    "frames": ("video_length", [8, 16, 32, 64]),
    "batch": ("video_batch", [2, 4, 8, 16]),
}


def point(sizes, steps):
    """Makes one network and times its steps, in this process.

    Args:
        sizes: `ngf`, `image_size`, `video_length`, `video_batch`.
        steps: How many, after one that is not timed.

    Returns:
        `seconds` of each step, `flops`, `memory`: the process's peak less what it had before.
    """
    import resource

    from benchmarks import flops
    from benchmarks.our_step import make_step, random_batch
    from mocogan_tf.config import Config

    config = Config(ndf=sizes["ngf"], image_batch=2 * sizes["video_batch"], precision="float32", **sizes)
    config = config.resolve_categories(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, step = make_step(config, config.precision)
    batch = random_batch(config)
    operations = flops.count(step.get_concrete_function(batch).graph)
    seconds = []
    for _ in range(1 + steps):
        started = time.perf_counter()
        float(step(batch)["loss_g"])
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds[1:],
        "flops": operations,
        "memory": 1024 * (peak - before),
    }


def in_a_process(sizes, steps):
    """`point` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--point", json.dumps(sizes), f"--steps={steps}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def growth(sizes, values):
    """Returns the power p of the fit `value = c * size**p`, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def vary(name, numbers, rounds, steps, base=None, measure=in_a_process):
    """Times all points of one size, in turns.

    Args:
        name: Field that is varied.
        numbers: Its values.
        rounds: Processes per point.
        steps: Timed steps per process.
        base: The other sizes; `BASE` if None.
        measure: `point`, or `in_a_process`.

    Returns:
        `points`, one per value, and `growth` of `median_s`, `flops` and `memory`.
    """
    taken = {number: [] for number in numbers}
    for _ in range(rounds):
        for number in numbers:
            taken[number].append(measure({**(base or BASE), name: number}, steps))
    points = [
        {
            name: number,
            **timing.summary([seconds for run in runs for seconds in run["seconds"]]),
            "flops": runs[0]["flops"],
            "memory": max(run["memory"] for run in runs),
        }
        for number, runs in taken.items()
    ]
    keys = ("median_s", "flops", "memory")
    return {"points": points, "growth": {key: growth(numbers, [p[key] for p in points]) for key in keys}}


def main():
    """Prints a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vary", nargs="+", choices=list(VARIED), default=list(VARIED), help="which sizes")
    parser.add_argument("--rounds", type=int, default=3, help="processes per point")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    if flags.point:
        print(json.dumps(point(json.loads(flags.point), flags.steps)))
        return
    results, peak = {}, timing.matrix_rate()
    for name in flags.vary:
        results[name] = vary(*VARIED[name], flags.rounds, flags.steps)
        peak = max(peak, timing.matrix_rate())  # Other work on the machine can only have lowered it.
    for result in results.values():
        for place in result["points"]:
            place["share_of_peak"] = place["flops"] / place["median_s"] / peak
    if flags.json:
        print(json.dumps({"base": BASE, "results": results, "matrix_rate": peak}))
        return
    for name, result in results.items():
        field = VARIED[name][0]
        for place in result["points"]:
            print(
                f"{name:10} {place[field]:4} {place['median_s']:8.3f} s {place['flops'] / 1e9:8.1f} GFLOP "
                f"{place['share_of_peak']:5.0%} of the matrix rate; {place['memory'] / 2**20:6.0f} MiB"
            )
        powers = ", ".join(f"{key} {power:.2f}" for key, power in result["growth"].items())
        print(f"{name:10} grows with the power: {powers}")


if __name__ == "__main__":
    main()
