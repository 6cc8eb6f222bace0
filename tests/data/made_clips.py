"""Clips that the tests make for themselves."""

import pathlib

import numpy as np
from PIL import Image

REAL_CLIPS = pathlib.Path(__file__).parents[3] / "shared" / "data"


def frames_of(num_frames, *, first=0, size=32, channels=3):
    """uint8 [F, size, size, C]; frame f is filled with `first + f`, so that a frame says where it comes from."""
    values = (first + np.arange(num_frames)) % 256
    return np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (num_frames, size, size, channels)).copy()


def save_strip(path, frames, *, across=True, mode="RGB"):
    """Writes [F, H, W, C] as one PNG, whatever the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.concatenate(list(frames), axis=1 if across else 0)
    Image.fromarray(strip.squeeze()).convert(mode).save(path, format="PNG")
    return path
