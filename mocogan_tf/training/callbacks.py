"""What happens between training steps: logs, samples, checkpoints, progress, the check for losses that are not finite.

All callbacks count in steps of the run, so a resumed run keeps their rhythm. The count is kept on the host. Values of
the device are read only where a callback looks at them, all at once; in between, the device never waits for the host.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tqdm
from numpy.typing import NDArray

from mocogan_tf import sampling, video
from mocogan_tf.gans import base
from mocogan_tf.training import checkpoints


class StepLogs(Mapping[str, float]):
    """The logs of a step. A look at one of them reads all that is unread, of earlier steps too, in one transfer.

    Args:
        values: Scalars on the device by name.
        unread: Logs that nobody has looked at yet; these are appended.
    """

    def __init__(self, values: dict[str, tf.Tensor], unread: list[StepLogs]) -> None:
        self._names, self._unread = sorted(values), unread
        self._on_device = tf.stack([tf.cast(values[name], tf.float32) for name in self._names])
        self._values: dict[str, float] | None = None
        unread.append(self)

    def _read(self) -> dict[str, float]:
        if self._values is None:
            rows = tf.stack([logs._on_device for logs in self._unread]).numpy()
            for logs, row in zip(self._unread, rows, strict=True):
                logs._values = dict(zip(logs._names, map(float, row), strict=True))
                del logs._on_device
            self._unread.clear()
        assert self._values is not None
        return self._values

    def __getitem__(self, name: str) -> float:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Callbacks(keras.callbacks.CallbackList):
    """Keras's list of callbacks, but the logs of a step are `StepLogs`: Keras would read every value in every step.

    Args:
        callbacks: As of `keras.Model.fit`.
        model: The model that is trained.
    """

    def __init__(self, callbacks: list[keras.callbacks.Callback], model: keras.Model) -> None:
        super().__init__(callbacks, add_history=True, model=model)
        self._unread: list[StepLogs] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, tf.Tensor] | None = None) -> None:
        """Hands the logs to all callbacks."""
        step_logs = StepLogs(logs or {}, self._unread)
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs=step_logs)


class PerStep(keras.callbacks.Callback):
    """Calls `on_step(previous, step, logs)` after each call into TensorFlow, which makes one step or several.

    Args:
        start_step: Step from which the run goes on.
    """

    def __init__(self, start_step: int) -> None:
        super().__init__()
        self.last_step = start_step
        self.first_step = start_step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        previous, self.last_step = self.last_step, self.last_step + self.model.steps_per_execution
        self.on_step(previous, self.last_step, logs)

    def on_step(self, previous: int, step: int, logs: Mapping[str, float]) -> None:
        """Is called after the steps (previous, step]; `logs` are those of the last."""
        raise TypeError(f"{type(self).__name__} must define on_step.")


def due(every: int, previous: int, step: int) -> bool:
    """Whether a multiple of `every` lies in (previous, step]: several steps may end at once."""
    return step // every > previous // every


class StopOnNonFinite(PerStep):
    """Ends training if a loss of any step was not a finite number.

    The model notes on the device which step was the first. The note is read only before something is logged or saved.
    Keras's own `TerminateOnNaN` looks only at a quantity named `loss`.

    Args:
        run_dir: The run directory.
        start_step: Step from which the run goes on.
        every: Intervals, in steps, at whose multiples the note is read.

    Raises:
        FloatingPointError: Names the step, and the quantities where they are known.
    """

    def __init__(self, run_dir: str | pathlib.Path, start_step: int, every: tuple[int, ...] = (1,)) -> None:
        super().__init__(start_step)
        self.run_dir, self.every = run_dir, every
        self._since: list[tuple[int, Mapping[str, float]]] = []

    def on_step(self, previous: int, step: int, logs: Mapping[str, float]) -> None:
        self._since.append((step, logs))
        if any(due(every, previous, step) for every in self.every):
            self.check()

    def on_train_end(self, logs: Any = None) -> None:
        self.check()

    def check(self) -> None:
        """Reads the note."""
        wrong, since = self.model.first_step_not_finite, self._since
        self._since = []
        if not wrong:
            return
        logs = next((logs for step, logs in since if step >= wrong), {})
        names = sorted(name for name, value in logs.items() if not math.isfinite(value)) or ["a loss"]
        kept = checkpoints.steps(self.run_dir)
        raise FloatingPointError(
            f"{', '.join(names)} not finite at step {wrong}. "
            + (f"The checkpoint of step {kept[-1]} is kept. " if kept else "There is no checkpoint yet. ")
            + "Lower --learning_rate and --learning_rate_d, or use --precision=float32."
        )


class JsonLog(PerStep):
    """Appends one JSON object per logging interval to `log.jsonl`: the step's losses, and the interval's pace."""

    def __init__(self, run_dir: str | pathlib.Path, start_step: int, every: int, clips_per_step: int) -> None:
        super().__init__(start_step)
        self.path = pathlib.Path(run_dir) / "log.jsonl"
        self.every = every
        self.clips_per_step = clips_per_step
        self.since = (0.0, start_step)
        drop_after(self.path, start_step)

    def on_train_begin(self, logs: Any = None) -> None:
        self.since = time.monotonic(), self.first_step

    def on_step(self, previous: int, step: int, logs: Mapping[str, float]) -> None:
        if not due(self.every, previous, step):
            return
        losses = {name: round(value, 6) for name, value in logs.items()}
        now = time.monotonic()  # After the losses are read: now the device has made all steps.
        seconds = (now - self.since[0]) / (step - self.since[1])
        self.since = now, step
        line = {
            "step": step,
            **losses,
            "seconds_per_step": round(seconds, 4),
            "clips_per_second": round(self.clips_per_step / seconds, 2),
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")


def drop_after(path: pathlib.Path, step: int) -> None:
    """Cuts off lines that a run wrote after the checkpoint it is resumed from, and a half-written last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, TypeError, KeyError):
            continue
    temporary = path.with_name(f"writing-{path.name}")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _drop_events_after(folder: pathlib.Path, step: int) -> None:
    """Does for TensorBoard's files what `drop_after` does for lines."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        temporary = folder / "writing"  # A name that TensorBoard does not read.
        with tf.io.TFRecordWriter(str(temporary)) as kept:
            try:
                for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                    if tf.compat.v1.Event.FromString(record).step <= step:
                        kept.write(record)
            except tf.errors.DataLossError:  # The last record was being written when the run was killed.
                pass
        os.replace(temporary, path)


class TensorBoardLog(PerStep):
    """Writes the losses as TensorBoard scalars under `tensorboard/`.

    All is on disk at once: a checkpoint must not be younger than the curves that lead to it.
    """

    def __init__(self, run_dir: str | pathlib.Path, start_step: int, every: int) -> None:
        super().__init__(start_step)
        self.every = every
        folder = pathlib.Path(run_dir) / "tensorboard"
        _drop_events_after(folder, start_step)
        self.writer = tf.summary.create_file_writer(str(folder))

    def on_step(self, previous: int, step: int, logs: Mapping[str, float]) -> None:
        if due(self.every, previous, step):
            self.write_scalars({name.replace("_", "/", 1): value for name, value in logs.items()}, step)

    def write_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Writes numbers by tag."""
        with self.writer.as_default(step=step):
            for tag, value in scalars.items():
                tf.summary.scalar(tag, value)
        self.writer.flush()

    def write_film(self, name: str, film: NDArray[np.uint8], fps: float, step: int) -> None:
        """Writes a clip, uint8 `[T, H, W, C]`, as an animated picture."""
        encoded = video.animation(film, "GIF", fps)
        image = tf.compat.v1.Summary.Image(
            height=film.shape[1], width=film.shape[2], colorspace=film.shape[3], encoded_image_string=encoded
        )
        value = tf.compat.v1.Summary.Value(tag=name, image=image)
        with self.writer.as_default(step=step):
            tf.summary.experimental.write_raw_pb(tf.compat.v1.Summary(value=[value]).SerializeToString())
        self.writer.flush()


