"""Training a run from a configuration: networks, state, the loop. What `train.py` calls."""

import contextlib
import dataclasses
import signal
import sys

import keras
import tensorflow as tf

from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.pipeline import Replicas, training_batches
from mocogan_tf.distribution import cluster
from mocogan_tf.distribution.devices import check_batches, choose_precision, make_strategy, set_graph_options
from mocogan_tf.distribution.workers import WorkerLost, Workers, telling_of_lost_workers
from mocogan_tf.gans.build import build_gan
from mocogan_tf.metrics import quality
from mocogan_tf.metrics.clips import compared
from mocogan_tf.metrics.monitor import Monitor
from mocogan_tf.training import callbacks, checkpoints, evaluation, footprint, run_directory, warnings

EXIT_CODES = {None: 0, signal.SIGINT: 130, signal.SIGTERM: 143}  # By the signal that ended training.
WORKER_LOST = 75  # sysexits.h's EX_TEMPFAIL: start all workers again, and training goes on.


def describe(config, gan, batch_shapes, num_replicas):
    """Returns what `--dry_run` prints: configuration, parameter counts, one batch's shapes, what a run will take."""
    counts = [
        f"{name}: {sum(int(tf.size(v.value)) for v in network.trainable_variables):,} parameters"
        for name, network in gan.networks.items()
    ]
    shapes = [f"{name}: {' x '.join(map(str, shape))}" for name, shape in batch_shapes.items()]
    takes = footprint.describe(config, gan, num_replicas)
    return "\n".join([config.to_json().rstrip(), *counts, *shapes, *takes])


def dry_run(config):
    """Prints what a run would be, without writing one: configuration, parameter counts, shapes, memory and disk."""
    machines = cluster.from_environment()
    config = dataclasses.replace(config, precision=choose_precision(config.precision))
    videos = open_videos(config, few=8)  # The set need not be whole for this.
    config = config.resolve_categories(len(videos.categories))
    # This machine alone, though it may be one of several: nobody is waited for.
    num_replicas = make_strategy(config).num_replicas_in_sync * machines.num_workers
    check_batches(config, num_replicas)
    gan = build_gan(config, policy=config.precision)
    batch = next(iter(training_batches(videos, config)))
    print(describe(config, gan, {name: tuple(value.shape) for name, value in batch.items()}, num_replicas))


