"""Scores of the generator: on fixed latents while it trains, and of a trained one."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from absl import logging

from mocogan_tf.metrics import quality
from mocogan_tf.metrics.clips import compared
from mocogan_tf.metrics.material import Material
from mocogan_tf.training import checkpoints
from mocogan_tf.training.callbacks import TensorBoardLog, drop_after, due
from mocogan_tf.training.trained import Trained
from mocogan_tf.training.warnings import EARLY, Warnings, collapse_warnings

Scores = dict[str, float]


class Evaluations:
    """Scores the generator when a checkpoint is due: into the checkpoint, `evaluations.jsonl` and TensorBoard.

    Args:
        run_dir: The run directory.
        start_step: Step from which the run goes on; later lines of `evaluations.jsonl` are cut off.
        every: Steps between two scores; 0: never.
        make_monitor: Makes a `metrics.monitor.Monitor`, or any function from a generator to scores by name. It is
            called when the first scores are due. If it raises ValueError, because the clips do not allow scores, the
            error is logged and nothing is scored.
        best_metric: The score that chooses the best checkpoint, or `auto`.
        tensorboard: `TensorBoardLog`.
    """

    def __init__(
        self,
        run_dir: str | pathlib.Path,
        start_step: int,
        *,
        every: int,
        make_monitor: Callable[[], Callable[[Any], Scores]],
        best_metric: str,
        tensorboard: TensorBoardLog,
    ) -> None:
        self.path = pathlib.Path(run_dir) / checkpoints.EVALUATIONS
        self.every, self.make_monitor, self.best_metric = every, make_monitor, best_metric
        self.tensorboard = tensorboard
        self.last_step = start_step
        self.monitor: Callable[[Any], Scores] | None = None
        self.warnings = Warnings(run_dir)
        drop_after(self.path, start_step)

    def __call__(self, model: Any, step: int) -> Scores:
        """Returns scores by name if they are due at this step, else an empty dict."""
        if not self.every or not due(self.every, self.last_step, step):
            return {}
        self.last_step = step
        if self.monitor is None:
            try:
                self.monitor = self.make_monitor()
            except ValueError as error:
                logging.warning("Checkpoints are not scored, and there will be no best one: %s", error)
                self.every = 0
                return {}
        scores = self.monitor(model.sampler)
        if not quality.can_choose(self.best_metric, scores):
            logging.warning(
                "There will be no best checkpoint: %s is none of %s.", self.best_metric, ", ".join(sorted(scores))
            )
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in scores.items()}}) + "\n")
        self.tensorboard.write_scalars({f"metrics/{name}": value for name, value in scores.items()}, step)
        for text in collapse_warnings(scores) if step >= EARLY else []:
            self.warnings.say(step, text)
        return scores


def material_of(trained: Trained, *, num_videos: int, seed: int, data_dir: str = "", cache_dir: str = "") -> Material:
    """Returns what metrics need of a trained generator.

    Args:
        trained: Generator and configuration.
        num_videos: Clips to score.
        seed: Of the latents and of the choice of real clips.
        data_dir: Folder of the real clips, if it is not that of the configuration.
        cache_dir: Folder of decoded clips and networks, if it is not that of the configuration.
    """
    moved: dict[str, Any] = {name: value for name, value in (("data_dir", data_dir), ("cache_dir", cache_dir)) if value}
    config = compared(dataclasses.replace(trained.config, **moved, asked=()), trained.generator.frame_stride)
    return Material(
        config,
        num_videos=num_videos,
        num_frames=config.video_length,
        seed=seed,
        generator=trained.generator,
        step=trained.step,
    )
