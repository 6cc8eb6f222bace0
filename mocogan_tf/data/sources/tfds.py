"""Videos of TensorFlow Datasets (extra `tfds`): `--dataset=tfds:NAME` opens any of its sets that has a video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from mocogan_tf.config import Config
from mocogan_tf.data.cache import DEFAULT_FPS, CachedVideo, VideoSet, cached_videos
from mocogan_tf.data.parallel import Outcome
from mocogan_tf.data.sources.fitting import FitOptions, fit_frame
from mocogan_tf.data.sources.readers import ClipSource

# What sets call a split, if not by the project's name.
NAMES = {"val": ("val", "validation", "valid")}


def open_tfds(config: Config, split: str, few: int = 0) -> VideoSet:
    """Opens the set `NAME` of `config.dataset == "tfds:NAME"`, decoding it once into the cache.

    `config.data_dir` is the folder in which the library keeps its sets; empty: the library's default. The library
    downloads a set that is not there yet, on its own terms.

    Args:
        config: Names the set, and the size and colour of its frames.
        split: Split of the set, `val` by any of its usual names; if there is none, the first.
        few: As in `cached_videos`.

    Raises:
        ValueError: The library is missing, has no such set, or the set has no video.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"--dataset={config.dataset} needs tensorflow-datasets: pip install 'mocogan-tf[tfds]'"
        ) from error
    name = config.dataset.split(":", 1)[1]
    try:
        builder = tfds.builder(name, data_dir=config.data_dir or None)
        builder.download_and_prepare()
    except Exception as error:  # The library's errors have no common base, and some are many lines long.
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"TensorFlow Datasets cannot give {name}: {first}") from error
    video, label = _features(builder.info.features, tfds)
    if not video:
        raise ValueError(f"{name} has no video. Received: --dataset={config.dataset}, {builder.info.features}")
    split = next((name for name in NAMES.get(split, (split,)) if name in builder.info.splits), "")
    split = split or next(iter(builder.info.splits))
    categories = tuple(builder.info.features[label].names) if label else ()
    return cached_videos(
        # Version 2: names begin with the split's.
        key={"tfds": builder.info.full_name, "split": split, "data_dir": str(builder.data_dir), "version": 2},
        produce=lambda: _clips(builder.as_dataset(split=split), split, video, label, categories, config),
        total=builder.info.splits[split].num_examples,
        name=f"{config.dataset}/{split}",
        doing="Decoding",
        categories=categories,
        default_fps=DEFAULT_FPS,
        image_size=config.image_size,
        channels=config.channels,
        cache_dir=config.cache_dir,
        few=few,
    )


def _features(features: Any, tfds: Any) -> tuple[str, str]:
    """Returns the names of a set's video feature and of its class feature, each "" if there is none."""
    video = next((name for name, feature in features.items() if isinstance(feature, tfds.features.Video)), "")
    if not video:  # Moving MNIST calls its video `image_sequence`, of the same shape.
        video = next((name for name, feature in features.items() if feature.shape and len(feature.shape) == 4), "")
    label = next((name for name, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)), "")
    return video, label


def _clips(
    dataset: Any, split: str, video: str, label: str, categories: tuple[str, ...], config: Config
) -> Iterator[Outcome]:
    options = FitOptions(image_size=config.image_size, channels=config.channels)
    for index, example in enumerate(dataset.as_numpy_iterator()):
        name = f"{split}/{index:06d}"
        source = ClipSource("", name, "array")
        try:
            pictures = [
                Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame[..., :3]) for frame in example[video]
            ]
            frames = np.stack([fit_frame(picture, options, source) for picture in pictures])
            category = categories[int(example[label])] if label else ""
        except (ValueError, IndexError, TypeError) as error:
            yield Outcome(name, error=str(error))
            continue
        yield Outcome(name, CachedVideo(name, category, frames))
