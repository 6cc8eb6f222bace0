"""Which clips a folder holds: walks it, tells clips from other files, and reads class, group and split off the paths.

Layouts:

* `folders`: clips directly in the folder (no classes) or in one folder per class, both also below `train`, `val` and
  `test`;
* `ucf101`: `Class/v_Class_g01_c01.avi`; clips with equal `g` are cut from one video and stay together; the published
  split files are used where they are found;
* `weizmann`: `person_action.avi`; persons stay together;
* `mug`: `subject/expression/take000/*.jpg`; subjects stay together;
* `taichi_hd`: whole videos called `VIDEO_ID.mp4`, and a csv that says which parts and boxes of them are clips.

A single class is none: its clips are unlabelled.

The images of a folder are strips, one clip each, or the frames of one clip, as most of them look; images beside each
other at the top must be strips.

Nothing is left out silently: what is no clip is returned with the reason. Hidden files are not looked at.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from absl import logging
from PIL import Image

from mocogan_tf.data.sources import archives, arrays, readers
from mocogan_tf.data.sources.readers import Box, ClipSource
from mocogan_tf.data.sources.walking import natural_key as natural_key
from mocogan_tf.data.sources.walking import walk, why, without_wrapper

# An image at least this many times longer than wide is a strip; no video frame is, and shorter strips cannot train.
STRIP_RATIO = 4
MANIFEST, STATE = "manifest.json", ".state"  # In a folder that prepare.py has finished, and has begun.
LAYOUTS = ("auto", "folders", "ucf101", "weizmann", "mug", "taichi_hd")
MUG_EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"} | {
    "test": "test",
    "testing": "test",
}
_UCF_NAME = re.compile(r"v_(?P<action>\w+?)_g(?P<group>\d+)_c\d+\.\w+$")
_WEIZMANN_NAME = re.compile(r"(?P<person>[a-z]+)_(?P<action>[a-z]+\d?)\.\w+$")
_WEIZMANN_ACTIONS = {"bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2"}
_PLAIN_TEXT = (".csv", ".json", ".md", ".txt")  # Lists and remarks that lie beside clips.
_TAICHI_COLUMNS = {"video_id", "start", "end", "bbox", "fps", "width", "height", "partition"}


class Rejected(NamedTuple):
    """A path below the source folder and why it is no clip."""

    name: str
    reason: str


@dataclasses.dataclass
class Found:
    """The clips of a folder, sorted by name, its classes in the order of their labels, and everything else in it."""

    clips: list[ClipSource]
    rejected: list[Rejected]
    categories: tuple[str, ...] = ()
    layout: str = "folders"


@dataclasses.dataclass(frozen=True)
class LayoutOptions:
    """What a person says about a folder beyond its name.

    Args:
        layout: One of `LAYOUTS`; `auto`: by looking.
        array_axes: Axes of array files, such as `TNHW`; empty: by looking.
        boxes: The csv of `taichi_hd`; empty: the one in the folder.
        ucf_split: Which of the three published splits of UCF-101.
        group_pattern: Regular expression on names of clips; its first group is what stays together in a split. Where it
            is empty or finds none, the layout's own group does.
    """

    layout: str = "auto"
    array_axes: str = ""
    boxes: str = ""
    ucf_split: int = 1
    group_pattern: str = ""


def find_clips(data_dir: str | os.PathLike[str]) -> Found:
    """Finds the clips of a folder for training on it as it is.

    What else is in it is reported in warnings, one per reason, with the number of files and the name of one. Text files
    (.csv, .json, .md, .txt) pass unmentioned, as do hidden files.

    Raises:
        ValueError: As `find`.
    """
    found = find(pathlib.Path(data_dir))
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in found.rejected:
        if reason != _NO_CLIP[""] or pathlib.PurePosixPath(name).suffix.lower() not in _PLAIN_TEXT:
            names[reason].append(name)
    for reason, alike in names.items():
        more = f", and {len(alike) - 1} more" if len(alike) > 1 else ""
        logging.warning("%s: left out, %s: %s%s.", data_dir, alike[0], reason, more)
    return found


def choose_split(splits: set[str], wanted: str, data_dir: str) -> str:
    """Returns `wanted`, or "" for a set that is not divided.

    Raises:
        ValueError: The set is divided and has no such part.
    """
    if splits == {""}:
        return ""
    if wanted not in splits:
        raise ValueError(f"{data_dir} has no clips for {wanted}; it is divided into {', '.join(sorted(splits))}.")
    return wanted


def find(source: pathlib.Path, options: LayoutOptions | None = None, unpack_into: pathlib.Path | None = None) -> Found:
    """Finds the clips of a folder, an archive or an array file.

    If all clips are of one class, there is nothing to tell apart: `categories` is (), and so is each clip's "".

    Args:
        source: Where to look.
        options: What is known of it.
        unpack_into: An empty folder for the content of archives, which must stay while the clips are read. Without
            it archives are left out.

    Raises:
        ValueError: The source is missing, or holds no clip, or clips both beside and inside class folders,
            or the frames of one video.
    """
    options = options or LayoutOptions()
    rejected: list[Rejected] = []
    files = _files_of(source, rejected, unpack_into)
    if not files and not rejected:
        raise ValueError(f"The data folder {source} is empty. It must hold clips, or one folder of clips per class.")
    clips = list(_clips_among(files, options, rejected))
    pictures = [row.name for row in rejected if row.reason == _SINGLE_PICTURE]
    if not clips and pictures:
        raise ValueError(
            f"The data folder {source} holds {len(pictures)} pictures ({pictures[0]}, ...) and no clip. If they are "
            f"the frames of one video, put them one level deeper, into a folder of their own in {source}."
        )
    if not clips:
        raise ValueError(
            f"The data folder {source} holds no readable clip: no strip (an image at least {STRIP_RATIO} times longer "
            f"than wide), folder of frames, animation, video or array, neither directly nor in class folders. "
            f"{_first(rejected)}".rstrip()
        )
    layout = recognise(files, clips) if options.layout == "auto" else options.layout
    found = _LABELLERS[layout](files, clips, rejected, options)
    if not found.clips:
        raise ValueError(
            f"None of the {len(clips)} clips in {source} fits the layout {layout}. {_first(found.rejected)}"
        )
    if options.group_pattern:
        found.clips = [_grouped(clip, options.group_pattern) for clip in found.clips]
    if len(found.categories) == 1:
        found.categories = ()
        found.clips = [dataclasses.replace(clip, category="") for clip in found.clips]
    found.clips.sort(key=lambda clip: natural_key(clip.name))
    found.rejected.sort()
    return dataclasses.replace(found, layout=layout)


def _grouped(clip: ClipSource, pattern: str) -> ClipSource:
    """Returns the clip in the group that the pattern finds in its name, or else in that of its layout."""
    match = re.search(pattern, clip.name)
    return dataclasses.replace(clip, group=(match and match.group(1)) or clip.group)


def _first(rejected: Sequence[Rejected]) -> str:
    return f"The first of {len(rejected)} left out: {rejected[0].name}: {rejected[0].reason}." if rejected else ""


def _files_of(
    source: pathlib.Path, rejected: list[Rejected], unpack_into: pathlib.Path | None
) -> dict[str, pathlib.Path]:
    """Returns every visible file of the source by its name, those in archives included."""
    if source.is_file():
        if _kind(source) != ("archive", "") or unpack_into is None:
            return {source.name: source}
        try:
            rejected += [Rejected(*pair) for pair in archives.unpack(source, unpack_into / "archive")]
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        return _walk(without_wrapper(unpack_into / "archive"), "", rejected)
    if not source.is_dir():
        raise ValueError(
            f"The data folder {source} does not exist. Give a folder of clips, or of one folder of clips per class."
        )
    files = _walk(source, "", rejected)
    if unpack_into is None:
        return files
    for name, path in list(files.items()):
        if _kind(path) != ("archive", ""):
            continue
        del files[name]
        folder = pathlib.PurePosixPath(name).with_suffix("").as_posix().removesuffix(".tar")
        if any(other.startswith(f"{folder}/") for other in files):
            rejected.append(Rejected(name, "a folder of its name lies beside it: unpacked already"))
            continue
        try:
            target = (
                unpack_into / f"{len(list(unpack_into.iterdir()))}"
            )  # A name of its own, whatever the archives' are.
            rejected += [Rejected(f"{name}/{member}", why) for member, why in archives.unpack(path, target)]
            files |= _walk(without_wrapper(target), folder, rejected)
        except ValueError as error:
            rejected.append(Rejected(name, str(error)))
    return files


def _walk(root: pathlib.Path, prefix: str, rejected: list[Rejected]) -> dict[str, pathlib.Path]:
    files, left_out = walk(root, prefix)
    rejected += [Rejected(*pair) for pair in left_out]
    return files


def _kind(path: pathlib.Path) -> tuple[str, str]:
    """Returns a file's kind ("" if it is no clip) and, if it cannot be read, why; the kind is that of its name then."""
    try:
        status = path.stat()  # Raises for a link that leads nowhere.
        if not stat.S_ISREG(status.st_mode):
            return "", "no ordinary file"
        return readers.file_kind(path), ""
    except OSError as error:
        return readers.suffix_kind(path), why(error)


