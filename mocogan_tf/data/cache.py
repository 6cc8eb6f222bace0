"""Decoded and generated videos are made once and kept: where, under which name, and how they are written.

A cache entry is a folder named after a hash of everything that decides its content. It is filled under a temporary name
and renamed when complete, so that an entry that exists is whole, whoever else is writing at the same time.
"""

from __future__ import annotations

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

from mocogan_tf.data import parallel, videos

# Of strips, folders of frames and arrays, which do not say how fast they are to be shown.
DEFAULT_FPS = 16.0


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
) -> videos.VideoSet:
    """Opens the set that `key` names, making it first if it is not there.

    Args:
        key: Everything that decides the content, as JSON.
        produce: Makes the set: outcomes whose values are `CachedVideo`s. Items with an error are left out and
            reported, each time the set is opened.
        total: Number of outcomes.
        name: Name of the set.
        doing: What the waiting is for, in messages: "Decoding" or "Rendering".
        categories: Names of the classes; () if there are none.
        default_fps: Rate of the set where its videos have none of their own.
        image_size: Height and width of the frames.
        channels: Channels of the frames.
        cache_dir: Where to keep it; see `cache_root`.
        few: Where the set is not there, make one of this many of its first clips only. 0: the whole set.

    Raises:
        ValueError: No video could be made, or the disk is full or not writable.
    """
    key = {**key, "image_size": image_size, "channels": channels, "format_version": videos.FORMAT_VERSION}
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
    opened, notes = videos.load_videos(entry)
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
    writer = videos.VideoSetWriter(partial, image_size=image_size, channels=channels)
    rates, left_out, remarks = [], [], []
    try:
        # A bar is for a person who watches; a log file gets the one line above.
        for outcome in tqdm(produce(), doing, total, unit="clip", disable=not sys.stderr.isatty()):
            if outcome.error:
                left_out.append(outcome.error)
                continue
            video: CachedVideo = outcome.value
            writer.append(video.name, video.category, video.frames)
            rates.append(video.fps)
            remarks += [f"{video.name}: {note}" for note in video.notes]
        if not rates:
            first = f" The first: {left_out[0]}" if left_out else ""
            raise ValueError(f"None of the {total} clips of {name} can be read.{first}")
        notes = [f"left out, {error}" for error in left_out] + summarise(remarks)
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


def summarise(remarks: Sequence[str], shown: int = 3) -> list[str]:
    """Returns the first few remarks and a line that counts the rest."""
    rest = len(remarks) - shown
    return [*remarks[:shown], *([f"... and {rest} more remarks of this kind"] if rest > 0 else [])]


def _sweep(root: pathlib.Path) -> None:
    """Removes what processes of this machine left half-written when they were killed."""
    own = f".partial-{socket.gethostname()}"
    for partial in root.glob(f"{own}-*"):
        # On a shared folder: `node-b` is not `node`, and its process is not to be looked for here.
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