class Samples(PerStep):
    """Writes clips of the same latents at regular intervals, as WebP, as PNG, and to TensorBoard.

    MoCoGAN's clips are a grid of contents by motions, or of pictures and what became of them; a baseline's are random.
    """

    def __init__(
        self,
        run_dir: str | pathlib.Path,
        start_step: int,
        every: int,
        *,
        video_length: int,
        fps: float,
        seed: int,
        tensorboard: TensorBoardLog,
    ) -> None:
        super().__init__(start_step)
        self.folder = pathlib.Path(run_dir) / "samples"
        self.every = every
        self.video_length, self.fps, self.seed = video_length, fps, seed
        self.tensorboard = tensorboard
        self.written: int | None = None

    def on_step(self, previous: int, step: int, logs: Mapping[str, float]) -> None:
        if due(self.every, previous, step):
            self.write(step)

    def on_train_end(self, logs: Any = None) -> None:
        if self.written != self.last_step:
            self.write(self.last_step)

    def write(self, step: int) -> None:
        """Writes the grid of `sampling.overview`."""
        clips, columns = sampling.overview(self.model.sampler, self.video_length, seed=self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        film, fps = video.grid(clips, columns), self.fps / self.model.sampler.frame_stride
        video.write_video(self.folder / f"step-{step:08d}.webp", video.scale_up(film, 2), fps)
        video.write_image(self.folder / f"step-{step:08d}.png", video.film_strips(clips))
        self.tensorboard.write_film("samples", film, fps, step)
        self.written = step


class Checkpoints(PerStep):
    """Saves at regular intervals, and when training ends, whatever ended it.

    Args:
        run_dir: The run directory.
        start_step: Step from which the run goes on.
        every: Steps between two checkpoints.
        keeping: Which checkpoints are kept: arguments of `checkpoints.save`.
        evaluate: Called with model and step, returns the scores that the checkpoint holds; None: it holds none.
    """

    def __init__(
        self,
        run_dir: str | pathlib.Path,
        start_step: int,
        every: int,
        keeping: dict[str, Any],
        evaluate: Callable[[keras.Model, int], dict[str, float]] | None = None,
    ) -> None:
        super().__init__(start_step)
        self.run_dir, self.every, self.keeping, self.evaluate = run_dir, every, keeping, evaluate
        self.saved = start_step

    def on_step(self, previous: int, step: int, logs: Mapping[str, float]) -> None:
        if due(self.every, previous, step):
            self.save(step)

    def on_train_end(self, logs: Any = None) -> None:
        if self.saved != self.last_step:
            self.save(self.last_step)

    def save(self, step: int) -> None:
        """Writes a checkpoint of this step."""
        scores: dict[str, Any] = self.evaluate(self.model, step) if self.evaluate else {}
        checkpoints.save(self.model, self.run_dir, **self.keeping, **scores)
        self.saved = step


class Progress(PerStep):
    """Shows losses, clips/s and time left: in a progress bar on a terminal, in plain lines elsewhere."""

    SHOWN = {
        base.LOSS_D_IMAGE: "D_I",
        base.LOSS_D_VIDEO: "D_V",
        base.LOSS_G: "G",
        base.LOSS_CATEGORY_G: "cat",
    }

    def __init__(self, start_step: int, steps: int, every: int, clips_per_step: int) -> None:
        super().__init__(start_step)
        self.steps, self.every, self.clips_per_step = steps, every, clips_per_step
        self.bar: tqdm.tqdm | None = None
        self.since: tuple[float, int] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self.since = None
        if sys.stderr.isatty():
            self.bar = tqdm.tqdm(total=self.steps, initial=self.first_step, unit="step", dynamic_ncols=True)

    def on_step(self, previous: int, step: int, logs: Mapping[str, float]) -> None:
        if self.since is None:  # Counted from the end of the first call, which is spent on tracing.
            self.since = time.monotonic(), step
        if self.bar is not None:
            self.bar.update(step - previous)
        if not due(self.every, previous, step):
            return
        losses = " ".join(f"{label} {logs[name]:.3f}" for name, label in self.SHOWN.items() if name in logs)
        pace = (step - self.since[1]) / max(time.monotonic() - self.since[0], 1e-9)
        if self.bar is not None:
            self.bar.set_postfix_str(f"{losses}, {pace * self.clips_per_step:.1f} clips/s")
        else:
            left = tqdm.tqdm.format_interval((self.steps - step) / pace) if pace else "?"
            print(
                f"step {step}/{self.steps}  {losses}  {pace * self.clips_per_step:.1f} clips/s  {left} left", flush=True
            )

    def on_train_end(self, logs: Any = None) -> None:
        if self.bar is not None:
            self.bar.close()
