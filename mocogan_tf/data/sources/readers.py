"""Reads one clip: the frames in a strip, a folder of frames, an animation, a video file or an array.

The first bytes of a file say what it is, and its name's ending counts only if they say nothing: published strips are
PNG files called .jpg.

* A strip is one image with a clip's square frames side by side or one below the other, as many as the shorter side fits
  into the longer one.
* A folder of frames is one clip, its images in natural order of their names.
* A video file is anything that PyAV opens (extra `video`).
* An animation is a GIF, a WebP, or a PNG that has an `acTL` chunk before its pixels or is called .apng.
* An array is a `.npy` or `.npz` file, or HDF5 (needs h5py).

TensorFlow is not imported here: this runs in worker processes.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Generator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mocogan_tf.data.sources import arrays

# A small file can hold a picture that fills the memory, so larger images are refused before they are decoded.
MAX_PIXELS = 2**26
MAX_FRAME_SIDE = 8192
MIN_FRAME_SIDE = 8
MAX_FRAMES = 1_000_000

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IMAGE_SIGNATURES = (_PNG_SIGNATURE, b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_VIDEO_SIGNATURES = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG video
    b"\0\0\x01\xb0",  # MPEG-4 video
    b"FLV",
    b"OggS",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF, and so WMV
    b"DKIF",  # IVF
    b"YUV4MPEG2",
    b"nut/multimedia container",
    b"\x06\x0e+4\x02\x05\x01\x01\r\x01\x02",  # MXF
)
_MP4_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_ARRAY_SIGNATURES = (b"\x93NUMPY", b"\x89HDF\r\n\x1a\n")
_ARCHIVE_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_VIDEO_FORMATS = "avi,mov,mp4,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,ogg,asf,dv,mxf,nut,ivf,yuv4mpegpipe"
_VIDEO_SUFFIXES = (
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .h264 .h265 .hevc .ivf .m1v .m2ts .m2v .m4v .mkv .mov .mp4 .mpeg .mpg "
    ".mts .mxf .nut .ogm .ogv .qt .ts .vob .webm .wmv .y4m"
).split()
# A damaged or empty file that was meant as a clip must be reported, not overlooked.
_KIND_OF_SUFFIX = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".gif", ".webp", ".apng"), "animation"),
    **dict.fromkeys(_VIDEO_SUFFIXES, "video"),
    **dict.fromkeys((".npy", ".npz", ".h5", ".hdf5"), "array"),
    **dict.fromkeys((".zip", ".tar", ".tgz"), "archive"),
}


@dataclasses.dataclass(frozen=True)
class Box:
    """A crop in pixels of frames of `width` x `height`; on frames of another size it is scaled."""

    left: float
    top: float
    right: float
    bottom: float
    width: float
    height: float

    def on(self, image: Image.Image) -> tuple[int, int, int, int]:
        """Returns (left, top, right, bottom) in pixels of an image.

        Raises:
            ValueError: Less than a frame of the smallest size lies in the box.
        """
        across, down = image.width / self.width, image.height / self.height
        left, right = max(0, round(self.left * across)), min(image.width, round(self.right * across))
        top, bottom = max(0, round(self.top * down)), min(image.height, round(self.bottom * down))
        if right - left < MIN_FRAME_SIDE or bottom - top < MIN_FRAME_SIDE:
            raise ValueError(f"its box leaves {max(0, right - left)}x{max(0, bottom - top)} pixels of the frame")
        return left, top, right, bottom


def _size_and_time(path: str) -> list[Any]:
    try:
        stat = os.stat(path)
    except OSError:  # The file is gone or a broken link; decoding will say so.
        return [os.path.basename(path)]
    return [os.path.basename(path), stat.st_size, stat.st_mtime_ns]


@dataclasses.dataclass(frozen=True)
class ClipSource:
    """Where one clip lies, and what is known of it without decoding it.

    Args:
        path: The file, or the folder of frames.
        name: Path below the data folder, with slashes; messages and manifests use it.
        origin: Path below the data folder of the file or folder of frames that the clip is, or is a part of.
        kind: `strip`, `frames`, `animation`, `video` or `array`.
        category: Name of its class; empty if there are none.
        group: Clips of one group, such as those of a person, stay in one split; empty: the clip is its own group.
        split: `train`, `val`, `test`, or empty.
        files: For a folder of frames, the frames' file names in order.
        place: For an array, where in the file the clip lies.
        span: First and last (exclusive) second, if the clip is a part of a longer video.
        box: Crop, if there is one.
        mirrored: Whether left and right are exchanged.
    """

    path: str
    name: str
    kind: str
    origin: str = ""
    category: str = ""
    group: str = ""
    split: str = ""
    files: tuple[str, ...] = ()
    place: arrays.Place | None = None
    span: tuple[float, float] | None = None
    box: Box | None = None
    mirrored: bool = False

    def paths(self) -> list[str]:
        """Returns the files that the clip is made of."""
        return [os.path.join(self.path, file) for file in self.files] or [self.path]

    def fingerprint(self) -> list[Any]:
        """Returns a JSON value that changes whenever the clip or one of its files does."""
        described = dataclasses.asdict(dataclasses.replace(self, path="", files=()))
        return [described, [_size_and_time(path) for path in self.paths()]]


Frames = Generator[tuple[float | None, Image.Image], None, None]


@dataclasses.dataclass
class Footage:
    """A clip that is being read: (time in seconds or None, frame) pairs, frame rate (0 if unknown) and remarks.

    The frames are upright RGB or L, of any size. The rate is that of the frames read so far; rate and remarks are
    final when all frames have been read.
    """

    frames: Frames
    fps: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)


def _no_frames() -> Frames:
    yield from ()


def open_footage(source: ClipSource) -> Footage:
    """Opens one clip. Any exception may be raised here or while its frames are read: decoders raise what they like."""
    reader = {
        "strip": _strip,
        "frames": _frames,
        "animation": _animation,
        "video": _video,
        "array": _array,
    }[source.kind]
    return reader(source)


def reason(error: BaseException) -> str:
    """Returns why a file cannot be read in one line, without error numbers and logs."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def file_kind(path: str | os.PathLike[str]) -> str:
    """Returns `image`, `animation`, `video`, `array`, `archive` or "" (no clip), from a file's first bytes.

    Raises:
        OSError: The file cannot be read; `suffix_kind` tells what it was meant to be.
    """
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        head = file.read(265)
        is_animated = head.startswith(_PNG_SIGNATURE) and (suffix_kind(path) == "animation" or _has_actl(file))
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if is_animated or head.startswith((b"GIF87a", b"GIF89a")) or (is_webp and b"ANIM" in head[:64]):
        return "animation"
    if head.startswith(_IMAGE_SIGNATURES) or is_webp:
        return "image"
    if _is_video(head):
        return "video"
    suffix = path.suffix.lower()
    if head.startswith(_ARRAY_SIGNATURES) or (head.startswith(b"PK") and suffix == ".npz"):
        return "array"
    if head.startswith(_ARCHIVE_SIGNATURES) or head[257:262] == b"ustar":
        return "archive"
    return suffix_kind(path)


