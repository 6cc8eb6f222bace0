"""Reads one clip and brings its frames to the size, colour and rate that are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mocogan_tf.data.sources.layouts import one_clip
from mocogan_tf.data.sources.readers import ClipSource, Footage, check_frame_size, file_kind, open_footage, reason

# A clip is held in memory, and its record must stay below 2 GB; this is about an hour at 64x64.
MAX_CLIP_BYTES = 2**30
FITS = ("centre_crop", "resize_crop", "pad", "boxes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How frames become the frames of a set.

    Args:
        image_size: Height and width of the result.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma, as Pillow's "L").
        fit: How frames become square. `centre_crop`: the central square is scaled. `resize_crop`: the frame is scaled
            to `resize_to`, then its central square is cut out. `pad`: the frame is scaled to fit, with black beside it.
            `boxes`: the clip's own box is scaled.
        resize_to: Width and height for `resize_crop`; 0, 0: 4:3 (85x64 at 64 pixels, as for UCF-101 in the paper).
        fps: Frame rate before `every_nth`, reached by repeating or leaving out frames; 0: the source's own.
        source_fps: Frame rate of sources that do not say theirs; 0: unknown.
        every_nth: Keep one frame in this many.
        max_frames: Cut the clip after this many frames; 0: never.
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
    """Frames of one clip, uint8 `[F, H, W, C]`, their rate (0 if unknown), and remarks that a person should read."""

    frames: NDArray[np.uint8]
    fps: float = 0.0
    notes: tuple[str, ...] = ()


def read_clip(source: ClipSource, options: FitOptions) -> DecodedClip:
    """Reads one clip. A pure function of its files and its arguments.

    Raises:
        ValueError: The clip cannot be read; one line that says why.
    """
    try:
        footage = open_footage(source)
        with contextlib.closing(footage.frames):
            frames = _fitted_frames(source, footage, options)
    except Exception as error:  # Decoders raise anything on broken files.
        # Decoders name the whole path, but messages and manifests should not tell where a folder lies.
        text = reason(error).replace(os.path.join(os.path.dirname(source.path), ""), "")
        raise ValueError(text.encode("utf-8", "backslashreplace").decode()) from error
    if not frames:
        raise ValueError("the clip has no frames" + (" in its span of time" if source.span else ""))
    fps = (options.fps or footage.fps or options.source_fps) / options.every_nth
    return DecodedClip(np.stack(frames), fps, tuple(footage.notes))


def first_frame(path: str | os.PathLike[str]) -> Image.Image | None:
    """Returns the upright first frame of a video file, or None if a file is missing or of another kind.

    Raises:
        ValueError: It is damaged or has no frames; one line that says which file and why.
    """
    try:
        if file_kind(path) != "video":
            return None
    except OSError:
        return None
    try:
        footage = open_footage(ClipSource(os.fspath(path), os.path.basename(path), "video"))
        with contextlib.closing(footage.frames):
            return next(image for _, image in footage.frames)
    except Exception as error:  # Decoders raise anything on broken files.
        raise ValueError(f"{os.fspath(path)}: {reason(error)}") from error


def read_given_clip(
    path: str | pathlib.Path, image_size: int, channels: int, fps: float, num_frames: int
) -> tuple[NDArray[np.uint8], str]:
    """Reads the first frames of a clip at a frame rate, and fits them as the clips of a folder are.

    Args:
        path: A video file, an animation, a strip, an array of one clip, or a folder of frames.
        image_size: Height and width of the result.
        channels: 3 for RGB, 1 for grey.
        fps: Frame rate, reached by repeating or leaving out frames. A clip that does not say its rate has this one.
        num_frames: How many frames at most.

    Returns:
        uint8 `[F, image_size, image_size, C]`, and what was done, in words.

    Raises:
        ValueError: It is missing, no clip, damaged, or a single frame; one line that says which file and why.
    """
    options = FitOptions(image_size=image_size, channels=channels, fps=fps, source_fps=fps)
    frames: list[NDArray[np.uint8]] = []
    last: Image.Image | None = None
    try:
        source = one_clip(pathlib.Path(path))
        footage = open_footage(source)
        with contextlib.closing(footage.frames):
            for image in itertools.islice(_selected(source, footage, options), num_frames):
                frames.append(frames[-1] if image is last else fit_frame(image, options, source))
                last = image
        if last is None or len(frames) < 2:
            raise ValueError("it has fewer than two frames" + f" at {fps:g} per second" * bool(footage.fps))
    except Exception as error:  # Decoders raise anything on broken files.
        raise ValueError(f"Cannot read the clip {path}: {reason(error)}") from error
    name, rate = pathlib.Path(path).name or path, f"{fps:g} per second" if footage.fps else "no known rate"
    words = f"{name}: {_what_was_done(last, image_size)}, {len(frames)} frames of it at {rate}"
    return np.stack(frames), ", ".join([words, *footage.notes])


def _what_was_done(image: Image.Image, image_size: int) -> str:
    """Says how a picture or frame was fitted."""
    side, words = min(image.size), [f"{image.width}x{image.height}"]
    words += [f"cut to its central {side}x{side}"] * (image.width != image.height)
    words += [f"resized to {image_size}x{image_size}"] * (side != image_size)
    return ", ".join(words)


def _fitted_frames(source: ClipSource, footage: Footage, options: FitOptions) -> list[NDArray[np.uint8]]:
    frames: list[NDArray[np.uint8]] = []
    last: Image.Image | None = None
    for index, image in enumerate(_selected(source, footage, options)):
        if index % options.every_nth:
            continue
        if options.max_frames and len(frames) == options.max_frames:
            footage.notes.append(f"cut after {options.max_frames} frames (--max_frames)")
            break
        if len(frames) * options.image_size**2 * options.channels > MAX_CLIP_BYTES:
            raise ValueError(f"more than {len(frames)} frames are refused; cut it, or use --max_frames")
        # `_selected` repeats the same object to show a frame again, which need not be fitted twice.
        frames.append(frames[-1] if image is last else fit_frame(image, options, source))
        last = image
    return frames


def _selected(source: ClipSource, footage: Footage, options: FitOptions) -> Iterator[Image.Image]:
    """Yields the frames of the clip's span at the rate `options.fps`."""
    timed = _with_times(footage, options, needed=bool(source.span or options.fps))
    if source.span is not None:
        start, end = source.span
        # Half a millisecond is shorter than any frame and longer than any rounding error.
        timed = ((time - start, image) for time, image in timed if start - 5e-4 <= time < end - 5e-4)
    if not options.fps:
        yield from (image for _, image in timed)
        return
    shown, current = 0, None
    for time, image in timed:
        while current is not None and shown / options.fps < time - 5e-4:
            yield current
            shown += 1
        current = image
        end = time
    if current is not None and shown / options.fps <= end + 5e-4:
        yield current


