"""Clips out of a trained generator: random ones, swaps of content and motion, categories, interpolation, long ones.

Every function takes a seed by the rule of `mocogan_tf.latents`. A function named `..._latents` draws the generator's
inputs, from any frame on; the others return uint8 clips `[N, T, H, W, C]`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mocogan_tf.latents import CodeSpec, LatentSpec, choose_contents, sample_latents, slerp
from mocogan_tf.video import Pixels, to_uint8

Latents = dict[str, NDArray[np.float32]]
CHUNK = 16  # Frames per call of a generator that can continue a clip.


def stream(
    generator: Any,
    draw: Callable[[int, int], Latents],
    num_frames: int,
    chunk: int = CHUNK,
    batch_size: int = 16,
) -> Iterator[Pixels]:
    """Makes clips in pieces of bounded size, so that clips of any length take constant memory.

    A piece is continued by the next through `motion_state`, which gives what one pass would. Of a generator that makes
    more frames than the others in the same time, every `frame_stride`-th is kept. A generator that cannot continue a
    clip makes it in one piece.

    Args:
        generator: `VideoGenerator`, or a baseline's.
        draw: From a number of frames and the index of the first to latents, as of `sample_latents`.
        num_frames: Frames of the clips.
        chunk: Frames of a piece.
        batch_size: Clips per call.

    Yields:
        uint8 `[N, t, H, W, C]`.
    """
    if not separates(generator):
        yield np.concatenate(
            [
                to_uint8(outputs["video"][:, :: generator.frame_stride])
                for outputs in _run_in_batches(generator, draw(num_frames, 0), batch_size)
            ]
        )
        return
    state = None
    for first in range(0, num_frames, chunk):
        latents = draw(min(chunk, num_frames - first), first)
        if state is not None:
            latents = {**latents, "motion_init": state}
        outputs = list(_run_in_batches(generator, latents, batch_size))
        state = np.concatenate([batch["motion_state"] for batch in outputs])
        yield np.concatenate([to_uint8(batch["video"]) for batch in outputs])


def _run_in_batches(generator: Any, latents: Latents, batch_size: int) -> Iterator[dict[str, Any]]:
    for i in range(0, len(next(iter(latents.values()))), batch_size):
        yield _run(generator, {name: value[i : i + batch_size] for name, value in latents.items()})


_compiled: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _run(generator: Any, inputs: Latents) -> dict[str, Any]:
    """Calls the generator once, outside of all replicas and workers, and returns its outputs as arrays.

    Keras's `predict_on_batch` would give the whole batch to each replica, and wait for the other workers.
    """
    if generator not in _compiled:
        weak: Any = weakref.ref(generator)  # The function must not keep its own key alive.
        _compiled[generator] = tf.function(lambda inputs: weak()(inputs, training=False), autograph=False)
    inputs = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in _compiled[generator](inputs).items()}


def generate(generator: Any, latents: Latents, chunk: int = CHUNK, batch_size: int = 16) -> Pixels:
    """Makes clips of latents of any number and length; see `stream`.

    Args:
        generator: `VideoGenerator`, or a baseline's.
        latents: dict as of `sample_latents`.
        chunk: Frames per call, if a clip can be continued.
        batch_size: Clips per call.

    Returns:
        uint8 `[N, T, H, W, C]`.
    """
    noise = latents.get("motion_noise")
    if noise is None:
        return np.concatenate(list(stream(generator, lambda *_: latents, 0, chunk, batch_size)), axis=1)

    def cut(number: int, first: int) -> Latents:
        return {**latents, "motion_noise": noise[:, first : first + number]}

    return np.concatenate(list(stream(generator, cut, noise.shape[1], chunk, batch_size)), axis=1)


def random_latents(
    generator: Any, num_videos: int, num_frames: int, first_frame: int = 0, *, seed: int, category: int | None = None
) -> Latents:
    """Draws clips 0, 1, ... of a seed, of one category or of drawn ones.

    Raises:
        ValueError: The generator has no such category, or makes clips of another length only.
    """
    spec = generator.latents
    if not separates(generator):
        made = spec.num_frames // generator.frame_stride
        if num_frames != made:
            raise ValueError(f"This run's clips have {made} frames and cannot be made longer. Received: {num_frames}")
        num_frames = spec.num_frames
    return _drawn(generator, num_videos, num_frames, seed=seed, category=category, first_frame=first_frame)


def random_clips(generator: Any, num_videos: int, num_frames: int, *, seed: int, category: int | None = None) -> Pixels:
    """Returns clips 0, 1, ... of a seed.

    Raises:
        ValueError: As `random_latents`.
    """
    return generate(generator, random_latents(generator, num_videos, num_frames, seed=seed, category=category))


def separates(generator: Any) -> bool:
    """Returns whether content and motion are separate inputs and clips have any length, as MoCoGAN's."""
    return isinstance(generator.latents, LatentSpec)


