"""From a picture to the content of its clip: the encoder half of the paper's image-to-video model.

The paper's G_I for this task is an encoder-decoder that gives the content code and the initial motion code (Tulyakov et
al. 2018, "Image-to-video Translation"), here with skip connections (U-Net, Ronneberger et al. 2015). They travel inside
`content`: a vector of a code, the GRU's first state, and small maps of several sizes. So the generator stays a function
of vectors, and a picture is encoded once per clip.
"""

from __future__ import annotations

import dataclasses
import math

import keras
import tensorflow as tf
from keras import layers

from mocogan_tf.models.blocks import SMALLEST_MAP, he_weights, num_halvings
from mocogan_tf.models.resampling import DownConv2D

MAP_CHANNELS = 8
NUM_MAPS = 3


@dataclasses.dataclass(frozen=True)
class ContentLayout:
    """Where the parts of an encoded picture are in `content`: code, pose, maps from coarse to fine, each row-major.

    Args:
        dim_code: Size of the code.
        dim_motion: Size of the pose, the GRU's first state.
        image_size: Height and width of the picture.
    """

    dim_code: int
    dim_motion: int
    image_size: int

    @property
    def maps(self) -> tuple[tuple[int, int, int], ...]:
        """The shapes (H, W, C) of the maps; at 64 pixels 8x8, 16x16 and 32x32."""
        sizes = [self.image_size // 2**i for i in range(NUM_MAPS, 0, -1)]
        return tuple((size, size, MAP_CHANNELS) for size in sizes)

    @property
    def size(self) -> int:
        """Numbers in all: `dim_content` of the generator's inputs."""
        return self.dim_code + self.dim_motion + sum(map(math.prod, self.maps))

    def code(self, content: tf.Tensor) -> tf.Tensor:
        """The code, `[N, dim_code]`, of content or of any vector that begins with it."""
        return content[:, : self.dim_code]

    def pose(self, content: tf.Tensor) -> tf.Tensor:
        """The GRU's first state, `[N, dim_motion]`."""
        return content[:, self.dim_code : self.dim_code + self.dim_motion]

    def without_maps(self, content: tf.Tensor) -> tf.Tensor:
        """Code and pose, and whatever follows the content."""
        parts = [content[:, : self.dim_code + self.dim_motion]]
        if content.shape[-1] > self.size:
            parts.append(content[:, self.size :])
        return layers.Concatenate(name="without_maps")(parts) if len(parts) > 1 else parts[0]

    def split_maps(self, content: tf.Tensor) -> dict[int, tf.Tensor]:
        """The maps `[N, H, W, C]` by their height."""
        found, first = {}, self.dim_code + self.dim_motion
        for shape in self.maps:
            last = first + math.prod(shape)
            found[shape[0]] = layers.Reshape(shape, name=f"skip_map_{shape[0]}")(content[:, first:last])
            first = last
        return found


def picture_encoder(layout: ContentLayout, nef: int, channels: int) -> keras.Model:
    """Builds the encoder. It is small, has no normalisation, and its halvings are low-passed, as the fine D_I's are.

    Args:
        layout: The parts of what it gives.
        nef: Filters at half the size; at full size half as many, doubled with each further halving up to eight times.
        channels: Colour channels.

    Returns:
        keras.Model from pictures float32 `[B, H, W, C]` in [-1, 1] to content `[B, layout.size]`, float32.
    """
    halvings = num_halvings(layout.image_size)
    pictures = keras.Input((layout.image_size, layout.image_size, channels), name="image")
    first = layers.Conv2D(
        max(nef // 2, 1), 3, padding="same", kernel_initializer=he_weights(), name="encoder_conv_full"
    )
    x = layers.LeakyReLU(0.2, name="encoder_relu_full")(first(pictures))
    maps, sizes = {}, {shape[0] for shape in layout.maps}
    for i in range(halvings):
        x = DownConv2D(nef * 2 ** min(i, 3), use_bias=True, name=f"encoder_conv_{i}")(x)
        x = layers.LeakyReLU(0.2, name=f"encoder_relu_{i}")(x)
        if x.shape[1] in sizes:
            to_map = layers.Conv2D(MAP_CHANNELS, 1, kernel_initializer=he_weights(), name=f"encoder_map_{x.shape[1]}")
            maps[x.shape[1]] = to_map(x)
    code = layers.Conv2D(layout.dim_code, SMALLEST_MAP, kernel_initializer=he_weights(), name="encoder_code")(x)
    # The GRU's states lie in (-1, 1).
    pose = layers.Conv2D(layout.dim_motion, SMALLEST_MAP, activation="tanh", name="encoder_pose")(x)
    parts = [code, pose, *(maps[shape[0]] for shape in layout.maps)]
    # Reshape: a Flatten would become five operations each in ONNX.
    flat = [
        layers.Reshape((math.prod(part.shape[1:]),), name=f"encoder_flat_{i}")(part) for i, part in enumerate(parts)
    ]
    content = layers.Concatenate(dtype=keras.config.floatx(), name="encoded")(flat)
    return keras.Model(pictures, content, name="encoder")
