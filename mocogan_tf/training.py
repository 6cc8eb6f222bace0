"""Training a run from a configuration: devices, precision, networks, the run directory. What `train.py` calls."""

import contextlib
import dataclasses
import pathlib
import signal

import keras
import tensorflow as tf

from mocogan_tf import callbacks, checkpoints, run_directory
from mocogan_tf.data.pipeline import training_batches
from mocogan_tf.data.registry import open_videos
from mocogan_tf.gan import MoCoGAN
from mocogan_tf.models.discriminators import ImageDiscriminator, PatchImageDiscriminator, VideoDiscriminator
from mocogan_tf.models.generator import VideoGenerator

EXIT_CODES = {None: 0, signal.SIGINT: 130, signal.SIGTERM: 143}  # By the signal that ended training.


def choose_profile(profile):
    """Settles `auto`: `paper` where a GPU is visible, `cpu` elsewhere; says which and why."""
    if profile != "auto":
        return profile
    gpus = tf.config.list_physical_devices("GPU")
    chosen = "paper" if gpus else "cpu"
    print(f"profile: {chosen} ({len(gpus)} GPU(s) visible)" if gpus else f"profile: {chosen} (no GPU visible)")
    return chosen


def choose_precision(precision):
    """Settles `auto` by the device, and says which and why.

    Half precision is taken where the hardware computes in it: bfloat16 on GPUs of compute capability 8 and on CPUs with
    AVX512-BF16 or AMX; float16, with loss scaling, on GPUs of capability 7; float32 elsewhere.
    """
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = min(
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus
        )
        names = {8: "mixed_bfloat16", 7: "mixed_float16"}
        chosen = next((name for least, name in names.items() if capability[0] >= least), "float32")
        why = f"GPU of compute capability {'.'.join(map(str, capability))}"
    else:
        flags = _cpu_flags()
        chosen = "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & flags else "float32"
        why = "the CPU computes in bfloat16" if chosen == "mixed_bfloat16" else "the CPU has no bfloat16 arithmetic"
    print(f"precision: {chosen} ({why})")
    return chosen


def _cpu_flags():
    """The processor's feature flags; none where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split())
    return set()


def make_strategy(config):
    """Makes a MirroredStrategy over all GPUs, or over `cpu_devices` virtual CPU devices where there is none.

    Raises:
        ValueError: A batch is not divisible by the replicas, or TensorFlow has started with other devices.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and config.cpu_devices > 1:
        raise ValueError(
            f"`cpu_devices` is for machines without a GPU; this one has {len(gpus)}, which are used. "
            f"Received: cpu_devices={config.cpu_devices}. To train on the CPU, set CUDA_VISIBLE_DEVICES=-1."
        )
    strategy = tf.distribute.MirroredStrategy(None if gpus else _cpu_devices(config.cpu_devices))
    check_batches(config, strategy)
    return strategy


def check_batches(config, strategy):
    """Raises ValueError unless the global batches divide evenly over the strategy's replicas."""
    replicas = strategy.num_replicas_in_sync
    for name in ("image_batch", "video_batch"):
        size = getattr(config, name)
        if size % replicas:
            raise ValueError(
                f"`{name}` must be divisible by the number of replicas, {replicas}. Received: {name}={size}. "
                f"Set --{name}={size + -size % replicas}."
            )


def _cpu_devices(number):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if number > 1:
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
        except RuntimeError as error:
            raise ValueError("`cpu_devices` must be set before TensorFlow is first used in this process.") from error
    available = len(tf.config.list_logical_devices("CPU"))
    if available < number:
        raise ValueError(f"`cpu_devices` is {number}, but TensorFlow has started with {available}.")
    return [f"CPU:{i}" for i in range(number)]


def build_generator(config, name="generator", sync_batch_norm=False):
    """Builds the generator of a resolved configuration."""
    return VideoGenerator(
        dim_content=config.dim_content,
        dim_motion=config.dim_motion,
        dim_category=config.dim_category,
        category_to=config.category_to,
        ngf=config.ngf,
        image_size=config.image_size,
        channels=config.channels,
        sync_batch_norm=sync_batch_norm,
        name=name,
    )


