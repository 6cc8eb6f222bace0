"""Bundles: folders that an export writes, and all that serving knows about a model."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray

from mocogan_tf.latents import LatentSpec, sample_latents
from mocogan_tf.video import POSTPROCESS
from serving.runtime.errors import BundleError, shown

# The formats that this server reads, by what content comes from; which one an export writes is its own affair.
FORMAT_VERSIONS = {"noise": 1, "pictures": 2}
# What a bundle may have; whoever writes it decides no more than this about the server's memory and time.
MAX_FILES = 1024
MAX_FILE_BYTES, MAX_BYTES = 2**29, 2**31
MAX_TEXT_BYTES = 2**20  # Of bundle.json and SHA256SUMS.
MAX_GOLDEN_BYTES = 2**28  # Of the arrays of golden.npz, unpacked.
MAX_FRAME_PIXELS = 2**20
MAX_ENCODED = 2**16  # Numbers of an encoded picture.
MAX_PICTURES = 64  # Of contents.npz.
MAX_NAME = 200
# The smallest and the largest value of each number of bundle.json.
NUMBERS = {
    "version": (1, 2**63 - 1),
    "dim_content": (1, 4096),
    "dim_motion": (1, 4096),
    "dim_category": (0, 4096),
    "height": (1, 4096),
    "width": (1, 4096),
    "video_length": (1, 4096),
}
ZIP_END = struct.Struct("<4s4H2LH")


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The facts of `bundle.json` that serving uses, checked; `facts` is the whole document.

    Args:
        folder: The bundle.
        name, version: How clients address it.
        latents: Sizes of the generator's inputs.
        category_to: Which network reads the category: `motion`, `image` (the frame decoder) or `both`.
        categories: Names, in order; empty if the model has none.
        fps: Frames per second of the training clips, the speed at which a clip looks right.
        height, width, channels: Of one frame.
        video_length: Frames of a training clip; the default length.
        frame_buckets: Clip lengths that the export was checked with.
        digest: SHA-256 of all its files.
        pictures, contents: What a seed chooses from, where content comes from pictures: uint8 `[N, H, W, C]`, and the
            same encoded, float32 `[N, dim_content]`. None for other models.
    """

    folder: pathlib.Path
    name: str
    version: int
    latents: LatentSpec
    category_to: str
    categories: tuple[str, ...]
    fps: float
    height: int
    width: int
    channels: int
    video_length: int
    frame_buckets: tuple[int, ...]
    files: dict[str, pathlib.Path]
    facts: dict[str, Any]
    digest: str
    pictures: NDArray[np.uint8] | None = None
    contents: NDArray[np.float32] | None = None

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)

    def output_shapes(self, num_videos: int | None, num_frames: int | None) -> dict[str, tuple[int | None, ...]]:
        """Returns the shape of every output by name, `None` where the size is free."""
        return {
            "video": (num_videos, num_frames, *self.frame_shape),
            "motion_state": (num_videos, self.latents.dim_motion),
        }

    def sample(self, num_videos: int, num_frames: int, **seeds: Any) -> dict[str, NDArray[np.float32]]:
        """Draws the generator's inputs; see `sample_latents` for `seeds`."""
        return sample_latents(self.latents, num_videos, num_frames, contents=self.contents, **seeds)

    def golden(self) -> dict[str, NDArray[Any]]:
        """Returns the arrays of `golden.npz`: `seed`, the inputs by name, `video` [B, T, H, W, C], `motion_state`
        [B, dim_motion].

        Raises:
            BundleError: It is damaged, or an array is missing or of another shape than the manifest says.
        """

        def expected(kinds: Kinds) -> dict[str, tuple[tuple[int, ...], type]]:
            num_videos, num_frames = (*kinds.get("motion_noise", ((1,), None))[0], 1, 1)[:2]
            shapes: dict[str, Any] = {"seed": (), "motion_noise": (), **self.latents.shapes(num_videos, num_frames)}
            shapes |= self.output_shapes(num_videos, num_frames)
            return {name: (shape, np.integer if name == "seed" else np.floating) for name, shape in shapes.items()}

        return _read_arrays(self.files["golden"], expected)


