"""Clips as pixels: ranges, grids, and writing them as pictures and films. NumPy and Pillow only."""

from __future__ import annotations

import pathlib
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

# What `write_video` writes, by the ending of the name. A .png is a strip: all frames side by side.
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG"}
FILMS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
SUFFIXES = (*ANIMATIONS, ".png", ".npy", *FILMS)

# The rule of `to_uint8` in words, as bundles carry it; `round` takes halves to even.
POSTPROCESS = "uint8 = clip(round((x + 1) * 127.5), 0, 255)"


def to_uint8(videos: Any) -> Pixels:
    """Maps floats in [-1, 1] of any shape to 0..255; values outside are clipped."""
    return np.clip(np.round((np.asarray(videos, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def from_uint8(pixels: Any) -> NDArray[np.float32]:
    """Maps 0..255 of any shape to float32 in [-1, 1]."""
    return np.asarray(pixels, np.float32) / 127.5 - 1.0


def grid(videos: Pixels, columns: int, gap: int = 2, background: int = 255) -> Pixels:
    """Lays clips out in a grid, row by row.

    Args:
        videos: uint8 `[N, T, H, W, C]`; what the last row lacks is black.
        columns: Clips per row.
        gap: Pixels between clips.
        background: Grey value of the gaps.

    Returns:
        uint8 `[T, rows * (H + gap) - gap, columns * (W + gap) - gap, C]`.
    """
    num, frames, height, width, channels = videos.shape
    rows = -(-num // columns)
    if missing := rows * columns - num:
        videos = np.concatenate([videos, np.zeros((missing, *videos.shape[1:]), np.uint8)])
    padded = np.full((rows, columns, frames, height + gap, width + gap, channels), background, np.uint8)
    padded[..., :height, :width, :] = videos.reshape(rows, columns, *videos.shape[1:])
    laid = padded.transpose(2, 0, 3, 1, 4, 5).reshape(frames, rows * (height + gap), columns * (width + gap), channels)
    return laid[:, : rows * (height + gap) - gap, : columns * (width + gap) - gap]


def film_strips(videos: Pixels, gap: int = 2, background: int = 255) -> Pixels:
    """Lays clips out as one picture: a line per clip, its frames from left to right.

    Args:
        videos: uint8 `[N, T, H, W, C]`.
        gap: Pixels between lines; frames touch.
        background: Grey value of the gaps.

    Returns:
        uint8 `[N * (H + gap) - gap, T * W, C]`.
    """
    num, frames, height, width, channels = videos.shape
    lines = np.full((num, height + gap, frames * width, channels), background, np.uint8)
    lines[:, :height] = videos.transpose(0, 2, 1, 3, 4).reshape(num, height, frames * width, channels)
    return lines.reshape(num * (height + gap), frames * width, channels)[: num * (height + gap) - gap]


def scale_up(videos: Pixels, factor: int) -> Pixels:
    """Repeats every pixel `factor` times in both directions; `[..., H, W, C]`."""
    return videos.repeat(factor, axis=-3).repeat(factor, axis=-2)


def to_image(pixels: Pixels) -> Image.Image:
    """Makes a Pillow image of `[H, W, 1]` or `[H, W, 3]`."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def write_image(path: str | pathlib.Path, pixels: Pixels) -> None:
    """Writes `[H, W, C]` as PNG."""
    to_image(pixels).save(path, format="PNG")


def write_video(path: str | pathlib.Path, video: Pixels, fps: float) -> None:
    """Writes one clip in the format that the name's ending says.

    Args:
        path: Ends in one of `SUFFIXES`: .gif, .webp (lossless), .apng, .png (a strip of all frames), .npy, or .mp4 and
            .webm, which need the extra `video`.
        video: uint8 `[T, H, W, C]`.
        fps: Frames per second; a GIF holds it in hundredths of a second.

    Raises:
        ValueError: The ending is unknown, or its encoder is not installed, or refuses the size or the rate.
    """
    path = pathlib.Path(path)
    try:
        _encode(path, video, fps)
    except (RuntimeError, OverflowError, struct.error) as error:
        _, height, width, _ = video.shape
        raise ValueError(
            f"Cannot write {path.name}: its encoder refuses {width}x{height} pixels at {fps:g} frames per second "
            f"({error}). Choose a smaller picture, another rate or another format."
        ) from error


def _encode(path: pathlib.Path, video: Pixels, fps: float) -> None:
    suffix = path.suffix.lower()
    if suffix in ANIMATIONS:
        first, *rest = [to_image(frame) for frame in video]
        options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
        first.save(
            path,
            format=ANIMATIONS[suffix],
            save_all=True,
            append_images=rest,
            duration=1000.0 / fps if suffix != ".webp" else round(1000.0 / fps),
            loop=0,
            **options,
        )
    elif suffix == ".png":
        write_image(path, film_strips(video[None]))
    elif suffix == ".npy":
        np.save(path, video)
    elif suffix in FILMS:
        _write_film(path, video, fps, FILMS[suffix])
    else:
        raise ValueError(f"Cannot write {path.name}: the ending must be one of {', '.join(SUFFIXES)}.")


def _write_film(path: pathlib.Path, video: Pixels, fps: float, codec: str) -> None:
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f"Writing {path.name} needs PyAV: pip install 'mocogan-tf[video]', or choose .webp."
        ) from error
    from fractions import Fraction

    _, height, width, channels = video.shape
    if height % 2 or width % 2:  # The chroma planes of these films have half the size.
        video = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    try:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
            stream.height, stream.width = video.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "18"}
            for pixels in video:
                rgb = np.ascontiguousarray(pixels.repeat(3, axis=-1) if channels == 1 else pixels)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode())
    except (av.error.ExternalError, av.error.ArgumentError) as error:  # The encoder's; a full disk is an OSError.
        raise RuntimeError(error.strerror) from error