def suffix_kind(path: str | pathlib.Path) -> str:
    """Returns what `file_kind` does, but judges by the name's ending alone."""
    return _KIND_OF_SUFFIX.get(pathlib.Path(path).suffix.lower(), "")


def _is_video(head: bytes) -> bool:
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    # Packets have 188 bytes and begin with G; on discs a time stamp of 4 bytes precedes each.
    is_mpegts = any(head[at : at + 1] == head[at + step : at + step + 1] == b"G" for at, step in ((0, 188), (4, 192)))
    return is_avi or is_mpegts or head[4:8] in _MP4_ATOMS or head.startswith(_VIDEO_SIGNATURES)


def _has_actl(file: IO[bytes]) -> bool:
    """Whether a PNG is animated: it has an `acTL` chunk, after any number of others but before the pixels."""
    file.seek(len(_PNG_SIGNATURE))
    while len(start := file.read(8)) == 8:
        length, chunk = int.from_bytes(start[:4]), start[4:]
        if chunk in (b"acTL", b"IDAT"):
            return chunk == b"acTL"
        file.seek(length + 4, os.SEEK_CUR)  # The chunk and its checksum.
    return False


def _open_image(path: str) -> Image.Image:
    if os.path.getsize(path) == 0:
        raise ValueError("the file is empty")
    with warnings.catch_warnings():
        # The limit below is stricter than the one at which Pillow warns.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"an image of {image.width}x{image.height} is refused (more than {MAX_PIXELS} pixels)")
    return image


def check_frame_size(width: int, height: int) -> None:
    """Raises ValueError for a frame too small to show anything or too large to be meant."""
    if min(width, height) < MIN_FRAME_SIDE:
        raise ValueError(f"a frame of {width}x{height} is refused (a side below {MIN_FRAME_SIDE} pixels)")
    if max(width, height) > MAX_FRAME_SIDE:
        raise ValueError(f"a frame of {width}x{height} is refused (a side above {MAX_FRAME_SIDE} pixels)")


