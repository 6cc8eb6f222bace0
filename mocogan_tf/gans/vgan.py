"""VGAN (Vondrick et al. 2016, arXiv 1609.02612): how it is trained. Its networks are in `models/vgan.py`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

import mocogan_tf.models.vgan  # noqa: F401  Registers the networks that `load_model` rebuilds.
from mocogan_tf.gans import batches, losses
from mocogan_tf.gans.base import (
    ACCURACY_D_VIDEO,
    LOSS_D_VIDEO,
    LOSS_G,
    AdversarialModel,
    Inputs,
    Logs,
    LossAndLogs,
    accuracy,
    to_float,
)

LOSS_MASK = "loss_mask"
_LATENTS = 0  # The purpose of a random number; folded into the step's seed.


@keras.saving.register_keras_serializable("mocogan_tf")
class VGAN(AdversarialModel):
    """VGAN (Vondrick et al. 2016): one discriminator of clips, and a price on the foreground's mask.

    `train_step` takes `{"videos": [B, T, H, W, C]}`, uint8, or float32 in [-1, 1]. The discriminator takes a step; then
    the generator takes one on the same fakes, against the discriminator as it has become.

    Args:
        mask_weight: Weight of the mask's mean, the published code's lambda of L1.
        **kwargs: As of `AdversarialModel`: the networks, average, seed, weight and average decay.
    """

    def __init__(self, *, mask_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_weight = mask_weight

    def train_step(self, batch: dict[str, tf.Tensor]) -> Logs:
        """Makes one step of each network. Returns the logged scalars by name."""
        batches.check(batch, self.example_shapes)
        videos = to_float(batch["videos"])
        inputs = {"videos": videos, "latents": self._latents(videos.shape[0], videos.shape[1], _LATENTS)}
        logs = self._descend(self._losses_d, inputs)
        return self._end_step(logs | self._descend(self._losses_g, inputs))

    def _losses_d(self, inputs: Inputs) -> dict[str, LossAndLogs]:
        # The generator's step computes the same fakes once more, since the discriminator moves in between. Only there
        # do they move its statistics.
        with keras.StatelessScope():
            fakes = self.generator(inputs["latents"], training=True)["video"]
        return {"video_discriminator": self._loss_d(inputs["videos"], fakes)}

    def _losses_g(self, inputs: Inputs) -> dict[str, LossAndLogs]:
        return {"generator": self._loss_g(self.generator(inputs["latents"], training=True))}

    def _loss_d(self, videos: tf.Tensor, fakes: tf.Tensor) -> LossAndLogs:
        # Real and fake clips pass separately, as published.
        real_logits, fake_logits = self._logits(videos), self._logits(fakes)
        gan = 0.5 * losses.discriminator_loss(real_logits, fake_logits)
        return gan, {LOSS_D_VIDEO: gan, ACCURACY_D_VIDEO: accuracy(real_logits, fake_logits)}

    def _loss_g(self, fakes: dict[str, tf.Tensor]) -> LossAndLogs:
        gan = losses.generator_loss(self._logits(fakes["video"]))
        mask = ops.mean(fakes["mask"])  # Its L1 norm, averaged: a sigmoid is never negative.
        return gan + self.mask_weight * mask, {LOSS_G: gan, LOSS_MASK: mask}

    def _logits(self, videos: tf.Tensor) -> tf.Tensor:
        """Returns logits `[B]` of being real: two classes' softmax is a sigmoid of the difference of their logits."""
        logits = ops.cast(self.video_discriminator(videos, training=True), keras.config.floatx())
        return logits[:, 1] - logits[:, 0]
