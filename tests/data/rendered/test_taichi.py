"""The Tai-Chi figure: its clips, its body, its movements, and the separation of content and motion."""

import numpy as np
import pytest

from mocogan_tf.data.rendered import taichi
from mocogan_tf.data.rendered.taichi_motion import ANKLE_HEIGHT, BONES, FORMS, JOINTS, Proportions, interpolate, perform

pytestmark = pytest.mark.core

BODIES = [
    Proportions(),
    Proportions(leg=0.465, torso=0.315, hips=0.048, upper_arm=0.146, forearm=0.136),
    Proportions(leg=0.505, torso=0.275, hips=0.062, upper_arm=0.164, forearm=0.154),
]
CYCLE = np.arange(60) / 60


def joint(positions, name):
    return positions[..., JOINTS.index(name), :]


def lengths(positions):
    """`[F, bones]`."""
    return np.stack([np.linalg.norm(joint(positions, a) - joint(positions, b), axis=-1) for a, b in BONES], axis=-1)


@pytest.fixture(scope="module")
def clips():
    return [taichi.render_clip(i, seed=7) for i in range(60)]


# The clip.


def test_a_clip_is_a_function_of_seed_and_index():
    first = taichi.render_clip(5, seed=1)
    taichi.render_clip(99, seed=3)
    np.testing.assert_array_equal(taichi.render_clip(5, seed=1).frames, first.frames)
    assert not np.array_equal(taichi.render_clip(6, seed=1).frames, first.frames)
    assert not np.array_equal(taichi.render_clip(5, seed=2).frames, first.frames)
    assert not np.array_equal(taichi.render_clip(1, seed=5).frames, first.frames)


def test_a_longer_clip_begins_with_the_shorter():
    for index in range(6):
        long = taichi.render_clip(index, seed=2, num_frames=64)
        for num_frames in (1, 7, 31):
            short = taichi.render_clip(index, seed=2, num_frames=num_frames)
            np.testing.assert_array_equal(short.frames, long.frames[:num_frames])
            np.testing.assert_array_equal(short.truth["joints"], long.truth["joints"][:num_frames])


def test_shapes_types_and_room_for_random_starts(clips):
    assert taichi.NUM_FRAMES > 1 + 15 * 2
    for clip in clips:
        assert clip.frames.shape == (taichi.NUM_FRAMES, 64, 64, 3) and clip.frames.dtype == np.uint8
        assert clip.truth["joints"].shape == (taichi.NUM_FRAMES, len(JOINTS), 2)
        assert clip.truth["form"] == taichi.CATEGORIES[clip.label]


@pytest.mark.slow
def test_forms_and_sides_are_balanced():
    truths = [taichi.render_clip(i, seed=3, num_frames=1) for i in range(500)]
    shares = np.bincount([clip.label for clip in truths], minlength=len(taichi.CATEGORIES)) / len(truths)
    assert len(taichi.CATEGORIES) >= 4
    assert np.abs(shares - 1 / len(taichi.CATEGORIES)).max() < 5 * np.sqrt(0.2 * 0.8 / 500)
    assert abs(np.mean([clip.truth["side"] == "left" for clip in truths]) - 0.5) < 5 * np.sqrt(0.25 / 500)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"image_size": 48}, "image_size=48"),
        ({"seed": 2**64}, "seed=18446744073709551616"),
        ({"index": 1.5}, "index=1.5"),
    ],
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        taichi.render_clip(**{"index": 0, "seed": 0, **bad})


# The body.


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("form", FORMS)
def test_bones_keep_their_lengths(form, body):
    bones = lengths(perform(form, CYCLE, body))
    assert np.ptp(bones, axis=0).max() < 1e-9
    legs = [k for k, bone in enumerate(BONES) if bone[0].endswith(("hip", "knee"))]
    np.testing.assert_allclose(bones[:, legs], body.leg / 2)  # So no leg had to stretch to reach its foot.


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("form", FORMS)
def test_feet_on_the_floor_do_not_slide_and_none_goes_below_it(form, body):
    positions = perform(form, np.arange(240) / 240, body)
    ankles = np.stack([joint(positions, "left_ankle"), joint(positions, "right_ankle")], axis=1)  # [F, 2, 3]
    assert ankles[..., 1].min() > ANKLE_HEIGHT - 1e-9
    grounded = ankles[..., 1] < ANKLE_HEIGHT + 1e-9
    assert grounded.any(axis=1).all()
    both = grounded & np.roll(grounded, 1, axis=0)
    steps = np.linalg.norm(ankles - np.roll(ankles, 1, axis=0), axis=-1)
    assert steps[both].max() < 1e-9


def test_only_the_golden_rooster_stands_on_one_leg():
    for form in FORMS:
        positions = perform(form, CYCLE, Proportions())
        lift = max(np.ptp(joint(positions, f"{side}_ankle")[:, 1]) for side in ("left", "right"))
        assert (lift > 0.2) == (form == "golden_rooster")