def _spec(generator: Any) -> LatentSpec:
    """The inputs of a generator that separates content and motion."""
    spec: LatentSpec | CodeSpec = generator.latents
    if not isinstance(spec, LatentSpec):
        raise ValueError("This run's model has one code for content and motion together. Use --mode=random.")
    return spec


def _drawn(generator: Any, num_videos: int, num_frames: int, **chosen: Any) -> Latents:
    """Draws as `sample_latents`; of a generator that animates pictures, out of its own."""
    return sample_latents(
        generator.latents, num_videos, num_frames, contents=getattr(generator, "contents", None), **chosen
    )


def _different(generator: Any, latents: Latents, seed: int) -> Latents:
    """Gives rows contents that differ, where a seed could choose a picture twice: its first picture and those after."""
    if not animates(generator):
        return latents
    contents = generator.contents
    first = choose_contents(seed, 1, len(contents))[0]
    return {**latents, "content": contents[(first + np.arange(len(latents["content"]))) % len(contents)]}


def overview(generator: Any, video_length: int, *, seed: int) -> tuple[Pixels, int]:
    """Returns the clips of a run's sample grids: contents by motions, or random clips if these are not separate.

    Four contents by four motions, or by as many as there are categories, up to eight; or sixteen clips. Of a generator
    that animates pictures, four pictures, each still in the first column, by as many motions.

    Args:
        generator: `VideoGenerator`, or a baseline's.
        video_length: Frames that the generator makes of a clip; every `frame_stride`-th is shown.
        seed: Which clips.

    Returns:
        (uint8 clips `[N, T, H, W, C]`, columns of their grid).
    """
    num_frames = video_length // generator.frame_stride
    if not separates(generator):
        return random_clips(generator, 16, num_frames, seed=seed), 4
    motions = min(max(4, generator.latents.dim_category), 8)
    if animates(generator):
        pictures = generator.pictures[:4]
        moving = generate(generator, animation_latents(generator, pictures, motions, num_frames, seed=seed))
        return beside_pictures(pictures, moving), motions + 1
    return content_motion_grid(generator, 4, motions, num_frames, seed=seed), motions


def category_moves(generator: Any) -> bool:
    """Whether a category is part of the motion, and not of the content: the motion network takes it."""
    return bool(generator.config["category_to"] != "image")


def grid_latents(
    generator: Any, num_contents: int, num_motions: int, num_frames: int, first_frame: int = 0, *, seed: int
) -> Latents:
    """Draws every content with every motion, row by row: rows share the content, columns the motion.

    If the motion network takes the category, column j has category j modulo their number; if the decoder takes it, row
    i has category i.

    Raises:
        ValueError: The generator has no content and motion codes.
    """
    spec = _spec(generator)
    contents = _different(generator, _drawn(generator, num_contents, 1, seed=seed), seed)["content"]
    motions = _drawn(generator, num_motions, num_frames, seed=seed, first_frame=first_frame)
    return _crossed(spec, contents, motions, category_in_columns=category_moves(generator))


def _crossed(spec: LatentSpec, contents: Any, motions: Latents, *, category_in_columns: bool) -> Latents:
    """Returns every content with every motion, row by row."""
    num_contents, num_motions = len(contents), len(motions["motion_init"])
    row, column = np.divmod(np.arange(num_contents * num_motions), num_motions)
    latents = {
        "content": contents[row],
        "motion_init": motions["motion_init"][column],
        "motion_noise": motions["motion_noise"][column],
    }
    if spec.dim_category:
        owner = column if category_in_columns else row
        latents["category"] = np.eye(spec.dim_category, dtype=np.float32)[owner % spec.dim_category]
    return latents


