"""The native routes: `/v1/generate` and `/v1/grid`, clips and content x motion grids as files to look at."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from mocogan_tf.latents import choose_contents, slerp
from mocogan_tf.video import scale_up
from serving.protocols import fields as f
from serving.protocols.fields import Fields
from serving.protocols.latents import read_given
from serving.protocols.pictures import Picture, given_picture
from serving.runtime.bundle import Bundle
from serving.runtime.encode import check_format, encode, mosaic
from serving.runtime.engine import Engine
from serving.runtime.errors import Invalid, TooLarge, Unavailable
from serving.runtime.options import Floats
from serving.runtime.repository import Model
from serving.runtime.service import Limits, Service, category_index
from serving.web.bodies import parse_json, read_body, skip_body
from serving.web.http import check_json_type, until_disconnect


@dataclasses.dataclass(frozen=True)
class Output:
    """How the frames are to come back."""

    format: str
    fps: float
    scale: int
    timeout: float | None

    @classmethod
    def read(cls, fields: Fields, model: Model, total_frames: int, limits: Limits) -> Output:
        """Raises Invalid, or TooLarge for an answer of too many pixels."""
        scale = fields.get(f.SCALE)
        pixels = total_frames * model.bundle.height * model.bundle.width * scale * scale
        if pixels > limits.max_pixels:
            raise TooLarge(
                f"An answer has at most {limits.max_pixels} pixels; this one would have {pixels}. Lower `scale`."
            )
        timeout = fields.get(f.TIMEOUT, limits.timeout_seconds)
        return cls(fields.get(f.FORMAT), fields.get(f.FPS, model.bundle.fps), scale, timeout)


@dataclasses.dataclass(frozen=True)
class Blend:
    """Content or motion: one seed's draw, moved some way towards another's, then made weaker or stronger.

    `seed` is None where a picture is there instead. Encoded pictures mix in a straight line, everything else on the
    great circle.
    """

    seed: int | None
    seed_to: int | None
    amount: float
    scale: float
    straight: bool = False

    @property
    def mixes(self) -> bool:
        return self.amount > 0 and self.seed_to is not None and self.seed_to != self.seed

    def apply(self, value: Floats, other: Floats | None) -> Floats:
        """The latent between the two draws, scaled; a plain draw stays as it is, bit for bit."""
        if other is None:
            mixed = value
        elif self.straight:
            mixed = value + np.float32(self.amount) * (other - value)
        else:
            mixed = slerp(value, other, self.amount)
        return mixed if self.scale == 1.0 else mixed * np.float32(self.scale)


@dataclasses.dataclass(frozen=True)
class GenerateRequest:
    """`/v1/generate`, checked against a model and the limits."""

    bundle: Bundle
    num_videos: int
    num_frames: int
    seed: int
    content: Blend
    motion: Blend
    category: int | None
    first_clip: int
    given: dict[str, Floats]
    picture: Picture | None
    output: Output

    @classmethod
    def read(cls, fields: Fields, model: Model, limits: Limits, picture: Picture | None) -> GenerateRequest:
        """Raises Invalid or TooLarge."""
        bundle = model.bundle
        num_videos = fields.get(f.NUM_VIDEOS)
        num_frames = fields.get(f.NUM_FRAMES, bundle.video_length)
        total = limits.check_work(num_videos, num_frames)
        seed = fields.get(f.SEED, secrets.randbits(f.RANDOM_SEED_BITS))
        content_seed, motion_seed = fields.given(f.CONTENT_SEED), fields.get(f.MOTION_SEED, seed)
        given = read_given(fields.get(f.LATENTS, {}), bundle, num_videos, num_frames)
        if picture is not None and (content_seed is not None or "content" in given):
            raise Invalid("`image` must come without `content_seed` and `latents.content`: it is the content.")
        if picture is None and content_seed is None:
            content_seed = seed
        content_to, content_scale = fields.given(f.CONTENT_SEED_TO), fields.get(f.CONTENT_SCALE)
        from_pictures = bundle.pictures is not None
        if from_pictures and content_scale != 1.0:
            raise Invalid("`content_scale` must be 1: this model's content is a picture, which has no strength.")
        first_clip, last = fields.get(f.FIRST_CLIP), 2**32 - 1 - num_videos
        if first_clip > last:
            f.FIRST_CLIP.refuse(first_clip, f"an integer in [0, {last}]")
        return cls(
            bundle=bundle,
            num_videos=num_videos,
            num_frames=num_frames,
            seed=seed,
            content=Blend(content_seed, content_to, fields.get(f.CONTENT_BLEND), content_scale, from_pictures),
            motion=Blend(
                motion_seed,
                fields.get(f.MOTION_SEED_TO, motion_seed),
                fields.get(f.MOTION_BLEND),
                fields.get(f.MOTION_SCALE),
            ),
            category=category_index(fields.given(f.CATEGORY), bundle.categories),
            first_clip=first_clip,
            given=given,
            picture=picture,
            output=Output.read(fields, model, total, limits),
        )

    @property
    def total_frames(self) -> int:
        return self.num_videos * self.num_frames

    @property
    def said(self) -> str:
        """Which picture it is about, in words; empty where content does not come from pictures."""
        if self.picture is not None or self.bundle.contents is None or "content" in self.given:
            return self.picture.said if self.picture else ""
        seed, number = self.content.seed, len(self.bundle.contents)
        first = choose_contents(self.seed if seed is None else seed, 1, number, self.first_clip)[0]
        return f"number {first + 1} of the model's {number}"

    def draw(self, engine: Engine) -> dict[str, Floats]:
        """The generator's inputs: drawn from the seeds, blended and scaled; given ones are taken as they are."""
        drawn = self._draw(self.content.seed, self.motion.seed)
        if self.picture is not None:
            drawn["content"] = np.repeat(engine.encode(self.picture.pixels[None]), self.num_videos, axis=0)
        content, motion = self.content, self.motion
        other = self._draw(content.seed_to, motion.seed_to) if content.mixes or motion.mixes else {}
        drawn["content"] = content.apply(drawn["content"], other["content"] if content.mixes else None)
        for name in ("motion_init", "motion_noise"):
            drawn[name] = motion.apply(drawn[name], other[name] if motion.mixes else None)
        return drawn | self.given

    def _draw(self, content_seed: int | None, motion_seed: int | None) -> dict[str, Floats]:
        return self.bundle.sample(
            self.num_videos,
            self.num_frames,
            seed=self.seed,
            content_seed=content_seed,
            motion_seed=motion_seed,
            category=self.category,
            first_clip=self.first_clip,
        )


