"""The motion network's GRU before training: with the rotating start its states turn for ever, and evenly."""

import numpy as np
import pytest

from mocogan_tf.latents import sample_latents
from mocogan_tf.models.generator import VideoGenerator
from mocogan_tf.models.motion import PERIODS

pytestmark = pytest.mark.core


def paths(num_frames, quiet=False, **changes):
    """Motion codes `[B, T, dim_motion]` of an untrained generator."""
    sizes = {"dim_content": 2, "dim_motion": 10, "dim_category": 3, "ngf": 2, "image_size": 32}
    generator = VideoGenerator(**{**sizes, "update_gate_bias": 1.0, "motion_init_scale": 0.5, **changes})
    latents = sample_latents(generator.latents, 64, num_frames, seed=3)
    if quiet:
        latents["motion_noise"] = np.zeros_like(latents["motion_noise"])
    return np.asarray(generator.codes(latents))[..., -generator.latents.dim_motion :]


def speeds(path):
    return np.linalg.norm(np.diff(path, axis=1), axis=-1).mean(0)


def test_movement_neither_fades_nor_grows():
    turning, falling = (speeds(paths(200, quiet=True, rotating_start=on)) for on in (True, False))
    assert 0.7 < turning[-1] / turning[0] < 1.4
    assert falling[30] < 0.01 * falling[0]  # With Glorot's weights the state falls into a point.


def test_noise_hardly_moves_the_states():
    def roughness(**changes):
        path = paths(64, **changes)
        return np.linalg.norm(np.diff(path, 2, axis=1), axis=-1).mean() / speeds(path).mean()

    assert roughness(rotating_start=True) < 0.5 < 1.4 < roughness(rotating_start=False)


def test_first_frames_are_as_spread_as_later_ones():
    path = paths(64, rotating_start=True)
    np.testing.assert_allclose(path.std(0)[[0, 16, 63]].mean(-1), path.std(), rtol=0.2)


def test_pairs_turn_at_the_periods():
    path = paths(400, quiet=True, rotating_start=True, dim_category=0)[:, 100:]
    pairs = path[..., 0::2] + 1j * path[..., 1::2]
    found = 2 * np.pi / np.abs(np.angle(pairs[:, 1:] / pairs[:, :-1])).mean((0, 1))
    expected = 2 * np.pi / np.linspace(2 * np.pi / PERIODS[0], 2 * np.pi / PERIODS[1], 5)
    np.testing.assert_allclose(found, expected, rtol=0.25)


@pytest.mark.parametrize("dim_motion", [1, 2, 3])
def test_any_number_of_units_can_start(dim_motion):
    path = paths(50, rotating_start=True, dim_motion=dim_motion, dim_category=0)
    assert np.isfinite(path).all() and 0.05 < path[:, -1].std() < 1