Kinds = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def _read_arrays(
    path: pathlib.Path, expected: Callable[[Kinds], dict[str, tuple[tuple[int, ...], type]]]
) -> dict[str, NDArray[Any]]:
    """Reads an .npz file.

    Args:
        path: The file.
        expected: From shapes and types of the arrays in the file to those that it must have, by name. They are compared
            before any array is read.

    Raises:
        BundleError: It is damaged, or an array is missing, another or too large.
    """
    try:
        with open_regular(path, MAX_FILE_BYTES) as file, zipfile.ZipFile(_checked_zip(file)) as archive:
            kinds = {name.removesuffix(".npy"): _array_kind(archive, name) for name in archive.namelist()}
            wanted, size = expected(kinds), 0
            for name, (shape, kind) in wanted.items():
                if name not in kinds:
                    raise BundleError(f"{path} lacks `{name}`. Export the model again.")
                given, dtype = kinds[name]
                if given != shape or not np.issubdtype(dtype, kind):
                    raise BundleError(
                        f"{path}: `{name}` must be {kind.__name__} of shape {shape}. Received: {dtype} of shape "
                        f"{given}. Export the model again."
                    )
                size += math.prod(given) * dtype.itemsize
            if size > MAX_GOLDEN_BYTES:
                raise BundleError(f"{path} unpacks to {size} bytes; this server reads at most {MAX_GOLDEN_BYTES}.")
            return {name: _array(archive, name) for name in wanted}
    except BundleError:
        raise
    except Exception as error:  # A damaged zip file raises any of half a dozen kinds of error.
        raise BundleError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _read_pictures(
    path: pathlib.Path, dim_content: int, frame_shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Returns the arrays `pictures` and `contents` of contents.npz.

    Raises:
        BundleError: As `_read_arrays`, or there are none, too many, or values that are not finite.
    """

    def expected(kinds: Kinds) -> dict[str, tuple[tuple[int, ...], type]]:
        number = (*kinds.get("contents", ((1,), None))[0], 1)[0]
        if not 0 < number <= MAX_PICTURES:
            raise BundleError(f"{path} must have 1 to {MAX_PICTURES} pictures. Received: {number}")
        return {"pictures": ((number, *frame_shape), np.uint8), "contents": ((number, dim_content), np.float32)}

    arrays = _read_arrays(path, expected)
    if not np.isfinite(arrays["contents"]).all():
        raise BundleError(f"{path}: `contents` must be finite. Export the model again.")
    return arrays["pictures"], arrays["contents"]


def open_regular(path: pathlib.Path, most: int) -> io.BufferedReader:
    """Opens a regular file of at most `most` bytes. Anything else, such as a pipe, could hold the server up for ever.

    Raises:
        BundleError: It is something else, larger, or cannot be read.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            file = os.fdopen(
                os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
            )
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_size <= most:
                return file
            file.close()
            if found.st_size > most:
                raise BundleError(f"{path} has {found.st_size} bytes; this server reads at most {most}.")
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}).") from error
    raise BundleError(f"{path} is not a regular file.")


def _checked_zip(file: io.BufferedReader) -> io.BufferedReader:
    """Returns the file if its directory is small, for `zipfile` reads all of that at once. Raises ValueError."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - ZIP_END.size - 20))
    *locator, end = file.read(20) if size >= ZIP_END.size + 20 else b"", file.read()
    if len(end) != ZIP_END.size:
        raise ValueError("it is too short")
    mark, _, _, _, entries, directory, _, comment = ZIP_END.unpack(end)
    if mark != b"PK\x05\x06" or comment or locator[0][:4] == b"PK\x06\x07":
        raise ValueError("it does not end as NumPy's files do")
    if entries > 64 or directory > 2**16:
        raise ValueError(f"it has {entries} entries")
    file.seek(0)
    return file


def _array_kind(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Returns shape and type of an array of an .npz file."""
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed in another way than NumPy's")
    with archive.open(name) as member:
        if npy.read_magic(member) != (1, 0):
            raise ValueError(f"{name} has another version than 1.0")
        shape, _, dtype = npy.read_array_header_1_0(member)
    return shape, dtype


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        array: NDArray[Any] = npy.read_array(member, allow_pickle=False)
        if member.read(1):  # At its end the checksum is compared. What follows an array may be of any size.
            raise ValueError(f"{name} goes on after its array")
    return array


def is_bundle(folder: pathlib.Path) -> bool:
    """Whether the folder looks like a bundle at all."""
    return (folder / "bundle.json").is_file()


