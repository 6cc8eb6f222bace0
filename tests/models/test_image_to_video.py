"""Promises of the generator that animates a picture."""

import keras
import numpy as np
import pytest

from mocogan_tf import sampling
from mocogan_tf.latents import sample_latents
from mocogan_tf.models.encoder import ContentLayout
from mocogan_tf.models.generator import VideoGenerator
from tests.support import reference

pytestmark = pytest.mark.core


def make(**changes):
    arguments = {"dim_content": 6, "dim_motion": 3, "dim_category": 4, "ngf": 4, "image_size": 32, "decoder": "fine"}
    task = {"task": "image_to_video", "content_modulation": True, "motion_init_scale": 0.1}
    generator = VideoGenerator(**{**arguments, **task, **changes})
    reference.random_weights(generator)
    size, channels = generator.config["image_size"], generator.config["channels"]
    generator.pictures = np.random.default_rng(0).integers(0, 256, (3, size, size, channels)).astype(np.uint8)
    return generator


def draw(generator, number=2, num_frames=5, seed=1):
    return sample_latents(generator.latents, number, num_frames, seed=seed, contents=generator.contents)


def run(generator, latents):
    return {name: np.asarray(value) for name, value in generator(latents, training=False).items()}


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_content_is_code_and_pose(image_size):
    generator = make(image_size=image_size, ngf=2, channels=1, still_background=True)
    layout, contents = ContentLayout(6, 3), generator.contents
    assert contents.shape == (3, layout.size) == (3, 6 + 3) and contents.dtype == np.float32
    assert generator.latents.dim_content == layout.size
    pose = np.asarray(layout.pose(contents))
    np.testing.assert_array_equal(pose, contents[:, 6:])
    assert 0 < np.abs(pose).max() <= 1  # As the GRU's states.
    assert run(generator, draw(generator))["video"].shape == (2, 5, image_size, image_size, 1)


def test_the_first_frame_has_the_pictures_pose_which_noise_varies_and_the_gru_goes_on_from_there():
    generator = make()
    latents = draw(generator, num_frames=7)
    category = latents["category"][:, None].repeat(7, axis=1)
    inputs = np.concatenate([latents["motion_noise"], category], axis=-1)
    pose = latents["content"][:, 6:9]
    start = pose + 0.1 * latents["motion_init"]
    expected = reference.gru(inputs, start, *generator.motion.get_weights())
    shown = np.concatenate([start[:, None], expected[:, :-1]], axis=1)
    np.testing.assert_allclose(np.asarray(generator.codes(latents))[..., -3:], shown, atol=1e-5)
    state = run(generator, latents)["motion_state"]
    np.testing.assert_allclose(state, (expected[:, -1] - pose) / 0.1, atol=1e-4)


def test_an_animation_continued_through_its_motion_state_is_the_long_one():
    generator = make(content_modulation=True, category_to="both")
    latents = draw(generator, num_frames=20)
    whole, parts = (sampling.generate(generator, latents, chunk=chunk).astype(int) for chunk in (20, 7))
    assert np.abs(whole - parts).max() <= 1
    assert np.abs(np.diff(whole, axis=1)).max() > 5


def test_the_decoder_sees_the_pose_through_the_gru_alone():
    generator = make(still_background=True, content_modulation=True, category_to="both")
    codes = np.random.default_rng(1).normal(size=(1, generator.decoder.input_shape[-1])).astype(np.float32)
    other = codes.copy()
    other[:, 6:9] += 5.0
    np.testing.assert_array_equal(np.asarray(generator.decoder(codes)), np.asarray(generator.decoder(other)))
    backgrounds = [np.asarray(generator.background(vector[:, :9])) for vector in (codes, other)]
    np.testing.assert_array_equal(*backgrounds)


def test_the_first_layer_sees_a_part_of_the_code_and_all_of_it_scales_channels():
    generator = make(dim_content=20, content_modulation=True, category_to="both", palette=3)
    assert generator.decoder.get_layer("gains_0").kernel.shape[0] == 20
    assert generator.decoder.get_layer("palette_hidden").kernel.shape[0] == 20
    assert generator.decoder.get_layer("conv_0").kernel.shape[-1] == 8 + 4 + 3  # Code, category, motion.


def test_the_encoder_is_a_part_of_the_generator_with_paths_of_its_own():
    generator = make(still_background=True)
    encoder = {id(variable) for variable in generator.encoder.trainable_variables}
    assert encoder < {id(variable) for variable in generator.trainable_variables}
    paths = [weight.path for weight in generator.weights]
    assert len(set(paths)) == len(paths)
    plain = VideoGenerator(ngf=4, image_size=32, decoder="fine")
    assert plain.encoder is None and plain.contents is None and plain.latents.content_from == "noise"


