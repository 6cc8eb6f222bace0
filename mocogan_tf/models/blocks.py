"""What the convolutional networks share: DCGAN's initial weights, batch normalisation and arithmetic of sizes."""

import keras

SMALLEST_MAP = 4  # Height and width of the smallest feature map, at which generator and discriminators end.


def normal_weights():
    """Initial weights of every convolution, N(0, 0.02) (DCGAN, Radford et al. 2016, section 4)."""
    return keras.initializers.RandomNormal(stddev=0.02)


def batch_norm(name, synchronized=False):
    """Batch normalisation with the authors' momentum and epsilon; the scale starts at N(1, 0.02) (DCGAN's code)."""
    return keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        gamma_initializer=keras.initializers.RandomNormal(mean=1.0, stddev=0.02),
        synchronized=synchronized,
        name=name,
    )


def num_halvings(image_size):
    """Returns how often `image_size` is halved until the feature map is 4x4: 3, 4 or 5 for 32, 64 or 128.

    Raises:
        ValueError: `image_size` is none of these.
    """
    sizes = {32: 3, 64: 4, 128: 5}
    if image_size not in sizes:
        raise ValueError(f"`image_size` must be 32, 64 or 128. Received: image_size={image_size}")
    return sizes[image_size]
