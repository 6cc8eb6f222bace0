"""VGAN (Vondrick et al. 2016, arXiv 1609.02612): how it is trained. Its networks are in `models/vgan.py`."""

import keras
import tensorflow as tf
from keras import ops

from mocogan_tf.gans import losses
from mocogan_tf.gans.base import ACCURACY_D_VIDEO, LOSS_D_VIDEO, LOSS_G, AdversarialModel, accuracy

LOSS_MASK = "loss_mask"
_LATENTS = 0  # What a random number is for; folded into the step's seed.


class VGAN(AdversarialModel):
    """VGAN (Vondrick et al. 2016): one discriminator of clips, and a price on the foreground's mask.

    `train_step` takes `{"videos": [B, T, H, W, C]}`, float32 in [-1, 1]. The generator runs once; the discriminator
    takes a step on these fakes, and then the generator, against the discriminator as it has become.

    Args:
        mask_weight: Weight of the mask's mean, the published code's lambda of L1.
        **kwargs: As of `AdversarialModel`: the networks, average, seed, weight and average decay.
    """

    def __init__(self, *, mask_weight=0.1, **kwargs):
        super().__init__(**kwargs)
        self.mask_weight = mask_weight

    def train_step(self, batch):
        """One step of each network. Returns the logged scalars by name."""
        videos = batch["videos"]
        latents = self._latents(*videos.shape[:2], _LATENTS)
        with tf.GradientTape() as tape:
            fakes = self.generator(latents, training=True)
        logs = self._step_d(videos, tf.stop_gradient(fakes["video"]))
        logs |= self._step_g(fakes, tape)
        return self._end_step(logs)

    def _step_d(self, videos, fakes):
        def loss():
            # Real and fake in passes of their own, as published.
            real_logits, fake_logits = self._logits(videos), self._logits(fakes)
            gan = 0.5 * losses.discriminator_loss(real_logits, fake_logits)
            return gan, {LOSS_D_VIDEO: gan, ACCURACY_D_VIDEO: accuracy(real_logits, fake_logits)}

        return self._minimize(loss, self.video_discriminator, self.d_video_optimizer)

    def _step_g(self, fakes, tape):
        def loss():
            gan = losses.generator_loss(self._logits(fakes["video"]))
            mask = ops.mean(fakes["mask"])  # Its L1 norm, averaged: a sigmoid is never negative.
            return gan + self.mask_weight * mask, {LOSS_G: gan, LOSS_MASK: mask}

        return self._minimize(loss, self.generator, self.g_optimizer, tape)

    def _logits(self, videos):
        """Logits `[B]` of being real: a softmax over two classes is a sigmoid of the difference of their logits."""
        logits = ops.cast(self.video_discriminator(videos, training=True), keras.config.floatx())
        return logits[:, 1] - logits[:, 0]
