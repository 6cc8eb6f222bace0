"""The clips to score, of a run or of a folder, and real clips beside them; each is made when a metric asks for it."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocogan_tf import sampling
from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.pictures import Pictures, pictures_to_animate
from mocogan_tf.latents import LatentSpec, choose_contents
from mocogan_tf.metrics.clips import Clips, folder_clips, generated_clips, num_different_clips, real_clips
from mocogan_tf.metrics.network import ClipNetwork, Judgement, open_network

CHUNK = 256  # Clips in memory at a time where a protocol wants thousands.


class Material:
    """Clips to score and real clips to compare with.

    Args:
        config: Names the real clips, their size and how they are cut; None where there are none to compare with.
        num_videos: Clips to score, N.
        num_frames: T.
        seed: Seed of the latents, of the choice of real clips, and of the choice among the clips of a folder.
        generator: Makes the clips; None where they are given.
        given: The clips of a folder, in place of a generator.
        step: Step of the checkpoint.
    """

    def __init__(
        self,
        config: Config | None,
        *,
        num_videos: int,
        num_frames: int,
        seed: int,
        generator: Any = None,
        given: Clips | None = None,
        step: int | None = None,
    ) -> None:
        self.config, self.num_videos, self.num_frames, self.seed = config, num_videos, num_frames, seed
        self.generator, self.given, self.step = generator, given, step

    @functools.cached_property
    def videos(self) -> VideoSet:
        """The real videos.

        Raises:
            ValueError: None are named, or they cannot be opened.
        """
        if self.config is None:
            raise ValueError("This metric compares with real clips. Name them: --dataset=NAME, or --data_dir=DIR.")
        return open_videos(self.config)

    @property
    def every_nth(self) -> int:
        """Source frames per kept frame of a real clip."""
        assert self.config is not None
        return self.config.every_nth

    @functools.cached_property
    def clips(self) -> Clips:
        """The N clips to score."""
        if self.given is None:
            return self.make(self.num_videos)
        if len(self.given) < self.num_videos:
            raise ValueError(
                f"{len(self.given)} clips were given, {self.num_videos} are to be scored. Lower --num_videos."
            )
        order = np.sort(np.random.default_rng(self.seed).permutation(len(self.given))[: self.num_videos])
        return self._with_labels_of_the_set(self.given.select(order))

    def make(self, number: int, num_frames: int | None = None, *, seed: int | None = None, first: int = 0) -> Clips:
        """Generates clips `first`, ... of a seed.

        Raises:
            ValueError: There is no generator.
        """
        if self.generator is None:
            raise ValueError("This metric makes clips of its own: give --run_dir or --bundle instead of --clips.")
        # Categories that the generator found by itself (InfoGAN) have no names, and are not the set's classes.
        named = self.config is not None and self.config.category_loss == "supervised"
        categories = self.videos.categories if named and self.generator.latents.dim_category else ()
        return generated_clips(
            self.generator,
            number,
            num_frames or self.num_frames,
            seed=self.seed if seed is None else seed,
            first_clip=first,
            categories=categories,
            contents=self.contents if self.animates else None,
        )

    @property
    def animates(self) -> bool:
        """Whether the clips come from a generator that animates pictures."""
        return self.generator is not None and sampling.animates(self.generator)

    @functools.cached_property
    def pictures(self) -> Pictures:
        """The pictures that the generator animates, of people who are not in training where the set allows it."""
        assert self.config is not None
        return pictures_to_animate(self.config, self.videos, self.num_videos)

    @functools.cached_property
    def contents(self) -> NDArray[np.float32]:
        """The same, encoded."""
        assert self.generator is not None
        encoded: NDArray[np.float32] = self.generator.encode(self.pictures.pixels)
        return encoded

    @property
    def animated(self) -> NDArray[np.uint8]:
        """The picture of each of the N clips to score, `[N, H, W, C]`."""
        pixels = self.pictures.pixels
        return pixels[choose_contents(self.seed, self.num_videos, len(pixels))]

    def stream(self, number: int, seed: int) -> Any:
        """Yields clips of a seed in pieces of bounded size, `number` in all; those of a folder as they are."""
        if self.given is not None:
            yield self.clips.select(slice(0, number))
            return
        for first in range(0, number, CHUNK):
            yield self.make(min(CHUNK, number - first), seed=seed, first=first)

    @functools.cached_property
    def real(self) -> Clips:
        """As many real clips as clips to score, cut as training clips are."""
        return self.cut_real(self.num_videos)

    @functools.cached_property
    def other_real(self) -> Clips | None:
        """As many other real clips, whose scores are the floor; None where the set has too few."""
        if num_different_clips(self.videos, self.num_frames, self.every_nth) < 2 * self.num_videos:
            return None
        return self.cut_real(2 * self.num_videos).select(slice(self.num_videos, None))

    @property
    def real_in_words(self) -> str:
        """How many real clips there are, and out of how many videos where these are fewer."""
        long_enough = self.videos.lengths > (self.num_frames - 1) * self.every_nth
        number = int(long_enough.sum())
        return f"{self.num_videos} real clips" + (f" out of {number} videos" if number < self.num_videos else "")

    def cut_real(self, number: int) -> Clips:
        """Cuts real clips of the same length."""
        return real_clips(self.videos, number, self.num_frames, self.every_nth, seed=self.seed)

    @functools.cached_property
    def network(self) -> ClipNetwork:
        """The network trained on the real clips."""
        videos = self.videos
        assert self.config is not None
        return open_network(
            videos,
            num_frames=self.num_frames,
            every_nth=self.every_nth,
            cache_dir=self.config.cache_dir,
        )

    @functools.cached_property
    def comparable(self) -> Clips:
        """The clips to score.

        Raises:
            ValueError: They are of another size than the real ones.
        """
        shape, wanted = self.clips.frames.shape[2:], self.videos.frames.shape[1:]
        if shape != wanted:
            raise ValueError(f"The clips to score are {_words(shape)}, the real ones {_words(wanted)}.")
        return self.clips

    @functools.cached_property
    def judged(self) -> Judgement:
        """What the network says of the clips to score."""
        return self.network(self.comparable)

    @functools.cached_property
    def judged_real(self) -> Judgement:
        """What the network says of the real clips."""
        return self.network(self.real)

    @functools.cached_property
    def judged_other(self) -> Judgement | None:
        """What the network says of `other_real`."""
        return None if self.other_real is None else self.network(self.other_real)

    @property
    def separates(self) -> bool:
        """Whether the clips come from a generator with content and motion as inputs of their own, of any length."""
        return self.generator is not None and isinstance(self.generator.latents, LatentSpec)

    def _with_labels_of_the_set(self, clips: Clips) -> Clips:
        """Numbers the classes of a folder as the real set does, by name."""
        if self.config is None or clips.labels is None or not self.videos.categories:
            return clips
        unknown = sorted(set(clips.categories) - set(self.videos.categories))
        if unknown:
            raise ValueError(
                f"The class folders of the clips must be named as the real ones, {', '.join(self.videos.categories)}. "
                f"Received: {', '.join(unknown)}"
            )
        numbers = np.array([self.videos.categories.index(name) for name in clips.categories])
        return Clips(clips.frames, numbers[clips.labels], self.videos.categories)


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} in {shape[2]} channel{'s' * (shape[2] > 1)}"


def of_folder(
    folder: str | pathlib.Path,
    *,
    num_videos: int | None,
    seed: int,
    dataset: str = "",
    data_dir: str = "",
    cache_dir: str = "",
    every_nth: int = 2,
    num_real: int = 4000,
) -> Material:
    """Returns a folder of clips to score, with the real clips that `dataset` or `data_dir` name, if any.

    Args:
        folder: The clips.
        num_videos: How many of them; None: all.
        seed: Seed of the choice.
        dataset: Name of the real set; empty with `data_dir`: a folder of clips.
        data_dir: Folder of the real clips.
        cache_dir: Where decoded clips and networks are kept.
        every_nth: Source frames per kept frame of a real clip.
        num_real: Clips to render where the real set is generated.

    Raises:
        ValueError: The clips cannot be read, or are of a size or length that no set has.
    """
    given = folder_clips(folder)
    num_frames, height, width, channels = given.frames.shape[1:]
    config = None
    if dataset or data_dir:
        if height != width:
            raise ValueError(f"Clips to compare with real ones must be square. Received: {width}x{height} pixels")
        config = Config(
            dataset=dataset or "folder",
            data_dir=data_dir,
            cache_dir=cache_dir,
            image_size=height,
            channels=channels,
            video_length=num_frames,
            every_nth=every_nth,
            num_clips=num_real,
        )
    number = len(given) if num_videos is None else num_videos
    return Material(config, num_videos=number, num_frames=num_frames, seed=seed, given=given)
