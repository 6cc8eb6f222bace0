"""Lists the clips in a `.npy`, `.npz` or HDF5 file, and reads one of them as frames.

Axes are written with letters: N clips, T frames, H, W, C. An HDF5 file of TGAN's layout has all frames in one dataset
`image` [sum T, C, H, W] and beside it a `.json` file of the same stem with `start`, `end` and `category` per clip.
Nothing is unpickled, because a pickle can run code.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHANNELS = (1, 3, 4)
_LABELS = ("labels", "label", "y")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one clip lies in an array file: the member, its axes' letters, and the index along N or a range along T."""

    member: str
    axes: str
    index: int = 0
    frames: tuple[int, int] | None = None


def list_array_clips(path: pathlib.Path, axes: str = "") -> list[tuple[Place, str]]:
    """Lists the clips of a file as (place, class name); the class is "" if the file has no labels.

    Args:
        path: The file.
        axes: Letters of the axes such as `TNHW`; empty: guessed from the shape.

    Raises:
        ValueError: The file cannot be read, or its axes cannot be told.
    """
    try:
        members = _open(str(path))
    except ValueError:
        raise
    except Exception as error:  # Readers raise what they like on broken files.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    labels = next((np.atleast_1d(members[name]) for name in _LABELS if name in members), None)
    index_file = path.with_suffix(".json")
    if "image" in members and index_file.is_file() and not axes:
        return _listed_in_json(index_file)
    clips = []
    for member in sorted(set(members) - set(_LABELS)):
        shape = members[member].shape
        found = axes or guess_axes(shape)
        if (
            len(found) != len(shape)
            or not {"T", "H", "W"} <= set(found) <= set("NTHWC")
            or len(set(found)) < len(found)
        ):
            raise ValueError(f"array {member!r} of shape {list(shape)} does not have the axes {found}")
        number = shape[found.index("N")] if "N" in found else 1
        if labels is not None and labels.shape != (number,):
            raise ValueError(f"{len(labels)} labels for {number} clips in array {member!r}")
        names = [""] * number if labels is None else [_label_name(label) for label in labels]
        clips += [(Place(member, found, i), name) for i, name in enumerate(names)]
    return clips


def _label_name(label: Any) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)


def guess_axes(shape: tuple[int, ...]) -> str:
    """Returns the letters of an array's axes.

    Raises:
        ValueError: The shape fits several layouts or none.
    """
    if len(shape) == 5 and shape[-1] in _CHANNELS:
        return "NTHWC"
    if len(shape) == 5 and shape[2] in _CHANNELS:
        return "NTCHW"
    if len(shape) == 4 and shape[-1] in _CHANNELS:
        return "THWC"
    if len(shape) == 4 and shape[1] in _CHANNELS:
        return "TCHW"
    if len(shape) == 4 and shape[0] < shape[1]:
        return "TNHW"  # Moving MNIST: 20 frames of 10,000 clips.
    if len(shape) == 4 and shape[0] > shape[1]:
        return "NTHW"
    if len(shape) == 3:
        return "THW"
    raise ValueError(
        f"the axes of an array of shape {list(shape)} cannot be told; give them with --array_axes, as in NTHWC"
    )


def _listed_in_json(path: pathlib.Path) -> list[tuple[Place, str]]:
    try:
        records = json.loads(path.read_text())
        return [
            (Place("image", "TCHW", frames=(int(record["start"]), int(record["end"]))), str(record.get("category", "")))
            for record in records
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path.name} is no list of objects with `start` and `end`: {error}") from error


@functools.lru_cache(maxsize=2)
def _open(path: str) -> Any:
    """Returns a mapping of names to arrays, which are read when they are sliced (those of a `.npz` file at once)."""
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(b"\x89HDF"):
        return _open_hdf5(path)
    if head.startswith(b"PK"):
        with np.load(path, allow_pickle=False) as members:
            return {name: members[name] for name in members}
    if not head:
        raise ValueError("the file is empty")
    return {"array": np.load(path, mmap_mode="r", allow_pickle=False)}


def _open_hdf5(path: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ValueError("reading HDF5 files needs h5py: pip install h5py") from error
    file = h5py.File(path, "r")
    return {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}


def read_array_clip(path: str, place: Place) -> NDArray[np.uint8]:
    """Returns one clip, uint8 `[T, H, W, C]`.

    Floating point values must lie in [0, 1] or in [-1, 1]; 16 bit integers are scaled to 8.

    Raises:
        ValueError: The values have another type or range.
    """
    array = _open(path)[place.member]
    if place.frames is not None:
        first, last = place.frames
        if not 0 <= first < last <= array.shape[0]:
            raise ValueError(f"frames {first} to {last} of {array.shape[0]}")
        clip = np.asarray(array[first:last])
    elif "N" in place.axes:
        clip = np.asarray(array[(slice(None),) * place.axes.index("N") + (place.index,)])
    else:
        clip = np.asarray(array)
    axes = place.axes.replace("N", "")
    order = [axes.index(letter) for letter in "THWC" if letter in axes]
    clip = clip.transpose(order)
    if "C" not in axes:
        clip = clip[..., None]
    if not clip.size:
        raise ValueError(f"an empty array of shape {list(clip.shape)}")
    if clip.shape[-1] not in _CHANNELS:
        raise ValueError(f"{clip.shape[-1]} channels; 1, 3 or 4 are expected")
    return _to_uint8(clip)


def _to_uint8(clip: NDArray[Any]) -> NDArray[np.uint8]:
    if clip.dtype == np.uint8:
        return clip
    if clip.dtype == np.bool_:
        return clip.astype(np.uint8) * np.uint8(255)
    if clip.dtype == np.uint16:
        return (clip >> 8).astype(np.uint8)
    if clip.dtype.kind != "f":
        raise ValueError(f"values of type {clip.dtype}; uint8, uint16, bool or floating point are expected")
    low, high = float(clip.min()), float(clip.max())
    if not (np.isfinite([low, high]).all() and -1 <= low and high <= 1):
        raise ValueError(f"floating point values in [{low:g}, {high:g}]; [0, 1] or [-1, 1] are expected")
    unit = (clip + 1) / 2 if low < 0 else clip
    return np.rint(unit * 255).astype(np.uint8)
