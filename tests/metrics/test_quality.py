"""Promises of the table of scores, and of how the best checkpoint is chosen."""

import pytest

from mocogan_tf.metrics import quality
from mocogan_tf.metrics.quality import best_step


def scores(kernel=1.0, swd=50.0, high=-1.0, checker=-1.0, **others):
    """All that `auto` looks at, at a native size of 64."""
    others = {"frechet_video": 9.0, "swd_64": swd, "swd_32": 1.0, **others}
    return {"kernel_video": kernel, "spectrum_high": high, "spectrum_checker": checker, **others}


def test_the_best_by_one_score_is_its_direction_s():
    by_step = {1: {"frechet_video": 3.0, "coverage": 0.2}, 2: {"frechet_video": 4.0, "coverage": 0.9}}
    assert best_step(by_step, "frechet_video") == 1 and best_step(by_step, "coverage") == 2
    for sign in (1, -1):
        by_step = {1: {"spectrum_high": -0.5 * sign}, 2: {"spectrum_high": 0.4 * sign}}
        assert best_step(by_step, "spectrum_high") == 2


def test_missing_and_infinite_scores_are_passed_over_and_the_earlier_of_equals_wins():
    by_step = {4: {"mcs": 0.5}, 3: {"mcs": 0.5}, 2: {"mcs": float("nan")}, 1: {"step": 1}}
    assert best_step(by_step, "mcs") == 3
    assert best_step(by_step) is None and best_step({}) is None


@pytest.mark.parametrize(
    "better",
    [{"kernel": 0.5}, {"swd": 40.0}, {"high": -0.5, "checker": -0.5}, {"checker": -1.2}, {"mcs": 0.9}],
    ids=["distance", "patches", "detail", "raster", "class"],
)
def test_auto_takes_the_step_that_is_better_in_one_thing_and_equal_in_the_others(better):
    plain, raster = scores(mcs=0.5, checker=-0.2), scores(**{"mcs": 0.5, "checker": -0.2, **better})
    assert best_step({1: plain, 2: raster}) == 2 and best_step({1: raster, 2: plain}) == 1


def test_distance_texture_and_class_count_alike():
    # All three scores of texture for step 1, distance and class for step 2.
    sharp, like = scores(kernel=2.0, swd=10.0, high=0.0, checker=0.0, mcs=0.5), scores(mcs=0.9)
    assert best_step({1: sharp, 2: like}) == 2
    assert best_step({1: {**sharp, "mcs": 0.9}, 2: {**like, "mcs": 0.5}}) == 1


def test_a_raster_does_not_pass_for_detail():
    # The same distance of the spectrum's edge from 0, with and without a raster.
    assert best_step({1: scores(high=-1.5, checker=0.5), 2: scores(high=-1.5, checker=-1.5)}) == 2


def test_steps_that_cannot_be_chosen_count_in_ranks():
    by_step = {1: scores(kernel=1.0, mcs=0.9), 2: scores(kernel=0.9, swd=49.0, mcs=0.5)}
    between = {3 + i: scores(kernel=5.0, swd=60.0, mcs=0.6 + 0.01 * i) for i in range(5)}
    assert best_step(by_step) == 2
    assert best_step({**by_step, **between}, among=[1, 2]) == 1


def test_without_scores_of_texture_the_frechet_distance_decides():
    old = {1: {"frechet_video": 3.0, "mcs": 0.1}, 2: {"frechet_video": 4.0, "mcs": 0.9, "kernel_video": 0.1}}
    assert best_step(old) == 1
    assert best_step({**old, 3: scores(frechet_video=3.5)}) == 1  # One that has them cannot be compared.
    assert best_step({**old, 3: scores(), 4: scores(kernel=0.5)}, among=[3, 4]) == 4


def test_only_scores_that_training_computes_and_that_have_a_direction_choose():
    quality.check_chooses("auto")
    quality.check_chooses("swd_64")
    for name in ("motion", "fvd", "nothing"):
        with pytest.raises(ValueError, match=f"No best checkpoint by '{name}'. Choose one of auto, frechet_video"):
            quality.check_chooses(name)
    assert all(about.better != "real" for about in quality.SCORES.values() if about.chooses)
