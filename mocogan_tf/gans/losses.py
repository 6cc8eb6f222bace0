"""Losses, as functions on logits. All return scalars, means over the batch, never in half precision."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
    """Returns the discriminator's half of the GAN objective, `E[-log D(x)] + E[-log(1 - D(G(z)))]`.

    One of the two pairs of terms of the value function F_V in MoCoGAN (Tulyakov et al. 2018). Patches are averaged; the
    two terms are summed without a factor 1/2, as in the authors' code.

    Args:
        real_logits: `[B, ...]`, logits on real clips.
        fake_logits: `[B, ...]`, logits on generated clips.
        label_smoothing: How far the target of real clips is below 1 (one-sided, Salimans et al. 2016, section 3.4).
    """
    real_logits = _full_precision(real_logits)
    real = ops.mean(ops.softplus(-real_logits))
    if label_smoothing:
        real += label_smoothing * ops.mean(real_logits)  # softplus(x) = softplus(-x) + x
    return real + ops.mean(ops.softplus(_full_precision(fake_logits)))


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """Returns the generator's non-saturating loss, `E[-log D(G(z))]` (Goodfellow et al. 2014, section 3).

    Args:
        fake_logits: `[B, ...]`, logits on generated clips.
    """
    return ops.mean(ops.softplus(-_full_precision(fake_logits)))


def category_loss(class_logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of the class head.

    On fakes, with the categories they were made from, it is up to a constant the variational bound L_I of InfoGAN (Chen
    et al. 2016, equation 5) that MoCoGAN adds for categories. On real clips it fits the head to labels.

    Args:
        class_logits: `[B, P, K]`, logits of K categories at P patches of a clip.
        labels: one-hot `[B, K]`.
    """
    logits = _full_precision(class_logits)
    log_probabilities = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
    return -ops.mean(ops.sum(ops.expand_dims(_full_precision(labels), 1) * log_probabilities, axis=-1))


def critic_loss(real_scores: tf.Tensor, fake_scores: tf.Tensor) -> tf.Tensor:
    """Returns the critic's loss of a Wasserstein GAN, `E[D(G(z))] - E[D(x)]` (Arjovsky et al. 2017, equation 2).

    Args:
        real_scores: `[B, ...]`, scores of real clips.
        fake_scores: `[B, ...]`, scores of generated clips.
    """
    return ops.mean(_full_precision(fake_scores)) - ops.mean(_full_precision(real_scores))


def critic_generator_loss(fake_scores: tf.Tensor) -> tf.Tensor:
    """Returns the generator's loss of a Wasserstein GAN, `-E[D(G(z))]`.

    Args:
        fake_scores: `[B, ...]`, scores of generated clips.
    """
    return -ops.mean(_full_precision(fake_scores))


def r1_penalty(gradients: tf.Tensor) -> tf.Tensor:
    """Returns R1, `1/2 E[|grad D(x)|^2]` at real clips (Mescheder et al. 2018, equation 9).

    Args:
        gradients: `[B, ...]`, gradient of each clip's mean logit with respect to that clip.
    """
    squares = ops.square(_full_precision(gradients))
    return 0.5 * ops.mean(ops.sum(ops.reshape(squares, (ops.shape(squares)[0], -1)), axis=-1))


def _full_precision(x: tf.Tensor) -> tf.Tensor:
    return ops.cast(x, keras.config.floatx())
