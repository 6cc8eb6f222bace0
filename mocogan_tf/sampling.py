"""Clips out of a trained generator: random ones, swaps of content and motion, categories, interpolation, long ones.

Every function takes a seed by the rule of `mocogan_tf.latents` and returns uint8 `[N, T, H, W, C]`.
"""

import weakref
from typing import Any

import numpy as np
import tensorflow as tf

from mocogan_tf.latents import LatentSpec, sample_latents, slerp
from mocogan_tf.video import to_uint8


def generate(generator, latents, chunk=16, batch_size=16):
    """Runs the generator over latents of any number and length, in pieces of bounded size.

    A clip longer than `chunk` is continued through `motion_state`, which gives what one pass would. Of a generator that
    makes more frames than the others in the same time, every `frame_stride`-th is kept.

    Args:
        generator: `VideoGenerator`, or a baseline's.
        latents: dict as of `sample_latents`.
        chunk: Frames per call, where a clip can be continued.
        batch_size: Clips per call.

    Returns:
        uint8 `[N, T, H, W, C]`.
    """
    num_videos = len(next(iter(latents.values())))
    batches = []
    for i in range(0, num_videos, batch_size):
        batch = {name: value[i : i + batch_size] for name, value in latents.items()}
        if "motion_noise" in batch:
            batches.append(_continued(generator, batch, chunk))
        else:
            video = _run(generator, batch)["video"]
            batches.append(to_uint8(video[:, :: generator.frame_stride]))
    return np.concatenate(batches)


def _continued(generator, batch, chunk):
    """One batch of clips, `chunk` frames at a time."""
    chunks = []
    for first in range(0, batch["motion_noise"].shape[1], chunk):
        noise = batch["motion_noise"][:, first : first + chunk]
        outputs = _run(generator, {**batch, "motion_noise": noise})
        batch = {**batch, "motion_init": outputs["motion_state"]}
        chunks.append(to_uint8(outputs["video"]))
    return np.concatenate(chunks, axis=1)


_compiled: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _run(generator, inputs):
    """Calls the generator once, outside of all replicas and workers, and returns its outputs as arrays.

    Keras's `predict_on_batch` would give the whole batch to each replica, and wait for the other workers.
    """
    if generator not in _compiled:
        weak = weakref.ref(generator)  # The function must not keep its own key alive.
        _compiled[generator] = tf.function(lambda inputs: weak()(inputs, training=False), autograph=False)
    inputs = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in _compiled[generator](inputs).items()}


def random_clips(generator, num_videos, num_frames, *, seed, category=None):
    """Clips 0, 1, ... of a seed, of one category or of drawn ones.

    Raises:
        ValueError: The generator has no such category, or makes clips of another length only.
    """
    spec = generator.latents
    if not separates(generator):
        made = spec.num_frames // generator.frame_stride
        if num_frames != made:
            raise ValueError(f"This run's clips have {made} frames and cannot be made longer. Received: {num_frames}")
        num_frames = spec.num_frames
    return generate(generator, sample_latents(spec, num_videos, num_frames, seed=seed, category=category))


def separates(generator):
    """Whether content and motion are inputs of their own, and clips are of any length: MoCoGAN's are, others' not."""
    return isinstance(generator.latents, LatentSpec)


def _check_separates(generator):
    if not separates(generator):
        raise ValueError("This run's model has one code for content and motion together. Use --mode=random.")


def overview(generator, video_length, *, seed):
    """The clips that a run's sample grids show: contents by motions, or random ones where these are not apart.

    Four contents by four motions, or by as many as there are categories, up to eight; or sixteen clips.

    Args:
        generator: `VideoGenerator`, or a baseline's.
        video_length: Frames that the generator makes of a clip, of which every `frame_stride`-th is shown.
        seed: Which clips.

    Returns:
        (uint8 clips `[N, T, H, W, C]`, columns of their grid).
    """
    num_frames = video_length // generator.frame_stride
    if not separates(generator):
        return random_clips(generator, 16, num_frames, seed=seed), 4
    motions = min(max(4, generator.latents.dim_category), 8)
    return content_motion_grid(generator, 4, motions, num_frames, seed=seed), motions


def content_motion_grid(generator, num_contents, num_motions, num_frames, *, seed):
    """Every content with every motion, row by row: rows share the content, columns the motion.

    With the category in the motion network it belongs to the motion, and column j has category j modulo their number;
    with the category in the decoder it belongs to the content, and row i has category i.

    Raises:
        ValueError: The generator has no content and motion codes.
    """
    _check_separates(generator)
    spec = generator.latents
    contents = sample_latents(spec, num_contents, 1, seed=seed)
    motions = sample_latents(spec, num_motions, num_frames, seed=seed)
    row, column = np.divmod(np.arange(num_contents * num_motions), num_motions)
    latents = {
        "content": contents["content"][row],
        "motion_init": motions["motion_init"][column],
        "motion_noise": motions["motion_noise"][column],
    }
    if spec.dim_category:
        owner = column if generator.config["category_to"] == "motion" else row
        latents["category"] = np.eye(spec.dim_category, dtype=np.float32)[owner % spec.dim_category]
    return generate(generator, latents)


def all_categories(generator, num_contents, num_frames, *, seed):
    """One row per content: the same content and noise under each category in turn.

    Raises:
        ValueError: The generator has no categories.
    """
    _check_separates(generator)
    spec = generator.latents
    if not spec.dim_category:
        raise ValueError(
            "This run has no categories. Use another --mode: random, content_motion_grid, interpolate, long."
        )
    latents = sample_latents(spec, num_contents, num_frames, seed=seed)
    repeated = {name: value.repeat(spec.dim_category, axis=0) for name, value in latents.items()}
    repeated["category"] = np.tile(np.eye(spec.dim_category, dtype=np.float32), (num_contents, 1))
    return generate(generator, repeated)


def interpolated_contents(generator, num_videos, num_frames, *, seed):
    """One motion under contents on the way from content 0 to content 1 of a seed.

    The way is `slerp`'s great circle.

    Args:
        generator: `VideoGenerator`.
        num_videos: Points on the way, both ends included.
        num_frames: Frames per clip.
        seed: Integer in [0, 2^64).

    Raises:
        ValueError: The generator has no content and motion codes.
    """
    _check_separates(generator)
    latents = sample_latents(generator.latents, 2, num_frames, seed=seed)
    start, end = latents["content"].astype(np.float64)
    share = np.linspace(0.0, 1.0, num_videos)[:, None]
    fixed = {name: value[:1].repeat(num_videos, axis=0) for name, value in latents.items()}
    return generate(generator, {**fixed, "content": slerp(start, end, share)})
