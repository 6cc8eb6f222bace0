"""The batcher decides which frames run next and how much work is accepted.

Requests wait in a queue of jobs. A worker fills a batch with at most `QUANTUM` frames of each job in turn, so a request
for one clip does not wait until a request for a hundred is done; a job whose deadline passed or whose client went away
is dropped before its turn. Admission is counted in frames, from acceptance until the answer is encoded, so neither a
slow model nor a slow encoder lets a queue grow.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.video import to_uint8
from serving.runtime.errors import (
    OUT_OF_MEMORY,
    Cancelled,
    DeadlineExceeded,
    Overloaded,
    ServingError,
    Unavailable,
)
from serving.runtime.options import Floats
from serving.runtime.threads import make_pool, step_back

QUANTUM = 16
# Batches whose frames are still being copied out while the next one runs.
DELIVERIES_PER_WORKER = 2
# A longer queue helps in a burst, but not under lasting overload. Once the foreseen wait has exceeded this share of its
# bound for `PATIENCE` seconds, the share becomes the bound; it stays so until no request was refused for as long.
LASTING, PATIENCE = 0.4, 1.0
# After this many failed batches in a row the process reports that it is not alive.
FAILURES_UNTIL_DEAD = 3
# ONNX Runtime raises no MemoryError of its own.
ALLOCATION_FAILED = ("Failed to allocate memory", "bad_alloc")
log = logging.getLogger("serving.runtime.batcher")


class Renderer(Protocol):
    """What the batcher needs from an engine."""

    def render(self, rows: dict[str, Floats], worker: int = 0) -> Floats: ...


class Observer(Protocol):
    """Receives the batcher's numbers; the metrics implement it."""

    def batch(self, frames: int, seconds: float) -> None: ...

    def queued(self, frames: int, jobs: int) -> None: ...

    def waited(self, seconds: float) -> None: ...


@dataclasses.dataclass(eq=False)
class Job:
    """Rows to render and where the frames go. Made by `Batcher.submit`; guarded by the batcher's lock."""

    rows: dict[str, Floats]
    num_frames: int
    deadline: float
    as_pixels: bool
    finish: Callable[[], None]
    entered: float
    out: NDArray[Any] | None = None
    taken: int = 0
    done: int = 0
    started: float = 0.0
    error: ServingError | None = None
    settled: bool = False

    @property
    def queue_seconds(self) -> float:
        return self.started - self.entered if self.started else 0.0


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What is foreseen of an answer's encoding: seconds until a thread is free, and seconds that it takes."""

    wait: float = 0.0
    seconds: float = 0.0


NO_ENCODING = Encoding()


class Admission:
    """Accepted frames. They count until the block that accepted them is left, and as long as a thread works on them."""

    def __init__(self) -> None:
        self._ends: list[Callable[[], None]] = []
        self._job: concurrent.futures.Future[Any] | None = None

    def at_end(self, function: Callable[[], None]) -> None:
        """Calls a function when the frames no longer count."""
        self._ends.append(function)

    def keep_until(self, job: concurrent.futures.Future[Any]) -> None:
        """Lets the frames count until a job is done, even if the block is left before."""
        self._job = job

    def leave(self) -> None:
        """The block is left."""
        if self._job is None:
            self._end()
        else:
            self._job.add_done_callback(lambda _: self._end())

    def _end(self) -> None:
        for function in self._ends:
            function()