@dataclasses.dataclass(frozen=True)
class GridRequest:
    """`/v1/grid`: every content with every motion; row i is `content_seeds[i]`, column j `motion_seeds[j]`.

    Cell (i, j) is the clip of `/v1/generate` with these two seeds and the grid's `seed` and `category`. A picture makes
    one row.
    """

    bundle: Bundle
    num_frames: int
    seed: int
    content_seeds: list[int]
    motion_seeds: list[int]
    categories: list[int | None]
    picture: Picture | None
    output: Output

    @classmethod
    def read(cls, fields: Fields, model: Model, limits: Limits, picture: Picture | None) -> GridRequest:
        """Raises Invalid or TooLarge."""
        bundle = model.bundle
        seed = fields.get(f.SEED, secrets.randbits(f.RANDOM_SEED_BITS))
        num_frames = fields.get(f.NUM_FRAMES, bundle.video_length)

        listed = fields.given(f.CONTENT_SEEDS)
        if picture is not None and (listed or fields.given(f.ROWS) not in (None, 1)):
            raise Invalid("`image` makes one row: leave `rows` and `content_seeds` out.")

        def seeds(count: f.Integer, listed: f.Seeds) -> list[int]:
            """As many seeds as asked for, or those listed; if both are given they must agree."""
            number = fields.get(count)
            found = fields.get(listed, [(seed + i) % 2**64 for i in range(number)])
            if fields.given(count) not in (None, len(found)):
                raise Invalid(
                    f"`{count.name}` must be the number of `{listed.name}`. Received: {number} and {len(found)}"
                )
            return found

        content_seeds = [seed] if picture is not None else seeds(f.ROWS, f.CONTENT_SEEDS)
        motion_seeds = seeds(f.COLUMNS, f.MOTION_SEEDS)
        total = limits.check_work(len(content_seeds) * len(motion_seeds), num_frames)
        categories = [category_index(fields.given(f.CATEGORY), bundle.categories)] * len(motion_seeds)
        by_column = fields.given(f.CATEGORIES)
        if by_column is not None:
            if len(by_column) != len(motion_seeds):
                raise Invalid(f"`categories` must have one category per column, {len(motion_seeds)}.")
            categories = [category_index(value, bundle.categories) for value in by_column]
        output = Output.read(fields, model, total, limits)
        return cls(bundle, num_frames, seed, content_seeds, motion_seeds, categories, picture, output)

    @property
    def total_frames(self) -> int:
        return len(self.content_seeds) * len(self.motion_seeds) * self.num_frames

    @property
    def said(self) -> str:
        """As of `GenerateRequest`."""
        return self.picture.said if self.picture else ""

    def draw(self, engine: Engine) -> dict[str, Floats]:
        """The generator's inputs, cell by cell in row-major order."""
        if self.picture is not None:
            rows = [engine.encode(self.picture.pixels[None])]
        else:
            rows = [self.bundle.sample(1, 1, seed=seed)["content"] for seed in self.content_seeds]
        columns = []
        for motion_seed, category in zip(self.motion_seeds, self.categories, strict=True):
            drawn = self.bundle.sample(1, self.num_frames, seed=self.seed, motion_seed=motion_seed, category=category)
            columns.append({name: value for name, value in drawn.items() if name != "content"})
        latents = {"content": np.concatenate([row for row in rows for _ in columns])}
        for name in columns[0]:
            latents[name] = np.concatenate([column[name] for _ in rows for column in columns])
        return latents


