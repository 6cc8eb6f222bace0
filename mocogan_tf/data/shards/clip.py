"""Takes one clip from its files to its encoded frames, in processes of this machine or on workers of others.

TensorFlow is not imported here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.sources import fitting
from mocogan_tf.data.sources.readers import ClipSource


@dataclasses.dataclass(frozen=True)
class PreparedClip:
    """One clip as it goes into a shard: its entry in the manifest, and its encoded frames (for `raw`, all in one)."""

    entry: dict[str, Any]
    frames: tuple[bytes, ...]


def prepare_clip(source: ClipSource, options: PrepareOptions) -> PreparedClip:
    """Reads, fits and encodes one clip. A pure function of the clip's files and the options.

    Raises:
        ValueError: The clip cannot be read or is too short; one line that says why.
    """
    clip = fitting.read_clip(source, options.fit_options())
    if len(clip.frames) < options.min_frames:
        raise ValueError(f"{len(clip.frames)} frames; --min_frames={options.min_frames}")
    try:
        digest = _content_hash(source)
    except OSError as error:
        raise ValueError(f"the file went away while it was read: {error.strerror}") from error
    entry: dict[str, Any] = {
        "name": source.name,
        "source": source.origin,
        "sha256": digest,
        "frames": len(clip.frames),
        "fps": round(clip.fps, 3) or None,
        "category": source.category,
        "group": source.group or source.name,
        "split": source.split,
    }
    if clip.notes:
        entry["notes"] = list(clip.notes)
    return PreparedClip(entry, encode_frames(clip.frames, options.encoding, options.quality))


def _content_hash(source: ClipSource) -> str:
    return _hash_files(tuple((path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in source.paths()))


@functools.lru_cache(maxsize=8)  # One array file or long video may hold many clips.
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def encode_frames(frames: NDArray[np.uint8], encoding: str, quality: int = 95) -> tuple[bytes, ...]:
    """Encodes uint8 `[F, H, W, C]` as one picture per frame, or for `raw` as one piece that has all pixels."""
    if encoding == "raw":
        return (np.ascontiguousarray(frames).tobytes(),)
    settings: dict[str, dict[str, Any]] = {"jpeg": {"quality": quality}, "webp": {"lossless": True}}
    encoded = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(
            file, encoding, **settings.get(encoding, {})
        )
        encoded.append(file.getvalue())
    return tuple(encoded)
