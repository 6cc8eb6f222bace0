"""Threads that leave the event loop its turn."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading

# As of `nice`. Where the processors do not suffice for everything, the event loop comes before all other work.
NICENESS = 5


def step_back() -> None:
    """Gives the calling thread a lower priority than the event loop's, where the system has one for each thread."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def make_pool(number: int, name: str) -> concurrent.futures.ThreadPoolExecutor:
    """Makes a pool of threads that step back."""
    return concurrent.futures.ThreadPoolExecutor(number, name, initializer=step_back)
