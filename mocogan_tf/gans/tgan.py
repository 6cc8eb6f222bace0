"""TGAN (Saito et al. 2017, arXiv 1611.06624): how it is trained. Its networks are in `models/tgan.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

import mocogan_tf.models.tgan  # noqa: F401  Registers the networks that `load_model` rebuilds.
from mocogan_tf.gans import batches, losses
from mocogan_tf.gans.base import (
    ACCURACY_D_VIDEO,
    LOSS_D_VIDEO,
    LOSS_G,
    AdversarialModel,
    Inputs,
    Logs,
    LossAndLogs,
    to_float,
)

_LATENTS = 0  # The purpose of a random number; folded into the step's seed.


@keras.saving.register_keras_serializable("mocogan_tf")
class TGAN(AdversarialModel):
    """TGAN (Saito et al. 2017): a Wasserstein GAN whose critic is kept 1-Lipschitz by singular value clipping.

    `train_step` takes `{"videos": [B, T, H, W, C]}`, uint8, or float32 in [-1, 1]. Generator and critic take their
    steps from the scores of one forward pass.

    Args:
        clip_every: Steps between two clippings of the critic's weights.
        **kwargs: As of `AdversarialModel`: the networks, average, seed, weight and average decay.
    """

    def __init__(self, *, clip_every: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clip_every = clip_every

    def train_step(self, batch: dict[str, tf.Tensor]) -> Logs:
        """Makes one step of each network. Returns the logged scalars by name."""
        batches.check(batch, self.example_shapes)
        videos = to_float(batch["videos"])
        logs = self._descend(
            self._losses_of_both,
            {"videos": videos, "latents": self._latents(videos.shape[0], videos.shape[1], _LATENTS)},
        )
        self._clip_critic()
        return self._end_step(logs)

    def _losses_of_both(self, inputs: Inputs) -> dict[str, LossAndLogs]:
        fakes = self.generator(inputs["latents"], training=True)["video"]
        # Real and fake clips pass separately, as published.
        real_scores = self.video_discriminator(inputs["videos"], training=True)
        fake_scores = self.video_discriminator(fakes, training=True)
        return {"generator": self._loss_g(fake_scores), "video_discriminator": self._loss_d(real_scores, fake_scores)}

    def _loss_g(self, fake_scores: tf.Tensor) -> LossAndLogs:
        loss = losses.critic_generator_loss(fake_scores)
        return loss, {LOSS_G: loss}

    def _loss_d(self, real_scores: tf.Tensor, fake_scores: tf.Tensor) -> LossAndLogs:
        loss = losses.critic_loss(real_scores, fake_scores)
        # A critic's scores have no zero to compare with. Its accuracy is the share of pairs that it orders correctly.
        right = ops.mean(ops.cast(real_scores > fake_scores, "float32"))
        return loss, {LOSS_D_VIDEO: loss, ACCURACY_D_VIDEO: right}

    def _clip_critic(self) -> None:
        """Clips the critic's weights in every `clip_every`-th step."""
        critic = self.video_discriminator
        kernels = [layer.kernel.value for layer in (*critic.convolutions, critic.last)]
        norms = [layer for layer in critic.norms if layer.weights]
        scales = [(norm.gamma.value, norm.moving_variance.value) for norm in norms]
        due = tf.equal((self.step.value + 1) % self.clip_every, 0)

        def update(strategy: tf.distribute.Strategy, due: tf.Tensor) -> None:
            def assign(variable: tf.Variable, clip: Callable[..., tf.Tensor], *args: tf.Variable) -> None:
                def assign_if_due(v: tf.Variable, due: tf.Tensor, *args: tf.Variable) -> None:
                    v.assign(tf.cond(due, lambda: clip(v, *args), lambda: tf.identity(v)))

                strategy.extended.update(variable, assign_if_due, args=(due, *args), group=False)

            for kernel in kernels:
                assign(kernel, clip_singular_values)
            for gamma, variance in scales:
                assign(gamma, clip_scale, variance)

        # This writes the variables of all replicas at once, which only code outside the replicas can do.
        tf.distribute.get_replica_context().merge_call(update, args=(due,))


def clip_singular_values(kernel: tf.Tensor) -> tf.Tensor:
    """Replaces the singular values above 1 of a convolution's kernel by 1 (TGAN, section 4.2).

    The kernel counts as the matrix that maps a patch to the outputs. The values are computed in float64 from the
    eigenvectors of its Gram matrix `[O, O]`, which is much smaller, as a correction that is exactly zero where no value
    is above 1.

    Args:
        kernel: `[..., I, O]`.

    Returns:
        Tensor of the same shape and type.
    """
    kernel = tf.convert_to_tensor(kernel)
    matrix = tf.cast(tf.reshape(kernel, (-1, kernel.shape[-1])), tf.float64)
    squares, vectors = tf.linalg.eigh(tf.matmul(matrix, matrix, transpose_a=True))
    excess = 1.0 / tf.sqrt(tf.maximum(squares, 1.0)) - 1.0
    correction = tf.matmul(tf.matmul(matrix, vectors * excess), vectors, transpose_b=True)
    return kernel + tf.cast(tf.reshape(correction, kernel.shape), kernel.dtype)


def clip_scale(gamma: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """Clips the scale of a batch normalisation to [0.01 s, s], s the moving deviation, so that it never stretches.

    Args:
        gamma: `[C]`.
        variance: `[C]`, the moving variance.
    """
    deviation = tf.sqrt(variance)
    return tf.clip_by_value(gamma, 0.01 * deviation, deviation)
