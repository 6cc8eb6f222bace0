"""`/v1/stream`: a clip that never ends, in constant memory, over a WebSocket or as an endless chunked picture.

Frames are made a chunk at a time; each chunk goes on from the GRU's last state and from the place in the noise where
the one before stopped, so frame n of a stream is frame n of `/v1/generate` with the same seed. On a WebSocket the
client may ask for another content, motion or category at any time. Over `transition_frames` frames the content moves on
the great circle between the two vectors (that of pictures on the straight line), the category on the straight line.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from mocogan_tf.latents import slerp
from serving.protocols import fields as f
from serving.protocols.fields import Fields
from serving.protocols.pictures import Picture, given_picture
from serving.runtime.bundle import Bundle
from serving.runtime.encode import strip
from serving.runtime.errors import Invalid, Malformed, NotFound, Overloaded, ServingError, Unauthorized, Unavailable
from serving.runtime.options import Floats
from serving.runtime.repository import Model
from serving.runtime.service import Service, category_index
from serving.web.bodies import parse_json
from serving.web.connections import Connection
from serving.web.guard import Keys, key_of

FIRST_MESSAGE_SECONDS = 10.0
# A chunk that is not accepted is tried again after so long, and the stream ended after so long.
AGAIN_SECONDS, REFUSED_SECONDS = 0.1, 10.0
MESSAGE_BYTES = 4096
FIRST_MESSAGE_BYTES = 2**15  # It may hold a picture.
# From one change of a stream to the next that is read.
CHANGE_SECONDS = 0.01
# So many values of noise are drawn at one time: with Python's lock held, a few cost nearly as much as thousands.
NOISE_VALUES = 2**12
REPLACED = "The model was replaced by one of another kind. Begin again."
# WebSocket close codes: 1001 going away, 1008 policy, 1013 try again later, 4000 + HTTP's for our own.
CLOSE = {Overloaded: 1013, Unavailable: 1001, Unauthorized: 4401, NotFound: 4404}


@dataclasses.dataclass
class Glide:
    """A vector on its way from `start` to `target`, `step` of `steps` steps done."""

    start: Floats
    target: Floats
    step: int = 0
    steps: int = 0
    spherical: bool = True

    def _at(self, steps: NDArray[np.int64]) -> Floats:
        """The vectors `[N, D]` after so many steps."""
        t = (steps / max(1, self.steps))[:, None]
        between = slerp(self.start, self.target, t) if self.spherical else (1 - t) * self.start + t * self.target
        vectors: Floats = np.where((steps < self.steps)[:, None], between, self.target).astype(np.float32)
        return vectors

    def take(self, frames: int) -> Floats:
        """The next frames' vectors `[frames, D]`."""
        if not self.moving:
            return np.repeat(self.target[None], frames, axis=0)
        vectors = self._at(self.step + 1 + np.arange(frames))
        self.step = min(self.step + frames, self.steps)
        return vectors

    def turn(self, target: Floats, steps: int) -> None:
        """Heads for another target from where it is now."""
        self.start = self._at(np.array([self.step]))[0]
        self.target, self.step, self.steps = target, 0, steps

    @property
    def moving(self) -> bool:
        return self.step < self.steps


@dataclasses.dataclass(frozen=True)
class Change:
    """What a client wants otherwise from the next chunk on; None: as it is."""

    content_seed: int | None = None
    motion_seed: int | None = None
    category: int | None = None
    fps: float | None = None
    motion_scale: float | None = None
    transition_frames: int | None = None

    def then(self, later: Change) -> Change:
        """Both, where they differ the later one."""
        given = {name: value for name, value in vars(later).items() if value is not None}
        return dataclasses.replace(self, **given)


