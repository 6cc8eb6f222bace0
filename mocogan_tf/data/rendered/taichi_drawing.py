"""Draws a dressed figure and its background from joint positions: signed distances, antialiased, all frames at once.

Every part of the body is a union of capsules with a radius at either end. Only the pixels of one small patch per frame
are computed, so the cost grows with the figure, not with the picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.data.rendered.taichi_motion import JOINTS

Array = NDArray[np.floating]
Points = dict[str, Array]  # [F, 3]: x and y in pixels, depth in body heights.
Capsule = tuple[Array, Array, float, float]  # From and to, [F, 2] in pixels; the radii there, in body heights.

_OUTLINE = 0.016  # Width of a part's darker rim, in body heights; it keeps an arm visible in front of the jacket.
_FAR_BRIGHTNESS, _FAR = 0.80, 0.16  # A limb that is 0.16 body heights behind its partner is this bright.


@dataclasses.dataclass(frozen=True)
class Look:
    """A performer's looks: colours (RGB in 0..1), widths (in body heights) and hair."""

    skin: Array
    hair: Array
    jacket: Array
    trousers: Array
    sash: Array
    shoes: Array
    bulk: float = 1.0  # Factor on all widths of the clothes.
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
        x: Middle of the stance, as a fraction of the picture's width from the left.
        floor: Floor below it, as a fraction of the picture's height from the top.
        pitch: Degrees by which it looks downwards.
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
    """Returns the rim's colour: darker than the part, or lighter if the part is nearly black."""
    return np.where(colour.mean(-1, keepdims=True) > 0.28, 0.6 * colour, 0.8 * colour + 0.2)


def _patch(low: Array, high: Array, size: int) -> tuple[Array, Array, NDArray[np.intp]]:
    """Returns pixel centres and indices of the smallest equal patches `[n, h, w]` that hold boxes `low` to `high`."""
    corner = np.floor(low).astype(np.intp)
    extent = np.minimum((np.ceil(high).astype(np.intp) - corner).max(0), size)
    corner = np.clip(corner, 0, size - extent)
    x = corner[:, 0, None] + np.arange(extent[0])
    y = corner[:, 1, None] + np.arange(extent[1])
    return (x + 0.5).astype(np.float32), (y + 0.5).astype(np.float32), y[:, :, None] * size + x[:, None, :]


class Canvas:
    """Frames `[F, size, size, 3]`, float32 in 0..1; parts are painted onto them from back to front."""

    def __init__(self, background: Array, num_frames: int, unit: float):
        """Starts with a background `[size, size, 3]` in all frames; `unit` is pixels per body height."""
        self.size, self.unit = background.shape[0], unit
        self.frames = np.repeat(background[None], num_frames, axis=0)
        self._pixels = self.frames.reshape(num_frames, -1, 3)

    def shadow(self, centre: Array, radii: tuple[float, float], strength: float) -> None:
        """Darkens a soft ellipse per frame: `centre` `[F, 2]` in pixels, outer `radii` in body heights."""
        radius = np.array(radii, np.float32) * self.unit
        x, y, index = _patch(centre - radius, centre + radius, self.size)
        dx = np.clip(1 - ((x - centre[:, :1]) / radius[0]) ** 2, 0, 1) ** 2
        dy = np.clip(1 - ((y - centre[:, 1:]) / radius[1]) ** 2, 0, 1) ** 2
        frame = np.arange(len(self.frames))[:, None, None]
        self._pixels[frame, index] *= (1 - strength * dy[:, :, None] * dx[:, None, :])[..., None]

    def part(self, capsules: list[Capsule], colour: Array, frames: NDArray[np.intp] | None = None) -> None:
        """Paints one part of the body.

        Args:
            capsules: The part is their union.
            colour: RGB, `[3]` or `[F, 3]`.
            frames: Numbers of the frames to paint; None: all.
        """
        chosen = np.arange(len(self.frames)) if frames is None else frames
        if not len(chosen):
            return
        a = np.stack([start[chosen, :2] for start, *_ in capsules], 1).astype(np.float32)  # [n, K, 2]
        b = np.stack([stop[chosen, :2] for _, stop, *_ in capsules], 1).astype(np.float32)
        radius = np.array([radii for _, _, *radii in capsules], np.float32) * self.unit  # [K, 2]
        reach = radius.max(1)[:, None] + 1
        x, y, index = _patch((np.minimum(a, b) - reach).min(1), (np.maximum(a, b) + reach).max(1), self.size)

        inside = np.full(index.shape, -np.inf, np.float32)  # Distance to the edge, in pixels, positive inside.
        for k, (thick, thin) in enumerate(radius):
            line = b[:, k] - a[:, k]
            scale = 1 / np.maximum((line**2).sum(1), 1e-6)
            px, py = x - a[:, k, :1], y - a[:, k, 1:]
            t = (px * (line[:, :1] * scale[:, None]))[:, None, :] + (py * (line[:, 1:] * scale[:, None]))[:, :, None]
            np.clip(t, 0, 1, out=t)
            dx = px[:, None, :] - t * line[:, 0, None, None]
            dy = py[:, :, None] - t * line[:, 1, None, None]
            np.maximum(inside, thick + t * (thin - thick) - np.sqrt(dx * dx + dy * dy), out=inside)

        cover = np.clip(inside + 0.5, 0, 1)[..., None]
        rim = np.clip(inside / (_OUTLINE * self.unit), 0, 1)[..., None]
        colour = np.broadcast_to(colour, (len(self.frames), 3))[chosen][:, None, None].astype(np.float32)
        frame = chosen[:, None, None]
        under = self._pixels[frame, index]
        self._pixels[frame, index] = under + cover * (_edge(colour) * (1 - rim) + colour * rim - under)