def features(form):
    """What tells a form apart, in body heights: over a whole cycle, seen from the performer."""
    positions = perform(form, CYCLE, Proportions())
    left, right = joint(positions, "left_hand"), joint(positions, "right_hand")
    pelvis = joint(positions, "pelvis")
    feet = joint(positions, "left_ankle") - joint(positions, "right_ankle")
    hands = left[:, 1] - right[:, 1]
    return {
        "hands differ in height": np.abs(hands).max(),
        "hands take turns": hands.max() > 0.1 and hands.min() < -0.1,
        "pelvis sinks": np.ptp(pelvis[:, 1]),
        "pelvis travels": np.ptp(pelvis[:, [0, 2]], axis=0).max(),
        "feet apart": np.linalg.norm(feet[:, [0, 2]], axis=1).min(),
        "foot lifted": max(np.ptp(joint(positions, f"{side}_ankle")[:, 1]) for side in ("left", "right")),
    }


def test_each_form_moves_as_its_name_says():
    found = {form: features(form) for form in FORMS}
    assert list(FORMS) == ["raise_hands", "cloud_hands", "wild_horse", "golden_rooster", "snake_creeps_down"]

    def only(form, test):
        assert [name for name, seen in found.items() if test(seen)] == [form]

    only("raise_hands", lambda seen: seen["hands differ in height"] < 1e-6)  # Both hands rise together.
    only("cloud_hands", lambda seen: seen["hands take turns"] and seen["pelvis sinks"] < 0.01)
    only("wild_horse", lambda seen: seen["pelvis travels"] > 0.165 and seen["pelvis sinks"] < 0.1)  # Into a bow stance.
    only("golden_rooster", lambda seen: seen["foot lifted"] > 0.2)
    only("snake_creeps_down", lambda seen: seen["pelvis sinks"] > 0.15)


@pytest.mark.parametrize("form", FORMS)
def test_knees_bend_forward(form):
    positions = perform(form, CYCLE, Proportions())
    for side in ("left", "right"):
        hip, knee, ankle, toe = (joint(positions, f"{side}_{name}") for name in ("hip", "knee", "ankle", "toe"))
        ahead = (toe - ankle) * [1, 0, 1]
        assert (((knee - (hip + ankle) / 2) * ahead).sum(-1) > 0).all()


def test_interpolation_passes_through_its_keys_without_overshoot():
    times, values = np.array([0.1, 0.3, 0.8]), np.array([[0.0, 5.0], [0.0, -1.0], [1.0, 2.0]])
    np.testing.assert_allclose(interpolate(times, values, times), values, atol=1e-12)
    np.testing.assert_allclose(interpolate(times, values, times + 3), values, atol=1e-12)
    dense = interpolate(times, values, np.linspace(0, 2, 999))
    assert (dense >= values.min(0) - 1e-12).all() and (dense <= values.max(0) + 1e-12).all()
    flat = (np.linspace(0, 1, 999) > 0.1) & (np.linspace(0, 1, 999) < 0.3)
    assert np.abs(interpolate(times, values, np.linspace(0, 1, 999))[flat, 0]).max() < 1e-12


def test_interpolation_agrees_with_scipy():
    pchip = pytest.importorskip("scipy.interpolate").PchipInterpolator
    rng = np.random.default_rng(0)
    times, values = np.sort(rng.random(7)), rng.normal(size=(7, 3))
    # Three periods, so that the ends, which are not periodic there, are out of sight.
    reference = pchip(np.concatenate([times - 1, times, times + 1]), np.tile(values, (3, 1)))
    phase = np.linspace(0, 1, 200, endpoint=False)
    np.testing.assert_allclose(interpolate(times, values, phase), reference(phase), atol=1e-12)


# The movement.


def test_joints_stay_inside_the_picture(clips):
    for clip in clips:
        assert clip.truth["joints"].min() > 0.5
        assert clip.truth["joints"].max() < 63.5


def test_movement_is_slow_steady_and_never_stops_for_long(clips):
    for clip in clips:
        steps = np.linalg.norm(np.diff(clip.truth["joints"], axis=0), axis=-1)
        assert steps.max() < 5.0  # Pixels per frame.
        assert np.linalg.norm(np.diff(clip.truth["joints"], 2, axis=0), axis=-1).max() < 2.0
        # In any 31 frames, what one training clip sees, some joint travels at least a fifth of the picture.
        assert steps[:30].sum(0).max() > 13


def test_frames_change_little_but_do_change(clips):
    for clip in clips:
        change = np.abs(np.diff(clip.frames.astype(int), axis=0))
        assert change.mean((1, 2, 3)).max() < 9
        assert change[:30].sum() > 0 and (clip.frames[0] != clip.frames[15]).any()