@contextlib.contextmanager
def _dtype_policy(policy):
    """Sets Keras's global policy, which layers take when they are made, for a while; None leaves it."""
    before = keras.config.dtype_policy()
    try:
        if policy is not None:
            keras.config.set_dtype_policy(policy)
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_gan(config, policy=None):
    """Builds and compiles the networks of a resolved configuration, in the current strategy.

    Args:
        config: `Config`.
        policy: Keras's dtype policy of the networks; None takes the global one.
    """
    with _dtype_policy(policy):
        return _build_gan(config)


def _build_gan(config):
    sync = config.sync_batch_norm and tf.distribute.get_strategy().num_replicas_in_sync > 1
    shared = {
        "ndf": config.ndf,
        "image_size": config.image_size,
        "norm": config.discriminator_norm,
        "noise_sigma": config.noise_sigma,
        "sync_batch_norm": sync,
    }
    image_discriminators = {"patch": PatchImageDiscriminator, "full": ImageDiscriminator, "none": None}
    make_image_discriminator = image_discriminators[config.image_discriminator]
    frame = (config.image_size, config.image_size, config.channels)
    image_discriminator = None
    if make_image_discriminator is not None:
        image_discriminator = make_image_discriminator(**shared)
        image_discriminator.build((None, *frame))
    video_discriminator = VideoDiscriminator(
        video_length=config.video_length, dim_category=config.dim_category, **shared
    )
    video_discriminator.build((None, config.video_length, *frame))
    gan = MoCoGAN(
        generator=build_generator(config, "generator", sync),
        average=build_generator(config, "average") if config.ema_decay else None,
        image_discriminator=image_discriminator,
        video_discriminator=video_discriminator,
        seed=config.seed,
        category_loss=config.category_loss,
        category_weight=config.category_weight,
        r1_image=config.r1_image,
        r1_video=config.r1_video,
        r1_every=config.r1_every,
        weight_decay=config.weight_decay if config.weight_decay_mode == "coupled" else 0.0,
        ema_decay=config.ema_decay,
    )
    gan.compile(
        g_optimizer=_optimizer(config, config.learning_rate),
        d_image_optimizer=_optimizer(config, config.learning_rate_d) if image_discriminator is not None else None,
        d_video_optimizer=_optimizer(config, config.learning_rate_d),
        jit_compile=_jit_compile(config),
        steps_per_execution=config.steps_per_execution,
    )
    return gan


def _jit_compile(config):
    """Whether XLA compiles the step. It cannot where replicas write each other's variables, as the average's are."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if config.jit_compile == "on" and replicas > 1:
        raise ValueError(f"`jit_compile=on` works on one device only; this run has {replicas}. Set --jit_compile=off.")
    on_one_gpu = replicas == 1 and bool(tf.config.list_physical_devices("GPU"))
    return {"on": True, "off": False, "auto": on_one_gpu}[config.jit_compile]


def _optimizer(config, learning_rate):
    """Adam, with the decoupled weight decay if that is chosen; in float16 with a loss scale of its own."""
    decoupled = config.weight_decay if config.weight_decay and config.weight_decay_mode == "decoupled" else None
    adam = keras.optimizers.Adam(learning_rate, config.beta_1, config.beta_2, epsilon=1e-8, weight_decay=decoupled)
    return keras.optimizers.LossScaleOptimizer(adam) if config.precision == "mixed_float16" else adam


def describe(config, gan, batch_shapes):
    """Returns what `--dry_run` prints: the configuration, parameter counts, and one batch's shapes."""
    networks = {
        "generator": gan.generator,
        "image discriminator": gan.image_discriminator,
        "video discriminator": gan.video_discriminator,
    }
    counts = [
        f"{name}: {sum(int(tf.size(v.value)) for v in network.trainable_variables):,} parameters"
        for name, network in networks.items()
        if network is not None
    ]
    shapes = [f"{name}: {' x '.join(map(str, shape))}" for name, shape in batch_shapes.items()]
    return "\n".join([config.to_json().rstrip(), *counts, *shapes])


