"""Draws a dressed figure and its background from joint positions: signed distances, antialiased, all frames at once.

Every part of the body is a union of capsules with a radius at either end. Its pixels are found inside one small patch
per frame, so that the cost follows the figure and not the picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.data.taichi_motion import JOINTS

Array = NDArray[np.float32]

_OUTLINE = 0.016  # Width of the darker rim of a part, in body heights: it keeps an arm visible before the jacket.
_FAR_SHADE = 0.80  # Brightness of the limb that is farther away.


@dataclasses.dataclass(frozen=True)
class Look:
    """What a performer looks like: colours (RGB in 0..1), widths (in body heights) and hair."""

    skin: Array
    hair: Array
    jacket: Array
    trousers: Array
    sash: Array
    shoes: Array
    bulk: float = 1.0  # Factor of all widths of the clothes.
    head: float = 0.068  # Radius.
    hair_style: str = "short"


@dataclasses.dataclass(frozen=True)
class Scene:
    """Background colours (RGB in 0..1) and the height of the horizon, as a fraction of the picture from the top."""

    wall_top: Array
    wall_bottom: Array
    floor_far: Array
    floor_near: Array
    horizon: float = 0.74


@dataclasses.dataclass(frozen=True)
class Camera:
    """An orthographic camera that looks slightly down.

    Args:
        scale: Picture heights per body height.
        x: Where the middle of the stance is, as a fraction of the picture from the left.
        floor: Where the floor below it is, as a fraction from the top.
        pitch: Degrees downwards.
    """

    scale: float = 0.86
    x: float = 0.5
    floor: float = 0.92
    pitch: float = 9.0

    def project(self, joints: NDArray[np.float64], image_size: int) -> NDArray[np.float64]:
        """Returns x and y in pixels and depth (towards the viewer, in body heights), `[..., 3]` like the joints."""
        pitch = np.radians(self.pitch)
        x, y, z = np.moveaxis(joints, -1, 0)
        height, depth = y * np.cos(pitch) - z * np.sin(pitch), y * np.sin(pitch) + z * np.cos(pitch)
        return np.stack(
            [(self.x + self.scale * x) * image_size, (self.floor - self.scale * height) * image_size, depth], axis=-1
        )


def _edge(colour: Array) -> Array:
    """The rim's colour: darker than the part, or lighter where the part is nearly black."""
    return np.where(colour.mean(-1, keepdims=True) > 0.28, 0.6 * colour, 0.8 * colour + 0.2)


def _patch(low: Array, high: Array, size: int) -> tuple[Array, Array, NDArray[np.intp]]:
    """Pixel centres and indices of the smallest equal patches `[n, h, w]` that hold the boxes from `low` to `high`."""
    corner = np.floor(low).astype(np.intp)
    extent = np.minimum((np.ceil(high).astype(np.intp) - corner).max(0), size)
    corner = np.clip(corner, 0, size - extent)
    x = corner[:, 0, None] + np.arange(extent[0])
    y = corner[:, 1, None] + np.arange(extent[1])
    return (x + 0.5).astype(np.float32), (y + 0.5).astype(np.float32), y[:, :, None] * size + x[:, None, :]


class Canvas:
    """Frames `[F, size, size, 3]`, float32 in 0..1, that parts are painted onto from back to front."""

    def __init__(self, background: Array, num_frames: int, unit: float):
        """Args: background `[size, size, 3]`; frames; unit, pixels per body height."""
        self.size, self.unit = background.shape[0], unit
        self.frames = np.repeat(background[None], num_frames, axis=0)
        self._pixels = self.frames.reshape(num_frames, -1, 3)

    def shadow(self, centre: Array, radii: tuple[float, float], strength: float) -> None:
        """Darkens soft ellipses: centre `[F, 2]` in pixels, radii in body heights."""
        radius = np.array(radii, np.float32) * self.unit
        x, y, index = _patch(centre - 2 * radius, centre + 2 * radius, self.size)
        dx = np.exp(-(((x - centre[:, :1]) / radius[0]) ** 2))
        dy = np.exp(-(((y - centre[:, 1:]) / radius[1]) ** 2))
        frame = np.arange(len(self.frames))[:, None, None]
        self._pixels[frame, index] *= (1 - strength * dy[:, :, None] * dx[:, None, :])[..., None]

    def part(
        self, ends: list[tuple[Array, Array, float, float]], colour: Array, frames: NDArray[np.intp] | None = None
    ):
        """Paints one part of the body.

        Args:
            ends: Capsules (from `[F, 2]`, to `[F, 2]`, radius there, radius here): pixels, and body heights.
            colour: `[3]` or `[F, 3]`.
            frames: Which frames; all if None.
        """
        chosen = np.arange(len(self.frames)) if frames is None else frames
        if not len(chosen):
            return
        a = np.stack([end[0][chosen, :2] for end in ends], 1).astype(np.float32)  # [n, K, 2]
        b = np.stack([end[1][chosen, :2] for end in ends], 1).astype(np.float32)
        radius = np.array([end[2:] for end in ends], np.float32) * self.unit  # [K, 2]
        reach = radius.max(1)[:, None] + 1
        x, y, index = _patch((np.minimum(a, b) - reach).min(1), (np.maximum(a, b) + reach).max(1), self.size)

        inside = np.full(index.shape, -np.inf, np.float32)  # Distance to the edge, in pixels, positive inside.
        for k, (start, stop) in enumerate(radius):
            line = b[:, k] - a[:, k]
            scale = 1 / np.maximum((line**2).sum(1), 1e-6)
            px, py = x - a[:, k, :1], y - a[:, k, 1:]
            t = (px * (line[:, :1] * scale[:, None]))[:, None, :] + (py * (line[:, 1:] * scale[:, None]))[:, :, None]
            np.clip(t, 0, 1, out=t)
            dx = px[:, None, :] - t * line[:, 0, None, None]
            dy = py[:, :, None] - t * line[:, 1, None, None]
            np.maximum(inside, start + t * (stop - start) - np.sqrt(dx * dx + dy * dy), out=inside)

        cover = np.clip(inside + 0.5, 0, 1)[..., None]
        rim = np.clip(inside / (_OUTLINE * self.unit), 0, 1)[..., None]
        colour = np.broadcast_to(colour, (len(self.frames), 3))[chosen][:, None, None].astype(np.float32)
        frame = chosen[:, None, None]
        under = self._pixels[frame, index]
        self._pixels[frame, index] = under + cover * (_edge(colour) * (1 - rim) + colour * rim - under)