def animates(generator: Any) -> bool:
    """Returns whether the generator's content is an encoded picture."""
    return separates(generator) and generator.latents.content_from == "pictures"


def animation_latents(
    generator: Any,
    pictures: Pixels,
    num_motions: int,
    num_frames: int,
    first_frame: int = 0,
    *,
    seed: int,
    category: int | None = None,
) -> Latents:
    """Encodes pictures and draws motions for them: rows share the picture, columns the motion.

    Args:
        generator: One that animates pictures.
        pictures: uint8 `[N, H, W, C]`.
        num_motions: Motions of every picture.
        num_frames: Frames of the clips.
        first_frame: Frame from which the motion's noise is drawn, to continue clips.
        seed: Of the motions.
        category: Of all clips; None: column j has category j modulo their number.

    Raises:
        ValueError: The generator animates no pictures, or these are of another size; or it has no such category.
    """
    spec = _spec(generator)
    if not animates(generator):
        raise ValueError("This run makes up its contents. Pictures need a run of train.py --task=image_to_video.")
    contents = generator.encode(pictures)
    motions = sample_latents(
        spec, num_motions, num_frames, seed=seed, first_frame=first_frame, category=category, contents=contents
    )
    latents = _crossed(spec, contents, motions, category_in_columns=True)
    if category is not None:
        latents["category"] = np.tile(motions["category"], (len(contents), 1))
    return latents


def beside_pictures(pictures: Pixels, clips: Pixels) -> Pixels:
    """Puts every picture, standing still, before the clips that it became.

    Args:
        pictures: uint8 `[N, H, W, C]`.
        clips: uint8 `[N * M, T, H, W, C]`, M of each picture.

    Returns:
        uint8 `[N * (M + 1), T, H, W, C]`.
    """
    rows = clips.reshape(len(pictures), -1, *clips.shape[1:])
    still = np.repeat(pictures[:, None, None], rows.shape[2], axis=2)
    both: Pixels = np.concatenate([still, rows], axis=1).reshape(-1, *clips.shape[1:])
    return both


def content_motion_grid(generator: Any, num_contents: int, num_motions: int, num_frames: int, *, seed: int) -> Pixels:
    """Returns the clips of `grid_latents`.

    Raises:
        ValueError: The generator has no content and motion codes.
    """
    return generate(generator, grid_latents(generator, num_contents, num_motions, num_frames, seed=seed))


def category_latents(generator: Any, num_contents: int, num_frames: int, first_frame: int = 0, *, seed: int) -> Latents:
    """Draws one row per content: the same content and noise under each category in turn.

    Raises:
        ValueError: The generator has no categories.
    """
    spec = _spec(generator)
    if not spec.dim_category:
        raise ValueError(
            "This run has no categories. Use another --mode: random, content_motion_grid, interpolate, long."
        )
    latents = _drawn(generator, num_contents, num_frames, seed=seed, first_frame=first_frame)
    latents = _different(generator, latents, seed)
    repeated = {name: value.repeat(spec.dim_category, axis=0) for name, value in latents.items()}
    return {**repeated, "category": np.tile(np.eye(spec.dim_category, dtype=np.float32), (num_contents, 1))}


def interpolation_latents(
    generator: Any, num_videos: int, num_frames: int, first_frame: int = 0, *, seed: int
) -> Latents:
    """Draws one motion under contents between content 0 and content 1 of a seed, both included, by `slerp`.

    Raises:
        ValueError: The generator has no content and motion codes.
    """
    _spec(generator)
    if animates(generator):
        raise ValueError("Contents between two pictures are no pictures. Use another --mode: animate, random, long.")
    latents = _drawn(generator, 2, num_frames, seed=seed, first_frame=first_frame)
    start, end = latents["content"].astype(np.float64)
    share = np.linspace(0.0, 1.0, num_videos)[:, None]
    fixed = {name: value[:1].repeat(num_videos, axis=0) for name, value in latents.items()}
    return {**fixed, "content": slerp(start, end, share)}
