"""Clips as pixels: ranges, grids, and writing them as pictures and films. NumPy, Pillow and, for films, PyAV."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pathlib
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

# What `to_uint8` computes, as bundles and .onnx files say it to other languages.
POSTPROCESS = "uint8 = clip(round((x + 1) * 127.5), 0, 255)"
# What `write_video` writes, by the ending of the name. A .png is a strip: all frames side by side.
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG"}
FILMS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
SUFFIXES = (*ANIMATIONS, ".png", ".npy", *FILMS)
# Pixels from which a GIF's palette is chosen.
_PALETTE_SAMPLE = 8192


class EncoderRefusal(ValueError):
    """An encoder refuses the size or the rate of a clip."""


def to_uint8(videos: Any, *, overwrite: bool = False) -> Pixels:
    """Maps floats in [-1, 1] of any shape to 0..255, as `POSTPROCESS` says; a NaN becomes 0.

    Args:
        videos: Array of floats.
        overwrite: Whether a float32 array may be overwritten, which saves a copy.
    """
    values = np.asarray(videos, np.float32) if overwrite else np.array(videos, np.float32)
    np.add(values, np.float32(1), out=values)
    np.multiply(values, np.float32(127.5), out=values)
    np.rint(values, out=values)
    if np.isnan(values.min(initial=0.0)):
        np.nan_to_num(values, copy=False, nan=0.0)
    np.clip(values, 0, 255, out=values)
    return values.astype(np.uint8)


def from_uint8(pixels: Any) -> NDArray[np.float32]:
    """Maps 0..255 of any shape to float32 in [-1, 1]."""
    return np.asarray(pixels, np.float32) / 127.5 - 1.0


def grid(videos: Pixels, columns: int | None = None, gap: int = 2, background: int = 255) -> Pixels:
    """Lays clips out in a grid, row by row.

    Args:
        videos: uint8 `[N, T, H, W, C]`; empty places in the last row are black.
        columns: Clips per row; a nearly square grid if None.
        gap: Pixels between clips.
        background: Grey value of the gaps.

    Returns:
        uint8 `[T, rows * (H + gap) - gap, columns * (W + gap) - gap, C]`.
    """
    num, frames, height, width, channels = videos.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = -(-num // columns)
    if missing := rows * columns - num:
        videos = np.concatenate([videos, np.zeros((missing, *videos.shape[1:]), np.uint8)])
    padded = np.full((frames, rows, height + gap, columns, width + gap, channels), background, np.uint8)
    placed = videos.reshape(rows, columns, *videos.shape[1:]).transpose(2, 0, 3, 1, 4, 5)
    padded[:, :, :height, :, :width] = placed
    laid = padded.reshape(frames, rows * (height + gap), columns * (width + gap), channels)
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


def scale_up(videos: Pixels, factor: int, *, smooth: bool = False) -> Pixels:
    """Makes pictures `[..., H, W, C]` `factor` times as high and wide.

    Args:
        videos: uint8.
        factor: At least 1.
        smooth: Interpolates (bicubic) instead of repeating every pixel.
    """
    if not smooth:
        return videos.repeat(factor, axis=-3).repeat(factor, axis=-2)
    if factor == 1:
        return videos
    *leading, height, width, channels = videos.shape
    size = (width * factor, height * factor)
    pictures = [
        np.asarray(to_image(picture).resize(size, Image.Resampling.BICUBIC))
        for picture in videos.reshape(-1, height, width, channels)
    ]
    return np.stack(pictures).reshape(*leading, height * factor, width * factor, channels)


def to_image(pixels: Pixels) -> Image.Image:
    """Makes a Pillow image of `[H, W, 1]` or `[H, W, 3]`."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def picture(pixels: Pixels, kind: str, **options: Any) -> bytes:
    """Encodes `[H, W, C]` in a format of Pillow's, with that format's options."""
    encoded = io.BytesIO()
    to_image(pixels).save(encoded, kind, **options)
    return encoded.getvalue()


