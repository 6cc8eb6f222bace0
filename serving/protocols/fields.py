"""The fields of the native requests: one table, from which requests are read and the OpenAPI document is made.

A field knows its name, type, bounds, default and description. `GENERATE`, `GRID`, `STREAM` and `CHANGE` list the fields
of each kind of request; `Fields` reads a request by them, `Field.schema` describes it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping
from typing import Any, Generic, NoReturn, TypeVar

from starlette.datastructures import QueryParams

from serving.runtime.encode import FORMATS, STRIPS
from serving.runtime.errors import Invalid, Malformed, TooLarge, shown
from serving.runtime.service import Limits

T = TypeVar("T")
Schema = dict[str, Any]
Bound = int | float | str

# Decimal digits of the largest seed, 2^64 - 1.
SEED_DIGITS = 20
MAX_PARAMETERS = 64
# Small enough for a browser's numbers. Clients may send any seed below 2^64.
RANDOM_SEED_BITS = 53
# At a slower speed the durations of frames outgrow the numbers of the file formats.
MIN_FPS, MAX_FPS = 0.1, 120.0
# The generator was not trained on anything near three times a normal vector.
MAX_STRENGTH = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field(Generic[T]):
    """One field of a request.

    Args:
        name: Its key in JSON and in a query.
        description: For the OpenAPI document.
        default: Its value if it is left out; None where that depends on the model or on other fields.
        in_query: Whether a query may carry it.
    """

    name: str
    description: str = ""
    default: T | None = None
    in_query: bool = True

    def read(self, value: object, limits: Limits) -> T:
        """Returns the value out of JSON, checked.

        Raises:
            Invalid: It has another type or is out of range.
            TooLarge: It asks for more than the server does in one request.
        """
        raise NotImplementedError

    def from_text(self, text: str) -> Any:
        """Returns what JSON would hold for a query's text. Text that does not fit stays, for `read` to refuse."""
        return text

    def type_schema(self, limits: Limits) -> Schema:
        """Returns type and bounds in the words of JSON Schema."""
        raise NotImplementedError

    def schema(self, limits: Limits) -> Schema:
        """Returns the field's whole JSON Schema."""
        schema = self.type_schema(limits)
        said = " ".join(text for text in (self.description, schema.get("description", "")) if text)
        schema = schema | ({"description": said} if said else {})
        return schema if self.default is None else schema | {"default": self.default}

    def refuse(self, value: object, expected: str) -> NoReturn:
        """Raises Invalid with what was expected and what was received."""
        raise Invalid(f"`{self.name}` must be {expected}. Received: {self.name}={shown(value)}")


def _bound(bound: Bound, limits: Limits) -> Any:
    """A bound's number: itself, or that of the limit with this name."""
    return getattr(limits, bound) if isinstance(bound, str) else bound


