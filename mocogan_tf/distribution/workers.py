"""Messages between the workers of a run, outside its steps: sums, the restored state, the wish to stop.

Every worker runs the same program. Only the chief reads and writes the run directory; the others are given the state
that it restored, so the folder need not be shared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from mocogan_tf.distribution.cluster import Cluster

# Errors that TensorFlow raises in one worker when another one is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


class WorkerLost(ConnectionError):
    """Another worker ended too early."""


class Workers:
    """The workers of a run, seen from one of them. A single worker sends nothing.

    A method marked "for every worker" waits until each worker has called it.

    Args:
        cluster: `Cluster`.
        strategy: The `MultiWorkerMirroredStrategy` that connects them; not needed for one worker.
    """

    def __init__(self, cluster: Cluster | None = None, strategy: tf.distribute.Strategy | None = None) -> None:
        self.cluster = cluster or Cluster()
        self.is_chief = self.cluster.is_chief
        self.num_workers = self.cluster.num_workers
        self._strategy: Any = strategy
        self._sum: Any = _sum_over_workers(strategy) if self.num_workers > 1 else None

    def gather(self, value: int) -> list[int]:
        """Returns the integers that the workers gave, in their order. For every worker."""
        if self.num_workers == 1:
            return [value]
        own = [value if i == self.cluster.index else 0 for i in range(self.num_workers)]
        return [int(one) for one in self._sum(tf.constant(own, tf.int64))]

    def wait(self) -> None:
        """Waits for all workers. For every worker."""
        self.gather(0)

    @contextlib.contextmanager
    def chief_first(self) -> Iterator[None]:
        """Runs a block on the chief while the others wait, then on them. For every worker.

        Raises:
            ValueError: The chief failed. The chief itself raises its own error.
        """
        if self.is_chief:
            try:
                yield
            except (ValueError, OSError):
                self.gather(1)
                raise
            self.gather(0)
        else:
            if self.gather(0)[0]:
                raise ValueError(f"The chief, {self.cluster.addresses[0]}, could not start; its output says why.")
            yield

    def check_same(self, what: str, value: Any) -> None:
        """Checks that all workers have the same value. For every worker.

        Args:
            what: Name of the value, for the message.
            value: Anything that JSON takes.

        Raises:
            ValueError: On all workers, if one has another value than the chief.
        """
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
        seen = self.gather(int.from_bytes(digest[:7], "big"))
        others = [address for address, one in zip(self.cluster.addresses, seen, strict=True) if one != seen[0]]
        if others:
            raise ValueError(f"All workers must have the same {what}. Other than the chief's: {', '.join(others)}.")

    def copy_from_chief(self, variables: Sequence[keras.Variable]) -> None:
        """Gives the variables of all workers the chief's values, bit for bit. For every worker."""
        if self.num_workers == 1:
            return

        @tf.function
        def total(values: list[tf.Tensor]) -> Any:
            def on_replica(values: list[tf.Tensor]) -> list[tf.Tensor]:
                context = tf.distribute.get_replica_context()
                chief = tf.equal(context.replica_id_in_sync_group, 0)
                # Selected, not multiplied: 0 times a weight that is not finite is not 0.
                chosen = [tf.where(chief, value, tf.zeros_like(value)) for value in values]
                return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in chosen]

            return self._strategy.run(on_replica, args=(values,))

        # float64 holds the values of all our variables' types exactly.
        values = total([tf.cast(tf.convert_to_tensor(variable.value), tf.float64) for variable in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(tf.cast(self._strategy.experimental_local_results(value)[0], variable.dtype))


@contextlib.contextmanager
def telling_of_lost_workers(cluster: Cluster) -> Iterator[None]:
    """Turns TensorFlow's errors about a lost worker into a `WorkerLost` that says what to do."""
    try:
        yield
    except _LOST as error:
        if cluster.num_workers == 1:
            raise
        raise WorkerLost(
            f"Worker {cluster.index} ({cluster.addresses[cluster.index]}) has lost the others: {_reason(error)} "
            "Start all of them again with the same command; training goes on from the latest checkpoint."
        ) from error


def _sum_over_workers(strategy: Any) -> Callable[[tf.Tensor], Any]:
    """Compiles a sum of int64 vectors over the workers; each worker's first replica gives its vector."""
    local_replicas = len(strategy.extended.worker_devices)

    @tf.function
    def total(values: tf.Tensor) -> Any:
        def on_replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group % local_replicas, 0)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(first, values, tf.zeros_like(values)))

        return strategy.run(on_replica)

    return lambda values: strategy.experimental_local_results(total(values))[0].numpy()


def _reason(error: tf.errors.OpError) -> str:
    """Returns TensorFlow's reason, on one line."""
    lines = [line.strip() for line in error.message.splitlines() if line.strip()]
    told = [line for line in lines if "aborted by" in line or "oordination" in line]
    return f"{(told or lines or [type(error).__name__])[0][:240].rstrip('.')}."
