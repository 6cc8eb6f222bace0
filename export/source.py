"""Reads a run's generator, and what bundle.json says about where the generator is from."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import pathlib
import re
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf

from export.contract import Contract
from mocogan_tf import __version__, recipes
from mocogan_tf.files import read_lines
from mocogan_tf.latents import CodeSpec
from mocogan_tf.training import checkpoints, run_directory, trained


@dataclasses.dataclass(frozen=True)
class Source:
    """A generator with its contract and origin."""

    generator: Any
    contract: Contract
    provenance: dict[str, Any]


def open_run(
    run_dir: pathlib.Path,
    checkpoint: str,
    *,
    version: int = 1,
    name: str | None = None,
    frame_buckets: list[str] | None = None,
) -> Source:
    """Loads a run's generator (its moving average, where the run keeps one).

    Args:
        run_dir: The run directory.
        checkpoint: Which checkpoint, as for `trained.load_generator`.
        version: Version of the bundle.
        name: Name to serve under; if None, made of architecture and data set.
        frame_buckets: Clip lengths; if None, the trained length and, if the length is free, twice that.

    Raises:
        ValueError: The run or checkpoint is missing or damaged, or an argument is unusable.
    """
    generator, config, step = trained.load_generator(run_dir, checkpoint)
    data = run_directory.read_data(run_dir)
    categories = tuple(data["categories"])
    spec = generator.latents
    if isinstance(spec, CodeSpec):
        sizes: dict[str, Any] = {"dim_z": spec.dim_z, "z_distribution": spec.distribution}
        buckets = _lengths(frame_buckets, (spec.num_frames,))
    else:
        sizes = {"dim_content": spec.dim_content, "dim_motion": spec.dim_motion, "content_from": spec.content_from}
        sizes["category_to"] = config.category_to
        buckets = _lengths(frame_buckets, (config.video_length, 2 * config.video_length))
    contract = Contract(
        name=name or re.sub(r"[^a-z0-9]+", "-", f"{config.model}-{data['name']}".lower()).strip("-"),
        version=version,
        model=config.model,
        dim_category=config.dim_category,
        # Categories that the model found by itself have no names, whatever the clips' labels are.
        categories=categories if len(categories) == config.dim_category else (),
        fps=data["fps"],
        image_size=config.image_size,
        channels=config.channels,
        video_length=config.video_length,
        frame_buckets=buckets,
        **sizes,
    )
    description = json.loads(checkpoints.paths(run_dir, step)[1].read_text())
    metrics = {key: value for key, value in description.items() if isinstance(value, float) and np.isfinite(value)}
    provenance = {
        "run": run_dir.resolve().name,
        "step": step,
        "checkpoint_sha256": description["sha256"],
        "metrics": metrics,
        "scores": _scores(run_dir, step),
        "command": recipes.command(config),
        "training_seconds": training_seconds(run_dir, step),
        "data": data,
        "generator": generator.get_config(),
        # Without folders: where data lay on the machine that trained concerns nobody else.
        "config": {key: value for key, value in json.loads(config.to_json()).items() if not key.endswith("_dir")},
        "libraries": library_versions(),
    }
    return Source(generator, contract, provenance)


def _scores(run_dir: pathlib.Path, step: int) -> dict[str, dict[str, Any]]:
    """Returns the scores that `evaluate.py` gave a checkpoint, by metric; of repeated scores, the last."""
    kept = ("value", "std_error", "num_videos", "seed")
    lines = [line for line in read_lines(run_dir / "metrics.jsonl") if line.get("checkpoint_step") == step]
    return {line["metric"]: {key: line[key] for key in kept} for line in lines if line["value"] is not None}


def training_seconds(run_dir: pathlib.Path, step: int) -> float:
    """Returns the seconds that the steps up to a checkpoint took.

    A line of the log holds the mean of the steps since the line before it.
    """
    seconds, previous = 0.0, 0
    for line in read_lines(run_dir / "log.jsonl"):
        if line["step"] <= step:
            seconds += (line["step"] - previous) * line["seconds_per_step"]
            previous = line["step"]
    return round(seconds, 1)


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that make a bundle."""
    return {
        "mocogan-tf": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tf2onnx": importlib.metadata.version("tf2onnx"),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def _lengths(given: list[str] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    if given is None:
        return default
    if not all(text.strip().isdigit() for text in given):
        raise ValueError(f"`frame_buckets` must be whole numbers, such as 16,32. Received: {','.join(given)}")
    return tuple(sorted({int(text) for text in given}))
