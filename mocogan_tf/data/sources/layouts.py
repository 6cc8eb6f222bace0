"""Finds the clips of a folder, an archive or an array file: walks it and tells clips from other files.

The images of a folder are strips, one clip each, or the frames of one clip, as most of them look. Images that lie
directly in the source must be strips.

Nothing is left out silently: whatever is no clip is returned with the reason. Hidden files are not looked at.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from absl import logging
from PIL import Image

from mocogan_tf.data import advice
from mocogan_tf.data.sources import archives, arrays, labels, readers
from mocogan_tf.data.sources.labels import Found, LayoutOptions, Rejected, natural_key
from mocogan_tf.data.sources.readers import ClipSource

# An image at least this many times longer than wide is a strip: no video frame is so long, and no shorter strip can be
# trained on.
STRIP_RATIO = 4
MANIFEST, STATE = "manifest.json", ".state"  # In a folder that prepare.py has finished, and in one it has begun.
_PLAIN_TEXT = (".csv", ".json", ".md", ".txt")  # Lists and remarks that lie beside clips.


def find_clips(data_dir: str | os.PathLike[str]) -> Found:
    """Finds the clips of a folder that is trained on as it is.

    A warning per reason says what is left out: the name of one file, and how many more there are. Text files (.csv,
    .json, .md, .txt) and hidden files are passed over in silence.

    Raises:
        ValueError: As `find`.
    """
    found = find(pathlib.Path(data_dir))
    told = [
        row
        for row in found.rejected
        if row.reason != _NO_CLIP[""] or pathlib.PurePosixPath(row.name).suffix.lower() not in _PLAIN_TEXT
    ]
    for remark in advice.grouped(told):
        logging.warning("%s: left out, %s.", data_dir, remark)
    return found


def choose_split(splits: set[str], wanted: str, data_dir: str) -> str:
    """Returns `wanted`, or "" if the set is not divided.

    Raises:
        ValueError: The set is divided, and no clip is in that split.
    """
    if splits == {""}:
        return ""
    if wanted not in splits:
        raise ValueError(f"{data_dir} has no clips for {wanted}; it is divided into {', '.join(sorted(splits))}.")
    return wanted


def find(source: pathlib.Path, options: LayoutOptions | None = None, unpack_into: pathlib.Path | None = None) -> Found:
    """Finds the clips of a folder, an archive or an array file.

    If all clips are of one class there is nothing to tell apart: `categories` is (), and each clip's category "".

    Args:
        source: Where to look.
        options: What is known of it.
        unpack_into: An empty folder for the content of archives; it must stay while the clips are read. None: archives
            are left out.

    Raises:
        ValueError: The source is missing or holds no clip, it holds the frames of one video, or clips lie both beside
            and inside class folders.
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
    layout = labels.recognise(files, clips) if options.layout == "auto" else options.layout
    found = labels.label(layout, files, clips, rejected, options)
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


def one_clip(path: pathlib.Path) -> ClipSource:
    """Returns the clip that a file, or a folder of frames, is.

    Raises:
        ValueError: It is no clip, or holds several; the message goes on where the path ends.
    """
    if path.is_dir():
        names = sorted((entry.name for entry in path.iterdir() if not _is_hidden(entry.name)), key=natural_key)
        frames = tuple(name for name in names if _kind(path / name)[0] == "image")
        if not frames:
            raise ValueError("the folder holds no pictures")
        return ClipSource(str(path), path.name, "frames", path.name, files=frames)
    rejected: list[Rejected] = []
    clips = list(_clips_among({path.name: path}, LayoutOptions(), rejected))
    if len(clips) != 1:
        raise ValueError(rejected[0].reason if rejected else f"it holds {len(clips)} clips, and one is needed")
    return clips[0]


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
        return _walk(_without_wrapper(unpack_into / "archive"), "", rejected)
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
            target = unpack_into / str(len(list(unpack_into.iterdir())))  # Archives in two folders may have one name.
            rejected += [Rejected(f"{name}/{member}", why) for member, why in archives.unpack(path, target)]
            files |= _walk(_without_wrapper(target), folder, rejected)
        except ValueError as error:
            rejected.append(Rejected(name, str(error)))
    return files


def _without_wrapper(folder: pathlib.Path) -> pathlib.Path:
    """Returns the one folder that an unpacked archive consists of, or else the folder itself."""
    entries = [entry for entry in folder.iterdir() if not _is_hidden(entry.name)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is not a person's own: a dot file, or what systems put beside files."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def _walk(root: pathlib.Path, prefix: str, rejected: list[Rejected]) -> dict[str, pathlib.Path]:
    """Returns the visible files below a folder by their path, which begins with `prefix`; links are followed.

    Folders that cannot be read, and links to a folder above them, are added to `rejected`.
    """
    files: dict[str, pathlib.Path] = {}

    def visit(folder: pathlib.Path, prefix: str, ancestors: frozenset[tuple[int, int]]) -> None:
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
        except OSError as error:
            rejected.append(Rejected(prefix or str(folder), readers.reason(error).lower()))
            return
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:
            rejected.append(Rejected(prefix, "a symbolic link that leads back to a folder above it"))
            return
        for entry in entries:
            # A name need not be UTF-8, but it is written into text files.
            shown = entry.name.encode("utf-8", "backslashreplace").decode()
            name = f"{prefix}/{shown}" if prefix else shown
            if _is_hidden(entry.name):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:  # A link that leads to itself; opening the file will say so.
                is_folder = False
            if is_folder:
                visit(folder / entry.name, name, ancestors | {identity})
            else:
                files[name] = folder / entry.name

    visit(root, prefix, frozenset())
    return files


def _kind(path: pathlib.Path) -> tuple[str, str]:
    """Returns a file's kind ("" if it is no clip), and why it cannot be read ("" if it can); then its name decides."""
    try:
        status = path.stat()  # Raises for a link that leads nowhere.
        if not stat.S_ISREG(status.st_mode):
            return "", "no ordinary file"
        return readers.file_kind(path), ""
    except OSError as error:
        return readers.suffix_kind(path), readers.reason(error).lower()


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
    """Yields the clips among the images of one folder, given by name with the reason why one cannot be read, or ""."""
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
    """Whether most of some images of a folder are strips; so are all if none can be read, so that each is reported."""
    votes: Counter[bool] = Counter()
    for path in images[:: max(1, len(images) // looked_at)]:
        try:
            with Image.open(path) as image:
                votes[max(image.size) >= STRIP_RATIO * min(image.size)] += 1
        except Exception:  # A decoder raises anything on a broken file; decoding will report it by name.
            continue
    return votes[True] >= votes[False]
