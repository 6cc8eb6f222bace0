"""The serving image holds no `mocogan_tf`, so the rule of the seeds exists twice: here the two are compared."""

import numpy as np
import pytest

import serving.latents as served

library = pytest.importorskip("mocogan_tf.latents")

CASES = [
    dict(seed=0),
    dict(seed=2**64 - 1),
    dict(seed=7, content_seed=1, motion_seed=2**40 + 3),
    dict(seed=7, category=1, first_clip=5),
    dict(seed=2**32, first_frame=1_000_003),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dim_category", [0, 4])
def test_both_draw_the_same_bits(case, dim_category):
    if not dim_category:
        case = {name: value for name, value in case.items() if name != "category"}
    ours = served.sample_latents(served.LatentSpec(50, 10, dim_category), 3, 17, **case)
    theirs = library.sample_latents(library.LatentSpec(50, 10, dim_category), 3, 17, **case)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype == np.float32
        assert ours[name].tobytes() == theirs[name].tobytes()


def test_philox_gives_the_published_words():
    # Random123's known-answer vectors for philox4x32-10.
    zeros = served.philox4x32(np.zeros(4, np.uint32), (0, 0))
    ones = served.philox4x32(np.full(4, 0xFFFFFFFF, np.uint32), (0xFFFFFFFF, 0xFFFFFFFF))
    assert [hex(word) for word in zeros] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    assert [hex(word) for word in ones] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "x"])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=r"`seed` must be an integer in \[0, 2\^64\)"):
        served.sample_latents(served.LatentSpec(), 1, 1, seed=seed)
