"""The contract of a bundle: the sizes, names, shapes and ranges that `bundle.json` and every .onnx file carry.

This module needs neither TensorFlow nor ONNX. docs/bundle.md explains each field.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

from mocogan_tf.latents import CodeSpec, LatentSpec
from mocogan_tf.video import POSTPROCESS

# By what content comes from. A program that only knows noise must refuse the other and not feed it noise.
FORMAT_VERSIONS = {"noise": 1, "pictures": 2}
LAYOUT = "BTHWC"
VALUE_RANGE = (-1.0, 1.0)
BATCH_SIZES = (1, 2, 4, 8)  # Clips in the batches that servers make; warm-up requests cover each of these sizes.

# Fields of models with separate content and motion, and fields of models with one code for both.
_SPLIT = ("dim_content", "dim_motion", "category_to")
_CODE = ("dim_z", "z_distribution")

# The files of a bundle by their role. `onnx_uint8` is written on request; `motion`, `frames` and `frames_fp16` exist
# only where a model has these parts, `encode` and `contents` only where content comes from pictures.
FILES = {
    "onnx": "model.onnx",
    "onnx_fp16": "model.fp16.onnx",
    "onnx_uint8": "model.uint8.onnx",
    "motion": "motion.onnx",
    "frames": "frames.onnx",
    "frames_fp16": "frames.fp16.onnx",
    "encode": "encode.onnx",
    "contents": "contents.npz",
    "saved_model": "saved_model",
    "golden": "golden.npz",
}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output. Free sizes are the strings "batch" and "time"."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    distribution: str = ""  # What an input is drawn from.

    def to_dict(self) -> dict[str, Any]:
        described = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        return {**described, "distribution": self.distribution} if self.distribution else described


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What a client must know about a bundle's model.

    Args:
        name: Name to serve the model under: lower-case letters, digits, `-`, `_` and `.`.
        version: Rises by one with every export to the same place; also names the SavedModel's folder.
        model: Architecture.
        dim_content, dim_category, dim_motion, category_to: As in `Config`.
        dim_z: Size of the code of a model that makes clips of one length from one code (VGAN, TGAN); 0 for others.
        z_distribution: What that code is drawn from, as in `CodeSpec`.
        content_from: As in `LatentSpec`: "noise", or "pictures". Then `dim_content` is the size of an encoded picture.
        categories: Name of each category, in order; empty if there are none or they have no names.
        fps: Frames per second at which a clip plays at the speed of the training clips.
        image_size: Height and width of a frame.
        channels: Colour channels.
        video_length: Frames of the clips that the model was trained on.
        frame_buckets: Clip lengths that get signatures of their own and that a server should be warm for.

    Raises:
        ValueError: The name, the lengths or the number of category names is unusable.
    """

    name: str
    version: int
    model: str
    dim_category: int
    categories: tuple[str, ...]
    fps: float
    image_size: int
    channels: int
    video_length: int
    frame_buckets: tuple[int, ...]
    dim_content: int = 0
    dim_motion: int = 0
    category_to: str = "motion"
    dim_z: int = 0
    z_distribution: str = ""
    content_from: str = "noise"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.name):
            raise ValueError(
                "The bundle's name must be lower-case letters, digits, '.', '_' and '-', since it becomes part of "
                f"URLs. Received: name={self.name!r}"
            )
        if self.content_from not in ("noise", "pictures"):
            raise ValueError(f"`content_from` must be noise or pictures. Received: content_from={self.content_from!r}")
        if not self.frame_buckets or min(self.frame_buckets) < 1:
            raise ValueError(f"`frame_buckets` must be lengths of at least 1. Received: {list(self.frame_buckets)}")
        if self.dim_z and self.frame_buckets != (self.video_length,):
            raise ValueError(
                f"`frame_buckets` must be {self.video_length}, the only length of this model's clips. "
                f"Received: {list(self.frame_buckets)}"
            )
        if self.categories and len(self.categories) != self.dim_category:
            raise ValueError(
                f"There must be as many category names as categories ({self.dim_category}). "
                f"Received: {', '.join(self.categories)}"
            )

    @property
    def latents(self) -> LatentSpec | CodeSpec:
        """Sizes of the latents, for `sample_latents`."""
        if self.dim_z:
            return CodeSpec(num_frames=self.video_length, dim_z=self.dim_z, distribution=self.z_distribution)
        return LatentSpec(self.dim_content, self.dim_motion, self.dim_category, self.content_from)

    @property
    def length(self) -> int | str:
        """Frames of a clip, "time" if the length is free."""
        return self.video_length if self.dim_z else "time"

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """The model's inputs by name."""
        distributions = self.latents.distributions
        shapes = {
            "z": ("batch", self.dim_z),
            "content": ("batch", self.dim_content),
            "category": ("batch", self.dim_category),
            "motion_init": ("batch", self.dim_motion),
            "motion_noise": ("batch", "time", self.dim_motion),
        }
        return {
            name: TensorSpec(name, shape, distribution=distributions[name])
            for name, shape in shapes.items()
            if name in distributions
        }

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        """The model's outputs by name."""
        state = {} if self.dim_z else {"motion_state": self.motion_state}
        return {"video": self.video("video", "float32"), **state}

    @property
    def image(self) -> TensorSpec:
        """A picture in [-1, 1], which encode.onnx takes where content comes from pictures."""
        return TensorSpec("image", ("batch", self.image_size, self.image_size, self.channels))

    @property
    def content(self) -> TensorSpec:
        """An encoded picture, as encode.onnx gives it and the model takes it."""
        return TensorSpec("content", ("batch", self.dim_content))

    @property
    def motion(self) -> TensorSpec:
        """The motion codes of every frame, which motion.onnx gives and frames.onnx takes."""
        return TensorSpec("motion", ("batch", "time", self.dim_motion))

    @property
    def motion_state(self) -> TensorSpec:
        """Where the motion stands, in the units of `motion_init`. Given as `motion_init`, it continues the clip."""
        return TensorSpec("motion_state", ("batch", self.dim_motion))

    def video(self, name: str, dtype: str) -> TensorSpec:
        """Describes a clip under a name and in a type."""
        return TensorSpec(name, ("batch", self.length, self.image_size, self.image_size, self.channels), dtype)

    def to_dict(self, files: dict[str, str], provenance: dict[str, Any]) -> dict[str, Any]:
        """Returns the content of bundle.json."""
        absent = _absent(self.dim_z > 0, self.content_from == "pictures")
        sizes = {field.name: getattr(self, field.name) for field in _fields() if field.name not in absent}
        sizes |= {"categories": list(self.categories), "frame_buckets": list(self.frame_buckets)}
        return {
            "format_version": FORMAT_VERSIONS[self.content_from],
            **sizes,
            "height": self.image_size,
            "width": self.image_size,
            "value_range": list(VALUE_RANGE),
            "layout": LAYOUT,
            "postprocess": POSTPROCESS,
            "files": files,
            "inputs": [spec.to_dict() for spec in self.inputs.values()],
            "outputs": [spec.to_dict() for spec in self.outputs.values()],
            "provenance": provenance,
        }

    def metadata(self) -> dict[str, str]:
        """Returns the contract as flat strings, for the `metadata_props` of an .onnx file.

        Numbers and lists are JSON. Inputs and outputs differ between files, so each graph describes its own.
        """
        described = self.to_dict(files={}, provenance={})
        for key in ("files", "inputs", "outputs", "provenance"):
            del described[key]
        noise = {name: spec.distribution for name, spec in self.inputs.items()}
        described |= {"framework": "mocogan-tf", "distributions": noise}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()}


