"""Promises of the scores of clips that begin with a given picture."""

import types

import numpy as np
import pytest

from mocogan_tf.data.cache import VideoSet
from mocogan_tf.metrics import animation, registry
from mocogan_tf.metrics.clips import Clips
from tests.support.made_clips import frames_of

pytestmark = pytest.mark.core


def set_of(*firsts, labels=None, length=6):
    """Videos whose frames are of one colour that grows by one per frame."""
    number = len(firsts)
    return VideoSet(
        name="made",
        categories=("a", "b") if labels is not None else (),
        fps=8.0,
        labels=np.array(labels if labels is not None else [0] * number, np.int32),
        lengths=np.full(number, length, np.int64),
        offsets=length * np.arange(number),
        names=tuple(map(str, range(number))),
        frames=np.concatenate([frames_of(length, first=first) for first in firsts]),
    )


def test_first_frames_are_compared_with_their_pictures_and_later_ones_are_not():
    pictures = frames_of(2, first=100)
    frames = np.stack([pictures + 3, pictures], axis=1)
    frames[1, 0, :16] += 4  # Half of the second clip's first frame is off by 7 and the other half by 3.
    assert animation.first_frame_l1(frames, pictures).tolist() == [3, 5]
    expected = 10 * np.log10(255**2 / np.array([9, (49 + 9) / 2]))
    np.testing.assert_allclose(animation.first_frame_psnr(frames, pictures), expected)
    exact = animation.first_frame_psnr(frames[:, 1:], pictures)
    assert np.isfinite(exact).all() and exact.min() > 55


def test_a_still_clip_is_the_picture_in_every_frame():
    clips = Clips(np.zeros((2, 3, 32, 32, 3), np.uint8), np.array([1, 0]), ("a", "b"))
    found = animation.still_clips(frames_of(2, first=9), clips)
    assert found.frames[:, :, 0, 0, 0].tolist() == [[9, 9, 9], [10, 10, 10]]
    assert found.labels.tolist() == [1, 0] and found.categories == ("a", "b")


def test_the_nearest_clip_starts_where_a_frame_is_most_like_the_picture():
    clips = Clips(np.zeros((3, 3, 32, 32, 3), np.uint8))
    pictures = np.concatenate([frames_of(1, first=value) for value in (11, 203, 60)])
    found = animation.nearest_clips(pictures, clips, set_of(10, 200), every_nth=2)
    # A clip of three frames at stride two can start at the first two of six frames.
    assert found.frames[:, :, 0, 0, 0].tolist() == [[11, 13, 15], [201, 203, 205], [11, 13, 15]]


def test_the_nearest_clip_is_of_the_class_that_is_asked_for():
    clips = Clips(np.zeros((2, 3, 32, 32, 3), np.uint8), np.array([1, 0]), ("a", "b"))
    pictures = np.concatenate([frames_of(1, first=10)] * 2)
    found = animation.nearest_clips(pictures, clips, set_of(10, 200, labels=[0, 1]), every_nth=1)
    assert found.frames[:, 0, 0, 0, 0].tolist() == [200, 10]


@pytest.mark.parametrize("name", ["first_frame", "no_model"])
def test_a_model_without_pictures_has_no_such_scores(name):
    with pytest.raises(ValueError, match=f"`{name}` needs a run or bundle of --task=image_to_video"):
        list(registry.METRICS[name].compute(types.SimpleNamespace(animates=False)))