def _fact(facts: dict[str, Any], key: str, kind: type | tuple[type, ...], path: pathlib.Path) -> Any:
    value = facts.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        raise BundleError(
            f"{path}: `{key}` must be {expected}. Received: {key}={shown(value)}. Export the model again."
        )
    return value


def _number(facts: dict[str, Any], key: str, path: pathlib.Path, most: int | None = None) -> int:
    value: int = _fact(facts, key, int, path)
    least, usual = NUMBERS[key]
    most = most or usual
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise BundleError(f"{path}: `{key}` must be {bound}. Received: {key}={value}. Export the model again.")
    return value


def _listing(folder: pathlib.Path) -> Iterator[str]:
    """Every file of a bundle, by its path in it.

    Raises:
        BundleError: There are too many, one is not a regular file, or a link leads out of the bundle.
    """
    inside, pending, count = folder.resolve(), [folder], 0
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except PermissionError:  # Such as lost+found. What cannot be read is not run either.
            continue
        with entries:
            for entry in entries:
                path = pathlib.Path(entry.path)
                count += 1
                if count > MAX_FILES:
                    raise BundleError(f"{folder} has more than {MAX_FILES} files.")
                if entry.is_symlink() and not path.resolve().is_relative_to(inside):
                    raise BundleError(f"{path} must lie in the bundle. It is a link to {path.resolve()}.")
                if entry.is_dir():
                    if not entry.is_symlink():  # A link to a folder in the bundle adds nothing.
                        pending.append(path)
                elif entry.is_file():
                    yield path.relative_to(folder).as_posix()
                else:
                    raise BundleError(f"{path} is not a regular file.")


def _files(
    folder: pathlib.Path, facts: dict[str, Any], path: pathlib.Path, listed: set[str]
) -> dict[str, pathlib.Path]:
    """Existing files by role; each must lie inside the folder."""
    files = {}
    for role, name in _fact(facts, "files", dict, path).items():
        if not isinstance(name, str) or "\0" in name or not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{path}: the file of role {role!r} must lie in the bundle. Received: {shown(name)}")
        if os.path.normpath(name) in listed:
            files[role] = folder / name
    from_pictures = facts.get("content_from") == "pictures"
    for role in ("motion", "frames", "golden", *(("encode", "contents") if from_pictures else ())):
        if role not in files:
            raise BundleError(f"{folder} lacks the file of role {role!r} that serving needs. Export the model again.")
    return files


