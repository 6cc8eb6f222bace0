"""Promises of the training step of a generator that animates pictures."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.gans import base
from mocogan_tf.gans.build import build_gan
from mocogan_tf.models.generator import halved
from tests.support.tiny import plain_descent, tiny_batch, tiny_config

TASK = {"task": "image_to_video", "decoder": "fine", "content_modulation": True, "motion_init_scale": 0.1}


def make(**changes):
    keras.utils.set_random_seed(0)
    config = tiny_config(**{**TASK, **changes})
    return build_gan(config, policy=config.precision), config


def tensors(batch):
    return {name: tf.constant(value) for name, value in batch.items()}


@pytest.mark.parametrize("share_fakes", [False, True])
@pytest.mark.parametrize("image_frames", [1, 2])
def test_clips_are_made_from_first_frames_of_real_clips_and_images_from_real_images(share_fakes, image_frames):
    gan, config = make(share_fakes=share_fakes, video_size="half", image_frames=image_frames)
    batch = tiny_batch(config)
    inputs = gan._draw(tensors(batch))
    images = batch["images"] if image_frames == 1 else batch["images"][:, 0]
    for name in ("", *([] if share_fakes else ["_g"])):
        # At full size, although D_V judges half of it.
        np.testing.assert_array_equal(inputs[f"fake_videos{name}"]["pictures"], batch["videos"][:, 0])
        np.testing.assert_array_equal(inputs[f"fake_images{name}"]["pictures"], images)
        assert "content" not in inputs[f"fake_videos{name}"]["latents"]


def test_every_second_clip_keeps_the_category_of_its_picture_and_the_others_are_drawn():
    gan, config = make(video_batch=40, share_fakes=True)
    batch = tiny_batch(config)
    batch["labels"] = np.zeros(40, np.int32)
    inputs = gan._draw(tensors(batch))
    found = np.asarray(inputs["fake_videos"]["latents"]["category"]).argmax(axis=1)
    assert not found[::2].any()
    assert 4 < found[1::2].sum() < 16
    plain = base.draw_latents(gan.generator.latents, 40, 4, gan._seed(1))["category"]  # 1: of clips.
    np.testing.assert_array_equal(found[1::2], np.asarray(plain).argmax(axis=1)[1::2])


@pytest.mark.parametrize("category_loss", ["infogan", "none"])
def test_without_labels_all_categories_are_drawn(category_loss):
    gan, config = make(category_loss=category_loss, dim_category=2)
    batch = tiny_batch(config)
    inputs = gan._draw({name: value for name, value in tensors(batch).items() if name != "labels"})
    expected = base.draw_latents(gan.generator.latents, 4, 4, gan._seed(1))
    np.testing.assert_array_equal(inputs["fake_videos"]["latents"]["category"], expected["category"])


@pytest.mark.parametrize("video_size", ["full", "half"])
def test_the_difference_is_of_first_frames_and_pictures_of_their_size(video_size):
    gan, config = make(video_size=video_size, share_fakes=True)
    inputs = gan._draw(tensors(tiny_batch(config)))
    draws = inputs["fake_videos"]
    fakes, *_ = gan._fake_videos(draws)
    found = gan._first_frames(fakes, draws)
    wanted = draws["pictures"] if video_size == "full" else halved(draws["pictures"])
    assert float(found) == pytest.approx(np.abs(np.asarray(fakes)[:, 0] - np.asarray(wanted)).mean(), rel=1e-5)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("image_frames", [1, 2])
def test_of_single_frames_first_ones_count_over_the_number_to_be_expected(early, image_frames):
    gan, config = make(early_frames=early, image_frames=image_frames, image_batch=6)
    draws = gan._draw(tensors(tiny_batch(config)))["fake_images"]
    frame = np.array([0, 2, 0, 1, 3, 0], np.int32)
    frame = frame if image_frames == 1 else np.stack([frame, frame[::-1]], axis=1)
    fakes = np.asarray(gan._fake_images({**draws, "frame": tf.constant(frame)}))
    found = gan._first_frames(tf.constant(fakes), {**draws, "frame": tf.constant(frame)})
    rows, pictures = fakes.reshape(6, image_frames, 32, 32, 3), np.asarray(draws["pictures"])
    first = [np.abs(rows[i, k] - pictures[i]).mean() for i, k in np.argwhere(frame.reshape(6, -1) == 0)]
    chance = 0.5 if early else 0.25  # Of four frames.
    assert float(found) == pytest.approx(sum(first) / (6 * image_frames * chance), rel=1e-5)


@pytest.mark.parametrize("labels", [True, False])
def test_a_pair_is_a_first_frame_and_a_random_one_of_the_same_clip(labels):
    gan, config = make(video_batch=40, category_loss="supervised" if labels else "infogan", dim_category=2)
    batch = tiny_batch(config)
    batch["videos"] = np.random.default_rng(0).integers(0, 256, batch["videos"].shape).astype(np.uint8)
    pairs = np.asarray(gan._draw(tensors(batch))["pairs"])
    clips = batch["videos"].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(pairs[:, 0], clips[:, 0], atol=1e-6)
    frames = np.abs(clips - pairs[:, 1:]).mean(axis=(2, 3, 4)).argmin(axis=1)
    np.testing.assert_allclose(pairs[:, 1], clips[np.arange(40), frames], atol=1e-6)
    assert set(frames) == set(range(clips.shape[1]))


@pytest.mark.parametrize("category_to", ["motion", "image", "both"])
@pytest.mark.parametrize("labels", [True, False])
def test_a_frame_is_rebuilt_from_the_code_of_the_first_one_and_its_own_pose(category_to, labels):
    categories = {"category_loss": "supervised" if labels else "infogan", "dim_category": 2}
    gan, config = make(category_to=category_to, **categories)
    inputs = gan._draw(tensors(tiny_batch(config)))
    if category_to != "motion" and not labels:  # The decoder would learn to take no notice of the category.
        assert "pairs" not in inputs
        return
    generator, pairs = gan.generator, np.asarray(inputs["pairs"])
    first, other = (np.asarray(generator.encoder(pairs[:, i])) for i in (0, 1))
    seen = [] if category_to == "motion" else [np.eye(2, dtype=np.float32)[np.asarray(inputs["labels"])]]
    codes = np.concatenate([first, *seen, other[:, -config.dim_motion :]], axis=1)
    rebuilt = np.asarray(generator.frames(codes[:, None], training=True))[:, 0]
    found = gan._pairs(inputs)
    assert float(found) == pytest.approx(np.abs(rebuilt - pairs[:, 1]).mean(), rel=1e-5)


@pytest.mark.parametrize("image_frames", [1, 2])
def test_the_encoder_alone_learns_to_find_the_poses_of_generated_images_again(image_frames):
    gan, config = make(image_frames=image_frames)
    draws = gan._draw(tensors(tiny_batch(config)))["fake_images"]
    with tf.GradientTape() as tape:
        images, codes = gan._images_and_codes(draws)
        found = gan._poses(images, codes)
    pictures = np.asarray(images).reshape(-1, 32, 32, 3)
    poses = np.asarray(codes)[..., -config.dim_motion :].reshape(len(pictures), -1)
    encoded = np.asarray(gan.generator.encoder(pictures))[:, config.dim_content :]
    assert float(found) == pytest.approx(np.abs(encoded - poses).mean(), rel=1e-5)
    told = tape.gradient(found, gan.generator.trainable_variables)
    taught = {
        id(v) for v, gradient in zip(gan.generator.trainable_variables, told, strict=True) if gradient is not None
    }
    assert taught <= {id(v) for v in gan.generator.encoder.trainable_variables} and taught


@pytest.mark.parametrize("share_fakes", [False, True])
@pytest.mark.parametrize("image_discriminator", ["patch", "none"])
def test_all_differences_count_by_one_weight(share_fakes, image_discriminator):
    gan, config = make(reconstruct_weight=3.0, share_fakes=share_fakes, image_discriminator=image_discriminator)
    inputs = gan._draw(tensors(tiny_batch(config)))
    losses = gan._losses_together if share_fakes else gan._losses_g
    total, logs = losses(inputs)["generator"]
    differences = [
        base.LOSS_RECONSTRUCT,
        base.LOSS_PAIRS,
        *([base.LOSS_POSES] if image_discriminator != "none" else []),
    ]
    rest = sum(float(value) for name, value in logs.items() if name not in differences)
    assert float(total) == pytest.approx(rest + 3 * sum(float(logs[name]) for name in differences), rel=1e-4)


def test_the_generator_is_told_of_the_difference_by_its_weight():
    def moved(weight):
        gan, config = make(reconstruct_weight=weight, weight_decay=0.0, ema_decay=0.0)
        gan.compile(**{f"{name}_optimizer": plain_descent() for name in ("g", "d_image", "d_video")})
        before = [variable.numpy() for variable in gan.generator.trainable_variables]
        logs = gan.train_step(tensors(tiny_batch(config)))
        after = [variable.numpy() for variable in gan.generator.trainable_variables]
        return [b - a for a, b in zip(before, after, strict=True)], float(logs[base.LOSS_RECONSTRUCT])

    (none, loss), (one, same), (two, _) = moved(0.0), moved(1.0), moved(2.0)
    assert loss == same > 0
    for zeroth, first, second in zip(none, one, two, strict=True):
        np.testing.assert_allclose(second - zeroth, 2 * (first - zeroth), atol=1e-5)
    assert max(np.abs(first - zeroth).max() for zeroth, first in zip(none, one, strict=True)) > 1e-4


def test_the_encoder_learns_from_the_discriminators_too():
    gan, config = make(reconstruct_weight=0.0, weight_decay=0.0)
    before = [variable.numpy() for variable in gan.generator.encoder.trainable_variables]
    gan.train_step(tensors(tiny_batch(config)))
    moved = [not np.array_equal(a, b) for a, b in zip(before, gan.generator.encoder.trainable_variables, strict=True)]
    assert all(moved)


def test_the_average_follows_the_encoder():
    gan, config = make(ema_decay=0.9)
    start = [variable.numpy() for variable in gan.generator.encoder.weights]
    gan.train_step(tensors(tiny_batch(config)))
    for old, average, value in zip(start, gan.average.encoder.weights, gan.generator.encoder.weights, strict=True):
        np.testing.assert_allclose(average, 2 / 11 * old + 9 / 11 * value.numpy(), atol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "mixed_float16", "share_fakes": True, "video_size": "half", "still_background": True},
        {"precision": "mixed_bfloat16", "early_frames": True},
        {"image_discriminator": "none", "category_to": "image", "content_modulation": True},
        {"category_loss": "none", "image_frames": 2, "share_fakes": True},
        {"image_size": 64, "channels": 1, "augment": "colour,translation"},
    ],
)
def test_it_trains_in_every_form(changes):
    gan, config = make(**changes)
    logs = {name: float(value) for name, value in gan.train_step(tensors(tiny_batch(config))).items()}
    assert all(math.isfinite(value) for value in logs.values())
    assert logs[base.LOSS_RECONSTRUCT] > 0 and logs.get(base.LOSS_PAIRS, 1) > 0


def test_other_runs_log_no_difference_and_draw_their_content():
    gan, config = make(task="generate")
    assert not {base.LOSS_RECONSTRUCT, base.LOSS_PAIRS} & set(gan.train_step(tensors(tiny_batch(config))))


@pytest.mark.slow
def test_compiled_by_xla_a_step_has_the_same_losses():
    logs = []
    for jit in ("off", "on"):
        gan, config = make(jit_compile=jit, share_fakes=True, early_frames=True)
        logs.append({name: float(value) for name, value in gan.train_step(tensors(tiny_batch(config))).items()})
    assert logs[1] == pytest.approx(logs[0], abs=1e-4)
