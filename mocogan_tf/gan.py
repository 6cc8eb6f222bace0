"""MoCoGAN: three networks trained against each other, and the step that trains them."""

import keras
import tensorflow as tf
from keras import ops

from mocogan_tf import losses
from mocogan_tf.adversarial import (
    ACCURACY_D_IMAGE,
    ACCURACY_D_VIDEO,
    LOSS_CATEGORY_D,
    LOSS_CATEGORY_G,
    LOSS_D_IMAGE,
    LOSS_D_VIDEO,
    LOSS_G,
    AdversarialModel,
    accuracy,
    fold,
    share,
)

# What a random number is for; folded into the step's seed.
(
    _LATENTS_IMAGE,
    _LATENTS_VIDEO,
    _LATENTS_IMAGE_G,
    _LATENTS_VIDEO_G,
    _NOISE_IMAGE,
    _NOISE_VIDEO,
    _NOISE_IMAGE_G,
    _NOISE_VIDEO_G,
) = range(8)
_FRAME = 100  # Beside the latents, whose names take the numbers from 0.


class MoCoGAN(AdversarialModel):
    """Generator, image discriminator and video discriminator, trained against each other.

    `train_step` takes `{"images": [Bi, H, W, C], "videos": [Bv, T, H, W, C], "labels": [Bv]}`, float32 in [-1, 1] and
    int32, and makes one step of D_I, of D_V and of (G_I, R_M), in the order of the authors' code, each on fakes of its
    own. Without an image discriminator there need be no images.

    Args:
        category_loss: "none", "supervised" (the class head learns real labels, the generator is scored by it) or
            "infogan" (class head and generator both learn from fakes).
        category_weight: Weight of the category loss, the paper's lambda.
        r1_image: Weight of the R1 penalty on D_I, 0 for none.
        r1_video: Weight of the R1 penalty on D_V, 0 for none.
        r1_every: Steps between two penalties, each scaled up by this number (lazy regularisation, Karras et al. 2020).
        **kwargs: As of `AdversarialModel`: the networks, average, seed, weight and average decay.
    """

    def __init__(
        self,
        *,
        category_loss="none",
        category_weight=1.0,
        r1_image=0.0,
        r1_video=0.0,
        r1_every=16,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.category_loss = category_loss
        self.category_weight = category_weight
        self.r1_image, self.r1_video, self.r1_every = r1_image, r1_video, r1_every

    def train_step(self, batch):
        """One step of each network. Returns the logged scalars by name."""
        videos, labels = batch["videos"], batch["labels"]
        num_images, logs = 0, {}
        if self.image_discriminator is not None:
            num_images = batch["images"].shape[0]
            logs.update(self._step_d_image(batch["images"]))
        logs.update(self._step_d_video(videos, labels))
        logs.update(self._step_g(num_images, videos.shape[:2]))
        self.step.assign_add(1)
        self._update_average()
        return logs

    def _step_d_image(self, images):
        fakes = self._fake_images(images.shape[0], _LATENTS_IMAGE)
        noise = self._noise_seed(_NOISE_IMAGE)

        def loss():
            # Real and fake in passes of their own, so that batch normalisation never mixes them.
            real_logits = self.image_discriminator(images, training=True, seed=fold(noise, 0))
            fake_logits = self.image_discriminator(fakes, training=True, seed=fold(noise, 1))
            gan = losses.discriminator_loss(real_logits, fake_logits)
            logs = {LOSS_D_IMAGE: gan, ACCURACY_D_IMAGE: accuracy(real_logits, fake_logits)}
            return gan + self._r1(self.r1_image, self.image_discriminator, images), logs

        return self._minimize(loss, self.image_discriminator, self.d_image_optimizer)

    def _step_d_video(self, videos, labels):
        fakes, fake_category = self._fake_videos(videos.shape[:2], _LATENTS_VIDEO)
        noise = self._noise_seed(_NOISE_VIDEO)

        def loss():
            real_logits, real_classes = self.video_discriminator(videos, training=True, seed=fold(noise, 0))
            fake_logits, fake_classes = self.video_discriminator(fakes, training=True, seed=fold(noise, 1))
            gan = losses.discriminator_loss(real_logits, fake_logits)
            logs = {LOSS_D_VIDEO: gan, ACCURACY_D_VIDEO: accuracy(real_logits, fake_logits)}
            total = gan + self._r1(self.r1_video, lambda x, **kwargs: self.video_discriminator(x, **kwargs)[0], videos)
            if self.category_loss != "none":
                if self.category_loss == "supervised":
                    real_category = tf.one_hot(labels, self.generator.latents.dim_category)
                    category = losses.category_loss(real_classes, real_category)
                else:
                    category = losses.category_loss(fake_classes, fake_category)
                logs[LOSS_CATEGORY_D] = category
                total += self.category_weight * category
            return total, logs

        return self._minimize(loss, self.video_discriminator, self.d_video_optimizer)

    def _step_g(self, num_images, video_shape):
        noise_image, noise_video = self._noise_seed(_NOISE_IMAGE_G), self._noise_seed(_NOISE_VIDEO_G)

        def loss():
            fakes, category = self._fake_videos(video_shape, _LATENTS_VIDEO_G)
            logits, classes = self.video_discriminator(fakes, training=True, seed=noise_video)
            gan = losses.generator_loss(logits)
            if self.image_discriminator is not None:
                images = self._fake_images(num_images, _LATENTS_IMAGE_G)
                gan += losses.generator_loss(self.image_discriminator(images, training=True, seed=noise_image))
            logs = {LOSS_G: gan}
            total = gan
            if self.category_loss != "none":
                logs[LOSS_CATEGORY_G] = losses.category_loss(classes, category)
                total += self.category_weight * logs[LOSS_CATEGORY_G]
            return total, logs

        return self._minimize(loss, self.generator, self.g_optimizer)

    def _fake_videos(self, video_shape, purpose):
        """Generated clips `[B, T, H, W, C]` and the categories they were made from."""
        latents = self._latents(*video_shape, purpose)
        return self.generator(latents, training=True)["video"], latents.get("category")

    def _fake_images(self, num_images, purpose):
        """One random frame of each of `num_images` generated clips, `[B, H, W, C]` (the paper's S_1).

        Only that frame is decoded: the same distribution as decoding whole clips, at a T-th of the cost.
        """
        num_frames = self.video_discriminator.video_length
        codes = self.generator.codes(self._latents(num_images, num_frames, purpose), training=True)
        frame = share(
            lambda total: tf.random.stateless_uniform(
                (total,), fold(self._seed(purpose), _FRAME), 0, num_frames, tf.int32
            ),
            num_images,
        )
        return self.generator.decoder(tf.gather(codes, frame, axis=1, batch_dims=1), training=True)

    def _r1(self, weight, discriminator, real):
        """The lazy R1 penalty; exactly zero, and free, in the steps between."""
        if not weight:
            return 0.0

        def penalty():
            with tf.GradientTape() as tape:
                tape.watch(real)
                logits = discriminator(real, training=True)
                summed = ops.sum(ops.mean(ops.cast(logits, keras.config.floatx()), axis=-1))
            return weight * self.r1_every * losses.r1_penalty(tape.gradient(summed, real))

        return tf.cond(
            tf.equal(self.step.value % self.r1_every, 0), penalty, lambda: tf.zeros((), keras.config.floatx())
        )
