"""Compares our batches with a PyTorch DataLoader's: python -m benchmarks.pipeline [--clips=512] [--json]

Needs the extras `bench` and `video`. Both sides make the batches of the preset `plain` from the same files: 8 clips of
16 frames at stride 2 and 16 single frames, shuffled, as float32 in [-1, 1]. Two kinds of epoch are timed:

* `first epoch`: from opening the set to the epoch's last batch, the start of workers included. Ours first decodes all
  frames of all clips into its cache.
* `later epochs`: ours reads the cache. The DataLoader, with two workers, decodes again, but only what its cuts need. A
  second DataLoader, `torch, decoded once`, reads our cache.

The files lie in the page cache for both sides. `median_s` is seconds per batch; `cpu_s` is the processor time per batch
of all processes of a side, which hardly depends on what else the machine does. `ratio` is the DataLoader's time over
ours in later epochs, the least of all sources. `ratio_run` is the same for the 20 epochs over 2,000 clips that the
preset trains, computed from both kinds. `ratio_step` is the time of that preset's training step, measured in the same
run, over ours; `waiting_share` is the share of its time that this step waits for batches.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main():
    """Prints a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=512, help="files of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="timed epochs of each side")
    parser.add_argument("--steps", type=int, default=10, help="timed training steps")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    # Not at the top, because the processes that decode import this module and need no TensorFlow.
    from benchmarks import pipeline_sides

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        report = pipeline_sides.run(pathlib.Path(folder), flags.clips, flags.rounds, flags.steps)
    if flags.json:
        print(json.dumps(report))
        return
    for source, epochs in report["results"].items():
        for epoch, sides in epochs.items():
            rates = [f"{name} {side['clips_per_s']:.0f}" for name, side in sides.items() if "ratio" not in name]
            against = [
                f"{name} {ratio:.1f} (processor time {sides['ratio_cpu_vs'][name]:.1f})"
                for name, ratio in sides["ratio_vs"].items()
            ]
            print(f"{source:12} {epoch:13} clips/s: {', '.join(rates)}; ratios: {', '.join(against)}")
    runs = ", ".join(f"{source} {ratio:.1f}" for source, ratio in report["ratio_run"].items())
    print(f"over the {report['epochs_of_a_run']} epochs of a run, ratios to torch: {runs}")
    print(
        f"the training step takes {report['step']['clips_per_s']:.1f} clips/s, a {report['ratio_step']:.0f}th of what "
        f"comes in later epochs, and waits {report['waiting_share']:.2%} of its time"
    )


if __name__ == "__main__":
    main()
