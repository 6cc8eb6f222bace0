"""The known sets: an entry says what a set is and how its clips are obtained. Nothing is ever downloaded.

`open_videos` is what training calls: it finds the clips that a configuration names, decodes or renders them once into
the cache, and returns them with random access.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import pathlib
import sys
import types

import numpy as np
from absl import logging
from PIL import Image

from mocogan_tf.config import Config
from mocogan_tf.data import parallel
from mocogan_tf.data.cache import DEFAULT_FPS, CachedVideo, cached_videos
from mocogan_tf.data.sources.fitting import Recipe, read_clip
from mocogan_tf.data.sources.layouts import MANIFEST, STATE, choose_split, find_clips
from mocogan_tf.data.sources.readers import ClipSource
from mocogan_tf.data.videos import VideoSet

# Clips of a generated set do not depend on the seed of training: runs with other seeds see, and share, the same clips.
GENERATOR_SEED = 0
TFDS_PREFIX = "tfds:"


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What one set is.

    Args:
        title: One line for a person.
        generator: Module that renders the clips; empty if they must be obtained.
        obtained: How a person comes by the clips.
        prepare: Arguments of `prepare.py` that fit the set as it is published.
        homepage: Where it is described.
        licence: Its licence or conditions, as far as they are published.
    """

    title: str
    generator: str = ""
    obtained: str = ""
    prepare: str = ""
    homepage: str = ""
    licence: str = ""


DATASETS = {
    "folder": DatasetSpec(
        "Clips of any name, read from --data_dir.",
        obtained="give the folder of your clips",
    ),
    "shapes": DatasetSpec(
        "Moving circles and squares after the paper's shape motion set, rendered by this project.",
        generator="mocogan_tf.data.rendered.shapes",
        homepage="https://arxiv.org/abs/1707.04993",
        licence="Apache-2.0, as this project",
    ),
    "taichi": DatasetSpec(
        "A rendered figure that performs Tai-Chi forms; stands in for the paper's set, which was never published.",
        generator="mocogan_tf.data.rendered.taichi",
        homepage="https://arxiv.org/abs/1707.04993",
        licence="Apache-2.0, as this project",
    ),
    "mug": DatasetSpec(
        "MUG facial expressions: 86 subjects, six expressions.",
        obtained="on request, after signing its agreement",
        prepare="--format=mug --min_frames=64",
        homepage="https://mug.ee.auth.gr/fed",
        licence="research only, not to be passed on",
    ),
    "weizmann": DatasetSpec(
        "Weizmann actions: nine people, ten actions.",
        obtained="as one zip of AVI files per action",
        prepare="--format=weizmann",
        homepage="https://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html",
        licence="research",
    ),
    "ucf101": DatasetSpec(
        "UCF-101: 13,320 videos of 101 human actions.",
        obtained="as one archive of AVI files, with the split files beside it",
        prepare="--format=ucf101 --fit=resize_crop",
        homepage="https://www.crcv.ucf.edu/data/UCF101.php",
        licence="none stated",
    ),
    "taichi_hd": DatasetSpec(
        "Tai-Chi-HD: about 3,300 chunks of online videos with crop boxes.",
        obtained="from the boxes and video names in the csv at its homepage; the videos belong to their authors",
        prepare="--format=taichi_hd --fit=boxes --boxes=taichi-metadata.csv",
        homepage="https://github.com/AliaksandrSiarohin/video-preprocessing",
        licence="the list is MIT; each video has its own conditions",
    ),
}


def get_dataset(name: str) -> DatasetSpec:
    """Returns the entry of a set.

    Raises:
        ValueError: There is no set of this name.
    """
    if name not in DATASETS:
        raise ValueError(
            f"Unknown dataset {name!r}. Known: {', '.join(sorted(DATASETS))}. Use --dataset=folder --data_dir=DIR for "
            "clips of your own."
        )
    return DATASETS[name]


def open_videos(config: Config, split: str = "train", few: int = 0) -> VideoSet:
    """Opens the videos that a configuration names: those in `data_dir`, or else rendered ones.

    The first call decodes or renders them into the cache, with a line that says so. Videos with fewer frames than a
    training clip needs are left out and reported, and so are, for training, classes that no video is left of; with one
    class left there are none. Other splits keep all classes of the set, and a rendered set keeps its own.

    Args:
        config: Names the set, and the size and length of its clips.
        split: Which clips of a set that is divided into `train`, `val` or `test`; other sets are taken whole.
        few: For a look at the set: unless it is in the cache already, decode or render only this many clips, or more
            if none of them can be used, and keep all classes. 0: all clips.

    Raises:
        ValueError: The set is unknown, its clips are not there, or none of them can be read or is long enough.
    """
    if few:
        try:
            videos = _long_enough(_open(config, split, few), config)
            return videos if len(videos.categories) != 1 else videos.without_empty_categories()[0]
        except ValueError:  # Perhaps of these few only; if not, it is raised again.
            pass
    videos = _long_enough(_open(config, split), config)
    # The classes of rendered clips are a property of the set, and those of other splits must be those of training.
    is_rendered = not config.data_dir and not config.dataset.startswith(TFDS_PREFIX)
    return videos if split != "train" or is_rendered else _without_empty_categories(videos)


