"""Bundles: folders that an export writes, and all that serving knows about a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.latents import LatentSpec
from mocogan_tf.video import POSTPROCESS
from serving.runtime.errors import BundleError

# The format that this server reads; which one an export writes is its own affair.
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The facts of `bundle.json` that serving uses, checked; `facts` is the whole document.

    Args:
        folder: The bundle.
        name, version: How clients address it.
        latents: Sizes of the generator's inputs.
        category_to: Which network reads the category: `motion` or `image`.
        categories: Names, in order; empty if the model has none.
        fps: Frames per second of the training clips, the speed at which a clip looks right.
        height, width, channels: Of one frame.
        video_length: Frames of a training clip; the default length.
        frame_buckets: Clip lengths that the export was checked with.
        digest: SHA-256 of `bundle.json` and the files that serving runs.
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

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)

    def output_shapes(self, num_videos: int | None, num_frames: int | None) -> dict[str, tuple[int | None, ...]]:
        """Returns the shape of every output by name, `None` where the size is free."""
        return {
            "video": (num_videos, num_frames, *self.frame_shape),
            "motion_state": (num_videos, self.latents.dim_motion),
        }

    def golden(self) -> dict[str, NDArray[Any]]:
        """Returns the arrays of `golden.npz`: `seed`, the inputs by name, `video` [B, T, H, W, C], `motion_state`
        [B, dim_motion].

        Raises:
            BundleError: It is damaged, or an array is missing or of another shape than the manifest says.
        """
        path = self.files["golden"]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                golden = {name: np.asarray(arrays[name]) for name in arrays.files}
        except Exception as error:  # A damaged zip file raises any of half a dozen kinds of error.
            raise BundleError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
        num_videos, num_frames = (*golden.get("motion_noise", np.empty(1)).shape, 1, 1)[:2]
        inputs = self.latents.shapes(num_videos, num_frames)
        shapes = {"seed": (), "motion_noise": inputs["motion_noise"], **inputs}
        shapes |= self.output_shapes(num_videos, num_frames)
        for name, shape in shapes.items():
            if name not in golden:
                raise BundleError(f"{path} lacks `{name}`. Export the model again.")
            array, kind = golden[name], np.integer if name == "seed" else np.floating
            if array.shape != shape or not np.issubdtype(array.dtype, kind):
                raise BundleError(
                    f"{path}: `{name}` must be {kind.__name__} of shape {shape}. Received: {array.dtype} of shape "
                    f"{array.shape}. Export the model again."
                )
        return golden


def is_bundle(folder: pathlib.Path) -> bool:
    """Whether the folder looks like a bundle at all."""
    return (folder / "bundle.json").is_file()


def _fact(facts: dict[str, Any], key: str, kind: type | tuple[type, ...], path: pathlib.Path) -> Any:
    value = facts.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        raise BundleError(f"{path}: `{key}` must be {expected}. Received: {key}={value!r}. Export the model again.")
    return value


def _positive(facts: dict[str, Any], key: str, path: pathlib.Path, least: int = 1) -> int:
    value: int = _fact(facts, key, int, path)
    if value < least:
        raise BundleError(f"{path}: `{key}` must be at least {least}. Received: {key}={value}. Export the model again.")
    return value


def _files(folder: pathlib.Path, facts: dict[str, Any], path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Existing files by role; each must lie inside the folder."""
    files = {}
    for role, name in _fact(facts, "files", dict, path).items():
        if not isinstance(name, str) or not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{path}: the file of role {role!r} must lie in the bundle. Received: {name!r}")
        if (folder / name).exists():
            files[role] = folder / name
    for role in ("motion", "frames", "golden"):
        if role not in files:
            raise BundleError(f"{folder} lacks the file of role {role!r} that serving needs. Export the model again.")
    return files


