"""Reads class, group and split off clips' names, by the layout that a folder has.

Layouts:

* `folders`: clips lie directly in the folder (no classes) or in one folder per class, in either case perhaps below
  `train`, `val` and `test`;
* `ucf101`: `Class/v_Class_g01_c01.avi`. Clips with equal `g` are cut from one video and stay together. The published
  split files are used where they are found;
* `weizmann`: `person_action.avi`. Persons stay together;
* `mug`: `subject/expression/take000/*.jpg`. Subjects stay together;
* `taichi_hd`: whole videos called `VIDEO_ID.mp4`, and a csv that says which parts and boxes of them are clips.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mocogan_tf.data.sources.readers import Box, ClipSource

LAYOUTS = ("folders", "ucf101", "weizmann", "mug", "taichi_hd")
MUG_EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"} | {
    "test": "test",
    "testing": "test",
}
_UCF_NAME = re.compile(r"v_(?P<action>\w+?)_g(?P<group>\d+)_c\d+\.\w+$")
_WEIZMANN_NAME = re.compile(r"(?P<person>[a-z]+)_(?P<action>[a-z]+\d?)\.\w+$")
_WEIZMANN_ACTIONS = {"bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2"}
_TAICHI_COLUMNS = {"video_id", "start", "end", "bbox", "fps", "width", "height", "partition"}


class Rejected(NamedTuple):
    """A path below the source, and why it is no clip."""

    name: str
    reason: str


@dataclasses.dataclass
class Found:
    """The clips of a source sorted by name, their classes in label order, and everything else that lies there."""

    clips: list[ClipSource]
    rejected: list[Rejected]
    categories: tuple[str, ...] = ()
    layout: str = "folders"


@dataclasses.dataclass(frozen=True)
class LayoutOptions:
    """What a person says about a source beyond its name.

    Args:
        layout: One of `LAYOUTS`, or `auto`, which recognises it.
        array_axes: Axes of array files, such as `TNHW`; empty: guessed from the shape.
        boxes: The csv of `taichi_hd`; empty: the one in the source.
        ucf_split: Which of the three published splits of UCF-101.
        group_pattern: Regular expression that is searched in clips' names; clips whose first match group is equal stay
            together in a split. If it is empty or finds nothing, the layout's own group counts.
    """

    layout: str = "auto"
    array_axes: str = ""
    boxes: str = ""
    ucf_split: int = 1
    group_pattern: str = ""


def natural_key(name: str) -> list[tuple[int, str]]:
    """Returns a sort key by which `2.png` comes before `10.png`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def recognise(files: dict[str, pathlib.Path], clips: Sequence[ClipSource]) -> str:
    """Returns the layout that the names of at least nine in ten clips follow."""

    def most(fits: Callable[[ClipSource], bool]) -> bool:
        return sum(map(fits, clips)) >= 0.9 * len(clips)

    if most(lambda clip: bool(_UCF_NAME.search(clip.name))):
        return "ucf101"
    if most(lambda clip: _weizmann_parts(clip) is not None):
        return "weizmann"
    if most(lambda clip: _mug_parts(clip) is not None):
        return "mug"
    if _taichi_csv(files):
        return "taichi_hd"
    return "folders"


def label(
    layout: str,
    files: dict[str, pathlib.Path],
    clips: list[ClipSource],
    rejected: list[Rejected],
    options: LayoutOptions,
) -> Found:
    """Returns the clips with class, group and split.

    Args:
        layout: One of `LAYOUTS`.
        files: All visible files of the source, by name.
        clips: The clips among them.
        rejected: What else lies there.
        options: What is known of the source.

    Raises:
        ValueError: Clips lie both beside and inside class folders, or a file that the layout needs is missing.
    """
    if layout == "ucf101":
        return _label_ucf101(files, clips, rejected, options)
    if layout == "weizmann":
        return _label_by(_weizmann_parts, "person_action", clips, rejected)
    if layout == "mug":
        return _label_by(_mug_parts, "subject/expression/take", clips, rejected)
    if layout == "taichi_hd":
        return _label_taichi_hd(files, clips, rejected, options)
    return _label_folders(clips, rejected)


def _label_folders(clips: list[ClipSource], rejected: list[Rejected]) -> Found:
    tops = {clip.name.split("/")[0] for clip in clips}
    has_splits = all(top.lower() in _SPLITS for top in tops)
    flat: list[ClipSource] = []
    classes: list[ClipSource] = []
    for clip in clips:
        first, *rest = clip.name.split("/")
        split = _SPLITS[first.lower()] if has_splits else ""
        parts = rest if has_splits else [first, *rest]
        depth = 2 if clip.kind == "array" else 1  # An array file is a folder of clips, but not a class.
        labelled = clip.category or (parts[0] if len(parts) > depth else "")
        (classes if labelled else flat).append(dataclasses.replace(clip, category=labelled, split=split))
    if flat and classes:
        raise ValueError(
            f"There are clips outside of class folders ({flat[0].name}) and in class folders ({classes[0].name}). "
            "Move the former into class folders, or away."
        )
    categories = sorted({clip.category for clip in classes}, key=natural_key)
    return Found(flat or classes, rejected, tuple(categories))


