"""Reads the clips in a folder: which there are, and one of them as frames.

What a file is follows from its first bytes, never from its name's ending: published strips are PNG files called .jpg.

* A strip is one image with a clip's frames side by side or one below the other: square frames, as many as the shorter
  side goes into the longer one.
* A folder of frames is one clip, its images in natural order of their names.
* A video file is anything that PyAV opens (extra `video`); animated GIF, WebP and PNG need only Pillow.

Clips lie in one folder (no labels) or in one folder per category. TensorFlow is not imported here.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# An image at least this many times longer than wide is a strip; no video frame is, and shorter strips cannot train.
STRIP_RATIO = 4
# Larger images are refused before they are decoded: a small file can hold a picture that fills the memory.
MAX_PIXELS = 2**26
MAX_FRAME_SIDE = 8192

_IMAGE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_MOVING_SIGNATURES = (b"GIF87a", b"GIF89a")  # Still ones are one-frame clips, and are reported as too short.


@dataclasses.dataclass(frozen=True)
class ClipSource:
    """Where one clip lies.

    Args:
        path: The file, or the folder of frames.
        name: Path below the data folder, with slashes: what messages and manifests call it.
        kind: `strip`, `frames`, `animation` or `video`.
        category: Name of its class; empty if there are none.
        files: Of a folder of frames, the frames' file names in order.
    """

    path: str
    name: str
    kind: str
    category: str = ""
    files: tuple[str, ...] = ()

    def fingerprint(self) -> list[list[object]]:
        """Returns name, size and time of change of every file that the clip is made of."""
        paths = [os.path.join(self.path, file) for file in self.files] or [self.path]
        stats = [os.stat(path) for path in paths]
        return [
            [self.name, self.kind, self.category],
            *(
                [os.path.basename(path), stat.st_size, stat.st_mtime_ns]
                for path, stat in zip(paths, stats, strict=True)
            ),
        ]


@dataclasses.dataclass(frozen=True)
class DecodedClip:
    """Frames of one clip, uint8 `[F, H, W, C]`, their rate (0 if unknown), and remarks a person should read."""

    frames: NDArray[np.uint8]
    fps: float = 0.0
    notes: tuple[str, ...] = ()


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key by which `2.png` comes before `10.png`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def find_clips(data_dir: str | os.PathLike[str]) -> list[ClipSource]:
    """Lists the clips of a folder, sorted by name; files that are no clips (text, hidden files) are left out.

    Raises:
        ValueError: The folder is missing, holds no clip, or has clips both beside and inside class folders.
    """
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ValueError(f"The data folder {root} {what}. Give a folder of clips, or of one folder of clips per class.")
    entries = _entries(root)
    if not entries:
        raise ValueError(f"The data folder {root} is empty. It must hold clips, or one folder of clips per class.")
    flat = list(_clips_in(root, root, ""))
    classes = [clip for entry in entries if entry.is_dir() for clip in _clips_in(entry, root, entry.name)]
    if all(clip.kind == "frames" for clip in classes) and all(clip.name == clip.category for clip in classes):
        # Folders of frames directly below the data folder are unlabelled clips, not classes of one clip.
        flat, classes = flat + [dataclasses.replace(clip, category="") for clip in classes], []
    if flat and classes:
        raise ValueError(
            f"The data folder {root} has clips of its own ({flat[0].name}) and clips in class folders "
            f"({classes[0].name}). Move the former into a folder each class of its own, or away."
        )
    if not flat and not classes:
        raise ValueError(
            f"The data folder {root} holds no readable clip: no strip (an image at least {STRIP_RATIO} times longer "
            "than wide), folder of frames, animation or video, neither directly nor in class folders."
        )
    return sorted(flat or classes, key=lambda clip: natural_key(clip.name))


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(visible, key=lambda entry: natural_key(entry.name))


def _clips_in(folder: pathlib.Path, root: pathlib.Path, category: str) -> Iterator[ClipSource]:
    """Yields the clips of one class: its files, or the folder itself or its folders where those hold frames."""
    kinds = [(entry, file_kind(entry)) for entry in _entries(folder) if entry.is_file()]
    images = [entry for entry, kind in kinds if kind == "image"]
    frames = bool(images) and not _are_strips(images)
    name = folder.relative_to(root).as_posix()
    if frames and folder != root:
        yield ClipSource(str(folder), name, "frames", category, tuple(entry.name for entry in images))
    for entry, kind in kinds:
        if kind in ("animation", "video") or (kind == "image" and not frames):
            kind = "strip" if kind == "image" else kind
            yield ClipSource(str(entry), entry.relative_to(root).as_posix(), kind, category)
    if folder != root:
        for entry in _entries(folder):
            if entry.is_dir():
                yield from _clips_in(entry, root, category)


def _are_strips(images: list[pathlib.Path]) -> bool:
    """Whether images are strips, by the first that can be read. If none can: yes, so that each is reported."""
    for path in images:
        try:
            with Image.open(path) as image:
                return max(image.size) >= STRIP_RATIO * min(image.size)
        except Exception:  # noqa: S112 - a decoder raises anything on a broken file; decoding reports it by name
            continue
    return True


def file_kind(path: pathlib.Path) -> str:
    """Returns `image`, `animation`, `video` or "" (no clip), from a file's first bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return "image" if path.suffix.lower() in (".png", ".jpg", ".jpeg") else ""
    if head.startswith(_MOVING_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP" and b"ANIM" in head):
        return "animation"
    if head.startswith(_IMAGE_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    is_video = head[4:8] in (b"ftyp", b"moov", b"mdat") or head.startswith((b"\x1aE\xdf\xa3", b"\0\0\x01\xba", b"FLV"))
    if is_video or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "video"
    # Damaged or empty files that were meant as clips must be reported and not overlooked.
    if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
        return "image"
    if path.suffix.lower() in (".gif", ".webp", ".apng"):
        return "animation"
    return "video" if path.suffix.lower() in (".avi", ".mp4", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".flv") else ""


def decode_clip(source: ClipSource, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Reads one whole clip; see `read_clip`."""
    return read_clip(source, image_size, channels).frames


def read_clip(source: ClipSource, image_size: int, channels: int) -> DecodedClip:
    """Reads one whole clip. Frames are cropped to their central square, scaled to `image_size`; alpha is dropped.

    Args:
        source: What to read; nothing but its files is looked at.
        image_size: Height and width of the frames.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma, as Pillow's "L").

    Raises:
        ValueError: The clip cannot be read, in one line that names it.
    """
    read = {"strip": _read_strip, "frames": _read_frames, "animation": _read_animation, "video": _read_video}[
        source.kind
    ]
    try:
        return read(source, image_size, channels)
    except Exception as error:  # Decoders raise anything on broken files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{source.name}: {reason}") from error


def _open_image(path: str) -> Image.Image:
    if os.path.getsize(path) == 0:
        raise ValueError("the file is empty")
    with warnings.catch_warnings():
        # Below is a stricter limit than the one at which Pillow warns; its own error comes at twice that.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"an image of {image.width}x{image.height} is refused (more than {MAX_PIXELS} pixels)")
    return image


def _plain(image: Image.Image) -> Image.Image:
    """Returns the upright image as 8 bit RGB or L; alpha is dropped, 16 bit are scaled, palettes are looked up."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bit grey; Pillow's own conversion would clip it to white.
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image if image.mode == "L" else image.convert("RGB")


def _square(image: Image.Image, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Returns uint8 `[image_size, image_size, C]`: the central square of an image, scaled."""
    if max(image.size) > MAX_FRAME_SIDE:
        raise ValueError(f"a frame of {image.width}x{image.height} is refused (a side above {MAX_FRAME_SIDE})")
    image = _plain(image).convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (image_size, image_size):
        # Cropped first: with `box` the filter would reach beyond it. Pillow's bicubic widens when it scales down, so
        # nothing aliases.
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image_size, image_size, channels)


def _read_strip(source: ClipSource, image_size: int, channels: int) -> DecodedClip:
    with _open_image(source.path) as opened:
        image = _plain(opened)
    side, longer = min(image.size), max(image.size)
    num_frames, remainder = divmod(longer, side)
    across = image.width >= image.height
    notes = (f"{remainder} pixels after the last of {num_frames} frames left out",) if remainder else ()
    corners = [(i * side, 0) if across else (0, i * side) for i in range(num_frames)]
    frames = [_square(image.crop((x, y, x + side, y + side)), image_size, channels) for x, y in corners]
    return DecodedClip(np.stack(frames), notes=notes)


def _read_frames(source: ClipSource, image_size: int, channels: int) -> DecodedClip:
    frames, first_size = [], None
    for file in source.files:
        try:
            with _open_image(os.path.join(source.path, file)) as image:
                first_size = first_size or image.size
                if image.size != first_size:
                    raise ValueError(
                        f"is {image.width}x{image.height}, the first frame {first_size[0]}x{first_size[1]}"
                    )
                frames.append(_square(image, image_size, channels))
        except Exception as error:
            raise ValueError(f"frame {file}: {error}") from error
    return DecodedClip(np.stack(frames))


def _read_animation(source: ClipSource, image_size: int, channels: int) -> DecodedClip:
    frames, milliseconds = [], 0.0
    with _open_image(source.path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(_square(image, image_size, channels))
            milliseconds += image.info.get("duration", 0)
    return DecodedClip(np.stack(frames), fps=1000 * len(frames) / milliseconds if milliseconds else 0.0)


def _read_video(source: ClipSource, image_size: int, channels: int) -> DecodedClip:
    try:
        import av
    except ImportError as error:
        raise ValueError("reading video files needs PyAV: pip install 'mocogan-tf[video]'") from error
    if os.path.getsize(source.path) == 0:
        raise ValueError("the file is empty")
    with av.open(source.path) as container:
        if not container.streams.video:
            raise ValueError("the file has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # The clips are spread over processes already.
        if max(stream.width, stream.height) > MAX_FRAME_SIDE:
            raise ValueError(f"a frame of {stream.width}x{stream.height} is refused (a side above {MAX_FRAME_SIDE})")
        frames = [_square(frame.to_image(), image_size, channels) for frame in container.decode(stream)]
        rate = stream.average_rate or Fraction(0)
    if not frames:
        raise ValueError("the video has no frames")
    return DecodedClip(np.stack(frames), fps=float(rate))
