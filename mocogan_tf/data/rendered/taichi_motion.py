"""Tai-Chi forms as keyframed joint angles, and the skeleton that performs them.

A form is a cycle of key poses. Arms and torso are keyed by joint angles, legs by the places of pelvis and feet.
Two-bone inverse kinematics then finds the knees, so that a foot that carries weight does not slide. Between keys every
number follows a periodic monotone cubic (Fritsch and Carlson 1980): it rests at the turning points, as the movement
does, and never overshoots, so that no foot sinks into the floor.

Lengths are in body heights. World axes: x to the right of the picture, y up, z towards the viewer.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SIDED = ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "toe")
JOINTS = ("head", "neck", "pelvis", *(f"left_{name}" for name in _SIDED), *(f"right_{name}" for name in _SIDED))
BONES = (
    ("pelvis", "neck"),
    ("neck", "head"),
    *(
        (f"{side}_{a}", f"{side}_{b}")
        for side in ("left", "right")
        for a, b in (
            ("shoulder", "elbow"),
            ("elbow", "wrist"),
            ("wrist", "hand"),
            ("hip", "knee"),
            ("knee", "ankle"),
            ("ankle", "toe"),
        )
    ),
)
ANKLE_HEIGHT = 0.04


@dataclasses.dataclass(frozen=True)
class Proportions:
    """Lengths of one body, in body heights."""

    leg: float = 0.49  # Hip to ankle, stretched.
    torso: float = 0.29
    neck: float = 0.10  # To the middle of the head.
    shoulders: float = 0.105  # Half the width.
    hips: float = 0.055  # Half the width.
    upper_arm: float = 0.155
    forearm: float = 0.145
    hand: float = 0.06
    foot: float = 0.10


@dataclasses.dataclass(frozen=True)
class Arm:
    """Directions of an arm, in degrees and seen from the torso: (azimuth from forward to outward, elevation)."""

    upper: tuple[float, float]
    forearm: tuple[float, float]
    bend: float = 0.0  # Degrees of the hand upwards from the forearm.


@dataclasses.dataclass(frozen=True)
class Foot:
    """The place of an ankle, in leg lengths, and the direction of the foot, in degrees."""

    left: float  # To the performer's left.
    forward: float
    yaw: float = 0.0  # To the performer's left.
    lift: float = 0.0
    pitch: float = 0.0  # Upwards.


@dataclasses.dataclass(frozen=True)
class Pose:
    """One key of a form, at a time in [0, 1) of its cycle."""

    time: float
    pelvis: tuple[float, float, float]  # Left, forward, height above the ankles, in leg lengths.
    left_arm: Arm
    right_arm: Arm
    left_foot: Foot
    right_foot: Foot
    torso: tuple[float, float, float] = (0.0, 0.0, 0.0)  # Yaw to the left, lean forward, lean to the left; degrees.


@dataclasses.dataclass(frozen=True)
class Form:
    """A cycle of key poses.

    Args:
        facing: Direction in degrees that the performer faces: 0 to the viewer, 90 to the picture's right.
        poses: The keys in order of time.
        shift: World x of the stance, in body heights; it centres the whole movement in the picture.
        pace: Factor on the tempo, smaller if a cycle has more movement.
    """

    facing: float
    poses: tuple[Pose, ...]
    shift: float = 0.0
    pace: float = 1.0


def _raise_hands() -> Form:
    """Commencing: both arms float up to the shoulders, draw in and press down as the knees bend."""
    left, right = Foot(0.24, 0.0, 8), Foot(-0.24, 0.0, -8)

    def pose(time: float, height: float, arm: Arm, lean: float = 0.0) -> Pose:
        return Pose(time, (0.0, -0.03, height), arm, arm, left, right, (0.0, lean, 0.0))

    return Form(
        48.0,
        (
            pose(0.0, 0.76, Arm((8, -72), (0, -22), 12), 3),
            pose(0.22, 0.84, Arm((5, -60), (0, -38), -25), 1),
            pose(0.50, 0.95, Arm((4, 2), (0, 10), -35)),
            pose(0.72, 0.88, Arm((10, -42), (0, 18), 20)),
        ),
        shift=-0.09,
    )


def _cloud_hands() -> Form:
    """Wave hands like clouds: the hands circle in turn before face and belly as the weight shifts from side to side."""
    left, right = Foot(0.46, 0.0, 25), Foot(-0.46, 0.0, -25)
    circle = (  # One hand, from before the face outwards, down, and back across the belly.
        Arm((25, -18), (-38, 42), 10),
        Arm((52, -18), (20, 40), 10),
        Arm((70, -30), (58, 18), 10),
        Arm((64, -50), (34, -34), -5),
        Arm((36, -70), (-10, -40), 0),
        Arm((16, -68), (-50, -12), 0),
        Arm((8, -52), (-62, 12), 5),
        Arm((10, -32), (-58, 32), 10),
    )
    poses = []
    for k in range(8):
        sway, turn = np.sin(2 * np.pi * k / 8), np.sin(2 * np.pi * k / 8)
        poses.append(
            Pose(
                k / 8,
                (0.15 * float(sway), 0.0, 0.76),
                circle[k],
                circle[(k + 4) % 8],
                left,
                right,
                (22 * float(turn), 3.0, 0.0),
            )
        )
    return Form(0.0, tuple(poses), pace=0.85)


def _wild_horse() -> Form:
    """Part the wild horse's mane: from holding a ball over the back leg into a bow stance, one arm sweeping up."""
    left, right = Foot(0.13, 0.54, 0), Foot(-0.13, -0.40, -40)

    def pose(
        time: float, pelvis: tuple[float, float, float], left_arm: Arm, right_arm: Arm, yaw: float, lean: float
    ) -> Pose:
        return Pose(time, pelvis, left_arm, right_arm, left, right, (yaw, lean, 0.0))

    hold = pose(0.0, (0.0, -0.16, 0.71), Arm((5, -72), (-55, -10)), Arm((45, -22), (-62, 5)), -32, -2)
    part = pose(0.5, (0.0, 0.27, 0.66), Arm((12, -8), (0, 34), 5), Arm((75, -66), (40, -52), 35), 15, 6)
    return Form(
        62.0,
        (
            hold,
            pose(0.25, (0.0, 0.05, 0.70), Arm((8, -50), (-25, 5)), Arm((60, -50), (-5, -22), 10), -8, 2),
            part,
            pose(0.75, (0.0, 0.05, 0.70), Arm((10, -45), (-20, 15)), Arm((65, -42), (-20, -10), 10), -8, 2),
        ),
        shift=-0.10,
    )


