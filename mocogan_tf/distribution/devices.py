"""What a run computes on: profile and precision by what there is, the distribution strategy, equal shares."""

import contextlib
import pathlib

import tensorflow as tf


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


def set_graph_options():
    """Sets how TensorFlow optimises graphs in this process."""
    # Grappler's remapper gives up on padded 3D convolutions, with an error line in every run; without it, no line.
    tf.config.optimizer.set_experimental_options({"remapping": False})


def make_strategy(config, cluster=None):
    """Makes the strategy that spreads the steps over devices.

    A MirroredStrategy over all GPUs, or over `cpu_devices` virtual CPU devices where there is none. In a cluster a
    MultiWorkerMirroredStrategy over all GPUs of all workers, or over their CPUs; it waits for them all.

    Args:
        config: `Config`.
        cluster: `Cluster`; None is a cluster of one.

    Raises:
        ValueError: A batch is not divisible by the replicas, or TensorFlow has started with other devices.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and config.cpu_devices > 1:
        raise ValueError(
            f"`cpu_devices` is for machines without a GPU; this one has {len(gpus)}, which are used. "
            f"Received: cpu_devices={config.cpu_devices}. To train on the CPU, set CUDA_VISIBLE_DEVICES=-1."
        )
    if cluster is None or cluster.num_workers == 1:
        strategy = tf.distribute.MirroredStrategy(None if gpus else _cpu_devices(config.cpu_devices))
    else:
        if config.cpu_devices > 1:
            raise ValueError(
                "With TF_CONFIG a worker without a GPU is one device; start more workers instead. "
                f"Received: cpu_devices={config.cpu_devices}. Set --cpu_devices=1."
            )
        check_batches(config, cluster.num_workers * max(1, len(gpus)))  # Before waiting for the others.
        print(
            f"worker {cluster.index} of {cluster.num_workers} ({cluster.addresses[cluster.index]}), "
            f"waiting for the others: {', '.join(cluster.addresses)}",
            flush=True,
        )
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    check_batches(config, strategy.num_replicas_in_sync)
    return strategy


def check_batches(config, num_replicas):
    """Raises ValueError unless the global batches divide evenly over the replicas."""
    for name in ("video_batch",) if config.image_discriminator == "none" else ("image_batch", "video_batch"):
        size = getattr(config, name)
        if size % num_replicas:
            raise ValueError(
                f"`{name}` must be divisible by the number of replicas, {num_replicas}. Received: {name}={size}. "
                f"Set --{name}={size + -size % num_replicas}."
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
