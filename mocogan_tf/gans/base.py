"""What every video GAN here shares: seeded randomness, optimizer steps, the moving average.

A training step has three parts. First, TensorFlow's stateless operations draw everything random as a function of
(seed, step, purpose): a resumed run repeats what an uninterrupted one would have drawn, and N replicas draw their
shares of one global batch; instance noise alone is each replica's own. Then functions without side effects, which XLA
may compile, compute losses and gradients.
Last come the updates, where replicas exchange values: optimizers, moving average, statistics of batch normalisation.
"""

from __future__ import annotations

import contextlib
import inspect
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from mocogan_tf.gans import batches
from mocogan_tf.gans.optimizers import LossScale
from mocogan_tf.gans.replicas import share, sum_over_replicas
from mocogan_tf.latents import CodeSpec, LatentSpec
from mocogan_tf.models.blocks import Generator

# Names in the logs. `train_step` returns them; callbacks, log.jsonl and the tests read them.
LOSS_D_IMAGE = "loss_d_image"
LOSS_D_VIDEO = "loss_d_video"
LOSS_G = "loss_g"
LOSS_CATEGORY_D = "loss_category_d"
LOSS_CATEGORY_G = "loss_category_g"
LOSS_RECONSTRUCT = "loss_reconstruct"
LOSS_PAIRS = "loss_pairs"
LOSS_POSES = "loss_poses"
ACCURACY_D_IMAGE = "accuracy_d_image"
ACCURACY_D_VIDEO = "accuracy_d_video"

Logs = dict[str, tf.Tensor]
LossAndLogs = tuple[tf.Tensor, Logs]
Inputs = dict[str, Any]  # All tensors that a step's losses take: pixels in [-1, 1], labels, everything drawn.
Outcome = tuple[dict[str, list[tf.Tensor]], Logs, list[tf.Tensor | None]]


