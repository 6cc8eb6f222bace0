"""The motion network R_M, a GRU, and how it starts: its initial weights decide whether untrained clips move."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

PERIODS = (40.0, 14.0)  # Frames per turn of the slowest and the fastest pair of units.
AMPLITUDE = 0.5  # Size of the states at which a pair neither grows nor fades.
NOISE = 0.1  # The weights of the noise, as a part of the usual ones.
GATES = 0.2  # Scale of the recurrent weights of both gates; at 1 the gates would break up the turning.


def motion_network(units: int, update_gate_bias: float, rotating_start: bool) -> layers.GRU:
    """Builds the GRU R_M: from noise `[B, T, ...]` and a first state to states `[B, T, units]` and the last of them.

    Args:
        units: Size of the motion code.
        update_gate_bias, rotating_start: As of `VideoGenerator`.
    """
    return layers.GRU(
        units,
        return_sequences=True,
        return_state=True,
        # XLA cannot compile cuDNN's operation, nor can it be exported, and at ten units it gains nothing.
        use_cudnn=False,
        bias_initializer=gate_bias(units, update_gate_bias),
        kernel_initializer=QuietNoise(units) if rotating_start else "glorot_uniform",
        recurrent_initializer=Rotations(update_gate_bias) if rotating_start else "orthogonal",
        # Full precision under mixed precision: the state is carried over many calls.
        dtype=keras.config.floatx(),
        name="motion",
    )


def gate_bias(units: int, update: float) -> keras.initializers.Initializer:
    """Returns initial biases `[2, 3 * units]` of a GRU: update, reset and candidate parts, for input and for state."""
    biases = np.zeros((2, 3 * units))
    biases[0, :units] = update
    return keras.initializers.Constant(biases)


class QuietNoise(keras.initializers.Initializer):
    """Glorot's initial weights `[inputs, 3 * units]` of a GRU, with those of the noise, the first inputs, made small.

    Args:
        num_noise: How many of the inputs are noise.
    """

    def __init__(self, num_noise: int) -> None:
        self.num_noise = num_noise

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        is_noise = np.arange(shape[0])[:, None] < self.num_noise
        scale = keras.ops.convert_to_tensor(np.where(is_noise, NOISE, 1.0), dtype)
        return keras.initializers.GlorotUniform()(shape, dtype=dtype) * scale


class Rotations(keras.initializers.Initializer):
    """Initial recurrent weights `[units, 3 * units]` of a GRU, with which pairs of units turn about each other.

    A GRU's state becomes `k h + (1 - k) tanh(r h U)`, with the update gate at k and the reset gate at r. With Glorot's
    weights that is a contraction: the state falls into one point, and only the noise moves it. Here a pair's part of U
    turns and enlarges it, so that the pair, taken as a complex number, is multiplied by `exp(2 pi i / period)` in each
    frame: `U = (exp(2 pi i / period) - k) / ((1 - k) r)`, divided by what `tanh` takes away at the amplitude. Larger
    states shrink and smaller ones grow, so the movement stays the same however long a clip is. The pairs' speeds lie
    evenly between those of `PERIODS`. A last single unit keeps its state.

    Args:
        update_gate_bias: Initial bias of the update gate.
    """

    def __init__(self, update_gate_bias: float) -> None:
        self.update_gate_bias = update_gate_bias

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        units = shape[0]
        gates = [keras.initializers.Orthogonal(GATES)((units, units), dtype=dtype) for _ in range(2)]
        candidate = keras.ops.convert_to_tensor(self.candidate(units), dtype)
        return keras.ops.concatenate([*gates, candidate], axis=1)

    def candidate(self, units: int) -> np.ndarray:
        """Returns the candidate's part U, `[units, units]`."""
        keep, reset = 1 / (1 + np.exp(-self.update_gate_bias)), 0.5
        slowest, fastest = 2 * np.pi / np.array(PERIODS)
        weights = np.zeros((units, units))
        for pair, speed in enumerate(np.linspace(slowest, fastest, units // 2)):
            turn = (np.exp(1j * speed) - keep) / (1 - keep)
            gain = _gain(abs(turn)) / (reset * abs(turn))
            both = slice(2 * pair, 2 * pair + 2)
            weights[both, both] = gain * np.array([[turn.real, turn.imag], [-turn.imag, turn.real]])
        if units % 2:
            weights[-1, -1] = _gain(1.0) / reset
        return weights


def _gain(size: float) -> float:
    """Returns g with `tanh(g a) = size a` at the amplitude a; `tanh` cannot go beyond 1, so fast turns stay smaller."""
    return float(np.arctanh(min(size * AMPLITUDE, 0.95)) / AMPLITUDE)
