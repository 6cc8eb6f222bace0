"""Whole decoded videos in one memory-mapped file, and the cache in which each set is kept once it has been made.

A set is a folder of two files: `frames.u8`, the frames of all videos one after the other, `[sum F, H, W, C]` uint8 in
row-major order, and `index.json`, which says how they divide into videos.

The cache holds one such folder per set, named after a hash of everything that decides its content. A folder is filled
under a temporary name and renamed when it is complete, so a folder that exists is whole, whichever other processes are
writing at the same time. TensorFlow is not imported here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import socket
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import NDArray
from tqdm import tqdm

from mocogan_tf.data import advice, parallel

FRAMES_FILE, INDEX_FILE = "frames.u8", "index.json"
FORMAT_VERSION = 2  # Raised when what is written, or how a clip is decoded, changes.
# Strips, folders of frames and arrays do not say how fast they are to be shown.
DEFAULT_FPS = 16.0


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
        names: `N` names, each of one video.
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

    def digests(self) -> dict[str, str]:
        """Returns, by name, a hash of each video's category, length, and first, middle and last frame.

        It is quick, so that a run can compare its clips with those of an earlier start; see `advice.changes`.
        """
        digests = {}
        for index, name in enumerate(self.names):
            video = self[index]
            category = self.categories[self.labels[index]] if self.categories else ""
            content = hashlib.sha256(f"{category} {len(video)} ".encode())
            content.update(video[[0, len(video) // 2, -1]].tobytes())
            digests[name] = content.hexdigest()[:16]
        return digests

    def without_empty_categories(self) -> tuple[VideoSet, list[str]]:
        """Returns the set with only the categories that have videos, and the names of the others.

        Labels are counted anew. If one category is left there is nothing to tell apart, and `categories` is ().
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
        """Writes the index; `notes` are lines that whoever opens the set is told, such as files left out."""
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
        with contextlib.suppress(OSError):  # Closing writes what is still in the buffer; the disk may be full.
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


@dataclasses.dataclass(frozen=True)
class CachedVideo:
    """One video on its way into the cache: uint8 `[F, H, W, C]`, its class (empty: none), its rate (0: unknown)."""

    name: str
    category: str
    frames: NDArray[np.uint8]
    fps: float = 0.0
    notes: tuple[str, ...] = ()


def cache_root(cache_dir: str = "") -> pathlib.Path:
    """Returns the folder of all entries: `cache_dir`, or `mocogan_tf` in the user's cache folder."""
    if cache_dir:
        return pathlib.Path(cache_dir).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "mocogan_tf"


def cached_videos(
    *,
    key: dict[str, Any],
    produce: Callable[[], Iterable[parallel.Outcome]],
    total: int,
    name: str,
    doing: str,
    categories: Sequence[str],
    default_fps: float,
    image_size: int,
    channels: int,
    cache_dir: str = "",
    few: int = 0,
) -> VideoSet:
    """Opens the set that `key` names, making it first if it is not there.

    Args:
        key: Everything that decides the content, as JSON.
        produce: Makes the set: outcomes whose values are `CachedVideo`s. An item with an error is left out, and a
            warning says so each time the set is opened; the item has a name or is one.
        total: Number of outcomes.
        name: Name of the set.
        doing: What the waiting is for, in messages: "Decoding" or "Rendering".
        categories: Names of the classes; () if there are none.
        default_fps: Rate of the set where its videos have none of their own.
        image_size: Height and width of the frames.
        channels: Channels of the frames.
        cache_dir: Where to keep it; see `cache_root`.
        few: If the set is not there yet, make only this many of its first clips. 0: the whole set.

    Raises:
        ValueError: No video could be made, or the disk is full or not writable.
    """
    key = {**key, "image_size": image_size, "channels": channels, "format_version": FORMAT_VERSION}
    root = cache_root(cache_dir)
    label = f"{_file_name(pathlib.PurePath(name).name)}-{image_size}px"
    entry = root / f"{label}-{_digest(key)}"
    limit = few if few < total and not entry.exists() else 0
    if limit:
        entry = root / f"{label}-{_digest({**key, 'few': limit})}"
    if not entry.exists():
        number = f"{limit} of {total}" if limit else total
        print(f"{doing} {number} clips of {name}, once; they are kept in {entry}.", file=sys.stderr, flush=True)
        try:
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            first = functools.partial(itertools.islice, produce(), limit or None)
            _make_entry(entry, first, limit or total, name, doing, categories, default_fps, image_size, channels)
        except OSError as error:
            raise ValueError(
                f"Cannot keep decoded clips in {root}: {error.strerror or error}. Free some space there, or choose "
                "another folder with --cache_dir."
            ) from error
    opened, notes = load_videos(entry)
    for note in notes:
        logging.warning("%s: %s", name, note)
    return opened


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _make_entry(
    entry: pathlib.Path,
    produce: Callable[[], Iterable[parallel.Outcome]],
    total: int,
    name: str,
    doing: str,
    categories: Sequence[str],
    default_fps: float,
    image_size: int,
    channels: int,
) -> None:
    partial = entry.parent / f".partial-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    partial.mkdir()
    writer = VideoSetWriter(partial, image_size=image_size, channels=channels)
    rates: list[float] = []
    left_out: list[tuple[str, str]] = []
    remarks: list[tuple[str, str]] = []
    try:
        # A bar is for a person who watches; a log file gets the one line above.
        for outcome in tqdm(produce(), doing, total, unit="clip", disable=not sys.stderr.isatty()):
            if outcome.error:
                left_out.append((getattr(outcome.item, "name", str(outcome.item)), outcome.error))
                continue
            video: CachedVideo = outcome.value
            writer.append(video.name, video.category, video.frames)
            rates.append(video.fps)
            remarks += [(video.name, note) for note in video.notes]
        if not rates:
            first = " The first, {}: {}".format(*left_out[0]) if left_out else ""
            raise ValueError(f"None of the {total} clips of {name} can be read.{first}")
        notes = [f"left out, {remark}" for remark in advice.grouped(left_out)]
        notes += [str(remark) for remark in advice.grouped(remarks)]
        notes += [note for note in [advice.about_rates(rates)] if note]
        known = [rate for rate in rates if rate]
        fps = float(np.median(known)) if known else default_fps
        writer.close(name=name, categories=categories, fps=fps, notes=notes)
        try:
            os.rename(partial, entry)
        except OSError:
            if not entry.exists():  # Otherwise another process was faster, with the same content.
                raise
    finally:
        writer.abandon()
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(root: pathlib.Path) -> None:
    """Removes what processes of this machine left half-written when they were killed."""
    own = f".partial-{socket.gethostname()}"
    for partial in root.glob(f"{own}-*"):
        # The folder may be shared with a machine `node-b`, whose processes cannot be looked up on `node`.
        prefix, pid, _ = partial.name.rsplit("-", 2)
        if prefix == own and not _is_alive(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "_" for c in name) or "clips"
