"""Image decoders, from a frame's code to its pixels: MoCoGAN's G_I, a finer one, and a still background's."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers, ops

from mocogan_tf.models.blocks import KERNEL, SMALLEST_MAP, batch_norm, normal_weights, num_halvings
from mocogan_tf.models.encoder import ContentLayout
from mocogan_tf.models.resampling import BOX, SMOOTH, UpConv2D


def frame_decoder(
    dim_z: int,
    ngf: int,
    image_size: int,
    channels: int,
    sync_batch_norm: bool = False,
    dim_modulating: int = 0,
    modulate_from: int = SMALLEST_MAP,
) -> keras.Model:
    """Builds the image decoder G_I.

    At 64x64 the transposed convolutions have 8, 4, 2 and 1 times `ngf` filters and then `channels`, kernel 4 and no
    biases. The first goes from 1x1 to 4x4, each of the others doubles the size. Batch normalisation and ReLU follow all
    but the last, which ends in tanh. A size of 32 has one doubling fewer, 128 one more.

    Args:
        dim_z: Size of a frame's whole code.
        ngf: Filters of the last hidden layer.
        image_size: 32, 64 or 128.
        channels: Colour channels of a frame.
        sync_batch_norm: Share batch statistics between replicas.
        dim_modulating: How many of the code's first values also scale the channels of hidden layers, by a linear map
            plus 1 after their normalisation (self-modulation, Chen et al. 2019, arXiv 1810.01365, without their
            offset). The scales are the same everywhere in a frame. 0: none do.
        modulate_from: Height of the smallest maps that are scaled. Coarse maps decide on the pose; those below this
            height serve every content alike.

    Returns:
        keras.Model from `[N, dim_z]` to float32 `[N, H, W, C]` in [-1, 1].
    """
    doublings = num_halvings(image_size)
    codes = keras.Input((dim_z,), name="codes")
    x = layers.Reshape((1, 1, dim_z), name="to_map")(codes)
    for i in range(doublings):
        filters = ngf * 2 ** (doublings - 1 - i)
        strides, padding = (1, "valid") if i == 0 else (2, "same")
        x = _conv_transpose(filters, strides, padding, name=f"conv_{i}")(x)
        x = batch_norm(f"norm_{i}", sync_batch_norm)(x)
        if dim_modulating and x.shape[1] >= modulate_from:
            x = layers.Multiply(name=f"modulated_{i}")([x, _gains(codes[:, :dim_modulating], filters, i)])
        x = layers.ReLU(name=f"relu_{i}")(x)
    x = _conv_transpose(channels, 2, "same", name=f"conv_{doublings}")(x)
    frames = layers.Activation("tanh", dtype=keras.config.floatx(), name="tanh")(x)
    return keras.Model(codes, frames, name="decoder")


def fine_decoder(
    dim_z: int,
    ngf: int,
    image_size: int,
    channels: int,
    sync_batch_norm: bool = False,
    dim_modulating: int = 0,
    modulate_from: int = SMALLEST_MAP,
    with_mask: bool = False,
    palette: int = 0,
    layout: ContentLayout | None = None,
) -> tuple[keras.Model, keras.Model]:
    """Builds an image decoder that draws at full resolution, and its shorter form for half of it.

    It is `frame_decoder` with low-passed doublings (`UpConv2D`): a box filter in the coarse layers, a smooth one in the
    last two, whose rasters would be visible. Every map gives a picture of its size; the pictures are summed, each
    doubled bilinearly to the next (Karras et al. 2020, section 4.1). The sum of all but the last is a picture of half
    the size. Two more layers work at full size, with `ngf` and half as many filters. Their picture adds detail only:
    the part that half the size could hold is subtracted, as from a level of a Laplacian pyramid. So both sizes have the
    same colours, and a judge of movement may see the smaller one only.

    Args:
        dim_z, ngf, image_size, channels, sync_batch_norm, dim_modulating, modulate_from: As of `frame_decoder`; `ngf`
            are the filters at half the size.
        with_mask: Whether a mask is drawn too, as a last channel in [0, 1].
        palette: The number of colours that a clip is mixed from, 0 for any. The colours are a function of the code's
            first `dim_modulating` values alone; for every pixel the layers draw how much of each there is (a softmax).
            So what is fixed over a clip decides on colours, and what moves can only decide where they are.
        layout: The parts of codes that begin with an encoded picture: the first layer sees `layout.coarse`, and only
            the code, of `dim_modulating` values, scales channels. None: the first layer sees all.

    Returns:
        Two keras.Models on the same weights, from `[N, dim_z]` to float32 `[N, H, W, C]` and `[N, H/2, W/2, C]`, with a
        channel more `with_mask`.
    """
    doublings = num_halvings(image_size)
    planes = (palette or channels) + with_mask
    codes = keras.Input((dim_z,), name="codes")
    colours = _palette(codes[:, :dim_modulating], palette, channels) if palette else None

    def finish(x: tf.Tensor, filters: int, name: int) -> tf.Tensor:
        """Applies normalisation, modulation and ReLU."""
        x = batch_norm(f"norm_{name}", sync_batch_norm)(x)
        if dim_modulating and x.shape[1] >= modulate_from:
            x = layers.Multiply(name=f"modulated_{name}")([x, _gains(codes[:, :dim_modulating], filters, name)])
        return layers.ReLU(name=f"relu_{name}")(x)

    first = layout.coarse(codes) if layout else codes
    x = layers.Reshape((1, 1, first.shape[-1]), name="to_map")(first)
    filters = ngf * 2 ** (doublings - 1)
    x = finish(_conv_transpose(filters, 1, "valid", name="conv_0")(x), filters, 0)
    pictures = _to_picture(x, None, planes, 1, 0)
    for i in range(1, doublings):
        filters //= 2
        low_pass = SMOOTH if i == doublings - 1 else BOX
        x = finish(UpConv2D(filters, low_pass, name=f"conv_{i}")(x), filters, i)
        pictures = _to_picture(x, pictures, planes, 1, i)
    # A mask of 0.12: background is first. Of a picture both are known from the start, and the background must not draw
    # the figure.
    mask_start = 0.0 if layout else -2.0
    half = _to_frames(pictures, with_mask, colours, mask_start, "half")
    x = finish(UpConv2D(ngf, SMOOTH, name=f"conv_{doublings}")(x), ngf, doublings)
    filters = max(ngf // 2, 1)
    last = layers.Conv2D(
        filters, 3, padding="same", use_bias=False, kernel_initializer=normal_weights(), name=f"conv_{doublings + 1}"
    )
    x = finish(last(x), filters, doublings + 1)
    detail = _detail(_to_picture(x, None, planes, 3, doublings), doublings)
    pictures = layers.Add(dtype=keras.config.floatx(), name="sum_full")([_doubled(pictures, doublings), detail])
    frames = _to_frames(pictures, with_mask, colours, mask_start, "full")
    return keras.Model(codes, frames, name="decoder"), keras.Model(codes, half, name="half_decoder")


def background_decoder(
    dim_fixed: int,
    ngf: int,
    image_size: int,
    channels: int,
    sync_batch_norm: bool = False,
    layout: ContentLayout | None = None,
) -> keras.Model:
    """Builds the decoder of a clip's still background. It is small: backgrounds are smooth and are drawn once per clip.

    Args:
        dim_fixed: Size of the code that is fixed over a clip.
        ngf: Filters of the layer at half the size; no layer has more than eight times as many.
        image_size, channels, sync_batch_norm: As of `frame_decoder`.
        layout: As of `fine_decoder`; the background sees the code.

    Returns:
        keras.Model from `[B, dim_fixed]` to float32 `[B, H, W, C]` in [-1, 1].
    """
    doublings = num_halvings(image_size)
    code = keras.Input((dim_fixed,), name="code")
    first = layout.code(code) if layout else code
    x = layers.Reshape((1, 1, first.shape[-1]), name="background_map")(first)
    for i in range(doublings + 1):
        filters = ngf * 2 ** max(0, doublings - 1 - i)
        if i == 0:
            x = _conv_transpose(filters, 1, "valid", name="background_conv_0")(x)
        else:
            x = UpConv2D(filters, SMOOTH, name=f"background_conv_{i}")(x)
        x = batch_norm(f"background_norm_{i}", sync_batch_norm)(x)
        x = layers.ReLU(name=f"background_relu_{i}")(x)
    background = layers.Activation("tanh", dtype=keras.config.floatx(), name="background_tanh")(
        _to_picture(x, None, channels, 3, "background")
    )
    return keras.Model(code, background, name="background")


def _to_picture(x: tf.Tensor, coarser: tf.Tensor | None, planes: int, kernel: int, i: int | str) -> tf.Tensor:
    """Returns a map's picture, added to the bilinearly doubled coarser one; the sums are in full precision."""
    picture = layers.Conv2D(planes, kernel, padding="same", kernel_initializer=normal_weights(), name=f"picture_{i}")(x)
    if coarser is None:
        return layers.Activation("linear", dtype=keras.config.floatx(), name=f"sum_{i}")(picture)
    return layers.Add(dtype=keras.config.floatx(), name=f"sum_{i}")([picture, _doubled(coarser, i)])