def animation(frames: Pixels, kind: str, fps: float, *, one_palette: bool = False, **options: Any) -> bytes:
    """Encodes a clip as a moving picture that repeats for ever.

    Args:
        frames: uint8 `[T, H, W, C]`.
        kind: "GIF", "WEBP" or "PNG" (an APNG).
        fps: Frames per second. A GIF holds it in hundredths of a second, and at most 50.
        one_palette: Gives all frames of a coloured GIF the same colours, so that they do not flicker; without it each
            frame has the best colours for itself.
        options: Pillow's for the format.

    Raises:
        EncoderRefusal: The format cannot hold the size or the rate.
    """
    # Browsers slow a GIF frame shorter than 20 ms down to 100 ms.
    duration = max(20.0 if kind == "GIF" else 1.0, 1000.0 / fps)
    # An APNG holds seconds as a fraction of two 16-bit numbers: above one, only whole milliseconds surely fit.
    duration = duration if duration <= 1000 else round(duration)
    encoded = io.BytesIO()
    try:
        if one_palette and frames.shape[-1] == 3:
            first, *rest = _with_one_palette(frames)
            options = {"disposal": 1, **options}
        else:
            first, *rest = [to_image(frame) for frame in frames]
        first.save(encoded, kind, save_all=True, append_images=rest, duration=duration, loop=0, **options)
    except (RuntimeError, OverflowError, struct.error) as error:
        raise EncoderRefusal(str(error)) from error
    return encoded.getvalue()


