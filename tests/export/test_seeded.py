"""A seed means inside TensorFlow's graph what it means in `mocogan_tf.latents`."""

import numpy as np
import pytest
import tensorflow as tf

from export.saved_model import draw_latents, philox4x32
from mocogan_tf import latents
from mocogan_tf.latents import LatentSpec, sample_latents

SEEDS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64 - 1]


def as_int64(seeds):
    return tf.constant(np.array(seeds, np.uint64).view(np.int64))


def test_words_are_philox_s_bit_for_bit():
    counters = np.random.default_rng(0).integers(0, 2**32, (50, 4))
    words = philox4x32(counters, as_int64(SEEDS)).numpy()
    for seed, found in zip(SEEDS, words, strict=True):
        expected = latents.philox4x32(counters.astype(np.uint32), (seed & 0xFFFFFFFF, seed >> 32))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dim_category", [0, 1, 7])
def test_every_seed_draws_the_clip_it_draws_elsewhere(dim_category):
    spec = LatentSpec(dim_content=50, dim_motion=10, dim_category=dim_category)
    drawn = tf.function(lambda seeds: draw_latents(seeds, spec, 9))(as_int64(SEEDS))
    for i, seed in enumerate(SEEDS):
        expected = sample_latents(spec, 1, 9, seed=seed)
        assert set(drawn) == set(expected)
        for name, value in expected.items():
            # The words are equal; cosines and logarithms of two libraries may differ in the last bit.
            np.testing.assert_allclose(drawn[name][i], value[0], rtol=0, atol=5e-7)


def test_every_seed_chooses_the_picture_it_chooses_elsewhere():
    spec = LatentSpec(dim_content=12, dim_motion=5, dim_category=3, content_from="pictures")
    contents = np.random.default_rng(0).normal(size=(16, 12)).astype(np.float32)
    drawn = draw_latents(as_int64(SEEDS), spec, 4, contents)["content"].numpy()
    expected = [sample_latents(spec, 1, 4, seed=seed, contents=contents)["content"][0] for seed in SEEDS]
    np.testing.assert_array_equal(drawn, expected)
    assert len(np.unique(drawn, axis=0)) > 3
