"""MoCoGAN: three networks trained against each other, and the step that trains them."""

import keras
import tensorflow as tf
from keras import ops

from mocogan_tf.gans import losses
from mocogan_tf.gans.augment import DRAWS, augment
from mocogan_tf.gans.base import (
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
from mocogan_tf.models.generator import compose, halved

# What a random number is for; folded into the step's seed.
_LATENTS_IMAGE, _LATENTS_VIDEO, _LATENTS_IMAGE_G, _LATENTS_VIDEO_G, _NOISE_IMAGE, _NOISE_VIDEO = range(6)
# Folded in once more. The latents' names take the numbers from 0.
_FRAME, _AUGMENT_REAL, _AUGMENT_FAKE = 100, 101, 102


class MoCoGAN(AdversarialModel):
    """Generator, image discriminator and video discriminator, trained against each other.

    `train_step` takes `{"images": [Bi, H, W, C], "videos": [Bv, T, H, W, C], "labels": [Bv]}`, float32 in [-1, 1] and
    int32, and makes one step of D_I, of D_V and of (G_I, R_M), in the order of the authors' code, each on fakes of its
    own; with `share_fakes` all on the same, through discriminators that have not moved yet. Without an image
    discriminator there need be no images. With `image_frames` k > 1 the images are `[Bi, k, H, W, C]`: frames of one
    clip, which D_I sees side by side.

    Args:
        category_loss: "none", "supervised" (the class head learns real labels, the generator is scored by it) or
            "infogan" (class head and generator both learn from fakes).
        category_weight: Weight of the category loss, the paper's lambda.
        r1_image: Weight of the R1 penalty on D_I, 0 for none.
        r1_video: Weight of the R1 penalty on D_V, 0 for none.
        r1_every: Steps between two penalties, each scaled up by this number (lazy regularisation, Karras et al. 2020).
        label_smoothing: How far the discriminators' target of real clips is below 1.
        augmentations: What happens to clips and images before a discriminator sees them; names as of `Config.augment`.
        image_frames: Random frames of a clip that D_I sees side by side.
        share_fakes: Draw and judge fakes once per step: a seventh less to compute.
        video_size: What D_V judges: "full" clips, or clips of "half" the height and width, real ones averaged over 2x2
            pixels, generated ones without the decoder's last layers. Movement shows there as well, and pixels are D_I's
            (the division of labour of DVD-GAN, Clark et al. 2019): all frames but D_I's are spared the dearest layers.
        early_frames: D_I judges early frames of generated clips more often than late ones, a share of 1 / sqrt(T) first
            ones. Frames of real clips are alike at all times; generated ones should be, wherever they are looked at.
        mask_weight: Weight of the mean of the figures' masks, where there is a still ground.
        mask_steps: Steps over which that weight falls to nothing, evenly; 0: it stays.
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
        label_smoothing=0.0,
        augmentations=(),
        image_frames=1,
        share_fakes=False,
        video_size="full",
        early_frames=False,
        mask_weight=0.0,
        mask_steps=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.category_loss = category_loss
        self.category_weight = category_weight
        self.r1_image, self.r1_video, self.r1_every = r1_image, r1_video, r1_every
        self.label_smoothing = label_smoothing
        self.augmentations = tuple(augmentations)
        self.image_frames = image_frames
        self.share_fakes = share_fakes
        self.video_size = video_size
        self.early_frames = early_frames
        self.mask_weight, self.mask_steps = mask_weight, mask_steps

    def train_step(self, batch):
        """One step of each network. Returns the logged scalars by name."""
        videos, labels = batch["videos"], batch["labels"]
        if self.video_size == "half":
            videos = halved(videos)
        images = None if self.image_discriminator is None else batch["images"]
        # A network's instance noise has one seed per step, for real clips, fakes and the generator's step alike. Each
        # sees noise of the right distribution, and TensorFlow, finding the same operation three times, draws it once.
        noise = {purpose: self._noise_seed(purpose) for purpose in (_NOISE_IMAGE, _NOISE_VIDEO)}
        if self.share_fakes:
            return self._end_step(self._step_together(images, videos, labels, noise))
        logs = {} if images is None else self._step_d_image(images, noise)
        logs.update(self._step_d_video(videos, labels, noise))
        logs.update(self._step_g(0 if images is None else images.shape[0], videos.shape[:2], noise))
        return self._end_step(logs)

    def _step_d_image(self, images, noise):
        fakes = self._fake_images(images.shape[0], _LATENTS_IMAGE)
        return self._minimize(
            lambda: self._loss_d_image(images, self._judged_images(fakes, _LATENTS_IMAGE, noise), noise),
            self.image_discriminator,
            self.d_image_optimizer,
        )

    def _step_d_video(self, videos, labels, noise):
        fakes, category, _ = self._fake_videos(videos.shape[:2], _LATENTS_VIDEO)
        return self._minimize(
            lambda: self._loss_d_video(
                videos, labels, *self._judged_videos(fakes, _LATENTS_VIDEO, noise), category, noise
            ),
            self.video_discriminator,
            self.d_video_optimizer,
        )

    def _step_g(self, num_images, video_shape, noise):
        def loss():
            fakes, category, mask = self._fake_videos(video_shape, _LATENTS_VIDEO_G)
            judged = self._judged_videos(fakes, _LATENTS_VIDEO_G, noise)
            image_logits = None
            if self.image_discriminator is not None:
                images = self._fake_images(num_images, _LATENTS_IMAGE_G)
                image_logits = self._judged_images(images, _LATENTS_IMAGE_G, noise)
            return self._loss_g(image_logits, *judged, category, mask)

        return self._minimize(loss, self.generator, self.g_optimizer)

    def _step_together(self, images, videos, labels, noise):
        """One step of all networks on the same fakes, which are drawn and judged once."""
        image_logits, logs = None, {}
        with tf.GradientTape(persistent=True) as tape:
            fakes, category, mask = self._fake_videos(videos.shape[:2], _LATENTS_VIDEO)
            judged = self._judged_videos(fakes, _LATENTS_VIDEO, noise)
            if images is not None:
                fake_images = self._fake_images(images.shape[0], _LATENTS_IMAGE)
                image_logits = self._judged_images(fake_images, _LATENTS_IMAGE, noise)
        if images is not None:
            logs |= self._minimize(
                lambda: self._loss_d_image(images, image_logits, noise),
                self.image_discriminator,
                self.d_image_optimizer,
                tape,
            )
        logs |= self._minimize(
            lambda: self._loss_d_video(videos, labels, *judged, category, noise),
            self.video_discriminator,
            self.d_video_optimizer,
            tape,
        )
        # The discriminators have moved, but not in what the tape holds: this is the gradient through those that judged.
        return logs | self._minimize(
            lambda: self._loss_g(image_logits, *judged, category, mask), self.generator, self.g_optimizer, tape
        )

    def _judged_images(self, fakes, purpose, noise):
        """What D_I says of generated images."""
        fakes = side_by_side(self._augment(fakes, purpose, _AUGMENT_FAKE))
        return self.image_discriminator(fakes, training=True, seed=noise[_NOISE_IMAGE])

    def _judged_videos(self, fakes, purpose, noise):
        """What D_V says of generated clips: logits and class logits."""
        fakes = self._augment(fakes, purpose, _AUGMENT_FAKE)
        return self.video_discriminator(fakes, training=True, seed=noise[_NOISE_VIDEO])

    def _loss_d_image(self, images, fake_logits, noise):
        """D_I's loss on real images, which it judges here, and on what it said of fakes."""
        # Real and fake in passes of their own, so that batch normalisation never mixes them.
        images = side_by_side(self._augment(images, _LATENTS_IMAGE, _AUGMENT_REAL))
        real_logits = self.image_discriminator(images, training=True, seed=noise[_NOISE_IMAGE])
        gan = losses.discriminator_loss(real_logits, fake_logits, self.label_smoothing)
        logs = {LOSS_D_IMAGE: gan, ACCURACY_D_IMAGE: accuracy(real_logits, fake_logits)}
        return gan + self._r1(self.r1_image, self.image_discriminator, images), logs

    def _loss_d_video(self, videos, labels, fake_logits, fake_classes, fake_category, noise):
        """D_V's loss on real clips, which it judges here, and on what it said of fakes."""
        videos = self._augment(videos, _LATENTS_VIDEO, _AUGMENT_REAL)
        real_logits, real_classes = self.video_discriminator(videos, training=True, seed=noise[_NOISE_VIDEO])
        gan = losses.discriminator_loss(real_logits, fake_logits, self.label_smoothing)
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

    def _loss_g(self, image_logits, video_logits, classes, category, mask):
        """The loss of (G_I, R_M) on what the discriminators said of fakes; `image_logits` None: there is no D_I.

        `mask` is the mean of the figures' mask, which costs: without that the roles of ground and figures could be
        exchanged, and are. None: there is no ground.
        """
        gan = losses.generator_loss(video_logits)
        if image_logits is not None:
            gan += losses.generator_loss(image_logits)
        logs, total = {LOSS_G: gan}, gan
        if mask is not None:
            total += self._mask_weight() * mask
        if self.category_loss != "none":
            logs[LOSS_CATEGORY_G] = losses.category_loss(classes, category)
            total += self.category_weight * logs[LOSS_CATEGORY_G]
        return total, logs

    def _mask_weight(self):
        """What the masks' mean costs in this step."""
        if not self.mask_steps:
            return self.mask_weight
        done = tf.cast(self.step.value, keras.config.floatx()) / self.mask_steps
        return self.mask_weight * tf.maximum(1.0 - done, 0.0)

    def _fake_videos(self, video_shape, purpose):
        """Generated clips `[B, T, H, W, C]` of the size that D_V judges, their categories, and their masks' mean.

        Without categories or without a still ground None stands in their place.
        """
        latents = self._latents(*video_shape, purpose)
        codes = self.generator.codes(latents, training=True)
        frames = self.generator.frames if self.video_size == "full" else self.generator.half_frames
        if frames.ground is None:
            return frames(codes, training=True), latents.get("category"), None
        figures, ground = frames.parts(codes, training=True)
        return compose(figures, ground), latents.get("category"), ops.mean(figures[..., -1])

    def _fake_images(self, num_images, purpose):
        """One random frame of each of `num_images` generated clips, `[B, H, W, C]` (the paper's S_1).

        Only that frame is decoded: the same distribution as decoding whole clips, at a T-th of the cost. With several
        `image_frames`, that many of each clip, `[B, k, H, W, C]`.
        """
        several = self.image_frames > 1
        num_frames = self.video_discriminator.video_length
        codes = self.generator.codes(self._latents(num_images, num_frames, purpose), training=True)
        seed, per_clip = fold(self._seed(purpose), _FRAME), (self.image_frames,) if several else ()
        frame = share(lambda total: self._draw_frames((total, *per_clip), seed), num_images)
        frame = frame if several else frame[:, None]
        frames = self.generator.frames(tf.gather(codes, frame, axis=1, batch_dims=1), training=True)
        return frames if several else frames[:, 0]

    def _draw_frames(self, shape, seed):
        """Numbers of frames, int32, all equally likely; with `early_frames` T u^2 of u uniform on [0, 1)."""
        num_frames = self.video_discriminator.video_length
        if not self.early_frames:
            return tf.random.stateless_uniform(shape, seed, 0, num_frames, tf.int32)
        return tf.cast(num_frames * tf.square(tf.random.stateless_uniform(shape, seed)), tf.int32)

    def _augment(self, clips, purpose, which):
        """Augments this replica's share of the global batch of clips or images."""
        if not self.augmentations:
            return clips
        seed = fold(self._seed(purpose), which)
        draws = share(lambda total: tf.random.stateless_uniform((total, DRAWS), seed), clips.shape[0])
        return augment(clips, self.augmentations, draws)

    def _r1(self, weight, discriminator, real):
        """The lazy R1 penalty; exactly zero, and free, in the steps between."""
        if not weight:
            return 0.0

        def penalty():
            with tf.GradientTape() as tape:
                tape.watch(real)
                # Not as in training: spectral normalisation would move its vector, which no branch of `tf.cond` may.
                logits = discriminator(real, training=False)
                summed = ops.sum(ops.mean(ops.cast(logits, keras.config.floatx()), axis=-1))
            return weight * self.r1_every * losses.r1_penalty(tape.gradient(summed, real))

        if self.r1_every == 1:
            return penalty()
        return tf.cond(
            tf.equal(self.step.value % self.r1_every, 0), penalty, lambda: tf.zeros((), keras.config.floatx())
        )


def side_by_side(images):
    """Puts several frames of a clip into the channels: `[B, k, H, W, C]` becomes `[B, H, W, k * C]`."""
    if len(images.shape) == 4:
        return images
    batch, frames, height, width, channels = images.shape
    return ops.reshape(ops.transpose(images, (0, 2, 3, 1, 4)), (batch, height, width, frames * channels))
