"""From a checked request to a clip: what all protocols share."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import heapq
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from numpy.typing import NDArray

from serving.runtime.batcher import Admission, Encoding
from serving.runtime.errors import DeadlineExceeded, Invalid, TooLarge, shown
from serving.runtime.intake import Intake
from serving.runtime.options import Floats, available_cpus
from serving.runtime.prometheus import Metrics
from serving.runtime.repository import Model, Repository
from serving.runtime.threads import make_pool

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request, one client or all clients together may take.

    Args:
        max_videos: Clips of a request.
        max_frames: Frames of one clip.
        max_total_frames: Clips times frames of a request.
        max_pixels: Pixels of an answer, after enlarging.
        max_json_values: Numbers of an answer in JSON, whose size is twenty times that of the pixels.
        max_body_bytes: Bytes of a request body, before and after unpacking.
        max_values, max_containers: Values, and lists with objects, of a request body in JSON.
        max_streams: Streams open at one time.
        max_streams_per_client: Of one API key; where no key is needed, of one address.
        timeout_seconds: From a request's head until its answer is encoded; a request may ask for less.
        body_seconds: For a client to send its body.
        write_seconds: For a client to take an answer, or the next part of a stream; a second more for each
            `min_bytes_per_second` of it.
        min_bytes_per_second: See above.
        max_unsent_bytes: Of all answers that are made and not yet taken. While there are more, or half as many for one
            address, requests (of that address) are refused. HTTP and gRPC have as many each.
    """

    max_videos: int = 64
    max_frames: int = 1024
    max_total_frames: int = 1024
    max_pixels: int = 2**25
    max_json_values: int = 2**22
    max_body_bytes: int = 4 * 2**20
    max_values: int = 2**18
    max_containers: int = 2**13
    max_streams: int = 64
    max_streams_per_client: int = 32
    timeout_seconds: float = 30.0
    body_seconds: float = 10.0
    write_seconds: float = 20.0
    min_bytes_per_second: int = 2**20
    max_unsent_bytes: int = 2**28

    def check_work(self, num_videos: int, num_frames: int) -> int:
        """Returns the frames in all.

        Raises:
            TooLarge: More than one request may ask for.
        """
        for name, value, bound in (
            ("num_videos", num_videos, self.max_videos),
            ("num_frames", num_frames, self.max_frames),
            ("num_videos times num_frames", num_videos * num_frames, self.max_total_frames),
        ):
            if value > bound:
                raise TooLarge(f"`{name}` must be at most {bound} on this server. Received: {value}")
        return num_videos * num_frames

    def check_json(self, values: int) -> None:
        """Raises TooLarge if an answer would have more numbers than JSON should carry."""
        if values > self.max_json_values:
            raise TooLarge(
                f"An answer in JSON has at most {self.max_json_values} numbers; this one would have {values}. Ask for "
                "fewer frames, for binary tensors (/v2) or for a picture (/v1/generate)."
            )


@dataclasses.dataclass
class Clip:
    """A rendered request.

    `video` is uint8 or float32 `[B, T, H, W, C]`, `motion_state` float32 `[B, dim_motion]`. The motion network's
    time is in `draw_seconds`.
    """

    video: NDArray[Any]
    motion_state: Floats
    draw_seconds: float
    queue_seconds: float
    render_seconds: float