def _label_ucf101(
    files: dict[str, pathlib.Path], clips: list[ClipSource], rejected: list[Rejected], options: LayoutOptions
) -> Found:
    lists = {name.split("/")[-1]: name for name in files if re.search(r"(list0\d|classInd)\.txt$", name)}
    splits = {
        line.split()[0].split("/")[-1].casefold(): split
        for split in ("train", "test")
        if (path := lists.get(f"{split}list0{options.ucf_split}.txt"))
        for line in files[path].read_text().splitlines()
        if line.strip()
    }
    indexed = (
        [words[1] for line in files[lists["classInd.txt"]].read_text().splitlines() if len(words := line.split()) > 1]
        if "classInd.txt" in lists
        else []
    )
    # One class is spelled both HandstandPushups and HandStandPushups, so case does not count.
    spelled = {name.casefold(): name for name in sorted(clip.name.split("/")[0] for clip in clips if "/" in clip.name)}
    spelled |= {name.casefold(): name for name in indexed}
    rejected = [row for row in rejected if row.name not in lists.values()]
    labelled = []
    for clip in clips:
        match = _UCF_NAME.search(clip.name)
        split = splits.get(clip.name.split("/")[-1].casefold(), "")
        if not match:
            rejected.append(Rejected(clip.name, "its name is not of the form v_Class_g01_c01"))
        elif splits and not split:
            rejected.append(
                Rejected(clip.name, f"in neither trainlist0{options.ucf_split} nor testlist0{options.ucf_split}")
            )
        else:
            action = match["action"].casefold()
            category = spelled.get(action, match["action"])
            labelled.append(
                dataclasses.replace(clip, category=category, split=split, group=f"{category}_g{match['group']}")
            )
    present = {clip.category for clip in labelled}
    categories = [name for name in indexed if name in present] + sorted(present - set(indexed))
    return Found(labelled, rejected, tuple(categories))


def _weizmann_parts(clip: ClipSource) -> tuple[str, str] | None:
    match = _WEIZMANN_NAME.search(clip.name.split("/")[-1].lower())
    if not match:
        return None
    action = match["action"]
    # lena_walk1 and lena_walk2 are one action filmed twice, but wave1 and wave2 are two actions.
    action = action if action in _WEIZMANN_ACTIONS else action.rstrip("12")
    return (match["person"], action) if action in _WEIZMANN_ACTIONS else None


def _mug_parts(clip: ClipSource) -> tuple[str, str] | None:
    parts = clip.name.lower().split("/")
    return (parts[-3], parts[-2]) if len(parts) >= 3 and parts[-2] in MUG_EXPRESSIONS else None


def _label_by(
    parts_of: Callable[[ClipSource], tuple[str, str] | None],
    form: str,
    clips: list[ClipSource],
    rejected: list[Rejected],
) -> Found:
    """Labels clips by a function that returns (group, category), or None if the name does not have the form."""
    labelled, rejected = [], list(rejected)
    for clip in clips:
        parts = parts_of(clip)
        if parts is None:
            rejected.append(Rejected(clip.name, f"its name is not of the form {form}"))
        else:
            labelled.append(dataclasses.replace(clip, group=parts[0], category=parts[1]))
    return Found(labelled, rejected, tuple(sorted({clip.category for clip in labelled})))


def _taichi_csv(files: dict[str, pathlib.Path]) -> pathlib.Path | None:
    for name, path in files.items():
        try:
            with open(path, newline="") as file:
                if name.endswith(".csv") and _TAICHI_COLUMNS <= set(next(csv.reader(file), [])):
                    return path
        except (OSError, UnicodeDecodeError):
            continue
    return None


def _label_taichi_hd(
    files: dict[str, pathlib.Path], clips: list[ClipSource], rejected: list[Rejected], options: LayoutOptions
) -> Found:
    path = pathlib.Path(options.boxes) if options.boxes else _taichi_csv(files)
    if path is None:
        columns = ", ".join(sorted(_TAICHI_COLUMNS))
        raise ValueError(f"There is no csv with the columns {columns}. Name it with --boxes.")
    videos = {pathlib.PurePosixPath(clip.name).stem: clip for clip in clips}
    named: set[str] = set()
    labelled, rejected = [], [row for row in rejected if files.get(row.name) != path]
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"Cannot read {path}: {error}") from error
    for row in rows:
        name = f"{row.get('video_id')}#{row.get('start')}#{row.get('end')}"
        try:
            video_id, fps = row["video_id"].split("#")[0], float(row["fps"])
            left, top, right, bottom = (float(side) for side in row["bbox"].split("-"))
            span = (float(row["start"]) / fps, float(row["end"]) / fps)
            box = Box(left, top, right, bottom, float(row["width"]), float(row["height"]))
            split = _SPLITS.get(row["partition"].lower(), "")
        except (KeyError, ValueError, AttributeError, TypeError, ZeroDivisionError) as error:
            rejected.append(Rejected(name, f"a row of {path.name} that cannot be read ({error})"))
            continue
        named.add(video_id)
        if video_id in videos:
            clip = dataclasses.replace(videos[video_id], name=name, group=video_id, split=split, span=span, box=box)
            labelled.append(clip)
        else:
            rejected.append(Rejected(name, f"there is no video {video_id}"))
    rejected += [Rejected(clip.name, f"not in {path.name}") for stem, clip in videos.items() if stem not in named]
    return Found(labelled, rejected)
