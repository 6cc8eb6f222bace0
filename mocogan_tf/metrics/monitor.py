"""Scores of a generator while it trains: the same latents and the same real clips each time, so that scores compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.latents import choose_contents
from mocogan_tf.metrics import acd, animation, collapse, statistics, texture
from mocogan_tf.metrics.clips import generated_clips, num_different_clips, real_clips
from mocogan_tf.metrics.network import NUM_FEATURES, Recipe, open_network

# Reported beside the scores that choose a checkpoint: near those of real clips is right.
DIVERSITY, MOTION = "diversity", "motion"
FIRST_FRAME = "first_frame_l1"
DIVERSITY_REAL, MOTION_REAL = "diversity_real", "motion_real"
MIN_CLIPS = 2 * NUM_FEATURES  # Fewer leave the covariance of the features without meaning.


class Monitor:
    """Scores a generator against real clips.

    Making one may train the feature network (about a minute, once per set and recipe). The global random state of
    TensorFlow, Keras and NumPy is neither read nor changed.

    Args:
        config: Resolved `Config` of the run.
        videos: The real videos; those that the run trains on.
        num_clips: Clips to draw, and real clips to compare them with; at least `MIN_CLIPS`. A set of fewer different
            clips gives all of them, and must hold `MIN_CLIPS`.
        seed: Seed of the latents, by the rule of `mocogan_tf.latents`, and of the choice of real clips.
        recipe: How the feature network is trained; None: the default.
        pictures: From a number to as many pictures at most, which a generator that animates pictures is scored on.

    Attributes:
        names: The scores that a call returns: `frechet_video`, `frechet_frame`, `kernel_video`, `texture.names`; `mcs`
            where there are labels; `acd_color`, `coverage`, `color_diversity` where clips show a shape on black;
            `first_frame_l1` where there are `pictures`; then `diversity`, `motion` and the same two of the real clips,
            `diversity_real`, `motion_real`.
        real: Scores of the real clips: `mcs` (the ceiling: accuracy on clips held out), `diversity`, `motion`.
        features: Name of the feature network.

    Raises:
        ValueError: `num_clips` is too small, or there are too few real clips.
    """

    def __init__(
        self,
        config: Config,
        videos: VideoSet,
        num_clips: int = 256,
        seed: int = 0,
        recipe: Recipe | None = None,
        pictures: Callable[[int], NDArray[np.uint8]] | None = None,
    ) -> None:
        if num_clips < MIN_CLIPS:
            raise ValueError(f"`num_clips` must be at least {MIN_CLIPS}. Received: num_clips={num_clips}")
        self._num_frames, self._num_clips, self._seed = config.video_length, num_clips, seed
        self._pictures = pictures(num_clips) if pictures else None
        different = num_different_clips(videos, config.video_length, config.every_nth)
        num_real = max(MIN_CLIPS, min(num_clips, different))
        real = real_clips(videos, num_real, config.video_length, config.every_nth, seed=seed)
        self._network = open_network(
            videos,
            num_frames=config.video_length,
            every_nth=config.every_nth,
            cache_dir=config.cache_dir,
            recipe=recipe,
        )
        judged = self._network(real)
        self._real_frames, self._real_features = texture.some_frames(real.frames), judged.features
        self._real_video = statistics.mean_and_covariance(judged.features)
        self._real_frame = statistics.mean_and_covariance(_flat(judged.frame_features))
        # Categories that are found (InfoGAN) are not the set's classes.
        self._has_labels = bool(videos.categories) and config.category_loss == "supervised"
        self._has_shapes = acd.has_shapes_on_black(real.frames)
        self.features = self._network.name
        self.real = {DIVERSITY: collapse.diversity(real.frames), MOTION: collapse.motion(real.frames)}
        if self._has_labels:
            self.real["mcs"] = self._network.accuracy["category"]
        self.names = (
            "frechet_video",
            "frechet_frame",
            "kernel_video",
            *texture.names(real.frames.shape[2]),
            *(("mcs",) if self._has_labels else ()),
            *(("acd_color", "coverage", "color_diversity") if self._has_shapes else ()),
            *((FIRST_FRAME,) if self._pictures is not None else ()),
            DIVERSITY,
            MOTION,
            DIVERSITY_REAL,
            MOTION_REAL,
        )

    def __call__(self, generator: Any) -> dict[str, float]:
        """Draws clips and scores them.

        Args:
            generator: Has `latents` and makes `{"video": [B, T, H, W, C]}` of them.

        Returns:
            One finite number per name. `acd_color` of clips without any shape is that of the largest distance there is,
            255 * sqrt(3): such a generator must not win.

        Raises:
            ValueError: The generator's frames are not finite.
        """
        contents = None if self._pictures is None else generator.encode(self._pictures)
        clips = generated_clips(generator, self._num_clips, self._num_frames, seed=self._seed, contents=contents)
        judged = self._network(clips)
        scores = {
            "frechet_video": statistics.frechet_distance(
                *self._real_video, *statistics.mean_and_covariance(judged.features)
            ),
            "frechet_frame": statistics.frechet_distance(
                *self._real_frame, *statistics.mean_and_covariance(_flat(judged.frame_features))
            ),
            "kernel_video": statistics.centred_kernel_distance(self._real_features, judged.features).value,
            **texture.scores(self._real_frames, clips.frames),
        }
        seen, asked = judged.categories, clips.labels
        if self._has_labels and seen is not None and asked is not None:
            scores["mcs"] = float(np.mean(seen == asked))
        if self._has_shapes:
            colour = acd.acd_color(clips.frames)
            scores["acd_color"] = colour.acd.value if colour.acd else 255.0 * np.sqrt(clips.frames.shape[-1])
            scores["coverage"] = colour.coverage.value
            scores["color_diversity"] = colour.diversity
        if self._pictures is not None:
            animated = self._pictures[choose_contents(self._seed, self._num_clips, len(self._pictures))]
            scores[FIRST_FRAME] = float(animation.first_frame_l1(clips.frames, animated).mean())
        scores[DIVERSITY], scores[MOTION] = collapse.diversity(clips.frames), collapse.motion(clips.frames)
        scores[DIVERSITY_REAL], scores[MOTION_REAL] = self.real[DIVERSITY], self.real[MOTION]
        return {name: float(scores[name]) for name in self.names}


def _flat(frame_features: Any) -> Any:
    return frame_features.reshape(-1, frame_features.shape[-1])
