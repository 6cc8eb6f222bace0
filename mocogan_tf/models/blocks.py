"""What the convolutional networks share: DCGAN's initial weights, normalisation and arithmetic of sizes."""

import keras
import tensorflow as tf
from keras import ops

FUSED_TYPES = (tf.float32, tf.float16, tf.bfloat16)  # Of TensorFlow's fused batch normalisation.
SMALLEST_MAP = 4  # Height and width of the smallest feature map, at which generator and discriminators end.


def normal_weights():
    """Initial weights of every convolution, N(0, 0.02) (DCGAN, Radford et al. 2016, section 4)."""
    return keras.initializers.RandomNormal(stddev=0.02)


def he_weights():
    """Initial weights that keep the size of signals through leaky ReLU of 0.2 (He et al. 2015, equation 15)."""
    return keras.initializers.VarianceScaling(2.0 / (1.0 + 0.2**2), "fan_in", "untruncated_normal")


def batch_norm(name, synchronized=False):
    """Batch normalisation with the authors' momentum and epsilon; the scale starts at N(1, 0.02) (DCGAN's code)."""
    return BatchNorm(
        momentum=0.9,
        epsilon=1e-5,
        gamma_initializer=keras.initializers.RandomNormal(mean=1.0, stddev=0.02),
        synchronized=synchronized,
        name=name,
    )


@keras.saving.register_keras_serializable("mocogan_tf")
class BatchNorm(keras.layers.BatchNormalization):
    """Keras's batch normalisation of the last axis, while training in TensorFlow's fused operation.

    The same function and the same moving statistics (biased variances), in one pass over the data where Keras makes
    several. Where replicas share their statistics, or in types that the operation has not, it is Keras's own.
    """

    def call(self, inputs, training=None, mask=None):
        channels = inputs.shape[-1]
        if not (training and self.trainable) or self._is_shared() or inputs.dtype not in FUSED_TYPES:
            return super().call(inputs, training=training, mask=mask)
        # oneDNN is quick in half precision where channels fill its blocks, and four times slower where they do not.
        dtype = inputs.dtype if channels % 16 == 0 else tf.float32
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

    def _is_shared(self):
        return self.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1


class SpectralNorm(keras.layers.Wrapper):
    """Divides a convolution's weights by their largest singular value (Miyato et al. 2018, algorithm 1).

    The convolution has no bias: its output, being linear in the weights, is divided instead, and the bias added after.
    One power iteration per call in training. (Keras's own `SpectralNormalization` overwrites the weights, so that no
    gradient comes through the singular value.)

    Args:
        layer: A convolution without a bias, or a Sequential that ends in one.
    """

    def __init__(self, layer, **kwargs):
        # The power iteration stays in full precision under mixed precision; the convolution casts for itself.
        super().__init__(layer, autocast=False, **kwargs)

    def build(self, input_shape):
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

    def call(self, x, training=None):
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

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)


def _unit(vector):
    return vector / (ops.norm(vector) + 1e-12)


def num_halvings(image_size):
    """Returns how often `image_size` is halved until the feature map is 4x4: 2, 3, 4 or 5 for 16, 32, 64 or 128.

    Raises:
        ValueError: `image_size` is none of these.
    """
    sizes = {16: 2, 32: 3, 64: 4, 128: 5}  # 16 are the halves of 32, which nobody generates.
    if image_size not in sizes:
        raise ValueError(f"`image_size` must be 32, 64 or 128. Received: image_size={image_size}")
    return sizes[image_size]
