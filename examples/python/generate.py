"""Generates clips from an exported MoCoGAN with nothing but ONNX Runtime and NumPy.

    python generate.py MODEL SEED FRAMES OUT

OUT ends in `.rgb` (raw uint8 [frames, height, width, 3]), `.f32` (the model's own float32 values [frames, height,
width, channels]), `.png` (animated), `.gif` or `.webp`. The last three need Pillow.

The program reads everything about the model from the file itself. It makes a clip longer than the training clips piece
by piece: the motion's last state becomes the next piece's first. So a clip of any length takes the memory of one piece,
except as a picture, for which Pillow wants all frames together.
"""

import dataclasses
import json
import pathlib
import re
import sys

import numpy as np
import onnxruntime as ort

FORMAT_VERSION = 1  # The version of the contract that this program reads.
STREAMS = {"content": 0, "motion_init": 1, "motion_noise": 2, "category": 3}
PIXEL_RULE = re.compile(r"uint8 = clip\(round\(\(x \+ (\S+)\) \* (\S+)\), 0, 255\)")
PICTURES = (".png", ".gif", ".webp")


@dataclasses.dataclass(frozen=True)
class Contract:
    """What the file says about itself: sizes, and how its output becomes pixels."""

    name: str
    dim_content: int
    dim_category: int  # 0: there is no `category` input.
    dim_motion: int
    categories: list
    height: int
    width: int
    channels: int
    video_length: int  # Frames of the training clips, and of a piece here.
    fps: float
    postprocess: str

    @classmethod
    def of(cls, session, path):
        """Reads the contract from a session's `metadata_props`, where everything except strings is JSON."""
        found = session.get_modelmeta().custom_metadata_map
        if "format_version" not in found:
            raise ValueError(
                f"{path} has no contract in its metadata_props (no `format_version`): "
                "not a file of `python -m export`, or a converter dropped them."
            )
        if found["format_version"] != str(FORMAT_VERSION):
            raise ValueError(
                f"{path} has contract version {found['format_version']}, this program reads {FORMAT_VERSION}: "
                "export the model again, or take the example that came with it."
            )
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        missing = [name for name in fields if name not in found]
        if missing:
            raise ValueError(f"{path} has no `{missing[0]}` in its metadata_props.")
        for name in (name for name, kind in fields.items() if kind is int):
            if not re.fullmatch("[0-9]{1,6}", found[name]) or int(found[name]) < (name != "dim_category"):
                raise ValueError(f"{path} has no usable `{name}`: {found[name]}")
        return cls(**{name: found[name] if kind is str else json.loads(found[name]) for name, kind in fields.items()})

    def __post_init__(self):
        if not PIXEL_RULE.fullmatch(self.postprocess):
            raise ValueError(f"This program does not know how to make pixels by `{self.postprocess}`.")

    def to_pixels(self, video):
        """Turns the model's float32 values into uint8, by the contract's `postprocess`."""
        shift, scale = (np.float32(number) for number in PIXEL_RULE.fullmatch(self.postprocess).groups())
        return np.clip(np.rint((video + shift) * scale), 0, 255).astype(np.uint8)  # rint: halves to even.


def philox4x32(blocks, stream, seed):
    """Philox4x32-10 (Salmon et al., SC 2011): four random 32-bit words per block, uint64 `[len(blocks), 4]`.

    Counter: block (low, high word), stream, clip (always number 0 here). Key: the seed's low and high word.
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    blocks = np.asarray(blocks, np.uint64)
    c0, c1, c2, c3 = blocks & low, blocks >> half, np.full_like(blocks, stream), np.zeros_like(blocks)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def normals(seed, stream, first, count):
    """Returns numbers `first` to `first + count` of a stream's standard normals (Box and Muller), float32 `[count]`."""
    first_block, last_block = first // 4, -(-(first + count) // 4)
    pairs = philox4x32(np.arange(first_block, last_block), stream, seed).reshape(-1, 2)
    u, v = ((pairs + 0.5) / 2.0**32).T
    radius, angle = np.sqrt(-2.0 * np.log(u)), 2.0 * np.pi * v
    drawn = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    return drawn[first - 4 * first_block :][:count].astype(np.float32)