class Walk:
    """The state of a stream: content, category, GRU state, position in the noise. Its size is constant.

    It is made on the event loop, and draws nothing until it is told to change or to advance.
    """

    state: Floats
    begun_with: Floats
    content: Glide
    kind: Glide

    def __init__(self, bundle: Bundle, fields: Fields, content: Floats | None = None) -> None:
        """Begins with `content` `[dim_content]`, or else with that of the seed. Raises Invalid for a wrong field."""
        self.bundle, self.given_content = bundle, content
        if content is not None and fields.given(f.CONTENT_SEED) is not None:
            raise Invalid("`image` must come without `content_seed`: it is the content.")
        self.seed = fields.get(f.SEED, secrets.randbits(f.RANDOM_SEED_BITS))
        self.motion_seed = fields.get(f.MOTION_SEED, self.seed)
        self.fps = fields.get(f.FPS, bundle.fps)
        self.motion_scale = fields.get(f.MOTION_SCALE)
        self.position = 0
        self.category = category_index(fields.given(f.CATEGORY), bundle.categories)
        self.content_seed = fields.get(f.CONTENT_SEED, self.seed)
        self._begun = False
        self._noise: Floats = np.zeros((0, bundle.latents.dim_motion), np.float32)
        self._noise_used = 0

    def _begin(self) -> None:
        """Draws where it starts, once."""
        if self._begun:
            return
        self._begun = True
        first = self._draw(self.content_seed, self.motion_seed, self.category, 1)
        self.state = first["motion_init"] * np.float32(self.motion_scale)
        # Where content is a picture, it also says where the motion begins, which a later content does not change.
        self.begun_with = first["content"][0] if self.given_content is None else self.given_content
        self.content = Glide(self.begun_with, self.begun_with, spherical=self.bundle.pictures is None)
        kind = first["category"][0] if "category" in first else np.zeros(0, np.float32)
        self.kind = Glide(kind, kind, spherical=False)

    def _take_noise(self, frames: int) -> Floats:
        """The next frames' noise `[1, frames, dim_motion]`, out of what was drawn ahead."""
        if self._noise_used + frames > len(self._noise):
            number = max(frames, NOISE_VALUES // self.bundle.latents.dim_motion)
            self._noise, self._noise_used = self._draw(self.seed, self.motion_seed, None, number)["motion_noise"][0], 0
        noise = self._noise[None, self._noise_used : self._noise_used + frames]
        self._noise_used += frames
        return noise

    def _draw(self, content_seed: int, motion_seed: int, category: int | None, frames: int) -> dict[str, Floats]:
        return self.bundle.sample(
            1, frames, seed=self.seed, content_seed=content_seed, motion_seed=motion_seed,
            category=category, first_frame=self.position,
        )  # fmt: skip

    def read(self, fields: Fields) -> Change:
        """What a client's message changes. Raises Invalid."""
        return Change(
            content_seed=fields.given(f.CONTENT_SEED),
            motion_seed=fields.given(f.MOTION_SEED),
            category=category_index(fields.given(f.CATEGORY), self.bundle.categories),
            fps=fields.given(f.FPS),
            motion_scale=fields.given(f.MOTION_SCALE),
            transition_frames=fields.given(f.TRANSITION_FRAMES),
        )

    def apply(self, change: Change) -> None:
        """Heads for what a client asked for."""
        self._begin()
        steps = self.bundle.video_length if change.transition_frames is None else change.transition_frames
        self.motion_seed = self.motion_seed if change.motion_seed is None else change.motion_seed
        if change.motion_seed is not None:
            self._noise_used = len(self._noise)  # What was drawn ahead is not wanted.
        self.fps = self.fps if change.fps is None else change.fps
        self.motion_scale = self.motion_scale if change.motion_scale is None else change.motion_scale
        if change.content_seed is not None:
            self.content.turn(self._draw(change.content_seed, self.motion_seed, None, 1)["content"][0], steps)
        if change.category is not None:
            self.kind.turn(np.eye(len(self.bundle.categories), dtype=np.float32)[change.category], steps)

    def change(self, fields: Fields) -> None:
        """Applies a client's message, or raises Invalid and changes nothing."""
        self.apply(self.read(fields))

    def step(self, model: Model, frames: int) -> dict[str, Floats]:
        """Advances, and returns the rows of the next frames."""
        self._begin()
        noise = self._take_noise(frames) * np.float32(self.motion_scale)
        contents, kinds = self.content.take(frames), None
        latents = {"content": self.begun_with[None], "motion_init": self.state, "motion_noise": noise}
        if len(self.kind.target):
            moving = self.kind.moving
            kinds = self.kind.take(frames)
            latents["category"] = kinds[:1]
            if moving and self.bundle.category_to != "image":
                motion = self._motion_by_frame(model, noise, kinds)
            else:
                motion, self.state = model.engine.motion(latents)
        else:
            motion, self.state = model.engine.motion(latents)
        self.position += frames
        rows = {"content": contents, "motion": motion[0]}
        if kinds is not None and self.bundle.category_to != "motion":
            rows["category"] = kinds
        return rows

    def _motion_by_frame(self, model: Model, noise: Floats, kinds: Floats) -> Floats:
        """Motion codes while the category changes, a call per frame: the graph takes one category per call."""
        codes = []
        for frame in range(noise.shape[1]):
            latents = {
                "content": self.begun_with[None],
                "motion_init": self.state,
                "motion_noise": noise[:, frame : frame + 1],
                "category": kinds[frame : frame + 1],
            }
            code, self.state = model.engine.motion(latents)
            codes.append(code)
        return np.concatenate(codes, axis=1)


class Stream:
    """One open stream: makes chunks at the speed at which they are watched."""

    def __init__(
        self, service: Service, fields: Fields, default_format: str, content: tuple[Bundle, Floats] | None = None
    ) -> None:
        """Begins with a picture's content, of this bundle, if there is one. Raises Invalid, NotFound or Overloaded."""
        self.service = service
        self.name, self.version = fields.given(f.MODEL), fields.given(f.VERSION)
        self.chunk_frames = fields.get(f.CHUNK_FRAMES)
        self.format = fields.get(f.STREAM_FORMAT, default_format)
        bundle = service.repository.find(self.name, self.version).bundle
        self.name = bundle.name
        if content is not None and content[0] is not bundle:
            raise Unavailable(REPLACED)
        self.walk = Walk(bundle, fields, content[1] if content else None)
        self.running = asyncio.Event()
        self.running.set()
        self._change: Change | None = None

    def change(self, fields: Fields) -> None:
        """Notes a client's message for the next chunk, or raises Invalid and changes nothing.

        However many messages come before the next chunk, that is one change.
        """
        pause, change = fields.given(f.PAUSE), self.walk.read(fields)
        self._change = self._change.then(change) if self._change else change
        if pause is not None:
            self.running.clear() if pause else self.running.set()

    async def chunk(self) -> NDArray[np.uint8]:
        """The next frames, uint8 `[T, H, W, C]`. A stream whose frames are not accepted now is late, not ended.

        If the version was replaced, its successor continues, provided that it has the same inputs and frames.

        Raises:
            Unavailable: The server drains, or the successor is a model of another kind.
            Overloaded: The frames were not accepted for a long time.
        """
        end = time.monotonic() + REFUSED_SECONDS
        while True:
            try:
                return await self._accepted_chunk()
            except Overloaded:
                if time.monotonic() > end:
                    raise
            # Not all at the same time.
            await asyncio.sleep(random.uniform(0.5, 1.5) * AGAIN_SECONDS)

    async def _accepted_chunk(self) -> NDArray[np.uint8]:
        if self.service.draining:
            raise Unavailable("The server is shutting down.")
        with self.service.repository.lease(self.name, self.version) as model:
            old, new = self.walk.bundle, model.bundle
            if new is not old:
                same = (new.latents, new.frame_shape, new.category_to) == (
                    old.latents,
                    old.frame_shape,
                    old.category_to,
                )
                # What one encoder made is nothing to another's decoder.
                if not same or (new.pictures is not None and new.digest != old.digest):
                    raise Unavailable(REPLACED)
                self.walk.bundle = new
            with model.batcher.admit(self.chunk_frames):
                rows = await self.service.parse(lambda: self._advance(model))
                job = await model.batcher.submit(rows, deadline=self.service.deadline())
            assert job.out is not None
            return job.out

    def _advance(self, model: Model) -> dict[str, Floats]:
        change, self._change = self._change, None
        if change:
            self.walk.apply(change)
        return self.walk.step(model, self.chunk_frames)

    async def chunks(self) -> AsyncIterator[NDArray[np.uint8]]:
        """Yields chunks without end, one chunk ahead of the clock. The clock waits for a client that is late."""
        due = time.monotonic()
        while True:
            await self.running.wait()
            frames = await self.chunk()
            yield frames
            seconds = len(frames) / self.walk.fps
            due = max(due, time.monotonic() - seconds) + seconds
            await asyncio.sleep(max(0.0, due - seconds - time.monotonic()))

    async def encode(self, frames: NDArray[np.uint8]) -> bytes:
        """A chunk as one message: raw pixels, or a strip of the frames side by side."""
        if self.format == "raw":
            return frames.tobytes()
        body, _ = await self.service.encode_with(lambda: strip(frames, self.format), f"stream-{self.format}")
        return body

    async def encode_each(self, frames: NDArray[np.uint8]) -> list[bytes]:
        """Each frame of a chunk as a picture of its own."""

        def pictures() -> list[bytes]:
            return [strip(frame[None], self.format) for frame in frames]

        bodies, _ = await self.service.encode_with(pictures, f"stream-{self.format}")
        return bodies


class Streams:
    """The streams of a server; no more are open, in all and of one client, than the limits allow."""

    def __init__(self, service: Service, keys: Keys, origins: tuple[str, ...]) -> None:
        self.service = service
        self.keys = keys
        self.origins = origins
        self.open: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def place(self, client: str) -> Iterator[None]:
        """Takes a stream's place while the block runs.

        Args:
            client: As of `_client`.

        Raises:
            Overloaded: There is none.
        """
        limits, everybody = self.service.limits, self.open.total()
        if everybody >= limits.max_streams:
            raise Overloaded(f"All {everybody} streams are taken. Try again later.", retry_after=5)
        if self.open[client] >= limits.max_streams_per_client:
            whose = "key" if self.keys.needed else "address"
            most = limits.max_streams_per_client
            raise Overloaded(f"This {whose} has {most} streams, and may have no more. Close one.", retry_after=5)
        self.open[client] += 1
        self.service.metrics.streams.set(everybody + 1)
        try:
            yield
        finally:
            self.open[client] -= 1
            if not self.open[client]:
                del self.open[client]
            self.service.metrics.streams.set(self.open.total())

    def _client(self, scope: Scope, key: str) -> str:
        """Whose stream it is: the key's where one is needed, else the address's."""
        if self.keys.needed:
            return key
        connection: Connection | None = scope.get("state", {}).get("connection")
        return connection.name if connection is not None else ""

    async def picture(self, request: Request) -> Response:
        """`GET /v1/stream?...`: JPEG after JPEG (`multipart/x-mixed-replace`), which an `<img>` plays without end."""
        request.state.route = "/v1/stream"
        if self.service.draining:
            raise Unavailable("The server is shutting down.")
        stream = Stream(self.service, Fields(f.from_query(request.scope["query_string"], f.STREAM), f.STREAM), "jpeg")
        if stream.format == "raw":
            raise Invalid("`format` must be jpeg, png or webp here; raw is for WebSockets.")
        kind = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}[stream.format]
        headers = {"X-Seed": str(stream.walk.seed), "Cache-Control": "no-store"}
        media_type = "multipart/x-mixed-replace; boundary=frame"
        if request.method == "HEAD":
            head = Response(media_type=media_type, headers=headers)
            del head.headers["Content-Length"]  # It has none.
            return head
        place = self.place(self._client(request.scope, key_of(request.headers)))
        return _Pictures(place, _parts(stream, kind), media_type=media_type, headers=headers)

    async def socket(self, websocket: WebSocket) -> None:
        """`/v1/stream` as a WebSocket.

        The client's messages are JSON objects, as text or as bytes: the first with the fields of `fields.STREAM` (and
        `api_key` where keys are needed), later ones with those of `fields.CHANGE`. The server answers the first with
        `{"type": "start", ...}`, then sends binary messages of `chunk_frames` frames each. An error is
        `{"error", "error_type"}` and closes the stream, unless it is about a change.
        """
        if not self._same_origin(websocket):
            await websocket.close(1008)
            return
        await websocket.accept()
        try:
            first, key = await self._first_message(websocket)
            with self.place(self._client(websocket.scope, key)):
                await self._talk(websocket, first)
        except ServingError as error:
            self.service.metrics.rejected.labels(error.error_type).inc()
            await _say(websocket, {"error": str(error), "error_type": error.error_type})
            await _close(websocket, CLOSE.get(type(error), 1008))
        except (WebSocketDisconnect, TimeoutError):
            await _close(websocket, 1008)

    def _same_origin(self, websocket: WebSocket) -> bool:
        """Whether a page of our own or of an allowed origin asks. Browsers open WebSockets to other origins unasked."""
        origin = websocket.headers.get("origin")
        if origin is None or origin in self.origins or "*" in self.origins:
            return True
        return origin.partition("://")[2] == websocket.headers.get("host")

    async def _first_message(self, websocket: WebSocket) -> tuple[dict[str, Any], str]:
        """What a client with a key wants to see, and the key. Until it says so, its connection waits like others."""
        connection: Connection | None = websocket.scope.get("state", {}).get("connection")
        if connection is not None:
            connection.wait(FIRST_MESSAGE_SECONDS)
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            first = await _receive(websocket, FIRST_MESSAGE_BYTES)
        given = first.pop("api_key", "")
        key = given if isinstance(given, str) else ""
        if not self.keys.accept(key):
            raise Unauthorized("An API key is needed: `api_key` in the first message.")
        if connection is not None:
            connection.work()
        return first, key

    async def _talk(self, websocket: WebSocket, first: dict[str, Any]) -> None:
        fields = Fields(first, f.STREAM)
        picture, content = await given_picture(fields, self.service), None
        if picture is not None:
            content = await self._content(fields, picture)
        stream = Stream(self.service, fields, "raw", content)
        walk = stream.walk
        await _say(
            websocket,
            {
                "type": "start", "model": stream.name, "seed": str(walk.seed), "format": stream.format, "fps": walk.fps,
                "height": walk.bundle.height, "width": walk.bundle.width, "channels": walk.bundle.channels,
                "chunk_frames": stream.chunk_frames,
            },
        )  # fmt: skip
        sending = asyncio.create_task(self._send(websocket, stream))
        listening = asyncio.create_task(self._listen(websocket, stream))
        try:
            await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [task for task in (sending, listening) if task.done()]
            for task in (sending, listening):
                task.cancel()
            await asyncio.wait({sending, listening})
        for task in ended:
            task.result()

    async def _content(self, fields: Fields, picture: Picture) -> tuple[Bundle, Floats]:
        """What the model's encoder makes of a picture, with the model's bundle."""
        with self.service.repository.lease(fields.given(f.MODEL), fields.given(f.VERSION)) as model:
            if picture.pixels.shape != model.bundle.frame_shape:
                raise Unavailable(REPLACED)
            content = await self.service.parse(lambda: model.engine.encode(picture.pixels[None])[0])
            return model.bundle, content

    async def _send(self, websocket: WebSocket, stream: Stream) -> None:
        async for frames in stream.chunks():
            message = await stream.encode(frames)
            try:
                async with asyncio.timeout(self.service.limits.write_seconds):
                    await websocket.send_bytes(message)
            except RuntimeError:  # It is being closed for a message that is none.
                raise WebSocketDisconnect from None

    async def _listen(self, websocket: WebSocket, stream: Stream) -> None:
        while True:
            try:
                stream.change(Fields(await _receive(websocket), f.CHANGE))
            except ServingError as error:
                await _say(websocket, {"error": str(error), "error_type": error.error_type})
            await asyncio.sleep(CHANGE_SECONDS)  # What is here already waits, in bounded number, and others do not.