def _digest(folder: pathlib.Path, paths: list[pathlib.Path]) -> str:
    """SHA-256 over the files, each compared with SHA256SUMS where that exists."""
    listed = {}
    if (folder / "SHA256SUMS").is_file():
        for line in (folder / "SHA256SUMS").read_text(errors="replace").splitlines():
            digest, _, name = line.partition(" ")
            listed[name.strip(" *")] = digest
    whole = hashlib.sha256()
    for path in sorted(paths):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if listed.get(path.relative_to(folder).as_posix(), digest) != digest:
            raise BundleError(f"{path} differs from its line in SHA256SUMS: damaged or copied in part. Copy it again.")
        whole.update(digest.encode())
    return whole.hexdigest()


def read_bundle(folder: pathlib.Path | str) -> Bundle:
    """Reads and checks a bundle; no model is loaded.

    Raises:
        BundleError: It is missing, damaged, incomplete or of another format.
    """
    folder = pathlib.Path(folder)
    path = folder / "bundle.json"
    try:
        facts = json.loads(path.read_text())
    except OSError as error:
        raise BundleError(f"{folder} is not a bundle: {path.name} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    if not isinstance(facts, dict) or facts.get("format_version") != FORMAT_VERSION:
        received = facts.get("format_version") if isinstance(facts, dict) else facts
        raise BundleError(f"{path}: `format_version` must be {FORMAT_VERSION}. Received: format_version={received!r}")
    if "dim_z" in facts:
        raise BundleError(
            f"{folder} holds a model ({facts.get('model')}) that makes clips of one length out of one code. This "
            "server needs separate content and motion, as MoCoGAN has. Serve it with its tf_serving/ or triton/ folder."
        )
    categories = tuple(_fact(facts, "categories", list, path))
    dim_category = _positive(facts, "dim_category", path, least=0)
    if categories and len(categories) != dim_category:
        raise BundleError(f"{path}: {len(categories)} `categories` and `dim_category` {dim_category} must agree.")
    category_to = _fact(facts, "category_to", str, path)
    if category_to not in ("motion", "image"):
        raise BundleError(f"{path}: `category_to` must be 'motion' or 'image'. Received: category_to={category_to!r}")
    channels = _positive(facts, "channels", path)
    if channels not in (1, 3):
        raise BundleError(f"{path}: `channels` must be 1 or 3. Received: channels={channels}")
    if facts.get("postprocess", POSTPROCESS) != POSTPROCESS:
        raise BundleError(f"{path}: `postprocess` must be {POSTPROCESS!r}. Received: {facts['postprocess']!r}")
    fps = float(_fact(facts, "fps", (int, float), path))
    if not 0 < fps <= 240:
        raise BundleError(f"{path}: `fps` must be in (0, 240]. Received: fps={fps}")
    name = _fact(facts, "name", str, path)
    if not name or any(c in name for c in "/:") or not name.isprintable():
        raise BundleError(f"{path}: `name` must be printable, without '/' and ':'. Received: name={name!r}")
    frame_buckets = facts.get("frame_buckets", [])
    if not isinstance(frame_buckets, list) or not all(type(n) is int and n > 0 for n in frame_buckets):
        raise BundleError(f"{path}: `frame_buckets` must be a list of numbers of frames. Received: {frame_buckets!r}")
    files = _files(folder, facts, path)
    run = [path, *(files[role] for role in ("motion", "frames", "frames_fp16", "golden") if role in files)]
    return Bundle(
        folder=folder,
        name=name,
        version=_positive(facts, "version", path),
        latents=LatentSpec(_positive(facts, "dim_content", path), _positive(facts, "dim_motion", path), dim_category),
        category_to=category_to,
        categories=tuple(str(c) for c in categories) or tuple(str(i) for i in range(dim_category)),
        fps=fps,
        height=_positive(facts, "height", path),
        width=_positive(facts, "width", path),
        channels=channels,
        video_length=_positive(facts, "video_length", path),
        frame_buckets=tuple(sorted(set(frame_buckets))),
        files=files,
        facts=facts,
        digest=_digest(folder, run),
    )