def _with_one_palette(frames: Pixels) -> list[Image.Image]:
    """Frames in at most 255 colours, the same for all frames."""
    # Median cut looks best but is slow; a sample of the pixels is enough for it.
    every = max(1, math.isqrt(frames.shape[0] * frames.shape[1] * frames.shape[2] // _PALETTE_SAMPLE))
    sample = np.ascontiguousarray(frames[:, ::every, ::every]).reshape(-1, 1, frames.shape[-1])
    palette = to_image(sample).quantize(255, method=Image.Quantize.MEDIANCUT)
    return [to_image(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def film(
    frames: Pixels,
    fps: float,
    container: str,
    codec: str,
    options: dict[str, str],
    *,
    container_options: dict[str, str] | None = None,
    threads: int | None = None,
) -> bytes:
    """Encodes a clip as a film; see `open_film`.

    Args:
        frames: uint8 `[T, H, W, C]`.
        fps: Frames per second.
        container: "mp4" or "webm".
        codec: One of FFmpeg's encoders.
        options: Of the codec.
        container_options: Of the container.
        threads: Of the encoder; its own choice if None.

    Raises:
        ImportError: PyAV is not installed.
        EncoderRefusal: The encoder refuses the size or the rate.
    """
    encoded = io.BytesIO()
    with open_film(
        encoded, frames.shape[1:], fps, container, codec, options, container_options=container_options, threads=threads
    ) as write:
        write(frames)
    return encoded.getvalue()


@contextlib.contextmanager
def open_film(
    file: Any,
    size: tuple[int, ...],
    fps: float,
    container: str,
    codec: str,
    options: dict[str, str],
    *,
    container_options: dict[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Callable[[Pixels], None]]:
    """Opens a film, in colours of half the resolution (4:2:0), that is written in parts.

    Args:
        file: Name, or an open binary file.
        size: `(H, W, C)`; an odd side is made even by repeating the last row or column.
        fps: Frames per second.
        container: "mp4" or "webm".
        codec: One of FFmpeg's encoders.
        options: Of the codec.
        container_options: Of the container.
        threads: Of the encoder; its own choice if None.

    Yields:
        A function that writes the next frames, uint8 `[t, H, W, C]`.

    Raises:
        ImportError: PyAV is not installed.
        EncoderRefusal: The encoder refuses the size or the rate.
    """
    import av  # Here, since it is an extra.

    height, width, channels = size
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))

    @contextlib.contextmanager
    def refusals() -> Iterator[None]:
        try:
            yield
        except (av.error.ExternalError, av.error.ArgumentError, OverflowError) as error:
            raise EncoderRefusal(getattr(error, "strerror", None) or str(error)) from error

    with refusals(), av.open(file, "w", format=container, options=container_options or {}) as output:
        stream: Any = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        stream.options = options
        if threads is not None:
            stream.codec_context.thread_count = threads

        def write(frames: Pixels) -> None:
            with refusals():
                for pixels in np.pad(frames, padding, mode="edge") if height % 2 or width % 2 else frames:
                    rgb = np.ascontiguousarray(pixels.repeat(3, axis=-1) if channels == 1 else pixels)
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))

        yield write
        output.mux(stream.encode())


def write_image(path: str | pathlib.Path, pixels: Pixels) -> None:
    """Writes `[H, W, C]` as PNG."""
    pathlib.Path(path).write_bytes(picture(pixels, "PNG"))


def write_video(path: str | pathlib.Path, video: Pixels, fps: float) -> None:
    """Writes one clip in the format that the name's ending says; the file is whole or absent.

    Args:
        path: Ends in one of `SUFFIXES`: .gif, .webp (lossless), .apng, .png (a strip of all frames), .npy, or .mp4 and
            .webm, which need the extra `video`.
        video: uint8 `[T, H, W, C]`.
        fps: Frames per second; see `animation` for what a GIF makes of it.

    Raises:
        ValueError: The ending is unknown, or its encoder is not installed, or refuses the size or the rate.
        OSError: The file cannot be written; the message names it.
    """
    with VideoWriter(path, video.shape, fps) as writer:
        writer.write(video)


def _whole(video: Pixels, suffix: str, fps: float) -> bytes:
    """Encodes a clip in a format that cannot be written in parts."""
    if suffix not in ANIMATIONS:
        return picture(film_strips(video[None]), "PNG")
    options = {"lossless": True} if suffix == ".webp" else {}
    return animation(video, ANIMATIONS[suffix], fps, **options)


# Of a format that cannot be written in parts; about what a machine with 4 GB has left.
MAX_WHOLE_BYTES = 2**30
STREAMED = (".npy", *FILMS)  # Written in parts: a clip of any length in constant memory.


def check_length(suffix: str, num_clips: int, num_frames: int, height: int, width: int, channels: int) -> None:
    """Checks that a format can hold clips of a length, before any is made.

    Args:
        suffix: One of `SUFFIXES`.
        num_clips: Clips that are written at the same time.
        num_frames, height, width, channels: Size of each.

    Raises:
        ValueError: The format cannot be written in parts, and the clips are too large to be held in memory.
    """
    size = num_clips * num_frames * height * width * channels
    if suffix not in STREAMED and size > MAX_WHOLE_BYTES:
        raise ValueError(
            f"A {suffix} is made in memory as a whole, and {num_frames} frames of {width}x{height} pixels for "
            f"{num_clips} clip(s) take {size / 1e9:.1f} GB. Use {', '.join(STREAMED)}, or fewer frames or clips."
        )


class VideoWriter:
    """Writes one clip in parts; the file is whole or absent.

    Formats in `STREAMED` need the memory of one part, others that of the clip.

    Args:
        path: As `write_video` takes it.
        shape: `(T, H, W, C)` of the whole clip.
        fps: Frames per second.

    Raises:
        ValueError: As `write_video`.
        OSError: The file cannot be written; the message names it.
    """

    def __init__(self, path: str | pathlib.Path, shape: tuple[int, ...], fps: float) -> None:
        self.path, self.shape, self.fps = pathlib.Path(path), shape, fps
        self._suffix = self.path.suffix.lower()
        if self._suffix not in SUFFIXES:
            raise ValueError(f"Cannot write {self.path.name}: the ending must be one of {', '.join(SUFFIXES)}.")
        self._partial = self.path.with_name(f"writing-{self.path.name}")
        self._parts: list[Pixels] = []
        self._write: Callable[[Pixels], Any] = self._parts.append
        self._stack = contextlib.ExitStack()
        with self._named_errors():
            if self._suffix == ".npy":
                file = self._stack.enter_context(open(self._partial, "wb"))
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                self._write = lambda part: file.write(np.ascontiguousarray(part).data)
            elif self._suffix in FILMS:
                film = open_film(
                    str(self._partial), shape[1:], fps, self._suffix[1:], FILMS[self._suffix], {"crf": "18"}
                )
                self._write = self._stack.enter_context(film)

    def write(self, part: Pixels) -> None:
        """Writes the next frames, uint8 `[t, H, W, C]`."""
        with self._named_errors():
            self._write(part)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            with self._named_errors():
                self._stack.__exit__(kind, error, traceback)
                if kind is None:
                    if self._suffix not in STREAMED:
                        self._partial.write_bytes(_whole(np.concatenate(self._parts), self._suffix, self.fps))
                    os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Names the file in what goes wrong, and removes what was written of it."""
        try:
            yield
        except (ImportError, EncoderRefusal, OSError) as error:
            self._partial.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise OSError(f"Cannot write {self.path}: {error.strerror or error}") from error
            if isinstance(error, ImportError):
                raise ValueError(
                    f"Writing {self.path.name} needs PyAV: pip install 'mocogan-tf[video]', or choose .webp."
                ) from error
            _, height, width, _ = self.shape
            raise ValueError(
                f"Cannot write {self.path.name}: its encoder refuses {width}x{height} pixels at {self.fps:g} frames "
                f"per second ({error}). Choose a smaller picture, another rate or another format."
            ) from error