Read = Callable[[Fields, Model, Limits, Picture | None], GenerateRequest | GridRequest]


async def generate(request: Request) -> Response:
    """`GET` (for an `<img>`) and `POST /v1/generate`."""
    return await _answer(request, "/v1/generate", f.GENERATE, GenerateRequest.read)


async def grid(request: Request) -> Response:
    """`GET` and `POST /v1/grid`."""
    return await _answer(request, "/v1/grid", f.GRID, GridRequest.read)


async def _answer(request: Request, route: str, table: f.Table, read: Read) -> Response:
    service: Service = request.app.state.service
    request.state.route = route
    values: dict[str, Any]
    if request.method == "POST":
        check_json_type(request)
        service.check_room()
        values = await read_body(request, service, lambda body: parse_json(body, service.limits))
    else:
        await skip_body(request, service.limits)
        values = f.from_query(request.scope["query_string"], table)
    fields = Fields(values, table, service.limits)
    picture = await given_picture(fields, service)
    values.pop("image", None)  # It is large.
    with service.repository.lease(fields.given(f.MODEL), fields.given(f.VERSION)) as model:
        if picture is not None and picture.pixels.shape != model.bundle.frame_shape:
            raise Unavailable("The model was replaced by one of another size. Try again.", retry_after=1.0)
        wanted = await service.parse(lambda: read(fields, model, service.limits, picture))
        tag = _tag(model, values) if request.method == "GET" and fields.given(f.SEED) is not None else None
        if tag and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
        response = await until_disconnect(request, _render(request, service, model, wanted))
    if tag:
        response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "no-cache" if tag else "no-store"
    return response


def _tag(model: Model, values: dict[str, Any]) -> str:
    """An ETag. A seed is one clip of one model: request, bundle, provider and precision determine the answer."""
    engine = model.engine
    said = orjson.dumps([model.bundle.digest, engine.provider, engine.precision, values], option=orjson.OPT_SORT_KEYS)
    return f'"{hashlib.sha256(said).hexdigest()[:32]}"'


async def _render(request: Request, service: Service, model: Model, wanted: GenerateRequest | GridRequest) -> Response:
    output = wanted.output
    kind = check_format(output.format)
    deadline = service.deadline(output.timeout)
    pixels = wanted.total_frames * model.bundle.height * model.bundle.width * output.scale**2
    with service.admit(model, wanted.total_frames, deadline, output.format, pixels) as work:
        clip = await service.render(model, lambda: wanted.draw(model.engine), deadline=deadline, as_pixels=True)

        def to_bytes() -> bytes:
            clips = clip.video
            if isinstance(wanted, GridRequest) and output.format not in ("npy", "png", "sheet"):
                clips = mosaic(scale_up(clips, output.scale, smooth=True), len(wanted.motion_seeds))[None]
                return encode(clips, output.format, fps=output.fps)
            return encode(clips, output.format, fps=output.fps, scale=output.scale)

        body, encode_seconds = await service.encode(to_bytes, work)
    timing = {
        "draw": clip.draw_seconds,
        "queue": clip.queue_seconds,
        "render": clip.render_seconds,
        "encode": encode_seconds,
    }
    request.state.notes.update(
        model=model.name, version=model.version, frames=wanted.total_frames, format=output.format,
        **{f"{name}_ms": round(seconds * 1e3, 2) for name, seconds in timing.items()},
    )  # fmt: skip
    filename = f"{_ascii(model.name)}-{wanted.seed}.{kind.extension}"
    headers = {
        "X-Seed": str(wanted.seed),
        "X-Model": _ascii(model.name),
        "X-Model-Version": str(model.version),
        "X-Video-Shape": ",".join(map(str, clip.video.shape)),
        "Content-Disposition": f'inline; filename="{filename}"',
        "Server-Timing": ", ".join(f"{name};dur={seconds * 1e3:.2f}" for name, seconds in timing.items()),
    }
    if wanted.said:
        headers["X-Picture"] = wanted.said
    return Response(body, media_type=kind.media_type, headers=headers)


def _ascii(text: str) -> str:
    """A name made fit for a header."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in text)
