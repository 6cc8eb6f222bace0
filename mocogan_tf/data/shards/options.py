"""The options of `prepare.py`. TensorFlow is not imported here."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from mocogan_tf import IMAGE_SIZES, dataclass_flags
from mocogan_tf.data.sources import fitting, labels

ENCODINGS = ("png", "raw", "webp", "jpeg")


def _opt(default: Any, help: str, choices: tuple[Any, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What `prepare` writes, and whether it may replace what is there. The flags of `prepare.py` are these fields.

    Raises:
        ValueError: A field is out of its range.
    """

    format: str = _opt("auto", "Layout of the source; `auto` recognises it.", ("auto", *labels.LAYOUTS))
    image_size: int = _opt(64, "Height and width of the frames: 32, 64 or 128.", IMAGE_SIZES)
    channels: int = _opt(3, "Colour channels: 3, or 1 for grey.", (1, 3))
    fit: str = _opt("centre_crop", "How frames become square.", fitting.FITS)
    resize_to: str = _opt("", "WIDTHxHEIGHT before the crop of --fit=resize_crop. Empty: 4:3, as 85x64.")
    boxes: str = _opt("", "The csv with the boxes of --format=taichi_hd. Empty: the one in the source.")
    array_axes: str = _opt("", "Axes of array files, such as TNHW or NTHWC. Empty: guessed from the shape.")
    fps: float = _opt(0.0, "Frame rate before --every_nth, by repeating or leaving out frames. 0: the clips' own.")
    source_fps: float = _opt(0.0, "Frame rate of strips, frames and arrays, which do not say theirs. 0: unknown.")
    every_nth: int = _opt(1, "Keep one frame in this many. Training has an --every_nth of its own.")
    min_frames: int = _opt(31, "Leave out shorter clips. Training on 16 frames at stride 2 needs 31.")
    max_frames: int = _opt(0, "Cut longer clips after this many frames. 0: never.")
    classes: str = _opt("", "Names of the classes to keep, separated by commas; their order is the label. Empty: all.")
    class_map: str = _opt("", "OLD=NEW,... or a JSON file of such pairs: renames and merges classes, before --classes.")
    split: str = _opt("", "Divides the clips, as train:0.8,val:0.1,test:0.1; groups stay together. Empty: as they lie.")
    group_pattern: str = _opt(
        "", "Regular expression on clips' names, whose first (...) is the group. Empty: the layout's groups."
    )
    ucf_split: int = _opt(1, "Published split of UCF-101 to use.", (1, 2, 3))
    mirror: str = _opt("", "Classes to which mirrored copies are added, separated by commas, or `all`.")
    encoding: str = _opt("png", "How frames are stored; png, raw and webp are lossless.", ENCODINGS)
    quality: int = _opt(95, "Quality of jpeg, 1 to 100.")
    clips_per_shard: int = _opt(64, "Clips per shard, about.")
    seed: int = _opt(0, "Seed of --split.")
    licence: str = _opt("", "A note on the licence of the clips, kept in the manifest.")
    overwrite: bool = _opt(False, "Replace a finished folder that was prepared with other options.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            if choices and value not in choices:
                allowed = ", ".join(map(str, choices))
                raise ValueError(f"`{field.name}` must be one of {allowed}. Received: {field.name}={value}")
        for name, low in {"every_nth": 1, "min_frames": 1, "max_frames": 0, "clips_per_shard": 1}.items():
            if getattr(self, name) < low:
                raise ValueError(f"`{name}` must be at least {low}. Received: {name}={getattr(self, name)}")
        for name in ("fps", "source_fps"):
            if not 0 <= getattr(self, name) < math.inf:  # So that NaN is refused too.
                raise ValueError(f"`{name}` must be 0 or a positive number. Received: {name}={getattr(self, name)}")
        if self.max_frames and self.max_frames < self.min_frames:
            raise ValueError(
                f"`max_frames` must be at least `min_frames`. Received: max_frames={self.max_frames}, "
                f"min_frames={self.min_frames}"
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(f"`quality` must be in 1..100. Received: quality={self.quality}")
        self.fit_options()
        parse_split(self.split)
        try:
            groups = re.compile(self.group_pattern).groups
        except re.error as error:
            raise ValueError(f"`group_pattern` is no regular expression ({error}): {self.group_pattern}") from error
        if self.group_pattern and not groups:
            raise ValueError(f"`group_pattern` needs a group in parentheses. Received: {self.group_pattern}")

    def deciding(self) -> dict[str, Any]:
        """Returns the fields that decide what is written, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "overwrite"}

    def layout_options(self) -> labels.LayoutOptions:
        """Returns what is known of the source."""
        return labels.LayoutOptions(self.format, self.array_axes, self.boxes, self.ucf_split, self.group_pattern)

    def fit_options(self) -> fitting.FitOptions:
        """Returns what is done to the frames of each clip."""
        match = re.fullmatch(r"(\d+)x(\d+)", self.resize_to or "0x0")
        if not match:
            raise ValueError(f"`resize_to` must be WIDTHxHEIGHT, as 85x64. Received: resize_to={self.resize_to}")
        return fitting.FitOptions(
            image_size=self.image_size,
            channels=self.channels,
            fit=self.fit,
            resize_to=(int(match[1]), int(match[2])),
            fps=self.fps,
            source_fps=self.source_fps,
            every_nth=self.every_nth,
            max_frames=self.max_frames,
        )


def parse_split(split: str) -> dict[str, float]:
    """Reads fractions by name from text such as `train:0.8,test:0.2`.

    Raises:
        ValueError: It has another form, or the fractions do not sum to 1.
    """
    try:
        fractions = {name.strip(): float(part) for name, part in (item.split(":") for item in split.split(",") if item)}
    except ValueError as error:
        raise ValueError(f"`split` must be NAME:FRACTION,... as train:0.8,test:0.2. Received: {split}") from error
    if fractions and (abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values()) <= 0):
        raise ValueError(f"The fractions of `split` must be positive and sum to 1. Received: {split}")
    return fractions


def define_flags() -> None:
    """Defines an absl flag per field."""
    dataclass_flags.define(PrepareOptions)


def from_flags() -> PrepareOptions:
    """Returns what the flags say.

    Raises:
        ValueError: A flag is out of its range.
    """
    return PrepareOptions(**dataclass_flags.given(PrepareOptions))