def background(scene: Scene, size: int) -> Array:
    """A wall or sky above a floor, each a vertical gradient, `[size, size, 3]`."""
    y = ((np.arange(size) + 0.5) / size).astype(np.float32)[:, None]
    up = y / scene.horizon
    down = (y - scene.horizon) / (1 - scene.horizon)
    wall = scene.wall_top + np.clip(up, 0, 1) * (scene.wall_bottom - scene.wall_top)
    floor = scene.floor_far + np.clip(down, 0, 1) * (scene.floor_near - scene.floor_far)
    below = np.clip((y - scene.horizon) * size + 0.5, 0, 1)
    return np.repeat((wall + below * (floor - wall)).astype(np.float32)[:, None], size, axis=1)


def _in_order(places: dict[str, Array], names: tuple[str, ...], depth_of: tuple[str, ...]) -> tuple[list, Array]:
    """The limbs of the two sides as (farther, nearer), each a dict of `[F, 3]`; and the nearer one's lead in depth."""
    depth = {
        side: sum(places[f"{side}_{name}"][:, 2] for name in depth_of) / len(depth_of) for side in ("left", "right")
    }
    left_far = (depth["left"] < depth["right"])[:, None]
    limbs = []
    for first in (left_far, ~left_far):
        limbs.append({n: np.where(first, places[f"left_{n}"], places[f"right_{n}"]) for n in names})
    return limbs, np.abs(depth["left"] - depth["right"])


def draw(
    joints: NDArray[np.float64], facing: Array, look: Look, scene: Scene, camera: Camera, image_size: int
) -> NDArray[np.uint8]:
    """Draws all frames of a clip.

    Args:
        joints: `[F, J, 3]` in body heights, see `taichi_motion.perform`.
        facing: `[F, 2]`: how far the head looks to the right of the picture and down, as parts of a unit vector.
        look: The performer.
        scene: The background.
        camera: Where all that is seen from.
        image_size: H = W.

    Returns:
        uint8 `[F, H, W, 3]`.
    """
    places = dict(zip(JOINTS, np.moveaxis(camera.project(joints, image_size), 1, 0), strict=True))
    unit = camera.scale * image_size
    canvas = Canvas(background(scene, image_size), len(joints), unit)
    floor = joints.copy()
    floor[..., 1] = 0
    below = dict(zip(JOINTS, np.moveaxis(camera.project(floor, image_size), 1, 0), strict=True))
    canvas.shadow(below["pelvis"][:, :2], (0.26, 0.05), 0.30)
    for side in ("left", "right"):
        canvas.shadow(below[f"{side}_ankle"][:, :2], (0.11, 0.03), 0.30)

    legs, leg_lead = _in_order(places, ("hip", "knee", "ankle", "toe"), ("knee", "ankle"))
    arms, arm_lead = _in_order(places, ("shoulder", "elbow", "wrist", "hand"), ("elbow", "wrist"))
    chest = 0.4 * places["pelvis"][:, 2] + 0.6 * places["neck"][:, 2]

    def shade(colour: Array, far: bool, lead: Array) -> Array:
        """Darkens the farther limb, the more the farther it is, so that no brightness jumps when limbs change places."""
        dark = (1 - _FAR_SHADE) * np.clip(lead / 0.16, 0, 1) if far else np.zeros_like(lead)
        return (colour * (1 - dark[:, None])).astype(np.float32)

    for far, leg in zip((True, False), legs, strict=True):
        _draw_leg(canvas, leg, look, lambda colour, far=far: shade(colour, far, leg_lead))
    behind = [(arm["elbow"][:, 2] + arm["wrist"][:, 2]) / 2 < chest for arm in arms]
    for far, arm, hidden in zip((True, False), arms, behind, strict=True):
        _draw_arm(canvas, arm, look, lambda colour, far=far: shade(colour, far, arm_lead), np.flatnonzero(hidden))
    _draw_torso(canvas, places, look)
    _draw_head(canvas, places, facing, look)
    for far, arm, hidden in zip((True, False), arms, behind, strict=True):
        _draw_arm(canvas, arm, look, lambda colour, far=far: shade(colour, far, arm_lead), np.flatnonzero(~hidden))
    return np.round(np.clip(canvas.frames, 0, 1) * 255).astype(np.uint8)