def _doubled(picture: tf.Tensor, i: int | str) -> tf.Tensor:
    """Doubles height and width, bilinearly."""
    return layers.UpSampling2D(2, interpolation="bilinear", dtype=keras.config.floatx(), name=f"doubled_{i}")(picture)


def _detail(picture: tf.Tensor, i: int) -> tf.Tensor:
    """Subtracts from a picture the part that is left when it is halved and doubled."""
    dtype = keras.config.floatx()
    halved_picture = layers.AveragePooling2D(2, dtype=dtype, name=f"halved_{i}")(picture)
    return layers.Subtract(dtype=dtype, name=f"detail_{i}")([picture, _doubled(halved_picture, f"halved_{i}")])


def _palette(code: tf.Tensor, number: int, channels: int) -> tf.Tensor:
    """Returns `number` colours in [-1, 1], `[N, number, C]`."""
    dtype = keras.config.floatx()
    x = layers.Dense(64, activation="relu", kernel_initializer="he_normal", dtype=dtype, name="palette_hidden")(code)
    x = layers.Dense(number * channels, activation="tanh", dtype=dtype, name="palette_colours")(x)
    return layers.Reshape((number, channels), name="palette")(x)


@keras.saving.register_keras_serializable("mocogan_tf")
class Mixture(layers.Layer):
    """Mixes colours `[N, K, C]` by the softmax of `[N, H, W, K]`: `[N, H, W, C]`."""

    def call(self, amounts: tf.Tensor, colours: tf.Tensor) -> tf.Tensor:
        height, width, number = amounts.shape[1:]
        flat = ops.softmax(ops.reshape(amounts, (-1, height * width, number)))
        return ops.reshape(ops.matmul(flat, colours), (-1, height, width, colours.shape[-1]))

    def compute_output_shape(
        self, amounts_shape: tuple[int | None, ...], colours_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return (*amounts_shape[:-1], colours_shape[-1])


def _to_frames(
    pictures: tf.Tensor, with_mask: bool, palette: tf.Tensor | None, mask_start: float, name: str
) -> tf.Tensor:
    """Turns planes into frames: colours by tanh or from a palette, and a mask by a sigmoid of the last plane.

    `mask_start` is added to that plane, whose untrained values are near 0.
    """
    dtype = keras.config.floatx()
    colours, mask = ops.split(pictures, [pictures.shape[-1] - 1], axis=-1) if with_mask else (pictures, None)
    if palette is None:
        colours = layers.Activation("tanh", dtype=dtype, name=f"tanh_{name}")(colours)
    else:
        colours = Mixture(dtype=dtype, name=f"mixture_{name}")(colours, palette)
    if mask is None:
        return colours
    mask = layers.Activation("sigmoid", dtype=dtype, name=f"mask_{name}")(mask + mask_start)
    return layers.Concatenate(dtype=dtype, name=f"figures_{name}")([colours, mask])


def _gains(code: tf.Tensor, filters: int, i: int) -> tf.Tensor:
    """Returns a factor for every channel, `[N, 1, 1, filters]`; untrained, they are 1 with a deviation of 1."""
    gains = layers.Dense(filters, kernel_initializer="lecun_normal", bias_initializer="ones", name=f"gains_{i}")(code)
    return layers.Reshape((1, 1, filters), name=f"gains_map_{i}")(gains)


def _conv_transpose(filters: int, strides: int, padding: str, name: str) -> keras.Layer:
    return layers.Conv2DTranspose(
        filters,
        KERNEL,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=normal_weights(),
        name=name,
    )