def _digest(folder: pathlib.Path, names: set[str]) -> str:
    """SHA-256 over all files, since a graph may read any of them; each compared with SHA256SUMS where that exists.

    Raises:
        BundleError: A file is too large, differs from its line or has none.
    """
    sums: dict[str, str] | None = None
    if "SHA256SUMS" in names:
        sums = {}
        with open_regular(folder / "SHA256SUMS", MAX_TEXT_BYTES) as file:
            for line in file.read().decode(errors="replace").splitlines():
                digest, _, name = line.partition(" ")
                sums[name.strip(" *")] = digest
    whole, left = hashlib.sha256(), MAX_BYTES
    for name in sorted(names - {"SHA256SUMS"}):
        path = folder / name
        with open_regular(path, min(MAX_FILE_BYTES, left)) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            left -= file.tell()
        if sums is not None and name not in sums:
            raise BundleError(
                f"{path} is not listed in SHA256SUMS. Take it out of the bundle, or export the model again."
            )
        if sums is not None and sums[name] != digest:
            raise BundleError(f"{path} differs from its line in SHA256SUMS: damaged or copied in part. Copy it again.")
        whole.update(f"{digest}  {name}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def read_bundle(folder: pathlib.Path | str) -> Bundle:
    """Reads and checks a bundle; no model is loaded.

    Raises:
        BundleError: It is missing, damaged, incomplete or of another format.
    """
    folder = pathlib.Path(folder)
    path = folder / "bundle.json"
    try:
        with open_regular(path, MAX_TEXT_BYTES) as file:
            facts = json.loads(file.read())
        orjson.dumps([[[facts]]])  # As `/info` will, deep in its own answer.
    except BundleError as error:
        raise BundleError(f"{folder} is not a bundle: {str(error).removeprefix(f'{folder}/')}") from error
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise BundleError(f"{path} has a number beyond 64 bits, broken Unicode or too many levels.") from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    received = facts.get("format_version") if isinstance(facts, dict) else facts
    if not isinstance(facts, dict) or received not in FORMAT_VERSIONS.values():
        raise BundleError(f"{path}: `format_version` must be 1 or 2. Received: format_version={shown(received)}")
    if "dim_z" in facts:
        raise BundleError(
            f"{folder} holds a model ({facts.get('model')}) that makes clips of one length out of one code. This "
            "server needs separate content and motion, as MoCoGAN has. Serve it with its tf_serving/ or triton/ folder."
        )
    categories = tuple(_fact(facts, "categories", list, path))
    dim_category = _number(facts, "dim_category", path)
    if not all(isinstance(c, str | int) and len(str(c)) <= MAX_NAME for c in categories):
        raise BundleError(f"{path}: `categories` must be names of at most {MAX_NAME} characters.")
    if categories and len(categories) != dim_category:
        raise BundleError(f"{path}: {len(categories)} `categories` and `dim_category` {dim_category} must agree.")
    category_to = _fact(facts, "category_to", str, path)
    if category_to not in ("motion", "image", "both"):
        raise BundleError(
            f"{path}: `category_to` must be 'motion', 'image' or 'both'. Received: category_to={shown(category_to)}"
        )
    channels = _fact(facts, "channels", int, path)
    if channels not in (1, 3):
        raise BundleError(f"{path}: `channels` must be 1 or 3. Received: channels={channels}")
    if facts.get("postprocess", POSTPROCESS) != POSTPROCESS:
        raise BundleError(f"{path}: `postprocess` must be {POSTPROCESS!r}. Received: {shown(facts['postprocess'])}")
    fps = float(_fact(facts, "fps", (int, float), path))
    if not 0 < fps <= 240:
        raise BundleError(f"{path}: `fps` must be in (0, 240]. Received: fps={fps}")
    name = _fact(facts, "name", str, path)
    if not 0 < len(name) <= MAX_NAME or any(c in name for c in "/:") or not name.isprintable():
        raise BundleError(f"{path}: `name` must be printable, without '/' and ':'. Received: name={shown(name)}")
    frame_buckets = facts.get("frame_buckets", [])
    if not isinstance(frame_buckets, list) or not all(type(n) is int and 0 < n < 2**31 for n in frame_buckets):
        raise BundleError(
            f"{path}: `frame_buckets` must be a list of numbers of frames. Received: {shown(frame_buckets)}"
        )
    if not isinstance(facts.get("provenance", {}), dict):
        raise BundleError(f"{path}: `provenance` must be an object. Received: {shown(facts['provenance'])}")
    height, width = _number(facts, "height", path), _number(facts, "width", path)
    if height * width > MAX_FRAME_PIXELS:
        raise BundleError(f"{path}: a frame has at most {MAX_FRAME_PIXELS} pixels. Received: {height} times {width}")
    content_from = facts.get("content_from", "noise")
    if content_from not in ("noise", "pictures"):
        raise BundleError(
            f"{path}: `content_from` must be 'noise' or 'pictures'. Received: content_from={shown(content_from)}"
        )
    if received != FORMAT_VERSIONS[content_from]:
        raise BundleError(f"{path}: `format_version` {received} and `content_from` '{content_from}' must agree.")
    from_pictures = content_from == "pictures"
    dim_content = _number(facts, "dim_content", path, MAX_ENCODED if from_pictures else None)
    names = set(_listing(folder))
    files = _files(folder, facts, path, names)
    digest = _digest(folder, names)
    pictures, contents = None, None
    if from_pictures:
        pictures, contents = _read_pictures(files["contents"], dim_content, (height, width, channels))
        if height != width:
            raise BundleError(f"{path}: pictures must be square. Received: {height} times {width}")
    return Bundle(
        folder=folder,
        name=name,
        version=_number(facts, "version", path),
        latents=LatentSpec(dim_content, _number(facts, "dim_motion", path), dim_category, content_from),
        category_to=category_to,
        categories=tuple(str(c) for c in categories) or tuple(str(i) for i in range(dim_category)),
        fps=fps,
        height=height,
        width=width,
        channels=channels,
        video_length=_number(facts, "video_length", path),
        frame_buckets=tuple(sorted(set(frame_buckets))),
        files=files,
        facts=facts,
        digest=digest,
        pictures=pictures,
        contents=contents,
    )