def _open(config: Config, split: str, few: int = 0) -> VideoSet:
    if config.dataset.startswith(TFDS_PREFIX):
        from mocogan_tf.data.sources import tfds  # Imports TensorFlow.

        return tfds.open_tfds(config, split, few)
    spec = get_dataset(config.dataset)
    if "://" in config.data_dir:
        from mocogan_tf.data.shards import remote

        return remote.open_remote(config, split, few)
    if config.data_dir and (pathlib.Path(config.data_dir) / MANIFEST).exists():
        from mocogan_tf.data.shards import records  # Imports TensorFlow.

        return records.open_prepared(config, split, few=few)
    if config.data_dir and (pathlib.Path(config.data_dir) / STATE).is_dir():
        raise ValueError(
            f"{config.data_dir} has no {MANIFEST}: prepare.py was stopped before the end. Run the same command again."
        )
    if config.data_dir:
        return _read_folder(config, split, few)
    if spec.generator:
        return _render(config, spec, few)
    prepared = f"python prepare.py CLIPS --out=DIR {spec.prepare}".strip() + ", then --data_dir=DIR"
    raise ValueError(
        f"--dataset={config.dataset} needs --data_dir: {spec.obtained}"
        + (f" ({spec.homepage}), then {prepared}." if spec.prepare else " with --data_dir=DIR.")
    )


def _read_folder(config: Config, split: str, few: int) -> VideoSet:
    found = find_clips(config.data_dir)
    chosen = choose_split({clip.split for clip in found.clips}, split, config.data_dir)
    sources = [clip for clip in found.clips if clip.split == chosen]
    decode = functools.partial(_decode, image_size=config.image_size, channels=config.channels)
    return cached_videos(
        key={
            "folder": str(pathlib.Path(config.data_dir).resolve()),
            "clips": [source.fingerprint() for source in sources],
            "categories": found.categories,
        },
        produce=lambda: parallel.map_in_processes(decode, sources, workers=_workers(few)),
        total=len(sources),
        name=config.data_dir,
        doing="Decoding",
        categories=found.categories,
        default_fps=DEFAULT_FPS,
        image_size=config.image_size,
        channels=config.channels,
        cache_dir=config.cache_dir,
        few=few,
    )


def _decode(source: ClipSource, image_size: int, channels: int) -> CachedVideo:
    try:
        clip = read_clip(source, Recipe(image_size=image_size, channels=channels))
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error
    return CachedVideo(source.name, source.category, clip.frames, clip.fps, clip.notes)


def _render(config: Config, spec: DatasetSpec, few: int) -> VideoSet:
    generator = importlib.import_module(spec.generator)
    num_frames = max(generator.NUM_FRAMES, config.source_frames)
    render = functools.partial(
        _render_clip,
        generator=spec.generator,
        num_frames=num_frames,
        image_size=config.image_size,
        channels=config.channels,
    )
    return cached_videos(
        key={
            "generator": spec.generator,
            "source": _source_digest(generator),
            "seed": GENERATOR_SEED,
            "num_clips": config.num_clips,
            "num_frames": num_frames,
        },
        produce=lambda: parallel.map_in_processes(render, range(config.num_clips), workers=_workers(few)),
        total=config.num_clips,
        name=config.dataset,
        doing="Rendering",
        categories=generator.CATEGORIES,
        default_fps=generator.FPS,
        image_size=config.image_size,
        channels=config.channels,
        cache_dir=config.cache_dir,
        few=few,
    )


def _source_digest(generator: types.ModuleType) -> str:
    """Hash of the program text that renders: a changed generator must not find the clips of the old one."""
    texts: dict[str, bytes] = {}
    waiting = [generator]
    while waiting:
        module = waiting.pop()
        texts[module.__name__] = pathlib.Path(str(module.__file__)).read_bytes()
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith("mocogan_tf.") and name not in texts:
                waiting.append(sys.modules[name])
    return hashlib.sha256(b"\0".join(texts[name] for name in sorted(texts))).hexdigest()


def _render_clip(index: int, generator: str, num_frames: int, image_size: int, channels: int) -> CachedVideo:
    module = importlib.import_module(generator)
    clip = module.render_clip(index, seed=GENERATOR_SEED, num_frames=num_frames, image_size=image_size)
    frames = clip.frames
    if channels == 1:
        rows = Image.fromarray(frames.reshape(-1, image_size, 3)).convert("L")
        frames = np.asarray(rows).reshape(num_frames, image_size, image_size, 1)
    return CachedVideo(f"{index:06d}", module.CATEGORIES[clip.label], frames)


def _workers(few: int) -> int | None:
    return 1 if few else None  # A few clips are done before another process has started.


def _without_empty_categories(videos: VideoSet) -> VideoSet:
    videos, empty = videos.without_empty_categories()
    if empty:
        left = f"the categories are {', '.join(videos.categories)}" if videos.categories else "there are no categories"
        logging.warning("%s: no usable clip of class %s; %s.", videos.name, ", ".join(empty), left)
    return videos


def _long_enough(videos: VideoSet, config: Config) -> VideoSet:
    needed = config.source_frames
    short = np.flatnonzero(videos.lengths < needed)
    if not len(short):
        return videos
    shortest = short[np.argmin(videos.lengths[short])]
    message = (
        f"{len(short)} of {len(videos)} clips of {videos.name} have fewer than the {needed} frames that "
        f"--video_length={config.video_length} with --every_nth={config.every_nth} needs; the shortest, "
        f"{videos.names[shortest]}, has {videos.lengths[shortest]}"
    )
    advice = "Lower --every_nth or --video_length"
    if len(short) == len(videos):
        raise ValueError(f"{message}. {advice}.")
    names = ", ".join(videos.names[i] for i in short[:3])
    logging.warning("%s. They are left out (%s%s). %s to use them.", message, names, ", ..." * (len(short) > 3), advice)
    return videos.select(np.flatnonzero(videos.lengths >= needed))