def _golden_rooster() -> Form:
    """Golden rooster stands on one leg: knee and hand of one side rise together, the other hand presses down."""
    left = Foot(0.12, 0.0, 18)

    def pose(time: float, pelvis: tuple[float, float, float], left_arm: Arm, right_arm: Arm, right_foot: Foot) -> Pose:
        return Pose(time, pelvis, left_arm, right_arm, left, right_foot, (0.0, 0.0, 0.0))

    low = Arm((20, -68), (5, -42), 10)
    press = Arm((120, -72), (35, -48), 45)
    down, up = Foot(-0.16, -0.10, -15), Foot(-0.10, 0.40, 5, 0.60, -40)
    return Form(
        64.0,
        (
            pose(0.0, (0.0, -0.05, 0.80), Arm((12, -50), (-10, 0), 5), low, down),
            pose(0.14, (0.08, -0.03, 0.84), Arm((20, -58), (-5, -15), 10), Arm((15, -60), (0, -15), 10), down),
            pose(0.45, (0.12, 0.0, 0.965), press, Arm((6, -6), (4, 50), 16), up),
            pose(0.60, (0.12, 0.0, 0.965), press, Arm((6, -6), (4, 50), 16), up),
            pose(0.88, (0.08, -0.03, 0.86), Arm((20, -58), (-5, -15), 10), Arm((15, -60), (0, -10), 10), down),
        ),
        shift=-0.09,
    )


