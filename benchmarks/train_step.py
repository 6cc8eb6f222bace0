"""Our training step beside PyTorch's: python -m benchmarks.train_step [--profile=cpu] [--json]

Needs the extra `bench`. Both sides take turns, each with one step of D_I, of D_V and of the generator at the same sizes
(parameter counts are compared first). The rivals and `ours` draw new fakes for each network, in the order of the
authors' code; `ours, shared fakes` (`--share_fakes`) draws and judges them once. Ours also keeps its moving average.
With `--profile=paper` the networks are the paper's and the batches are small, 4 clips and 10 images. With
`--profile=cpu` everything is the preset `plain`'s except R1, which runs in one of sixteen steps and is left out on both
sides.

`ratio` is the time of the fastest rival over that of our fastest side, `ours`; `ratio_same_work` is the same without
shared fakes; `ratio_float32` and `ratio_float32_same_work` are these two in float32 alone. `flops` are the operations
of a step, counted in its graph, and `share_of_peak` is our rate over the machine's rate of matrix products in that
precision, in the same run.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import torch

from benchmarks import flops, timing
from benchmarks.our_step import make_step, random_batch
from benchmarks.torch_step import TorchStep
from mocogan_tf.config import Config
from mocogan_tf.recipes import PRESETS, PROFILES

CATEGORIES = 4
BATCHES = {"paper": {"image_batch": 10, "video_batch": 4}, "cpu": {}}
# Keras's dtype policy, and PyTorch's type of the same numbers.
PRECISIONS = {"float32": ("float32", torch.float32), "bfloat16": ("mixed_bfloat16", torch.bfloat16)}
RIVALS = ("torch", "compiled")


def make_config(profile, **changes):
    """Returns the configuration of both sides: a profile with `changes`, without R1."""
    preset = PRESETS["plain" if profile == "cpu" else "none"]  # The rivals have the paper's networks only.
    fields = {**PROFILES[profile]["mocogan"], **preset, **BATCHES[profile], "r1_image": 0.0, "r1_video": 0.0, **changes}
    return Config(**fields).resolve_categories(CATEGORIES)


@dataclasses.dataclass(frozen=True)
class Side:
    """The step of one side: `call` runs it; `flops` are its operations, counted for our sides only."""

    call: Callable[[], float]
    precision: str
    ours: bool = True
    same_work: bool = True
    flops: int = 0


def make_sides(config, against):
    """Makes the steps of both sides.

    Args:
        config: The result of `make_config`.
        against: Names out of `RIVALS`.

    Returns:
        dict of `Side` by the names in the report.

    Raises:
        ValueError: The networks of the two sides differ in parameters.
    """
    sides, parameters = {}, {}
    batch = random_batch(config)
    images = torch.from_numpy(batch["images"].numpy()).permute(0, 3, 1, 2).contiguous()
    videos = torch.from_numpy(batch["videos"].numpy()).permute(0, 4, 1, 2, 3).contiguous()
    labels = torch.from_numpy(batch["labels"].numpy()).long()
    for precision, (policy, dtype) in PRECISIONS.items():
        for shared in (False, True):
            gan, step = make_step(dataclasses.replace(config, share_fakes=shared), policy)
            operations = flops.count(step.get_concrete_function(batch).graph)
            sides[f"ours{', shared fakes' if shared else ''} {precision}"] = Side(
                lambda step=step: float(step(batch)["loss_g"]), precision, same_work=not shared, flops=operations
            )
        networks = (gan.generator, gan.image_discriminator, gan.video_discriminator)
        parameters["ours"] = [sum(v.shape.num_elements() for v in n.trainable_variables) for n in networks]
        for rival in against:
            compiled = rival == "compiled"
            step = TorchStep(config, half=dtype if dtype == torch.bfloat16 else None, compiled=compiled)
            parameters[rival] = step.num_parameters()
            sides[f"torch {'compiled' if compiled else 'eager'} {precision}"] = Side(
                lambda step=step: step(images, videos, labels), precision, ours=False
            )
    if len({tuple(counts) for counts in parameters.values()}) != 1:
        raise ValueError(f"The two sides are different networks: {parameters}")
    return sides


def run(config, against, rounds):
    """Times all sides in turns and returns the report."""
    sides = make_sides(config, against)
    peaks = {name: timing.matrix_rate(dtype=dtype) for name, (_, dtype) in PRECISIONS.items()}
    times = timing.in_turns({name: side.call for name, side in sides.items()}, rounds)
    results = {name: timing.summary(seconds) for name, seconds in times.items()}
    for name, side in sides.items():
        if side.ours:
            share = side.flops / results[name]["median_s"] / peaks[side.precision]
            results[name] |= {"flops": side.flops, "share_of_peak": share}

    def fastest(**wanted):
        """Name of the fastest side that has these attributes."""
        fitting = [name for name, side in sides.items() if all(getattr(side, k) == v for k, v in wanted.items())]
        return min(fitting, key=lambda name: results[name]["median_s"])

    def ratio(**wanted):
        rival = fastest(ours=False, **{key: value for key, value in wanted.items() if key == "precision"})
        return results[rival]["median_s"] / results[fastest(ours=True, **wanted)]["median_s"]

    best = fastest(ours=True)
    rivals = {name: result for name, result in results.items() if not sides[name].ours}
    return {
        "ours": {"name": best, **results[best]},
        "results": results,
        **timing.ratios({**rivals, best: results[best]}, best),
        "ratio_same_work": ratio(same_work=True),
        "ratio_float32": ratio(precision="float32"),
        "ratio_float32_same_work": ratio(precision="float32", same_work=True),
        "flops": results[best]["flops"],
        "share_of_peak": results[best]["share_of_peak"],
        "matrix_rate": peaks,
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
        share = f"{result['share_of_peak']:5.0%} of the matrix rate" if "share_of_peak" in result else ""
        print(f"{name:28} {result['median_s']:7.3f} s  ({result['min_s']:.3f} to {result['max_s']:.3f}) {share}")
    print(
        f"fastest rival over our best: {report['ratio']:.2f}, at the same work {report['ratio_same_work']:.2f}; in "
        f"float32 {report['ratio_float32']:.2f} and {report['ratio_float32_same_work']:.2f}"
    )


if __name__ == "__main__":
    main()
