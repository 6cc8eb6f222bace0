"""From a checked request to a clip: what all protocols share."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

from numpy.typing import NDArray

from serving.runtime.engine import Floats, available_cpus
from serving.runtime.errors import Invalid, TooLarge, shown
from serving.runtime.intake import Intake
from serving.runtime.prometheus import Metrics
from serving.runtime.repository import Model, Repository

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
        timeout_seconds: From a request's head to its frames; a request may ask for less.
        body_seconds: For a client to send its body.
        write_seconds: For a client to take the next part of an answer.
    """

    max_videos: int = 64
    max_frames: int = 1024
    max_total_frames: int = 1024
    max_pixels: int = 2**25
    max_json_values: int = 2**22
    max_body_bytes: int = 4 * 2**20
    max_values: int = 2**18
    max_containers: int = 2**15
    max_streams: int = 64
    timeout_seconds: float = 30.0
    body_seconds: float = 10.0
    write_seconds: float = 20.0

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

    `video` is uint8 or float32 `[B, T, H, W, C]`, `motion_state` float32 `[B, dim_motion]`.
    """

    video: NDArray[Any]
    motion_state: Floats
    queue_seconds: float
    render_seconds: float


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
        self._prepare = concurrent.futures.ThreadPoolExecutor(2, "prepare")
        self._encode = concurrent.futures.ThreadPoolExecutor(encode_threads or max(2, cpus), "encode")

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

        rows, state, (num_videos, num_frames) = await self.run(self._prepare, prepare)
        begin = time.monotonic()
        job = await model.batcher.submit(rows, deadline=deadline, as_pixels=as_pixels)
        assert job.out is not None
        video = job.out.reshape(num_videos, num_frames, *model.bundle.frame_shape)
        return Clip(video, state, job.queue_seconds, time.monotonic() - begin - job.queue_seconds)

    async def encode_with(self, function: Callable[[], T], name: str) -> tuple[T, float]:
        """Runs an encoder off the event loop; returns its result and the seconds."""

        def timed() -> tuple[T, float]:
            begin = time.perf_counter()
            result = function()
            return result, time.perf_counter() - begin

        result, seconds = await self.run(self._encode, timed)
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
        return await self._result(self.intake.submit(function))

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