def draw_latents(
    spec: LatentSpec | CodeSpec, num_videos: int, num_frames: int | None, seed: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Draws generator inputs in the graph, for training.

    Args:
        spec: Sizes of the inputs.
        num_videos: Number of clips, B.
        num_frames: Frames per clip, T.
        seed: int32 `[2]`.

    Returns:
        dict of float32 tensors with the names, shapes and distributions of `mocogan_tf.latents.sample_latents`; without
        content that is encoded.
    """
    latents, dtype = {}, keras.config.floatx()
    for i, (name, shape) in enumerate(sorted(spec.shapes(num_videos, num_frames).items())):
        own_seed = tf.random.experimental.stateless_fold_in(seed, i)
        distribution = spec.distributions[name]
        if distribution == "encoded":
            continue
        if distribution == "one_hot":
            drawn = tf.random.stateless_uniform(shape[:1], own_seed, 0, shape[1], tf.int32)
            latents[name] = tf.one_hot(drawn, shape[1], dtype=dtype)
        elif distribution == "uniform":
            latents[name] = tf.random.stateless_uniform(shape, own_seed, -1.0, 1.0, dtype=dtype)
        else:
            latents[name] = tf.random.stateless_normal(shape, own_seed, dtype=dtype)
    return latents


@contextlib.contextmanager
def dtype_policy(policy: Any) -> Iterator[None]:
    """Sets Keras's global policy, which new layers take, for a while; None leaves it."""
    before = keras.config.dtype_policy()
    try:
        if policy is not None:
            keras.config.set_dtype_policy(policy)
        yield
    finally:
        keras.config.set_dtype_policy(before)


class AdversarialModel(keras.Model):
    """A generator and its discriminators as one Keras model; a subclass adds `train_step`.

    `compile`, `fit`, `save` and `keras.saving.load_model` work as with any Keras model; docs/library.md shows how.
    Under a distribution strategy the batch is one replica's share; without instance noise the sum of N replicas' steps
    equals one.

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
        generator: keras.Model,
        video_discriminator: keras.Model,
        image_discriminator: keras.Model | None = None,
        average: keras.Model | None = None,
        seed: int = 0,
        weight_decay: float = 0.0,
        ema_decay: float = 0.999,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.generator = generator
        self.image_discriminator: Any = image_discriminator
        self.video_discriminator = video_discriminator
        self.average = average
        self.seed = seed
        self.weight_decay = weight_decay
        self.ema_decay = ema_decay
        self.step = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step", aggregation="only_first_replica"
        )
        # A TensorFlow variable: Keras would save its own kind in checkpoints.
        self._not_finite = tf.Variable(
            0, trainable=False, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
        if average is not None:
            average.trainable = False
            average.set_weights(generator.get_weights())
        self.xla = False
        self.built = True  # It has no `call`: a batch goes through `train_step` only.

    @property
    def sampler(self) -> keras.Model:
        """The generator that samples, metrics and exports use: the average, where there is one."""
        return self.generator if self.average is None else self.average

    @property
    def networks(self) -> dict[str, keras.Model]:
        """The trained networks, by the names that people read."""
        networks = {
            "generator": self.generator,
            "image discriminator": self.image_discriminator,
            "video discriminator": self.video_discriminator,
        }
        return {name: network for name, network in networks.items() if network is not None}

    @property
    def _optimizers(self) -> dict[str, Any]:
        """The optimizers by the attributes that hold their networks."""
        return {
            "generator": self.g_optimizer,
            "image_discriminator": self.d_image_optimizer,
            "video_discriminator": self.d_video_optimizer,
        }

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The optimizers of the trained networks."""
        return [optimizer for optimizer in self._optimizers.values() if optimizer is not None]

    @property
    def state(self) -> list[keras.Variable]:
        """All variables that a run goes on with: weights, moving average, step, Adam's moments and loss scales."""
        return [*self.weights, *(variable for optimizer in self.optimizers for variable in optimizer.variables)]

    @property
    def first_step_not_finite(self) -> int:
        """The first step since the model was built at which a loss was not finite; 0 if there is none."""
        return int(self._not_finite.numpy())

    def compile(
        self,
        *,
        g_optimizer: keras.optimizers.Optimizer,
        d_video_optimizer: keras.optimizers.Optimizer,
        d_image_optimizer: keras.optimizers.Optimizer | None = None,
        xla: bool = False,
        **kwargs: Any,
    ) -> None:
        """Takes one optimizer per network; `d_image_optimizer` is None without an image discriminator.

        They are built here, so that restoring a checkpoint finds Adam's moments to fill; so are the discriminators, if
        they are not built yet. Under the policy "mixed_float16" an optimizer without a loss scale gets one.

        Args:
            g_optimizer: Of the generator.
            d_video_optimizer: Of the video discriminator.
            d_image_optimizer: Of the image discriminator.
            xla: Whether XLA compiles the losses and gradients.
            **kwargs: As of `keras.Model.compile`. Several replicas make one step per call, whatever
                `steps_per_execution` is.

        Raises:
            ValueError: The networks do not fit each other, or the optimizers do not fit the networks.
        """
        if (d_image_optimizer is None) != (self.image_discriminator is None):
            has = "no image discriminator" if self.image_discriminator is None else "an image discriminator"
            raise ValueError(
                f"`d_image_optimizer` goes with an image discriminator. Received: {d_image_optimizer}, {has}."
            )
        given = [optimizer for optimizer in (g_optimizer, d_video_optimizer, d_image_optimizer) if optimizer]
        if len({id(optimizer) for optimizer in given}) < len(given):
            raise ValueError("Each network needs an optimizer of its own. Received: one optimizer for several.")
        self._build_discriminators()
        self._compile_options = kwargs
        if self.distribute_strategy.num_replicas_in_sync > 1:
            # Keras's loop over steps does not run on several: TensorFlow asks for the value of a placeholder.
            kwargs = {**kwargs, "steps_per_execution": 1}
        # Without `optimizer` Keras adds an RMSprop of its own. It would compile the whole step, updates included, which
        # fails under a strategy.
        super().compile(optimizer=None, jit_compile=False, **kwargs)
        self.xla = xla
        self.g_optimizer = self._with_loss_scale(g_optimizer)
        self.d_image_optimizer: Any = self._with_loss_scale(d_image_optimizer)
        self.d_video_optimizer = self._with_loss_scale(d_video_optimizer)
        for name, optimizer in self._optimizers.items():
            if optimizer is not None:
                optimizer.build(getattr(self, name).trainable_variables)

    def _with_loss_scale(self, optimizer: keras.optimizers.Optimizer | None) -> keras.optimizers.Optimizer | None:
        scaled = optimizer is None or isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        return optimizer if scaled or self.dtype_policy.name != "mixed_float16" else LossScale(optimizer)

    @property
    def example_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one example by the keys that a batch must have."""
        config = self.generator.config
        frame = (config["image_size"], config["image_size"], config["channels"])
        return {"videos": (self.video_discriminator.video_length, *frame)}

    @property
    def _judged_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of what each discriminator judges, by its name among `networks`."""
        return {"video discriminator": self.example_shapes["videos"]}

    def _build_discriminators(self) -> None:
        """Builds those that are not built yet."""
        unbuilt = {name: network for name, network in self.networks.items() if not network.built}
        if not unbuilt or not isinstance(self.generator, Generator):  # The sizes of others are not known.
            return
        self.generator.latents.shapes(None, self.video_discriminator.video_length)  # Refuses lengths that do not fit.
        for name, network in unbuilt.items():
            shape = self._judged_shapes[name]
            try:
                network.build((None, *shape))
            except ValueError as error:
                given = " x ".join(map(str, shape))
                raise ValueError(f"The {name} cannot judge what it is given, {given}: {error}") from error

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, after a look at the first batch of a `tf.data.Dataset`.

        Raises:
            ValueError: Its batches do not have `example_shapes`, or their values are out of range.
        """
        if isinstance(x, tf.data.Dataset):
            batches.check(x.element_spec, self.example_shapes)
            for batch in x.take(1):
                batches.check_values(batch, self.example_shapes, self.generator.latents.dim_category)
        return super().fit(x, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        names = [name for made in (type(self), AdversarialModel) for name in _keywords(made)]
        config = {name: getattr(self, name) for name in names}
        serialized = {
            name: keras.saving.serialize_keras_object(value) if isinstance(value, keras.Model) else value
            for name, value in config.items()
        }
        return {**serialized, "name": self.name, "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> AdversarialModel:
        with dtype_policy(config["dtype"]):  # Of its networks too.
            networks = {
                name: keras.saving.deserialize_keras_object(value, custom_objects)
                for name, value in config.items()
                if isinstance(value, dict)
            }
            return cls(**{**config, **networks})

    def get_compile_config(self) -> dict[str, Any]:
        if not self.compiled:
            return {}
        optimizers = {
            "g_optimizer": self.g_optimizer,
            "d_video_optimizer": self.d_video_optimizer,
            "d_image_optimizer": self.d_image_optimizer,
        }
        serialized = {name: keras.saving.serialize_keras_object(value) for name, value in optimizers.items()}
        return {**serialized, "xla": self.xla, **self._compile_options}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})

    def save(self, filepath: str | pathlib.Path, *args: Any, **kwargs: Any) -> None:
        """Saves networks, average, optimizers and step in one .keras file, as `keras.Model.save` does.

        `keras.saving.load_model` gives the model back, compiled, and training goes on as if it had not stopped.

        Raises:
            ValueError: `filepath` does not end in .keras, or a network or optimizer could not be read back.
        """
        if pathlib.Path(filepath).suffix != ".keras":
            raise ValueError(f"A {type(self).__name__} is saved in one format, .keras. Received: {filepath}")
        try:
            self.from_config(self.get_config()).compile_from_config(self.get_compile_config())
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"{filepath} could not be read again, so it is not written: a network or optimizer cannot be rebuilt "
                "from its configuration. Give its class a `get_config` and register it with "
                f"`keras.saving.register_keras_serializable`, or use `save_weights`. {error}"
            ) from error
        super().save(filepath, *args, **kwargs)

    def _descend(self, losses: Callable[[Inputs], dict[str, LossAndLogs]], inputs: Inputs) -> Logs:
        """Makes one optimizer step of each network that `losses` names; returns the logs of all.

        All gradients are taken before any of the networks moves.

        Args:
            losses: A method that takes the inputs and returns `(loss, logs)` by "generator", "image_discriminator" or
                "video_discriminator". It has no side effect but on variables of the networks.
            inputs: Nested tensors of fixed shapes.
        """
        gradients, logs, values = self._gradient_function(losses)(inputs)
        for name, gradient in gradients.items():
            self._optimizers[name].apply(gradient, getattr(self, name).trainable_variables)
        for variable, value in zip(self._moving, values, strict=True):
            if value is not None:
                variable.assign(value)
        return logs

    @property
    def _moving(self) -> list[keras.Variable]:
        """Variables that a forward pass moves: statistics of batch normalisation, vectors of spectral normalisation."""
        return [variable for network in self.networks.values() for variable in network.non_trainable_variables]

    def _gradient_function(self, losses: Callable[[Inputs], dict[str, LossAndLogs]]) -> Callable[[Inputs], Outcome]:
        """Returns the function from inputs to gradients by network, logs, and values of `_moving` (None: unchanged)."""

        def compute(inputs: Inputs) -> Outcome:
            with keras.StatelessScope() as scope:
                with tf.GradientTape(persistent=True) as tape:
                    outcomes = losses(inputs)
                    scaled = {name: self._scaled(name, loss) for name, (loss, _) in outcomes.items()}
                gradients = {
                    name: tape.gradient(loss, getattr(self, name).trainable_variables) for name, loss in scaled.items()
                }
                values = [scope.get_current_value(variable) for variable in self._moving]
            return gradients, {key: value for _, logs in outcomes.values() for key, value in logs.items()}, values

        # Made anew in each trace of the step: every replica's has that replica's variables.
        return tf.function(compute, jit_compile=True, autograph=False) if self.xla else compute

    def _scaled(self, name: str, loss: tf.Tensor) -> tf.Tensor:
        """Returns a network's loss with its weight decay, scaled for the number of replicas and for half precision."""
        if self.weight_decay:
            variables = getattr(self, name).trainable_variables
            loss += 0.5 * self.weight_decay * sum(ops.sum(ops.square(variable)) for variable in variables)
        # Optimizers sum gradients over replicas, and each replica's loss is a mean over its share.
        return self._optimizers[name].scale_loss(loss / tf.distribute.get_strategy().num_replicas_in_sync)

    def _end_step(self, logs: Logs) -> Logs:
        """Counts the step and moves the average; returns the logs in the form that Keras expects."""
        self.step.assign_add(1)
        self._note_not_finite(logs)
        self._update_average()
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            return {name: value[None] for name, value in logs.items()}  # The workers' mean is taken over an axis.
        return logs

    def _note_not_finite(self, logs: Logs) -> None:
        """Notes on the device whether this is the first step with a loss that is not finite, on any replica."""
        wrong = tf.reduce_sum([tf.cast(~tf.math.is_finite(value), tf.float32) for value in logs.values()])
        wrong = sum_over_replicas(wrong)
        is_first = (wrong > 0) & tf.equal(self._not_finite, 0)
        self._not_finite.assign(tf.where(is_first, self.step.value, self._not_finite))

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing, as all is built: Keras would draw a batch to find out, and fail on several workers."""

    def _latents(self, num_videos: int, num_frames: int | None, purpose: int) -> dict[str, tf.Tensor]:
        """Returns this replica's share of the global batch's latents."""
        return share(
            lambda total: draw_latents(self.generator.latents, total, num_frames, self._seed(purpose)), num_videos
        )

    def _seed(self, purpose: int) -> tf.Tensor:
        """Returns the seed of (run, step, purpose), int32 `[2]`, equal on all replicas."""
        return fold(fold(tf.constant([self.seed, 0]), self.step.value), purpose)

    def _noise(self, discriminator: keras.Model, number: int, purpose: int) -> Sequence[tf.Tensor]:
        """Draws the instance noise of this replica's examples."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return discriminator.draw_noise(number, fold(self._seed(purpose), replica))

    def _update_average(self) -> None:
        """Moves the averaged generator towards the trained one, moving statistics included."""
        if self.average is None:
            return
        step = tf.cast(self.step.value, keras.config.floatx())
        keep = tf.minimum(tf.cast(self.ema_decay, step.dtype), (1.0 + step) / (10.0 + step))
        averages = [variable.value for variable in self.average.weights]
        values = [variable.value for variable in self.generator.weights]

        def update(strategy: tf.distribute.Strategy, keep: tf.Tensor) -> None:
            for average, value in zip(averages, values, strict=True):
                strategy.extended.update(
                    average, lambda a, v, k: a.assign(v + k * (a - v)), args=(value, keep), group=False
                )

        # This writes the variables of all replicas at once, which only code outside the replicas can do.
        tf.distribute.get_replica_context().merge_call(update, args=(keep,))


def _keywords(made: Any) -> list[str]:
    """Returns the names of a constructor's arguments, `**kwargs` aside."""
    parameters = inspect.signature(made.__init__).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind == inspect.Parameter.KEYWORD_ONLY]


def to_float(pixels: tf.Tensor) -> tf.Tensor:
    """Maps uint8 pixels 0..255 to -1..1; gives those that are floating point Keras's own type."""
    floats = tf.cast(pixels, keras.config.floatx())
    return floats / 127.5 - 1.0 if pixels.dtype == tf.uint8 else floats


def fold(seed: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """Returns the seed, int32 `[2]`, that belongs to another seed and a number."""
    return tf.random.experimental.stateless_fold_in(seed, data)


def accuracy(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Returns the share of real and generated patches that the discriminator classifies correctly."""
    right = ops.mean(ops.cast(real_logits > 0, "float32")) + ops.mean(ops.cast(fake_logits < 0, "float32"))
    return 0.5 * right
