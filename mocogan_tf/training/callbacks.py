"""What happens between training steps: the watch for non-finite losses, logs, samples, checkpoints, progress, stopping.

All of them count in steps of the run, so that they keep their rhythm when a run goes on.
"""

import io
import json
import math
import os
import pathlib
import sys
import time

import keras
import tensorflow as tf
import tqdm

from mocogan_tf import sampling, video
from mocogan_tf.gans import base
from mocogan_tf.training import checkpoints


class PerStep(keras.callbacks.Callback):
    """Calls `on_step(step, logs)` after training steps, `step` counted over the whole run."""

    def __init__(self, start_step):
        super().__init__()
        self.last_step = start_step
        self.first_step = start_step

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.step.numpy())
        previous, self.last_step = self.last_step, step
        self.on_step(previous, step, logs)

    def on_step(self, previous, step, logs):
        raise TypeError(f"{type(self).__name__} must define on_step.")


def due(every, previous, step):
    """Whether a multiple of `every` lies in (previous, step]: several steps may end at once."""
    return step // every > previous // every


class StopOnNonFinite(PerStep):
    """Ends training at the first loss that is no finite number.

    Keras's own `TerminateOnNaN` looks only at a quantity named `loss`. With several steps per execution, the last of
    them is looked at, and named.

    Raises:
        FloatingPointError: Names the quantities and the step.
    """

    def __init__(self, run_dir, start_step):
        super().__init__(start_step)
        self.run_dir = run_dir

    def on_step(self, previous, step, logs):
        bad = sorted(name for name, value in logs.items() if not math.isfinite(value))
        if bad:
            kept = checkpoints.steps(self.run_dir)
            raise FloatingPointError(
                f"{', '.join(bad)} not finite at step {step}. "
                + (f"The checkpoint of step {kept[-1]} is kept. " if kept else "There is no checkpoint yet. ")
                + "Lower --learning_rate and --learning_rate_d, or use --precision=float32."
            )