def _clips_among(
    files: dict[str, pathlib.Path], options: LayoutOptions, rejected: list[Rejected]
) -> Iterator[ClipSource]:
    """Yields every clip among the files, still without class, group and split."""
    images: dict[str, dict[str, str]] = defaultdict(dict)  # By folder: names, and why they cannot be read.
    for name, path in files.items():
        kind, problem = _kind(path)
        if kind == "image":
            images[str(pathlib.PurePosixPath(name).parent)][name] = problem
        elif problem or kind in _NO_CLIP:
            rejected.append(Rejected(name, problem or _NO_CLIP[kind]))
        elif kind == "array":
            yield from _clips_in_array(path, name, options, rejected)
        else:
            yield ClipSource(str(path), name, kind, name)
    for folder, problems in images.items():
        yield from _clips_of_images(files, folder, problems, rejected)


_NO_CLIP = {
    "": "no image, animation, video or array",
    "archive": "an archive, which only prepare.py reads, and only outside of other archives",
}
_SINGLE_PICTURE = "a single picture; a clip is a strip, or a folder of frames"


def _clips_of_images(
    files: dict[str, pathlib.Path], folder: str, problems: dict[str, str], rejected: list[Rejected]
) -> Iterator[ClipSource]:
    """Yields the clips that the images of one folder are, given by name with why they cannot be read."""
    unreadable = [Rejected(name, problem) for name, problem in problems.items() if problem]
    readable = {name: files[name] for name, problem in problems.items() if not problem}
    if _are_strips(list(readable.values())):
        rejected += unreadable
        yield from (ClipSource(str(path), name, "strip", name) for name, path in readable.items())
    elif folder == ".":
        rejected += unreadable
        rejected += [Rejected(name, _SINGLE_PICTURE) for name in readable]
    elif unreadable:  # A video with a gap is not what was filmed.
        name, problem = unreadable[0]
        rejected.append(Rejected(folder, f"frame {pathlib.PurePosixPath(name).name}: {problem}"))
    else:
        paths = list(readable.values())
        yield ClipSource(str(paths[0].parent), folder, "frames", folder, files=tuple(path.name for path in paths))