def _snake_creeps_down() -> Form:
    """From the single whip, arms wide, the body sinks onto one leg and the hand glides along the other."""
    left, right = Foot(0.62, 0.05, 55), Foot(-0.42, 0.0, -50)

    def pose(
        time: float, pelvis: tuple[float, float, float], left_arm: Arm, hook: Arm, torso: tuple[float, float, float]
    ) -> Pose:
        return Pose(time, pelvis, left_arm, hook, left, right, torso)

    whip = Arm((78, -4), (66, 12), 35)
    return Form(
        -8.0,
        (
            pose(0.0, (0.13, 0.0, 0.80), whip, Arm((88, 2), (92, -2), -75), (8, 0, 0)),
            pose(0.25, (-0.10, -0.04, 0.66), Arm((70, -22), (-10, 8), 10), Arm((92, 8), (96, 4), -75), (2, 4, 4)),
            pose(
                0.52, (-0.24, -0.08, 0.40), Arm((62, -38), (62, -34), 5), Arm((100, 22), (104, 16), -75), (15, 14, 22)
            ),
            pose(0.78, (0.00, -0.04, 0.58), Arm((68, -18), (58, 2), 20), Arm((92, 10), (96, 4), -75), (12, 6, 10)),
        ),
    )


FORMS = {
    "raise_hands": _raise_hands(),
    "cloud_hands": _cloud_hands(),
    "wild_horse": _wild_horse(),
    "golden_rooster": _golden_rooster(),
    "snake_creeps_down": _snake_creeps_down(),
}


def _flatten(pose: Pose) -> list[float]:
    numbers: list[float] = [*pose.pelvis, *pose.torso]
    for arm in (pose.left_arm, pose.right_arm):
        numbers += [*arm.upper, *arm.forearm, arm.bend]
    for foot in (pose.left_foot, pose.right_foot):
        numbers += [foot.left, foot.forward, foot.yaw, foot.lift, foot.pitch]
    return numbers


def interpolate(times: Array, values: Array, phase: Array) -> Array:
    """Evaluates a periodic monotone cubic through keys.

    Args:
        times: `[K]`, ascending in [0, 1).
        values: `[K, D]`.
        phase: `[F]`, in cycles; only the fraction counts.

    Returns:
        `[F, D]`.
    """
    steps = np.diff(np.append(times, times[0] + 1))[:, None]
    slopes = (np.roll(values, -1, 0) - values) / steps
    before, step_before = np.roll(slopes, 1, 0), np.roll(steps, 1, 0)
    weight, weight_before = 2 * steps + step_before, steps + 2 * step_before
    turning = before * slopes <= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (weight + weight_before) / (weight / before + weight_before / slopes)
    tangents = np.where(turning, 0.0, mean)

    phase = (phase - times[0]) % 1.0 + times[0]
    k = np.searchsorted(times, phase, side="right") - 1
    after = (k + 1) % len(times)
    step = steps[k]
    s = (phase - times[k])[:, None] / step
    positions = (1 + 2 * s) * (1 - s) ** 2 * values[k] + s**2 * (3 - 2 * s) * values[after]
    return np.asarray(positions + step * s * (s - 1) * ((s - 1) * tangents[k] + s * tangents[after]))


def _direction(azimuth: Array, elevation: Array, forward: Array, outward: Array, up: Array) -> Array:
    """Returns unit vectors `[F, 3]` from angles `[F]` in degrees and axes `[F, 3]`."""
    a, e = np.radians(azimuth)[:, None], np.radians(elevation)[:, None]
    return np.asarray(np.cos(e) * (np.cos(a) * forward + np.sin(a) * outward) + np.sin(e) * up)


def _knee(hip: Array, ankle: Array, bone: float, forward: Array) -> Array:
    """Returns the knees `[F, 3]` of legs with two equal bones that bend towards `forward`."""
    line = ankle - hip
    distance = np.linalg.norm(line, axis=1, keepdims=True)
    along = line / distance
    pole = forward - (forward * along).sum(1, keepdims=True) * along
    pole /= np.linalg.norm(pole, axis=1, keepdims=True)
    return np.asarray(hip + line / 2 + np.sqrt(np.maximum(bone**2 - (distance / 2) ** 2, 0.0)) * pole)


