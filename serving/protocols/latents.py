"""Latents that a client sends: numbers out of JSON, shapes checked against the model, and the answer rendered."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from serving.runtime.bundle import Bundle
from serving.runtime.errors import Invalid, shown
from serving.runtime.options import Floats
from serving.runtime.repository import Model
from serving.runtime.service import Clip, Service

# JSON's numbers; a bool is none of them.
NUMBERS = {int, float}
# Of an array that a client sends.
MAX_DIMS = 7


def as_array(value: Any, expected: str) -> Floats:
    """float32 array out of nested lists of numbers; whole rows may be arrays already.

    Only numbers reach NumPy: it would make an array of strings as wide as the longest, times their number.

    Raises:
        Invalid: Uneven lists, more than `MAX_DIMS` levels, or values that are no numbers; the message says what is
            `expected`.
    """
    uneven = Invalid(f"{expected} Received lists of uneven length or another kind of value.")
    if isinstance(value, np.ndarray):
        return value.astype(np.float32)
    if not isinstance(value, list) and type(value) not in NUMBERS:
        raise Invalid(f"{expected} Received: {shown(value)}")
    shape: list[int] = []
    level: list[Any] = [value]
    while (kinds := set(map(type, level))) == {list}:
        lengths = set(map(len, level))
        if len(lengths) > 1 or len(shape) == MAX_DIMS:
            raise uneven
        shape.append(lengths.pop())
        level = list(itertools.chain.from_iterable(level))
    if np.ndarray in kinds and kinds <= {np.ndarray, list}:
        rows = [as_array(row, expected) for row in level]
        if len({row.shape for row in rows}) > 1:
            raise uneven
        return np.stack(rows).reshape(*shape, *rows[0].shape)
    if not kinds <= NUMBERS:
        raise uneven if kinds & NUMBERS or list in kinds else Invalid(f"{expected} Received: {shown(value)}")
    with np.errstate(over="ignore"):
        floats: Floats = np.array(level, np.float64).astype(np.float32).reshape(shape)
    return floats


def numbers(value: Any, name: str) -> Floats:
    """float32 array out of a tensor's nested lists, of any shape. Raises Invalid."""
    return as_array(value, f"`{name}` must hold numbers in lists of equal length.")


def read_given(given: dict[str, object], bundle: Bundle, num_videos: int, num_frames: int) -> dict[str, Floats]:
    """Checks a native request's `latents`, any of the model's inputs.

    Raises:
        Invalid: The model has no such input, or one is not finite numbers of its shape.
    """
    shapes = bundle.latents.shapes(num_videos, num_frames)
    arrays = {}
    for name, value in given.items():
        if name not in shapes:
            raise Invalid(f"`latents` must have members out of {', '.join(shapes)}. Received: {shown(name)}")
        expected = f"`latents.{name}` must be finite numbers of shape {list(shapes[name])}."
        array = as_array(value, expected)
        if array.shape != shapes[name]:
            raise Invalid(f"{expected} Received: shape {list(array.shape)}")
        if not np.isfinite(array).all():
            raise Invalid(f"{expected} Received a value that is not finite in float32.")
        arrays[name] = array
    return arrays


def check_latents(latents: dict[str, NDArray[Any]], model: Model) -> None:
    """Checks all of a model's inputs against each other and the model; gives flat rows of noise their shape in place.

    Raises:
        Invalid: They do not fit, or a number is not finite.
    """
    spec = model.bundle.latents
    noise = latents["motion_noise"]
    if noise.ndim == 2 and noise.shape[1] and noise.shape[1] % spec.dim_motion == 0 and latents["content"].ndim == 2:
        noise = latents["motion_noise"] = noise.reshape(len(noise), -1, spec.dim_motion)
    if noise.ndim != 3 or 0 in noise.shape[:2]:
        shape = list(noise.shape)
        raise Invalid(f"`motion_noise` must have shape [-1, -1, {spec.dim_motion}]. Received: shape {shape}")
    for name, expected in spec.shapes(*noise.shape[:2]).items():
        if latents[name].shape != expected:
            raise Invalid(f"`{name}` must have shape {list(expected)}. Received: shape {list(latents[name].shape)}")
        if not np.isfinite(latents[name]).all():
            raise Invalid(f"`{name}` must hold finite float32 numbers.")


async def answer_latents(
    request: Request, model: Model, latents: dict[str, Floats], respond: Callable[[Clip], Response], kind: str
) -> Response:
    """Renders latents to float32 within the limits and encodes the answer; notes both in the log line.

    Args:
        request: Whose log line it is.
        model: A leased version.
        latents: Checked by `check_latents`.
        respond: Makes the answer; called on a worker thread.
        kind: "json" or "tensor", for limits and metrics.
    """
    service: Service = request.app.state.service
    frames = service.limits.check_work(*latents["motion_noise"].shape[:2])
    if kind == "json":
        service.limits.check_json(frames * math.prod(model.bundle.frame_shape))
    deadline = service.deadline()
    values = frames * math.prod(model.bundle.frame_shape)
    with service.admit(model, frames, deadline, kind, values) as work:
        clip = await service.render(model, lambda: latents, deadline=deadline, as_pixels=False)
        response, seconds = await service.encode(lambda: respond(clip), work)
    request.state.notes.update(
        model=model.name, version=model.version, frames=frames, queue_ms=round(clip.queue_seconds * 1e3, 2),
        render_ms=round(clip.render_seconds * 1e3, 2), encode_ms=round(seconds * 1e3, 2),
    )  # fmt: skip
    return response
