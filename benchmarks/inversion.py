"""How near a generator comes to clips that it has not seen: python -m benchmarks.inversion [--bundle=pretrained/taichi]

Rendered clips that are not in training are reconstructed beside two baselines. A generator without an encoder also gets
clips of its own, whose codes exist. Then each clip's content gets the motion of the next one. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mocogan_tf import inversion, sampling
from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.datasets import PICTURE_SEED, get_dataset, open_videos
from mocogan_tf.latents import sample_latents
from mocogan_tf.metrics import truth
from mocogan_tf.sampling import Latents
from mocogan_tf.training import trained

Frames = NDArray[np.uint8]  # `[N, T, H, W, C]`
SIDE = 16  # Height and width at which the nearest training clip is looked for.
OWN_SEED = 1  # Of the generator's own clips; the search starts from those of seed 0.


def held_out(config: Config, number: int) -> tuple[Frames, NDArray[np.int64], NDArray[np.float64] | None]:
    """Renders clips of people and places that are not in training.

    Returns:
        Clips, their classes, and their joints `[N, T, J, 2]` as shares of the frame, or None of a set without joints.
    """
    renderer = importlib.import_module(get_dataset(config.dataset).renderer)
    clips = [
        renderer.render_clip(i, seed=PICTURE_SEED, num_frames=config.source_frames, image_size=config.image_size)
        for i in range(number)
    ]
    frames = np.stack([clip.frames[:: config.every_nth] for clip in clips])
    joints = [clip.truth["joints"][:: config.every_nth] / config.image_size for clip in clips if "joints" in clip.truth]
    return frames, np.array([clip.label for clip in clips]), np.stack(joints) if joints else None


def nearest_training_clips(clips: Frames, videos: VideoSet, every_nth: int) -> Frames:
    """Returns the training clips, cut at any start, that are nearest to clips at 16x16 pixels."""
    num_frames = clips.shape[1]
    span = every_nth * np.arange(num_frames)
    wanted = _small(clips.reshape(-1, *clips.shape[2:])).reshape(len(clips), -1)
    best: list[tuple[float, int, int]] = [(np.inf, 0, 0)] * len(clips)
    for i in range(len(videos)):
        small = _small(videos[i])
        for start in range(len(small) - span[-1]):
            distances = np.square(small[start + span].ravel() - wanted).sum(axis=1).tolist()
            best = [min(old, (distance, i, start)) for old, distance in zip(best, distances, strict=True)]
    return np.stack([videos[i][start + span] for _, i, start in best])


def _small(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    number, height, width, channels = frames.shape
    return frames.reshape(number, SIDE, height // SIDE, SIDE, width // SIDE, channels).mean(
        axis=(2, 4), dtype=np.float32
    )


def quality(made: Frames, wanted: Frames) -> str:
    """Mean absolute difference, 0 to 255, and PSNR in dB, with standard errors over clips: cells of a table."""
    apart = made.astype(np.float64) - wanted
    l1 = np.abs(apart).mean(axis=(1, 2, 3, 4))
    psnr = 10 * np.log10(255.0**2 / np.maximum(np.square(apart).mean(axis=(1, 2, 3, 4)), 1 / 12))
    return " | ".join(f"{values.mean():.1f} ± {values.std() / len(values) ** 0.5:.1f}" for values in (l1, psnr))


def own_clips(generator: Any, number: int, num_frames: int) -> str:
    """Searches for the codes of clips that the generator made, which exist; returns a row of the table."""
    drawn = sample_latents(generator.latents, number, num_frames, seed=OWN_SEED)
    own = sampling.generate(generator, drawn)
    again, latents = inversion.reconstruct(generator, own)
    wanted = drawn["category"].argmax(axis=1) if "category" in drawn else None
    return f"| of the generator's own clips{right_categories(latents, wanted)} | {quality(again, own)} |"


def right_categories(latents: Latents | None, wanted: NDArray[np.int64] | None) -> str:
    """Says how many categories were found; nothing if none were searched for."""
    if latents is None or wanted is None or "category" not in latents:
        return ""
    return f", category right in {(latents['category'].argmax(axis=1) == wanted).sum()} of {len(wanted)}"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="pretrained/taichi", help="of a rendered set")
    parser.add_argument("--num_clips", type=int, default=16)
    parser.add_argument("--num_own", type=int, default=8, help="clips of the generator's own")
    flags = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    found = trained.open_bundle(flags.bundle)
    clips, labels, joints = held_out(found.config, flags.num_clips)
    begun = time.process_time()
    shown, latents = inversion.reconstruct(found.generator, clips)
    seconds = time.process_time() - begun
    near = nearest_training_clips(clips, open_videos(found.config), found.config.every_nth)
    print("| | L1 | PSNR |\n|---|---|---|")
    print(f"| clips of the found codes{right_categories(latents, labels)} | {quality(shown, clips)} |")
    print(f"| nearest training clip | {quality(near, clips)} |")
    print(f"| first frame, standing still | {quality(clips[:, :1].repeat(clips.shape[1], axis=1), clips)} |")
    if latents is not None:
        print(own_clips(found.generator, flags.num_own, clips.shape[1]), flush=True)
    print(f"\n{seconds / len(clips):.2g} seconds of one core per clip.")
    if joints is None:
        return
    if latents is None:
        moved = inversion.transfer(found.generator, clips, np.roll(clips, -1, axis=0))
    else:
        motion = {name: np.roll(value, -1, axis=0) for name, value in latents.items()}
        moved = sampling.generate(found.generator, {**motion, "content": latents["content"]})
    read = truth.open_reader(found.config)
    wanted = _about_middle(np.roll(joints, -1, axis=0))

    def error(frames: Frames) -> str:
        paths = _about_middle(read(frames).paths)
        distances = 64 * np.linalg.norm(paths - wanted, axis=-1).mean(axis=(1, 2))
        return f"{distances.mean():.1f} ± {distances.std() / len(distances) ** 0.5:.1f}"

    print("\n| joints about their middle, against the clip that gives the motion | pixels of 64 |\n|---|---|")
    print(f"| that clip itself, so the error of reading | {error(np.roll(clips, -1, axis=0))} |")
    print(f"| its reconstruction | {error(np.roll(shown, -1, axis=0))} |")
    print(f"| another content in its motion | {error(moved)} |")
    print(f"| the training clip nearest to it | {error(np.roll(near, -1, axis=0))} |")
    print(f"| the clip that gives the content | {error(clips)} |")


def _about_middle(paths: NDArray[np.float64]) -> NDArray[np.float64]:
    return paths - paths.mean(axis=2, keepdims=True)


if __name__ == "__main__":
    main()
