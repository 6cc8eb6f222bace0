"""Clips as bytes: pictures that move, sheets, arrays; mp4 and webm where PyAV (extra `video`) is installed.

Everything takes uint8 `[B, T, H, W, C]` with 1 or 3 channels. Several clips become one mosaic that moves together.
"""

from __future__ import annotations

import dataclasses
import fractions
import importlib.util
import io
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.runtime.errors import Invalid, Unimplemented

Pixels = NDArray[np.uint8]

# Pixels; a webm's odd sides are made even.
MAX_SIDE = {"webp": 16383, "sheet": 16383, "gif": 65535, "mp4": 16384, "webm": 16382}
GIF_SAMPLE = 8192
MP4_FLAGS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to encode. `encode(clips, fps)` returns the bytes."""

    media_type: str
    extension: str
    encode: Callable[[Pixels, float], bytes]
    needs_av: bool = False

    @property
    def available(self) -> bool:
        """Whether this installation can do it."""
        return not self.needs_av or importlib.util.find_spec("av") is not None


def mosaic(clips: Pixels, columns: int | None = None) -> Pixels:
    """`[B, T, H, W, C]` to `[T, rows * H, columns * W, C]`, near square unless told; empty places are black."""
    num_videos, num_frames, height, width, channels = clips.shape
    columns = columns or math.ceil(math.sqrt(num_videos))
    rows = -(-num_videos // columns)
    if rows * columns > num_videos:
        empty = np.zeros((rows * columns - num_videos, *clips.shape[1:]), np.uint8)
        clips = np.concatenate([clips, empty])
    tiles = clips.reshape(rows, columns, num_frames, height, width, channels)
    return tiles.transpose(2, 0, 3, 1, 4, 5).reshape(num_frames, rows * height, columns * width, channels)


def sheet(clips: Pixels) -> Pixels:
    """`[B, T, H, W, C]` to one picture `[B * H, T * W, C]`: a row per clip, a column per frame."""
    num_videos, num_frames, height, width, channels = clips.shape
    return clips.transpose(0, 2, 1, 3, 4).reshape(num_videos * height, num_frames * width, channels)


def enlarge(clips: Pixels, scale: int) -> Pixels:
    """Every frame `scale` times as high and wide, bicubic."""
    if scale == 1:
        return clips
    height, width = clips.shape[2] * scale, clips.shape[3] * scale
    frames = [
        np.asarray(to_image(frame).resize((width, height), Image.Resampling.BICUBIC))
        for frame in clips.reshape(-1, *clips.shape[2:])
    ]
    return np.stack(frames).reshape(*clips.shape[:2], height, width, clips.shape[4])


def to_image(frame: Pixels) -> Image.Image:
    """Makes a Pillow image of one frame, grey or RGB."""
    return Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else np.ascontiguousarray(frame))


def _check_side(frames: Pixels, name: str, fewer: str, instead: str) -> None:
    """Raises Invalid for pictures `[..., H, W, C]` that are larger than the format can hold."""
    height, width = frames.shape[-3:-1]
    if max(height, width) > MAX_SIDE[name]:
        raise Invalid(
            f"`format` {name} is at most {MAX_SIDE[name]} pixels wide and high; this one would be {width} by {height}. "
            f"Lower `scale`, ask for fewer {fewer}, or for format {instead}."
        )


def _moving(clips: Pixels, name: str) -> Pixels:
    """The mosaic, if the format can hold it. Raises Invalid."""
    frames = mosaic(clips)
    _check_side(frames, name, "videos (rows, columns)", "apng")
    return frames


def _animation(pictures: list[Image.Image], fps: float, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    # Browsers slow a GIF frame shorter than 20 ms down to 100 ms.
    duration = max(20.0 if kind == "GIF" else 1.0, 1000.0 / fps)
    # An APNG holds seconds as a fraction of two 16-bit numbers: above one, only whole milliseconds surely fit.
    duration = duration if duration <= 1000 else round(duration)
    try:
        pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=duration, loop=0, **options)
    except (OverflowError, struct.error):  # Pillow makes one frame of equal ones and adds up their durations.
        raise Invalid(f"`fps` is too low for a {kind} that stands still for so long. Ask for format webp.") from None
    return file.getvalue()


def _webp(clips: Pixels, fps: float) -> bytes:
    # Every frame a key frame: without it each is encoded twice to see which is smaller, for a few bytes.
    pictures = [to_image(frame) for frame in _moving(clips, "webp")]
    return _animation(pictures, fps, "WEBP", quality=85, method=0, kmin=0, kmax=0)


def _gif(clips: Pixels, fps: float) -> bytes:
    """One palette for all frames, so that colours do not flicker."""
    frames = _moving(clips, "gif")
    if frames.shape[-1] == 1:
        return _animation([to_image(frame) for frame in frames], fps, "GIF")
    # Median cut looks best and takes its time: a sample of the pixels is enough for it.
    every = max(1, math.isqrt(frames.shape[0] * frames.shape[1] * frames.shape[2] // GIF_SAMPLE))
    sample = frames[:, ::every, ::every].reshape(-1, 1, frames.shape[-1])
    palette = to_image(sample).quantize(255, method=Image.Quantize.MEDIANCUT)
    pictures = [to_image(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    return _animation(pictures, fps, "GIF", disposal=1)


def _apng(clips: Pixels, fps: float) -> bytes:
    return _animation([to_image(frame) for frame in mosaic(clips)], fps, "PNG", compress_level=3)


def _still(clips: Pixels, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    to_image(sheet(clips)).save(file, kind, **options)
    return file.getvalue()


def _png(clips: Pixels, fps: float) -> bytes:
    return _still(clips, "PNG", compress_level=3)


def _webp_sheet(clips: Pixels, fps: float) -> bytes:
    _check_side(sheet(clips), "sheet", "frames or videos", "png")
    return _still(clips, "WEBP", quality=90, method=0)


def _npy(clips: Pixels, fps: float) -> bytes:
    file = io.BytesIO()
    np.save(file, clips, allow_pickle=False)
    return file.getvalue()


def _video(clips: Pixels, fps: float, container: str, codec: str, options: dict[str, str]) -> bytes:
    import av

    frames = _moving(clips, container)
    if frames.shape[-1] == 1:
        frames = np.repeat(frames, 3, axis=3)
    # 4:2:0 needs even sides: repeat the last row or column.
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=MP4_FLAGS if container == "mp4" else {}) as output:
        stream: Any = output.add_stream(codec, rate=fractions.Fraction(fps).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.options = options
        stream.codec_context.thread_count = 1
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


def _mp4(clips: Pixels, fps: float) -> bytes:
    return _video(clips, fps, "mp4", "libx264", {"crf": "18", "preset": "veryfast"})


def _webm(clips: Pixels, fps: float) -> bytes:
    return _video(clips, fps, "webm", "libvpx", {"crf": "10", "b:v": "2M", "deadline": "realtime"})


FORMATS = {
    "webp": Format("image/webp", "webp", _webp),
    "gif": Format("image/gif", "gif", _gif),
    "apng": Format("image/apng", "png", _apng),
    "png": Format("image/png", "png", _png),
    "sheet": Format("image/webp", "webp", _webp_sheet),
    "npy": Format("application/x-npy", "npy", _npy),
    "mp4": Format("video/mp4", "mp4", _mp4, needs_av=True),
    "webm": Format("video/webm", "webm", _webm, needs_av=True),
}


def check_format(name: str) -> Format:
    """Returns the format.

    Raises:
        Unimplemented: It needs the extra `video`, which is not installed.
    """
    known = FORMATS[name]
    if not known.available:
        raise Unimplemented(f"Format {name!r} needs the package `av` on the server. Use webp, gif or apng.")
    return known


def encode(clips: Pixels, name: str, *, fps: float, scale: int = 1) -> bytes:
    """Encodes uint8 `[B, T, H, W, C]`; `scale` enlarges pictures and leaves `npy` as it is."""
    return FORMATS[name].encode(clips if name == "npy" else enlarge(clips, scale), fps)