class Batcher:
    """Runs jobs on a renderer's workers. Made and closed anywhere, `submit` on an event loop."""

    def __init__(
        self,
        renderer: Renderer,
        *,
        workers: int = 1,
        max_batch_frames: int = 32,
        max_queue_frames: int = 512,
        max_wait_seconds: float = math.inf,
        wait_seconds: float = 0.0,
        observer: Observer | None = None,
    ) -> None:
        """Starts the workers.

        Args:
            renderer: The engine.
            workers: How many of its workers there are.
            max_batch_frames: Frames of a full batch.
            max_queue_frames: Frames admitted at one time, from acceptance to the encoded answer.
            max_wait_seconds: A request is refused if it would probably wait longer than this for others; under lasting
                overload, longer than `LASTING` times this.
            wait_seconds: How long an idle worker waits for a batch to fill. With 0 it starts at once, and a batch is
                what arrived during the one before.
            observer: Gets the numbers.
        """
        self.renderer = renderer
        self.max_batch_frames = max_batch_frames
        self.max_queue_frames = max_queue_frames
        self.max_wait_seconds = max_wait_seconds
        self.wait_seconds = wait_seconds
        self.observer = observer
        self._admitted: list[int] = []
        self._overloaded = False
        self._calm_at = self._refused_at = time.monotonic()
        self.queued_frames = 0
        self.seconds_per_frame = 0.0
        self.failures = 0
        self._queue: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._delivery = make_pool(max(2, workers), "deliver")
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"batch-{worker}", daemon=True)
            for worker in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """False once batch after batch fails: then only a restart helps."""
        return self.failures < FAILURES_UNTIL_DEAD

    @contextlib.contextmanager
    def admit(
        self, num_frames: int, deadline: float = math.inf, *, encoding: Encoding = NO_ENCODING
    ) -> Iterator[Admission]:
        """Counts frames as accepted while the block runs.

        A request larger than the whole bound is accepted when there is no other: limiting one request's work is up to
        the caller.

        Raises:
            Overloaded: There is no room, or the deadline cannot be met; `retry_after` says when to come back.
        """
        with self._changed:
            now, render = time.monotonic(), num_frames * self.seconds_per_frame
            # Frames are encoded when they are rendered and a thread is free.
            wait = max(self._foreseen_wait(num_frames), encoding.wait - render)
            if wait <= LASTING * self.max_wait_seconds:
                self._calm_at = now
            if self._overloaded:
                self._overloaded = now - self._refused_at <= PATIENCE
            else:
                self._overloaded = now - self._calm_at > PATIENCE
            bound = self.max_wait_seconds * (LASTING if self._overloaded else 1.0)
            late = now + wait + render + encoding.seconds > deadline
            full = self.admitted_frames + num_frames > self.max_queue_frames
            if self._admitted and (full or late or wait > bound):
                self._refused_at = now
                raise Overloaded(
                    f"The queue is full: {self.admitted_frames} of {self.max_queue_frames} frames are taken, "
                    f"{num_frames} more were asked for and would wait {wait:.1f} s. Try again later.",
                    retry_after=max(1.0, math.ceil(wait)),
                )
            self._admitted.append(num_frames)
        admission = Admission()
        admission.at_end(lambda: self._release(num_frames))
        try:
            yield admission
        finally:
            admission.leave()

    def _release(self, num_frames: int) -> None:
        with self._changed:
            self._admitted.remove(num_frames)

    def refusal(self) -> Overloaded | None:
        """What a request for one frame would be refused with now, if it would be."""
        with self._changed:
            wait = self._foreseen_wait(1)
            if not self._admitted or (self.admitted_frames < self.max_queue_frames and wait <= self.max_wait_seconds):
                return None
            self._refused_at = time.monotonic()
            message = f"The queue is full: {self.admitted_frames} of {self.max_queue_frames} frames are taken."
            return Overloaded(f"{message} Try again later.", retry_after=max(1.0, math.ceil(wait)))

    @property
    def admitted_frames(self) -> int:
        """Frames accepted and not yet answered."""
        return sum(self._admitted)

    def _foreseen_wait(self, num_frames: int) -> float:
        """Seconds that go to other requests until this many frames are rendered. Requests take turns, so each of the
        others gets at most as many frames as this one meanwhile."""
        turns = -(-num_frames // QUANTUM) * QUANTUM
        return sum(min(frames, turns) for frames in self._admitted) * self.seconds_per_frame

    async def submit(self, rows: dict[str, Floats], *, deadline: float = math.inf, as_pixels: bool = True) -> Job:
        """Renders rows `[N, D]`; returns the finished job, whose `out` is uint8 or float32 `[N, H, W, C]`.

        Cancelling the awaiting task drops the job.

        Args:
            rows: By input name, one row per frame.
            deadline: `time.monotonic()` after which the result is of no use.
            as_pixels: uint8 instead of float32 in [-1, 1].

        Raises:
            DeadlineExceeded: The deadline passed before the result was there.
            Unavailable: The batcher was closed.
            ServingError: The engine failed.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        def finish() -> None:
            with contextlib.suppress(RuntimeError):  # The loop may be closed by the time a dropped job is done.
                loop.call_soon_threadsafe(wake)

        job = Job(rows, len(rows["motion"]), deadline, as_pixels, finish, time.monotonic())
        with self._changed:
            if self._closing:
                raise Unavailable("This model version is being unloaded. Try again.")
            self._queue.append(job)
            self.queued_frames += job.num_frames
            self._report_queue()
            self._changed.notify()
        try:
            # The event loop watches the deadline of a job that is being rendered, the workers that of a waiting job.
            async with asyncio.timeout(None if deadline == math.inf else max(0.0, deadline - time.monotonic())):
                await done
        except TimeoutError:
            self._drop(job, DeadlineExceeded("The deadline passed before the frames were rendered."))
        except asyncio.CancelledError:
            self._drop(job, Cancelled("The client went away."))
            raise
        if job.error:
            raise job.error
        return job

    def _drop(self, job: Job, error: ServingError) -> None:
        """Takes a job out of the queue; its frames that are being rendered are discarded."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self.queued_frames -= job.num_frames - job.taken
                self._report_queue()
            if not job.settled:
                job.settled, job.error = True, error

    def _report_queue(self) -> None:
        if self.observer:
            self.observer.queued(self.queued_frames, len(self._queue))

    def _settle(self, job: Job, error: ServingError | None = None) -> None:
        """Ends a job once. Called with the lock held."""
        if not job.settled:
            job.settled, job.error = True, error
            job.finish()

    def _take(self) -> list[tuple[Job, int, int]]:
        """The next batch as (job, first frame, number of frames). Called with the lock held."""
        pieces: list[tuple[Job, int, int]] = []
        room, now = self.max_batch_frames, time.monotonic()
        while room and self._queue:
            job = self._queue.popleft()
            if job.settled or now > job.deadline:
                self.queued_frames -= job.num_frames - job.taken
                self._settle(job, DeadlineExceeded("The deadline passed before the request's turn came."))
                continue
            if not job.started:
                job.started = now
                if self.observer:
                    self.observer.waited(job.queue_seconds)
            frames = min(job.num_frames - job.taken, QUANTUM, room)
            pieces.append((job, job.taken, frames))
            job.taken += frames
            self.queued_frames -= frames
            room -= frames
            if job.taken < job.num_frames:
                self._queue.append(job)
        self._report_queue()
        return pieces

    def _next_batch(self) -> list[tuple[Job, int, int]] | None:
        """Waits for work; None when closed and empty."""
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            full = time.monotonic() + self.wait_seconds
            while self.queued_frames < self.max_batch_frames and not self._closing:
                left = full - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return self._take()

    def _work(self, worker: int) -> None:
        step_back()
        deliveries = threading.Semaphore(DELIVERIES_PER_WORKER)
        while (pieces := self._next_batch()) is not None:
            if not pieces:
                continue
            begin = time.perf_counter()
            try:
                rows = {
                    name: np.concatenate([job.rows[name][first : first + n] for job, first, n in pieces])
                    for name in pieces[0][0].rows
                }
                frames = self.renderer.render(rows, worker)
            except Exception as error:
                self.failures += 1
                self._fail(pieces, error)
                continue
            seconds = time.perf_counter() - begin
            self.failures = 0
            self._account(len(frames), seconds)
            deliveries.acquire()
            self._delivery.submit(self._deliver, pieces, frames).add_done_callback(lambda _: deliveries.release())

    def _fail(self, pieces: list[tuple[Job, int, int]], error: Exception) -> None:
        """Logs why a batch failed, and ends its jobs."""
        refusal = ServingError("The model failed on this request.")
        if isinstance(error, MemoryError) or any(words in str(error) for words in ALLOCATION_FAILED):
            log.error("a batch failed", extra={"error": "out of memory"})
            refusal = Unavailable(OUT_OF_MEMORY, retry_after=1.0)
        else:
            log.error("a batch failed", exc_info=error)
        with self._changed:
            for job, _, _ in pieces:
                self._settle(job, refusal)

    def _account(self, frames: int, seconds: float) -> None:
        each = seconds / frames / len(self._threads)
        self.seconds_per_frame = each if not self.seconds_per_frame else 0.9 * self.seconds_per_frame + 0.1 * each
        if self.observer:
            self.observer.batch(frames, seconds)

    def _deliver(self, pieces: list[tuple[Job, int, int]], frames: Floats) -> None:
        try:
            self._copy(pieces, frames)
        except Exception as error:
            self._fail(pieces, error)

    def _copy(self, pieces: list[tuple[Job, int, int]], frames: Floats) -> None:
        """Copies a batch's frames to their jobs, as pixels or as floats."""
        at = 0
        for job, first, n in pieces:
            part = frames[at : at + n]
            at += n
            if job.settled:
                continue
            values = to_uint8(part, overwrite=True) if job.as_pixels else part
            with self._changed:
                if job.out is None:
                    job.out = np.empty((job.num_frames, *values.shape[1:]), values.dtype)
            job.out[first : first + n] = values
            with self._changed:
                job.done += n
                if job.done == job.num_frames:
                    self._settle(job)

    def close(self) -> None:
        """Finishes queued jobs, refuses new ones, ends the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._delivery.shutdown(wait=True)
