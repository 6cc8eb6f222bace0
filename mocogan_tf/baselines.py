"""The baselines that MoCoGAN is compared with, VGAN and TGAN: how they are trained. Their networks are in `models/`."""

import keras
import tensorflow as tf
from keras import ops

from mocogan_tf import losses
from mocogan_tf.adversarial import ACCURACY_D_VIDEO, LOSS_D_VIDEO, LOSS_G, AdversarialModel, accuracy

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


class TGAN(AdversarialModel):
    """TGAN (Saito et al. 2017): a Wasserstein GAN whose critic is kept 1-Lipschitz by singular value clipping.

    `train_step` takes `{"videos": [B, T, H, W, C]}`, float32 in [-1, 1]. One forward pass; the generator takes its step
    first, then the critic, from the same scores.

    Args:
        clip_every: Steps between two clippings of the critic's weights.
        **kwargs: As of `AdversarialModel`: the networks, average, seed, weight and average decay.
    """

    def __init__(self, *, clip_every=5, **kwargs):
        super().__init__(**kwargs)
        self.clip_every = clip_every

    def train_step(self, batch):
        """One step of each network. Returns the logged scalars by name."""
        videos = batch["videos"]
        latents = self._latents(*videos.shape[:2], _LATENTS)
        with tf.GradientTape(persistent=True) as tape:
            fakes = self.generator(latents, training=True)["video"]
            # Real and fake in passes of their own, as published.
            real_scores = self.video_discriminator(videos, training=True)
            fake_scores = self.video_discriminator(fakes, training=True)
        logs = self._minimize(lambda: self._loss_g(fake_scores), self.generator, self.g_optimizer, tape)
        logs |= self._minimize(
            lambda: self._loss_d(real_scores, fake_scores), self.video_discriminator, self.d_video_optimizer, tape
        )
        self._clip_critic()
        return self._end_step(logs)

    def _loss_g(self, fake_scores):
        loss = losses.critic_generator_loss(fake_scores)
        return loss, {LOSS_G: loss}

    def _loss_d(self, real_scores, fake_scores):
        loss = losses.critic_loss(real_scores, fake_scores)
        # A critic's scores have no zero to compare with: its accuracy is the share of pairs that it puts in order.
        right = ops.mean(ops.cast(real_scores > fake_scores, "float32"))
        return loss, {LOSS_D_VIDEO: loss, ACCURACY_D_VIDEO: right}

    def _clip_critic(self):
        """Clips the critic's weights in every `clip_every`-th step."""
        critic = self.video_discriminator
        kernels = [layer.kernel.value for layer in (*critic.convolutions, critic.last)]
        norms = [layer for layer in critic.norms if layer.weights]
        scales = [(norm.gamma.value, norm.moving_variance.value) for norm in norms]
        due = tf.equal((self.step.value + 1) % self.clip_every, 0)

        def update(strategy, due):
            def assign(variable, clip, *args):
                def assign_if_due(v, due, *args):
                    v.assign(tf.cond(due, lambda: clip(v, *args), lambda: tf.identity(v)))

                strategy.extended.update(variable, assign_if_due, args=(due, *args), group=False)

            for kernel in kernels:
                assign(kernel, clip_singular_values)
            for gamma, variance in scales:
                assign(gamma, clip_scale, variance)

        # Variables of all replicas are written at once: that is done from outside the replicas.
        tf.distribute.get_replica_context().merge_call(update, args=(due,))


def clip_singular_values(kernel):
    """Replaces the singular values above 1 of a convolution's kernel by 1 (TGAN, section 4.2).

    Of the kernel as the matrix that maps a patch to the outputs. Computed in float64 from the eigenvectors of its Gram
    matrix `[O, O]`, which is much smaller, and as a correction that is exactly zero where nothing is above 1.

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


def clip_scale(gamma, variance):
    """Brings the scale of a batch normalisation into [0.01 s, s], s the moving deviation, so that it never stretches.

    Args:
        gamma: `[C]`.
        variance: `[C]`, the moving variance.
    """
    deviation = tf.sqrt(variance)
    return tf.clip_by_value(gamma, 0.01 * deviation, deviation)
