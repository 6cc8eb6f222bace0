"""What the replicas of a training step do together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def share(draw: Callable[[int], Any], size: int) -> Any:
    """Draws `size` rows per replica for all replicas at once, and returns this replica's rows."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return draw(size)
    first = context.replica_id_in_sync_group * size
    return tf.nest.map_structure(
        lambda rows: tf.slice(rows, [first] + [0] * (rows.shape.rank - 1), [size] + [-1] * (rows.shape.rank - 1)),
        draw(size * context.num_replicas_in_sync),
    )


def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a value over all replicas, those of other machines included."""
    context = tf.distribute.get_replica_context()
    return value if context.num_replicas_in_sync == 1 else context.all_reduce(tf.distribute.ReduceOp.SUM, value)
