"""Still pictures that people give: checked before they are decoded, then made upright, square and of a model's size.

A picture may come from anybody, so its kind, its number of pixels and the number of its parts are read from its bytes
before Pillow decodes it: a small file can stand for gigabytes of pixels, or for minutes of work. NumPy and Pillow only.
"""

from __future__ import annotations

import io
import os
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # Pillow's names.
KINDS = "PNG, JPEG, WebP, BMP or GIF"
MAX_BYTES = 2**25
MAX_PIXELS = 2**26
MIN_SIDE = 8
# Chunks, segments and blocks of a file, each of which Pillow looks at in Python.
MAX_PARTS = 2**13
# Of a progressive JPEG, whose every scan goes over all pixels; encoders write a dozen.
MAX_SCANS = 64

# EXIF's orientations, and what makes them upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(ValueError):
    """The bytes are no picture that is taken; the message is one line that says why."""


def read_picture(
    source: bytes | str | os.PathLike[str],
    size: int,
    channels: int = 3,
    *,
    max_pixels: int = MAX_PIXELS,
    of_moving: bool = False,
) -> tuple[NDArray[np.uint8], str]:
    """Reads a picture and fits it as the clips of a set are fitted: the central square, scaled.

    Args:
        source: The file's bytes, or its name.
        size: Height and width of the result.
        channels: 3 for RGB, 1 for grey.
        max_pixels: Of the picture before it is scaled.
        of_moving: Whether to take the first frame of a picture that moves, instead of refusing it.

    Returns:
        (uint8 `[size, size, channels]`, in ASCII what was done, such as "640x480 cropped to 480x480, resized to 64x64")

    Raises:
        PictureError: It cannot be read, is of another kind, too large, too small, damaged, or moves. The message begins
            with the file's name, if that was given.
    """
    if isinstance(source, bytes):
        return _decode(source, size, channels, max_pixels, of_moving)
    try:
        return _decode(_read(pathlib.Path(source)), size, channels, max_pixels, of_moving)
    except PictureError as error:
        raise PictureError(f"{os.fspath(source)}: {error}") from error


def _decode(data: bytes, size: int, channels: int, max_pixels: int, of_moving: bool) -> tuple[NDArray[np.uint8], str]:
    if not data:
        raise PictureError("The picture has no bytes.")
    if len(data) > MAX_BYTES:
        raise PictureError(f"The picture has {len(data)} bytes; at most {MAX_BYTES} are read.")
    _check_parts(data)
    try:
        with warnings.catch_warnings():
            # The limit below is stricter than the one at which Pillow warns.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise PictureError(f"The picture must be a {KINDS}, and whole.") from None
    except Image.DecompressionBombError:
        raise PictureError(f"The picture has more than {max_pixels} pixels.") from None
    except MemoryError:
        raise
    except Exception as error:  # Decoders raise anything on broken files.
        raise _damaged(error) from error
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(f"The picture has {width}x{height} pixels; at most {max_pixels} are read.")
    # MPO is a JPEG with further pictures behind the first one, as phones write it.
    moves = image.format != "MPO" and getattr(image, "is_animated", False)
    if moves and not of_moving:
        raise PictureError("The picture moves: it has several frames. Give a still one.")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(error) from error
    pixels, said = fit_picture(image, size, channels)
    return pixels, f"first frame, {said}" if moves else said


def fit_picture(image: Image.Image, size: int, channels: int = 3) -> tuple[NDArray[np.uint8], str]:
    """Makes a Pillow image upright, square and of 8 bits, on white where it is transparent.

    Args:
        image: Of any mode but floating point.
        size: Height and width of the result.
        channels: 3 for RGB, 1 for grey.

    Returns:
        As `read_picture`.

    Raises:
        PictureError: A side has fewer than `MIN_SIDE` pixels, or the pixels are floating point.
    """
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"The picture has {width}x{height} pixels; each side must have at least {MIN_SIDE}.")
    done = [f"{width}x{height}"]
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
        done.append("turned upright")
    side = min(width, height)
    if width != height:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        done.append(f"cropped to {side}x{side}")
    image, on_white = _plain(image)
    if on_white:
        done.append("put on white")
    image = image.convert("L" if channels == 1 else "RGB")
    if side != size:
        # Pillow's bicubic filter widens as it scales down, so nothing aliases.
        image = image.resize((size, size), Image.Resampling.BICUBIC)
        done.append(f"resized to {size}x{size}")
    first, *rest = done
    said = " ".join([first, ", ".join(rest)]) if rest else f"{first} taken as it is"
    return np.array(image).reshape(size, size, channels), said


def _read(path: pathlib.Path) -> bytes:
    """Returns a file's bytes, and of a too large one as many as show that."""
    try:
        if not path.is_file():
            raise PictureError("It is no file." if path.exists() else "There is no such file.")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PictureError(f"It cannot be read ({error.strerror}).") from error


def _damaged(error: Exception) -> PictureError:
    said = " ".join(str(error).split())[:120] or type(error).__name__
    return PictureError(f"The picture is damaged or cut off ({said}).")


def _check_parts(data: bytes) -> None:
    """Raises PictureError for a file of so many parts that reading it would take long; damage is the decoder's."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        costs = _chunks(data)
    elif data.startswith(b"\xff\xd8"):
        if data.count(b"\xff\xda") > MAX_SCANS:  # In the pixels' data a zero follows each 255.
            raise PictureError(f"The picture is a JPEG of more than {MAX_SCANS} scans.")
        costs = _segments(data)
    elif data.startswith(b"GIF8"):
        costs = _blocks(data)
    else:
        return
    total = 0.0
    for cost in costs:
        total += cost
        if total > MAX_PARTS:
            raise PictureError(f"The picture's file has more than {MAX_PARTS} parts.")


def _chunks(data: bytes) -> Iterator[float]:
    """The chunks of a PNG."""
    at = 8
    while at < len(data):
        yield 1.0
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _segments(data: bytes) -> Iterator[float]:
    """The segments of a JPEG before its pixels, and the bytes between them."""
    at = 2
    while at + 1 < len(data) and data[at : at + 2] != b"\xff\xda":
        yield 1.0
        is_segment = data[at] == 0xFF and data[at + 1] not in (0xFF, 0x00, 0x01)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big") if is_segment else 1


def _blocks(data: bytes) -> Iterator[float]:
    """The blocks of a GIF. Those of pixels cost little; of a comment, Pillow copies all that came before each."""
    at = 13 + _palette_bytes(data, 10)
    while at < len(data) and data[at] in b"!,":
        is_image = data[at] == ord(",")
        at += 11 + _palette_bytes(data, at + 9) if is_image else 2
        while at < len(data) and data[at]:
            yield 1 / 16 if is_image else 4.0
            at += 1 + data[at]
        yield 1.0
        at += 1


def _palette_bytes(data: bytes, at: int) -> int:
    """Size of the palette that a GIF's flags announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags % 8 + 1) if flags & 0x80 else 0


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Broken EXIF says nothing about the pixels.
        return 1
    return value if isinstance(value, int) else 1


def _plain(image: Image.Image) -> tuple[Image.Image, bool]:
    """Returns the image in 8 bits without transparency, and whether a part of it was put on white."""
    if image.mode.startswith("I"):  # 16 bit grey; Pillow's own conversion would clip it to white.
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)), False
    if image.mode == "F":
        raise PictureError("The picture has floating point pixels, which have no fixed range.")
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGBA":
        return image, False
    on_white = image.getchannel("A").getextrema()[0] != 255
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB"), on_white
