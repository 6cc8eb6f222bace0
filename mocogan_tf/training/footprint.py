"""What a run takes, as far as it can be counted: variables, bytes between devices, disk. For `--dry_run`.

Activations are not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from mocogan_tf.config import Config

# Bytes of a pixel in a sample's film (WebP and GIF) and strip (PNG), of a log line and of a curve's point. Rounded up
# from a run on the Tai-Chi clips.
_WEBP, _GIF, _PNG = 0.8, 0.75, 2.0
_LOG_LINE, _CURVE_POINT, _NUM_SCALARS = 320, 90, 8


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of the variables that every device holds.

    Args:
        weights: Of the trained networks.
        average: Of the generator's moving average.
        optimizers: State of the optimizers, such as Adam's moments.
    """

    weights: int
    average: int
    optimizers: int

    @property
    def total(self) -> int:
        """Bytes of all variables."""
        return self.weights + self.average + self.optimizers


def memory(gan: Any) -> Memory:
    """Counts the variables of a compiled `AdversarialModel`."""
    average = variable_bytes(gan.average.weights) if gan.average is not None else 0
    return Memory(
        weights=variable_bytes(gan.weights) - average,
        average=average,
        optimizers=sum(variable_bytes(optimizer.variables) for optimizer in gan.optimizers),
    )


def variable_bytes(variables: Iterable[Any]) -> int:
    """Bytes of variables."""
    return sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in variables)


def gradient_bytes(gan: Any) -> int:
    """Bytes that one device sends to the others per step: the gradients of every network, once."""
    return sum(variable_bytes(network.trainable_variables) for network in gan.networks.values())


@dataclasses.dataclass(frozen=True)
class Disk:
    """Bytes of a run directory.

    Args:
        checkpoint: One checkpoint.
        kept: The most checkpoints there are at once, including the best one and the one being written.
        growth: What 1,000 steps add: checkpoints that are kept for good, samples, logs and curves.
    """

    checkpoint: int
    kept: int
    growth: int


def disk(config: Config, checkpoint_bytes: int) -> Disk:
    """Estimates the size of the run directory.

    Args:
        config: Resolved `Config`.
        checkpoint_bytes: Of all variables that a checkpoint holds.
    """
    for_good = checkpoint_bytes * 1000 / config.keep_every if config.keep_every else 0
    motions = min(max(4, config.dim_category), 8)
    pixels = 4 * motions * config.video_length * config.image_size**2
    sample = pixels * (4 * _WEBP + _GIF + _PNG)  # The WebP is twice as high and wide.
    lines = _LOG_LINE + _NUM_SCALARS * _CURVE_POINT
    growth = for_good + 1000 / config.sample_every * sample + 1000 / config.log_every * lines
    return Disk(int(checkpoint_bytes), config.keep_checkpoints + 1 + bool(config.evaluate_every), int(growth))


def describe(config: Config, gan: Any, num_replicas: int) -> list[str]:
    """Returns lines about what a run takes.

    Args:
        config: Resolved `Config`, precision included.
        gan: Its `AdversarialModel`.
        num_replicas: Devices of all machines.
    """
    needed, room = memory(gan), disk(config, variable_bytes(gan.state))
    lines = [
        f"variables on each device: {in_words(needed.total)} ({in_words(needed.weights)} weights, "
        f"{in_words(needed.average)} moving average, {in_words(needed.optimizers)} optimizers); activations "
        "come on top and grow with the batches",
        f"disk: at most {room.kept} checkpoints of {in_words(room.checkpoint)} at once"
        + (", besides those of --keep_every" if config.keep_every else "")
        + f"; {in_words(room.growth)} more per 1,000 steps",
    ]
    if num_replicas > 1:
        sent = gradient_bytes(gan)
        lines.append(f"between devices: {in_words(sent)} of gradients per step are summed over {num_replicas}")
    return lines


def in_words(number: float) -> str:
    """Returns a number of bytes as people read it: 1,234 is "1.23 kB"."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