def plain(image: Image.Image, notes: list[str]) -> Image.Image:
    """Returns the upright image as 8 bit RGB or L: 16 bit are scaled, palettes are looked up, alpha is dropped."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bit grey; Pillow's own conversion would clip it to white.
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating point pixels have no fixed range; give such frames as an array")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("RGBA", "LA") and np.asarray(image.getchannel("A")).min() < 255:
        _note(notes, "transparency is dropped, the colours below it are kept")
    return image if image.mode == "L" else image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)


def _strip(source: ClipSource) -> Footage:
    notes: list[str] = []
    with _open_image(source.path) as opened:
        image = plain(opened, notes)
    side, longer = min(image.size), max(image.size)
    check_frame_size(side, side)
    num_frames, remainder = divmod(longer, side)
    if num_frames < 2:
        raise ValueError(f"an image of {image.width}x{image.height} is one frame, no strip")
    if remainder:
        notes.append(f"{remainder} pixels after the last of {num_frames} frames are left out")
    across = image.width >= image.height
    corners = [(i * side, 0) if across else (0, i * side) for i in range(num_frames)]
    return Footage(((None, image.crop((x, y, x + side, y + side))) for x, y in corners), notes=notes)


def _frames(source: ClipSource) -> Footage:
    notes: list[str] = []

    def read() -> Frames:
        first_size = None
        for path in source.paths():
            try:
                with _open_image(path) as opened:
                    check_frame_size(*opened.size)
                    image = plain(opened, notes)
                first_size = first_size or image.size
                if image.size != first_size:
                    sizes = f"{image.width}x{image.height}, the first frame {first_size[0]}x{first_size[1]}"
                    raise ValueError(f"it is {sizes}")
            except Exception as error:  # Decoders raise anything on broken files.
                raise ValueError(f"frame {os.path.basename(path)}: {reason(error)}") from error
            yield None, image

    return Footage(read(), notes=notes)


def _animation(source: ClipSource) -> Footage:
    image = _open_image(source.path)
    check_frame_size(*image.size)
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > MAX_FRAMES:
        raise ValueError(f"{num_frames} frames are refused (more than {MAX_FRAMES})")
    footage = Footage(_no_frames())
    footage.frames = _animation_frames(image, num_frames, footage)
    return footage


def _animation_frames(image: Image.Image, num_frames: int, footage: Footage) -> Frames:
    time, durations = 0.0, []
    with image:
        for index in range(num_frames):
            image.seek(index)
            image.load()  # Only a loaded WebP frame has a duration.
            duration = image.info.get("duration", 0) / 1000
            start, time = time, time + duration
            durations.append(duration)
            # Set with each frame, because a reader that cuts the clip does not come back.
            footage.fps = len(durations) / time if time else 0.0
            yield start if duration else None, plain(image, footage.notes)
    if max(durations) > 1.5 * min(durations):
        footage.notes.append("the frame rate varies")


def _video(source: ClipSource) -> Footage:
    try:
        import av
    except ImportError as error:
        raise ValueError("reading video files needs PyAV: pip install 'mocogan-tf[video]'") from error
    if os.path.getsize(source.path) == 0:
        raise ValueError("the file is empty")
    av.logging.set_level(av.logging.PANIC)  # What matters is raised; every worker would print the rest.
    # A playlist, whatever its name, would make FFmpeg open other files and addresses.
    options = {"format_whitelist": _VIDEO_FORMATS, "protocol_whitelist": "file"}
    container = av.open(f"file:{source.path}", options=options)
    if not container.streams.video:
        container.close()
        raise ValueError("the file has no video stream")
    stream = container.streams.video[0]
    check_frame_size(stream.width, stream.height)
    stream.thread_type = "NONE"  # The clips are spread over processes already.
    footage = Footage(_no_frames(), fps=float(stream.average_rate or 0))
    footage.frames = _video_frames(container, stream, footage)
    return footage


def _video_frames(container: Any, stream: Any, footage: Footage) -> Frames:
    count, first, last, gaps = 0, None, None, [float("inf"), 0.0]
    with container:
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise ValueError("it is damaged or cut off")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise ValueError("it is damaged")
                    time = frame.time
                    if time is not None and last is not None:
                        gaps = [min(gaps[0], time - last), max(gaps[1], time - last)]
                    first, last, count = time if first is None else first, time, count + 1
                    if count > MAX_FRAMES:
                        raise ValueError(f"more than {MAX_FRAMES} frames are refused")
                    # FFmpeg's angle is counter-clockwise, as is Pillow's.
                    image = frame.to_image()
                    yield time, image.rotate(frame.rotation, expand=True) if frame.rotation else image
        except GeneratorExit:
            raise
        except Exception as error:  # PyAV's errors have no common base.
            raise ValueError(f"after {count} frames: {reason(error)}") from error
        if not count:
            raise ValueError("the video has no frames")
        if stream.frames and count < 0.95 * stream.frames - 1:
            # A doubled rate leaves every other frame empty, and an edit list hides frames: the file is whole.
            footage.notes.append(f"it has {count} frames, its header claims {stream.frames}")
            if first is not None and last is not None and last > first:
                footage.fps = (count - 1) / (last - first)
        if gaps[1] > 1.5 * gaps[0]:
            footage.notes.append("the frame rate varies")


def _array(source: ClipSource) -> Footage:
    assert source.place is not None
    frames: NDArray[np.uint8] = arrays.read_array_clip(source.path, source.place)
    check_frame_size(frames.shape[2], frames.shape[1])
    notes = ["transparency is dropped, the colours below it are kept"] if frames.shape[-1] == 4 else []
    images = (Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame[..., :3]) for frame in frames)
    return Footage(((None, image) for image in images), notes=notes)
