"""Checkpoints: files that hold everything a run needs to go on. They are whole or absent, and damage is reported.

`checkpoints/step-00001500.weights.h5` holds the networks, the averaged generator, the optimizers with Adam's moments
and loss scales, and the step. `step-00001500.json` holds the file's SHA-256 and the scores at that step. A checkpoint
exists once its .json does. Random state and place in the data follow from the step and are not stored.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import warnings
from typing import Any

import numpy as np
from absl import logging

from mocogan_tf.files import read_lines, sha256
from mocogan_tf.metrics import quality

RunDir = str | pathlib.Path

FOLDER, EVALUATIONS = "checkpoints", "evaluations.jsonl"
_NAME = re.compile(r"step-(\d{8})\.json")


def steps(run_dir: RunDir) -> list[int]:
    """Returns the steps that have a checkpoint, ascending."""
    names = (_NAME.fullmatch(path.name) for path in (pathlib.Path(run_dir) / FOLDER).glob("step-*.json"))
    return sorted(int(match.group(1)) for match in names if match)


def paths(run_dir: RunDir, step: int) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the two files of a checkpoint: weights and description."""
    folder = pathlib.Path(run_dir) / FOLDER
    return folder / f"step-{step:08d}.weights.h5", folder / f"step-{step:08d}.json"


def best(run_dir: RunDir, metric: str) -> int | None:
    """Returns the step whose checkpoint is best by a score or by `auto`, the earlier of equals; None if none is scored.

    Checkpoints are ranked among all steps that were scored, those whose weights are gone included.

    Args:
        run_dir: The run directory.
        metric: As of `quality.best_step`.
    """
    kept = {step: read(run_dir, step) for step in steps(run_dir)}
    scored = {line["step"]: line for line in read_lines(pathlib.Path(run_dir) / EVALUATIONS)}
    return quality.best_step({**scored, **kept}, metric, among=kept)


def read(run_dir: RunDir, step: int) -> dict[str, Any]:
    """Returns the content of a checkpoint's .json: `step`, `sha256` and scores by name; {} if it cannot be read."""
    try:
        about = json.loads(paths(run_dir, step)[1].read_text())
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError):  # `restore` says what is wrong with it.
        return {}


def save(
    gan: Any,
    run_dir: RunDir,
    *,
    keep: int,
    keep_every: int = 0,
    best_of: str | None = None,
    **about: float,
) -> int:
    """Writes a checkpoint of the current step, then removes old ones.

    Args:
        gan: A compiled `AdversarialModel`.
        run_dir: The run directory.
        keep: Number of latest checkpoints to keep, this one included.
        keep_every: Checkpoints whose step is a multiple of this are kept too; 0 for none.
        best_of: A score, or `auto`; the best checkpoint by it is kept too.
        **about: Further content of the .json, such as scores by name.

    Returns:
        The step.

    Raises:
        FloatingPointError: A weight is not finite; nothing was written.
        OSError: It cannot be written; older checkpoints are untouched.
    """
    step = int(gan.step.numpy())
    for variable in gan.weights:
        if not np.all(np.isfinite(variable.numpy())):
            raise FloatingPointError(f"Weight {variable.path} is not finite at step {step}; no checkpoint was written.")
    weights, description = paths(run_dir, step)
    weights.parent.mkdir(parents=True, exist_ok=True)
    new_weights, new_description = (path.with_name(f"writing-{path.name}") for path in (weights, description))
    try:
        _make_sure_of_room(new_weights, gan)
        gan.save_weights(new_weights)
        described = {"step": step, "sha256": sha256(new_weights), **about}
        new_description.write_text(json.dumps(described, indent=2) + "\n")
        os.replace(new_weights, weights)
        os.replace(new_description, description)
    except BaseException as error:
        new_weights.unlink(missing_ok=True)
        new_description.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # What HDF5 raises when a write fails.
            raise OSError(f"Cannot write checkpoint {weights}: {error}") from error
        raise
    _remove_old(run_dir, step, keep, keep_every, best(run_dir, best_of) if best_of else None)
    return step


def _make_sure_of_room(path: pathlib.Path, gan: Any) -> None:
    """Raises OSError unless the disk has room for the weights: HDF5 crashes the process when a disk fills up."""
    size = sum(math.prod(variable.shape) * variable.value.dtype.size + 4096 for variable in gan.state)
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):  # macOS has none.
            os.posix_fallocate(file.fileno(), 0, size)
    path.unlink()


def _remove_old(run_dir: RunDir, step: int, keep: int, keep_every: int, kept_best: int | None) -> None:
    """Removes checkpoints that are not to be kept, and half-written files of killed processes."""
    # Later ones are not counted: they were damaged, or the run would have gone on from them.
    for old in [one for one in steps(run_dir) if one <= step][:-keep]:
        if old == kept_best or (keep_every and old % keep_every == 0):
            continue
        for path in reversed(paths(run_dir, old)):  # The description first: without it the weights do not count.
            path.unlink(missing_ok=True)
    folder = pathlib.Path(run_dir) / FOLDER
    for path in folder.glob("writing-*"):
        path.unlink(missing_ok=True)
    described = {paths(run_dir, one)[0] for one in steps(run_dir)}
    for path in folder.glob("step-*.weights.h5"):
        if path not in described:
            path.unlink(missing_ok=True)


def restore(gan: Any, run_dir: RunDir, step: int) -> None:
    """Loads weights, optimizer state and step of one checkpoint into a compiled model.

    Raises:
        ValueError: The file is missing or damaged, or it is whole and belongs to other networks.
    """
    weights, description = paths(run_dir, step)
    try:
        expected = json.loads(description.read_text())["sha256"]
        if sha256(weights) != expected:
            raise ValueError("its checksum is wrong")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"Checkpoint {weights} cannot be restored: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Keras only warns when an optimizer's state is left out.
            gan.load_weights(weights)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise ValueError(
            f"Checkpoint {weights} cannot be restored: it is whole, but of other networks than this version makes "
            f"of the run's configuration. {error}"
        ) from error


def restore_latest(gan: Any, run_dir: RunDir) -> int | None:
    """Restores the latest whole checkpoint, and reports damaged ones.

    Returns:
        The step, or None if there is no checkpoint.

    Raises:
        ValueError: There are checkpoints, but none can be restored.
    """
    found = steps(run_dir)
    for step in reversed(found):
        try:
            restore(gan, run_dir, step)
            return step
        except ValueError as error:
            logging.warning("%s Trying the one before it.", error)
    if found:
        raise ValueError(f"No checkpoint in {run_dir} can be restored. Start again with another --run_dir.")
    return None