def test_forms_are_told_apart_by_their_trajectories():
    def features(seed, count):
        """Joints seen from the pelvis over 31 frames, mirrored to the left-sided version; and the form."""
        rows, labels = [], []
        for index in range(count):
            clip = taichi.render_clip(index, seed=seed, num_frames=31)
            positions = clip.truth["joints_3d"].copy()
            if clip.truth["side"] == "right":
                swapped = [taichi.JOINTS.index(name) for name in map(mirror_name, taichi.JOINTS)]
                positions = positions[:, swapped] * [-1, 1, 1]
            rows.append((positions - joint(positions, "pelvis")[:, None])[..., :2].mean(0).ravel())
            labels.append(clip.label)
        return np.array(rows), np.array(labels)

    rows, labels = features(seed=0, count=100)
    centroids = np.stack([rows[labels == k].mean(0) for k in range(len(taichi.CATEGORIES))])
    rows, labels = features(seed=1, count=60)
    nearest = np.linalg.norm(rows[:, None] - centroids, axis=-1).argmin(1)
    assert (nearest == labels).mean() > 0.95


def mirror_name(name):
    side, _, rest = name.partition("_")
    return f"{'right' if side == 'left' else 'left'}_{rest}" if rest else name


def test_the_other_side_is_the_mirror_image():
    clips = {}
    index = 0
    while len(clips) < 2:
        clip = taichi.render_clip(index, seed=0, num_frames=2)
        clips.setdefault(clip.truth["side"], clip)
        index += 1
    for side, clip in clips.items():
        body, turn, phase = clip.truth["body"], clip.truth["turn"], clip.truth["phase"]
        left_sided = perform(clip.truth["form"], phase, body, turn)
        shown = dict(zip(JOINTS, np.moveaxis(clip.truth["joints_3d"], 1, 0), strict=True))
        for name in JOINTS:
            expected = joint(left_sided, name if side == "left" else mirror_name(name))
            np.testing.assert_allclose(shown[name], expected * [1 if side == "left" else -1, 1, 1])


# The content.


def test_background_never_changes_within_a_clip(clips):
    for clip in clips:
        corners = clip.frames[:, :4, [0, 1, -2, -1]]
        assert (corners == corners[:1]).all()


def test_the_jacket_keeps_its_colour(clips):
    """At the middle of the torso, in the frames where no arm passes before it."""
    seen = 0
    for clip in clips:
        positions = clip.truth["joints"]
        spot = 0.6 * joint(positions, "pelvis") + 0.4 * joint(positions, "neck")
        arms = [f"{side}_{name}" for side in ("left", "right") for name in ("elbow", "wrist", "hand")]
        free = np.all([np.linalg.norm(joint(positions, arm) - spot, axis=-1) > 9 for arm in arms], axis=0)
        x, y = spot[free].astype(int).T
        colours = clip.frames[free, y, x].astype(float)
        expected = clip.truth["look"].jacket * 255
        assert np.abs(colours - expected).max(initial=0) < 6
        seen += free.sum()
    assert seen > 200


def test_performers_differ_and_motion_does_not_depend_on_them(clips):
    jackets = {tuple(clip.truth["look"].jacket) for clip in clips}
    bodies = {clip.truth["body"] for clip in clips}
    assert len(jackets) == len(bodies) == len(clips)
    bulk = np.array([clip.truth["look"].bulk for clip in clips])
    tempo = np.array([clip.truth["tempo"] for clip in clips])
    assert abs(np.corrcoef(bulk, tempo)[0, 1]) < 4 / np.sqrt(len(clips))


def test_figures_fill_the_picture_and_stand_out(clips):
    for clip in clips:
        positions = clip.truth["joints"]
        height = joint(positions, "left_ankle")[:, 1] - joint(positions, "head")[:, 1]
        assert height.max() > 0.55 * 64
        moving = np.ptp(clip.frames.astype(int), axis=0).max(-1) > 40
        assert moving.mean() > 0.03


@pytest.mark.parametrize(("image_size", "tolerance"), [(32, 2.5), (128, 1.2)])
def test_sizes_show_the_same_clip(image_size, tolerance):
    def shrink(frames, factor):
        count, size = frames.shape[:2]
        return frames.astype(float).reshape(count, size // factor, factor, size // factor, factor, 3).mean((2, 4))

    for index in range(4):
        at_64 = taichi.render_clip(index, seed=9, num_frames=4)
        other = taichi.render_clip(index, seed=9, num_frames=4, image_size=image_size)
        assert other.frames.shape == (4, image_size, image_size, 3)
        np.testing.assert_allclose(other.truth["joints"] * 64 / image_size, at_64.truth["joints"])
        large, small = (other.frames, at_64.frames) if image_size > 64 else (at_64.frames, other.frames)
        assert np.abs(shrink(large, 2) - small).mean() < tolerance