def train(config, run_dir, resume="auto"):
    """Trains a run, or goes on with one; where TF_CONFIG is set, as one worker of several.

    Args:
        config: `Config`; what follows from data and device may still be open in it.
        run_dir: Folder of the run; made if missing. Of several workers only the chief needs it.
        resume: "auto" goes on where there is a run, "never" refuses to, "must" insists on it.

    Returns:
        Exit code: 0 when all steps are done, 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint saved; 75 when
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
            return _train(config, run_dir, resume, strategy, Workers(machines, strategy))
    except WorkerLost as error:
        print(f"error: {error}", file=sys.stderr)
        return WORKER_LOST


def _train(config, run_dir, resume, strategy, workers):
    with workers.chief_first():
        if workers.is_chief:
            run_directory.check(run_dir, config, resume)
        videos = open_videos(config)
    config = config.resolve_categories(len(videos.categories))
    quality.check_chooses(config.best_metric)
    workers.check_same("configuration and clips", _identity(config, videos))
    fps = videos.fps / config.every_nth
    with strategy.scope():
        gan = build_gan(config, policy=config.precision)
    with workers.chief_first():
        if workers.is_chief:
            run_directory.check_clips(run_dir, config, videos)
            checkpoints.restore_latest(gan, run_dir)
            _check_steps(config, int(gan.step.numpy()))
    workers.copy_from_chief(gan.state)
    start_step = int(gan.step.numpy())
    if start_step >= config.steps:
        if workers.is_chief:
            print(f"{run_dir} is at step {start_step} of {config.steps}. To go on, raise --steps.")
        return 0
    with contextlib.ExitStack() as stack:
        with workers.chief_first():
            if workers.is_chief:
                stack.enter_context(run_directory.claim(run_dir, config, videos, fps))
                print(
                    f"{'going on with' if start_step else 'training'} {run_dir}: steps {start_step + 1} to "
                    f"{config.steps}, {len(videos)} clips, {len(videos.categories)} categories, "
                    f"{strategy.num_replicas_in_sync} replica(s)",
                    flush=True,
                )
        return _fit(gan, config, run_dir, start_step, videos, strategy, workers)


def _fit(gan, config, run_dir, start_step, videos, strategy, workers):
    """Trains to the end or a signal; returns the exit code."""
    stop = callbacks.StopOnSignal(workers)
    listeners = _callbacks(config, run_dir, start_step, videos, gan.sampler.frame_stride, workers.is_chief)
    try:
        gan.fit(
            _batches(videos, config, start_step, strategy, workers.cluster),
            steps_per_epoch=config.steps - start_step,
            shuffle=False,
            verbose=0,
            callbacks=[*listeners, stop],
        )
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" in str(error):  # TensorFlow has one word for a full memory and a full disk.
            raise OSError(f"The disk is full; earlier checkpoints in {run_dir} are kept.") from error
        batches = ("video_batch",) if config.image_discriminator == "none" else ("video_batch", "image_batch")
        raise ValueError(
            f"Out of memory at {', '.join(f'{name}={getattr(config, name)}' for name in batches)}. "
            f"Lower {' or '.join(f'--{name}' for name in batches)}, or --ngf and --ndf."
        ) from error
    finally:
        stop.restore()
    workers.wait()  # Whoever ends first would look like a lost worker to the others.
    if not workers.is_chief:
        return EXIT_CODES[stop.signal]
    if stop.signal is not None:
        print(f"stopped at step {int(gan.step.numpy())}; the same command goes on from there (with --resume=auto)")
    else:
        print(f"done: {run_dir} holds samples/, checkpoints/, log.jsonl and tensorboard/")
    return EXIT_CODES[stop.signal]


def _identity(config, videos):
    """What must be the same on all workers, for `Workers.check_same`; where things lie may differ."""
    fields = {**dataclasses.asdict(config), "data_dir": None, "cache_dir": None}
    return [fields, list(videos.categories), videos.labels.tolist(), videos.lengths.tolist()]


def _check_steps(config, start_step):
    too_many = max(0, config.steps - start_step) % config.steps_per_execution
    if too_many:
        raise ValueError(
            f"The {config.steps - start_step} steps from {start_step} to {config.steps} are no multiple of "
            f"`steps_per_execution`. Received: steps_per_execution={config.steps_per_execution}. "
            f"Set --steps={config.steps - too_many + config.steps_per_execution}."
        )


def _batches(videos, config, start_step, strategy, machines):
    """Batches from a step on. On one machine the strategy splits them; of several, each reads its rows only."""
    if machines.num_workers == 1:
        return training_batches(videos, config, start_step=start_step)
    total = strategy.num_replicas_in_sync
    local = total // machines.num_workers
    replicas = Replicas(first=machines.index * local, local=local, total=total)
    return strategy.distribute_datasets_from_function(
        lambda _: training_batches(videos, config, start_step=start_step, replicas=replicas)
    )


def _callbacks(config, run_dir, start_step, videos, frame_stride, is_chief):
    stop_on_non_finite = callbacks.StopOnNonFinite(run_dir, start_step)  # First: nothing is saved of a step gone wrong.
    if not is_chief:
        return [stop_on_non_finite]
    clips_per_step = config.video_batch
    tensorboard = callbacks.TensorBoardLog(run_dir, start_step, config.log_every)
    return [
        stop_on_non_finite,
        callbacks.JsonLog(run_dir, start_step, config.log_every, clips_per_step),
        callbacks.Progress(start_step, config.steps, config.log_every, clips_per_step),
        # Its thresholds are those of MoCoGAN's losses, and so is its advice.
        *([warnings.BalanceWatch(run_dir, start_step)] if config.model == "mocogan" else []),
        tensorboard,
        callbacks.Samples(
            run_dir,
            start_step,
            config.sample_every,
            video_length=config.video_length,
            fps=videos.fps / config.every_nth,
            seed=config.seed,
            tensorboard=tensorboard,
        ),
        # Last: what leads to a checkpoint is written before it, or a run that goes on from it would lack that.
        callbacks.Checkpoints(
            run_dir,
            start_step,
            config.checkpoint_every,
            {"keep": config.keep_checkpoints, "keep_every": config.keep_every, "best_of": config.best_metric},
            evaluation.Evaluations(
                run_dir,
                start_step,
                config.evaluate_every,
                lambda: Monitor(compared(config, frame_stride), videos, seed=config.seed),
                config.best_metric,
                tensorboard,
            ),
        ),
    ]