def draw_category(contract, seed):
    """Returns the index of the category that the seed draws."""
    return int(philox4x32([0], STREAMS["category"], seed)[0, 0]) % contract.dim_category


def generate(session, contract, seed, frames):
    """Yields float32 `[up to video_length, height, width, channels]` until there are `frames` frames."""
    latents = {
        "content": normals(seed, STREAMS["content"], 0, contract.dim_content)[None],
        "motion_init": normals(seed, STREAMS["motion_init"], 0, contract.dim_motion)[None],
    }
    if contract.dim_category:
        latents["category"] = np.eye(contract.dim_category, dtype=np.float32)[[draw_category(contract, seed)]]
    for first in range(0, frames, contract.video_length):
        count = min(contract.video_length, frames - first)
        noise = normals(seed, STREAMS["motion_noise"], first * contract.dim_motion, count * contract.dim_motion)
        latents["motion_noise"] = noise.reshape(1, count, contract.dim_motion)
        # The next piece begins where this one's motion ends. Content and category stay, so the same person goes on.
        video, latents["motion_init"] = session.run(["video", "motion_state"], latents)
        yield video[0]


def load(path):
    """Returns (session, contract)."""
    if not path.is_file():
        raise ValueError(f"No such file: {path}")
    try:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no other base in common.
        raise ValueError(f"{path} is no model that ONNX Runtime can load: {error}") from error
    contract = Contract.of(session, path)
    outputs = [output.name for output in session.get_outputs()]
    if not {"video", "motion_state"} <= set(outputs):
        raise ValueError(
            f"{path} gives {', '.join(outputs)}; needed are video and motion_state. "
            "Take model.onnx: motion.onnx and frames.onnx are its halves."
        )
    return session, contract


def write(pieces, contract, out):
    """Writes the pieces of a clip as they come."""
    if out.suffix not in PICTURES:
        with out.open("wb") as file:
            for piece in pieces:
                file.write(piece.astype("<f4").tobytes() if out.suffix == ".f32" else to_rgb(contract, piece).tobytes())
        return
    from PIL import Image  # Only here: raw frames need no Pillow.

    first, *rest = [Image.fromarray(frame) for piece in pieces for frame in to_rgb(contract, piece)]
    first.save(out, save_all=True, append_images=rest, duration=1000 / contract.fps, loop=0)


def to_rgb(contract, piece):
    """Returns uint8 `[T, H, W, 3]`; a grey model gives three equal channels."""
    pixels = contract.to_pixels(piece)
    return pixels if contract.channels == 3 else pixels.repeat(3, axis=-1)


def whole_number(text, name, low, high):
    """Returns an argument as an integer within bounds; only digits are allowed, unlike in int()."""
    if not re.fullmatch(r"[0-9]+", text) or not low <= int(text) <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}. Received: {text}")
    return int(text)


def main(arguments):
    """Checks the arguments, makes the clip and writes it."""
    if len(arguments) != 4:
        raise ValueError("usage: python generate.py MODEL SEED FRAMES OUT")
    model, out = pathlib.Path(arguments[0]), pathlib.Path(arguments[3])
    seed = whole_number(arguments[1], "SEED", 0, 2**64 - 1)
    frames = whole_number(arguments[2], "FRAMES", 1, 2**31 - 1)
    if out.suffix not in (".rgb", ".f32", *PICTURES):
        raise ValueError(f"OUT must end in .rgb, .f32, {', '.join(PICTURES)}. Received: {out}")
    session, contract = load(model)
    write(generate(session, contract, seed, frames), contract, out)
    shown = f"{contract.name}: seed {seed}, {frames} frames of {contract.width}x{contract.height}, {contract.fps:g} fps"
    if contract.dim_category:
        category = draw_category(contract, seed)
        name = f" ({contract.categories[category]})" if contract.categories else ""
        shown += f", category {category}{name}"
    print(f"{shown} -> {out}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