def _digits(text: str) -> bool:
    """Whether a text is a whole number as short as a seed."""
    return text.isdecimal() and text.isascii() and len(text) <= SEED_DIGITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integer(Field[int]):
    """An integer from `low` to `high`, a number or the name of a limit.

    `limits.check_work` refuses what is above a bound that `is_work`: that is a request too large, not an invalid one.
    """

    low: int
    high: Bound | None = None
    is_work: bool = False

    def read(self, value: object, limits: Limits) -> int:
        high = None if self.high is None or self.is_work else _bound(self.high, limits)
        if isinstance(value, int) and not isinstance(value, bool) and value >= self.low:
            if high is None or value <= high:
                return value
        self.refuse(value, f"an integer {f'at least {self.low}' if high is None else f'in [{self.low}, {high}]'}")

    def from_text(self, text: str) -> Any:
        return int(text) if _digits(text) else text

    def type_schema(self, limits: Limits) -> Schema:
        schema = {"type": "integer", "minimum": self.low}
        return schema if self.high is None else schema | {"maximum": _bound(self.high, limits)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number(Field[float]):
    """A finite number from `low` to `high`, which may be the name of a limit."""

    low: float = 0.0
    high: Bound = 1.0

    def read(self, value: object, limits: Limits) -> float:
        high = _bound(self.high, limits)
        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= high:
            return float(value)
        self.refuse(value, f"a number in [{self.low:g}, {high:g}]")

    def from_text(self, text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    def type_schema(self, limits: Limits) -> Schema:
        return {"type": "number", "minimum": self.low, "maximum": _bound(self.high, limits)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(Field[str]):
    """One of a few words."""

    choices: tuple[str, ...]

    def read(self, value: object, limits: Limits) -> str:
        if not isinstance(value, str) or value not in self.choices:
            self.refuse(value, f"one of {', '.join(self.choices)}")
        return value

    def type_schema(self, limits: Limits) -> Schema:
        return {"type": "string", "enum": list(self.choices)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Field[str]):
    """A string of 1 to 200 characters."""

    def read(self, value: object, limits: Limits) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= 200:
            self.refuse(value, "a string")
        return value

    def type_schema(self, limits: Limits) -> Schema:
        return {"type": "string", "minLength": 1, "maxLength": 200}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag(Field[bool]):
    """True or false."""

    def read(self, value: object, limits: Limits) -> bool:
        if not isinstance(value, bool):
            raise Invalid(f"`{self.name}` must be true or false.")
        return value

    def type_schema(self, limits: Limits) -> Schema:
        return {"type": "boolean"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seed(Field[int]):
    """An integer in [0, 2^64); a string of digits too, for languages without integers of 64 bits."""

    def read(self, value: object, limits: Limits) -> int:
        number = int(value) if isinstance(value, str) and _digits(value) else value
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**64:
            self.refuse(value, "an integer in [0, 2^64)")
        return number

    def type_schema(self, limits: Limits) -> Schema:
        return {
            "description": "An integer in [0, 2^64), or the same in decimal digits.",
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
                {"type": "string", "pattern": f"^[0-9]{{1,{SEED_DIGITS}}}$"},
            ],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeds(Field[list[int]]):
    """A list of seeds, at most as many as a request may have clips."""

    def read(self, value: object, limits: Limits) -> list[int]:
        if not isinstance(value, list) or not value:
            self.refuse(value, "a list of seeds")
        if len(value) > limits.max_videos:
            raise TooLarge(f"`{self.name}` must have at most {limits.max_videos} seeds. Received: {len(value)}")
        each = Seed(name=self.name)
        return [each.read(seed, limits) for seed in value]

    def from_text(self, text: str) -> Any:
        return text.split(",")

    def type_schema(self, limits: Limits) -> Schema:
        items = Seed(name=self.name).type_schema(limits)
        return {"type": "array", "items": items, "minItems": 1, "maxItems": limits.max_videos}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Category(Field[object]):
    """Index or name of a category. `category_index` checks it, since only the model knows its categories."""

    def read(self, value: object, limits: Limits) -> object:
        return value

    def type_schema(self, limits: Limits) -> Schema:
        return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Categories(Field[list[object]]):
    """A list of categories."""

    def read(self, value: object, limits: Limits) -> list[object]:
        if not isinstance(value, list):
            self.refuse(value, "a list of categories")
        return value

    def from_text(self, text: str) -> Any:
        return text.split(",")

    def type_schema(self, limits: Limits) -> Schema:
        return {"type": "array", "items": Category(name=self.name).type_schema(limits), "minItems": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays(Field[dict[str, object]]):
    """An object of nested lists. `latents.read_given` checks it, since only the model knows its inputs."""

    in_query: bool = False

    def read(self, value: object, limits: Limits) -> dict[str, object]:
        if not isinstance(value, dict):
            self.refuse(value, "an object of arrays")
        return value

    def type_schema(self, limits: Limits) -> Schema:
        return {"type": "object"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(Field[bytes]):
    """A picture's bytes in base64, as they are or as a `data:` URL. `pictures.read_picture` checks the bytes."""

    in_query: bool = False

    def read(self, value: object, limits: Limits) -> bytes:
        if not isinstance(value, str) or not value:
            self.refuse(value, "the bytes of a picture in base64")
        start, _, rest = value[:100].partition(",")
        text = value[len(start) + 1 :] if start.startswith("data:") and start.endswith(";base64") else value
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise Malformed(f"`{self.name}`: unable to base64 decode.") from None

    def from_text(self, text: str) -> Any:
        raise Invalid(f"`{self.name}` must come in a body: POST it.")

    def type_schema(self, limits: Limits) -> Schema:
        return {"type": "string", "contentEncoding": "base64", "minLength": 1, "maxLength": limits.max_body_bytes}


Table = dict[str, Field[Any]]


def _table(*fields: Field[Any]) -> Table:
    return {field.name: field for field in fields}


MODEL = Text(name="model", description="Default: the first model.")
VERSION = Integer(name="version", low=1, description="Default: the newest.")
SEED = Seed(name="seed", description="Default: a random one, told in `X-Seed`.")
NUM_VIDEOS = Integer(name="num_videos", low=1, high="max_videos", is_work=True, default=1)
NUM_FRAMES = Integer(
    name="num_frames", low=1, high="max_frames", is_work=True, description="Default: the length of a training clip."
)
CATEGORY = Category(name="category", description="Index or name of a category. Default: drawn from the seed.")
FPS = Number(name="fps", low=MIN_FPS, high=MAX_FPS, description="Default: the speed of the training clips.")
FORMAT = Choice(name="format", choices=tuple(FORMATS), default="webp")
SCALE = Integer(name="scale", low=1, high=8, default=1, description="Enlarges pictures; `npy` stays as it is.")
TIMEOUT = Number(name="timeout", low=1e-6, high="timeout_seconds", description="Seconds to wait at most.")
CONTENT_SEED = Seed(name="content_seed", description="Seed of the content only. Default: `seed`.")
MOTION_SEED = Seed(name="motion_seed", description="Seed of the motion only. Default: `seed`.")
CONTENT_SEED_TO = Seed(name="content_seed_to", description="Seed of the content to blend towards.")
MOTION_SEED_TO = Seed(name="motion_seed_to", description="Seed of the motion to blend towards.")
CONTENT_BLEND = Number(name="content_blend", default=0.0, description="How far to blend.")
MOTION_BLEND = Number(name="motion_blend", default=0.0, description="How far to blend.")
CONTENT_SCALE = Number(name="content_scale", high=MAX_STRENGTH, default=1.0, description="Strength of the content.")
MOTION_SCALE = Number(name="motion_scale", high=MAX_STRENGTH, default=1.0, description="Strength of the motion.")
FIRST_CLIP = Integer(
    name="first_clip", low=0, high=2**32 - 2, default=0, description="Index of the first clip within the seed."
)
LATENTS = Arrays(name="latents", description="Generator inputs by name, as nested lists.")
IMAGE = Image(
    name="image",
    description="A picture to animate, instead of a seed's content, where the model takes pictures: PNG, JPEG, WebP, "
    "BMP, or a GIF that does not move. Its central square is scaled to the model's size; `X-Picture` says so.",
)
ROWS = Integer(name="rows", low=1, high="max_videos", default=3)
COLUMNS = Integer(name="columns", low=1, high="max_videos", default=3)
CONTENT_SEEDS = Seeds(name="content_seeds", description="One per row. Default: `seed`, `seed` + 1, ...")
MOTION_SEEDS = Seeds(name="motion_seeds", description="One per column. Default: `seed`, `seed` + 1, ...")
CATEGORIES = Categories(name="categories", description="One per column.")
CHUNK_FRAMES = Integer(name="chunk_frames", low=1, high=64, default=8, description="Frames of a message.")
STREAM_FORMAT = Choice(name="format", choices=("raw", *STRIPS), description="Of a WebSocket's messages: raw pixels.")
TRANSITION_FRAMES = Integer(
    name="transition_frames", low=0, high=1024, description="Default: the length of a training clip."
)
PAUSE = Flag(name="pause", description="Stops the stream, or lets it go on.")

_CLIP = (MODEL, VERSION, SEED, NUM_FRAMES, CATEGORY, FPS, FORMAT, SCALE, TIMEOUT)
_BLENDS = (CONTENT_SEED_TO, CONTENT_BLEND, MOTION_SEED_TO, MOTION_BLEND, CONTENT_SCALE, MOTION_SCALE)
_PLAYED = (CONTENT_SEED, MOTION_SEED, CATEGORY, MOTION_SCALE, FPS)
GENERATE = _table(*_CLIP, NUM_VIDEOS, CONTENT_SEED, MOTION_SEED, *_BLENDS, FIRST_CLIP, LATENTS, IMAGE)
GRID = _table(*_CLIP, ROWS, COLUMNS, CONTENT_SEEDS, MOTION_SEEDS, CATEGORIES, IMAGE)
STREAM = _table(MODEL, VERSION, SEED, *_PLAYED, CHUNK_FRAMES, STREAM_FORMAT, IMAGE)
ENCODE = _table(MODEL, VERSION)
CHANGE = _table(*_PLAYED, TRANSITION_FRAMES, PAUSE)


class Fields:
    """A request, read field by field; an error names the field."""

    def __init__(self, values: Mapping[str, Any], table: Table, limits: Limits | None = None) -> None:
        """Raises Invalid for a field that the table does not have."""
        unknown = [name for name in values if name not in table]
        if unknown:
            raise Invalid(f"Unknown field {shown(unknown[0])}. Known: {', '.join(table)}.")
        self._values = values
        self._limits = limits or Limits()

    def given(self, field: Field[T]) -> T | None:
        """Returns the field's value, or None if it was left out.

        Raises:
            Invalid, TooLarge: See `Field.read`.
        """
        value = self._values.get(field.name)
        return None if value is None else field.read(value, self._limits)

    def raw(self, field: Field[Any]) -> object:
        """Returns what was given for a field as it came, or None."""
        return self._values.get(field.name)

    def get(self, field: Field[T], default: T | None = None) -> T:
        """Returns the field's value; if it was left out, `default` or else the field's own default.

        Raises:
            Invalid, TooLarge: See `Field.read`.
        """
        value = self.given(field)
        for candidate in (value, default, field.default):
            if candidate is not None:
                return candidate
        raise AssertionError(f"{field.name} has no default")


def from_query(query: bytes, table: Table) -> dict[str, Any]:
    """Query parameters as the values that JSON would hold. Raises Invalid for more than any request has."""
    if query.count(b"&") >= MAX_PARAMETERS:
        raise Invalid(f"A query has at most {MAX_PARAMETERS} parameters.")
    given = QueryParams(query)
    return {name: table[name].from_text(text) if name in table else text for name, text in given.items()}