class _Pictures(StreamingResponse):
    """An endless answer, which has its place among the streams from its head to its end."""

    def __init__(self, place: AbstractContextManager[None], parts: AsyncIterator[bytes], **options: Any) -> None:
        super().__init__(parts, **options)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            await super().__call__(scope, receive, send)


async def _parts(stream: Stream, kind: str) -> AsyncIterator[bytes]:
    stop = Overloaded, Unavailable, NotFound
    try:
        async for frames in stream.chunks():
            begin = time.monotonic()
            for body in await stream.encode_each(frames):
                head = f"--frame\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                yield head + body + b"\r\n"
                await asyncio.sleep(max(0.0, 1 / stream.walk.fps - (time.monotonic() - begin)))
                begin = time.monotonic()
    except stop:
        yield b"--frame--\r\n"


async def _receive(websocket: WebSocket, most: int = MESSAGE_BYTES) -> dict[str, Any]:
    """Returns the client's next message, a JSON object as text or as bytes.

    Raises:
        Malformed: It is too long, or not a JSON object.
        WebSocketDisconnect: The client went away.
    """
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"], message.get("reason"))
    text = message.get("text")
    body = message["bytes"] if text is None else text.encode()
    if len(body) > most:
        raise Malformed(f"A message has at most {most} bytes.")
    return parse_json(body)


async def _say(websocket: WebSocket, message: dict[str, Any]) -> None:
    try:
        await websocket.send_text(orjson.dumps(message).decode())
    except (RuntimeError, WebSocketDisconnect):
        pass  # The client is gone; whoever receives next finds out.


async def _close(websocket: WebSocket, code: int) -> None:
    try:
        await websocket.close(code)
    except (RuntimeError, WebSocketDisconnect):
        pass
