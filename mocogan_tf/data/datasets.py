"""The known sets, and `open_videos`, by which training and evaluation get their clips.

It finds the clips that a configuration names, decodes or renders them once into the cache, and returns them with random
access. Only TensorFlow Datasets downloads anything.
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
from numpy.typing import NDArray
from PIL import Image

from mocogan_tf.config import Config
from mocogan_tf.data import advice, parallel
from mocogan_tf.data.cache import DEFAULT_FPS, CachedVideo, VideoSet, cached_videos
from mocogan_tf.data.sources.fitting import FitOptions, read_clip
from mocogan_tf.data.sources.layouts import MANIFEST, STATE, choose_split, find_clips
from mocogan_tf.data.sources.readers import ClipSource

# Rendered clips do not depend on the seed of training, so runs with different seeds see the same clips.
RENDER_SEED = 0
PICTURE_SEED = 1  # Of pictures to animate: other people than in training.
TFDS_PREFIX = "tfds:"


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What one set is.

    Args:
        title: One line that describes it.
        renderer: Module that renders the clips; empty if they must be obtained.
        obtained: How to obtain the clips.
        prepare_flags: Flags of `prepare.py` that fit the set as it is published.
        homepage: Where it is described.
        licence: Its licence or conditions, as far as they are published.
    """

    title: str
    renderer: str = ""
    obtained: str = ""
    prepare_flags: str = ""
    homepage: str = ""
    licence: str = ""


