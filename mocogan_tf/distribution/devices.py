"""The devices of a run: profile and precision that fit them, the distribution strategy, equal shares of a batch."""

from __future__ import annotations

import tensorflow as tf

from mocogan_tf.config import Config
from mocogan_tf.distribution import hardware
from mocogan_tf.distribution.cluster import Cluster


def choose_profile(profile: str) -> str:
    """Replaces `auto` by `paper` if TensorFlow sees a GPU, else by `cpu`; prints which, and why."""
    if profile != "auto":
        return profile
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        print(f"profile: paper ({len(gpus)} GPU(s) visible)")
        return "paper"
    print(f"profile: cpu ({_why_no_gpu()})")
    return "cpu"


def _why_no_gpu() -> str:
    """Says why TensorFlow sees no GPU, and what helps."""
    if hardware.hides_gpus() or not hardware.has_nvidia_gpu():
        return "no GPU visible"
    if not tf.test.is_built_with_cuda():
        missing = "this TensorFlow is built without CUDA"
    else:
        missing = "TensorFlow does not find its CUDA libraries, or nvidia-smi does not list the GPU"
    return (
        f"this machine has an NVIDIA GPU, but {missing}. "
        "To train on it, install the extra `gpu`: pip install 'mocogan-tf[gpu]', or -e '.[gpu]' in a clone"
    )


def choose_precision(precision: str) -> str:
    """Replaces `auto` by what the device computes in; prints which, and why.

    bfloat16 is taken on GPUs of compute capability 8 and on CPUs with AVX512-BF16 or AMX; float16, with loss scaling,
    on GPUs of capability 7; float32 elsewhere.
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
        flags = hardware.cpu_flags()
        chosen = "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & flags else "float32"
        why = "the CPU computes in bfloat16" if chosen == "mixed_bfloat16" else "the CPU has no bfloat16 arithmetic"
    print(f"precision: {chosen} ({why})")
    return chosen


def set_graph_options() -> None:
    """Sets how TensorFlow optimises graphs in this process."""
    # Grappler's remapper gives up on padded 3D convolutions, and prints an error line in every run.
    tf.config.optimizer.set_experimental_options({"remapping": False})


def make_strategy(config: Config, cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Makes the strategy that spreads the steps over devices.

    Alone it is a MirroredStrategy over all GPUs, or over `cpu_devices` virtual CPU devices if there are none. In a
    cluster it is a MultiWorkerMirroredStrategy over the GPUs of all workers, or their CPUs; it waits for all workers.

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
        check_batches(config, cluster.num_workers * max(1, len(gpus)))  # Here: the next call waits for the others.
        print(
            f"worker {cluster.index} of {cluster.num_workers} ({cluster.addresses[cluster.index]}), "
            f"waiting for the others: {', '.join(cluster.addresses)}",
            flush=True,
        )
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    check_batches(config, strategy.num_replicas_in_sync)
    return strategy


def check_batches(config: Config, num_replicas: int) -> None:
    """Raises ValueError unless the global batches divide evenly over the replicas."""
    for name in ("video_batch",) if config.image_discriminator == "none" else ("image_batch", "video_batch"):
        size = getattr(config, name)
        if size % num_replicas:
            raise ValueError(
                f"`{name}` must be divisible by the number of replicas, {num_replicas}. Received: {name}={size}. "
                f"Set --{name}={size + -size % num_replicas}."
            )


def _cpu_devices(number: int) -> list[str]:
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