def perform(form: str, phase: Array, body: Proportions, turn: float = 0.0) -> Array:
    """Places the skeleton.

    Args:
        form: A key of `FORMS`.
        phase: `[F]`, in cycles.
        body: Proportions of the performer.
        turn: Degrees by which the performer is turned further to the picture's right.

    Returns:
        float64 `[F, J, 3]`, the `JOINTS` in body heights; the floor is y = 0 and the stance is about x = z = 0.
    """
    poses = FORMS[form].poses
    times = np.array([pose.time for pose in poses])
    numbers = interpolate(times, np.array([_flatten(pose) for pose in poses], float), np.asarray(phase, float)).T
    pelvis_at, (twist, lean, tilt), arms, feet = numbers[:3], numbers[3:6], numbers[6:16], numbers[16:]

    def heading(yaw: Array) -> tuple[Array, Array]:
        """Horizontal forward and left axes `[F, 3]`; positive yaw turns to the performer's left."""
        angle = np.radians(FORMS[form].facing + turn + yaw)
        zero = np.zeros_like(angle)
        forward = np.stack([np.sin(angle), zero, np.cos(angle)], 1)
        return forward, np.stack([np.cos(angle), zero, -np.sin(angle)], 1)

    stage_forward, stage_left = heading(np.zeros_like(twist))
    y = np.array([0.0, 1.0, 0.0])

    def on_stage(left: Array, forward: Array, height: Array) -> Array:
        flat = body.leg * (left[:, None] * stage_left + forward[:, None] * stage_forward)
        return np.asarray(flat + height[:, None] * y + [FORMS[form].shift, 0.0, 0.0])

    joints: dict[str, Array] = {}
    pelvis = on_stage(pelvis_at[0], pelvis_at[1], ANKLE_HEIGHT + body.leg * pelvis_at[2])
    flat_forward, flat_left = heading(twist)
    up = np.cos(np.radians(lean))[:, None] * y + np.sin(np.radians(lean))[:, None] * flat_forward
    up = np.cos(np.radians(tilt))[:, None] * up + np.sin(np.radians(tilt))[:, None] * flat_left
    left = np.cross(up, flat_forward)
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    forward = np.cross(left, up)
    joints["pelvis"], joints["neck"] = pelvis, pelvis + body.torso * up
    joints["head"] = joints["neck"] + body.neck * (0.6 * up + 0.4 * y) / np.linalg.norm(
        0.6 * up + 0.4 * y, axis=1, keepdims=True
    )

    _, hip_left = heading(0.5 * twist)
    for k, (side, sign) in enumerate((("left", 1.0), ("right", -1.0))):
        azimuth, elevation, fore_azimuth, fore_elevation, bend = arms[5 * k : 5 * k + 5]
        shoulder = joints["neck"] - 0.035 * up + sign * body.shoulders * left
        elbow = shoulder + body.upper_arm * _direction(azimuth, elevation, forward, sign * left, up)
        wrist = elbow + body.forearm * _direction(fore_azimuth, fore_elevation, forward, sign * left, up)
        hand = wrist + body.hand * _direction(fore_azimuth, fore_elevation + bend, forward, sign * left, up)

        u, w, yaw, lift, pitch = feet[5 * k : 5 * k + 5]
        toe_forward, _ = heading(yaw)
        hip = pelvis + sign * body.hips * hip_left
        ankle = on_stage(u, w, ANKLE_HEIGHT + body.leg * lift)
        knee = _knee(hip, ankle, body.leg / 2, toe_forward)
        tilt_toe = np.radians(pitch)[:, None]
        toe = ankle + body.foot * (np.cos(tilt_toe) * toe_forward + np.sin(tilt_toe) * y)
        for name, place in zip(_SIDED, (shoulder, elbow, wrist, hand, hip, knee, ankle, toe), strict=True):
            joints[f"{side}_{name}"] = place
    return np.stack([joints[name] for name in JOINTS], axis=1)