class JsonLog(PerStep):
    """Appends one JSON object per logging interval to `log.jsonl`: the step's losses, and the interval's pace."""

    def __init__(self, run_dir, start_step, every, clips_per_step):
        super().__init__(start_step)
        self.path = pathlib.Path(run_dir) / "log.jsonl"
        self.every = every
        self.clips_per_step = clips_per_step
        self.since = None
        drop_after(self.path, start_step)

    def on_train_begin(self, logs=None):
        self.since = time.monotonic(), self.first_step

    def on_step(self, previous, step, logs):
        if not due(self.every, previous, step):
            return
        now = time.monotonic()
        seconds = (now - self.since[0]) / (step - self.since[1])
        self.since = now, step
        line = {
            "step": step,
            **{name: round(float(value), 6) for name, value in logs.items()},
            "seconds_per_step": round(seconds, 4),
            "clips_per_second": round(self.clips_per_step / seconds, 2),
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")


def drop_after(path, step):
    """Cuts off lines that a run wrote after the checkpoint from which it goes on, and a half-written last one."""
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


def _drop_events_after(folder, step):
    """As `drop_after`, for TensorBoard's files."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        temporary = folder / "writing"  # A name that TensorBoard does not read.
        with tf.io.TFRecordWriter(str(temporary)) as kept:
            try:
                for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                    if tf.compat.v1.Event.FromString(record).step <= step:
                        kept.write(record)
            except tf.errors.DataLossError:  # The last one was being written when the run was killed.
                pass
        os.replace(temporary, path)


class TensorBoardLog(PerStep):
    """Writes the losses as TensorBoard scalars under `tensorboard/`.

    What is written is on disk at once: a checkpoint must not be younger than the curves that lead to it.
    """

    def __init__(self, run_dir, start_step, every):
        super().__init__(start_step)
        self.every = every
        folder = pathlib.Path(run_dir) / "tensorboard"
        _drop_events_after(folder, start_step)
        self.writer = tf.summary.create_file_writer(str(folder))

    def on_step(self, previous, step, logs):
        if due(self.every, previous, step):
            self.write_scalars({name.replace("_", "/", 1): value for name, value in logs.items()}, step)

    def write_scalars(self, scalars, step):
        """Writes numbers by tag."""
        with self.writer.as_default(step=step):
            for tag, value in scalars.items():
                tf.summary.scalar(tag, value)
        self.writer.flush()

    def write_film(self, name, film, fps, step):
        """Writes a clip, uint8 `[T, H, W, C]`, as an animated picture."""
        first, *rest = [video.to_image(frame) for frame in film]
        encoded = io.BytesIO()
        first.save(encoded, format="GIF", save_all=True, append_images=rest, duration=1000.0 / fps, loop=0)
        image = tf.compat.v1.Summary.Image(
            height=film.shape[1], width=film.shape[2], colorspace=film.shape[3], encoded_image_string=encoded.getvalue()
        )
        value = tf.compat.v1.Summary.Value(tag=name, image=image)
        with self.writer.as_default(step=step):
            tf.summary.experimental.write_raw_pb(tf.compat.v1.Summary(value=[value]).SerializeToString())
        self.writer.flush()


class Samples(PerStep):
    """Writes clips of the same latents every so often, as WebP, as PNG, and to TensorBoard.

    MoCoGAN's are a grid of contents by motions, a baseline's are random.
    """

    def __init__(self, run_dir, start_step, every, *, video_length, fps, seed, tensorboard):
        super().__init__(start_step)
        self.folder = pathlib.Path(run_dir) / "samples"
        self.every = every
        self.video_length, self.fps, self.seed = video_length, fps, seed
        self.tensorboard = tensorboard
        self.written = None

    def on_step(self, previous, step, logs):
        if due(self.every, previous, step):
            self.write(step)

    def on_train_end(self, logs=None):
        if self.written != self.last_step:
            self.write(self.last_step)

    def write(self, step):
        """Writes the grid of `sampling.overview`."""
        clips, columns = sampling.overview(self.model.sampler, self.video_length, seed=self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        film, fps = video.grid(clips, columns), self.fps / self.model.sampler.frame_stride
        video.write_video(self.folder / f"step-{step:08d}.webp", video.scale_up(film, 2), fps)
        video.write_image(self.folder / f"step-{step:08d}.png", video.film_strips(clips))
        self.tensorboard.write_film("samples", film, fps, step)
        self.written = step


class Checkpoints(PerStep):
    """Saves every so often, and at the end of training, however it came.

    Args:
        run_dir: The run directory.
        start_step: Step from which the run goes on.
        every: Steps between two checkpoints.
        keeping: What is kept, as `checkpoints.save` takes it.
        evaluate: From model and step to the scores that the checkpoint shall hold; None: it holds none.
    """

    def __init__(self, run_dir, start_step, every, keeping, evaluate=None):
        super().__init__(start_step)
        self.run_dir, self.every, self.keeping, self.evaluate = run_dir, every, keeping, evaluate
        self.saved = start_step

    def on_step(self, previous, step, logs):
        if due(self.every, previous, step):
            self.save(step)

    def on_train_end(self, logs=None):
        if self.saved != self.last_step:
            self.save(self.last_step)

    def save(self, step):
        """Writes a checkpoint of this step."""
        scores = self.evaluate(self.model, step) if self.evaluate else {}
        checkpoints.save(self.model, self.run_dir, **self.keeping, **scores)
        self.saved = step


class Progress(PerStep):
    """A progress bar with losses, clips/s and time left on a terminal; plain lines elsewhere."""

    SHOWN = {
        base.LOSS_D_IMAGE: "D_I",
        base.LOSS_D_VIDEO: "D_V",
        base.LOSS_G: "G",
        base.LOSS_CATEGORY_G: "cat",
    }

    def __init__(self, start_step, steps, every, clips_per_step):
        super().__init__(start_step)
        self.steps, self.every, self.clips_per_step = steps, every, clips_per_step
        self.bar = None

    def on_train_begin(self, logs=None):
        self.since = None
        if sys.stderr.isatty():
            self.bar = tqdm.tqdm(total=self.steps, initial=self.first_step, unit="step", dynamic_ncols=True)

    def on_step(self, previous, step, logs):
        if self.since is None:  # Counted from the end of the first call, which is spent on tracing.
            self.since = time.monotonic(), step
        pace = (step - self.since[1]) / max(time.monotonic() - self.since[0], 1e-9)
        losses = " ".join(f"{label} {logs[name]:.3f}" for name, label in self.SHOWN.items() if name in logs)
        if self.bar is not None:
            self.bar.set_postfix_str(f"{losses}, {pace * self.clips_per_step:.1f} clips/s", refresh=False)
            self.bar.update(step - previous)
        elif due(self.every, previous, step):
            left = tqdm.tqdm.format_interval((self.steps - step) / pace) if pace else "?"
            print(
                f"step {step}/{self.steps}  {losses}  {pace * self.clips_per_step:.1f} clips/s  {left} left", flush=True
            )

    def on_train_end(self, logs=None):
        if self.bar is not None:
            self.bar.close()
