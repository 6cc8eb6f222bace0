"""Promises of sampling from a generator."""

import numpy as np
import pytest

from mocogan_tf import sampling
from mocogan_tf.latents import sample_latents
from mocogan_tf.models.generator import VideoGenerator
from mocogan_tf.models.tgan import TGANGenerator
from mocogan_tf.models.vgan import VGANGenerator
from mocogan_tf.video import to_uint8
from tests.support import reference

pytestmark = pytest.mark.core


@pytest.fixture(scope="module", params=["motion", "image"])
def generator(request):
    made = VideoGenerator(dim_content=5, dim_motion=3, dim_category=3, category_to=request.param, ngf=4, image_size=32)
    reference.random_weights(made)
    return made


def close(a, b):
    """Equal but for pixels that another batch size rounds the other way."""
    return np.abs(a.astype(int) - b).max() <= 1


def test_pieces_in_batch_and_time_give_the_whole(generator):
    latents = sample_latents(generator.latents, 5, 20, seed=1)
    whole = to_uint8(generator(latents)["video"])
    assert close(sampling.generate(generator, latents, chunk=7, batch_size=2), whole)


def test_a_clip_is_made_in_pieces_of_which_each_draws_its_own_noise(generator):
    def draw(num_frames, first_frame):
        drawn.append(num_frames)
        return sampling.random_latents(generator, 3, num_frames, first_frame, seed=1)

    drawn = []
    pieces = list(sampling.stream(generator, draw, 20, chunk=8, batch_size=2))
    assert [piece.shape[1] for piece in pieces] == drawn == [8, 8, 4]
    assert close(np.concatenate(pieces, axis=1), sampling.random_clips(generator, 3, 20, seed=1))


def test_grid_rows_share_content_and_columns_motion(generator, monkeypatch):
    seen = {}
    monkeypatch.setattr(sampling, "generate", lambda generator, latents: seen.update(latents))
    sampling.content_motion_grid(generator, 2, 3, 4, seed=9)
    rows = {name: value.reshape(2, 3, -1) for name, value in seen.items()}
    for column in range(3):
        np.testing.assert_array_equal(rows["content"][:, 0], rows["content"][:, column])
    for name in ("motion_noise", "motion_init"):
        np.testing.assert_array_equal(rows[name][0], rows[name][1])
        assert not np.array_equal(rows[name][:, 0], rows[name][:, 1])
    chosen = rows["category"].argmax(axis=-1).tolist()
    assert chosen == ([[0, 1, 2]] * 2 if generator.config["category_to"] == "motion" else [[0] * 3, [1] * 3])


def test_the_first_clip_of_a_grid_is_the_first_clip_of_the_seed(generator):
    grid = sampling.content_motion_grid(generator, 2, 2, 4, seed=9)
    assert close(grid[:1], sampling.random_clips(generator, 1, 4, seed=9, category=0))


def test_categories_differ_in_nothing_else(generator):
    clips = sampling.generate(generator, sampling.category_latents(generator, 2, 4, seed=3))
    assert clips.shape == (6, 4, 32, 32, 3)
    assert close(clips[4:5], sampling.random_clips(generator, 2, 4, seed=3, category=1)[1:])


def test_interpolation_goes_from_one_content_to_the_other_at_constant_length(generator):
    seen = sampling.interpolation_latents(generator, 5, 4, seed=3)
    ends = sample_latents(generator.latents, 2, 4, seed=3)["content"]
    np.testing.assert_allclose(seen["content"][[0, -1]], ends, atol=1e-6)
    lengths = np.linalg.norm(seen["content"], axis=1)
    assert lengths.min() > 0.7 * np.linalg.norm(ends, axis=1).min()
    assert np.all(seen["motion_noise"] == seen["motion_noise"][0])


def test_categories_of_a_generator_without_any_are_refused():
    with pytest.raises(ValueError, match="no categories"):
        sampling.category_latents(VideoGenerator(ngf=2, image_size=32), 1, 4, seed=0)


def test_contents_of_one_number_are_interpolated_along_their_line():
    made = VideoGenerator(dim_content=1, dim_motion=3, ngf=4, image_size=32)
    reference.random_weights(made)
    points = sampling.interpolation_latents(made, 3, 2, seed=3)["content"]
    middle = sample_latents(made.latents, 2, 2, seed=3)["content"].mean(0, keepdims=True)
    np.testing.assert_allclose(points[1:2], middle, atol=1e-6)


@pytest.fixture(scope="module", params=["vgan", "tgan"])
def fixed(request):
    """A generator of clips of one length: VGAN's 32 frames, of which 16 are kept, or TGAN's 16."""
    made = VGANGenerator(image_size=32, ngf=2) if request.param == "vgan" else TGANGenerator(image_size=32, ngf=2)
    reference.random_weights(made)
    return made


def test_all_models_give_sixteen_frames_and_vgan_every_second_of_its_own(fixed):
    clips = sampling.random_clips(fixed, 3, 16, seed=1)
    made = fixed(sample_latents(fixed.latents, 3, None, seed=1))["video"]
    assert made.shape[1] == {"VGANGenerator": 32, "TGANGenerator": 16}[type(fixed).__name__]
    assert clips.shape == (3, 16, 32, 32, 3)
    assert close(clips, to_uint8(made[:, :: fixed.frame_stride]))
    overview, columns = sampling.overview(fixed, made.shape[1], seed=1)
    assert overview.shape == (16, 16, 32, 32, 3) and columns == 4 and close(overview[:3], clips)


def test_what_a_model_of_one_code_and_length_cannot_do_is_said_in_one_line(fixed):
    for make in (sampling.content_motion_grid, sampling.category_latents, sampling.interpolation_latents):
        with pytest.raises(ValueError, match="one code for content and motion.*--mode=random"):
            make(fixed, *[2] * (make is sampling.content_motion_grid), 2, 16, seed=0)
    with pytest.raises(ValueError, match="have 16 frames and cannot be made longer. Received: 64"):
        sampling.random_clips(fixed, 1, 64, seed=0)