def dry_run(config):
    """Prints what a run would be, without writing one: configuration, parameter counts, one batch's shapes."""
    config = dataclasses.replace(config, precision=choose_precision(config.precision))
    videos = open_videos(config, few=8)  # The set need not be whole for this.
    config = config.resolve_categories(len(videos.categories))
    with make_strategy(config).scope():
        gan = build_gan(config)
    batch = next(iter(training_batches(videos, config)))
    print(describe(config, gan, {name: tuple(value.shape) for name, value in batch.items()}))


def train(config, run_dir, resume="auto"):
    """Trains a run, or goes on with one.

    Args:
        config: `Config`; what follows from data and device may still be open in it.
        run_dir: Folder of the run; made if missing.
        resume: "auto" goes on where there is a run, "never" refuses to, "must" insists on it.

    Returns:
        Exit code: 0 when all steps are done, 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint saved.

    Raises:
        ValueError: Clips, configuration or run directory do not fit.
        FloatingPointError: A loss is not finite.
    """
    config = dataclasses.replace(config, precision=choose_precision(config.precision))
    run_directory.check(run_dir, config, resume)
    keras.utils.set_random_seed(config.seed)
    # Grappler's remapper gives up on padded 3D convolutions, with an error line in every run; without it, no line.
    tf.config.optimizer.set_experimental_options({"remapping": False})
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(config)
    videos = open_videos(config)
    config = config.resolve_categories(len(videos.categories))
    fps = videos.fps / config.every_nth
    with strategy.scope():
        gan = build_gan(config, policy=config.precision)
    start_step = checkpoints.restore_latest(gan, run_dir) or 0
    if start_step >= config.steps:
        print(f"{run_dir} is at step {start_step} of {config.steps}. To go on, raise --steps.")
        return 0
    too_many = (config.steps - start_step) % config.steps_per_execution
    if too_many:
        raise ValueError(
            f"The {config.steps - start_step} steps from {start_step} to {config.steps} are no multiple of "
            f"`steps_per_execution`. Received: steps_per_execution={config.steps_per_execution}. "
            f"Set --steps={config.steps - too_many + config.steps_per_execution}."
        )
    run_directory.claim(run_dir, config, videos, fps)
    print(
        f"{'going on with' if start_step else 'training'} {run_dir}: steps {start_step + 1} to {config.steps}, "
        f"{len(videos)} clips, {len(videos.categories)} categories, {strategy.num_replicas_in_sync} replica(s)",
        flush=True,
    )
    stop = callbacks.StopOnSignal()
    try:
        gan.fit(
            training_batches(videos, config, start_step=start_step),
            steps_per_epoch=config.steps - start_step,
            shuffle=False,
            verbose=0,
            callbacks=[*_callbacks(config, run_dir, start_step, fps), stop],
        )
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" in str(error):  # TensorFlow has one word for a full memory and a full disk.
            raise OSError(f"The disk is full; earlier checkpoints in {run_dir} are kept.") from error
        raise ValueError(
            f"Out of memory at video_batch={config.video_batch}, image_batch={config.image_batch}. "
            "Lower --video_batch or --image_batch, or --ngf and --ndf."
        ) from error
    if stop.signal is not None:
        print(f"stopped at step {int(gan.step.numpy())}; the same command goes on from there (with --resume=auto)")
    else:
        print(f"done: {run_dir} holds samples/, checkpoints/, log.jsonl and tensorboard/")
    return EXIT_CODES[stop.signal]


def _callbacks(config, run_dir, start_step, fps):
    clips_per_step = config.video_batch
    tensorboard = callbacks.TensorBoardLog(run_dir, start_step, config.log_every)
    return [
        callbacks.StopOnNonFinite(run_dir, start_step),  # First: nothing is saved of a step that went wrong.
        callbacks.JsonLog(run_dir, start_step, config.log_every, clips_per_step),
        callbacks.Progress(start_step, config.steps, config.log_every, clips_per_step),
        callbacks.Checkpoints(run_dir, start_step, config.checkpoint_every, config.keep_checkpoints),
        callbacks.Samples(
            run_dir,
            start_step,
            config.sample_every,
            num_frames=config.video_length,
            fps=fps,
            seed=config.seed,
            tensorboard=tensorboard,
        ),
        tensorboard,
    ]
