"""What every video GAN trained here shares: seeded randomness, one optimizer step of one network, the moving average.

Everything random in a step is a function of (seed, step, purpose), through stateless ops: a resumed run repeats what an
uninterrupted one would have drawn, and N replicas draw their shares of one global batch.
"""

import keras
import tensorflow as tf
from keras import ops

# Names in the logs. `train_step` returns them; callbacks, log.jsonl and the tests read them.
LOSS_D_IMAGE = "loss_d_image"
LOSS_D_VIDEO = "loss_d_video"
LOSS_G = "loss_g"
LOSS_CATEGORY_D = "loss_category_d"
LOSS_CATEGORY_G = "loss_category_g"
ACCURACY_D_IMAGE = "accuracy_d_image"
ACCURACY_D_VIDEO = "accuracy_d_video"


def draw_latents(spec, num_videos, num_frames, seed):
    """Draws generator inputs in the graph, for training.

    Args:
        spec: `LatentSpec` or `CodeSpec`.
        num_videos: Number of clips, B.
        num_frames: Frames per clip, T.
        seed: int32 `[2]`.

    Returns:
        dict of float32 tensors with the names, shapes and distributions of `mocogan_tf.latents.sample_latents`.
    """
    latents, dtype = {}, keras.config.floatx()
    for i, (name, shape) in enumerate(sorted(spec.shapes(num_videos, num_frames).items())):
        own_seed = tf.random.experimental.stateless_fold_in(seed, i)
        distribution = spec.distributions[name]
        if distribution == "one_hot":
            drawn = tf.random.stateless_uniform(shape[:1], own_seed, 0, spec.dim_category, tf.int32)
            latents[name] = tf.one_hot(drawn, spec.dim_category, dtype=dtype)
        elif distribution == "uniform":
            latents[name] = tf.random.stateless_uniform(shape, own_seed, -1.0, 1.0, dtype=dtype)
        else:
            latents[name] = tf.random.stateless_normal(shape, own_seed, dtype=dtype)
    return latents


class AdversarialModel(keras.Model):
    """A generator and its discriminators as one Keras model; a subclass adds `train_step`.

    Under a distribution strategy the batch is one replica's share; the sum of N replicas' steps equals one.

    Args:
        generator: Called as `generator(latents)`, gives `{"video": [B, T, H, W, C], ...}`; has `latents`, the sizes of
            its inputs.
        video_discriminator: Judges clips.
        image_discriminator: Judges frames; None trains without.
        average: A second generator of the same configuration, which follows the first as a moving average and is what
            samples, metrics and exports use; None keeps no average.
        seed: Seed of latents and noise.
        weight_decay: Coupled L2 decay: this times the weights is added to the gradients of all networks.
        ema_decay: Decay of the moving average; early on it is (1 + step) / (10 + step), so that it forgets the start.
    """

    def __init__(
        self,
        *,
        generator,
        video_discriminator,
        image_discriminator=None,
        average=None,
        seed=0,
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
        self.weight_decay = weight_decay
        self.ema_decay = ema_decay
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step", aggregation="only_first_replica"
        )
        if average is not None:
            average.trainable = False
            average.set_weights(generator.get_weights())
        self.built = True  # It has no `call`: a batch goes through `train_step` only.

    @property
    def sampler(self):
        """The generator that samples, metrics and exports use: the average, where there is one."""
        return self.generator if self.average is None else self.average

    @property
    def networks(self):
        """The trained networks, by the names that people read."""
        networks = {
            "generator": self.generator,
            "image discriminator": self.image_discriminator,
            "video discriminator": self.video_discriminator,
        }
        return {name: network for name, network in networks.items() if network is not None}

    @property
    def optimizers(self):
        """The optimizers of the trained networks."""
        return [one for one in (self.g_optimizer, self.d_image_optimizer, self.d_video_optimizer) if one is not None]

    @property
    def state(self):
        """All variables that a run goes on with: weights, moving average, step, Adam's moments and loss scales."""
        return [*self.weights, *(variable for optimizer in self.optimizers for variable in optimizer.variables)]

    def compile(self, *, g_optimizer, d_video_optimizer, d_image_optimizer=None, **kwargs):
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

    def _minimize(self, loss_fn, network, optimizer, tape=None):
        """One optimizer step of one network on `loss_fn() -> (loss, logs)`; returns the logs.

        Args:
            loss_fn: Called under the tape.
            network: Whose weights move.
            optimizer: Which moves them.
            tape: Has recorded what the loss builds on, where networks share a forward pass; None: there is nothing.
        """
        variables = network.trainable_variables
        tape = tf.GradientTape() if tape is None else tape
        with tape:
            loss, logs = loss_fn()
            if self.weight_decay:
                loss += 0.5 * self.weight_decay * sum(ops.sum(ops.square(v)) for v in variables)
            # Optimizers sum gradients over replicas, and each replica's loss is a mean over its share.
            scaled = optimizer.scale_loss(loss / tf.distribute.get_strategy().num_replicas_in_sync)
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return logs

    def _end_step(self, logs):
        """What every step ends with: it is counted, and the average moves. Returns what Keras wants of the logs."""
        self.step.assign_add(1)
        self._update_average()
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            return {name: value[None] for name, value in logs.items()}  # The workers' mean is taken over an axis.
        return logs

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Everything is built before `fit`; to find that out Keras would draw a batch, and fail on several workers."""

    def _latents(self, num_videos, num_frames, purpose):
        """This replica's share of the global batch's latents."""
        return share(
            lambda total: draw_latents(self.generator.latents, total, num_frames, self._seed(purpose)), num_videos
        )

    def _seed(self, purpose):
        """The seed of (run, step, purpose), int32 `[2]`, equal on all replicas."""
        return fold(fold(tf.constant([self.seed, 0]), self.step.value), purpose)

    def _noise_seed(self, purpose):
        """The seed of this replica's instance noise."""
        return fold(self._seed(purpose), tf.distribute.get_replica_context().replica_id_in_sync_group)

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


def share(draw, size):
    """Draws `size` rows per replica for all replicas at once, and returns this replica's rows."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return draw(size)
    first = context.replica_id_in_sync_group * size
    return tf.nest.map_structure(
        lambda rows: tf.slice(rows, [first] + [0] * (rows.shape.rank - 1), [size] + [-1] * (rows.shape.rank - 1)),
        draw(size * context.num_replicas_in_sync),
    )


def fold(seed, data):
    """A seed int32 `[2]` that belongs to another one and a number."""
    return tf.random.experimental.stateless_fold_in(seed, data)


def accuracy(real_logits, fake_logits):
    """Share of real and of generated patches that the discriminator tells apart."""
    right = ops.mean(ops.cast(real_logits > 0, "float32")) + ops.mean(ops.cast(fake_logits < 0, "float32"))
    return 0.5 * right
