"""Clips to be judged: cut out of real videos, made by a generator, or read from a folder; uint8 `[N, T, H, W, C]`."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import NDArray

from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.rendered.base import clip_rng
from mocogan_tf.data.sources.layouts import find_clips
from mocogan_tf.data.sources.readers import ClipSource, open_footage
from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips and what is known of them.

    Args:
        frames: uint8 `[N, T, H, W, C]`.
        labels: int `[N]`: the class of real clips, the class asked for of generated ones; None if unlabelled.
        categories: Names of the classes; () if unlabelled.
    """

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    categories: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    def select(self, indices: Sequence[int] | NDArray[np.int64] | slice) -> Clips:
        """Returns these clips only."""
        labels = None if self.labels is None else self.labels[indices]
        return dataclasses.replace(self, frames=self.frames[indices], labels=labels)


def compared(config: Config, frame_stride: int) -> Config:
    """Returns a run's configuration as its clips are compared with real ones and with other models'.

    Args:
        config: Of the run.
        frame_stride: The generator's: which of its frames are kept. VGAN's 32 frames in the time of the others' 16 are
            compared as 16, with real clips of 16 frames over the same time.
    """
    return dataclasses.replace(
        config, video_length=config.video_length // frame_stride, every_nth=config.every_nth * frame_stride
    )


def num_different_clips(videos: VideoSet, num_frames: int, every_nth: int) -> int:
    """How many clips `real_clips` can cut: one per video and start."""
    return int(np.clip(videos.lengths - (num_frames - 1) * every_nth, 0, None).sum())


def real_clips(videos: VideoSet, num_clips: int, num_frames: int, every_nth: int, *, seed: int) -> Clips:
    """Cuts clips out of real videos: videos in a random order, again and again, each time from another random start.

    Args:
        videos: The set.
        num_clips: Clips to cut, N.
        num_frames: Frames per clip, T.
        every_nth: Source frames per kept frame.
        seed: Integer in [0, 2^64). Which clips depends on it and on the lengths of the videos only.

    Raises:
        ValueError: The videos do not hold so many different clips.
    """
    starts_left = videos.lengths - (num_frames - 1) * every_nth
    available = num_different_clips(videos, num_frames, every_nth)
    if available < num_clips:
        raise ValueError(
            f"{videos.name} holds {available} different clips of {num_frames} frames (every {every_nth}), and "
            f"{num_clips} are needed. Give more or longer clips, or lower --num_videos."
        )
    rng = clip_rng(seed, 0)
    starts = {int(i): list(_shuffled(int(starts_left[i]), rng)) for i in np.flatnonzero(starts_left > 0)}
    chosen: list[tuple[int, int]] = []
    while len(chosen) < num_clips:
        usable = np.array([i for i, left in starts.items() if left])
        for i in usable[_shuffled(len(usable), rng)][: num_clips - len(chosen)]:
            chosen.append((int(i), starts[int(i)].pop()))
    span = every_nth * np.arange(num_frames)
    frames = np.stack([videos[i][start + span] for i, start in chosen])
    labels = videos.labels[[i for i, _ in chosen]].astype(np.int64) if videos.categories else None
    return Clips(frames, labels, tuple(videos.categories))


