"""What a training batch is made of, and that it depends on the seed and the step's number alone."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.pipeline import training_batches
from tests.support.made_clips import frames_of

pytestmark = pytest.mark.core


def videos_of(lengths, size=32, channels=3):
    """Video v's frame f is filled with 20 v + f."""
    lengths = np.array(lengths, np.int64)
    return VideoSet(
        name="made",
        categories=("a", "b"),
        fps=8.0,
        labels=np.arange(len(lengths), dtype=np.int32) % 2,
        lengths=lengths,
        offsets=np.cumsum(lengths) - lengths,
        names=tuple(map(str, range(len(lengths)))),
        frames=np.concatenate(
            [frames_of(n, first=20 * v, size=size, channels=channels) for v, n in enumerate(lengths)]
        ),
    )


def take(dataset, count):
    return [{name: value.numpy() for name, value in batch.items()} for batch in itertools.islice(dataset, count)]


def origin(pixels):
    """(video, frame) of filled frames."""
    return np.divmod(pixels[..., 0, 0, 0].astype(int), 20)


def test_shapes_and_types_are_known_in_advance(make_config):
    dataset = training_batches(videos_of([9, 10, 7], channels=1), make_config(channels=1))
    assert dataset.element_spec == {
        "images": tf.TensorSpec([6, 32, 32, 1], tf.uint8),
        "videos": tf.TensorSpec([4, 4, 32, 32, 1], tf.uint8),
        "labels": tf.TensorSpec([4], tf.int32),
    }


def test_pixels_come_as_they_are_stored(make_config):
    videos = videos_of([7])
    videos.frames[:] = 255 * (np.arange(7) % 2)[:, None, None, None]
    (batch,) = take(training_batches(videos, make_config(every_nth=1)), 1)
    assert set(np.unique(batch["videos"])) == {0, 255}


def test_a_clip_is_t_frames_of_one_video_at_the_stride_with_its_label(make_config):
    for batch in take(training_batches(videos_of([9, 10, 7, 12]), make_config()), 20):
        video, frame = origin(batch["videos"])
        assert (video == video[:, :1]).all()
        assert (np.diff(frame, axis=1) == 2).all()
        np.testing.assert_array_equal(batch["labels"], video[:, 0] % 2)


def test_every_start_and_every_frame_comes_about_equally_often(make_config):
    starts, frames = collections.Counter(), collections.Counter()
    for batch in take(training_batches(videos_of([10]), make_config(image_batch=8, video_batch=8)), 200):
        starts.update(origin(batch["videos"])[1][:, 0].tolist())
        frames.update(origin(batch["images"])[1].tolist())
    # 1,600 draws each over 4 starts and over 10 frames: six standard deviations are 104 and 72.
    assert sorted(starts) == list(range(4)) and max(abs(n - 400) for n in starts.values()) < 104
    assert sorted(frames) == list(range(10)) and max(abs(n - 160) for n in frames.values()) < 72


def test_images_are_drawn_by_video_and_not_by_frame(make_config):
    # The authors' code draws uniformly over all frames, so long videos weigh more; the paper's S_1 does not.
    batches = take(training_batches(videos_of([7, 19]), make_config()), 50)
    videos = np.concatenate([origin(batch["images"])[0] for batch in batches])
    assert np.bincount(videos).tolist() == [150, 150]


@pytest.mark.parametrize("field", ["images", "videos"])
def test_each_epoch_visits_every_video_once_in_an_order_of_its_own(make_config, field):
    # 11 videos in batches of 4 or 6: epochs end in the middle of a batch.
    batches = take(training_batches(videos_of([8] * 11), make_config()), 11)
    order = np.concatenate([origin(batch[field])[0].reshape(len(batch[field]), -1)[:, 0] for batch in batches])
    epochs = order[: len(order) // 11 * 11].reshape(-1, 11)
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_images_and_clips_are_not_of_the_same_videos(make_config):
    config = make_config(image_batch=4)
    batches = take(training_batches(videos_of([8] * 11), config), 11)
    same = [origin(batch["images"])[0] == origin(batch["videos"])[0][:, 0] for batch in batches]
    assert np.mean(same) < 0.5


@pytest.mark.parametrize("start_step", [1, 5, 1000])
def test_starting_at_a_step_equals_an_uninterrupted_run(make_config, start_step):
    videos, config = videos_of([9, 10, 7, 12, 8]), make_config()
    whole = training_batches(videos, config).skip(start_step)
    for expected, batch in zip(
        take(whole, 3), take(training_batches(videos, config, start_step=start_step), 3), strict=True
    ):
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_the_seed_decides(make_config):
    videos = videos_of([19] * 7)
    first, again = (take(training_batches(videos, make_config(seed=3)), 3) for _ in range(2))
    other = take(training_batches(videos, make_config(seed=4)), 3)
    assert all((a["videos"] == b["videos"]).all() for a, b in zip(first, again, strict=True))
    assert not any((a["videos"] == b["videos"]).all() for a, b in zip(first, other, strict=True))


def test_a_batch_may_be_larger_than_the_set(make_config):
    (batch,) = take(training_batches(videos_of([8]), make_config()), 1)
    assert batch["videos"].shape[0] == 4


def test_videos_that_are_too_short_are_refused(make_config):
    with pytest.raises(ValueError, match=r"at least 7 frames.*of \[6, 8\]"):
        training_batches(videos_of([8, 6]), make_config())
