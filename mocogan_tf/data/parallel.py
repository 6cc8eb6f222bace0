"""A map over processes that keeps the order, bounds the memory and survives the death of a worker."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from absl import logging

SERIAL_BELOW = 16  # Fewer items take less time than the start of a process.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one item: a value, or the reason why there is none."""

    item: Any
    value: Any = None
    error: str = ""


def num_workers() -> int:
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int | None = None,
    serial_below: int = SERIAL_BELOW,
) -> Iterator[Outcome]:
    """Yields the outcome of `function(item)` for every item, in the items' order.

    The workers are spawned and import only what `function` needs, so that a program that has loaded TensorFlow can call
    this. A `ValueError` becomes the item's error; any other exception is a fault of the program and is raised here.
    When a worker dies, its work and that of its neighbours is done again; an item that kills a worker twice gets an
    error that says so.

    Args:
        function: A module-level function of one argument; argument and value are pickled.
        items: May be endless, because only a few per worker are taken in advance.
        workers: Number of processes; None: as many as there are processors. With 1 the work is done in this process.
        serial_below: Fewer items than this are done in this process.
    """
    workers = num_workers() if workers is None else workers
    iterator = iter(items)
    head = list(itertools.islice(iterator, serial_below - 1))
    following = next(iterator, _END) if len(head) == serial_below - 1 else _END
    if workers <= 1 or following is _END:
        yield from (_outcome(function, item) for item in _chain(head, following, iterator))
    else:
        yield from _Pool(function, workers).map(_chain(head, following, iterator))


_END = object()


def _chain(head: list[Any], following: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield from head
    if following is not _END:
        yield following
        yield from rest


def _outcome(function: Callable[[Any], Any], item: Any) -> Outcome:
    try:
        return Outcome(item, function(item))
    except ValueError as error:
        return Outcome(item, error=str(error))


class _Pool:
    """A process pool that is started again when a worker dies."""

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        self._function = function
        self._workers = workers
        self._executor = self._start(workers)

    def _start(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _set_up_worker)

    def map(self, items: Iterator[Any]) -> Iterator[Outcome]:
        window: collections.deque[tuple[Any, Future[Outcome]]] = collections.deque()
        try:
            for item in items:
                window.append((item, self._submit(item)))
                if len(window) >= 4 * self._workers:
                    yield self._take(window)
            while window:
                yield self._take(window)
        finally:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self, item: Any) -> Future[Outcome]:
        try:
            return self._executor.submit(_outcome, self._function, item)
        except BrokenProcessPool as error:
            broken: Future[Outcome] = Future()
            broken.set_exception(error)
            return broken

    def _take(self, window: collections.deque[tuple[Any, Future[Outcome]]]) -> Outcome:
        item, future = window.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            pass
        logging.warning("A worker process died; its work is done again.")
        self._executor.shutdown(wait=True)
        outcome = self._alone(item)
        self._executor = self._start(self._workers)
        for position, (later, submitted) in enumerate(window):
            if isinstance(submitted.exception(), BrokenProcessPool):
                window[position] = (later, self._submit(later))
        return outcome

    def _alone(self, item: Any) -> Outcome:
        """Does one item in a process of its own, so that it is known which item kills it."""
        with self._start(1) as executor:
            try:
                executor.submit(os.getpid).result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    "Worker processes cannot start. A script that calls this needs `if __name__ == '__main__':` around "
                    "what it runs."
                ) from error
            try:
                return executor.submit(_outcome, self._function, item).result()
            except BrokenProcessPool:
                return Outcome(item, error="the process that read it died twice (out of memory, or a decoder fault)")


def _set_up_worker() -> None:
    # Ctrl-C reaches all processes of the group, but the parent answers it and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that was killed cannot end them; without this they would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
