"""Ending training on Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
import types
from typing import Any

import keras
from absl import logging

from mocogan_tf.distribution.workers import Workers

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(keras.callbacks.Callback):
    """Ends training after the current step on Ctrl-C or SIGTERM; a second Ctrl-C ends it without saving.

    Both are answered at once, even while TensorFlow computes a step: Python's own handlers would wait for its end. A
    signal to one worker ends all workers at the same step.

    Args:
        workers: `Workers`.
        start_step: Step from which the run goes on.
        steps_per_execution: Steps per call into TensorFlow.
        may_exit: Whether a second Ctrl-C ends the process at once. If not, it raises KeyboardInterrupt after the
            current step. Checkpoints are renamed into place, so neither harms those that exist.

    Attributes:
        signal: Number of the signal that came, or None.
    """

    def __init__(
        self, workers: Workers, start_step: int = 0, steps_per_execution: int = 1, may_exit: bool = False
    ) -> None:
        super().__init__()
        self.workers, self.may_exit = workers, may_exit
        self.signal: int | None = None
        self._start_step, self._steps_per_execution = start_step, steps_per_execution
        self._done = start_step
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._previous_fd = -1

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes the signals over."""
        self.signal = None
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
                step = self._done + self._steps_per_execution
                print(f"\nsaving at step {step}; press again to stop without saving", file=sys.stderr, flush=True)
            interrupted = True
        os.close(pipe)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ends training if a signal came to any worker."""
        self._done = self._start_step + batch + 1
        agreed = max(self.workers.gather(self.signal or 0))
        if agreed:
            self.signal = agreed
            self.model.stop_training = True

    def restore(self) -> None:
        """Gives the signals back to whoever handled them before; Keras calls no callback when training fails."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self._pipe is not None:
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._pipe[1])  # The thread sees the end and closes the other side.
            self._pipe = None
