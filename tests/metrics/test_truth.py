"""Promises of the numbers for sets whose truth is known, checked against that truth."""

import numpy as np
import pytest

from mocogan_tf.data.rendered import shapes
from mocogan_tf.metrics import truth


@pytest.fixture(scope="module")
def rendered():
    return [shapes.render_clip(i, seed=5, num_frames=12) for i in range(12)]


def test_shapes_are_seen_where_they_were_drawn_and_in_their_colour(rendered):
    sight = truth.see_shapes(np.stack([clip.frames for clip in rendered]))
    for clip, path, colours in zip(rendered, sight.paths, sight.colours, strict=True):
        np.testing.assert_allclose(path[:, 0] * 64, clip.truth["centres"], atol=1e-9)
        np.testing.assert_array_equal(colours[:, 0], np.tile(clip.truth["colour"], (12, 1)))


def test_real_shapes_keep_their_colour_exactly_and_move_smoothly(rendered):
    frames = np.stack([clip.frames for clip in rendered])
    assert (truth.colour_change(truth.see_shapes(frames)) == 0).all()
    shuffled = frames[:, np.random.default_rng(0).permutation(12)]
    smooth, jerky = (truth.jerkiness(truth.see_shapes(clips)).mean() for clips in (frames, shuffled))
    assert smooth < 0.6 < 1.2 < jerky


def test_jerkiness_of_even_motion_is_0_and_of_a_zigzag_2():
    x = np.stack([np.arange(8.0), np.arange(8) % 2])
    paths = np.stack([x, np.zeros_like(x)], axis=-1)[:, :, None]
    np.testing.assert_allclose(truth.jerkiness(truth.Sight(paths, np.zeros((2, 8, 1, 3)))), [0, 2], atol=1e-12)


def test_clips_without_a_shape_are_not_counted_and_give_nothing_where_all_are_empty(rendered):
    frames = np.stack([clip.frames for clip in rendered[:2]])
    frames[0] = 0
    sight = truth.see_shapes(frames)
    assert len(truth.colour_change(sight)) == len(truth.jerkiness(sight)) == 1
    assert np.isnan(truth.colour_change(truth.see_shapes(np.zeros_like(frames)))).all()


def grid_sight(paths, colours):
    """Sight of a grid whose paths `[R, S, T, 2]` and colours `[R, S, 3]` are given."""
    rows, columns, frames, _ = paths.shape
    spread = np.broadcast_to(colours[:, :, None, None], (rows, columns, frames, 1, 3))
    return truth.Sight(paths.reshape(-1, frames, 1, 2), spread.reshape(-1, frames, 1, 3))


def test_disentanglement_is_1_where_each_code_decides_alone_and_0_where_it_has_no_say():
    rng = np.random.default_rng(0)
    motion = np.broadcast_to(rng.normal(size=(1, 12, 5, 2)), (12, 12, 5, 2))
    content = np.broadcast_to(rng.normal(size=(12, 1, 3)), (12, 12, 3))
    perfect = truth.disentanglement(grid_sight(motion, content), 12)
    assert perfect.motion == pytest.approx(1.0) and perfect.content == pytest.approx(1.0)
    independent = grid_sight(rng.normal(size=(12, 12, 5, 2)), rng.normal(size=(12, 12, 3)))
    none = truth.disentanglement(independent, 12)
    assert abs(none.motion) < 0.1 and abs(none.content) < 0.1
    swapped = truth.disentanglement(grid_sight(motion.swapaxes(0, 1), content.swapaxes(0, 1)), 12)
    assert swapped.motion < 0.1 and swapped.content < 0.1


def test_a_generator_that_always_makes_the_same_clip_has_no_control():
    still = truth.disentanglement(grid_sight(np.ones((3, 3, 4, 2)), np.ones((3, 3, 3))), 3)
    assert still == truth.Disentanglement(0.0, 0.0)
