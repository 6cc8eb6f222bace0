"""Fields of the native requests: types, bounds, defaults, and the latents that they ask for."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.interpolate import slerp
from serving.latents import LatentSpec, sample_latents
from serving.runtime.encode import FORMATS
from serving.runtime.engine import Floats
from serving.runtime.errors import Invalid, TooLarge, shown
from serving.runtime.repository import Model
from serving.runtime.service import Limits, category_index

MAX_SCALE = 8
# Slower than this, frames' durations outgrow the formats' numbers.
MIN_FPS, MAX_FPS = 0.1, 120.0
# Three times a normal vector is far outside of what the generator was trained on.
MAX_STRENGTH = 3.0
# Small enough that a browser's numbers hold it; clients may send any of the 2^64.
RANDOM_SEED_BITS = 53
COMMON = ("model", "version", "seed", "num_frames", "category", "fps", "format", "scale", "timeout")
BLENDS = ("content_seed_to", "content_blend", "motion_seed_to", "motion_blend", "content_scale", "motion_scale")
GENERATE_FIELDS = (*COMMON, "num_videos", "content_seed", "motion_seed", *BLENDS, "first_clip", "latents")
GRID_FIELDS = (*COMMON, "rows", "columns", "content_seeds", "motion_seeds", "categories")
NUMBERS = {"version", "num_frames", "num_videos", "scale", "first_clip", "rows", "columns", "chunk_frames"}
REALS = {"fps", "timeout", "content_blend", "motion_blend", "content_scale", "motion_scale"}


class Fields:
    """A mapping from outside, read field by field; every reader names the field in its error."""

    def __init__(self, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
        """Raises Invalid for a field that the route does not have."""
        unknown = [name for name in values if name not in known]
        if unknown:
            raise Invalid(f"Unknown field {shown(unknown[0])}. Known: {', '.join(known)}.")
        self._values = values

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def integer(self, name: str, default: int, low: int, high: int | None) -> int:
        """An integer in [low, high]."""
        value = self._values.get(name)
        if value is None:
            return default
        bounds = f"at least {low}" if high is None else f"in [{low}, {high}]"
        if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
            raise Invalid(f"`{name}` must be an integer {bounds}. Received: {name}={shown(value)}")
        return value

    def number(self, name: str, default: float, high: float) -> float:
        """A finite number in (0, high]."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= high:
            raise Invalid(f"`{name}` must be a number in (0, {high:g}]. Received: {name}={shown(value)}")
        return float(value)

    def fps(self, default: float) -> float:
        """Frames per second, in [MIN_FPS, MAX_FPS]."""
        return self.share("fps", default, MAX_FPS, MIN_FPS)

    def share(self, name: str, default: float, high: float = 1.0, low: float = 0.0) -> float:
        """A finite number in [low, high]."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise Invalid(f"`{name}` must be a number in [{low:g}, {high:g}]. Received: {name}={shown(value)}")
        return float(value)

    def choice(self, name: str, default: str, choices: Mapping[str, Any]) -> str:
        """One of the choices."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise Invalid(f"`{name}` must be one of {', '.join(choices)}. Received: {name}={shown(value)}")
        return value

    def text(self, name: str) -> str | None:
        """A short string, or None."""
        value = self._values.get(name)
        if value is not None and (not isinstance(value, str) or not value or len(value) > 200):
            raise Invalid(f"`{name}` must be a string. Received: {name}={shown(value)}")
        return value

    def seed(self, name: str, default: int) -> int:
        """An integer in [0, 2^64), also as decimal digits in a string for languages without 64-bit integers."""
        value = self._values.get(name)
        return default if value is None else check_seed_value(value, name)

    def seeds(self, name: str, default: list[int], most: int) -> list[int]:
        """A list of seeds."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, list) or not value:
            raise Invalid(f"`{name}` must be a list of seeds. Received: {name}={shown(value)}")
        if len(value) > most:
            raise TooLarge(f"`{name}` must have at most {most} seeds. Received: {len(value)}")
        return [check_seed_value(seed, name) for seed in value]


def check_seed_value(value: object, name: str) -> int:
    """A seed out of JSON.

    Raises:
        Invalid: It is not an integer in [0, 2^64).
    """
    number = (
        int(value) if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) <= 20 else value
    )
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**64:
        raise Invalid(f"`{name}` must be an integer in [0, 2^64). Received: {name}={shown(value)}")
    return number


def from_query(query: Mapping[str, str]) -> dict[str, Any]:
    """Query parameters as JSON values: numbers where numbers belong, lists at commas. What is wrong stays as it is."""
    values: dict[str, Any] = {}
    for name, text in query.items():
        values[name] = text
        if name in NUMBERS and text.isdecimal() and text.isascii() and len(text) <= 20:
            values[name] = int(text)
        elif name in REALS:
            try:
                values[name] = float(text)
            except ValueError:
                pass
        elif name in ("content_seeds", "motion_seeds", "categories"):
            values[name] = text.split(",")
    return values


def check_array(value: object, name: str, shape: tuple[int, ...]) -> Floats:
    """float32 array of a given shape out of nested lists.

    Raises:
        Invalid: Not numbers, not finite, or another shape.
    """
    expected = f"`{name}` must be finite numbers of shape {list(shape)}."
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "if":
            raise Invalid(f"{expected} Received: {shown(value)}")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Invalid(f"{expected} Received lists of uneven length or another kind of value.") from error
    if array.shape != shape:
        raise Invalid(f"{expected} Received: shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise Invalid(f"{expected} Received a value that is not finite in float32.")
    floats: Floats = array
    return floats


@dataclasses.dataclass(frozen=True)
class Output:
    """How the frames are to come back."""

    format: str
    fps: float
    scale: int
    timeout: float | None


def _output(fields: Fields, model: Model, total_frames: int, limits: Limits) -> Output:
    scale = fields.integer("scale", 1, 1, MAX_SCALE)
    pixels = total_frames * model.bundle.height * model.bundle.width * scale * scale
    if pixels > limits.max_pixels:
        raise TooLarge(
            f"An answer has at most {limits.max_pixels} pixels; this one would have {pixels}. Lower `scale`."
        )
    timeout = fields.number("timeout", limits.timeout_seconds, limits.timeout_seconds)
    name = fields.choice("format", "webp", FORMATS)
    return Output(name, fields.fps(model.bundle.fps), scale, timeout)


@dataclasses.dataclass(frozen=True)
class Blend:
    """One of content and motion: from one seed's draw some way towards another's, then made weaker or stronger."""

    seed: int
    seed_to: int
    amount: float
    scale: float

    @classmethod
    def read(cls, fields: Fields, name: str, seed: int) -> Blend:
        """Raises Invalid."""
        own = fields.seed(f"{name}_seed", seed)
        return cls(
            seed=own,
            seed_to=fields.seed(f"{name}_seed_to", own),
            amount=fields.share(f"{name}_blend", 0.0),
            scale=fields.share(f"{name}_scale", 1.0, MAX_STRENGTH),
        )

    @property
    def mixes(self) -> bool:
        return self.amount > 0 and self.seed_to != self.seed

    def apply(self, value: Floats, other: Floats | None) -> Floats:
        """The latent between the two draws, scaled; a plain draw stays as it is, bit for bit."""
        mixed = value if other is None else slerp(value, other, self.amount)
        return mixed if self.scale == 1.0 else mixed * np.float32(self.scale)


@dataclasses.dataclass(frozen=True)
class GenerateRequest:
    """`/v1/generate`, checked against a model and the limits."""

    spec: LatentSpec
    num_videos: int
    num_frames: int
    seed: int
    content: Blend
    motion: Blend
    category: int | None
    first_clip: int
    given: dict[str, Floats]
    output: Output

    @classmethod
    def read(cls, fields: Fields, model: Model, limits: Limits) -> GenerateRequest:
        """Raises Invalid or TooLarge."""
        bundle = model.bundle
        num_videos = fields.integer("num_videos", 1, 1, None)
        num_frames = fields.integer("num_frames", bundle.video_length, 1, None)
        total = limits.check_work(num_videos, num_frames)
        seed = fields.seed("seed", secrets.randbits(RANDOM_SEED_BITS))
        shapes = bundle.latents.shapes(num_videos, num_frames)
        given = fields.get("latents")
        if given is not None and not isinstance(given, dict):
            raise Invalid(f"`latents` must be an object of arrays. Received: latents={shown(given)}")
        arrays = {}
        for name, value in (given or {}).items():
            if name not in shapes:
                raise Invalid(f"`latents` must have members out of {', '.join(shapes)}. Received: {shown(name)}")
            shape = tuple(size or 0 for size in shapes[name])
            arrays[name] = check_array(value, f"latents.{name}", shape)
        return cls(
            spec=bundle.latents,
            num_videos=num_videos,
            num_frames=num_frames,
            seed=seed,
            content=Blend.read(fields, "content", seed),
            motion=Blend.read(fields, "motion", seed),
            category=category_index(fields.get("category"), bundle.categories),
            first_clip=fields.integer("first_clip", 0, 0, 2**32 - 1 - num_videos),
            given=arrays,
            output=_output(fields, model, total, limits),
        )

    @property
    def total_frames(self) -> int:
        return self.num_videos * self.num_frames

    def draw(self) -> dict[str, Floats]:
        """The generator's inputs: drawn from the seeds, blended and scaled; those given are taken as they are."""
        drawn = self._draw(self.content.seed, self.motion.seed)
        content, motion = self.content, self.motion
        other = self._draw(content.seed_to, motion.seed_to) if content.mixes or motion.mixes else {}
        drawn["content"] = content.apply(drawn["content"], other["content"] if content.mixes else None)
        for name in ("motion_init", "motion_noise"):
            drawn[name] = motion.apply(drawn[name], other[name] if motion.mixes else None)
        return drawn | self.given

    def _draw(self, content_seed: int, motion_seed: int) -> dict[str, Floats]:
        return sample_latents(
            self.spec,
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

    Cell (i, j) is the clip of `/v1/generate` with these two seeds and the grid's `seed` and `category`.
    """

    spec: LatentSpec
    num_frames: int
    seed: int
    content_seeds: list[int]
    motion_seeds: list[int]
    categories: list[int | None]
    output: Output

    @classmethod
    def read(cls, fields: Fields, model: Model, limits: Limits) -> GridRequest:
        """Raises Invalid or TooLarge."""
        bundle, most = model.bundle, limits.max_videos
        seed = fields.seed("seed", secrets.randbits(RANDOM_SEED_BITS))
        num_frames = fields.integer("num_frames", bundle.video_length, 1, None)
        rows, columns = (fields.integer(name, 3, 1, most) for name in ("rows", "columns"))
        content_seeds = fields.seeds("content_seeds", [(seed + i) % 2**64 for i in range(rows)], most)
        motion_seeds = fields.seeds("motion_seeds", [(seed + j) % 2**64 for j in range(columns)], most)
        if fields.get("rows") is not None and rows != len(content_seeds):
            raise Invalid(f"`rows` must be the number of `content_seeds`. Received: {rows} and {len(content_seeds)}")
        if fields.get("columns") is not None and columns != len(motion_seeds):
            raise Invalid(
                f"`columns` must be the number of `motion_seeds`. Received: {columns} and {len(motion_seeds)}"
            )
        total = limits.check_work(len(content_seeds) * len(motion_seeds), num_frames)
        category = category_index(fields.get("category"), bundle.categories)
        categories: list[int | None] = [category] * len(motion_seeds)
        by_column = fields.get("categories")
        if by_column is not None:
            if not isinstance(by_column, list) or len(by_column) != len(motion_seeds):
                raise Invalid(f"`categories` must have one category per column, {len(motion_seeds)}.")
            categories = [category_index(value, bundle.categories) for value in by_column]
        output = _output(fields, model, total, limits)
        return cls(bundle.latents, num_frames, seed, content_seeds, motion_seeds, categories, output)

    @property
    def num_videos(self) -> int:
        return len(self.content_seeds) * len(self.motion_seeds)

    @property
    def total_frames(self) -> int:
        return self.num_videos * self.num_frames

    def draw(self) -> dict[str, Floats]:
        """The generator's inputs, cell by cell in row-major order."""
        rows = [sample_latents(self.spec, 1, 1, seed=seed)["content"] for seed in self.content_seeds]
        columns = []
        for motion_seed, category in zip(self.motion_seeds, self.categories, strict=True):
            drawn = sample_latents(
                self.spec, 1, self.num_frames, seed=self.seed, motion_seed=motion_seed, category=category
            )
            columns.append({name: value for name, value in drawn.items() if name != "content"})
        latents = {"content": np.concatenate([row for row in rows for _ in columns])}
        for name in columns[0]:
            latents[name] = np.concatenate([column[name] for _ in rows for column in columns])
        return latents
