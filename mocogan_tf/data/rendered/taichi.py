"""An articulated figure practises Tai-Chi: the form is the label, performer and place are the content.

Motion (form, side, tempo, phase) and content (proportions, clothes, skin, hair, background, camera) are drawn
independently, and content once per clip. A clip is a pure function of seed and index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.data.rendered.base import Clip, check_clip, clip_rng
from mocogan_tf.data.rendered.taichi_drawing import Camera, Look, Scene, draw
from mocogan_tf.data.rendered.taichi_motion import FORMS, JOINTS, Proportions, perform

Array = NDArray[np.floating]
T = TypeVar("T")

__all__ = ["CATEGORIES", "FPS", "JOINTS", "NUM_FRAMES", "render_clip"]

CATEGORIES = tuple(FORMS)
FPS = 16.0
NUM_FRAMES = 40
CYCLE = (36.0, 52.0)  # Frames of the fastest and the slowest cycle of a form of pace 1.

_STREAM_MOTION, _STREAM_CONTENT = 0, 1
_MIRRORED = [JOINTS.index(n.replace("left", "?").replace("right", "left").replace("?", "right")) for n in JOINTS]

_SKIN = ("f6d7bd", "eabf9c", "d9a178", "b97c50", "8f5a38", "66402a")
_HAIR = ("17130f", "33231a", "5d3a22", "8e8e90", "d4d4d2")
_CLOTHES = (
    "f4f1e8", "f0d9a0", "e2574c", "b8242c", "f09a3e", "e8c63a", "58a862", "1f6a4a", "5cb3d6", "2b62b8",
    "1d2a5c", "7b4fa3", "e79ab8", "8a929c", "262329",
)  # fmt: skip
# Wall or sky (top, bottom), floor (far, near).
_PLACES = (
    ("e9e2d2", "d8ccb4", "b98a58", "8f6339"),  # Studio with a wooden floor.
    ("7fb4e0", "d8e9ef", "86b566", "4f8a43"),  # Park by day.
    ("4b5a9e", "f2a98c", "7c6a72", "4b414f"),  # Dusk on stone.
    ("5d666e", "7f8a90", "4f565b", "343a40"),  # Grey hall with a dark floor.
    ("c7dbd2", "eef2e4", "cdbf98", "a3936a"),  # Misty morning on sand.
    ("3a2f3c", "6a4a4a", "8c3b36", "5c2226"),  # Temple with a red floor.
)


def _rgb(code: str) -> Array:
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255


def _difference(a: Array, b: Array) -> float:
    """Returns how different two colours look: a weighted Euclidean distance, about 0 to 1."""
    return float(np.sqrt((np.array([0.3, 0.5, 0.2]) * (a - b) ** 2).sum()))


class _Draws:
    """Draws from `random()` only; see `clip_rng`."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self.rng.random() * len(options))]

    def colour(
        self, codes: Sequence[str], against: Sequence[Array] = (), jitter: float = 0.05, contrast: float = 0.22
    ) -> Array:
        """Draws a colour that stands out from all of `against`, or takes the best; changes it slightly."""
        colours = [_rgb(code) for code in codes]
        margins = [min((_difference(c, other) for other in against), default=1.0) for c in colours]
        fit = [c for c, margin in zip(colours, margins, strict=True) if margin >= contrast]
        chosen = self.choice(fit or [colours[int(np.argmax(margins))]])
        change = (self.rng.random(3).astype(np.float32) * 2 - 1) * np.float32(jitter)
        return np.asarray(np.clip(chosen + change, 0, 1))


