"""What the metrics say about clips with a known fault: python -m benchmarks.metric_baselines [--dataset=taichi ...]

Scores real clips, intact and damaged, against other real clips. Prints a Markdown table.
"""

import argparse
import copy
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.config import Config
from mocogan_tf.metrics import registry, texture
from mocogan_tf.metrics.clips import Clips
from mocogan_tf.metrics.features import resized
from mocogan_tf.metrics.material import Material

Frames = NDArray[np.uint8]  # `[N, T, H, W, C]`
METRICS = ["frechet_video", "frechet_frame", "kernel_video", "texture", "precision", "mcs", "diversity"]


def degraded(frames: Frames, rng: np.random.Generator) -> dict[str, Frames]:
    """Returns damaged clips by the name of the fault."""
    number, length, height, width = frames.shape[:4]
    coarse = resized(resized(frames, height // 4, width // 4), height, width)
    noisy = frames + rng.normal(0, 20, frames.shape)
    return {
        "real, none": frames,
        "one clip for ever": frames[:1].repeat(number, axis=0),
        "eight clips for ever": frames[np.arange(number) % 8],
        "frozen: one frame throughout": frames[:, :1].repeat(length, axis=1),
        "frames shuffled in time": np.stack([clip[rng.permutation(length)] for clip in frames]),
        "played backwards": frames[:, ::-1],
        "half speed": frames[:, np.arange(length) // 2],
        "second half from another clip": np.concatenate(
            [frames[:, : length // 2], np.roll(frames, 1, axis=0)[:, length // 2 :]], axis=1
        ),
        "blurred by a pixel": blurred(frames),
        "a quarter of the resolution": coarse,
        "checkers of amplitude 2": with_checkers(frames, 2),
        "checkers of amplitude 5": with_checkers(frames, 5),
        "noise of deviation 20": np.clip(noisy, 0, 255).astype(np.uint8),
        "black": np.zeros_like(frames),
    }


def blurred(frames: Frames) -> Frames:
    """Averages every pixel with those to the right, below, and between."""
    for axis in (2, 3):
        sums = frames.astype(np.uint16) + np.roll(frames, -1, axis=axis)
        frames = ((sums + 1) // 2).astype(np.uint8)
    return frames


def with_checkers(frames: Frames, amplitude: int) -> Frames:
    """Makes every other pixel brighter and the rest darker, as on a chessboard."""
    sign = np.where(np.indices(frames.shape[2:4]).sum(axis=0) % 2, 1, -1)[..., None]
    return np.clip(frames + np.int16(amplitude) * sign, 0, 255).astype(np.uint8)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="taichi")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--cache_dir", default="")
    parser.add_argument("--num_clips", type=int, default=2000, help="clips to render of a generated set")
    parser.add_argument("--num_videos", type=int, default=256, help="clips on either side")
    parser.add_argument("--metrics", nargs="+", default=METRICS, help="as of evaluate.py")
    parser.add_argument("--faults", nargs="+", metavar="NAME", help="rows of the table; all by default")
    flags = parser.parse_args()
    config = Config(
        dataset=flags.dataset, data_dir=flags.data_dir, cache_dir=flags.cache_dir, num_clips=flags.num_clips
    )
    real = Material(config, num_videos=flags.num_videos, num_frames=config.video_length, seed=0)
    other = real.other_real
    if other is None:
        parser.error(f"The set must hold {2 * flags.num_videos} clips. Lower --num_videos.")
    real.judged_real  # noqa: B018 - computed once, for all copies below.
    print(f"{real.network.name}, held out: {real.network.accuracy}\n", flush=True)
    names = [name for key in flags.metrics for name in registry.METRICS[registry.find(key)[0]].names]
    names = [name for name in names if not name.startswith("swd_") or name in texture.names(config.image_size)]
    print(f"| fault | {' | '.join(names)} |\n{'|---' * (1 + len(names))}|")
    faults = degraded(other.frames, np.random.default_rng(0))
    unknown = sorted(set(flags.faults or ()) - set(faults))
    if unknown:
        parser.error(f"Unknown fault {unknown[0]!r}. Known: {', '.join(faults)}.")
    for fault in flags.faults or faults:
        material = copy.copy(real)  # Which keeps the real clips and what the network says of them.
        material.given = Clips(np.ascontiguousarray(faults[fault]), other.labels, other.categories)
        material.other_real = None  # The first row is the floor.
        scores = {score.metric: score for score, _ in registry.evaluate(flags.metrics, material)}
        print(f"| {fault} | {' | '.join(cell(scores[name]) for name in names)} |", flush=True)


def cell(score: registry.Score) -> str:
    """Returns a value with its standard error, where one is known."""
    if score.value is None:
        return "none"
    return f"{score.value:.2f}" + (f" ± {score.std_error:.2f}" if score.std_error is not None else "")


if __name__ == "__main__":
    main()
