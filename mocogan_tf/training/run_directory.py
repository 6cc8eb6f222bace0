"""The run directory: whose it is, and what it says of configuration and clips."""

import contextlib
import dataclasses
import json
import pathlib

from absl import logging

from mocogan_tf import files
from mocogan_tf.config import Config, differences
from mocogan_tf.training import checkpoints

CONFIG, DATA, LOCK = "config.json", "data.json", "lock"


def check(run_dir, config, resume):
    """Checks what can be known before any clip is read, so that nobody waits for an error.

    Args:
        run_dir: The run directory; need not exist.
        config: `Config`, in which categories may still be open.
        resume: "auto", "never" or "must".

    Raises:
        ValueError: `run_dir` is no place for this run.
    """
    run_dir = pathlib.Path(run_dir)
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"{run_dir} is a file. Choose another --run_dir.")
    exists = (run_dir / CONFIG).exists()
    if exists and resume == "never":
        raise ValueError(f"{run_dir} already holds a run. Choose another --run_dir, or --resume=auto to go on with it.")
    if resume == "must" and not checkpoints.steps(run_dir):
        raise ValueError(f"{run_dir} has no checkpoint to go on from (--resume=must).")
    if exists:
        old = Config.from_json(run_dir / CONFIG)
        # These two follow from the clips, and are compared when those are known.
        _compare(run_dir, old, dataclasses.replace(config, **{name: getattr(old, name) for name in _FROM_CLIPS}))
    elif run_dir.exists() and any(path.name != LOCK for path in run_dir.iterdir()):
        raise ValueError(f"{run_dir} is not empty and holds no run. Choose another --run_dir.")


def check_clips(run_dir, config, videos):
    """Checks what the clips decide, before anything of the run is loaded.

    Args:
        run_dir: The run directory, which `check` let pass.
        config: Resolved `Config`.
        videos: The `VideoSet` to train on.

    Raises:
        ValueError: The run there belongs to another configuration or to clips of other categories.
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
    _compare(run_dir, Config.from_json(run_dir / CONFIG), config)
    if old["num_clips"] != len(videos):
        logging.warning("%s was trained on %d clips, now there are %d.", run_dir, old["num_clips"], len(videos))


@contextlib.contextmanager
def claim(run_dir, config, videos, fps):
    """Writes what the run is, config.json and data.json, and keeps other processes out for as long as it is entered.

    Args:
        run_dir: The run directory, which `check` and `check_clips` let pass; made if missing.
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
        files.write_whole(run_dir / CONFIG, config.to_json())
        yield


def read_data(run_dir):
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


_DATA_FIELDS = {"name": str, "categories": list, "num_clips": int, "fps": float}
_FROM_CLIPS = ("dim_category", "category_loss")


def _compare(run_dir, old, new):
    changed = differences(old, new)
    if changed:
        raise ValueError(
            f"{run_dir} belongs to another configuration ({'; '.join(changed)}). "
            "Choose another --run_dir, or give the old values."
        )