def _draw_content(rng: np.random.Generator) -> tuple[Proportions, Look, Scene, Camera, float]:
    """Draws performer, place and camera of one clip, and the angle in degrees by which the performer is turned."""
    draw_from = _Draws(rng)
    codes = draw_from.choice(_PLACES)
    top, bottom, far, near = (draw_from.colour((code,), jitter=0.06) for code in codes)
    scene = Scene(top, bottom, far, near, horizon=draw_from.uniform(0.70, 0.80))
    wall = 0.4 * scene.wall_top + 0.6 * scene.wall_bottom
    jacket = draw_from.colour(_CLOTHES, (wall,))
    suit = rng.random() < 0.4
    trousers = draw_from.colour(_CLOTHES, (wall, 0.5 * (scene.floor_far + scene.floor_near)), contrast=0.18)
    if suit and _difference(jacket, scene.floor_far) > 0.18:
        trousers = jacket * np.float32(0.92)
    skin = draw_from.colour(_SKIN, (jacket, wall), jitter=0.02, contrast=0.12)
    look = Look(
        skin=skin,
        hair=draw_from.colour(_HAIR, (wall, skin), jitter=0.02, contrast=0.15),
        jacket=jacket,
        trousers=trousers,
        sash=draw_from.colour(_CLOTHES, (jacket, trousers), contrast=0.30),
        shoes=draw_from.colour(("1c1a1a", "e8e6e0"), (scene.floor_near,), jitter=0.02, contrast=0.25),
        bulk=draw_from.uniform(0.88, 1.22),
        head=draw_from.uniform(0.064, 0.076),
        hair_style=draw_from.choice(("short", "long", "bun", "bald")),
    )
    limbs = draw_from.uniform(0.94, 1.06)
    leg = draw_from.uniform(0.465, 0.505)
    body = Proportions(
        leg=leg,
        torso=0.78 - leg,
        shoulders=draw_from.uniform(0.09, 0.118),
        hips=draw_from.uniform(0.048, 0.062),
        upper_arm=0.155 * limbs,
        forearm=0.145 * limbs,
    )
    camera = Camera(
        scale=draw_from.uniform(0.82, 0.90),
        x=draw_from.uniform(0.475, 0.525),
        floor=draw_from.uniform(0.90, 0.93),
        pitch=draw_from.uniform(5.0, 13.0),
    )
    return body, look, scene, camera, draw_from.uniform(-8.0, 8.0)


def render_clip(index: int, *, seed: int, num_frames: int = NUM_FRAMES, image_size: int = 64) -> Clip:
    """Renders clip `index` of a seed; a longer clip begins like a shorter one.

    Args:
        index: Which clip, in [0, 2^64).
        seed: Which set, in [0, 2^64).
        num_frames: F, at least 1.
        image_size: H = W, one of 32, 64, 128.

    Returns:
        `Clip`; its truth holds `form` (str), `side` ("left" or "right", the right-sided is its mirror image), `tempo`
        (cycles per second), `phase` (float64 `[F]`, cycles), `joints` (float64 `[F, J, 2]`, x and y in pixels of the
        `JOINTS`, where pixel i covers i to i + 1), `joints_3d` (float64 `[F, J, 3]` in body heights), `body`, `look`,
        `scene`, `camera` (dataclasses) and `turn` (degrees).

    Raises:
        ValueError: An argument is out of range.
    """
    index, seed = check_clip(index, seed, num_frames, image_size)
    motion = _Draws(clip_rng(seed, index, _STREAM_MOTION))
    form = motion.choice(CATEGORIES)
    side = motion.choice(("left", "right"))
    cycle = motion.uniform(*CYCLE) / FORMS[form].pace
    phase = motion.uniform(0.0, 1.0) + np.arange(num_frames) / cycle
    body, look, scene, camera, turn = _draw_content(clip_rng(seed, index, _STREAM_CONTENT))

    joints = perform(form, phase, body, turn)
    if side == "right":
        joints = joints[:, _MIRRORED] * np.array([-1.0, 1.0, 1.0])
    truth: dict[str, Any] = {
        "form": form,
        "side": side,
        "tempo": FPS / cycle,
        "phase": phase,
        "joints": camera.project(joints, image_size)[..., :2],
        "joints_3d": joints,
        "body": body,
        "look": look,
        "scene": scene,
        "camera": camera,
        "turn": turn,
    }
    frames = draw(joints, _gaze(joints), look, scene, camera, image_size)
    return Clip(frames, CATEGORIES.index(form), truth)


def _gaze(joints: Array) -> Array:
    """Returns where the head looks, `[F, 2]` to the right and down: to the front, at a right angle to the shoulders."""
    left, right = joints[:, JOINTS.index("left_shoulder")], joints[:, JOINTS.index("right_shoulder")]
    across = left - right
    front = np.stack([across[:, 2] * -1, np.zeros(len(across)), across[:, 0]], 1)
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    return np.stack([front[:, 0], 0.15 * np.ones(len(front))], 1)