def _fields() -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(Contract)


def _absent(of_one_code: bool, from_pictures: bool) -> tuple[str, ...]:
    """Names of the fields that bundle.json does not have."""
    return (*(_SPLIT if of_one_code else _CODE), *(() if from_pictures else ("content_from",)))


def read_contract(bundle: pathlib.Path) -> tuple[Contract, dict[str, Any]]:
    """Reads the contract of a bundle.

    Returns:
        (Contract, the whole of bundle.json).

    Raises:
        ValueError: There is no bundle, it has another format, or its fields do not fit together.
    """
    try:
        described = json.loads((bundle / "bundle.json").read_text())
        found = described["format_version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{bundle} is no bundle: cannot read bundle.json ({error}).") from error
    if found not in FORMAT_VERSIONS.values():
        raise ValueError(
            f"{bundle} has bundle format {found}; this version reads formats 1 and 2. Export the run again."
        )
    try:
        absent = _absent("dim_z" in described, "content_from" in described)
        sizes = {field.name: described[field.name] for field in _fields() if field.name not in absent}
        sizes |= {key: tuple(sizes[key]) for key in ("categories", "frame_buckets")}
        contract = Contract(**sizes)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{bundle}/bundle.json does not hold a contract: {error!r}") from error
    foreign = [name for role, name in described.get("files", {}).items() if FILES.get(role) != name]
    if foreign:
        raise ValueError(f"{bundle}/bundle.json lists files of unknown roles or in other places: {', '.join(foreign)}.")
    expected = contract.to_dict(described.get("files", {}), described.get("provenance", {}))
    wrong = sorted(key for key in expected if described.get(key) != expected[key])
    if wrong:
        raise ValueError(f"{bundle}/bundle.json contradicts itself in: {', '.join(wrong)}.")
    return contract, described
