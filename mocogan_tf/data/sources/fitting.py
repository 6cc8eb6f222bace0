"""From frames as they lie on disk to frames of one size and rate: what a recipe says, and one clip read by it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mocogan_tf.data.sources.readers import ClipSource, Footage, check_frame_size, open_footage

# A clip is held in memory, and a record of it must stay below 2 GB: about an hour at 64x64.
MAX_CLIP_BYTES = 2**30
FITS = ("centre_crop", "resize_crop", "pad", "boxes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How frames become the frames of a set.

    Args:
        image_size: Height and width of the result.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma, as Pillow's "L").
        fit: `centre_crop`: the central square, scaled. `resize_crop`: scaled to `resize_to`, then the central square.
            `pad`: scaled to fit, black beside it. `boxes`: the clip's own box, scaled.
        resize_to: Width and height for `resize_crop`; 0, 0: 4:3 (85x64 at 64 pixels, as for UCF-101 in the paper).
        fps: Frame rate before `every_nth`, by repeating or leaving out frames; 0: as they are.
        source_fps: Frame rate of sources that do not say theirs; 0: unknown.
        every_nth: Keep one frame in this many.
        max_frames: Leave out what comes after this many; 0: none.
    """

    image_size: int
    channels: int = 3
    fit: str = "centre_crop"
    resize_to: tuple[int, int] = (0, 0)
    fps: float = 0.0
    source_fps: float = 0.0
    every_nth: int = 1
    max_frames: int = 0


@dataclasses.dataclass(frozen=True)
class DecodedClip:
    """Frames of one clip, uint8 `[F, H, W, C]`, their rate (0 if unknown), and remarks a person should read."""

    frames: NDArray[np.uint8]
    fps: float = 0.0
    notes: tuple[str, ...] = ()


def read_clip(source: ClipSource, recipe: Recipe) -> DecodedClip:
    """Reads one clip. A pure function of its files and its arguments.

    Raises:
        ValueError: The clip cannot be read; one line that says why.
    """
    try:
        footage = open_footage(source)
        with contextlib.closing(footage.frames):
            frames = _fitted_frames(source, footage, recipe)
    except Exception as error:  # Decoders raise anything on broken files.
        # Messages of decoders name the whole path; where a folder lies is nobody's business but its owner's.
        reason = str(error).replace(os.path.join(os.path.dirname(source.path), ""), "")
        reason = " ".join(reason.split()).encode("utf-8", "backslashreplace").decode()
        raise ValueError(reason or type(error).__name__) from error
    if not frames:
        raise ValueError("the clip has no frames" + (" in its span of time" if source.span else ""))
    fps = (recipe.fps or footage.fps or recipe.source_fps) / recipe.every_nth
    return DecodedClip(np.stack(frames), fps, tuple(footage.notes))


def _fitted_frames(source: ClipSource, footage: Footage, recipe: Recipe) -> list[NDArray[np.uint8]]:
    frames: list[NDArray[np.uint8]] = []
    last: Image.Image | None = None
    for index, image in enumerate(_selected(source, footage, recipe)):
        if index % recipe.every_nth:
            continue
        if recipe.max_frames and len(frames) == recipe.max_frames:
            footage.notes.append(f"cut after {recipe.max_frames} frames (--max_frames)")
            break
        if len(frames) * recipe.image_size**2 * recipe.channels > MAX_CLIP_BYTES:
            raise ValueError(f"more than {len(frames)} frames are refused; cut it, or use --max_frames")
        # A frame that is shown again is not fitted again.
        frames.append(frames[-1] if image is last else fit_frame(image, recipe, source))
        last = image
    return frames


def _selected(source: ClipSource, footage: Footage, recipe: Recipe) -> Iterator[Image.Image]:
    """Yields the frames of the clip's span, at the recipe's rate."""
    timed = _with_times(footage, recipe, needed=bool(source.span or recipe.fps))
    if source.span is not None:
        start, end = source.span
        # Spans are given in whole frames: half a millisecond is less than any frame, and more than rounding.
        timed = ((time - start, image) for time, image in timed if start - 5e-4 <= time < end - 5e-4)
    if not recipe.fps:
        yield from (image for _, image in timed)
        return
    shown, current = 0, None
    for time, image in timed:
        while current is not None and shown / recipe.fps < time - 5e-4:
            yield current
            shown += 1
        current = image
        end = time
    if current is not None and shown / recipe.fps <= end + 5e-4:
        yield current


def _with_times(footage: Footage, recipe: Recipe, *, needed: bool) -> Iterator[tuple[float, Image.Image]]:
    rate = footage.fps or recipe.source_fps
    first = None
    for index, (time, image) in enumerate(footage.frames):
        if time is None:
            if needed and not rate:
                raise ValueError(
                    "its frame rate is unknown; give it with --source_fps, or use --every_nth without --fps"
                )
            time = index / rate if rate else 0.0
        first = time if first is None else first
        yield time - first, image


def fit_frame(image: Image.Image, recipe: Recipe, source: ClipSource) -> NDArray[np.uint8]:
    """Returns uint8 `[image_size, image_size, C]`: one upright frame fitted as the recipe and the clip's box say."""
    check_frame_size(*image.size)
    image = image.convert("L" if recipe.channels == 1 else "RGB")
    size = recipe.image_size
    if recipe.fit == "boxes":
        if source.box is None:
            raise ValueError("it has no box; --fit=boxes needs one for each clip")
        image = _scaled(image.crop(source.box.on(image)), size, size)
    elif recipe.fit == "pad":
        scale = size / max(image.size)
        inner = _scaled(image, max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = Image.new(image.mode, (size, size))
        image.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    else:
        if recipe.fit == "resize_crop":
            width, height = recipe.resize_to
            image = _scaled(image, width or round(size * 85 / 64), height or size)
        image = _scaled(_central_square(image), size, size)
    pixels = np.asarray(image).reshape(size, size, recipe.channels)
    return pixels[:, ::-1] if source.mirrored else pixels


def _central_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    # Pillow's bicubic filter widens when it scales down, so nothing aliases.
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
