"""Codes of a given clip, and the motion of one clip for the person of another.

A generator that animates pictures has an encoder, which reads a code and a pose off every frame. A generator that makes
up its contents has none. Then its inputs are searched for (GAN inversion, Zhu et al. 2016, arXiv 1609.03552): of some
drawn clips the nearest is taken, and its inputs follow the gradient of the difference in pixels.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from mocogan_tf import sampling
from mocogan_tf.latents import sample_latents
from mocogan_tf.models.generator import halved
from mocogan_tf.sampling import Latents
from mocogan_tf.video import Pixels, from_uint8, to_uint8

NUM_SAMPLES = 256  # Drawn clips among which a search starts.
STARTS = 2  # How many of them it starts from; the best result is kept.
COMPARED = 4  # Frames at which clips are compared with drawn ones.
SIDE = 16  # Height and width of these frames.
STEPS = (25, 75)  # Of the search for the content, and of that for everything.
LEARNING_RATE = 0.1  # At first; it falls to a twentieth on half a cosine.
PRIOR = 0.01


def check(generator: Any, category: int | None = None) -> None:
    """Raises ValueError for a generator without content and motion codes, or without such a category."""
    if not sampling.separates(generator):
        raise ValueError("This run's model has one code for content and motion together: it cannot show a given clip.")
    number = generator.latents.dim_category
    if category is not None and not 0 <= category < number:
        raise ValueError(f"`category` must be in [0, {number}). Received: category={category}")


def reconstruct(
    generator: Any, clips: Pixels, *, category: int | None = None, seed: int = 0
) -> tuple[Pixels, Latents | None]:
    """Shows given clips as the generator can show them.

    Args:
        generator: `VideoGenerator`.
        clips: uint8 `[N, T, H, W, C]`, of the generator's size.
        category: Of all clips; None: the one that shows a clip best.
        seed: Of the drawn clips among which a search starts.

    Returns:
        uint8 `[N, T, H, W, C]`, and the generator's inputs that give them, or None if the codes of the frames are the
        encoder's.

    Raises:
        ValueError: The generator has no content and motion codes, or no such category.
    """
    check(generator, category)
    if sampling.animates(generator):
        return _reposed(generator, clips[:, 0], clips, _found_categories(generator, clips, category)), None
    latents = invert(generator, clips, category=category, seed=seed)
    return sampling.generate(generator, latents), latents


def transfer(
    generator: Any, contents: Pixels, motions: Pixels, *, category: int | None = None, seed: int = 0
) -> Pixels:
    """Shows the content of some clips in the motion and the category of others.

    Args:
        generator: `VideoGenerator`.
        contents, motions: uint8 `[N, T, H, W, C]`; result i has content i and motion i.
        category: Of all results; None: that of each motion, as it is found.
        seed: As of `reconstruct`.

    Returns:
        uint8 `[N, T, H, W, C]`, as long as `motions`.

    Raises:
        ValueError: As `reconstruct`.
    """
    check(generator, category)
    if sampling.animates(generator):
        return _reposed(generator, contents[:, 0], motions, _found_categories(generator, motions, category))
    search = _Search(generator, motions.shape[1], seed)
    latents = search.all(motions, category)
    return sampling.generate(generator, {**latents, "content": search.all(contents)["content"]})


def invert(generator: Any, clips: Pixels, *, category: int | None = None, seed: int = 0) -> Latents:
    """Searches for the inputs of a generator that give clips.

    The nearest of some drawn clips give a first content. With it, all drawn motions are compared with the clip again,
    since most of a difference in pixels is a difference of contents. From the best motion of each of the two nearest
    categories, or from the two best where there are none, all inputs but the category are moved by Adam. What falls is
    the mean absolute difference, of pixels and of blocks of 4x4 pixels, at the size of the generator's `half_frames` if
    it has them. A small term keeps the mean square of each input near 1, as it is of drawn ones.

    Args:
        generator: `VideoGenerator` whose content is drawn.
        clips: uint8 `[N, T, H, W, C]`, of the generator's size.
        category: Of all clips; None: the one with the smallest difference.
        seed: Of the drawn clips.

    Returns:
        dict of float32 arrays as `mocogan_tf.latents.sample_latents` gives them.

    Raises:
        ValueError: The generator has no content and motion codes, no such category, or an encoder.
    """
    check(generator, category)
    if sampling.animates(generator):
        raise ValueError("This generator encodes pictures: its codes are read and not searched for.")
    return _Search(generator, clips.shape[1], seed).all(clips, category)


class _Search:
    """Searches for the inputs that give a clip, for one clip after the other.

    Args:
        generator, seed: As of `invert`.
        num_frames: T.
    """

    def __init__(self, generator: Any, num_frames: int, seed: int) -> None:
        self.generator = generator
        self.decode = generator.half_frames or generator.frames
        self.samples = sample_latents(generator.latents, NUM_SAMPLES, num_frames, seed=seed)
        if generator.latents.dim_category:
            self.one_hot = np.eye(generator.latents.dim_category, dtype=np.float32)
            self.samples["category"] = self.one_hot[np.arange(NUM_SAMPLES) % len(self.one_hot)]
        self.compared = np.unique(np.linspace(0, num_frames - 1, COMPARED).astype(np.int32))
        self._small = tf.function(self._small_frames, autograph=False)
        self.sample_pixels = self._pixels(self.samples)
        self.inputs = {name: tf.Variable(value[:STARTS]) for name, value in self.samples.items()}
        self.moved = [variable for name, variable in self.inputs.items() if name != "category"]
        self.optimizer = keras.optimizers.Adam(LEARNING_RATE, beta_2=0.99)
        self.optimizer.build(self.moved)
        self._step = tf.function(self._one_step, autograph=False)

    def all(self, clips: Pixels, category: int | None = None) -> Latents:
        """Returns the inputs of clips uint8 `[N, T, H, W, C]`, of one category or of the ones found."""
        found = [self.one(clip, category) for clip in from_uint8(clips)]
        return {name: np.concatenate([latents[name] for latents in found]) for name in found[0]}

    def one(self, clip: NDArray[np.float32], category: int | None) -> Latents:
        """Returns the inputs of one clip `[T, H, W, C]` in [-1, 1], as a batch of one."""
        nearest = np.argsort(self._distances(self.sample_pixels, clip))[:STARTS]
        moved, errors = self._refined({name: value[nearest] for name, value in self.samples.items()}, clip, STEPS[0])
        content = moved["content"][[errors.argmin()]]
        again = {**self.samples, "content": content.repeat(NUM_SAMPLES, axis=0)}
        if category is not None:
            again["category"] = self.one_hot[np.full(NUM_SAMPLES, category)]
        starts = _starts(self._distances(self._pixels(again), clip), again.get("category"))
        moved, errors = self._refined({name: value[starts] for name, value in again.items()}, clip, STEPS[1])
        return {name: value[[errors.argmin()]] for name, value in moved.items()}

    def _distances(self, pixels: NDArray[np.float32], clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean absolute differences of samples' small frames and a clip's, `[NUM_SAMPLES]`."""
        distances: NDArray[np.float32] = np.abs(pixels - _shrunk(clip[None, self.compared])).mean(axis=(1, 2, 3, 4))
        return distances

    def _pixels(self, latents: Latents) -> NDArray[np.float32]:
        """Small frames of the samples, `[NUM_SAMPLES, t, SIDE, SIDE, C]`."""
        batches = [
            self._small({name: tf.constant(value[i : i + sampling.CHUNK]) for name, value in latents.items()}).numpy()
            for i in range(0, NUM_SAMPLES, sampling.CHUNK)
        ]
        return np.concatenate(batches)

    def _small_frames(self, latents: dict[str, tf.Tensor]) -> tf.Tensor:
        return _shrunk(self.decode(ops.take(self.generator.codes(latents), self.compared, axis=1)))

    def _refined(self, starts: Latents, clip: NDArray[np.float32], steps: int) -> tuple[Latents, NDArray[np.float32]]:
        """Moves inputs towards a clip; returns them with the difference that is left of each, `[STARTS]`."""
        for name, value in starts.items():
            self.inputs[name].assign(value)
        for variable in self.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        wanted = tf.constant(clip[None])
        if self.decode is not self.generator.frames:
            wanted = halved(wanted)
        for step in range(steps):
            share = 0.5 + 0.5 * np.cos(np.pi * step / steps)
            self.optimizer.learning_rate = LEARNING_RATE * (0.05 + 0.95 * share)
            self._step(wanted)
        errors = self._errors(wanted).numpy()
        return {name: variable.numpy() for name, variable in self.inputs.items()}, errors

    def _one_step(self, wanted: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            squares = [ops.mean(ops.square(variable), axis=range(1, len(variable.shape))) for variable in self.moved]
            prior = PRIOR * sum(ops.square(square - 1.0) for square in squares)
            # A sum: starts do not depend on each other.
            loss = ops.sum(self._errors(wanted) + prior)
        self.optimizer.apply(tape.gradient(loss, self.moved), self.moved)

    def _errors(self, wanted: tf.Tensor) -> tf.Tensor:
        """Mean absolute differences of pixels and of blocks of 4x4, summed, `[STARTS]`."""
        apart = self.decode(self.generator.codes(self.inputs)) - wanted
        axes = (1, 2, 3, 4)
        return ops.mean(ops.abs(apart), axis=axes) + ops.mean(ops.abs(halved(halved(apart))), axis=axes)


def _starts(distances: NDArray[np.float32], categories: NDArray[np.float32] | None) -> NDArray[np.intp]:
    """Returns the nearest samples, each of another category if there are so many."""
    order = np.argsort(distances)
    if categories is not None:
        first = np.unique(categories[order].argmax(axis=1), return_index=True)[1]
        if len(first) >= STARTS:
            order = order[np.sort(first)]
    return order[:STARTS]


def _shrunk(frames: Any) -> Any:
    """Averages blocks of pixels: `[N, T, H, W, C]` becomes `[N, T, SIDE, SIDE, C]`."""
    while frames.shape[2] > SIDE:
        frames = halved(frames)
    return frames


def _reposed(generator: Any, pictures: Pixels, motions: Pixels, category: NDArray[np.float32] | None) -> Pixels:
    """Shows pictures `[N, H, W, C]` in the poses of every frame of clips `[N, T, H, W, C]`."""
    content = generator.encode(pictures)
    clips = []
    for i, motion in enumerate(motions):
        poses = generator.encode(motion)[None]
        one_hot = None if category is None else category[i : i + 1]
        pieces = [
            generator.frames(generator.posed(content[i : i + 1], poses[:, first : first + sampling.CHUNK], one_hot))
            for first in range(0, len(motion), sampling.CHUNK)
        ]
        clips.append(to_uint8(np.concatenate(pieces, axis=1)))
    return np.concatenate(clips)


def _found_categories(generator: Any, clips: Pixels, category: int | None) -> NDArray[np.float32] | None:
    """Returns one-hot `[N, dim_category]`: the given category, or that in which a clip's own poses show it best."""
    number = generator.latents.dim_category
    if not number or generator.config["category_to"] == "motion":  # The decoder does not see it.
        return None
    one_hot = np.eye(number, dtype=np.float32)
    if category is not None:
        return one_hot[np.full(len(clips), category)]
    errors = [
        np.abs(_reposed(generator, clips[:, 0], clips, one_hot[np.full(len(clips), i)]).astype(np.int16) - clips)
        for i in range(number)
    ]
    return one_hot[np.argmin([error.mean(axis=(1, 2, 3, 4)) for error in errors], axis=0)]
