"""What the metrics say about clips with a known fault: python -m benchmarks.metric_baselines [--dataset=taichi ...]

Scores real clips, intact and damaged, against other real clips. Prints a Markdown table.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from mocogan_tf.config import Config
from mocogan_tf.data.datasets import open_videos
from mocogan_tf.metrics import acd, collapse, statistics
from mocogan_tf.metrics.clips import Clips, real_clips
from mocogan_tf.metrics.features import resized
from mocogan_tf.metrics.kept_network import open_network


def degraded(frames, rng):
    """Returns damaged clips `[N, T, H, W, C]` by the name of the fault."""
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
        "a quarter of the resolution": coarse,
        "noise of deviation 20": np.clip(noisy, 0, 255).astype(np.uint8),
        "black": np.zeros_like(frames),
    }


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="taichi")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--cache_dir", default="")
    parser.add_argument("--num_clips", type=int, default=2000, help="clips to render of a generated set")
    parser.add_argument("--num_videos", type=int, default=256, help="clips on either side")
    flags = parser.parse_args()
    config = Config(
        dataset=flags.dataset, data_dir=flags.data_dir, cache_dir=flags.cache_dir, num_clips=flags.num_clips
    )
    videos = open_videos(config)
    network = open_network(
        videos, num_frames=config.video_length, every_nth=config.every_nth, cache_dir=config.cache_dir
    )
    both = real_clips(videos, 2 * flags.num_videos, config.video_length, config.every_nth, seed=0)
    reference, rest = both.select(slice(0, flags.num_videos)), both.select(slice(flags.num_videos, None))
    real = network(reference)
    centre = real.features.mean(axis=0)
    print(f"{network.name}, held out: {network.accuracy}\n")
    print(
        "| fault | frechet_video | frechet_frame | kernel_video | precision | recall | mcs | acd_color | coverage |",
        end="",
    )
    print(" color_diversity | diversity | motion |\n" + "|---" * 12 + "|")
    for name, frames in degraded(rest.frames, np.random.default_rng(0)).items():
        seen = network(Clips(np.ascontiguousarray(frames), rest.labels, rest.categories))
        kernel = statistics.kernel_distance(real.features - centre, seen.features - centre)
        frame_features = (judged.frame_features.reshape(-1, seen.features.shape[1]) for judged in (real, seen))
        colour = acd.acd_color(frames)
        cells = [
            f"{statistics.frechet(real.features, seen.features):.1f}",
            f"{statistics.frechet(*frame_features):.1f}",
            f"{kernel.value:.2f} ± {kernel.std_error:.2f}",
            *(f"{share:.2f}" for share in statistics.precision_recall(real.features, seen.features)),
            f"{(seen.categories == rest.labels).mean():.2f}" if seen.categories is not None else "",
            f"{colour.acd.value:.1f}" if colour.acd else "none",
            f"{colour.coverage.value:.2f}",
            f"{colour.diversity:.0f}",
            f"{collapse.diversity(frames):.0f}",
            f"{collapse.motion(frames):.2f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