def background(scene: Scene, size: int) -> Array:
    """Returns a wall or sky above a floor, each a vertical gradient, `[size, size, 3]`."""
    y = ((np.arange(size) + 0.5) / size).astype(np.float32)[:, None]
    up = y / scene.horizon
    down = (y - scene.horizon) / (1 - scene.horizon)
    wall = scene.wall_top + np.clip(up, 0, 1) * (scene.wall_bottom - scene.wall_top)
    floor = scene.floor_far + np.clip(down, 0, 1) * (scene.floor_near - scene.floor_far)
    below = np.clip((y - scene.horizon) * size + 0.5, 0, 1)
    return np.repeat((wall + below * (floor - wall)).astype(np.float32)[:, None], size, axis=1)


def _far_and_near(places: Points, names: tuple[str, ...], depth_of: tuple[str, str]) -> list[tuple[Points, Array]]:
    """Returns the farther and the nearer limb of a pair: its joints, each `[F, 3]`, and its brightness `[F, 1]`.

    The farther a limb is behind the other, the darker it is, so brightness does not jump when they change places.
    """
    left, right = (sum(places[f"{side}_{name}"][:, 2:] for name in depth_of) / 2 for side in ("left", "right"))
    brightness = 1 - (1 - _FAR_BRIGHTNESS) * np.clip(np.abs(left - right) / _FAR, 0, 1)
    return [
        ({name: np.where(first, places[f"left_{name}"], places[f"right_{name}"]) for name in names}, shade)
        for first, shade in ((left < right, brightness), (left >= right, np.ones_like(brightness)))
    ]


def draw(
    joints: NDArray[np.float64], facing: Array, look: Look, scene: Scene, camera: Camera, image_size: int
) -> NDArray[np.uint8]:
    """Draws all frames of a clip.

    Args:
        joints: `[F, J, 3]` in body heights, see `taichi_motion.perform`.
        facing: `[F, 2]`: the part of the unit vector of sight that points right and down in the picture.
        look: The performer.
        scene: The background.
        camera: The point of view.
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
    canvas.shadow(below["pelvis"][:, :2], (0.44, 0.085), 0.32)
    for side in ("left", "right"):
        canvas.shadow(below[f"{side}_ankle"][:, :2], (0.18, 0.05), 0.32)

    for leg, brightness in _far_and_near(places, ("hip", "knee", "ankle", "toe"), ("knee", "ankle")):
        _draw_leg(canvas, leg, brightness, look)
    arms = _far_and_near(places, ("shoulder", "elbow", "wrist", "hand"), ("elbow", "wrist"))
    chest = 0.4 * places["pelvis"][:, 2] + 0.6 * places["neck"][:, 2]
    behind = [(arm["elbow"][:, 2] + arm["wrist"][:, 2]) / 2 < chest for arm, _ in arms]
    for (arm, brightness), hidden in zip(arms, behind, strict=True):
        _draw_arm(canvas, arm, brightness, look, np.flatnonzero(hidden))
    _draw_torso(canvas, places, look)
    _draw_head(canvas, places, facing, look)
    for (arm, brightness), hidden in zip(arms, behind, strict=True):
        _draw_arm(canvas, arm, brightness, look, np.flatnonzero(~hidden))
    return np.round(np.clip(canvas.frames, 0, 1) * 255).astype(np.uint8)


def _draw_leg(canvas: Canvas, leg: Points, brightness: Array, look: Look) -> None:
    """Draws a shoe and one wide trouser leg."""
    b = look.bulk
    down = np.array([0.0, 0.018 * canvas.unit])
    canvas.part([(leg["ankle"][:, :2] + down, leg["toe"][:, :2] + down, 0.026, 0.018)], brightness * look.shoes)
    canvas.part(
        [(leg["hip"], leg["knee"], 0.072 * b, 0.056 * b), (leg["knee"], leg["ankle"], 0.056 * b, 0.048 * b)],
        brightness * look.trousers,
    )


def _draw_arm(canvas: Canvas, arm: Points, brightness: Array, look: Look, frames: NDArray[np.intp]) -> None:
    """Draws, in the given frames, a hand and one sleeve that widens towards the wrist."""
    b = look.bulk
    cuff = 0.14 * arm["elbow"] + 0.86 * arm["wrist"]
    canvas.part([(arm["wrist"], arm["hand"], 0.034, 0.028)], brightness * look.skin, frames)
    canvas.part(
        [(arm["shoulder"], arm["elbow"], 0.046 * b, 0.042 * b), (arm["elbow"], cuff, 0.042 * b, 0.044 * b)],
        brightness * look.jacket,
        frames,
    )


def _draw_torso(canvas: Canvas, places: Points, look: Look) -> None:
    """Draws the neck, the jacket from the shoulders to below the hips, and a sash."""
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
    across = 0.41 * (left_hip - right_hip) + 0.14 * (left - right)
    canvas.part([(waist - across, waist + across, 0.026, 0.026)], look.sash)


def _draw_head(canvas: Canvas, places: Points, facing: Array, look: Look) -> None:
    """Draws hair behind and above a face that looks where the torso does."""
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
