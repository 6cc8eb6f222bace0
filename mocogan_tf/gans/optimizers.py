"""Optimizers, their step sizes, and loss scaling; registered, so that a saved model finds them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mocogan_tf.config import Config
from mocogan_tf.gans.replicas import sum_over_replicas


@keras.saving.register_keras_serializable("mocogan_tf")
class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's loss scaling, but a step counts as finite only if the gradients of all replicas are.

    Keras looks at the first replica's gradients, before they are summed: infinite ones of another replica would reach
    the weights.
    """

    def check_finite(self, grads: list[tf.Tensor | None]) -> tf.Tensor:
        wrong = tf.cast(~super().check_finite(grads), tf.float32)
        return tf.equal(sum_over_replicas(wrong), 0.0)


@keras.saving.register_keras_serializable("mocogan_tf")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A step size that rises evenly over the first `steps` steps, and then stays."""

    def __init__(self, learning_rate: float, steps: int) -> None:
        self.learning_rate, self.steps = learning_rate, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = (tf.cast(step, keras.config.floatx()) + 1.0) / self.steps
        return self.learning_rate * tf.minimum(done, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, "steps": self.steps}


@keras.saving.register_keras_serializable("mocogan_tf")
class HalfCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A step size that falls to `final` times itself over `steps` steps, on half a cosine (Loshchilov and Hutter 2017).

    Args:
        learning_rate: A number, or a schedule that gives one.
        steps: Steps of the fall.
        final: The share that is left at the end.
    """

    def __init__(
        self, learning_rate: float | keras.optimizers.schedules.LearningRateSchedule, steps: int, final: float
    ) -> None:
        self.learning_rate, self.steps, self.final = learning_rate, steps, final

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = tf.minimum(tf.cast(step, keras.config.floatx()) / self.steps, 1.0)
        share = self.final + (1.0 - self.final) * 0.5 * (1.0 + tf.cos(np.pi * done))
        before = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        return before * share

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, "steps": self.steps, "final": self.final}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HalfCosine:
        return cls(**{**config, "learning_rate": keras.saving.deserialize_keras_object(config["learning_rate"])})


def make_optimizer(config: Config, learning_rate: Any) -> keras.optimizers.Optimizer:
    """Makes an Adam (TGAN: RMSprop), with decoupled weight decay if that is chosen, in float16 with a loss scale."""
    if config.warmup_steps:
        learning_rate = WarmUp(learning_rate, config.warmup_steps)
    if config.final_rate != 1.0:
        learning_rate = HalfCosine(learning_rate, config.steps, config.final_rate)
    decoupled = config.weight_decay if config.weight_decay and config.weight_decay_mode == "decoupled" else None
    if config.model == "tgan":
        # Chainer adds 1e-8 to the root; Keras adds its square inside the root.
        optimizer = keras.optimizers.RMSprop(learning_rate, config.beta_2, epsilon=1e-16, weight_decay=decoupled)
    else:
        optimizer = keras.optimizers.Adam(
            learning_rate, config.beta_1, config.beta_2, epsilon=1e-8, weight_decay=decoupled
        )
    if config.precision != "mixed_float16":
        return optimizer
    return LossScale(optimizer, name="loss_scale_optimizer")  # Keras's own name, as in older checkpoints.
