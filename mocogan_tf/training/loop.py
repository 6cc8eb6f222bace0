"""Training a run from a configuration: networks, state, the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import sys
from typing import Any

import keras
import tensorflow as tf

from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.pictures import pictures_to_animate
from mocogan_tf.data.pipeline import Replicas, training_batches
from mocogan_tf.distribution import cluster
from mocogan_tf.distribution.devices import check_batches, choose_precision, make_strategy, set_graph_options
from mocogan_tf.distribution.workers import WorkerLost, Workers, telling_of_lost_workers
from mocogan_tf.gans.build import build_gan
from mocogan_tf.metrics import quality
from mocogan_tf.metrics.clips import compared
from mocogan_tf.metrics.monitor import Monitor
from mocogan_tf.training import callbacks, checkpoints, evaluation, footprint, run_directory, warnings
from mocogan_tf.training.stopping import StopOnSignal

EXIT_CODES: dict[int | None, int] = {
    None: 0,
    signal.SIGINT: 130,
    signal.SIGTERM: 143,
}  # By the signal that ended training.
FEW_STEPS = 200  # Figures begin to show after about 250 steps of the profile `cpu`.
WORKER_LOST = 75  # sysexits.h's EX_TEMPFAIL: start all workers again, and training goes on.


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is about to start.

    Args:
        config: Resolved `Config`.
        run_dir: Folder of the run.
        videos: The `VideoSet` to train on.
        strategy: Spreads the steps over devices.
        workers: The workers of the run.
    """

    config: Config
    run_dir: pathlib.Path
    videos: VideoSet
    strategy: tf.distribute.Strategy
    workers: Workers

    @property
    def fps(self) -> float:
        """Frames per second of a training clip."""
        return self.videos.fps / self.config.every_nth


def describe(config: Config, gan: Any, batch_shapes: dict[str, tuple[int, ...]], num_replicas: int) -> str:
    """Returns what `--dry_run` prints: configuration, parameter counts, one batch's shapes, what a run takes."""
    counts = [
        f"{name}: {sum(int(tf.size(v.value)) for v in network.trainable_variables):,} parameters"
        for name, network in gan.networks.items()
    ]
    shapes = [f"{name}: {' x '.join(map(str, shape))}" for name, shape in batch_shapes.items()]
    takes = footprint.describe(config, gan, num_replicas)
    return "\n".join([config.to_json().rstrip(), *counts, *shapes, *takes])


def dry_run(config: Config) -> None:
    """Prints what a run would be without starting one: configuration, parameter counts, shapes, memory and disk."""
    machines = cluster.from_environment()
    config = dataclasses.replace(config, precision=choose_precision(config.precision))
    videos = open_videos(config, few=8)  # The set need not be whole for this.
    config = config.resolve_categories(len(videos.categories))
    # No waiting for other machines: this one stands for all.
    num_replicas = make_strategy(config).num_replicas_in_sync * machines.num_workers
    check_batches(config, num_replicas)
    gan = build_gan(config, policy=config.precision)
    batch = next(iter(training_batches(videos, config)))
    print(describe(config, gan, {name: tuple(value.shape) for name, value in batch.items()}, num_replicas))


def train(
    config: Config,
    run_dir: str | pathlib.Path,
    resume: str = "auto",
    *,
    allow_changed_data: bool = False,
    may_exit: bool = False,
) -> int:
    """Trains a run, or goes on with one; if TF_CONFIG is set, as one worker of several.

    Args:
        config: `Config`; what follows from data and device may still be open in it.
        run_dir: Folder of the run; made if missing. Of several workers only the chief needs it.
        resume: "auto" resumes a run if there is one, "never" refuses to, "must" insists on it.
        allow_changed_data: Whether a run may be resumed on other clips than it was trained on.
        may_exit: Whether a second Ctrl-C may end the process at once; it raises KeyboardInterrupt otherwise.

    Returns:
        Exit code: 0 when all steps are done; 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint saved; 75 when
        another worker was lost.

    Raises:
        ValueError: Clips, configuration or run directory do not fit.
        FloatingPointError: A loss is not finite.
    """
    machines = cluster.from_environment()
    config = dataclasses.replace(config, precision=choose_precision(config.precision))
    keras.utils.set_random_seed(config.seed)
    set_graph_options()
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        with telling_of_lost_workers(machines):
            strategy = make_strategy(config, machines)
            workers = Workers(machines, strategy)
            run = _open(config, pathlib.Path(run_dir), resume, strategy, workers)
            return _train(run, allow_changed_data, may_exit)
    except WorkerLost as error:
        print(f"error: {error}", file=sys.stderr)
        return WORKER_LOST