def _draw_leg(canvas: Canvas, leg: dict[str, Array], look: Look, shade) -> None:
    """A shoe and one wide trouser leg."""
    sole = leg["ankle"].copy()
    down = 0.018 * canvas.unit
    sole[:, 1] += down
    toe = leg["toe"].copy()
    toe[:, 1] += down
    canvas.part([(sole, toe, 0.026, 0.018)], shade(look.shoes))
    b = look.bulk
    canvas.part(
        [(leg["hip"], leg["knee"], 0.072 * b, 0.056 * b), (leg["knee"], leg["ankle"], 0.056 * b, 0.048 * b)],
        shade(look.trousers),
    )


def _draw_arm(canvas: Canvas, arm: dict[str, Array], look: Look, shade, frames: NDArray[np.intp]) -> None:
    """A hand and one sleeve that widens towards the wrist."""
    b = look.bulk
    canvas.part([(arm["wrist"], arm["hand"], 0.034, 0.028)], shade(look.skin), frames)
    canvas.part(
        [
            (arm["shoulder"], arm["elbow"], 0.046 * b, 0.042 * b),
            (arm["elbow"], 0.14 * arm["elbow"] + 0.86 * arm["wrist"], 0.042 * b, 0.044 * b),
        ],
        shade(look.jacket),
        frames,
    )


def _draw_torso(canvas: Canvas, places: dict[str, Array], look: Look) -> None:
    """The neck, the jacket from the shoulders to below the hips, and a sash."""
    b = look.bulk
    pelvis, neck = places["pelvis"], places["neck"]
    left, right = places["left_shoulder"], places["right_shoulder"]
    left_hip, right_hip = places["left_hip"], places["right_hip"]
    canvas.part([(neck, 0.5 * neck + 0.5 * places["head"], 0.03, 0.03)], look.skin)
    drop = 0.05 * (pelvis - neck)
    hem = 0.26 * (pelvis - neck)
    canvas.part(
        [
            (left + drop, right + drop, 0.045 * b, 0.045 * b),
            (left + drop, 0.6 * left_hip + 0.4 * pelvis, 0.05 * b, 0.055 * b),
            (right + drop, 0.6 * right_hip + 0.4 * pelvis, 0.05 * b, 0.055 * b),
            (neck + 2 * drop, pelvis, 0.06 * b, 0.085 * b),
            (left_hip, left_hip + hem, 0.066 * b, 0.066 * b),
            (right_hip, right_hip + hem, 0.066 * b, 0.066 * b),
            (left_hip + hem, right_hip + hem, 0.066 * b, 0.066 * b),
        ],
        look.jacket,
    )
    waist = 0.8 * pelvis + 0.2 * neck
    across = 0.75 * (left_hip - right_hip) + 0.25 * (left - right)
    canvas.part([(waist - 0.55 * across, waist + 0.55 * across, 0.026, 0.026)], look.sash)


def _draw_head(canvas: Canvas, places: dict[str, Array], facing: Array, look: Look) -> None:
    """Hair behind and above a face that looks where the torso does."""
    r = look.head
    head = places["head"][:, :2]
    step = (r * canvas.unit * facing).astype(np.float32)
    up = np.array([0.0, -r * canvas.unit], np.float32)
    if look.hair_style == "bun":
        canvas.part([(head - 0.7 * step + 1.15 * up, head - 0.7 * step + 1.15 * up, 0.42 * r, 0.42 * r)], look.hair)
    if look.hair_style != "bald":
        back = head - 0.30 * step
        low = -0.35 * up if look.hair_style == "long" else 0.0 * up
        canvas.part([(back + 0.22 * up, back + low, 1.0 * r, 1.0 * r)], look.hair)
    face = head + 0.22 * step
    scale = 1.0 if look.hair_style == "bald" else 0.84
    canvas.part([(face + 0.02 * up, face - 0.28 * up, scale * r, 0.74 * r)], look.skin)