def _shuffled(number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of 0 ... number - 1, from `random()` only, whose stream NumPy keeps."""
    return np.argsort(rng.random(number), kind="stable")


def generated_clips(
    generator: Any,
    num_clips: int,
    num_frames: int,
    *,
    seed: int,
    categories: Sequence[str] = (),
    first_clip: int = 0,
    batch_size: int = 16,
    contents: NDArray[np.float32] | None = None,
) -> Clips:
    """Makes clips `first_clip`, ... of a seed.

    A generator of a fixed length that makes k times more frames than asked for gives every k-th.

    Args:
        generator: Has `latents`; `generator(latents, training=False)["video"]` is `[B, F, H, W, C]` in [-1, 1].
        num_clips: N.
        num_frames: T.
        seed: Integer in [0, 2^64), by the rule of `mocogan_tf.latents`.
        categories: Names of the classes.
        first_clip: Number of the first clip.
        batch_size: Clips per call.
        contents: float32 `[N, dim_content]`, encoded pictures that the seed chooses from, for a generator that animates
            pictures; None: its own.

    Raises:
        ValueError: The generator made another number of frames, or frames that are not finite.
    """
    made_frames = getattr(generator.latents, "num_frames", num_frames)  # Of models that make one length only.
    contents = getattr(generator, "contents", None) if contents is None else contents
    latents = sample_latents(
        generator.latents, num_clips, made_frames, seed=seed, first_clip=first_clip, contents=contents
    )
    labels = latents["category"].argmax(axis=1) if "category" in latents else None
    frames = run_generator(generator, latents, num_frames, batch_size)
    return Clips(frames, labels, tuple(categories) if labels is not None else ())


def run_generator(
    generator: Any, latents: dict[str, NDArray[np.float32]], num_frames: int, batch_size: int = 16
) -> NDArray[np.uint8]:
    """Returns uint8 `[N, T, H, W, C]` for the latents of N clips; errors as `generated_clips`."""
    num_clips = len(next(iter(latents.values())))
    batches = []
    for first in range(0, num_clips, batch_size):
        batch = {name: value[first : first + batch_size] for name, value in latents.items()}
        # Not `predict_on_batch`: of several workers that train together, one alone may be asked for scores.
        video = np.asarray(generator(batch, training=False)["video"])
        made = video.shape[1]
        if made % num_frames:
            raise ValueError(f"The generator makes clips of {made} frames; {num_frames} were asked for.")
        video = video[:, :: made // num_frames]
        if not np.isfinite(video).all():
            bad = np.flatnonzero(~np.isfinite(video).all(axis=(1, 2, 3, 4)))[0] + first
            raise ValueError(f"The generator's clip {bad} holds numbers that are not finite.")
        batches.append(to_uint8(video))
    return np.concatenate(batches)


def folder_clips(folder: str | pathlib.Path) -> Clips:
    """Reads the clips of a folder as they are, whatever program made them.

    GIF, WebP, APNG, strips, folders of frames, video files and arrays are read as `mocogan_tf.data.sources.readers`
    says; class folders become labels. Nothing is resized: lossless files give exactly the pixels that were written. The
    grids that sample.py writes beside its clips are left out, with a warning.

    Args:
        folder: The folder.

    Raises:
        ValueError: There is no clip, one cannot be read, or they differ in size or number of frames.
    """
    if not pathlib.Path(folder).is_dir():
        raise ValueError(f"There is no folder {folder}. --clips takes a folder of GIF, WebP, strip, mp4 or npy files.")
    found = find_clips(folder)
    if not found.clips:
        raise ValueError(f"{folder} holds no clips. It may hold GIF, WebP, strip, mp4 or npy files, flat or by class.")
    clips = _without_grids(found.clips, folder)
    videos = [_read(source, folder) for source in clips]
    if len({video.shape[-1] for video in videos}) > 1:
        videos = [video.repeat(3, axis=-1) if video.shape[-1] == 1 else video for video in videos]
    first = videos[0].shape
    other = next((i for i, video in enumerate(videos) if video.shape != first), None)
    if other is not None:
        raise ValueError(
            f"The clips of {folder} must be of one size and length: {clips[0].name} has {_words(first)}, "
            f"{clips[other].name} has {_words(videos[other].shape)}."
        )
    labels = None
    if found.categories:
        labels = np.array([found.categories.index(clip.category) for clip in clips], np.int64)
    return Clips(np.stack(videos), labels, tuple(found.categories))


def _without_grids(clips: list[ClipSource], folder: str | pathlib.Path) -> list[ClipSource]:
    """Leaves out `random-grid.webp` where `random-0000.webp` is one of the clips in it."""
    names = {clip.name for clip in clips}
    grids = {name for name in names if "-grid." in name and name.replace("-grid.", "-0000.") in names}
    for name in sorted(grids):
        logging.warning("%s: left out, %s: the grid of the clips beside it.", folder, name)
    return [clip for clip in clips if clip.name not in grids]


def _read(source: ClipSource, folder: str | pathlib.Path) -> NDArray[np.uint8]:
    try:
        with contextlib.closing(open_footage(source).frames) as frames:
            pictures = [np.asarray(image) for _, image in frames]
        if len({picture.shape for picture in pictures}) != 1:
            raise ValueError("its frames differ in size")
    except Exception as error:  # Decoders raise anything on broken files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{pathlib.Path(folder) / source.name} cannot be read: {reason}") from error
    stacked = np.stack(pictures)
    return stacked[..., None] if stacked.ndim == 3 else stacked


def _words(shape: tuple[int, ...]) -> str:
    frames, height, width, channels = shape
    return f"{frames} frames of {width}x{height} in {channels} channel{'s' * (channels > 1)}"
