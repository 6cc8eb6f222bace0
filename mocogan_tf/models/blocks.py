"""What the networks share: sizes, DCGAN's initial weights, normalisation, a generator's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from mocogan_tf import IMAGE_SIZES
from mocogan_tf.latents import CodeSpec, LatentSpec

FUSED_TYPES = (tf.float32, tf.float16, tf.bfloat16)  # The types that TensorFlow's fused batch normalisation takes.
KERNEL = 4  # Width of the convolutions, in space and in time.
SMALLEST_MAP = 4  # Height and width of the smallest feature map of generators and discriminators.
JUDGED_SIZES = (min(IMAGE_SIZES) // 2, *IMAGE_SIZES)  # Clips may be judged at half of their size.


@keras.saving.register_keras_serializable("mocogan_tf")
class Generator(keras.Model):
    """A functional generator that can be rebuilt from the arguments of its constructor.

    Attributes:
        config: These arguments by name.
        latents: The names, shapes and distributions of its inputs.
        frame_stride: Every `frame_stride`-th frame is kept where models are compared.
    """

    config: dict[str, Any]
    latents: LatentSpec | CodeSpec
    frame_stride: int = 1

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, **self.config}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Generator:
        return cls(**config)  # The functional base class would give a plain Model.


def normal_weights(stddev: float = 0.02) -> keras.initializers.Initializer:
    """Returns the initial weights of a convolution, by default N(0, 0.02) (DCGAN, Radford et al. 2016, section 4)."""
    return keras.initializers.RandomNormal(stddev=stddev)


def he_weights() -> keras.initializers.Initializer:
    """Returns initial weights that keep the size of signals through leaky ReLU of 0.2 (He et al. 2015, equation 15)."""
    return keras.initializers.VarianceScaling(2.0 / (1.0 + 0.2**2), "fan_in", "untruncated_normal")


def batch_norm(name: str, synchronized: bool = False, epsilon: float = 1e-5) -> BatchNorm:
    """Returns DCGAN's batch normalisation: momentum 0.9, and a scale that starts at N(1, 0.02)."""
    return BatchNorm(
        momentum=0.9,
        epsilon=epsilon,
        gamma_initializer=keras.initializers.RandomNormal(mean=1.0, stddev=0.02),
        synchronized=synchronized,
        name=name,
    )


@keras.saving.register_keras_serializable("mocogan_tf")
class BatchNorm(keras.layers.BatchNormalization):
    """Keras's batch normalisation of the last axis, trained through TensorFlow's fused operation.

    It computes the same function and the same moving statistics (biased variances) in one pass over the data; Keras
    makes several. Keras's own code runs where replicas share statistics or the operation does not take the type. Shared
    statistics cost one all-reduce in each direction; Keras's cost three.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        channels = inputs.shape[-1]
        if not (training and self.trainable) or self._is_shared() or inputs.dtype not in FUSED_TYPES:
            return super().call(inputs, training=training, mask=mask)
        # On a CPU, oneDNN is fast in half precision only if the channels fill its blocks; else it is four times slower.
        fills_blocks = channels % 16 == 0 or bool(tf.config.list_physical_devices("GPU"))
        dtype = inputs.dtype if fills_blocks else tf.float32
        rows = tf.cast(tf.reshape(inputs, (1, 1, -1, channels)), dtype)
        scale = tf.convert_to_tensor(self.gamma)
        offset = tf.zeros_like(scale) if self.beta is None else tf.convert_to_tensor(self.beta)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=rows, scale=scale, offset=offset, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        # The operation gives the unbiased variance.
        size = tf.cast(tf.size(rows) // channels, variance.dtype)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance * (size - 1) / size)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return tf.cast(tf.reshape(outputs, tf.shape(inputs)), inputs.dtype)

    def _moments(self, inputs: tf.Tensor, mask: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        if not self._is_shared():
            return super()._moments(inputs, mask)
        # All replicas have shares of one size, so the mean of their means is the mean of the batch.
        own = tf.stack([tf.reduce_mean(values, self._reduction_axes) for values in (inputs, tf.square(inputs))])
        mean, mean_square = tf.unstack(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, own))
        return mean, tf.maximum(mean_square - tf.square(mean), 0.0)

    def _is_shared(self) -> bool:
        return self.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1


class SpectralNorm(keras.layers.Wrapper):
    """Divides a convolution's weights by their largest singular value (Miyato et al. 2018, algorithm 1).

    The convolution has no bias. Its output is linear in the weights, so the output is divided and then biased.
    Each call in training makes one power iteration. (Keras's own `SpectralNormalization` overwrites the weights, so no
    gradient passes through the singular value.)

    Args:
        layer: A convolution without a bias, or a Sequential that ends in one.
    """

    def __init__(self, layer: keras.Layer, **kwargs: Any) -> None:
        # The power iteration stays in full precision under mixed precision; the convolution casts for itself.
        super().__init__(layer, autocast=False, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.convolution = self.layer.layers[-1] if isinstance(self.layer, keras.Sequential) else self.layer
        filters = self.convolution.kernel.shape[-1]
        self.bias = self.add_weight(shape=(filters,), initializer="zeros", name="bias")
        self.left = self.add_weight(
            shape=(1, filters),
            initializer=keras.initializers.RandomNormal(),
            trainable=False,
            name="left",
            aggregation="only_first_replica",
        )

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        kernel = ops.reshape(ops.cast(self.convolution.kernel, self.left.dtype), (-1, self.left.shape[-1]))
        fixed = ops.stop_gradient(kernel)
        left = self.left.value
        right = _unit(ops.matmul(left, ops.transpose(fixed)))
        if training:
            left = _unit(ops.matmul(right, fixed))
            self.left.assign(left)
        sigma = ops.sum(ops.matmul(right, kernel) * left)
        y = self.layer(x)
        return y / ops.cast(sigma, y.dtype) + ops.cast(self.bias, y.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)


def _unit(vector: tf.Tensor) -> tf.Tensor:
    return vector / (ops.norm(vector) + 1e-12)


def num_halvings(image_size: int, sizes: Sequence[int] = IMAGE_SIZES) -> int:
    """Returns how often `image_size` is halved until the feature map is 4x4.

    Raises:
        ValueError: `image_size` is not one of `sizes`.
    """
    if image_size not in sizes:
        known = ", ".join(map(str, sizes))
        raise ValueError(f"`image_size` must be one of {known}. Received: image_size={image_size}")
    return (image_size // SMALLEST_MAP).bit_length() - 1
