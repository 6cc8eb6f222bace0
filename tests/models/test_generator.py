"""Promises of the generator."""

import json
import pathlib

import keras
import numpy as np
import pytest

from mocogan_tf.latents import sample_latents
from mocogan_tf.models.decoders import Mixture
from mocogan_tf.models.generator import VideoGenerator, compose, halved
from tests.support import reference

pytestmark = pytest.mark.core
GOLDENS = json.loads((pathlib.Path(__file__).parent / "goldens.json").read_text())


def make(**changes):
    arguments = {"dim_content": 6, "dim_motion": 3, "dim_category": 4, "ngf": 4, "image_size": 32}
    return VideoGenerator(**{**arguments, **changes})


def run(generator, latents):
    return {name: np.asarray(value) for name, value in generator(latents, training=False).items()}


def test_parameter_counts_at_64_pixels_are_those_of_the_authors_layers():
    motion = 3 * (10 * 10 + 10 * 10 + 2 * 10)
    convolutions = 16 * (60 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
    norms = 2 * (512 + 256 + 128 + 64)
    generator = VideoGenerator()
    assert sum(v.numpy().size for v in generator.trainable_variables) == motion + convolutions + norms == 3_249_684


def test_motion_is_the_gru_of_the_reference():
    generator = make(category_to="motion")
    reference.random_weights(generator)
    latents = sample_latents(generator.latents, 2, 7, seed=1)
    category = latents["category"][:, None].repeat(7, axis=1)
    inputs = np.concatenate([latents["motion_noise"], category], axis=-1)
    expected = reference.gru(inputs, latents["motion_init"], *generator.motion.get_weights())
    codes = np.asarray(generator.codes(latents))
    np.testing.assert_allclose(codes[..., -3:], expected, atol=1e-6)
    np.testing.assert_allclose(run(generator, latents)["motion_state"], expected[:, -1], atol=1e-6)
    # Content first, and the same for every frame.
    np.testing.assert_array_equal(codes[..., :6], latents["content"][:, None].repeat(7, axis=1))


def test_category_to_image_stands_between_content_and_motion():
    generator = make(category_to="image")
    latents = sample_latents(generator.latents, 2, 5, seed=1)
    codes = np.asarray(generator.codes(latents))
    assert codes.shape == (2, 5, 6 + 4 + 3)
    np.testing.assert_array_equal(codes[..., 6:10], latents["category"][:, None].repeat(5, axis=1))


def test_a_category_for_both_networks_reaches_both():
    generator = make(category_to="both")
    reference.random_weights(generator)
    latents = sample_latents(generator.latents, 2, 5, seed=1)
    codes = np.asarray(generator.codes(latents))
    assert codes.shape == (2, 5, 6 + 4 + 3)
    np.testing.assert_array_equal(codes[..., 6:10], latents["category"][:, None].repeat(5, axis=1))
    other = np.asarray(generator.codes({**latents, "category": np.roll(latents["category"], 1, axis=-1)}))
    assert np.abs(other[..., 10:] - codes[..., 10:]).max(axis=(1, 2)).min() > 0.01


def test_a_category_for_both_networks_leaves_the_background_to_the_content():
    generator = make_fine(still_background=True, category_to="both")
    assert generator.background.input_shape[-1] == generator.latents.dim_content


@pytest.mark.parametrize("name", GOLDENS)
def test_outputs_with_ramp_weights_are_the_recorded_ones(name):
    golden = GOLDENS[name]
    generator = VideoGenerator(**golden["config"])
    reference.ramp_weights(generator)
    video = run(generator, sample_latents(generator.latents, 2, 4, seed=1))["video"]
    assert list(video.shape) == golden["shape"]
    np.testing.assert_allclose(video.mean(), golden["mean"], rtol=1e-4)
    np.testing.assert_allclose(video.std(), golden["std"], rtol=1e-4)
    np.testing.assert_allclose(video.reshape(-1)[:: video.size // 8][:8], golden["values"], rtol=1e-4)


@pytest.mark.parametrize("image_size", [32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_frames", [4, 16, 33])
def test_every_size_length_and_colour(image_size, channels, num_frames):
    generator = make(image_size=image_size, channels=channels, ngf=2)
    video = run(generator, sample_latents(generator.latents, 2, num_frames, seed=0))["video"]
    assert video.shape == (2, num_frames, image_size, image_size, channels)
    assert video.dtype == np.float32
    assert np.abs(video).max() <= 1.0


def test_without_categories_there_is_no_such_input():
    generator = make(dim_category=0)
    assert sorted(tensor.name for tensor in generator.inputs) == ["content", "motion_init", "motion_noise"]


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
def test_a_clip_continued_through_its_motion_state_is_the_long_clip(scale):
    generator = make(motion_init_scale=scale)
    reference.random_weights(generator)
    latents = sample_latents(generator.latents, 2, 20, seed=4)
    whole = run(generator, latents)
    first = run(generator, {**latents, "motion_noise": latents["motion_noise"][:, :7]})
    rest = {**latents, "motion_noise": latents["motion_noise"][:, 7:], "motion_init": first["motion_state"]}
    second = run(generator, rest)
    np.testing.assert_allclose(np.concatenate([first["video"], second["video"]], 1), whole["video"], atol=1e-5)
    np.testing.assert_allclose(second["motion_state"], whole["motion_state"], atol=1e-6)


def test_a_clip_alone_is_the_clip_of_a_larger_batch():
    generator = make()
    reference.random_weights(generator)
    latents = sample_latents(generator.latents, 5, 4, seed=2)
    alone = run(generator, {name: value[3:4] for name, value in latents.items()})["video"]
    np.testing.assert_allclose(run(generator, latents)["video"][3:4], alone, atol=1e-5)


def test_equal_motion_codes_give_equal_frames_and_others_do_not():
    generator = make(dim_category=0)
    reference.random_weights(generator)
    codes = np.random.default_rng(0).normal(size=(1, 9)).astype(np.float32)
    other = codes.copy()
    other[0, -1] += 1.0
    frames = np.asarray(generator.decoder(np.concatenate([codes, codes, other])))
    np.testing.assert_allclose(frames[0], frames[1], atol=1e-6)
    assert np.abs(frames[0] - frames[2]).max() > 1e-4


def test_configuration_and_file_round_trips(tmp_path):
    generator = make(category_to="image", channels=1)
    reference.random_weights(generator)
    latents = sample_latents(generator.latents, 1, 4, seed=0)
    expected = run(generator, latents)["video"]
    copy = VideoGenerator.from_config(generator.get_config())
    copy.set_weights(generator.get_weights())
    np.testing.assert_array_equal(run(copy, latents)["video"], expected)
    generator.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "generator.keras")
    assert isinstance(loaded, VideoGenerator)
    np.testing.assert_array_equal(run(loaded, latents)["video"], expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 48},
        {"category_to": "content"},
        {"motion_init_scale": 0},
        {"decoder": "x"},
        {"still_background": True},
        {"palette": 4, "content_modulation": True},
        {"palette": 4, "decoder": "fine"},
        {"modulate_from": 12},
        {"modulate_from": 32},  # Frames of 32x32, and the paper's decoder has no hidden map of full height.
        {"modulate_from": 64, "decoder": "fine"},
    ],
)
def test_unsupported_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="Received"):
        make(**wrong)


def test_the_first_state_is_as_wide_as_it_is_told():
    generator, narrow = make(), make(motion_init_scale=0.25)
    reference.random_weights(generator)
    narrow.set_weights(generator.get_weights())
    latents = sample_latents(generator.latents, 2, 5, seed=4)
    expected = run(generator, {**latents, "motion_init": latents["motion_init"] / 4})
    found = run(narrow, latents)
    np.testing.assert_allclose(found["video"], expected["video"], atol=1e-6)
    np.testing.assert_allclose(found["motion_state"], 4 * expected["motion_state"], atol=1e-6)
    assert narrow.get_config()["motion_init_scale"] == 0.25


@pytest.mark.parametrize("category_to", ["motion", "image", "both"])
def test_what_stays_over_a_clip_scales_the_channels_where_it_is_told_to(category_to):
    generator, plain = make(content_modulation=True, category_to=category_to), make(category_to=category_to)
    reference.random_weights(generator)
    latents = sample_latents(generator.latents, 1, 5, seed=3)
    clip_code = [latents["content"], *([latents["category"]] if category_to == "image" else [])]
    plain.motion.set_weights(generator.motion.get_weights())
    for layer in plain.decoder.layers:
        layer.set_weights(generator.decoder.get_layer(layer.name).get_weights())
    # One clip's scales are a scale and an offset of the normalisation before them.
    for i in range(3):
        kernel, bias = generator.decoder.get_layer(f"gains_{i}").get_weights()
        gains = (np.concatenate(clip_code, axis=-1) @ kernel + bias)[0]
        norm = plain.decoder.get_layer(f"norm_{i}")
        norm.gamma.assign(norm.gamma * gains)
        norm.beta.assign(norm.beta * gains)
    np.testing.assert_allclose(run(generator, latents)["video"], run(plain, latents)["video"], atol=1e-5)
    assert VideoGenerator.from_config(generator.get_config()).count_params() == generator.count_params()


def test_modulation_starts_around_one_whatever_the_size_of_the_code():
    for dim_content in (4, 50):
        generator = VideoGenerator(dim_content=dim_content, image_size=32, content_modulation=True)
        content = np.random.default_rng(0).standard_normal((500, dim_content)).astype("float32")
        gains = np.asarray(generator.decoder.get_layer("gains_0")(content))
        assert abs(gains.mean() - 1) < 0.1 and 0.8 < gains.std() < 1.2


def test_the_update_gate_starts_where_it_is_told_and_slows_motion():
    def mean_change(bias):
        keras.utils.set_random_seed(0)
        generator = VideoGenerator(dim_content=4, dim_motion=10, ngf=4, image_size=32, update_gate_bias=bias)
        assert generator.motion.cell.bias.numpy()[0, :10].tolist() == [bias] * 10
        rng = np.random.default_rng(0)
        shapes = generator.latents.shapes(50, 20)
        codes = generator.codes({name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()})
        return np.abs(np.diff(codes.numpy()[:, 5:, 4:], axis=1)).mean()

    assert mean_change(2.0) < 0.5 * mean_change(0.0)


def make_fine(**changes):
    generator = make(**{"decoder": "fine", **changes})
    reference.random_weights(generator)
    return generator


@pytest.mark.parametrize("still_background", [False, True])
@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_the_fine_decoder_makes_clips_of_every_size_and_of_half_of_it(image_size, still_background):
    generator = make_fine(
        image_size=image_size, ngf=2, channels=1, content_modulation=True, still_background=still_background
    )
    latents = sample_latents(generator.latents, 2, 5, seed=0)
    video = run(generator, latents)["video"]
    half = np.asarray(generator.half_frames(generator.codes(latents), training=False))
    assert video.shape == (2, 5, image_size, image_size, 1)
    assert half.shape == (2, 5, image_size // 2, image_size // 2, 1)
    assert max(np.abs(video).max(), np.abs(half).max()) <= 1.0
    assert half.dtype == video.dtype == np.float32


def test_both_sizes_of_the_fine_decoder_share_their_weights():
    generator = make_fine(still_background=True)
    half = {id(variable) for variable in generator.half_frames.trainable_variables}
    whole = {id(variable) for variable in generator.trainable_variables}
    assert half < whole
    assert len(whole) == len(generator.trainable_variables)
    assert generator.count_params() == sum(variable.numpy().size for variable in generator.weights)


def test_figures_stand_before_a_background_that_content_alone_decides():
    generator = make_fine(still_background=True)
    latents = sample_latents(generator.latents, 2, 5, seed=1)
    codes = np.asarray(generator.codes(latents))
    background = np.asarray(generator.background(latents["content"], training=False))
    figures = np.asarray(generator.decoder(codes.reshape(10, -1), training=False)).reshape(2, 5, 32, 32, 4)
    colours, mask = figures[..., :3], figures[..., 3:]
    assert 0.0 <= mask.min() and mask.max() <= 1.0 and np.abs(colours).max() <= 1.0
    expected = mask * colours + (1 - mask) * background[:, None]
    np.testing.assert_allclose(run(generator, latents)["video"], expected, atol=1e-6)


@pytest.mark.parametrize("decoder", ["dcgan", "fine"])
def test_content_scales_no_map_below_its_first(decoder):
    generator = make(decoder=decoder, content_modulation=True, modulate_from=16)
    scaled = [layer.output.shape[1] for layer in generator.decoder.layers if layer.name.startswith("modulated_")]
    assert scaled == {"dcgan": [16], "fine": [16, 32, 32]}[decoder]


def test_a_palette_is_the_contents_alone_and_every_colour_is_mixed_from_it():
    generator = make_fine(palette=4, content_modulation=True, category_to="both")
    latents = sample_latents(generator.latents, 2, 5, seed=1)
    decoder = generator.decoder
    inner = keras.Model(decoder.input, [decoder.get_layer("palette").output, decoder.output])
    codes = np.asarray(generator.codes(latents))
    colours, frames = (np.asarray(value) for value in inner(codes.reshape(10, -1), training=False))
    np.testing.assert_array_equal(colours[:5], colours[:1].repeat(5, axis=0))  # Whatever moves.
    assert np.abs(colours[:5] - colours[5:]).max() > 0.1  # Another content.
    per_pixel = frames.reshape(10, -1, 3)
    assert per_pixel.std(axis=(0, 1)).min() > 0.01
    assert (per_pixel <= colours.max(axis=1, keepdims=True) + 1e-6).all()
    assert (per_pixel >= colours.min(axis=1, keepdims=True) - 1e-6).all()


def test_amounts_of_colours_are_shares_of_one():
    amounts = np.zeros((1, 2, 2, 3), np.float32)
    amounts[0, 0, 1] = [0, 200, 0]
    amounts[0, 1, 0] = np.log([1, 2, 5])
    colours = np.eye(3, dtype=np.float32)[None]
    found = np.asarray(Mixture()(amounts, colours))
    expected = [[[1 / 3, 1 / 3, 1 / 3], [0, 1, 0]], [[1 / 8, 2 / 8, 5 / 8], [1 / 3, 1 / 3, 1 / 3]]]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


@pytest.mark.parametrize(("mask", "kept"), [(0.0, "background"), (1.0, "figures")])
def test_a_mask_of_zero_shows_the_background_and_one_the_figures(mask, kept):
    rng = np.random.default_rng(0)
    pictures = {"figures": rng.normal(size=(2, 3, 4, 4, 3)), "background": rng.normal(size=(2, 4, 4, 3))}
    figures = np.concatenate([pictures["figures"], np.full((2, 3, 4, 4, 1), mask)], axis=-1)
    expected = pictures["figures"] if kept == "figures" else np.repeat(pictures["background"][:, None], 3, axis=1)
    np.testing.assert_allclose(np.asarray(compose(figures, pictures["background"])), expected, atol=1e-12)


def test_halving_averages_two_by_two_pixels():
    pictures = np.arange(2 * 4 * 6 * 1, dtype=np.float32).reshape(2, 4, 6, 1)
    expected = (pictures[:, ::2, ::2] + pictures[:, 1::2, ::2] + pictures[:, ::2, 1::2] + pictures[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(np.asarray(halved(pictures)), expected)


def test_every_weight_has_a_path_of_its_own():
    # A bundle gives the weights back by their paths.
    fine = {"decoder": "fine", "still_background": True, "content_modulation": True, "palette": 3}
    generator = VideoGenerator(ngf=4, image_size=32, **fine)
    paths = [weight.path for weight in generator.weights]
    assert len(set(paths)) == len(paths)


def test_fine_configuration_and_file_round_trips(tmp_path):
    generator = make_fine(still_background=True, content_modulation=True, category_to="image", palette=3)
    latents = sample_latents(generator.latents, 1, 4, seed=0)
    expected = run(generator, latents)["video"]
    generator.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "generator.keras")
    np.testing.assert_array_equal(run(loaded, latents)["video"], expected)
    copy = VideoGenerator.from_config(generator.get_config())
    copy.set_weights(generator.get_weights())
    np.testing.assert_array_equal(run(copy, latents)["video"], expected)
    generator.save_weights(tmp_path / "generator.weights.h5")
    other = VideoGenerator.from_config(generator.get_config())
    other.load_weights(tmp_path / "generator.weights.h5")
    np.testing.assert_array_equal(run(other, latents)["video"], expected)


def test_the_last_layers_of_the_fine_decoder_add_detail_only():
    generator = make_fine(image_size=32)
    codes = np.random.default_rng(0).normal(size=(2, 1, 6 + 3)).astype(np.float32)
    decoder = generator.decoder
    inner = keras.Model(
        decoder.input, [decoder.get_layer(name).output for name in ("doubled_3", "picture_3", "sum_full")]
    )
    doubled, picture, whole = (np.asarray(part) for part in inner(codes[:, 0]))
    average = picture.reshape(2, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    expected = doubled + picture - np.asarray(keras.layers.UpSampling2D(2, interpolation="bilinear")(average))
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    # Another brightness is no detail.
    before = np.asarray(generator.frames(codes, training=False))
    decoder.get_layer("picture_3").bias.assign([5.0, -3.0, 1.0])
    np.testing.assert_allclose(np.asarray(generator.frames(codes, training=False)), before, atol=1e-5)