def test_configuration_and_file_round_trips(tmp_path):
    generator = make(still_background=True, content_modulation=True)
    latents, contents = draw(generator), generator.contents
    expected = run(generator, latents)["video"]
    generator.save(tmp_path / "generator.keras")
    generator.save_weights(tmp_path / "generator.weights.h5")
    copy, other = (VideoGenerator.from_config(generator.get_config()) for _ in range(2))
    copy.set_weights(generator.get_weights())
    other.load_weights(tmp_path / "generator.weights.h5")
    for again in (keras.saving.load_model(tmp_path / "generator.keras"), copy, other):
        np.testing.assert_array_equal(run(again, latents)["video"], expected)
        np.testing.assert_array_equal(again.encode(generator.pictures), contents)


def test_the_encoder_is_given_pixels_in_the_range_of_clips():
    generator = make()
    pixels = np.array([0, 255], np.uint8)[:, None, None, None] * np.ones((32, 32, 3), np.uint8)
    expected = generator.encoder(np.float32([-1, 1])[:, None, None, None] * np.ones((32, 32, 3), np.float32))
    np.testing.assert_allclose(generator.encode(pixels), expected, atol=1e-5)


def test_a_picture_is_encoded_alike_alone_and_among_many():
    generator = make()
    many = np.concatenate([generator.pictures] * 40)
    np.testing.assert_allclose(generator.encode(many)[-1:], generator.encode(generator.pictures[2:]), atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 64, 64, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)]
)
def test_pictures_of_another_size_or_type_are_refused(wrong):
    with pytest.raises(ValueError, match=r"uint8 of \[N, 32 x 32 x 3\]. Received"):
        make().encode(wrong)


def test_a_generator_that_makes_up_its_contents_takes_no_pictures():
    generator = VideoGenerator(ngf=4, image_size=32)
    with pytest.raises(ValueError, match="takes no pictures"):
        generator.encode(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="--task=image_to_video"):
        sampling.animation_latents(generator, np.zeros((1, 32, 32, 3), np.uint8), 1, 4, seed=0)


@pytest.mark.parametrize("wrong", [{"task": "animate"}, {"decoder": "dcgan"}])
def test_a_task_that_there_is_not_or_without_the_fine_decoder_is_refused(wrong):
    with pytest.raises(ValueError, match="Received: task="):
        make(**wrong)


def test_the_overview_shows_each_picture_beside_its_motions():
    generator = make()
    clips, columns = sampling.overview(generator, 4, seed=0)
    assert columns == 1 + 4 and clips.shape == (3 * 5, 4, 32, 32, 3)
    for row, picture in enumerate(generator.pictures):
        np.testing.assert_array_equal(clips[5 * row], np.repeat(picture[None], 4, axis=0))
    latents = sampling.animation_latents(generator, generator.pictures, 4, 4, seed=0)
    np.testing.assert_array_equal(latents["content"], generator.contents.repeat(4, axis=0))
    np.testing.assert_array_equal(latents["category"], np.tile(np.eye(4), (3, 1)))
    np.testing.assert_array_equal(clips[6], sampling.generate(generator, latents)[4])


def test_the_rows_of_a_grid_are_different_pictures():
    generator = make()
    for seed in range(4):
        for latents in (
            sampling.grid_latents(generator, 3, 2, 4, seed=seed),
            sampling.category_latents(generator, 3, 4, seed=seed),
        ):
            assert len(np.unique(latents["content"], axis=0)) == 3
    with pytest.raises(ValueError, match="between two pictures"):
        sampling.interpolation_latents(generator, 3, 4, seed=0)


@pytest.mark.parametrize("category_to", ["motion", "image", "both"])
def test_posed_frames_are_those_of_the_content_in_other_pictures_poses(category_to):
    generator = make(category_to=category_to)
    latents = draw(generator, number=2, num_frames=1)
    latents["motion_init"] = np.zeros_like(latents["motion_init"])
    content, other = generator.contents[:2], generator.contents[1:]
    category = None if category_to == "motion" else latents["category"]
    own, posed = (np.asarray(generator.posed(content, p[:, None], category)) for p in (content, other))
    np.testing.assert_allclose(own, generator.codes({**latents, "content": content}), atol=1e-6)
    np.testing.assert_array_equal(posed[:, 0, -3:], other[:, 6:])
    np.testing.assert_array_equal(posed[..., :-3], own[..., :-3])
