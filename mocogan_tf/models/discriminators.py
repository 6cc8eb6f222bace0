"""The discriminators: one judges single frames, the other whole clips and their category.

MoCoGAN (Tulyakov et al. 2018, arXiv 1707.04993). The layers are those of the authors' code at 64x64 and T = 16. Other
sizes have one halving more or fewer; `temporal_plan` adapts the layers to other lengths.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from mocogan_tf.models.blocks import (
    JUDGED_SIZES,
    KERNEL,
    SMALLEST_MAP,
    SpectralNorm,
    batch_norm,
    he_weights,
    normal_weights,
    num_halvings,
)
from mocogan_tf.models.resampling import DownConv2D


def add_noise(x: tf.Tensor, sigma: float, noise: tf.Tensor | None) -> tf.Tensor:
    """Adds Gaussian noise of deviation `sigma` to every value (instance noise, Sonderby et al. 2017).

    Args:
        x: Tensor of any shape.
        sigma: Deviation of the noise; 0 adds none.
        noise: N(0, 1), as `x` in shape and type; None adds none.
    """
    return x if not sigma or noise is None else x + ops.cast(sigma, x.dtype) * noise


def temporal_plan(video_length: int, num_layers: int) -> list[tuple[int, int]]:
    """Decides the kernel and stride in time of the video discriminator's layers.

    A layer has kernel 4 and stride 1, as in the authors' code, as long as four frames are left for the last
    convolution. Layers beyond that do not look along time. Where many more frames would be left, the deepest layers
    have stride 2, so that a logit sees most of the clip; where that would omit the last frame, the kernel is 5.

    Args:
        video_length: T, at least 4.
        num_layers: Layers before the last convolution.

    Returns:
        list of (kernel, stride), one per layer. At T = 16 and four layers: four times (4, 1), 16 -> 13 -> 10 -> 7 -> 4.

    Raises:
        ValueError: `video_length` is below 4.
    """
    if video_length < KERNEL:
        raise ValueError(f"`video_length` must be at least {KERNEL}. Received: video_length={video_length}")
    for num_strided in range(num_layers + 1):
        plan, frames = [], video_length
        for i in range(num_layers):
            stride = 2 if i >= num_layers - num_strided else 1
            kernel = KERNEL + (frames - KERNEL) % stride
            left = (frames - kernel) // stride + 1
            if left < KERNEL:
                plan.append((1, 1))
            else:
                plan.append((kernel, stride))
                frames = left
        if frames < 2 * KERNEL:
            break
    return plan


class _Rebuilt(keras.Model):
    """A network that Keras can rebuild from the arguments of its constructor, all of which have names."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Rebuilt:
        network = super().__new__(cls, *args, **kwargs)
        parameters = inspect.signature(cls.__init__).parameters.values()
        defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
        network._arguments = {**defaults, **kwargs}
        return network

    def get_config(self) -> dict[str, Any]:
        return {**self._arguments, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> _Rebuilt:
        return cls(**config)


class Discriminator(_Rebuilt):
    """A stack of layers: noise, convolution, normalisation (not in the first), leaky ReLU 0.2; then `last`.

    Args:
        convolutions: Layers, each followed by a normalisation.
        last: The layer that gives the logits.
        norm: Makes the normalisation of a name, for all convolutions but the first; None makes none.
        spectral: Whether all layers' weights are divided by their largest singular value.
        noise_sigma: Deviation of the noise before each convolution.
        noise_before_last: Whether `last` gets noise too.
    """

    def __init__(
        self,
        convolutions: list[keras.Layer],
        last: keras.Layer,
        *,
        norm: Callable[[str], keras.Layer] | None = None,
        spectral: bool = False,
        noise_sigma: float = 0.0,
        noise_before_last: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if spectral:
            convolutions = [SpectralNorm(layer, name=layer.name) for layer in convolutions]
            last = SpectralNorm(last, name=last.name)
        self.convolutions = convolutions
        self.norms = [
            norm(f"norm_{i}") if norm is not None and i > 0 else layers.Identity(name=f"norm_{i}")
            for i in range(len(convolutions))
        ]
        self.last = last
        self.noise_sigma = noise_sigma
        self.noise_before_last = noise_before_last

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape, shapes = input_shape, []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            shapes.append(shape)
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            norm.build(shape)
        self.last.build(shape)
        self._noisy_shapes = [tuple(one[1:]) for one in [*shapes, *[shape] * self.noise_before_last]]
        self.built = True

    def draw_noise(self, number: int, seed: tf.Tensor) -> list[tf.Tensor]:
        """Draws the noise before the layers, N(0, 1), for `number` examples; an empty list if they get none.

        It is a function of the seed, int32 `[2]`, so a resumed run repeats it.
        """
        shapes = self._noisy_shapes if self.noise_sigma else []
        return [
            tf.random.stateless_normal(
                (number, *shape), tf.random.experimental.stateless_fold_in(seed, i), dtype=self.compute_dtype
            )
            for i, shape in enumerate(shapes)
        ]

    def features(self, x: tf.Tensor, training: bool | None = None, noise: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """Returns the feature map before the last convolution; `noise` is what `draw_noise` gives, or nothing."""
        before = [*noise] or [None] * (len(self.convolutions) + 1)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = add_noise(x, self.noise_sigma, before[i])
            x = ops.leaky_relu(norm(convolution(x), training=training), negative_slope=0.2)
        if self.noise_before_last:
            x = add_noise(x, self.noise_sigma, before[-1])
        return x


def _normalization(norm: str, sync_batch_norm: bool) -> dict[str, Any]:
    """Returns the arguments of `Discriminator` that "batch", "spectral" or "none" stands for."""
    batch = functools.partial(batch_norm, synchronized=sync_batch_norm)
    return {"norm": batch if norm == "batch" else None, "spectral": norm == "spectral"}


class _FrameDiscriminator(Discriminator):
    """A discriminator of single frames: layers that halve the map, and logits per image."""

    def __init__(
        self,
        num_layers: int,
        last_strides: int,
        last_padding: str,
        *,
        ndf: int,
        norm: str,
        sync_batch_norm: bool,
        name: str | None,
        **kwargs: Any,
    ) -> None:
        shared = {"use_bias": norm == "none", "kernel_initializer": normal_weights()}
        convolutions = [
            layers.Conv2D(ndf * 2**i, KERNEL, strides=2, padding="same", name=f"conv_{i}", **shared)
            for i in range(num_layers)
        ]
        last = layers.Conv2D(1, KERNEL, strides=last_strides, padding=last_padding, name=f"conv_{num_layers}", **shared)
        normalization = _normalization(norm, sync_batch_norm)
        super().__init__(convolutions, last, name=name or "image_discriminator", **normalization, **kwargs)

    def call(self, images: tf.Tensor, training: bool | None = None, noise: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """Returns logits `[B, P]`; `noise` as of `features`."""
        logits = self.last(self.features(images, training=training, noise=noise))
        return ops.reshape(logits, (ops.shape(images)[0], -1))


@keras.saving.register_keras_serializable("mocogan_tf")
class ImageDiscriminator(_FrameDiscriminator):
    """D_I with one logit per image: `[B, H, W, C]` becomes `[B, 1]`.

    At 64x64 it has convolutions of kernel 4 and stride 2 with 1, 2, 4 and 8 times `ndf` filters, leaky ReLU 0.2, and
    batch normalisation in all but the first; the last convolution sees the whole 4x4 map. There are no biases.

    Args:
        ndf: Filters of the first layer.
        image_size: 32, 64 or 128.
        norm: "batch", "spectral" or "none"; without batch normalisation the convolutions have biases.
        noise_sigma: Deviation of the noise before each convolution but the last.
        sync_batch_norm: Share batch statistics between replicas.
    """

    def __init__(
        self,
        *,
        ndf: int = 64,
        image_size: int = 64,
        norm: str = "batch",
        noise_sigma: float = 0.0,
        sync_batch_norm: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            num_halvings(image_size),
            last_strides=1,
            last_padding="valid",
            ndf=ndf,
            norm=norm,
            noise_sigma=noise_sigma,
            sync_batch_norm=sync_batch_norm,
            name=name,
        )


@keras.saving.register_keras_serializable("mocogan_tf")
class PatchImageDiscriminator(_FrameDiscriminator):
    """D_I with one logit per patch: `[B, H, W, C]` becomes `[B, P]`, 4x4 patches at every size.

    It is `ImageDiscriminator` with one layer fewer; its last convolution has stride 2 and gets noise too.

    Args:
        ndf: Filters of the first layer.
        image_size: 32, 64 or 128.
        norm: "batch", "spectral" or "none"; without batch normalisation the convolutions have biases.
        noise_sigma: Deviation of the noise before each convolution.
        sync_batch_norm: Share batch statistics between replicas.
    """

    def __init__(
        self,
        *,
        ndf: int = 64,
        image_size: int = 64,
        norm: str = "batch",
        noise_sigma: float = 0.0,
        sync_batch_norm: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            num_halvings(image_size) - 1,
            last_strides=2,
            last_padding="same",
            ndf=ndf,
            norm=norm,
            noise_sigma=noise_sigma,
            noise_before_last=True,
            sync_batch_norm=sync_batch_norm,
            name=name,
        )


@keras.saving.register_keras_serializable("mocogan_tf")
class BatchDeviation(layers.Layer):
    """Tells a map how much its batch varies: one number, times a weight per channel, added everywhere.

    The number is the deviation over the batch, averaged over places and channels (minibatch standard deviation, Karras
    et al. 2018, section 3). Their network convolves it as one more channel of the map. A constant channel only adds a
    number per filter; these numbers are learnt here, and no map gets an odd number of channels.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(
            shape=(self.filters,), initializer=keras.initializers.RandomNormal(), name="kernel"
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the numbers `[filters]` that are added to the successor of a map `[N, H, W, C]`."""
        variance = ops.var(ops.cast(x, keras.config.floatx()), axis=0)
        deviation = ops.mean(ops.sqrt(variance + 1e-8))
        return ops.cast(deviation * ops.cast(self.kernel, deviation.dtype), x.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int]:
        return (self.filters,)


@keras.saving.register_keras_serializable("mocogan_tf")
class FineImageDiscriminator(_Rebuilt):
    """D_I with an eye for texture and one logit per image: `[B, H, W, C]` becomes `[B, 1]`.

    It begins with a 3x3 convolution at full resolution with half of `ndf` filters. The rest is `ImageDiscriminator`,
    but each halving is low-passed (`DownConv2D`), weights start as He's, and there is no normalisation. The last layer
    but one is also told how much the batch varies (`BatchDeviation`).

    Args:
        ndf: Filters at half the resolution.
        image_size: 32, 64 or 128.
    """

    def __init__(self, *, ndf: int = 64, image_size: int = 64, name: str | None = None) -> None:
        super().__init__(name=name or "image_discriminator")
        halvings = num_halvings(image_size)
        self.first = layers.Conv2D(
            max(ndf // 2, 1), 3, padding="same", kernel_initializer=he_weights(), name="conv_full"
        )
        self.convolutions = [DownConv2D(ndf * 2**i, use_bias=True, name=f"conv_{i}") for i in range(halvings)]
        self.deviation = BatchDeviation(ndf * 2 ** (halvings - 1), name="deviation")
        self.last = layers.Conv2D(1, SMALLEST_MAP, kernel_initializer=he_weights(), name=f"conv_{halvings}")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = input_shape
        for convolution in (self.first, *self.convolutions):
            if convolution is self.convolutions[-1]:
                self.deviation.build(shape)
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
        self.last.build(shape)
        self.built = True

    def draw_noise(self, number: int, seed: tf.Tensor) -> list[tf.Tensor]:
        """Draws nothing: it has no noise."""
        return []

    def call(self, images: tf.Tensor, training: bool | None = None, noise: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """Returns logits `[B, 1]`."""
        del training, noise  # It has neither normalisation nor noise.
        x = ops.cast(images, self.compute_dtype)
        for convolution in (self.first, *self.convolutions[:-1]):
            x = ops.leaky_relu(convolution(x), negative_slope=0.2)
        x = ops.leaky_relu(self.convolutions[-1](x) + self.deviation(x), negative_slope=0.2)
        return ops.reshape(self.last(x), (ops.shape(images)[0], -1))


@keras.saving.register_keras_serializable("mocogan_tf")
class VideoDiscriminator(Discriminator):
    """D_V tells real from generated clips and names the category: `[B, T, H, W, C]` becomes `[B, P]` and `[B, P, K]`.

    At 64x64 and T = 16 it has 3D convolutions with 1, 2, 4 and 8 times `ndf` filters, kernel 4, stride 1 in time (no
    padding) and 2 in space, leaky ReLU 0.2, and batch normalisation in all but the first. The last, 4x4x4, gives one
    real-or-fake logit and `dim_category` class logits from the same features. There are no biases. P, the number of
    patches in time, is 1.

    Args:
        ndf: Filters of the first layer.
        image_size: 16, 32, 64 or 128.
        video_length: T, at least 4.
        dim_category: Number of categories K, 0 for none.
        conditional: Whether the real-or-fake logit is that of a given category: the last layer then also gives a number
            per category, and that of the clip's own is added (a projection, Miyato and Koyama 2018, equation 3).
        norm: "batch", "spectral" or "none"; without batch normalisation the convolutions have biases.
        noise_sigma: Deviation of the noise before each convolution but the last.
        sync_batch_norm: Share batch statistics between replicas.
        he_start: Start from He's weights. Without normalisation those of N(0, 0.02) let little of a clip through: of 24
            filters, a fourth (He: all).
    """

    def __init__(
        self,
        *,
        ndf: int = 64,
        image_size: int = 64,
        video_length: int = 16,
        dim_category: int = 0,
        conditional: bool = False,
        norm: str = "batch",
        noise_sigma: float = 0.0,
        sync_batch_norm: bool = False,
        he_start: bool = False,
        name: str | None = None,
    ) -> None:
        use_bias = norm == "none"
        make_weights = he_weights if he_start else normal_weights
        halvings = num_halvings(image_size, JUDGED_SIZES)
        convolutions = [
            keras.Sequential(
                [
                    layers.ZeroPadding3D((0, 1, 1), name="pad"),  # In space only.
                    layers.Conv3D(
                        ndf * 2**i,
                        (kernel, KERNEL, KERNEL),
                        strides=(stride, 2, 2),
                        use_bias=use_bias,
                        kernel_initializer=make_weights(),
                        name="conv",
                    ),
                ],
                name=f"conv_{i}",
            )
            for i, (kernel, stride) in enumerate(temporal_plan(video_length, halvings))
        ]
        last = layers.Conv3D(
            1 + dim_category * (1 + conditional),
            (KERNEL, SMALLEST_MAP, SMALLEST_MAP),
            use_bias=use_bias,
            kernel_initializer=make_weights(),
            name=f"conv_{halvings}",
        )
        super().__init__(
            convolutions,
            last,
            **_normalization(norm, sync_batch_norm),
            noise_sigma=noise_sigma,
            name=name or "video_discriminator",
        )
        self.dim_category = dim_category
        self.conditional = conditional
        self.video_length = video_length

    def call(
        self,
        videos: tf.Tensor,
        training: bool | None = None,
        noise: Sequence[tf.Tensor] = (),
        category: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `(logits [B, P], class_logits [B, P, K])`; `noise` as of `features`.

        A conditional one takes the clips' categories, one-hot `[B, K]`. Without them its logits are of no category.
        """
        outputs = self.last(self.features(videos, training=training, noise=noise))
        outputs = ops.reshape(outputs, (ops.shape(videos)[0], -1, outputs.shape[-1]))
        logits, classes, of_category = ops.split(outputs, (1, 1 + self.dim_category), axis=-1)
        logits = logits[..., 0]
        if self.conditional and category is not None:
            logits += ops.sum(ops.cast(category, of_category.dtype)[:, None] * of_category, axis=-1)
        return logits, classes
