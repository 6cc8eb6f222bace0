"""Trained generators: the averaged generator of a run's checkpoint, or the generator of an exported bundle."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from mocogan_tf.config import Config
from mocogan_tf.gans.build import GENERATORS, build_gan
from mocogan_tf.metrics import quality
from mocogan_tf.training import checkpoints, run_directory


@dataclasses.dataclass(frozen=True)
class Trained:
    """A generator and where it is from.

    Args:
        generator: The Keras model, in float32.
        config: Resolved `Config` of its training.
        step: Training steps behind it.
        fps: Frames per second of a training clip.
        categories: Names of the clips' classes.
        origin: Folder of the run or the bundle.
    """

    generator: Any
    config: Config
    step: int
    fps: float
    categories: tuple[str, ...]
    origin: pathlib.Path


def load_generator(run_dir: str | pathlib.Path, which: str | int = "latest") -> tuple[Any, Config, int]:
    """Loads the averaged generator of a run, for sampling, metrics and export.

    Args:
        run_dir: The run directory.
        which: "latest", "best" (by the metric that the run's configuration names), or a step.

    Returns:
        `(generator, Config, step)`; the generator computes in float32 whatever the run's precision. One that animates
        pictures has those of the run.

    Raises:
        ValueError: There is no such run or checkpoint, or it is damaged.
    """
    config = run_directory.read_config(run_dir)
    step = _best_step(run_dir, config) if which == "best" else run_directory.find_step(run_dir, which)
    gan = build_gan(config, policy="float32")
    checkpoints.restore(gan, run_dir, step)
    if config.task == "image_to_video":
        gan.sampler.pictures = run_directory.read_pictures(run_dir).pixels
    return gan.sampler, config, step


def _best_step(run_dir: str | pathlib.Path, config: Config) -> int:
    found = run_directory.find_steps(run_dir)
    metric = config.best_metric
    step = checkpoints.best(run_dir, metric)
    if step is None:
        scores = "scores" if metric == quality.AUTO else f"a score in {metric}"
        raise ValueError(
            f"No checkpoint in {run_dir} has {scores}. Use latest, or a step: {', '.join(map(str, found))}."
        )
    return step


def open_run(run_dir: str | pathlib.Path, which: str | int = "latest") -> Trained:
    """Loads a run's generator with what the run directory says about it.

    Raises:
        ValueError: As `load_generator`.
    """
    generator, config, step = load_generator(run_dir, which)
    data = run_directory.read_data(run_dir)
    return Trained(generator, config, step, data["fps"], tuple(data["categories"]), pathlib.Path(run_dir))


def open_bundle(bundle: str | pathlib.Path) -> Trained:
    """Loads the generator of an exported bundle with what bundle.json says about it.

    Raises:
        ValueError: The folder is no bundle, or its weights do not fit bundle.json.
    """
    folder = pathlib.Path(bundle)
    try:
        described = json.loads((folder / "bundle.json").read_text())
        saved_model = folder / described["files"]["saved_model"] / str(described["version"])
        provenance = described["provenance"]
        config = Config(**provenance["config"], asked=())
        step, fps, categories = provenance["step"], described["fps"], tuple(provenance["data"]["categories"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{bundle} is no bundle that `python -m export` wrote: {error!r}") from error
    generator = rebuild_generator(saved_model, described)
    if "contents" in described["files"]:
        try:
            with np.load(folder / described["files"]["contents"], allow_pickle=False) as stored:
                generator.pictures = stored["pictures"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"Cannot read the pictures of {bundle}: {error!r}") from error
    return Trained(generator, config, step, fps, categories, folder)


def rebuild_generator(saved_model: pathlib.Path, described: dict[str, Any]) -> Any:
    """Builds the Keras generator that a bundle was made of, with the weights of its SavedModel.

    Args:
        saved_model: Folder of the SavedModel's version.
        described: Content of bundle.json.

    Raises:
        ValueError: The weights do not fit the architecture that bundle.json describes.
    """
    try:
        make: Any = GENERATORS[described["model"]]
        generator = make.from_config(described["provenance"]["generator"])
        stored = read_weights(saved_model)
        for weight in generator.weights:
            weight.assign(stored[weight.path])
    except (KeyError, TypeError, ValueError, OSError) as error:
        what = repr(error).partition(" Target variable")[0]  # Keras adds all values.
        raise ValueError(f"Cannot rebuild the generator from {saved_model}: {what}") from error
    return generator


def read_weights(saved_model: pathlib.Path) -> dict[str, Any]:
    """Reads the weights out of the SavedModel of a bundle.

    Args:
        saved_model: Folder of the SavedModel's version.

    Returns:
        Arrays by the paths that the weights have in Keras.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    nodes = saved.meta_graphs[0].object_graph_def.nodes
    checkpoint = tf.train.load_checkpoint(str(saved_model / "variables/variables"))
    # The root object lists the variables; the checkpoint's keys count through that list.
    (variables,) = [child.node_id for child in nodes[0].children if child.local_name == "_all_variables"]
    return {
        nodes[child.node_id].variable.name: checkpoint.get_tensor(
            f"_all_variables/{child.local_name}/.ATTRIBUTES/VARIABLE_VALUE"
        )
        for child in nodes[variables].children
    }