def _clips_in_array(
    path: pathlib.Path, name: str, options: LayoutOptions, rejected: list[Rejected]
) -> Iterator[ClipSource]:
    try:
        places = arrays.list_array_clips(path, options.array_axes)
    except ValueError as error:
        rejected.append(Rejected(name, str(error)))
        return
    for number, (place, category) in enumerate(places):
        yield ClipSource(str(path), f"{name}/{number:06d}", "array", name, category, place=place)


def _are_strips(images: list[pathlib.Path], looked_at: int = 15) -> bool:
    """Whether most images of a folder are strips, by some of them; if none can be read, each is reported as one."""
    votes: Counter[bool] = Counter()
    for path in images[:: max(1, len(images) // looked_at)]:
        try:
            with Image.open(path) as image:
                votes[max(image.size) >= STRIP_RATIO * min(image.size)] += 1
        except Exception:  # A decoder raises anything on a broken file; decoding will report it by name.
            continue
    return votes[True] >= votes[False]


def recognise(files: dict[str, pathlib.Path], clips: Sequence[ClipSource]) -> str:
    """Returns the layout that at least nine in ten clips' names have."""

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


def _label_folders(
    files: dict[str, pathlib.Path], clips: list[ClipSource], rejected: list[Rejected], options: LayoutOptions
) -> Found:
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
            "Move the former into a folder per class, or away."
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
    # One class is spelled HandstandPushups and HandStandPushups: classes are told apart without regard to case.
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
    # One person was filmed twice in three actions: lena_walk1 and lena_walk2, but wave1 and wave2 are two actions.
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
    """Labels clips by a function that returns (group, category)."""
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


_LABELLERS: dict[str, Callable[[dict[str, pathlib.Path], list[ClipSource], list[Rejected], LayoutOptions], Found]] = {
    "folders": _label_folders,
    "ucf101": _label_ucf101,
    "weizmann": lambda files, clips, rejected, options: _label_by(_weizmann_parts, "person_action", clips, rejected),
    "mug": lambda files, clips, rejected, options: _label_by(_mug_parts, "subject/expression/take", clips, rejected),
    "taichi_hd": _label_taichi_hd,
}
