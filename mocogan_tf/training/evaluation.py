"""Scores of the generator on fixed latents while it trains."""

import dataclasses
import json
import pathlib

from absl import logging

from mocogan_tf.metrics import quality
from mocogan_tf.metrics.clips import compared
from mocogan_tf.metrics.material import Material
from mocogan_tf.training import checkpoints
from mocogan_tf.training.callbacks import TensorBoardLog, drop_after, due
from mocogan_tf.training.warnings import EARLY, Warnings, collapse_warnings


class Evaluations:
    """Scores the generator when a checkpoint is due: into the checkpoint, `evaluations.jsonl` and TensorBoard.

    Args:
        run_dir: The run directory.
        start_step: Step from which the run goes on; later lines of `evaluations.jsonl` are cut off.
        every: Steps between two scores.
        make_monitor: Makes a `metrics.monitor.Monitor`, or any function from a generator to scores by name; called when
            the first scores are due. Where the clips do not allow it, its ValueError is told, and nothing is scored.
        best_metric: The score by which the best checkpoint is chosen, or `auto`.
        tensorboard: `TensorBoardLog`.
    """

    def __init__(self, run_dir, start_step, every, make_monitor, best_metric, tensorboard: TensorBoardLog):
        self.path = pathlib.Path(run_dir) / checkpoints.EVALUATIONS
        self.every, self.make_monitor, self.best_metric, self.tensorboard = (
            every,
            make_monitor,
            best_metric,
            tensorboard,
        )
        self.last_step = start_step
        self.monitor = None
        self.warnings = Warnings(run_dir)
        drop_after(self.path, start_step)

    def __call__(self, model, step):
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


def material_of_run(
    run_dir: str | pathlib.Path,
    *,
    checkpoint: str,
    num_videos: int,
    seed: int,
    data_dir: str = "",
    cache_dir: str = "",
) -> Material:
    """What is scored of a run; `data_dir` and `cache_dir`, where given, replace those of its configuration.

    Raises:
        ValueError: There is no such run or checkpoint.
    """
    generator, config, step = checkpoints.load_generator(run_dir, checkpoint)
    moved = {name: value for name, value in (("data_dir", data_dir), ("cache_dir", cache_dir)) if value}
    config = compared(dataclasses.replace(config, **moved), generator.frame_stride)
    num_frames = config.video_length
    return Material(config, num_videos=num_videos, num_frames=num_frames, seed=seed, generator=generator, step=step)
