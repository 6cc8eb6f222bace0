"""Convolutions that double or halve a map with a low-pass filter of the map fused into their kernel.

A plain convolution of stride 2 lets patterns of period 2 through, up as down: in pictures they are rasters (Odena et
al. 2016), in a discriminator they are frequencies that it takes for others (Schwarz et al. 2021, "On the frequency bias
of generative models"). A filter before halving, or after doubling, ends that (Zhang 2019, "Making convolutional
networks shift-invariant again"). Filter and convolution are both linear, so one kernel does both: a 3x3 kernel and a
filter of 2 or 4 values a side make one of 4x4 or 6x6, and no map of the size between is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from mocogan_tf.models.blocks import he_weights, normal_weights

KERNEL = 3  # Height and width of the kernel that is learnt.
BOX = (1.0, 1.0)  # Nearest neighbours on the way up, the mean of 2x2 on the way down (Karras et al. 2018).
SMOOTH = (1.0, 3.0, 3.0, 1.0)  # Bilinear on the way up (Karras et al. 2020).


def fused_kernel(kernel: tf.Tensor, low_pass: Sequence[float]) -> tf.Tensor:
    """Convolves a kernel with a separable filter.

    Args:
        kernel: `[K, K, I, O]`.
        low_pass: L numbers, the filter along each axis.

    Returns:
        Tensor `[K + L - 1, K + L - 1, I, O]`.
    """
    for axis in (0, 1):
        last = len(low_pass) - 1
        shifted = (
            weight * tf.pad(kernel, [[i, last - i] if other == axis else [0, 0] for other in range(4)])
            for i, weight in enumerate(low_pass)
        )
        kernel = sum(shifted)
    return kernel


class _FusedConv2D(layers.Layer):
    """The base of both convolutions: a kernel `[3, 3, in, filters]` and a filter whose weights sum to `gain`."""

    gain = 1.0

    def __init__(self, filters: int, low_pass: Sequence[float] = BOX, use_bias: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(low_pass) % 2:
            raise ValueError(f"`low_pass` must have an even number of weights. Received: {low_pass}")
        self.filters, self.use_bias = filters, use_bias
        self.low_pass = tuple(float(weight) for weight in low_pass)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (KERNEL, KERNEL, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.weights_at_start(), name="kernel")
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def whole_kernel(self, dtype: Any = None) -> tf.Tensor:
        """Returns kernel and filter in one, `[2 + L, 2 + L, in, filters]`."""
        low_pass = np.array(self.low_pass) * self.gain / sum(self.low_pass)
        # In full precision: a filter of rounded weights would let a raster through again.
        return tf.cast(fused_kernel(tf.convert_to_tensor(self.kernel), low_pass.tolist()), dtype or self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "low_pass": list(self.low_pass),
            "use_bias": self.use_bias,
        }

    def _shifted(self, x: tf.Tensor) -> tf.Tensor:
        return x + tf.cast(self.bias, x.dtype) if self.use_bias else x


@keras.saving.register_keras_serializable("mocogan_tf")
class UpConv2D(_FusedConv2D):
    """Doubles a map, then filters it, then convolves it with a 3x3 kernel: `[N, H, W, C]` to `[N, 2H, 2W, filters]`.

    Args:
        filters: Channels of the result.
        low_pass: The filter along each axis, an even number of weights; only their proportions matter.
        use_bias: Whether a number per channel is added.
    """

    gain = 2.0  # Along an axis every second value is a zero that doubling put there.

    def weights_at_start(self) -> keras.initializers.Initializer:
        """Returns DCGAN's initial weights."""
        return normal_weights()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel = tf.transpose(self.whole_kernel(x.dtype), (0, 1, 3, 2))
        height, width = 2 * x.shape[1], 2 * x.shape[2]
        y = tf.nn.conv2d_transpose(x, kernel, (tf.shape(x)[0], height, width, self.filters), 2, "SAME")
        return self._shifted(tf.ensure_shape(y, (x.shape[0], height, width, self.filters)))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        number, height, width, _ = input_shape
        return number, 2 * height, 2 * width, self.filters


@keras.saving.register_keras_serializable("mocogan_tf")
class DownConv2D(_FusedConv2D):
    """Convolves a map with a 3x3 kernel, filters it, and keeps every second value: `[N, H/2, W/2, filters]`.

    Args:
        filters: Channels of the result.
        low_pass: The filter along each axis, an even number of weights; only their proportions matter.
        use_bias: Whether a number per channel is added.
    """

    def weights_at_start(self) -> keras.initializers.Initializer:
        """Returns He's initial weights."""
        return he_weights()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self._shifted(tf.nn.conv2d(x, self.whole_kernel(x.dtype), 2, "SAME"))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        number, height, width, _ = input_shape
        return number, height // 2, width // 2, self.filters
