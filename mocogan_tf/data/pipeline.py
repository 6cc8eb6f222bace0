"""Batches for training, from whole decoded videos.

Nothing here has a state: videos, frames and the starts of clips are functions of the seed and the step's number. So a
run that starts at step k gets what an uninterrupted run would get there, without replaying anything.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import tensorflow as tf

from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The replicas of a run whose batches are wanted: `local` of `total`, from number `first` on."""

    first: int = 0
    local: int = 1
    total: int = 1


def training_batches(
    videos: VideoSet, config: Config, *, start_step: int = 0, replicas: Replicas = Replicas()
) -> tf.data.Dataset:
    """Yields global batches for ever: {"images": [Bi, H, W, C], "videos": [Bv, T, H, W, C], "labels": [Bv] int32}.

    With `image_frames` k > 1, images are `[Bi, k, H, W, C]`: random frames of one training clip.

    Images and videos are uint8, 0..255; the training step scales them on the device, where a quarter of the bytes need
    to go. A training clip is the paper's S_T: T frames at stride `every_nth` from a random start. Each epoch takes the
    videos in a new random order. An image is the paper's S_1: a random frame of a video; images take the videos in an
    order of their own. Batches are always full and run on over the end of an epoch.

    Args:
        videos: At least one video, each of at least `config.source_frames` frames.
        config: Batch sizes, clip length and stride, seed; without an image discriminator there are no images.
        start_step: Number of the first batch.
        replicas: One worker of several gets one element per step and own replica, with that replica's rows of the
            global batch; other rows are not read.
    """
    if not len(videos) or videos.lengths.min() < config.source_frames:
        raise ValueError(
            f"Every video must have at least {config.source_frames} frames. Received: {len(videos)} videos, of "
            f"{sorted(set(videos.lengths.tolist()))[:3]} frames and more."
        )
    num_images = 0 if config.image_discriminator == "none" else config.image_batch // replicas.total
    num_clips = config.video_batch // replicas.total
    image_shape = (num_images, *config.side_by_side, *videos.frames.shape[1:])
    video_shape = (num_clips, config.video_length, *videos.frames.shape[1:])
    pixels = videos.frames.view(np.ndarray)
    stride = config.every_nth * np.arange(config.video_length)
    draw = _Draw(videos, config)

    def read(image_frames: np.ndarray, first_frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pixels[image_frames], pixels[first_frames[:, None] + stride]

    def batch(element: tf.Tensor) -> dict[str, tf.Tensor]:
        image_frames, first_frames, labels = draw(element // replicas.local)
        replica = replicas.first + element % replicas.local
        image_frames = image_frames[replica * num_images :][:num_images]
        first_frames = first_frames[replica * num_clips :][:num_clips]
        images, clips = tf.numpy_function(read, [image_frames, first_frames], [tf.uint8, tf.uint8], stateful=False)
        read_images = {"images": tf.ensure_shape(images, image_shape)} if num_images else {}
        return {
            **read_images,
            "videos": tf.ensure_shape(clips, video_shape),
            "labels": tf.ensure_shape(labels[replica * num_clips :][:num_clips], (num_clips,)),
        }

    options = tf.data.Options()
    # On one host the strategy splits a batch's rows; several hosts have been given their rows above.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.deterministic = True
    # Nothing here is left to tune. TensorFlow's tuner sleeps for up to a minute, and an end may wait for it.
    options.autotune.enabled = False
    elements = tf.data.Dataset.range(start_step * replicas.local, np.iinfo(np.int64).max)
    # A fixed number of calls: AUTOTUNE may take cores from the training step for batches that nobody waits for.
    return elements.map(batch, num_parallel_calls=2).prefetch(4).with_options(options)


class _Draw:
    """The random choices of one step, as a function of its number."""

    def __init__(self, videos: VideoSet, config: Config) -> None:
        self._config = config
        self._lengths = tf.constant(videos.lengths)
        self._offsets = tf.constant(videos.offsets)
        self._labels = tf.constant(videos.labels)

    def __call__(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns int64 frames `[Bi]` (or `[Bi, k]`) of images, first frames `[Bv]` and labels `[Bv]` of clips."""
        config = self._config
        image_videos = self._next_videos("images", step, config.image_batch)
        image_frames = self._image_frames(step, image_videos)
        clip_videos = self._next_videos("clips", step, config.video_batch)
        starts = self._uniform("starts", step, tf.gather(self._lengths, clip_videos) - config.source_frames + 1)
        return (
            image_frames,
            tf.gather(self._offsets, clip_videos) + starts,
            tf.gather(self._labels, clip_videos),
        )

    def _image_frames(self, step: tf.Tensor, videos: tf.Tensor) -> tf.Tensor:
        """Returns a random frame of each video, int64 `[Bi]`; or k frames of one training clip of it, `[Bi, k]`."""
        config = self._config
        offsets, lengths = tf.gather(self._offsets, videos), tf.gather(self._lengths, videos)
        if config.image_frames == 1:
            return offsets + self._uniform("frames", step, lengths)
        starts = offsets + self._uniform("frames", step, lengths - config.source_frames + 1)
        length = tf.fill([config.image_batch, config.image_frames], tf.constant(config.video_length, tf.int64))
        return starts[:, None] + config.every_nth * self._uniform("frames of a clip", step, length)

    def _key(self, stream: str) -> np.ndarray:
        """Returns two words that belong to the seed and to one of the random choices."""
        return np.frombuffer(hashlib.sha256(f"{self._config.seed} {stream}".encode()).digest()[:16], np.int64)

    def _next_videos(self, stream: str, step: tf.Tensor, batch_size: int) -> tf.Tensor:
        """Returns indices int64 `[batch_size]`: positions `step * batch_size ...` of permutation after permutation."""
        num_videos = tf.shape(self._lengths, tf.int64)[0]
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        epochs = positions // num_videos
        key = self._key(stream)
        seeds = tf.stack([epochs, tf.fill([batch_size], key[0]), tf.fill([batch_size], key[1])], axis=1)
        # The wrapper tf.random.experimental.index_shuffle takes no seed per index, although it says so.
        return tf.raw_ops.RandomIndexShuffle(
            index=positions % num_videos, seed=seeds, max_index=num_videos - 1, rounds=4
        )

    def _uniform(self, stream: str, step: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
        """Returns integers int64 in [0, bounds), one per bound."""
        seed = tf.random.fold_in(tf.constant(self._key(stream)), step, alg="philox")
        uniform = tf.random.stateless_uniform(tf.shape(bounds), seed, dtype=tf.float64, alg="philox")
        return tf.cast(uniform * tf.cast(bounds, tf.float64), tf.int64)