def _open(
    config: Config, run_dir: pathlib.Path, resume: str, strategy: tf.distribute.Strategy, workers: Workers
) -> Run:
    """Opens the clips and settles what follows from them."""
    with workers.chief_first():
        if workers.is_chief:
            run_directory.check(run_dir, config, resume)
        videos = open_videos(config)
    config = config.resolve_categories(len(videos.categories))
    quality.check_chooses(config.best_metric)
    workers.check_same("configuration and clips", _identity(config, videos))
    return Run(config, run_dir, videos, strategy, workers)


def _train(run: Run, allow_changed_data: bool, may_exit: bool) -> int:
    """Builds or restores the networks and trains them; returns the exit code."""
    config, workers = run.config, run.workers
    with run.strategy.scope():
        gan = build_gan(config, policy=config.precision)
    with workers.chief_first():
        if workers.is_chief:
            run_directory.check_clips(run.run_dir, config, run.videos, allow_changed_data)
            checkpoints.restore_latest(gan, run.run_dir)
            _check_steps(config, int(gan.step.numpy()))
    workers.copy_from_chief(gan.state)
    start_step = int(gan.step.numpy())
    if start_step >= config.steps:
        if workers.is_chief:
            print(f"{run.run_dir} is at step {start_step} of {config.steps}. To go on, raise --steps.")
        return 0
    with contextlib.ExitStack() as stack:
        with workers.chief_first():
            if workers.is_chief:
                stack.enter_context(run_directory.claim(run.run_dir, config, run.videos, run.fps))
                print(
                    f"{'going on with' if start_step else 'training'} {run.run_dir}: steps {start_step + 1} to "
                    f"{config.steps}, {len(run.videos)} clips, {len(run.videos.categories)} categories, "
                    f"{run.strategy.num_replicas_in_sync} replica(s)\n"
                    f"watch it with: tensorboard --logdir={run.run_dir}",
                    flush=True,
                )
                if config.task == "image_to_video":
                    _give_pictures(gan.sampler, run)
                if config.steps < FEW_STEPS:
                    print(
                        f"{config.steps} steps show that everything runs; grids of grey fog are to be expected",
                        flush=True,
                    )
        return _fit(gan, run, start_step, may_exit)


def _give_pictures(sampler: Any, run: Run) -> None:
    """Gives the generator the pictures that its samples animate; they stay the same over the run."""
    pictures = pictures_to_animate(run.config, run.videos, run_directory.NUM_PICTURES)
    sampler.pictures = run_directory.keep_pictures(run.run_dir, pictures).pixels


def _monitor(run: Run, frame_stride: int) -> Monitor:
    """Makes what scores checkpoints; pictures to animate are as many as clips to score."""
    config, videos = compared(run.config, frame_stride), run.videos
    if config.task != "image_to_video":
        return Monitor(config, videos, seed=config.seed)
    return Monitor(
        config, videos, seed=config.seed, pictures=lambda number: pictures_to_animate(config, videos, number).pixels
    )


def _fit(gan: Any, run: Run, start_step: int, may_exit: bool) -> int:
    """Trains to the end or a signal; returns the exit code."""
    config, workers = run.config, run.workers
    stop = StopOnSignal(workers, start_step, may_exit, config.log_every)
    try:
        gan.fit(
            _batches(run, start_step),
            steps_per_epoch=config.steps - start_step,
            shuffle=False,
            verbose=0,
            callbacks=callbacks.Callbacks([*_callbacks(run, start_step, gan.sampler.frame_stride), stop], gan),
        )
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" in str(error):  # TensorFlow has one word for a full memory and a full disk.
            raise OSError(f"The disk is full; earlier checkpoints in {run.run_dir} are kept.") from error
        batches = ("video_batch",) if config.image_discriminator == "none" else ("video_batch", "image_batch")
        raise ValueError(
            f"Out of memory at {', '.join(f'{name}={getattr(config, name)}' for name in batches)}. "
            f"Lower {' or '.join(f'--{name}' for name in batches)}, or --ngf and --ndf."
        ) from error
    finally:
        stop.restore()
    workers.wait()  # The first to end would look like a lost worker to the others.
    if not workers.is_chief:
        return EXIT_CODES[stop.signal]
    if stop.signal is not None:
        print(f"stopped at step {int(gan.step.numpy())}; the same command goes on from there (with --resume=auto)")
    else:
        print(f"done: {run.run_dir} holds samples/, checkpoints/, log.jsonl and tensorboard/")
    return EXIT_CODES[stop.signal]