DATASETS = {
    "folder": DatasetSpec(
        "Clips of any name, read from --data_dir.",
        obtained="give the folder of your clips",
    ),
    "shapes": DatasetSpec(
        "Moving circles and squares after the paper's shape motion set, rendered by this project.",
        renderer="mocogan_tf.data.rendered.shapes",
        homepage="https://arxiv.org/abs/1707.04993",
        licence="Apache-2.0, as this project",
    ),
    "taichi": DatasetSpec(
        "A rendered figure that performs Tai-Chi forms, in place of the paper's set, which was never published.",
        renderer="mocogan_tf.data.rendered.taichi",
        homepage="https://arxiv.org/abs/1707.04993",
        licence="Apache-2.0, as this project",
    ),
    "mug": DatasetSpec(
        "MUG facial expressions: 86 subjects, six expressions.",
        obtained="on request, after signing its agreement",
        prepare_flags="--format=mug --min_frames=64",
        homepage="https://mug.ee.auth.gr/fed",
        licence="research only, not to be passed on",
    ),
    "weizmann": DatasetSpec(
        "Weizmann actions: nine people, ten actions.",
        obtained="as one zip of AVI files per action",
        prepare_flags="--format=weizmann",
        homepage="https://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html",
        licence="research",
    ),
    "ucf101": DatasetSpec(
        "UCF-101: 13,320 videos of 101 human actions.",
        obtained="as one archive of AVI files, with the split files beside it",
        prepare_flags="--format=ucf101 --fit=resize_crop",
        homepage="https://www.crcv.ucf.edu/data/UCF101.php",
        licence="none stated",
    ),
    "taichi_hd": DatasetSpec(
        "Tai-Chi-HD: about 3,300 chunks of online videos with crop boxes.",
        obtained="from the boxes and video names in the csv at its homepage; the videos belong to their authors",
        prepare_flags="--format=taichi_hd --fit=boxes --boxes=taichi-metadata.csv",
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

    The first call decodes or renders them into the cache and prints a line that says so. A warning names the videos
    that are left out because they have fewer frames than a training clip needs. For training, the categories are the
    classes that have a usable video, or () if there is only one; other splits keep all classes of the set, and a
    rendered set always keeps its own.

    Args:
        config: Names the set, and the size and length of its clips.
        split: Which clips of a set that is divided into `train`, `val` or `test`; other sets are taken whole.
        few: Number of clips that suffice for a look at the set. If it is not in the cache yet, only so many are decoded
            or rendered, or more if none of them can be used; all classes are kept. 0: all clips.

    Raises:
        ValueError: The set is unknown, its clips are missing, or none of them can be read or is long enough; or, for
            training, most of them or all of one class are too short.
    """
    if few:
        try:
            videos = _long_enough(_open(config, split, few), config, strict=False)
            return videos if len(videos.categories) != 1 else videos.without_empty_categories()[0]
        except ValueError:  # These few may be an exception; otherwise the error is raised again below.
            pass
    videos = _long_enough(_open(config, split), config, strict=split == "train")
    # A rendered set has its classes whichever clips were drawn, and other splits must have those of training.
    return videos if split != "train" or is_rendered(config) else _without_empty_categories(videos)


def is_rendered(config: Config) -> bool:
    """Whether the clips of a configuration are rendered here."""
    return not config.data_dir and config.dataset in DATASETS and bool(DATASETS[config.dataset].renderer)


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
            f"{config.data_dir} has no {MANIFEST}, because prepare.py was stopped before the end. Run the same command "
            "again."
        )
    if config.data_dir:
        return _read_folder(config, split, few)
    if spec.renderer:
        return _render(config, spec, few)
    prepared = f"python prepare.py CLIPS --out=DIR {spec.prepare_flags}".strip() + ", then --data_dir=DIR"
    raise ValueError(
        f"--dataset={config.dataset} needs --data_dir: {spec.obtained}"
        + (f" ({spec.homepage}), then {prepared}." if spec.prepare_flags else " with --data_dir=DIR.")
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
    clip = read_clip(source, FitOptions(image_size=image_size, channels=channels))
    return CachedVideo(source.name, source.category, clip.frames, clip.fps, clip.notes)


def _render(config: Config, spec: DatasetSpec, few: int) -> VideoSet:
    renderer = importlib.import_module(spec.renderer)
    num_frames = max(renderer.NUM_FRAMES, config.source_frames)
    return _rendered(config, spec, config.num_clips, num_frames, RENDER_SEED, few)


def render_pictures(config: Config, number: int) -> NDArray[np.uint8]:
    """Renders first frames of clips that are not in training, uint8 `[number, H, W, C]`.

    Args:
        config: Names a rendered set (`is_rendered`), and the size of its frames.
        number: How many.
    """
    spec = get_dataset(config.dataset)
    return np.array(_rendered(config, spec, number, 1, PICTURE_SEED, few=0).frames)


def _rendered(config: Config, spec: DatasetSpec, num_clips: int, num_frames: int, seed: int, few: int) -> VideoSet:
    renderer = importlib.import_module(spec.renderer)
    render = functools.partial(
        _render_clip,
        renderer=spec.renderer,
        seed=seed,
        num_frames=num_frames,
        image_size=config.image_size,
        channels=config.channels,
    )
    return cached_videos(
        key={
            "renderer": spec.renderer,
            "source": _source_digest(renderer),
            "seed": seed,
            "num_clips": num_clips,
            "num_frames": num_frames,
        },
        produce=lambda: parallel.map_in_processes(
            render, range(num_clips), workers=1 if num_frames == 1 else _workers(few)
        ),
        total=num_clips,
        name=config.dataset,
        doing="Rendering",
        categories=renderer.CATEGORIES,
        default_fps=renderer.FPS,
        image_size=config.image_size,
        channels=config.channels,
        cache_dir=config.cache_dir,
        few=few,
    )


def _source_digest(renderer: types.ModuleType) -> str:
    """Hash of the program text that renders, so that a changed renderer does not find the clips of the old one."""
    texts: dict[str, bytes] = {}
    waiting = [renderer]
    while waiting:
        module = waiting.pop()
        texts[module.__name__] = pathlib.Path(str(module.__file__)).read_bytes()
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith("mocogan_tf.") and name not in texts:
                waiting.append(sys.modules[name])
    return hashlib.sha256(b"\0".join(texts[name] for name in sorted(texts))).hexdigest()


def _render_clip(index: int, renderer: str, seed: int, num_frames: int, image_size: int, channels: int) -> CachedVideo:
    module = importlib.import_module(renderer)
    clip = module.render_clip(index, seed=seed, num_frames=num_frames, image_size=image_size)
    frames = clip.frames
    if channels == 1:
        rows = Image.fromarray(frames.reshape(-1, image_size, 3)).convert("L")
        frames = np.asarray(rows).reshape(num_frames, image_size, image_size, 1)
    return CachedVideo(f"{index:06d}", module.CATEGORIES[clip.label], frames)


def _workers(few: int) -> int | None:
    return 1 if few else None  # A few clips take less time than the start of a process.


def _without_empty_categories(videos: VideoSet) -> VideoSet:
    videos, empty = videos.without_empty_categories()
    if empty:
        left = f"the categories are {', '.join(videos.categories)}" if videos.categories else "there are no categories"
        logging.warning("%s: no usable clip of class %s; %s.", videos.name, ", ".join(empty), left)
    return videos


def _long_enough(videos: VideoSet, config: Config, strict: bool) -> VideoSet:
    """Leaves out videos that are too short for a training clip; if `strict`, neither most of them nor a whole class."""
    needed = config.source_frames
    kept = np.flatnonzero(videos.lengths >= needed)
    short = np.flatnonzero(videos.lengths < needed)
    if not len(short):
        return videos
    shortest = short[np.argmin(videos.lengths[short])]
    message = (
        f"{len(short)} of {len(videos)} clips of {videos.name} have fewer than the {needed} frames that "
        f"--video_length={config.video_length} with --every_nth={config.every_nth} needs; the shortest, "
        f"{videos.names[shortest]}, has {videos.lengths[shortest]}"
    )
    lost = sorted(set(videos.labels.tolist()) - set(videos.labels[kept].tolist()))
    if not len(kept) or (strict and (lost or len(short) > len(kept))):
        classes = ", ".join(videos.categories[label] for label in lost if videos.categories)
        gone = f", and none of class {classes} is left" if classes and len(kept) else ""
        given = " ".join(advice.flags_that_keep_most(config, videos.lengths, videos.labels))
        raise ValueError(f"{message}{gone}. {f'Train with {given}' if given else 'Use longer clips'}.")
    names = ", ".join(videos.names[i] for i in short[:3])
    logging.warning("%s. They are left out (%s%s).", message, names, ", ..." * (len(short) > 3))
    return videos.select(kept)
