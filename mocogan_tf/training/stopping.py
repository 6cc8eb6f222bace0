"""Ending training on Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any

from absl import logging

from mocogan_tf.distribution.workers import Workers
from mocogan_tf.training.callbacks import PerStep, due

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(PerStep):
    """Ends training after the current step on Ctrl-C or SIGTERM; a second Ctrl-C ends it without saving.

    Both are answered at once, even while TensorFlow computes a step: Python's own handlers would wait for its end. A
    signal to one worker ends all workers at the same step: the next multiple of `every`, since asking the others makes
    the host wait for the devices.

    Args:
        workers: `Workers`.
        start_step: Step from which the run goes on.
        may_exit: Whether a second Ctrl-C ends the process at once. If not, it raises KeyboardInterrupt after the
            current step. Checkpoints are renamed into place, so neither harms those that exist.
        every: Steps between two times at which several workers tell one another of signals.

    Attributes:
        signal: Number of the signal that came, or None.
    """

    def __init__(self, workers: Workers, start_step: int = 0, may_exit: bool = False, every: int = 1) -> None:
        super().__init__(start_step)
        self.workers, self.may_exit = workers, may_exit
        self.every = every if workers.num_workers > 1 else 1
        self.signal: int | None = None
        self._agreed = False
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._previous_fd = -1

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes the signals over."""
        self.signal, self._agreed = None, False
        try:
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:  # Only the main thread may; a program that trains in another keeps its own handling.
            logging.info("Not the main thread: Ctrl-C will not be caught.")
            return
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._answer, args=(self._pipe[0],), daemon=True).start()

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT and not self.may_exit:
            raise KeyboardInterrupt
        self.signal = number

    def _answer(self, pipe: int) -> None:
        """Answers signals in a thread of its own until the pipe is closed."""
        interrupted = False
        while received := os.read(pipe, 1):
            number = received[0]
            if number not in SIGNALS:
                continue
            if interrupted and number == signal.SIGINT:
                if not self.may_exit:
                    continue
                print("stopped without saving; earlier checkpoints are kept", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
            if not interrupted:
                print(
                    f"\nsaving at step {self._last_of_all()}; press again to stop without saving",
                    file=sys.stderr,
                    flush=True,
                )
            interrupted = True
        os.close(pipe)

    def _last_of_all(self) -> int:
        """The step after which training ends, if a signal comes now."""
        left, at_once = self.every - self.last_step % self.every, self.model.steps_per_execution
        return self.last_step + -(-left // at_once) * at_once

    def on_step(self, previous: int, step: int, logs: Mapping[str, float]) -> None:
        """Ends training if a signal came to any worker."""
        if due(self.every, previous, step):
            self._agree()
            self.model.stop_training |= self._agreed

    def on_train_end(self, logs: Any = None) -> None:
        """Lets all workers end with the same exit code."""
        if not self._agreed:
            self._agree()

    def _agree(self) -> None:
        received = max(self.workers.gather(self.signal or 0))
        if received:
            self.signal, self._agreed = received, True

    def restore(self) -> None:
        """Gives the signals back to whoever handled them before; Keras calls no callback when training fails."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self._pipe is not None:
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._pipe[1])  # The thread sees the end and closes the other side.
            self._pipe = None