class Forecast:
    """How long encoding takes and waits, by what it took before: a time per answer and a time per pixel or number."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pending: dict[object, float] = {}
        self._least: dict[str, float] = {}
        self._sums: dict[str, tuple[float, float]] = {}

    def seconds(self, name: str, amount: int) -> float:
        """Foreseen for one answer; 0 for a format of which none was encoded yet."""
        spent, encoded = self._sums.get(name, (0.0, 0.0))
        return self._least.get(name, 0.0) + (amount * spent / encoded if encoded else 0.0)

    def learn(self, name: str, amount: int, seconds: float) -> None:
        """Takes a measured time into account."""
        least = self._least[name] = min(seconds, self._least.get(name, seconds))
        spent, encoded = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = 0.9 * spent + seconds - least, 0.9 * encoded + amount

    def wait(self) -> float:
        """Seconds until a thread would be free if all that is accepted were to be encoded now, in order."""
        free = [0.0] * self._threads
        for seconds in self._pending.values():
            heapq.heapreplace(free, free[0] + seconds)
        return free[0]

    def accept(self, seconds: float) -> Callable[[], None]:
        """Counts an answer as accepted until the returned function is called."""
        ticket = object()
        self._pending[ticket] = seconds
        return lambda: self._pending.__delitem__(ticket)


class Service:
    """The models, and the threads that prepare and encode. Belongs to one event loop."""

    def __init__(
        self, repository: Repository, limits: Limits | None = None, *, encode_threads: int | None = None
    ) -> None:
        self.repository = repository
        self.limits = limits or Limits()
        self.metrics: Metrics = repository.metrics
        self.draining = False
        self.ready = False
        cpus = available_cpus()
        self.intake = Intake(self.limits.max_body_bytes)
        # Drawing and a stream's small pictures hold Python's lock: more threads would not make them faster, only the
        # event loop slower. Streams have a thread of their own, so that they do not keep clips waiting.
        self._prepare = make_pool(1, "prepare")
        self._encode_streams = make_pool(1, "stream")
        self._encode = make_pool(encode_threads or max(2, cpus), "encode")
        self._forecast = Forecast(encode_threads or max(2, cpus))
        self.unsent_bytes = 0

    def deadline(self, timeout: float | None = None) -> float:
        """`time.monotonic()` by which a request that begins now must be done."""
        bound = self.limits.timeout_seconds
        return time.monotonic() + (bound if timeout is None else min(timeout, bound))

    async def render(
        self, model: Model, draw: Callable[[], dict[str, Floats]], *, deadline: float, as_pixels: bool
    ) -> Clip:
        """Draws or takes latents and renders them.

        Args:
            model: A leased version.
            draw: Returns the generator's inputs; called on a worker thread.
            deadline: `time.monotonic()` by which it must be rendered.
            as_pixels: uint8 instead of float32.

        Raises:
            DeadlineExceeded, ServingError: See `Batcher.submit`.
        """

        def prepare() -> tuple[dict[str, Floats], Floats, tuple[int, int]]:
            latents = draw()
            motion, state = model.engine.motion(latents)
            return model.engine.rows(latents, motion), state, (motion.shape[0], motion.shape[1])

        start = time.monotonic()
        rows, state, (num_videos, num_frames) = await self.run(self._prepare, prepare)
        begin = time.monotonic()
        job = await model.batcher.submit(rows, deadline=deadline, as_pixels=as_pixels)
        assert job.out is not None
        video = job.out.reshape(num_videos, num_frames, *model.bundle.frame_shape)
        render_seconds = time.monotonic() - begin - job.queue_seconds
        return Clip(video, state, begin - start, job.queue_seconds, render_seconds)

    @contextlib.contextmanager
    def admit(self, model: Model, num_frames: int, deadline: float, name: str, amount: int) -> Iterator[Work]:
        """Accepts an answer's frames and its encoding, or refuses both, as `Batcher.admit` does.

        Args:
            model: A leased version.
            num_frames: Frames to render.
            deadline: `time.monotonic()` by which the answer must be encoded.
            name: Its format.
            amount: Its pixels or numbers.
        """
        seconds = self._forecast.seconds(name, amount)
        encoding = Encoding(self._forecast.wait(), seconds)
        with model.batcher.admit(num_frames, deadline, encoding=encoding) as admission:
            admission.at_end(self._forecast.accept(seconds))
            yield Work(admission, deadline, name, amount)

    async def encode(self, function: Callable[[], T], work: Work) -> tuple[T, float]:
        """Runs an admitted answer's encoder off the event loop; returns its result and the seconds.

        Raises:
            DeadlineExceeded: It was not done in time. A thread that is at it finishes, and until then its work counts.
        """
        job = self._encode.submit(_timed, function)
        future = asyncio.wrap_future(job)
        future.add_done_callback(_ignore)
        try:
            async with asyncio.timeout(None if work.deadline == math.inf else work.deadline - time.monotonic()):
                result, seconds = await asyncio.shield(future)
        except TimeoutError:
            if not job.cancel():
                work.admission.keep_until(job)
            raise DeadlineExceeded("The deadline passed before the frames were encoded.") from None
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.wait([future])
            raise
        self._forecast.learn(work.name, work.amount, seconds)
        self.metrics.encode_seconds.labels(work.name).observe(seconds)
        return result, seconds

    async def encode_with(self, function: Callable[[], T], name: str) -> tuple[T, float]:
        """Runs a stream's encoder off the event loop; returns its result and the seconds."""
        result, seconds = await self.run(self._encode_streams, lambda: _timed(function))
        self.metrics.encode_seconds.labels(name).observe(seconds)
        return result, seconds

    async def run(self, pool: concurrent.futures.Executor, function: Callable[[], T]) -> T:
        """Runs a function on a pool. If cancelled, it still waits for the thread: admission counts what runs."""
        return await self._result(pool.submit(function))

    @staticmethod
    async def _result(job: concurrent.futures.Future[T]) -> T:
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.wait([future])
                if not future.cancelled():
                    future.exception()  # Not asked for, it would be logged as never retrieved.
            raise

    async def parse(self, function: Callable[[], T]) -> T:
        """Runs something short off the event loop."""
        return await self.run(self._prepare, function)

    async def parse_body(self, function: Callable[[], T]) -> T:
        """Parses a body in its turn. Raises Overloaded if too many wait."""
        return await self._result(self.intake.bodies.submit(function))

    async def read_picture(self, function: Callable[[], T]) -> T:
        """Reads a picture in its turn. Raises Overloaded if too many wait."""
        return await self._result(self.intake.pictures.submit(function))

    def check_room(self, model: Model | None = None) -> None:
        """Raises Overloaded if a request would be refused however small it is; nothing of it need be read then.

        Args:
            model: Whose request it is; None while that is not known.
        """
        models = [model] if model else self.repository.models()
        refusals = [refusal for each in models if (refusal := each.batcher.refusal())]
        if refusals and len(refusals) == len(models):
            raise refusals[0]

    def close(self) -> None:
        """Closes the models and ends the threads."""
        self.repository.close()
        self.intake.close()
        self._prepare.shutdown()
        self._encode.shutdown()
        self._encode_streams.shutdown()


@dataclasses.dataclass(frozen=True)
class Work:
    """An accepted answer: until when, and what is to be encoded."""

    admission: Admission
    deadline: float
    name: str
    amount: int


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin


def _ignore(future: asyncio.Future[Any]) -> None:
    """Takes note of a failure that nobody may be waiting for any more."""
    if not future.cancelled():
        future.exception()


def category_index(value: object, categories: tuple[str, ...]) -> int | None:
    """Returns the index of a category given by index or name; None for None.

    Raises:
        Invalid: There is no such category.
    """
    if value is None:
        return None
    if not categories:
        raise Invalid("`category` must be left out: this model has no categories.")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(categories):
        return value
    if isinstance(value, str) and value in categories:
        return categories.index(value)
    if isinstance(value, str) and value.isdecimal() and len(value) < 10 and int(value) < len(categories):
        return int(value)
    names = ", ".join(categories[:20])
    raise Invalid(
        f"`category` must be an index below {len(categories)} or one of {names}. Received: category={shown(value)}"
    )
