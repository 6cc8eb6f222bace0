"""Our training step against PyTorch's, in turns: python -m benchmarks.train_step [--profile=cpu] [--json]

Needs the extra `bench`. Both sides do the same work on the same sizes (parameter counts are compared first): one step
of D_I, of D_V and of the generator, each on fakes of its own. Ours keeps its moving average as well. With
`--profile=paper` the networks are the paper's and the batches small, 4 clips and 10 images; with `--profile=cpu` all is
that profile's but R1, which runs in one of sixteen steps only and is left out on both sides.

`ours` and `ratio` are of our better precision, `ratio` against the fastest rival in any; `ratio_float32` is the
fastest float32 rival's median over ours in float32. `flops` are the operations of a step, counted in its graph, and
`share_of_peak` our rate over the machine's own of matrix products in the same precision, measured in the same run.
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import torch

from benchmarks import flops, timing
from benchmarks.our_step import make_step, random_batch
from benchmarks.torch_step import TorchStep
from mocogan_tf.cli import PROFILES
from mocogan_tf.config import Config

CATEGORIES = 4
BATCHES = {"paper": {"image_batch": 10, "video_batch": 4}, "cpu": {}}
# Keras's dtype policy, and PyTorch's type of the same numbers.
PRECISIONS = {"float32": ("float32", torch.float32), "bfloat16": ("mixed_bfloat16", torch.bfloat16)}
RIVALS = ("torch", "compiled")


def make_config(profile, **changes):
    """Returns the configuration of both sides: `changes` over a profile's, without R1."""
    fields = {**PROFILES[profile]["mocogan"], **BATCHES[profile], "r1_image": 0.0, "r1_video": 0.0, **changes}
    return Config(**fields).resolve_categories(CATEGORIES)


def make_sides(config, against):
    """Makes the steps of both sides.

    Args:
        config: As of `make_config`.
        against: Names out of `RIVALS`.

    Returns:
        By name, functions that make one step; and the operations of one of our steps.

    Raises:
        ValueError: The networks of the two sides differ in parameters.
    """
    sides, parameters = {}, {}
    for name, (policy, dtype) in PRECISIONS.items():
        gan, step = make_step(config, policy)
        batch = random_batch(config)
        operations = flops.count(step.get_concrete_function(batch).graph)
        sides[f"ours {name}"] = lambda step=step, batch=batch: float(step(batch)["loss_g"])
        networks = (gan.generator, gan.image_discriminator, gan.video_discriminator)
        parameters["ours"] = [sum(v.shape.num_elements() for v in n.trainable_variables) for n in networks]
        channels_first = [torch.from_numpy(batch["images"].numpy()).permute(0, 3, 1, 2).contiguous()]
        channels_first.append(torch.from_numpy(batch["videos"].numpy()).permute(0, 4, 1, 2, 3).contiguous())
        labels = torch.from_numpy(batch["labels"].numpy()).long()
        for rival in against:
            compiled = rival == "compiled"
            step = TorchStep(config, half=dtype == torch.bfloat16, compiled=compiled)
            parameters[rival] = step.num_parameters()
            title = f"torch {'compiled' if compiled else 'eager'} {name}"
            sides[title] = lambda step=step, given=(*channels_first, labels): step(*given)
    if len({tuple(counts) for counts in parameters.values()}) != 1:
        raise ValueError(f"The two sides are different networks: {parameters}")
    return sides, operations


def run(config, against, rounds):
    """Times all sides in turns and returns the report."""
    sides, operations = make_sides(config, against)
    peaks = {name: timing.matrix_rate(dtype=dtype) for name, (_, dtype) in PRECISIONS.items()}
    results = {name: timing.summary(times) for name, times in timing.in_turns(sides, rounds).items()}
    own = {name: results[f"ours {name}"] for name in PRECISIONS}
    best = min(own, key=lambda name: own[name]["median_s"])
    rivals = {name: result for name, result in results.items() if not name.startswith("ours")}
    in_float32 = {name: result for name, result in rivals.items() if name.endswith("float32")}
    return {
        "ours": {"precision": best, **own[best]},
        "results": results,
        **timing.ratios({**rivals, "ours": own[best]}, "ours"),
        "ratio_float32": timing.ratios({**in_float32, "ours": own["float32"]}, "ours")["ratio"],
        "flops": operations,
        "matrix_rate": peaks,
        "share_of_peak": operations / own[best]["median_s"] / peaks[best],
        "share_of_peak_float32": operations / own["float32"]["median_s"] / peaks["float32"],
    }


def main():
    """Prints a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=list(BATCHES), default="paper", help="whose networks and batches")
    parser.add_argument(
        "--against",
        nargs="+",
        choices=RIVALS,
        default=["torch"],
        help="compiled: torch.compile, which takes minutes first",
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    report = run(make_config(flags.profile), flags.against, flags.rounds)
    if flags.json:
        print(json.dumps(report))
        return
    for name, result in report["results"].items():
        print(f"{name:24} {result['median_s']:7.3f} s  ({result['min_s']:.3f} to {result['max_s']:.3f})")
    print(f"fastest rival over our best: {report['ratio']:.2f}; in float32: {report['ratio_float32']:.2f}")
    print(
        f"{report['flops'] / 1e9:.0f} GFLOP per step: {report['share_of_peak']:.0%} of the matrix rate in "
        f"{report['ours']['precision']}, {report['share_of_peak_float32']:.0%} in float32"
    )


if __name__ == "__main__":
    main()
