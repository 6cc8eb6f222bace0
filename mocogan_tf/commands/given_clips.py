"""The two modes of sample.py that begin with clips of a person's own: reconstruct and transfer."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mocogan_tf import video

if TYPE_CHECKING:
    from mocogan_tf.training.trained import Trained

MODES = ("reconstruct", "transfer")
CODES = "codes.npz"
KINDS = "a video file, GIF, WebP, APNG, strip, array or folder of frames"


def check_flags(mode: str, clip: Sequence[str], content_clip: str | None, motion_clip: str | None, frames: int) -> None:
    """Raises ValueError if clips are missing, are given to a mode that takes none, or are to have one frame."""
    if clip and mode != "reconstruct":
        raise ValueError(f"--clip goes with --mode=reconstruct. Received: --mode={mode}")
    if (content_clip or motion_clip) and mode != "transfer":
        raise ValueError(f"--content_clip and --motion_clip go with --mode=transfer. Received: --mode={mode}")
    if mode == "reconstruct" and not clip:
        raise ValueError(f"--mode=reconstruct needs --clip=CLIP: {KINDS}.")
    if mode == "transfer" and not (content_clip and motion_clip):
        raise ValueError(f"--mode=transfer needs --content_clip=CLIP and --motion_clip=CLIP, each {KINDS}.")
    if mode in MODES and frames == 1:
        raise ValueError(f"--mode={mode} needs clips of two frames or more. Received: --frames=1")


def read(paths: Sequence[str], found: Trained, num_frames: int) -> video.Pixels:
    """Reads clips as the model's own were fitted, all as long as the shortest: uint8 `[N, T, H, W, C]`. Says how.

    Args:
        paths: Of the clips.
        found: Whose size and frame rate they get.
        num_frames: T at most.

    Raises:
        ValueError: A clip cannot be read, or is shorter than two frames.
    """
    from mocogan_tf.data.sources.fitting import read_given_clip

    config = found.config
    clips = [read_given_clip(path, config.image_size, config.channels, found.fps, num_frames) for path in paths]
    shortest = min(len(frames) for frames, _ in clips)
    for frames, words in clips:
        print(words + f", cut to the {shortest} of the shortest" * (len(frames) > shortest))
    return np.stack([frames[:shortest] for frames, _ in clips])


def beside(clips: video.Pixels, given: video.Pixels) -> video.Pixels:
    """Arranges clips in a grid, each at the end of a row behind the given ones that it was made of."""
    rows = given.reshape(len(clips), -1, *given.shape[1:])[:, :, : clips.shape[1]]
    joined = np.concatenate([rows, clips[:, None]], axis=1)
    return video.grid(joined.reshape(-1, *clips.shape[1:]), joined.shape[1])


def make(
    mode: str, found: Trained, given: video.Pixels, category: int | None, seed: int, out: pathlib.Path
) -> Iterator[video.Pixels]:
    """Yields the clips made of given ones, uint8 `[N, T, H, W, C]`; reconstruct says how near they are.

    Reconstruct writes the generator's inputs that it found into `out`, if the generator has no encoder.
    """
    from mocogan_tf import inversion

    if mode == "transfer":
        yield inversion.transfer(found.generator, given[:1], given[1:], category=category, seed=seed)
        return
    clips, latents = inversion.reconstruct(found.generator, given, category=category, seed=seed)
    for i, difference in enumerate(np.abs(clips.astype(np.int16) - given).mean(axis=(1, 2, 3, 4))):
        words = ""
        if latents is not None and "category" in latents:
            number = int(latents["category"][i].argmax())
            words = f", category {found.categories[number] if found.categories else number}"
        print(f"Clip {i}: mean difference {difference:.1f} of 255{words}")
    if latents is not None:
        arrays: dict[str, Any] = {**latents}
        np.savez(out / CODES, **arrays)
    yield clips
