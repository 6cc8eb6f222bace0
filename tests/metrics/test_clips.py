"""Promises of the clips that are judged: real ones are cut without repetition, generated ones follow the seed."""

import numpy as np
import pytest

from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.gans.build import build_gan
from mocogan_tf.latents import LatentSpec, sample_latents
from mocogan_tf.metrics.clips import compared, generated_clips, real_clips
from mocogan_tf.video import to_uint8


def numbered_videos(lengths=(9, 7, 3, 12)):
    """Videos of which every frame holds its own number."""
    total = sum(lengths)
    frames = np.arange(total, dtype=np.uint8)[:, None, None, None] * np.ones((32, 32, 3), np.uint8)
    lengths = np.array(lengths)
    return VideoSet(
        name="numbered",
        categories=("a", "b"),
        fps=8.0,
        labels=np.array([0, 1, 0, 1], np.int32),
        lengths=lengths,
        offsets=np.cumsum(lengths) - lengths,
        names=tuple("wxyz"),
        frames=frames,
    )


class StandIn:
    """A generator whose clips are its motion noise; makes `times` as many frames as it is asked for."""

    latents = LatentSpec(dim_content=2, dim_motion=1, dim_category=3)

    def __init__(self, times=1):
        self.times = times

    def __call__(self, latents, training):
        noise = np.tanh(latents["motion_noise"].repeat(self.times, axis=1))
        video = noise[..., None, None] * np.ones((4, 4, 1), np.float32)
        return {"video": video}


class LastBatchBroken(StandIn):
    def __call__(self, latents, training):
        outputs = super().__call__(latents, training)
        if len(latents["content"]) == 1:
            outputs["video"][0, 0] = np.nan
        return outputs


@pytest.mark.parametrize(("model", "made"), [("mocogan", 16), ("vgan", 32), ("tgan", 16)])
def test_all_models_are_compared_over_the_same_time(model, made):
    config = Config(model=model, ngf=4, ndf=4, image_size=32, precision="float32").resolve_categories(0)
    generator = build_gan(config).generator
    judged = compared(config, generator.frame_stride)
    assert (config.video_length, judged.video_length, judged.every_nth) == (made, 16, 2)
    assert generated_clips(generator, 2, judged.video_length, seed=0).frames.shape == (2, 16, 32, 32, 3)


def test_real_clips_are_all_different_and_take_every_nth_frame_of_one_video():
    videos = numbered_videos()
    clips = real_clips(videos, 15, num_frames=3, every_nth=2, seed=1)  # 5 + 3 + 0 + 8 starts; 15 of these 16.
    numbers = clips.frames[:, :, 0, 0, 0].astype(int)
    assert len({tuple(clip) for clip in numbers}) == 15
    assert (np.diff(numbers, axis=1) == 2).all()
    video_of = np.repeat(np.arange(4), videos.lengths)
    assert (video_of[numbers[:, 0]] == video_of[numbers[:, -1]]).all()
    np.testing.assert_array_equal(clips.labels, videos.labels[video_of[numbers[:, 0]]])


def test_real_clips_go_through_all_videos_before_one_comes_again():
    numbers = real_clips(numbered_videos(), 6, num_frames=3, every_nth=2, seed=1).frames[:, 0, 0, 0, 0]
    video_of = np.repeat(np.arange(4), numbered_videos().lengths)[numbers]
    assert sorted(video_of[:3]) == sorted(video_of[3:]) == [0, 1, 3]


def test_real_clips_follow_the_seed():
    first, again, other = (real_clips(numbered_videos(), 8, 3, 2, seed=seed).frames for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_more_real_clips_than_there_are_is_an_error_that_says_how_many_there_are():
    with pytest.raises(ValueError, match="holds 16 different clips of 3 frames .* 17 are needed"):
        real_clips(numbered_videos(), 17, num_frames=3, every_nth=2, seed=0)


def test_generated_clips_are_those_of_the_seed_whatever_the_batches():
    clips = generated_clips(StandIn(), 5, 3, seed=7, categories=("a", "b", "c"), batch_size=2)
    latents = sample_latents(StandIn.latents, 5, 3, seed=7)
    np.testing.assert_array_equal(clips.frames[..., 0, 0, 0], to_uint8(np.tanh(latents["motion_noise"][..., 0])))
    np.testing.assert_array_equal(clips.labels, latents["category"].argmax(1))


def test_a_generator_of_more_frames_gives_every_kth():
    once, twice = (generated_clips(StandIn(times), 4, 3, seed=7) for times in (1, 2))
    np.testing.assert_array_equal(once.frames, twice.frames)


def test_frames_that_are_not_finite_are_an_error_that_names_the_clip():
    with pytest.raises(ValueError, match="clip 2 holds numbers that are not finite"):
        generated_clips(LastBatchBroken(), 3, 2, seed=0, batch_size=2)
