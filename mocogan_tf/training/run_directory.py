"""The run directory: who may train in it, and what it says of configuration, clips and checkpoints.

TensorFlow is not imported here, so that a wrong folder is reported at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from mocogan_tf import files
from mocogan_tf.config import Config, differences
from mocogan_tf.data import advice
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.pictures import Pictures
from mocogan_tf.training import checkpoints

RunDir = str | pathlib.Path

CONFIG, DATA, CLIPS, LOCK = "config.json", "data.json", "clips.jsonl", "lock"
PICTURES = "pictures.npz"
NUM_PICTURES = 16
_DATA_FIELDS = {"name": str, "categories": list, "num_clips": int, "fps": float}
_FROM_CLIPS = ("dim_category", "category_loss")


def check_place(run_dir: RunDir, resume: str) -> None:
    """Checks that a folder can hold the run.

    Args:
        run_dir: The run directory; need not exist.
        resume: "auto", "never" or "must".

    Raises:
        ValueError: The folder cannot hold a run, or `resume` does not fit what is there.
    """
    run_dir = pathlib.Path(run_dir)
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"{run_dir} is a file. Choose another --run_dir.")
    exists = (run_dir / CONFIG).exists()  # It is written last: a start that failed may have left the others.
    if exists and resume == "never":
        raise ValueError(f"{run_dir} already holds a run. Choose another --run_dir, or --resume=auto to go on with it.")
    if resume == "must" and not checkpoints.steps(run_dir):
        raise ValueError(f"{run_dir} has no checkpoint to go on from (--resume=must).")
    if not exists and run_dir.exists() and any(path.name not in (LOCK, DATA, CLIPS) for path in run_dir.iterdir()):
        raise ValueError(f"{run_dir} is not empty and holds no run. Choose another --run_dir.")


def check(run_dir: RunDir, config: Config, resume: str) -> None:
    """Checks everything that can be known before a clip is read.

    Args:
        run_dir: The run directory; need not exist.
        config: `Config`, in which categories may still be open.
        resume: "auto", "never" or "must".

    Raises:
        ValueError: `run_dir` cannot hold this run.
    """
    check_place(run_dir, resume)
    if (pathlib.Path(run_dir) / CONFIG).exists():
        old = read_config(run_dir)
        # These two follow from the clips, and are compared once those are known.
        of_clips: dict[str, Any] = {name: getattr(old, name) for name in _FROM_CLIPS}
        _compare(run_dir, old, dataclasses.replace(config, **of_clips, asked=()))


def check_clips(run_dir: RunDir, config: Config, videos: VideoSet, allow_changed_data: bool = False) -> None:
    """Compares the clips with those that the run was trained on, before anything of the run is loaded.

    Args:
        run_dir: The run directory, which passed `check`.
        config: Resolved `Config`.
        videos: The `VideoSet` to train on.
        allow_changed_data: Whether the run may go on with other clips of the same categories.

    Raises:
        ValueError: The run belongs to another configuration or to other clips.
    """
    run_dir = pathlib.Path(run_dir)
    if not (run_dir / CONFIG).exists():
        return
    old, categories = read_data(run_dir), list(videos.categories)
    if old["categories"] != categories:
        raise ValueError(
            f"{run_dir} was trained on the categories {', '.join(old['categories'])}; these clips have "
            f"{', '.join(categories)}. Choose another --run_dir, or give the old --data_dir."
        )
    _compare(run_dir, read_config(run_dir), config)
    changes = _changes(run_dir, old["num_clips"], videos)
    if changes and not allow_changed_data:
        raise ValueError(
            f"{run_dir} was trained on other clips: {changes}. Restore them, choose another --run_dir, or "
            "give --allow_changed_data to go on with the clips as they are now."
        )


def _changes(run_dir: pathlib.Path, num_clips: int, videos: VideoSet) -> str:
    """Says in words how the clips differ from those of the run's last start; "" if they do not."""
    lines = files.read_lines(run_dir / CLIPS)
    if not lines:  # Of a version that kept their number only.
        return "" if num_clips == len(videos) else f"there were {num_clips}, now there are {len(videos)}"
    # A digest knows class and length too; an older version kept these two only.
    known = ("digest",) if "digest" in lines[0] else ("class", "frames")
    before, after = (
        {clip["name"]: " ".join(str(clip[field]) for field in known) for clip in clips}
        for clips in (lines, _clips(videos))
    )
    return advice.changes(before, after)


def _clips(videos: VideoSet) -> list[dict[str, Any]]:
    classes = [videos.categories[label] if videos.categories else "" for label in videos.labels]
    digests = videos.digests()
    return [
        {"name": name, "class": category, "frames": int(frames), "digest": digests[name]}
        for name, category, frames in zip(videos.names, classes, videos.lengths, strict=True)
    ]