def _with_times(footage: Footage, options: FitOptions, *, needed: bool) -> Iterator[tuple[float, Image.Image]]:
    rate = footage.fps or options.source_fps
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


def fit_frame(image: Image.Image, options: FitOptions, source: ClipSource) -> NDArray[np.uint8]:
    """Returns one upright frame, fitted as the options and the clip's box say: uint8 `[image_size, image_size, C]`."""
    check_frame_size(*image.size)
    image = image.convert("L" if options.channels == 1 else "RGB")
    size = options.image_size
    if options.fit == "boxes":
        if source.box is None:
            raise ValueError("it has no box; --fit=boxes needs one for each clip")
        image = _scaled(image.crop(source.box.on(image)), size, size)
    elif options.fit == "pad":
        scale = size / max(image.size)
        inner = _scaled(image, max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = Image.new(image.mode, (size, size))
        image.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    else:
        if options.fit == "resize_crop":
            width, height = options.resize_to
            image = _scaled(image, width or round(size * 85 / 64), height or size)
        image = _scaled(_central_square(image), size, size)
    pixels = np.asarray(image).reshape(size, size, options.channels)
    return pixels[:, ::-1] if source.mirrored else pixels


def _central_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    # Pillow's bicubic filter widens as it scales down, so nothing aliases.
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
