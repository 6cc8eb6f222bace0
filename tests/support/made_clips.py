"""Clips that the tests make for themselves."""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

from mocogan_tf.data.sources.fitting import FitOptions, read_clip

REAL_CLIPS = pathlib.Path(__file__).parents[3] / "shared" / "data"


def frames_of(num_frames, *, first=0, size=32, channels=3):
    """uint8 [F, size, size, C]; frame f is filled with `first + f`, so that a frame says where it comes from."""
    values = (first + np.arange(num_frames)) % 256
    return np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (num_frames, size, size, channels)).copy()


def decode_clip(source, image_size, channels):
    """uint8 [F, image_size, image_size, channels]: all frames of a clip, as the readers give them."""
    return read_clip(source, FitOptions(image_size=image_size, channels=channels)).frames


def save_strip(path, frames, *, across=True, mode="RGB"):
    """Writes [F, H, W, C] as one PNG, whatever the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.concatenate(list(frames), axis=1 if across else 0)
    Image.fromarray(strip.squeeze()).convert(mode).save(path, format="PNG")
    return path


def save_frames(folder, *, size=(40, 32), suffix="png"):
    """Writes a folder of four black frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(4):
        Image.new("RGB", size).save(folder / f"{i}.{suffix}")
    return folder


def save_video(path, frames, *, codec="ffv1", fps=10, container=None, every=1, milliseconds=None):
    """Writes [F, H, W, 3] as a video file.

    Frames lie at every `every`-th position of the rate, or at the times `milliseconds`.
    """
    from fractions import Fraction

    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = {"ffv1": "bgr0", "png": "rgb24"}.get(codec, "yuv420p")
        if milliseconds:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "mpeg4":
            stream.bit_rate = 2_000_000
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = every * index, Fraction(1, fps)
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def save_huge_png(path, width, height):
    """Writes a PNG whose header promises width x height pixels and whose body has none: it must not be decoded."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