@contextlib.contextmanager
def claim(run_dir: RunDir, config: Config, videos: VideoSet, fps: float) -> Iterator[None]:
    """Writes what the run is, and keeps other processes out until the block ends.

    config.json holds the configuration, data.json the clips in short, clips.jsonl a line per clip.

    Args:
        run_dir: The run directory, which passed `check` and `check_clips`; made if missing.
        config: Resolved `Config`.
        videos: The `VideoSet` to train on.
        fps: Frames per second of training clips.

    Raises:
        ValueError: Another process is training there.
        OSError: It cannot be written.
    """
    run_dir = pathlib.Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with files.held(run_dir / LOCK, f"Another process is training in {run_dir}. Choose another --run_dir."):
        data = {"name": videos.name, "categories": list(videos.categories), "num_clips": len(videos), "fps": fps}
        files.write_whole(run_dir / DATA, json.dumps(data, indent=2) + "\n")
        files.write_whole(run_dir / CLIPS, "".join(json.dumps(clip) + "\n" for clip in _clips(videos)))
        files.write_whole(run_dir / CONFIG, config.to_json())
        yield


def read_config(run_dir: RunDir) -> Config:
    """Returns the configuration of a run.

    Raises:
        ValueError: There is no run, and the message names those nearby; or its config.json is damaged.
    """
    path = pathlib.Path(run_dir)
    if not (path / CONFIG).exists():
        nearby = sorted({str(found.parent) for folder in (path, path.parent) for found in folder.glob(f"*/{CONFIG}")})
        nearby += sorted(str(found.parent) for found in pathlib.Path("runs").glob(f"*/{CONFIG}"))
        there = f"There are: {', '.join(dict.fromkeys(nearby))}." if nearby else "Train one with train.py."
        raise ValueError(f"{run_dir} is no run: it has no {CONFIG}. {there}")
    return Config.from_json(path / CONFIG)


def read_data(run_dir: RunDir) -> dict[str, Any]:
    """Returns what data.json says of the clips: `name`, `categories`, `num_clips`, and `fps` of a training clip.

    Raises:
        ValueError: It is missing or damaged.
    """
    path = pathlib.Path(run_dir) / DATA
    try:
        data = json.loads(path.read_text())
        return {name: kind(data[name]) for name, kind in _DATA_FIELDS.items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Cannot read {path}: {error!r}") from error


def keep_pictures(run_dir: RunDir, pictures: Pictures) -> Pictures:
    """Writes the pictures that samples of the run animate, or returns those that are there already.

    pictures.npz holds `pictures`, uint8 `[N, H, W, C]`, and `held_out`, whether their clips are not in training.

    Raises:
        ValueError: Those that are there are damaged.
    """
    path = pathlib.Path(run_dir) / PICTURES
    if not path.exists():
        content = io.BytesIO()
        np.savez(content, pictures=pictures.pixels, held_out=pictures.held_out)
        files.write_whole(path, content.getvalue())
    return read_pictures(run_dir)


def read_pictures(run_dir: RunDir) -> Pictures:
    """Returns the pictures of a run that animates pictures.

    Raises:
        ValueError: They are missing or damaged.
    """
    path = pathlib.Path(run_dir) / PICTURES
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Pictures(stored["pictures"], bool(stored["held_out"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"Cannot read the run's pictures, {path}: {error!r}") from error


def find_steps(run_dir: RunDir) -> list[int]:
    """Returns the steps of a run's checkpoints, ascending.

    Raises:
        ValueError: There are none.
    """
    found = checkpoints.steps(run_dir)
    if not found:
        raise ValueError(f"{run_dir} has no checkpoints. Train with: python train.py --run_dir={run_dir}")
    return found


def find_step(run_dir: RunDir, which: str | int) -> int:
    """Returns the step of a checkpoint.

    Args:
        run_dir: The run directory.
        which: "latest" or a step.

    Raises:
        ValueError: There is no such checkpoint.
    """
    found = find_steps(run_dir)
    if which == "latest":
        return found[-1]
    step = int(which) if str(which).isdigit() else -1
    if step not in found:
        there = ", ".join(map(str, found))
        raise ValueError(f"No checkpoint {which!r} in {run_dir}. There are: latest, best, {there}.")
    return step


def _compare(run_dir: RunDir, old: Config, new: Config) -> None:
    changed = differences(old, new)
    if changed:
        raise ValueError(
            f"{run_dir} belongs to another configuration ({'; '.join(changed)}). "
            "Choose another --run_dir, or give the old values."
        )
