"""Whole decoded videos in one memory-mapped file, and that file's format.

A set is a folder of two files: `frames.u8`, the frames of all videos one after the other, `[sum F, H, W, C]` uint8 in
row-major order, and `index.json`, which says how they divide into videos. TensorFlow is not imported here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAMES_FILE, INDEX_FILE = "frames.u8", "index.json"
FORMAT_VERSION = 1  # Raised when what is written, or how a clip is decoded, changes.


@dataclasses.dataclass(frozen=True)
class VideoSet:
    """Whole videos with random access; their pixels stay on disk until they are read.

    Args:
        name: What the set is called in messages.
        categories: Names, their order is the label; () if the videos have no labels.
        fps: Frames per second of the videos.
        labels: int32 `[N]`, zeros if the videos have no labels.
        lengths: int64 `[N]`, frames per video.
        offsets: int64 `[N]`, where each video begins in `frames`.
        names: `N` names for messages.
        frames: uint8 `[sum F, H, W, C]`, memory-mapped.
    """

    name: str
    categories: tuple[str, ...]
    fps: float
    labels: NDArray[np.int32]
    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]
    names: tuple[str, ...]
    frames: NDArray[np.uint8] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def folder(self) -> pathlib.Path:
        """The folder that `load_videos` opened.

        Raises:
            ValueError: The frames are not mapped from a file.
        """
        if not isinstance(self.frames, np.memmap) or self.frames.filename is None:
            raise ValueError(f"The videos {self.name} do not lie in a file.")
        return pathlib.Path(self.frames.filename).parent

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Returns uint8 `[F, H, W, C]`, one video, as a view of the mapped file."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Video {index} of {len(self)}.")
        start = self.offsets[index]
        return self.frames[start : start + self.lengths[index]]

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> VideoSet:
        """Returns the set of these videos only, in this order; categories and labels stay as they are."""
        picked = np.asarray(indices, np.int64)
        return dataclasses.replace(
            self,
            labels=self.labels[picked],
            lengths=self.lengths[picked],
            offsets=self.offsets[picked],
            names=tuple(self.names[i] for i in picked),
        )

    def without_empty_categories(self) -> tuple[VideoSet, list[str]]:
        """Returns the set with the categories that have videos, labels counted anew, and the names of the others.

        A single category is none: there is nothing to tell apart, so `categories` is () then.
        """
        used = np.unique(self.labels) if self.categories else np.zeros(0, np.int64)
        empty = [name for label, name in enumerate(self.categories) if label not in used]
        categories = tuple(self.categories[label] for label in used) if len(used) > 1 else ()
        labels = np.searchsorted(used, self.labels) if categories else np.zeros(len(self))
        return dataclasses.replace(self, categories=categories, labels=labels.astype(np.int32)), empty


class VideoSetWriter:
    """Writes a set video by video into an existing folder; the set is complete only after `close`."""

    def __init__(self, folder: pathlib.Path, *, image_size: int, channels: int) -> None:
        self._folder = folder
        self._frame_shape = (image_size, image_size, channels)
        self._file = open(folder / FRAMES_FILE, "wb")
        self._videos: list[tuple[str, str, int]] = []

    def append(self, name: str, category: str, frames: NDArray[np.uint8]) -> None:
        """Adds uint8 `[F, H, W, C]`."""
        if frames.dtype != np.uint8 or frames.shape[1:] != self._frame_shape or not len(frames):
            raise ValueError(
                f"Video {name!r} must be uint8 [F, {', '.join(map(str, self._frame_shape))}] with F >= 1. "
                f"Received: {frames.dtype} {list(frames.shape)}"
            )
        self._file.write(np.ascontiguousarray(frames).data)
        self._videos.append((name, category, len(frames)))

    def close(self, *, name: str, categories: Sequence[str], fps: float, notes: Sequence[str] = ()) -> None:
        """Writes the index; `notes` are lines that every reader of the set is told, such as files left out."""
        self._file.close()
        index = {
            "format_version": FORMAT_VERSION,
            "name": name,
            "categories": list(categories),
            "fps": fps,
            "frame_shape": self._frame_shape,
            "notes": list(notes),
            "names": [video for video, _, _ in self._videos],
            "labels": [categories.index(category) if categories else 0 for _, category, _ in self._videos],
            "lengths": [length for _, _, length in self._videos],
        }
        (self._folder / INDEX_FILE).write_text(json.dumps(index))

    def abandon(self) -> None:
        """Closes the file without an index."""
        with contextlib.suppress(OSError):  # What is still in the buffer of a file on a full disk.
            self._file.close()


def load_videos(folder: pathlib.Path) -> tuple[VideoSet, list[str]]:
    """Opens a set that `VideoSetWriter` wrote.

    Returns:
        The set and the notes that were written with it.

    Raises:
        ValueError: The folder holds no complete set of this version.
    """
    try:
        index: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text())
        lengths = np.array(index["lengths"], np.int64)
        shape = (int(lengths.sum()), *index["frame_shape"])
        if index["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {index['format_version']}, this program reads {FORMAT_VERSION}")
        size = (folder / FRAMES_FILE).stat().st_size
        if size != np.prod(shape, dtype=np.int64):
            raise ValueError(f"{FRAMES_FILE} has {size} bytes, its index says {np.prod(shape, dtype=np.int64)}")
        videos = VideoSet(
            name=index["name"],
            categories=tuple(index["categories"]),
            fps=index["fps"],
            labels=np.array(index["labels"], np.int32),
            lengths=lengths,
            offsets=np.cumsum(lengths) - lengths,
            names=tuple(index["names"]),
            frames=np.memmap(folder / FRAMES_FILE, np.uint8, mode="r", shape=shape),
        )
        return videos, index["notes"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no complete set of decoded videos ({error}). Delete it to have it made again."
        ) from error
