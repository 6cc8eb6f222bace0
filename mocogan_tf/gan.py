"""MoCoGAN as one Keras model: the three networks, their three optimizers, and the training step.

Everything random in a step is a function of (seed, step, purpose), through stateless ops: a resumed run repeats what an
uninterrupted one would have drawn, and N replicas draw their shares of one global batch.
"""

import keras
import tensorflow as tf
from keras import ops

from mocogan_tf import losses

# Names in the logs. `train_step` returns them; callbacks, log.jsonl and the tests read them.
LOSS_D_IMAGE = "loss_d_image"
LOSS_D_VIDEO = "loss_d_video"
LOSS_G = "loss_g"
LOSS_CATEGORY_D = "loss_category_d"
LOSS_CATEGORY_G = "loss_category_g"
ACCURACY_D_IMAGE = "accuracy_d_image"
ACCURACY_D_VIDEO = "accuracy_d_video"

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


def draw_latents(spec, num_videos, num_frames, seed):
    """Draws generator inputs in the graph, for training.

    Args:
        spec: `LatentSpec`.
        num_videos: Number of clips, B.
        num_frames: Frames per clip, T.
        seed: int32 `[2]`.

    Returns:
        dict as of `mocogan_tf.latents.sample_latents`: float32 tensors, N(0, 1), `category` one-hot.
    """
    latents = {}
    for i, (name, shape) in enumerate(sorted(spec.shapes(num_videos, num_frames).items())):
        own_seed = tf.random.experimental.stateless_fold_in(seed, i)
        if name == "category":
            drawn = tf.random.stateless_uniform(shape[:1], own_seed, 0, spec.dim_category, tf.int32)
            latents[name] = tf.one_hot(drawn, spec.dim_category, dtype=keras.config.floatx())
        else:
            latents[name] = tf.random.stateless_normal(shape, own_seed, dtype=keras.config.floatx())
    return latents


