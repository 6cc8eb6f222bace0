"""From a picture to the content of its clip: the encoder half of the paper's image-to-video model.

The paper's G_I for this task is an encoder-decoder that gives the content code and the initial motion code (Tulyakov et
al. 2018, "Image-to-video Translation"). Here both are in `content`, a vector of a code and a pose. So the generator
stays a function of vectors, and a picture is encoded once per clip. The pose is the GRU's first state and also the
motion code of the first frame. So a pose means the same to the decoder whichever frame of a clip it is from. There are
no skip connections: tried, they copied the picture into every frame, and nothing moved (docs/training.md).
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf
from keras import layers

from mocogan_tf.models.blocks import SMALLEST_MAP, he_weights, num_halvings
from mocogan_tf.models.resampling import DownConv2D

DIM_COARSE = 8  # Numbers of the code that the decoder's first layer sees.


@dataclasses.dataclass(frozen=True)
class ContentLayout:
    """Where the parts of an encoded picture are in `content`: a code, then a pose.

    Args:
        dim_code: Size of the code.
        dim_motion: Size of the pose, a state of the GRU.
    """

    dim_code: int
    dim_motion: int

    @property
    def size(self) -> int:
        """Numbers in all: `dim_content` of the generator's inputs."""
        return self.dim_code + self.dim_motion

    def code(self, content: tf.Tensor) -> tf.Tensor:
        """The code, `[N, dim_code]`, of content or of any vector that begins with it."""
        return content[:, : self.dim_code]

    def pose(self, content: tf.Tensor) -> tf.Tensor:
        """The pose, a state of the GRU, `[N, dim_motion]`."""
        return content[:, self.dim_code :]

    def coarse(self, codes: tf.Tensor) -> tf.Tensor:
        """What the decoder's first layer sees of `[N, size + ...]`: some of the code, and what follows the pose.

        The first layer decides where a figure is. If it were told the whole code, it could put the figure where it was
        in the picture, in every frame.
        """
        return layers.Concatenate(name="coarse")([codes[:, : min(DIM_COARSE, self.dim_code)], codes[:, self.size :]])


def picture_encoder(layout: ContentLayout, nef: int, image_size: int, channels: int) -> keras.Model:
    """Builds the encoder. It is small, has no normalisation, and its halvings are low-passed, as the fine D_I's are.

    Args:
        layout: The parts of what it gives.
        nef: Filters at half the size; at full size half as many, doubled with each further halving up to eight times.
        image_size: Height and width of a picture.
        channels: Colour channels.

    Returns:
        keras.Model from pictures float32 `[B, H, W, C]` in [-1, 1] to content `[B, layout.size]`, float32.
    """
    halvings = num_halvings(image_size)
    pictures = keras.Input((image_size, image_size, channels), name="image")
    first = layers.Conv2D(
        max(nef // 2, 1), 3, padding="same", kernel_initializer=he_weights(), name="encoder_conv_full"
    )
    x = layers.LeakyReLU(0.2, name="encoder_relu_full")(first(pictures))
    for i in range(halvings):
        x = DownConv2D(nef * 2 ** min(i, 3), use_bias=True, name=f"encoder_conv_{i}")(x)
        x = layers.LeakyReLU(0.2, name=f"encoder_relu_{i}")(x)
    code = layers.Conv2D(layout.dim_code, SMALLEST_MAP, kernel_initializer=he_weights(), name="encoder_code")(x)
    # The GRU's states lie in (-1, 1).
    pose = layers.Conv2D(layout.dim_motion, SMALLEST_MAP, activation="tanh", name="encoder_pose")(x)
    joined = layers.Concatenate(dtype=keras.config.floatx(), name="encoded_map")([code, pose])
    # Reshape: a Flatten would become five operations in ONNX.
    encoded = layers.Reshape((layout.size,), dtype=keras.config.floatx(), name="encoded")(joined)
    return keras.Model(pictures, encoded, name="encoder")
