"""Clips as answers: which formats there are, and how large each may be. The encoders are `mocogan_tf.video`'s.

Everything takes uint8 `[B, T, H, W, C]` with 1 or 3 channels. Several clips become one mosaic that moves together.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from collections.abc import Callable

import numpy as np

from mocogan_tf import video
from mocogan_tf.video import Pixels
from serving.runtime.errors import Invalid, Unimplemented

# Pixels; a webm's odd sides are made even.
MAX_SIDE = {"webp": 16383, "sheet": 16383, "gif": 65535, "mp4": 16384, "webm": 16382}
# Fragmented: a browser plays it without seeking to its end first.
MP4_FLAGS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
# One picture of its frames side by side, by format of a stream.
STRIPS = {
    "webp": ("WEBP", {"quality": 85, "method": 0}),
    "png": ("PNG", {"compress_level": 3}),
    "jpeg": ("JPEG", {"quality": 88}),
}


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to encode. `encode(clips, fps)` returns the bytes."""

    media_type: str
    extension: str
    encode: Callable[[Pixels, float], bytes]
    needs_av: bool = False

    @property
    def available(self) -> bool:
        """Whether this installation can encode it."""
        return not self.needs_av or importlib.util.find_spec("av") is not None


def mosaic(clips: Pixels, columns: int | None = None) -> Pixels:
    """`[B, T, H, W, C]` to `[T, rows * H, columns * W, C]`, nearly square by default; clips touch."""
    return video.grid(clips, columns, gap=0)


def strip(frames: Pixels, name: str) -> bytes:
    """One clip `[T, H, W, C]` as a still picture, its frames from left to right; formats as in `STRIPS`."""
    kind, options = STRIPS[name]
    return video.picture(video.film_strips(frames[None], gap=0), kind, **options)


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


def _webp(clips: Pixels, fps: float) -> bytes:
    # Every frame is a key frame: otherwise each is encoded twice to see which is smaller, which saves a few bytes.
    return video.animation(_moving(clips, "webp"), "WEBP", fps, quality=85, method=0, kmin=0, kmax=0)


def _gif(clips: Pixels, fps: float) -> bytes:
    try:
        return video.animation(_moving(clips, "gif"), "GIF", fps, one_palette=True)
    except video.EncoderRefusal:  # Pillow merges equal frames and adds up their durations.
        raise Invalid("`fps` is too low for a GIF that stands still for so long. Ask for format webp.") from None


def _apng(clips: Pixels, fps: float) -> bytes:
    return video.animation(mosaic(clips), "PNG", fps, compress_level=3)


def _png(clips: Pixels, fps: float) -> bytes:
    return video.picture(video.film_strips(clips, gap=0), "PNG", compress_level=3)


def _webp_sheet(clips: Pixels, fps: float) -> bytes:
    sheet = video.film_strips(clips, gap=0)
    _check_side(sheet, "sheet", "frames or videos", "png")
    return video.picture(sheet, "WEBP", quality=90, method=0)


def _npy(clips: Pixels, fps: float) -> bytes:
    file = io.BytesIO()
    np.save(file, clips, allow_pickle=False)
    return file.getvalue()


def _mp4(clips: Pixels, fps: float) -> bytes:
    options = {"crf": "18", "preset": "veryfast"}
    frames = _moving(clips, "mp4")
    return video.film(frames, fps, "mp4", "libx264", options, container_options=MP4_FLAGS, threads=1)


def _webm(clips: Pixels, fps: float) -> bytes:
    options = {"crf": "10", "b:v": "2M", "deadline": "realtime"}
    return video.film(_moving(clips, "webm"), fps, "webm", "libvpx", options, threads=1)


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
    return FORMATS[name].encode(clips if name == "npy" else video.scale_up(clips, scale, smooth=True), fps)