class MoCoGAN(keras.Model):
    """Generator, image discriminator and video discriminator, trained against each other.

    `train_step` takes `{"images": [Bi, H, W, C], "videos": [Bv, T, H, W, C], "labels": [Bv]}`, float32 in [-1, 1] and
    int32, and makes one step of D_I, of D_V and of (G_I, R_M), in the order of the authors' code, each on fakes of its
    own. Under a distribution strategy the batch is one replica's share; the sum of N replicas' steps equals one.

    Args:
        generator: `VideoGenerator`.
        image_discriminator: `ImageDiscriminator` or `PatchImageDiscriminator`; None trains without (Table 4).
        video_discriminator: `VideoDiscriminator`.
        average: A second `VideoGenerator` of the same configuration, which follows the first as a moving average and
            is what samples, metrics and exports use; None keeps no average.
        seed: Seed of latents and noise.
        category_loss: "none", "supervised" (the class head learns real labels, the generator is scored by it) or
            "infogan" (class head and generator both learn from fakes).
        category_weight: Weight of the category loss, the paper's lambda.
        r1_image: Weight of the R1 penalty on D_I, 0 for none.
        r1_video: Weight of the R1 penalty on D_V, 0 for none.
        r1_every: Steps between two penalties, each scaled up by this number (lazy regularisation, Karras et al. 2020).
        weight_decay: Coupled L2 decay: this times the weights is added to the gradients of all networks.
        ema_decay: Decay of the moving average; early on it is (1 + step) / (10 + step), so that it forgets the start.
    """

    def __init__(
        self,
        *,
        generator,
        image_discriminator,
        video_discriminator,
        average=None,
        seed=0,
        category_loss="none",
        category_weight=1.0,
        r1_image=0.0,
        r1_video=0.0,
        r1_every=16,
        weight_decay=0.0,
        ema_decay=0.999,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.generator = generator
        self.image_discriminator = image_discriminator
        self.video_discriminator = video_discriminator
        self.average = average
        self.seed = seed
        self.category_loss = category_loss
        self.category_weight = category_weight
        self.r1_image, self.r1_video, self.r1_every = r1_image, r1_video, r1_every
        self.weight_decay = weight_decay
        self.ema_decay = ema_decay
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step", aggregation="only_first_replica"
        )
        if average is not None:
            average.trainable = False
            average.set_weights(generator.get_weights())
        self.built = True  # It has no `call`: a batch goes through `train_step` only.

    def compile(self, *, g_optimizer, d_image_optimizer, d_video_optimizer, **kwargs):
        """Takes one optimizer per network; `d_image_optimizer` is None without an image discriminator.

        They are built here, so that restoring a checkpoint finds Adam's moments to fill.
        """
        super().compile(optimizer=None, **kwargs)  # Without the argument Keras adds an RMSprop of its own.
        self.g_optimizer = g_optimizer
        self.d_image_optimizer = d_image_optimizer
        self.d_video_optimizer = d_video_optimizer
        g_optimizer.build(self.generator.trainable_variables)
        d_video_optimizer.build(self.video_discriminator.trainable_variables)
        if self.image_discriminator is not None:
            d_image_optimizer.build(self.image_discriminator.trainable_variables)

    def train_step(self, batch):
        """One step of each network. Returns the logged scalars by name."""
        images, videos, labels = batch["images"], batch["videos"], batch["labels"]
        logs = {}
        if self.image_discriminator is not None:
            logs.update(self._step_d_image(images))
        logs.update(self._step_d_video(videos, labels))
        logs.update(self._step_g(images.shape[0], videos.shape[:2]))
        self.step.assign_add(1)
        self._update_average()
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            logs = {name: value[None] for name, value in logs.items()}  # Keras takes the workers' mean over an axis.
        return logs

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Everything is built before `fit`; to find that out Keras would draw a batch, and fail on several workers."""

    def _step_d_image(self, images):
        fakes = self._fake_images(images.shape[0], _LATENTS_IMAGE)
        noise = self._noise_seed(_NOISE_IMAGE)

        def loss():
            # Real and fake in passes of their own, so that batch normalisation never mixes them.
            real_logits = self.image_discriminator(images, training=True, seed=_fold(noise, 0))
            fake_logits = self.image_discriminator(fakes, training=True, seed=_fold(noise, 1))
            gan = losses.discriminator_loss(real_logits, fake_logits)
            logs = {LOSS_D_IMAGE: gan, ACCURACY_D_IMAGE: _accuracy(real_logits, fake_logits)}
            return gan + self._r1(self.r1_image, self.image_discriminator, images), logs

        return self._minimize(loss, self.image_discriminator, self.d_image_optimizer)

    def _step_d_video(self, videos, labels):
        fakes, fake_category = self._fake_videos(videos.shape[:2], _LATENTS_VIDEO)
        noise = self._noise_seed(_NOISE_VIDEO)

        def loss():
            real_logits, real_classes = self.video_discriminator(videos, training=True, seed=_fold(noise, 0))
            fake_logits, fake_classes = self.video_discriminator(fakes, training=True, seed=_fold(noise, 1))
            gan = losses.discriminator_loss(real_logits, fake_logits)
            logs = {LOSS_D_VIDEO: gan, ACCURACY_D_VIDEO: _accuracy(real_logits, fake_logits)}
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

    def _minimize(self, loss_fn, network, optimizer):
        """One optimizer step of one network on `loss_fn() -> (loss, logs)`; returns the logs."""
        variables = network.trainable_variables
        with tf.GradientTape() as tape:
            loss, logs = loss_fn()
            if self.weight_decay:
                loss += 0.5 * self.weight_decay * sum(ops.sum(ops.square(v)) for v in variables)
            # Optimizers sum gradients over replicas, and each replica's loss is a mean over its share.
            scaled = optimizer.scale_loss(loss / tf.distribute.get_strategy().num_replicas_in_sync)
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return logs

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
        frame = _share(
            lambda total: tf.random.stateless_uniform(
                (total,), _fold(self._seed(purpose), _FRAME), 0, num_frames, tf.int32
            ),
            num_images,
        )
        return self.generator.decoder(tf.gather(codes, frame, axis=1, batch_dims=1), training=True)

    def _latents(self, num_videos, num_frames, purpose):
        """This replica's share of the global batch's latents."""
        return _share(
            lambda total: draw_latents(self.generator.latents, total, num_frames, self._seed(purpose)), num_videos
        )

    def _seed(self, purpose):
        """The seed of (run, step, purpose), int32 `[2]`, equal on all replicas."""
        return _fold(_fold(tf.constant([self.seed, 0]), self.step.value), purpose)

    def _noise_seed(self, purpose):
        """The seed of this replica's instance noise."""
        return _fold(self._seed(purpose), tf.distribute.get_replica_context().replica_id_in_sync_group)

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

    def _update_average(self):
        """Moves the averaged generator towards the trained one, moving statistics included."""
        if self.average is None:
            return
        step = tf.cast(self.step.value, keras.config.floatx())
        keep = tf.minimum(tf.cast(self.ema_decay, step.dtype), (1.0 + step) / (10.0 + step))
        averages = [variable.value for variable in self.average.weights]
        values = [variable.value for variable in self.generator.weights]

        def update(strategy, keep):
            for average, value in zip(averages, values, strict=True):
                strategy.extended.update(
                    average, lambda a, v, k: a.assign(v + k * (a - v)), args=(value, keep), group=False
                )

        # Variables of all replicas are written at once: that is done from outside the replicas.
        tf.distribute.get_replica_context().merge_call(update, args=(keep,))


def _share(draw, size):
    """Draws `size` rows per replica for all replicas at once, and returns this replica's rows."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return draw(size)
    first = context.replica_id_in_sync_group * size
    return tf.nest.map_structure(
        lambda rows: tf.slice(rows, [first] + [0] * (rows.shape.rank - 1), [size] + [-1] * (rows.shape.rank - 1)),
        draw(size * context.num_replicas_in_sync),
    )


def _fold(seed, data):
    return tf.random.experimental.stateless_fold_in(seed, data)


def _accuracy(real_logits, fake_logits):
    """Share of real and of generated patches that the discriminator tells apart."""
    right = ops.mean(ops.cast(real_logits > 0, "float32")) + ops.mean(ops.cast(fake_logits < 0, "float32"))
    return 0.5 * right
