"""What the timings share: sides take turns, medians count, and the limit is the machine's rate of matrix products."""

import contextlib
import multiprocessing
import os
import pathlib
import resource
import statistics
import time

import numpy as np


def summary(seconds, scale=1.0):
    """Returns `median_s`, `min_s`, `max_s` of times, multiplied by `scale`."""
    return {
        "median_s": scale * statistics.median(seconds),
        "min_s": scale * min(seconds),
        "max_s": scale * max(seconds),
    }


def cpu_seconds():
    """Returns the processor time of this process and its children so far. Unlike the clock, it stands still while
    other programs run."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in multiprocessing.active_children():
        with contextlib.suppress(FileNotFoundError):  # It has just ended.
            fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def in_turns(sides, rounds, warm_up=1, rest=0.05, clock=time.perf_counter):
    """Times all sides in turns, so that a machine that slows down slows all of them.

    Args:
        sides: Functions without arguments, by name.
        rounds: Timed calls of each.
        warm_up: Calls of each before the timed ones.
        rest: Seconds before each call, in which the threads of the previous side fall asleep.
        clock: What tells the time.

    Returns:
        Seconds by name, one per round.
    """
    seconds = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, side in sides.items():
            time.sleep(rest)
            started = clock()
            side()
            if turn >= warm_up:
                seconds[name].append(clock() - started)
    return seconds


def ratios(results, ours):
    """Compares medians.

    Args:
        results: `summary` by name.
        ours: Name of our side.

    Returns:
        `ratio`: the fastest rival's median over ours; `ratio_vs`: the same for each rival; `ratio_cpu_vs`: the same for
        processor time, if it was measured.
    """
    against = {name: result["median_s"] / results[ours]["median_s"] for name, result in results.items() if name != ours}
    report = {"ratio": min(against.values()), "ratio_vs": against}
    if "cpu_s" in results[ours]:
        cpu = {name: result["cpu_s"] / results[ours]["cpu_s"] for name, result in results.items() if name != ours}
        report["ratio_cpu_vs"] = cpu
    return report


SHAPES = ((2048, 2048, 2048), (4096, 1024, 1024), (8192, 512, 512))  # Rows, the size that is added up, columns.


def best_rate(make, product, rounds=5, clock=time.perf_counter):
    """Returns the best rate of matrix products over several shapes, in operations per second.

    Args:
        make: Makes a factor from a float32 array.
        product: Multiplies two factors.
        rounds: Products of each shape that are timed.
        clock: What tells the time.
    """
    rng, rates = np.random.default_rng(0), []
    for rows, inner, columns in SHAPES:
        a, b = (make(rng.standard_normal(shape, dtype=np.float32)) for shape in ((rows, inner), (inner, columns)))
        times = in_turns({"product": lambda a=a, b=b: product(a, b)}, rounds, clock=clock)["product"]
        rates.append(2 * rows * inner * columns / min(times))
    return max(rates)


def matrix_rate(dtype=None):
    """Returns PyTorch's best rate of matrix products; `dtype` is float32 if None."""
    import torch

    return best_rate(lambda values: torch.from_numpy(values).to(dtype or torch.float32), lambda a, b: a @ b)