def _identity(config: Config, videos: VideoSet) -> list[Any]:
    """What must be the same on all workers, for `Workers.check_same`; folders may differ."""
    fields = {**dataclasses.asdict(config), "data_dir": None, "cache_dir": None}
    return [fields, list(videos.categories), videos.labels.tolist(), videos.lengths.tolist()]


def _check_steps(config: Config, start_step: int) -> None:
    too_many = max(0, config.steps - start_step) % config.steps_per_execution
    if too_many:
        raise ValueError(
            f"The {config.steps - start_step} steps from {start_step} to {config.steps} are no multiple of "
            f"`steps_per_execution`. Received: steps_per_execution={config.steps_per_execution}. "
            f"Set --steps={config.steps - too_many + config.steps_per_execution}."
        )


def _batches(run: Run, start_step: int) -> Any:
    """Batches from a step on. Each replica reads only its own rows; of several machines, each those of its replicas."""
    machines, total = run.workers.cluster, run.strategy.num_replicas_in_sync

    def rows(first: int, local: int) -> tf.data.Dataset:
        replicas = Replicas(first=first, local=local, total=total)
        return training_batches(run.videos, run.config, start_step=start_step, replicas=replicas)

    if machines.num_workers > 1:
        local = total // machines.num_workers
        return run.strategy.distribute_datasets_from_function(lambda _: rows(machines.index * local, local))
    # The pipelines themselves, one per replica. In the iterator that a strategy puts before them otherwise, a thread of
    # TensorFlow sleeps for up to a minute, and the end of a training may wait for it.
    options = tf.distribute.InputOptions(
        experimental_fetch_to_device=False,
        experimental_replication_mode=tf.distribute.InputReplicationMode.PER_REPLICA,
    )
    return run.strategy.distribute_datasets_from_function(lambda one: rows(one.input_pipeline_id, 1), options)


def _callbacks(run: Run, start_step: int, frame_stride: int) -> list[keras.callbacks.Callback]:
    config, run_dir = run.config, run.run_dir
    # First: a step gone wrong must not be saved.
    intervals = (config.log_every, config.sample_every, config.checkpoint_every)
    stop_on_non_finite = callbacks.StopOnNonFinite(run_dir, start_step, intervals)
    if not run.workers.is_chief:
        return [stop_on_non_finite]
    tensorboard = callbacks.TensorBoardLog(run_dir, start_step, config.log_every)
    return [
        stop_on_non_finite,
        callbacks.JsonLog(run_dir, start_step, config.log_every, config.video_batch),
        callbacks.Progress(start_step, config.steps, config.log_every, config.video_batch),
        # Its thresholds and its advice fit MoCoGAN's losses only.
        *([warnings.BalanceWatch(run_dir, start_step)] if config.model == "mocogan" else []),
        tensorboard,
        callbacks.Samples(
            run_dir,
            start_step,
            config.sample_every,
            video_length=config.video_length,
            fps=run.fps,
            seed=config.seed,
            tensorboard=tensorboard,
        ),
        # Last: logs are written before the checkpoint, or a run that is resumed from it would lack them.
        callbacks.Checkpoints(
            run_dir,
            start_step,
            config.checkpoint_every,
            {"keep": config.keep_checkpoints, "keep_every": config.keep_every, "best_of": config.best_metric},
            evaluation.Evaluations(
                run_dir,
                start_step,
                every=config.evaluate_every,
                make_monitor=lambda: _monitor(run, frame_stride),
                best_metric=config.best_metric,
                tensorboard=tensorboard,
            ),
        ),
    ]
